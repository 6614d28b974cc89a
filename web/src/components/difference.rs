//! How surprised base and adapter are by the same tokens: in total, and token by token.

use leptos::prelude::*;

use super::numbers::count;
use super::progress::Bars;
use super::state::State;
use super::step_compare::chosen;
use super::tokens::visible;
use crate::protocol::{Command, Comparison, Token, Work};

/// The comparison, and the button that asks for it.
#[component]
pub fn Difference() -> impl IntoView {
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
    let token = |(token, losses): &(Token, Option<(f32, f32)>)| {
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
    let row = |(token, losses): &(Token, Option<(f32, f32)>)| {
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
