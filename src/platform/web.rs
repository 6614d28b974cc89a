//! Browser build: one thread, one event loop that must be let run. Works in a page and in a worker.

use std::future::Future;

use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

#[wasm_bindgen]
extern "C" {
    type MessageChannel;
    #[wasm_bindgen(constructor)]
    fn new() -> MessageChannel;
    #[wasm_bindgen(method, getter)]
    fn port1(this: &MessageChannel) -> MessagePort;
    #[wasm_bindgen(method, getter)]
    fn port2(this: &MessageChannel) -> MessagePort;

    type MessagePort;
    #[wasm_bindgen(method)]
    fn start(this: &MessagePort);
    #[wasm_bindgen(method, js_name = postMessage)]
    fn post_message(this: &MessagePort, message: &JsValue);
    #[wasm_bindgen(method, js_name = addEventListener)]
    fn add_event_listener(this: &MessagePort, kind: &str, listener: &JsValue, options: &JsValue);
}

thread_local! {
    static CHANNEL: MessageChannel = {
        let channel = MessageChannel::new();
        channel.port1().start();
        channel
    };
}

/// Lets the event loop run one round of its tasks (messages, timers, GPU callbacks), then goes on.
///
/// A message to oneself, not a timer: a repeated `setTimeout(0)` waits at least 4 ms, and an awaited resolved promise
/// is a microtask, which lets nothing else run.
pub async fn yield_now() {
    let once = js_sys::Object::new();
    // Setting a property of a fresh plain object does not fail.
    let _ = js_sys::Reflect::set(&once, &"once".into(), &JsValue::TRUE);
    let woken = js_sys::Promise::new(&mut |resolve, _reject| {
        CHANNEL.with(|channel| {
            channel.port1().add_event_listener("message", &resolve, &once);
            channel.port2().post_message(&JsValue::NULL);
        });
    });
    // The promise has no way to be rejected.
    let _ = JsFuture::from(woken).await;
}

/// Hands `future` to the event loop, which runs it after the present task.
pub fn spawn_local(future: impl Future<Output = ()> + 'static) {
    wasm_bindgen_futures::spawn_local(future);
}
