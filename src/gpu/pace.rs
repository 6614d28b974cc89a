//! Keeps the queue short. What was submitted cannot be taken back: a run that can be stopped hands its work over bit by bit.

use std::collections::VecDeque;

use futures_channel::oneshot::{self, Receiver};

use super::{Gpu, Prepared};
use crate::platform::IN_BROWSER;
use crate::{Error, Result};

/// Submissions in the queue at a time: one runs while the next is encoded.
const IN_FLIGHT: usize = 2;

/// A submission that may still run.
struct InFlight {
    index: wgpu::SubmissionIndex,
    /// Sent when it has run; in a browser, where the index means nothing.
    done: Option<Receiver<()>>,
}

/// Submits work at the pace at which the device gets it done, for as long as `is_cancelled` says no.
pub struct Pace<'c> {
    is_cancelled: &'c dyn Fn() -> bool,
    in_flight: VecDeque<InFlight>,
}

impl<'c> Pace<'c> {
    /// Of work that ends when `is_cancelled` says so; it is asked before each submission.
    pub fn new(is_cancelled: &'c dyn Fn() -> bool) -> Pace<'c> {
        Pace { is_cancelled, in_flight: VecDeque::new() }
    }

    /// Submits dispatches in order once the queue is short. Errs with [`Error::Cancelled`] when the work was cancelled.
    pub async fn submit<'a>(&mut self, gpu: &Gpu, dispatches: impl IntoIterator<Item = &'a Prepared>) -> Result<()> {
        while self.in_flight.len() >= IN_FLIGHT
            && let Some(oldest) = self.in_flight.pop_front()
        {
            oldest.wait(gpu).await?;
        }
        self.check()?;
        let index = gpu.submit_at(&[], dispatches, &[])?;
        let done = IN_BROWSER.then(|| {
            let (send, receive) = oneshot::channel();
            gpu.queue.on_submitted_work_done(move || {
                let _ = send.send(());
            });
            receive
        });
        self.in_flight.push_back(InFlight { index, done });
        Ok(())
    }

    /// Errs with [`Error::Cancelled`] when the work was cancelled.
    pub fn check(&self) -> Result<()> {
        if (self.is_cancelled)() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

impl InFlight {
    /// Waits until it has run.
    async fn wait(self, gpu: &Gpu) -> Result<()> {
        let ran = match self.done {
            Some(done) => done.await.is_ok(),
            None => gpu.device.poll(wgpu::PollType::Wait { submission_index: Some(self.index), timeout: None }).is_ok(),
        };
        gpu.check()?;
        if ran { Ok(()) } else { Err(Error::DeviceLost("while waiting".into())) }
    }
}
