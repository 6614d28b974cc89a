//! What chat templates take from Python's standard library: `json.dumps` and `datetime.strftime`.

use std::fmt::Write;

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind};
use serde_json::Value;

/// How `json.dumps` lays out what it writes.
struct Layout {
    ensure_ascii: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

/// The filter `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`: Python's `json.dumps`.
pub(super) fn tojson(value: &minijinja::Value, ensure_ascii: Option<bool>, options: Kwargs) -> Result<String, Error> {
    let fault = |e: serde_json::Error| Error::new(ErrorKind::BadSerialization, e.to_string());
    let plain = serde_json::to_value(value).map_err(fault)?;
    let indent: Option<minijinja::Value> = options.get("indent")?;
    let indent = indent.filter(|indent| !indent.is_none()).map(|indent| match indent.as_str() {
        Some(text) => text.chars().take(64).collect(),
        None => " ".repeat(usize::try_from(indent).unwrap_or(0).min(64)),
    });
    let separators: Option<Vec<String>> = options.get("separators")?;
    let mut separators = separators.unwrap_or_default().into_iter();
    let default = if indent.is_some() { "," } else { ", " };
    let layout = Layout {
        ensure_ascii: ensure_ascii.or(options.get("ensure_ascii")?).unwrap_or(false),
        indent,
        item_separator: separators.next().unwrap_or_else(|| default.to_string()),
        key_separator: separators.next().unwrap_or_else(|| ": ".to_string()),
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    let mut out = String::new();
    layout.write(&mut out, &plain, 0);
    Ok(out)
}

impl Layout {
    fn write(&self, out: &mut String, value: &Value, depth: usize) {
        match value {
            Value::Null => out.push_str("null"),
            Value::Bool(x) => out.push_str(if *x { "true" } else { "false" }),
            Value::Number(x) => out.push_str(&x.as_f64().filter(|_| x.is_f64()).map_or_else(|| x.to_string(), float)),
            Value::String(x) => self.write_string(out, x),
            Value::Array(items) => {
                self.write_items(out, depth, ('[', ']'), items.iter(), |out, item| self.write(out, item, depth + 1));
            }
            Value::Object(fields) => {
                let mut fields: Vec<_> = fields.iter().collect();
                if self.sort_keys {
                    fields.sort_by_key(|(key, _)| *key);
                }
                self.write_items(out, depth, ('{', '}'), fields.into_iter(), |out, (key, value)| {
                    self.write_string(out, key);
                    out.push_str(&self.key_separator);
                    self.write(out, value, depth + 1);
                });
            }
        }
    }

    fn write_items<T>(
        &self,
        out: &mut String,
        depth: usize,
        (open, close): (char, char),
        items: impl ExactSizeIterator<Item = T>,
        write: impl Fn(&mut String, T),
    ) {
        let empty = items.len() == 0;
        let line = |out: &mut String, depth: usize| {
            if let Some(indent) = self.indent.as_ref().filter(|_| !empty) {
                out.push('\n');
                out.push_str(&indent.repeat(depth));
            }
        };
        out.push(open);
        for (at, item) in items.enumerate() {
            if at > 0 {
                out.push_str(&self.item_separator);
            }
            line(out, depth + 1);
            write(out, item);
        }
        line(out, depth);
        out.push(close);
    }

    fn write_string(&self, out: &mut String, text: &str) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && !c.is_ascii()) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        // Writing to a string does not fail.
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// Python's `repr` of a float: Rust's shortest digits, with an exponent of a sign and at least two digits.
fn float(x: f64) -> String {
    let text = format!("{x:?}");
    let Some((digits, exponent)) = text.split_once('e') else { return text };
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
    format!("{digits}e{sign}{exponent:0>2}")
}

const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// `datetime.strftime` in the C locale, for `now` seconds since 1970 UTC. Unknown directives stay as they are written.
pub(super) fn strftime(format: &str, now: u64) -> String {
    let (days, seconds) = (now / 86_400, now % 86_400);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let (year, month, day) = civil(days);
    let first_of_year = days - (0..month).map(|m| month_days(year, m)).sum::<u64>() - (day - 1);
    let weekday = DAYS[((days + 3) % 7) as usize];
    let month_name = MONTHS[month as usize];
    let hour12 = (hour + 11) % 12 + 1;
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        let unpadded = directive == Some('-');
        if unpadded {
            directive = chars.next();
        }
        let number = |x: u64, width: usize| if unpadded { x.to_string() } else { format!("{x:0width$}") };
        out += &match directive {
            Some('Y') => number(year, 4),
            Some('y') => number(year % 100, 2),
            Some('m') => number(month + 1, 2),
            Some('d') => number(day, 2),
            Some('e') => format!("{day:2}"),
            Some('H') => number(hour, 2),
            Some('I') => number(hour12, 2),
            Some('M') => number(minute, 2),
            Some('S') => number(second, 2),
            Some('j') => number(days - first_of_year + 1, 3),
            Some('B') => month_name.to_string(),
            Some('b' | 'h') => month_name[..3].to_string(),
            Some('A') => weekday.to_string(),
            Some('a') => weekday[..3].to_string(),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_string(),
            Some('F') => strftime("%Y-%m-%d", now),
            Some('T' | 'X') => strftime("%H:%M:%S", now),
            Some('D' | 'x') => strftime("%m/%d/%y", now),
            Some('c') => strftime("%a %b %e %H:%M:%S %Y", now),
            Some('s') => now.to_string(),
            Some('Z') => "UTC".to_string(),
            Some('z') => "+0000".to_string(),
            Some('%') => "%".to_string(),
            Some(other) => format!("%{}{other}", if unpadded { "-" } else { "" }),
            None => if unpadded { "%-" } else { "%" }.to_string(),
        };
    }
    out
}

/// Days since 1970 as year, month from 0, day from 1.
fn civil(mut days: u64) -> (u64, u64, u64) {
    // 400 years of the Gregorian calendar have 146,097 days.
    let mut year = 1970 + days / 146_097 * 400;
    days %= 146_097;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = 0;
    while days >= month_days(year, month) {
        days -= month_days(year, month);
        month += 1;
    }
    (year, month, days + 1)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn month_days(year: u64, month: u64) -> u64 {
    match month {
        1 => 28 + u64::from(is_leap(year)),
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let all = "%d %b %Y|%A %-d %B|%H:%M:%S|%j|%y %a %p %I %% %F %T %q %-q %";
        // date -u -d @1709210096
        assert_eq!(
            strftime(all, 1_709_210_096),
            "29 Feb 2024|Thursday 29 February|12:34:56|060|24 Thu PM 12 % 2024-02-29 12:34:56 %q %-q %"
        );
        assert_eq!(strftime("%F %a %j %I%p", 0), "1970-01-01 Thu 001 12AM");
        assert_eq!(strftime("%F %a", 4_107_542_400), "2100-03-01 Mon");
        assert_eq!(strftime("%F", 951_782_400), "2000-02-29");
        strftime("%c %F", u64::MAX);
    }

    #[test]
    fn floats_are_written_as_python_does() {
        for (x, text) in [(1.0, "1.0"), (1e16, "1e+16"), (1e-7, "1e-07"), (1.5e300, "1.5e+300"), (0.0001, "0.0001")] {
            assert_eq!(float(x), text);
        }
    }
}
