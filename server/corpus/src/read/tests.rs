//! Files as people have them: each test is a table of small generated files of one kind.

use super::*;
use arrow_array::{
    ArrayRef, BinaryArray, DictionaryArray, Int64Array, LargeStringArray, ListArray, RecordBatch, StringArray,
    StringViewArray, StructArray,
    builder::{ListBuilder, StringBuilder},
    types::Int32Type,
};
use arrow_schema::{DataType, Field};
use parquet::{
    arrow::ArrowWriter,
    basic::Compression as Codec,
    file::{
        properties::WriterProperties,
        reader::{FileReader, SerializedFileReader},
    },
};
use proptest::prelude::*;
use senmon_protocol::corpus::TextDocuments;
use std::{fs, fs::File, io::Write, ops::Range, sync::Arc};

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
    let mut items = documents(&path, fields).unwrap();
    let found: Vec<Item> = items.by_ref().collect();
    assert!(items.next().is_none(), "{name}: an item behind the last");
    let read = items.end().unwrap();
    assert_eq!(read.bytes, bytes.len() as u64, "{name}");
    assert_eq!(read.sha256, crate::sha256_file(&path).unwrap(), "{name}: the hash of what was read");
    let (good, broken) = (found.iter().filter(|item| item.is_ok()), |item: &&Item| matches!(item, Err(Trouble::Record(_))));
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

const TEXTS: [&str; 3] = ["one\nline \u{2028} of it", "二つ目の文書", "three"];

fn strings(texts: [Option<&str>; 3]) -> ArrayRef {
    Arc::new(StringArray::from(texts.to_vec()))
}

fn meta(ids: ArrayRef) -> (&'static str, ArrayRef) {
    let field = Arc::new(Field::new("id", ids.data_type().clone(), true));
    ("meta", Arc::new(StructArray::from(vec![(field, ids)])))
}

