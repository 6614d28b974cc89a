//! Training, trying and resuming: the core's run, with the page as its host.

use std::rc::Rc;

use espalier::data::Dataset;
use espalier::model::ModelFiles;
use espalier::peft;
use espalier::platform::clock;
use espalier::train::run::{self, Host, Prepared, Run, Summary};
use espalier::train::{Checkpoint, MethodName, RunConfig};
use espalier::{Error, Result};
use std::sync::Arc;

use super::control::{Control, Wish};
use super::data::LoadedData;
use super::failure::{During, failure, report};
use super::post::{Reporter, post};
use super::runs::{self, Note, RunFolder};
use super::session::Session;
use crate::protocol::{Ending, Event, Finished, Started, Work};

/// How often a run goes on by itself after the device was lost.
const MAX_RECOVERIES: u32 = 3;

/// The page as the place where a run happens.
struct PageHost {
    control: Rc<Control>,
    /// `None` where the browser has no storage, or refused a write: nothing more is kept.
    folder: Option<RunFolder>,
    kept: bool,
}

impl PageHost {
    fn storage_failed(&mut self, error: &Error) {
        post(&Event::Failure(failure(error, During::Storing)));
        self.kept = false;
    }
}

impl Host for PageHost {
    fn event(&mut self, event: run::Event<'_>) -> Result<()> {
        match event {
            run::Event::Step { metrics, .. } => {
                let added = self.folder.as_mut().map_or(Ok(()), |folder| folder.add(metrics));
                if let Err(error) = added {
                    self.storage_failed(&error);
                }
                post(&Event::Step(metrics.clone()));
            }
            run::Event::Evaluated { evaluated, is_best } => post(&Event::Evaluated { evaluated, best: is_best }),
            run::Event::Sample { step, text } => post(&Event::Sample { step, text: text.into() }),
            run::Event::Checkpoint { step } if self.kept => post(&Event::Kept { step }),
            run::Event::Checkpoint { .. } => {}
        }
        Ok(())
    }

    /// A storage that is full does not end the run: the page says so, and what was kept before stays.
    async fn keep(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.kept = false;
        let Some(folder) = &mut self.folder else { return Ok(()) };
        let kept = match self.control.take_full_storage() {
            true => {
                let full = std::io::Error::new(std::io::ErrorKind::StorageFull, "the browser's quota is used up");
                Err(Error::io("write a checkpoint")(full))
            }
            false => folder.keep(checkpoint).await,
        };
        match kept {
            Ok(()) => self.kept = true,
            Err(error) => self.storage_failed(&error),
        }
        Ok(())
    }
}

/// Nobody looks: a trial.
struct Nobody;

impl Host for Nobody {
    fn event(&mut self, _: run::Event<'_>) -> Result<()> {
        Ok(())
    }
    async fn keep(&mut self, _: &Checkpoint) -> Result<()> {
        Ok(())
    }
}

/// Everything that a run is made from.
struct Job {
    files: Rc<ModelFiles>,
    config: RunConfig,
    data: Arc<Dataset>,
    held_out: Option<Arc<Dataset>>,
}

impl Job {
    fn prepare(&self) -> Result<Prepared<'_>> {
        Prepared::new(&self.files, &self.config, self.data.clone(), self.held_out.clone())
    }
}

impl Session {
    fn job(&self, config: &RunConfig) -> Result<Job> {
        let (data, held_out) = self.split(config)?;
        Ok(Job { files: self.model()?.files.clone(), config: config.clone(), data, held_out })
    }

    /// Frees what a conversation holds on the GPU: a run needs the room.
    fn make_room(&mut self) {
        self.chat = None;
        self.device = None;
    }

