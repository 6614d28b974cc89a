//! A monotonic clock and the time of day. `std::time` panics in a browser, so nothing else names it.

#[cfg(not(target_arch = "wasm32"))]
pub use std::time::{Duration, Instant, SystemTime};
#[cfg(target_arch = "wasm32")]
pub use web_time::{Duration, Instant, SystemTime};

/// The present moment on the monotonic clock.
pub fn now() -> Instant {
    Instant::now()
}

/// Whole seconds since 1970-01-01 00:00 UTC; 0 if the machine's clock is set before that.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
