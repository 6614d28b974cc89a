//! A conversation in which the base model and adapters take turns.

use leptos::prelude::*;

use super::numbers::plain;
use super::state::State;
use super::step_compare::{Halt, can_ask, chosen, sampling};
use super::talk::Exchange;
use crate::protocol::{Command, Side, Turn};

/// Turns of base and adapters, and the next one.
#[component]
pub fn Conversation() -> impl IntoView {
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
