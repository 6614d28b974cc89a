//! Small graphs, one op each (and its backward pass), at awkward sizes.

use espalier::graph::reference::StepScalars;
use espalier::graph::{Checkpointing, DType, Op as _, Role, TensorId, Value};
use espalier::ops::attention::Attention;
use espalier::ops::cache::CacheWrite;
use espalier::ops::cross_entropy::{self, CrossEntropy};
use espalier::ops::dropout::Dropout;
use espalier::ops::embed::Embed;
use espalier::ops::gather::GatherRows;
use espalier::ops::linear::Linear;
use espalier::ops::rope::{self, Rope};
use espalier::ops::swiglu::{Act, SwiGlu};
use espalier::ops::{Graph, Op, weight};
use espalier::quant::WeightFormat;
use rustc_hash::FxHashMap;

/// A graph with values for what nothing in it computes.
pub struct Case {
    pub name: String,
    pub graph: Graph,
    pub values: FxHashMap<TensorId, Value<f64>>,
    pub step: StepScalars,
    /// Weights before they were rounded to their format: what the device encodes. (Double quantization of values that went
    /// through it once does not give the same again.)
    pub unrounded: FxHashMap<TensorId, Vec<f32>>,
    /// Outputs and what each of their elements weighs in the loss.
    pub losses: Vec<(TensorId, Vec<f64>)>,
    pub differentiable: bool,
}

impl Case {
    fn new(name: String) -> Case {
        Case {
            name,
            graph: Graph::default(),
            values: FxHashMap::default(),
            step: StepScalars { dropout_seed: 7, loss_scale: 0.25, ..Default::default() },
            unrounded: FxHashMap::default(),
            losses: vec![],
            differentiable: true,
        }
    }

    /// Numbers in (-1, 1) that f32 holds exactly.
    fn fill(&mut self, id: TensorId) {
        let numbers = numbers(self.graph.get(id).elements(), id.0 + 1);
        self.values.insert(id, Value::Real(numbers));
    }

    /// A trained tensor, and an activation that equals it.
    fn param(&mut self, name: &str, shape: &[usize]) -> TensorId {
        let id = self.graph.tensor(name, shape, DType::F32, Role::Param { decay: true });
        self.fill(id);
        self.graph.apply(Op::copy(), &[id]).unwrap()
    }

    fn weight(&mut self, name: &str, shape: &[usize], format: WeightFormat) -> TensorId {
        let id = self.graph.tensor(name, shape, DType::F32, Role::Weight(format));
        self.fill(id);
        if let Some(Value::Real(values)) = self.values.get_mut(&id) {
            let (data, tensor): (Vec<f32>, _) = (values.iter().map(|v| *v as f32).collect(), self.graph.get(id));
            let held = weight::round_trip(format, tensor.rows(), tensor.cols(), &data).unwrap();
            *values = held.into_iter().map(f64::from).collect();
            self.unrounded.insert(id, data);
        }
        id
    }

    fn ints(&mut self, name: &str, values: Vec<u32>) -> TensorId {
        let id = self.graph.input(name, &[values.len()]);
        self.values.insert(id, Value::Int(values));
        id
    }

    /// Keeps an output, weighs it in the loss, and gives the gradient the backward pass starts from.
    fn seed(&mut self, y: TensorId) -> (TensorId, TensorId) {
        let shape = self.graph.get(y).shape.clone();
        let dy = self.weight(&format!("dy{}", y.0), &shape, WeightFormat::F32);
        let Value::Real(weights) = &self.values[&dy] else { panic!("weights are real") };
        self.losses.push((y, weights.clone()));
        self.graph.keep(y);
        (y, self.graph.apply(Op::copy(), &[dy]).unwrap())
    }

    fn backward(mut self, outputs: &[TensorId]) -> Case {
        let seeds: Vec<_> = outputs.iter().map(|y| self.seed(*y)).collect();
        self.graph.backward(&seeds, Checkpointing::Off).unwrap();
        self.graph.copy_before_overwrite().unwrap();
        self
    }

    fn forward_only(mut self, outputs: &[TensorId]) -> Case {
        outputs.iter().for_each(|y| self.graph.keep(*y));
        self.differentiable = false;
        self.graph.copy_before_overwrite().unwrap();
        self
    }
}

