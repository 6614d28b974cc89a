//! One micro-batch: rows of tokens side by side, padded on the right.

/// What a graph of shape `batch_size x context` is fed. All vectors are `[B T]`, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub batch_size: usize,
    /// Tokens of a row, padding included.
    pub context: usize,
    pub input_ids: Vec<u32>,
    /// The token that follows, where it is supervised; -100 elsewhere.
    pub targets: Vec<i32>,
    /// Position for the rotary embedding: restarts at 0 with each packed segment.
    pub positions: Vec<u32>,
    /// First token of the row that a token sees: the start of its own packed segment.
    pub segment_start: Vec<u32>,
    /// How many targets are not -100.
    pub supervised: usize,
}

/// A label that is not supervised.
pub const IGNORED: i32 = -100;

impl Batch {
    /// Pads rows of (tokens, labels) on the right to `context`; longer rows are cut. `labels[t]` is the token at `t` itself
    /// where it is supervised, as in Hugging Face's data sets: targets are labels shifted by one.
    pub fn from_rows(rows: &[(&[u32], &[i32])], context: usize, pad: u32) -> Batch {
        let n = rows.len() * context;
        let mut batch = Batch {
            batch_size: rows.len(),
            context,
            input_ids: vec![pad; n],
            targets: vec![IGNORED; n],
            positions: (0..n).map(|i| (i % context.max(1)) as u32).collect(),
            segment_start: vec![0; n],
            supervised: 0,
        };
        for (r, (ids, labels)) in rows.iter().enumerate() {
            let len = ids.len().min(labels.len()).min(context);
            let at = r * context;
            batch.input_ids[at..at + len].copy_from_slice(&ids[..len]);
            if len > 1 {
                batch.targets[at..at + len - 1].copy_from_slice(&labels[1..len]);
            }
        }
        batch.supervised = batch.targets.iter().filter(|t| **t >= 0).count();
        batch
    }
}
