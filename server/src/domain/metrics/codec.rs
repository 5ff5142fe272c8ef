//! Columns of numbers as bytes: whole numbers as differences in a few bytes each, values as they are, both compressed
//! where they are kept for long. Every value comes back with the bits it had.
//!
//! Never knows what the columns mean.
//!
//! Layout: version, number of rows, whole-number columns, then named value columns; each column is preceded by its
//! length in bytes, so that columns nobody asked for are skipped. All counts are LEB128.

use std::collections::BTreeMap;

/// First byte of every body.
const VERSION: u8 = 1;
/// Compression of zstd: its fastest level halves losses; higher ones cost more time than they save bytes.
const ZSTD_LEVEL: i32 = 1;
/// Rows of one body; a length beyond it is damage, not data.
const ROWS_MAX: u64 = 1 << 26;

/// Columns of equal length.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Columns {
    /// Whole numbers, by place.
    pub whole: Vec<Vec<i64>>,
    /// Values, by name.
    pub values: BTreeMap<String, Vec<f64>>,
}

/// Why bytes are not columns.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a metric body cannot be read: {0}")]
pub struct Damaged(pub &'static str);

/// The bytes of columns.
#[must_use]
pub fn encode(columns: &Columns, compress: bool) -> Vec<u8> {
    let rows = columns.whole.first().map_or(0, Vec::len);
    let mut bytes = vec![VERSION, u8::from(compress)];
    put(&mut bytes, rows as u64);
    put(&mut bytes, columns.whole.len() as u64);
    for column in &columns.whole {
        let mut body = Vec::with_capacity(column.len() * 2);
        let mut before = 0_i64;
        for &value in column {
            let step = value.wrapping_sub(before);
            put(&mut body, ((step << 1) ^ (step >> 63)).cast_unsigned());
            before = value;
        }
        put_column(&mut bytes, &body, compress);
    }
    put(&mut bytes, columns.values.len() as u64);
    for (name, column) in &columns.values {
        put(&mut bytes, name.len() as u64);
        bytes.extend_from_slice(name.as_bytes());
        put_column(&mut bytes, &if compress { planes(column) } else { plain(column) }, compress);
    }
    bytes
}

/// Columns of bytes; of the values only those whose name is wanted.
///
/// # Errors
/// When the bytes are damaged or of another version.
pub fn decode(bytes: &[u8], wanted: impl Fn(&str) -> bool) -> Result<Columns, Damaged> {
    let mut reader = Reader(bytes);
    if reader.byte()? != VERSION {
        return Err(Damaged("another version"));
    }
    let compressed = reader.byte()? == 1;
    let rows = reader.number()?;
    if rows > ROWS_MAX {
        return Err(Damaged("too many rows"));
    }
    let rows = usize::try_from(rows).unwrap_or(0);
    let mut columns = Columns::default();
    for _ in 0..reader.number()? {
        let body = open(reader.run()?, compressed, rows * 10)?;
        let (mut body, mut before) = (Reader(&body), 0_i64);
        let mut column = Vec::with_capacity(rows);
        for _ in 0..rows {
            let zigzag = body.number()?;
            before = before.wrapping_add((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed());
            column.push(before);
        }
        columns.whole.push(column);
    }
    for _ in 0..reader.number()? {
        let name = std::str::from_utf8(reader.run()?).map_err(|_| Damaged("a name is not UTF-8"))?;
        let body = reader.run()?;
        if !wanted(name) {
            continue;
        }
        let body = open(body, compressed, rows * 8)?;
        if body.len() != rows * 8 {
            return Err(Damaged("a column has another length"));
        }
        columns.values.insert(name.to_owned(), if compressed { from_planes(&body) } else { from_plain(&body) });
    }
    Ok(columns)
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(low_byte(number) | 0x80);
        number >>= 7;
    }
    bytes.push(low_byte(number));
}

fn low_byte(number: u64) -> u8 {
    number.to_le_bytes()[0]
}

fn put_column(bytes: &mut Vec<u8>, body: &[u8], compress: bool) {
    let packed;
    let body = if compress {
        packed = zstd::bulk::compress(body, ZSTD_LEVEL).unwrap_or_default();
        &packed
    } else {
        body
    };
    put(bytes, body.len() as u64);
    bytes.extend_from_slice(body);
}

fn open(body: &[u8], compressed: bool, bytes_max: usize) -> Result<std::borrow::Cow<'_, [u8]>, Damaged> {
    if !compressed {
        return Ok(body.into());
    }
    zstd::bulk::decompress(body, bytes_max).map(Into::into).map_err(|_| Damaged("a column does not decompress"))
}

fn plain(column: &[f64]) -> Vec<u8> {
    column.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn from_plain(bytes: &[u8]) -> Vec<f64> {
    bytes.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
}

/// Eight planes, one for each byte of a value: neighbours share exponents, and losses that were f32 end in zeros.
fn planes(column: &[f64]) -> Vec<u8> {
    let mut bytes = vec![0; column.len() * 8];
    for (i, value) in column.iter().enumerate() {
        for (plane, byte) in value.to_le_bytes().into_iter().enumerate() {
            bytes[plane * column.len() + i] = byte;
        }
    }
    bytes
}

fn from_planes(bytes: &[u8]) -> Vec<f64> {
    let rows = bytes.len() / 8;
    (0..rows).map(|i| f64::from_le_bytes(std::array::from_fn(|plane| bytes[plane * rows + i]))).collect()
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, Damaged> {
        let (&first, rest) = self.0.split_first().ok_or(Damaged("it is cut off"))?;
        self.0 = rest;
        Ok(first)
    }

    fn number(&mut self) -> Result<u64, Damaged> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Damaged("a number is too long"))
    }

    fn run(&mut self) -> Result<&'a [u8], Damaged> {
        let length = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        let (run, rest) = self.0.split_at_checked(length).ok_or(Damaged("it is cut off"))?;
        self.0 = rest;
        Ok(run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_bit_comes_back(
            rows in prop::collection::vec((any::<i64>(), any::<i64>(), any::<u64>(), any::<u64>()), 0..80), compress: bool,
        ) {
            let columns = Columns {
                whole: vec![rows.iter().map(|row| row.0).collect(), rows.iter().map(|row| row.1).collect()],
                values: BTreeMap::from([
                    ("a".to_owned(), rows.iter().map(|row| f64::from_bits(row.2)).collect()),
                    ("b".to_owned(), rows.iter().map(|row| f64::from_bits(row.3)).collect()),
                ]),
            };
            let bytes = encode(&columns, compress);
            let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            let back = decode(&bytes, |name| name == "b").unwrap();
            prop_assert_eq!(&back.whole, &columns.whole);
            prop_assert_eq!(bits(&back.values["b"]), bits(&columns.values["b"]));
            prop_assert!(!back.values.contains_key("a"));
        }

        #[test]
        fn damage_is_an_error_and_never_a_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), version: bool) {
            if let (true, Some(first)) = (version, bytes.first_mut()) {
                *first = VERSION;
            }
            let _ = decode(&bytes, |_| true);
        }
    }
}
