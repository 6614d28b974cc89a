//! One row of a data set: which of the known shapes a JSON value has, and what it says.

use serde_json::{Map, Value};

use super::report::DropReason;
use crate::model::chat_template::Message;

/// The shapes, as they are named in errors and reports.
pub(super) const SHAPES: &str =
    "messages, conversations, prompt + completion, instruction (+ input) + output, text, or input_ids (+ labels)";

/// A row and where it stands in its file.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Counted from 1: the line of a JSONL, CSV or text file, the element of a JSON array
    pub at: usize,
    pub content: Content,
}

/// What a row holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A chat. Turns before `first_answer` are context only, even the assistant's.
    Chat { messages: Vec<Message>, tools: Option<Value>, first_answer: usize },
    /// A text and how it goes on; no template is applied.
    Completion { prompt: String, completion: String },
    /// A text, cut off where it is longer than the context
    Text(String),
    /// A whole file of text, cut into as many examples as it takes
    Document(String),
    /// Token ids, and for each what is to be predicted there (-100: nothing)
    Tokens { input_ids: Vec<u32>, labels: Option<Vec<i32>> },
}

/// Why a value is no row, and what exactly is wrong.
pub(super) type Fault = (DropReason, String);

fn invalid(problem: impl Into<String>) -> Fault {
    (DropReason::InvalidField, problem.into())
}

/// Whether a table with these columns (lower case) has one of the known shapes.
pub(super) fn columns_are_known(columns: &[String]) -> bool {
    let has = |name: &str| columns.iter().any(|column| column == name);
    has("text")
        || has("messages")
        || has("conversations")
        || has("conversation")
        || has("input_ids")
        || (has("prompt") && (has("completion") || has("response")))
        || (has("instruction") && (has("output") || has("response")))
}

/// The row that `value` stands for, with the name of its shape.
pub(super) fn parse(value: Value) -> Result<(&'static str, Content), Fault> {
    match value {
        Value::String(text) => Ok(("text", non_empty(Content::Text(text))?)),
        Value::Array(turns) => Ok(("messages", chat(turns, None, None, 0)?)),
        Value::Object(fields) => object(fields),
        other => Err((DropReason::UnknownShape, format!("expected an object, found {}", kind(&other)))),
    }
}

fn object(mut fields: Map<String, Value>) -> Result<(&'static str, Content), Fault> {
    fields.retain(|_, value| !value.is_null());
    if fields.contains_key("input_ids") {
        return Ok(("input_ids", tokens(&fields)?));
    }
    for (field, shape) in
        [("messages", "messages"), ("conversations", "conversations"), ("conversation", "conversations")]
    {
        if let Some(turns) = fields.remove(field) {
            let Value::Array(turns) = turns else {
                return Err(invalid(format!("`{field}` should be a list, it is {}", kind(&turns))));
            };
            let tools = fields.remove("tools");
            return Ok((shape, chat(turns, fields.remove("system"), tools, 0)?));
        }
    }
    let has = |name: &str| fields.contains_key(name);
    let is_completion = has("prompt") && (has("completion") || has("response"));
    let is_instruction = has("instruction") && (has("output") || has("response"));
    if is_completion {
        let completion = fields.remove("completion").or_else(|| fields.remove("response")).unwrap_or_default();
        let prompt = fields.remove("prompt").unwrap_or_default();
        return Ok(("prompt/completion", prompt_completion(prompt, completion, fields.remove("tools"))?));
    }
    if is_instruction {
        return Ok(("instruction/output", instruction(&fields)?));
    }
    if let Some(text) = fields.remove("text") {
        return match text {
            Value::String(text) => Ok(("text", non_empty(Content::Text(text))?)),
            other => Err(invalid(format!("`text` should be a string, it is {}", kind(&other)))),
        };
    }
    let keys: Vec<_> = fields.keys().take(8).map(|key| short(key)).collect();
    Err((DropReason::UnknownShape, format!("expected {SHAPES}; found the fields: {}", keys.join(", "))))
}