#[test]
fn every_format_gives_the_same_documents() {
    let rows = [
        serde_json::json!({ "meta": { "id": 7 }, "source": "a", "text": TEXTS[0], "more": [1, { "text": "not this" }] }),
        serde_json::json!({ "meta": { "id": "x#1" }, "source": null, "text": [TEXTS[1]] }),
        serde_json::json!({ "meta": {}, "text": TEXTS[2], "quote": "a \" { [ \\" }),
    ];
    let lines: Vec<String> = rows.iter().map(ToString::to_string).collect();
    let (unix, windows) = (lines.join("\n") + "\n", lines.join("\r\n"));
    let (first, rest) = unix.as_bytes().split_at(lines[0].len() + 5);
    let bom = |text: &str| [b"\xef\xbb\xbf", text.as_bytes()].concat();
    let array = serde_json::to_string(&rows).unwrap();
    let pretty = serde_json::to_string_pretty(&rows).unwrap();
    let pretty_rows = rows.iter().map(|row| serde_json::to_string_pretty(row).unwrap()).collect::<Vec<_>>().join("\n");
    let skippable = [&0x184d_2a50_u32.to_le_bytes()[..], &5_u32.to_le_bytes(), b"hello"].concat();

    let ids = strings([Some("7"), Some("x#1"), None]);
    let (numbers, sources) = (Arc::new(Int64Array::from(vec![Some(7), None, None])), strings([Some("a"), None, None]));
    let texts = TEXTS.map(Some);
    let mut list = ListBuilder::new(StringBuilder::new());
    TEXTS.iter().for_each(|text| list.append_value([Some(*text)]));
    let list: ListArray = list.finish();
    let table = |texts: ArrayRef| parquet(&[meta(ids.clone()), ("source", sources.clone()), ("text", texts)]);
    let categories: DictionaryArray<Int32Type> = texts.into_iter().collect();
    let category: DictionaryArray<Int32Type> = [Some("a"), None, None].into_iter().collect();
    let small_groups = WriterProperties::builder().set_max_row_group_row_count(Some(2)).set_compression(Codec::SNAPPY);
    let plain = RecordBatch::try_from_iter([meta(ids.clone()), ("source", sources.clone()), ("text", strings(texts))]);

    let files: [(&str, Vec<u8>); 27] = [
        ("a.jsonl", unix.clone().into()),
        ("a.ndjson", windows.into()),
        ("a.NDJSON.GZ", gzip(unix.as_bytes())),
        ("bom.jsonl", bom(&unix)),
        ("bom.jsonl.gz", gzip(&bom(&unix))),
        ("joined.jsonl", [bom(&lines[0]), b"\n".to_vec(), bom(&lines[1..].join("\n"))].concat()),
        ("array.jsonl", array.clone().into()),
        ("array.json", bom(&array)),
        ("arrays.json.zst", zst([format!("[{}]", lines[0]), format!("[{}]", lines[1..].join(","))].join("\n").as_bytes())),
        ("pretty.jsonl", pretty.clone().into()),
        ("pretty.json.gz", gzip(pretty.replace('\n', "\r\n").as_bytes())),
        ("lines.json", unix.clone().into()),
        ("objects.json", pretty_rows.into()),
        ("members.jsonl.gz", [gzip(first), gzip(b""), gzip(rest)].concat()),
        ("padded.jsonl.gz", [gzip(unix.as_bytes()), vec![0; 70_000]].concat()),
        ("padded-between.jsonl.gz", [gzip(first), vec![0; 512], gzip(rest), vec![0; 512]].concat()),
        ("frames.jsonl.zst", [zst(first), skippable, zst(rest)].concat()),
        ("long.jsonl.zst", zst_long(unix.as_bytes())),
        ("plain.parquet", parquet_of(&plain.unwrap(), small_groups.build())),
        ("large.parquet", table(Arc::new(LargeStringArray::from(texts.to_vec())))),
        ("view.parquet", table(Arc::new(StringViewArray::from(texts.to_vec())))),
        ("binary.parquet", table(Arc::new(BinaryArray::from(TEXTS.map(str::as_bytes).to_vec())))),
        ("category.parquet", table(Arc::new(categories))),
        ("list.parquet", table(Arc::new(list))),
        ("category-source.parquet", parquet(&[meta(ids.clone()), ("source", Arc::new(category)), ("text", strings(texts))])),
        ("dotted.parquet", parquet(&[("meta.id", ids.clone()), ("source", sources.clone()), ("text", strings(texts))])),
        ("numbers.parquet", parquet(&[meta(numbers), ("source", sources.clone()), ("text", strings(texts))])),
    ];
    for (name, bytes) in files {
        let (found, counts) = read(name, &bytes);
        let found: Vec<Document> = found.into_iter().map(|item| item.unwrap_or_else(|error| panic!("{name}: {error}"))).collect();
        let second = if name == "numbers.parquet" { "numbers.parquet:2" } else { "x#1" };
        let third = format!("{name}:3");
        let expect = [("7", None, Some("a")), (second, Some("x"), None), (third.as_str(), None, None)];
        assert_eq!(found.len(), expect.len(), "{name}: {found:?}");
        for (document, (record, (id, group, source))) in found.iter().zip(expect.into_iter().enumerate()) {
            let group = group.filter(|_| id.contains('#'));
            assert_eq!(document.text, TEXTS[record], "{name}");
            assert_eq!((document.record, document.id.as_str()), (record as u64, id), "{name}");
            assert_eq!((document.group.as_deref(), document.source.as_deref()), (group, source), "{name}");
        }
        assert_eq!(counts.counts.ids_missing, found.iter().filter(|d| d.id.contains(name)).count() as u64, "{name}");
    }
}

