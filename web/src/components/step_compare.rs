//! Step 5: what was trained, and base beside tuned. The conversation and the figures have files of their own.

use espalier::generate::Sampling;
use leptos::prelude::*;

use super::conversation::Conversation;
use super::difference::Difference;
use super::drop_zone::{DropZone, blobs};
use super::field::{Number, Range, Words};
use super::numbers::{count, duration, short};
use super::progress::Bars;
use super::state::State;
use super::steps::Step;
use crate::protocol::{Adapter, Command, Side, Turn, Work};

/// The step.
#[component]
pub fn StepCompare() -> impl IntoView {
    let state = State::here();
    let nothing = move || {
        state.model.with(Option::is_none).then(|| {
            view! {
                <p class="notice">
                    "There is no model to ask yet. "
                    <button type="button" on:click=move |_| state.go(Step::Load)>
                        "Load a model"
                    </button>
                </p>
            }
        })
    };
    view! {
        {nothing}
        <section class="card" aria-labelledby="adapters-title">
            <h3 id="adapters-title">"What was trained"</h3>
            <Adapters />
            <Bars kinds=&[Work::Load] />
        </section>
        <section class="card" aria-labelledby="side-title">
            <h3 id="side-title">"Side by side"</h3>
            <SideBySide />
        </section>
        <section class="card" aria-labelledby="talk-title">
            <h3 id="talk-title">"A conversation"</h3>
            <Conversation />
        </section>
        <section class="card" aria-labelledby="difference-title">
            <h3 id="difference-title">"The difference in numbers"</h3>
            <Difference />
        </section>
    }
}

/// The adapter that is chosen.
pub fn chosen(state: State) -> Option<Adapter> {
    let id = state.draft.adapter.get()?;
    state.adapters.with(|adapters| adapters.iter().find(|a| a.id == id).cloned())
}

/// How answers are drawn.
pub fn sampling(state: State) -> Sampling {
    let draft = state.draft;
    Sampling {
        max_new_tokens: draft.max_new_tokens.get_untracked(),
        temperature: draft.temperature.get_untracked(),
        seed: draft.seed.get_untracked(),
        ..Sampling::default()
    }
}

/// A list of adapters to choose from.
#[component]
pub fn AdapterSelect(id: &'static str, label: &'static str) -> impl IntoView {
    let state = State::here();
    let current = state.draft.adapter;
    view! {
        <div class="field">
            <div class="field-head">
                <label for=id>{label}</label>
            </div>
            <select
                id=id
                disabled=move || state.adapters.with(Vec::is_empty)
                on:change=move |event| current.set(event_target_value(&event).parse().ok())
            >
                {move || {
                    let adapters = state.adapters.get();
                    let none = adapters.is_empty().then(|| view! { <option>"Nothing was trained yet"</option> });
                    let options = adapters.into_iter().map(|adapter| {
                        let id = adapter.id;
                        view! {
                            <option value=id.to_string() selected=move || current.get() == Some(id)>
                                {format!("{} ({})", adapter.name, adapter.method)}
                            </option>
                        }
                    });
                    view! {
                        {none}
                        {options.collect_view()}
                    }
                }}
            </select>
        </div>
    }
}

#[component]
fn Adapters() -> impl IntoView {
    let state = State::here();
    let draft = state.draft;
    let facts = move || {
        chosen(state).map(|adapter| {
            view! {
                <p>
                    <strong id="adapter-name">{adapter.name}</strong>
                    ": "
                    {adapter.method}
                    ", "
                    {count(adapter.parameters)}
                    " trained parameters."
                </p>
                {adapter
                    .losses
                    .map(|(before, after)| {
                        view! {
                            <p>
                                "Held-out loss: "
                                <span id="held-out-before" data-loss=before>{format!("{before:.4}")}</span>
                                " before, "
                                <span id="held-out-after" data-loss=after>{format!("{after:.4}")}</span>
                                " after."
                            </p>
                        }
                    })}
            }
        })
    };
    let strength = Words {
        label: "Strength",
        hint: "0 is the model as it was, 1 is as trained. It acts at once, also in the middle of an answer.",
        art: "adapter scale",
        explain: "The adapter's change is multiplied by this before it is added to the model.",
    };
    let set = move |value: Option<f64>| {
        let value = value.unwrap_or(1.0).clamp(0.0, 1.5) as f32;
        draft.strength.set(value);
        state.send(Command::Strength { strength: value });
    };
    view! {
        <div class="fields">
            <AdapterSelect id="adapter" label="Adapter" />
            <Number
                id="strength"
                words=strength
                range=Range::new(0.0, 1.5, 0.05)
                value=Signal::derive(move || Some((f64::from(draft.strength.get()) * 100.0).round() / 100.0))
                set
            />
        </div>
        {facts}
        <details class="advanced">
            <summary>"Add an adapter from files"</summary>
            <DropZone
                id="adapter-files"
                label="Choose adapter files"
                folder="Choose a folder"
                hint="adapter_config.json and adapter_model.safetensors, or a zip file of them, made for this model by Espalier or PEFT."
                multiple=true
                take=move |files| state.send_with(Command::AddAdapter, blobs(files))
            />
        </details>
    }
}

