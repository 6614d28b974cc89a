//! Puts a chart on its canvas.

use wasm_bindgen::JsCast;
use wasm_bindgen::prelude::*;
use web_sys::{CanvasRenderingContext2d, CssStyleDeclaration, Element, HtmlCanvasElement};

use super::columns::Columns;
use super::scale::{Scale, number};

/// Dashes of the series, pixels; a fifth one begins again. The legend draws the same.
pub const DASHES: [&[f64]; 4] = [&[], &[7.0, 4.0], &[2.0, 3.0], &[10.0, 3.0, 2.0, 3.0]];
/// Room for the values beside the axes, pixels.
const LEFT: f64 = 52.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 24.0;

/// A canvas of `width` x `height` pixels of the style sheet, `ratio` x as many of the device.
pub struct Surface {
    pub context: CanvasRenderingContext2d,
    pub width: f64,
    pub height: f64,
    pub ratio: f64,
}

/// The colours that the style sheet gives, whatever the scheme: those of the canvas and those of the legend's entries.
pub struct Colours {
    ink: String,
    grid: String,
    ground: String,
    series: Vec<String>,
}

impl Colours {
    pub fn of(canvas: &HtmlCanvasElement, legend: &[Element]) -> Colours {
        let style = |element: &Element| web_sys::window().and_then(|w| w.get_computed_style(element).ok().flatten());
        let get = |style: &Option<CssStyleDeclaration>, name: &str| {
            style.as_ref().and_then(|style| style.get_property_value(name).ok()).unwrap_or_default()
        };
        let canvas = style(canvas);
        Colours {
            ink: get(&canvas, "color"),
            grid: get(&canvas, "border-top-color"),
            ground: get(&canvas, "background-color"),
            series: legend.iter().map(|entry| get(&style(entry), "color")).collect(),
        }
    }
}

/// One series: the values as they are, and averaged where that is asked for.
pub struct Line<'a> {
    pub plain: &'a Columns,
    pub smooth: Option<&'a Columns>,
}

impl Surface {
    /// The canvas at its present size; nothing where it is not shown.
    pub fn of(canvas: &HtmlCanvasElement) -> Option<Surface> {
        let (width, height) = (f64::from(canvas.client_width()), f64::from(canvas.client_height()));
        if width < LEFT + RIGHT + 20.0 || height < TOP + BOTTOM + 20.0 {
            return None;
        }
        let ratio = web_sys::window()?.device_pixel_ratio().clamp(1.0, 3.0);
        let (w, h) = ((width * ratio).round() as u32, (height * ratio).round() as u32);
        // Setting a size also clears the canvas and its state.
        if canvas.width() != w || canvas.height() != h {
            canvas.set_width(w);
            canvas.set_height(h);
        }
        let context = canvas.get_context("2d").ok()??.dyn_into::<CanvasRenderingContext2d>().ok()?;
        context.set_transform(ratio, 0.0, 0.0, ratio, 0.0, 0.0).ok()?;
        Some(Surface { context, width, height, ratio })
    }

    /// Columns of the device's pixels between the axes.
    pub fn columns(&self) -> usize {
        ((self.width - LEFT - RIGHT) * self.ratio.min(2.0)) as usize
    }

    /// Where on the horizontal axis (0 to 1) a place on the canvas lies.
    pub fn at(&self, offset_x: f64) -> f64 {
        ((offset_x - LEFT) / (self.width - LEFT - RIGHT)).clamp(0.0, 1.0)
    }

    fn x(&self, at: f64) -> f64 {
        LEFT + at * (self.width - LEFT - RIGHT)
    }

    fn y(&self, at: f64) -> f64 {
        self.height - BOTTOM - at * (self.height - TOP - BOTTOM)
    }

