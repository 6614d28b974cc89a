//! A run as it stands after some optimizer step, in one file: going on from it gives the numbers of a run that never stopped.
//!
//! The file is a safetensors container: tensors `parameters/NAME`, `moment1/NAME`, `moment2/NAME` and, where early stopping
//! keeps the best, `best/NAME`, all f32; the rest is JSON in the header, with a SHA-256 sum of all that is in the file. The
//! page and the native build write the same file.

use std::collections::BTreeMap;
use std::io::Write;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::RunConfig;
use super::trainer::OptimizerState;
use crate::data::Position;
use crate::io::ByteSource;
use crate::io::safetensors::{Dtype, SafetensorsReader, SafetensorsWriter, TensorSpec};
use crate::peft::NamedTensor;
use crate::{Error, Result};

/// Name of the checkpoint in a run's folder.
pub const CHECKPOINT_FILE: &str = "checkpoint.espalier";

/// The header's key that holds [`RunState`] as JSON.
const STATE_KEY: &str = "espalier_checkpoint";
/// The header's key that holds the sum over the JSON, the names and the data of the tensors.
const SUM_KEY: &str = "sha256";
/// Raised when a reader of today could not read the file.
const FORMAT: u32 = 1;

/// What a checkpoint was made from: enough to tell another model or data set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// For people: a path, a hub id, sizes.
    pub name: String,
    /// SHA-256 of what matters, in hexadecimal.
    pub sha256: String,
}

impl Identity {
    /// The identity of what `feed` gives to the hash.
    pub fn of(name: impl Into<String>, feed: impl FnOnce(&mut Sha256) -> Result<()>) -> Result<Identity> {
        let mut hash = Sha256::new();
        feed(&mut hash)?;
        Ok(Identity { name: name.into(), sha256: hexadecimal(hash) })
    }
}

fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An evaluation on the held-out data.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluated {
    /// Optimizer steps made before it.
    pub step: u64,
    /// Mean negative log-likelihood of a supervised token, nats.
    pub loss: f64,
}

/// Everything of a run that is not a tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    pub format: u32,
    pub config: RunConfig,
    pub model: Identity,
    pub data: Identity,
    /// The held-out data, where there is any.
    pub eval_data: Option<Identity>,
    /// Optimizer steps made.
    pub step: u64,
    /// Optimizer steps of the whole run, as it was planned.
    pub total_steps: u64,
    /// Tokens trained on so far.
    pub tokens: u64,
    /// Where the next micro-batch stands in the data.
    pub position: Position,
    /// The evaluations before the first step, and with the lowest loss.
    pub first_eval: Option<Evaluated>,
    pub best_eval: Option<Evaluated>,
    /// Evaluations since the best one.
    pub evals_since_best: u32,
    /// Whether the evaluation after the last step is still to be made: the user stopped the run in its midst.
    #[serde(default)]
    pub eval_due: bool,
}

/// A run as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    pub state: RunState,
    pub parameters: Vec<NamedTensor>,
    pub optimizer: OptimizerState,
    /// The parameters of the best evaluation, where early stopping keeps them.
    pub best: Option<Vec<NamedTensor>>,
}

impl RunState {
    /// The present format's number.
    pub const FORMAT: u32 = FORMAT;

    /// Errs where a run that starts as `now` (its choices [`decided`](RunConfig::decided)) cannot go on from this state, with
    /// everything that differs.
    pub fn check(&self, file: &str, now: &RunState) -> Result<()> {
        let mut differ = vec![];
        let pairs = [
            ("model", Some(&self.model), Some(&now.model)),
            ("data", Some(&self.data), Some(&now.data)),
            ("held-out data", self.eval_data.as_ref(), now.eval_data.as_ref()),
        ];
        for (what, saved, now) in pairs {
            let name = |identity: Option<&Identity>| identity.map_or("none".into(), |identity| identity.name.clone());
            if saved.map(|identity| &identity.sha256) != now.map(|identity| &identity.sha256) {
                differ.push(format!("the {what} is {}, it was {}", name(now), name(saved)));
            }
        }
        let as_json = |config: &RunConfig| serde_json::to_value(config).unwrap_or_default();
        let (saved, wanted) = (as_json(&self.config), as_json(&now.config));
        for name in FIXED {
            if saved[name] != wanted[name] {
                differ.push(format!("{} is {}, it was {}", name.replace('_', "-"), wanted[name], saved[name]));
            }
        }
        if differ.is_empty() {
            return Ok(());
        }
        Err(Error::malformed(file, format!("this run cannot go on from the checkpoint: {}", differ.join("; "))))
    }
}

