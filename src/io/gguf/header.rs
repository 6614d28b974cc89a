//! Reads the header of a GGUF file piece by piece; every count and length is checked against the bytes that are left
//! before memory is taken for it.

use super::metadata::{Array, Metadata, Value, ValueType};
use crate::io::ByteSource;
use crate::{Error, Result};

/// Bytes read from the file at a time.
const PIECE: u64 = 256 << 10;
/// The largest header: real ones, with 150,000 tokens and their merges, are below 16 MiB.
const MAX_HEADER: u64 = 256 << 20;
/// The longest key or tensor name, from the format's description.
const MAX_NAME: u64 = 65_535;

/// A position in the header of a file.
pub struct HeaderReader<'a> {
    source: &'a dyn ByteSource,
    /// Where the header must end at the latest.
    limit: u64,
    /// Bytes of the file that end at `read_to`; those from `at` on are still to be taken.
    buffer: Vec<u8>,
    at: usize,
    read_to: u64,
}

impl<'a> HeaderReader<'a> {
    pub fn new(source: &'a dyn ByteSource) -> HeaderReader<'a> {
        HeaderReader { source, limit: source.len().min(MAX_HEADER), buffer: Vec::new(), at: 0, read_to: 0 }
    }

    /// Bytes into the file.
    pub fn position(&self) -> u64 {
        self.read_to - (self.buffer.len() - self.at) as u64
    }

    fn left(&self) -> u64 {
        self.limit - self.position()
    }

    /// An error at the present position.
    pub fn problem(&self, problem: impl AsRef<str>) -> Error {
        Error::malformed(self.source.name(), format!("{} (at byte {})", problem.as_ref(), self.position()))
    }

    /// Errs unless `count` items of at least `each` bytes can follow.
    fn expect(&self, what: &str, count: u64, each: u64) -> Result<usize> {
        let left = self.left();
        match count.checked_mul(each) {
            Some(bytes) if bytes <= left => Ok(count as usize), // `left` is at most MAX_HEADER
            _ if self.source.len() > MAX_HEADER => {
                Err(self.problem(format!("{count} {what} do not fit a header of at most {MAX_HEADER} bytes")))
            }
            _ => Err(self.problem(format!(
                "{count} {what} of at least {each} bytes do not fit the {left} bytes that are left of the file: is it truncated?"
            ))),
        }
    }

    fn take(&mut self, count: usize) -> Result<&[u8]> {
        if self.buffer.len() - self.at < count {
            self.expect("bytes", count as u64, 1)?;
            self.buffer.drain(..self.at);
            self.at = 0;
            let kept = self.buffer.len();
            let wanted = PIECE.max((count - kept) as u64).min(self.limit - self.read_to);
            self.buffer.resize(kept + wanted as usize, 0);
            self.source.read_at(self.read_to, &mut self.buffer[kept..])?;
            self.read_to += wanted;
        }
        self.at += count;
        Ok(&self.buffer[self.at - count..self.at])
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number of items, each of which takes at least `each` bytes of what is left.
    pub fn count(&mut self, what: &str, each: u64) -> Result<usize> {
        let count = self.u64()?;
        self.expect(what, count, each)
    }

    fn string(&mut self) -> Result<String> {
        let bytes = self.count("string bytes", 1)?;
        let text = std::str::from_utf8(self.take(bytes)?).map(str::to_string);
        text.map_err(|e| self.problem(format!("a string that is not UTF-8 ({e})")))
    }

    /// A metadata key or a tensor's name.
    pub fn name(&mut self) -> Result<String> {
        let name = self.string()?;
        if name.len() as u64 > MAX_NAME {
            return Err(self.problem(format!("a name of {} bytes; at most {MAX_NAME} are allowed", name.len())));
        }
        Ok(name)
    }

    fn bool(&mut self) -> Result<bool> {
        match self.array::<1>()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(self.problem(format!("a truth value of {other}; only 0 and 1 are allowed"))),
        }
    }

    fn value_type(&mut self) -> Result<ValueType> {
        let id = self.u32()?;
        ValueType::from_id(id).ok_or_else(|| self.problem(format!("unknown metadata value type {id}")))
    }

    /// A value with its type in front.
    pub fn value(&mut self) -> Result<Value> {
        Ok(match self.value_type()? {
            ValueType::U8 => Value::U8(u8::from_le_bytes(self.array()?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(self.array()?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(self.array()?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(self.array()?)),
            ValueType::U32 => Value::U32(self.u32()?),
            ValueType::I32 => Value::I32(i32::from_le_bytes(self.array()?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(self.array()?)),
            ValueType::Bool => Value::Bool(self.bool()?),
            ValueType::String => Value::String(self.string()?),
            ValueType::U64 => Value::U64(self.u64()?),
            ValueType::I64 => Value::I64(i64::from_le_bytes(self.array()?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(self.array()?)),
            ValueType::Array => Value::Array(self.elements()?),
        })
    }

    fn elements(&mut self) -> Result<Array> {
        let element = self.value_type()?;
        let count = self.count("array elements", element.min_bytes())?;
        Ok(match element {
            ValueType::U8 => Array::U8(self.numbers(count, u8::from_le_bytes)?),
            ValueType::I8 => Array::I8(self.numbers(count, i8::from_le_bytes)?),
            ValueType::U16 => Array::U16(self.numbers(count, u16::from_le_bytes)?),
            ValueType::I16 => Array::I16(self.numbers(count, i16::from_le_bytes)?),
            ValueType::U32 => Array::U32(self.numbers(count, u32::from_le_bytes)?),
            ValueType::I32 => Array::I32(self.numbers(count, i32::from_le_bytes)?),
            ValueType::F32 => Array::F32(self.numbers(count, f32::from_le_bytes)?),
            ValueType::U64 => Array::U64(self.numbers(count, u64::from_le_bytes)?),
            ValueType::I64 => Array::I64(self.numbers(count, i64::from_le_bytes)?),
            ValueType::F64 => Array::F64(self.numbers(count, f64::from_le_bytes)?),
            ValueType::Bool => Array::Bool((0..count).map(|_| self.bool()).collect::<Result<_>>()?),
            ValueType::String => Array::String((0..count).map(|_| self.string()).collect::<Result<_>>()?),
            ValueType::Array => return Err(self.problem("an array of arrays")),
        })
    }

    fn numbers<T, const N: usize>(&mut self, count: usize, from: fn([u8; N]) -> T) -> Result<Vec<T>> {
        let mut numbers = Vec::with_capacity(count);
        for _ in 0..count {
            numbers.push(from(self.array()?));
        }
        Ok(numbers)
    }

    /// `count` keys and their values; a key that occurs twice is an error.
    pub fn metadata(&mut self, count: usize) -> Result<Metadata> {
        let mut metadata = Metadata::new(self.source.name());
        for _ in 0..count {
            let key = self.name()?;
            if metadata.has(&key) {
                return Err(self.problem(format!("the metadata key `{key}` occurs twice")));
            }
            let value = self.value()?;
            metadata.insert(key, value);
        }
        Ok(metadata)
    }
}
