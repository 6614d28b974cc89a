//! Handing files and text to the browser: downloads and the clipboard.

use std::time::Duration;

use js_sys::Array;
use leptos::prelude::*;
use wasm_bindgen::{JsCast, JsValue};
use web_sys::{Blob, BlobPropertyBag, HtmlAnchorElement, Url};

/// How long the browser may take to open a file before its address goes away.
const GRACE: Duration = Duration::from_secs(60);

/// Saves `blob` under `name` in the browser's way.
pub fn save(name: &str, blob: &Blob) -> Result<(), JsValue> {
    let address = Url::create_object_url_with_blob(blob)?;
    let link: HtmlAnchorElement = document().create_element("a")?.unchecked_into();
    link.set_href(&address);
    link.set_download(name);
    // Firefox follows only links that stand in the document.
    body_append(&link)?;
    link.click();
    link.remove();
    set_timeout(
        move || {
            let _ = Url::revoke_object_url(&address);
        },
        GRACE,
    );
    Ok(())
}

/// Saves text under `name`.
pub fn save_text(name: &str, kind: &str, text: &str) -> Result<(), JsValue> {
    let options = BlobPropertyBag::new();
    options.set_type(kind);
    save(name, &Blob::new_with_str_sequence_and_options(&Array::of1(&text.into()), &options)?)
}

/// Puts text on the clipboard; errs where the browser does not allow it.
pub async fn copy(text: &str) -> Result<(), JsValue> {
    wasm_bindgen_futures::JsFuture::from(window().navigator().clipboard().write_text(text)).await.map(|_| ())
}

fn body_append(element: &HtmlAnchorElement) -> Result<(), JsValue> {
    let body = document().body().ok_or("a page has a body")?;
    body.append_child(element).map(|_| ())
}
