//! Pipelines, bind groups, and replaying a list of prepared dispatches.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::{Buffer, Gpu, Prelude, Region, Shader};
use crate::Result;

/// How a kernel uses a binding. A buffer that one dispatch both reads and writes must be bound `ReadWrite` throughout.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    Uniform,
    Read,
    ReadWrite,
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
}

impl Prepared {
    /// Shader and entry point, for profiles.
    pub fn label(&self) -> &str {
        &self.pipeline.label
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
        let entries: Vec<wgpu::BindGroupLayoutEntry> = bindings
            .iter()
            .enumerate()
            .map(|(binding, access)| wgpu::BindGroupLayoutEntry {
                binding: binding as u32,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: match access {
                        Access::Uniform => wgpu::BufferBindingType::Uniform,
                        Access::Read => wgpu::BufferBindingType::Storage { read_only: true },
                        Access::ReadWrite => wgpu::BufferBindingType::Storage { read_only: false },
                    },
                    has_dynamic_offset: false,
                    min_binding_size: None,
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

    /// Binds regions to a kernel.
    pub fn prepare(&self, pipeline: Rc<Pipeline>, regions: &[Region], groups: Groups) -> Prepared {
        let entries: Vec<wgpu::BindGroupEntry> = regions
            .iter()
            .enumerate()
            .map(|(binding, r)| wgpu::BindGroupEntry {
                binding: binding as u32,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: r.buffer.raw(),
                    offset: r.offset,
                    size: wgpu::BufferSize::new(r.bytes),
                }),
            })
            .collect();
        let bind_group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(&pipeline.label),
            layout: &pipeline.layout,
            entries: &entries,
        });
        self.counters.bind_groups_created.fetch_add(1, Ordering::Relaxed);
        Prepared { pipeline, bind_group, groups }
    }

    /// Submits dispatches in order, as one command buffer; `clear` is zeroed first, `copies` (from, to a readback buffer at a
    /// byte offset) are made last.
    pub fn submit<'a>(
        &self,
        clear: &[Region],
        dispatches: impl IntoIterator<Item = &'a Prepared>,
        copies: &[(Region, Buffer, u64)],
    ) -> Result<()> {
        self.check()?;
        let mut encoder = self.device.create_command_encoder(&Default::default());
        for r in clear {
            encoder.clear_buffer(r.buffer.raw(), r.offset, Some(r.bytes));
        }
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for d in dispatches {
                pass.set_pipeline(&d.pipeline.pipeline);
                pass.set_bind_group(0, &d.bind_group, &[]);
                pass.dispatch_workgroups(d.groups[0], d.groups[1], d.groups[2]);
            }
        }
        for (from, to, at) in copies {
            encoder.copy_buffer_to_buffer(from.buffer.raw(), from.offset, to.raw(), *at, from.bytes);
        }
        self.queue.submit([encoder.finish()]);
        Ok(())
    }

    /// Runs each dispatch in a pass of its own between two timestamps; nanoseconds of each, in order. Errs where the
    /// adapter has no timestamps.
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
            for (i, d) in chunk.iter().enumerate() {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                    label: None,
                    timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                        query_set: &queries,
                        beginning_of_pass_write_index: Some(2 * i as u32),
                        end_of_pass_write_index: Some(2 * i as u32 + 1),
                    }),
                });
                pass.set_pipeline(&d.pipeline.pipeline);
                pass.set_bind_group(0, &d.bind_group, &[]);
                pass.dispatch_workgroups(d.groups[0], d.groups[1], d.groups[2]);
            }
            encoder.resolve_query_set(&queries, 0..count, resolved.raw(), 0);
            self.queue.submit([encoder.finish()]);
            let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&self.read(&[resolved.region()]).await?[0]);
            nanoseconds.extend(ticks.chunks(2).map(|t| t[1].saturating_sub(t[0]) as f64 * period));
        }
        Ok(nanoseconds)
    }
}
