//! What the worker holds between commands, and which part of it does what.

use std::rc::Rc;

use espalier::gpu::{Gpu, GpuOptions};
use espalier::graph::Target;
use espalier::model::{DeviceModel, ModelFiles};
use espalier::{Error, Result, exec};
use web_sys::Blob;

use super::adapters::Shelf;
use super::chat::Chat;
use super::control::Control;
use super::data::LoadedData;
use super::failure::{During, report};
use super::post::{Reporter, post};
use super::{runs, store};
use crate::protocol::{Command, Device, Event, ModelChoice, Storage, Stored, Work};

/// A model's files, and where they came from.
pub struct LoadedModel {
    pub files: Rc<ModelFiles>,
    pub name: String,
    /// Bytes of its files
    pub bytes: u64,
    /// How it can be had again; `None` for files that were dropped and not kept.
    pub choice: Option<ModelChoice>,
}

/// All that the worker holds.
pub struct Session {
    pub control: Rc<Control>,
    pub budget_bytes: Option<u64>,
    pub gpu: Option<Rc<Gpu>>,
    /// The most that the GPU gave at once, and whether it would give no more.
    pub capacity: Option<(u64, bool)>,
    pub model: Option<LoadedModel>,
    pub data: Option<LoadedData>,
    /// The model's weights on the GPU, when nothing is being trained.
    pub device: Option<DeviceModel>,
    pub chat: Option<Chat>,
    pub shelf: Shelf,
}

impl Session {
    /// Nothing yet.
    pub fn new(control: Rc<Control>) -> Session {
        Session {
            control,
            budget_bytes: None,
            gpu: None,
            capacity: None,
            model: None,
            data: None,
            device: None,
            chat: None,
            shelf: Shelf::default(),
        }
    }

    /// Does what a command says, and shows what went wrong.
    pub async fn handle(&mut self, command: Command, files: Vec<Blob>) {
        self.control.begin();
        let (during, outcome) = match command {
            Command::Open { budget_bytes } => (During::Opening, self.open(budget_bytes).await),
            Command::Probe => (During::Opening, self.probe(PROBE_BYTES).await),
            Command::LoadModel { model, keep_copy } => {
                (During::Loading, self.load_model(model, keep_copy, &files).await)
            }
            Command::SetData { source, config } => (During::Data, self.set_data(source, &config, &files).await),
            Command::Configure { config } => (During::Choosing, self.configure(&config).await),
            Command::Trial { config } => (During::Choosing, self.trial(&config).await),
            Command::Train { config } => (During::Training, self.train(&config).await),
            Command::Resume { run } => (During::Training, self.resume(&run).await),
            Command::Ask { turn, messages, sampling, side, strength } => {
                (During::Answering, self.ask(turn, &messages, &sampling, side, strength).await)
            }
            Command::Compare { adapter, example } => (During::Answering, self.compare(adapter, example).await),
            Command::AddAdapter => (During::Loading, self.add_adapter(&files)),
            Command::Export { what } => (During::Storing, self.export(&what).await),
            Command::Storage => (During::Storing, self.storage().await),
            Command::Persist => (During::Storing, self.persist().await),
            Command::Delete { what } => (During::Storing, self.delete(&what).await),
            // Obeyed when they arrived.
            Command::Pause
            | Command::Continue
            | Command::Stop
            | Command::Discard
            | Command::Strength { .. }
            | Command::Cancel
            | Command::Fault { .. } => (During::Training, Ok(())),
        };
        if let Err(error) = outcome {
            if matches!(error, Error::DeviceLost(_) | Error::Gpu(_)) {
                self.forget_gpu();
            }
            report(&error, during);
        }
    }

    /// Opens the GPU.
    async fn open(&mut self, budget_bytes: Option<u64>) -> Result<()> {
        self.forget_gpu();
        self.budget_bytes = budget_bytes;
        self.capacity = budget_bytes.map(|bytes| (bytes, true));
        let _reporter = Reporter::new(Work::Open, "opening the GPU", false);
        self.gpu().await?;
        // Without storage (a private window) everything works but nothing is kept.
        if let Err(error) = self.storage().await {
            post(&Event::Notice { text: format!("This browser keeps nothing for the page: {error}") });
        }
        Ok(())
    }

