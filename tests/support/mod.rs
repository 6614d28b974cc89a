//! What several test programs share.
#![allow(dead_code, reason = "each test program uses a part")]

pub mod on_gpu;
#[cfg(not(target_arch = "wasm32"))]
pub mod smollm2;
pub mod tiny_llama;
