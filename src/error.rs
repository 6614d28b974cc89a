//! The one error type of the library. Each variant says what was found, what was expected, and where.

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, in sentences a user can act on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write; `what` is a verb phrase such as `read /models/x.gguf`.
    #[error("cannot {what}: {source}")]
    Io { what: String, source: std::io::Error },

    /// A file is not what it claims to be: truncated, corrupt, hostile, or of another format.
    #[error("{file}: {problem}")]
    Malformed { file: String, problem: String },

    /// Weights that do not fit the model: every mismatch, not only the first.
    #[error("{file}: {} problem(s) with the weights:\n  {}", problems.len(), problems.join("\n  "))]
    Weights { file: String, problems: Vec<String> },

    /// Something the file or the user asks for that Espalier does not do; `supported` lists what it does.
    #[error("{what} is not supported; supported: {supported}")]
    Unsupported { what: String, supported: String },

    /// A choice of the run is out of range or unknown.
    #[error("{name} = {value}: {expected}")]
    Option { name: String, value: String, expected: String },

    /// A data set that cannot be trained on, with line numbers and counts.
    #[error("{file}: {problem}")]
    Data { file: String, problem: String },

    /// An op was given tensors that do not fit together: a bug in the caller.
    #[error("{op}: {problem}")]
    Shape { op: &'static str, problem: String },

    /// No usable GPU adapter.
    #[error("no usable GPU adapter: {found}. {remedy}")]
    NoAdapter { found: String, remedy: String },

    /// The work does not fit the device; `advice` names the change that makes it fit.
    #[error("{what} needs {needed_bytes} bytes, {available}. {advice}")]
    TooLarge { what: String, needed_bytes: u64, available: String, advice: String },

    /// The GPU ran out of memory while allocating.
    #[error("the GPU is out of memory ({0})")]
    OutOfMemory(String),

    /// The device was lost (sleep, driver reset, a dispatch that took too long).
    #[error("the GPU device was lost: {0}")]
    DeviceLost(String),

    /// The GPU reported an error that nobody was waiting for; the run stops.
    #[error("GPU error: {0}")]
    Gpu(String),

    /// The loss or the gradient is no longer a number.
    #[error("step {step}: {what} is not finite; {kept}")]
    NonFinite { step: u64, what: String, kept: String },

    /// The user asked to stop.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// For `map_err` on file operations: `fs::read(p).map_err(Error::io(format!("read {}", p.display())))`.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source }
    }

    /// A malformed file.
    pub fn malformed(file: impl Into<String>, problem: impl Into<String>) -> Error {
        Error::Malformed { file: file.into(), problem: problem.into() }
    }

    /// An op misused.
    pub fn shape(op: &'static str, problem: impl Into<String>) -> Error {
        Error::Shape { op, problem: problem.into() }
    }
}
