//! Formats, fields, encodings, and what is one record.

use super::*;
use arrow_array::{
    BinaryArray, DictionaryArray, Int64Array, LargeStringArray, ListArray, StringArray, StringViewArray, StructArray,
    builder::{ListBuilder, StringBuilder},
    types::Int32Type,
};
use arrow_schema::Field;
use parquet::basic::Compression as Codec;
use senmon_protocol::corpus::TextDocuments;
use std::{fs::File, sync::Arc};

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
        (
            "arrays.json.zst",
            zst([format!("[{}]", lines[0]), format!("[{}]", lines[1..].join(","))].join("\n").as_bytes()),
        ),
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
        (
            "category-source.parquet",
            parquet(&[meta(ids.clone()), ("source", Arc::new(category)), ("text", strings(texts))]),
        ),
        ("dotted.parquet", parquet(&[("meta.id", ids.clone()), ("source", sources.clone()), ("text", strings(texts))])),
        ("numbers.parquet", parquet(&[meta(numbers), ("source", sources.clone()), ("text", strings(texts))])),
    ];
    for (name, bytes) in files {
        let (found, counts) = read(name, &bytes);
        let found: Vec<Document> =
            found.into_iter().map(|item| item.unwrap_or_else(|error| panic!("{name}: {error}"))).collect();
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
    let long = format!("{{\"text\": \"{}\"}}\n{{\"text\": \"short\"}}\n", "x".repeat(item::RECORD_BYTES_MAX));
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
        assert_eq!(texts(name, &bytes, TextDocuments::File), std::slice::from_ref(&book), "{name}");
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
    let sjis =
        b"\x97\xbf\x97\x9d\x82\xcc\x8f\xdd\x96\xfb\x82\xc6\x8d\xbb\x93\x9c\x82\xf0\x8d\xac\x82\xba\x82\xe9\x81\x42";
    let euc =
        b"\xce\xc1\xcd\xfd\xa4\xce\xbe\xdf\xcc\xfd\xa4\xc8\xba\xbd\xc5\xfc\xa4\xf2\xba\xae\xa4\xbc\xa4\xeb\xa1\xa3";
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
    check(
        "a.jsonl",
        [b"{\"text\": \"caf\xe9\"}\n".as_slice(), b"{\"text\": \"two\"}\n"].concat(),
        &[Err("invalid UTF-8"), Ok("two")],
    );
    check("a.txt", "料理の醤油と砂糖を混ぜる。", &[Ok("料理の醤油と砂糖を混ぜる。")]);
}

#[test]
fn what_a_setting_or_a_column_does_not_allow_is_refused_by_its_name() {
    let narrow = DocumentFields { zstd_window_bytes_max: 128 << 20, ..fields() };
    check_with(
        "long.jsonl.zst",
        &zst_long(b"{\"text\": \"one\"}\n"),
        &narrow,
        &[Err("fields.zstd_window_bytes_max (134217728 bytes)")],
    );
    check_with("short.jsonl.zst", &zst(b"{\"text\": \"one\"}\n"), &narrow, &[Ok("one")]);
    let texts = TEXTS.map(Some);
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let named =
        |text: &str, array: ArrayRef| parquet(&[meta(strings(texts)), ("source", strings(texts)), (text, array)]);
    check(
        "a.parquet",
        named("body", strings(texts)),
        &[Err("column \"text\" is missing; the columns are meta, source, body")],
    );
    check("a.parquet", named("text", numbers), &[Err("column \"text\": expected text or lists of texts, found Int64")]);
    check("a.parquet", parquet(&[("text", strings(texts))]), &[Err("column \"meta.id\" is missing")]);
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("folder.jsonl")).unwrap();
    File::create(folder.path().join("a.md")).unwrap();
    for (name, why) in [("gone.jsonl", "no such file"), ("folder.jsonl", "expected a file"), ("a.md", "unknown ending")]
    {
        let error = documents(&Roots::whole_disk(), &folder.path().join(name), &fields()).err().unwrap().to_string();
        assert!(error.contains(name) && error.contains(why), "{error}");
    }
}

#[test]
fn a_group_is_the_field_or_the_id_up_to_its_first_hash_sign() {
    let check = |line: &str, group: Option<&str>, expect: &str| {
        let fields =
            DocumentFields { id: Some("id".into()), group: group.map(Into::into), ..DocumentFields::default() };
        let key = |fields: &DocumentFields| {
            let (found, _) = read_with("a#b.jsonl", line.as_bytes(), fields);
            found[0].as_ref().unwrap().split_key().to_owned()
        };
        assert_eq!(key(&fields), expect, "{line}");
        assert_eq!(key(&DocumentFields::default()), "a#b.jsonl:1");
    };
    check(r#"{"id": "page#1", "text": "x"}"#, None, "page");
    check(r#"{"id": "page#1#2", "text": "x"}"#, None, "page");
    check(r#"{"id": "page", "text": "x"}"#, None, "page");
    check(r#"{"id": "page#1", "site": "s#1", "text": "x"}"#, Some("site"), "s#1");
    check(r#"{"id": "page#1", "text": "x"}"#, Some("site"), "page");
}
