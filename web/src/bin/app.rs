//! The page.

use espalier_web::components::{app, chart};

fn main() {
    console_error_panic_hook::set_once();
    if leptos::prelude::window().location().search().is_ok_and(|search| search == "?chart-bench") {
        chart::bench::mount();
    } else {
        app::mount();
    }
}
