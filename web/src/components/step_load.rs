//! Step 1: what this device can do, and a model to start with.

use leptos::prelude::*;

use super::drop_zone::{DropZone, blobs};
use super::field::{Line, Number, Range, Tick, Words};
use super::numbers::{bytes, count};
use super::progress::Bars;
use super::remedy::NoGpuPanel;
use super::run_view::Phase;
use super::state::{Gpu, State};
use super::steps::Step;
use super::storage::StoragePanel;
use super::term::Term;
use crate::protocol::{Command, Device, Model, ModelChoice, StoredModel, StoredRun, Work};

const LOADING: &[Work] = &[Work::Download, Work::Load];

/// The step.
#[component]
pub fn StepLoad() -> impl IntoView {
    view! {
        <ResumeCards />
        <section class="card" aria-labelledby="device-title">
            <h3 id="device-title">"This device"</h3>
            <NoGpuPanel />
            <DeviceWords />
            <Bars kinds=&[Work::Open, Work::Probe] />
            <DeviceSettings />
        </section>
        <section class="card" aria-labelledby="models-title">
            <h3 id="models-title">"A model to start with"</h3>
            <Loaded />
            <Bars kinds=LOADING />
            <Models />
        </section>
        <StoragePanel />
    }
}

/// A run that was broken off, first of all things.
#[component]
fn ResumeCards() -> impl IntoView {
    let state = State::here();
    let runs = move || {
        if state.run.phase.get().is_live() {
            return vec![];
        }
        let runs = state.storage.with(|s| s.as_ref().map(|s| s.runs.clone()).unwrap_or_default());
        let mut runs: Vec<_> = runs.into_iter().filter(|run| !run.finished).collect();
        runs.sort_by_key(|run| std::cmp::Reverse(run.when));
        runs
    };
    let card = move |(i, run): (usize, StoredRun)| {
        let StoredRun { id, model, data, method, step, total_steps, .. } = run;
        let (title, label) = (format!("resume-title-{i}"), format!("resume-title-{i}"));
        view! {
            <section class="card resume" aria-labelledby=label data-test="resume-card">
                <h3 id=title>"A run was broken off"</h3>
                <p>{format!("{method} of {model} on {data}: it is saved at step {step} of {total_steps}.")}</p>
                <p class="buttons">
                    <button
                        type="button"
                        class="main"
                        id=(i == 0).then_some("resume")
                        on:click=move |_| state.resume(id.clone())
                    >
                        "Resume"
                    </button>
                </p>
            </section>
        }
    };
    move || runs().into_iter().enumerate().map(card).collect_view()
}

#[component]
fn DeviceWords() -> impl IntoView {
    let state = State::here();
    move || match state.gpu.get() {
        Gpu::Asking => Some(view! { <p>"Asking the browser for a GPU…"</p> }.into_any()),
        Gpu::Found => Some(view! { <p>"This browser has a GPU for this page."</p> }.into_any()),
        Gpu::Open(device) => Some(view! { <OpenDevice device /> }.into_any()),
        Gpu::Missing(_) => None,
    }
}

#[component]
fn OpenDevice(device: Device) -> impl IntoView {
    let state = State::here();
    let kind = match device.kind.as_str() {
        "discrete" => "a graphics card of its own",
        "integrated" => "graphics built into the processor, which share its memory",
        "virtual" => "a virtual GPU",
        "software" => "a processor that plays GPU: it works, and slowly",
        _ => "a GPU",
    };
    let probed = move || match state.capacity.get() {
        None => "How much memory it gives is known only by trying: browsers do not tell.".to_string(),
        Some((found, true)) => format!("It gave {} when it was tried, and no more.", bytes(found)),
        Some((found, false)) => format!("It gave {} when it was tried, and may have more.", bytes(found)),
    };
    view! {
        <p id="device" class="device-name">
            <strong>{device.name.clone()}</strong>
            " – "
            {kind}
            "."
        </p>
        <p class="has-term">
            "One piece of memory may be at most " {bytes(device.max_binding_bytes)} ". It "
            {if device.f16 { "computes" } else { "does not compute" }} " with "
            <Term art="f16" explain="Numbers of 16 bits: half the memory of the usual 32." /> ". "
            {device.budget_bytes.map(|budget| format!("This page takes at most {}.", bytes(budget)))}
        </p>
        <p id="capacity">{probed}</p>
        {device
            .small
            .map(|why| {
                view! {
                    <div class="advice" id="small-device">
                        <p>
                            <strong>"Better start with the small model here: "</strong>
                            {why}
                            "."
                        </p>
                        <p class="buttons">
                            <button type="button" on:click=move |_| load(state, ModelChoice::Seedling)>
                                "Load Seedling"
                            </button>
                        </p>
                    </div>
                }
            })}
        <p class="buttons">
            <button
                type="button"
                id="probe"
                disabled=move || state.is_at(Work::Probe) || state.run.phase.get().is_live()
                on:click=move |_| state.send(Command::Probe)
            >
                "Try how much memory it gives"
            </button>
        </p>
    }
}

