//! The metadata of a GGUF file: an ordered map from dotted keys (`llama.block_count`) to typed values.

use std::fmt;

use rustc_hash::FxHashMap;

use crate::{Error, Result};

/// The type numbers of GGUF values, in the order of `gguf_metadata_value_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    const ALL: [ValueType; 13] = {
        use ValueType::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64]
    };

    /// The type with this number in a file, if there is one.
    pub fn from_id(id: u32) -> Option<ValueType> {
        Self::ALL.get(id as usize).copied()
    }

    /// The fewest bytes that one value of this type takes in a file.
    pub fn min_bytes(self) -> u64 {
        match self {
            ValueType::U8 | ValueType::I8 | ValueType::Bool => 1,
            ValueType::U16 | ValueType::I16 => 2,
            ValueType::U32 | ValueType::I32 | ValueType::F32 => 4,
            ValueType::U64 | ValueType::I64 | ValueType::F64 | ValueType::String => 8,
            ValueType::Array => 12,
        }
    }
}

/// One metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array whose elements share one type. Arrays of arrays do not occur: llama.cpp refuses them too.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<String>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

impl Value {
    /// The type of this value.
    pub fn value_type(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::F32(_) => ValueType::F32,
            Value::Bool(_) => ValueType::Bool,
            Value::String(_) => ValueType::String,
            Value::Array(_) => ValueType::Array,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F64(_) => ValueType::F64,
        }
    }

    /// The value as an integer, if it is one of any width.
    pub fn as_integer(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(x) => x.into(),
            Value::I8(x) => x.into(),
            Value::U16(x) => x.into(),
            Value::I16(x) => x.into(),
            Value::U32(x) => x.into(),
            Value::I32(x) => x.into(),
            Value::U64(x) => x.into(),
            Value::I64(x) => x.into(),
            _ => return None,
        })
    }

    /// The value as f32, if it is F32 or F64.
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Value::F32(x) => Some(x),
            Value::F64(x) => Some(x as f32),
            _ => None,
        }
    }
}

impl Array {
    /// The type of the elements.
    pub fn element_type(&self) -> ValueType {
        match self {
            Array::U8(_) => ValueType::U8,
            Array::I8(_) => ValueType::I8,
            Array::U16(_) => ValueType::U16,
            Array::I16(_) => ValueType::I16,
            Array::U32(_) => ValueType::U32,
            Array::I32(_) => ValueType::I32,
            Array::F32(_) => ValueType::F32,
            Array::Bool(_) => ValueType::Bool,
            Array::String(_) => ValueType::String,
            Array::U64(_) => ValueType::U64,
            Array::I64(_) => ValueType::I64,
            Array::F64(_) => ValueType::F64,
        }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            Array::U8(x) => x.len(),
            Array::I8(x) => x.len(),
            Array::U16(x) => x.len(),
            Array::I16(x) => x.len(),
            Array::U32(x) => x.len(),
            Array::I32(x) => x.len(),
            Array::F32(x) => x.len(),
            Array::Bool(x) => x.len(),
            Array::String(x) => x.len(),
            Array::U64(x) => x.len(),
            Array::I64(x) => x.len(),
            Array::F64(x) => x.len(),
        }
    }

    /// True for an array without elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements as integers, if they are integers of any width.
    pub fn integers(&self) -> Option<Vec<i128>> {
        fn widen<T: Copy + Into<i128>>(x: &[T]) -> Option<Vec<i128>> {
            Some(x.iter().map(|&x| x.into()).collect())
        }
        match self {
            Array::U8(x) => widen(x),
            Array::I8(x) => widen(x),
            Array::U16(x) => widen(x),
            Array::I16(x) => widen(x),
            Array::U32(x) => widen(x),
            Array::I32(x) => widen(x),
            Array::U64(x) => widen(x),
            Array::I64(x) => widen(x),
            _ => None,
        }
    }
}

/// What a value is, for error messages: `the string "llama"`, `an array of 3 F32`.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::U8(x) => write!(f, "{x}"),
            Value::I8(x) => write!(f, "{x}"),
            Value::U16(x) => write!(f, "{x}"),
            Value::I16(x) => write!(f, "{x}"),
            Value::U32(x) => write!(f, "{x}"),
            Value::I32(x) => write!(f, "{x}"),
            Value::U64(x) => write!(f, "{x}"),
            Value::I64(x) => write!(f, "{x}"),
            Value::F32(x) => write!(f, "{x:?}"),
            Value::F64(x) => write!(f, "{x:?}"),
            Value::Bool(x) => write!(f, "{x}"),
            Value::String(x) if x.chars().nth(40).is_none() => write!(f, "the string {x:?}"),
            Value::String(x) => write!(f, "a string of {} bytes", x.len()),
            Value::Array(x) => write!(f, "an array of {} {:?}", x.len(), x.element_type()),
        }
    }
}

macro_rules! value_from {
    ($($rust:ty => $variant:ident),* $(,)?) => {$(
        impl From<$rust> for Value { fn from(x: $rust) -> Value { Value::$variant(x) } }
        impl From<Vec<$rust>> for Value { fn from(x: Vec<$rust>) -> Value { Value::Array(Array::$variant(x)) } }
    )*};
}
value_from!(u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, f32 => F32, bool => Bool,
    String => String, u64 => U64, i64 => I64, f64 => F64);

