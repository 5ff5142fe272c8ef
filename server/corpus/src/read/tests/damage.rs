//! Files that end early or are damaged.

use super::*;
use arrow_array::StringArray;
use parquet::{
    basic::Compression as Codec,
    file::reader::{FileReader, SerializedFileReader},
};
use proptest::prelude::*;
use std::{ops::Range, sync::Arc};

fn rows(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("document {i} {}", "of some words ".repeat(i % 7))).collect()
}

fn lines(texts: &[String]) -> Vec<u8> {
    texts.iter().map(|text| serde_json::json!({ "text": text }).to_string() + "\n").collect::<String>().into()
}

/// Parquet in row groups of 40 rows and pages of 10.
fn groups(texts: &[String], codec: Codec, dictionary: bool) -> Vec<u8> {
    let properties = WriterProperties::builder()
        .set_compression(codec)
        .set_dictionary_enabled(dictionary)
        .set_max_row_group_row_count(Some(40))
        .set_data_page_row_count_limit(10)
        .set_write_batch_size(10)
        .set_write_page_header_statistics(true);
    let texts: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
    parquet_of(&RecordBatch::try_from_iter([("text", texts)]).unwrap(), properties.build())
}

/// "one", "two", "three" in a page with a checksum, which our writer cannot make (pyarrow 26, `write_page_checksum`).
const CHECKSUM: &[u8; 202] = b"\
    PAR1\x15\x00\x15:\x15:\x15\xd0\xd8\xfa\xbf\x06\x1c\x15\x06\x15\x00\x15\x06\x15\x06\x1c\x00\x00\x00\
    \x02\x00\x00\x00\x06\x01\x03\x00\x00\x00one\x03\x00\x00\x00two\x05\x00\x00\x00three\x15\x04\x19,5\
    \x00\x18\x06schema\x15\x02\x00\x15\x0c%\x02\x18\x04text%\x00L\x1c\x00\x00\x00\x16\x06\x19\x1c\x19\
    \x1c&\x00\x1c\x15\x0c\x19%\x06\x00\x19\x18\x04text\x15\x00\x16\x06\x16l\x16l&\x08I\x1c\x15\x00\x15\
    \x00\x15\x02\x00<\x16\x16\x19\x06\x19&\x00\x06\x00\x00\x00\x16l\x16\x06&\x08\x16l\x00( parquet-cpp-a\
    rrow version 26.0.1\x19\x1c\x1c\x00\x00\x00\x88\x00\x00\x00PAR1";

