//! Examples laid out as the rectangle that the model works on.

use super::tokenize::{Example, IGNORED};

/// A rectangle of tokens. Every field except the counts is row-major, `[batch_size, context]`.
///
/// A row holds one example, or several one after the other (packed), then padding. What belongs together is a segment: a token
/// sees its own segment up to itself, from `segment_start` on. Padding is a segment of its own; so is a row without an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Rows
    pub batch_size: usize,
    /// Tokens of a row, padding included
    pub context: usize,
    pub input_ids: Vec<u32>,
    /// What is to be predicted at each token: the label of the next token of the segment; -100 where nothing is
    pub targets: Vec<i32>,
    /// Places within the segment, from 0
    pub positions: Vec<u32>,
    /// The place in the row where the token's segment begins: the first token it may see
    pub segment_start: Vec<u32>,
    /// Targets that are not -100
    pub supervised: usize,
    /// Tokens that are not padding
    pub tokens: usize,
}

impl Batch {
    /// Lays out `rows` (each the examples of one row) in rows of `context` tokens; missing rows are padding. What does not fit
    /// is cut off.
    pub fn new(rows: &[Vec<&Example>], batch_size: usize, context: usize, pad: u32) -> Batch {
        let size = batch_size * context;
        let mut batch = Batch {
            batch_size,
            context,
            input_ids: Vec::with_capacity(size),
            targets: Vec::with_capacity(size),
            positions: Vec::with_capacity(size),
            segment_start: Vec::with_capacity(size),
            supervised: 0,
            tokens: 0,
        };
        for at in 0..batch_size {
            let end = (at + 1) * context;
            for example in rows.get(at).into_iter().flatten() {
                batch.push_segment(example, end - batch.input_ids.len());
            }
            batch.tokens += batch.input_ids.len() - at * context;
            let used = batch.input_ids.len() - at * context;
            batch.positions.extend(0..(context - used) as u32);
            batch.segment_start.resize(end, used as u32);
            batch.input_ids.resize(end, pad);
            batch.targets.resize(end, IGNORED);
        }
        batch.supervised = batch.targets.iter().filter(|&&target| target != IGNORED).count();
        batch
    }

    fn push_segment(&mut self, example: &Example, room: usize) {
        let len = example.len().min(room);
        let start = self.input_ids.len() % self.context;
        self.input_ids.extend(&example.input_ids[..len]);
        self.targets.extend(example.labels[..len].iter().skip(1));
        self.targets.resize(self.input_ids.len(), IGNORED);
        self.positions.extend(0..len as u32);
        self.segment_start.resize(self.input_ids.len(), start as u32);
    }
}
