//! LoRA (Hu et al. 2021): `y = W x + s B A x` with `A [r, in]` and `B [out, r]` trained, W frozen. B starts at zero, so the
//! model starts as it was; `s = alpha / r`, or `alpha / sqrt(r)` with rank stabilisation (Kalajdzievski 2023).

use rand::Rng;

use super::Site;
use crate::graph::{DType, Role, TensorId};
use crate::ops::Graph;
use crate::ops::dropout::Dropout;
use crate::ops::linear::Linear;
use crate::{Error, Result};

/// Which linear layers get an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetModules {
    /// Every linear layer but the head.
    AllLinear,
    /// Layers whose name is one of these or ends in `.` and one of these.
    Names(Vec<String>),
}

impl TargetModules {
    /// Whether a layer such as `model.layers.3.self_attn.q_proj` is a target, as PEFT decides it.
    pub fn matches(&self, site: &str) -> bool {
        match self {
            TargetModules::AllLinear => true,
            TargetModules::Names(names) => names
                .iter()
                .any(|n| site.strip_suffix(n.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))),
        }
    }

    /// The module names among `known` that are targets; errs on a name that matches none of them.
    pub fn resolve(&self, known: &[&str]) -> Result<Vec<String>> {
        match self {
            TargetModules::AllLinear => Ok(known.iter().map(|s| s.to_string()).collect()),
            TargetModules::Names(names) => {
                for name in names {
                    let last = name.rsplit('.').next().unwrap_or(name);
                    if !known.contains(&last) {
                        return Err(Error::Option {
                            name: "target-modules".into(),
                            value: name.clone(),
                            expected: format!("expected all-linear or some of {}", known.join(", ")),
                        });
                    }
                }
                Ok(names.clone())
            }
        }
    }
}

/// LoRA's choices, named as in PEFT's `LoraConfig`.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// Rank.
    pub r: usize,
    pub lora_alpha: f32,
    pub lora_dropout: f32,
    pub target_modules: TargetModules,
    pub use_rslora: bool,
}

/// What PEFT puts before a layer's name.
pub const PREFIX: &str = "base_model.model.";

impl LoraConfig {
    /// The factor `s` of the update.
    pub fn scaling(&self) -> f32 {
        if self.use_rslora { self.lora_alpha / (self.r as f32).sqrt() } else { self.lora_alpha / self.r as f32 }
    }

    /// `y [N, out] + s B A dropout(x [N, in])`.
    pub fn apply(&self, g: &mut Graph, site: &Site<'_>, x: TensorId, y: TensorId, train: bool) -> Result<TensorId> {
        let role = Role::Param { decay: true };
        let name = |m: &str| format!("{PREFIX}{}.{m}.weight", site.name);
        let a = g.tensor(name("lora_A"), &[self.r, site.in_features], DType::F32, role);
        let b = g.tensor(name("lora_B"), &[site.out_features, self.r], DType::F32, role);
        let x = if train && self.lora_dropout > 0.0 {
            g.apply(Dropout { p: self.lora_dropout, salt: site.index }.into(), &[x])?
        } else {
            x
        };
        let u = g.apply(Linear { scale: 1.0 }.into(), &[x, a])?;
        g.apply(Linear { scale: self.scaling() }.into(), &[u, b, y])
    }

    /// A uniform in +-1/sqrt(in) (Kaiming with a = sqrt 5, as PEFT), B zero.
    pub fn initial(&self, name: &str, shape: &[usize], seed: u64) -> Option<Vec<f32>> {
        let n = shape.iter().product();
        if name.ends_with(".lora_B.weight") {
            return Some(vec![0.0; n]);
        }
        if !name.ends_with(".lora_A.weight") {
            return None;
        }
        let bound = 1.0 / (*shape.last()? as f32).sqrt();
        let mut rng = crate::seed::named_rng(seed, name);
        Some((0..n).map(|_| rng.random_range(-bound..bound)).collect())
    }
}
