//! The one decoder: builds the graph of a decoder-only transformer for one shape and one purpose. A family differs from
//! another in its [`ModelConfig`]; a method hooks in where `Decoder::linear` calls it.

use super::config::ModelConfig;
use crate::Result;
use crate::graph::{Checkpointing, DType, Role, TensorId};
use crate::ops::Graph;
use crate::ops::attention::Attention;
use crate::ops::cache::CacheWrite;
use crate::ops::cross_entropy::{self, CrossEntropy};
use crate::ops::elementwise::Add;
use crate::ops::embed::Embed;
use crate::ops::gather::GatherRows;
use crate::ops::linear::Linear;
use crate::ops::rms_norm::RmsNorm;
use crate::ops::rope::Rope;
use crate::ops::swiglu::{Act, SwiGlu};
use crate::peft::{Method, Site};
use crate::quant::WeightFormat;

/// How frozen weights are stored. Norms are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightPolicy {
    pub linears: WeightFormat,
    /// Embedding and head.
    pub embedding: WeightFormat,
}

/// Names of the graph's inputs, all u32.
pub mod input {
    /// `[N]` token ids.
    pub const TOKENS: &str = "tokens";
    /// `[N]` positions for the rotary embedding.
    pub const POSITIONS: &str = "positions";
    /// `[N]` first key a token sees, counted within its row.
    pub const FIRST: &str = "first";
    /// `[N]` last key a token sees: itself.
    pub const LAST: &str = "last";
    /// `[N]` token to predict, as the bits of an i32; -100 where nothing is predicted.
    pub const TARGETS: &str = "targets";
    /// `[N]` the supervised tokens' indices first.
    pub const ROWS: &str = "rows";
    /// `[R]` the tokens whose logits are wanted.
    pub const WANTED: &str = "wanted";
}

/// What a graph is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Loss and gradients of what is trained.
    Train { checkpointing: Checkpointing },
    /// Loss only.
    Evaluate,
    /// Logits of `wanted` tokens; keys and values go through a cache of `cache` positions.
    Generate { cache: usize, wanted: usize },
    /// Logits of all tokens, no cache: for tests.
    Logits,
}

/// A graph with the tensors that are read from it.
#[derive(Debug)]
pub struct ModelGraph {
    pub graph: Graph,
    /// `[N]` negative log-likelihood of each supervised token.
    pub nll: Option<TensorId>,
    /// `[R, V]`
    pub logits: Option<TensorId>,
}

/// Shape and purpose of a graph.
#[derive(Clone, Copy, Debug)]
pub struct Decoder<'a> {
    pub config: &'a ModelConfig,
    pub policy: WeightPolicy,
    pub method: &'a Method,
    pub batch: usize,
    /// Tokens of a row.
    pub context: usize,
    /// Positions in the rotary table: at least the largest position, the same for all graphs of a run.
    pub positions: usize,
}

struct Inputs {
    positions: TensorId,
    first: TensorId,
    last: TensorId,
    rope: TensorId,
}

