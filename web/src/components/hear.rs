//! What the worker says, folded into the page's signals.

use espalier::train::RunConfig;
use leptos::prelude::*;
use web_sys::Blob;

use super::numbers::{bytes, count, counted, duration, short};
use super::run_view::Phase;
use super::save;
use super::state::{Gpu, NoGpu, State, Trial, may_restart};
use super::steps::Step;
use crate::protocol::{
    Action, Command, Ending, Event, Failure, FailureKind, Finished, Model, ModelChoice, Progress, Storage, Work,
};

impl State {
    /// Folds an event of the worker into the signals.
    pub fn hear(self, event: Event, files: Vec<Blob>) {
        match event {
            Event::Ready => self.worker_is_ready(),
            Event::Device(device) => {
                self.live.say(format!("This device's GPU is {}.", device.name));
                self.gpu.set(Gpu::Open(device));
                self.idle(Work::Open);
            }
            Event::Capacity { bytes: found, all } => {
                self.capacity.set(Some((found, all)));
                self.idle(Work::Probe);
                self.live.say(format!("The GPU gave {}.", bytes(found)));
                self.configure_soon();
            }
            Event::Progress(progress) => self.has_come(progress),
            Event::Idle { work } => self.has_ended(work),
            Event::Model(model) => self.model_is_here(model),
            Event::Data(data) => {
                let (kept, dropped) = (data.report.examples as u64, data.report.dropped_rows() as u64);
                let kept = counted(kept, "example", "examples");
                self.live.say(format!("The data is read: {kept}, {} dropped.", counted(dropped, "row", "rows")));
                self.idle(Work::Encode);
                self.source.set(Some(data.report.source.clone()));
                self.data.set(Some(data));
                // Where a plan is on its way, it is of this data.
                if !self.planning.get_untracked() {
                    self.plan.set(None);
                    self.configure_soon();
                }
            }
            Event::Plan(plan) => {
                self.planning.set(false);
                let measured =
                    self.plan.with_untracked(|old| old.as_ref().is_none_or(|p| p.step_flops == plan.step_flops));
                if !measured {
                    self.trial.set(None);
                }
                self.plan.set(Some(plan));
            }
            Event::Trial { seconds_per_step, tokens_per_s, allocated_bytes } => {
                self.live.say(format!("A step takes {}.", duration(seconds_per_step)));
                self.idle(Work::Trial);
                self.trial.set(Some(Trial { seconds_per_step, tokens_per_s, allocated_bytes }));
            }
            Event::Started(started) => {
                let resumed = started.step > 0;
                self.live.say(match resumed {
                    true => format!("Training goes on at step {}.", started.step),
                    false => format!("Training begins: {} steps.", started.total_steps),
                });
                if resumed {
                    self.settle(started.config.clone());
                }
                self.run.begin(started);
            }
            Event::Step(metrics) => {
                let total = self.run.started.with_untracked(|s| s.as_ref().map_or(0, |s| s.total_steps));
                self.live.progress(format!("Step {} of {total}, loss {:.2}.", metrics.step, metrics.loss));
                self.idle(Work::Train);
                self.run.stepped(metrics, now());
            }
            Event::Evaluated { evaluated, .. } => self.run.evaluated(evaluated),
            Event::Sample { step, text } => self.run.samples.update(|samples| {
                samples.retain(|(at, _)| *at != step);
                samples.push((step, text));
            }),
            Event::Kept { step } => self.run.kept.set(Some(step)),
            Event::Paused { step } => {
                self.run.held();
                self.live.say(format!("Training is paused after step {step}."));
            }
            Event::Continued => {
                self.run.phase.set(Phase::Running);
                self.live.say("Training goes on.");
            }
            Event::Finished(finished) => self.run_has_ended(finished),
            Event::Adapters { adapters } => {
                let newest = adapters.last().map(|adapter| adapter.id);
                let known = |id: &u32| adapters.iter().any(|adapter| adapter.id == *id);
                if adapters.len() > self.adapters.with_untracked(Vec::len)
                    || !self.draft.adapter.get_untracked().is_some_and(|id| known(&id))
                {
                    self.draft.adapter.set(newest);
                }
                self.adapters.set(adapters);
            }
            Event::Token { turn, text } => self.talk.token(turn, &text),
            Event::Answered { turn, tokens, seconds } => {
                self.talk.answered(turn, tokens, seconds);
                self.live.say("The answer is complete.");
            }
            Event::Comparison(comparison) => {
                let (base, tuned) = (comparison.base, comparison.tuned);
                self.live.say(format!("Compared: loss {base:.3} before, {tuned:.3} after."));
                self.idle(Work::Compare);
                self.comparison.set(Some(comparison));
            }
            Event::File { name, bytes: size } => self.save_file(&name, size, &files),
            Event::Storage(storage) => self.storage_is(storage),
            Event::Failure(failure) => self.fail(failure),
            Event::Notice { text } => self.notice(text),
        }
    }

