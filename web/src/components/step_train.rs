//! Step 4: the run, as it goes.

use leptos::prelude::*;
use wasm_bindgen::JsCast;
use web_sys::HtmlElement;

use super::chart::{Chart, Series};
use super::numbers::{bytes, count, duration, percent};
use super::progress::Bars;
use super::run_view::Phase;
use super::state::{Gpu, State};
use super::steps::Step;
use crate::protocol::{Command, Ending, Work};

/// The step.
#[component]
pub fn StepTrain() -> impl IntoView {
    view! {
        <section class="card" aria-labelledby="run-title">
            <h3 id="run-title">"The run"</h3>
            <Ready />
            <Controls />
            <Bars kinds=&[Work::Download, Work::Load, Work::Encode, Work::Train] />
            <Position />
            <Outcome />
        </section>
        <Answers />
        <Charts />
    }
}

/// What keeps it from starting, or what it will take.
#[component]
fn Ready() -> impl IntoView {
    let state = State::here();
    let go = move |step: Step, title: &'static str| {
        view! {
            <button type="button" on:click=move |_| state.go(step)>
                {title}
            </button>
        }
    };
    move || {
        if state.run.phase.get().is_live() {
            return None;
        }
        let view = match obstacle(state) {
            Some((why, step, title)) => view! {
                <p class="advice" id="start-blocked">
                    {why} " " {go(step, title)}
                </p>
            }
            .into_any(),
            None => {
                let total = state.plan.with(|plan| plan.as_ref().map(|p| (p.steps, p.total_bytes)));
                let soon = total.is_none().then(|| view! { <p class="hint">"What it costs is being worked out…"</p> });
                let words = total.map(|(steps, total)| {
                    view! {
                        <p>
                            {count(steps)} " steps. It will take at most "
                            <strong data-bytes=total id="predicted-bytes">{bytes(total)}</strong>
                            " of GPU memory."
                        </p>
                    }
                });
                (soon, words).into_any()
            }
        };
        Some(view)
    }
}

/// Why training may not start, and where that can be changed.
fn obstacle(state: State) -> Option<(String, Step, &'static str)> {
    if matches!(state.gpu.get(), Gpu::Missing(_)) {
        return Some(("This browser gives no GPU to this page.".to_string(), Step::Load, "What to do"));
    }
    if state.model.with(Option::is_none) {
        return Some(("There is no model yet.".to_string(), Step::Load, "Load a model"));
    }
    if state.source.with(Option::is_none) && state.data.with(Option::is_none) {
        return Some(("There is no data yet.".to_string(), Step::Data, "Choose data"));
    }
    if let Some(error) = state.config.with(|config| config.validate().err()) {
        return Some((error.to_string(), Step::Method, "Change the choices"));
    }
    let nothing = state.data.with(|data| data.as_ref().is_some_and(|d| d.report.supervised_tokens == 0));
    let blocked = state.plan.with(|plan| plan.as_ref().and_then(|p| p.blocked.clone()));
    match (blocked, nothing) {
        (Some(why), true) => Some((why, Step::Data, "Look at the data")),
        (Some(why), false) => Some((why, Step::Method, "Change the choices")),
        (None, true) => {
            Some(("There is nothing to learn from in this data.".to_string(), Step::Data, "Look at the data"))
        }
        (None, false) => None,
    }
}

