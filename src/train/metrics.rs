//! What is measured at each optimizer step, as one line of JSON.

use std::io::Write;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// One optimizer step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Optimizer step, counted from 1.
    pub step: u64,
    /// Mean negative log-likelihood of the step's supervised tokens, nats, before the update.
    pub loss: f64,
    /// Learning rate of this update.
    pub lr: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Tokens of the step's rows, without padding.
    pub tokens: u64,
    pub tokens_per_s: f64,
    /// Bytes allocated on the GPU.
    pub gpu_bytes: u64,
    /// Mean negative log-likelihood of the held-out supervised tokens, nats, after this step; where it was evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
    /// `exp(eval_loss)`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
}

impl StepMetrics {
    /// Appends the line to `out`; `file` is the name that errors give.
    pub fn write_line(&self, out: &mut impl Write, file: &str) -> Result<()> {
        let mut line = serde_json::to_vec(self).map_err(|e| Error::malformed(file, e.to_string()))?;
        line.push(b'\n');
        out.write_all(&line).and_then(|()| out.flush()).map_err(Error::io(format!("write {file}")))
    }
}

/// The lines of a metrics file up to and with step `step`: what a run that is resumed there continues. Later steps are run
/// again; a line cut short by a crash is no line.
pub fn lines_until(text: &str, step: u64) -> String {
    let kept = |line: &&str| {
        line.ends_with('\n') && serde_json::from_str::<StepMetrics>(line).is_ok_and(|metrics| metrics.step <= step)
    };
    text.split_inclusive('\n').filter(kept).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(step: u64) -> StepMetrics {
        StepMetrics {
            step,
            loss: 0.1 + 0.2,
            lr: 2e-4,
            grad_norm: 1.5,
            tokens: 128,
            tokens_per_s: 12.25,
            gpu_bytes: 1 << 30,
            eval_loss: None,
            perplexity: None,
        }
    }

    #[test]
    fn a_line_holds_the_named_fields_and_every_bit_of_the_loss() {
        let mut out = vec![];
        metrics(1).write_line(&mut out, "metrics.jsonl").unwrap();
        let evaluated = StepMetrics { eval_loss: Some(2.0), perplexity: Some(2f64.exp()), ..metrics(2) };
        evaluated.write_line(&mut out, "metrics.jsonl").unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let every_step = ["step", "loss", "lr", "grad_norm", "tokens", "tokens_per_s", "gpu_bytes"];
        assert_eq!(keys(&lines[0]), every_step);
        assert_eq!(keys(&lines[1]), [&every_step[..], &["eval_loss", "perplexity"]].concat());
        assert_eq!(lines[0]["loss"].as_f64().unwrap().to_bits(), (0.1f64 + 0.2).to_bits());
    }

    #[test]
    fn a_resumed_file_ends_at_the_step_of_the_checkpoint() {
        let mut out = vec![];
        (1..=5).for_each(|step| metrics(step).write_line(&mut out, "metrics.jsonl").unwrap());
        let text = String::from_utf8(out).unwrap();
        let cut = &text[..text.len() - 7];
        assert_eq!(lines_until(cut, 3).lines().count(), 3);
        assert_eq!(lines_until(cut, 9).lines().count(), 4);
        assert!(lines_until(cut, 9).ends_with('\n'));
    }
}
