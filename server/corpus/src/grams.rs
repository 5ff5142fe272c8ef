//! 13-grams: how much of one text stands in another.
//!
//! A text is read as units: a word (a run of letters and digits, NFKC, lower case), or one character of a script that
//! is written without spaces. A gram is 13 units in a row (Brown et al. 2020, appendix C); a text of fewer units is one
//! gram. Never keeps a text: grams are hashes.

use crate::terms;
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    hash::{BuildHasherDefault, Hasher},
};
use unicode_normalization::UnicodeNormalization;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Units of a gram.
pub const GRAM_UNITS: usize = 13;
/// Grams kept of a held-out document. One of no more is compared exactly; of a longer one these are a uniform sample,
/// and a share is known to 0.031 (standard error at one half).
pub const SKETCH_GRAMS: usize = 256;
/// Base of the rolling hash: odd, of no pattern.
const BASE: u64 = 0x9e37_79b9_7f4a_7c15;

/// Whether a character is a unit of its own.
fn is_unit(c: char) -> bool {
    // Lao, Myanmar, Khmer: besides the scripts whose characters make terms.
    terms::is_unspaced(c) || matches!(c, '\u{0e80}'..='\u{0eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}')
}

fn for_each_unit(text: &str, mut unit: impl FnMut(u64)) {
    let mut word = String::new();
    let mut bytes = [0; 4];
    for c in text.nfkc().flat_map(char::to_lowercase) {
        let alone = is_unit(c);
        if !alone && c.is_alphanumeric() {
            word.push(c);
            continue;
        }
        if !word.is_empty() {
            unit(xxh3_64(word.as_bytes()));
            word.clear();
        }
        if alone {
            unit(xxh3_64(c.encode_utf8(&mut bytes).as_bytes()));
        }
    }
    if !word.is_empty() {
        unit(xxh3_64(word.as_bytes()));
    }
}

/// Calls `gram` with the hash of every gram of a text, in order.
pub fn for_each_gram(text: &str, mut gram: impl FnMut(u64)) {
    // What the unit that leaves a gram weighs in its polynomial.
    let leaving = BASE.wrapping_pow(13);
    let mut ring = [0_u64; GRAM_UNITS];
    let (mut rolling, mut count) = (0_u64, 0_usize);
    let finish = |rolling: u64, units: usize| xxh3_64_with_seed(&rolling.to_le_bytes(), units as u64);
    for_each_unit(text, |unit| {
        let place = &mut ring[count % GRAM_UNITS];
        rolling = rolling.wrapping_mul(BASE).wrapping_add(unit).wrapping_sub(place.wrapping_mul(leaving));
        *place = unit;
        count += 1;
        if count >= GRAM_UNITS {
            gram(finish(rolling, GRAM_UNITS));
        }
    });
    if (1..GRAM_UNITS).contains(&count) {
        gram(finish(rolling, count));
    }
}

/// The smallest [`SKETCH_GRAMS`] distinct hashes of a text's grams, ascending: a uniform sample of them.
#[must_use]
pub fn sketch(text: &str) -> Vec<u64> {
    let mut smallest = BTreeSet::new();
    for_each_gram(text, |gram| {
        if smallest.len() < SKETCH_GRAMS || smallest.last().is_some_and(|last| gram < *last) {
            smallest.insert(gram);
            if smallest.len() > SKETCH_GRAMS {
                smallest.pop_last();
            }
        }
    });
    smallest.into_iter().collect()
}

/// Hashes of grams are spread already.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

type BySpread = BuildHasherDefault<Spread>;

/// The sketches of many documents, to hold one text after the other against.
#[derive(Debug)]
pub struct Sketches {
    /// (gram, document), sorted.
    entries: Vec<(u64, u32)>,
    /// First entry of each gram.
    starts: HashMap<u64, u32, BySpread>,
    /// Grams of each document.
    sizes: Vec<u32>,
}

