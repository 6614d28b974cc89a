//! Both ends of the line between page and worker. A message is an object `{ message, files }`: `message` is plain data
//! ([`protocol`](crate::protocol)), `files` an array of `File`s or `Blob`s, which are handed over without being read.

use js_sys::{Array, Object, Reflect};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wasm_bindgen::prelude::*;
use web_sys::{Blob, MessageEvent, Worker, WorkerOptions, WorkerType};

use crate::protocol::{Command, Event};

/// Wraps `message` and `files` as they are posted.
///
/// # Panics
/// If `message` cannot be made a JavaScript value; plain data always can.
pub fn pack<T: Serialize>(message: &T, files: &[Blob]) -> JsValue {
    // Maps as objects and whole numbers as numbers: what structured clone and a reader in the console both like.
    let serializer = serde_wasm_bindgen::Serializer::new().serialize_maps_as_objects(true);
    let message = message.serialize(&serializer).expect("plain data is a JavaScript value");
    let envelope = Object::new();
    let set = |name: &str, value: &JsValue| Reflect::set(&envelope, &name.into(), value);
    // A property of a new plain object can be set.
    let _ = set("message", &message);
    let _ = set("files", &files.iter().collect::<Array>());
    envelope.into()
}

/// The message and the files of an envelope; `None` for what is none.
pub fn unpack<T: DeserializeOwned>(envelope: &JsValue) -> Option<(T, Vec<Blob>)> {
    let get = |name: &str| Reflect::get(envelope, &name.into()).ok();
    let message = serde_wasm_bindgen::from_value(get("message")?).ok()?;
    let files = get("files").map(|files| Array::from(&files)).unwrap_or_default();
    Some((message, files.iter().filter_map(|file| file.dyn_into().ok()).collect()))
}

/// The page's end: a worker, and what is called with each of its events.
pub struct Client {
    worker: Worker,
    _heard: Closure<dyn FnMut(MessageEvent)>,
    _died: Closure<dyn FnMut(web_sys::Event)>,
}

impl Client {
    /// Starts the worker from `script`. `hear` gets its events; `die` is called where the worker cannot start or breaks down.
    pub fn start(
        script: &str,
        mut hear: impl FnMut(Event, Vec<Blob>) + 'static,
        mut die: impl FnMut() + 'static,
    ) -> Result<Client, JsValue> {
        let options = WorkerOptions::new();
        options.set_type(WorkerType::Module);
        let worker = Worker::new_with_options(script, &options)?;
        let heard = Closure::new(move |event: MessageEvent| {
            if let Some((event, files)) = unpack(&event.data()) {
                hear(event, files);
            }
        });
        let died = Closure::new(move |_| die());
        worker.set_onmessage(Some(heard.as_ref().unchecked_ref()));
        worker.set_onerror(Some(died.as_ref().unchecked_ref()));
        Ok(Client { worker, _heard: heard, _died: died })
    }

    /// Sends a command, with the files that belong to it.
    pub fn send(&self, command: &Command, files: &[Blob]) {
        // Plain data and files can always be cloned.
        let _ = self.worker.post_message(&pack(command, files));
    }

    /// Ends the worker at once, with all that it holds.
    pub fn terminate(&self) {
        self.worker.terminate();
    }
}
