//! The term of art beside a plain word, with one line that explains it on focus or hover.

use leptos::ev;
use leptos::prelude::*;

/// A term and its explanation; it takes Tab, hover and touch, and Escape shuts it.
#[component]
pub fn Term(art: &'static str, explain: &'static str, #[prop(optional)] id: &'static str) -> impl IntoView {
    let shut = RwSignal::new(false);
    let tip = format!("tip-{}", if id.is_empty() { slug(art) } else { id.to_string() });
    let described = tip.clone();
    view! {
        <span class="term" class:shut=move || shut.get() on:mouseenter=move |_| shut.set(false)>
            <button
                type="button"
                class="art"
                aria-describedby=described
                on:focus=move |_| shut.set(false)
                on:keydown=move |event: ev::KeyboardEvent| if event.key() == "Escape" { shut.set(true) }
            >
                {art}
            </button>
            <span class="tip" role="tooltip" id=tip>{explain}</span>
        </span>
    }
}

fn slug(text: &str) -> String {
    text.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}
