//! What became of the rows, in numbers: kept, cut off, dropped and why, and how long they are.

use espalier::data::{DataReport, DropReason};
use leptos::prelude::*;

use super::numbers::{count, counted, percent};

/// Whether the chat template is at fault, which is another matter than an example that is too long.
fn is_template_fault(reason: DropReason) -> bool {
    matches!(reason, DropReason::RefusedByTemplate | DropReason::AnswerNotFound)
}

fn why(reason: DropReason) -> &'static str {
    match reason {
        DropReason::Malformed => "could not be read",
        DropReason::UnknownShape => "have none of the known shapes",
        DropReason::InvalidField => "have a field that makes no sense",
        DropReason::Empty => "are empty",
        DropReason::NoAnswer => "have no answer to learn",
        DropReason::AnswerCut => "are too long: their whole answer lies beyond the longest example",
        DropReason::RefusedByTemplate => "are refused by the chat template",
        DropReason::AnswerNotFound => "are shown by the chat template in a way that hides where the answers are",
        DropReason::UnknownToken => "have a token that the model does not know",
    }
}

/// Rows kept, cut and dropped, each with its reason.
#[component]
pub fn Counts(report: DataReport, train: usize, held_out: usize) -> impl IntoView {
    let rows = |n: usize| counted(n as u64, "row", "rows");
    let learned = report.supervised_tokens as f64 / report.tokens.max(1) as f64;
    let dropped = report.dropped_rows();
    let cut = report.dropped.iter().filter(|d| d.reason == DropReason::AnswerCut).map(|d| d.count).sum::<usize>();
    let reasons = report.dropped.clone().into_iter().map(|dropped| {
        let kind = match dropped.reason {
            DropReason::AnswerCut => "Truncation",
            reason if is_template_fault(reason) => "Chat template",
            _ => "Data",
        };
        let samples = dropped.samples.into_iter().map(|sample| view! { <li>{sample}</li> }).collect_view();
        view! {
            <li data-test="dropped" data-reason=format!("{:?}", dropped.reason)>
                <strong>{kind} ": "</strong>
                {rows(dropped.count)}
                " "
                {why(dropped.reason)}
                "."
                <details>
                    <summary>"Which"</summary>
                    <ul>{samples}</ul>
                </details>
            </li>
        }
    });
    let reasons = reasons.collect_view();
    view! {
        <dl class="facts" id="data-counts">
            <dt>"Read"</dt>
            <dd id="data-rows">{rows(report.rows)} " of " {report.source.clone()}</dd>
            <dt>"Kept"</dt>
            <dd id="data-kept">
                {counted(report.examples as u64, "example", "examples")} ": " {count(train as u64)} " to learn from, "
                {count(held_out as u64)} " kept aside"
            </dd>
            <dt>"Cut off"</dt>
            <dd id="data-truncated">
                {match report.truncated {
                    0 => "none".to_string(),
                    n => format!("{}, at the longest example; their beginning is used", counted(n as u64, "example", "examples")),
                }}
            </dd>
            <dt>"Dropped"</dt>
            <dd id="data-dropped">{if dropped == 0 { "none".to_string() } else { rows(dropped) }}</dd>
            <dt>"Tokens"</dt>
            <dd id="data-tokens">
                {count(report.tokens as u64)} ", of which " {count(report.supervised_tokens as u64)} " are learned (" {percent(learned)} ")"
            </dd>
        </dl>
        {(dropped > 0).then(|| view! { <ul class="reasons">{reasons}</ul> })}
        {(cut > 0).then(|| view! { <p class="hint">"A larger “Longest example” would keep more of them."</p> })}
        {(!report.notes.is_empty())
            .then(|| {
                view! { <ul class="notes">{report.notes.into_iter().map(|note| view! { <li>{note}</li> }).collect_view()}</ul> }
            })}
    }
}

/// Examples by length, as bars with their numbers beside them.
#[component]
pub fn Lengths(lengths: Vec<(usize, usize)>, longest: usize) -> impl IntoView {
    let most = lengths.iter().map(|length| length.1).max().unwrap_or(1).max(1);
    let mut from = 1;
    let rows = lengths.into_iter().map(|(to, n)| {
        let title = if from >= to { format!("{to}") } else { format!("{from} to {to}") };
        from = to + 1;
        view! {
            <tr>
                <th scope="row">{title}</th>
                <td class="length-bar">
                    <span aria-hidden="true" style:width=format!("{:.1}%", n as f64 / most as f64 * 100.0)></span>
                </td>
                <td class="figure">{count(n as u64)}</td>
            </tr>
        }
    });
    let rows = rows.collect_view();
    view! {
        <h4>"Length of the examples"</h4>
        <table class="lengths" id="lengths">
            <caption>"The longest has " {count(longest as u64)} " tokens."</caption>
            <thead>
                <tr>
                    <th scope="col">"Tokens"</th>
                    <th scope="col"><span class="for-ears">"As a bar"</span></th>
                    <th scope="col">"Examples"</th>
                </tr>
            </thead>
            <tbody>{rows}</tbody>
        </table>
    }
}
