//! Espalier fine-tunes small language models on one's own GPU: natively, and in a browser tab, from this one core.
//!
//! A small set of new weights (a LoRA adapter, say) is trained against a frozen, quantized model. The model and the method
//! build a [`graph`]; the graph is differentiated once, planned once, and the plan is replayed on the GPU step after step.
//!
//! # Module map (a module imports only from those above it)
//!
//! | module | holds |
//! |---|---|
//! | [`error`], [`platform`], [`seed`] | the one error type; everything that differs between native and browser; named random numbers |
//! | [`gpu`] | device, limits, buffers, shaders, pipelines, submission, readback. Knows no machine learning |
//! | [`quant`] | NF4, double quantization, int8, int4, f16 and the GGUF block formats, in plain Rust |
//! | [`io`] | safetensors and GGUF as byte streams, the hub client, atomic files |
//! | [`graph`] | tensors, nodes, gradient (graph to graph), memory plan. Sees an op as a trait |
//! | [`ops`] | one file per op family: shape rule, gradient rule, CPU reference, kernel launch |
//! | [`exec`] | replays a plan on the GPU |
//! | [`peft`] | one file per method, and the PEFT file format |
//! | [`model`] | configuration (families are data), decoder, weights, tokenizer, chat template |
//! | [`data`] | data set formats, masking, packing, batches |
//! | [`train`], [`generate`], [`export`] | the loop, sampling, and what is kept |
//!
//! # Dimension letters
//!
//! `B` batch, `T` tokens of a row, `N = B T` tokens of a batch, `C` hidden size, `H` heads, `K` key/value heads, `D` head
//! dimension, `F` feed-forward size, `V` vocabulary, `r` LoRA rank, `L` layers. A shape is written slowest axis first: `x [N, C] f32`.

pub mod bench;
pub mod data;
pub mod error;
pub mod exec;
pub mod export;
pub mod generate;
pub mod gpu;
pub mod graph;
pub mod io;
pub mod model;
pub mod ops;
pub mod peft;
pub mod platform;
pub mod quant;
pub mod seed;
pub mod selftest;
pub mod train;

pub use error::{Error, Result};
