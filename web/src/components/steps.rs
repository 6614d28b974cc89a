//! The six steps, and the address that each has.

/// A step of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Load,
    Data,
    Method,
    Train,
    Compare,
    Keep,
}

impl Step {
    pub const ALL: [Step; 6] = [Step::Load, Step::Data, Step::Method, Step::Train, Step::Compare, Step::Keep];

    /// Its name in the address: `#data`.
    pub const fn slug(self) -> &'static str {
        match self {
            Step::Load => "load",
            Step::Data => "data",
            Step::Method => "method",
            Step::Train => "train",
            Step::Compare => "compare",
            Step::Keep => "keep",
        }
    }

    /// Its name in the list of steps.
    pub const fn title(self) -> &'static str {
        match self {
            Step::Load => "Check & load",
            Step::Data => "Data",
            Step::Method => "Method",
            Step::Train => "Train",
            Step::Compare => "Compare",
            Step::Keep => "Keep",
        }
    }

    /// Its heading.
    pub const fn heading(self) -> &'static str {
        match self {
            Step::Load => "Check this device, load a model",
            Step::Data => "Show it what to learn",
            Step::Method => "Choose how it learns",
            Step::Train => "Watch it learn",
            Step::Compare => "Compare before and after",
            Step::Keep => "Take it home",
        }
    }

    /// Place in the list, from 1.
    pub fn number(self) -> usize {
        Step::ALL.iter().position(|&step| step == self).unwrap_or(0) + 1
    }

    /// The step of a fragment such as `#data`.
    pub fn from_fragment(fragment: &str) -> Option<Step> {
        let slug = fragment.trim_start_matches('#');
        Step::ALL.into_iter().find(|step| step.slug() == slug)
    }
}
