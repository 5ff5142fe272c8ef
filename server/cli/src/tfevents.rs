//! Event files of TensorBoard: TFRecord around three of its messages, written by hand.
//!
//! Never does I/O. Field numbers are those of `tensorflow/core/util/event.proto` and `framework/summary.proto`.

use std::collections::BTreeMap;

/// The version that tells readers that a step may come again: what it takes back is said by [`restart`].
const FILE_VERSION: &str = "brain.Event:2";

// Keys of protobuf: the field's number, then how it is written (0 varint, 1 eight bytes, 2 with a length, 5 four bytes).
const EVENT_WALL_TIME: u8 = (1 << 3) | 1;
const EVENT_STEP: u8 = 2 << 3;
const EVENT_FILE_VERSION: u8 = (3 << 3) | 2;
const EVENT_SUMMARY: u8 = (5 << 3) | 2;
const EVENT_SESSION_LOG: u8 = (7 << 3) | 2;
const SESSION_LOG_STATUS: u8 = 1 << 3;
const SESSION_LOG_START: u64 = 1;
const SUMMARY_VALUE: u8 = (1 << 3) | 2;
const VALUE_TAG: u8 = (1 << 3) | 2;
const VALUE_SIMPLE: u8 = (2 << 3) | 5;

/// The first record of a file.
#[must_use]
pub fn header(at_ms: i64) -> Vec<u8> {
    let mut event = event(at_ms, 0);
    with_length(&mut event, EVENT_FILE_VERSION, FILE_VERSION.as_bytes());
    record(&event)
}

/// A point: values by tag at a step. TensorBoard keeps numbers of 32 bits.
#[must_use]
pub fn point<'a>(at_ms: i64, step: u64, values: impl Iterator<Item = (&'a str, f64)>) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in values {
        let mut one = Vec::new();
        with_length(&mut one, VALUE_TAG, tag.as_bytes());
        one.push(VALUE_SIMPLE);
        #[expect(clippy::cast_possible_truncation, reason = "what the format has room for")]
        one.extend((value as f32).to_le_bytes());
        with_length(&mut summary, SUMMARY_VALUE, &one);
    }
    let mut event = event(at_ms, step);
    with_length(&mut event, EVENT_SUMMARY, &summary);
    record(&event)
}

/// Takes back everything from a step on: a training was resumed before it.
#[must_use]
pub fn restart(at_ms: i64, step: u64) -> Vec<u8> {
    let mut log = vec![SESSION_LOG_STATUS];
    varint(&mut log, SESSION_LOG_START);
    let mut event = event(at_ms, step);
    with_length(&mut event, EVENT_SESSION_LOG, &log);
    record(&event)
}

/// What is in a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Steps that count, with the milliseconds of their points.
    pub points: BTreeMap<u64, i64>,
    /// Bytes up to the end of the last whole record.
    pub bytes: u64,
}

/// Reads what [`header`], [`point`] and [`restart`] wrote, up to the first record that is not whole: whoever wrote it was
/// stopped in the middle.
#[must_use]
pub fn read(file: &[u8]) -> Written {
    let mut written = Written::default();
    let mut rest = file;
    while let Some((event, after)) = whole(rest) {
        let Some((at_ms, step, kind)) = begin(event) else { break };
        match kind {
            EVENT_SUMMARY => {
                written.points.insert(step, at_ms);
            }
            EVENT_SESSION_LOG => drop(written.points.split_off(&step)),
            _ => {}
        }
        rest = after;
    }
    written.bytes = (file.len() - rest.len()) as u64;
    written
}

/// The first record of some bytes, and what is behind it.
fn whole(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let (length_crc, rest) = rest.split_first_chunk::<4>()?;
    let size = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (data, rest) = rest.split_at_checked(size)?;
    let (data_crc, rest) = rest.split_first_chunk::<4>()?;
    let good = masked_crc(length).to_le_bytes() == *length_crc && masked_crc(data).to_le_bytes() == *data_crc;
    good.then_some((data, rest))
}

