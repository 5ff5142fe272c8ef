//! Files as people have them: each test is a table of small generated files of one kind.

mod damage;
mod formats;

use super::*;
use arrow_array::{ArrayRef, RecordBatch};
use parquet::{arrow::ArrowWriter, file::properties::WriterProperties};
use std::{fs, io::Write};

/// What a file is expected to yield: texts, then words of the last trouble.
type Expect<'a> = &'a [Result<&'a str, &'a str>];

fn fields() -> DocumentFields {
    let name = |name: &str| Some(name.to_owned());
    DocumentFields { id: name("meta.id"), source: name("source"), ..DocumentFields::default() }
}

fn read_with(name: &str, bytes: &[u8], fields: &DocumentFields) -> (Vec<Item>, FileRead) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    let mut items = documents(&Roots::whole_disk(), &path, fields).unwrap();
    let found: Vec<Item> = items.by_ref().collect();
    assert!(items.next().is_none(), "{name}: an item behind the last");
    let read = items.end().unwrap();
    assert_eq!(read.bytes, bytes.len() as u64, "{name}");
    assert_eq!(read.sha256, crate::sha256_file(&path).unwrap(), "{name}: the hash of what was read");
    let (good, broken) =
        (found.iter().filter(|item| item.is_ok()), |item: &&Item| matches!(item, Err(Trouble::Record(_))));
    assert_eq!(read.counts.broken, found.iter().filter(broken).count() as u64, "{name}");
    assert_eq!(read.counts.records, good.count() as u64 + read.counts.broken, "{name}: every record is counted");
    (found, read)
}

fn read(name: &str, bytes: &[u8]) -> (Vec<Item>, FileRead) {
    read_with(name, bytes, &fields())
}

fn check_with(name: &str, bytes: &[u8], fields: &DocumentFields, expect: Expect) {
    let (found, _) = read_with(name, bytes, fields);
    assert_eq!(found.len(), expect.len(), "{name}: {found:?}");
    for (found, expect) in found.iter().zip(expect) {
        match (found, expect) {
            (Ok(document), Ok(text)) => assert_eq!(document.text, *text, "{name}"),
            (Err(trouble), Err(why)) => assert!(trouble.to_string().contains(why), "{name}: {trouble}, expected {why}"),
            _ => panic!("{name}: {found:?}, expected {expect:?}"),
        }
    }
}

fn check(name: &str, bytes: impl AsRef<[u8]>, expect: Expect) {
    check_with(name, bytes.as_ref(), &fields(), expect);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zst(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

/// A frame that asks for a window of 256 MiB, as `zstd --long=28` writes it.
fn zst_long(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.window_log(28).unwrap();
    encoder.long_distance_matching(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn parquet_of(batch: &RecordBatch, properties: WriterProperties) -> Vec<u8> {
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

fn parquet(columns: &[(&str, ArrayRef)]) -> Vec<u8> {
    parquet_of(&RecordBatch::try_from_iter(columns.iter().cloned()).unwrap(), WriterProperties::default())
}
