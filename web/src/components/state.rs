//! All that the page knows, as signals, and the line to the worker. Commands go out by [`State::send`]; what the worker answers
//! is folded in by `hear.rs`.

use std::time::Duration;

use espalier::train::RunConfig;
use leptos::leptos_dom::helpers::TimeoutHandle;
use leptos::prelude::*;
use web_sys::Blob;

use super::draft::Draft;
use super::live::Live;
use super::run_view::{Phase, RunView};
use super::steps::Step;
use super::talk::Talk;
use crate::client::Client;
use crate::protocol::{
    Action, Adapter, Command, Comparison, Data, DataSource, Device, Failure, FailureKind, Model, ModelChoice, Plan,
    Progress, Storage, Stored, Work,
};

/// The script that starts the worker.
const WORKER: &str = "./worker_loader.js";
/// How long choices may still change before their cost is asked for.
const SETTLE: Duration = Duration::from_millis(150);
/// A worker that breaks down this often is not started again.
const MAX_RESTARTS: u32 = 5;
/// The share of the examples that the page holds out where nobody said otherwise.
const HELD_OUT: f64 = 0.1;

/// What is known of the GPU.
#[derive(Clone, Debug, PartialEq)]
pub enum Gpu {
    /// The browser has not answered yet.
    Asking,
    /// The browser has one; the worker opens it.
    Found,
    Open(Device),
    Missing(NoGpu),
}

/// Why there is no GPU to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoGpu {
    /// Pages that came over an unsafe line do not get one.
    Insecure,
    /// The browser does not know WebGPU, or has it switched off.
    NoApi,
    /// The browser knows WebGPU and has no adapter to offer.
    NoAdapter,
}

/// What a trial of two steps measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trial {
    pub seconds_per_step: f64,
    pub tokens_per_s: f64,
    pub allocated_bytes: u64,
}

/// All signals of the page. Copies are the same state.
#[derive(Clone, Copy)]
pub struct State {
    pub step: RwSignal<Step>,
    /// The worker runs.
    pub ready: RwSignal<bool>,
    pub gpu: RwSignal<Gpu>,
    /// What the probe found: bytes, and whether the GPU would give no more.
    pub capacity: RwSignal<Option<(u64, bool)>>,
    /// Long work that goes on.
    pub work: RwSignal<Vec<Progress>>,
    pub model: RwSignal<Option<Model>>,
    /// Where the loaded model came from.
    pub choice: RwSignal<Option<ModelChoice>>,
    pub data: RwSignal<Option<Data>>,
    /// The name of the data that was given, also while there is no model to encode it.
    pub source: RwSignal<Option<String>>,
    pub config: RwSignal<RunConfig>,
    /// What `config` costs; of older choices while `planning`.
    pub plan: RwSignal<Option<Plan>>,
    pub planning: RwSignal<bool>,
    pub trial: RwSignal<Option<Trial>>,
    pub run: RunView,
    pub adapters: RwSignal<Vec<Adapter>>,
    pub talk: Talk,
    pub comparison: RwSignal<Option<Comparison>>,
    pub storage: RwSignal<Option<Storage>>,
    pub persist_asked: RwSignal<bool>,
    /// Newest last.
    pub failures: RwSignal<Vec<Failure>>,
    pub notices: RwSignal<Vec<String>>,
    pub live: Live,
    pub draft: Draft,
    pub(super) line: StoredValue<Line, LocalStorage>,
}

/// The line to the worker, and what is needed to take it up again.
#[derive(Default)]
pub(super) struct Line {
    pub client: Option<Client>,
    /// Commands given before the worker was ready.
    pub waiting: Vec<(Command, Vec<Blob>)>,
    /// The data that was given, to be encoded for another model, too.
    pub source: Option<(DataSource, Vec<Blob>)>,
    /// The model that is being loaded.
    pub asked_model: Option<ModelChoice>,
    /// The newest command that can be tried again.
    pub last: Option<(Command, Vec<Blob>)>,
    /// The choices before anyone changed one.
    pub baseline: RunConfig,
    /// The choices came from a link, a file or a run: no model's preset replaces them.
    pub settled: bool,
    pub restarts: u32,
    pub timer: Option<TimeoutHandle>,
}

