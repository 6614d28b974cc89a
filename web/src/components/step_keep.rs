//! Step 6: files to take home, and a link that restores the settings.

use leptos::prelude::*;
use wasm_bindgen::JsCast;
use wasm_bindgen_futures::JsFuture;
use web_sys::{Blob, File};

use espalier::train::RunConfig;

use super::drop_zone::DropZone;
use super::numbers::bytes;
use super::progress::Bars;
use super::save;
use super::state::State;
use super::step_compare::{AdapterSelect, chosen};
use crate::protocol::{Command, Export, Failure, FailureKind, StoredRun, Work};
use crate::share::{Shared, to_fragment};

/// The step.
#[component]
pub fn StepKeep() -> impl IntoView {
    view! {
        <section class="card" aria-labelledby="adapter-title">
            <h3 id="adapter-title">"What was trained"</h3>
            <AdapterSelect id="keep-adapter" label="Which" />
            <AdapterFiles />
            <Bars kinds=&[Work::Export] />
        </section>
        <section class="card" aria-labelledby="run-files-title">
            <h3 id="run-files-title">"The run"</h3>
            <RunFiles />
        </section>
        <section class="card" aria-labelledby="settings-title">
            <h3 id="settings-title">"The settings"</h3>
            <Settings />
        </section>
    }
}

/// A file to be made: what it is, who reads it, its size.
#[component]
fn FileRow(
    id: &'static str,
    title: &'static str,
    who: &'static str,
    #[prop(into)] size: Signal<Option<u64>>,
    #[prop(into)] ready: Signal<bool>,
    make: impl Fn() + 'static,
) -> impl IntoView {
    view! {
        <li>
            <div>
                <strong>{title}</strong>
                <p class="hint">{who}</p>
            </div>
            <span class="figure">{move || size.get().map(|size| format!("about {}", bytes(size)))}</span>
            <button type="button" id=id disabled=move || !ready.get() on:click=move |_| make()>
                "Save"
                <span class="for-ears">" " {title}</span>
            </button>
        </li>
    }
}

#[component]
fn AdapterFiles() -> impl IntoView {
    let state = State::here();
    let export = move |what: fn(u32) -> Export| {
        move || {
            if let Some(adapter) = state.draft.adapter.get_untracked() {
                state.send(Command::Export { what: what(adapter) });
            }
        }
    };
    let idle = move || !state.is_at(Work::Export) && !state.run.phase.get().is_live();
    let size = Signal::derive(move || chosen(state).map(|a| a.bytes));
    let merged =
        Signal::derive(move || chosen(state).and_then(|_| state.model.with(|m| m.as_ref().map(|m| m.parameters * 4))));
    view! {
        <ul class="files">
            <FileRow
                id="export-peft"
                title="Adapter (PEFT, zip)"
                who="For Hugging Face PEFT, and for Espalier: a small file that goes onto the same base model."
                size
                ready=Signal::derive(move || idle() && chosen(state).is_some())
                make=export(|adapter| Export::Peft { adapter })
            />
            <FileRow
                id="export-merged"
                title="Whole model, adapter merged in (safetensors, zip)"
                who="For everything that reads a Hugging Face folder: transformers, vLLM, converters to GGUF."
                size=merged
                ready=Signal::derive(move || idle() && chosen(state).is_some_and(|a| a.merges))
                make=export(|adapter| Export::Merged { adapter })
            />
        </ul>
    }
}

/// The run of the chosen adapter, else the present one.
fn run_of(state: State) -> Option<String> {
    let present = || state.run.started.with(|s| s.as_ref().map(|s| s.run.clone()));
    chosen(state).and_then(|adapter| adapter.run).or_else(present)
}

fn stored(state: State) -> Option<StoredRun> {
    let run = run_of(state)?;
    state.storage.with(|s| s.as_ref().and_then(|s| s.runs.iter().find(|r| r.id == run).cloned()))
}

