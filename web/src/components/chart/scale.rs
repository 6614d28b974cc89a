//! Axes: where a value lies between the ends of one, and which round values are written beside it.

/// A linear or logarithmic axis from `lo` to `hi`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    pub lo: f64,
    pub hi: f64,
    pub log: bool,
}

impl Scale {
    /// A horizontal axis that holds `first` to `last`. Its end moves in steps of at least a sixteenth of its length, so that
    /// most new points leave the others where they are.
    pub fn over_steps(first: f64, last: f64) -> Scale {
        let span = (last - first).max(1.0);
        let step = (span.log2().floor() - 3.0).exp2();
        Scale { lo: first, hi: first + (span / step).ceil() * step, log: false }
    }

    /// A vertical axis that holds `min` to `max`, with round ends. Logarithmic where that is asked for and `min` is above 0.
    pub fn over_values(min: f64, max: f64, log: bool) -> Scale {
        if !(min.is_finite() && max.is_finite()) {
            return Scale { lo: 0.0, hi: 1.0, log: false };
        }
        if log && min > 0.0 {
            let (lo, hi) = (round_down(min), round_step(max));
            return Scale { lo, hi: if hi > lo { hi } else { lo * 10.0 }, log: true };
        }
        let span = if max > min { max - min } else { max.abs().max(1.0) };
        let step = round_step(span / 5.0);
        let (lo, hi) = ((min / step).floor() * step, (max / step).ceil() * step);
        Scale { lo, hi: if hi > lo { hi } else { lo + step }, log: false }
    }

    /// 0 at `lo`, 1 at `hi`.
    pub fn at(&self, value: f64) -> f64 {
        if self.log {
            (value.ln() - self.lo.ln()) / (self.hi.ln() - self.lo.ln())
        } else {
            (value - self.lo) / (self.hi - self.lo)
        }
    }

    /// The value at this part of the axis.
    pub fn value(&self, at: f64) -> f64 {
        self.lo + at * (self.hi - self.lo)
    }

    /// About `wanted` round values on the axis, ascending.
    pub fn ticks(&self, wanted: usize) -> Vec<f64> {
        if self.log {
            return self.log_ticks(wanted);
        }
        let step = round_step((self.hi - self.lo) / wanted.max(1) as f64);
        let from = (self.lo / step - 1e-9).ceil() as i64;
        let to = (self.hi / step + 1e-9).floor() as i64;
        (from..=to).map(|i| i as f64 * step).collect()
    }

    fn log_ticks(&self, wanted: usize) -> Vec<f64> {
        let decades = self.lo.log10().floor() as i32..=self.hi.log10().ceil() as i32;
        let of = |factors: &[f64]| -> Vec<f64> {
            let all = decades.clone().flat_map(|decade| factors.iter().map(move |factor| factor * 10f64.powi(decade)));
            all.filter(|value| (self.lo * (1.0 - 1e-9)..=self.hi * (1.0 + 1e-9)).contains(value)).collect()
        };
        [&[1.0, 2.0, 5.0][..], &[1.0, 3.0]].into_iter().map(of).find(|ticks| ticks.len() <= wanted + 2).unwrap_or_else(
            || {
                let all = of(&[1.0]);
                let every = all.len().div_ceil(wanted.max(1)).max(1);
                all.into_iter().step_by(every).collect()
            },
        )
    }
}

/// The smallest of 1, 2, 5, 10, ... times a power of ten that is not below `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|&step| step >= least * (1.0 - 1e-9))
        .unwrap_or(power * 10.0)
}

/// The largest of 1, 2, 5 times a power of ten that is not above `value`.
fn round_down(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    [5.0, 2.0].into_iter().map(|factor| factor * power).find(|&round| round <= value * (1.0 + 1e-9)).unwrap_or(power)
}

/// A value in the fewest figures that tell it from its neighbours: 4 significant ones.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        return "not a number".into();
    }
    if size == 0.0 {
        return "0".into();
    }
    if !(1e-3..1e6).contains(&size) {
        return trim(&format!("{value:.2e}"));
    }
    let digits = (3 - size.log10().floor() as i32).clamp(0, 6) as usize;
    trim(&format!("{value:.digits$}"))
}

/// Without the zeros at the end of a fraction.
fn trim(text: &str) -> String {
    let (digits, exponent) = text.split_once('e').map_or((text, None), |(digits, exponent)| (digits, Some(exponent)));
    let digits = if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits };
    exponent.map_or_else(|| digits.to_string(), |exponent| format!("{digits}e{exponent}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn ticks_are_round_and_inside() {
        let scale = Scale::over_values(0.13, 5.9, false);
        assert_eq!((scale.lo, scale.hi), (0.0, 6.0));
        assert_eq!(scale.ticks(3), [0.0, 2.0, 4.0, 6.0]);
        let log = Scale::over_values(3e-5, 0.4, true);
        assert!(log.log && log.lo <= 3e-5 && log.hi >= 0.4);
        assert!(log.ticks(5).iter().all(|tick| (log.lo * 0.999..=log.hi * 1.001).contains(tick)));
        assert!((2..=7).contains(&log.ticks(5).len()));
    }

    #[test]
    fn an_axis_holds_values_that_are_all_the_same_or_missing() {
        for (min, max) in [(0.0, 0.0), (2e-4, 2e-4), (-3.0, -3.0), (f64::NAN, f64::NAN), (f64::INFINITY, 0.0)] {
            let scale = Scale::over_values(min, max, false);
            assert!(scale.hi > scale.lo, "{min} {max}");
            assert!(!scale.ticks(4).is_empty());
        }
        assert!(!Scale::over_values(0.0, 1.0, true).log);
    }

    #[test]
    fn most_new_steps_leave_the_axis_as_it_is() {
        let ends: Vec<f64> = (1..10_000).map(|last| Scale::over_steps(1.0, f64::from(last)).hi).collect();
        assert!(ends.iter().zip(1..).all(|(&end, last)| end >= f64::from(last)));
        let moves = ends.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(moves < 150, "{moves}");
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 2e-4, 0.5, 2.3456789, 120.0, 12_345.0, 3.2e9, -0.25].map(number);
        assert_eq!(shown, ["0", "2e-4", "0.5", "2.346", "120", "12345", "3.2e9", "-0.25"]);
    }
}
