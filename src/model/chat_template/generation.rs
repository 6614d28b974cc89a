//! `{% generation %} ... {% endgeneration %}`, by which a template marks what the model writes.
//!
//! The engine has no such block. It has filter blocks with the same white-space rules, so the tag becomes one whose filter
//! puts a mark at both ends; the marks are taken out of the rendered text, and their places are the answer.

use std::ops::Range;

/// The filter's name.
pub(super) const FILTER: &str = "mark_generation";

/// Marks: two of the code points that Unicode sets aside for use inside programs, never in text.
const START: char = '\u{FDD0}';
const END: char = '\u{FDD1}';

/// The filter: `text` between marks.
pub(super) fn mark(text: &str) -> String {
    format!("{START}{text}{END}")
}

/// `source` with generation tags written as filter blocks; everything else, white-space control too, stays as it is.
pub(super) fn as_filter(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out += before;
        let inside = tag.trim_start_matches(['-', '+']).trim_start();
        out += &tag[..tag.len() - inside.len()];
        let name_len = inside.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inside.len());
        let (name, after) = inside.split_at(name_len);
        let ends_here = after.trim_start().trim_start_matches(['-', '+']).starts_with("%}");
        match name {
            "generation" if ends_here => out += &format!("filter {FILTER}"),
            "endgeneration" if ends_here => out += "endfilter",
            name => out += name,
        }
        rest = after;
    }
    out + rest
}

/// Takes the marks out of `rendered` and gives the byte ranges between them. Marks that do not pair up (they were in the
/// messages themselves, say) leave no ranges.
pub(super) fn take_marks(rendered: String) -> (String, Vec<Range<usize>>) {
    let mut text = String::with_capacity(rendered.len());
    let (mut spans, mut open, mut paired) = (Vec::new(), None, true);
    for c in rendered.chars() {
        match c {
            START => paired &= open.replace(text.len()).is_none(),
            END => match open.take() {
                Some(start) => spans.push(start..text.len()),
                None => paired = false,
            },
            c => text.push(c),
        }
    }
    if !paired || open.is_some() {
        spans.clear();
    }
    (text, spans)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_generation_tags_change() {
        let source = "{%- generation -%}a{% endgeneration+%}{% if generation %}{% set generation = 1 %}{{ '{%' }}{% generationx %}";
        let expected = "{%- filter mark_generation -%}a{% endfilter+%}{% if generation %}{% set generation = 1 %}{{ '{%' }}{% generationx %}";
        assert_eq!(as_filter(source), expected);
        for broken in ["{%", "{%-", "{% generation", "é{%é", ""] {
            assert_eq!(as_filter(broken), broken);
        }
    }

    #[test]
    fn marks_are_taken_out() {
        let text = format!("é{}b{}", mark("xü"), mark(""));
        assert_eq!(take_marks(text), ("éxüb".to_string(), vec![2..5, 6..6]));
        assert_eq!(take_marks(format!("a{END}b{START}")), ("ab".to_string(), vec![]));
    }
}