    fn worker_is_ready(self) {
        self.ready.set(true);
        if matches!(self.gpu.get_untracked(), Gpu::Asking | Gpu::Found) {
            self.open();
        }
        self.send(Command::Storage);
        let waiting = self.line.try_update_value(|line| std::mem::take(&mut line.waiting)).unwrap_or_default();
        self.line.with_value(|line| {
            let Some(client) = &line.client else { return };
            waiting.iter().for_each(|(command, files)| client.send(command, files));
        });
    }

    fn has_come(self, progress: Progress) {
        let mut said = progress.what.clone();
        if let Some(percent) = (progress.done * 100).checked_div(progress.total) {
            said += &format!(", {percent} percent");
        }
        if let Some(left) = progress.left.filter(|left| *left >= 10.0) {
            said += &format!(", {} left", duration(left));
        }
        self.live.progress(said + ".");
        if progress.work == Work::Load {
            self.idle(Work::Download);
        }
        self.progress(progress);
    }

    fn has_ended(self, work: Work) {
        self.idle(work);
        match work {
            Work::Answer => {
                if let Some(next) = self.talk.next() {
                    self.send(next);
                }
            }
            Work::Load => self.idle(Work::Download),
            Work::Train if self.is_training() => {
                self.run.phase.set(Phase::Broken);
                self.run.seconds_left.set(None);
                self.send(Command::Storage);
            }
            _ => {}
        }
    }

    fn model_is_here(self, model: Model) {
        self.idle(Work::Download);
        self.idle(Work::Load);
        let parameters = count(model.parameters);
        self.live.say(format!("{} is loaded: {parameters} parameters.", model.name));
        let (source, choice) = self
            .line
            .try_update_value(|line| {
                if !line.settled {
                    let chosen = rebased(&self.config.get_untracked(), &line.baseline, &model.preset);
                    line.baseline = model.preset.clone();
                    self.config.set(chosen);
                }
                (line.source.clone(), line.asked_model.clone())
            })
            .unwrap_or_default();
        self.choice.set(choice.filter(|choice| !matches!(choice, ModelChoice::Files)));
        self.data.set(None);
        self.plan.set(None);
        self.trial.set(None);
        self.comparison.set(None);
        self.talk.pair.set(None);
        self.talk.exchanges.set(vec![]);
        self.model.set(Some(model));
        if let Some((source, files)) = source.filter(|_| !self.is_training()) {
            self.send_with(Command::SetData { source, config: self.config.get_untracked() }, files);
        }
    }

    fn run_has_ended(self, finished: Finished) {
        let text = match finished.how {
            Ending::Complete => "Training is complete.".to_string(),
            Ending::Early => {
                "Training ended early: the held-out loss fell no more. The best state is kept.".to_string()
            }
            Ending::Stopped => format!("Training was stopped after step {}. What was learned is kept.", finished.steps),
            Ending::Discarded => "Training was ended, and what was learned is thrown away.".to_string(),
        };
        let losses = finished.first_eval.zip(finished.last_eval);
        let losses = losses.map(|(a, b)| format!(" Held-out loss {} before, {} after.", short(a), short(b)));
        self.live.say(text + &losses.unwrap_or_default());
        if let Some(adapter) = finished.adapter {
            self.draft.adapter.set(Some(adapter));
        }
        self.run.finish(finished);
        self.idle(Work::Train);
        self.send(Command::Storage);
    }

    fn save_file(self, name: &str, size: u64, files: &[Blob]) {
        self.idle(Work::Export);
        let saved = files.first().map(|blob| save::save(name, blob));
        match saved {
            Some(Ok(())) => self.live.say(format!("{name} is saved, {}.", bytes(size))),
            _ => self.fail(Failure {
                kind: FailureKind::Internal,
                message: format!("The browser did not take {name}."),
                detail: vec![],
                action: Some(Action::Retry),
            }),
        }
    }

    fn storage_is(self, storage: Storage) {
        let unfinished = storage.runs.iter().filter(|run| !run.finished).count();
        if unfinished > 0 && self.storage.with_untracked(Option::is_none) {
            self.live.say("A run was broken off. It can be resumed.");
        }
        self.storage.set(Some(storage));
    }

