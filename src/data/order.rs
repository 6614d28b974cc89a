//! The order in which examples are dealt out: fixed by a seed, and continued from any place.

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

use super::batch::Batch;
use super::buckets::{bucket_of, fit_buckets};
use super::tokenize::{Dataset, Example};
use crate::{Error, Result};

/// How many different row lengths a run uses at most.
const MAX_BUCKETS: usize = 6;

/// The order of the examples within an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowOrder {
    /// Another order each epoch. Rows of a batch have similar lengths; which rows meet, and when, is left to chance.
    #[default]
    Shuffled,
    /// As in the file, in every epoch
    AsGiven,
    /// By length, shortest first: the least padding, where order does not matter (evaluation)
    ByLength,
}

/// How examples become batches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchOptions {
    /// Rows of a batch
    pub batch_size: usize,
    /// The most tokens of a row
    pub context: usize,
    /// Batches of an optimizer step
    pub grad_accumulation: usize,
    pub order: RowOrder,
    /// Put several examples into one row
    pub pack: bool,
    pub seed: u64,
    /// The id that fills up rows
    pub pad: u32,
    /// The row lengths to use (ascending), to share them with another order; fitted to the data where `None`
    pub buckets: Option<Vec<usize>>,
}

impl BatchOptions {
    /// One batch a step, shuffled by seed 0, not packed.
    pub fn new(batch_size: usize, context: usize) -> BatchOptions {
        BatchOptions {
            batch_size,
            context,
            grad_accumulation: 1,
            order: RowOrder::Shuffled,
            pack: false,
            seed: 0,
            pad: 0,
            buckets: None,
        }
    }
}

/// A place in the order: where a run is continued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub seed: u64,
    pub epoch: u64,
    /// Batches of this epoch already dealt
    pub batch: usize,
    /// Which data and which options: see [`BatchOrder::fingerprint`]
    pub fingerprint: String,
}

/// The batches of one optimizer step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub epoch: u64,
    /// `grad_accumulation` batches; fewer at the end of an epoch. Their lengths may differ.
    pub batches: Vec<Batch>,
    /// Learned tokens of all batches: what the step's loss is the mean over
    pub supervised: usize,
    /// Tokens of all batches, padding not counted
    pub tokens: usize,
}

/// A batch to be: its row length, and the examples of each row.
struct Plan {
    context: usize,
    rows: Vec<Vec<u32>>,
}

/// Deals out the batches of a data set, epoch after epoch, without end.
///
/// Within an epoch every example comes once. All batches have `batch_size` rows (the last of an epoch is filled up with
/// padding) and one of the lengths of [`BatchOrder::buckets`]. The order depends on the data, the options and the seed, on
/// nothing else: not on the platform, nor on how often a run was interrupted.
pub struct BatchOrder {
    dataset: Arc<Dataset>,
    options: BatchOptions,
    buckets: Vec<usize>,
    fingerprint: String,
    epoch: u64,
    batch: usize,
    plans: Vec<Plan>,
}

impl BatchOrder {
    /// Starts at the beginning of epoch 0. Errs without examples, and on sizes of zero.
    pub fn new(dataset: Arc<Dataset>, options: BatchOptions) -> Result<BatchOrder> {
        for (name, value) in [
            ("batch_size", options.batch_size),
            ("context", options.context),
            ("grad_accumulation", options.grad_accumulation),
        ] {
            if value == 0 {
                return Err(Error::Option {
                    name: name.into(),
                    value: "0".into(),
                    expected: "expected at least 1".into(),
                });
            }
        }
        if dataset.examples.is_empty() {
            return Err(Error::Data { file: dataset.report.source.clone(), problem: "no examples".into() });
        }
        let lengths = dataset.examples.iter().map(Example::len);
        let buckets = match (&options.buckets, options.pack) {
            (Some(buckets), _) if !buckets.is_empty() => buckets.clone(),
            (_, false) => fit_buckets(lengths, options.context, MAX_BUCKETS),
            (_, true) => fit_buckets([lengths.sum()], options.context, 1),
        };
        let fingerprint = format!(
            "{}-b{}-t{}{}{}",
            dataset.fingerprint(),
            options.batch_size,
            options.context,
            match options.order {
                RowOrder::Shuffled => "",
                RowOrder::AsGiven => "-given",
                RowOrder::ByLength => "-length",
            },
            if options.pack { "-packed" } else { "" }
        );
        let mut order = BatchOrder { dataset, options, buckets, fingerprint, epoch: 0, batch: 0, plans: Vec::new() };
        order.plans = order.plan(0);
        Ok(order)
    }

    /// The row lengths that batches have, ascending.
    pub fn buckets(&self) -> &[usize] {
        &self.buckets
    }

    /// The options that this order was made with.
    pub fn options(&self) -> &BatchOptions {
        &self.options
    }

