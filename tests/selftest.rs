//! The self-test that users run is itself run here, natively and in a browser.

mod support;

use std::rc::Rc;

use espalier::Result;
use espalier::gpu::Gpu;

async fn every_format_and_method_computes_what_the_cpu_computes(gpu: Rc<Gpu>) -> Result<()> {
    let cases = espalier::selftest::run(&gpu).await?;
    assert_eq!(cases.len(), 7);
    for case in cases {
        // The loss of each token and the gradients of 14 LoRA pairs, or of every weight.
        assert!(case.tensors > 20, "{} compares {} tensors", case.name, case.tensors);
        assert!(case.passed, "{}: {} is off by {:.1e}", case.name, case.worst, case.error);
    }
    Ok(())
}

gpu_tests!(every_format_and_method_computes_what_the_cpu_computes);
