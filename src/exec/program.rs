//! One graph made ready to run: its dispatches in order, with pipelines and bind groups, and the regions of its inputs.

use std::collections::BTreeMap;

use super::Memory;
use crate::gpu::{Buffer, Gpu, ImageCopy, Pace, Prepared, Region, Resource};
use crate::graph::reference::StepScalars;
use crate::graph::{Placement, Plan, Role, Target, TensorId};
use crate::ops::{Bind, Dispatch, Graph, LaunchContext};
use crate::{Error, Result};

/// Floating-point operations after which a command buffer is submitted: short enough for watchdogs and for a run to stop
/// within two seconds, long enough to hide the encoding. (Software adapters do 2 to 40 10^9 a second, GPUs 10^12 and more.)
const FLOPS_PER_SUBMIT_SOFTWARE: u64 = 1_000_000_000;
const FLOPS_PER_SUBMIT: u64 = 100_000_000_000;
/// Most dispatches in one command buffer.
const DISPATCHES_PER_SUBMIT: usize = 256;

/// A prepared dispatch with what replay has to know of it.
struct Entry {
    prepared: Prepared,
    supervised_above: Option<u32>,
    flops: u64,
    node: usize,
}

/// A graph on the GPU.
pub struct Program {
    entries: Vec<Entry>,
    inputs: BTreeMap<String, Region>,
    /// Kept alive with the bind groups that point into them.
    uniforms: Option<Buffer>,
    input_buffer: Option<Buffer>,
    flops_per_submit: u64,
}

impl Program {
    /// Compiles and binds everything. The memory must hold the graph's weights, parameters, states, and an arena at least as
    /// large as the plan's.
    pub fn new(gpu: &Gpu, graph: &Graph, plan: &Plan, memory: &Memory) -> Result<Program> {
        let (inputs, input_buffer) = place_inputs(gpu, graph, memory)?;
        let described = describe(graph, &memory.target)?;
        let mut program = Program {
            entries: vec![],
            inputs,
            uniforms: None,
            input_buffer,
            flops_per_submit: if memory.target.software { FLOPS_PER_SUBMIT_SOFTWARE } else { FLOPS_PER_SUBMIT },
        };
        let (entries, uniforms) =
            prepare(gpu, &described, memory, |bind, node| program.resolve(bind, node, graph, plan, memory))?;
        let mut per_node = vec![0u64; graph.nodes.len()];
        entries.iter().for_each(|e| per_node[e.1] += 1);
        program.entries = entries
            .into_iter()
            .zip(&described)
            .map(|((prepared, node), (dispatch, _))| Entry {
                prepared,
                supervised_above: dispatch.supervised_above,
                flops: graph.node_flops(&graph.nodes[node]) / per_node[node].max(1),
                node,
            })
            .collect();
        program.uniforms = uniforms;
        gpu.check()?;
        Ok(program)
    }

    /// A program of dispatches that work on whole arenas (the optimizer).
    pub fn of_dispatches(gpu: &Gpu, dispatches: Vec<Dispatch>, memory: &Memory) -> Result<Program> {
        let described: Vec<(Dispatch, usize)> = dispatches.into_iter().map(|d| (d, 0)).collect();
        let (entries, uniforms) = prepare(gpu, &described, memory, |bind, _| match bind {
            Bind::Step => memory.step(),
            Bind::Arena { kind, segment } => {
                let buffer = memory.arena(kind).get(segment).map(Buffer::region);
                buffer.ok_or_else(|| Error::shape("program", format!("no segment {segment} of {kind:?}")))
            }
            other => Err(Error::shape("program", format!("{other:?} outside a graph"))),
        })?;
        let entries = entries
            .into_iter()
            .map(|(prepared, node)| Entry { prepared, supervised_above: None, flops: 0, node })
            .collect();
        gpu.check()?;
        Ok(Program {
            entries,
            inputs: BTreeMap::new(),
            uniforms,
            input_buffer: None,
            flops_per_submit: FLOPS_PER_SUBMIT_SOFTWARE,
        })
    }

    fn resolve(&self, bind: Bind, node: usize, graph: &Graph, plan: &Plan, memory: &Memory) -> Result<Region> {
        match bind {
            Bind::Step => memory.step(),
            Bind::Part { weight, shard, part } => memory.part(&graph.get(weight).name, shard, part),
            Bind::Scratch(k) => {
                let &(buffer, offset, bytes) = plan.scratch[node]
                    .get(k)
                    .ok_or_else(|| Error::shape("program", format!("no temporary buffer {k}")))?;
                Ok(memory.activation(buffer, offset, bytes))
            }
            Bind::Tensor(id) => self
                .region(graph, plan, memory, id)
                .ok_or_else(|| Error::shape("program", format!("{} has no storage", graph.get(id).name))),
            Bind::Arena { kind, segment } => memory
                .arena(kind)
                .get(segment)
                .map(Buffer::region)
                .ok_or_else(|| Error::shape("program", format!("no segment {segment} of {kind:?}"))),
            Bind::Image(number) => Err(Error::shape("program", format!("image {number} is no buffer"))),
        }
    }

