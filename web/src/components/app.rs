//! The page: head, list of steps, the step that is open.

use leptos::ev;
use leptos::html::H2;
use leptos::prelude::*;
use wasm_bindgen::{JsCast, JsValue};

use super::failure::Troubles;
use super::faults::Faults;
use super::live::LiveRegion;
use super::mark::Mark;
use super::remedy::look_for_gpu;
use super::run_view::Phase;
use super::state::State;
use super::step_compare::StepCompare;
use super::step_data::StepData;
use super::step_keep::StepKeep;
use super::step_load::StepLoad;
use super::step_method::StepMethod;
use super::step_train::StepTrain;
use super::steps::Step;
use crate::protocol::{Failure, FailureKind, ModelChoice};
use crate::share::{Shared, from_fragment};

/// The whole page.
#[component]
pub fn App() -> impl IntoView {
    let state = State::new();
    provide_context(state);
    follow_address(state);
    watch_choices(state);
    warn_before_leaving(state);
    name_the_tab(state);
    leptos::task::spawn_local(look_for_gpu(state));
    // The page is drawn before the worker's program is asked for.
    request_animation_frame(move || state.start_worker());

    let heading = NodeRef::<H2>::new();
    Effect::new(move |before: Option<Step>| {
        let step = state.step.get();
        if let (Some(heading), true) = (heading.get_untracked(), before.is_some_and(|before| before != step)) {
            let _ = heading.focus();
            window().scroll_to_with_x_and_y(0.0, 0.0);
        }
        step
    });
    let panel = move || match state.step.get() {
        Step::Load => view! { <StepLoad /> }.into_any(),
        Step::Data => view! { <StepData /> }.into_any(),
        Step::Method => view! { <StepMethod /> }.into_any(),
        Step::Train => view! { <StepTrain /> }.into_any(),
        Step::Compare => view! { <StepCompare /> }.into_any(),
        Step::Keep => view! { <StepKeep /> }.into_any(),
    };
    view! {
        <a class="skip" href="#step-heading" on:click=move |event| {
            event.prevent_default();
            if let Some(heading) = heading.get_untracked() {
                let _ = heading.focus();
            }
        }>
            "Skip to the step"
        </a>
        <header class="head">
            <Mark />
            <div>
                <h1>"Espalier"</h1>
                <p>"Teach a small language model your way, in this tab."</p>
            </div>
            <p class="privacy" id="privacy">"Nothing leaves this machine: model, data and results stay in this browser."</p>
        </header>
        <nav class="steps" aria-label="Steps">
            <ol>{Step::ALL.into_iter().map(|step| view! { <StepLink step /> }).collect_view()}</ol>
        </nav>
        <main id="main">
            <LiveRegion live=state.live />
            <Troubles />
            <h2 id="step-heading" tabindex="-1" node_ref=heading>
                {move || state.step.get().heading()}
            </h2>
            <div class="panel" data-test="panel" data-step=move || state.step.get().slug()>
                {panel}
            </div>
            <Faults />
        </main>
        <footer class="foot">
            <p>"Espalier runs on your own GPU through WebGPU. Open source, MIT or Apache-2.0."</p>
        </footer>
    }
}

/// A step in the list: where it stands is told by words, too.
#[component]
fn StepLink(step: Step) -> impl IntoView {
    let state = State::here();
    let done = move || match step {
        Step::Load => state.model.with(Option::is_some),
        Step::Data => state.data.with(Option::is_some),
        Step::Method => state.plan.with(|plan| plan.as_ref().is_some_and(|plan| plan.blocked.is_none())),
        Step::Train => state.run.phase.get() == Phase::Finished,
        Step::Compare => state.comparison.with(Option::is_some) || state.talk.pair.with(Option::is_some),
        Step::Keep => false,
    };
    let here = move || (state.step.get() == step).then_some("step");
    view! {
        <li>
            <a
                id=format!("step-{}", step.slug())
                href=format!("#{}", step.slug())
                aria-current=here
                class:done=done
            >
                <span class="step-number" aria-hidden="true">{move || if done() { "✓".to_string() } else { step.number().to_string() }}</span>
                <span>{step.title()}</span>
                {move || done().then(|| view! { <span class="for-ears">" (done)"</span> })}
            </a>
        </li>
    }
}