/// Where the chunk of a row group lies, and where its dictionary page ends.
fn chunk(bytes: &[u8], group: usize) -> (Range<usize>, usize) {
    let reader = SerializedFileReader::new(::bytes::Bytes::copy_from_slice(bytes)).unwrap();
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
    assert!((at_least..=texts.len()).contains(&found.len()), "{name}: {} documents", found.len());
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
    let array =
        serde_json::to_vec(&texts.iter().map(|text| serde_json::json!({ "text": text })).collect::<Vec<_>>()).unwrap();
    let big: String = (0..120_000).map(|i| format!("Line {i} of a long book, with words.\n\n")).collect();
    let snappy = groups(&texts, Codec::SNAPPY, false);
    let raw = groups(&texts, Codec::UNCOMPRESSED, false);
    let dictionary = groups(&texts, Codec::SNAPPY, true);
    let (second, _) = chunk(&snappy, 1);
    let (third, _) = chunk(&raw, 2);
    let (dict, dict_end) = chunk(&dictionary, 1);
    let cut_line = plain[..plain.len() - 3].to_vec();
    let cut_character = [lines(&texts[..9]), b"{\"text\": \"\xe6\x96".to_vec()].concat();
    // (name, bytes, documents that must have come)
    let files: [(&str, Vec<u8>, usize); 24] = [
        ("cut.jsonl", cut_line.clone(), 119),
        ("cut-character.jsonl", cut_character.clone(), 9),
        ("cut.jsonl.gz", half(&gzip(&plain)), 1),
        ("cut-trailer.jsonl.gz", gzip(&plain)[..gzip(&plain).len() - 5].to_vec(), 100),
        ("cut-member.jsonl.gz", [gzip(&lines(&texts[..9])), half(&gzip(&lines(&texts[9..])))].concat(), 9),
        ("whole-gz-of-cut-lines.jsonl.gz", gzip(&cut_line), 119),
        ("empty.jsonl.gz", Vec::new(), 0),
        ("zeros.jsonl.gz", vec![0; 700], 0),
        ("no-gzip.jsonl.gz", plain.clone(), 0),
        ("behind.jsonl.gz", [gzip(&lines(&texts[..9])), b"more".to_vec()].concat(), 9),
        ("cut.jsonl.zst", half(&zst(&plain)), 0),
        ("cut-frame.jsonl.zst", [zst(&lines(&texts[..9])), half(&zst(&lines(&texts[9..])))].concat(), 9),
        ("empty.jsonl.zst", Vec::new(), 0),
        ("no-zstd.jsonl.zst", plain.clone(), 0),
        ("cut.json", half(&array), 40),
        ("cut-bracket.json", array[..array.len() - 1].to_vec(), 119),
        ("cut.txt.gz", half(&gzip(&plain)), 0),
        ("cut.parquet", snappy[..snappy.len() * 2 / 3].to_vec(), 0),
        ("empty.parquet", Vec::new(), 0),
        (
            "page.parquet",
            scribbled(&snappy, second.start + second.len() / 2..second.start + second.len() / 2 + 64, 0xa5),
            40,
        ),
        ("header.parquet", scribbled(&snappy, second.start..second.start + 12, 0xff), 40),
        ("header-zero.parquet", scribbled(&snappy, second.start..second.start + 12, 0), 40),
        ("length.parquet", scribbled(&raw, third.end - 100..third.end - 20, 0xff), 80),
        ("dictionary.parquet", scribbled(&dictionary, dict.start + 30..dict_end - 2, 0), 40),
    ];
    for (name, bytes, at_least) in files {
        check_damaged(name, &bytes, &texts, at_least);
    }
    let (found, _) = read_with("cut-book.txt.gz", &half(&gzip(big.as_bytes())), &DocumentFields::default());
    assert!(found.iter().rev().skip(1).all(Result::is_ok) && found.len() > 10);
    assert!(matches!(found.last(), Some(Err(Trouble::File(problem))) if problem.kind == FileProblemKind::Damaged));
    // A letter that no codec and no length betrays.
    let three = CHECKSUM.windows(5).position(|bytes| bytes == b"three").unwrap();
    check_with("sum.parquet", CHECKSUM, &DocumentFields::default(), &[Ok("one"), Ok("two"), Ok("three")]);
    check_damaged("sum.parquet", &scribbled(CHECKSUM, three..three + 1, b'T'), &texts, 0);
    // What was lost of a Parquet file is known.
    let (mut found, _) =
        read_with("a.parquet", &scribbled(&snappy, second.start..second.start + 12, 0xff), &DocumentFields::default());
    let last = found.pop().unwrap().unwrap_err().to_string();
    assert!(last.contains("80 rows are not read"), "{last}");
}

#[test]
fn a_batch_of_parquet_is_bounded_by_its_text() {
    let check =
        |rows: u64, bytes: u64, expect: u64| assert_eq!(columns::batch_rows(rows, bytes), expect, "{rows}, {bytes}");
    check(0, 0, 512);
    check(1_000_000, 100_000_000, 512);
    check(1_024, 1 << 30, 16);
    check(8, 8 << 30, 1);
    let texts: Vec<String> = (0..6).map(|i| i.to_string().repeat(5 << 20)).collect();
    let bytes = groups(&texts, Codec::ZSTD(parquet::basic::ZstdLevel::default()), true);
    let expect: Vec<Result<&str, &str>> = texts.iter().map(|text| Ok(text.as_str())).collect();
    check_with("a.parquet", &bytes, &DocumentFields::default(), &expect);
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
            4 => ("a.parquet", groups(&texts, Codec::SNAPPY, true)),
            _ => ("a.parquet", groups(&texts, Codec::UNCOMPRESSED, false)),
        };
        let at = at.index(whole.len());
        let (cut, _) = read_with(name, &whole[..at], &DocumentFields::default());
        let damaged = matches!(cut.last(), Some(Err(Trouble::File(problem))) if problem.kind == FileProblemKind::Damaged);
        let good: Vec<&str> = cut.iter().filter_map(|item| item.as_ref().ok()).map(|d| d.text.as_str()).collect();
        prop_assert_eq!(&good[..], &texts.iter().map(String::as_str).collect::<Vec<_>>()[..good.len()]);
        // Nothing tells a file of lines that ends with a line, nor an empty file, from a whole one.
        let unknowable = at == 0 && (2..4).contains(&kind) || kind == 2 && [b'\n', b'}'].contains(&whole[at - 1]);
        prop_assert!(damaged || unknowable, "{name} of {n}, cut at {at}: {:?}", cut.last());

        let mut rotten = whole.clone();
        rotten[at] ^= byte;
        let (found, _) = read_with(name, &rotten, &DocumentFields::default());
        // A packed stream can rot into any number of lines.
        prop_assert!(kind < 2 || found.len() <= n + 8, "{name}: {} items of {n} records", found.len());
    }
}
