//! Answers of the base and of its adapters, token by token, and both on the same text.

use std::rc::Rc;

use espalier::data::{Batch, IGNORED};
use espalier::generate::{Generator, Sampling};
use espalier::io::rows_and_columns;
use espalier::model::chat_template::Message;
use espalier::model::tokenizer::DecodeStream;
use espalier::model::{DeviceModel, ModelFiles, ModelSetup, WeightPolicy};
use espalier::peft::Method;
use espalier::platform::{clock, yield_now};
use espalier::quant::WeightFormat;
use espalier::seed::named_rng;
use espalier::train::inputs::batches_by_length;
use espalier::train::trainer::Evaluator;
use espalier::{Error, Result};

use super::data::token;
use super::post::{Reporter, post};
use super::session::Session;
use crate::protocol::{Comparison, Event, Side, Turn, Work};

/// Tokens that a conversation may have, where the model reads as many.
const CONTEXT: usize = 512;
/// Rows of a batch of the comparison, and examples of training data that stand in for held-out ones.
const ROWS: usize = 4;
const STAND_INS: usize = 32;

/// What is compiled for answering, and which numbers lie in the parameters.
pub struct Chat {
    generator: Generator,
    /// The adapter whose parameters are on the GPU, and how strong.
    set: Option<(u32, f32)>,
}

impl Session {
    /// Brings the model to the GPU with room for the parameters of `side`'s method; what lies there already stays.
    async fn device_for(&mut self, side: Side) -> Result<()> {
        let files = self.model()?.files.clone();
        let gpu = self.gpu().await?;
        let method = match side {
            // With an adapter's parameters at strength 0 the model is the base: what is there need not change.
            Side::Base => self.device.as_ref().map_or(Method::None, |device| device.setup.method.clone()),
            Side::Adapter(id) => self.shelf.get(id)?.adapter.method.clone(),
        };
        if self.device.as_ref().is_some_and(|device| device.setup.method == method) {
            return Ok(());
        }
        self.chat = None;
        if let Some(device) = &mut self.device
            && !method.trains_base()
            && !device.setup.method.trains_base()
        {
            return device.adopt(&files, method).await;
        }
        self.device = None;
        let config = files.config().clone();
        let full = method.trains_base();
        let policy = WeightPolicy {
            linears: if full { WeightFormat::F32 } else { WeightFormat::Nf4 { double_quant: true } },
            embedding: if full { WeightFormat::F32 } else { WeightFormat::F16 },
        };
        let positions = config.max_position_embeddings.min(CONTEXT);
        let setup = ModelSetup { config, policy, method, positions, seed: 0 };
        let mut reporter = Reporter::new(Work::Load, "bringing the model to the GPU", true);
        let control = self.control.clone();
        let device = DeviceModel::load(gpu, &files, setup, false, &mut reporter.follow(&control)).await?;
        self.device = Some(device);
        Ok(())
    }

    /// Gives the parameters the values that `side` has at `strength`; whether they changed.
    fn set_side(&mut self, side: Side, strength: f32, set: &mut Option<(u32, f32)>) -> Result<bool> {
        let files = self.model()?.files.clone();
        let Some(device) = &self.device else { return Ok(false) };
        let wanted = match side {
            Side::Base => match *set {
                Some((id, _)) => (id, 0.0),
                // The parameters are those that the method begins with, which change nothing.
                None => return Ok(false),
            },
            Side::Adapter(id) => (id, strength),
        };
        if *set == Some(wanted) {
            return Ok(false);
        }
        let adapter = &self.shelf.get(wanted.0)?.adapter;
        let tensors = adapter.method.at_strength(&adapter.tensors, wanted.1, |tensor| {
            let mut values = vec![0.0; tensor.data.len()];
            files.source().read_rows(&tensor.name, 0..rows_and_columns(&tensor.shape).0, &mut values)?;
            Ok(values)
        })?;
        device.set_parameters("the adapter", &tensors)?;
        *set = Some(wanted);
        Ok(true)
    }

    /// Answers a conversation.
    pub async fn ask(
        &mut self,
        turn: u32,
        messages: &[Turn],
        sampling: &Sampling,
        side: Side,
        strength: f32,
    ) -> Result<()> {
        let _reporter = Reporter::new(Work::Answer, "reading the question", false);
        sampling.check()?;
        self.control.set_strength(strength);
        self.device_for(side).await?;
        let files = self.model()?.files.clone();
        let mut chat = match self.chat.take() {
            Some(chat) => chat,
            None => {
                let device = self.device.as_mut().ok_or(Error::Cancelled)?;
                Chat { generator: Generator::new(device, device.setup.positions).await?, set: None }
            }
        };
        let answered = self.answer(turn, &files, messages, sampling, side, &mut chat).await;
        if !matches!(answered, Err(Error::DeviceLost(_) | Error::Gpu(_))) {
            self.chat = Some(chat);
        }
        answered
    }

