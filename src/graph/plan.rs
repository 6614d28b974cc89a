//! Where every tensor lies and what a run will cost, known without a GPU. Activations share one arena: each gets the lowest
//! offset that is free from the node that writes it to the last node that reads it.

use super::{Graph, Op, Role, TensorId};
use crate::Result;

/// What a plan has to know of the device, in plain numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// Largest range one binding may cover, bytes.
    pub max_binding_bytes: u64,
    /// Largest buffer, bytes.
    pub max_buffer_bytes: u64,
    /// Alignment of a binding's offset, bytes.
    pub alignment: u64,
    /// Largest number of workgroups along one dimension of a dispatch.
    pub max_groups: u32,
    /// Workgroup memory, bytes.
    pub workgroup_bytes: u32,
    /// A CPU that pretends to be a GPU: barriers and workgroup memory are slow there.
    pub software: bool,
    /// Half-precision arithmetic in shaders.
    pub f16: bool,
    /// How products read their operands.
    pub operands: Operands,
}

/// Where products read large operands from. Software adapters fetch a texel of four values in less time than one value of a
/// buffer, so operands are copied into images there, piece by piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operands {
    Buffers,
    /// Storage textures (llvmpipe).
    StorageImages,
    /// Sampled textures (SwiftShader).
    SampledImages,
}

impl Default for Target {
    /// The limits every WebGPU implementation has.
    fn default() -> Self {
        Target {
            max_binding_bytes: 128 << 20,
            max_buffer_bytes: 256 << 20,
            alignment: 256,
            max_groups: 65_535,
            workgroup_bytes: 16 << 10,
            software: false,
            f16: false,
            operands: Operands::Buffers,
        }
    }
}

/// Where a tensor's bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// In arena buffer `buffer`, at `offset` bytes.
    Arena { buffer: u32, offset: u64 },
    /// In the storage of this tensor, which outlives the replay (input, weight, parameter, gradient, state).
    Persistent(TensorId),
    /// Written by no remaining node and read by none.
    Unused,
}

/// What memory is spent on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    Weights,
    Parameters,
    Gradients,
    Optimizer,
    Activations,
    State,
    Inputs,
}

/// Bytes by category.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct MemoryTable(pub std::collections::BTreeMap<Category, u64>);

impl MemoryTable {
    /// Adds bytes to a category.
    pub fn add(&mut self, category: Category, bytes: u64) {
        *self.0.entry(category).or_default() += bytes;
    }

    /// Sum of all categories, bytes.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

/// A graph's layout in memory.
#[derive(Clone, Debug)]
pub struct Plan {
    /// By tensor index.
    pub placements: Vec<Placement>,
    /// By node: offsets of its temporary buffers (arena buffer, offset, bytes).
    pub scratch: Vec<Vec<(u32, u64, u64)>>,
    /// Sizes of the arena buffers, bytes.
    pub arena: Vec<u64>,
}

struct Interval {
    first: usize,
    last: usize,
    bytes: u64,
    place: Option<(u32, u64)>,
}

impl Plan {
    /// Lays out a graph whose in-place updates are safe ([`Graph::copy_before_overwrite`]).
    pub fn new<O: Op>(graph: &Graph<O>, target: &Target) -> Result<Plan> {
        let count = graph.tensors.len();
        let mut root: Vec<TensorId> = (0..count as u32).map(TensorId).collect();
        for node in &graph.nodes {
            for (input, output) in node.op.aliases(node.inputs.len()) {
                root[node.outputs[output].index()] = root[node.inputs[input].index()];
            }
        }
        // One interval for each activation storage, then one for each temporary buffer.
        let mut interval_of: Vec<Option<usize>> = vec![None; count];
        let mut intervals: Vec<Interval> = vec![];
        let align = |bytes: u64| bytes.max(4).next_multiple_of(target.alignment);
        let mut scratch_of: Vec<Vec<usize>> = vec![];
        for (n, node) in graph.nodes.iter().enumerate() {
            for &id in node.inputs.iter().chain(&node.outputs) {
                let r = root[id.index()];
                if graph.get(r).role != Role::Activation {
                    continue;
                }
                let k = *interval_of[r.index()].get_or_insert_with(|| {
                    intervals.push(Interval { first: n, last: n, bytes: 0, place: None });
                    intervals.len() - 1
                });
                intervals[k].last = n;
                intervals[k].bytes = intervals[k].bytes.max(align(graph.get(id).bytes()));
            }
            let inputs: Vec<_> = node.inputs.iter().map(|&i| graph.get(i)).collect();
            let outputs: Vec<_> = node.outputs.iter().map(|&o| graph.get(o)).collect();
            let mut mine = vec![];
            for bytes in node.op.scratch(&inputs, &outputs, target) {
                mine.push(intervals.len());
                intervals.push(Interval { first: n, last: n, bytes: align(bytes), place: None });
            }
            scratch_of.push(mine);
        }
        for &k in &graph.kept {
            if let Some(i) = interval_of[root[k.index()].index()] {
                intervals[i].last = usize::MAX;
            }
        }
        let arena = place(&mut intervals, target.max_buffer_bytes);
        let placed = |i: usize| intervals[i].place.expect("every interval was placed");
        let placements = (0..count)
            .map(|t| {
                let r = root[t];
                match (graph.get(r).role, interval_of[r.index()]) {
                    (Role::Activation, Some(i)) => Placement::Arena { buffer: placed(i).0, offset: placed(i).1 },
                    (Role::Activation, None) => Placement::Unused,
                    _ => Placement::Persistent(r),
                }
            })
            .collect();
        let scratch = scratch_of
            .iter()
            .map(|mine| mine.iter().map(|&i| (placed(i).0, placed(i).1, intervals[i].bytes)).collect())
            .collect();
        Ok(Plan { placements, scratch, arena })
    }

    /// Bytes of the activation arena.
    pub fn arena_bytes(&self) -> u64 {
        self.arena.iter().sum()
    }
}

/// Gives each interval the lowest free place, largest first; a new buffer is opened when none below the limit has room.
fn place(intervals: &mut [Interval], max_buffer_bytes: u64) -> Vec<u64> {
    let mut order: Vec<usize> = (0..intervals.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(intervals[i].bytes), intervals[i].first, i));
    let mut buffers: Vec<(u64, Vec<usize>)> = vec![];
    for i in order {
        let (first, last, bytes) = (intervals[i].first, intervals[i].last, intervals[i].bytes);
        let mut found = None;
        for (b, (_, members)) in buffers.iter().enumerate() {
            // Members are kept sorted by offset.
            let mut offset = 0;
            for &m in members {
                let other = &intervals[m];
                if other.last < first || last < other.first {
                    continue;
                }
                let start = other.place.expect("members are placed").1;
                if offset + bytes <= start {
                    break;
                }
                offset = offset.max(start + other.bytes);
            }
            if offset + bytes <= max_buffer_bytes {
                found = Some((b as u32, offset));
                break;
            }
        }
        let (b, offset) = found.unwrap_or_else(|| {
            buffers.push((0, vec![]));
            (buffers.len() as u32 - 1, 0)
        });
        intervals[i].place = Some((b, offset));
        let (size, members) = &mut buffers[b as usize];
        *size = (*size).max(offset + bytes);
        let at = members.partition_point(|&m| intervals[m].place.expect("members are placed").1 <= offset);
        members.insert(at, i);
    }
    buffers.into_iter().map(|b| b.0).collect()
}
