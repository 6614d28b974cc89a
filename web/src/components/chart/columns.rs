//! A series as it is drawn: for each column of pixels the first, lowest, highest and last value. Whatever the number of points,
//! nothing that stands out is lost, and a new point costs the same.

use super::scale::Scale;

/// The values whose points fall into one column of pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Column {
    pub first: f64,
    pub min: f64,
    pub max: f64,
    pub last: f64,
}

/// All columns of a series.
#[derive(Clone, Debug, Default)]
pub struct Columns {
    columns: Vec<Option<Column>>,
    x: Option<Scale>,
    /// Points that are in the columns.
    seen: usize,
    /// Weight of the past in the moving average; 0 draws the values as they are
    smoothing: f64,
    average: Option<f64>,
    /// The least and the greatest value, and the least above 0.
    range: Option<(f64, f64, f64)>,
}

impl Columns {
    /// Takes in the points that were added, or all of them where the axis, the width or the smoothing has changed.
    pub fn update(&mut self, points: &[(f64, f64)], x: Scale, width: usize, smoothing: f64) {
        let is_same = self.x == Some(x) && self.columns.len() == width && self.smoothing == smoothing;
        if !is_same || points.len() < self.seen {
            *self = Columns { columns: vec![None; width], x: Some(x), smoothing, ..Columns::default() };
        }
        for &(step, value) in &points[self.seen..] {
            self.add(step, value, x);
        }
        self.seen = points.len();
    }

    fn add(&mut self, step: f64, value: f64, x: Scale) {
        if !value.is_finite() || self.columns.is_empty() {
            return;
        }
        let value = match self.average {
            Some(average) => self.smoothing * average + (1.0 - self.smoothing) * value,
            None => value,
        };
        self.average = Some(value);
        let (min, max, positive) = self.range.unwrap_or((value, value, f64::INFINITY));
        let positive = if value > 0.0 { positive.min(value) } else { positive };
        self.range = Some((min.min(value), max.max(value), positive));
        let last = self.columns.len() - 1;
        let place = (x.at(step) * last as f64).round().clamp(0.0, last as f64) as usize;
        let column = self.columns[place].get_or_insert(Column { first: value, min: value, max: value, last: value });
        column.min = column.min.min(value);
        column.max = column.max.max(value);
        column.last = value;
    }

    /// The columns that hold points, from left to right, with their places.
    pub fn iter(&self) -> impl Iterator<Item = (usize, Column)> + '_ {
        self.columns.iter().enumerate().filter_map(|(place, column)| Some((place, (*column)?)))
    }

    /// The least and the greatest value that can be drawn; on a logarithmic axis, of those above 0.
    pub fn range(&self, log: bool) -> Option<(f64, f64)> {
        let (min, max, positive) = self.range?;
        match log {
            true => (positive <= max).then_some((positive, max)),
            false => Some((min, max)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const X: Scale = Scale { lo: 0.0, hi: 999.0, log: false };

    #[test]
    fn points_added_later_give_what_all_at_once_give() {
        let points: Vec<_> = (0..1000).map(|i| (f64::from(i), f64::from((i * 7919) % 101))).collect();
        for smoothing in [0.0, 0.9] {
            let (mut once, mut bit_by_bit) = (Columns::default(), Columns::default());
            once.update(&points, X, 100, smoothing);
            for end in (0..=points.len()).step_by(37).chain([points.len()]) {
                bit_by_bit.update(&points[..end], X, 100, smoothing);
            }
            assert_eq!(once.iter().collect::<Vec<_>>(), bit_by_bit.iter().collect::<Vec<_>>());
            assert_eq!(once.range(false), bit_by_bit.range(false));
        }
    }

    #[test]
    fn one_value_that_stands_out_is_kept() {
        let mut points: Vec<_> = (0..1000).map(|i| (f64::from(i), 1.0)).collect();
        points[503].1 = 50.0;
        points[700].1 = f64::NAN;
        let mut columns = Columns::default();
        columns.update(&points, X, 20, 0.0);
        assert_eq!(columns.iter().filter(|(_, column)| column.max == 50.0).count(), 1);
        assert_eq!(columns.range(false), Some((1.0, 50.0)));
        columns.update(&points[..10], X, 20, 0.0);
        assert_eq!(columns.range(false), Some((1.0, 1.0)));
    }

    #[test]
    fn a_logarithmic_axis_leaves_out_what_it_has_no_place_for() {
        let mut columns = Columns::default();
        columns.update(&[(0.0, -1.0), (1.0, 0.0)], X, 10, 0.0);
        assert_eq!(columns.range(true), None);
        columns.update(&[(0.0, -1.0), (1.0, 0.0), (2.0, 0.5)], X, 10, 0.0);
        assert_eq!(columns.range(true), Some((0.5, 0.5)));
    }
}