    /// Where a tensor lies; none for weights in several parts and for tensors that no node uses.
    pub fn region(&self, graph: &Graph, plan: &Plan, memory: &Memory, id: TensorId) -> Option<Region> {
        let tensor = graph.get(id);
        match plan.placements[id.index()] {
            Placement::Arena { buffer, offset } => Some(memory.activation(buffer, offset, tensor.bytes())),
            Placement::Unused => None,
            Placement::Persistent(root) => {
                let root = graph.get(root);
                match root.role {
                    Role::Input => self.inputs.get(&root.name).cloned(),
                    Role::Weight(_) => memory.part(&root.name, 0, 0).ok(),
                    _ => memory.persistent(root).ok(),
                }
            }
        }
    }

    /// Writes an input by name; errs when there is none or it is smaller than `data`.
    pub fn write_input(&self, gpu: &Gpu, name: &str, data: &[u32]) -> Result<()> {
        let region = self.inputs.get(name).ok_or_else(|| Error::shape("program", format!("no input {name}")))?;
        if region.bytes < 4 * data.len() as u64 {
            return Err(Error::shape("program", format!("input {name} holds {} bytes", region.bytes)));
        }
        gpu.write(region, 0, bytemuck::cast_slice(data));
        Ok(())
    }

    /// Names of the inputs.
    pub fn inputs(&self) -> impl Iterator<Item = &str> {
        self.inputs.keys().map(String::as_str)
    }

    /// Writes the scalars that the next run reads.
    pub fn write_step(&self, gpu: &Gpu, memory: &Memory, step: &StepScalars) {
        if let Ok(region) = memory.step() {
            gpu.write(&region, 0, bytemuck::bytes_of(step));
        }
    }

    /// Submits every dispatch in order; those that wait for more supervised tokens than `supervised` are skipped.
    pub fn run(&self, gpu: &Gpu, supervised: u32) -> Result<()> {
        for part in self.parts(supervised) {
            gpu.submit(&[], part, &[])?;
        }
        Ok(())
    }

    /// [`Program::run`] at the device's pace. Errs with [`Error::Cancelled`] between two submissions when it was cancelled.
    pub async fn run_paced(&self, gpu: &Gpu, supervised: u32, pace: &mut Pace<'_>) -> Result<()> {
        for part in self.parts(supervised) {
            pace.submit(gpu, part).await?;
        }
        Ok(())
    }

    /// The dispatches that run with so many supervised tokens.
    fn active(&self, supervised: u32) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |e| e.supervised_above.is_none_or(|rows| supervised > rows))
    }

    /// The same, by command buffer.
    fn parts(&self, supervised: u32) -> Vec<Vec<&Prepared>> {
        let mut parts: Vec<Vec<&Prepared>> = vec![];
        let mut flops = 0;
        for entry in self.active(supervised) {
            match parts.last_mut() {
                Some(part) if part.len() < DISPATCHES_PER_SUBMIT && flops < self.flops_per_submit => {
                    part.push(&entry.prepared);
                }
                _ => {
                    parts.push(vec![&entry.prepared]);
                    flops = 0;
                }
            }
            flops += entry.flops;
        }
        parts
    }

    /// Number of dispatches.
    pub fn dispatches(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of inputs and uniforms.
    pub fn bytes(&self) -> u64 {
        self.uniforms.iter().chain(&self.input_buffer).map(Buffer::bytes).sum()
    }

    /// Time of every dispatch that runs: (node, kernel, nanoseconds, floating-point operations).
    pub async fn profile(&self, gpu: &Gpu, supervised: u32) -> Result<Vec<(usize, String, f64, u64)>> {
        let active: Vec<&Entry> = self.active(supervised).collect();
        let prepared: Vec<&Prepared> = active.iter().map(|e| &e.prepared).collect();
        let times = gpu.profile(&prepared).await?;
        Ok(active.iter().zip(times).map(|(e, t)| (e.node, e.prepared.label().to_string(), t, e.flops)).collect())
    }
}

/// The dispatches of every node, with the node's index; needs no GPU.
pub fn describe(graph: &Graph, target: &Target) -> Result<Vec<(Dispatch, usize)>> {
    let mut described = vec![];
    for (index, node) in graph.nodes.iter().enumerate() {
        let mut cx = LaunchContext { graph, inputs: &node.inputs, outputs: &node.outputs, target, dispatches: vec![] };
        node.op.launch(&mut cx)?;
        described.extend(cx.dispatches.into_iter().map(|d| (d, index)));
    }
    Ok(described)
}

