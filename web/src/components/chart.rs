//! A chart of a few series over the steps of a run: drawn on a canvas, operated by pointer or keyboard, and told in words, in a
//! table and as CSV. It is drawn only when something changed, at most once a frame.

mod columns;
mod draw;
mod scale;
mod table;

pub mod bench;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use leptos::html::{Canvas, Ul};
use leptos::prelude::*;
use wasm_bindgen::JsCast;
use wasm_bindgen::prelude::*;
use web_sys::{Blob, Element, HtmlCanvasElement, MediaQueryList, ResizeObserver};

use self::columns::Columns;
use self::draw::{Colours, DASHES, Line, Surface};
use self::scale::Scale;
use super::save::{save, save_text};

/// One line of a chart; x is the step, ascending.
#[derive(Clone, Copy)]
pub struct Series {
    pub name: &'static str,
    pub points: RwSignal<Vec<(f64, f64)>>,
}

/// How strongly values can be averaged: in words, and the weight of the past.
const SMOOTHING: [(&str, f64); 4] = [("none", 0.0), ("light", 0.6), ("medium", 0.9), ("strong", 0.97)];
/// How often the summary and the table follow the values.
const TELL: Duration = Duration::from_secs(5);
/// The pause between two pictures where someone asked for less motion.
const CALM: f64 = 1000.0;

/// What can be set on a chart.
#[derive(Clone, Copy, PartialEq)]
struct Settings {
    log: bool,
    smoothing: f64,
    /// The step under the cursor
    cursor: Option<f64>,
}

