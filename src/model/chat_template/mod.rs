//! Chats to text: the Jinja template that comes with a model, rendered as Hugging Face transformers does.
//!
//! Reference: `transformers/utils/chat_template_utils.py`: `trim_blocks` and `lstrip_blocks`, loop controls, Python's methods
//! of strings, lists and dictionaries, `raise_exception`, `strftime_now`, `tojson` as `json.dumps`, `{% generation %}`.

mod generation;
mod python;

use std::ops::Range;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::io::gguf::Metadata;
use crate::model::tokenizer::Tokenizer;
use crate::platform::clock;
use crate::{Error, Result};

/// The template used where a model has none: ChatML, the most widespread form. Every turn, the system's too, is
/// `<|im_start|>role`, a line break, the content, `<|im_end|>`, a line break.
pub const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}\
    {% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}\
    {% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// A budget of engine steps (and 64 bytes of text each) for one rendering, so that no template runs for ever. A chat of a
/// thousand turns takes about a hundredth of it.
const FUEL: u64 = 20_000_000;

/// One turn of a chat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or what else the template knows
    pub role: String,
    /// Usually a string; null in a turn that only calls tools
    #[serde(default)]
    pub content: Value,
    /// Everything else a turn may carry: `tool_calls`, `name`, `reasoning_content` ...
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl Message {
    /// A turn of plain text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: Value::String(content.into()), rest: Map::new() }
    }

    /// The content, if it is a string.
    pub fn text(&self) -> Option<&str> {
        self.content.as_str()
    }
}

/// What a rendering gets besides the messages.
#[derive(Clone, Debug, Default)]
pub struct RenderOptions {
    /// Open the assistant's turn at the end, for the model to write it.
    pub add_generation_prompt: bool,
    /// The tools the model may call: a list of JSON schemas.
    pub tools: Option<Value>,
    /// Further variables of the template (`enable_thinking`, `documents` ...).
    pub variables: Map<String, Value>,
    /// The moment that `strftime_now` tells, in seconds since 1970 UTC; the clock's where `None`.
    pub now: Option<u64>,
}

/// Where a template was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `chat_template.jinja` beside the model
    File,
    /// `tokenizer_config.json`
    TokenizerConfig,
    /// `tokenizer.chat_template` in GGUF metadata
    Gguf,
    /// The model has none: [`CHATML`]
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Origin::File => "chat_template.jinja",
            Origin::TokenizerConfig => "the chat template in tokenizer_config.json",
            Origin::Gguf => "the chat template in the GGUF metadata",
            Origin::Default => "the default chat template (ChatML)",
        })
    }
}

/// A compiled chat template, with the texts of the model's special tokens.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    origin: Origin,
    tokens: Map<String, Value>,
    marks_generation: bool,
}

impl ChatTemplate {
    /// Compiles `source`. `tokens` are variables such as `bos_token`; see [`Tokenizer::template_variables`].
    pub fn new(source: &str, origin: Origin, tokens: Map<String, Value>) -> Result<ChatTemplate> {
        ChatTemplate::with_tool_use(source, None, origin, tokens)
    }