/// Time and step of an event, and the key of what it says.
fn begin(event: &[u8]) -> Option<(i64, u64, u8)> {
    let (&[EVENT_WALL_TIME], rest) = event.split_first_chunk::<1>()? else { return None };
    let (seconds, rest) = rest.split_first_chunk::<8>()?;
    let (&[EVENT_STEP], mut rest) = rest.split_first_chunk::<1>()? else { return None };
    let (mut step, mut shift) = (0_u64, 0);
    loop {
        let (&byte, after) = rest.split_first()?;
        step |= u64::from(byte & 0x7f).checked_shl(shift)?;
        (rest, shift) = (after, shift + 7);
        if byte & 0x80 == 0 {
            break;
        }
    }
    #[expect(clippy::cast_possible_truncation, reason = "milliseconds since 1970")]
    let at_ms = (f64::from_le_bytes(*seconds) * 1e3).round() as i64;
    Some((at_ms, step, *rest.first()?))
}

/// An event without what it says. The step is written even where it is 0, so that all begin alike.
fn event(at_ms: i64, step: u64) -> Vec<u8> {
    let mut event = vec![EVENT_WALL_TIME];
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of this millennium fit")]
    event.extend((at_ms as f64 / 1e3).to_le_bytes());
    event.push(EVENT_STEP);
    varint(&mut event, step);
    event
}

fn with_length(message: &mut Vec<u8>, key: u8, bytes: &[u8]) {
    message.push(key);
    varint(message, bytes.len() as u64);
    message.extend(bytes);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    message.push(value.to_le_bytes()[0]);
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked_crc(data).to_le_bytes());
    record
}

/// CRC-32C, turned and shifted as TFRecord has it, so that a record inside a record is none.
fn masked_crc(bytes: &[u8]) -> u32 {
    let crc = !bytes.iter().fold(!0_u32, |crc, byte| CRC[usize::from(crc.to_le_bytes()[0] ^ byte)] ^ (crc >> 8));
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Remainders of single bytes by the polynomial of Castagnoli, bits reversed.
const CRC: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0_u32;
    while byte < 256 {
        let (mut crc, mut bit) = (byte, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte as usize] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    const AT: i64 = 1_764_288_000_123;

    fn file() -> Vec<u8> {
        let values = [("train/loss", 2.5), ("held_out/whole", 3.0)];
        let points = [1, 2, 300].map(|step| point(AT + 1, step, values.into_iter()));
        [header(AT), points.concat()].concat()
    }

    #[test]
    fn the_checksum_is_that_of_the_format() {
        // RFC 3720, B.4: 32 bytes of zeros have the CRC-32C 8a9136aa.
        assert_eq!(masked_crc(&[0; 32]), 0x8a91_36aa_u32.rotate_right(15).wrapping_add(0xa282_ead8));
        assert_eq!(masked_crc(b"123456789"), 0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn the_first_record_is_what_the_format_says() {
        let bytes = header(1_000);
        assert_eq!(bytes[..8], 26_u64.to_le_bytes());
        assert_eq!(bytes[12..21], [9, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f]);
        assert_eq!(bytes[21..25], [0x10, 0, 0x1a, 13]);
        assert_eq!(&bytes[25..38], b"brain.Event:2");
    }

    #[test]
    fn what_was_written_is_read_back() {
        let written = read(&file());
        assert_eq!(written.points, BTreeMap::from([1, 2, 300].map(|step| (step, AT + 1))));
        assert_eq!(written.bytes, file().len() as u64);
    }

    #[test]
    fn a_restart_takes_back_what_is_behind_it() {
        let again = point(AT + 9, 2, [("train/loss", 1.0)].into_iter());
        let bytes = [file(), restart(AT + 8, 2), again].concat();
        assert_eq!(read(&bytes).points, BTreeMap::from([(1, AT + 1), (2, AT + 9)]));
    }

    #[test]
    fn a_file_is_read_up_to_its_last_whole_record() {
        let whole = file();
        let more = point(AT, 301, [("train/loss", 1.0)].into_iter());
        for cut in 0..more.len() {
            let bytes = [whole.clone(), more[..cut].to_vec()].concat();
            assert_eq!(read(&bytes), read(&whole), "{cut} bytes of the last record");
        }
        let mut broken = whole.clone();
        broken[30] ^= 1;
        assert_eq!(read(&broken), Written::default());
    }
}
