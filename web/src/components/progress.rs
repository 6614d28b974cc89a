//! How far long work is: amount, rate, time left, and a way to end it.

use leptos::prelude::*;

use super::numbers::{bytes, count, duration};
use super::state::State;
use crate::protocol::{Command, Progress, Work};

/// The bars of those kinds of work, where they go on.
#[component]
pub fn Bars(kinds: &'static [Work]) -> impl IntoView {
    let state = State::here();
    let bars = move || {
        let work = state.work.get();
        let work = work.into_iter().filter(|progress| kinds.contains(&progress.work));
        work.map(|progress| view! { <Bar progress /> }).collect_view()
    };
    view! { <div class="bars">{bars}</div> }
}

#[component]
fn Bar(progress: Progress) -> impl IntoView {
    let state = State::here();
    let known = progress.total > 0;
    let share = if known { progress.done as f64 / progress.total as f64 } else { 0.0 };
    let cancellable = !matches!(progress.work, Work::Open | Work::Train);
    let what = progress.what.clone();
    view! {
        <div class="bar" data-test="progress">
            <p class="bar-words">
                <strong>{progress.what.clone()}</strong>
                " "
                <span>{amount(&progress)}</span>
            </p>
            <div class="bar-row">
                <progress
                    aria-label=what
                    max="1"
                    value=known.then(|| share.to_string())
                ></progress>
                {cancellable
                    .then(|| {
                        view! {
                            <button type="button" data-test="cancel" on:click=move |_| state.send(Command::Cancel)>
                                "Cancel"
                            </button>
                        }
                    })}
            </div>
        </div>
    }
}

/// `12 of 93 MB, 4 MB a second, 20 s left`
fn amount(progress: &Progress) -> String {
    let write = |n: u64| if progress.bytes { bytes(n) } else { count(n) };
    let mut parts = vec![];
    match (progress.done, progress.total) {
        (0, 0) => {}
        (done, 0) => parts.push(write(done)),
        (done, total) => parts.push(format!("{} of {}", write(done), write(total))),
    }
    if progress.bytes && progress.rate > 0.0 {
        parts.push(format!("{} a second", bytes(progress.rate as u64)));
    }
    if let Some(left) = progress.left {
        parts.push(format!("{} left", duration(left)));
    }
    parts.join(", ")
}
