//! Errors of the core as the page shows them: what happened in plain words, and the one thing to do about it.

use espalier::Error;

use crate::protocol::{Action, Event, Failure, FailureKind};

use super::post::post;

/// What was being done when an error came up: it decides what can be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum During {
    Opening,
    Loading,
    Data,
    Choosing,
    Training,
    Answering,
    Storing,
}

/// Shows an error on the page. A cancelled piece of work is none.
pub fn report(error: &Error, during: During) {
    if !matches!(error, Error::Cancelled) {
        post(&Event::Failure(failure(error, during)));
    }
}

/// An error in the page's words.
pub fn failure(error: &Error, during: During) -> Failure {
    use {Action as A, FailureKind as K};
    let by_stage = match during {
        During::Loading | During::Opening => A::ChooseModel,
        During::Data => A::ChooseData,
        During::Choosing => A::ChooseMethod,
        During::Training => A::Resume,
        During::Answering => A::Retry,
        During::Storing => A::FreeStorage,
    };
    let mut detail = vec![];
    let (kind, message, action) = match error {
        Error::NoAdapter { found, .. } => (
            K::NoGpu,
            format!("This browser gives no GPU to the page ({found}). Everything that needs none still works."),
            A::Retry,
        ),
        Error::OutOfMemory(what) => (
            K::OutOfMemory,
            format!(
                "The GPU has no more memory ({what}). Nothing was lost: choose a smaller batch, a shorter context or a smaller model."
            ),
            if during == During::Loading { A::ChooseModel } else { A::ChooseMethod },
        ),
        Error::TooLarge { .. } => (
            K::OutOfMemory,
            format!("This does not fit on the GPU: {error}"),
            if during == During::Loading { A::ChooseModel } else { A::ChooseMethod },
        ),
        Error::DeviceLost(why) => (
            K::DeviceLost,
            format!("The GPU was taken away ({why}): the computer slept, or its driver started anew."),
            if during == During::Training { A::Resume } else { A::Retry },
        ),
        Error::NonFinite { step, what, kept } => (
            K::NotANumber,
            format!("In step {step}, {what} was no longer a number, so training stopped; {kept}."),
            A::ChooseMethod,
        ),
        Error::Io { what, source } if source.kind() == std::io::ErrorKind::StorageFull => (
            K::FullStorage,
            format!("This browser's storage is full: could not {what}. What was stored before is still there."),
            A::FreeStorage,
        ),
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotConnected => {
            (K::Network, error.to_string(), A::Retry)
        }
        Error::Io { .. } => (if during == During::Data { K::Data } else { K::Model }, error.to_string(), by_stage),
        Error::Weights { file, problems } => {
            detail = problems.clone();
            (
                K::Model,
                format!(
                    "{file} does not fit this model: {} tensors are missing or have another shape.",
                    problems.len()
                ),
                by_stage,
            )
        }
        Error::Data { .. } => (K::Data, error.to_string(), A::ChooseData),
        Error::Malformed { .. } | Error::Unsupported { .. } => {
            (if during == During::Data { K::Data } else { K::Model }, error.to_string(), by_stage)
        }
        Error::Option { .. } => (K::Choice, error.to_string(), by_stage),
        _ => (K::Internal, format!("Something went wrong inside Espalier: {error}"), A::Reload),
    };
    Failure { kind, message, detail, action: Some(action) }
}
