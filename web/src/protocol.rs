//! What the page and its worker say to each other: plain data, sent by structured clone. Files travel beside a message, not in it.
//!
//! The worker handles one piece of long work at a time (loading, encoding, training, answering) and says how far it is;
//! [`Command::is_urgent`] ones are obeyed in the middle of it.

use espalier::data::DataReport;
use espalier::generate::Sampling;
use espalier::graph::Category;
use espalier::train::{Evaluated, RunConfig, StepMetrics};
use serde::{Deserialize, Serialize};

/// A message to the worker. Dropped files that belong to it lie beside it in the envelope.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Opens the GPU and looks at the storage. First of all commands, and again after the device was lost.
    Open {
        /// Most bytes that may be allocated on the GPU; the adapter's own limit where absent
        budget_bytes: Option<u64>,
    },
    /// Finds out how much memory the GPU gives, by allocating and freeing it.
    Probe,
    /// Loads a model (its files; the GPU is filled when it is needed).
    LoadModel { model: ModelChoice, keep_copy: bool },
    /// Takes a data set: text, or the files beside the message.
    SetData { source: DataSource, config: RunConfig },
    /// Counts what these choices cost, and encodes the data anew where they ask for it.
    Configure { config: RunConfig },
    /// Makes two steps of a run, to see how fast it goes. Nothing of it is kept.
    Trial { config: RunConfig },
    /// Trains.
    Train { config: RunConfig },
    /// Goes on with a run from its checkpoint; brings back its model, data and choices.
    Resume { run: String },
    /// Holds training after the present micro-batch; the state stays on the GPU.
    Pause,
    /// Goes on after [`Command::Pause`].
    Continue,
    /// Ends training and keeps what was trained.
    Stop,
    /// Ends training and forgets what was trained.
    Discard,
    /// Answers a conversation.
    Ask { turn: u32, messages: Vec<Turn>, sampling: Sampling, side: Side, strength: f32 },
    /// Changes the adapter's strength, also in the middle of an answer.
    Strength { strength: f32 },
    /// Compares base and adapter on the held-out data (else on the training data), token by token on one example.
    Compare { adapter: u32, example: usize },
    /// Takes an adapter from the files beside the message: a PEFT folder, or a zip file of one.
    AddAdapter,
    /// Makes a file to be saved.
    Export { what: Export },
    /// Ends the present long work: loading, encoding, answering, comparing.
    Cancel,
    /// Lists what is kept in this browser.
    Storage,
    /// Asks the browser not to throw the storage away by itself.
    Persist,
    /// Deletes a stored model or run, or everything.
    Delete { what: Stored },
    /// Breaks something on purpose, to see the page deal with it.
    Fault { fault: Fault },
}

impl Command {
    /// Whether this is obeyed while other work goes on.
    pub fn is_urgent(&self) -> bool {
        use Command::{Cancel, Continue, Discard, Fault, Pause, Stop, Strength};
        matches!(self, Pause | Continue | Stop | Discard | Cancel | Strength { .. } | Fault { .. })
    }
}

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum ModelChoice {
    /// The small model that comes with the page.
    Seedling,
    /// SmolLM2-135M-Instruct, served beside the page.
    Served,
    /// Kept in this browser by an earlier visit.
    Stored { id: String },
    /// `owner/name[@revision][:file.gguf]` on a hub at `endpoint`.
    Hub { id: String, endpoint: String },
    /// The files beside the message: one GGUF file, or those of a Hugging Face folder.
    Files,
}

/// Where a data set comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum DataSource {
    /// Text that was pasted, or a sample.
    Text { name: String, text: String },
    /// The file beside the message.
    File,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// `system`, `user` or `assistant`
    pub role: String,
    pub content: String,
}

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    Base,
    /// The base with this adapter of [`Event::Adapters`].
    Adapter(u32),
}

/// A file to be saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "export", rename_all = "snake_case")]
pub enum Export {
    /// `adapter_config.json` and `adapter_model.safetensors` in a zip file.
    Peft { adapter: u32 },
    /// A Hugging Face folder with the adapter merged in, as a zip file.
    Merged { adapter: u32 },
    /// The checkpoint of a run, which the native build reads, too.
    Checkpoint { run: String },
    /// The steps of a run, one line of JSON a step.
    Metrics { run: String },
}

/// What is kept in this browser.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stored", rename_all = "snake_case")]
pub enum Stored {
    Model { id: String },
    Run { id: String },
    Everything,
}

