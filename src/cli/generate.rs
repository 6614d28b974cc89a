//! `espalier generate`

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use clap::Args;
use espalier::Error;
use espalier::generate::{Generator, Sampling};
use espalier::model::chat_template::{ChatTemplate, Message, Origin};
use espalier::model::device::DeviceModel;
use espalier::model::tokenizer::{DecodeStream, Tokenizer};
use espalier::platform::block_on;

use super::Outcome;
use super::open::{self, WithoutWeights};
use super::options::{GpuChoice, Storage, number, whole};

#[derive(Args)]
#[command(allow_negative_numbers = true)]
pub struct Options {
    /// A Hugging Face folder, a .gguf file, or owner/name[@revision][:file.gguf] on the hub
    #[arg(value_name = "MODEL")]
    model: String,
    /// An adapter's folder
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// What to answer; given several times, each is answered on its own
    #[arg(long, value_name = "TEXT", required_unless_present = "chat", conflicts_with = "chat")]
    prompt: Vec<String>,
    /// Chat: one line of standard input is one turn
    #[arg(long)]
    chat: bool,
    /// What the model is told before the first turn
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    /// Continue the prompt as it stands, without the model's chat template (as for a model that has none)
    #[arg(long, conflicts_with = "chat")]
    raw: bool,
    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = whole)]
    max_new_tokens: u64,
    /// Randomness: 0 always takes the most likely token
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = number)]
    temperature: f64,
    /// Only the N most likely tokens; 0 is off
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole)]
    top_k: u64,
    /// Only the most likely tokens that together have this probability; 1 is off
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, value_parser = number)]
    top_p: f64,
    /// Makes tokens seen before less likely; 1 is off
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = number)]
    repetition_penalty: f64,
    /// Makes the random choices
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = whole)]
    seed: u64,
    /// Tokens that the model can look back on, prompt and answers together [default: 2048, or the model's own context]
    #[arg(long, value_name = "N", value_parser = whole)]
    context: Option<u64>,
    #[command(flatten)]
    storage: Storage,
    #[command(flatten)]
    gpu: GpuChoice,
}

const DEFAULT_CONTEXT: usize = 2048;

pub fn run(options: &Options) -> Result<Outcome> {
    let sampling = Sampling {
        max_new_tokens: options.max_new_tokens as usize,
        temperature: options.temperature as f32,
        top_k: options.top_k as usize,
        top_p: options.top_p as f32,
        repetition_penalty: options.repetition_penalty as f32,
        seed: options.seed,
    };
    sampling.check()?;
    let files = open::model(&options.model, WithoutWeights::Refuse, &AtomicBool::new(false))?;
    let adapter = options.adapter.as_deref().map(|path| open::adapter(path).map(|a| (path, a))).transpose()?;
    let longest = files.config().max_position_embeddings;
    let context = options.context.map_or(DEFAULT_CONTEXT.min(longest), |context| context as usize);
    if !(2..=longest).contains(&context) {
        return Err(Error::Option {
            name: "context".into(),
            value: context.to_string(),
            expected: format!("expected 2 to {longest} tokens, which is what this model reads"),
        }
        .into());
    }
    let tokenizer = files.tokenizer()?;
    let template = files.chat_template()?;
    // A model that was never taught turns would not know what to make of them.
    let raw = options.raw || (template.origin() == Origin::Default && !options.chat && options.system.is_none());
    let gpu = open::gpu(options.gpu.gpu.as_deref())?;
    let adapter = adapter.as_ref().map(|(path, adapter)| (*path, adapter));
    let mut model = open::device_model(gpu, &files, adapter, options.storage.policy(&files), context)?;
    let generator = block_on(Generator::new(&mut model, context))?;
    let mut session = Session { model, generator, tokenizer, template: &template, sampling };
    let system: Vec<Message> = options.system.iter().map(|text| Message::new("system", text)).collect();
    if options.chat {
        session.chat(system)?;
        return Ok(Outcome::Done);
    }
    for prompt in &options.prompt {
        if options.prompt.len() > 1 {
            println!("> {prompt}");
        }
        let tokens = if raw {
            tokenizer.encode(prompt, true)?
        } else {
            let messages = [system.as_slice(), &[Message::new("user", prompt)]].concat();
            template.encode(tokenizer, &messages, true)?
        };
        session.answer(&tokens)?;
        println!("{}", if options.prompt.len() > 1 { "\n" } else { "" });
    }
    Ok(Outcome::Done)
}

/// A loaded model and how it answers.
struct Session<'a> {
    model: DeviceModel,
    generator: Generator,
    tokenizer: &'a Tokenizer,
    template: &'a ChatTemplate,
    sampling: Sampling,
}

impl Session<'_> {
    /// Prints the answer to `prompt` as it is written; returns it.
    fn answer(&mut self, prompt: &[u32]) -> Result<String> {
        let mut stream = DecodeStream::new(true);
        let mut answer = String::new();
        let mut failure = None;
        let mut out = std::io::stdout();
        let mut show = |text: espalier::Result<String>| -> Result<()> {
            let text = text?;
            answer += &text;
            Ok(write!(out, "{text}").and_then(|()| out.flush())?)
        };
        let stop = self.tokenizer.eos_ids();
        let on_token = |id: u32| {
            failure = show(stream.push(self.tokenizer, id)).err();
            failure.is_none()
        };
        block_on(self.generator.generate(&self.model, prompt, &self.sampling, stop, on_token))?;
        show(stream.finish(self.tokenizer))?;
        match failure {
            Some(failure) => Err(failure),
            None => Ok(answer),
        }
    }

    fn chat(&mut self, mut messages: Vec<Message>) -> Result<()> {
        let asks = std::io::stdin().is_terminal();
        if asks {
            eprintln!("One line is one turn; an empty line ends the chat.");
        }
        let first = messages.len();
        loop {
            if asks {
                eprint!("> ");
            }
            let mut line = String::new();
            if std::io::stdin().lock().read_line(&mut line)? == 0 || line.trim().is_empty() {
                return Ok(());
            }
            messages.push(Message::new("user", line.trim()));
            let prompt = loop {
                let prompt = self.template.encode(self.tokenizer, &messages, true)?;
                let room = self.generator.capacity().saturating_sub(self.sampling.max_new_tokens).max(1);
                // The oldest turn and its answer go first; the last one is never forgotten.
                if prompt.len() <= room || messages.len() <= first + 2 {
                    break prompt;
                }
                messages.drain(first..first + 2);
            };
            let answer = self.answer(&prompt)?;
            println!();
            messages.push(Message::new("assistant", answer));
        }
    }
}
