//! What both weight formats share: a tensor seen as rows, and tensor data written in the declared order.

use std::io::Write;
use std::ops::Range;

use super::ByteSource;
use crate::quant::ggml::{self, GgmlType};
use crate::{Error, Result, platform};

/// Bytes read from a file at a time while rows are decoded: host memory holds this much of a tensor, not all of it.
const READ_PIECE: usize = 4 << 20;
/// Values that one thread decodes at a time.
const DECODE_TASK: usize = 64 << 10;

/// `[rows, columns]` of a tensor: its last dimension, and all others as one. A vector is one row, so is a scalar.
/// `shape` must have passed `element_count`.
pub fn rows_and_columns(shape: &[usize]) -> (usize, usize) {
    match shape {
        [] => (1, 1),
        [outer @ .., columns] => (outer.iter().product(), *columns),
    }
}

/// The number of elements, or `None` where it, or any product of some of the dimensions, passes `usize`.
pub(super) fn element_count(shape: &[u64]) -> Option<usize> {
    let product = shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(usize::try_from(dim.max(1)).ok()?))?;
    Some(if shape.contains(&0) { 0 } else { product })
}

/// Checks a request for `rows` of a tensor into `out`; returns the number of columns.
pub(super) fn check_rows(file: &str, name: &str, shape: &[usize], rows: &Range<usize>, out: usize) -> Result<usize> {
    let (count, columns) = rows_and_columns(shape);
    if rows.start > rows.end || rows.end > count {
        let problem = format!("tensor `{name}` has {count} rows (shape {shape:?}), rows {rows:?} were asked for");
        return Err(Error::malformed(file, problem));
    }
    if rows.len() * columns != out {
        let problem = format!(
            "tensor `{name}`: rows {rows:?} of shape {shape:?} are {} values, the destination holds {out}",
            rows.len() * columns
        );
        return Err(Error::malformed(file, problem));
    }
    Ok(columns)
}

/// Fills `out`, a number of whole blocks, from the blocks of `stored` values at `offset`. Reads a piece of the file at a time
/// and decodes it on all cores.
pub(super) fn read_decoded(source: &dyn ByteSource, mut offset: u64, stored: GgmlType, out: &mut [f32]) -> Result<()> {
    let (block, block_bytes) = (stored.block_len(), stored.block_bytes());
    let blocks_at_once = (READ_PIECE / block_bytes).min(out.len() / block);
    if blocks_at_once == 0 {
        return Ok(());
    }
    let mut bytes = vec![0; blocks_at_once * block_bytes];
    for piece in out.chunks_mut(blocks_at_once * block) {
        let bytes = &mut bytes[..piece.len() / block * block_bytes];
        source.read_at(offset, bytes)?;
        offset += bytes.len() as u64;
        let task_blocks = (DECODE_TASK / block).max(1);
        platform::parallel::try_chunks_mut(piece, task_blocks * block, |task, out| {
            let start = task * task_blocks * block_bytes;
            ggml::decode(stored, &bytes[start..start + out.len() / block * block_bytes], out)
        })?;
    }
    Ok(())
}

/// Errs where two tensors share a name.
pub(super) fn check_unique<'a>(file: &str, names: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(twice) => Err(Error::malformed(file, format!("two tensors are called `{}`", twice[0]))),
        None => Ok(()),
    }
}

/// Errs where two tensors, given as name and byte range, share bytes.
pub(super) fn check_disjoint<'a>(file: &str, places: impl Iterator<Item = (&'a str, Range<u64>)>) -> Result<()> {
    let mut places: Vec<_> = places.filter(|(_, bytes)| !bytes.is_empty()).collect();
    places.sort_by_key(|(_, bytes)| bytes.start);
    match places.windows(2).find(|pair| pair[0].1.end > pair[1].1.start) {
        Some(pair) => {
            Err(Error::malformed(file, format!("the data of tensors `{}` and `{}` overlap", pair[0].0, pair[1].0)))
        }
        None => Ok(()),
    }
}

/// One tensor of a file being written: its name, its bytes, and the zero bytes that follow it.
pub(super) struct Slot {
    pub name: String,
    pub bytes: u64,
    pub padding: u64,
}