/// What to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// `device.destroy()`
    LoseDevice,
    /// Storage refuses the next write.
    FullStorage,
    /// The worker dies.
    Panic,
}

/// A message to the page. Its file, where it has one, lies beside it in the envelope.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "made, sent and read one at a time")]
pub enum Event {
    /// The worker runs; commands are heard.
    Ready,
    /// The GPU is open.
    Device(Device),
    /// What [`Command::Probe`] found: this many bytes were allocated at once; `all` if the GPU would give no more.
    Capacity {
        bytes: u64,
        all: bool,
    },
    /// Long work has come this far.
    Progress(Progress),
    /// The work of this kind has ended, also where it was cancelled.
    Idle {
        work: Work,
    },
    /// A model is loaded.
    Model(Model),
    /// A data set is encoded.
    Data(Data),
    /// What the choices of [`Command::Configure`] cost.
    Plan(Plan),
    /// What [`Command::Trial`] measured.
    Trial {
        seconds_per_step: f64,
        tokens_per_s: f64,
        allocated_bytes: u64,
    },
    /// Training begins or goes on at `step`.
    Started(Started),
    Step(StepMetrics),
    Evaluated {
        evaluated: Evaluated,
        best: bool,
    },
    /// The fixed prompt was answered after `step` steps.
    Sample {
        step: u64,
        text: String,
    },
    /// A checkpoint is in the storage.
    Kept {
        step: u64,
    },
    /// Training is held, with the state on the GPU.
    Paused {
        step: u64,
    },
    /// Training goes on.
    Continued,
    /// Training has ended.
    Finished(Finished),
    /// All adapters at hand; the first place is the oldest.
    Adapters {
        adapters: Vec<Adapter>,
    },
    /// A piece of the answer to `turn`.
    Token {
        turn: u32,
        text: String,
    },
    /// An answer is complete.
    Answered {
        turn: u32,
        tokens: u32,
        seconds: f64,
    },
    Comparison(Comparison),
    /// The file that lies beside this message is ready to be saved.
    File {
        name: String,
        bytes: u64,
    },
    Storage(Storage),
    /// Something went wrong; stays on the page until it is dealt with.
    Failure(Failure),
    /// Worth telling, nothing to do: the run went on after the device was lost, say.
    Notice {
        text: String,
    },
}

/// An open GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    pub name: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`
    pub kind: String,
    pub max_buffer_bytes: u64,
    pub max_binding_bytes: u64,
    pub f16: bool,
    pub budget_bytes: Option<u64>,
    /// A reason why only small models should be tried here.
    pub small: Option<String>,
}

/// Kinds of long work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Opening the GPU.
    Open,
    /// Bringing a model's files here.
    Download,
    /// Checking files, bringing weights to the GPU.
    Load,
    Probe,
    Encode,
    Trial,
    Train,
    Answer,
    Compare,
    Export,
}

/// How far long work is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub work: Work,
    /// What is being done, in a few plain words.
    pub what: String,
    pub done: u64,
    /// 0 where it is not known
    pub total: u64,
    /// `done` and `total` are bytes (else they are counts)
    pub bytes: bool,
    /// Of `done`, a second
    pub rate: f64,
    /// Seconds, where the total is known and some time has passed
    pub left: Option<f64>,
}

/// A loaded model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// For people: `SmolLM2-135M-Instruct`
    pub name: String,
    /// `llama`
    pub family: String,
    pub parameters: u64,
    pub layers: usize,
    pub hidden_size: usize,
    pub vocab_size: usize,
    /// Longest context, tokens
    pub context: usize,
    /// Bytes of its files
    pub bytes: u64,
    /// Stored as, with the number of tensors: `Q8_0 x 40`
    pub dtypes: Vec<(String, usize)>,
    /// Whether it knows chats: where it does not, they are written as ChatML
    pub chat_template: bool,
    /// The choices that suit it best on this device, on which the Method step starts
    pub preset: RunConfig,
}

/// An encoded data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Data {
    pub report: DataReport,
    /// The report's sentences, as the command line prints them.
    pub sentences: String,
    pub train_examples: usize,
    pub held_out_examples: usize,
    /// The first examples, token by token
    pub examples: Vec<Vec<Token>>,
    /// Examples by length: (up to this many tokens, count)
    pub lengths: Vec<(usize, usize)>,
}

