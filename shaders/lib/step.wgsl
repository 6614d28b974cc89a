// The scalars that change from step to step: `StepScalars` in Rust, bound as a uniform.
struct Step {
    lr: f32,
    bias_correction1: f32,
    bias_correction2: f32,
    loss_scale: f32,
    dropout_seed: u32,
    supervised: u32,
    max_grad_norm: f32,
    pad: f32,
}