/// A chart with its title. `unit` is that of the values.
#[component]
pub fn Chart(
    title: &'static str,
    unit: &'static str,
    series: Vec<Series>,
    #[prop(optional)] log: bool,
) -> impl IntoView {
    let settings = RwSignal::new(Settings { log, smoothing: 0.0, cursor: None });
    let series = StoredValue::new(series);
    let canvas = NodeRef::<Canvas>::new();
    let legend = NodeRef::<Ul>::new();
    let plot = StoredValue::new_local(None::<Rc<Plot>>);

    Effect::new(move |_| {
        let (Some(canvas), Some(legend)) = (canvas.get(), legend.get()) else { return };
        let entries = legend.children();
        let entries = (0..entries.length()).filter_map(|i| entries.item(i)).collect();
        plot.set_value(Some(Plot::new(canvas, entries, series.get_value(), settings)));
    });
    Effect::new(move |_| {
        series.with_value(|series| series.iter().for_each(|series| series.points.track()));
        settings.track();
        canvas.track();
        plot.with_value(|plot| plot.iter().for_each(Plot::draw_soon));
    });
    on_cleanup(move || {
        plot.try_update_value(|plot| plot.take().iter().for_each(|plot| plot.detach()));
    });

    let told = told_now_and_then(series, unit);
    let is_open = RwSignal::new(false);
    let summary_id = format!("{}-summary", title.to_lowercase().replace(' ', "-"));
    let steps = move || series.with_value(|series| with_points(series, table::steps));
    let reference = Memo::new(move |_| {
        series.with_value(|series| {
            let ends = series.iter().filter_map(|s| s.points.with(|p| Some((p.first()?.0, p.last()?.0))));
            ends.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
        })
    });
    let readout = move || {
        let step = settings.get().cursor.or_else(|| reference.get().map(|(_, last)| last));
        step.map(|step| series.with_value(|series| with_points(series, |named| table::readout(named, unit, step))))
            .unwrap_or_else(|| "No values yet".into())
    };
    let point = move |event: web_sys::PointerEvent| {
        let at = plot.with_value(|plot| plot.as_ref().and_then(|plot| plot.step_at(f64::from(event.offset_x()))));
        settings.update(|settings| settings.cursor = at);
    };
    let leave = move |_: web_sys::PointerEvent| settings.update(|settings| settings.cursor = None);
    let press = move |event: web_sys::KeyboardEvent| {
        if event.alt_key() || event.ctrl_key() || event.meta_key() {
            return;
        }
        let steps = untrack(steps);
        let present = settings.get_untracked().cursor;
        if let Some(step) = moved(&steps, present, &event.key()) {
            event.prevent_default();
            settings.update(|settings| settings.cursor = step);
        }
    };
    let save_csv = move |_| {
        let text = untrack(|| series.with_value(|series| with_points(series, |named| table::csv(named, unit))));
        let _ = save_text(&format!("{}.csv", file_name(title)), "text/csv", &text);
    };
    let save_png = move |_| {
        if let Some(canvas) = canvas.get_untracked() {
            save_picture(&canvas, &file_name(title));
        }
    };
    let entries = series.get_value().into_iter().enumerate().map(|(i, series)| {
        let dash = DASHES[i % DASHES.len()].iter().map(f64::to_string).collect::<Vec<_>>().join(" ");
        view! {
            <li class=format!("series-{}", i + 1)>
                <svg width="28" height="8" aria-hidden="true">
                    <line x1="0" y1="4" x2="28" y2="4" stroke="currentColor" stroke-width="2" stroke-dasharray=dash/>
                </svg>
                <span>{series.name}</span>
            </li>
        }
    });
    let heads = move || series.get_value().into_iter().map(|s| view! { <th scope="col">{s.name}</th> }).collect_view();
    let row = |cells: Vec<String>| {
        let mut cells = cells.into_iter();
        let step = cells.next().unwrap_or_default();
        view! { <tr><th scope="row">{step}</th>{cells.map(|cell| view! { <td>{cell}</td> }).collect_view()}</tr> }
    };

    view! {
        <figure class="chart">
            <figcaption>
                <span class="chart-title">{title} " " <small>{unit}</small></span>
                <ul class="chart-legend" node_ref=legend>{entries.collect_view()}</ul>
            </figcaption>
            <canvas
                node_ref=canvas
                tabindex="0"
                role="slider"
                aria-label=format!("{title}: step under the cursor")
                aria-describedby=summary_id.clone()
                aria-valuemin=move || reference.get().map_or(0.0, |ends| ends.0)
                aria-valuemax=move || reference.get().map_or(0.0, |ends| ends.1)
                aria-valuenow=move || settings.get().cursor.or(reference.get().map(|ends| ends.1)).unwrap_or(0.0)
                aria-valuetext=readout
                on:pointermove=point
                on:pointerdown=point
                on:pointerleave=leave
                on:keydown=press
            ></canvas>
            <p class="chart-readout" aria-hidden="true">{readout}</p>
            <p class="for-ears" id=summary_id>{move || told.get().summary}</p>
            <div class="chart-tools">
                <label>
                    "Smoothing "
                    <select on:change=move |event| {
                        let weight = event_target_value(&event).parse().unwrap_or(0.0);
                        settings.update(|settings| settings.smoothing = weight);
                    }>
                        {SMOOTHING.map(|(name, weight)| view! { <option value=weight.to_string()>{name}</option> })}
                    </select>
                </label>
                <label>
                    <input
                        type="checkbox"
                        prop:checked=move || settings.get().log
                        on:change=move |event| {
                            let log = event_target_checked(&event);
                            settings.update(|settings| settings.log = log);
                        }
                    />
                    " Logarithmic"
                </label>
                <button type="button" on:click=save_csv>"CSV"</button>
                <button type="button" on:click=save_png>"PNG"</button>
            </div>
            <details on:toggle=move |event| {
                is_open.set(event_target::<Element>(&event).has_attribute("open"));
            }>
                <summary>"Table"</summary>
                <Show when=move || is_open.get()>
                    <div class="chart-table" tabindex="0" role="region" aria-label=format!("{title}: table")>
                        <table>
                            <thead><tr><th scope="col">"Step"</th>{heads}</tr></thead>
                            <tbody>{move || told.get().rows.into_iter().map(row).collect_view()}</tbody>
                        </table>
                    </div>
                </Show>
            </details>
        </figure>
    }
}

/// The names and points of all series, followed as signals.
fn with_points<T>(series: &[Series], f: impl FnOnce(&[table::Named]) -> T) -> T {
    let guards: Vec<_> = series.iter().map(|series| (series.name, series.points.read())).collect();
    let named: Vec<table::Named> = guards.iter().map(|(name, points)| (*name, points.as_slice())).collect();
    f(&named)
}

/// The words and figures beside a chart.
#[derive(Clone, Default, PartialEq)]
struct Told {
    summary: String,
    rows: Vec<Vec<String>>,
}