#[test]
fn broken_records_are_items_of_their_own_and_reading_goes_on() {
    let long = format!("{{\"text\": \"{}\"}}\n{{\"text\": \"short\"}}\n", "x".repeat(RECORD_BYTES_MAX));
    let id = |value: &str| format!("{{\"text\": \"t\", \"meta\": {{\"id\": {value}}}}}\n{{\"text\": \"next\"}}\n");
    let cases: [(&str, Vec<u8>, Expect); 13] = [
        (
            "a.jsonl",
            b"{\"text\": \"one\"}\n\n{oops\n{\"other\": 1}\n{\"text\": [1]}\n{\"text\": \"\xff\"}\n{\"text\": 5}\n[1]\n\"x\"\nnull\n".to_vec(),
            &[
                Ok("one"),
                Err("record 2: invalid JSON"),
                Err("field \"text\" is missing"),
                Err("found a list with a number"),
                Err("invalid UTF-8"),
                Ok("5"),
                Err("found a list"),
                Err("expected an object, found text"),
                Err("found null"),
            ],
        ),
        ("null.jsonl", b"{\"text\": null}\n{\"text\": [\"a\", null, \"b\"]}\n".to_vec(), &[Ok(""), Ok("a\nb")]),
        ("long.jsonl", long.clone().into(), &[Err("record 1: longer than 64 MiB"), Ok("short")]),
        ("long.json", format!("[{}]", long.trim_end().replace('\n', ",")).into(), &[Err("longer than 64 MiB"), Ok("short")]),
        ("id.jsonl", id("true").into(), &[Ok("t"), Ok("next")]),
        ("id.jsonl", id("{\"a\": 1}").into(), &[Err("\"meta.id\": expected text or a number, found an object"), Ok("next")]),
        ("array.json", b"[{\"text\": \"a\"}, {oops}, 5 \"x\" nul, {\"text\": \"b\"}, ]".to_vec(), &[
            Ok("a"),
            Err("invalid JSON"),
            Err("found a number"),
            Err("found text"),
            Err("invalid JSON"),
            Ok("b"),
        ]),
        ("after.json", b"[{\"text\": \"a\"}]}\n{\"text\": \"b\"}\n7".to_vec(), &[
            Ok("a"),
            Err("invalid JSON"),
            Ok("b"),
            Err("found a number"),
        ]),
        ("surrogate.jsonl", br#"{"text": "a \ud83d b"}
{"text": "\\ud83d \ud83d\ude00 \"\udc00"}
{"text": "\\ud83d"}"#.to_vec(), &[Ok("a \u{fffd} b"), Ok("\\ud83d 😀 \"\u{fffd}"), Ok("\\ud83d")]),
        ("empty.jsonl", Vec::new(), &[]),
        ("empty.json", b" \n".to_vec(), &[]),
        ("empty.txt", Vec::new(), &[Ok("")]),
        (
            "binary.parquet",
            parquet(&[
                meta(strings([None; 3])),
                ("source", strings([None; 3])),
                ("text", Arc::new(BinaryArray::from(vec![Some(&b"\xffx"[..]), None, Some(b"good")]))),
            ]),
            &[Err("invalid UTF-8"), Ok(""), Ok("good")],
        ),
    ];
    for (name, bytes, expect) in cases {
        check(name, &bytes, expect);
        if name == "surrogate.jsonl" {
            assert_eq!(read(name, &bytes).1.counts.surrogates_replaced, 2);
        }
    }
}

