//! Step 2: the data, as the model will see it.

use espalier::data::Supervise;
use leptos::prelude::*;
use serde::Deserialize;
use wasm_bindgen::JsCast;
use wasm_bindgen_futures::JsFuture;
use web_sys::{File, Response};

use super::choices::ENCODING;
use super::counts::{Counts, Lengths};
use super::drop_zone::{DropZone, blobs};
use super::field::{Choice, Words};
use super::progress::Bars;
use super::state::State;
use super::step_method::NumberChoices;
use super::steps::Step;
use super::tokens::Tokens;
use crate::protocol::{Action, Data, DataSource, Failure, FailureKind, Work};

/// Where the samples lie.
const SAMPLES: &str = "samples";

/// A sample data set that comes with the page.
#[derive(Clone, Debug, Deserialize)]
struct Sample {
    file: String,
    title: String,
    description: String,
    /// Asked of the model while it trains.
    prompt: String,
}

/// The step.
#[component]
pub fn StepData() -> impl IntoView {
    let state = State::here();
    let training = move || state.run.phase.get().is_live();
    view! {
        {move || training().then(|| view! { <p class="notice">"Training goes on with the data that it began with. To change the data, end the run first."</p> })}
        <fieldset class="plain" disabled=training>
            <legend class="for-ears">"Data"</legend>
            <section class="card" aria-labelledby="samples-title">
                <h3 id="samples-title">"Try a sample"</h3>
                <Samples />
            </section>
            <section class="card" aria-labelledby="own-title">
                <h3 id="own-title">"Or bring your own"</h3>
                <Own />
            </section>
        </fieldset>
        <Bars kinds=&[Work::Download, Work::Load, Work::Encode] />
        <Preview />
    }
}

async fn fetch_text(address: &str) -> Option<String> {
    let response: Response = JsFuture::from(window().fetch_with_str(address)).await.ok()?.dyn_into().ok()?;
    if !response.ok() {
        return None;
    }
    JsFuture::from(response.text().ok()?).await.ok()?.as_string()
}

#[component]
fn Samples() -> impl IntoView {
    let state = State::here();
    let list = LocalResource::new(|| async move {
        let text = fetch_text(&format!("{SAMPLES}/index.json")).await.unwrap_or_default();
        serde_json::from_str::<Vec<Sample>>(&text).unwrap_or_default()
    });
    let take = move |sample: Sample| {
        leptos::task::spawn_local(async move {
            let Some(text) = fetch_text(&format!("{SAMPLES}/{}", sample.file)).await else {
                return state.fail(Failure {
                    kind: FailureKind::Network,
                    message: format!("The sample {} could not be fetched.", sample.title),
                    detail: vec![],
                    action: Some(Action::ChooseData),
                });
            };
            state.choose(|config| config.sample_prompt = Some(sample.prompt.clone()));
            state.draft.prompt.set(sample.prompt.clone());
            let source = DataSource::Text { name: sample.file.clone(), text };
            state.give_data(source, sample.file, vec![]);
        });
    };
    let card = move |(i, sample): (usize, Sample)| {
        let chosen = sample.clone();
        let this = sample.file.clone();
        let pressed = move || state.source.with(|source| source.as_deref() == Some(&this)).to_string();
        view! {
            <article class="option">
                <h4>{sample.title.clone()}</h4>
                <p>{sample.description.clone()}</p>
                <button type="button" id=format!("sample-{i}") aria-pressed=pressed on:click=move |_| take(chosen.clone())>
                    {format!("Use “{}”", sample.title)}
                </button>
            </article>
        }
    };
    view! {
        <div class="cards">
            {move || list.get().map(|list| list.into_iter().enumerate().map(card).collect_view())}
        </div>
    }
}

#[component]
fn Own() -> impl IntoView {
    let state = State::here();
    let paste = state.draft.paste;
    let give_text = move |_| {
        let text = paste.get_untracked();
        let name = name_of_text(&text).to_string();
        state.give_data(DataSource::Text { name: name.clone(), text }, name, vec![]);
    };
    let give_file = move |files: Vec<File>| {
        let Some(file) = files.into_iter().next() else { return };
        state.give_data(DataSource::File, file.name(), blobs(vec![file]));
    };
    view! {
        <div class="field">
            <div class="field-head">
                <label for="data-paste">"Paste it here"</label>
            </div>
            <textarea
                id="data-paste"
                rows="6"
                spellcheck="false"
                aria-describedby="data-paste-hint"
                prop:value=move || paste.get()
                on:input=move |event| paste.set(event_target_value(&event))
            ></textarea>
            <p class="hint" id="data-paste-hint">
                "Lines of JSON such as " <code>"{\"prompt\": \"Hello\", \"completion\": \"Good day.\"}"</code> " or "
                <code>"{\"messages\": [{\"role\": \"user\", \"content\": \"…\"}, …]}"</code>
                ", a JSON list of the same, a CSV table with those names, or plain text."
            </p>
            <p class="buttons">
                <button
                    type="button"
                    class="main"
                    id="data-use"
                    disabled=move || paste.with(|text| text.trim().is_empty())
                    on:click=give_text
                >
                    "Use this text"
                </button>
            </p>
        </div>
        <DropZone
            id="data-files"
            label="Choose a data file"
            hint="Drop or choose a file: JSONL, JSON, CSV or text. It is read here and sent nowhere."
            accept=".jsonl,.ndjson,.json,.csv,.tsv,.txt,.md,text/*,application/json"
            take=give_file
        />
    }
}

