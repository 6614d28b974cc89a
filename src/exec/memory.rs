//! What outlives a replay on the device, found by name: several graphs (one for each context bucket, one for evaluation, one
//! for generation) share one set of weights, parameters and states, and one activation arena.

use std::collections::BTreeMap;

use super::program::Images;
use crate::gpu::{Buffer, Gpu, Image, Region};
use crate::graph::reference::StepScalars;
use crate::graph::{Category, MemoryTable, Role, Target, Tensor};
use crate::ops::launch::METRICS;
use crate::ops::weight::{self, Shard};
use crate::ops::{ArenaKind, Graph};
use crate::{Error, Result};

/// Where each trained parameter lies in the parameter arena, and at the same place its gradient and moments.
#[derive(Clone, Debug, Default)]
pub struct ParamLayout {
    /// Name to (segment, byte offset, bytes).
    pub places: BTreeMap<String, (usize, u64, u64)>,
    /// Names in arena order: those with weight decay first.
    pub order: Vec<String>,
    /// Bytes of each segment.
    pub segments: Vec<u64>,
    /// Bytes at the start of each segment that weight decay applies to.
    pub decayed: Vec<u64>,
}

/// Alignment of parameters: what any device accepts as a binding offset.
const ALIGN: u64 = 256;
/// A segment is opened when the last one would grow past this.
const SEGMENT: u64 = 64 << 20;

impl ParamLayout {
    /// Lays out the parameters of a graph, in the order in which the graph names them, decayed ones first.
    pub fn of(graph: &Graph) -> ParamLayout {
        let mut layout = ParamLayout::default();
        for wanted in [true, false] {
            for tensor in &graph.tensors {
                if tensor.role != (Role::Param { decay: wanted }) || layout.places.contains_key(&tensor.name) {
                    continue;
                }
                let bytes = tensor.bytes();
                let room = bytes.next_multiple_of(ALIGN);
                if layout.segments.last().is_none_or(|last| last + room > SEGMENT.max(room)) {
                    layout.segments.push(0);
                    layout.decayed.push(0);
                }
                let segment = layout.segments.len() - 1;
                let offset = layout.segments[segment];
                layout.segments[segment] += room;
                if wanted {
                    layout.decayed[segment] = layout.segments[segment];
                }
                layout.places.insert(tensor.name.clone(), (segment, offset, bytes));
                layout.order.push(tensor.name.clone());
            }
        }
        layout
    }

    /// Bytes of one arena.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().sum()
    }
}

/// Everything on the device that is not part of one program.
pub struct Memory {
    pub target: Target,
    weights: BTreeMap<String, Vec<Vec<Buffer>>>,
    layout: ParamLayout,
    arenas: BTreeMap<ArenaKind, Vec<Buffer>>,
    states: BTreeMap<String, Buffer>,
    activations: Vec<Buffer>,
    images: [Option<Image>; 2],
    step: Option<Buffer>,
}

impl Memory {
    /// Empty, for a device with these limits.
    pub fn new(gpu: &Gpu, target: Target) -> Memory {
        let step = gpu.alloc_uniform("step", std::mem::size_of::<StepScalars>() as u64).ok();
        Memory {
            target,
            weights: BTreeMap::new(),
            layout: ParamLayout::default(),
            arenas: BTreeMap::new(),
            states: BTreeMap::new(),
            activations: vec![],
            images: [None, None],
            step,
        }
    }

    /// Encodes and uploads one row shard of a weight, `data [rows of the shard, cols] f32`. Shards come in order.
    pub fn upload_shard(&mut self, gpu: &Gpu, tensor: &Tensor, data: &[f32], shard: &Shard) -> Result<()> {
        let Role::Weight(format) = tensor.role else {
            return Err(Error::shape("upload", format!("{} is not a frozen weight", tensor.name)));
        };
        let bytes = weight::encode(format, shard.rows.len(), tensor.cols(), data)?;
        self.upload_encoded(gpu, &tensor.name, shard, &bytes)
    }

    /// Uploads one row shard of a weight whose parts are encoded already.
    pub fn upload_encoded(&mut self, gpu: &Gpu, name: &str, shard: &Shard, parts: &[Vec<u8>]) -> Result<()> {
        let mut buffers = vec![];
        for (part, bytes) in shard.parts.iter().zip(parts) {
            let buffer = gpu.alloc(&format!("{name} {}", part.name), part.bytes)?;
            gpu.write(&buffer.region(), 0, bytes);
            buffers.push(buffer);
        }
        let shards = self.weights.entry(name.to_string()).or_default();
        if shard.rows.start == 0 {
            shards.clear();
        }
        shards.push(buffers);
        Ok(())
    }

    /// Allocates parameters and gradients (zeros) and, to `train`, the moments.
    pub fn add_params(&mut self, gpu: &Gpu, layout: &ParamLayout, train: bool) -> Result<()> {
        use ArenaKind::{Grads, Metrics, Moment1, Moment2, Params};
        let kinds: &[ArenaKind] = if train { &[Params, Grads, Moment1, Moment2] } else { &[Params, Grads] };
        for &kind in kinds {
            let buffers = layout
                .segments
                .iter()
                .map(|&bytes| {
                    if bytes > self.target.max_binding_bytes {
                        return Err(Error::TooLarge {
                            what: "one trained tensor".into(),
                            needed_bytes: bytes,
                            available: format!("one binding covers at most {}", self.target.max_binding_bytes),
                            advice: "Training an adapter instead of every weight fits".into(),
                        });
                    }
                    gpu.alloc(&format!("{kind:?}"), bytes)
                })
                .collect::<Result<_>>()?;
            self.arenas.insert(kind, buffers);
        }
        self.arenas.insert(Metrics, vec![gpu.alloc("metrics", 4 * METRICS as u64)?]);
        self.layout = layout.clone();
        Ok(())
    }

