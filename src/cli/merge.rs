//! `espalier merge`

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Result, bail};
use clap::Args;
use espalier::Error;
use espalier::export::{self, FloatType, Merged};
use espalier::io::{Existing, write_atomically, write_folder_atomically};
use espalier::model::ModelFiles;
use espalier::model::weights::TensorSource;

use super::Outcome;
use super::open::{self, WithoutWeights};
use super::report::{Progress, Unit};

#[derive(Args)]
pub struct Options {
    /// The model that the adapter was trained on: a Hugging Face folder, a .gguf file, or owner/name on the hub
    #[arg(value_name = "MODEL")]
    model: String,
    /// The adapter's folder
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// Where the merged model goes: a new folder, or a file whose name ends in .gguf (the model has to be GGUF, too)
    #[arg(long, value_name = "DIR|FILE.gguf")]
    out: PathBuf,
    /// How the merged weights are stored. f32 keeps what was trained; f16 and bf16 take half the room and round it: a loss may
    /// move by some thousandths
    #[arg(long, value_enum, default_value = "f32")]
    dtype: FloatType,
    /// Replace what is at --out
    #[arg(long)]
    overwrite: bool,
}

pub fn run(options: &Options) -> Result<Outcome> {
    let model = open::model(&options.model, WithoutWeights::Refuse, &AtomicBool::new(false))?;
    let adapter = open::adapter(&options.adapter)?;
    let merged = Merged::new(&model, &adapter)?;
    let stored = options.dtype;
    if options.out.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf")) {
        write_gguf(&options.out, &model, &merged, stored, options.overwrite)?;
    } else {
        write_folder(&options.out, &model, &merged, stored, options.overwrite)?;
    }
    println!("merged model written to {}", options.out.display());
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
    stored: FloatType,
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
