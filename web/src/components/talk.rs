//! Answers as they come in, and the questions that wait for their turn.

use std::collections::{HashMap, VecDeque};

use leptos::prelude::*;

use crate::protocol::{Command, Side};

/// An answer, as far as it has come.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reply {
    pub text: String,
    /// (tokens, seconds), once complete
    pub done: Option<(u32, f64)>,
}

/// A turn of the conversation: a question and who answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchange {
    pub turn: u32,
    pub prompt: String,
    pub who: String,
    pub side: Side,
    pub strength: f32,
}

/// The signals of comparing and talking.
#[derive(Clone, Copy)]
pub struct Talk {
    pub replies: RwSignal<HashMap<u32, Reply>>,
    /// The pair that stands side by side: turns of base and adapter.
    pub pair: RwSignal<Option<(u32, u32)>>,
    pub exchanges: RwSignal<Vec<Exchange>>,
    /// The turn that is being answered.
    pub answering: RwSignal<Option<u32>>,
    waiting: StoredValue<VecDeque<Command>>,
    last: StoredValue<u32>,
}

impl Talk {
    pub fn new() -> Talk {
        Talk {
            replies: RwSignal::new(HashMap::new()),
            pair: RwSignal::new(None),
            exchanges: RwSignal::new(vec![]),
            answering: RwSignal::new(None),
            waiting: StoredValue::new(VecDeque::new()),
            last: StoredValue::new(0),
        }
    }

    /// A turn that has not been used, with an empty reply.
    pub fn new_turn(self) -> u32 {
        let turn = self.last.get_value() + 1;
        self.last.set_value(turn);
        self.replies.update(|replies| {
            replies.insert(turn, Reply::default());
        });
        turn
    }

    /// Puts questions in line; the first that can be asked now is returned.
    pub fn ask(self, questions: impl IntoIterator<Item = Command>) -> Option<Command> {
        self.waiting.update_value(|waiting| waiting.extend(questions));
        if self.answering.get_untracked().is_some() { None } else { self.next() }
    }

    /// The next question in line, after an answer has ended.
    pub fn next(self) -> Option<Command> {
        let next = self.waiting.try_update_value(VecDeque::pop_front).flatten();
        let turn = match &next {
            Some(Command::Ask { turn, .. }) => Some(*turn),
            _ => None,
        };
        self.answering.set(turn);
        next
    }

    /// Forgets the questions in line.
    pub fn clear_line(self) {
        self.waiting.update_value(VecDeque::clear);
    }

    pub fn token(self, turn: u32, text: &str) {
        self.replies.update(|replies| replies.entry(turn).or_default().text.push_str(text));
    }

    pub fn answered(self, turn: u32, tokens: u32, seconds: f64) {
        self.replies.update(|replies| replies.entry(turn).or_default().done = Some((tokens, seconds)));
    }

    pub fn text(self, turn: u32) -> String {
        self.replies.with(|replies| replies.get(&turn).map(|reply| reply.text.clone()).unwrap_or_default())
    }
}

impl Default for Talk {
    fn default() -> Talk {
        Talk::new()
    }
}
