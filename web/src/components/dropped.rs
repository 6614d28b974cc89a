//! What was dropped on the page: files, and the files of folders (not of folders in them).

use js_sys::{Array, Function, Promise, Reflect};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{DataTransfer, File};

/// Entries of the drop, which are given only while it is handled; reading them takes longer.
pub struct Dropped {
    entries: Vec<JsValue>,
    /// Where the browser knows no entries
    files: Vec<File>,
}

impl Dropped {
    /// Everything in `data`.
    pub fn of(data: &DataTransfer) -> Dropped {
        let items = get(data, "items").map(|items| Array::from(&items)).unwrap_or_default();
        let entries = items.iter().filter_map(|item| call(&item, "webkitGetAsEntry", &[]));
        let files = data.files().map(|files| (0..files.length()).filter_map(|i| files.get(i)).collect());
        Dropped { entries: entries.filter(|entry| !entry.is_null()).collect(), files: files.unwrap_or_default() }
    }

    /// All files; those that cannot be read are left out.
    pub async fn files(self) -> Vec<File> {
        if self.entries.is_empty() {
            return self.files;
        }
        let mut found = vec![];
        for entry in self.entries {
            if is(&entry, "isDirectory") {
                for entry in list(&entry).await {
                    found.extend(file(&entry).await);
                }
            } else {
                found.extend(file(&entry).await);
            }
        }
        found
    }
}

/// The entries of a folder, which come in portions until one is empty.
async fn list(folder: &JsValue) -> Vec<JsValue> {
    let mut found = vec![];
    let Some(reader) = call(folder, "createReader", &[]) else { return found };
    while let Some(portion) = answer(&reader, "readEntries").await.map(|portion| Array::from(&portion)) {
        if portion.length() == 0 {
            break;
        }
        found.extend(portion.iter());
    }
    found
}

async fn file(entry: &JsValue) -> Option<File> {
    if !is(entry, "isFile") {
        return None;
    }
    answer(entry, "file").await?.dyn_into().ok()
}

fn get(of: &JsValue, name: &str) -> Option<JsValue> {
    Reflect::get(of, &name.into()).ok().filter(|value| !value.is_undefined())
}

fn is(of: &JsValue, name: &str) -> bool {
    get(of, name).is_some_and(|value| value.is_truthy())
}

fn call(of: &JsValue, name: &str, words: &[JsValue]) -> Option<JsValue> {
    let method: Function = get(of, name)?.dyn_into().ok()?;
    method.apply(of, &words.iter().collect::<Array>()).ok()
}

/// What a method hands to the first of its two callbacks.
async fn answer(of: &JsValue, name: &str) -> Option<JsValue> {
    let promise = Promise::new(&mut |resolve, reject| {
        let _ = call(of, name, &[resolve.into(), reject.into()]);
    });
    JsFuture::from(promise).await.ok()
}
