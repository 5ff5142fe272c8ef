//! Records of JSON: an object a line, arrays of objects, objects over several lines.
//!
//! An array is never held: its values are cut off the stream one by one, by their brackets.

use super::{
    item::{Document, Item, RECORD_BYTES_MAX, damaged},
    record::Maker,
    records::{Records, broken_stream},
};
use serde_json::Value;
use std::{
    borrow::Cow,
    io::{self, BufRead, BufReader, Read},
};

/// The records of a JSON file.
pub(super) struct Json<R> {
    input: BufReader<R>,
    maker: Maker,
    record: u64,
    shape: Option<Shape>,
    /// The first line, read to find the shape.
    first: Option<Line>,
}

/// How records follow each other.
#[derive(Clone, Copy)]
enum Shape {
    Lines,
    /// Values one after the other; `open`: inside an array.
    Values {
        open: bool,
    },
}

struct Line {
    bytes: Vec<u8>,
    /// It ended with a line end, not with the file.
    whole: bool,
    too_long: bool,
}

/// A value cut off the stream.
enum Cut {
    Value(Vec<u8>),
    TooLong,
    /// The stream ended inside it, or inside the array.
    Early,
    End,
}

impl<R: Read + Send> Records for Json<R> {
    fn next(&mut self) -> Option<Item> {
        let item = match self.shape {
            Some(Shape::Lines) => self.next_line(),
            Some(Shape::Values { open }) => self.next_value(open),
            None => self.find_shape().and_then(|shape| {
                self.shape = Some(shape);
                match shape {
                    Shape::Lines => self.next_line(),
                    Shape::Values { open } => self.next_value(open),
                }
            }),
        };
        item.unwrap_or_else(|error| Some(Err(broken_stream(self.record, &error))))
    }

    fn maker(&self) -> &Maker {
        &self.maker
    }
}

impl<R: Read> Json<R> {
    pub(super) fn new(input: BufReader<R>, maker: Maker) -> Self {
        Self { input, maker, record: 0, shape: None, first: None }
    }

    /// An array begins with its bracket; a bracket alone on the first line opens an object over several lines.
    fn find_shape(&mut self) -> io::Result<Shape> {
        match self.peek()? {
            Some(b'[') => Ok(Shape::Values { open: false }),
            Some(b'{') => {
                let line = self.line()?;
                let alone = line.as_ref().is_some_and(|line| line.bytes.trim_ascii() == b"{");
                self.first = line;
                Ok(if alone { Shape::Values { open: false } } else { Shape::Lines })
            }
            _ => Ok(Shape::Lines),
        }
    }

    fn next_line(&mut self) -> io::Result<Option<Item>> {
        loop {
            let line = match self.first.take() {
                Some(line) => line,
                None => match self.line()? {
                    Some(line) => line,
                    None => return Ok(None),
                },
            };
            // Files that begin with a mark were joined.
            let bytes = line.bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line.bytes);
            if bytes.trim_ascii().is_empty() && !line.too_long {
                continue;
            }
            let record = self.record;
            let item = if line.too_long {
                self.maker.too_long(record)
            } else {
                match parse(bytes) {
                    Ok(value) => self.document(&value),
                    Err(NotJson { why, early: true }) if !line.whole => {
                        return Ok(Some(Err(damaged(record, format!("the last line ends early: {why}")))));
                    }
                    Err(NotJson { why, .. }) => self.maker.broken(record, why),
                }
            };
            self.record += 1;
            return Ok(Some(item));
        }
    }

    fn next_value(&mut self, open: bool) -> io::Result<Option<Item>> {
        let cut = self.value(open)?;
        let record = self.record;
        let item = match cut {
            Cut::End => return Ok(None),
            Cut::Early => return Ok(Some(Err(damaged(record, "the file ends early, inside an array or a value")))),
            Cut::TooLong => self.maker.too_long(record),
            Cut::Value(bytes) => match parse(&bytes) {
                Ok(value) => self.document(&value),
                Err(NotJson { why, .. }) => self.maker.broken(record, why),
            },
        };
        self.record += 1;
        Ok(Some(item))
    }

    fn document(&mut self, parsed: &Parsed) -> Item {
        let item: Result<Document, _> = self.maker.json(self.record, &parsed.value);
        self.maker.notes.surrogates_replaced += u64::from(parsed.replaced);
        item
    }

    /// The next line, its end left out; None at the end.
    fn line(&mut self) -> io::Result<Option<Line>> {
        let mut bytes = Vec::new();
        let n = self.input.by_ref().take(RECORD_BYTES_MAX as u64 + 1).read_until(b'\n', &mut bytes)?;
        if n == 0 {
            return Ok(None);
        }
        let whole = bytes.last() == Some(&b'\n');
        if whole || n <= RECORD_BYTES_MAX {
            return Ok(Some(Line { bytes, whole, too_long: false }));
        }
        super::text::skip_line(&mut self.input)?;
        Ok(Some(Line { bytes: Vec::new(), whole: true, too_long: true }))
    }

    /// The next byte that is no space, not consumed.
    fn peek(&mut self) -> io::Result<Option<u8>> {
        loop {
            let waiting = self.input.fill_buf()?;
            let spaces = waiting.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            let (found, empty) = (waiting.get(spaces).copied(), waiting.is_empty());
            self.input.consume(spaces);
            if found.is_some() || empty {
                return Ok(found);
            }
        }
    }

    /// Cuts the next value off. A bracket outside every value opens or closes an array.
    fn value(&mut self, mut open: bool) -> io::Result<Cut> {
        let mut scanner = Scanner::default();
        let mut bytes = Vec::new();
        if let Some(line) = self.first.take() {
            // The opening bracket of an object over several lines.
            for &byte in &line.bytes {
                let _ = scanner.feed(byte);
            }
            bytes = line.bytes;
        } else {
            loop {
                match self.peek()? {
                    None => return Ok(if open { Cut::Early } else { Cut::End }),
                    Some(b',') => self.input.consume(1),
                    Some(b']') if open => {
                        self.input.consume(1);
                        open = false;
                    }
                    Some(b'[') if !open => {
                        self.input.consume(1);
                        open = true;
                    }
                    Some(_) => break,
                }
                self.shape = Some(Shape::Values { open });
            }
        }
        let mut too_long = false;
        loop {
            let waiting = self.input.fill_buf()?;
            if waiting.is_empty() {
                // A number or a word outside an array ends with the file.
                let ended = scanner.depth == 0 && !scanner.in_text && !open;
                return Ok(if ended { Cut::Value(bytes) } else { Cut::Early });
            }
            let (mut used, mut end) = (0, false);
            for &byte in waiting {
                match scanner.feed(byte) {
                    Step::Within => used += 1,
                    Step::Last => (used, end) = (used + 1, true),
                    Step::Behind => end = true,
                }
                if end {
                    break;
                }
            }
            too_long |= bytes.len() + used > RECORD_BYTES_MAX;
            if !too_long {
                bytes.extend_from_slice(&waiting[..used]);
            }
            self.input.consume(used);
            if end {
                return Ok(if too_long { Cut::TooLong } else { Cut::Value(bytes) });
            }
        }
    }
}