    /// Draws everything anew. `cursor` is a step.
    pub fn draw(&self, x: Scale, y: Scale, lines: &[Line], colours: &Colours, cursor: Option<f64>) {
        let context = &self.context;
        context.set_fill_style_str(&colours.ground);
        context.fill_rect(0.0, 0.0, self.width, self.height);
        self.axes(x, y, colours);
        context.save();
        context.begin_path();
        context.rect(LEFT, TOP - 2.0, self.width - LEFT - RIGHT + 2.0, self.height - TOP - BOTTOM + 4.0);
        context.clip();
        context.set_line_join("round");
        for (i, line) in lines.iter().enumerate() {
            context.set_stroke_style_str(colours.series.get(i).unwrap_or(&colours.ink));
            if let Some(smooth) = line.smooth {
                context.set_line_width(1.0);
                context.set_global_alpha(0.3);
                self.trace(line.plain, y);
                context.set_global_alpha(1.0);
                self.stroke(smooth, y, i);
            } else {
                self.stroke(line.plain, y, i);
            }
        }
        context.restore();
        if let Some(step) = cursor {
            self.rule(self.x(x.at(step)), &colours.ink);
        }
    }

    fn stroke(&self, columns: &Columns, y: Scale, series: usize) {
        self.context.set_line_width(1.75);
        self.set_dash(DASHES[series % DASHES.len()]);
        self.trace(columns, y);
        self.set_dash(&[]);
    }

    /// Strokes the columns from left to right, in each first, lowest, highest, last.
    fn trace(&self, columns: &Columns, y: Scale) {
        let context = &self.context;
        let scale = 1.0 / (self.columns().max(2) - 1) as f64;
        let place = |value: f64| self.y(y.at(value).clamp(-0.5, 1.5));
        // A logarithmic axis has no place for 0 and below.
        let shown = |value: f64| !y.log || value > 0.0;
        context.begin_path();
        let mut is_first = true;
        let mut points = 0;
        for (column, values) in columns.iter() {
            let x = self.x(column as f64 * scale);
            let mut before = f64::NAN;
            for value in [values.first, values.min, values.max, values.last] {
                if value == before || !shown(value) {
                    continue;
                }
                before = value;
                points += 1;
                match is_first {
                    true => context.move_to(x, place(value)),
                    false => context.line_to(x, place(value)),
                }
                is_first = false;
            }
        }
        context.stroke();
        if points == 1 {
            // A path of one point leaves no trace.
            if let Some((column, values)) = columns.iter().next() {
                let _ = context.arc(self.x(column as f64 * scale), place(values.last), 2.5, 0.0, std::f64::consts::TAU);
                context.stroke();
            }
        }
    }

    fn axes(&self, x: Scale, y: Scale, colours: &Colours) {
        let context = &self.context;
        context.set_line_width(1.0);
        context.set_stroke_style_str(&colours.grid);
        context.set_fill_style_str(&colours.ink);
        context.set_font("12px system-ui, sans-serif");
        context.set_text_baseline("middle");
        context.set_text_align("right");
        context.begin_path();
        for tick in y.ticks(((self.height / 45.0) as usize).max(2)) {
            let at = self.y(y.at(tick)).round() + 0.5;
            context.move_to(LEFT, at);
            context.line_to(self.width - RIGHT, at);
            let _ = context.fill_text(&number(tick), LEFT - 6.0, at);
        }
        context.stroke();
        context.set_text_baseline("alphabetic");
        context.set_text_align("center");
        for tick in x.ticks(((self.width / 90.0) as usize).max(2)) {
            let _ = context.fill_text(&number(tick), self.x(x.at(tick)), self.height - 7.0);
        }
    }

    /// A vertical line.
    fn rule(&self, at: f64, colour: &str) {
        let context = &self.context;
        context.set_stroke_style_str(colour);
        context.set_line_width(1.0);
        context.begin_path();
        context.move_to(at.round() + 0.5, TOP);
        context.line_to(at.round() + 0.5, self.height - BOTTOM);
        context.stroke();
    }

    fn set_dash(&self, dash: &[f64]) {
        let dash: js_sys::Array = dash.iter().map(|&length| JsValue::from_f64(length)).collect();
        // A list of finite lengths is a valid dash.
        let _ = self.context.set_line_dash(&dash);
    }
}
