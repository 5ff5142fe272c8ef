//! A file read at places, for Parquet.
//!
//! Never reads past the file's end, nor more of a page header than one holds; remembers what the disk refused, which is
//! no damage.

use super::item::{Trouble, damaged, unreadable};
use bytes::Bytes;
use parquet::{
    errors::ParquetError,
    file::reader::{ChunkReader, Length},
};
use std::{
    fs::File,
    io::{self, BufReader, Read},
    os::unix::fs::FileExt,
    sync::{Arc, OnceLock},
};

/// A page header holds two values of statistics and a few numbers. A damaged one may ask for the rest of the file.
const HEADER_BYTES_MAX: u64 = 16 << 20;

/// The file.
#[derive(Clone)]
pub(super) struct Place {
    file: Arc<File>,
    len: u64,
    /// What the disk said instead of bytes: no damage of the file.
    refused: Arc<OnceLock<String>>,
}

impl Place {
    pub(super) fn new(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self { file: Arc::new(file), len, refused: Arc::default() })
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        self.file.read_at(buffer, at).inspect_err(|error| {
            let _ = self.refused.set(format!("it could not be read: {error}"));
        })
    }

    /// What a failed reading means for the file.
    pub(super) fn trouble(&self, record: u64, why: String) -> Trouble {
        match self.refused.get() {
            Some(refused) => unreadable(record, refused.clone()),
            None => damaged(record, why),
        }
    }
}

impl Length for Place {
    fn len(&self) -> u64 {
        self.len
    }
}

impl ChunkReader for Place {
    type T = BufReader<io::Take<From>>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(BufReader::new(From { place: self.clone(), at: start }.take(HEADER_BYTES_MAX)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.len) {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} of a file of {}", self.len)));
        }
        let mut bytes = vec![0; length];
        From { place: self.clone(), at: start }.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

/// Reads from a place on; the file's own cursor stays where it is.
pub(super) struct From {
    place: Place,
    at: u64,
}

impl Read for From {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.place.read_at(buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}
