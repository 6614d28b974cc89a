//! Everything that differs between a native build and a browser, and the only place with `cfg(target_arch)`.
//!
//! [`clock`] tells the time, [`yield_now`] lets the event loop of a browser run, [`parallel`] spreads work over the
//! processor's cores where there are threads, [`fs`] touches the file system (a browser has none: there it only
//! returns errors), and `block_on` drives a future to its end (native builds only: a browser may not block).

pub mod clock;
pub mod fs;
pub mod parallel;

#[cfg(not(target_arch = "wasm32"))]
#[path = "native.rs"]
mod host;

#[cfg(target_arch = "wasm32")]
#[path = "web.rs"]
mod host;

#[cfg(not(target_arch = "wasm32"))]
pub use host::block_on;
pub use host::{spawn_local, yield_now};

/// True in a browser build.
pub const IN_BROWSER: bool = cfg!(target_arch = "wasm32");
