//! Memory by what it is spent on, drawn and written.

use espalier::graph::Category;
use leptos::prelude::*;

use super::numbers::{bytes, percent};

/// A category's plain words and its class.
fn words(category: Category) -> (&'static str, &'static str, &'static str) {
    match category {
        Category::Weights => ("Frozen weights", "the model as it is", "weights"),
        Category::Parameters => ("Trained numbers", "the adapter, or all weights", "parameters"),
        Category::Gradients => ("Gradients", "which way each trained number should move", "gradients"),
        Category::Optimizer => ("Optimizer", "Adam's two running means of each gradient", "optimizer"),
        Category::Activations => ("Activations", "what is remembered from forward to backward", "activations"),
        Category::State => ("Answering", "the cache for the fixed prompt", "state"),
        Category::Inputs => ("Inputs", "the rows themselves", "inputs"),
    }
}

/// One bar in pieces, and a list that says the same.
#[component]
pub fn Memory(parts: Vec<(Category, u64)>, total: u64, #[prop(into)] capacity: Option<(u64, bool)>) -> impl IntoView {
    let all = total.max(1) as f64;
    // A bar of which next to nothing is filled would show nothing: then it is the parts among each other.
    let room = capacity.map(|(bytes, _)| bytes as f64).filter(|&room| room < 4.0 * all);
    let scale = room.map_or(all, |room| all.max(room));
    let width = move |bytes: u64| format!("{:.2}%", bytes as f64 / scale * 100.0);
    let parts: Vec<_> = parts.into_iter().filter(|part| part.1 > 0).collect();
    let pieces = parts.clone();
    view! {
        <div class="memory">
            <div class="memory-bar" aria-hidden="true">
                {pieces
                    .into_iter()
                    .map(|(category, bytes)| {
                        view! { <span class=format!("piece {}", words(category).2) style:width=width(bytes)></span> }
                    })
                    .collect_view()}
            </div>
            <ul class="memory-list">
                {parts
                    .into_iter()
                    .map(|(category, part)| {
                        let (name, meaning, class) = words(category);
                        view! {
                            <li>
                                <span class=format!("swatch piece {class}") aria-hidden="true"></span>
                                <span>{name} <small>" – "{meaning}</small></span>
                                <span class="figure">{bytes(part)}</span>
                            </li>
                        }
                    })
                    .collect_view()}
                <li class="sum">
                    <span class="swatch" aria-hidden="true"></span>
                    <span>"Together, at most"</span>
                    <span class="figure" id="plan-total" data-bytes=total>{bytes(total)}</span>
                </li>
            </ul>
            {capacity
                .map(|(found, all)| {
                    let words = if all { "The GPU gave at most " } else { "The GPU gave at least " };
                    view! {
                        <p class="hint">
                            {words} {bytes(found)} " when it was tried. This is " {percent(total as f64 / found.max(1) as f64)} " of it."
                        </p>
                    }
                })}
        </div>
    }
}
