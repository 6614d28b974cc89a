//! What went wrong, for as long as it is not dealt with, and the one thing to do.

use leptos::prelude::*;

use super::state::State;
use crate::protocol::{Action, Failure, FailureKind};

fn title(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::NoGpu => "No GPU",
        FailureKind::OutOfMemory => "Not enough GPU memory",
        FailureKind::DeviceLost => "The GPU was lost",
        FailureKind::NotANumber => "The run went off course",
        FailureKind::FullStorage => "No room left in this browser",
        FailureKind::Network => "The download did not work",
        FailureKind::Model => "This model cannot be used",
        FailureKind::Data => "This data cannot be used",
        FailureKind::Choice => "This choice does not work",
        FailureKind::Internal => "A fault of this page",
    }
}

fn action(action: Action) -> &'static str {
    match action {
        Action::Resume => "Go on from the last checkpoint",
        Action::ChooseModel => "Choose another model",
        Action::ChooseData => "Look at the data",
        Action::ChooseMethod => "Change the choices",
        Action::FreeStorage => "Make room",
        Action::Reload => "Load the page again",
        Action::Retry => "Try again",
    }
}

/// The newest failure, the earlier ones below it, and notices.
#[component]
pub fn Troubles() -> impl IntoView {
    let state = State::here();
    let newest = move || state.failures.with(|failures| failures.last().cloned());
    let earlier = move || state.failures.with(|f| f[..f.len().saturating_sub(1)].to_vec());
    let notices = move || {
        let show = |text: String| {
            let this = text.clone();
            let close = move |_| state.notices.update(|notices| notices.retain(|n| *n != this));
            view! {
                <div class="notice" data-test="notice">
                    <p>{text}</p>
                    <button type="button" class="quiet" on:click=close>
                        "Close"
                    </button>
                </div>
            }
        };
        state.notices.get().into_iter().map(show).collect_view()
    };
    view! {
        <section class="troubles" aria-label="Messages">
            {move || newest().map(|failure| view! { <Trouble failure newest=true /> })}
            {move || earlier().into_iter().rev().map(|failure| view! { <Trouble failure newest=false /> }).collect_view()}
            {notices}
        </section>
    }
}

#[component]
fn Trouble(failure: Failure, newest: bool) -> impl IntoView {
    let state = State::here();
    let (act, close) = (failure.clone(), failure.clone());
    let name = |id: &'static str| newest.then_some(id);
    let kind = format!("{:?}", failure.kind);
    view! {
        <div class="failure" id=name("failure") data-test="failure" data-kind=kind>
            <h2>{title(failure.kind)}</h2>
            <p id=name("failure-message")>{failure.message.clone()}</p>
            {(!failure.detail.is_empty())
                .then(|| {
                    view! {
                        <details>
                            <summary>"Details"</summary>
                            <ul>{failure.detail.iter().map(|line| view! { <li>{line.clone()}</li> }).collect_view()}</ul>
                        </details>
                    }
                })}
            <p class="buttons">
                {failure
                    .action
                    .map(|offered| {
                        let act = act.clone();
                        view! {
                            <button type="button" class="main" id=name("failure-action") on:click=move |_| state.act(&act)>
                                {action(offered)}
                            </button>
                        }
                    })}
                <button type="button" class="quiet" id=name("failure-close") on:click=move |_| state.dismiss(&close)>
                    "Close"
                </button>
            </p>
        </div>
    }
}
