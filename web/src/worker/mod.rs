//! The worker: holds the GPU, the model, the data and the run, and does what the page's commands say, one after the other.
//! Urgent ones ([`Command::is_urgent`]) reach the work in progress through [`control::Control`].

mod adapters;
mod chat;
mod control;
mod data;
mod download;
mod exports;
mod failure;
mod files;
mod library;
mod models;
mod plan;
mod post;
mod runs;
mod session;
mod store;
mod training;

use std::rc::Rc;

use espalier::platform::spawn_local;
use futures_channel::mpsc;
use futures_util::StreamExt;
use wasm_bindgen::prelude::*;
use web_sys::{Blob, MessageEvent};

use crate::client::unpack;
use crate::protocol::{Action, Command, Event, Failure, FailureKind};
use control::Control;
use post::{post, scope};
use session::Session;

/// Listens to the page, for as long as the worker lives.
pub fn start() {
    std::panic::set_hook(Box::new(|panic| {
        console_error_panic_hook::hook(panic);
        let message = "Espalier's worker broke down. What was stored is safe: load the page again to go on.".into();
        let detail = vec![panic.to_string()];
        post(&Event::Failure(Failure { kind: FailureKind::Internal, message, detail, action: Some(Action::Reload) }));
    }));
    let control = Rc::new(Control::default());
    let (sender, mut commands) = mpsc::unbounded::<(Command, Vec<Blob>)>();
    let obeyed = control.clone();
    let heard = Closure::<dyn FnMut(MessageEvent)>::new(move |message: MessageEvent| {
        let Some((command, files)) = unpack::<Command>(&message.data()) else { return };
        if command.is_urgent() {
            obeyed.obey(&command);
        } else {
            // The receiver lives as long as the worker.
            let _ = sender.unbounded_send((command, files));
        }
    });
    scope().set_onmessage(Some(heard.as_ref().unchecked_ref()));
    heard.forget();
    post(&Event::Ready);
    spawn_local(async move {
        let mut session = Session::new(control);
        let mut next = commands.next().await;
        while let Some((command, files)) = next.take() {
            // Of several choices in a row only the last matters: a slider sends many.
            let newer = commands.try_recv().ok();
            let outdated =
                matches!((&command, &newer), (Command::Configure { .. }, Some((Command::Configure { .. }, _))));
            if !outdated {
                session.handle(command, files).await;
            }
            next = match newer {
                Some(newer) => Some(newer),
                None => commands.next().await,
            };
        }
    });
}
