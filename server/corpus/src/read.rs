//! Documents out of files, one record at a time: memory does not grow with the file.
//!
//! A record that cannot be read is an item of its own, never a silent gap; reading goes on where it can.

use crate::snapshot::format_of;
use arrow_array::{Array, LargeStringArray, RecordBatch, StringArray, StringViewArray};
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};
use senmon_protocol::corpus::{BrokenRecord, DocumentFields, FileFormat};
use serde_json::Value;
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

/// A longer line is a broken record: nobody's document, and a way to fill the memory.
const LINE_BYTES_MAX: usize = 64 << 20;

/// One document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Number of the record in its file, from 0.
    pub record: u64,
    /// Its id: the id field, or `<file name>:<record number from 1>`.
    pub id: String,
    /// The group whose records are on one side of the split; None for a document on its own.
    pub group: Option<String>,
    /// Source label, where there is one.
    pub source: Option<String>,
    /// The text.
    pub text: String,
}

impl Document {
    /// What decides the side of the split.
    #[must_use]
    pub fn split_key(&self) -> &str {
        self.group.as_deref().unwrap_or(&self.id)
    }
}

/// A record's group: its own, or its id up to the first `#` (an id that the record brings, not a file's name).
fn group_of(given: Option<String>, id: Option<&str>) -> Option<String> {
    given.or_else(|| Some(id?.split_once('#')?.0.to_owned()))
}

/// What a file yields.
pub type Item = Result<Document, BrokenRecord>;

/// Opens a file and yields its records.
///
/// # Errors
/// When the file cannot be opened, has an unknown ending, or is no Parquet file with the needed columns.
pub fn documents(path: &Path, fields: &DocumentFields) -> io::Result<Box<dyn Iterator<Item = Item> + Send>> {
    let format = format_of(path).ok_or_else(|| io::Error::other(format!("{}: unknown ending", path.display())))?;
    let file = File::open(path)?;
    let input: Box<dyn Read + Send> = match format {
        FileFormat::Jsonl | FileFormat::Text => Box::new(file),
        FileFormat::JsonlGz => Box::new(flate2::read::MultiGzDecoder::new(file)),
        FileFormat::JsonlZst => Box::new(zstd::stream::read::Decoder::new(file)?),
        FileFormat::Parquet => return parquet_documents(path, file, fields),
    };
    let name = Naming::new(path);
    if format == FileFormat::Text {
        return Ok(Box::new(std::iter::once(text_document(name, input))));
    }
    Ok(Box::new(JsonLines {
        input: BufReader::with_capacity(1 << 20, input),
        fields: fields.clone(),
        name,
        record: 0,
        ended: false,
    }))
}

struct Naming {
    path: String,
    file: String,
}

impl Naming {
    fn new(path: &Path) -> Self {
        let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Self { path: path.display().to_string(), file }
    }

    fn broken(&self, record: u64, why: impl Into<String>) -> BrokenRecord {
        BrokenRecord { path: self.path.clone(), record: record + 1, why: why.into() }
    }

    fn id(&self, record: u64) -> String {
        format!("{}:{}", self.file, record + 1)
    }
}

fn text_document(name: Naming, mut input: Box<dyn Read + Send>) -> Item {
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes).map_err(|error| name.broken(0, error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|error| name.broken(0, format!("invalid UTF-8: {error}")))?;
    Ok(Document { record: 0, id: name.id(0), group: None, source: None, text })
}

struct JsonLines<R> {
    input: BufReader<R>,
    fields: DocumentFields,
    name: Naming,
    record: u64,
    ended: bool,
}

impl<R: Read> Iterator for JsonLines<R> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        while !self.ended {
            let mut line = Vec::new();
            let record = self.record;
            match self.input.by_ref().take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line) {
                Ok(0) => return None,
                Ok(n) if n > LINE_BYTES_MAX => {
                    self.record += 1;
                    self.ended = self.skip_line().is_err();
                    return Some(Err(self.name.broken(record, format!("longer than {} MiB", LINE_BYTES_MAX >> 20))));
                }
                Ok(_) if line.iter().all(u8::is_ascii_whitespace) => {}
                Ok(_) => {
                    self.record += 1;
                    return Some(self.parse(&line, record));
                }
                Err(error) => {
                    // A truncated or damaged stream cannot be read on from here.
                    self.ended = true;
                    return Some(Err(self.name.broken(record, format!("the file ends here, damaged: {error}"))));
                }
            }
        }
        None
    }
}

