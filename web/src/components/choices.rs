//! The choices of a run that are numbers, as rows of a table: their words, what they may be, where they stand in [`RunConfig`].

use espalier::train::{MethodName, RunConfig};

use super::field::{Range, Words};
use crate::protocol::Plan;

/// A number of [`RunConfig`].
pub struct NumberChoice {
    pub id: &'static str,
    pub words: Words,
    pub range: Range,
    pub get: fn(&RunConfig) -> Option<f64>,
    pub set: fn(&mut RunConfig, Option<f64>),
    /// What stands where it is left open; `None` for a number that cannot be left open.
    pub auto: Option<fn(&Plan) -> Option<f64>>,
    /// The methods that have it; all where empty.
    pub methods: &'static [MethodName],
}

const LORA: &[MethodName] = &[MethodName::Lora];
const ALL: &[MethodName] = &[];

const fn words(label: &'static str, hint: &'static str, art: &'static str, explain: &'static str) -> Words {
    Words { label, hint, art, explain }
}

/// Above this not every whole number can be told from the next: neither here nor in JSON.
const MOST: f64 = 9_007_199_254_740_991.0;

/// A whole number of at least `least` out of a field.
fn whole(value: Option<f64>, least: u64) -> u64 {
    (value.unwrap_or(0.0).round().clamp(0.0, MOST) as u64).max(least)
}

/// What the method itself is made of.
pub const SHAPE: &[NumberChoice] = &[
    NumberChoice {
        id: "rank",
        words: words(
            "Room for change",
            "More learns more, and takes more memory.",
            "rank",
            "LoRA's r: each layer's change is a product of two thin matrices, this many columns wide.",
        ),
        range: Range::new(1.0, 128.0, 1.0),
        get: |c| Some(c.rank as f64),
        set: |c, v| c.rank = whole(v, 1) as usize,
        auto: None,
        methods: LORA,
    },
    NumberChoice {
        id: "alpha",
        words: words(
            "Weight of the change",
            "Left open: twice the room for change.",
            "alpha",
            "LoRA's alpha: the change is multiplied by alpha divided by the rank.",
        ),
        range: Range::new(1.0, 256.0, 1.0),
        get: |c| c.alpha,
        set: |c, v| c.alpha = v,
        auto: Some(|plan| Some(plan.config.alpha())),
        methods: LORA,
    },
    NumberChoice {
        id: "dropout",
        words: words(
            "Forgetting on purpose",
            "Helps a little where there is little data. 0 is off.",
            "dropout",
            "The share of the change's inputs that is left out at random while training.",
        ),
        range: Range::new(0.0, 0.5, 0.01),
        get: |c| Some(c.dropout),
        set: |c, v| c.dropout = v.unwrap_or(0.0),
        auto: None,
        methods: LORA,
    },
];

/// How fast and how long it learns.
pub const PACE: &[NumberChoice] = &[
    NumberChoice {
        id: "lr",
        words: words(
            "Size of a step",
            "Too high and it forgets what it knew, too low and nothing changes.",
            "learning rate",
            "By how much the optimizer moves each number in a step, at its highest.",
        ),
        range: Range::factors(1e-6, 1e-1),
        get: |c| c.lr,
        set: |c, v| c.lr = v,
        auto: Some(|plan| Some(plan.peak_lr)),
        methods: ALL,
    },
    NumberChoice {
        id: "warmup",
        words: words(
            "Slow start",
            "A share of the steps below 1, or a number of steps.",
            "warm-up",
            "The learning rate rises from zero during these first steps.",
        ),
        range: Range::new(0.0, 0.5, 0.01),
        get: |c| Some(c.warmup),
        set: |c, v| c.warmup = v.unwrap_or(0.0),
        auto: None,
        methods: ALL,
    },
    NumberChoice {
        id: "epochs",
        words: words(
            "Times through the data",
            "Stands only where the number of steps is left open.",
            "epochs",
            "How often every example is learned from.",
        ),
        range: Range::new(0.5, 20.0, 0.5),
        get: |c| c.epochs,
        set: |c, v| {
            c.epochs = v;
            c.steps = c.steps.filter(|_| v.is_none());
        },
        auto: Some(|plan| plan.config.steps.is_none().then_some(3.0)),
        methods: ALL,
    },
    NumberChoice {
        id: "steps",
        words: words(
            "Number of steps",
            "Left open: as many as the times through the data take.",
            "optimizer steps",
            "How often the numbers are changed.",
        ),
        range: Range::factors(1.0, 10_000.0),
        get: |c| c.steps.map(|steps| steps as f64),
        set: |c, v| {
            c.steps = v.map(|v| whole(Some(v), 1));
            c.epochs = c.epochs.filter(|_| v.is_none());
        },
        auto: Some(|plan| Some(plan.steps as f64)),
        methods: ALL,
    },
    NumberChoice {
        id: "batch-size",
        words: words(
            "Rows at a time",
            "More is faster and takes more memory.",
            "batch size",
            "Rows that go through the model together.",
        ),
        range: Range::new(1.0, 32.0, 1.0),
        get: |c| Some(c.batch_size as f64),
        set: |c, v| c.batch_size = whole(v, 1) as usize,
        auto: None,
        methods: ALL,
    },
    NumberChoice {
        id: "grad-accumulation",
        words: words(
            "Batches in a step",
            "Rows at a time, times this, are learned from in one step.",
            "gradient accumulation",
            "Gradients of this many batches are added up before the numbers change: as a larger batch, without its memory.",
        ),
        range: Range::new(1.0, 64.0, 1.0),
        get: |c| Some(c.grad_accumulation as f64),
        set: |c, v| c.grad_accumulation = whole(v, 1) as usize,
        auto: None,
        methods: ALL,
    },
    NumberChoice {
        id: "max-grad-norm",
        words: words(
            "Brake",
            "Larger steps than this are shortened. 0 is off.",
            "gradient clipping",
            "Gradients whose norm is above this are scaled down to it.",
        ),
        range: Range::new(0.0, 10.0, 0.1),
        get: |c| Some(c.max_grad_norm),
        set: |c, v| c.max_grad_norm = v.unwrap_or(0.0),
        auto: None,
        methods: ALL,
    },
    NumberChoice {
        id: "weight-decay",
        words: words(
            "Pull towards zero",
            "0 is off.",
            "weight decay",
            "AdamW shrinks each trained number by this share of the learning rate in every step.",
        ),
        range: Range::new(0.0, 0.3, 0.01),
        get: |c| Some(c.weight_decay),
        set: |c, v| c.weight_decay = v.unwrap_or(0.0),
        auto: None,
        methods: ALL,
    },
    NumberChoice {
        id: "seed",
        words: words(
            "Start of chance",
            "The same number gives the same run.",
            "seed",
            "Decides first values, order of the data and which rows are held out.",
        ),
        range: Range::new(0.0, 1000.0, 1.0),
        get: |c| Some(c.seed as f64),
        set: |c, v| c.seed = whole(v, 0),
        auto: None,
        methods: ALL,
    },
];

