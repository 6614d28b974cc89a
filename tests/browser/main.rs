//! Everything that must hold on a GPU both natively and in a browser: one module a subject, each test with one body for both.
//! `cargo xtask test` runs this program on the machine's adapter, and once more in headless Chromium, in a worker as the page does.

#[path = "../support/mod.rs"]
mod support;

mod device;

#[cfg(target_arch = "wasm32")]
wasm_bindgen_test::wasm_bindgen_test_configure!(run_in_dedicated_worker);
