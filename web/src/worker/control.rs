//! What the page wants of the work that goes on: set as soon as a message arrives, looked at by the work between two pieces.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, Ordering};

use espalier::gpu::Gpu;
use futures_channel::oneshot;

use crate::protocol::{Command, Fault};

/// What shall become of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    GoOn,
    Pause,
    Stop,
    Discard,
}

/// Flags shared by the receiver of messages and the work.
pub struct Control {
    /// Ends or holds the present work at its next opportunity.
    pub cancel: AtomicBool,
    wish: Cell<Wish>,
    strength: Cell<f32>,
    full_storage: Cell<bool>,
    gpu: RefCell<Option<std::rc::Rc<Gpu>>>,
    waiting: RefCell<Option<oneshot::Sender<()>>>,
}

impl Default for Control {
    fn default() -> Control {
        Control {
            cancel: AtomicBool::new(false),
            wish: Cell::new(Wish::GoOn),
            strength: Cell::new(1.0),
            full_storage: Cell::new(false),
            gpu: RefCell::default(),
            waiting: RefCell::default(),
        }
    }
}

impl Control {
    /// Obeys an urgent command.
    pub fn obey(&self, command: &Command) {
        match command {
            Command::Pause => self.wants(Wish::Pause),
            Command::Continue => self.wants(Wish::GoOn),
            Command::Stop => self.wants(Wish::Stop),
            Command::Discard => self.wants(Wish::Discard),
            Command::Cancel => self.cancel.store(true, Ordering::Relaxed),
            Command::Strength { strength } => self.strength.set(*strength),
            Command::Fault { fault: Fault::LoseDevice } => {
                if let Some(gpu) = &*self.gpu.borrow() {
                    gpu.lose();
                }
            }
            Command::Fault { fault: Fault::FullStorage } => self.full_storage.set(true),
            Command::Fault { fault: Fault::Panic } => panic!("asked to"),
            _ => {}
        }
        if let Some(waiting) = self.waiting.borrow_mut().take() {
            // Whoever waited may have gone.
            let _ = waiting.send(());
        }
    }

    fn wants(&self, wish: Wish) {
        self.wish.set(wish);
        self.cancel.store(wish != Wish::GoOn, Ordering::Relaxed);
    }

    /// Forgets earlier wishes: new work begins.
    pub fn begin(&self) {
        self.wants(Wish::GoOn);
    }

    /// What shall become of the run.
    pub fn wish(&self) -> Wish {
        self.wish.get()
    }

    /// Whether the present work shall end.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// The adapter's strength that the page shows.
    pub fn strength(&self) -> f32 {
        self.strength.get()
    }

    /// Sets the strength with which an answer begins.
    pub fn set_strength(&self, strength: f32) {
        self.strength.set(strength);
    }

    /// The GPU that a fault would destroy.
    pub fn set_gpu(&self, gpu: Option<std::rc::Rc<Gpu>>) {
        *self.gpu.borrow_mut() = gpu;
    }

    /// Whether the storage shall pretend to be full, once.
    pub fn take_full_storage(&self) -> bool {
        self.full_storage.take()
    }

    /// Waits for the next urgent command.
    pub async fn changed(&self) {
        let (sender, receiver) = oneshot::channel();
        *self.waiting.borrow_mut() = Some(sender);
        // Replaced by another waiter: there is none, work is done one piece at a time.
        let _ = receiver.await;
    }
}