    /// Shows a failure until it is dealt with.
    pub fn fail(self, failure: Failure) {
        if failure.kind == FailureKind::NoGpu {
            self.gpu.update(|gpu| {
                if !matches!(gpu, Gpu::Missing(_)) {
                    *gpu = Gpu::Missing(NoGpu::NoAdapter);
                }
            });
            self.idle(Work::Open);
        }
        if failure.kind == FailureKind::Data && self.data.with_untracked(Option::is_none) {
            // What could not be read is not tried again with the next model.
            self.source.set(None);
            self.line.update_value(|line| line.source = None);
        }
        self.ended_by(failure.kind);
        self.live.say(failure.message.clone());
        self.failures.update(|failures| {
            failures.retain(|f| f.kind != failure.kind);
            failures.push(failure);
        });
    }

    /// What goes on no more after a failure of this kind. A full storage or a download that broke off ends no run.
    fn ended_by(self, kind: FailureKind) {
        self.planning.set(false);
        // What was only asked for has not begun.
        self.work.update(|work| work.retain(|p| p.done > 0 || p.total > 0));
        self.talk.clear_line();
        self.talk.answering.set(None);
        if self.is_training() && !matches!(kind, FailureKind::FullStorage | FailureKind::Network) {
            self.run.phase.set(Phase::Broken);
            self.run.seconds_left.set(None);
            self.send(Command::Storage);
        }
    }

    /// Shows something worth telling.
    pub fn notice(self, text: String) {
        self.live.say(text.clone());
        self.notices.update(|notices| {
            notices.retain(|n| *n != text);
            notices.push(text);
        });
    }

    /// The worker broke down, or never came up: starts another, which knows nothing of model, data or adapters.
    pub fn died(self) {
        let was_ready = self.ready.get_untracked();
        let was_training = self.is_training();
        let again = self.line.try_update_value(|line| {
            line.waiting.clear();
            if let Some(client) = &line.client {
                client.terminate();
            }
            was_ready && may_restart(line)
        });
        self.ready.set(false);
        self.work.set(vec![]);
        self.planning.set(false);
        self.talk.clear_line();
        self.talk.answering.set(None);
        if was_training {
            self.run.phase.set(Phase::Broken);
        }
        self.model.set(None);
        self.data.set(None);
        self.plan.set(None);
        self.trial.set(None);
        self.comparison.set(None);
        self.adapters.set(vec![]);
        if !was_ready {
            return self.fail(Failure {
                kind: FailureKind::Internal,
                message: "The part of the page that does the work could not be started.".to_string(),
                detail: vec!["Its program was not found, or this browser is too old for it.".to_string()],
                action: Some(Action::Reload),
            });
        }
        let kept = self.run.kept.get_untracked().filter(|_| was_training);
        self.fail(match (was_training, kept) {
            (true, Some(step)) => Failure {
                kind: FailureKind::Internal,
                message: format!("Training broke down. What was learned up to step {step} is kept."),
                detail: vec!["This is a fault of the page, not of your data.".to_string()],
                action: Some(Action::Resume),
            },
            _ => Failure {
                kind: FailureKind::Internal,
                message: "The part of the page that does the work broke down. It was started anew, without its model."
                    .to_string(),
                detail: vec!["This is a fault of the page, not of your data.".to_string()],
                action: Some(Action::ChooseModel),
            },
        });
        if again == Some(true) {
            if matches!(self.gpu.get_untracked(), Gpu::Open(_)) {
                self.gpu.set(Gpu::Found);
            }
            // Not from within the dead worker's own callback.
            set_timeout(move || self.start_worker(), std::time::Duration::ZERO);
        }
    }

    /// Goes to Load where there is no model yet, else to Data: what a link or a settings file leads to.
    pub fn go_on(self) {
        self.go(if self.model.with_untracked(Option::is_some) { Step::Method } else { Step::Load });
    }
}

/// Seconds of a clock that only goes forward.
fn now() -> f64 {
    window().performance().map_or(0.0, |clock| clock.now() / 1000.0)
}

/// `preset` with the choices in which `chosen` differs from `baseline`: a new model's preset must not undo what someone chose.
fn rebased(chosen: &RunConfig, baseline: &RunConfig, preset: &RunConfig) -> RunConfig {
    let map = |config: &RunConfig| match serde_json::to_value(config) {
        Ok(serde_json::Value::Object(map)) => map,
        _ => serde_json::Map::new(),
    };
    let (chosen, baseline, mut out) = (map(chosen), map(baseline), map(preset));
    for (name, value) in &chosen {
        if baseline.get(name) != Some(value) {
            out.insert(name.clone(), value.clone());
        }
    }
    serde_json::from_value(out.into()).unwrap_or_else(|_| preset.clone())
}
