//! Data sets: formats, masking, packing, batches.

pub mod batch;

pub use batch::Batch;