impl Decoder<'_> {
    fn weight(&self, g: &mut Graph, name: &str, shape: &[usize]) -> TensorId {
        let role = if self.method.trains_base() {
            Role::Param { decay: shape.len() > 1 }
        } else if shape.len() == 1 {
            Role::Weight(WeightFormat::F32)
        } else if name.contains(".layers.") {
            Role::Weight(self.policy.linears)
        } else {
            Role::Weight(self.policy.embedding)
        };
        g.tensor(name, shape, DType::F32, role)
    }

    /// `model.layers.{layer}.{place}.{module}` with what the method adds to it.
    fn linear(
        &self,
        g: &mut Graph,
        layer: usize,
        place: &str,
        module: &str,
        x: TensorId,
        train: bool,
    ) -> Result<TensorId> {
        let name = format!("model.layers.{layer}.{place}.{module}");
        let [out_features, in_features] = self.config.linear_shape(module);
        let w = self.weight(g, &format!("{name}.weight"), &[out_features, in_features]);
        let y = g.apply(Linear { scale: 1.0 }.into(), &[x, w])?;
        let modules = super::config::LINEAR_MODULES;
        let position = modules.iter().position(|(m, _)| *m == module).unwrap_or(0);
        let index = (layer * modules.len() + position) as u32;
        self.method.linear(g, &Site { name: &name, module, in_features, out_features, index }, x, y, train)
    }

    fn norm(&self, g: &mut Graph, name: &str, x: TensorId) -> Result<TensorId> {
        let w = self.weight(g, name, &[self.config.hidden_size]);
        Ok(g.emit(RmsNorm { eps: self.config.rms_norm_eps }.into(), &[x, w])?[0])
    }

    fn block(&self, g: &mut Graph, layer: usize, x: TensorId, inputs: &Inputs, purpose: Purpose) -> Result<TensorId> {
        let c = self.config;
        let train = matches!(purpose, Purpose::Train { .. });
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        let h = self.norm(g, &name("input_layernorm"), x)?;
        let rope = |g: &mut Graph, t: TensorId| {
            g.apply(Rope { head_dim: c.head_dim as u32, inverse: false }.into(), &[t, inputs.positions, inputs.rope])
        };
        let q = self.linear(g, layer, "self_attn", "q_proj", h, train)?;
        let k = self.linear(g, layer, "self_attn", "k_proj", h, train)?;
        let mut v = self.linear(g, layer, "self_attn", "v_proj", h, train)?;
        let q = rope(g, q)?;
        let mut k = rope(g, k)?;
        if let Purpose::Generate { cache, .. } = purpose {
            let shape = [self.batch * cache, c.num_key_value_heads * c.head_dim];
            let write = |g: &mut Graph, t: TensorId, what: &str| {
                let state = g.tensor(format!("cache.{layer}.{what}"), &shape, DType::F32, Role::State);
                g.apply(CacheWrite { batch: self.batch as u32 }.into(), &[t, inputs.last, state])
            };
            k = write(g, k, "k")?;
            v = write(g, v, "v")?;
        }
        let attention = Attention {
            batch: self.batch as u32,
            heads: c.num_attention_heads as u32,
            kv_heads: c.num_key_value_heads as u32,
            head_dim: c.head_dim as u32,
            scale: 1.0 / (c.head_dim as f32).sqrt(),
        };
        let o = g.emit(attention.into(), &[q, k, v, inputs.first, inputs.last])?[0];
        let o = self.linear(g, layer, "self_attn", "o_proj", o, train)?;
        let x = g.apply(Add.into(), &[x, o])?;
        let h = self.norm(g, &name("post_attention_layernorm"), x)?;
        let gate = self.linear(g, layer, "mlp", "gate_proj", h, train)?;
        let up = self.linear(g, layer, "mlp", "up_proj", h, train)?;
        let h = g.apply(SwiGlu { act: Act::Silu }.into(), &[gate, up])?;
        let h = self.linear(g, layer, "mlp", "down_proj", h, train)?;
        g.apply(Add.into(), &[x, h])
    }

    /// Builds the graph, ready to be planned.
    pub fn build(&self, purpose: Purpose) -> Result<ModelGraph> {
        let c = self.config;
        let mut graph = Graph::default();
        let g = &mut graph;
        let n = self.batch * self.context;
        let tokens = g.input(input::TOKENS, &[n]);
        let rope_role = Role::Weight(WeightFormat::F32);
        let inputs = Inputs {
            positions: g.input(input::POSITIONS, &[n]),
            first: g.input(input::FIRST, &[n]),
            last: g.input(input::LAST, &[n]),
            rope: g.tensor("rope", &[self.positions, c.head_dim], DType::F32, rope_role),
        };
        let table = self.weight(g, "model.embed_tokens.weight", &[c.vocab_size, c.hidden_size]);
        let mut x = g.apply(Embed.into(), &[tokens, table])?;
        for layer in 0..c.num_hidden_layers {
            g.set_segment(Some(layer as u32));
            x = self.block(g, layer, x, &inputs, purpose)?;
        }
        g.set_segment(None);
        let head = if c.tie_word_embeddings {
            table
        } else {
            self.weight(g, "lm_head.weight", &[c.vocab_size, c.hidden_size])
        };
        let mut result = ModelGraph { graph: Graph::default(), nll: None, logits: None };
        match purpose {
            Purpose::Train { checkpointing } => {
                let h = self.norm(g, "model.norm.weight", x)?;
                let (targets, rows) = (g.input(input::TARGETS, &[n]), g.input(input::ROWS, &[n]));
                let (nll, dh) = cross_entropy::emit(g, self.loss(n, true), h, head, targets, rows)?;
                g.keep(nll);
                result.nll = Some(nll);
                let dh = dh.ok_or_else(|| crate::Error::shape("decoder", "the loss gave no gradient"))?;
                g.backward(&[(h, dh)], checkpointing)?;
            }
            Purpose::Evaluate => {
                let h = self.norm(g, "model.norm.weight", x)?;
                let (targets, rows) = (g.input(input::TARGETS, &[n]), g.input(input::ROWS, &[n]));
                let (nll, _) = cross_entropy::emit(g, self.loss(n, false), h, head, targets, rows)?;
                g.keep(nll);
                result.nll = Some(nll);
            }
            Purpose::Generate { wanted, .. } => {
                let rows = g.input(input::WANTED, &[wanted]);
                let x = g.apply(GatherRows.into(), &[x, rows])?;
                let h = self.norm(g, "model.norm.weight", x)?;
                let logits = g.apply(Linear { scale: 1.0 }.into(), &[h, head])?;
                g.keep(logits);
                result.logits = Some(logits);
            }
            Purpose::Logits => {
                let h = self.norm(g, "model.norm.weight", x)?;
                let logits = g.apply(Linear { scale: 1.0 }.into(), &[h, head])?;
                g.keep(logits);
                result.logits = Some(logits);
            }
        }
        graph.eliminate_dead_nodes();
        graph.copy_before_overwrite()?;
        result.graph = graph;
        Ok(result)
    }

    /// The head's loss, in chunks of supervised tokens.
    fn loss(&self, tokens: usize, train: bool) -> CrossEntropy {
        let rows_per_chunk = cross_entropy::rows_per_chunk(self.config.vocab_size, tokens);
        CrossEntropy { rows_per_chunk, train, softcap: None, add_to_metrics: false }
    }
}
