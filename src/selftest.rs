//! `espalier selftest`: does this GPU compute what the CPU computes? A small Llama, random weights, every weight format and method:
//! losses and all gradients from the GPU against the CPU reference in f64.

use rand::Rng;
use rustc_hash::FxHashMap;

use crate::Result;
use crate::exec;
use crate::gpu::Gpu;
use crate::graph::reference::StepScalars;
use crate::graph::{Checkpointing, Role, TensorId, Value};
use crate::model::decoder::{Decoder, Purpose, WeightPolicy, input};
use crate::model::{ModelConfig, ModelGraph};
use crate::ops::{rope, weight};
use crate::peft::{LoraConfig, Method, TargetModules};
use crate::quant::WeightFormat;
use crate::seed::named_rng;

const BATCH: usize = 2;
const CONTEXT: usize = 13;

/// One comparison.
#[derive(Clone, Debug, serde::Serialize)]
pub struct SelftestCase {
    pub name: String,
    /// Tensors compared: losses, and the gradient of everything trained.
    pub tensors: usize,
    /// The tensor furthest off, norm of the difference over norm.
    pub worst: String,
    pub error: f64,
    pub passed: bool,
}

/// f32 against f64 over two layers: sums of a hundred terms, in another order.
const TOLERANCE: f64 = 1e-4;

fn config() -> ModelConfig {
    let text = r#"{"model_type": "llama", "vocab_size": 97, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true}"#;
    ModelConfig::from_json("built-in", text).expect("the text above is a valid configuration")
}

/// A value for every tensor that no node writes.
fn values(model: &ModelGraph, config: &ModelConfig) -> FxHashMap<TensorId, Value<f32>> {
    let mut values = FxHashMap::default();
    let n = BATCH * CONTEXT;
    for (index, tensor) in model.graph.tensors.iter().enumerate() {
        let mut rng = named_rng(7, &tensor.name);
        let ints = |f: &mut dyn FnMut(usize) -> u32| Value::Int((0..n).map(f).collect());
        let value = match tensor.role {
            Role::Input => match tensor.name.as_str() {
                input::TOKENS => ints(&mut |_| rng.random_range(0..config.vocab_size as u32)),
                // Every third token is not supervised.
                input::TARGETS => ints(&mut |i| {
                    if i % 3 == 2 { -100i32 as u32 } else { rng.random_range(0..config.vocab_size as u32) }
                }),
                input::ROWS => {
                    let mut rows: Vec<u32> = (0..n as u32).filter(|i| i % 3 != 2).collect();
                    rows.resize(n, 0);
                    Value::Int(rows)
                }
                input::FIRST => Value::Int(vec![0; n]),
                _ => ints(&mut |i| (i % CONTEXT) as u32),
            },
            Role::Weight(_) if tensor.name == "rope" => {
                Value::Real(rope::table(&config.inv_freq(), tensor.shape[0], 1.0))
            }
            Role::Weight(_) | Role::Param { .. } => {
                let around = if tensor.name.ends_with("norm.weight") { 1.0 } else { 0.0 };
                Value::Real((0..tensor.elements()).map(|_| around + rng.random_range(-0.2f32..0.2)).collect())
            }
            _ => continue,
        };
        values.insert(TensorId(index as u32), value);
    }
    values
}

async fn case(gpu: &Gpu, name: &str, method: &Method, policy: WeightPolicy) -> Result<SelftestCase> {
    let config = config();
    let decoder = Decoder { config: &config, policy, method, batch: BATCH, context: CONTEXT, positions: CONTEXT };
    let model = decoder.build(Purpose::Train { checkpointing: Checkpointing::Off })?;
    let given = values(&model, &config);
    let supervised = (0..BATCH * CONTEXT).filter(|i| i % 3 != 2).count() as u32;
    let step = StepScalars { supervised, loss_scale: 1.0 / supervised as f32, dropout_seed: 3, ..Default::default() };
    let got = exec::run_once(gpu, &model.graph, &given, &step).await?;
    let mut reference: FxHashMap<TensorId, Value<f64>> = FxHashMap::default();
    for (&id, value) in &given {
        let tensor = model.graph.get(id);
        let value = match (value, tensor.role) {
            (Value::Int(v), _) => Value::Int(v.clone()),
            (Value::Real(v), Role::Weight(format)) => {
                let decoded = weight::round_trip(format, tensor.rows(), tensor.cols(), v)?;
                Value::Real(decoded.into_iter().map(f64::from).collect())
            }
            (Value::Real(v), _) => Value::Real(v.iter().map(|v| f64::from(*v)).collect()),
        };
        reference.insert(id, value);
    }
    model.graph.run_reference(&mut reference, &step)?;
    let mut result = SelftestCase { name: name.into(), tensors: 0, worst: String::new(), error: 0.0, passed: true };
    for id in model.graph.kept.iter().chain(model.graph.grads.values()) {
        let (Some(got), Some(Value::Real(wanted))) = (got.get(id), reference.get(id)) else { continue };
        let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
        let difference = norm(&mut got.iter().zip(wanted).map(|(a, b)| f64::from(*a) - b));
        let error = difference / norm(&mut wanted.iter().copied()).max(1e-12);
        result.tensors += 1;
        if result.worst.is_empty() || error > result.error || error.is_nan() {
            result.worst = model.graph.get(*id).name.clone();
            result.error = error;
        }
        result.passed &= error < TOLERANCE;
    }
    Ok(result)
}

/// Compares the GPU with the CPU; one result for each weight format and method.
pub async fn run(gpu: &Gpu) -> Result<Vec<SelftestCase>> {
    let lora = Method::Lora(LoraConfig {
        r: 4,
        lora_alpha: 8.0,
        lora_dropout: 0.1,
        target_modules: TargetModules::AllLinear,
        use_rslora: false,
    });
    let f32 = WeightPolicy { linears: WeightFormat::F32, embedding: WeightFormat::F32 };
    let mut cases = vec![case(gpu, "full fine-tuning, f32", &Method::Full, f32).await?];
    for (linears, embedding) in [
        (WeightFormat::F32, WeightFormat::F32),
        (WeightFormat::F16, WeightFormat::F16),
        (WeightFormat::Bf16, WeightFormat::Bf16),
        (WeightFormat::Int8, WeightFormat::Int8),
        (WeightFormat::Nf4 { double_quant: false }, WeightFormat::F16),
        (WeightFormat::Nf4 { double_quant: true }, WeightFormat::F16),
    ] {
        let policy = WeightPolicy { linears, embedding };
        cases.push(case(gpu, &format!("LoRA, {linears}"), &lora, policy).await?);
    }
    Ok(cases)
}