#[component]
fn RunFiles() -> impl IntoView {
    let state = State::here();
    let export = move |what: fn(String) -> Export| {
        move || {
            if let Some(run) = untrack(|| run_of(state)) {
                state.send(Command::Export { what: what(run) });
            }
        }
    };
    let idle = move || !state.is_at(Work::Export) && !state.run.phase.get().is_live();
    let ready = Signal::derive(move || idle() && run_of(state).is_some());
    let csv_size = Signal::derive(move || state.run.history.with(|h| (!h.is_empty()).then_some(h.len() as u64 * 90)));
    let history = Signal::derive(move || state.run.history.with(|history| !history.is_empty()));
    let save_csv = move || saved(state, save::save_text("metrics.csv", "text/csv", &state.run.csv()));
    view! {
        <ul class="files">
            <FileRow
                id="export-checkpoint"
                title="Checkpoint"
                who="For Espalier, here or on the command line: the run goes on from it exactly."
                size=Signal::derive(move || stored(state).map(|run| run.bytes))
                ready
                make=export(|run| Export::Checkpoint { run })
            />
            <FileRow
                id="export-metrics"
                title="Measurements (JSON lines)"
                who="For programs: one line a step, as the command line writes it."
                size=Signal::derive(|| None)
                ready
                make=export(|run| Export::Metrics { run })
            />
            <FileRow
                id="export-csv"
                title="Measurements (CSV)"
                who="For spreadsheets: one row a step."
                size=csv_size
                ready=history
                make=save_csv
            />
        </ul>
    }
}

/// Says so where the browser does not take a file.
fn saved(state: State, result: Result<(), wasm_bindgen::JsValue>) {
    match result {
        Ok(()) => state.live.say("Saved."),
        Err(_) => state.fail(Failure {
            kind: FailureKind::Internal,
            message: "The browser did not take the file.".to_string(),
            detail: vec![],
            action: None,
        }),
    }
}

#[component]
fn Settings() -> impl IntoView {
    let state = State::here();
    let copied = RwSignal::new("");
    let link = Memo::new(move |_| {
        let location = window().location();
        let page = location.origin().unwrap_or_default() + &location.pathname().unwrap_or_default();
        let shared = Shared { model: state.choice.get(), config: state.config.get() };
        format!("{page}#{}", to_fragment(&shared))
    });
    let copy = move |_| {
        leptos::task::spawn_local(async move {
            let done = save::copy(&link.get_untracked()).await.is_ok();
            copied.set(if done { "Copied." } else { "The browser did not allow it: copy it from the field." });
            state.live.say(copied.get_untracked());
        });
    };
    let json = move || state.config.with(RunConfig::to_json);
    let load = move |files: Vec<File>| {
        let Some(file) = files.into_iter().next() else { return };
        leptos::task::spawn_local(async move {
            let name = file.name();
            let blob: &Blob = file.unchecked_ref();
            let text = JsFuture::from(blob.text()).await.ok().and_then(|text| text.as_string()).unwrap_or_default();
            match RunConfig::from_json(&name, &text) {
                Ok(config) => {
                    state.settle(config);
                    state.live.say("The settings are taken over.");
                }
                Err(error) => state.fail(Failure {
                    kind: FailureKind::Choice,
                    message: format!("These settings cannot be used: {error}"),
                    detail: vec![],
                    action: None,
                }),
            }
        });
    };
    view! {
        <div class="field">
            <div class="field-head">
                <label for="share-link">"A link to these settings"</label>
            </div>
            <div class="with-button">
                <input type="text" id="share-link" readonly=true aria-describedby="share-link-hint" prop:value=move || link.get() />
                <button type="button" id="copy-link" on:click=copy>
                    "Copy link"
                </button>
            </div>
            <p class="hint" id="share-link-hint">
                "It restores the model's name, every choice and the seed. It holds no data, no prompt and no weights, and no server sees it. "
                {move || copied.get()}
            </p>
        </div>
        <ul class="files">
            <FileRow
                id="export-settings"
                title="Settings (JSON)"
                who="For this page and for the command line."
                size=Signal::derive(move || Some(json().len() as u64))
                ready=Signal::derive(|| true)
                make=move || saved(state, save::save_text("run.json", "application/json", &untrack(json)))
            />
        </ul>
        <DropZone
            id="settings-file"
            label="Load settings"
            hint="A JSON file of settings, from here or from the command line."
            accept=".json,application/json"
            take=load
        />
    }
}