/// What is told of the series: at once when the first value comes, then at most once in [`TELL`].
fn told_now_and_then(series: StoredValue<Vec<Series>>, unit: &'static str) -> RwSignal<Told> {
    let told = RwSignal::new(Told { summary: "No values yet.".into(), rows: vec![] });
    let is_due = StoredValue::new(false);
    let tell = move || {
        is_due.set_value(false);
        let now = untrack(|| {
            series.with_value(|series| {
                with_points(series, |named| Told { summary: table::summary(named, unit), rows: table::rows(named) })
            })
        });
        told.set(now);
    };
    let is_first = StoredValue::new(true);
    Effect::new(move |_| {
        let count = series.with_value(|series| series.iter().map(|s| s.points.with(Vec::len)).sum::<usize>());
        if count > 0 && is_first.get_value() {
            is_first.set_value(false);
            tell();
        } else if !is_due.get_value() {
            is_due.set_value(true);
            // The chart may be gone by then.
            set_timeout(
                move || {
                    if is_due.try_get_value().is_some() {
                        tell()
                    }
                },
                TELL,
            );
        }
    });
    told
}

/// Where a key moves the cursor: to a step, or away (`Some(None)`). `None` for a key that means something else.
fn moved(steps: &[f64], present: Option<f64>, key: &str) -> Option<Option<f64>> {
    let last = steps.len().checked_sub(1)?;
    let place = present.map_or(last, |step| steps.partition_point(|&s| s < step).min(last));
    let page = (steps.len() / 10).max(1);
    let place = match key {
        "ArrowLeft" | "ArrowDown" => place.saturating_sub(1),
        "ArrowRight" | "ArrowUp" => place + 1,
        "PageDown" => place.saturating_sub(page),
        "PageUp" => place + page,
        "Home" => 0,
        "End" => last,
        "Escape" => return present.map(|_| None),
        _ => return None,
    };
    Some(Some(steps[place.min(last)]))
}

fn file_name(title: &str) -> String {
    title.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-")
}

/// Saves the canvas as it is.
fn save_picture(canvas: &HtmlCanvasElement, name: &str) {
    let name = format!("{name}.png");
    let saved = Closure::once_into_js(move |blob: Option<Blob>| {
        if let Some(blob) = blob {
            let _ = save(&name, &blob);
        }
    });
    // It fails for a canvas that holds pictures of others, which this one does not.
    let _ = canvas.to_blob(saved.unchecked_ref());
}

/// The canvas and what was worked out for it.
struct Plot {
    canvas: HtmlCanvasElement,
    legend: Vec<Element>,
    series: Vec<Series>,
    settings: RwSignal<Settings>,
    cache: RefCell<Cache>,
    watch: RefCell<Option<Watch>>,
}

#[derive(Default)]
struct Cache {
    plain: Vec<Columns>,
    smooth: Vec<Columns>,
    x: Option<Scale>,
    /// A picture is asked for.
    is_due: bool,
    /// When the newest was drawn, milliseconds
    drawn: f64,
    is_calm: bool,
}

/// What tells a plot that its surroundings changed.
struct Watch {
    observer: ResizeObserver,
    media: Vec<MediaQueryList>,
    resized: Closure<dyn FnMut()>,
    frame: Closure<dyn FnMut(f64)>,
}

impl Plot {
    fn new(
        canvas: HtmlCanvasElement,
        legend: Vec<Element>,
        series: Vec<Series>,
        settings: RwSignal<Settings>,
    ) -> Rc<Plot> {
        let plot =
            Rc::new(Plot { canvas, legend, series, settings, cache: RefCell::default(), watch: RefCell::default() });
        plot.attach();
        plot.draw_soon();
        plot
    }