/// A file name that says how pasted text is to be read.
fn name_of_text(text: &str) -> &'static str {
    let text = text.trim_start();
    match text.chars().next() {
        Some('[') => "pasted.json",
        Some('{') => "pasted.jsonl",
        _ if text.lines().next().is_some_and(is_table_head) => "pasted.csv",
        _ => "pasted.txt",
    }
}

/// Whether a line names the columns of a table of a known shape.
fn is_table_head(line: &str) -> bool {
    let names: Vec<_> = line.split(',').map(|name| name.trim().trim_matches('"').to_lowercase()).collect();
    let has = |name: &str| names.iter().any(|n| n == name);
    names.len() >= 2
        && (has("prompt") && has("completion")
            || has("instruction") && has("output")
            || has("question") && has("answer"))
        || names == ["text"]
}

const SUPERVISE: &[(&str, &str)] = &[("answers", "The answers only"), ("all", "Everything")];

#[component]
fn Preview() -> impl IntoView {
    let state = State::here();
    let supervise = Words {
        label: "Learn from",
        hint: "What is not learned from is still read.",
        art: "supervision",
        explain: "Which tokens the loss is computed on: those of the answers, or those of the questions, too.",
    };
    let waits = move || {
        let name = state.source.get().filter(|_| state.data.with(Option::is_none))?;
        state.model.with(Option::is_none).then(|| {
            view! {
                <p class="notice" id="data-waits">
                    {name} " is here. It is read as soon as a model is loaded, since each model cuts text into its own tokens. "
                    <button type="button" on:click=move |_| state.go(Step::Load)>
                        "Load a model"
                    </button>
                </p>
            }
        })
    };
    view! {
        {waits}
        <section class="card" aria-labelledby="preview-title">
            <h3 id="preview-title">"What the model will see"</h3>
            <fieldset class="plain fields" disabled=move || state.run.phase.get().is_live()>
                <legend class="for-ears">"How it is read"</legend>
                <NumberChoices rows=ENCODING />
                <Choice
                    id="supervise"
                    words=supervise
                    options=SUPERVISE
                    value=Signal::derive(move || match state.config.with(|c| c.supervise) {
                        Supervise::Answers => "answers".to_string(),
                        Supervise::All => "all".to_string(),
                    })
                    set=move |name| {
                        if let Ok(supervise) = name.parse() {
                            state.choose(|config| config.supervise = supervise);
                        }
                    }
                />
            </fieldset>
            {move || state.data.get().map(|data| view! { <Encoded data /> })}
            {move || {
                (state.data.with(Option::is_none) && state.source.with(Option::is_none))
                    .then(|| view! { <p class="hint">"Choose data above: it appears here, token by token."</p> })
            }}
        </section>
    }
}

#[component]
fn Encoded(data: Data) -> impl IntoView {
    let state = State::here();
    let nothing = data.report.supervised_tokens == 0;
    let place = RwSignal::new(0usize);
    let examples = StoredValue::new(data.examples);
    let shown = examples.with_value(Vec::len);
    view! {
        <Counts report=data.report.clone() train=data.train_examples held_out=data.held_out_examples />
        {nothing
            .then(|| {
                view! {
                    <p class="advice" id="nothing-learned">
                        <strong>"There is nothing to learn from. "</strong>
                        "No token of any answer is left: without one, training cannot start."
                    </p>
                }
            })}
        {(shown > 0)
            .then(|| {
                view! {
                    <h4>"Token by token"</h4>
                    <p class="hint">
                        "After the chat template. " <span class="learned">"Underlined"</span> " is learned, "
                        <span class="read-only">"dimmed and dotted"</span> " is only read."
                    </p>
                    <div class="example" id="preview" tabindex="0" role="region" aria-label="Example, token by token">
                        {move || examples.with_value(|e| e.get(place.get()).cloned()).map(|tokens| view! { <Tokens tokens /> })}
                    </div>
                    <p class="buttons">
                        <button
                            type="button"
                            id="example-before"
                            disabled=move || place.get() == 0
                            on:click=move |_| place.update(|i| *i = i.saturating_sub(1))
                        >
                            "Before"
                        </button>
                        <span>{move || format!("Example {} of the first {shown}", place.get() + 1)}</span>
                        <button
                            type="button"
                            id="example-next"
                            disabled=move || { place.get() + 1 >= shown }
                            on:click=move |_| place.update(|i| *i += 1)
                        >
                            "Next"
                        </button>
                    </p>
                }
            })}
        <Lengths lengths=data.lengths longest=data.report.longest />
        <p class="buttons">
            <button type="button" class="main" id="to-method" on:click=move |_| state.go(Step::Method)>
                "Go on to Method"
            </button>
        </p>
    }
}
