//! `espalier merge`

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use espalier::Error;
use espalier::export::{self, FloatType, Merged};
use espalier::io::{Existing, write_atomically, write_folder_atomically};
use espalier::model::ModelFiles;
use espalier::model::weights::TensorSource;
use espalier::quant::ggml::GgmlType;

use super::Outcome;
use super::open::{self, WithoutWeights};
use super::report::{Progress, Unit};

#[derive(Args)]
pub struct Options {
    /// The model that the adapter was trained on, or that is only to be converted: a Hugging Face folder, a .gguf file, or
    /// owner/name on the hub
    #[arg(value_name = "MODEL")]
    model: String,
    /// The adapter's folder; without it the model is written as it is, in another form
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Where the model goes: a new folder, or a file whose name ends in .gguf
    #[arg(long, value_name = "DIR|FILE.gguf")]
    out: PathBuf,
    /// How the merged weights are stored. f32 keeps what was trained; f16 and bf16 take half the room and round it: a loss may
    /// move by some thousandths. q8_0 (only .gguf) takes a quarter of the room: 8 bits a weight and a scale for every 32
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Stored,
    /// Replace what is at --out
    #[arg(long)]
    overwrite: bool,
}

/// The types of `--dtype`.
#[derive(Clone, Copy, ValueEnum)]
enum Stored {
    F32,
    F16,
    Bf16,
    #[value(name = "q8_0")]
    Q8_0,
}

impl Stored {
    /// As a type of a Hugging Face folder, which has no blocks.
    fn float(self) -> Option<FloatType> {
        match self {
            Stored::F32 => Some(FloatType::F32),
            Stored::F16 => Some(FloatType::F16),
            Stored::Bf16 => Some(FloatType::Bf16),
            Stored::Q8_0 => None,
        }
    }

    fn ggml(self) -> GgmlType {
        self.float().map_or(GgmlType::Q8_0, FloatType::ggml)
    }
}

pub fn run(options: &Options) -> Result<Outcome> {
    let model = open::model(&options.model, WithoutWeights::Refuse, &AtomicBool::new(false))?;
    let adapter = options.adapter.as_deref().map(open::adapter).transpose()?;
    let merged = adapter.as_ref().map(|adapter| Merged::new(&model, adapter)).transpose()?;
    let source = merged.as_ref().map_or(model.source(), |merged| merged as &dyn TensorSource);
    let out = &options.out;
    if out.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf")) {
        write_gguf(out, &model, source, options.dtype.ggml(), options.overwrite)?;
    } else {
        let Some(stored) = options.dtype.float() else {
            bail!("a folder cannot hold q8_0: give --out a name that ends in .gguf, or choose f32, f16 or bf16");
        };
        write_folder(out, &model, source, stored, options.overwrite)?;
    }
    println!("{} written to {}", if merged.is_some() { "merged model" } else { "model" }, out.display());
    Ok(Outcome::Done)
}

/// Writes a model as a Hugging Face folder, which appears whole or not at all.
pub fn write_folder(
    out: &Path,
    model: &ModelFiles,
    source: &dyn TensorSource,
    stored: FloatType,
    overwrite: bool,
) -> Result<()> {
    let texts = export::folder_texts(model, stored)?;
    let existing = if overwrite { Existing::Replace } else { Existing::Refuse };
    let mut progress = Progress::new("writing", model.config().parameters(), Unit::Parameters);
    write_folder_atomically(out, existing, |folder| {
        write_weights(&folder.join(export::WEIGHTS_FILE), model, source, stored, &mut progress)?;
        for (name, text) in &texts {
            let path = folder.join(name);
            let what = format!("write {}", out.join(name).display());
            std::fs::write(&path, text).map_err(Error::io(what))?;
        }
        Ok(())
    })?;
    progress.finish();
    Ok(())
}

/// Writes a model's `model.safetensors`.
pub fn write_weights(
    path: &Path,
    model: &ModelFiles,
    source: &dyn TensorSource,
    stored: FloatType,
    progress: &mut Progress,
) -> espalier::Result<()> {
    write_atomically(path, |out| {
        let mut show = |done| progress.set(done, "");
        export::write_safetensors(&path.display().to_string(), out, model.config(), source, stored, &mut show)?;
        Ok(())
    })
}

fn write_gguf(
    out: &Path,
    model: &ModelFiles,
    source: &dyn TensorSource,
    stored: GgmlType,
    overwrite: bool,
) -> Result<()> {
    if out.exists() && !overwrite {
        bail!("{} exists; choose another name, or replace it with --overwrite", out.display());
    }
    let mut progress = Progress::new("writing", model.config().parameters(), Unit::Parameters);
    write_atomically(out, |file| {
        let mut show = |done| progress.set(done, "");
        export::write_gguf(&out.display().to_string(), file, model, source, stored, &mut show)?
            .flush()
            .map_err(Error::io(format!("write {}", out.display())))
    })?;
    progress.finish();
    Ok(())
}
