//! What a command tells while it works and when it is done: bars on a terminal, lines of plain text elsewhere. All of it goes
//! to standard error; results go to standard output.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use espalier::graph::{Category, MemoryTable};
use espalier::io::hub;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Time between two lines where the output is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Bytes as people read them: `1.25 GiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1000.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    match unit {
        "B" => format!("{count} B"),
        _ if value < 10.0 => format!("{value:.2} {unit}"),
        _ if value < 100.0 => format!("{value:.1} {unit}"),
        _ => format!("{value:.0} {unit}"),
    }
}

/// A number as people read it: `134.5 M`.
pub fn count(count: u64) -> String {
    match count {
        0..10_000 => count.to_string(),
        10_000..1_000_000 => format!("{:.1} k", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", count as f64 / 1e6),
        _ => format!("{:.2} G", count as f64 / 1e9),
    }
}

/// Seconds as people read them: `1 h 05 min`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// What memory of a category is for, in words.
fn category(category: Category) -> &'static str {
    match category {
        Category::Weights => "frozen weights",
        Category::Parameters => "trained parameters",
        Category::Gradients => "gradients",
        Category::Optimizer => "Adam's moments",
        Category::Activations => "activations",
        Category::State => "key/value cache",
        Category::Inputs => "inputs and results",
    }
}

/// A memory table, one category a line, then the sum.
pub fn memory(table: &MemoryTable) -> String {
    let mut text = String::new();
    for (&kind, &size) in table.0.iter().filter(|(_, size)| **size > 0) {
        text += &format!("  {:<20} {:>10}\n", category(kind), bytes(size));
    }
    text + &format!("  {:<20} {:>10}\n", "in all", bytes(table.total()))
}

fn is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// Work whose amount is known: a bar, or a line now and then.
pub struct Progress {
    bar: ProgressBar,
    what: String,
    terminal: bool,
    said: Instant,
    spoke: bool,
    unit: Unit,
}

/// What a bar counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Parameters,
    Rows,
    Steps,
    Batches,
}

impl Progress {
    /// Begins `what`.
    pub fn new(what: &str, total: u64, unit: Unit) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        let template = match unit {
            Unit::Bytes => "{prefix} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
            Unit::Parameters => "{prefix} {wide_bar} {percent} % {eta}",
            Unit::Rows | Unit::Steps | Unit::Batches => "{prefix} {bar:24} {pos}/{len} {wide_msg} {eta}",
        };
        // The templates above are right; where one was not, the plain bar would do.
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(what.to_string());
        Progress { bar, what: what.into(), terminal: is_terminal(), said: Instant::now(), spoke: false, unit }
    }

    /// `done` of the whole, and what else there is to say.
    pub fn set(&mut self, done: u64, message: &str) {
        let total = self.bar.length().unwrap_or(done);
        if self.terminal {
            self.bar.set_position(done);
            self.bar.set_message(message.to_string());
            return;
        }
        let now = Instant::now();
        // Short work is not worth a line; what has had one gets its last one, too.
        let is_end = done >= total && self.spoke;
        if now - self.said < LINE_EVERY && !is_end {
            return;
        }
        self.spoke = true;
        self.said = now;
        let (done, total) = match self.unit {
            Unit::Bytes => (bytes(done), bytes(total)),
            Unit::Parameters => (count(done), count(total)),
            Unit::Rows | Unit::Steps | Unit::Batches => (done.to_string(), total.to_string()),
        };
        let line = format!("{} {done} of {total} {message}", self.what);
        eprintln!("{}", line.trim_end());
    }

    /// How much there is, where that was not known or has changed.
    pub fn set_total(&mut self, total: u64) {
        self.bar.set_length(total);
    }

    /// A line above the bar.
    pub fn say(&self, line: &str) {
        if self.terminal { self.bar.suspend(|| eprintln!("{line}")) } else { eprintln!("{line}") }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Files on their way from the hub.
pub struct Transfer {
    progress: Progress,
    begun: bool,
    name: String,
}

impl Transfer {
    /// For the model `name`; nothing is shown until something is fetched.
    pub fn new(name: &str) -> Transfer {
        Transfer { progress: Progress::new("fetching", 0, Unit::Bytes), begun: false, name: name.into() }
    }

    /// How far the transfer is.
    pub fn show(&mut self, progress: &hub::Progress) {
        if !self.begun {
            self.begun = true;
            self.progress.say(&format!("fetching {} from the hub (once)", self.name));
        }
        self.progress.set_total(progress.total.unwrap_or(progress.done));
        self.progress.set(progress.done, progress.file);
    }

    /// The files are there.
    pub fn finish(&self) {
        self.progress.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_counts_and_times_are_short() {
        assert_eq!(
            [0, 999, 1024, 1536, 200 << 20, 5_500_000_000].map(bytes),
            ["0 B", "999 B", "1.00 KiB", "1.50 KiB", "200 MiB", "5.12 GiB"]
        );
        assert_eq!([7, 134_515_008, 7_000_000_000].map(count), ["7", "134.5 M", "7.00 G"]);
        let times = [1.25, 75.0, 3900.0].map(|s| duration(Duration::from_secs_f64(s)));
        assert_eq!(times, ["1.2 s", "1 min 15 s", "1 h 05 min"]);
    }
}
