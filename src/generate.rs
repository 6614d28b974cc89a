//! Text from a model: a KV cache, and sampling on the host (greedy, temperature, top-k, top-p, repetition penalty).

use std::collections::BTreeMap;

use rand::Rng;

use crate::exec::Program;
use crate::gpu::Buffer;
use crate::graph::reference::StepScalars;
use crate::model::Purpose;
use crate::model::decoder::input;
use crate::model::device::{DeviceModel, Planned, Ready};
use crate::{Error, Result};

/// How the next token is chosen. Named as in transformers' `GenerationConfig`.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    pub max_new_tokens: usize,
    /// 0 is greedy.
    pub temperature: f32,
    /// Only the k most likely tokens; 0 switches it off.
    pub top_k: usize,
    /// Only the most likely tokens that together have this probability; 1 switches it off.
    pub top_p: f32,
    /// Logits of tokens seen before are divided (or, below zero, multiplied) by this; 1 switches it off.
    pub repetition_penalty: f32,
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling { max_new_tokens: 128, temperature: 0.0, top_k: 0, top_p: 1.0, repetition_penalty: 1.0, seed: 0 }
    }
}

impl Sampling {
    /// Errs on values outside their ranges.
    pub fn check(&self) -> Result<()> {
        let bad = |name: &str, value: f32, expected: &str| {
            Err(Error::Option { name: name.into(), value: value.to_string(), expected: expected.into() })
        };
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return bad("temperature", self.temperature, "expected 0 (greedy) or more");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return bad("top-p", self.top_p, "expected a share above 0, at most 1");
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return bad("repetition-penalty", self.repetition_penalty, "expected a number above 0");
        }
        Ok(())
    }

    /// Chooses the next token from `logits [V]`; `seen` are the tokens so far.
    pub fn choose(&self, logits: &mut [f32], seen: &[u32], rng: &mut impl Rng) -> u32 {
        if self.repetition_penalty != 1.0 {
            let mut once: Vec<u32> = seen.to_vec();
            once.sort_unstable();
            once.dedup();
            for t in once {
                if let Some(l) = logits.get_mut(t as usize) {
                    *l = if *l > 0.0 { *l / self.repetition_penalty } else { *l * self.repetition_penalty };
                }
            }
        }
        if self.temperature == 0.0 {
            return argmax(logits);
        }
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        // Ties by token id, so that the choice is the same everywhere.
        order.sort_unstable_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
        if self.top_k > 0 {
            order.truncate(self.top_k);
        }
        let top = f64::from(logits[order[0] as usize]);
        let weight = |t: u32| ((f64::from(logits[t as usize]) - top) / f64::from(self.temperature)).exp();
        let weights: Vec<f64> = order.iter().map(|&t| weight(t)).collect();
        let total: f64 = weights.iter().sum();
        let mut kept = weights.len();
        if self.top_p < 1.0 {
            let mut sum = 0.0;
            kept = weights
                .iter()
                .take_while(|w| {
                    let before = sum;
                    sum += **w / total;
                    before < f64::from(self.top_p)
                })
                .count()
                .max(1);
        }
        let mut left = rng.random::<f64>() * weights[..kept].iter().sum::<f64>();
        for (t, w) in order.iter().zip(&weights[..kept]) {
            left -= w;
            if left <= 0.0 {
                return *t;
            }
        }
        order[kept - 1]
    }
}

/// The first of the largest logits.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (i, l) in logits.iter().enumerate() {
        if *l > logits[best] {
            best = i;
        }
    }
    best as u32
}

/// Tokens of a prompt that are run at a time.
const PREFILL: [usize; 3] = [128, 32, 8];

/// Generates from a loaded model; holds the programs and the cache.
pub struct Generator {
    /// By tokens of a run: the prompt in pieces, then one at a time.
    programs: BTreeMap<usize, Ready>,
    readback: Buffer,
    cache: usize,
    vocab: usize,
    /// Tokens whose keys and values are in the cache.
    cached: Vec<u32>,
}