/// Deterministic numbers in (-1, 1), multiples of 2^-11: f32 and f16 hold them exactly.
fn numbers(n: usize, seed: u32) -> Vec<f64> {
    (0..n as u32)
        .map(|i| {
            let hash = (i.wrapping_add(1).wrapping_mul(2_654_435_761) ^ seed.wrapping_mul(0x9e37_79b9))
                .wrapping_mul(0x85eb_ca6b);
            f64::from(hash >> 20) / 2048.0 - 1.0
        })
        .collect()
}

/// All cases.
pub fn all() -> Vec<Case> {
    [swiglu(), dropout(), rope(), embed(), cache(), gather(), attention(), cross_entropy(), linear(false)]
        .into_iter()
        .flatten()
        .collect()
}

fn swiglu() -> Vec<Case> {
    let mut cases = vec![];
    for act in [Act::Silu, Act::GeluTanh, Act::Relu] {
        for (rows, cols) in [(1, 1), (3, 67)] {
            let mut c = Case::new(format!("swiglu {act:?} {rows}x{cols}"));
            let (gate, up) = (c.param("gate", &[rows, cols]), c.param("up", &[rows, cols]));
            let h = c.graph.apply(SwiGlu { act }.into(), &[gate, up]).unwrap();
            cases.push(c.backward(&[h]));
            let mut c = Case::new(format!("plain {act:?} {rows}x{cols}"));
            let gate = c.param("gate", &[rows, cols]);
            let h = c.graph.apply(SwiGlu { act }.into(), &[gate]).unwrap();
            cases.push(c.backward(&[h]));
        }
    }
    cases
}

fn dropout() -> Vec<Case> {
    [(0.0, 1), (0.5, 193), (0.9, 64)]
        .map(|(p, n)| {
            let mut c = Case::new(format!("dropout {p} {n}"));
            let x = c.param("x", &[n]);
            let y = c.graph.apply(Dropout { p, salt: 3 }.into(), &[x]).unwrap();
            c.backward(&[y])
        })
        .into()
}

fn rope() -> Vec<Case> {
    // (rows, heads, head_dim, rotary_dim)
    [(1, 1, 2, 2), (5, 3, 8, 8), (7, 2, 10, 6)]
        .map(|(rows, heads, dim, rotary)| {
            let mut c = Case::new(format!("rope {rows}x{heads}x{dim}, {rotary} rotated"));
            let x = c.param("x", &[rows, heads * dim]);
            let positions = c.ints("positions", (0..rows as u32).map(|i| i * 5 % 9).collect());
            let table = c.weight("cos_sin", &[9, rotary], WeightFormat::F32);
            let values = rope::table(&rope::default_inv_freq(10_000.0, rotary), 9, 1.0);
            c.values.insert(table, Value::Real(values.iter().copied().map(f64::from).collect()));
            c.unrounded.insert(table, values);
            let rotate = Rope { head_dim: dim as u32, inverse: false };
            let y = c.graph.apply(rotate.into(), &[x, positions, table]).unwrap();
            c.backward(&[y])
        })
        .into()
}

/// Every format a weight is stored in, and `None` for a trained one.
const FORMATS: [Option<WeightFormat>; 9] = [
    None,
    Some(WeightFormat::F32),
    Some(WeightFormat::F16),
    Some(WeightFormat::Bf16),
    Some(WeightFormat::Int8),
    Some(WeightFormat::Int4),
    Some(WeightFormat::Fp4),
    Some(WeightFormat::Nf4 { double_quant: false }),
    Some(WeightFormat::Nf4 { double_quant: true }),
];

/// `y = x W^T` and both gradients. The small sizes are all awkward; the `large` ones cross tiles, pieces and quantization
/// blocks, and are too large for finite differences.
pub fn linear(large: bool) -> Vec<Case> {
    // rows, in, out
    let small = [(1, 1, 1), (3, 67, 5), (2, 64, 3), (1, 8, 12)];
    // Of the second piece of x or W on, and of tiles with one row or column too many.
    let tall = [(1, 192, 129), (17, 64, 8), (33, 192, 64), (64, 64, 192), (65, 128, 65), (40, 100, 36)];
    let pieces = [(2100, 64, 64), (20, 64, 2112), (20, 8320, 130), (300, 72, 264)];
    let sizes: &[(usize, usize, usize)] = if large { &[tall.as_slice(), &pieces].concat() } else { &small };
    let mut cases = vec![];
    for format in FORMATS {
        for &(rows, input, output) in sizes {
            let all = matches!(format, None | Some(WeightFormat::Nf4 { double_quant: false }));
            if large && !all && ![(1, 192, 129), (65, 128, 65)].contains(&(rows, input, output)) {
                continue;
            }
            let name = format.map_or("trained".to_string(), |f| f.to_string());
            let mut c = Case::new(format!("linear {rows}x{input} to {output} {name}"));
            let x = c.param("x", &[rows, input]);
            let w = match format {
                Some(format) => c.weight("w", &[output, input], format),
                None => {
                    let w = c.graph.tensor("w", &[output, input], DType::F32, Role::Param { decay: true });
                    c.fill(w);
                    w
                }
            };
            let y = c.graph.apply(Linear { scale: 0.5 }.into(), &[x, w]).unwrap();
            // Added to in place, and so is its input's gradient.
            let y = c.graph.apply(Linear { scale: 1.0 }.into(), &[x, w, y]).unwrap();
            let mut c = c.backward(&[y]);
            c.differentiable = !large;
            cases.push(c);
        }
    }
    cases
}

