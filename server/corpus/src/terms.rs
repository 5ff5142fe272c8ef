//! Text to terms: words where a script has spaces, character bigrams where it has none.
//!
//! NFKC, lower case; numbers, single Latin letters and stop words are no terms.

use std::{collections::HashSet, sync::LazyLock};
use unicode_normalization::UnicodeNormalization;

/// Terms longer than this are debris (base64, URLs without separators).
const TERM_CHARS_MAX: usize = 40;

/// Function words of English; contractions are cut at the apostrophe before they get here.
const ENGLISH: &str = "a about above after again against all also am an and any are aren as at be because been before \
    being below between both but by can cannot could couldn did didn do does doesn doing don down during each either \
    else ever few for from further had hadn has hasn have haven having he her here hers herself him himself his how if \
    in into is isn it its itself just ll may me might more most must my myself neither no nor not now of off on once \
    one only or other our ours ourselves out over own per re same shall she should shouldn so some such than that the \
    their theirs them themselves then there these they this those through thus to too under until up upon us ve very \
    was wasn we were weren what when where whether which while who whom why will with within without won would \
    wouldn yet you your yours yourself yourselves";

static STOP_WORDS: LazyLock<HashSet<&str>> = LazyLock::new(|| ENGLISH.split_whitespace().collect());

/// Whether a character belongs to a script written without spaces.
#[must_use]
pub fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{3041}'..='\u{30ff}' | '\u{31f0}'..='\u{31ff}' // kana
        | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}' // han
        | '\u{0e01}'..='\u{0eff}' // Thai, Lao
        | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' // Burmese, Khmer
        | '々' | '〆')
}

fn is_hiragana(c: char) -> bool {
    matches!(c, '\u{3041}'..='\u{309f}')
}

/// Calls `term` for every term of `text`, in order.
pub fn for_each_term(text: &str, mut term: impl FnMut(&str)) {
    let mut word = String::new();
    let mut previous: Option<char> = None;
    let mut pair = String::new();
    for c in text.nfkc().flat_map(char::to_lowercase) {
        if is_unspaced(c) {
            flush(&mut word, &mut term);
            // Two hiragana are grammar, not matter: particles and endings, the stop words of Japanese.
            if let Some(before) = previous
                && !(is_hiragana(before) && is_hiragana(c))
            {
                pair.clear();
                pair.extend([before, c]);
                term(&pair);
            }
            previous = Some(c);
        } else {
            previous = None;
            if c.is_alphanumeric() || c == '_' {
                word.push(c);
            } else {
                flush(&mut word, &mut term);
            }
        }
    }
    flush(&mut word, &mut term);
}

fn flush(word: &mut String, term: &mut impl FnMut(&str)) {
    let chars = word.chars().count();
    let starts_with_letter = word.chars().next().is_some_and(char::is_alphabetic);
    if (2..=TERM_CHARS_MAX).contains(&chars) && starts_with_letter && !STOP_WORDS.contains(word.as_str()) {
        term(word);
    }
    word.clear();
}

/// The longer pieces that people read as words: spaced words, and runs of katakana or of kanji of 2 to 8 characters.
pub fn for_each_readable(text: &str, mut term: impl FnMut(&str)) {
    let mut run = String::new();
    let mut kind = 0;
    for c in text.nfkc().flat_map(char::to_lowercase).chain(['\n']) {
        let next = match c {
            '\u{30a1}'..='\u{30fa}' | 'ー' => 1,
            '\u{4e00}'..='\u{9fff}' | '々' => 2,
            c if is_unspaced(c) => 0,
            c if c.is_alphanumeric() || c == '_' => 3,
            _ => 0,
        };
        if next != kind {
            match kind {
                1 | 2 if (2..=8).contains(&run.chars().count()) => term(&run),
                3 => flush(&mut run, &mut term),
                _ => {}
            }
            run.clear();
            kind = next;
        }
        if next != 0 {
            run.push(c);
        }
    }
}

/// Language of a text by its script: `ja` where kana are more than a twentieth of the letters, `en` where Latin
/// letters are most of them, else `other`.
#[must_use]
pub fn language_of(text: &str) -> &'static str {
    let (mut kana, mut latin, mut letters) = (0_u32, 0_u32, 0_u32);
    for c in text.chars().take(2000).filter(|c| c.is_alphabetic()) {
        letters += 1;
        kana += u32::from(matches!(c, '\u{3041}'..='\u{30ff}'));
        latin += u32::from(c.is_ascii_alphabetic());
    }
    if kana * 20 > letters {
        "ja"
    } else if latin * 2 > letters {
        "en"
    } else {
        "other"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &[&str]) {
        let mut terms = Vec::new();
        for_each_term(text, |term| terms.push(term.to_owned()));
        assert_eq!(terms, expect, "{text}");
    }

    #[test]
    fn words_and_bigrams() {
        check("The Kernel's page tables, in 2024!", &["kernel", "page", "tables"]);
        check("Ｋｅｒｎｅｌ", &["kernel"]);
        check("設定ファイルを読む", &["設定", "定フ", "ファ", "ァイ", "イル", "ルを", "を読", "読む"]);
        check("これはです", &[]);
        check("ខ្មែរ", &["ខ\u{17d2}", "\u{17d2}ម", "មែ", "ែរ"]);
        check("2024, 0x1F: 😀👍🏽 -- 12.5 %", &[]);
        check("GPUを使う", &["gpu", "を使", "使う"]);
        check("", &[]);
    }

    #[test]
    fn labels_are_readable() {
        let mut terms = Vec::new();
        for_each_readable("設定ファイルの page を開く。", |term| terms.push(term.to_owned()));
        assert_eq!(terms, ["設定", "ファイル", "page"]);
    }

    #[test]
    fn languages_are_told_by_script() {
        assert_eq!(language_of("これは日本語です"), "ja");
        assert_eq!(language_of("This is English"), "en");
        assert_eq!(language_of("Это русский"), "other");
    }
}