#[component]
fn DeviceSettings() -> impl IntoView {
    let state = State::here();
    let words = Words {
        label: "At most this much GPU memory, MB",
        hint: "Left open: as much as the GPU gives.",
        art: "memory budget",
        explain: "The page refuses to allocate more than this, and says so before it starts.",
    };
    let budget = state.draft.budget_mb;
    view! {
        <details class="advanced" id="device-advanced" open=asks_for_faults()>
            <summary>"Advanced"</summary>
            <Number id="budget" words range=Range::factors(16.0, 65536.0) value=budget open=true set=move |mb| budget.set(mb) />
            <p class="buttons">
                <button
                    type="button"
                    id="budget-apply"
                    disabled=move || state.run.phase.get().is_live()
                    on:click=move |_| state.open()
                >
                    "Open the GPU with this budget"
                </button>
            </p>
        </details>
    }
}

fn asks_for_faults() -> bool {
    window().location().search().is_ok_and(|query| query.contains("faults"))
}

#[component]
fn Loaded() -> impl IntoView {
    let state = State::here();
    move || {
        state.model.get().map(|model| {
            let Model { name, family, parameters, layers, hidden_size, vocab_size, context, bytes: size, .. } = model;
            let dtypes: Vec<_> = model.dtypes.iter().map(|(name, n)| format!("{name} × {n}")).collect();
            view! {
                <div class="loaded" id="model">
                    <p>
                        <strong id="model-name">{name}</strong>
                        " is loaded: "
                        {count(parameters)}
                        " parameters, "
                        {bytes(size)}
                        "."
                    </p>
                    <details>
                        <summary>"What it is made of"</summary>
                        <dl class="facts">
                            <dt>"Family"</dt>
                            <dd>{family}</dd>
                            <dt>"Layers"</dt>
                            <dd>{layers}</dd>
                            <dt>"Width (hidden size)"</dt>
                            <dd>{hidden_size}</dd>
                            <dt>"Vocabulary"</dt>
                            <dd>{count(vocab_size as u64)} " tokens"</dd>
                            <dt>"Reads at once (context)"</dt>
                            <dd>{count(context as u64)} " tokens"</dd>
                            <dt>"Stored as"</dt>
                            <dd>{dtypes.join(", ")}</dd>
                            <dt>"Chats"</dt>
                            <dd>
                                {if model.chat_template {
                                    "It brings its own chat template."
                                } else {
                                    "It brings no chat template: chats are written as ChatML."
                                }}
                            </dd>
                        </dl>
                    </details>
                    <p class="buttons">
                        <button type="button" class="main" id="to-data" on:click=move |_| state.go(Step::Data)>
                            "Go on to Data"
                        </button>
                    </p>
                </div>
            }
        })
    }
}

/// Loads a model.
pub fn load(state: State, model: ModelChoice) {
    let keep_copy = state.draft.keep_copy.get_untracked();
    state.send(Command::LoadModel { model, keep_copy });
}