/// Start; or Pause, Stop & keep, Discard. The focus stays with them when one takes the place of another.
#[component]
fn Controls() -> impl IntoView {
    let state = State::here();
    let phase = state.run.phase;
    let sure = RwSignal::new(false);
    let may_start = move || obstacle(state).is_none() && state.plan.with(Option::is_some) && !state.planning.get();
    let live = Memo::new(move |_| phase.get().is_live());
    let held = Memo::new(move |_| phase.get() == Phase::Paused);
    let pressed = StoredValue::new(false);
    let send = move |command: Command| {
        pressed.set_value(true);
        sure.set(false);
        state.send(command);
    };
    Effect::new(move |_| {
        let next = match phase.get() {
            Phase::Running => "pause",
            Phase::Paused => "continue",
            Phase::Finished | Phase::Broken => "start",
            _ => return,
        };
        if pressed.get_value() {
            pressed.set_value(false);
            request_animation_frame(move || focus(next));
        }
    });
    let ask = move || {
        request_animation_frame(|| focus("discard-no"));
        view! {
            <div class="advice sure" id="discard-question" role="group" aria-labelledby="discard-words">
                <p id="discard-words">"Throw away everything that was learned in this run?"</p>
                <p class="buttons">
                    <button type="button" id="discard-sure" class="danger" on:click=move |_| send(Command::Discard)>
                        "Yes, throw it away"
                    </button>
                    <button
                        type="button"
                        id="discard-no"
                        on:click=move |_| {
                            sure.set(false);
                            focus("discard");
                        }
                    >
                        "No, keep it"
                    </button>
                </p>
            </div>
        }
    };
    let start = move || {
        view! {
            <button
                type="button"
                class="main large"
                id="start"
                disabled=move || !may_start()
                on:click=move |_| send(Command::Train { config: state.config.get_untracked() })
            >
                {move || if phase.get() == Phase::None { "Start" } else { "Start a new run" }}
            </button>
        }
    };
    let hold = move || match held.get() {
        true => view! {
            <button type="button" class="main" id="continue" on:click=move |_| send(Command::Continue)>
                "Continue"
            </button>
        }
        .into_any(),
        false => view! {
            <button
                type="button"
                id="pause"
                disabled=move || phase.get() != Phase::Running
                on:click=move |_| send(Command::Pause)
            >
                "Pause"
            </button>
        }
        .into_any(),
    };
    let end = move || {
        view! {
            {hold}
            <button
                type="button"
                id="stop"
                disabled=move || matches!(phase.get(), Phase::Starting | Phase::Ending)
                on:click=move |_| send(Command::Stop)
            >
                "Stop & keep"
            </button>
            <button
                type="button"
                id="discard"
                class="danger"
                disabled=move || phase.get() == Phase::Ending
                on:click=move |_| sure.set(true)
            >
                "Discard"
            </button>
        }
    };
    view! {
        <p class="buttons">{move || if live.get() { end().into_any() } else { start().into_any() }}</p>
        {move || (live.get() && sure.get()).then(ask)}
    }
}

/// Gives the focus to the element of this name, if it is there.
fn focus(id: &str) {
    let element = document().get_element_by_id(id).and_then(|element| element.dyn_into::<HtmlElement>().ok());
    if let Some(element) = element {
        let _ = element.focus();
    }
}

/// Where it is: step, time left, bytes, checkpoint.
#[component]
fn Position() -> impl IntoView {
    let state = State::here();
    let run = state.run;
    let total = move || run.started.with(|s| s.as_ref().map_or(0, |s| s.total_steps));
    let planned = move || run.started.with(|s| s.as_ref().map_or(0, |s| s.planned_bytes));
    let left = move || match (run.phase.get().is_live(), run.seconds_left.get()) {
        (false, _) => "–".to_string(),
        (true, None) => "not known yet".to_string(),
        (true, Some(left)) => format!("about {}", duration(left)),
    };
    let off = move || {
        let (planned, measured) = (planned() as f64, run.allocated.get() as f64);
        let by = (measured - planned).abs() / planned.max(1.0);
        format!("{} {} than predicted", percent(by), if measured < planned { "less" } else { "more" })
    };
    let last = move |points: super::run_view::Points| {
        points.with(|p| p.last().map_or("–".to_string(), |p| format!("{:.3}", p.1)))
    };
    let seen = move || run.started.with(Option::is_some) || run.phase.get() != Phase::None;
    let view = move || {
        view! {
            <p class="phase" id="phase" data-phase=move || format!("{:?}", run.phase.get())>
                {move || run.phase.get().word()}
            </p>
            <progress
                class="run-progress"
                aria-label="Steps made"
                max=move || total().max(1).to_string()
                prop:value=move || run.step.get() as f64
            ></progress>
            <dl class="facts figures">
                <dt>"Step"</dt>
                <dd>
                    <span id="run-step" data-step=move || run.step.get()>{move || count(run.step.get())}</span>
                    " of "
                    <span id="run-total">{move || count(total())}</span>
                </dd>
                <dt>"Time left"</dt>
                <dd id="time-left">{left}</dd>
                <dt>"Loss"</dt>
                <dd id="loss">{move || last(run.loss)}</dd>
                <dt>"Held-out loss"</dt>
                <dd id="held-out">{move || last(run.eval_loss)}</dd>
                <dt>"GPU memory predicted"</dt>
                <dd id="planned-bytes" data-bytes=planned>{move || bytes(planned())}</dd>
                <dt>"GPU memory measured"</dt>
                <dd>
                    <span id="measured-bytes" data-bytes=move || run.allocated.get()>{move || bytes(run.allocated.get())}</span>
                    ", "
                    {off}
                </dd>
                <dt>"Saved"</dt>
                <dd id="kept-step" data-step=move || run.kept.get().map(|s| s.to_string())>
                    {move || run.kept.get().map_or("not yet".to_string(), |step| format!("up to step {step}"))}
                </dd>
            </dl>
            {move || {
                run.phase
                    .get()
                    .is_live()
                    .then(|| {
                        view! {
                            <p class="hint">
                                "Training goes on while this tab is in the background. If the device sleeps or the tab is closed, it can be resumed from what is saved."
                            </p>
                        }
                    })
            }}
        }
    };
    move || seen().then(view)
}

