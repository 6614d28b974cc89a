//! A model hub: names of models there, the paths its files have, which of them a model needs, and (native) a client.
//!
//! Protocol: that of the Hugging Face Hub, which mirrors speak too; `HF_ENDPOINT` names another one.

#[cfg(feature = "cli")]
mod client;
#[cfg(feature = "cli")]
mod transfer;

use std::fmt;
use std::str::FromStr;

#[cfg(feature = "cli")]
pub use client::{HubClient, Progress, cache_folder};

use super::files::refuse_pickle;
use crate::{Error, Result};

/// The hub that is asked where `HF_ENDPOINT` names no other.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// A model on a hub, as the user writes it: `owner/name[@revision][:file.gguf]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubId {
    pub owner: String,
    pub name: String,
    /// A branch, a tag or a commit.
    pub revision: String,
    /// The one file that is wanted of it.
    pub file: Option<String>,
}

impl FromStr for HubId {
    type Err = Error;

    fn from_str(text: &str) -> Result<HubId> {
        let wrong = || Error::Option {
            name: "model".into(),
            value: text.into(),
            expected: "no file or folder of that name; a model on a hub is written owner/name[@revision][:file.gguf]"
                .into(),
        };
        let (rest, file) = match text.split_once(':') {
            Some((rest, file)) => (rest, Some(file)),
            None => (text, None),
        };
        let (path, revision) = rest.split_once('@').unwrap_or((rest, "main"));
        let (owner, name) = path.split_once('/').ok_or_else(wrong)?;
        // A revision may have parts (`refs/pr/1`), none of which leads elsewhere.
        let good = is_word(owner)
            && is_word(name)
            && revision.split('/').all(is_word)
            && file.is_none_or(|file| is_word(file) && file.to_ascii_lowercase().ends_with(".gguf"));
        if !good {
            return Err(wrong());
        }
        Ok(HubId { owner: owner.into(), name: name.into(), revision: revision.into(), file: file.map(str::to_string) })
    }
}

fn is_word(word: &str) -> bool {
    (1..=128).contains(&word.len())
        && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && !word.starts_with(['.', '-'])
        && !word.contains("..")
}

impl fmt::Display for HubId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)?;
        if self.revision != "main" {
            write!(f, "@{}", self.revision)?;
        }
        if let Some(file) = &self.file {
            write!(f, ":{file}")?;
        }
        Ok(())
    }
}

impl HubId {
    /// The path, below the hub's address, of `file` at `revision`.
    pub fn file_path(&self, revision: &str, file: &str) -> String {
        format!("/{}/{}/resolve/{}/{}", self.owner, self.name, escape(revision), escape(file))
    }

    /// The path, below the hub's address, of the list of this model's files with their sizes and SHA-256 sums.
    pub fn listing_path(&self) -> String {
        format!("/api/models/{}/{}/revision/{}?blobs=true", self.owner, self.name, escape(&self.revision))
    }
}

/// Percent-encodes all but the unreserved characters of RFC 3986, as one segment of a path.
fn escape(segment: &str) -> String {
    let mut escaped = String::new();
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            escaped.push(byte.into());
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// What has to be fetched of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Needed {
    /// A Hugging Face folder: these files, and the shards that `index` lists where there is one.
    Folder { files: Vec<String>, index: Option<String> },
    /// One GGUF file.
    Gguf(String),
}

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Picks what a model needs from the names of all its files: configuration, tokenizer, template and safetensors weights; or
/// the GGUF file that `id` names; or, of a model that is nothing but GGUF files, the only one. Errs, listing what there is,
/// where there are no weights to choose or too many; where there is only pickle, with the reason why it is not fetched.
pub fn needed_files(id: &HubId, listed: &[String]) -> Result<Needed> {
    let fail = |problem: String| Err(Error::malformed(id.to_string(), problem));
    let has = |name: &str| listed.iter().any(|listed| listed == name);
    let ggufs: Vec<&str> =
        listed.iter().map(String::as_str).filter(|name| name.to_ascii_lowercase().ends_with(".gguf")).collect();
    if let Some(file) = &id.file {
        return match has(file) {
            true => Ok(Needed::Gguf(file.clone())),
            false => fail(format!("there is no file {file}; its GGUF files: {}", list_or_none(&ggufs))),
        };
    }
    let is_setting = |name: &str| {
        ["config.json", "generation_config.json", "special_tokens_map.json", "chat_template.jinja"].contains(&name)
            || (name.starts_with("tokenizer") && name.ends_with(".json"))
    };
    let mut files: Vec<String> = listed.iter().filter(|name| is_setting(name)).cloned().collect();
    if has(SINGLE) {
        files.push(SINGLE.into());
        return Ok(Needed::Folder { files, index: None });
    }
    if has(INDEX) {
        return Ok(Needed::Folder { files, index: Some(INDEX.into()) });
    }
    match ggufs.as_slice() {
        [only] => Ok(Needed::Gguf(only.to_string())),
        [] => {
            listed.iter().try_for_each(|name| refuse_pickle(name, &[]))?;
            fail(format!("it has neither {SINGLE}, nor {INDEX}, nor a GGUF file"))
        }
        several => fail(format!("it has several GGUF files, name one as {id}:FILE; there are: {}", several.join(", "))),
    }
}

