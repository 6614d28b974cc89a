//! Files to rows. The format is found by looking inside: JSON lines, a JSON document, a CSV table, or plain text.

use std::io::BufRead;

use serde_json::Value;

use super::report::{DataReport, DropReason};
use super::row::{self, Content, Row, SHAPES, short};
use crate::{Error, Result};

/// What begins files that are not text, and what to do about them.
const NOT_TEXT: [(&[u8], &str); 18] = [
    (
        b"PAR1",
        "a Parquet file; write it as JSON lines, for instance with pandas: read_parquet(...).to_json(..., orient=\"records\", lines=True)",
    ),
    (b"ARROW1", "an Arrow file; write it as JSON lines"),
    (b"PK\x03\x04", "a zip archive (or a spreadsheet); unpack it, or save the table as CSV"),
    (b"\x1f\x8b", "compressed with gzip; unpack it first"),
    (b"BZh", "compressed with bzip2; unpack it first"),
    (b"\xfd7zXZ", "compressed with xz; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it first"),
    (b"7z\xbc\xaf", "a 7-Zip archive; unpack it first"),
    (b"\x80\x02", "a Python pickle, which can run code when it is read; write the data as JSON lines"),
    (b"\x80\x03", "a Python pickle, which can run code when it is read; write the data as JSON lines"),
    (b"\x80\x04", "a Python pickle, which can run code when it is read; write the data as JSON lines"),
    (b"\x80\x05", "a Python pickle, which can run code when it is read; write the data as JSON lines"),
    (b"\x93NUMPY", "a NumPy array; write the data as JSON lines with input_ids"),
    (b"SQLite format 3", "an SQLite database; export a table as CSV"),
    (b"%PDF", "a PDF; save its text as plain text"),
    (b"GGUF", "a GGUF model, not a data set"),
    (b"\xff\xfe", "text in UTF-16; save it as UTF-8"),
    (b"\xfe\xff", "text in UTF-16; save it as UTF-8"),
];

/// How many lines are looked at to tell formats apart.
const LINES_LOOKED_AT: usize = 32;

/// The rows of a file, and what became of the others.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    pub rows: Vec<Row>,
    /// Counts so far: rows, shapes, and what was dropped
    pub report: DataReport,
    /// What `Row::at` counts: `line` or `element`
    pub unit: &'static str,
}

/// Reads a data set from a file's bytes: for fuzzing, and for files already in memory. See [`read_rows`].
pub fn read_examples(bytes: &[u8]) -> Result<Rows> {
    parse("data", bytes)
}

/// Reads a data set of whatever format (see the module's page). `name` is what reports and errors call it.
///
/// Malformed rows are dropped and counted, with line numbers. Errs if the file is not UTF-8 text, is of a format that is
/// refused (pickle, Parquet, archives), or has no row that can be read.
pub fn read_rows(name: &str, mut reader: impl BufRead) -> Result<Rows> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(Error::io(format!("read {name}")))?;
    parse(name, &bytes)
}

fn fault(name: &str, problem: impl Into<String>) -> Error {
    Error::Data { file: name.to_string(), problem: problem.into() }
}

fn parse(name: &str, bytes: &[u8]) -> Result<Rows> {
    if let Some((_, what)) = NOT_TEXT.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Err(fault(name, format!("this is {what}")));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if bytes.iter().take(4096).any(|&byte| byte == 0) {
        return Err(fault(
            name,
            format!("this is not text; expected JSON lines, JSON, CSV or plain text with {SHAPES}"),
        ));
    }
    if bytes.trim_ascii().is_empty() {
        return Err(fault(name, "the file is empty"));
    }
    let mut rows = Rows { unit: "line", ..Rows::default() };
    rows.report.source = name.to_string();
    match detect(name, bytes)? {
        Format::JsonLines => json_lines(&mut rows, bytes),
        Format::Json => json(&mut rows, bytes)?,
        Format::Csv(delimiter) => csv(&mut rows, bytes, delimiter),
        Format::Text => text(&mut rows, bytes)?,
    }
    if rows.rows.is_empty() {
        return Err(fault(name, rows.report.nothing_left()));
    }
    Ok(rows)
}

#[derive(Debug, PartialEq)]
enum Format {
    JsonLines,
    Json,
    Csv(u8),
    Text,
}

/// Lines with their numbers from 1, without line ends, blank ones left out.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let lines = bytes.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
    (1..).zip(lines).filter(|(_, line)| !line.is_empty())
}

fn is_json(line: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok()
}

fn detect(name: &str, bytes: &[u8]) -> Result<Format> {
    let head: Vec<&[u8]> = lines(bytes).take(LINES_LOOKED_AT).map(|(_, line)| line).collect();
    let whole = |open: &[u8]| head.iter().filter(|line| open.contains(&line[0]) && is_json(line)).count();
    let start = bytes.trim_ascii_start();
    Ok(match start[0] {
        b'{' if whole(b"{") > 0 => Format::JsonLines,
        b'{' => Format::Json,
        b'[' if head.len() > 1 && whole(b"[{") > 0 && is_json(head[0]) => Format::JsonLines,
        b'[' if matches!(start[1..].trim_ascii_start().first(), None | Some(b'{' | b'[' | b'"' | b']')) => Format::Json,
        _ if 2 * whole(b"{") >= head.len() => Format::JsonLines,
        _ => match delimiter(name, bytes)? {
            Some(delimiter) => Format::Csv(delimiter),
            None => Format::Text,
        },
    })
}