/// Finds the end of a value by brackets and quotes.
#[derive(Default)]
struct Scanner {
    depth: u64,
    in_text: bool,
    escaped: bool,
    bytes: u64,
}

enum Step {
    /// The byte belongs to the value, which goes on.
    Within,
    /// The byte is the value's last.
    Last,
    /// The value ended before the byte.
    Behind,
}

impl Scanner {
    fn feed(&mut self, byte: u8) -> Step {
        let first = self.bytes == 0;
        self.bytes += 1;
        if self.in_text {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_text = false,
                _ => {}
            }
            return if self.in_text || self.depth > 0 { Step::Within } else { Step::Last };
        }
        match byte {
            b'"' if self.depth == 0 && !first => return Step::Behind,
            b'"' => self.in_text = true,
            b'{' | b'[' if self.depth == 0 && !first => return Step::Behind,
            b'{' | b'[' => self.depth += 1,
            // A closing bracket that nothing opened is a (broken) value of its own: reading always goes on.
            b'}' | b']' if self.depth == 0 => return if first { Step::Last } else { Step::Behind },
            b'}' | b']' => {
                self.depth -= 1;
                return if self.depth == 0 { Step::Last } else { Step::Within };
            }
            b',' if self.depth == 0 => return Step::Behind,
            _ if self.depth == 0 && byte.is_ascii_whitespace() => return Step::Behind,
            _ => {}
        }
        Step::Within
    }
}

struct Parsed {
    value: Value,
    replaced: bool,
}

struct NotJson {
    why: String,
    /// It could be the beginning of something valid.
    early: bool,
}

fn parse(bytes: &[u8]) -> Result<Parsed, NotJson> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| NotJson { why: format!("invalid UTF-8: {error}"), early: error.error_len().is_none() })?;
    let not_json = |error: serde_json::Error| NotJson { why: format!("invalid JSON: {error}"), early: error.is_eof() };
    match serde_json::from_str(text) {
        Ok(value) => Ok(Parsed { value, replaced: false }),
        Err(error) => match replace_lone_surrogates(text) {
            Cow::Borrowed(_) => Err(not_json(error)),
            Cow::Owned(mended) => {
                serde_json::from_str(&mended).map(|value| Parsed { value, replaced: true }).map_err(not_json)
            }
        },
    }
}

/// Replaces escapes of half a character (`\ud83d` without its second half, or the other way round) by `\ufffd`.
fn replace_lone_surrogates(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let escape = |at: usize| {
        let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let (mut out, mut copied, mut at) = (String::new(), 0, 0);
    while let Some(found) = bytes[at..].iter().position(|byte| *byte == b'\\') {
        at += found;
        at += match (escape(at), escape(at + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                out.push_str(&text[copied..at]);
                out.push_str("\\ufffd");
                copied = at + 6;
                6
            }
            // Any other escape: what follows the backslash opens none itself.
            _ => 2,
        };
        at = at.min(bytes.len());
    }
    if copied == 0 { Cow::Borrowed(text) } else { Cow::Owned(out + &text[copied..]) }
}