#[test]
fn a_text_file_is_a_file_or_lines_or_blocks() {
    let paragraph = |i: usize| format!("Paragraph {i}.\n{}", "some words of it\n".repeat(30));
    let book: String = (0..2_300).map(|i| paragraph(i) + "\n").collect();
    let settings = |text_documents| DocumentFields { text_documents, ..DocumentFields::default() };
    let texts = |name: &str, bytes: &[u8], documents| -> Vec<String> {
        let (found, _) = read_with(name, bytes, &settings(documents));
        found.into_iter().map(|item| item.unwrap().text).collect()
    };
    assert!(book.len() > 1 << 20);
    for (name, bytes) in [
        ("book.txt", book.clone().into_bytes()),
        ("book.txt.gz", gzip(book.replace('\n', "\r\n").as_bytes())),
        ("book.txt.zst", zst(format!("\u{feff}{book}").as_bytes())),
    ] {
        let blocks = texts(name, &bytes, TextDocuments::Auto);
        assert_eq!(blocks.join("\n\n"), book.trim_end(), "{name}: blocks end at blank lines, and nothing is lost");
        assert!(blocks.iter().all(|block| block.len() <= 8 << 10 && block.starts_with("Paragraph")), "{name}");
        assert!(blocks.len() < book.len() / (7 << 10), "{name}: paragraphs are gathered");
        assert_eq!(texts(name, &bytes, TextDocuments::File), [book.clone()], "{name}");
        assert_eq!(texts(name, &bytes, TextDocuments::Line).len(), 2_300 * 31, "{name}");
    }
    let short = "one\r\n\r\ntwo\n \nthree";
    assert_eq!(texts("a.txt", short.as_bytes(), TextDocuments::Auto), ["one\n\ntwo\n \nthree"]);
    assert_eq!(texts("a.txt", short.as_bytes(), TextDocuments::Line), ["one", "two", "three"]);
    assert_eq!(texts("a.txt", short.as_bytes(), TextDocuments::Block), ["one\n\ntwo\n \nthree"]);
    assert!(texts("a.txt", b"\n \r\n\n", TextDocuments::Block).is_empty());

    // Without a blank line a block ends at a line, without a line end at a space, without a space between characters.
    let whole: String = book.lines().filter(|line| !line.is_empty()).map(|line| line.to_owned() + "\n").collect();
    for (text, between) in [(whole.clone(), "\n"), (whole.replace('\n', " "), " "), ("あいう".repeat(200_000), "")] {
        let blocks = texts("a.txt", text.as_bytes(), TextDocuments::Auto);
        assert!(blocks.iter().all(|block| block.len() <= 8 << 10));
        assert!(blocks.len() < text.len() / (3 << 10), "{} blocks of {} bytes", blocks.len(), text.len());
        assert_eq!(blocks.join(between), text.trim_end());
    }
    let bad = [book.as_bytes(), b"\xff\xfe bad\n\n", book.as_bytes()].concat();
    let (found, read) = read_with("a.txt", &bad, &settings(TextDocuments::Auto));
    assert_eq!(read.counts.broken, 1);
    assert!(found.iter().filter_map(|item| item.as_ref().err()).all(|trouble| trouble.to_string().contains("UTF-8")));
}

#[test]
fn what_is_no_utf8_is_refused_by_its_name() {
    let utf16 = |text: &str, bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
    let latin = "{\"text\": \"plain words\"}\n".repeat(9);
    let sjis = b"\x97\xbf\x97\x9d\x82\xcc\x8f\xdd\x96\xfb\x82\xc6\x8d\xbb\x93\x9c\x82\xf0\x8d\xac\x82\xba\x82\xe9\x81\x42";
    let euc = b"\xce\xc1\xcd\xfd\xa4\xce\xbe\xdf\xcc\xfd\xa4\xc8\xba\xbd\xc5\xfc\xa4\xf2\xba\xae\xa4\xbc\xa4\xeb\xa1\xa3";
    let iso = b"\x1b\x24\x42\x4e\x41\x4d\x7d\x24\x4e\x3e\x5f\x4c\x7d\x24\x48\x3a\x3d\x45\x7c\x24\x72\x3a\x2e\x24\x3c\x24\x6b\x21\x23\x1b\x28\x42";
    let cases: [(&str, Vec<u8>, &str); 9] = [
        ("a.txt", [b"\xff\xfe".to_vec(), utf16("料理の", u16::to_le_bytes)].concat(), "UTF-16"),
        ("a.jsonl", [b"\xfe\xff".to_vec(), utf16(&latin, u16::to_be_bytes)].concat(), "UTF-16"),
        ("a.jsonl", utf16(&latin, u16::to_le_bytes), "UTF-16"),
        ("a.json.gz", gzip(&utf16(&latin, u16::to_be_bytes)), "UTF-16"),
        ("a.txt", sjis.repeat(50), "Shift-JIS"),
        ("a.jsonl.zst", zst(&[b"{\"text\": \"", &sjis[..], b"\"}\n"].concat().repeat(9)), "Shift-JIS"),
        ("a.txt", euc.repeat(5), "EUC-JP"),
        ("a.jsonl", [b"{\"text\": \"", &euc[..], b"\"}\n"].concat(), "EUC-JP"),
        ("a.txt", [b"From: \n".as_slice(), iso].concat(), "ISO-2022-JP"),
    ];
    for (name, bytes, encoding) in cases {
        let (found, _) = read(name, &bytes);
        let [Err(Trouble::File(problem))] = found.as_slice() else { panic!("{name}, {encoding}: {found:?}") };
        assert_eq!(problem.kind, FileProblemKind::Unreadable, "{name}");
        assert!(problem.why.contains(encoding) && problem.why.contains("expected UTF-8"), "{name}: {}", problem.why);
    }
    // A few wrong bytes are broken records, and Japanese in UTF-8 is what it is.
    check("a.jsonl", [b"{\"text\": \"caf\xe9\"}\n".as_slice(), b"{\"text\": \"two\"}\n"].concat(), &[
        Err("invalid UTF-8"),
        Ok("two"),
    ]);
    check("a.txt", "料理の醤油と砂糖を混ぜる。", &[Ok("料理の醤油と砂糖を混ぜる。")]);
}

