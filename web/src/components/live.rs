//! The polite live region: what changed, for those who hear the page, at most once in five seconds.

use std::time::Duration;

use leptos::prelude::*;

/// Seconds between two messages.
const PAUSE: Duration = Duration::from_secs(5);

/// What is said, and what waits to be.
#[derive(Clone, Copy)]
pub struct Live {
    said: RwSignal<String>,
    waiting: StoredValue<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// Changes: all are said.
    changes: Vec<String>,
    /// How far work is: only the newest is said, and only where nothing else is.
    progress: Option<String>,
    held: bool,
}

impl Live {
    pub fn new() -> Live {
        Live { said: RwSignal::new(String::new()), waiting: StoredValue::new(Waiting::default()) }
    }

    /// Says that something changed.
    pub fn say(self, text: impl Into<String>) {
        let text = text.into();
        self.waiting.update_value(|waiting| {
            if waiting.changes.last() != Some(&text) {
                waiting.changes.push(text);
            }
        });
        self.speak();
    }

    /// Says how far work is, if there is time for it.
    pub fn progress(self, text: String) {
        self.waiting.update_value(|waiting| waiting.progress = Some(text));
        self.speak();
    }

    fn speak(self) {
        let text = self.waiting.try_update_value(|waiting| {
            if waiting.held {
                return None;
            }
            let text = match waiting.changes.is_empty() {
                true => waiting.progress.take()?,
                false => std::mem::take(&mut waiting.changes).join(" "),
            };
            waiting.progress = None;
            waiting.held = true;
            Some(text)
        });
        if let Some(text) = text.flatten() {
            self.said.set(text);
            let again = move || {
                self.waiting.update_value(|waiting| waiting.held = false);
                self.speak();
            };
            set_timeout(again, PAUSE);
        }
    }
}

impl Default for Live {
    fn default() -> Live {
        Live::new()
    }
}

/// The region itself.
#[component]
pub fn LiveRegion(live: Live) -> impl IntoView {
    view! {
        <div id="live" class="for-ears" role="status" aria-live="polite" aria-atomic="true">
            {move || live.said.get()}
        </div>
    }
}
