//! Breaks things on purpose, for those who add `?faults` to the address.

use leptos::prelude::*;

use super::state::State;
use crate::protocol::{Command, Fault};

const FAULTS: [(&str, &str, Fault); 3] = [
    ("fault-lose-device", "Lose the device", Fault::LoseDevice),
    ("fault-full-storage", "Fill the storage", Fault::FullStorage),
    ("fault-panic", "Break the worker", Fault::Panic),
];

/// The panel, where the address asks for it.
#[component]
pub fn Faults() -> impl IntoView {
    let state = State::here();
    let asked = window().location().search().is_ok_and(|query| query.contains("faults"));
    asked.then(|| {
        let buttons = FAULTS.map(|(id, title, fault)| {
            view! {
                <button type="button" id=id on:click=move |_| state.send(Command::Fault { fault })>
                    {title}
                </button>
            }
        });
        view! {
            <section class="card faults" aria-labelledby="faults-title">
                <h2 id="faults-title">"Faults"</h2>
                <p class="hint">"For testing: these break the page on purpose."</p>
                <p class="buttons">{buttons.into_iter().collect_view()}</p>
            </section>
        }
    })
}
