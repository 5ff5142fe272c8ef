//! What the router sees: the text before a token, looked at every so many tokens, and no more of it than bounds the
//! work of a look.
//!
//! Never sees the token that is to be predicted, and never chooses how many experts run.

use super::context::ended;
use senmon_corpus::{router::Router, tokenizer::Tokenizer};
use senmon_protocol::job::{EndedOutcome, TerminationReason};
use std::ops::Range;

/// Tokens before a look that are made text: a look costs the same however long the document is.
pub const CONTEXT_TOKENS_MAX: usize = 1024;
/// Characters of that text that the router looks at.
const CONTEXT_CHARS_MAX: usize = 4096;

/// Tokens of one document between two looks; None where the router knows nothing of the text before them.
#[derive(Debug, Clone, PartialEq)]
pub struct Stretch {
    /// Number of the document.
    pub document: usize,
    /// First token and end, among the tokens of all documents.
    pub tokens: Range<usize>,
    /// Distance from each member's centre.
    pub distances: Option<Vec<f32>>,
}

/// A router for some of its centres.
#[derive(Debug)]
pub struct Sight<'a> {
    /// The router.
    pub router: &'a Router,
    /// Tokens to text.
    pub tokenizer: &'a Tokenizer,
    /// Number of each member's centre.
    pub centres: &'a [usize],
    /// Tokens between two looks.
    pub every: u32,
}

/// Distances from the members' centres for every stretch of every document, from the text before it. `go_on` is asked
/// after each document.
///
/// # Errors
/// When the tokenizer does not know a token, or what `go_on` says.
pub fn route(
    sight: &Sight,
    documents: &[impl AsRef<[u32]>],
    go_on: &mut dyn FnMut() -> Result<(), EndedOutcome>,
) -> Result<Vec<Stretch>, EndedOutcome> {
    let every = sight.every.max(1) as usize;
    let mut stretches = Vec::new();
    let mut first = 0;
    for (document, tokens) in documents.iter().enumerate() {
        let tokens = tokens.as_ref();
        for start in (0..tokens.len()).step_by(every) {
            let end = (start + every).min(tokens.len());
            let distances = sight.look(&tokens[..start])?;
            stretches.push(Stretch { document, tokens: first + start..first + end, distances });
        }
        first += tokens.len();
        go_on()?;
    }
    Ok(stretches)
}

impl Sight<'_> {
    /// Distances of a text's end; None where nothing is known of it.
    fn look(&self, before: &[u32]) -> Result<Option<Vec<f32>>, EndedOutcome> {
        let tail = &before[before.len().saturating_sub(CONTEXT_TOKENS_MAX)..];
        let text =
            self.tokenizer.decode(tail).map_err(|error| ended(TerminationReason::CorruptData, format!("{error:#}")))?;
        // A tail may begin in the middle of a character.
        let text = text.trim_start_matches(char::REPLACEMENT_CHARACTER);
        let skipped = text.chars().count().saturating_sub(CONTEXT_CHARS_MAX);
        let from = text.char_indices().nth(skipped).map_or(text.len(), |(place, _)| place);
        let all = self.router.distances(&text[from..]);
        Ok(all.map(|all| self.centres.iter().map(|&centre| all[centre]).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use senmon_corpus::{
        discover::discover,
        read::Document,
        tokenizer::{SEPARATOR, train},
    };

    #[test]
    fn a_look_sees_a_bounded_tail_and_nothing_of_what_comes() {
        let (english, japanese) = ("the kernel maps a page of memory. ", "設定ファイルの項目を読む。");
        let document = |record: u64| Document {
            record,
            id: record.to_string(),
            group: None,
            source: None,
            text: [english, japanese][record as usize % 2].repeat(3),
        };
        let sample: Vec<Document> = (0..40).map(document).collect();
        let settings = serde_json::from_value(serde_json::json!({ "domains": 2 })).unwrap();
        let router = discover(&sample, &settings).unwrap().router;
        let bytes = train(&[english, japanese], 300).unwrap();
        let tokenizer = Tokenizer::from_bytes(&bytes, SEPARATOR, None).unwrap();
        let sight = Sight { router: &router, tokenizer: &tokenizer, centres: &[0, 1], every: 16 };
        let encode = |text: &str| tokenizer.encode(text).unwrap();
        let (a, b) = (encode(&english.repeat(200)), encode(&japanese.repeat(300)));
        let long: Vec<u32> = a.iter().chain(&b).copied().collect();
        let all = |document: &Vec<u32>| route(&sight, &[document], &mut || Ok(())).unwrap();
        let whole = all(&long);
        assert_eq!(whole[0].distances, None, "nothing is known before the first token");
        // What lies further back than the tail, and what comes, changes nothing.
        let last = whole.last().unwrap();
        let start = last.tokens.start;
        assert!(a.len() > CONTEXT_TOKENS_MAX && start > a.len() + CONTEXT_TOKENS_MAX);
        assert_eq!(sight.look(&long[start - CONTEXT_TOKENS_MAX..start]).unwrap(), last.distances);
        let mut other = long.clone();
        other[start..].fill(5);
        assert_eq!(all(&other), whole);
        let (early, late) = (whole[40].distances.as_ref().unwrap(), last.distances.as_ref().unwrap());
        assert!((early[0] < early[1]) != (late[0] < late[1]), "{early:?} and {late:?}");
        // Stretches are the document, one after the other; a stop is heard.
        assert_eq!(whole.iter().map(|stretch| stretch.tokens.len()).sum::<usize>(), long.len());
        let stop = || Err(ended(TerminationReason::Cancelled, "cancelled."));
        assert!(route(&sight, &[&long], &mut { stop }).is_err());
    }
}