fn embed() -> Vec<Case> {
    let mut cases = vec![];
    for (tokens, vocab, cols) in [(1, 1, 1), (9, 5, 67)] {
        for format in FORMATS.into_iter().flatten() {
            let mut c = Case::new(format!("embed {tokens} of {vocab}x{cols} {format}"));
            let ids = c.ints("tokens", (0..tokens).map(|i| i * 7 % vocab).collect());
            let table = c.weight("table", &[vocab as usize, cols], format);
            let y = c.graph.apply(Embed.into(), &[ids, table]).unwrap();
            cases.push(c.forward_only(&[y]));
        }
        let mut c = Case::new(format!("embed {tokens} of {vocab}x{cols} trained"));
        // The last token is out of range: its row is zero, and it gets no gradient.
        let ids = c.ints("tokens", (0..tokens).map(|i| if i == 8 { u32::MAX } else { i * 7 % vocab }).collect());
        let table = c.graph.tensor("table", &[vocab as usize, cols], DType::F32, Role::Param { decay: false });
        c.fill(table);
        let y = c.graph.apply(Embed.into(), &[ids, table]).unwrap();
        cases.push(c.backward(&[y]));
    }
    cases
}

/// Cases whose weights are split by rows where a binding covers 4 KiB.
pub fn sharded() -> Vec<Case> {
    let (vocab, cols, tokens) = (150, 12, 11);
    let mut lookup = Case::new("sharded embed".into());
    let ids = lookup.ints("tokens", (0..tokens as u32).map(|i| i * 67 % vocab as u32).collect());
    let table = lookup.weight("table", &[vocab, cols], WeightFormat::F32);
    let y = lookup.graph.apply(Embed.into(), &[ids, table]).unwrap();
    let mut loss = Case::new("sharded head".into());
    loss.step.supervised = tokens as u32;
    let x = loss.param("x", &[tokens, cols]);
    let head = loss.weight("head", &[vocab, cols], WeightFormat::F32);
    let targets = loss.ints("targets", (0..tokens as u32).map(|i| i * 29 % vocab as u32).collect());
    let rows = loss.ints("rows", (0..tokens as u32).rev().collect());
    let op = CrossEntropy { rows_per_chunk: 8, train: true, softcap: None, add_to_metrics: false };
    let (nll, dx) = cross_entropy::emit(&mut loss.graph, op, x, head, targets, rows).unwrap();
    vec![lookup.forward_only(&[y]), loss.forward_only(&[nll, dx.expect("training gives dx")])]
}

fn cache() -> Vec<Case> {
    [(1, 1, 1, 1), (2, 3, 5, 67)]
        .map(|(batch, rows, slots, cols)| {
            let mut c = Case::new(format!("cache {batch}x{rows} to {slots}x{cols}"));
            let new = c.param("new", &[batch * rows, cols]);
            // The last row of each batch row is padding where there is more than one.
            let position =
                |i: usize| if rows > 1 && i % rows == rows - 1 { u32::MAX } else { (slots - 1 - i % rows) as u32 };
            let positions = c.ints("positions", (0..batch * rows).map(position).collect());
            let cache = c.graph.tensor("cache", &[batch * slots, cols], DType::F32, Role::State);
            c.fill(cache);
            c.graph.apply(CacheWrite { batch: batch as u32 }.into(), &[new, positions, cache]).unwrap();
            c.forward_only(&[])
        })
        .into()
}