    async fn answer(
        &mut self,
        turn: u32,
        files: &Rc<ModelFiles>,
        messages: &[Turn],
        sampling: &Sampling,
        side: Side,
        chat: &mut Chat,
    ) -> Result<()> {
        let tokenizer = files.tokenizer()?;
        let messages: Vec<Message> =
            messages.iter().map(|turn| Message::new(&turn.role, turn.content.as_str())).collect();
        let prompt = files.chat_template()?.encode(tokenizer, &messages, true)?;
        let capacity = chat.generator.capacity();
        if prompt.len() >= capacity {
            return Err(Error::Option {
                name: "conversation".into(),
                value: format!("{} tokens", prompt.len()),
                expected: format!("the model reads {capacity} at once here: begin a new conversation"),
            });
        }
        let begun = clock::now();
        let mut rng = named_rng(sampling.seed, "sampling");
        let mut stream = DecodeStream::new(true);
        let mut tokens = prompt.clone();
        while tokens.len() - prompt.len() < sampling.max_new_tokens && tokens.len() < capacity {
            // A strength that changes in the middle: what was said is read again with it.
            if self.set_side(side, self.control.strength(), &mut chat.set)? || tokens.len() == prompt.len() {
                chat.generator.reset();
            }
            let Some(device) = &self.device else { break };
            let mut logits = chat.generator.logits(device, &tokens).await?;
            if logits.iter().any(|logit| logit.is_nan()) {
                return Err(Error::Gpu("the model's output is not a number".into()));
            }
            let next = sampling.choose(&mut logits, &tokens, &mut rng);
            tokens.push(next);
            if tokenizer.eos_ids().contains(&next) {
                break;
            }
            let text = stream.push(tokenizer, next)?;
            if !text.is_empty() {
                post(&Event::Token { turn, text });
            }
            yield_now().await;
            if self.control.is_cancelled() {
                break;
            }
        }
        let rest = stream.finish(tokenizer)?;
        if !rest.is_empty() {
            post(&Event::Token { turn, text: rest });
        }
        let (tokens, seconds) = ((tokens.len() - prompt.len()) as u32, begun.elapsed().as_secs_f64());
        post(&Event::Answered { turn, tokens, seconds });
        Ok(())
    }

    /// Compares base and adapter on the held-out data, and token by token on one example of it.
    pub async fn compare(&mut self, adapter: u32, example: usize) -> Result<()> {
        let mut reporter = Reporter::new(Work::Compare, "reading the same text twice", false);
        let config = self.shelf_config(adapter).await?;
        let (train, held_out) = self.split(&config)?;
        let is_held_out = held_out.is_some();
        let mut data = (*held_out.unwrap_or(train)).clone();
        if !is_held_out {
            data.examples.truncate(STAND_INS);
        }
        let files = self.model()?.files.clone();
        let tokenizer = files.tokenizer()?;
        self.device_for(Side::Adapter(adapter)).await?;
        self.chat = None;
        let control = self.control.clone();
        let positions = self.device.as_ref().map_or(CONTEXT, |device| device.setup.positions);
        let examples = data.examples.len();
        let example = example.min(examples.saturating_sub(1));
        let mut shown = data.examples[example].clone();
        shown.input_ids.truncate(positions);
        shown.labels.truncate(positions);
        let context = config.context(files.config()).min(positions);
        let (batches, mut shapes) = batches_by_length(std::sync::Arc::new(data), ROWS, context, tokenizer.pad())?;
        let one = Batch::new(&[vec![&shown]], 1, shown.len(), tokenizer.pad());
        shapes.push((1, shown.len()));
        let Some(device) = &mut self.device else { return Err(Error::Cancelled) };
        let evaluator = Evaluator::new(device, &shapes).await?;
        let mut set = None;
        let mut results = vec![];
        for (at, strength) in [0.0, 1.0].into_iter().enumerate() {
            self.set_side(Side::Adapter(adapter), strength, &mut set)?;
            let Some(device) = &self.device else { return Err(Error::Cancelled) };
            reporter.set(at as u64, 2);
            let total = evaluator.evaluate(device, &batches, &|| control.is_cancelled()).await?;
            let each = evaluator.per_token(device, &one).await?;
            results.push((total, each));
        }
        reporter.set(2, 2);
        let detail = shown.input_ids.iter().enumerate().map(|(at, &id)| {
            let learned = at > 0 && shown.labels[at] != IGNORED;
            // The loss of a token stands at the token before it, which predicts it.
            let losses = learned.then(|| (results[0].1[at - 1], results[1].1[at - 1]));
            (token(tokenizer, id, learned), losses)
        });
        post(&Event::Comparison(Comparison {
            adapter,
            held_out: is_held_out,
            base: results[0].0.loss(),
            tuned: results[1].0.loss(),
            tokens: results[0].0.tokens,
            example,
            examples,
            detail: detail.collect(),
        }));
        Ok(())
    }

    /// The choices of the run that made an adapter, as far as they decide which examples are held out; encodes the data so.
    async fn shelf_config(&mut self, adapter: u32) -> Result<espalier::train::RunConfig> {
        let run = self.shelf.get(adapter)?.shown.run.clone();
        let config = match run {
            Some(run) => super::runs::config(&run).await,
            None => None,
        };
        let config = config.unwrap_or_default();
        self.encode(&config).await?;
        Ok(config)
    }
}
