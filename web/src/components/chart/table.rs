//! What a chart says in words and figures: a summary, a table, a CSV file.

use super::scale::number;

/// The name of a series, and its points in the order of their steps.
pub type Named<'a> = (&'static str, &'a [(f64, f64)]);

/// Rows that a table may have.
const MAX_ROWS: usize = 200;

/// The steps at which any series has a value, ascending.
pub fn steps(series: &[Named]) -> Vec<f64> {
    let mut steps: Vec<f64> = series.iter().flat_map(|(_, points)| points.iter().map(|point| point.0)).collect();
    steps.sort_by(f64::total_cmp);
    steps.dedup();
    steps
}

/// The value at `step`, where there is one.
fn value_at(points: &[(f64, f64)], step: f64) -> Option<f64> {
    let place = points.binary_search_by(|point| point.0.total_cmp(&step)).ok()?;
    Some(points[place].1)
}

/// The newest value at `step` or before.
fn value_until(points: &[(f64, f64)], step: f64) -> Option<f64> {
    let after = points.partition_point(|point| point.0 <= step);
    points.get(after.checked_sub(1)?).map(|point| point.1)
}

/// The values at a step: `Step 120: training 2.31, held out 2.4 nats`.
pub fn readout(series: &[Named], unit: &str, step: f64) -> String {
    let values: Vec<String> = series
        .iter()
        .filter_map(|(name, points)| Some(format!("{name} {}", number(value_until(points, step)?))))
        .collect();
    if values.is_empty() {
        return format!("Step {}: no value yet", number(step));
    }
    format!("Step {}: {} {unit}", number(step), values.join(", ")).trim_end().to_string()
}

/// What someone who does not see the chart should know of it.
pub fn summary(series: &[Named], unit: &str) -> String {
    let sentences: Vec<String> = series
        .iter()
        .filter_map(|(name, points)| {
            let finite = || points.iter().filter(|point| point.1.is_finite());
            let least = finite().min_by(|a, b| a.1.total_cmp(&b.1))?;
            let most = finite().max_by(|a, b| a.1.total_cmp(&b.1))?;
            let last = points.last()?;
            Some(format!(
                "{name}: {} values up to step {}; now {}, lowest {} at step {}, highest {} at step {}{}.",
                points.len(),
                number(last.0),
                number(last.1),
                number(least.1),
                number(least.0),
                number(most.1),
                number(most.0),
                if unit.is_empty() { String::new() } else { format!(" ({unit})") },
            ))
        })
        .collect();
    if sentences.is_empty() { "No values yet.".into() } else { sentences.join(" ") }
}

/// Rows of a table: the step, then each series. Of many steps, the first, the last and some evenly between.
pub fn rows(series: &[Named]) -> Vec<Vec<String>> {
    let steps = steps(series);
    let shown: Vec<f64> = match steps.len() {
        n if n <= MAX_ROWS => steps,
        n => (0..MAX_ROWS).map(|i| steps[i * (n - 1) / (MAX_ROWS - 1)]).collect(),
    };
    let row = |step: f64| {
        let values = series.iter().map(|(_, points)| value_at(points, step).map(number).unwrap_or_default());
        std::iter::once(number(step)).chain(values).collect()
    };
    shown.into_iter().map(row).collect()
}

/// All values, in full.
pub fn csv(series: &[Named], unit: &str) -> String {
    let quoted = |text: String| format!("\"{}\"", text.replace('"', "\"\""));
    let mut lines =
        vec![
            std::iter::once("step".to_string())
                .chain(series.iter().map(|(name, _)| {
                    quoted(if unit.is_empty() { name.to_string() } else { format!("{name} ({unit})") })
                }))
                .collect::<Vec<_>>()
                .join(","),
        ];
    for step in steps(series) {
        let values =
            series.iter().map(|(_, points)| value_at(points, step).map(|value| value.to_string()).unwrap_or_default());
        lines.push(std::iter::once(step.to_string()).chain(values).collect::<Vec<_>>().join(","));
    }
    lines.join("\r\n") + "\r\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const TRAINING: &[(f64, f64)] = &[(1.0, 5.0), (2.0, 4.5), (3.0, 4.75)];
    const HELD_OUT: &[(f64, f64)] = &[(2.0, 4.25)];
    const SERIES: [Named; 2] = [("training", TRAINING), ("held out", HELD_OUT)];

    #[test]
    fn a_row_has_a_cell_for_each_series() {
        assert_eq!(rows(&SERIES), [["1", "5", ""], ["2", "4.5", "4.25"], ["3", "4.75", ""]]);
        assert_eq!(
            csv(&SERIES, "nats"),
            "step,\"training (nats)\",\"held out (nats)\"\r\n1,5,\r\n2,4.5,4.25\r\n3,4.75,\r\n"
        );
    }

    #[test]
    fn a_long_table_keeps_its_ends() {
        let points: Vec<_> = (1..=10_000).map(|step| (f64::from(step), 1.0)).collect();
        let rows = rows(&[("training", &points)]);
        assert_eq!(rows.len(), MAX_ROWS);
        assert_eq!((&rows[0][0][..], &rows[MAX_ROWS - 1][0][..]), ("1", "10000"));
    }

    #[test]
    fn words_say_the_newest_value_and_the_extremes() {
        assert_eq!(readout(&SERIES, "nats", 3.0), "Step 3: training 4.75, held out 4.25 nats");
        assert_eq!(readout(&SERIES, "", 1.0), "Step 1: training 5");
        let words = summary(&SERIES, "nats");
        assert!(words.contains("now 4.75, lowest 4.5 at step 2, highest 5 at step 1 (nats)"), "{words}");
        assert_eq!(summary(&[("training", &[])], "nats"), "No values yet.");
    }
}
