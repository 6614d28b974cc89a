//! What the choices cost before anything is trained: parameters, memory, time, the file; whether it fits, and what would.

use espalier::train::RunConfig;
use leptos::prelude::*;

use super::memory::Memory;
use super::numbers::{bytes, count, duration, percent, plain, short};
use super::progress::Bars;
use super::state::State;
use super::steps::Step;
use crate::protocol::{Command, Fit, Plan, Work};

/// What the choices cost, and whether that fits.
#[component]
pub fn Cost() -> impl IntoView {
    let state = State::here();
    let wrong = move || state.config.with(|config| config.validate().err().map(|e| e.to_string()));
    let missing = move || match (state.model.with(Option::is_some), state.data.with(Option::is_some)) {
        (false, _) => Some("Load a model, and what these choices cost appears here."),
        (true, false) => Some("Choose data, and what these choices cost appears here."),
        _ => None,
    };
    view! {
        <section class="card" aria-labelledby="cost-title" aria-busy=move || state.planning.get().to_string()>
            <h3 id="cost-title">"What it costs"</h3>
            {move || wrong().map(|why| view! { <p class="advice" id="choice-error">{why}</p> })}
            {move || state.plan.get().map(|plan| view! { <PlanView plan /> })}
            {move || state.plan.with(Option::is_none).then(missing).flatten().map(|text| view! { <p class="hint">{text}</p> })}
            <Bars kinds=&[Work::Download, Work::Load, Work::Encode, Work::Trial, Work::Probe] />
            <p class="buttons">
                <button
                    type="button"
                    id="trial"
                    disabled=move || {
                        state.is_at(Work::Trial) || state.run.phase.get().is_live()
                            || state.plan.with(|p| p.as_ref().is_none_or(|p| p.blocked.is_some()))
                    }
                    on:click=move |_| state.send(Command::Trial { config: state.config.get_untracked() })
                >
                    "Try two steps"
                </button>
                <button type="button" class="main" id="to-train" on:click=move |_| state.go(Step::Train)>
                    "Go on to Train"
                </button>
            </p>
        </section>
    }
}

#[component]
fn PlanView(plan: Plan) -> impl IntoView {
    let state = State::here();
    let share = plan.trained_parameters as f64 / plan.total_parameters.max(1) as f64;
    let steps = plan.steps;
    let time = move || match state.trial.get() {
        Some(trial) => {
            let each = trial.seconds_per_step;
            format!("about {}, at {} a step", duration(each * steps as f64), duration(each))
        }
        None => "not known yet: try two steps".to_string(),
    };
    let measured = move || {
        state
            .trial
            .get()
            .map(|trial| view! { <p class="hint">"Measured in the two steps: " {bytes(trial.allocated_bytes)} "."</p> })
    };
    view! {
        <FitWords fit=plan.fit remedy=plan.remedy.clone() />
        {plan
            .blocked
            .clone()
            .map(|why| {
                view! {
                    <p class="advice" id="blocked">
                        <strong>"It cannot start: "</strong>
                        {why}
                    </p>
                }
            })}
        <dl class="facts">
            <dt>"Trained"</dt>
            <dd id="plan-parameters" data-parameters=plan.trained_parameters>
                {count(plan.trained_parameters)} " of " {count(plan.total_parameters)} " parameters (" {percent(share)} ")"
            </dd>
            <dt>"Steps"</dt>
            <dd id="plan-steps" data-steps=plan.steps>{count(plan.steps)}", at most at the rate " {plain(plan.peak_lr)}</dd>
            <dt>"Work in a step"</dt>
            <dd>{short(plan.step_flops / 1e9)} " GFLOP"</dd>
            <dt>"Time"</dt>
            <dd id="plan-time">{time}</dd>
            <dt>"File of the result"</dt>
            <dd id="plan-result">{bytes(plan.result_bytes)}</dd>
        </dl>
        <h4>"GPU memory"</h4>
        {move || {
            view! { <Memory parts=plan.memory.clone() total=plan.total_bytes capacity=state.capacity.get() /> }
        }}
        {measured}
    }
}

/// Fits, tight, does not fit; and the change that makes it fit.
#[component]
fn FitWords(fit: Fit, remedy: Option<(String, RunConfig)>) -> impl IntoView {
    let state = State::here();
    let (name, words) = match fit {
        Fit::Fits => ("fits", "It fits on this GPU."),
        Fit::Tight => ("tight", "It is tight: it fits, if other programs leave the GPU alone."),
        Fit::DoesNot => ("does-not", "It does not fit on this GPU."),
        Fit::Unknown => ("unknown", "Whether it fits is not known: the GPU's memory has not been tried yet."),
    };
    view! {
        <div class=format!("fit {name}") id="fit" data-fit=name>
            <p>
                <strong>{words}</strong>
            </p>
            {(fit == Fit::Unknown)
                .then(|| {
                    view! {
                        <button type="button" on:click=move |_| state.send(Command::Probe)>
                            "Try how much memory it gives"
                        </button>
                    }
                })}
            {remedy
                .map(|(words, config)| {
                    view! {
                        <p>{words.clone()}</p>
                        <button type="button" class="main" id="remedy" on:click=move |_| state.config.set(config.clone())>
                            "Change it so"
                        </button>
                    }
                })}
        </div>
    }
}
