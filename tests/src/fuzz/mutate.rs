//! Odd bytes from good ones: bits, numbers and pieces changed, moved and mixed; in JSON values and keys too.

use super::targets::Input;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

/// Longest input.
const BYTES_MAX: usize = 256 << 10;

/// Pieces that parsers have met before.
const PIECES: [&[u8]; 34] = [
    b"null",
    b"true",
    b"-0",
    b"1e999",
    b"-1e-999",
    b"NaN",
    b".inf",
    b"18446744073709551616",
    b"9223372036854775808",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\0",
    b"\n",
    b"\r\n",
    b"[[[[[[[[[[[[[[[[",
    b"{\"\":",
    b"}",
    b"]",
    b"&a [*a, *a]",
    b"<<: *a",
    b"!!binary |",
    b"? ",
    b"--- ",
    b"../",
    b"\xe3\x81\x82",
    b"\xf0\x9f\x8e\x89",
    b"PAR1",
    b"\x1f\x8b\x08",
    b"\x28\xb5\x2f\xfd",
    b"MMIDIDX\0\0",
];

/// Numbers at edges.
const EDGES: [u64; 12] =
    [0, 1, 0x7f, 0x80, 0xff, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 53, 1 << 63, u64::MAX];

/// Makes inputs, the same ones from the same seed.
#[derive(Debug)]
pub struct Mutator {
    rng: ChaCha8Rng,
}

impl Mutator {
    /// A mutator.
    #[must_use]
    pub fn new(rng: ChaCha8Rng) -> Self {
        Self { rng }
    }

    /// The next input: one of the seeds with some changes.
    pub fn input(&mut self, seeds: &[Input]) -> Input {
        let seed = &seeds[self.below(seeds.len())];
        let mut bytes = seed.bytes.clone();
        if self.rng.random_bool(0.5)
            && let Ok(mut value) = serde_json::from_slice(&bytes)
        {
            for _ in 0..1 + self.below(3) {
                self.value(&mut value);
            }
            bytes = serde_json::to_vec(&value).unwrap_or(bytes);
            if self.rng.random_bool(0.7) {
                return Input { ending: seed.ending, bytes };
            }
        }
        for _ in 0..1 << self.below(5) {
            let other = &seeds[self.below(seeds.len())].bytes;
            self.change(&mut bytes, other);
        }
        bytes.truncate(BYTES_MAX);
        Input { ending: seed.ending, bytes }
    }

    fn below(&mut self, end: usize) -> usize {
        self.rng.random_range(0..end.max(1))
    }

    /// A range of at most 64 bytes, mostly.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let first = self.below(length);
        let most = if self.rng.random_bool(0.9) { 64 } else { length };
        first..(first + 1 + self.below(most)).min(length)
    }

    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let length = bytes.len();
        let at = self.below(length + 1);
        match self.below(10) {
            0 if at < length => bytes[at] ^= 1 << self.below(8),
            1 if at < length => bytes[at] = self.rng.random(),
            2 => drop(bytes.drain(self.range(length))),
            3 if length > 0 => {
                let piece = bytes[self.range(length)].to_vec();
                bytes.splice(at..at, piece);
            }
            4 => bytes.truncate(at),
            5 => {
                let edge = EDGES[self.below(EDGES.len())].wrapping_add(self.below(3) as u64).wrapping_sub(1);
                let width = 1 << self.below(4);
                let mut number = edge.to_le_bytes()[..width].to_vec();
                if self.rng.random_bool(0.3) {
                    number.reverse();
                }
                bytes.splice(at..(at + width).min(length), number);
            }
            6 => {
                let digits: Vec<usize> = (0..length).filter(|i| bytes[*i].is_ascii_digit()).collect();
                if !digits.is_empty() {
                    let first = digits[self.below(digits.len())];
                    let end = first + bytes[first..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                    let edge = EDGES[self.below(EDGES.len())].to_string();
                    bytes.splice(first..end, edge.into_bytes());
                }
            }
            7 if !other.is_empty() => {
                let piece = other[self.range(other.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let piece = PIECES[self.below(PIECES.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
        }
    }

    /// Changes one place of a JSON value.
    fn value(&mut self, value: &mut Value) {
        match value {
            Value::Object(map) if !map.is_empty() && self.rng.random_bool(0.85) => {
                let key = map.keys().nth(self.below(map.len())).cloned().unwrap_or_default();
                match self.below(8) {
                    0 => drop(map.remove(&key)),
                    1 => {
                        let moved = map.remove(&key).unwrap_or_default();
                        map.insert(format!("{key}x"), moved);
                    }
                    2 => {
                        let again = map[&key].clone();
                        let other = map.keys().nth(self.below(map.len())).cloned().unwrap_or_default();
                        map.insert(other, again);
                    }
                    _ => self.value(&mut map[&key]),
                }
            }
            Value::Array(items) if !items.is_empty() && self.rng.random_bool(0.8) => {
                let at = self.below(items.len());
                match self.below(6) {
                    0 => drop(items.remove(at)),
                    1 => {
                        let again = items[at].clone();
                        let times = 1 + self.below(40);
                        items.extend(std::iter::repeat_n(again, times));
                    }
                    _ => self.value(&mut items[at]),
                }
            }
            place => *place = self.odd(),
        }
    }

    fn odd(&mut self) -> Value {
        match self.below(12) {
            0 => Value::Null,
            1 => json!(self.rng.random_bool(0.5)),
            2 => json!(EDGES[self.below(EDGES.len())]),
            3 => json!(-i64::from(self.rng.random::<i32>())),
            4 => json!(self.rng.random::<f64>() * 2.0),
            5 => json!([1e308, -1e308, 5e-324, 1e-9, 0.999_999, 1e19][self.below(6)]),
            6 => json!(""),
            7 => json!("あ".repeat(1 + self.below(300))),
            8 => json!(String::from_utf8_lossy(PIECES[self.below(PIECES.len())])),
            9 => json!([]),
            10 => Value::Object(Map::new()),
            _ => json!(self.below(100)),
        }
    }
}
