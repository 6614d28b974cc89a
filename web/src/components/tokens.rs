//! Text as the model sees it: token by token, with those that are not learned marked.

use leptos::prelude::*;

use crate::protocol::Token;

/// An example. Learned tokens are underlined, the others dimmed and in brackets of their own for those who hear the page.
#[component]
pub fn Tokens(tokens: Vec<Token>) -> impl IntoView {
    // Runs of learned and not learned tokens, so that each run is announced once.
    let mut runs: Vec<(bool, Vec<Token>)> = vec![];
    for token in tokens {
        match runs.last_mut() {
            Some((learned, run)) if *learned == token.learned => run.push(token),
            _ => runs.push((token.learned, vec![token])),
        }
    }
    let run = |(learned, tokens): (bool, Vec<Token>)| {
        let words = if learned { "learned: " } else { "read only: " };
        let tokens = tokens.into_iter().map(|token| {
            let Token { id, text, .. } = token;
            view! { <span class="token" title=format!("token {id}")>{visible(&text)}</span> }
        });
        view! {
            <span class=if learned { "learned" } else { "read-only" } data-learned=learned.to_string()>
                <span class="for-ears">{words}</span>
                {tokens.collect_view()}
            </span>
        }
    };
    view! { <p class="tokens">{runs.into_iter().map(run).collect_view()}</p> }
}

/// The text with line ends shown, so that a token of nothing but a line end is seen.
pub fn visible(text: &str) -> String {
    if text.is_empty() { "∅".to_string() } else { text.replace('\n', "↵\n").replace('\t', "→\t") }
}
