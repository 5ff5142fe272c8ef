//! The records of a file, whatever its format.

use super::{
    bytes,
    item::{Item, Trouble, damaged, unreadable},
    record::Maker,
};
use std::io;

/// The records of one format.
pub(super) trait Records: Send {
    /// The next item; None at the end.
    fn next(&mut self) -> Option<Item>;
    /// What makes its documents.
    fn maker(&self) -> &Maker;
}

/// A file that is not read at all.
pub(super) struct Refused {
    pub maker: Maker,
    pub problem: Option<Trouble>,
}

impl Records for Refused {
    fn next(&mut self) -> Option<Item> {
        self.problem.take().map(Err)
    }

    fn maker(&self) -> &Maker {
        &self.maker
    }
}

/// What an error of the byte layer means for the file.
pub(super) fn broken_stream(record: u64, error: &io::Error) -> Trouble {
    if let Some(why) = bytes::window_too_long(error) {
        return unreadable(record, why);
    }
    match error.kind() {
        // An error of the disk says nothing about the bytes on it.
        _ if error.raw_os_error().is_some() => unreadable(record, format!("it could not be read: {error}")),
        io::ErrorKind::UnexpectedEof => damaged(record, format!("the file ends early: {error}")),
        _ => damaged(record, format!("the file is damaged: {error}")),
    }
}