/// The address says which step is open, or brings settings.
fn follow_address(state: State) {
    let follow = move || {
        let hash = window().location().hash().unwrap_or_default();
        if let Some(step) = Step::from_fragment(&hash) {
            state.step.set(step);
        } else if let Some(shared) = from_fragment(&hash) {
            match shared {
                Ok(shared) => restore(state, shared),
                Err(why) => state.fail(Failure {
                    kind: FailureKind::Choice,
                    message: format!("The settings of this address cannot be restored: {why}."),
                    detail: vec![],
                    action: None,
                }),
            }
        } else if hash.is_empty() {
            state.step.set(Step::Load);
        }
    };
    // Nothing outlives a reload but what is stored: the first step has it, and offers to resume a run.
    if Step::from_fragment(&window().location().hash().unwrap_or_default()).is_some() {
        let first = format!("#{}", Step::Load.slug());
        let _ = window().history().and_then(|h| h.replace_state_with_url(&JsValue::NULL, "", Some(&first)));
    }
    follow();
    let handle = window_event_listener(ev::hashchange, move |_| follow());
    on_cleanup(move || handle.remove());
}

/// Takes over what a link brought; the model is named, and loaded only when asked for.
fn restore(state: State, shared: Shared) {
    let prompt = state.config.with_untracked(|config| config.sample_prompt.clone());
    state.settle(espalier::train::RunConfig { sample_prompt: prompt, ..shared.config });
    let model = match &shared.model {
        Some(ModelChoice::Seedling) => "Its model is Seedling. ".to_string(),
        Some(ModelChoice::Served) => "Its model is SmolLM2 135M Instruct. ".to_string(),
        Some(ModelChoice::Hub { id, endpoint }) => {
            state.draft.hub_id.set(id.clone());
            state.draft.endpoint.set(endpoint.clone());
            format!("Its model is {id}. ")
        }
        _ => String::new(),
    };
    state.choice.set(shared.model);
    state.notice(format!("The settings of the link are restored. {model}Load a model and choose your data."));
    state.step.set(Step::Load);
}

/// Every change of the choices, the model or the data is costed.
fn watch_choices(state: State) {
    Effect::new(move |_| {
        state.config.track();
        state.model.track();
        state.configure_soon();
    });
}

/// Leaving in the middle of a run is asked about.
fn warn_before_leaving(state: State) {
    let handle = window_event_listener(ev::beforeunload, move |event| {
        if state.is_training() {
            event.prevent_default();
            event.set_return_value("Training goes on.");
        }
    });
    on_cleanup(move || handle.remove());
}

/// The tab's title says where the run is, for those who look at another tab.
fn name_the_tab(state: State) {
    Effect::new(move |_| {
        let (phase, step) = (state.run.phase.get(), state.run.step.get());
        let total = state.run.started.with(|s| s.as_ref().map_or(0, |s| s.total_steps));
        document().set_title(&match phase {
            Phase::Paused => format!("Paused at {step} of {total} – Espalier"),
            Phase::Finished => "Finished – Espalier".to_string(),
            phase if phase.is_live() && total > 0 => format!("{step} of {total} – Espalier"),
            _ => "Espalier".to_string(),
        });
    });
}

/// Mounts the page, in place of what index.html shows while it loads.
pub fn mount() {
    if let Some(loading) = document().get_element_by_id("loading") {
        loading.unchecked_into::<web_sys::Element>().remove();
    }
    leptos::mount::mount_to_body(App);
}
