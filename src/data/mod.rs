//! Data sets: files in the formats people have, to rows, to token ids with a mask, to batches.
//!
//! [`read_rows`] finds the format by content and turns every line into a [`Row`]; [`encode_rows`] makes [`Example`]s (ids, and
//! which of them are learned) under a model's tokenizer and chat template; [`BatchOrder`] deals them out in an order that
//! a seed fixes and that can be continued from any place. What was dropped, cut or guessed is counted in a [`DataReport`].

mod batch;
mod buckets;
mod format;
mod mask;
mod order;
mod report;
mod row;
mod tokenize;

pub use batch::Batch;
pub use buckets::fit_buckets;
pub use format::{Rows, read_examples, read_rows};
pub use order::{BatchOptions, BatchOrder, Position, RowOrder, Step};
pub use report::{DataReport, DropReason, Dropped};
pub use row::{Content, Row};
pub use tokenize::{Dataset, EncodeOptions, Encoder, Example, IGNORED, Supervise, encode_rows};