impl<R: Read> JsonLines<R> {
    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                return Ok(());
            }
            let end = buffer.iter().position(|&byte| byte == b'\n');
            let used = end.map_or(buffer.len(), |place| place + 1);
            self.input.consume(used);
            if end.is_some() {
                return Ok(());
            }
        }
    }

    fn parse(&self, line: &[u8], record: u64) -> Item {
        let text =
            std::str::from_utf8(line).map_err(|error| self.name.broken(record, format!("invalid UTF-8: {error}")))?;
        let value: Value =
            serde_json::from_str(text).map_err(|error| self.name.broken(record, format!("invalid JSON: {error}")))?;
        let field = |name: &str| match value.get(name) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(Value::Number(number)) => Ok(number.to_string()),
            Some(other) => Err(format!("field {name:?}: expected text, found {}", kind_of(other))),
            None => Err(format!("field {name:?} is missing")),
        };
        let broken = |why: String| self.name.broken(record, why);
        let id = self.fields.id.as_deref().map(field).transpose().map_err(broken)?;
        let group = self.fields.group.as_deref().and_then(|name| field(name).ok());
        Ok(Document {
            record,
            group: group_of(group, id.as_deref()),
            id: id.unwrap_or_else(|| self.name.id(record)),
            source: self.fields.source.as_deref().and_then(|name| field(name).ok()),
            text: field(&self.fields.text).map_err(broken)?,
        })
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn parquet_documents(
    path: &Path,
    file: File,
    fields: &DocumentFields,
) -> io::Result<Box<dyn Iterator<Item = Item> + Send>> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(io::Error::other)?;
    let names = [Some(&fields.text), fields.id.as_ref(), fields.group.as_ref(), fields.source.as_ref()];
    let names: Vec<&str> = names.into_iter().flatten().map(String::as_str).collect();
    let mask = ProjectionMask::columns(builder.parquet_schema(), names.iter().copied());
    let reader = builder.with_projection(mask).with_batch_size(512).build().map_err(io::Error::other)?;
    let name = Naming::new(path);
    let fields = fields.clone();
    let mut first = 0;
    Ok(Box::new(reader.flat_map(move |batch| {
        let items: Vec<Item> = match batch {
            Ok(batch) => {
                let items =
                    (0..batch.num_rows()).map(|row| parquet_row(&batch, row, first + row as u64, &fields, &name));
                let items = items.collect();
                first += batch.num_rows() as u64;
                items
            }
            Err(error) => vec![Err(name.broken(first, format!("the file ends here, damaged: {error}")))],
        };
        items
    })))
}

fn parquet_row(batch: &RecordBatch, row: usize, record: u64, fields: &DocumentFields, name: &Naming) -> Item {
    let field = |column: &str| cell(batch, column, row).map_err(|why| name.broken(record, why));
    let id = fields.id.as_deref().map(field).transpose()?;
    let group = fields.group.as_deref().and_then(|column| field(column).ok());
    Ok(Document {
        record,
        group: group_of(group, id.as_deref()),
        id: id.unwrap_or_else(|| name.id(record)),
        source: fields.source.as_deref().and_then(|column| field(column).ok()),
        text: field(&fields.text)?,
    })
}