/// How it ended.
#[component]
fn Outcome() -> impl IntoView {
    let state = State::here();
    move || {
        let finished = state.run.finished.get().filter(|_| !state.run.phase.get().is_live())?;
        let how = match finished.how {
            Ending::Complete => "It went all the way.",
            Ending::Early => "It ended early, as the held-out loss fell no more. The best state is kept.",
            Ending::Stopped => "It was stopped. What was learned is kept.",
            Ending::Discarded => "It was ended, and what was learned is thrown away.",
        };
        let losses = finished.first_eval.zip(finished.last_eval);
        let kept = finished.how != Ending::Discarded;
        Some(view! {
            <div class="outcome" id="outcome" data-how=format!("{:?}", finished.how)>
                <p>
                    <strong>{how}</strong>
                    {format!(
                        " {} steps, {} tokens, {}.",
                        count(finished.steps),
                        count(finished.tokens),
                        duration(finished.seconds),
                    )}
                </p>
                {losses
                    .map(|(before, after)| {
                        view! {
                            <p>
                                "Held-out loss: "
                                <span data-loss=before>{format!("{before:.4}")}</span>
                                " before, "
                                <span data-loss=after>{format!("{after:.4}")}</span>
                                " after."
                            </p>
                        }
                    })}
                {kept
                    .then(|| {
                        view! {
                            <p class="buttons">
                                <button type="button" class="main" id="to-compare" on:click=move |_| state.go(Step::Compare)>
                                    "Go on to Compare"
                                </button>
                                <button type="button" id="to-keep" on:click=move |_| state.go(Step::Keep)>
                                    "Take it home"
                                </button>
                            </p>
                        }
                    })}
            </div>
        })
    }
}

/// The fixed prompt's answers over time, the newest first.
#[component]
fn Answers() -> impl IntoView {
    let state = State::here();
    let samples = state.run.samples;
    let prompt = move || {
        let ran = state.run.started.with(|s| s.as_ref().and_then(|s| s.config.sample_prompt.clone()));
        ran.or_else(|| state.config.with(|c| c.sample_prompt.clone()))
    };
    let row = |(step, text): (u64, String)| {
        view! {
            <li data-test="sample" data-step=step>
                <span class="turn-who">{if step == 0 { "Before".to_string() } else { format!("After step {step}") }}</span>
                <p class="answer">{text}</p>
            </li>
        }
    };
    move || {
        samples.with(|samples| !samples.is_empty()).then(|| {
            view! {
                <section class="card" aria-labelledby="watched-title">
                    <h3 id="watched-title">"The prompt you watch"</h3>
                    <p class="prompt">{prompt}</p>
                    <ol class="answers" id="samples">
                        {move || samples.get().into_iter().rev().map(row).collect_view()}
                    </ol>
                </section>
            }
        })
    }
}

/// The curves, from the first step on.
#[component]
fn Charts() -> impl IntoView {
    let run = State::here().run;
    let one = |name, points| vec![Series { name, points }];
    let losses =
        move || vec![Series { name: "training", points: run.loss }, Series { name: "held out", points: run.eval_loss }];
    let begun = Memo::new(move |_| run.started.with(Option::is_some));
    let charts = move || {
        view! {
            <section class="card" aria-labelledby="charts-title">
                <h3 id="charts-title">"Curves"</h3>
                <div class="charts">
                    <Chart title="Loss" unit="nats a token" series=losses() />
                    <Chart title="Learning rate" unit="" series=one("learning rate", run.lr) />
                    <Chart title="Gradient norm" unit="" series=one("gradient norm", run.grad_norm) log=true />
                    <Chart title="Speed" unit="tokens a second" series=one("tokens a second", run.tokens_per_s) />
                    <Chart title="GPU memory" unit="MB" series=one("memory", run.memory) />
                </div>
            </section>
        }
    };
    move || begun.get().then(charts)
}