/// The delimiter of a CSV table with known columns. A table with other columns is refused: as plain text it would teach a
/// model to write tables.
fn delimiter(name: &str, bytes: &[u8]) -> Result<Option<u8>> {
    let mut unknown = None;
    for delimiter in [b',', b'\t', b';'] {
        let mut reader = csv_reader(bytes, delimiter);
        let Ok(header) = reader.headers() else { continue };
        let columns: Vec<String> = header.iter().map(|column| column.trim().to_lowercase()).collect();
        if row::columns_are_known(&columns) {
            return Ok(Some(delimiter));
        }
        let is_name = |c: &str| !c.is_empty() && c.len() <= 40 && c.chars().all(|c| c.is_alphanumeric() || c == '_');
        let named = header.len() >= 2 && header.iter().all(is_name);
        if !named {
            continue;
        }
        let records: Vec<_> = reader.records().take(3).collect();
        if !records.is_empty() && records.iter().all(Result::is_ok) {
            unknown = Some(columns.join(", "));
        }
    }
    match unknown {
        None => Ok(None),
        Some(columns) => Err(fault(name, format!("a table with the columns {}; expected {SHAPES}", short(&columns)))),
    }
}

fn csv_reader(bytes: &[u8], delimiter: u8) -> csv::Reader<&[u8]> {
    csv::ReaderBuilder::new().delimiter(delimiter).from_reader(bytes)
}

impl Rows {
    fn push(&mut self, at: usize, value: Result<Value, row::Fault>) {
        self.report.rows += 1;
        match value.and_then(row::parse) {
            Ok((shape, content)) => {
                *self.report.shapes.entry(shape.to_string()).or_default() += 1;
                self.rows.push(Row { at, content });
            }
            Err((reason, problem)) => self.report.drop_row(reason, || format!("{} {at}: {problem}", self.unit)),
        }
    }
}

fn json_lines(rows: &mut Rows, bytes: &[u8]) {
    for (at, line) in lines(bytes) {
        rows.push(at, serde_json::from_slice(line).map_err(|e| (DropReason::Malformed, json_problem(&e))));
    }
}

/// What is wrong with a line, without serde's own line count, which is always 1 here.
fn json_problem(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let problem = text.rsplit_once(" at line ").map_or(text.as_str(), |(problem, _)| problem);
    format!("not valid JSON at column {}: {problem}", error.column())
}

/// A list of rows, one row, or an object with a list of rows in it.
fn json(rows: &mut Rows, bytes: &[u8]) -> Result<()> {
    rows.unit = "element";
    let value: Value =
        serde_json::from_slice(bytes).map_err(|e| fault(&rows.report.source, format!("not valid JSON: {e}")))?;
    let is_turn = |v: &Value| v.get("role").is_some() || v.get("from").is_some();
    let elements = match value {
        Value::Array(elements) if elements.first().is_some_and(is_turn) => vec![Value::Array(elements)],
        Value::Array(elements) => elements,
        Value::Object(mut fields) => {
            let list = ["data", "train", "rows", "examples"]
                .into_iter()
                .find(|name| fields.get(*name).is_some_and(Value::is_array));
            match list.and_then(|name| fields.remove(name)) {
                Some(Value::Array(elements)) => elements,
                _ => vec![Value::Object(fields)],
            }
        }
        other => vec![other],
    };
    for (at, element) in (1..).zip(elements) {
        rows.push(at, Ok(element));
    }
    Ok(())
}

fn csv(rows: &mut Rows, bytes: &[u8], delimiter: u8) {
    let mut reader = csv_reader(bytes, delimiter);
    let columns: Vec<String> = match reader.headers() {
        Ok(header) => header.iter().map(|column| column.trim().to_lowercase()).collect(),
        Err(_) => return,
    };
    for record in reader.byte_records() {
        let line = |position: Option<&csv::Position>| position.map_or(0, |position| position.line() as usize);
        match record {
            Ok(record) => {
                let cells = columns.iter().zip(record.iter());
                let fields = cells.map(|(column, cell)| Ok((column.clone(), cell_value(column, cell)?)));
                rows.push(line(record.position()), fields.collect::<Result<_, _>>().map(Value::Object));
            }
            Err(e) => rows.push(line(e.position()), Err((DropReason::Malformed, csv_problem(&e)))),
        }
    }
}

fn csv_problem(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} cells, but the table has {expected_len} columns")
        }
        _ => error.to_string(),
    }
}

/// A cell is text, except in the columns whose values are lists: there it is JSON. An empty cell is no value.
fn cell_value(column: &str, cell: &[u8]) -> Result<Value, row::Fault> {
    let text =
        std::str::from_utf8(cell).map_err(|_| (DropReason::Malformed, format!("`{}` is not UTF-8", short(column))))?;
    match column {
        _ if text.is_empty() => Ok(Value::Null),
        "messages" | "conversations" | "conversation" | "tools" | "input_ids" | "labels" | "attention_mask" => {
            serde_json::from_str(text).map_err(|e| (DropReason::InvalidField, format!("`{column}` is not JSON: {e}")))
        }
        _ => Ok(Value::String(text.to_string())),
    }
}

fn text(rows: &mut Rows, bytes: &[u8]) -> Result<()> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        fault(&rows.report.source, format!("not UTF-8 text: the byte at {} does not belong", e.valid_up_to()))
    })?;
    rows.report.rows = 1;
    rows.report.shapes.insert("plain text".to_string(), 1);
    rows.rows.push(Row { at: 1, content: Content::Document(text.replace("\r\n", "\n")) });
    Ok(())
}