fn list_or_none(names: &[&str]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> HubId {
        text.parse().unwrap()
    }

    #[test]
    fn ids_are_parsed_and_paths_escaped() {
        let plain = id("owner/name-1.5_x");
        assert_eq!((plain.revision.as_str(), plain.file.as_deref()), ("main", None));
        assert_eq!(plain.to_string(), "owner/name-1.5_x");
        assert_eq!(plain.file_path("main", "config.json"), "/owner/name-1.5_x/resolve/main/config.json");
        let full = id("o/n@refs/pr/1:q 4.gguf".replace(' ', "_").as_str());
        assert_eq!((full.revision.as_str(), full.file.as_deref()), ("refs/pr/1", Some("q_4.gguf")));
        assert_eq!(full.to_string(), "o/n@refs/pr/1:q_4.gguf");
        assert_eq!(full.listing_path(), "/api/models/o/n/revision/refs%2Fpr%2F1?blobs=true");
        assert_eq!(full.file_path("v 1", "ü"), "/o/n/resolve/v%201/%C3%BC");
        for wrong in [
            "",
            "name",
            "a/b/c",
            "/b",
            "a/",
            "../b",
            "a/b@",
            "a/b@../c",
            "a/b c",
            "./model",
            "a/b:x.bin",
            "a/b:../x.gguf",
        ] {
            let refusal = HubId::from_str(wrong).unwrap_err().to_string();
            assert!(refusal.contains("owner/name[@revision]"), "{wrong}: {refusal}");
        }
    }

    #[test]
    fn only_what_a_model_needs_is_fetched() {
        let listed = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        let all = [
            ".gitattributes",
            "README.md",
            "config.json",
            "consolidated.safetensors",
            "model.safetensors",
            "onnx/model.onnx",
            "pytorch_model.bin",
            "tokenizer.json",
            "tokenizer_config.json",
            "x.gguf",
        ];
        assert_eq!(
            needed_files(&id("o/n"), &listed(&all)).unwrap(),
            Needed::Folder {
                files: listed(&["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]),
                index: None
            }
        );
        assert_eq!(needed_files(&id("o/n:x.gguf"), &listed(&all)).unwrap(), Needed::Gguf("x.gguf".into()));
        assert_eq!(
            needed_files(&id("o/n"), &listed(&["config.json", INDEX])).unwrap(),
            Needed::Folder { files: listed(&["config.json"]), index: Some(INDEX.into()) }
        );
        assert_eq!(needed_files(&id("o/n"), &listed(&["a.gguf"])).unwrap(), Needed::Gguf("a.gguf".into()));
        let refusal = |id: HubId, names: &[&str]| needed_files(&id, &listed(names)).unwrap_err().to_string();
        assert!(refusal(id("o/n"), &["a.gguf", "b.gguf"]).contains("name one as o/n:FILE; there are: a.gguf, b.gguf"));
        assert!(refusal(id("o/n:c.gguf"), &["a.gguf"]).contains("no file c.gguf; its GGUF files: a.gguf"));
        assert!(refusal(id("o/n"), &["pytorch_model.bin"]).contains("run any code"));
        assert!(refusal(id("o/n"), &["README.md"]).contains("neither model.safetensors"));
    }
}
