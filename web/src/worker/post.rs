//! Events to the page, and how far long work is.

use espalier::model::device::LoadProgress;
use espalier::platform::clock::{self, Instant};
use wasm_bindgen::JsCast;
use web_sys::{Blob, DedicatedWorkerGlobalScope};

use super::control::Control;
use crate::client::pack;
use crate::protocol::{Event, Progress, Work};

/// The worker's global scope.
pub fn scope() -> DedicatedWorkerGlobalScope {
    js_sys::global().unchecked_into()
}

/// Sends an event.
pub fn post(event: &Event) {
    post_with(event, &[]);
}

/// Sends an event and the files that belong to it.
pub fn post_with(event: &Event, files: &[Blob]) {
    // Plain data and blobs can always be cloned.
    let _ = scope().post_message(&pack(event, files));
}

/// Seconds between two reports of the same work.
const EVERY: f64 = 0.1;

/// Tells the page how far a piece of work is, a few times a second; when dropped, that it has ended.
pub struct Reporter {
    work: Work,
    what: String,
    bytes: bool,
    begun: Instant,
    first: Option<u64>,
    last: Option<Instant>,
}

impl Reporter {
    /// Begins a piece of work, counted in bytes or in things.
    pub fn new(work: Work, what: impl Into<String>, bytes: bool) -> Reporter {
        let mut reporter = Reporter { work, what: what.into(), bytes, begun: clock::now(), first: None, last: None };
        reporter.send(0, 0);
        reporter
    }

    /// `done` of `total` (0 where it is not known).
    pub fn set(&mut self, done: u64, total: u64) {
        let due = self.last.is_none_or(|last| last.elapsed().as_secs_f64() >= EVERY);
        if due || done == total {
            self.last = Some(clock::now());
            self.send(done, total);
        }
    }

    /// Follows a model on its way to the GPU; ends it where the page cancels.
    pub fn follow<'a>(&'a mut self, control: &'a Control) -> impl FnMut(LoadProgress) -> bool + 'a {
        |now| {
            self.set(now.done_bytes, now.total_bytes);
            !control.is_cancelled()
        }
    }

    fn send(&mut self, done: u64, total: u64) {
        // What was there before this piece of work began says nothing about its speed.
        let first = *self.first.get_or_insert(done);
        let seconds = self.begun.elapsed().as_secs_f64();
        let rate = if seconds > 0.0 { done.saturating_sub(first) as f64 / seconds } else { 0.0 };
        let left = (rate > 0.0 && total > 0 && seconds > 0.5).then(|| total.saturating_sub(done) as f64 / rate);
        let (work, what, bytes) = (self.work, self.what.clone(), self.bytes);
        post(&Event::Progress(Progress { work, what, done, total, bytes, rate, left }));
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        post(&Event::Idle { work: self.work });
    }
}
