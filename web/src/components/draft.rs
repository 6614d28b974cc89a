//! What was typed and not yet used.

use espalier::io::hub::DEFAULT_ENDPOINT;
use leptos::prelude::*;

/// What was typed and not yet used: it outlives going from step to step.
#[derive(Clone, Copy)]
pub struct Draft {
    pub hub_id: RwSignal<String>,
    pub endpoint: RwSignal<String>,
    pub budget_mb: RwSignal<Option<f64>>,
    pub keep_copy: RwSignal<bool>,
    pub paste: RwSignal<String>,
    pub prompt: RwSignal<String>,
    pub max_new_tokens: RwSignal<usize>,
    pub temperature: RwSignal<f32>,
    pub seed: RwSignal<u64>,
    pub strength: RwSignal<f32>,
    /// The adapter that Compare and Keep are about.
    pub adapter: RwSignal<Option<u32>>,
    pub message: RwSignal<String>,
    /// Who answers next in the conversation.
    pub base_answers: RwSignal<bool>,
}

impl Draft {
    pub fn new() -> Draft {
        Draft {
            hub_id: RwSignal::new(String::new()),
            endpoint: RwSignal::new(DEFAULT_ENDPOINT.to_string()),
            budget_mb: RwSignal::new(None),
            keep_copy: RwSignal::new(true),
            paste: RwSignal::new(String::new()),
            prompt: RwSignal::new(String::new()),
            max_new_tokens: RwSignal::new(64),
            temperature: RwSignal::new(0.0),
            seed: RwSignal::new(0),
            strength: RwSignal::new(1.0),
            adapter: RwSignal::new(None),
            message: RwSignal::new(String::new()),
            base_answers: RwSignal::new(false),
        }
    }
}

impl Default for Draft {
    fn default() -> Draft {
        Draft::new()
    }
}
