//! What is kept in this browser, and how to get rid of it.

use leptos::prelude::*;

use super::numbers::{bytes, percent};
use super::state::State;
use crate::protocol::{Command, Storage, Stored, StoredModel, StoredRun};

/// The lists, their sizes, and whether the browser promised to keep them.
#[component]
pub fn StoragePanel() -> impl IntoView {
    let state = State::here();
    let sure = RwSignal::new(false);
    let panel = move || {
        state.storage.get().map(|storage| {
            let Storage { used, quota, persistent, models, runs } = storage;
            let empty = models.is_empty() && runs.is_empty();
            let promise = match (persistent, state.persist_asked.get()) {
                (true, _) => "This browser promised to keep it until you delete it.",
                (false, true) => {
                    "This browser did not promise to keep it: it may delete it when it needs room. Export what matters."
                }
                (false, false) => "This browser may delete it when it needs room.",
            };
            view! {
                <p>
                    <strong id="storage-used" data-bytes=used>{bytes(used)}</strong>
                    " used of " {bytes(quota)} " (" {percent(used as f64 / quota.max(1) as f64)} "). "
                    <span id="storage-persistent" data-persistent=persistent.to_string()>{promise}</span>
                </p>
                {empty.then(|| view! { <p class="hint">"Nothing is kept yet."</p> })}
                <ul class="stored">
                    {models.into_iter().map(|model| view! { <KeptModel model /> }).collect_view()}
                    {runs.into_iter().map(|run| view! { <KeptRun run /> }).collect_view()}
                </ul>
                <p class="buttons">
                    {(!persistent)
                        .then(|| {
                            view! {
                                <button
                                    type="button"
                                    id="persist"
                                    on:click=move |_| {
                                        state.persist_asked.set(true);
                                        state.send(Command::Persist);
                                    }
                                >
                                    "Ask the browser to keep it"
                                </button>
                            }
                        })}
                    {(!empty)
                        .then(|| {
                            let ask = view! {
                                <button type="button" id="delete-all" class="danger" on:click=move |_| sure.set(true)>
                                    "Delete all"
                                </button>
                            };
                            let answer = view! {
                                <span class="sure">
                                    "Delete all models and runs? "
                                    <button
                                        type="button"
                                        id="delete-all-sure"
                                        class="danger"
                                        on:click=move |_| {
                                            sure.set(false);
                                            state.delete(Stored::Everything);
                                        }
                                    >
                                        "Yes, delete all"
                                    </button>
                                    <button type="button" on:click=move |_| sure.set(false)>
                                        "No"
                                    </button>
                                </span>
                            };
                            if sure.get() { answer.into_any() } else { ask.into_any() }
                        })}
                </p>
            }
        })
    };
    view! {
        <section class="card" id="storage" aria-labelledby="storage-title">
            <h3 id="storage-title">"Kept in this browser"</h3>
            {panel}
            {move || state.storage.with(Option::is_none).then(|| view! { <p class="hint">"Looking…"</p> })}
        </section>
    }
}

#[component]
fn KeptModel(model: StoredModel) -> impl IntoView {
    let state = State::here();
    let StoredModel { id, name, bytes: size, complete } = model;
    let label = format!("Delete the model {name}");
    view! {
        <li data-test="stored-model">
            <span>
                {name} <small>" – model, " {bytes(size)} {(!complete).then_some(", not complete")}</small>
            </span>
            <button
                type="button"
                aria-label=label
                on:click=move |_| state.delete(Stored::Model { id: id.clone() })
            >
                "Delete"
            </button>
        </li>
    }
}

#[component]
fn KeptRun(run: StoredRun) -> impl IntoView {
    let state = State::here();
    let StoredRun { id, model, data, method, step, total_steps, bytes: size, .. } = run;
    let label = format!("Delete the run of {model} on {data}");
    view! {
        <li data-test="stored-run">
            <span>
                {format!("{method} of {model} on {data}")}
                <small>{format!(" – run, step {step} of {total_steps}, {}", bytes(size))}</small>
            </span>
            <button
                type="button"
                aria-label=label
                on:click=move |_| state.delete(Stored::Run { id: id.clone() })
            >
                "Delete"
            </button>
        </li>
    }
}
