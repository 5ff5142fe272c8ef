//! Bytes of a file: hashed as they are read, unpacked member by member, with a head to look at.
//!
//! Never reads past the window or the limits that it was given.

use crate::snapshot::Compression;
use flate2::bufread::GzDecoder;
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    sync::{Arc, Mutex, MutexGuard},
};

/// Read at once from the disk.
const BUFFER_BYTES: usize = 1 << 18;
/// Looked at before the first record: enough to tell an encoding.
const HEAD_BYTES: usize = 1 << 16;
/// Smallest window that zstd knows, as a power of two.
const WINDOW_LOG_MIN: u32 = 10;

/// A file that is hashed as it is read. Its copies read on where the other stopped.
#[derive(Clone)]
pub(super) struct Hashed {
    state: Arc<Mutex<State>>,
}

struct State {
    file: File,
    hash: Sha256,
    bytes: u64,
}

impl Hashed {
    pub(super) fn new(file: File) -> Self {
        Self { state: Arc::new(Mutex::new(State { file, hash: Sha256::new(), bytes: 0 })) }
    }

    /// The same open file, for reads at places.
    pub(super) fn file(&self) -> io::Result<File> {
        self.lock().file.try_clone()
    }

    /// Reads what is left; size and SHA-256 of the whole file.
    pub(super) fn end(mut self) -> io::Result<(u64, String)> {
        io::copy(&mut BufReader::with_capacity(BUFFER_BYTES, &mut self), &mut io::sink())?;
        let state = self.lock();
        Ok((state.bytes, crate::hex(&state.hash.clone().finalize())))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.lock();
        let n = state.file.read(buffer)?;
        state.hash.update(&buffer[..n]);
        state.bytes += n as u64;
        Ok(n)
    }
}

/// The unpacked bytes of a file.
pub(super) fn unpack(file: Hashed, compression: Compression, window_bytes_max: u64) -> Box<dyn Read + Send> {
    let input = BufReader::with_capacity(BUFFER_BYTES, file);
    match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(Gzip::new(input)),
        Compression::Zstd => Box::new(Zstd::Start(Some(input), window_bytes_max)),
    }
}

/// The members of a gzip file, one after the other; zeros behind a member are padding, anything else is damage.
enum Gzip<R> {
    Between { input: R, members: u64 },
    Within { decoder: GzDecoder<R>, members: u64 },
    Done,
}

impl<R: BufRead> Gzip<R> {
    fn new(input: R) -> Self {
        Self::Between { input, members: 0 }
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match std::mem::replace(self, Self::Done) {
                Self::Done => return Ok(0),
                Self::Within { mut decoder, members } => match decoder.read(buffer)? {
                    0 if !buffer.is_empty() => *self = Self::Between { input: decoder.into_inner(), members },
                    n => {
                        *self = Self::Within { decoder, members };
                        return Ok(n);
                    }
                },
                Self::Between { mut input, members } => {
                    let waiting = input.fill_buf()?;
                    match waiting.first() {
                        None if members == 0 => return Err(empty("gzip")),
                        None => return Ok(0),
                        Some(0) if members > 0 => {
                            let zeros = waiting.iter().take_while(|byte| **byte == 0).count();
                            input.consume(zeros);
                            *self = Self::Between { input, members };
                        }
                        Some(_) => *self = Self::Within { decoder: GzDecoder::new(input), members: members + 1 },
                    }
                }
            }
        }
    }
}

/// The frames of a zstd file.
enum Zstd<R: BufRead> {
    Start(Option<R>, u64),
    Frames(zstd::stream::read::Decoder<'static, R>, u64),
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Self::Start(input, window_bytes_max) = self {
            let Some(mut input) = input.take() else { return Ok(0) };
            if input.fill_buf()?.is_empty() {
                return Err(empty("zstd"));
            }
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(window_bytes_max.checked_ilog2().unwrap_or(0).max(WINDOW_LOG_MIN))?;
            *self = Self::Frames(decoder, *window_bytes_max);
        }
        let Self::Frames(decoder, window_bytes_max) = self else { return Ok(0) };
        decoder.read(buffer).map_err(|error| {
            // The codec tells its errors apart by their words alone.
            let too_long = error.to_string().contains("requires too much memory");
            if too_long { io::Error::other(WindowTooLong(*window_bytes_max)) } else { error }
        })
    }
}

fn empty(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("0 bytes are no {name} stream"))
}

/// A frame asks for more memory than allowed.
#[derive(Debug, thiserror::Error)]
#[error("a zstd frame asks for a window longer than fields.zstd_window_bytes_max ({0} bytes)")]
struct WindowTooLong(u64);

/// The sentence, where the error is that a window is too long.
pub(super) fn window_too_long(error: &io::Error) -> Option<String> {
    error.get_ref().and_then(|inner| inner.downcast_ref::<WindowTooLong>()).map(ToString::to_string)
}

/// Bytes whose head can be looked at first.
pub(super) struct Input {
    head: Vec<u8>,
    at: usize,
    error: Option<io::Error>,
    rest: Box<dyn Read + Send>,
}

impl Input {
    /// Reads the head. An error that comes there comes again behind what was read before it.
    pub(super) fn new(mut rest: Box<dyn Read + Send>) -> Self {
        let mut head = Vec::new();
        let error = rest.by_ref().take(HEAD_BYTES as u64).read_to_end(&mut head).err();
        Self { head, at: 0, error, rest }
    }

    pub(super) fn head(&self) -> &[u8] {
        &self.head
    }

    /// Leaves out the first bytes of the head.
    pub(super) fn skip(&mut self, bytes: usize) {
        self.at = bytes.min(self.head.len());
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at < self.head.len() {
            let n = (&self.head[self.at..]).read(buffer)?;
            self.at += n;
            return Ok(n);
        }
        match self.error.take() {
            Some(error) => Err(error),
            None => self.rest.read(buffer),
        }
    }
}
