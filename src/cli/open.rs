//! What the command line names, opened: a model in a folder, in a file or on the hub; an adapter; a GPU.

use std::io::BufReader;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use espalier::Error;
use espalier::data::{Dataset, Supervise, read_rows};
use espalier::gpu::{Gpu, GpuOptions};
use espalier::io::files::open_unpickled;
use espalier::io::hub::{HubClient, HubId};
use espalier::io::{FileSource, Files, Folder};
use espalier::model::device::{DeviceModel, LoadProgress, ModelSetup};
use espalier::model::{ModelFiles, WeightPolicy};
use espalier::peft::{Adapter, Method};
use espalier::platform::block_on;
use espalier::train::inputs::encode;

use super::report::{Progress, Transfer, Unit};

/// What to do where a model has a configuration but no weights.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum WithoutWeights {
    /// Err.
    Refuse,
    /// Start from random ones, made by this seed.
    Random(u64),
}

/// Opens `name`: a Hugging Face folder, a `.gguf` file, a `config.json` (where weights may be absent), or a model on the
/// hub, which is fetched first. `cancel` stops a fetch.
pub fn model(name: &str, without: WithoutWeights, cancel: &AtomicBool) -> Result<ModelFiles> {
    let path = Path::new(name);
    if path.is_dir() {
        return folder(path, without);
    }
    if path.is_file() {
        return file(path, without);
    }
    if path.is_absolute() || name.starts_with('.') {
        bail!("there is no file or folder {name}");
    }
    let id: HubId = name.parse()?;
    let mut transfer = Transfer::new(&id.to_string());
    let fetched = HubClient::from_env()?.fetch(&id, cancel, &mut |progress| transfer.show(&progress))?;
    transfer.finish();
    let mut model = if fetched.is_dir() { folder(&fetched, without)? } else { file(&fetched, without)? };
    model.set_location(id.to_string());
    Ok(model)
}

fn folder(path: &Path, without: WithoutWeights) -> Result<ModelFiles> {
    let files = Folder::open(path)?;
    let has_weights = files.list().iter().any(|name| name.ends_with(".safetensors"));
    match without {
        WithoutWeights::Random(seed) if !has_weights && files.has("config.json") => {
            Ok(ModelFiles::random(&files, seed)?)
        }
        _ => Ok(ModelFiles::open_folder(&files)?),
    }
}

fn file(path: &Path, without: WithoutWeights) -> Result<ModelFiles> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let parent = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    if name == "config.json" {
        return match without {
            WithoutWeights::Random(seed) => Ok(ModelFiles::random(&Folder::open(parent)?, seed)?),
            WithoutWeights::Refuse => bail!("{} holds no weights; give the folder that has them", path.display()),
        };
    }
    let source = open_unpickled(&name, Box::new(FileSource::open(path)?))?;
    if name.ends_with(".safetensors") {
        bail!("{} is one file of a model; give the folder that holds it with its config.json", path.display());
    }
    Ok(ModelFiles::open_gguf(source)?)
}

/// Reads an adapter's folder.
pub fn adapter(path: &Path) -> Result<Adapter> {
    let files = Folder::open(path).context("cannot open the adapter")?;
    Ok(Adapter::read(&files)?)
}

/// Opens the GPU that the user chose, or the fastest.
pub fn gpu(adapter: Option<&str>) -> Result<Rc<Gpu>> {
    gpu_within(adapter, None)
}

/// The same, to allocate at most `budget_bytes` on it.
pub fn gpu_within(adapter: Option<&str>, budget_bytes: Option<u64>) -> Result<Rc<Gpu>> {
    let options = GpuOptions { adapter: adapter.map(String::from), budget_bytes, ..GpuOptions::default() };
    Ok(Rc::new(block_on(Gpu::open(&options))?))
}

/// Loads a model, with an adapter in it or without, for contexts of up to `positions` tokens.
pub fn device_model(
    gpu: Rc<Gpu>,
    files: &ModelFiles,
    adapter: Option<(&Path, &Adapter)>,
    policy: WeightPolicy,
    positions: usize,
) -> Result<DeviceModel> {
    let method = adapter.map_or(Method::None, |(_, adapter)| adapter.method.clone());
    let setup = ModelSetup { config: files.config().clone(), policy, method, positions, seed: 0 };
    let mut bar = Progress::new(&format!("loading ({})", policy.linears), 0, Unit::Bytes);
    let mut show = |progress: LoadProgress| {
        bar.set_total(progress.total_bytes);
        bar.set(progress.done_bytes, "");
        true
    };
    let model = block_on(DeviceModel::load(gpu, files, setup, false, &mut show))?;
    bar.finish();
    if let Some((path, adapter)) = adapter {
        model.set_parameters(&path.display().to_string(), &adapter.tensors)?;
    }
    Ok(model)
}

/// Reads and encodes a data set, and says what became of its rows.
pub fn dataset(files: &ModelFiles, path: &Path, context: usize, supervise: Supervise) -> Result<Dataset> {
    let name = path.display().to_string();
    let file = std::fs::File::open(path).map_err(Error::io(format!("read {name}")))?;
    let rows = read_rows(&name, BufReader::new(file))?;
    let mut bar = Progress::new("tokenizing", rows.rows.len() as u64, Unit::Rows);
    let dataset = encode(files, rows, context, supervise, |done, _| bar.set(done as u64, ""))?;
    bar.finish();
    eprintln!("{}", dataset.report);
    Ok(dataset)
}
