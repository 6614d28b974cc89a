//! The mark: a tree trained flat along wires.

use leptos::prelude::*;

/// The mark, for the eye only.
#[component]
pub fn Mark() -> impl IntoView {
    view! {
        <svg class="mark" viewBox="0 0 64 64" aria-hidden="true" focusable="false">
            <g class="mark-wires">
                <path d="M4 18H60M4 32H60M4 46H60" />
            </g>
            <g class="mark-wood">
                <path d="M32 60V10" />
                <path d="M32 52C32 46 28 46 22 46H10M32 52C32 46 36 46 42 46H54" />
                <path d="M32 38C32 32 28 32 22 32H10M32 38C32 32 36 32 42 32H54" />
                <path d="M32 24C32 18 28 18 22 18H12M32 24C32 18 36 18 42 18H52" />
            </g>
            <g class="mark-leaves">
                <ellipse cx="32" cy="8" rx="3" ry="4.5" />
                <ellipse cx="12" cy="14" rx="4" ry="2.6" />
                <ellipse cx="22" cy="14" rx="4" ry="2.6" />
                <ellipse cx="42" cy="14" rx="4" ry="2.6" />
                <ellipse cx="52" cy="14" rx="4" ry="2.6" />
                <ellipse cx="10" cy="28" rx="4" ry="2.6" />
                <ellipse cx="21" cy="28" rx="4" ry="2.6" />
                <ellipse cx="43" cy="28" rx="4" ry="2.6" />
                <ellipse cx="54" cy="28" rx="4" ry="2.6" />
                <ellipse cx="10" cy="42" rx="4" ry="2.6" />
                <ellipse cx="21" cy="42" rx="4" ry="2.6" />
                <ellipse cx="43" cy="42" rx="4" ry="2.6" />
                <ellipse cx="54" cy="42" rx="4" ry="2.6" />
            </g>
            <g class="mark-fruit">
                <circle cx="16" cy="50" r="2.6" />
                <circle cx="47" cy="36" r="2.6" />
                <circle cx="37" cy="50" r="2.6" />
            </g>
        </svg>
    }
}
