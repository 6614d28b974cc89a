//! A chart of a few series over the steps of a run.

use leptos::prelude::*;

/// One line of a chart; x is the step.
#[derive(Clone, Copy)]
pub struct Series {
    pub name: &'static str,
    pub points: RwSignal<Vec<(f64, f64)>>,
}

/// A chart with its title.
#[component]
pub fn Chart(
    title: &'static str,
    unit: &'static str,
    series: Vec<Series>,
    #[prop(optional)] log: bool,
) -> impl IntoView {
    let _ = log;
    let last = move |points: RwSignal<Vec<(f64, f64)>>| points.with(|p| p.last().map(|p| format!("{:.4}", p.1)));
    view! {
        <figure class="chart">
            <figcaption>{title}</figcaption>
            {series.into_iter().map(|s| view! { <p>{s.name} ": " {move || last(s.points)} " " {unit}</p> }).collect_view()}
        </figure>
    }
}
