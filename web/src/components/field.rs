//! Fields: a number with its slider, a list, a box to tick; each with a label, a term of art and a hint.

use leptos::html::Input;
use leptos::prelude::*;

use super::numbers::plain;
use super::term::Term;

/// A label: plain word, hint, and the term of art with its explanation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Words {
    pub label: &'static str,
    pub hint: &'static str,
    pub art: &'static str,
    pub explain: &'static str,
}

/// What a number may be.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    pub min: f64,
    pub max: f64,
    pub step: f64,
    /// The slider moves by factors and not by steps.
    pub log: bool,
}

/// Places of a slider that moves by factors, for each factor of ten.
const PLACES: f64 = 20.0;

impl Range {
    pub const fn new(min: f64, max: f64, step: f64) -> Range {
        Range { min, max, step, log: false }
    }

    /// From `min` to `max` by factors.
    pub const fn factors(min: f64, max: f64) -> Range {
        Range { min, max, step: 1.0, log: true }
    }

    /// The slider's place of a value.
    fn place(self, value: f64) -> f64 {
        if self.log { (value.max(self.min) / self.min).log10() * PLACES } else { value }
    }

    /// The value at a place of the slider; by factors, of two figures.
    fn value(self, place: f64) -> f64 {
        if !self.log {
            return place.clamp(self.min, self.max);
        }
        let value = self.min * 10f64.powf(place / PLACES);
        format!("{value:.1e}").parse().unwrap_or(value).clamp(self.min, self.max)
    }
}

/// A number. `value` is what was chosen, `None` where it is left open and `auto` stands; an emptied field leaves it open
/// where `open` allows it.
#[component]
pub fn Number(
    id: &'static str,
    words: Words,
    range: Range,
    #[prop(into)] value: Signal<Option<f64>>,
    #[prop(optional, into)] auto: Signal<Option<f64>>,
    #[prop(optional)] open: bool,
    set: impl Fn(Option<f64>) + Copy + Send + Sync + 'static,
) -> impl IntoView {
    let node = NodeRef::<Input>::new();
    let shown = move || value.get().or_else(|| auto.get());
    // Written only where it says something else: `1.` must not turn into `1` while it is typed.
    Effect::new(move |_| {
        let Some(input) = node.get() else { return };
        let value = value.get();
        if input.value().parse().ok() != value {
            input.set_value(&value.map(plain).unwrap_or_default());
        }
    });
    let typed = move |text: String| match text.trim().parse::<f64>() {
        Ok(number) if number.is_finite() => set(Some(number)),
        Err(_) if text.trim().is_empty() && open => set(None),
        _ => {}
    };
    let (low, high) = (range.place(range.min), range.place(range.max));
    let step = if range.log { 1.0 } else { range.step };
    view! {
        <div class="field">
            <Label id words />
            <div class="number">
                <input
                    type="range"
                    id=format!("{id}-slider")
                    min=low
                    max=high
                    step=step
                    aria-label=format!("{}, slider", words.label)
                    aria-valuetext=move || shown().map(plain).unwrap_or_else(|| "automatic".to_string())
                    prop:value=move || range.place(shown().unwrap_or(range.min)).to_string()
                    on:input=move |event| {
                        if let Ok(place) = event_target_value(&event).parse() {
                            set(Some(range.value(place)));
                        }
                    }
                />
                <input
                    type="number"
                    id=id
                    node_ref=node
                    min=range.min
                    max=range.max
                    step="any"
                    inputmode="decimal"
                    placeholder=move || auto.get().map(plain).unwrap_or_default()
                    aria-describedby=format!("{id}-hint")
                    on:input=move |event| typed(event_target_value(&event))
                />
            </div>
            <Hint id words more=move || {
                (open && value.get().is_some()).then(|| {
                    view! {
                        <button type="button" class="quiet" on:click=move |_| set(None)>
                            "Automatic"
                        </button>
                    }
                })
            } />
        </div>
    }
}

/// One of a few: (name in files, words).
#[component]
pub fn Choice(
    id: &'static str,
    words: Words,
    options: &'static [(&'static str, &'static str)],
    #[prop(into)] value: Signal<String>,
    set: impl Fn(String) + Copy + 'static,
) -> impl IntoView {
    view! {
        <div class="field">
            <Label id words />
            <select
                id=id
                aria-describedby=format!("{id}-hint")
                prop:value=move || value.get()
                on:change=move |event| set(event_target_value(&event))
            >
                {options
                    .iter()
                    .map(|(name, title)| view! { <option value=*name selected=move || value.get() == *name>{*title}</option> })
                    .collect_view()}
            </select>
            <Hint id words more=|| () />
        </div>
    }
}

/// A box to tick.
#[component]
pub fn Tick(
    id: &'static str,
    words: Words,
    #[prop(into)] value: Signal<bool>,
    set: impl Fn(bool) + Copy + 'static,
) -> impl IntoView {
    view! {
        <div class="field tick">
            <div class="field-head">
                <label for=id>
                    <input
                        type="checkbox"
                        id=id
                        aria-describedby=format!("{id}-hint")
                        prop:checked=move || value.get()
                        on:change=move |event| set(event_target_checked(&event))
                    />
                    <span>{words.label}</span>
                </label>
                {(!words.art.is_empty()).then(|| view! { <Term art=words.art explain=words.explain id /> })}
            </div>
            <Hint id words more=|| () />
        </div>
    }
}

/// A line of text.
#[component]
pub fn Line(
    id: &'static str,
    words: Words,
    value: RwSignal<String>,
    #[prop(optional)] placeholder: &'static str,
) -> impl IntoView {
    view! {
        <div class="field">
            <Label id words />
            <input
                type="text"
                id=id
                autocomplete="off"
                spellcheck="false"
                placeholder=placeholder
                aria-describedby=format!("{id}-hint")
                prop:value=move || value.get()
                on:input=move |event| value.set(event_target_value(&event))
            />
            <Hint id words more=|| () />
        </div>
    }
}

#[component]
fn Label(id: &'static str, words: Words) -> impl IntoView {
    view! {
        <div class="field-head">
            <label for=id>{words.label}</label>
            {(!words.art.is_empty()).then(|| view! { <Term art=words.art explain=words.explain id /> })}
        </div>
    }
}

#[component]
fn Hint<V: IntoView + 'static>(id: &'static str, words: Words, more: impl Fn() -> V + Send + 'static) -> impl IntoView {
    view! {
        <p class="hint">
            <span id=format!("{id}-hint")>{words.hint}</span>
            " "
            {more}
        </p>
    }
}
