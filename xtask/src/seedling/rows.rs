//! What the Seedling reads: the books in pieces of a context's length, talk found in the novels, and small talk of our own.

use serde_json::{Value, json};

/// Everyday questions with plain answers, written for this model: `question | question => answer`.
const SMALL_TALK: &str = include_str!("small_talk.txt");
/// How often the small talk is repeated among the rest.
const REPEATS: usize = 12;
/// Characters of a document: about a context of 256 tokens.
const DOCUMENT: usize = 800;
/// Characters of one turn of a talk.
const TURN: std::ops::Range<usize> = 8..240;

/// Rows of JSON lines of a book: documents and talks.
pub fn rows(paragraphs: &[String]) -> Vec<Value> {
    let documents = documents(paragraphs).into_iter().map(|text| json!({ "text": text }));
    documents.chain(talks(paragraphs).iter().map(|(said, answer)| chat(said, answer))).collect()
}

/// The small talk as rows, repeated.
pub fn small_talk_rows() -> Vec<Value> {
    (0..REPEATS).flat_map(|_| small_talk().map(|(question, answer)| chat(question, answer))).collect()
}

fn chat(user: &str, assistant: &str) -> Value {
    json!({ "messages": [{ "role": "user", "content": user }, { "role": "assistant", "content": assistant }] })
}

/// Paragraphs, joined up to the length of a document; one that is longer is cut between sentences.
fn documents(paragraphs: &[String]) -> Vec<String> {
    let mut documents: Vec<String> = vec![];
    for paragraph in paragraphs {
        let mut separator = '\n';
        for sentence in paragraph.split_inclusive(". ") {
            match documents.last_mut() {
                Some(last) if last.len() + sentence.len() < DOCUMENT => {
                    last.extend([&separator.to_string(), sentence.trim()])
                }
                _ => documents.push(sentence.trim().into()),
            }
            separator = ' ';
        }
    }
    documents
}

/// Two paragraphs that are speech, one after the other: what is said, and what is answered.
fn talks(paragraphs: &[String]) -> Vec<(String, String)> {
    let speech: Vec<Option<String>> = paragraphs.iter().map(|p| spoken(p)).collect();
    speech.windows(2).filter_map(|pair| Some((pair[0].clone()?, pair[1].clone()?))).collect()
}

/// What is said in a paragraph that begins with speech; `said Emma` and the like are left out.
fn spoken(paragraph: &str) -> Option<String> {
    if !paragraph.starts_with('"') {
        return None;
    }
    let said: Vec<&str> = paragraph.split('"').skip(1).step_by(2).map(str::trim).collect();
    let mut text = said.join(" ");
    if text.ends_with([',', ';']) {
        text.pop();
        text.push('.');
    }
    (TURN.contains(&text.len()) && text.ends_with(['.', '!', '?'])).then_some(text)
}

/// Every question of the small talk with its answer.
pub fn small_talk() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = SMALL_TALK.lines().filter_map(|line| line.split_once(" => "));
    lines.flat_map(|(questions, answer)| questions.split(" | ").map(move |question| (question.trim(), answer.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speech_makes_talks() {
        let paragraphs = ["\"Is it far?\" said Emma.", "\"Not very,\" said he, \"but it rains.\"", "They went."];
        let paragraphs = paragraphs.map(String::from);
        assert_eq!(talks(&paragraphs), [("Is it far?".to_string(), "Not very, but it rains.".to_string())]);
    }

    #[test]
    fn documents_are_cut_between_sentences() {
        let sentence = format!("{}.", "a".repeat(300));
        let paragraphs = [format!("{sentence} {sentence} {sentence}"), "It rains.".into()];
        assert_eq!(documents(&paragraphs), [format!("{sentence} {sentence}"), format!("{sentence}\nIt rains.")]);
    }

    #[test]
    fn every_line_of_the_small_talk_has_an_answer() {
        assert_eq!(SMALL_TALK.lines().count(), SMALL_TALK.matches(" => ").count());
        assert!(small_talk().all(|(question, answer)| !question.is_empty() && answer.ends_with(['.', '?'])));
    }
}