/// Alpaca's shape: what is asked, perhaps something to do it with, and the answer.
fn instruction(fields: &Map<String, Value>) -> Result<Content, Fault> {
    let field = |name: &str| match fields.get(name) {
        None => Ok(""),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(other) => Err(invalid(format!("`{name}` should be a string, it is {}", kind(other)))),
    };
    let (instruction, input) = (field("instruction")?, field("input")?);
    let output = if fields.contains_key("output") { field("output")? } else { field("response")? };
    let question = match (instruction.is_empty(), input.is_empty()) {
        (_, true) => instruction.to_string(),
        (true, false) => input.to_string(),
        (false, false) => format!("{instruction}\n\n{input}"),
    };
    let mut messages = vec![Message::new("user", question), Message::new("assistant", output)];
    if !field("system")?.is_empty() {
        messages.insert(0, Message::new("system", field("system")?));
    }
    non_empty(Content::Chat { messages, tools: None, first_answer: 0 })
}

/// Two strings, or two lists of turns, or one of each.
fn prompt_completion(prompt: Value, completion: Value, tools: Option<Value>) -> Result<Content, Fault> {
    let turns = |value: Value, role: &str| match value {
        Value::Array(turns) => Ok(turns),
        Value::String(text) => Ok(vec![serde_json::json!({"role": role, "content": text})]),
        other => Err(invalid(format!(
            "prompt and completion should be strings or lists of messages, found {}",
            kind(&other)
        ))),
    };
    match (prompt, completion) {
        (Value::String(prompt), Value::String(completion)) => {
            if completion.is_empty() {
                return Err((DropReason::Empty, "the completion is empty".to_string()));
            }
            Ok(Content::Completion { prompt, completion })
        }
        (prompt, completion) => {
            let mut all = turns(prompt, "user")?;
            let first_answer = all.len();
            all.extend(turns(completion, "assistant")?);
            chat(all, None, tools, first_answer)
        }
    }
}

fn chat(turns: Vec<Value>, system: Option<Value>, tools: Option<Value>, first_answer: usize) -> Result<Content, Fault> {
    let mut messages =
        turns.into_iter().enumerate().map(|(at, turn)| message(at, turn)).collect::<Result<Vec<_>, _>>()?;
    let mut first_answer = first_answer;
    if let Some(Value::String(system)) = system.filter(|_| messages.first().is_some_and(|m| m.role != "system")) {
        messages.insert(0, Message::new("system", system));
        first_answer += usize::from(first_answer > 0);
    }
    let tools = match tools {
        None => None,
        Some(Value::String(text)) if text.trim().is_empty() => None,
        Some(Value::String(text)) => {
            Some(serde_json::from_str(&text).map_err(|e| invalid(format!("`tools` is not JSON: {e}")))?)
        }
        Some(Value::Array(tools)) if tools.is_empty() => None,
        Some(tools) => Some(tools),
    };
    non_empty(Content::Chat { messages, tools, first_answer })
}

/// A turn in the shape of OpenAI (`role`, `content`) or ShareGPT (`from`, `value`).
fn message(at: usize, turn: Value) -> Result<Message, Fault> {
    let Value::Object(mut fields) = turn else {
        return Err(invalid(format!("message {at} should be an object, it is {}", kind(&turn))));
    };
    let role = fields.remove("role").or_else(|| fields.remove("from"));
    let Some(Value::String(role)) = role else {
        return Err(invalid(format!("message {at} has no `role` (or `from`)")));
    };
    let role = match role.to_lowercase().as_str() {
        "assistant" | "gpt" | "model" | "bot" | "chatgpt" | "bing" | "bard" | "ai" | "function_call" => "assistant",
        "user" | "human" => "user",
        "system" => "system",
        "developer" => "developer",
        "tool" | "observation" => "tool",
        "function" => "function",
        "ipython" => "ipython",
        _ => return Err(invalid(format!("message {at} has the unknown role {:?}", short(&role)))),
    };
    let content = fields.remove("content").or_else(|| fields.remove("value"));
    let content = match content {
        None | Some(Value::Null) => Value::Null,
        Some(Value::String(text)) => Value::String(text),
        Some(Value::Array(parts)) => Value::String(text_of_parts(at, &parts)?),
        Some(other) => {
            return Err(invalid(format!("the content of message {at} should be a string, it is {}", kind(&other))));
        }
    };
    for call in fields.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
        // OpenAI writes the arguments as a string that holds JSON; templates expect the object.
        let function = if call["function"].is_object() { &mut call["function"] } else { call };
        let parsed = function["arguments"].as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
        if let Some(arguments) = parsed.filter(Value::is_object) {
            function["arguments"] = arguments;
        }
    }
    fields.retain(|_, value| !value.is_null());
    Ok(Message { role: role.to_string(), content, rest: fields })
}