#[test]
fn what_a_setting_or_a_column_does_not_allow_is_refused_by_its_name() {
    let narrow = DocumentFields { zstd_window_bytes_max: 128 << 20, ..fields() };
    check_with("long.jsonl.zst", &zst_long(b"{\"text\": \"one\"}\n"), &narrow, &[Err("fields.zstd_window_bytes_max (134217728 bytes)")]);
    check_with("short.jsonl.zst", &zst(b"{\"text\": \"one\"}\n"), &narrow, &[Ok("one")]);
    let texts = TEXTS.map(Some);
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let named = |text: &str, array: ArrayRef| {
        parquet(&[meta(strings(texts)), ("source", strings(texts)), (text, array)])
    };
    check("a.parquet", named("body", strings(texts)), &[Err("column \"text\" is missing; the columns are meta, source, body")]);
    check("a.parquet", named("text", numbers), &[Err("column \"text\": expected text or lists of texts, found Int64")]);
    check("a.parquet", parquet(&[("text", strings(texts))]), &[Err("column \"meta.id\" is missing")]);
}

fn rows(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("document {i} {}", "of some words ".repeat(i % 7))).collect()
}

fn lines(texts: &[String]) -> Vec<u8> {
    texts.iter().map(|text| serde_json::json!({ "text": text }).to_string() + "\n").collect::<String>().into()
}

/// Parquet in row groups of 40 rows and pages of 10; `checksums`: each page has one.
fn groups(texts: &[String], codec: Codec, dictionary: bool, checksums: bool) -> Vec<u8> {
    let properties = WriterProperties::builder()
        .set_compression(codec)
        .set_dictionary_enabled(dictionary)
        .set_max_row_group_row_count(Some(40))
        .set_data_page_row_count_limit(10)
        .set_write_batch_size(10)
        .set_write_page_header_statistics(true)
        .set_page_checksums(checksums);
    let texts: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
    parquet_of(&RecordBatch::try_from_iter([("text", texts)]).unwrap(), properties.build())
}

/// Where the chunk of a row group lies, and where its dictionary page ends.
fn chunk(bytes: &[u8], group: usize) -> (Range<usize>, usize) {
    let reader = SerializedFileReader::new(bytes::Bytes::copy_from_slice(bytes)).unwrap();
    let column = reader.metadata().row_group(group).column(0);
    let (first, length) = column.byte_range();
    (first as usize..(first + length) as usize, column.data_page_offset() as usize)
}

/// The documents are the first of `texts`, and what ends them is damage.
fn check_damaged(name: &str, bytes: &[u8], texts: &[String], at_least: usize) {
    let (mut found, _) = read_with(name, bytes, &DocumentFields::default());
    let last = found.pop();
    let Some(Err(Trouble::File(problem))) = last else { panic!("{name}: {last:?} after {} documents", found.len()) };
    assert_eq!(problem.kind, FileProblemKind::Damaged, "{name}: {}", problem.why);
    assert_eq!(problem.record, found.len() as u64 + 1, "{name}");
    let found: Vec<String> = found.into_iter().map(|item| item.unwrap().text).collect();
    assert_eq!(found, texts[..found.len()], "{name}");
    assert!((at_least..texts.len()).contains(&found.len()), "{name}: {} documents", found.len());
}