    fn with_tool_use(
        source: &str,
        tool_use: Option<&str>,
        origin: Origin,
        tokens: Map<String, Value>,
    ) -> Result<ChatTemplate> {
        let mut environment = environment();
        let mut add = |name: &'static str, source: &str| {
            environment.add_template_owned(name, generation::as_filter(source)).map_err(|e| {
                Error::malformed(origin.to_string(), format!("line {}: {}", e.line().unwrap_or(0), describe(&e)))
            })
        };
        add("chat", source)?;
        if let Some(tool_use) = tool_use {
            add("tool_use", tool_use)?;
        }
        let marks_generation = generation::as_filter(source) != source;
        Ok(ChatTemplate { environment, source: source.to_string(), origin, tokens, marks_generation })
    }

    /// The template of a Hugging Face folder: `chat_template.jinja`, else `chat_template` of `tokenizer_config.json` (a string,
    /// or a list of named templates: `default`, and `tool_use` for chats with tools), else [`CHATML`].
    pub fn from_files(
        jinja: Option<&str>,
        tokenizer_config: Option<&[u8]>,
        tokenizer: &Tokenizer,
    ) -> Result<ChatTemplate> {
        let tokens = tokenizer.template_variables();
        if let Some(source) = jinja {
            return ChatTemplate::new(source, Origin::File, tokens);
        }
        let config: Value = match tokenizer_config {
            Some(bytes) => serde_json::from_slice(bytes)
                .map_err(|e| Error::malformed("tokenizer_config.json", format!("not valid JSON: {e}")))?,
            None => Value::Null,
        };
        let template = &config["chat_template"];
        let named = |name: &str| template.as_array()?.iter().find(|t| t["name"] == name)?["template"].as_str();
        let first = || template.as_array()?.first()?["template"].as_str();
        match template.as_str().or_else(|| named("default")).or_else(first) {
            Some(source) => ChatTemplate::with_tool_use(source, named("tool_use"), Origin::TokenizerConfig, tokens),
            None => ChatTemplate::chatml(tokenizer),
        }
    }

    /// The template in the metadata of a GGUF file, else [`CHATML`].
    pub fn from_gguf(metadata: &Metadata, tokenizer: &Tokenizer) -> Result<ChatTemplate> {
        let Some(source) = metadata.optional("tokenizer.chat_template", Metadata::str)? else {
            return ChatTemplate::chatml(tokenizer);
        };
        let tool_use = metadata.optional("tokenizer.chat_template.tool_use", Metadata::str)?;
        ChatTemplate::with_tool_use(source, tool_use, Origin::Gguf, tokenizer.template_variables())
    }

    /// [`CHATML`].
    pub fn chatml(tokenizer: &Tokenizer) -> Result<ChatTemplate> {
        ChatTemplate::new(CHATML, Origin::Default, tokenizer.template_variables())
    }

    /// Where this template was found.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// The template itself, to keep beside exported weights.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the template says itself what the model writes, with `{% generation %}`.
    pub fn marks_generation(&self) -> bool {
        self.marks_generation
    }

    /// The text of a chat. Errs with the template's own words if it refuses these messages, or if it does not come to an end.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        Ok(self.render_marked(messages, options)?.0)
    }

    /// The text of a chat, and the byte ranges of what the template marks with `{% generation %}`, in order.
    pub fn render_marked(&self, messages: &[Message], options: &RenderOptions) -> Result<(String, Vec<Range<usize>>)> {
        let messages: Vec<Value> = messages.iter().map(as_value).collect();
        let with_tools = options.tools.as_ref().is_some_and(|tools| !tools.is_null());
        let has_tool_use = self.environment.get_template("tool_use").is_ok();
        let template = self.environment.get_template(if with_tools && has_tool_use { "tool_use" } else { "chat" });
        let mut variables = self.tokens.clone();
        variables.extend(options.variables.clone());
        variables.extend([
            ("messages".to_string(), Value::Array(messages)),
            ("tools".to_string(), options.tools.clone().unwrap_or_default()),
            ("add_generation_prompt".to_string(), json!(options.add_generation_prompt)),
        ]);
        variables.entry("documents").or_insert(Value::Null);
        let now = options.now.unwrap_or_else(clock::unix_seconds);
        let strftime = minijinja::Value::from_function(move |format: &str| python::strftime(format, now));
        let context = minijinja::context! { strftime_now => strftime, ..Serde(&variables) };
        let rendered = template.and_then(|template| template.render(context)).map_err(|e| self.refusal(&e))?;
        Ok(if self.marks_generation { generation::take_marks(rendered) } else { (rendered, Vec::new()) })
    }

    /// The token ids of a chat; the assistant's turn is opened at the end if `add_generation_prompt`.
    pub fn encode(&self, tokenizer: &Tokenizer, messages: &[Message], add_generation_prompt: bool) -> Result<Vec<u32>> {
        let options = RenderOptions { add_generation_prompt, ..RenderOptions::default() };
        tokenizer.encode(&self.render(messages, &options)?, false)
    }

    fn refusal(&self, error: &minijinja::Error) -> Error {
        let problem = match error.kind() {
            ErrorKind::OutOfFuel => "does not come to an end with these messages".to_string(),
            _ => match error.line() {
                Some(line) => format!("cannot show these messages: {} (line {line})", describe(error)),
                None => format!("cannot show these messages: {}", describe(error)),
            },
        };
        Error::malformed(self.origin.to_string(), problem)
    }
}

/// The detail of an error if it has one: what `raise_exception` was given, for instance.
fn describe(error: &minijinja::Error) -> String {
    error.detail().map_or_else(|| error.kind().to_string(), str::to_string)
}

/// As transformers does, a turn's reasoning is offered under each of the names that templates read.
fn as_value(message: &Message) -> Value {
    let mut fields = Map::new();
    fields.insert("role".into(), Value::String(message.role.clone()));
    fields.insert("content".into(), message.content.clone());
    fields.extend(message.rest.clone());
    let names = ["reasoning_content", "thinking", "reasoning"];
    if let Some(reasoning) = names.iter().find_map(|name| fields.get(*name).filter(|v| !v.is_null()).cloned()) {
        fields.entry("thinking").or_insert_with(|| reasoning.clone());
        fields.insert("reasoning_content".into(), reasoning);
    }
    Value::Object(fields)
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_syntax(
        // Only delimiters can make this fail, and they are the defaults.
        SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().unwrap_or_default(),
    );
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_fuel(Some(FUEL));
    environment.add_filter("tojson", python::tojson);
    environment.add_filter(generation::FILTER, generation::mark);
    environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment
}
