//! A data set: from a file's bytes to rows, from rows to tokens under the loaded model, and what the page shows of them.

use std::sync::Arc;

use espalier::data::{Dataset, EncodeOptions, Encoder, IGNORED, Rows, Supervise, fit_buckets, read_rows};
use espalier::model::tokenizer::Tokenizer;
use espalier::platform::yield_now;
use espalier::train::RunConfig;
use espalier::{Error, Result};
use web_sys::Blob;

use super::files::BlobSource;
use super::models::name_of;
use super::post::{Reporter, post};
use super::session::Session;
use crate::protocol::{Data, DataSource, Event, Token, Work};

/// Examples whose tokens are shown.
const SHOWN: usize = 12;
/// Bars of the histogram of lengths, at most.
const BARS: usize = 12;
/// Rows encoded between two looks at the messages.
const CHUNK: usize = 64;
/// Largest data set, bytes: it is held in memory.
const MAX_BYTES: u64 = 256 << 20;

/// A data set and, under the choices it was last asked for, its examples.
pub struct LoadedData {
    pub name: String,
    pub bytes: Vec<u8>,
    rows: Rows,
    /// What decided the examples, and all of them.
    encoded: Option<(usize, Supervise, Dataset)>,
    /// The share and the seed of the held-out rows that the page was last told.
    shown: Option<(f64, u64)>,
}

/// Examples to train on, and held-out ones.
pub type Split = (Arc<Dataset>, Option<Arc<Dataset>>);

impl LoadedData {
    /// Reads rows out of a file's bytes.
    pub fn new(name: String, bytes: Vec<u8>) -> Result<LoadedData> {
        let rows = read_rows(&name, bytes.as_slice())?;
        Ok(LoadedData { name, bytes, rows, encoded: None, shown: None })
    }

    /// Forgets the examples; the rows stay.
    pub fn forget_examples(&mut self) {
        self.encoded = None;
        self.shown = None;
    }
}

impl Session {
    /// Takes a data set and shows what it is for the model.
    pub async fn set_data(&mut self, source: DataSource, config: &RunConfig, files: &[Blob]) -> Result<()> {
        self.data = None;
        let (name, bytes) = match source {
            DataSource::Text { name, text } => (name, text.into_bytes()),
            DataSource::File => {
                let blob = files.first().ok_or_else(|| Error::malformed("the data set", "no file came with it"))?;
                let name = name_of(blob);
                let source = BlobSource::new(&name, blob.clone())?;
                let length = espalier::io::ByteSource::len(&source);
                if length > MAX_BYTES {
                    let problem =
                        format!("{length} bytes; the page takes data sets of up to {MAX_BYTES}, the native build any");
                    return Err(Error::Data { file: name, problem });
                }
                let bytes = espalier::io::ByteSource::read_vec(&source, 0, length)?;
                (name, bytes)
            }
        };
        self.data = Some(LoadedData::new(name, bytes)?);
        if let Err(error) = self.encode(config).await {
            self.data = None;
            return Err(error);
        }
        self.show_data(config)
    }

    /// Encodes the data under the model's tokenizer, unless that was done for the same choices. Returns whether it was done.
    pub async fn encode(&mut self, config: &RunConfig) -> Result<bool> {
        let files = self.model()?.files.clone();
        let context = config.context(files.config());
        let control = self.control.clone();
        let Some(data) = &mut self.data else { return Ok(false) };
        if data.encoded.as_ref().is_some_and(|(c, s, _)| (*c, *s) == (context, config.supervise)) {
            return Ok(false);
        }
        let template = files.chat_template()?;
        let options = EncodeOptions { supervise: config.supervise, ..EncodeOptions::new(context) };
        let mut encoder =
            Encoder::new(data.rows.report.clone(), data.rows.unit, files.tokenizer()?, &template, &options)?;
        let total = data.rows.rows.len() as u64;
        let mut reporter = Reporter::new(Work::Encode, "cutting the text into tokens", false);
        for (at, chunk) in data.rows.rows.chunks(CHUNK).enumerate() {
            encoder.push(chunk);
            reporter.set(((at + 1) * CHUNK) as u64, total);
            yield_now().await;
            if control.is_cancelled() {
                return Err(Error::Cancelled);
            }
        }
        data.encoded = Some((context, config.supervise, encoder.finish()?));
        data.shown = None;
        Ok(true)
    }

    /// The examples to train on and the held-out ones; errs where there is no data.
    pub fn split(&self, config: &RunConfig) -> Result<Split> {
        let none =
            || Error::Option { name: "data".into(), value: "none".into(), expected: "choose a data set first".into() };
        let (_, _, dataset) = self.data.as_ref().and_then(|data| data.encoded.as_ref()).ok_or_else(none)?;
        if config.eval_fraction > 0.0 && dataset.examples.len() >= 2 {
            let (train, held_out) = dataset.clone().split(config.eval_fraction, config.seed)?;
            return Ok((Arc::new(train), Some(Arc::new(held_out))));
        }
        Ok((Arc::new(dataset.clone()), None))
    }

    /// Shows the encoded data, unless the page knows it.
    pub fn show_data(&mut self, config: &RunConfig) -> Result<()> {
        let split = (config.eval_fraction, config.seed);
        match &mut self.data {
            Some(data) if data.shown != Some(split) => data.shown = Some(split),
            _ => return Ok(()),
        }
        let Some((_, _, dataset)) = self.data.as_ref().and_then(|data| data.encoded.as_ref()) else { return Ok(()) };
        let files = &self.model()?.files;
        let tokenizer = files.tokenizer()?;
        let (train, held_out) = self.split(config)?;
        let examples = dataset.examples.iter().take(SHOWN);
        let shown = examples.map(|example| {
            let learned = |at: usize| at > 0 && example.labels[at] != IGNORED;
            example.input_ids.iter().enumerate().map(|(at, &id)| token(tokenizer, id, learned(at))).collect()
        });
        post(&Event::Data(Data {
            report: dataset.report.clone(),
            sentences: dataset.report.to_string(),
            train_examples: train.examples.len(),
            held_out_examples: held_out.map_or(0, |held_out| held_out.examples.len()),
            examples: shown.collect(),
            lengths: lengths(dataset, config.context(files.config())),
        }));
        Ok(())
    }
}

/// A token as the page shows it.
pub fn token(tokenizer: &Tokenizer, id: u32, learned: bool) -> Token {
    let text = tokenizer.decode(&[id], false).ok().filter(|text| !text.is_empty());
    Token { id, text: text.or_else(|| tokenizer.id_to_token(id)).unwrap_or_default(), learned }
}

/// Examples by length, in few bars.
fn lengths(dataset: &Dataset, context: usize) -> Vec<(usize, usize)> {
    let bounds = fit_buckets(dataset.examples.iter().map(|example| example.len()), context, BARS);
    let mut bars: Vec<(usize, usize)> = bounds.into_iter().map(|bound| (bound, 0)).collect();
    for example in &dataset.examples {
        if let Some(bar) = bars.iter_mut().find(|bar| example.len() <= bar.0) {
            bar.1 += 1;
        }
    }
    bars
}
