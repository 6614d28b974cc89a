//! Tests with one body for both targets: natively on the machine's adapter, in a browser on the one it offers.

use std::rc::Rc;

use espalier::gpu::{Gpu, GpuOptions};
use espalier::{Error, Result};

/// `gpu_tests!(a, b)` declares a test for each of the functions `async fn a(gpu: Rc<Gpu>) -> Result<()>` of this module: natively
/// one that cargo's own runner takes up, in a browser one for wasm-bindgen's, run in a worker as the page does.
/// Once in a test program, in its root; `cargo xtask test` runs each program that has it in both.
#[macro_export]
macro_rules! gpu_tests {
    ($($name:ident),+ $(,)?) => {
        mod on_gpu {
            #[cfg(target_arch = "wasm32")]
            wasm_bindgen_test::wasm_bindgen_test_configure!(run_in_dedicated_worker);

            $(
                #[cfg(not(target_arch = "wasm32"))]
                #[test]
                fn $name() {
                    espalier::platform::block_on($crate::support::on_gpu::run(super::$name));
                }

                #[cfg(target_arch = "wasm32")]
                #[wasm_bindgen_test::wasm_bindgen_test]
                async fn $name() {
                    $crate::support::on_gpu::run(super::$name).await;
                }
            )+
        }
    };
}

/// Runs `test` on a device of its own and panics where it, or the device, reports an error. Where there is no adapter it says so
/// and does nothing, except in a browser or with `CI` set: there it panics.
pub async fn run(test: impl AsyncFn(Rc<Gpu>) -> Result<()>) {
    let gpu = match Gpu::open(&GpuOptions::default()).await {
        Ok(gpu) => gpu,
        Err(error @ Error::NoAdapter { .. }) if !must_run() => return eprintln!("skipped: {error}"),
        Err(error) => panic!("{error}"),
    };
    let gpu = Rc::new(gpu);
    if let Err(error) = test(gpu.clone()).await.and_then(|()| gpu.check()) {
        panic!("{error}");
    }
}

fn must_run() -> bool {
    cfg!(target_arch = "wasm32") || std::env::var_os("CI").is_some()
}