    /// Where parameters lie.
    pub fn layout(&self) -> &ParamLayout {
        &self.layout
    }

    /// Allocates a state (zeros) unless it exists with at least that size.
    pub fn add_state(&mut self, gpu: &Gpu, tensor: &Tensor) -> Result<()> {
        if self.states.get(&tensor.name).is_none_or(|b| b.bytes() < tensor.bytes()) {
            self.states.insert(tensor.name.clone(), gpu.alloc(&tensor.name, tensor.bytes())?);
        }
        Ok(())
    }

    /// Frees all states.
    pub fn drop_states(&mut self) {
        self.states.clear();
    }

    /// Makes the activation arena at least this large. Programs made before keep the old buffers alive: reserve for the
    /// largest plan first.
    pub fn reserve_arena(&mut self, gpu: &Gpu, sizes: &[u64]) -> Result<()> {
        for (i, &bytes) in sizes.iter().enumerate() {
            if self.activations.get(i).is_none_or(|b| b.bytes() < bytes) {
                self.activations.truncate(i.max(self.activations.len().min(i)));
                let buffer = gpu.alloc("activations", bytes)?;
                if i < self.activations.len() {
                    self.activations[i] = buffer;
                } else {
                    self.activations.push(buffer);
                }
            }
        }
        Ok(())
    }

    /// Makes the two images at least this large; as with the arena, reserve for the largest first.
    pub fn reserve_images(&mut self, gpu: &Gpu, sizes: Images) -> Result<()> {
        for (image, (width, height)) in self.images.iter_mut().zip(sizes) {
            let now = image.as_ref().map_or((0, 0), Image::size);
            if now.0 < width || now.1 < height {
                *image = None;
                *image = Some(gpu.alloc_image("operand", now.0.max(width), now.1.max(height))?);
            }
        }
        Ok(())
    }

    pub(super) fn image(&self, number: usize) -> Result<Image> {
        let image = self.images.get(number).cloned().flatten();
        image.ok_or_else(|| Error::shape("memory", format!("image {number} was not reserved")))
    }

    /// Writes a parameter, a gradient or a state.
    pub fn write(&self, gpu: &Gpu, tensor: &Tensor, data: &[f32]) -> Result<()> {
        let region = self.persistent(tensor)?;
        gpu.write(&region, 0, bytemuck::cast_slice(data));
        Ok(())
    }

    /// The storage of a parameter, gradient or state.
    pub fn persistent(&self, tensor: &Tensor) -> Result<Region> {
        match tensor.role {
            Role::Param { .. } => self.arena_of(ArenaKind::Params, &tensor.name),
            Role::Grad => self.arena_of(ArenaKind::Grads, tensor.name.strip_prefix("d ").unwrap_or(&tensor.name)),
            Role::State => {
                let state = self.states.get(&tensor.name).map(|b| b.slice(0, tensor.bytes().next_multiple_of(4)));
                state.ok_or_else(|| Error::shape("memory", format!("no state {}", tensor.name)))
            }
            _ => Err(Error::shape("memory", format!("{} does not outlive a replay", tensor.name))),
        }
    }

    /// A parameter's place in one of the arenas.
    pub fn arena_of(&self, kind: ArenaKind, name: &str) -> Result<Region> {
        let missing = || Error::shape("memory", format!("no parameter {name} in {kind:?}"));
        let &(segment, offset, bytes) = self.layout.places.get(name).ok_or_else(missing)?;
        let buffer = self.arenas.get(&kind).and_then(|a| a.get(segment)).ok_or_else(missing)?;
        Ok(buffer.slice(offset, bytes))
    }

    /// The buffers of an arena.
    pub fn arena(&self, kind: ArenaKind) -> &[Buffer] {
        self.arenas.get(&kind).map_or(&[], Vec::as_slice)
    }

    /// One buffer of a weight.
    pub fn part(&self, name: &str, shard: usize, part: usize) -> Result<Region> {
        let buffer = self.weights.get(name).and_then(|w| w.get(shard)).and_then(|s| s.get(part));
        buffer.map(Buffer::region).ok_or_else(|| Error::shape("memory", format!("weight {name} is not loaded")))
    }

    /// Whether a weight is on the device.
    pub fn has_weight(&self, name: &str) -> bool {
        self.weights.contains_key(name)
    }

    pub(super) fn activation(&self, buffer: u32, offset: u64, bytes: u64) -> Region {
        self.activations[buffer as usize].slice(offset, bytes.next_multiple_of(4))
    }

    pub(super) fn step(&self) -> Result<Region> {
        self.step.as_ref().map(Buffer::region).ok_or_else(|| Error::OutOfMemory("step scalars".into()))
    }

    /// Bytes allocated, by category.
    pub fn table(&self) -> MemoryTable {
        let mut table = MemoryTable::default();
        let sum = |buffers: &[Buffer]| buffers.iter().map(Buffer::bytes).sum::<u64>();
        table.add(Category::Weights, self.weights.values().flatten().map(|s| sum(s)).sum());
        for (kind, buffers) in &self.arenas {
            let category = match kind {
                ArenaKind::Params => Category::Parameters,
                ArenaKind::Grads => Category::Gradients,
                ArenaKind::Moment1 | ArenaKind::Moment2 => Category::Optimizer,
                ArenaKind::Metrics => Category::Inputs,
            };
            table.add(category, sum(buffers));
        }
        let images: u64 = self.images.iter().flatten().map(Image::bytes).sum();
        table.add(Category::Activations, sum(&self.activations) + images);
        table.add(Category::State, self.states.values().map(Buffer::bytes).sum());
        table
    }
}
