//! Buffers and images that count themselves, regions of them, and the ways in and out.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::device::{Counters, Gpu};
use crate::{Error, Result};

/// A GPU buffer; its bytes are counted while it lives.
#[derive(Clone)]
pub struct Buffer(Rc<Counted>);

struct Counted {
    buffer: wgpu::Buffer,
    counters: Arc<Counters>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.counters.bytes.fetch_sub(self.buffer.size(), Ordering::Relaxed);
        self.buffer.destroy();
    }
}

impl Buffer {
    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.0.buffer.size()
    }

    /// All of it.
    pub fn region(&self) -> Region {
        Region { buffer: self.clone(), offset: 0, bytes: self.bytes() }
    }

    /// A part of it; offset and size in bytes, multiples of 4.
    pub fn slice(&self, offset: u64, bytes: u64) -> Region {
        debug_assert!(offset + bytes <= self.bytes(), "region {offset}+{bytes} in a buffer of {}", self.bytes());
        Region { buffer: self.clone(), offset, bytes }
    }

    pub(super) fn raw(&self) -> &wgpu::Buffer {
        &self.0.buffer
    }
}

/// A range of a buffer: what a binding covers.
#[derive(Clone)]
pub struct Region {
    pub buffer: Buffer,
    pub offset: u64,
    pub bytes: u64,
}

/// A matrix of `vec4<f32>` in a texture: what some adapters read many times faster than a buffer. Its bytes are counted
/// while it lives.
#[derive(Clone)]
pub struct Image(Rc<CountedImage>);

struct CountedImage {
    texture: wgpu::Texture,
    counters: Arc<Counters>,
}

impl Drop for CountedImage {
    fn drop(&mut self) {
        self.counters.bytes.fetch_sub(image_bytes(self.texture.width(), self.texture.height()), Ordering::Relaxed);
        self.texture.destroy();
    }
}

/// Bytes of an image of `width` texels by `height` rows.
pub fn image_bytes(width: u32, height: u32) -> u64 {
    16 * u64::from(width) * u64::from(height)
}

impl Image {
    /// Texels in a row, and rows.
    pub fn size(&self) -> (u32, u32) {
        (self.0.texture.width(), self.0.texture.height())
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        image_bytes(self.size().0, self.size().1)
    }

    pub(super) fn raw(&self) -> &wgpu::Texture {
        &self.0.texture
    }
}

/// Copies rows of f32 from a region into the upper left corner of an image.
#[derive(Clone)]
pub struct ImageCopy {
    pub from: Region,
    /// Bytes from one row to the next, a multiple of 256.
    pub pitch: u32,
    pub to: Image,
    /// Texels (four values each) in a row.
    pub width: u32,
    pub height: u32,
}

impl Gpu {
    /// Allocates an image of `width` texels by `height` rows that kernels read and copies write.
    pub fn alloc_image(&self, label: &str, width: u32, height: u32) -> Result<Image> {
        let limit = self.limits().max_texture_dimension_2d;
        if width.max(height) > limit {
            return Err(Error::TooLarge {
                what: label.into(),
                needed_bytes: image_bytes(width, height),
                available: format!("this adapter's textures have at most {limit} texels along an edge"),
                advice: "A smaller model, a smaller batch or a shorter context fits".into(),
            });
        }
        self.check_budget(label, image_bytes(width.max(1), height.max(1)))?;
        use wgpu::TextureUsages as U;
        let texture = self.device.create_texture(&wgpu::TextureDescriptor {
            label: Some(label),
            size: wgpu::Extent3d { width: width.max(1), height: height.max(1), depth_or_array_layers: 1 },
            mip_level_count: 1,
            sample_count: 1,
            dimension: wgpu::TextureDimension::D2,
            format: wgpu::TextureFormat::Rgba32Float,
            usage: U::TEXTURE_BINDING | U::STORAGE_BINDING | U::COPY_DST,
            view_formats: &[],
        });
        let bytes = image_bytes(texture.width(), texture.height());
        let now = self.counters.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.counters.peak_bytes.fetch_max(now, Ordering::Relaxed);
        self.counters.buffers_created.fetch_add(1, Ordering::Relaxed);
        Ok(Image(Rc::new(CountedImage { texture, counters: self.counters.clone() })))
    }

    /// Allocates `bytes` of zeros that kernels, copies and the host can use. Errs when one buffer cannot be so large or the
    /// budget is spent; lack of memory on the device is reported by [`Gpu::guarded`] or [`Gpu::check`].
    pub fn alloc(&self, label: &str, bytes: u64) -> Result<Buffer> {
        use wgpu::BufferUsages as U;
        self.create(label, bytes, U::STORAGE | U::COPY_SRC | U::COPY_DST)
    }