impl From<&str> for Value {
    fn from(x: &str) -> Value {
        Value::String(x.to_string())
    }
}

/// The key-value part of a GGUF header, in file order. Getters name the file, the key, and what was found instead.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    file: String,
    entries: Vec<(String, Value)>,
    index: FxHashMap<String, usize>,
}

impl Metadata {
    /// An empty map; `file` is the name that error messages give.
    pub fn new(file: impl Into<String>) -> Metadata {
        Metadata { file: file.into(), ..Metadata::default() }
    }

    /// The name that error messages give.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Adds `key`, or replaces its value in place. Returns the value it had.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Option<Value> {
        let (key, value) = (key.into(), value.into());
        if let Some(&at) = self.index.get(&key) {
            return Some(std::mem::replace(&mut self.entries[at].1, value));
        }
        self.index.insert(key.clone(), self.entries.len());
        self.entries.push((key, value));
        None
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True without keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keys and values in file order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of `key`, whatever its type.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|&at| &self.entries[at].1)
    }

    /// True where `key` is present.
    pub fn has(&self, key: &str) -> bool {
        self.index.contains_key(key)
    }

    /// `None` where `key` is absent, otherwise what `getter` makes of it: `metadata.optional(key, Metadata::u32)?`.
    pub fn optional<'a, T>(
        &'a self,
        key: &str,
        getter: impl FnOnce(&'a Metadata, &str) -> Result<T>,
    ) -> Result<Option<T>> {
        if self.has(key) { getter(self, key).map(Some) } else { Ok(None) }
    }

    fn require(&self, key: &str) -> Result<&Value> {
        self.get(key).ok_or_else(|| Error::malformed(&self.file, format!("the metadata has no key `{key}`")))
    }

    fn expected<'a, T>(&'a self, key: &str, what: &str, pick: impl FnOnce(&'a Value) -> Option<T>) -> Result<T> {
        let value = self.require(key)?;
        pick(value).ok_or_else(|| {
            Error::malformed(&self.file, format!("the metadata key `{key}` should be {what}, it is {value}"))
        })
    }

    /// An integer of any width that fits u32.
    pub fn u32(&self, key: &str) -> Result<u32> {
        self.expected(key, "an integer from 0 to 4294967295", |v| v.as_integer()?.try_into().ok())
    }

    /// An integer of any width that fits u64.
    pub fn u64(&self, key: &str) -> Result<u64> {
        self.expected(key, "an integer from 0 on", |v| v.as_integer()?.try_into().ok())
    }

    /// A floating-point number of either width.
    pub fn f32(&self, key: &str) -> Result<f32> {
        self.expected(key, "a floating-point number", Value::as_f32)
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<bool> {
        self.expected(key, "true or false", |v| if let Value::Bool(x) = v { Some(*x) } else { None })
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<&str> {
        self.expected(key, "a string", |v| if let Value::String(x) = v { Some(x.as_str()) } else { None })
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<&[String]> {
        self.expected(key, "an array of strings", |v| match v {
            Value::Array(Array::String(x)) => Some(x.as_slice()),
            _ => None,
        })
    }

    /// An array of 32-bit floating-point numbers.
    pub fn f32s(&self, key: &str) -> Result<&[f32]> {
        self.expected(key, "an array of F32", |v| match v {
            Value::Array(Array::F32(x)) => Some(x.as_slice()),
            _ => None,
        })
    }

    /// An array of integers of any width, each of which fits i32.
    pub fn i32s(&self, key: &str) -> Result<Vec<i32>> {
        self.expected(key, "an array of 32-bit integers", |v| match v {
            Value::Array(Array::I32(x)) => Some(x.clone()),
            Value::Array(x) => x.integers()?.into_iter().map(|x| x.try_into().ok()).collect(),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn getters_take_any_width_and_say_what_they_found() {
        let mut metadata = Metadata::new("m.gguf");
        metadata.insert("a.count", 7u64);
        metadata.insert("a.eps", 1e-5f32);
        metadata.insert("a.name", "llama");
        metadata.insert("a.types", vec![1u8, 2]);
        assert_eq!(metadata.u32("a.count").unwrap(), 7);
        assert_eq!(metadata.f32("a.eps").unwrap(), 1e-5);
        assert_eq!(metadata.i32s("a.types").unwrap(), [1, 2]);
        assert_eq!(metadata.optional("b", Metadata::u32).unwrap(), None);
        assert_eq!(metadata.u32("b").unwrap_err().to_string(), "m.gguf: the metadata has no key `b`");
        assert_eq!(
            metadata.strings("a.types").unwrap_err().to_string(),
            "m.gguf: the metadata key `a.types` should be an array of strings, it is an array of 2 U8"
        );
        assert!(metadata.u32("a.name").unwrap_err().to_string().ends_with("it is the string \"llama\""));
        metadata.insert("a.count", -1i32);
        assert!(metadata.u32("a.count").is_err());
        assert_eq!(metadata.iter().map(|(k, _)| k).collect::<Vec<_>>(), ["a.count", "a.eps", "a.name", "a.types"]);
    }

    #[test]
    fn type_numbers_are_positions() {
        for (id, kind) in ValueType::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, id);
            assert_eq!(ValueType::from_id(id as u32), Some(kind));
        }
        assert_eq!(ValueType::from_id(13), None);
    }
}