impl Sketches {
    /// Takes sketches; a document is named by its place.
    #[must_use]
    pub fn new<'a>(sketches: impl Iterator<Item = &'a [u64]>) -> Self {
        let (mut entries, mut sizes) = (Vec::new(), Vec::new());
        for (sketch, document) in sketches.zip(0_u32..) {
            entries.extend(sketch.iter().map(|gram| (*gram, document)));
            sizes.push(u32::try_from(sketch.len()).unwrap_or(u32::MAX));
        }
        entries.sort_unstable();
        let mut starts = HashMap::default();
        for ((gram, _), place) in entries.iter().zip(0_u32..) {
            starts.entry(*gram).or_insert(place);
        }
        Self { entries, starts, sizes }
    }

    /// The documents that share more than half of their grams with a text, and the shares, by document.
    #[must_use]
    pub fn mostly_in(&self, text: &str) -> Vec<(u32, f64)> {
        let mut seen: HashSet<u64, BySpread> = HashSet::default();
        let mut shared: HashMap<u32, u32> = HashMap::new();
        for_each_gram(text, |gram| {
            if let Some(&start) = self.starts.get(&gram)
                && seen.insert(gram)
            {
                let same = self.entries[start as usize..].iter().take_while(|(other, _)| *other == gram);
                same.for_each(|(_, document)| *shared.entry(*document).or_default() += 1);
            }
        });
        let share = |(document, shared): (u32, u32)| {
            let share = f64::from(shared) / f64::from(self.sizes[document as usize]);
            (share > 0.5).then_some((document, share))
        };
        let mut found: Vec<_> = shared.into_iter().filter_map(share).collect();
        found.sort_unstable_by_key(|(document, _)| *document);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn grams(text: &str) -> Vec<u64> {
        let mut all = Vec::new();
        for_each_gram(text, |gram| all.push(gram));
        all
    }

    fn words(range: std::ops::Range<u32>) -> String {
        range.map(|i| format!("w{i}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn units_are_words_where_there_are_spaces_and_characters_where_there_are_none() {
        let check = |text: &str, expect: usize| assert_eq!(grams(text).len(), expect, "{text}");
        check("", 0);
        check("… — !", 0);
        check("one two three", 1);
        check(&words(0..13), 1);
        check(&words(0..40), 28);
        check("醤油と砂糖を鍋に入れて煮る", 1);
        check("醤油と砂糖を鍋に入れてよく煮る", 3);
        check("สวัสดีครับผมชื่อ", 4);
        check("设定文件 kernel page を読み込む", 1);
        assert_eq!(grams("One, TWO: three!"), grams("one two ｔｈｒｅｅ"));
        assert_ne!(grams("one two three"), grams("two one three"));
        assert_eq!(grams(&words(0..20))[3], grams(&words(3..16))[0]);
    }

    #[test]
    fn a_document_that_mostly_stands_in_a_text_is_found_with_its_share() {
        let documents = [words(0..100), words(100..140), "short note".to_owned(), "醤油と砂糖".repeat(3)];
        let sketches: Vec<Vec<u64>> = documents.iter().map(|text| sketch(text)).collect();
        let index = Sketches::new(sketches.iter().map(Vec::as_slice));
        let check = |text: &str, expect: &[u32]| {
            let found: Vec<u32> = index.mostly_in(text).into_iter().map(|(document, _)| document).collect();
            assert_eq!(found, expect, "{text}");
        };
        check(&format!("before {} after", documents[0]), &[0]);
        check(&words(0..50), &[]);
        check(&words(0..60), &[0]);
        check(&words(60..200), &[1]);
        check("Short note.", &[2]);
        check("a short note among others", &[]);
        check(&format!("前に{}後に", documents[3]), &[3]);
        let (_, share) = index.mostly_in(&words(0..60))[0];
        assert!((share - 48.0 / 88.0).abs() < 1e-9, "{share}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Four standard errors of a sample of 256.
        #[test]
        fn a_long_documents_share_is_known_to_a_few_percent(offset in 0_u32..1_000_000, copied in 60_u32..100) {
            let long = words(offset..offset + 2000);
            let index = Sketches::new([sketch(&long)].iter().map(Vec::as_slice));
            let held = offset + copied * 20;
            let found = index.mostly_in(&words(offset..held)).first().map_or(0.5, |(_, share)| *share);
            let share = f64::from(copied * 20 - 12) / 1988.0;
            prop_assert!((found - share).abs() < 4.0 * 0.5 / 16.0, "{found}, {share}");
        }
    }
}