/// When it is looked at and saved.
pub const WATCH: &[NumberChoice] = &[
    NumberChoice {
        id: "eval-every",
        words: words(
            "Check on held-out data every",
            "Steps. 0 checks at the start and at the end only.",
            "evaluation",
            "The loss on examples that are not learned from: it tells learning from memorizing.",
        ),
        range: Range::new(0.0, 500.0, 1.0),
        get: |c| c.eval_every.map(|v| v as f64),
        set: |c, v| c.eval_every = v.map(|v| whole(Some(v), 0)),
        auto: Some(|plan| plan.config.eval_every.map(|v| v as f64)),
        methods: ALL,
    },
    NumberChoice {
        id: "patience",
        words: words(
            "Patience",
            "Checks without progress before it ends and keeps the best. 0 never ends early.",
            "early stopping",
            "Ends the run where the held-out loss falls no more.",
        ),
        range: Range::new(0.0, 20.0, 1.0),
        get: |c| Some(f64::from(c.patience)),
        set: |c, v| c.patience = whole(v, 0) as u32,
        auto: None,
        methods: ALL,
    },
    NumberChoice {
        id: "checkpoint-every",
        words: words(
            "Save every",
            "Steps. After a crash the run goes on from there. 0 saves only where it is stopped.",
            "checkpoint",
            "Everything that is needed to go on with the run, kept in this browser.",
        ),
        range: Range::new(0.0, 500.0, 1.0),
        get: |c| Some(c.checkpoint_every as f64),
        set: |c, v| c.checkpoint_every = whole(v, 0),
        auto: None,
        methods: ALL,
    },
    NumberChoice {
        id: "sample-every",
        words: words(
            "Answer the prompt every",
            "Steps. 0 answers at the start and at the end only.",
            "sample",
            "The fixed prompt is answered now and then, to see the model change.",
        ),
        range: Range::new(0.0, 500.0, 1.0),
        get: |c| c.sample_every.map(|v| v as f64),
        set: |c, v| c.sample_every = v.map(|v| whole(Some(v), 0)),
        auto: Some(|plan| plan.config.sample_every.map(|v| v as f64)),
        methods: ALL,
    },
];

/// The share held out, and the longest row: asked for where the data is shown.
pub const ENCODING: &[NumberChoice] = &[
    NumberChoice {
        id: "eval-fraction",
        words: words(
            "Share kept aside",
            "These examples are not learned from. They show whether it understands or memorizes.",
            "held-out data",
            "Also called the evaluation or validation set.",
        ),
        range: Range::new(0.0, 0.5, 0.01),
        get: |c| Some(c.eval_fraction),
        set: |c, v| c.eval_fraction = v.unwrap_or(0.0),
        auto: None,
        methods: ALL,
    },
    NumberChoice {
        id: "context",
        words: words(
            "Longest example",
            "In tokens. What is longer is cut off at its end.",
            "context length",
            "How many tokens the model reads at once. Memory grows with it.",
        ),
        range: Range::new(16.0, 2048.0, 16.0),
        get: |c| c.context.map(|v| v as f64),
        set: |c, v| c.context = v.map(|v| whole(Some(v), 2) as usize),
        auto: Some(|plan| plan.config.context.map(|v| v as f64)),
        methods: ALL,
    },
];