/// A token as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    pub id: u32,
    pub text: String,
    /// Whether it is learned.
    pub learned: bool,
}

/// What a run costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The choices, with those that the model or the method made.
    pub config: RunConfig,
    pub trained_parameters: u64,
    pub total_parameters: u64,
    /// Bytes by category, in the order in which they are drawn
    pub memory: Vec<(Category, u64)>,
    pub total_bytes: u64,
    /// Bytes of the saved result
    pub result_bytes: u64,
    /// Optimizer steps
    pub steps: u64,
    pub peak_lr: f64,
    /// Floating-point operations of an optimizer step
    pub step_flops: f64,
    pub fit: Fit,
    /// The change that makes it fit, in words, and the choices with it.
    pub remedy: Option<(String, RunConfig)>,
    /// Why the run may not start: nothing to train on, a value out of range.
    pub blocked: Option<String>,
}

/// Whether a run fits on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    Fits,
    Tight,
    DoesNot,
    /// Not probed yet.
    Unknown,
}

/// The beginning of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// Its name in the storage
    pub run: String,
    pub step: u64,
    pub total_steps: u64,
    pub planned_bytes: u64,
    pub allocated_bytes: u64,
    pub config: RunConfig,
    /// The steps made before, after a resume.
    pub history: Vec<StepMetrics>,
    pub first_eval: Option<Evaluated>,
}

/// The end of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    pub run: String,
    pub how: Ending,
    pub steps: u64,
    pub loss: Option<f64>,
    pub first_eval: Option<f64>,
    pub last_eval: Option<f64>,
    pub tokens: u64,
    pub seconds: f64,
    pub planned_bytes: u64,
    pub peak_bytes: u64,
    /// What was trained, among [`Event::Adapters`].
    pub adapter: Option<u32>,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    Complete,
    Early,
    Stopped,
    Discarded,
}

/// An adapter at hand.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Adapter {
    pub id: u32,
    pub name: String,
    /// `LoRA, rank 16`
    pub method: String,
    pub parameters: u64,
    /// Bytes of its file
    pub bytes: u64,
    /// Held-out losses before and after its run, nats a token
    pub losses: Option<(f64, f64)>,
    /// The run that made it.
    pub run: Option<String>,
    /// Whether it can be merged into the model
    pub merges: bool,
}

/// Base and adapter on the same tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    pub adapter: u32,
    /// Held-out data, or the training data where none is held out
    pub held_out: bool,
    /// Mean loss of a learned token, nats
    pub base: f64,
    pub tuned: f64,
    /// Learned tokens
    pub tokens: u64,
    /// The example shown, and how many there are
    pub example: usize,
    pub examples: usize,
    /// (token, its loss under the base, under the adapter); losses are absent where the token is not learned
    pub detail: Vec<(Token, Option<(f32, f32)>)>,
}

/// What is kept in this browser, bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Storage {
    pub used: u64,
    pub quota: u64,
    /// Whether the browser promised to keep it.
    pub persistent: bool,
    pub models: Vec<StoredModel>,
    pub runs: Vec<StoredRun>,
}

/// A model in the storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredModel {
    pub id: String,
    pub name: String,
    pub bytes: u64,
    /// False where the download was interrupted: loading it goes on.
    pub complete: bool,
}

/// A run in the storage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredRun {
    pub id: String,
    pub model: String,
    pub data: String,
    pub method: String,
    pub step: u64,
    pub total_steps: u64,
    pub bytes: u64,
    /// Seconds since 1970 of its newest checkpoint
    pub when: u64,
    /// It ended by itself or was stopped: nothing is left to be resumed
    pub finished: bool,
}

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: FailureKind,
    /// One plain sentence: what happened, and what it means
    pub message: String,
    /// Further lines: every mismatch of a malformed file, say
    pub detail: Vec<String>,
    /// The one thing to do.
    pub action: Option<Action>,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    NoGpu,
    OutOfMemory,
    DeviceLost,
    NotANumber,
    FullStorage,
    Network,
    Model,
    Data,
    Choice,
    /// A bug of ours.
    Internal,
}

/// What can be done about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Go on from the newest checkpoint.
    Resume,
    /// Go to the step where something else can be chosen.
    ChooseModel,
    ChooseData,
    ChooseMethod,
    /// Look at what is stored, to make room.
    FreeStorage,
    /// Load the page again.
    Reload,
    /// Try the same again.
    Retry,
}