#[test]
fn a_file_that_ends_early_or_is_damaged_says_where_and_keeps_what_came_before() {
    let texts = rows(120);
    let plain = lines(&texts);
    let half = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    let scribbled = |bytes: &[u8], at: Range<usize>, byte: u8| {
        let mut bytes = bytes.to_vec();
        bytes[at].fill(byte);
        bytes
    };
    let array = serde_json::to_vec(&texts.iter().map(|text| serde_json::json!({ "text": text })).collect::<Vec<_>>()).unwrap();
    let big: String = (0..40_000).map(|i| format!("Line {i} of a long book, with words.\n\n")).collect();
    let snappy = groups(&texts, Codec::SNAPPY, false, false);
    let raw = groups(&texts, Codec::UNCOMPRESSED, false, false);
    let summed = groups(&texts, Codec::UNCOMPRESSED, false, true);
    let dictionary = groups(&texts, Codec::SNAPPY, true, false);
    let (second, _) = chunk(&snappy, 1);
    let (third, _) = chunk(&raw, 2);
    let (sum, _) = chunk(&summed, 1);
    let (dict, dict_end) = chunk(&dictionary, 1);
    let cut_line = plain[..plain.len() - 3].to_vec();
    let cut_character = [lines(&texts[..9]), b"{\"text\": \"\xe6\x96".to_vec()].concat();
    // (name, bytes, documents that must have come)
    let files: [(&str, Vec<u8>, usize); 26] = [
        ("cut.jsonl", cut_line.clone(), 119),
        ("cut-character.jsonl", cut_character.clone(), 9),
        ("cut.jsonl.gz", half(&gzip(&plain)), 1),
        ("cut-trailer.jsonl.gz", gzip(&plain)[..gzip(&plain).len() - 5].to_vec(), 100),
        ("cut-member.jsonl.gz", [gzip(&lines(&texts[..9])), half(&gzip(&plain))].concat(), 9),
        ("whole-gz-of-cut-lines.jsonl.gz", gzip(&cut_line), 119),
        ("empty.jsonl.gz", Vec::new(), 0),
        ("zeros.jsonl.gz", vec![0; 700], 0),
        ("no-gzip.jsonl.gz", plain.clone(), 0),
        ("behind.jsonl.gz", [gzip(&lines(&texts[..9])), b"more".to_vec()].concat(), 9),
        ("flipped.jsonl.gz", scribbled(&gzip(&plain), 200..201, 0xa5), 0),
        ("cut.jsonl.zst", half(&zst(&plain)), 0),
        ("cut-frame.jsonl.zst", [zst(&lines(&texts[..9])), half(&zst(&plain))].concat(), 9),
        ("empty.jsonl.zst", Vec::new(), 0),
        ("no-zstd.jsonl.zst", plain.clone(), 0),
        ("cut.json", half(&array), 40),
        ("cut-bracket.json", array[..array.len() - 1].to_vec(), 119),
        ("cut.txt.gz", half(&gzip(&plain)), 0),
        ("cut.parquet", snappy[..snappy.len() * 2 / 3].to_vec(), 0),
        ("empty.parquet", Vec::new(), 0),
        ("page.parquet", scribbled(&snappy, second.start + second.len() / 2..second.start + second.len() / 2 + 64, 0xa5), 40),
        ("header.parquet", scribbled(&snappy, second.start..second.start + 12, 0xff), 40),
        ("header-zero.parquet", scribbled(&snappy, second.start..second.start + 12, 0), 40),
        ("length.parquet", scribbled(&raw, third.end - 100..third.end - 20, 0xff), 80),
        ("checksum.parquet", scribbled(&summed, sum.end - 5..sum.end - 4, b'#'), 40),
        ("dictionary.parquet", scribbled(&dictionary, dict.start + 30..dict_end - 2, 0), 40),
    ];
    for (name, bytes, at_least) in files {
        let expect = if name == "cut-bracket.json" { [texts.clone(), vec!["x".into()]].concat() } else { texts.clone() };
        check_damaged(name, &bytes, &expect, at_least);
    }
    let (found, _) = read_with("cut-book.txt.gz", &half(&gzip(big.as_bytes())), &DocumentFields::default());
    assert!(found.iter().rev().skip(1).all(Result::is_ok) && found.len() > 10);
    assert!(matches!(found.last(), Some(Err(Trouble::File(problem))) if problem.kind == FileProblemKind::Damaged));
    // What was lost of a Parquet file is known.
    let (mut found, _) = read_with("a.parquet", &scribbled(&snappy, second.start..second.start + 12, 0xff), &DocumentFields::default());
    let last = found.pop().unwrap().unwrap_err().to_string();
    assert!(last.contains("80 rows are not read"), "{last}");
}