    /// Makes two steps and says how long one takes.
    pub async fn trial(&mut self, config: &RunConfig) -> Result<()> {
        self.check_plan(config)?;
        self.encode(config).await?;
        let gpu = self.gpu().await?;
        self.make_room();
        gpu.reset_peak();
        let steps =
            RunConfig { steps: Some(2), epochs: None, checkpoint_every: 0, sample_prompt: None, ..config.clone() };
        let job = Job { held_out: None, ..self.job(&RunConfig { patience: 0, ..steps })? };
        let prepared = job.prepare()?;
        let (setup, _) = prepared.plan(&espalier::exec::target(&gpu))?;
        let mut reporter = Reporter::new(Work::Trial, "trying two steps", true);
        let control = self.control.clone();
        let mut run = prepared.start(gpu.clone(), setup, None, &mut reporter.follow(&control)).await?;
        let begun = clock::now();
        let summary = run.run(&mut Nobody, &control.cancel).await?;
        if control.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let seconds = begun.elapsed().as_secs_f64();
        post(&Event::Trial {
            seconds_per_step: seconds / summary.steps.max(1) as f64,
            tokens_per_s: summary.tokens as f64 / summary.seconds.max(1e-9),
            allocated_bytes: gpu.peak_bytes(),
        });
        Ok(())
    }

    /// Trains from the first step.
    pub async fn train(&mut self, config: &RunConfig) -> Result<()> {
        let _reporter = Reporter::new(Work::Train, "getting ready", true);
        self.encode(config).await?;
        self.check_plan(config)?;
        let job = self.job(config)?;
        let prepared = job.prepare()?;
        let (model, data) = (self.model()?, self.data.as_ref());
        let note = Note {
            model: model.name.clone(),
            choice: model.choice.clone(),
            data: data.map(|data| data.name.clone()).unwrap_or_default(),
            config: prepared.config().clone(),
            total_steps: prepared.total_steps(),
            step: 0,
            slot: None,
            when: clock::unix_seconds(),
            finished: false,
        };
        let id = format!("run-{}", js_sys::Date::now());
        let bytes = data.map_or(&[][..], |data| &data.bytes);
        let folder = match RunFolder::create(&id, note, bytes).await {
            Ok(folder) => Some(folder),
            Err(error) => {
                report(&error, During::Storing);
                None
            }
        };
        drop(prepared);
        self.drive(&id, job, folder).await
    }

    /// Brings a run's model and data back, and goes on with it.
    pub async fn resume(&mut self, id: &str) -> Result<()> {
        let _reporter = Reporter::new(Work::Train, "finding the run", true);
        let (folder, data) = RunFolder::open(id).await?;
        let note = folder.note.clone();
        if self.model.as_ref().is_none_or(|model| model.name != note.model) {
            let Some(choice) = note.choice.clone() else {
                return Err(Error::malformed(
                    &note.model,
                    "was dropped here and no copy was kept: drop its files again, then resume",
                ));
            };
            self.load_model(choice, false, &[]).await?;
        }
        self.data = Some(LoadedData::new(note.data.clone(), data)?);
        self.encode(&note.config).await?;
        self.show_data(&note.config)?;
        post(&Event::Plan(self.plan(&note.config)?));
        let job = self.job(&note.config)?;
        self.drive(id, job, Some(folder)).await
    }

    /// Runs to the end, through losses of the device.
    async fn drive(&mut self, id: &str, job: Job, folder: Option<RunFolder>) -> Result<()> {
        let mut host = PageHost { control: self.control.clone(), folder, kept: false };
        let mut recoveries = 0;
        let ended = loop {
            match self.once(id, &job, &mut host).await {
                Err(Error::DeviceLost(why)) if recoveries < MAX_RECOVERIES => {
                    recoveries += 1;
                    self.forget_gpu();
                    let text = format!(
                        "The GPU was taken away ({why}). The run goes on from its newest checkpoint on a new one."
                    );
                    post(&Event::Notice { text });
                }
                ended => break ended,
            }
        };
        drop(host);
        if matches!(&ended, Ok(Some(Ending::Discarded))) {
            runs::all().await?.remove(id).await?;
        }
        let _ = self.storage().await;
        ended.map(|_| ())
    }

