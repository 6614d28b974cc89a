//! `?chart-bench`: how much script a frame costs while points arrive in a chart of 10,000 points x 4 series.

use std::cell::RefCell;
use std::rc::Rc;

use leptos::prelude::*;
use wasm_bindgen::JsCast;
use wasm_bindgen::prelude::*;

use super::{Chart, Series};

/// Points of each series at the end, and frames in which the last of them arrive.
const POINTS: usize = 10_000;
const FRAMES: usize = 300;
const POINTS_A_FRAME: usize = 4;

/// Called with the time of the frame.
type Frame = Closure<dyn FnMut(f64)>;

thread_local! {
    /// Milliseconds of script in each frame, by the frame's time; only while the bench runs.
    static FRAMES_SEEN: RefCell<Option<Vec<(f64, f64)>>> = const { RefCell::new(None) };
}

/// Does `work` for the frame at `now`, and books its time where the bench runs.
pub fn timed(now: f64, work: impl FnOnce()) {
    if FRAMES_SEEN.with_borrow(Option::is_none) {
        return work();
    }
    let clock = window().performance();
    let time = || clock.as_ref().map_or(0.0, web_sys::Performance::now);
    let started = time();
    work();
    let spent = time() - started;
    FRAMES_SEEN.with_borrow_mut(|frames| {
        if let Some(frames) = frames {
            match frames.last_mut() {
                Some(last) if last.0 == now => last.1 += spent,
                _ => frames.push((now, spent)),
            }
        }
    });
}

/// The page of the bench. `#chart-bench-result` holds the figures as JSON once they are there.
#[component]
pub fn ChartBench() -> impl IntoView {
    let names = ["training", "held out", "averaged", "limit"];
    let series = names.map(|name| Series { name, points: RwSignal::new(Vec::with_capacity(POINTS)) });
    let result = RwSignal::new(String::new());
    let add = move |count: usize| {
        for (i, series) in series.iter().enumerate() {
            series.points.update(|points| {
                for step in points.len()..points.len() + count {
                    points.push((step as f64, value(i, step)));
                }
            });
        }
    };
    add(POINTS - FRAMES * POINTS_A_FRAME);
    run(FRAMES, move |left| {
        add(POINTS_A_FRAME);
        if left == 0 {
            result.set(figures());
        }
    });
    view! {
        <h1>"Chart bench"</h1>
        <Chart title="Loss" unit="nats a token" series=series.to_vec()/>
        <pre id="chart-bench-result">{result}</pre>
    }
}

/// Something like a loss: falling, and noisy.
fn value(series: usize, step: usize) -> f64 {
    let noise = ((step * 7919 + series * 104_729) % 1009) as f64 / 1009.0 - 0.5;
    1.0 + 5.0 / (1.0 + step as f64 / 800.0) + series as f64 * 0.4 + noise
}

/// Calls `each` in `frames` frames, with the number that are left.
fn run(frames: usize, each: impl Fn(usize) + 'static) {
    let left = RefCell::new(frames);
    let again = Rc::new(RefCell::new(None::<Frame>));
    let next = again.clone();
    let ask = move || {
        if let Some(frame) = next.borrow().as_ref() {
            let _ = window().request_animation_frame(frame.as_ref().unchecked_ref());
        }
    };
    let ask_again = ask.clone();
    *again.borrow_mut() = Some(Frame::new(move |now| {
        // The first frames lay the page out.
        FRAMES_SEEN.with_borrow_mut(|seen| {
            seen.get_or_insert_default();
        });
        let now_left = {
            let mut left = left.borrow_mut();
            *left = left.saturating_sub(1);
            *left
        };
        timed(now, || each(now_left));
        if now_left > 0 {
            ask_again();
        }
    }));
    ask();
}

/// `{"frames":300,"p50":1.2,"p95":2.3,"max":3.4}`, milliseconds; ends the measurement.
fn figures() -> String {
    let frames = FRAMES_SEEN.take().unwrap_or_default();
    let mut times: Vec<f64> = frames.into_iter().map(|(_, spent)| spent).collect();
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times.get(((times.len() as f64 - 1.0) * part).round() as usize).copied().unwrap_or(f64::NAN);
    format!(r#"{{"frames":{},"p50":{:.3},"p95":{:.3},"max":{:.3}}}"#, times.len(), at(0.5), at(0.95), at(1.0))
}

/// Mounts the bench in place of the page.
pub fn mount() {
    document().body().expect("a page has a body").set_inner_html("");
    mount_to_body(ChartBench);
}
