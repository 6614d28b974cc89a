//! How numbers are written for people.

/// Bytes in steps of 1000, as browsers and disks count them: `93 MB`.
pub fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "bytes";
    for next in ["kB", "MB", "GB"] {
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    if unit == "bytes" { format!("{bytes} bytes") } else { format!("{} {unit}", short(value)) }
}

/// Three figures: `1.25`, `12.5`, `125`.
pub fn short(value: f64) -> String {
    match value.abs() {
        v if v < 9.995 => trim(format!("{value:.2}")),
        v if v < 99.95 => trim(format!("{value:.1}")),
        _ => count(value.round().max(0.0) as u64),
    }
}

fn trim(text: String) -> String {
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// A whole number, its thousands apart: `134,515,008`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 row`, `3 rows`.
pub fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// Seconds in the two largest units: `1 min 20 s`.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "unknown".to_string();
    }
    if seconds < 10.0 {
        return format!("{} s", trim(format!("{:.1}", seconds.max(0.0))));
    }
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        _ => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

/// A share: `0.7 %`.
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent > 0.0 && percent < 0.01 { "under 0.01 %".to_string() } else { format!("{} %", short(percent)) }
}

/// A choice's number as it stands in a field: no digits that rounding made.
pub fn plain(value: f64) -> String {
    let rounded: f64 = format!("{value:.6e}").parse().unwrap_or(value);
    rounded.to_string()
}