    /// Runs from the newest checkpoint, or from the start where there is none; `None` if it was cancelled before it began.
    async fn once(&mut self, id: &str, job: &Job, host: &mut PageHost) -> Result<Option<Ending>> {
        let gpu = self.gpu().await?;
        self.make_room();
        gpu.reset_peak();
        let (checkpoint, history) = match &mut host.folder {
            Some(folder) => folder.newest().await?,
            None => (None, vec![]),
        };
        let first_eval = checkpoint.as_ref().and_then(|checkpoint| checkpoint.state.first_eval);
        let step = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.state.step);
        let prepared = job.prepare()?;
        let (setup, plan) = prepared.plan(&espalier::exec::target(&gpu))?;
        let (decided, total_steps) = (prepared.config().clone(), prepared.total_steps());
        let mut reporter = Reporter::new(Work::Load, "bringing the model to the GPU", true);
        let control = self.control.clone();
        let started = prepared
            .start(gpu.clone(), setup, checkpoint.map(|checkpoint| (id, checkpoint)), &mut reporter.follow(&control))
            .await;
        drop(reporter);
        let mut run = started?;
        post(&Event::Started(Started {
            run: id.into(),
            step,
            total_steps,
            planned_bytes: plan.memory.total(),
            allocated_bytes: gpu.bytes(),
            config: decided.clone(),
            history,
            first_eval,
        }));
        let (ending, summary) = until_ended(&mut run, host, &control).await?;
        let mut adapter = None;
        if ending != Ending::Discarded {
            let tensors = run.result().await?;
            let base_model = job.files.location().to_string();
            let method = decided.method();
            let losses = summary.first_eval.zip(summary.last_eval).map(|(a, b)| (a.loss, b.loss));
            let trained = peft::Adapter { method, base_model, tensors };
            adapter = Some(self.shelf.add(self.shelf_name(&decided), trained, losses, Some(id.into())));
            if let Some(folder) = &mut host.folder {
                folder.note.finished = ending != Ending::Stopped;
                folder.note.step = summary.steps;
                if let Err(error) = folder.write_note().await {
                    report(&error, During::Storing);
                }
            }
        }
        let peak_bytes = gpu.peak_bytes();
        drop(run);
        self.shelf.tell();
        post(&Event::Finished(Finished {
            run: id.into(),
            how: ending,
            steps: summary.steps,
            loss: summary.loss,
            first_eval: summary.first_eval.map(|evaluated| evaluated.loss),
            last_eval: summary.last_eval.map(|evaluated| evaluated.loss),
            tokens: summary.tokens,
            seconds: summary.seconds,
            planned_bytes: plan.memory.total(),
            peak_bytes,
            adapter,
        }));
        Ok(Some(ending))
    }

    fn shelf_name(&self, config: &RunConfig) -> String {
        let data = self.data.as_ref().map_or("data", |data| data.name.as_str());
        let data = data.rsplit('/').next().unwrap_or(data).split('.').next().unwrap_or(data);
        let method = match config.method {
            MethodName::Lora => format!("LoRA r {}", config.rank),
            MethodName::Full => "full".into(),
        };
        format!("{data}, {method}")
    }
}

/// Trains until the run ends or the page ends it, holding it where the page asks for that.
async fn until_ended(run: &mut Run<'_>, host: &mut PageHost, control: &Control) -> Result<(Ending, Summary)> {
    let (mut tokens, mut seconds) = (0, 0.0);
    loop {
        let mut summary = run.run(host, &control.cancel).await?;
        tokens += summary.tokens;
        seconds += summary.seconds;
        (summary.tokens, summary.seconds) = (tokens, seconds);
        match summary.ending {
            run::Ending::Complete => return Ok((Ending::Complete, summary)),
            run::Ending::Early => return Ok((Ending::Early, summary)),
            run::Ending::Cancelled => {}
        }
        if control.wish() == Wish::Pause {
            post(&Event::Paused { step: summary.steps });
            while control.wish() == Wish::Pause {
                control.changed().await;
            }
        }
        match control.wish() {
            Wish::Discard => return Ok((Ending::Discarded, summary)),
            Wish::GoOn if !control.is_cancelled() => post(&Event::Continued),
            _ => return Ok((Ending::Stopped, summary)),
        }
    }
}