    fn attach(self: &Rc<Self>) {
        let weak = Rc::downgrade(self);
        let resized = Closure::<dyn FnMut()>::new(move || {
            if let Some(plot) = weak.upgrade() {
                plot.draw_soon();
            }
        });
        let weak = Rc::downgrade(self);
        let frame = Closure::<dyn FnMut(f64)>::new(move |now| {
            if let Some(plot) = weak.upgrade() {
                plot.frame(now);
            }
        });
        let Ok(observer) = ResizeObserver::new(resized.as_ref().unchecked_ref()) else { return };
        observer.observe(&self.canvas);
        let query = |text: &str| window().match_media(text).ok().flatten();
        self.cache.borrow_mut().is_calm =
            query("(prefers-reduced-motion: reduce)").is_some_and(|query| query.matches());
        let media: Vec<_> =
            ["(prefers-color-scheme: dark)", "(forced-colors: active)"].into_iter().filter_map(query).collect();
        for query in &media {
            let _ = query.add_event_listener_with_callback("change", resized.as_ref().unchecked_ref());
        }
        *self.watch.borrow_mut() = Some(Watch { observer, media, resized, frame });
    }

    fn detach(&self) {
        let Some(watch) = self.watch.borrow_mut().take() else { return };
        watch.observer.disconnect();
        for query in &watch.media {
            let _ = query.remove_event_listener_with_callback("change", watch.resized.as_ref().unchecked_ref());
        }
        // A frame that is still to come would call it.
        watch.frame.forget();
    }

    fn draw_soon(self: &Rc<Self>) {
        let mut cache = self.cache.borrow_mut();
        if !std::mem::replace(&mut cache.is_due, true)
            && let Some(watch) = self.watch.borrow().as_ref()
        {
            let _ = window().request_animation_frame(watch.frame.as_ref().unchecked_ref());
        }
    }

    fn frame(&self, now: f64) {
        {
            let mut cache = self.cache.borrow_mut();
            if cache.is_calm && now - cache.drawn < CALM {
                if let Some(watch) = self.watch.borrow().as_ref() {
                    let _ = window().request_animation_frame(watch.frame.as_ref().unchecked_ref());
                }
                return;
            }
            cache.is_due = false;
            cache.drawn = now;
        }
        bench::timed(now, || self.draw());
    }

    fn draw(&self) {
        // The page may have dropped the signals before this frame.
        let Some(settings) = self.settings.try_get_untracked() else { return };
        let Some(surface) = Surface::of(&self.canvas) else { return };
        let mut cache = self.cache.borrow_mut();
        let cache = &mut *cache;
        let points: Vec<_> = self.series.iter().filter_map(|series| series.points.try_read_untracked()).collect();
        let ends = points.iter().filter_map(|points| Some((points.first()?.0, points.last()?.0)));
        let ends = ends.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
        let x = ends.map_or(Scale { lo: 0.0, hi: 1.0, log: false }, |(first, last)| Scale::over_steps(first, last));
        cache.x = ends.map(|_| x);
        cache.plain.resize_with(points.len(), Columns::default);
        cache.smooth.resize_with(points.len(), Columns::default);
        let is_smooth = settings.smoothing > 0.0;
        let width = surface.columns();
        for ((points, plain), smooth) in points.iter().zip(&mut cache.plain).zip(&mut cache.smooth) {
            plain.update(points, x, width, 0.0);
            if is_smooth {
                smooth.update(points, x, width, settings.smoothing);
            }
        }
        let ranges = cache.plain.iter().filter_map(|columns| columns.range(settings.log));
        let (min, max) = ranges.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))).unwrap_or((f64::NAN, f64::NAN));
        let y = Scale::over_values(min, max, settings.log);
        let lines: Vec<Line> = (cache.plain.iter().zip(&cache.smooth))
            .map(|(plain, smooth)| Line { plain, smooth: is_smooth.then_some(smooth) })
            .collect();
        surface.draw(x, y, &lines, &Colours::of(&self.canvas, &self.legend), settings.cursor);
    }

    /// The step with a value that is nearest to a place on the canvas.
    fn step_at(&self, offset_x: f64) -> Option<f64> {
        let x = self.cache.borrow().x?;
        let step = x.value(Surface::of(&self.canvas)?.at(offset_x));
        let points: Vec<_> = self.series.iter().map(|series| series.points.read_untracked()).collect();
        let nearest = points.iter().filter_map(|points| {
            let after = points.partition_point(|point| point.0 < step);
            let near = points[after.saturating_sub(1)..points.len().min(after + 1)].iter().map(|point| point.0);
            near.min_by(|a, b| (a - step).abs().total_cmp(&(b - step).abs()))
        });
        nearest.min_by(|a, b| (a - step).abs().total_cmp(&(b - step).abs()))
    }
}
