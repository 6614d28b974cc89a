//! What a training run decides without a GPU: learning rates against transformers', configurations, checkpoints.

use std::collections::BTreeMap;

use espalier::data::{Position, Supervise};
use espalier::io::{ByteSource, MemorySource};
use espalier::peft::{NamedTensor, TargetModules};
use espalier::quant::WeightFormat;
use espalier::train::checkpoint::{Checkpoint, Evaluated, Identity, RunState};
use espalier::train::schedule::{LearningRate, Schedule, warmup_steps};
use espalier::train::trainer::OptimizerState;
use espalier::train::{GradCheckpointing, MethodName, RunConfig};
use proptest::prelude::*;

fn fixture() -> serde_json::Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny_llama/schedules.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn learning_rates_are_those_of_transformers() {
    let fixture = fixture();
    let total_steps = fixture["steps"].as_u64().unwrap();
    for case in fixture["rates"].as_array().unwrap() {
        let schedule: Schedule = serde_json::from_value(case["schedule"].clone()).unwrap();
        let warmup_steps = case["warmup_steps"].as_u64().unwrap();
        let rates = LearningRate { schedule, peak: 1.0, warmup_steps, total_steps };
        for (step, expected) in case["lr"].as_array().unwrap().iter().enumerate() {
            let (found, expected) = (rates.at(step as u64), expected.as_f64().unwrap());
            // Both are double precision; only the order of the operations may differ.
            assert!((found - expected).abs() < 1e-15, "{schedule:?} {warmup_steps} step {step}: {found}, {expected}");
        }
    }
}

#[test]
fn a_warm_up_as_a_share_has_transformers_number_of_steps() {
    for case in fixture()["warmup_share"].as_array().unwrap() {
        let found = warmup_steps(case["share"].as_f64().unwrap(), case["steps"].as_u64().unwrap());
        assert_eq!(found, case["warmup_steps"].as_u64().unwrap(), "{case}");
    }
    assert_eq!([warmup_steps(0.0, 100), warmup_steps(7.0, 100), warmup_steps(1.0, 100)], [0, 7, 1]);
}

#[test]
fn an_empty_configuration_is_the_default() {
    assert_eq!(RunConfig::from_json("x", "{}").unwrap(), RunConfig::default());
    let config = RunConfig::default();
    assert_eq!(config.alpha(), 32.0);
    assert_eq!(config.weights(), WeightFormat::Nf4 { double_quant: true });
    assert_eq!((config.peak_lr(99), config.peak_lr(100)), (5e-4, 2e-4));
    assert_eq!((config.total_steps(10), config.batch_size * config.grad_accumulation), (30, 8));
    let full = RunConfig { method: MethodName::Full, ..RunConfig::default() };
    assert_eq!((full.weights(), full.embedding(), full.peak_lr(10)), (WeightFormat::F32, WeightFormat::F32, 5e-5));
}