/// Sizes of the two operand images (texels in a row, rows); see [`Bind::Image`].
pub type Images = [(u32, u32); 2];

/// What the products of this graph need of the operand images.
pub fn images(graph: &Graph, target: &Target) -> Result<Images> {
    let mut sizes = Images::default();
    for copy in describe(graph, target)?.iter().flat_map(|(d, _)| &d.copies) {
        let size = &mut sizes[copy.image];
        // An odd number of cache lines in a row, so that the rows of a tile do not share cache sets.
        *size = (size.0.max((copy.width.div_ceil(4) | 1) * 4), size.1.max(copy.height));
    }
    Ok(sizes)
}

/// Bytes of inputs and parameter blocks that a program of this graph allocates.
pub fn planned_bytes(graph: &Graph, target: &Target) -> Result<u64> {
    let align = target.alignment;
    let inputs = graph.with_role(|r| r == Role::Input);
    let inputs: u64 = inputs.iter().map(|&i| graph.get(i).bytes().max(4).next_multiple_of(align)).sum();
    let blocks =
        describe(graph, target)?.iter().map(|(d, _)| (d.params.len() as u64).next_multiple_of(align)).sum::<u64>();
    Ok(inputs + blocks)
}

/// Inputs side by side in one buffer.
fn place_inputs(gpu: &Gpu, graph: &Graph, memory: &Memory) -> Result<(BTreeMap<String, Region>, Option<Buffer>)> {
    let mut places = vec![];
    let mut bytes = 0u64;
    for id in graph.with_role(|r| r == Role::Input) {
        let tensor = graph.get(id);
        places.push((tensor.name.clone(), bytes, tensor.bytes()));
        bytes += tensor.bytes().max(4).next_multiple_of(memory.target.alignment);
    }
    if places.is_empty() {
        return Ok((BTreeMap::new(), None));
    }
    let buffer = gpu.alloc("inputs", bytes)?;
    let inputs = places.into_iter().map(|(name, at, bytes)| (name, buffer.slice(at, bytes))).collect();
    Ok((inputs, Some(buffer)))
}

type PreparedNodes = (Vec<(Prepared, usize)>, Option<Buffer>);

/// Compiles, writes all parameter blocks into one uniform buffer, and binds.
fn prepare(
    gpu: &Gpu,
    described: &[(Dispatch, usize)],
    memory: &Memory,
    resolve: impl Fn(Bind, usize) -> Result<Region>,
) -> Result<PreparedNodes> {
    let align = memory.target.alignment as usize;
    let mut block = vec![];
    let mut offsets = vec![];
    for (dispatch, _) in described {
        offsets.push(block.len());
        block.extend_from_slice(&dispatch.params);
        let padded = dispatch.params.len().next_multiple_of(16);
        block.resize(block.len() - dispatch.params.len() + padded, 0);
        block.resize(block.len().next_multiple_of(align), 0);
    }
    let uniforms = if block.is_empty() { None } else { Some(gpu.alloc_uniform("parameters", block.len() as u64)?) };
    if let Some(buffer) = &uniforms {
        gpu.write(&buffer.region(), 0, &block);
    }
    let mut prepared = vec![];
    for ((dispatch, node), offset) in described.iter().zip(offsets) {
        let mut accesses = vec![];
        let mut resources = vec![];
        if let (Some(buffer), false) = (&uniforms, dispatch.params.is_empty()) {
            accesses.push(crate::gpu::Access::Uniform);
            let block = buffer.slice(offset as u64, dispatch.params.len().next_multiple_of(16) as u64);
            resources.push(Resource::Region(block));
        }
        for &(access, bind) in &dispatch.bindings {
            accesses.push(access);
            resources.push(match bind {
                Bind::Image(number) => Resource::Image(memory.image(number)?),
                _ => Resource::Region(resolve(bind, *node)?),
            });
        }
        let copies = dispatch.copies.iter().map(|copy| {
            let from = resolve(copy.from, *node)?;
            let last = copy.offset + u64::from(copy.pitch) * u64::from(copy.height - 1) + 16 * u64::from(copy.width);
            if last > from.bytes {
                return Err(Error::shape("program", format!("{copy:?} reaches past {} bytes", from.bytes)));
            }
            Ok(ImageCopy {
                from: from.buffer.slice(from.offset + copy.offset, from.bytes - copy.offset),
                pitch: copy.pitch,
                to: memory.image(copy.image)?,
                width: copy.width,
                height: copy.height,
            })
        });
        let copies = copies.collect::<Result<_>>()?;
        let pipeline = gpu.pipeline(dispatch.shader, dispatch.entry, &dispatch.prelude, &accesses);
        prepared.push((gpu.prepare(pipeline, &resources, dispatch.groups).with_copies(copies), *node));
    }
    Ok((prepared, uniforms))
}