#[component]
fn Models() -> impl IntoView {
    let state = State::here();
    let busy = move || state.is_at(Work::Download) || state.is_at(Work::Load) || state.run.phase.get().is_live();
    let none_yet = move || state.model.with(Option::is_none);
    let draft = state.draft;
    let keep = Words {
        label: "Keep a copy in this browser",
        hint: "The next visit needs no download, and works offline.",
        ..Words::default()
    };
    let hub_words = Words {
        label: "A model by its name",
        hint: "owner/name, owner/name@revision, or owner/name:file.gguf. Llama-family models of up to about 1,000 million parameters are sensible here.",
        art: "hub id",
        explain: "The name of a model on a model hub such as Hugging Face. Only its files are asked for; nothing of yours is sent.",
    };
    let endpoint_words = Words {
        label: "Address of the hub",
        hint: "Another server with the same paths works, too.",
        art: "endpoint",
        explain: "Where the files of a hub id are downloaded from.",
    };
    let hub = move || ModelChoice::Hub {
        id: draft.hub_id.get_untracked().trim().to_string(),
        endpoint: draft.endpoint.get_untracked().trim().trim_end_matches('/').to_string(),
    };
    let no_id = move || draft.hub_id.with(|id| id.trim().is_empty());
    let drop = move |files| {
        let keep_copy = draft.keep_copy.get_untracked();
        state.send_with(Command::LoadModel { model: ModelChoice::Files, keep_copy }, blobs(files));
    };
    view! {
        <div class="cards">
            <article class="option">
                <h4>"Seedling"</h4>
                <p>"A tiny model that comes with this page. It writes simple English and learns in seconds, on any device."</p>
                <p class="figure">"2 MB, no download"</p>
                <button type="button" class:main=none_yet id="load-seedling" disabled=busy on:click=move |_| load(state, ModelChoice::Seedling)>
                    "Load Seedling"
                </button>
            </article>
            <article class="option">
                <h4>"SmolLM2 135M Instruct"</h4>
                <p>"A small model that can chat. A laptop with a GPU trains it in minutes."</p>
                <p class="figure">"93 MB, from this page's own server"</p>
                <button type="button" class:main=none_yet id="load-served" disabled=busy on:click=move |_| load(state, ModelChoice::Served)>
                    "Load SmolLM2"
                </button>
            </article>
            <article class="option">
                <h4>"Another from a hub"</h4>
                <Line id="hub-id" words=hub_words value=draft.hub_id placeholder="HuggingFaceTB/SmolLM2-360M-Instruct" />
                <button
                    type="button"
                    class:main=none_yet
                    id="hub-load"
                    disabled=move || busy() || no_id()
                    on:click=move |_| load(state, hub())
                >
                    "Download and load"
                </button>
                <details class="advanced">
                    <summary>"Advanced"</summary>
                    <Line id="endpoint" words=endpoint_words value=draft.endpoint />
                </details>
            </article>
        </div>
        <Tick id="keep-copy" words=keep value=draft.keep_copy set=move |on| draft.keep_copy.set(on) />
        <h4>"Or files of your own"</h4>
        <DropZone
            id="model-files"
            label="Choose model files"
            folder="Choose a folder"
            hint="Drop or choose one GGUF file, or the files of a Hugging Face folder: config.json, tokenizer.json, *.safetensors. They are read here and sent nowhere."
            multiple=true
            take=drop
        />
        <StoredModels />
    }
}

#[component]
fn StoredModels() -> impl IntoView {
    let state = State::here();
    let models = move || state.storage.with(|s| s.as_ref().map(|s| s.models.clone()).unwrap_or_default());
    let row = move |model: StoredModel| {
        let StoredModel { id, name, bytes: size, complete } = model;
        let title = if complete { format!("Load {name}") } else { format!("Go on downloading {name}") };
        view! {
            <li>
                <span>{name} <small>" – " {bytes(size)}</small></span>
                <button
                    type="button"
                    data-test="load-stored"
                    disabled=move || state.run.phase.get() == Phase::Running
                    on:click=move |_| load(state, ModelChoice::Stored { id: id.clone() })
                >
                    {title}
                </button>
            </li>
        }
    };
    move || {
        let models = models();
        (!models.is_empty()).then(|| {
            view! {
                <h4>"Or one that is kept here"</h4>
                <ul class="stored" id="stored-models">
                    {models.into_iter().map(row).collect_view()}
                </ul>
            }
        })
    }
}