#[test]
fn a_batch_of_parquet_is_bounded_by_its_text() {
    let check = |rows: u64, bytes: u64, expect: u64| assert_eq!(columns::batch_rows(rows, bytes), expect, "{rows}, {bytes}");
    check(0, 0, 512);
    check(1_000_000, 100_000_000, 512);
    check(1_000, 1 << 30, 16);
    check(8, 8 << 30, 1);
    let texts: Vec<String> = (0..6).map(|i| i.to_string().repeat(5 << 20)).collect();
    let bytes = groups(&texts, Codec::ZSTD(parquet::basic::ZstdLevel::default()), true, false);
    let expect: Vec<Result<&str, &str>> = texts.iter().map(|text| Ok(text.as_str())).collect();
    check_with("a.parquet", &bytes, &DocumentFields::default(), &expect);
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("folder.jsonl")).unwrap();
    File::create(folder.path().join("a.md")).unwrap();
    for (name, why) in [("gone.jsonl", "No such file"), ("folder.jsonl", "expected a file"), ("a.md", "unknown ending")] {
        let error = documents(&folder.path().join(name), &fields()).err().unwrap().to_string();
        assert!(error.contains(name) && error.contains(why), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever byte a download breaks off at, and whatever byte rots: reading ends, no document is one that was not
    /// there (but where a file has no checksum), and a cut is always said.
    #[test]
    fn no_cut_goes_unsaid_and_no_damage_is_endless(n in 1_usize..90, kind in 0_usize..6, at: prop::sample::Index, byte: u8) {
        let texts = rows(n);
        let plain = lines(&texts);
        let (name, whole) = match kind {
            0 => ("a.jsonl.gz", gzip(&plain)),
            1 => ("a.jsonl.zst", zst(&plain)),
            2 => ("a.jsonl", plain.clone()),
            3 => ("a.json", serde_json::to_vec(&texts.iter().map(|t| serde_json::json!({ "text": t })).collect::<Vec<_>>()).unwrap()),
            4 => ("a.parquet", groups(&texts, Codec::SNAPPY, true, false)),
            _ => ("a.parquet", groups(&texts, Codec::UNCOMPRESSED, false, true)),
        };
        let at = at.index(whole.len());
        let (cut, _) = read_with(name, &whole[..at], &DocumentFields::default());
        let damaged = matches!(cut.last(), Some(Err(Trouble::File(problem))) if problem.kind == FileProblemKind::Damaged);
        let good: Vec<&str> = cut.iter().filter_map(|item| item.as_ref().ok()).map(|d| d.text.as_str()).collect();
        prop_assert_eq!(&good[..], &texts.iter().map(String::as_str).collect::<Vec<_>>()[..good.len()]);
        // Nothing tells a file of lines that ends with a line, nor an empty file, from a whole one.
        let unknowable = at == 0 && kind >= 2 && kind < 4 || kind == 2 && [b'\n', b'}'].contains(&whole[at - 1]);
        prop_assert!(damaged || unknowable, "{name} of {n}, cut at {at}: {:?}", cut.last());

        let mut rotten = whole.clone();
        rotten[at] ^= byte;
        let (found, _) = read_with(name, &rotten, &DocumentFields::default());
        prop_assert!(found.len() <= n + 3, "{name}: {} items of {n} records", found.len());
    }
}
