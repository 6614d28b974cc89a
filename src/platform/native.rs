//! Native build: futures are driven by the calling thread.

use std::future::Future;

/// Runs `future` to its end on the calling thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    pollster::block_on(future)
}

/// Returns at once: a native thread may keep the processor.
pub async fn yield_now() {}

/// Runs `future` to its end, here and now: without an event loop there is no later. Code that must also run
/// natively therefore never spawns something that waits for its own caller.
pub fn spawn_local(future: impl Future<Output = ()> + 'static) {
    block_on(future);
}
