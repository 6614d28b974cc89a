//! Pipelines, bind groups, and replaying a list of prepared dispatches.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::{Buffer, Gpu, Image, ImageCopy, Prelude, Region, Shader};
use crate::Result;

/// How a kernel uses a binding. A buffer that one dispatch both reads and writes must be bound `ReadWrite` throughout.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    Uniform,
    Read,
    ReadWrite,
    /// `texture_storage_2d<rgba32float, read>`
    StorageImage,
    /// `texture_2d<f32>`
    SampledImage,
}

/// What a binding is given.
#[derive(Clone)]
pub enum Resource {
    Region(Region),
    Image(Image),
}

impl From<Region> for Resource {
    fn from(region: Region) -> Resource {
        Resource::Region(region)
    }
}

/// Numbers of workgroups.
pub type Groups = [u32; 3];

#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct PipelineKey {
    /// Address of the shader: one file may exist with different fragments.
    shader: usize,
    entry: &'static str,
    prelude: Prelude,
    bindings: Vec<Access>,
}

/// A compiled kernel and the layout of its bindings.
pub struct Pipeline {
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
    label: String,
}

/// A dispatch that is ready to be encoded.
pub struct Prepared {
    pipeline: Rc<Pipeline>,
    bind_group: wgpu::BindGroup,
    pub groups: Groups,
    /// Made before it runs.
    copies: Vec<ImageCopy>,
}

impl Prepared {
    /// Shader and entry point, for profiles.
    pub fn label(&self) -> &str {
        &self.pipeline.label
    }

    /// Makes copies each time before it runs.
    pub fn with_copies(mut self, copies: Vec<ImageCopy>) -> Prepared {
        self.copies = copies;
        self
    }

    fn copy(&self, encoder: &mut wgpu::CommandEncoder) {
        for c in &self.copies {
            let layout = wgpu::TexelCopyBufferLayout {
                offset: c.from.offset,
                bytes_per_row: Some(c.pitch),
                rows_per_image: None,
            };
            encoder.copy_buffer_to_texture(
                wgpu::TexelCopyBufferInfo { buffer: c.from.buffer.raw(), layout },
                c.to.raw().as_image_copy(),
                wgpu::Extent3d { width: c.width, height: c.height, depth_or_array_layers: 1 },
            );
        }
    }

    fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(self.groups[0], self.groups[1], self.groups[2]);
    }
}