    /// The examples that are dealt.
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.dataset
    }

    /// The data and the options that decide the order.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The present place, to be saved with a checkpoint.
    pub fn position(&self) -> Position {
        Position {
            seed: self.options.seed,
            epoch: self.epoch,
            batch: self.batch,
            fingerprint: self.fingerprint.clone(),
        }
    }

    /// Goes to `position`: what follows is what would have followed there. Errs if it belongs to other data, options or seed.
    pub fn resume(&mut self, position: &Position) -> Result<()> {
        if (&position.fingerprint, position.seed) != (&self.fingerprint, self.options.seed) {
            return Err(Error::Data {
                file: self.dataset.report.source.clone(),
                problem: format!(
                    "the checkpoint was made with other data or batch options ({}, seed {}), this run has {}, seed {}",
                    position.fingerprint, position.seed, self.fingerprint, self.options.seed
                ),
            });
        }
        self.plans = self.plan(position.epoch);
        self.epoch = position.epoch;
        self.batch = position.batch.min(self.plans.len());
        Ok(())
    }

    /// The next batch; after the last of an epoch comes the first of the next.
    pub fn next_batch(&mut self) -> Batch {
        self.enter_epoch();
        let plan = &self.plans[self.batch];
        self.batch += 1;
        let examples = &self.dataset.examples;
        let rows: Vec<Vec<&Example>> =
            plan.rows.iter().map(|row| row.iter().map(|&at| &examples[at as usize]).collect()).collect();
        Batch::new(&rows, self.options.batch_size, plan.context, self.options.pad)
    }

    /// The batches of the next optimizer step. A step never mixes epochs.
    pub fn next_step(&mut self) -> Step {
        self.enter_epoch();
        let count = self.options.grad_accumulation.min(self.plans.len() - self.batch);
        let epoch = self.epoch;
        let batches: Vec<Batch> = (0..count).map(|_| self.next_batch()).collect();
        let supervised = batches.iter().map(|batch| batch.supervised).sum();
        let tokens = batches.iter().map(|batch| batch.tokens).sum();
        Step { epoch, batches, supervised, tokens }
    }

    /// Optimizer steps of an epoch. Only packing makes epochs differ.
    pub fn steps_in_epoch(&self, epoch: u64) -> usize {
        let batches = if epoch == self.epoch || !self.options.pack { self.plans.len() } else { self.plan(epoch).len() };
        batches.div_ceil(self.options.grad_accumulation)
    }

    /// Epochs dealt so far, the present one as a fraction.
    pub fn epochs(&self) -> f64 {
        self.epoch as f64 + self.batch as f64 / self.plans.len() as f64
    }

    fn enter_epoch(&mut self) {
        if self.batch == self.plans.len() {
            self.epoch += 1;
            self.batch = 0;
            if self.options.order == RowOrder::Shuffled {
                self.plans = self.plan(self.epoch);
            }
        }
    }

    fn plan(&self, epoch: u64) -> Vec<Plan> {
        let examples = &self.dataset.examples;
        let length = |at: u32| examples[at as usize].len();
        let shuffled = self.options.order == RowOrder::Shuffled;
        let mut order: Vec<u32> = (0..examples.len() as u32).collect();
        match self.options.order {
            RowOrder::Shuffled => shuffle(&mut order, self.options.seed, 2 * epoch + 1),
            RowOrder::AsGiven => {}
            RowOrder::ByLength => order.sort_by_key(|&at| length(at)),
        }
        let mut rows = if self.options.pack {
            pack(&order, length, self.options.context)
        } else {
            order.into_iter().map(|at| vec![at]).collect()
        };
        let row_length = |row: &Vec<u32>| row.iter().map(|&at| length(at)).sum::<usize>();
        let bucket = |row: &Vec<u32>| bucket_of(&self.buckets, row_length(row));
        if shuffled {
            // The sort is stable: among rows of one bucket the shuffled order stays.
            rows.sort_by_key(|row| std::cmp::Reverse(bucket(row)));
        }
        let mut plans: Vec<Plan> = rows
            .chunks(self.options.batch_size)
            .map(|rows| Plan { context: rows.iter().map(bucket).max().unwrap_or(0), rows: rows.to_vec() })
            .collect();
        if shuffled {
            shuffle(&mut plans, self.options.seed, 2 * epoch + 2);
        }
        plans
    }
}

impl Iterator for BatchOrder {
    type Item = Step;

    /// The next step; there is always one.
    fn next(&mut self) -> Option<Step> {
        Some(self.next_step())
    }
}

/// Puts examples, in `order`, each into the fullest row that has room for it.
fn pack(order: &[u32], length: impl Fn(u32) -> usize, context: usize) -> Vec<Vec<u32>> {
    let mut rows: Vec<Vec<u32>> = Vec::new();
    // Rows by the room left in them.
    let mut open: std::collections::BTreeSet<(usize, usize)> = std::collections::BTreeSet::new();
    for &at in order {
        let len = length(at).min(context);
        let (room, row) = match open.range((len, 0)..).next().copied() {
            Some(found) => {
                open.remove(&found);
                found
            }
            None => {
                rows.push(Vec::new());
                (context, rows.len() - 1)
            }
        };
        rows[row].push(at);
        if room > len {
            open.insert((room - len, row));
        }
    }
    rows
}

/// Shuffles in place (Fisher and Yates). The order depends on `seed` and `stream` alone, on every platform: ChaCha8's output, and
/// integer arithmetic of fixed width.
pub(super) fn shuffle<T>(items: &mut [T], seed: u64, stream: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    for last in (1..items.len()).rev() {
        let below = ((u128::from(rng.next_u64()) * (last as u128 + 1)) >> 64) as usize;
        items.swap(last, below);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shuffle_never_changes() {
        // A change here would make every saved run continue differently.
        let mut items: Vec<u32> = (0..10).collect();
        shuffle(&mut items, 7, 1);
        assert_eq!(items, [7, 1, 6, 4, 2, 8, 3, 5, 0, 9]);
    }
}