/// Writes tensor data after the header, in the declared order, and checks that each tensor gets its exact length.
pub(super) struct Body<W> {
    file: String,
    out: W,
    slots: Vec<Slot>,
    /// Tensors that are complete.
    complete: usize,
    /// Bytes written of `slots[complete]`.
    written: u64,
}

impl<W: Write> Body<W> {
    pub fn new(file: &str, out: W, slots: Vec<Slot>) -> Result<Body<W>> {
        let mut body = Body { file: file.to_string(), out, slots, complete: 0, written: 0 };
        body.close_complete_tensors()?;
        Ok(body)
    }

    /// Appends a piece of the tensor `name`, which must be the one whose turn it is.
    pub fn append(&mut self, name: &str, piece: &[u8]) -> Result<()> {
        let slot = match self.slots.get(self.complete) {
            Some(slot) if slot.name == name => slot,
            // An empty piece of an empty tensor: that one was complete before its turn came.
            _ if piece.is_empty() && self.slots.iter().any(|slot| slot.name == name && slot.bytes == 0) => {
                return Ok(());
            }
            Some(slot) => {
                let problem = format!("writing: the data of `{}` comes next, got that of `{name}`", slot.name);
                return Err(Error::malformed(&self.file, problem));
            }
            None => {
                return Err(Error::malformed(&self.file, format!("writing: data of `{name}` after the last tensor")));
            }
        };
        let left = slot.bytes - self.written;
        if piece.len() as u64 > left {
            let problem = format!("writing: `{name}` takes {left} more bytes of {}, got {}", slot.bytes, piece.len());
            return Err(Error::malformed(&self.file, problem));
        }
        self.out.write_all(piece).map_err(Error::io(format!("write {}", self.file)))?;
        self.written += piece.len() as u64;
        self.close_complete_tensors()
    }

    fn close_complete_tensors(&mut self) -> Result<()> {
        while let Some(slot) = self.slots.get(self.complete)
            && slot.bytes == self.written
        {
            let zeros = [0; 64];
            let mut padding = slot.padding;
            while padding > 0 {
                let now = padding.min(zeros.len() as u64);
                self.out.write_all(&zeros[..now as usize]).map_err(Error::io(format!("write {}", self.file)))?;
                padding -= now;
            }
            self.complete += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// Flushes and hands the writer back; errs where a tensor is missing or incomplete.
    pub fn finish(mut self) -> Result<W> {
        if let Some(slot) = self.slots.get(self.complete) {
            let problem = format!(
                "writing: `{}` got {} of {} bytes, {} tensors are missing",
                slot.name,
                self.written,
                slot.bytes,
                self.slots.len() - self.complete
            );
            return Err(Error::malformed(&self.file, problem));
        }
        self.out.flush().map_err(Error::io(format!("write {}", self.file)))?;
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body() -> Body<Vec<u8>> {
        let slot = |name: &str, bytes, padding| Slot { name: name.into(), bytes, padding };
        Body::new("x", Vec::new(), vec![slot("e", 0, 0), slot("a", 3, 1), slot("b", 2, 0)]).unwrap()
    }

    #[test]
    fn data_comes_in_pieces_in_the_declared_order() {
        let mut whole = body();
        whole.append("e", b"").unwrap();
        whole.append("a", b"1").unwrap();
        whole.append("a", b"23").unwrap();
        whole.append("b", b"45").unwrap();
        assert_eq!(whole.finish().unwrap(), b"123\x0045");

        assert!(body().append("b", b"45").unwrap_err().to_string().contains("`a` comes next"));
        assert!(body().append("a", b"1234").unwrap_err().to_string().contains("takes 3 more bytes of 3, got 4"));
        let mut short = body();
        short.append("a", b"12").unwrap();
        assert!(short.finish().unwrap_err().to_string().contains("`a` got 2 of 3 bytes, 2 tensors are missing"));
    }

    #[test]
    fn a_product_of_dimensions_that_overflows_is_none_even_beside_a_zero() {
        assert_eq!(element_count(&[2, 3]), Some(6));
        assert_eq!(element_count(&[]), Some(1));
        assert_eq!(element_count(&[0, 5]), Some(0));
        assert_eq!(element_count(&[u64::MAX, 2]), None);
        assert_eq!(element_count(&[u64::MAX, 2, 0]), None);
    }
}
