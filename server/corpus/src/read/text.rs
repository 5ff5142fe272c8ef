//! Records of plain text: the file, its lines, or blocks of it.
//!
//! Line ends are `\n`, whatever the file has. Never holds more than a record and a line.

use super::{
    item::{Item, RECORD_BYTES_MAX},
    record::Maker,
    records::{Records, broken_stream},
};
use senmon_protocol::corpus::TextDocuments;
use std::io::{self, BufRead, Cursor, Read};

/// A text up to this length is one document: a note, an article. A book is longer.
const WHOLE_BYTES_MAX: usize = 1 << 20;
/// Paragraphs are gathered up to this length: a page or two, a few windows of any model.
const BLOCK_BYTES_MAX: usize = 8 << 10;

/// The records of a text file.
pub(super) struct Text {
    input: Box<dyn BufRead + Send>,
    documents: TextDocuments,
    maker: Maker,
    record: u64,
    block: Block,
}

/// A block while it grows.
#[derive(Default)]
struct Block {
    bytes: Vec<u8>,
    /// Where it is best cut: behind the last blank line.
    paragraph_end: usize,
    /// Where its last piece begins.
    piece_start: usize,
    /// What was cut off a long line and comes next.
    carried: Vec<u8>,
    /// The last piece ended with a line end.
    at_line_start: bool,
}

impl Text {
    pub(super) fn new(input: Box<dyn BufRead + Send>, documents: TextDocuments, maker: Maker) -> Self {
        Self { input, documents, maker, record: 0, block: Block { at_line_start: true, ..Block::default() } }
    }

    fn record(&mut self) -> io::Result<Option<Item>> {
        match self.documents {
            TextDocuments::Line => self.line(),
            TextDocuments::Block => self.block(),
            TextDocuments::File => self.whole(),
            TextDocuments::Auto => {
                let mut head = Vec::new();
                self.input.by_ref().take(WHOLE_BYTES_MAX as u64 + 1).read_to_end(&mut head)?;
                let short = head.len() <= WHOLE_BYTES_MAX;
                let rest = std::mem::replace(&mut self.input, Box::new(io::empty()));
                self.input = Box::new(Cursor::new(head).chain(rest));
                self.documents = if short { TextDocuments::File } else { TextDocuments::Block };
                self.record()
            }
        }
    }

    fn whole(&mut self) -> io::Result<Option<Item>> {
        if self.record > 0 {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        self.input.by_ref().take(RECORD_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
        self.record = 1;
        if bytes.len() > RECORD_BYTES_MAX {
            io::copy(&mut self.input, &mut io::sink())?;
            return Ok(Some(self.maker.too_long(0)));
        }
        Ok(Some(self.maker.plain(0, bytes)))
    }

    fn line(&mut self) -> io::Result<Option<Item>> {
        loop {
            let mut bytes = Vec::new();
            let n = self.input.by_ref().take(RECORD_BYTES_MAX as u64 + 1).read_until(b'\n', &mut bytes)?;
            if n == 0 {
                return Ok(None);
            }
            let too_long = n > RECORD_BYTES_MAX && bytes.last() != Some(&b'\n');
            if too_long {
                skip_line(&mut self.input)?;
            }
            while matches!(bytes.last(), Some(b'\n' | b'\r')) {
                bytes.pop();
            }
            if bytes.trim_ascii().is_empty() {
                continue;
            }
            let record = self.next_record();
            return Ok(Some(if too_long { self.maker.too_long(record) } else { self.maker.plain(record, bytes) }));
        }
    }

    fn block(&mut self) -> io::Result<Option<Item>> {
        loop {
            let block = &mut self.block;
            // More than one piece: a piece alone is never longer.
            if block.bytes.len() > BLOCK_BYTES_MAX {
                let cut = if block.paragraph_end > 0 { block.paragraph_end } else { block.piece_start };
                let rest = block.bytes.split_off(cut);
                let bytes = std::mem::replace(&mut block.bytes, rest);
                (block.paragraph_end, block.piece_start) = (0, block.piece_start.saturating_sub(cut));
                match self.emit(&bytes) {
                    Some(item) => return Ok(Some(item)),
                    None => continue,
                }
            }
            let Some(piece) = self.piece()? else {
                let bytes = std::mem::take(&mut self.block.bytes);
                return Ok(self.emit(&bytes));
            };
            let block = &mut self.block;
            block.piece_start = block.bytes.len();
            block.bytes.extend_from_slice(&piece);
            if block.at_line_start && piece.trim_ascii().is_empty() {
                block.paragraph_end = block.bytes.len();
            }
            block.at_line_start = piece.last() == Some(&b'\n');
        }
    }

    /// A line, or as much of a long one as fits a block, cut behind a space or between characters.
    fn piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = std::mem::take(&mut self.block.carried);
        let room = BLOCK_BYTES_MAX - bytes.len();
        self.input.by_ref().take(room as u64).read_until(b'\n', &mut bytes)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        if bytes.len() == BLOCK_BYTES_MAX && bytes.last() != Some(&b'\n') {
            let half = bytes.len() / 2;
            let space = bytes[half..].iter().rposition(u8::is_ascii_whitespace).map(|at| half + at + 1);
            let character = || bytes.iter().rposition(|byte| byte & 0xc0 != 0x80).filter(|at| *at > half);
            if let Some(cut) = space.or_else(character) {
                self.block.carried = bytes.split_off(cut);
            }
        }
        Ok(Some(bytes))
    }

    /// A block without the blank lines around it; None where there is nothing else.
    fn emit(&mut self, bytes: &[u8]) -> Option<Item> {
        let first = bytes.iter().position(|byte| !matches!(byte, b'\n' | b'\r'))?;
        let last = bytes.iter().rposition(|byte| !byte.is_ascii_whitespace())?;
        let record = self.next_record();
        Some(self.maker.plain(record, bytes[first..=last].to_vec()))
    }

    fn next_record(&mut self) -> u64 {
        self.record += 1;
        self.record - 1
    }
}

impl Records for Text {
    fn next(&mut self) -> Option<Item> {
        self.record().unwrap_or_else(|error| Some(Err(broken_stream(self.record, &error))))
    }

    fn maker(&self) -> &Maker {
        &self.maker
    }
}

/// Reads to the end of the line.
pub(super) fn skip_line(input: &mut impl BufRead) -> io::Result<()> {
    input.skip_until(b'\n').map(drop)
}
