//! A place to drop files on, which is also a button that chooses them.

use leptos::attr::Attribute;
use leptos::attr::custom::custom_attribute;
use leptos::ev;
use leptos::prelude::*;
use wasm_bindgen::JsCast;
use web_sys::{File, FileList, HtmlInputElement};

use super::dropped::Dropped;

/// Takes files by drop, click or keyboard. `folder` offers a second input for a whole folder.
#[component]
pub fn DropZone(
    id: &'static str,
    label: &'static str,
    hint: &'static str,
    #[prop(optional)] accept: &'static str,
    #[prop(optional)] multiple: bool,
    #[prop(optional)] folder: Option<&'static str>,
    take: impl Fn(Vec<File>) + Copy + 'static,
) -> impl IntoView {
    let over = RwSignal::new(false);
    let chosen = move |event: ev::Event| {
        let input: HtmlInputElement = event_target(&event);
        let files = list(input.files());
        // The same file can be chosen again after it was changed.
        input.set_value("");
        if !files.is_empty() {
            take(files);
        }
    };
    let dropped = move |event: ev::DragEvent| {
        event.prevent_default();
        over.set(false);
        let Some(dropped) = event.data_transfer().map(|data| Dropped::of(&data)) else { return };
        leptos::task::spawn_local(async move {
            let files = dropped.files().await;
            if !files.is_empty() {
                take(files);
            }
        });
    };
    view! {
        <div
            class="drop-zone"
            class:over=move || over.get()
            on:dragover=move |event| {
                event.prevent_default();
                over.set(true);
            }
            on:dragleave=move |_| over.set(false)
            on:drop=dropped
        >
            <label class="file-button">
                <span>{label}</span>
                <input type="file" id=id accept=accept multiple=multiple aria-describedby=format!("{id}-hint") on:change=chosen />
            </label>
            {folder
                .map(|label| {
                    view! {
                        <label class="file-button">
                            <span>{label}</span>
                            <input type="file" id=format!("{id}-folder") multiple=true {..whole_folder()} on:change=chosen />
                        </label>
                    }
                })}
            <p class="hint" id=format!("{id}-hint")>{hint}</p>
        </div>
    }
}

/// The attribute by which an input takes a folder; browsers agree on it, standards do not have it.
fn whole_folder() -> impl Attribute {
    custom_attribute("webkitdirectory", "")
}

fn list(files: Option<FileList>) -> Vec<File> {
    let Some(files) = files else { return vec![] };
    (0..files.length()).filter_map(|i| files.get(i)).collect()
}

/// Files as they travel beside a command.
pub fn blobs(files: Vec<File>) -> Vec<web_sys::Blob> {
    files.into_iter().map(JsCast::unchecked_into).collect()
}
