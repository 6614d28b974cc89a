//! What a run reads, made ready: data and prompts as tokens, batches, and how one model or data set is told from another.

use std::sync::Arc;

use sha2::Digest;

use super::checkpoint::Identity;
use super::trainer::Shape;
use crate::data::{
    Batch, BatchOptions, BatchOrder, Content, Dataset, EncodeOptions, RowOrder, Rows, Supervise, encode_rows,
};
use crate::model::ModelFiles;
use crate::model::chat_template::{ChatTemplate, Message, Origin};
use crate::model::tokenizer::{Tokenizer, TokenizerFiles};
use crate::{Error, Result};

/// All batches of a data set once, shortest rows first, and their shapes.
pub fn batches_by_length(
    data: Arc<Dataset>,
    batch_size: usize,
    context: usize,
    pad: u32,
) -> Result<(Vec<Batch>, Vec<Shape>)> {
    let options = BatchOptions { order: RowOrder::ByLength, pad, ..BatchOptions::new(batch_size, context) };
    let mut order = BatchOrder::new(data, options)?;
    let shapes = order.buckets().iter().map(|&bucket| (batch_size, bucket)).collect();
    let count = order.steps_in_epoch(0);
    Ok(((0..count).map(|_| order.next_batch()).collect(), shapes))
}

/// A prompt as the model is given it: one turn of a chat, or plain text where the model has no template.
pub fn prompt_tokens(files: &ModelFiles, text: &str) -> Result<Vec<u32>> {
    let (tokenizer, template) = (files.tokenizer()?, files.chat_template()?);
    match template.origin() {
        Origin::Default => tokenizer.encode(text, true),
        _ => template.encode(tokenizer, &[Message::new("user", text)], true),
    }
}

/// Encodes rows under a model's tokenizer and chat template. Rows that are token ids already need no tokenizer. Errs where
/// nothing is left to learn, and on tokens that the model does not have.
pub fn encode(
    files: &ModelFiles,
    rows: Rows,
    context: usize,
    supervise: Supervise,
    progress: impl FnMut(usize, usize),
) -> Result<Dataset> {
    let options = EncodeOptions { supervise, ..EncodeOptions::new(context) };
    let vocabulary = files.config().vocab_size;
    let only_tokens = rows.rows.iter().all(|row| matches!(row.content, Content::Tokens { .. }));
    let dataset = match files.tokenizer() {
        Err(_) if only_tokens => {
            let tokenizer = numbers(vocabulary)?;
            encode_rows(rows, &tokenizer, &ChatTemplate::chatml(&tokenizer)?, &options, progress)?
        }
        tokenizer => encode_rows(rows, tokenizer?, &files.chat_template()?, &options, progress)?,
    };
    let most = dataset.examples.iter().flat_map(|example| &example.input_ids).max().copied().unwrap_or(0);
    if most as usize >= vocabulary {
        return Err(Error::Data {
            file: dataset.report.source,
            problem: format!(
                "token {most} is not in the model's vocabulary of {vocabulary}: is its tokenizer another model's?"
            ),
        });
    }
    Ok(dataset)
}

/// A tokenizer whose tokens are numbers, in the place of one that a model lacks.
fn numbers(vocabulary: usize) -> Result<Tokenizer> {
    let vocab: serde_json::Map<String, serde_json::Value> =
        (0..vocabulary).map(|id| (format!("<{id}>"), id.into())).collect();
    let model = serde_json::json!({ "type": "WordLevel", "vocab": vocab, "unk_token": "<0>" });
    let json = serde_json::json!({ "version": "1.0", "added_tokens": [], "model": model });
    Tokenizer::from_files(&TokenizerFiles { tokenizer: json.to_string().as_bytes(), ..TokenizerFiles::default() })
}

/// Tells a data set from another: its examples and their order.
pub fn data_identity(data: &Dataset) -> Identity {
    let report = &data.report;
    let name = format!("{} with {} examples, {} tokens", report.source, report.examples, report.tokens);
    Identity { name, sha256: data.fingerprint() }
}

/// Tells a model from another: its sizes, its tensors, and the first row of each.
pub fn model_identity(files: &ModelFiles) -> Result<Identity> {
    let config = files.config();
    let name = format!("{} ({} parameters)", files.location(), config.parameters());
    Identity::of(name, |hash| {
        hash.update(format!("{config:?}"));
        for (name, shape) in config.tensors() {
            let mut row = vec![0.0f32; shape.last().copied().unwrap_or(1)];
            files.source().read_rows(&name, 0..1, &mut row)?;
            hash.update(&name);
            hash.update(bytemuck::cast_slice::<f32, u8>(&row));
        }
        Ok(())
    })
}