/// Choices that may not change when a run is resumed: what is trained, and in which order it sees the data. All others may
/// (a longer run, another learning rate).
const FIXED: [&str; 15] = [
    "method",
    "weights",
    "embedding",
    "rank",
    "alpha",
    "dropout",
    "rslora",
    "target_modules",
    "batch_size",
    "grad_accumulation",
    "context",
    "seed",
    "shuffle",
    "pack",
    "supervise",
];

impl Checkpoint {
    /// Writes the file to `out`; `file` names it in errors.
    pub fn write<W: Write>(&self, file: &str, out: W) -> Result<W> {
        let groups = [
            ("parameters", Some(&self.parameters)),
            ("moment1", Some(&self.optimizer.moment1)),
            ("moment2", Some(&self.optimizer.moment2)),
            ("best", self.best.as_ref()),
        ];
        let tensors: BTreeMap<String, &NamedTensor> = groups
            .iter()
            .flat_map(|(group, tensors)| {
                tensors.iter().copied().flatten().map(move |t| (format!("{group}/{}", t.name), t))
            })
            .collect();
        let state = serde_json::to_string(&self.state).map_err(|e| Error::malformed(file, e.to_string()))?;
        // All are f32, so the writer's order is that of the names, which is the map's.
        let mut sum = Sha256::new();
        sum.update(&state);
        for (name, tensor) in &tensors {
            sum.update(name);
            sum.update(bytemuck::cast_slice::<f32, u8>(&tensor.data));
        }
        let metadata = BTreeMap::from([(STATE_KEY.to_string(), state), (SUM_KEY.to_string(), hexadecimal(sum))]);
        let specs = tensors.iter().map(|(name, t)| TensorSpec::new(name, Dtype::F32, &t.shape)).collect();
        let mut writer = SafetensorsWriter::new(file, out, &metadata, specs)?;
        for (name, tensor) in &tensors {
            writer.append(name, bytemuck::cast_slice(&tensor.data))?;
        }
        writer.finish()
    }

    /// Reads a checkpoint. Errs where it is damaged, of a later format, or no checkpoint.
    pub fn read(source: Box<dyn ByteSource>) -> Result<Checkpoint> {
        let file = source.name().to_string();
        let reader = SafetensorsReader::open(source)?;
        let damaged = |problem: String| Error::malformed(&file, format!("the checkpoint is damaged: {problem}"));
        let state = reader.metadata().get(STATE_KEY).ok_or_else(|| {
            Error::malformed(&file, format!("is no checkpoint of a training run; expected a {CHECKPOINT_FILE}"))
        })?;
        let written: serde_json::Value = serde_json::from_str(state).map_err(|e| damaged(e.to_string()))?;
        if written["format"].as_u64().is_some_and(|format| format > u64::from(FORMAT)) {
            return Err(Error::Unsupported {
                what: format!("{file}: format {} of checkpoints", written["format"]),
                supported: format!("up to {FORMAT}; a later release of Espalier reads it"),
            });
        }
        let run: RunState = serde_json::from_value(written).map_err(|e| damaged(e.to_string()))?;
        let mut groups: BTreeMap<&str, Vec<NamedTensor>> = BTreeMap::new();
        let mut sum = Sha256::new();
        sum.update(state);
        for info in reader.tensors() {
            let (group, name) = info.name.split_once('/').unwrap_or(("", &info.name));
            if info.dtype != Dtype::F32 {
                return Err(damaged(format!("tensor {} is {}", info.name, info.dtype)));
            }
            let bytes = reader.read_bytes(&info.name, 0..info.range.end - info.range.start)?;
            sum.update(&info.name);
            sum.update(&bytes);
            let tensor = NamedTensor {
                name: name.into(),
                shape: info.shape.clone(),
                data: bytemuck::pod_collect_to_vec(&bytes),
            };
            groups.entry(group).or_default().push(tensor);
        }
        if reader.metadata().get(SUM_KEY) != Some(&hexadecimal(sum)) {
            return Err(damaged("its contents are not those that were written".into()));
        }
        let mut take = |group: &str| groups.remove(group);
        let (parameters, moment1, moment2) = (take("parameters"), take("moment1"), take("moment2"));
        let (Some(parameters), Some(moment1), Some(moment2)) = (parameters, moment1, moment2) else {
            return Err(damaged("parameters or moments are missing".into()));
        };
        let shapes =
            |tensors: &[NamedTensor]| tensors.iter().map(|t| (t.name.clone(), t.shape.clone())).collect::<Vec<_>>();
        if shapes(&parameters) != shapes(&moment1) || shapes(&parameters) != shapes(&moment2) {
            return Err(damaged("parameters and moments do not fit together".into()));
        }
        let optimizer = OptimizerState { step: run.step, moment1, moment2 };
        Ok(Checkpoint { best: groups.remove("best"), state: run, parameters, optimizer })
    }
}