/// Content given as parts: their texts, one after the other. Images and the like have no place in a language model.
fn text_of_parts(at: usize, parts: &[Value]) -> Result<String, Fault> {
    let text = |part: &Value| match part {
        Value::String(text) => Some(text.clone()),
        part => part["text"].as_str().map(str::to_string),
    };
    parts
        .iter()
        .map(|part| {
            text(part).ok_or_else(|| invalid(format!("the content of message {at} has a part that is not text")))
        })
        .collect()
}

fn tokens(fields: &Map<String, Value>) -> Result<Content, Fault> {
    let list = |name: &str| match fields.get(name) {
        None => Ok(None),
        Some(Value::Array(values)) => Ok(Some(values)),
        Some(other) => Err(invalid(format!("`{name}` should be a list, it is {}", kind(other)))),
    };
    let ids = list("input_ids")?.map(Vec::as_slice).unwrap_or_default();
    let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    let mut input_ids: Vec<u32> = ids
        .iter()
        .map(id)
        .collect::<Option<_>>()
        .ok_or_else(|| invalid("`input_ids` should hold whole numbers from 0 on"))?;
    let label = |v: &Value| v.as_i64().filter(|&x| x == -100 || x >= 0).and_then(|x| i32::try_from(x).ok());
    let labels: Option<Option<Vec<i32>>> = list("labels")?.map(|labels| labels.iter().map(label).collect());
    let mut labels = match labels {
        Some(None) => return Err(invalid("`labels` should hold token ids, or -100 where nothing is learned")),
        Some(Some(labels)) => Some(labels),
        None => None,
    };
    if let Some(labels) = labels.as_ref().filter(|labels| labels.len() != input_ids.len()) {
        return Err(invalid(format!("{} input_ids, but {} labels", input_ids.len(), labels.len())));
    }
    if let Some(mask) = list("attention_mask")? {
        if mask.len() != input_ids.len() {
            return Err(invalid(format!("{} input_ids, but an attention_mask of {}", input_ids.len(), mask.len())));
        }
        // What is not attended to is padding, and rows are padded again later.
        let mut attended = mask.iter().map(|m| m.as_f64() != Some(0.0) && m.as_bool() != Some(false));
        let mut other = attended.clone();
        input_ids.retain(|_| attended.next().unwrap_or(true));
        if let Some(labels) = &mut labels {
            labels.retain(|_| other.next().unwrap_or(true));
        }
    }
    non_empty(Content::Tokens { input_ids, labels })
}

fn non_empty(content: Content) -> Result<Content, Fault> {
    let empty = match &content {
        Content::Chat { messages, .. } => messages
            .iter()
            .all(|m| m.text().is_none_or(|text| text.trim().is_empty()) && !m.rest.contains_key("tool_calls")),
        Content::Completion { prompt, completion } => prompt.is_empty() && completion.is_empty(),
        Content::Text(text) | Content::Document(text) => text.trim().is_empty(),
        Content::Tokens { input_ids, .. } => input_ids.is_empty(),
    };
    if empty { Err((DropReason::Empty, "no text".to_string())) } else { Ok(content) }
}

pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A name from the file, short enough for one line.
pub(super) fn short(name: &str) -> String {
    let mut text: String = name.chars().take(40).collect();
    if text.len() < name.len() {
        text.push('…');
    }
    text
}
