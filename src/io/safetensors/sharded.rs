//! The weights of a Hugging Face folder, in one safetensors file or in several that an index lists.

use std::collections::BTreeMap;
use std::ops::Range;

use rustc_hash::FxHashMap;
use serde::Deserialize;

use super::{SafetensorsReader, TensorInfo};
use crate::io::ByteSource;
use crate::io::files::{Files, is_plain_name, refuse_pickle};
use crate::{Error, Result};

/// The one file of a small model.
const SINGLE: &str = "model.safetensors";
/// The index of a model in several files.
const INDEX: &str = "model.safetensors.index.json";
/// An index longer than this is refused.
const MAX_INDEX: u64 = 100_000_000;

/// Several safetensors files read as one.
pub struct ShardedSafetensors {
    location: String,
    shards: Vec<SafetensorsReader>,
    /// Tensor name to shard.
    place: FxHashMap<String, usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Which file each tensor lies in.
fn read_index(source: &dyn ByteSource) -> Result<BTreeMap<String, String>> {
    if source.len() > MAX_INDEX {
        return Err(Error::malformed(source.name(), format!("an index of {} bytes", source.len())));
    }
    let text = source.read_vec(0, source.len())?;
    let index: Index = serde_json::from_slice(&text)
        .map_err(|e| Error::malformed(source.name(), format!("the index is not valid: {e}")))?;
    Ok(index.weight_map)
}

/// The files that an index lists.
#[cfg(feature = "cli")]
pub(crate) fn shards_of_index(source: &dyn ByteSource) -> Result<Vec<String>> {
    let shards: std::collections::BTreeSet<String> = read_index(source)?.into_values().collect();
    Ok(shards.into_iter().collect())
}

impl ShardedSafetensors {
    /// Opens the weights in `files`: `model.safetensors`, or the files that `model.safetensors.index.json` lists. Errs with
    /// every shard and tensor that is missing; where there are only pickle files, with the reason why they are not read.
    pub fn open_folder(files: &dyn Files) -> Result<ShardedSafetensors> {
        let names = files.list();
        let has = |wanted: &str| names.iter().any(|name| name == wanted);
        if has(SINGLE) {
            return SafetensorsReader::open(files.open(SINGLE)?).map(|reader| Self::of_one(files.location(), reader));
        }
        if has(INDEX) {
            return Self::open_indexed(files, INDEX);
        }
        for name in &names {
            refuse_pickle(name, &[])?;
        }
        let problem = format!("there is neither {SINGLE} nor {INDEX}; found: {}", names.join(", "));
        Err(Error::malformed(files.location(), problem))
    }

    /// One file, read through the same interface.
    pub fn of_one(location: String, reader: SafetensorsReader) -> ShardedSafetensors {
        let place = reader.tensors().iter().map(|tensor| (tensor.name.clone(), 0)).collect();
        ShardedSafetensors { location, shards: vec![reader], place }
    }

    /// Opens the shards that the file `index` of `files` lists.
    pub fn open_indexed(files: &dyn Files, index: &str) -> Result<ShardedSafetensors> {
        let source = files.open(index)?;
        let weight_map = read_index(&source)?;
        let mut tensors_of: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, shard) in &weight_map {
            tensors_of.entry(shard).or_default().push(tensor);
        }
        let present = files.list();
        let (mut shards, mut place, mut problems) = (Vec::new(), FxHashMap::default(), Vec::new());
        for (shard, tensors) in tensors_of {
            if !is_plain_name(shard) {
                problems.push(format!("the index names `{shard}`, which is no file name"));
            } else if !present.iter().any(|name| name == shard) {
                problems.push(format!("the file {shard} is missing ({} tensors)", tensors.len()));
            } else {
                let reader = SafetensorsReader::open(files.open(shard)?)?;
                for tensor in tensors {
                    match reader.get(tensor) {
                        Some(_) => _ = place.insert(tensor.to_string(), shards.len()),
                        None => {
                            problems.push(format!("tensor `{tensor}` is not in {shard}, where the index says it is"))
                        }
                    }
                }
                shards.push(reader);
            }
        }
        if !problems.is_empty() {
            return Err(Error::Weights { file: source.name().to_string(), problems });
        }
        Ok(ShardedSafetensors { location: files.location(), shards, place })
    }

    /// The folder.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// The files.
    pub fn shards(&self) -> &[SafetensorsReader] {
        &self.shards
    }

    /// Every tensor, file by file in the order of its data.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        let listed = |at: usize, name: &str| self.place.get(name) == Some(&at);
        self.shards
            .iter()
            .enumerate()
            .flat_map(move |(at, shard)| shard.tensors().iter().filter(move |tensor| listed(at, &tensor.name)))
    }

    /// The tensor `name`, if there is one.
    pub fn get(&self, name: &str) -> Option<&TensorInfo> {
        self.shards[*self.place.get(name)?].get(name)
    }

    fn shard(&self, name: &str) -> Result<&SafetensorsReader> {
        let at = self.place.get(name);
        let at = at.ok_or_else(|| Error::malformed(&self.location, format!("there is no tensor `{name}`")))?;
        Ok(&self.shards[*at])
    }

    /// As [`SafetensorsReader::read_bytes`].
    pub fn read_bytes(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.shard(name)?.read_bytes(name, range)
    }

    /// As [`SafetensorsReader::read_f32_rows`].
    pub fn read_f32_rows(&self, name: &str, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        self.shard(name)?.read_f32_rows(name, rows, out)
    }
}
