//! Where the values of an export come from: a base model with an adapter merged into it, or a model trained in full.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::io::rows_and_columns;
use crate::model::ModelFiles;
use crate::model::weights::{TensorEntry, TensorSource};
use crate::peft::lora::PREFIX;
use crate::peft::{Adapter, LoraConfig, Method, NamedTensor};
use crate::platform::parallel;
use crate::{Error, Result};

/// One matrix's update: `a [r, in]`, `b [out, r]`.
struct Update<'a> {
    a: &'a [f32],
    b: &'a [f32],
    rank: usize,
}

/// A base model with a LoRA adapter in it: `W + s B A`.
pub struct Merged<'a> {
    base: &'a dyn TensorSource,
    scale: f32,
    updates: BTreeMap<String, Update<'a>>,
}

impl<'a> Merged<'a> {
    /// Pairs the adapter's tensors with the model's. Errs with all of those that have no place in it or the wrong shape.
    pub fn new(model: &'a ModelFiles, adapter: &'a Adapter) -> Result<Merged<'a>> {
        let Method::Lora(lora) = &adapter.method else {
            return Err(Error::Unsupported { what: "merging this method".into(), supported: "lora".into() });
        };
        let shapes: BTreeMap<String, Vec<usize>> = model.config().tensors().into_iter().collect();
        let mut problems = vec![];
        let mut updates = BTreeMap::new();
        let by_name: BTreeMap<&str, &NamedTensor> = adapter.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
        for (name, tensor) in &by_name {
            match site(name, "lora_A").and_then(|site| Some((shapes.get(&format!("{site}.weight"))?, site))) {
                Some((shape, site)) => match pair(lora, site, shape, tensor, &by_name) {
                    Ok(update) => _ = updates.insert(format!("{site}.weight"), update),
                    Err(problem) => problems.push(problem),
                },
                None => {
                    let paired = site(name, "lora_B")
                        .is_some_and(|site| by_name.contains_key(format!("{PREFIX}{site}.lora_A.weight").as_str()));
                    if !paired {
                        problems.push(format!("{name} has no place in this model"));
                    }
                }
            }
        }
        if !problems.is_empty() {
            return Err(Error::Weights { file: "the adapter".into(), problems });
        }
        Ok(Merged { base: model.source(), scale: lora.scaling(), updates })
    }
}

/// `model.layers.0.self_attn.q_proj` of `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`.
fn site<'n>(name: &'n str, matrix: &str) -> Option<&'n str> {
    name.strip_prefix(PREFIX)?.strip_suffix(".weight")?.strip_suffix(matrix)?.strip_suffix('.')
}

fn pair<'a>(
    lora: &LoraConfig,
    site: &str,
    shape: &[usize],
    a: &'a NamedTensor,
    by_name: &BTreeMap<&str, &'a NamedTensor>,
) -> std::result::Result<Update<'a>, String> {
    let &[out_features, in_features] = shape else { return Err(format!("{site} is no linear layer")) };
    let name = format!("{PREFIX}{site}.lora_B.weight");
    let b = by_name.get(name.as_str()).ok_or_else(|| format!("{name} is missing"))?;
    for (tensor, expected) in [(a, [lora.r, in_features]), (*b, [out_features, lora.r])] {
        if tensor.shape != expected {
            return Err(format!("{} is {:?}, expected {expected:?}", tensor.name, tensor.shape));
        }
    }
    Ok(Update { a: &a.data, b: &b.data, rank: lora.r })
}

impl TensorSource for Merged<'_> {
    fn entries(&self) -> &[TensorEntry] {
        self.base.entries()
    }

    fn read_rows(&self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        self.base.read_rows(name, rows.clone(), out)?;
        let Some(update) = self.updates.get(name) else { return Ok(()) };
        let (columns, scale) = (update.a.len() / update.rank, self.scale);
        parallel::chunks_mut(out, columns, |i, row| {
            let b = &update.b[(rows.start + i) * update.rank..][..update.rank];
            let mut delta = vec![0.0f32; columns];
            for (b, a) in b.iter().zip(update.a.chunks(columns)) {
                delta.iter_mut().zip(a).for_each(|(delta, a)| *delta += b * a);
            }
            row.iter_mut().zip(delta).for_each(|(w, delta)| *w += scale * delta);
        });
        Ok(())
    }

    fn location(&self) -> String {
        self.base.location()
    }
}

/// Trained tensors on the host, under Hugging Face's names.
pub struct Trained<'a> {
    entries: Vec<TensorEntry>,
    tensors: BTreeMap<&'a str, &'a NamedTensor>,
}

impl<'a> Trained<'a> {
    /// The tensors of a run of full fine-tuning.
    pub fn new(tensors: &'a [NamedTensor]) -> Trained<'a> {
        let entry = |t: &NamedTensor| TensorEntry { name: t.name.clone(), shape: t.shape.clone(), dtype: "F32".into() };
        Trained {
            entries: tensors.iter().map(entry).collect(),
            tensors: tensors.iter().map(|t| (t.name.as_str(), t)).collect(),
        }
    }
}

impl TensorSource for Trained<'_> {
    fn entries(&self) -> &[TensorEntry] {
        &self.entries
    }

    fn read_rows(&self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let tensor =
            self.tensors.get(name).ok_or_else(|| Error::malformed(self.location(), format!("has no {name}")))?;
        let (count, columns) = rows_and_columns(&tensor.shape);
        if rows.end > count || out.len() != rows.len() * columns {
            return Err(Error::malformed(self.location(), format!("{name}: no rows {rows:?} of {count}")));
        }
        out.copy_from_slice(&tensor.data[rows.start * columns..rows.end * columns]);
        Ok(())
    }

    fn location(&self) -> String {
        "the trained model".into()
    }
}