impl Gpu {
    /// Compiles a kernel, once for each prelude and signature.
    pub fn pipeline(
        &self,
        shader: &'static Shader,
        entry: &'static str,
        prelude: &Prelude,
        bindings: &[Access],
    ) -> Rc<Pipeline> {
        let key = PipelineKey {
            shader: std::ptr::from_ref(shader) as usize,
            entry,
            prelude: prelude.clone(),
            bindings: bindings.to_vec(),
        };
        if let Some(pipeline) = self.pipelines.borrow().get(&key) {
            return pipeline.clone();
        }
        let label = format!("{}.{entry}", shader.name);
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(&label),
            source: wgpu::ShaderSource::Wgsl(shader.compose(prelude).into()),
        };
        let module = if self.checked {
            self.device.create_shader_module(descriptor)
        } else {
            // SAFETY: every shader of this crate ships with it; each guards its loads and stores by its own dimensions,
            // which the launch checks against the bound regions, and has only loops with bounds fixed before they begin.
            unsafe { self.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
        };
        let buffer = |ty| wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None };
        let entries: Vec<wgpu::BindGroupLayoutEntry> = bindings
            .iter()
            .enumerate()
            .map(|(binding, access)| wgpu::BindGroupLayoutEntry {
                binding: binding as u32,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: match access {
                    Access::Uniform => buffer(wgpu::BufferBindingType::Uniform),
                    Access::Read => buffer(wgpu::BufferBindingType::Storage { read_only: true }),
                    Access::ReadWrite => buffer(wgpu::BufferBindingType::Storage { read_only: false }),
                    Access::StorageImage => wgpu::BindingType::StorageTexture {
                        access: wgpu::StorageTextureAccess::ReadOnly,
                        format: wgpu::TextureFormat::Rgba32Float,
                        view_dimension: wgpu::TextureViewDimension::D2,
                    },
                    Access::SampledImage => wgpu::BindingType::Texture {
                        sample_type: wgpu::TextureSampleType::Float { filterable: false },
                        view_dimension: wgpu::TextureViewDimension::D2,
                        multisampled: false,
                    },
                },
                count: None,
            })
            .collect();
        let layout = self
            .device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(&label), entries: &entries });
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(&label),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&label),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        });
        let pipeline = Rc::new(Pipeline { pipeline, layout, label });
        self.pipelines.borrow_mut().insert(key, pipeline.clone());
        pipeline
    }

    /// Binds regions and images to a kernel.
    pub fn prepare<R: Clone + Into<Resource>>(
        &self,
        pipeline: Rc<Pipeline>,
        resources: &[R],
        groups: Groups,
    ) -> Prepared {
        let resources: Vec<Resource> = resources.iter().cloned().map(Into::into).collect();
        let views: Vec<Option<wgpu::TextureView>> = resources
            .iter()
            .map(|r| match r {
                Resource::Region(_) => None,
                Resource::Image(image) => Some(image.raw().create_view(&Default::default())),
            })
            .collect();
        let entries: Vec<wgpu::BindGroupEntry> = resources
            .iter()
            .zip(&views)
            .enumerate()
            .map(|(binding, (resource, view))| wgpu::BindGroupEntry {
                binding: binding as u32,
                resource: match (resource, view) {
                    (_, Some(view)) => wgpu::BindingResource::TextureView(view),
                    (Resource::Region(r), None) => wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer: r.buffer.raw(),
                        offset: r.offset,
                        size: wgpu::BufferSize::new(r.bytes),
                    }),
                    (Resource::Image(_), None) => unreachable!("every image has a view"),
                },
            })
            .collect();
        let bind_group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(&pipeline.label),
            layout: &pipeline.layout,
            entries: &entries,
        });
        self.counters.bind_groups_created.fetch_add(1, Ordering::Relaxed);
        Prepared { pipeline, bind_group, groups, copies: vec![] }
    }

    /// Submits dispatches in order, as one command buffer; `clear` is zeroed first, `copies` (from, to a readback buffer at a
    /// byte offset) are made last.
    pub fn submit<'a>(
        &self,
        clear: &[Region],
        dispatches: impl IntoIterator<Item = &'a Prepared>,
        copies: &[(Region, Buffer, u64)],
    ) -> Result<()> {
        self.submit_at(clear, dispatches, copies).map(drop)
    }

    /// [`Gpu::submit`]; its place in the queue.
    pub(super) fn submit_at<'a>(
        &self,
        clear: &[Region],
        dispatches: impl IntoIterator<Item = &'a Prepared>,
        copies: &[(Region, Buffer, u64)],
    ) -> Result<wgpu::SubmissionIndex> {
        self.check()?;
        let mut encoder = self.device.create_command_encoder(&Default::default());
        for r in clear {
            encoder.clear_buffer(r.buffer.raw(), r.offset, Some(r.bytes));
        }
        let mut open: Option<wgpu::ComputePass<'static>> = None;
        for d in dispatches {
            if !d.copies.is_empty() {
                open = None;
                d.copy(&mut encoder);
            }
            let pass = open.get_or_insert_with(|| encoder.begin_compute_pass(&Default::default()).forget_lifetime());
            d.record(pass);
        }
        drop(open);
        for (from, to, at) in copies {
            encoder.copy_buffer_to_buffer(from.buffer.raw(), from.offset, to.raw(), *at, from.bytes);
        }
        Ok(self.queue.submit([encoder.finish()]))
    }

    /// Runs each dispatch in a pass of its own between two timestamps; nanoseconds of each, its copies included, in order.
    /// Errs where the adapter has no timestamps.
    pub async fn profile(&self, dispatches: &[&Prepared]) -> Result<Vec<f64>> {
        if !self.summary().timestamps {
            return Err(crate::Error::Unsupported {
                what: "profiling".into(),
                supported: "adapters with timestamp queries".into(),
            });
        }
        let mut nanoseconds = Vec::with_capacity(dispatches.len());
        let period = f64::from(self.queue.get_timestamp_period());
        for chunk in dispatches.chunks(2048) {
            let count = 2 * chunk.len() as u32;
            let queries = self.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: None,
                ty: wgpu::QueryType::Timestamp,
                count,
            });
            let bytes = 8 * u64::from(count);
            use wgpu::BufferUsages as U;
            let resolved = self.create("timestamps", bytes, U::QUERY_RESOLVE | U::COPY_SRC)?;
            let mut encoder = self.device.create_command_encoder(&Default::default());
            let pass = |beginning: Option<u32>, end: Option<u32>| wgpu::ComputePassDescriptor {
                label: None,
                timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                    query_set: &queries,
                    beginning_of_pass_write_index: beginning,
                    end_of_pass_write_index: end,
                }),
            };
            for (i, d) in (0u32..).zip(chunk) {
                let mut begin = Some(2 * i);
                if !d.copies.is_empty() {
                    drop(encoder.begin_compute_pass(&pass(begin.take(), None)));
                    d.copy(&mut encoder);
                }
                d.record(&mut encoder.begin_compute_pass(&pass(begin, Some(2 * i + 1))));
            }
            encoder.resolve_query_set(&queries, 0..count, resolved.raw(), 0);
            self.queue.submit([encoder.finish()]);
            let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&self.read(&[resolved.region()]).await?[0]);
            nanoseconds.extend(ticks.chunks(2).map(|t| t[1].saturating_sub(t[0]) as f64 * period));
        }
        Ok(nanoseconds)
    }
}
