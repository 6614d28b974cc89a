//! What to do about a missing GPU, in this very browser.

use js_sys::Reflect;
use leptos::prelude::*;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;

use super::state::{Gpu, NoGpu, State};

/// A browser and the ways to get a GPU in it, the likeliest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remedy {
    pub browser: &'static str,
    pub ways: Vec<&'static str>,
}

/// Asks the browser whether it has a GPU to offer, without waiting for the worker.
pub async fn look_for_gpu(state: State) {
    let found = adapter().await;
    if matches!(state.gpu.get_untracked(), Gpu::Asking) {
        state.gpu.set(match found {
            Ok(()) => Gpu::Found,
            Err(why) => {
                state.live.say("This browser offers no GPU to this page. What to do is on the page.");
                Gpu::Missing(why)
            }
        });
    }
}

async fn adapter() -> Result<(), NoGpu> {
    let get =
        |of: &JsValue, name: &str| Reflect::get(of, &name.into()).ok().filter(|v| !v.is_undefined() && !v.is_null());
    let Some(gpu) = get(&window().navigator().into(), "gpu") else {
        return Err(if window().is_secure_context() { NoGpu::NoApi } else { NoGpu::Insecure });
    };
    let ask = || get(&gpu, "requestAdapter")?.dyn_into::<js_sys::Function>().ok()?.call0(&gpu).ok()?.dyn_into().ok();
    let asked: Option<js_sys::Promise> = ask();
    let answer = JsFuture::from(asked.ok_or(NoGpu::NoApi)?).await.map_err(|_| NoGpu::NoAdapter)?;
    if answer.is_null() || answer.is_undefined() { Err(NoGpu::NoAdapter) } else { Ok(()) }
}

const ACCELERATION: &str =
    "Open the browser's settings, search for “graphics acceleration”, turn it on, and restart the browser.";
const UPDATE: &str = "Update the browser to its newest version.";
const DRIVER: &str = "Update the graphics driver.";
const CHROME_LINUX: &str =
    "Open chrome://flags, set “Unsafe WebGPU Support” and “Vulkan” to Enabled, and restart the browser.";
const FIREFOX_FLAG: &str = "Open about:config, set dom.webgpu.enabled to true, and restart Firefox.";
const OTHER: &str = "Or open this page in a new Chrome or Edge on a computer.";

/// The remedy for the browser of this user agent.
pub fn remedy(agent: &str) -> Remedy {
    let has = |name: &str| agent.contains(name);
    let apple_mobile = has("iPhone") || has("iPad") || has("iPod") || (has("Macintosh") && has("Mobile"));
    let linux = has("Linux") && !has("Android");
    let of = |browser, ways: &[&'static str]| Remedy { browser, ways: ways.to_vec() };
    if apple_mobile {
        return of(
            "a browser on iPhone or iPad",
            &["Update to iOS or iPadOS 26 or newer: every browser there has WebGPU from then on.", OTHER],
        );
    }
    match () {
        () if has("Firefox") && has("Android") => {
            of("Firefox on Android", &["Open this page in Chrome on Android 12 or newer."])
        }
        () if has("Firefox") && linux => {
            of("Firefox on Linux", &["Update to the newest Firefox.", FIREFOX_FLAG, DRIVER, OTHER])
        }
        () if has("Firefox") => of(
            "Firefox",
            &[
                "Update Firefox: it has WebGPU from version 141 on Windows and 145 on a Mac with Apple silicon.",
                FIREFOX_FLAG,
                OTHER,
            ],
        ),
        () if has("Android") => {
            of("a browser on Android", &["Update Chrome to version 121 or newer, on Android 12 or newer.", OTHER])
        }
        () if has("Edg/") => of("Microsoft Edge", &[UPDATE, ACCELERATION, DRIVER]),
        () if has("Chrome") && linux => of("Chrome on Linux", &[CHROME_LINUX, ACCELERATION, DRIVER]),
        () if has("Chrome") => of("Chrome", &[UPDATE, ACCELERATION, DRIVER]),
        () if has("Safari") => of(
            "Safari on Mac",
            &[
                "Update to macOS 26 or newer, with Safari 26.",
                "Or turn on WebGPU in Safari's Develop menu under Feature Flags.",
                OTHER,
            ],
        ),
        () => of("this browser", &[UPDATE, OTHER]),
    }
}

/// The panel that stands in for the GPU.
#[component]
pub fn NoGpuPanel() -> impl IntoView {
    let state = State::here();
    let missing = move || match state.gpu.get() {
        Gpu::Missing(why) => Some(why),
        _ => None,
    };
    move || {
        missing().map(|why| {
            let Remedy { browser, ways } = remedy(&window().navigator().user_agent().unwrap_or_default());
            let what = match why {
                NoGpu::Insecure => "This page came over an unsafe line, and browsers give no GPU to such pages.".to_string(),
                NoGpu::NoApi => format!("You use {browser}, and here it does not offer its GPU to pages (WebGPU)."),
                NoGpu::NoAdapter => format!("You use {browser}. It knows WebGPU, but found no GPU that it may use."),
            };
            let ways = match why {
                NoGpu::Insecure => vec!["Open the page through https:// or at http://localhost."],
                _ => ways,
            };
            view! {
                <div class="failure" id="no-gpu" data-test="no-gpu">
                    <h3>"This browser gives no GPU to this page"</h3>
                    <p>{what}</p>
                    <ol>{ways.into_iter().map(|way| view! { <li>{way}</li> }).collect_view()}</ol>
                    <p>
                        "Until then you can still load a model, look at your data as it sees it, and set everything up: the link on the last step carries your settings to another browser."
                    </p>
                    <p class="buttons">
                        <button
                            type="button"
                            id="no-gpu-retry"
                            on:click=move |_| {
                                let _ = window().location().reload();
                            }
                        >
                            "Look again"
                        </button>
                    </p>
                </div>
            }
        })
    }
}