/// How answers are drawn: for both the same.
#[component]
fn Drawing() -> impl IntoView {
    let draft = State::here().draft;
    let longest = Words {
        label: "Longest answer",
        hint: "In tokens.",
        art: "max new tokens",
        explain: "An answer ends here, if it did not end by itself.",
    };
    let temperature = Words {
        label: "Chance",
        hint: "0 always takes the likeliest token.",
        art: "temperature",
        explain: "Higher makes unlikely tokens likelier.",
    };
    let seed = Words {
        label: "Start of chance",
        hint: "The same for both, so that only the adapter differs.",
        art: "seed",
        explain: "The same number draws the same answer.",
    };
    view! {
        <details class="advanced">
            <summary>"How answers are drawn"</summary>
            <div class="fields">
                <Number
                    id="max-new-tokens"
                    words=longest
                    range=Range::new(1.0, 512.0, 1.0)
                    value=Signal::derive(move || Some(draft.max_new_tokens.get() as f64))
                    set=move |v| draft.max_new_tokens.set(v.unwrap_or(64.0).max(1.0) as usize)
                />
                <Number
                    id="temperature"
                    words=temperature
                    range=Range::new(0.0, 2.0, 0.05)
                    value=Signal::derive(move || Some((f64::from(draft.temperature.get()) * 100.0).round() / 100.0))
                    set=move |v| draft.temperature.set(v.unwrap_or(0.0).max(0.0) as f32)
                />
                <Number
                    id="answer-seed"
                    words=seed
                    range=Range::new(0.0, 1000.0, 1.0)
                    value=Signal::derive(move || Some(draft.seed.get() as f64))
                    set=move |v| draft.seed.set(v.unwrap_or(0.0).max(0.0) as u64)
                />
            </div>
        </details>
    }
}

/// Whether a question can be asked now.
pub fn can_ask(state: State) -> bool {
    state.model.with(Option::is_some) && state.talk.answering.get().is_none() && !state.run.phase.get().is_live()
}

#[component]
fn SideBySide() -> impl IntoView {
    let state = State::here();
    let (draft, talk) = (state.draft, state.talk);
    let ask = move |_| {
        let prompt = draft.prompt.get_untracked();
        let (base, tuned) = (talk.new_turn(), talk.new_turn());
        let question = |turn, side, strength| Command::Ask {
            turn,
            messages: vec![Turn { role: "user".to_string(), content: prompt.clone() }],
            sampling: sampling(state),
            side,
            strength,
        };
        let adapter = draft.adapter.get_untracked();
        let strength = draft.strength.get_untracked();
        let second = adapter.map(|id| question(tuned, Side::Adapter(id), strength));
        talk.pair.set(Some((base, tuned)));
        if let Some(first) = talk.ask([question(base, Side::Base, 0.0)].into_iter().chain(second)) {
            state.send(first);
        }
    };
    let column = move |id: &'static str, title: &'static str, turn: fn((u32, u32)) -> u32| {
        let turn = move || talk.pair.get().map(turn);
        view! {
            <div class="column">
                <h4>{title}</h4>
                <p class="answer" id=id aria-busy=move || (turn().is_some() && turn() == talk.answering.get()).to_string()>
                    {move || turn().map(|turn| talk.text(turn)).unwrap_or_default()}
                </p>
                {move || turn().and_then(|turn| talk.replies.with(|r| r.get(&turn).and_then(|r| r.done))).map(|done| view! { <Drawn done /> })}
            </div>
        }
    };
    view! {
        <form
            on:submit=move |event| {
                event.prevent_default();
                if untrack(|| can_ask(state)) {
                    ask(());
                }
            }
        >
            <div class="field">
                <div class="field-head">
                    <label for="prompt">"Ask both the same"</label>
                </div>
                <textarea
                    id="prompt"
                    rows="2"
                    prop:value=move || draft.prompt.get()
                    on:input=move |event| draft.prompt.set(event_target_value(&event))
                ></textarea>
            </div>
            <p class="buttons">
                <button
                    type="submit"
                    class="main"
                    id="ask"
                    disabled=move || !can_ask(state) || draft.prompt.with(|p| p.trim().is_empty())
                >
                    "Ask both"
                </button>
                <Halt id="halt" />
            </p>
            <Drawing />
        </form>
        <div class="columns">
            {column("answer-base", "Before: the base model", |pair| pair.0)}
            {column("answer-tuned", "After: with the adapter", |pair| pair.1)}
        </div>
    }
}

/// `32 tokens in 1.2 s`
#[component]
fn Drawn(done: (u32, f64)) -> impl IntoView {
    let (tokens, seconds) = done;
    let rate = f64::from(tokens) / seconds.max(1e-3);
    view! { <p class="hint">{format!("{tokens} tokens in {}, {} a second", duration(seconds), short(rate))}</p> }
}

/// Ends the answer, and forgets the questions in line.
#[component]
pub fn Halt(id: &'static str) -> impl IntoView {
    let state = State::here();
    let halt = move |_| {
        state.talk.clear_line();
        state.send(Command::Cancel);
    };
    view! {
        <button type="button" id=id disabled=move || state.talk.answering.get().is_none() on:click=halt>
            "Halt"
        </button>
    }
}
