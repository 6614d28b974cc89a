//! Parameter-efficient methods: what each adds to the graph, one file a method, and PEFT's file format.

pub mod format;
pub mod lora;

pub use format::Adapter;
pub use lora::{LoraConfig, TargetModules};

use crate::Result;
use crate::graph::TensorId;
use crate::ops::Graph;

/// What is trained.
#[derive(Clone, Debug, PartialEq)]
pub enum Method {
    /// Nothing: the base model as it is.
    None,
    /// A low-rank update beside chosen linear layers.
    Lora(LoraConfig),
    /// Every weight.
    Full,
}

/// One linear layer of the model, where a method may hook in.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// `model.layers.3.self_attn.q_proj`
    pub name: &'a str,
    /// `q_proj`
    pub module: &'a str,
    pub in_features: usize,
    pub out_features: usize,
    /// Position among the model's linear layers: makes dropout masks differ.
    pub index: u32,
}

impl Method {
    /// Whether the model's own weights are trained.
    pub fn trains_base(&self) -> bool {
        matches!(self, Method::Full)
    }

    /// What the method makes of a linear layer's output `y [N, out]`, given its input `x [N, in]`. `train` switches dropout.
    pub fn linear(&self, g: &mut Graph, site: &Site<'_>, x: TensorId, y: TensorId, train: bool) -> Result<TensorId> {
        match self {
            Method::Lora(lora) if lora.target_modules.matches(site.name) => lora.apply(g, site, x, y, train),
            _ => Ok(y),
        }
    }

    /// The trained tensors with the update `strength` times as large: 0 is the base, 1 what was trained. `base` gives the
    /// model's own weight of that name and shape, which only full fine-tuning needs.
    pub fn at_strength(
        &self,
        tensors: &[NamedTensor],
        strength: f32,
        base: impl Fn(&NamedTensor) -> Result<Vec<f32>>,
    ) -> Result<Vec<NamedTensor>> {
        let mut scaled = tensors.to_vec();
        for tensor in scaled.iter_mut().filter(|_| strength != 1.0) {
            match self {
                Method::Lora(_) if tensor.name.ends_with("lora_B.weight") => {
                    tensor.data.iter_mut().for_each(|b| *b *= strength);
                }
                Method::Full => {
                    let before = base(tensor)?;
                    tensor.data.iter_mut().zip(before).for_each(|(w, before)| *w = before + strength * (*w - before));
                }
                _ => {}
            }
        }
        Ok(scaled)
    }

    /// First values of a parameter that the method added; `name` and `shape` as the graph has them. None for parameters of
    /// the base model.
    pub fn initial(&self, name: &str, shape: &[usize], seed: u64) -> Option<Vec<f32>> {
        match self {
            Method::Lora(lora) => lora.initial(name, shape, seed),
            _ => None,
        }
    }
}

/// A tensor on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}