    /// The open GPU; opens it where it is not, or was lost.
    pub async fn gpu(&mut self) -> Result<Rc<Gpu>> {
        if let Some(gpu) = &self.gpu
            && gpu.check().is_ok()
        {
            return Ok(gpu.clone());
        }
        self.forget_gpu();
        let options = GpuOptions { budget_bytes: self.budget_bytes, ..GpuOptions::default() };
        let gpu = Rc::new(Gpu::open(&options).await?);
        let summary = gpu.summary();
        let small = (gpu.is_software() || summary.max_binding_bytes < 256 << 20).then(|| {
            let why = if gpu.is_software() {
                "the processor stands in for a graphics card here"
            } else {
                "this GPU takes only small pieces"
            };
            format!("{why}: the Seedling is the right size, SmolLM2 is slow, larger models are not for this device")
        });
        post(&Event::Device(Device {
            name: summary.name.clone(),
            kind: if gpu.is_software() { "software".into() } else { summary.kind.clone() },
            max_buffer_bytes: summary.max_buffer_bytes,
            max_binding_bytes: summary.max_binding_bytes,
            f16: summary.f16,
            budget_bytes: self.budget_bytes,
            small,
        }));
        self.control.set_gpu(Some(gpu.clone()));
        self.gpu = Some(gpu.clone());
        Ok(gpu)
    }

    /// Lets everything go that lies on the GPU.
    pub fn forget_gpu(&mut self) {
        self.chat = None;
        self.device = None;
        self.gpu = None;
        self.control.set_gpu(None);
    }

    /// The limits to plan with: the GPU's, or, without one, those that every WebGPU device has.
    pub fn target(&self) -> Target {
        self.gpu.as_ref().map_or_else(Target::default, |gpu| exec::target(gpu))
    }

    /// The loaded model; errs where there is none.
    pub fn model(&self) -> Result<&LoadedModel> {
        self.model.as_ref().ok_or_else(|| Error::Option {
            name: "model".into(),
            value: "none".into(),
            expected: "load a model first".into(),
        })
    }

    /// Finds out how much the GPU gives, up to `most` bytes, in pieces that any device can hold.
    pub async fn probe(&mut self, most: u64) -> Result<()> {
        let gpu = self.gpu().await?;
        if let Some(bytes) = self.budget_bytes {
            self.capacity = Some((bytes, true));
            post(&Event::Capacity { bytes, all: true });
            return Ok(());
        }
        let mut reporter = Reporter::new(Work::Probe, "asking the GPU for memory", true);
        let piece = (256 << 20).min(gpu.limits().max_buffer_size);
        let (mut held, mut all) = (vec![], false);
        while (held.len() as u64) * piece < most && !all && !self.control.is_cancelled() {
            match gpu.guarded("probe", || gpu.alloc("probe", piece)).await {
                Ok(buffer) => held.push(buffer),
                Err(Error::OutOfMemory(_)) => all = true,
                Err(error) => return Err(error),
            }
            reporter.set(held.len() as u64 * piece, most);
        }
        let bytes = held.len() as u64 * piece;
        self.capacity = Some((bytes, all));
        post(&Event::Capacity { bytes, all });
        Ok(())
    }

    /// Tells what is kept in this browser.
    pub async fn storage(&self) -> Result<()> {
        let (used, quota) = store::estimate().await;
        post(&Event::Storage(Storage {
            used,
            quota,
            persistent: store::is_persistent().await,
            models: super::library::list().await?,
            runs: runs::list().await?,
        }));
        Ok(())
    }

    async fn persist(&self) -> Result<()> {
        let granted = store::persist().await;
        let text = match granted {
            true => "The browser will keep what is stored until you delete it.",
            false => "The browser may still throw the stored files away when it runs out of room.",
        };
        post(&Event::Notice { text: text.into() });
        self.storage().await
    }

    async fn delete(&mut self, what: &Stored) -> Result<()> {
        let root = store::Dir::root().await?;
        match what {
            Stored::Model { id } => {
                // Its files may be open.
                if self.model.as_ref().is_some_and(|model| model.choice == Some(ModelChoice::Stored { id: id.clone() }))
                {
                    self.drop_model();
                }
                root.folder("models").await?.remove(id).await?;
            }
            Stored::Run { id } => root.folder("runs").await?.remove(id).await?,
            Stored::Everything => {
                self.drop_model();
                root.remove("models").await?;
                root.remove("runs").await?;
            }
        }
        self.storage().await
    }

    /// Closes the model's files and frees what belongs to it.
    pub fn drop_model(&mut self) {
        self.chat = None;
        self.device = None;
        self.data = None;
        self.model = None;
    }
}

/// How much memory is asked for at most to see what the GPU gives, bytes.
const PROBE_BYTES: u64 = 4 << 30;