impl Generator {
    /// Compiles the graphs and allocates a cache of `cache` positions.
    pub async fn new(model: &mut DeviceModel, cache: usize) -> Result<Generator> {
        if cache > model.setup.positions {
            return Err(Error::Option {
                name: "context".into(),
                value: cache.to_string(),
                expected: format!("expected at most {}, what the model was loaded for", model.setup.positions),
            });
        }
        let target = model.memory.target;
        let sizes: Vec<usize> = PREFILL.into_iter().filter(|&t| t <= cache).chain([1]).collect();
        let mut plans = BTreeMap::new();
        for t in sizes {
            let purpose = Purpose::Generate { cache, wanted: 1 };
            plans.insert(t, Planned::new(&model.setup, 1, t, purpose, &target)?);
        }
        model.reserve(plans.values()).await?;
        let mut programs = BTreeMap::new();
        for (t, planned) in plans {
            programs.insert(t, model.ready(&planned).await?);
        }
        let vocab = model.setup.config.vocab_size;
        let readback = model.gpu.alloc_readback("logits", 4 * vocab as u64)?;
        Ok(Generator { programs, readback, cache, vocab, cached: vec![] })
    }

    /// Positions that the cache holds.
    pub fn capacity(&self) -> usize {
        self.cache
    }

    /// Forgets the cache: after the parameters changed.
    pub fn reset(&mut self) {
        self.cached.clear();
    }

    /// Logits `[V]` of what follows `tokens`. Only what differs from the tokens of the last call is run.
    pub async fn logits(&mut self, model: &DeviceModel, tokens: &[u32]) -> Result<Vec<f32>> {
        if tokens.is_empty() || tokens.len() > self.cache {
            return Err(Error::Option {
                name: "prompt".into(),
                value: format!("{} tokens", tokens.len()),
                expected: format!("expected 1 to {} tokens", self.cache),
            });
        }
        let mut at = self.cached.iter().zip(tokens).take_while(|(a, b)| a == b).count().min(tokens.len() - 1);
        self.cached.truncate(at);
        while at < tokens.len() {
            let left = tokens.len() - at;
            let (&size, ready) = self
                .programs
                .range(..=left)
                .next_back()
                .ok_or_else(|| Error::shape("generate", "no graph for one token"))?;
            self.run(model, &ready.program, &tokens[at..at + size], at)?;
            self.cached.extend_from_slice(&tokens[at..at + size]);
            at += size;
            if at == tokens.len() {
                let logits = ready.logits.clone().ok_or_else(|| Error::shape("generate", "no logits"))?;
                model.gpu.submit(&[], [], &[(logits, self.readback.clone(), 0)])?;
            }
        }
        let bytes = model.gpu.read_mapped(&self.readback, 4 * self.vocab as u64).await?;
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }

    fn run(&self, model: &DeviceModel, program: &Program, tokens: &[u32], at: usize) -> Result<()> {
        let gpu = &model.gpu;
        let positions: Vec<u32> = (at as u32..(at + tokens.len()) as u32).collect();
        program.write_input(gpu, input::TOKENS, tokens)?;
        program.write_input(gpu, input::POSITIONS, &positions)?;
        program.write_input(gpu, input::FIRST, &vec![0; tokens.len()])?;
        program.write_input(gpu, input::LAST, &positions)?;
        program.write_input(gpu, input::WANTED, &[tokens.len() as u32 - 1])?;
        program.write_step(gpu, &model.memory, &StepScalars::default());
        program.run(gpu, 0)
    }

    /// Continues `prompt` until one of `stop` or a limit; each new token is given to `on_token`, which ends the answer by
    /// returning false. The new tokens, the stop token included.
    pub async fn generate(
        &mut self,
        model: &DeviceModel,
        prompt: &[u32],
        sampling: &Sampling,
        stop: &[u32],
        mut on_token: impl FnMut(u32) -> bool,
    ) -> Result<Vec<u32>> {
        sampling.check()?;
        let mut rng = crate::seed::named_rng(sampling.seed, "sampling");
        let mut tokens = prompt.to_vec();
        while tokens.len() - prompt.len() < sampling.max_new_tokens && tokens.len() < self.cache {
            let mut logits = self.logits(model, &tokens).await?;
            if logits.iter().any(|l| l.is_nan()) {
                return Err(Error::Gpu("the model's output is not a number".into()));
            }
            let next = sampling.choose(&mut logits, &tokens, &mut rng);
            tokens.push(next);
            let more = on_token(next);
            if stop.contains(&next) || !more {
                break;
            }
        }
        Ok(tokens.split_off(prompt.len()))
    }
}
