//! The GPU through wgpu: device and limits, buffers, shader composition, pipelines, readback. Knows no machine learning.

pub mod device;
pub mod dispatch;
pub mod memory;
pub mod pace;
pub mod shader;

pub use device::{AdapterSummary, Gpu, GpuOptions};
pub use dispatch::{Access, Groups, Prepared, Resource};
pub use memory::{Buffer, Image, ImageCopy, Region, image_bytes};
pub use pace::Pace;
pub use shader::{Prelude, Shader};
