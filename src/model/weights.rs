//! Where a model's tensors come from: safetensors, GGUF, or a seeded random start; always under Hugging Face's names, read
//! row by row so that host memory never holds the whole file.

use std::ops::Range;

use rand_distr::{Distribution, Normal};

use super::config::ModelConfig;
use crate::io::{GgufReader, ShardedSafetensors};
use crate::seed::named_rng;
use crate::{Error, Result};

/// One tensor of a model file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    /// Hugging Face's name.
    pub name: String,
    /// Slowest axis first.
    pub shape: Vec<usize>,
    /// As the file calls it: `F16`, `Q4_K` ...
    pub dtype: String,
}

/// A model's tensors.
pub trait TensorSource {
    /// All tensors that the model may use.
    fn entries(&self) -> &[TensorEntry];

    /// Reads rows (all axes but the last, flattened) as f32 into `out [rows, cols]`.
    fn read_rows(&self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<()>;

    /// What errors call the whole: a path, a hub id.
    fn location(&self) -> String;
}

/// Checks the tensors against the model: everything missing or mis-shaped, in one error.
pub fn check(source: &dyn TensorSource, config: &ModelConfig) -> Result<()> {
    let mut problems = vec![];
    for (name, shape) in config.tensors() {
        match source.entries().iter().find(|e| e.name == name) {
            None => problems.push(format!("{name} {shape:?} is missing")),
            Some(e) if e.shape != shape => problems.push(format!("{name} is {:?}, expected {shape:?}", e.shape)),
            Some(_) => {}
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::Weights { file: source.location(), problems }) }
}

/// Safetensors files of a Hugging Face folder.
pub struct SafetensorsSource {
    files: ShardedSafetensors,
    entries: Vec<TensorEntry>,
}

impl SafetensorsSource {
    /// Lists the tensors.
    pub fn new(files: ShardedSafetensors) -> SafetensorsSource {
        let entries = files
            .tensors()
            .map(|t| TensorEntry { name: t.name.clone(), shape: t.shape.clone(), dtype: t.dtype.to_string() })
            .collect();
        SafetensorsSource { files, entries }
    }
}

impl TensorSource for SafetensorsSource {
    fn entries(&self) -> &[TensorEntry] {
        &self.entries
    }

    fn read_rows(&self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        self.files.read_f32_rows(name, rows, out)
    }

    fn location(&self) -> String {
        self.files.location().to_string()
    }
}

/// GGUF names of a block's tensors and Hugging Face's.
const GGUF_BLOCK_NAMES: [(&str, &str); 9] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Hugging Face's name of a GGUF tensor, if the model has such a tensor.
pub fn name_from_gguf(name: &str) -> Option<String> {
    match name {
        "token_embd.weight" => Some("model.embed_tokens.weight".into()),
        "output_norm.weight" => Some("model.norm.weight".into()),
        "output.weight" => Some("lm_head.weight".into()),
        _ => {
            let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
            let part = rest.strip_suffix(".weight")?;
            let (_, hf) = GGUF_BLOCK_NAMES.iter().find(|(gguf, _)| *gguf == part)?;
            Some(format!("model.layers.{}.{hf}.weight", layer.parse::<usize>().ok()?))
        }
    }
}

/// GGUF's name of a tensor.
pub fn name_to_gguf(name: &str) -> Option<String> {
    match name {
        "model.embed_tokens.weight" => Some("token_embd.weight".into()),
        "model.norm.weight" => Some("output_norm.weight".into()),
        "lm_head.weight" => Some("output.weight".into()),
        _ => {
            let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
            let part = rest.strip_suffix(".weight")?;
            let (gguf, _) = GGUF_BLOCK_NAMES.iter().find(|(_, hf)| *hf == part)?;
            Some(format!("blk.{layer}.{gguf}.weight"))
        }
    }
}

/// The row of a GGUF q or k matrix that holds row `row` of the Hugging Face matrix: (heads, 2, D/2) from (heads, D/2, 2).
pub fn gguf_qk_row(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    let (half, i) = (within / (head_dim / 2), within % (head_dim / 2));
    head * head_dim + 2 * i + half
}

/// A GGUF file.
pub struct GgufSource {
    reader: GgufReader,
    entries: Vec<TensorEntry>,
    head_dim: Option<usize>,
}

impl GgufSource {
    /// Lists the tensors under Hugging Face's names; those without one (rope factors, say) are left out.
    pub fn new(reader: GgufReader, config: &ModelConfig) -> GgufSource {
        let entries = reader
            .tensors()
            .iter()
            .filter_map(|t| {
                let name = name_from_gguf(&t.name)?;
                Some(TensorEntry { name, shape: t.shape.clone(), dtype: t.ggml_type.to_string() })
            })
            .collect();
        GgufSource { reader, entries, head_dim: config.family.gguf_permutes_qk.then_some(config.head_dim) }
    }

    /// The file.
    pub fn reader(&self) -> &GgufReader {
        &self.reader
    }
}

impl TensorSource for GgufSource {
    fn entries(&self) -> &[TensorEntry] {
        &self.entries
    }

    fn read_rows(&self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let gguf =
            name_to_gguf(name).ok_or_else(|| Error::malformed(self.location(), format!("has no tensor for {name}")))?;
        let permuted = name.ends_with("q_proj.weight") || name.ends_with("k_proj.weight");
        let Some(head_dim) = self.head_dim.filter(|_| permuted) else {
            return self.reader.read_f32_rows(&gguf, rows, out);
        };
        // Whole heads are read, then their rows put back in order.
        let whole = rows.start / head_dim * head_dim..rows.end.next_multiple_of(head_dim);
        let cols = out.len() / rows.len().max(1);
        let mut heads = vec![0.0; whole.len() * cols];
        self.reader.read_f32_rows(&gguf, whole.clone(), &mut heads)?;
        for (row, out) in rows.zip(out.chunks_mut(cols.max(1))) {
            let from = (gguf_qk_row(row, head_dim) - whole.start) * cols;
            out.copy_from_slice(&heads[from..from + cols]);
        }
        Ok(())
    }

    fn location(&self) -> String {
        self.reader.name().to_string()
    }
}

/// A random start, as transformers initialises: normal with `initializer_range` for matrices, ones for norms. Each tensor
/// depends on the seed and its name only.
pub struct RandomSource {
    entries: Vec<TensorEntry>,
    std: f32,
    seed: u64,
}

impl RandomSource {
    /// Tensors of a model that was never trained.
    pub fn new(config: &ModelConfig, seed: u64) -> RandomSource {
        let entries = config
            .tensors()
            .into_iter()
            .map(|(name, shape)| TensorEntry { name, shape, dtype: "F32".into() })
            .collect();
        RandomSource { entries, std: config.initializer_range, seed }
    }
}

impl TensorSource for RandomSource {
    fn entries(&self) -> &[TensorEntry] {
        &self.entries
    }

    fn read_rows(&self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        if name.ends_with("norm.weight") {
            out.fill(1.0);
            return Ok(());
        }
        let normal = Normal::new(0.0f32, self.std)
            .map_err(|e| Error::malformed(self.location(), format!("initializer_range: {e}")))?;
        let cols = out.len() / rows.len().max(1);
        for (row, out) in rows.zip(out.chunks_mut(cols.max(1))) {
            let mut rng = named_rng(self.seed, &format!("{name} {row}"));
            out.iter_mut().for_each(|v| *v = normal.sample(&mut rng));
        }
        Ok(())
    }

    fn location(&self) -> String {
        "random weights".into()
    }
}
