//! A link that restores every choice of a run: its [`RunConfig`] and the model's name, in the fragment of the address, which no
//! browser sends anywhere. Neither data, prompts nor weights are in it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use espalier::train::RunConfig;
use serde::{Deserialize, Serialize};

use crate::protocol::ModelChoice;

/// What a link restores.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Shared {
    /// A model that anyone can load: the page's own, or one of a hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelChoice>,
    pub config: RunConfig,
}

/// What stands before the choices in the fragment.
const KEY: &str = "run=";

/// The fragment of the link, without `#`. The fixed prompt is text of the user's: it stays here.
pub fn to_fragment(shared: &Shared) -> String {
    let model = shared.model.clone().filter(|model| !matches!(model, ModelChoice::Files | ModelChoice::Stored { .. }));
    let config = RunConfig { sample_prompt: None, ..shared.config.clone() };
    let json = serde_json::to_string(&Shared { model, config }).expect("choices are JSON");
    format!("{KEY}{}", URL_SAFE_NO_PAD.encode(json))
}

/// The choices in a fragment (with or without `#`); `None` where there are none, an error in words where they are damaged.
pub fn from_fragment(fragment: &str) -> Option<Result<Shared, String>> {
    let text = fragment.trim_start_matches('#').strip_prefix(KEY)?;
    let read = || {
        let json = URL_SAFE_NO_PAD.decode(text).map_err(|_| "the link is cut or damaged".to_string())?;
        let shared: Shared = serde_json::from_slice(&json).map_err(|e| format!("the link cannot be read: {e}"))?;
        shared.config.validate().map_err(|e| e.to_string())?;
        Ok(shared)
    };
    Some(read())
}