impl State {
    pub fn new() -> State {
        let config = RunConfig { eval_fraction: HELD_OUT, ..RunConfig::default() };
        State {
            step: RwSignal::new(Step::Load),
            ready: RwSignal::new(false),
            gpu: RwSignal::new(Gpu::Asking),
            capacity: RwSignal::new(None),
            work: RwSignal::new(vec![]),
            model: RwSignal::new(None),
            choice: RwSignal::new(None),
            data: RwSignal::new(None),
            source: RwSignal::new(None),
            config: RwSignal::new(config),
            plan: RwSignal::new(None),
            planning: RwSignal::new(false),
            trial: RwSignal::new(None),
            run: RunView::new(),
            adapters: RwSignal::new(vec![]),
            talk: Talk::new(),
            comparison: RwSignal::new(None),
            storage: RwSignal::new(None),
            persist_asked: RwSignal::new(false),
            failures: RwSignal::new(vec![]),
            notices: RwSignal::new(vec![]),
            live: Live::new(),
            draft: Draft::new(),
            line: StoredValue::new_local(Line::default()),
        }
    }

    /// The page's state, from anywhere inside the page.
    pub fn here() -> State {
        expect_context()
    }

    /// Starts the worker; what was sent before it is ready waits.
    pub fn start_worker(self) {
        let heard = move |event, files| self.hear(event, files);
        let client = Client::start(WORKER, heard, move || self.died());
        match client {
            Ok(client) => self.line.update_value(|line| line.client = Some(client)),
            Err(_) => self.died(),
        }
    }

    /// Sends a command without files.
    pub fn send(self, command: Command) {
        self.send_with(command, vec![]);
    }

    /// Sends a command and the files that belong to it.
    pub fn send_with(self, command: Command, files: Vec<Blob>) {
        self.before(&command);
        let ready = self.ready.get_untracked();
        self.line.update_value(|line| {
            if repeatable(&command) {
                line.last = Some((command.clone(), files.clone()));
            }
            if let Command::SetData { source, .. } = &command {
                line.source = Some((source.clone(), files.clone()));
            }
            match &line.client {
                Some(client) if ready => client.send(&command, &files),
                _ => line.waiting.push((command, files)),
            }
        });
    }

    /// What can be shown at once, before the worker answers.
    fn before(self, command: &Command) {
        let begin = |work, what: &str| {
            let what = what.to_string();
            self.progress(Progress { work, what, done: 0, total: 0, bytes: false, rate: 0.0, left: None });
        };
        match command {
            Command::Open { .. } => begin(Work::Open, "Opening the GPU"),
            Command::Probe => begin(Work::Probe, "Trying how much memory the GPU gives"),
            Command::LoadModel { model, .. } => {
                begin(Work::Download, "Asking for the model");
                self.line.update_value(|line| line.asked_model = Some(model.clone()));
            }
            Command::SetData { .. } => begin(Work::Encode, "Reading the data"),
            Command::Trial { .. } => begin(Work::Trial, "Making two steps"),
            Command::Train { .. } | Command::Resume { .. } => {
                if matches!(command, Command::Resume { .. }) {
                    // The run brings its model itself; only the worker knows where from.
                    self.line.update_value(|line| line.asked_model = None);
                }
                begin(Work::Train, "Getting ready to train");
                self.run.phase.set(Phase::Starting);
            }
            Command::Pause => self.run.phase.set(Phase::Pausing),
            Command::Stop | Command::Discard => self.run.phase.set(Phase::Ending),
            Command::Compare { .. } => begin(Work::Compare, "Reading the held-out data with both"),
            Command::Export { .. } => begin(Work::Export, "Making the file"),
            Command::Configure { .. } => self.planning.set(true),
            _ => {}
        }
    }

    /// Long work is this far.
    pub(super) fn progress(self, progress: Progress) {
        self.work.update(|work| match work.iter_mut().find(|p| p.work == progress.work) {
            Some(place) => *place = progress,
            None => work.push(progress),
        });
    }

    /// The work has ended.
    pub(super) fn idle(self, ended: Work) {
        self.work.update(|work| work.retain(|p| p.work != ended));
    }

    /// Whether work of this kind goes on.
    pub fn is_at(self, kind: Work) -> bool {
        self.work.with(|work| work.iter().any(|p| p.work == kind))
    }

    /// Changes the choices of the run.
    pub fn choose(self, change: impl FnOnce(&mut RunConfig)) {
        self.config.update(change);
    }

    /// Takes choices from elsewhere: a link, a file, a run.
    pub fn settle(self, config: RunConfig) {
        self.line.update_value(|line| line.settled = true);
        self.config.set(config);
    }