#[test]
fn unknown_names_and_wrong_values_name_the_right_ones() {
    let told = |text: &str| RunConfig::from_json("run.json", text).unwrap_err().to_string();
    assert!(told(r#"{"learning_rate": 1}"#).contains("unknown field `learning_rate`, expected one of `method`"));
    assert!(told(r#"{"method": "qlora"}"#).contains("expected `lora` or `full`"));
    assert!(told(r#"{"weights": "int3"}"#).contains("nf4"));
    assert!(told(r#"{"schedule": "step"}"#).contains("`cosine`"));
    assert!(told(r#"{"target_modules": 3}"#).contains("all-linear"));
    assert!(told(r#"{"rank": 0}"#).contains("rank = 0: expected"));
    assert!(told(r#"{"seed": 1, "rank": -1}"#).contains("rank: invalid value: integer `-1`"));
    assert!(told(r#"{"dropout": 1.0}"#).contains("dropout = 1: expected"));
    assert!(told(r#"{"warmup": 1.5}"#).contains("warmup = 1.5: expected"));
    assert!(told(r#"{"steps": 3, "epochs": 1}"#).contains("either"));
    assert!(told(r#"{"method": "full", "weights": "nf4"}"#).contains("f32"));
    assert!(told(r#"{"embedding": "nf4"}"#).contains("one of f32, f16"));
    assert!(told("nonsense").contains("run.json: is not JSON"));
}

fn configs() -> impl Strategy<Value = RunConfig> {
    let method = prop_oneof![Just(MethodName::Lora), Just(MethodName::Full)];
    let modules = prop_oneof![
        Just(TargetModules::AllLinear),
        proptest::sample::subsequence(vec!["q_proj", "v_proj", "up_proj"], 1..=3)
            .prop_map(|names| TargetModules::Names(names.into_iter().map(String::from).collect())),
    ];
    let schedule = prop_oneof![Just(Schedule::Constant), Just(Schedule::Linear), Just(Schedule::Cosine)];
    let length = prop_oneof![
        Just((None, None)),
        (1u64..1000).prop_map(|steps| (Some(steps), None)),
        (0.1f64..9.0).prop_map(|epochs| (None, Some(epochs))),
    ];
    let numbers = (1usize..64, 0.0f64..0.9, 1e-6f64..1e-2, 0.0f64..0.99, any::<u64>());
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), proptest::option::of("[a-z\"\n ]{0,9}"));
    (method, modules, schedule, length, numbers, flags).prop_map(
        |(method, target_modules, schedule, (steps, epochs), (rank, dropout, lr, warmup, seed), flags)| RunConfig {
            method,
            target_modules,
            schedule,
            steps,
            epochs,
            rank,
            dropout,
            lr: Some(lr),
            warmup,
            // TOML's integers have 64 bits with a sign.
            seed: seed >> 1,
            shuffle: flags.0,
            pack: flags.1,
            rslora: flags.2,
            sample_prompt: flags.3,
            supervise: Supervise::All,
            grad_checkpointing: GradCheckpointing::On,
            ..RunConfig::default()
        },
    )
}

proptest! {
    #[test]
    fn configurations_survive_json_and_toml(config in configs()) {
        prop_assert_eq!(&RunConfig::from_json("x", &config.to_json()).unwrap(), &config);
        #[cfg(feature = "cli")]
        prop_assert_eq!(&RunConfig::from_toml("x", &config.to_toml()).unwrap(), &config);
    }
}

fn tensors(seed: f32) -> Vec<NamedTensor> {
    [("b.lora_B.weight", vec![3, 2]), ("a.lora_A.weight", vec![2, 5])]
        .into_iter()
        .map(|(name, shape)| {
            let n = shape.iter().product::<usize>();
            NamedTensor { name: name.into(), shape, data: (0..n).map(|i| (i as f32 + seed).sin()).collect() }
        })
        .collect()
}

fn checkpoint() -> Checkpoint {
    let identity = |name: &str| {
        Identity::of(name, |hash| {
            use sha2::Digest;
            hash.update(name.as_bytes());
            Ok(())
        })
    };
    Checkpoint {
        state: RunState {
            format: RunState::FORMAT,
            config: RunConfig::default(),
            model: identity("a model").unwrap(),
            data: identity("some data").unwrap(),
            eval_data: None,
            step: 7,
            total_steps: 20,
            tokens: 1234,
            position: Position { seed: 3, epoch: 1, batch: 4, fingerprint: "f".into() },
            first_eval: Some(Evaluated { step: 0, loss: 0.1 + 0.2 }),
            best_eval: Some(Evaluated { step: 5, loss: 1.0 / 3.0 }),
            evals_since_best: 1,
            eval_due: false,
        },
        parameters: tensors(0.0),
        optimizer: OptimizerState { step: 7, moment1: tensors(1.0), moment2: tensors(2.0) },
        best: Some(tensors(3.0)),
    }
}

fn by_name(tensors: &[NamedTensor]) -> BTreeMap<&str, (&[usize], Vec<u32>)> {
    let bits = |t: &NamedTensor| t.data.iter().map(|x| x.to_bits()).collect();
    tensors.iter().map(|t| (t.name.as_str(), (t.shape.as_slice(), bits(t)))).collect()
}

fn read(bytes: Vec<u8>) -> espalier::Result<Checkpoint> {
    let source: Box<dyn ByteSource> = Box::new(MemorySource::new("checkpoint.espalier", bytes));
    Checkpoint::read(source)
}

#[test]
fn a_checkpoint_comes_back_bit_for_bit() {
    let written = checkpoint();
    let back = read(written.write("x", vec![]).unwrap()).unwrap();
    assert_eq!(back.state, written.state);
    assert_eq!(back.optimizer.step, 7);
    for (back, written) in [
        (&back.parameters, &written.parameters),
        (&back.optimizer.moment1, &written.optimizer.moment1),
        (&back.optimizer.moment2, &written.optimizer.moment2),
        (back.best.as_ref().unwrap(), written.best.as_ref().unwrap()),
    ] {
        assert_eq!(by_name(back), by_name(written));
    }
    let without = Checkpoint { best: None, ..checkpoint() };
    assert_eq!(read(without.write("x", vec![]).unwrap()).unwrap().best, None);
}

#[test]
fn the_same_run_writes_the_same_bytes() {
    assert_eq!(checkpoint().write("x", vec![]).unwrap(), checkpoint().write("x", vec![]).unwrap());
}

#[test]
fn a_damaged_checkpoint_is_refused_wherever_the_damage_is() {
    let good = checkpoint().write("x", vec![]).unwrap();
    let header = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize + 8;
    for at in (header..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 4;
        let told = read(bad).unwrap_err().to_string();
        assert!(told.contains("damaged"), "byte {at}: {told}");
    }
    // In the header a changed byte may be white space, or say nothing of the run; it must not change what is read.
    let expected = read(good.clone()).unwrap();
    for at in 0..header {
        let mut bad = good.clone();
        bad[at] ^= 4;
        if let Ok(found) = read(bad) {
            assert_eq!(found, expected, "byte {at}");
        }
    }
    for length in (0..good.len()).step_by(11) {
        assert!(read(good[..length].to_vec()).is_err(), "cut to {length}");
    }
}

#[test]
fn another_model_data_or_method_is_refused_with_all_that_differs() {
    let state = checkpoint().state;
    state.check("x", &state).unwrap();
    let longer = RunConfig { steps: Some(50), lr: Some(1e-3), ..state.config.clone() };
    state.check("x", &RunState { config: longer, ..state.clone() }).unwrap();
    let config = RunConfig { rank: 4, pack: true, ..state.config.clone() };
    let model = Identity { name: "another model".into(), sha256: "00".into() };
    let eval_data = Some(Identity { name: "other data".into(), sha256: "01".into() });
    let now = RunState { config, model, eval_data, ..state.clone() };
    let told = state.check("x", &now).unwrap_err().to_string();
    for part in [
        "the model is another model, it was a model",
        "rank is 4, it was 16",
        "pack is true",
        "held-out data is other data, it was none",
    ] {
        assert!(told.contains(part), "{told}");
    }
    assert!(!told.contains("the data is"), "{told}");
}

#[test]
fn a_file_that_is_no_checkpoint_or_of_a_later_release_is_said_to_be_so() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tiny_llama/tied/model.safetensors");
    let told = read(std::fs::read(path).unwrap()).unwrap_err().to_string();
    assert!(told.contains("is no checkpoint"), "{told}");
    let mut later = checkpoint();
    later.state.format = 9;
    let told = read(later.write("x", vec![]).unwrap()).unwrap_err().to_string();
    assert!(told.contains("later release"), "{told}");
}