fn gather() -> Vec<Case> {
    [(1, 1, 1), (9, 4, 67)]
        .map(|(rows, gathered, cols)| {
            let mut c = Case::new(format!("gather {gathered} of {rows}x{cols}"));
            let x = c.param("x", &[rows, cols]);
            let chosen = c.ints("rows", (0..gathered).map(|i| i * 5 % rows as u32).collect());
            let y = c.graph.apply(GatherRows.into(), &[x, chosen]).unwrap();
            c.forward_only(&[y])
        })
        .into()
}

/// What each query sees.
#[derive(Clone, Copy, Debug)]
enum Mask {
    Causal,
    /// Two packed sequences, and the last query is padding.
    Packed,
    /// The three latest keys.
    Window,
}

fn attention() -> Vec<Case> {
    // (batch, queries, keys, heads, kv_heads, head_dim)
    let shapes = [
        (1, 1, 1, 1, 1, 1),
        (2, 5, 5, 3, 1, 4),
        (1, 33, 33, 2, 2, 6),
        (1, 31, 31, 4, 2, 64),
        (2, 40, 40, 3, 3, 8),
        (1, 70, 70, 2, 1, 36),
        (2, 1, 45, 6, 2, 16),
        (1, 3, 67, 2, 1, 128),
    ];
    let mut cases = vec![];
    for (batch, queries, keys, heads, kv_heads, dim) in shapes {
        for mask in [Mask::Causal, Mask::Packed, Mask::Window] {
            let mut c = Case::new(format!("attention {batch}x{queries}x{keys} {heads}/{kv_heads}x{dim} {mask:?}"));
            let q = c.param("q", &[batch * queries, heads * dim]);
            let k = c.param("k", &[batch * keys, kv_heads * dim]);
            let v = c.param("v", &[batch * keys, kv_heads * dim]);
            let bounds = |i: usize| {
                let t = i % queries + keys - queries;
                match mask {
                    Mask::Causal => (0, t),
                    Mask::Packed if t + 1 == keys && queries > 1 => (1, 0),
                    Mask::Packed => (if t >= keys / 2 { keys / 2 } else { 0 }, t),
                    Mask::Window => (t.saturating_sub(2), t),
                }
            };
            let first = c.ints("first", (0..batch * queries).map(|i| bounds(i).0 as u32).collect());
            let last = c.ints("last", (0..batch * queries).map(|i| bounds(i).1 as u32).collect());
            let op = Attention {
                batch: batch as u32,
                heads: heads as u32,
                kv_heads: kv_heads as u32,
                head_dim: dim as u32,
                scale: (dim as f32).sqrt().recip(),
            };
            let o = c.graph.emit(op.into(), &[q, k, v, first, last]).unwrap()[0];
            cases.push(c.backward(&[o]));
        }
    }
    cases
}

fn cross_entropy() -> Vec<Case> {
    let mut cases = vec![];
    // (tokens, cols, vocab, rows of a chunk, supervised)
    for (tokens, cols, vocab, rows_per_chunk, supervised) in
        [(1, 1, 1, 8, 1), (13, 5, 67, 8, 10), (17, 12, 130, 8, 13), (9, 4, 33, 8, 0)]
    {
        for (trained, softcap) in [(false, None), (true, None), (true, Some(2.5))] {
            let name =
                format!("cross entropy {supervised}/{tokens}x{cols}x{vocab}, head trained {trained}, {softcap:?}");
            let mut c = Case::new(name);
            c.step.supervised = supervised;
            let x = c.param("x", &[tokens, cols]);
            let role = if trained { Role::Param { decay: false } } else { Role::Weight(WeightFormat::F32) };
            let head = c.graph.tensor("head", &[vocab, cols], DType::F32, role);
            c.fill(head);
            let target = |i: usize| if i % 4 == 3 { -100i32 as u32 } else { (i * 29 % vocab) as u32 };
            let targets = c.ints("targets", (0..tokens).map(target).collect());
            let mut rows: Vec<u32> = (0..tokens as u32).filter(|i| i % 4 != 3).collect();
            rows.resize(tokens, 0);
            let rows = c.ints("rows", rows);
            let op = CrossEntropy { rows_per_chunk, train: true, softcap, add_to_metrics: true };
            let (nll, dx) = cross_entropy::emit(&mut c.graph, op, x, head, targets, rows).unwrap();
            let dx = dx.expect("training gives dx");
            c.graph.keep(nll);
            c.graph.keep(dx);
            c.losses.push((nll, vec![f64::from(c.step.loss_scale); tokens]));
            c.graph.backward(&[(x, dx)], Checkpointing::Off).unwrap();
            c.graph.copy_before_overwrite().unwrap();
            cases.push(c);
        }
    }
    cases
}