    /// Asks what the choices cost, once they have not changed for a moment.
    pub fn configure_soon(self) {
        self.line.update_value(|line| {
            if let Some(timer) = line.timer.take() {
                timer.clear();
            }
        });
        let ask = move || {
            let config = self.config.get_untracked();
            if self.model.with_untracked(Option::is_some) && !self.is_training() && config.validate().is_ok() {
                self.send(Command::Configure { config });
            }
        };
        if let Ok(timer) = set_timeout_with_handle(ask, SETTLE) {
            self.line.update_value(|line| line.timer = Some(timer));
        }
    }

    /// Whether a run is under way, without following it.
    pub fn is_training(self) -> bool {
        self.run.phase.get_untracked().is_live()
    }

    /// Gives a data set: encoded now, or as soon as there is a model.
    pub fn give_data(self, source: DataSource, name: String, files: Vec<Blob>) {
        self.source.set(Some(name));
        self.data.set(None);
        if self.model.with_untracked(Option::is_some) {
            self.send_with(Command::SetData { source, config: self.config.get_untracked() }, files);
        } else {
            self.line.update_value(|line| line.source = Some((source, files)));
            self.live.say("The data is here. It is read as soon as a model is loaded.");
        }
    }

    /// Goes to a step: the address changes, and the page follows it.
    pub fn go(self, step: Step) {
        let _ = window().location().set_hash(step.slug());
    }

    /// Does the one thing that a failure offers, and puts the failure away.
    pub fn act(self, failure: &Failure) {
        self.dismiss(failure);
        match failure.action {
            Some(Action::ChooseModel) => self.go(Step::Load),
            Some(Action::ChooseData) => self.go(Step::Data),
            Some(Action::ChooseMethod) => self.go(Step::Method),
            Some(Action::FreeStorage) => {
                self.go(Step::Load);
                self.send(Command::Storage);
            }
            Some(Action::Reload) => {
                let _ = window().location().reload();
            }
            Some(Action::Resume) => {
                if failure.kind == FailureKind::DeviceLost {
                    self.open();
                }
                if let Some(run) = self.resumable() {
                    self.resume(run);
                }
            }
            Some(Action::Retry) => {
                if matches!(failure.kind, FailureKind::NoGpu | FailureKind::DeviceLost) {
                    self.open();
                }
                if let Some((command, files)) = self.line.with_value(|line| line.last.clone()) {
                    self.send_with(command, files);
                }
            }
            None => {}
        }
    }

    /// Puts a failure away.
    pub fn dismiss(self, failure: &Failure) {
        self.failures.update(|failures| failures.retain(|f| f != failure));
    }

    /// Opens the GPU with the budget of the settings.
    pub fn open(self) {
        let budget = self.draft.budget_mb.get_untracked();
        self.send(Command::Open { budget_bytes: budget.map(|mb| (mb * 1e6) as u64) });
    }

    /// The run that would be resumed: the present one, else the newest that has not ended.
    pub fn resumable(self) -> Option<String> {
        let present = self.run.started.with_untracked(|started| started.as_ref().map(|s| s.run.clone()));
        let newest = || {
            self.storage.with_untracked(|storage| {
                let runs = storage.iter().flat_map(|s| &s.runs).filter(|run| !run.finished);
                runs.max_by_key(|run| run.when).map(|run| run.id.clone())
            })
        };
        present.or_else(newest)
    }

    /// Goes on with a run, and shows it.
    pub fn resume(self, run: String) {
        self.send(Command::Resume { run });
        self.go(Step::Train);
    }

    /// Deletes something that is stored.
    pub fn delete(self, what: Stored) {
        self.send(Command::Delete { what });
    }
}

impl Default for State {
    fn default() -> State {
        State::new()
    }
}

/// Whether it makes sense to give this command again after it failed.
fn repeatable(command: &Command) -> bool {
    use Command::{AddAdapter, Compare, Export, LoadModel, Probe, Resume, SetData, Train, Trial};
    matches!(
        command,
        Probe
            | LoadModel { .. }
            | SetData { .. }
            | Trial { .. }
            | Train { .. }
            | Resume { .. }
            | Compare { .. }
            | AddAdapter
            | Export { .. }
    )
}

/// Whether the worker may be started once more.
pub(super) fn may_restart(line: &mut Line) -> bool {
    line.restarts += 1;
    line.restarts <= MAX_RESTARTS
}