fn cell(batch: &RecordBatch, column: &str, row: usize) -> Result<String, String> {
    let array = batch.column_by_name(column).ok_or_else(|| format!("column {column:?} is missing"))?;
    if array.is_null(row) {
        return Err(format!("column {column:?}: expected text, found null"));
    }
    let any = array.as_any();
    if let Some(texts) = any.downcast_ref::<StringArray>() {
        return Ok(texts.value(row).to_owned());
    }
    if let Some(texts) = any.downcast_ref::<LargeStringArray>() {
        return Ok(texts.value(row).to_owned());
    }
    if let Some(texts) = any.downcast_ref::<StringViewArray>() {
        return Ok(texts.value(row).to_owned());
    }
    Err(format!("column {column:?}: expected text, found {}", array.data_type()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn check(name: &str, bytes: &[u8], expect: &[Result<&str, &str>]) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let found: Vec<Item> = documents(&path, &DocumentFields::default()).unwrap().collect();
        assert_eq!(found.len(), expect.len(), "{found:?}");
        for (found, expect) in found.iter().zip(expect) {
            match (found, expect) {
                (Ok(document), Ok(text)) => assert_eq!(document.text, *text),
                (Err(broken), Err(why)) => assert!(broken.why.contains(why), "{broken:?}"),
                _ => panic!("{found:?}, expected {expect:?}"),
            }
        }
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn broken_lines_are_items_of_their_own() {
        let lines =
            b"{\"text\": \"one\"}\n\n{oops\n{\"other\": 1}\n{\"text\": [1]}\n{\"text\": \"\xff\"}\n{\"text\": \"two\"}";
        let broken =
            [Ok("one"), Err("invalid JSON"), Err("is missing"), Err("found a list"), Err("invalid UTF-8"), Ok("two")];
        check("a.jsonl", lines, &broken);
        check("a.txt", "日本語".as_bytes(), &[Ok("日本語")]);
    }

    #[test]
    fn a_group_is_the_field_or_the_id_up_to_its_first_hash_sign() {
        let check = |line: &str, group: Option<&str>, expect: &str| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a#b.jsonl");
            std::fs::write(&path, line).unwrap();
            let fields =
                DocumentFields { id: Some("id".into()), group: group.map(Into::into), ..DocumentFields::default() };
            let document = documents(&path, &fields).unwrap().next().unwrap().unwrap();
            assert_eq!(document.split_key(), expect, "{line}");
            let without = documents(&path, &DocumentFields::default()).unwrap().next().unwrap().unwrap();
            assert_eq!(without.split_key(), "a#b.jsonl:1");
        };
        check(r#"{"id": "page#1", "text": "x"}"#, None, "page");
        check(r#"{"id": "page#1#2", "text": "x"}"#, None, "page");
        check(r#"{"id": "page", "text": "x"}"#, None, "page");
        check(r#"{"id": "page#1", "site": "s#1", "text": "x"}"#, Some("site"), "s#1");
        check(r#"{"id": "page#1", "text": "x"}"#, Some("site"), "page");
    }

    #[test]
    fn compressed_files_are_read_and_a_truncated_one_says_so() {
        let lines = "{\"text\": \"one\"}\n{\"text\": \"二\"}\n".repeat(200);
        let whole = gzip(lines.as_bytes());
        let expect: Vec<_> = [Ok("one"), Ok("二")].repeat(200);
        check("a.jsonl.gz", &whole, &expect);
        check("a.jsonl.zst", &zstd::encode_all(lines.as_bytes(), 3).unwrap(), &expect);

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cut.jsonl.gz");
        std::fs::write(&path, &whole[..whole.len() - 12]).unwrap();
        let last = documents(&path, &DocumentFields::default()).unwrap().last().unwrap();
        assert!(last.unwrap_err().why.contains("damaged"));
    }

    #[test]
    fn parquet_columns_are_read_by_name() {
        use parquet::arrow::ArrowWriter;
        use std::sync::Arc;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        let texts: arrow_array::ArrayRef = Arc::new(StringArray::from(vec![Some("one"), None, Some("三")]));
        let batch = RecordBatch::try_from_iter([("body", texts)]).unwrap();
        let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let fields = DocumentFields { text: "body".into(), ..DocumentFields::default() };
        let items: Vec<Item> = documents(&path, &fields).unwrap().collect();
        assert_eq!(items[0].as_ref().unwrap().id, "a.parquet:1");
        assert!(items[1].as_ref().unwrap_err().why.contains("null"));
        assert_eq!(items[2].as_ref().unwrap().text, "三");
    }
}
