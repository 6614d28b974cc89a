//! Step 5: base beside tuned, a conversation with both, and the difference token by token.

use espalier::generate::Sampling;
use leptos::prelude::*;

use super::drop_zone::{DropZone, blobs};
use super::field::{Number, Range, Words};
use super::numbers::{count, duration, plain, short};
use super::progress::Bars;
use super::state::State;
use super::steps::Step;
use super::talk::Exchange;
use super::tokens::visible;
use crate::protocol::{Adapter, Command, Comparison, Side, Turn, Work};

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
fn chosen(state: State) -> Option<Adapter> {
    let id = state.draft.adapter.get()?;
    state.adapters.with(|adapters| adapters.iter().find(|a| a.id == id).cloned())
}

fn sampling(state: State) -> Sampling {
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
fn can_ask(state: State) -> bool {
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

#[component]
fn Halt(id: &'static str) -> impl IntoView {
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

#[component]
fn Conversation() -> impl IntoView {
    let state = State::here();
    let (draft, talk) = (state.draft, state.talk);
    let say = move |()| {
        let prompt = draft.message.get_untracked();
        let turn = talk.new_turn();
        let adapter = untrack(|| chosen(state)).filter(|_| !draft.base_answers.get_untracked());
        let strength = draft.strength.get_untracked();
        let (side, who) = match &adapter {
            Some(adapter) => {
                (Side::Adapter(adapter.id), format!("{}, strength {}", adapter.name, plain(f64::from(strength))))
            }
            None => (Side::Base, "Base model".to_string()),
        };
        let said = |role: &str, content: String| Turn { role: role.to_string(), content };
        let mut messages = vec![];
        for exchange in talk.exchanges.get_untracked() {
            messages.push(said("user", exchange.prompt));
            messages.push(said("assistant", untrack(|| talk.text(exchange.turn))));
        }
        messages.push(said("user", prompt.clone()));
        talk.exchanges.update(|exchanges| exchanges.push(Exchange { turn, prompt, who, side, strength }));
        draft.message.set(String::new());
        if let Some(question) = talk.ask([Command::Ask { turn, messages, sampling: sampling(state), side, strength }]) {
            state.send(question);
        }
    };
    let exchange = move |exchange: Exchange| {
        let turn = exchange.turn;
        view! {
            <li data-test="exchange">
                <span class="turn-who">"You"</span>
                <p class="prompt">{exchange.prompt}</p>
                <span class="turn-who" data-test="who">{exchange.who}</span>
                <p class="answer" data-test="reply">{move || talk.text(turn)}</p>
            </li>
        }
    };
    let who = move |id: &'static str, title: &'static str, base: bool| {
        view! {
            <label class="radio">
                <input
                    type="radio"
                    name="who"
                    id=id
                    prop:checked=move || draft.base_answers.get() == base
                    on:change=move |_| draft.base_answers.set(base)
                />
                <span>{title}</span>
            </label>
        }
    };
    view! {
        <p class="hint">"Change the adapter, its strength or who answers between turns: each turn says who it was."</p>
        <ol class="exchanges" id="exchanges">
            {move || talk.exchanges.get().into_iter().map(exchange).collect_view()}
        </ol>
        <form
            on:submit=move |event| {
                event.prevent_default();
                if untrack(|| can_ask(state)) && !draft.message.with_untracked(|m| m.trim().is_empty()) {
                    say(());
                }
            }
        >
            <fieldset class="plain radios">
                <legend>"Who answers next"</legend>
                {who("who-adapter", "With the adapter", false)}
                {who("who-base", "The base model", true)}
            </fieldset>
            <div class="field">
                <div class="field-head">
                    <label for="message">"Your turn"</label>
                </div>
                <input
                    type="text"
                    id="message"
                    autocomplete="off"
                    prop:value=move || draft.message.get()
                    on:input=move |event| draft.message.set(event_target_value(&event))
                />
            </div>
            <p class="buttons">
                <button
                    type="submit"
                    class="main"
                    id="say"
                    disabled=move || !can_ask(state) || draft.message.with(|m| m.trim().is_empty())
                >
                    "Send"
                </button>
                <Halt id="halt-talk" />
                <button
                    type="button"
                    id="new-conversation"
                    disabled=move || talk.answering.get().is_some()
                    on:click=move |_| talk.exchanges.set(vec![])
                >
                    "Begin anew"
                </button>
            </p>
        </form>
    }
}

#[component]
fn Difference() -> impl IntoView {
    let state = State::here();
    let place = RwSignal::new(0usize);
    let compare = move |example: usize| {
        place.set(example);
        if let Some(adapter) = state.draft.adapter.get_untracked() {
            state.send(Command::Compare { adapter, example });
        }
    };
    let busy = move || state.is_at(Work::Compare) || state.run.phase.get().is_live();
    let impossible = move || busy() || chosen(state).is_none() || state.data.with(Option::is_none);
    let shown = move || {
        state.comparison.get().map(|comparison| {
            let (example, examples) = (comparison.example, comparison.examples);
            view! {
                <ComparisonView comparison />
                <p class="buttons">
                    <button
                        type="button"
                        id="compare-before"
                        disabled=move || impossible() || example == 0
                        on:click=move |_| compare(example.saturating_sub(1))
                    >
                        "Before"
                    </button>
                    <span>{format!("Example {} of {examples}", example + 1)}</span>
                    <button
                        type="button"
                        id="compare-next"
                        disabled=move || { impossible() || example + 1 >= examples }
                        on:click=move |_| compare(example + 1)
                    >
                        "Next"
                    </button>
                </p>
            }
        })
    };
    view! {
        <p>"How surprised each of them is by the examples that were kept aside: less is better."</p>
        <p class="buttons">
            <button type="button" id="compare" disabled=impossible on:click=move |_| compare(place.get_untracked())>
                "Compare on the data"
            </button>
        </p>
        <Bars kinds=&[Work::Compare] />
        {shown}
    }
}

/// How much a token's loss changed, in five classes; its sign is written, too.
fn change(base: f32, tuned: f32) -> &'static str {
    match tuned - base {
        d if d < -1.0 => "much-better",
        d if d < -0.1 => "better",
        d if d > 1.0 => "much-worse",
        d if d > 0.1 => "worse",
        _ => "same",
    }
}

fn signed(change: f32) -> String {
    format!("{}{:.2}", if change < 0.0 { "−" } else { "+" }, change.abs())
}

#[component]
fn ComparisonView(comparison: Comparison) -> impl IntoView {
    let on = if comparison.held_out { "on the held-out data" } else { "on the training data, as none is held out" };
    let (base, tuned) = (comparison.base, comparison.tuned);
    let token = |(token, losses): &(crate::protocol::Token, Option<(f32, f32)>)| {
        let text = visible(&token.text);
        match losses {
            None => view! { <span class="token read-only">{text}</span> }.into_any(),
            Some((before, after)) => {
                let title = format!("{} nats: {before:.2} before, {after:.2} after", signed(after - before));
                view! {
                    <span class=format!("token change {}", change(*before, *after)) title=title>
                        {text}
                    </span>
                }
                .into_any()
            }
        }
    };
    let row = |(token, losses): &(crate::protocol::Token, Option<(f32, f32)>)| {
        let text = visible(&token.text);
        losses.map(|(before, after)| {
            view! {
                <tr>
                    <th scope="row">
                        <code>{text}</code>
                    </th>
                    <td>{format!("{before:.3}")}</td>
                    <td>{format!("{after:.3}")}</td>
                    <td>{signed(after - before)}</td>
                </tr>
            }
        })
    };
    let tokens = comparison.detail.iter().map(token).collect_view();
    let rows = comparison.detail.iter().filter_map(row).collect_view();
    view! {
        <dl class="facts figures" id="comparison">
            <dt>"Before"</dt>
            <dd id="compare-base" data-loss=base>{format!("{base:.4}")} " nats a token"</dd>
            <dt>"After"</dt>
            <dd id="compare-tuned" data-loss=tuned>{format!("{tuned:.4}")} " nats a token"</dd>
            <dt>"Over"</dt>
            <dd>{count(comparison.tokens)} " tokens " {on}</dd>
        </dl>
        <h4>"Token by token"</h4>
        <p class="hint">
            <span class="token change much-better">"Solid underline"</span> " is less surprised after training, "
            <span class="token change much-worse">"wavy underline"</span> " more; dimmed is only read. Point at a token for its numbers."
        </p>
        <div class="example" id="token-differences" tabindex="0" role="region" aria-label="Differences, token by token">
            <p class="tokens">{tokens}</p>
        </div>
        <details>
            <summary>"As a table"</summary>
            <div class="scroll" tabindex="0" role="region" aria-label="Table of differences">
                <table>
                    <thead>
                        <tr>
                            <th scope="col">"Token"</th>
                            <th scope="col">"Before"</th>
                            <th scope="col">"After"</th>
                            <th scope="col">"Change"</th>
                        </tr>
                    </thead>
                    <tbody>{rows}</tbody>
                </table>
            </div>
        </details>
    }
}