    /// Allocates `bytes` for parameters read as uniforms.
    pub fn alloc_uniform(&self, label: &str, bytes: u64) -> Result<Buffer> {
        self.create(label, bytes, wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST)
    }

    /// Allocates `bytes` into which results are copied to be read by the host.
    pub fn alloc_readback(&self, label: &str, bytes: u64) -> Result<Buffer> {
        self.create(label, bytes, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST)
    }

    pub(super) fn create(&self, label: &str, bytes: u64, usage: wgpu::BufferUsages) -> Result<Buffer> {
        let size = bytes.max(4).next_multiple_of(4);
        let limit = self.limits().max_buffer_size;
        if size > limit {
            return Err(Error::TooLarge {
                what: label.into(),
                needed_bytes: size,
                available: format!("this adapter's buffers hold at most {limit}"),
                advice: "A smaller model, a smaller batch or a shorter context fits".into(),
            });
        }
        if !usage.contains(wgpu::BufferUsages::MAP_READ) {
            self.check_budget(label, size)?;
        }
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage,
            mapped_at_creation: false,
        });
        let now = self.counters.bytes.fetch_add(size, Ordering::Relaxed) + size;
        self.counters.peak_bytes.fetch_max(now, Ordering::Relaxed);
        self.counters.buffers_created.fetch_add(1, Ordering::Relaxed);
        Ok(Buffer(Rc::new(Counted { buffer, counters: self.counters.clone() })))
    }

    /// Writes bytes (a multiple of 4) at a byte offset of a region; seen by whatever is submitted afterwards.
    pub fn write(&self, region: &Region, offset: u64, bytes: &[u8]) {
        debug_assert!(offset + bytes.len() as u64 <= region.bytes, "write past the end of a region");
        self.queue.write_buffer(region.buffer.raw(), region.offset + offset, bytes);
    }

    /// Hands pending writes to the device and waits until it has taken them, so that staging memory does not pile up.
    pub async fn flush(&self) -> Result<()> {
        self.queue.submit([]);
        self.wait().await
    }

    /// Waits until everything submitted has run.
    pub async fn wait(&self) -> Result<()> {
        let (send, receive) = futures_channel::oneshot::channel();
        self.queue.on_submitted_work_done(move || {
            let _ = send.send(());
        });
        self.poll(receive).await.map_err(|_| Error::DeviceLost("while waiting".into()))?;
        self.check()
    }

    /// Drives the device until `receive` has its answer. In a browser the event loop does that and polling does nothing.
    async fn poll<T>(
        &self,
        receive: futures_channel::oneshot::Receiver<T>,
    ) -> Result<T, futures_channel::oneshot::Canceled> {
        // An error here means that the device is gone; the callback then never comes and the sender is dropped.
        let _ = self.device.poll(wgpu::PollType::wait_indefinitely());
        receive.await
    }

    /// Copies regions (bytes multiples of 4) to the host.
    pub async fn read(&self, regions: &[Region]) -> Result<Vec<Vec<u8>>> {
        let total: u64 = regions.iter().map(|r| r.bytes).sum();
        let staging = self.alloc_readback("readback", total)?;
        let mut encoder = self.device.create_command_encoder(&Default::default());
        let mut at = 0;
        for r in regions {
            encoder.copy_buffer_to_buffer(r.buffer.raw(), r.offset, staging.raw(), at, r.bytes);
            at += r.bytes;
        }
        self.queue.submit([encoder.finish()]);
        let all = self.read_mapped(&staging, total).await?;
        let mut rest = all.as_slice();
        let mut parts = Vec::with_capacity(regions.len());
        for r in regions {
            let (head, tail) = rest.split_at(r.bytes as usize);
            parts.push(head.to_vec());
            rest = tail;
        }
        Ok(parts)
    }

    /// Maps the first `bytes` of a readback buffer, copies them out and unmaps it.
    pub async fn read_mapped(&self, staging: &Buffer, bytes: u64) -> Result<Vec<u8>> {
        let (send, receive) = futures_channel::oneshot::channel();
        staging.raw().map_async(wgpu::MapMode::Read, 0..bytes, move |result| {
            let _ = send.send(result);
        });
        let mapped = self.poll(receive).await;
        self.check()?;
        mapped
            .map_err(|_| Error::DeviceLost("while reading back".into()))?
            .map_err(|e| Error::DeviceLost(format!("reading back: {e}")))?;
        let copy =
            staging.raw().get_mapped_range(0..bytes).map_err(|e| Error::Gpu(format!("reading back: {e}")))?.to_vec();
        staging.raw().unmap();
        Ok(copy)
    }

    /// Reads one region of f32.
    pub async fn read_f32(&self, region: &Region) -> Result<Vec<f32>> {
        let bytes = self.read(std::slice::from_ref(region)).await?.remove(0);
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }
}
