//! Hugging Face's `tokenizer.json`: byte-level BPE trained, any tokenizer loaded and applied.
//!
//! What opens and closes a document is put there as ids; text that spells a special token stays text.

use anyhow::{Context, Result, anyhow, bail, ensure};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};
use tokenizers::{
    AddedToken, DecoderWrapper, Model, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerBuilder,
    TokenizerImpl,
    models::bpe::{BPE, BpeTrainerBuilder},
    pre_tokenizers::byte_level::ByteLevel,
};

/// The separator of a trained tokenizer; its id is 0.
pub const SEPARATOR: &str = "<|endoftext|>";

/// A tokenizer with the tokens that open and close documents.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    separator_id: u32,
    bos_id: Option<u32>,
    /// Tokens that text must not become by being spelled: special ones, and the bytes of a fallback.
    controls: HashMap<u32, String>,
}

/// Special tokens named in a message.
const NAMED_MAX: usize = 12;

/// Trains a byte-level BPE and returns the bytes of its `tokenizer.json`. Deterministic: ties go by the pair's ids.
///
/// # Errors
/// When the vocabulary cannot be reached.
pub fn train(texts: &[&str], vocab_size: u32) -> Result<Vec<u8>> {
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(vocab_size as usize)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(vec![AddedToken::from(SEPARATOR, true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let bytes = ByteLevel::new(false, true, true);
    let mut tokenizer: TokenizerImpl<
        BPE,
        NormalizerWrapper,
        PreTokenizerWrapper,
        PostProcessorWrapper,
        DecoderWrapper,
    > = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None)
        .with_pre_tokenizer(Some(bytes.into()))
        .with_post_processor(Some(bytes.trim_offsets(false).into()))
        .with_decoder(Some(ByteLevel::default().into()))
        .build()
        .map_err(|error| anyhow!("build the tokenizer: {error}"))?;
    tokenizer.train(&mut trainer, texts.iter().copied()).map_err(|error| anyhow!("train the tokenizer: {error}"))?;
    let text = tokenizer.to_string(true).map_err(|error| anyhow!("write the tokenizer: {error}"))?;
    Ok(text.into_bytes())
}

/// Bytes of `tokenizer.json` at most; those of a vocabulary of 260,000 are 33 MB.
pub const TOKENIZER_BYTES_MAX: u64 = 64 << 20;

/// Ids are below it: a model has a row of weights for each.
const ID_MAX: u32 = 1 << 28;

/// What the library does with a file from outside, which may break it: then the file is refused, and nothing else ends.
fn unbroken<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| bail!("no tokenizer.json: it breaks the tokenizers library"))
}

impl Tokenizer {
    /// Loads `tokenizer.json`. `bos` is the token that opens documents: `""` for none, None for what the tokenizer's
    /// own post-processor puts there.
    ///
    /// # Errors
    /// When the file is no tokenizer, or separator or `bos` are none of its special tokens.
    pub fn load(path: &Path, separator: &str, bos: Option<&str>) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        Self::from_bytes(&bytes, separator, bos).with_context(|| path.display().to_string())
    }

    /// Loads the bytes of `tokenizer.json`.
    ///
    /// # Errors
    /// As [`Tokenizer::load`].
    pub fn from_bytes(bytes: &[u8], separator: &str, bos: Option<&str>) -> Result<Self> {
        let mut tokenizer = Self::parse(bytes)?;
        tokenizer.separator_id = tokenizer.mark("separator", separator)?;
        let opener = match bos {
            Some("") => None,
            Some(token) => Some(tokenizer.mark("bos", token)?),
            None => tokenizer.own_bos()?,
        };
        // A document is opened by the separator before it where nothing else opens it.
        tokenizer.bos_id = opener.filter(|id| *id != tokenizer.separator_id);
        Ok(tokenizer)
    }

    /// A tokenizer as it is, without tokens around documents: to decode, and to look at.
    ///
    /// # Errors
    /// When the bytes are no `tokenizer.json`.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        // The library takes for granted that what it parses in parts is JSON as a whole.
        serde_json::from_slice::<serde::de::IgnoredAny>(bytes).context("no tokenizer.json")?;
        let read = || tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| anyhow!("no tokenizer.json: {error}"));
        let mut inner = unbroken(read)?;
        let largest = inner.get_vocab(true).into_values().max().unwrap_or(0);
        ensure!(
            largest < ID_MAX,
            "no tokenizer.json: found a token with the id {largest}, expected ids below {ID_MAX}"
        );
        inner.with_truncation(None).map_err(|error| anyhow!("{error}"))?.with_padding(None);
        inner.set_encode_special_tokens(true);
        let special = inner.get_added_tokens_decoder().into_iter().filter(|(_, token)| token.special);
        let mut controls: HashMap<u32, String> = special.map(|(id, token)| (id, token.content)).collect();
        let pieces = (0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>"));
        controls.extend(pieces.filter_map(|piece| Some((inner.get_model().token_to_id(&piece)?, piece))));
        Ok(Self { inner, separator_id: 0, bos_id: None, controls })
    }

    /// The id of a token that opens or closes documents: from now on nothing else means it.
    fn mark(&mut self, key: &str, content: &str) -> Result<u32> {
        let added = self.inner.get_added_tokens_decoder();
        let Some((id, token)) = added.iter().find(|(_, token)| token.content == content) else {
            let mut named: Vec<_> = added.into_iter().filter(|(_, token)| token.special).collect();
            named.sort_unstable_by_key(|(id, _)| *id);
            let named: Vec<String> =
                named.iter().take(NAMED_MAX).map(|(_, token)| format!("{:?}", token.content)).collect();
            let known = if named.is_empty() { "it has none".to_owned() } else { named.join(", ") };
            bail!("{key}: found {content:?}, expected a special token of the tokenizer ({known})");
        };
        let (id, token) = (*id, token.clone().special(true));
        self.inner.add_special_tokens([token]).map_err(|error| anyhow!("{key}: {error}"))?;
        self.controls.insert(id, content.to_owned());
        Ok(id)
    }

    /// What the tokenizer puts before a text by itself.
    fn own_bos(&self) -> Result<Option<u32>> {
        let encode = || self.inner.encode("a", true).map_err(|error| anyhow!("encode a text: {error}"));
        let encoding = unbroken(encode)?;
        let added = encoding.get_special_tokens_mask().iter().take_while(|mask| **mask == 1).count();
        match &encoding.get_ids()[..added] {
            [] => Ok(None),
            [id] => Ok(Some(*id)),
            several => bail!("bos: the tokenizer puts {} tokens before a text: name the one to use", several.len()),
        }
    }

    /// Entries, added tokens included; ids are below it.
    #[must_use]
    pub fn vocab_size(&self) -> u32 {
        let largest = self.inner.get_vocab(true).into_values().max().unwrap_or(0);
        largest + 1
    }

    /// Id of the separator.
    #[must_use]
    pub fn separator_id(&self) -> u32 {
        self.separator_id
    }

    /// Id of the token before each document, where there is one.
    #[must_use]
    pub fn bos_id(&self) -> Option<u32> {
        self.bos_id
    }

    /// The token from which a document's first one is predicted.
    #[must_use]
    pub fn opener_id(&self) -> u32 {
        self.bos_id.unwrap_or(self.separator_id)
    }

    /// Text of a token.
    #[must_use]
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether a token is one that no text becomes.
    #[must_use]
    pub fn is_special(&self, id: u32) -> bool {
        self.inner.get_added_tokens_decoder().get(&id).is_some_and(|token| token.special)
    }

    /// Every token and its id, added tokens included.
    #[must_use]
    pub fn vocabulary(&self) -> BTreeMap<String, u32> {
        self.inner.get_vocab(true).into_iter().collect()
    }

    /// Tokens of a text, closed by the separator and not opened by anything.
    ///
    /// # Errors
    /// When the tokenizer cannot encode it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let mut tokens = self.encode_text(text)?;
        tokens.push(self.separator_id);
        Ok(tokens)
    }

    /// Tokens of a text alone.
    ///
    /// # Errors
    /// When the tokenizer cannot encode it.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        unbroken(|| self.encode_plain(text))
    }

    fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
        let wrong = |error| anyhow!("encode a document: {error}");
        let encoding = self.inner.encode_fast(text, false).map_err(wrong)?;
        let found: BTreeSet<u32> =
            encoding.get_ids().iter().copied().filter(|id| self.controls.contains_key(id)).collect();
        if found.iter().all(|id| !text.contains(self.controls[id].as_str())) {
            return Ok(encoding.get_ids().to_vec());
        }
        // The model's own vocabulary holds a control token, and the text spells it: each character for itself instead.
        let encoding = self.inner.encode(text, false).map_err(wrong)?;
        let mut tokens = Vec::with_capacity(encoding.len());
        for (&id, &(from, to)) in encoding.get_ids().iter().zip(encoding.get_offsets()) {
            match self.controls.get(&id).filter(|content| text.get(from..to) == Some(content.as_str())) {
                Some(content) if content.chars().count() > 1 => {
                    for character in content.chars() {
                        let pieces = self.inner.get_model().tokenize(&character.to_string()).map_err(wrong)?;
                        tokens.extend(pieces.into_iter().map(|piece| piece.id));
                    }
                }
                _ => tokens.push(id),
            }
        }
        Ok(tokens)
    }

    /// Text of a run of tokens, special ones left out; bytes cut in the middle of a character become U+FFFD.
    ///
    /// # Errors
    /// When an id is unknown.
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        let vocab = self.inner.get_vocab_size(true);
        let unknown = tokens.iter().find(|id| self.inner.id_to_token(**id).is_none());
        ensure!(unknown.is_none(), "token {} is unknown to the tokenizer of {vocab} entries", unknown.unwrap_or(&0));
        self.inner.decode(tokens, true).map_err(|error| anyhow!("decode tokens: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn any_text_survives_and_training_is_deterministic() {
        let texts = ["the kernel maps the page", "設定ファイルを読む", "the page of the kernel 設定"];
        let bytes = train(&texts, 300).unwrap();
        assert_eq!(bytes, train(&texts, 300).unwrap());
        let tokenizer = Tokenizer::from_bytes(&bytes, SEPARATOR, None).unwrap();
        assert_eq!((tokenizer.separator_id(), tokenizer.bos_id(), tokenizer.opener_id()), (0, None, 0));
        assert!(tokenizer.vocab_size() <= 300);
        for text in ["the page", "未知の文字 🎉\n\ttabs", ""] {
            let tokens = tokenizer.encode(text).unwrap();
            assert_eq!(tokens.last(), Some(&0));
            assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
        }
        assert!(tokenizer.decode(&[999_999]).unwrap_err().to_string().contains("999999"));
        let refused = |separator: &str, bos: Option<&str>, expect: &str| {
            let error = Tokenizer::from_bytes(&bytes, separator, bos).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        };
        refused("<eos>", None, "separator: found \"<eos>\"");
        refused("the", None, "(\"<|endoftext|>\")");
        refused(SEPARATOR, Some("<s>"), "bos: found \"<s>\"");
        assert!(Tokenizer::from_bytes(b"{}", SEPARATOR, None).is_err());
    }

    /// `tokenizer.json` of a family: its model, its special tokens from id 0, and the token that its post-processor puts
    /// before a text.
    fn family(kind: &str, bos: Option<&str>) -> Vec<u8> {
        let special = ["<unk>", "<s>", "</s>"];
        let letters = "ab<>/s|unk 0xA1▁".chars().map(String::from);
        let bytes = (0..=255).map(|byte| format!("<0x{byte:02X}>"));
        let tokens: Vec<String> = special.map(String::from).into_iter().chain(letters).chain(bytes).collect();
        let distinct: Vec<&String> =
            tokens.iter().zip(0..).filter(|(t, i)| !tokens[..*i].contains(t)).map(|(t, _)| t).collect();
        let model = match kind {
            "unigram" => {
                let score = |token: &str| if token.chars().count() > 1 { -1.0 } else { -5.0 };
                let vocab: Vec<_> = distinct.iter().map(|token| json!([token, score(token)])).collect();
                json!({ "type": "Unigram", "unk_id": 0, "byte_fallback": true, "vocab": vocab })
            }
            _ => {
                let vocab: BTreeMap<&String, usize> = distinct.iter().copied().zip(0..).collect();
                json!({ "type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "vocab": vocab, "merges": [] })
            }
        };
        let added: Vec<_> = special
            .iter()
            .zip(0..)
            .map(|(content, id)| {
                json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true })
            })
            .collect();
        let template = bos.map(|token| {
            let id = special.iter().position(|special| *special == token);
            json!({
                "type": "TemplateProcessing", "pair": [],
                "single": [{ "SpecialToken": { "id": token, "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
                "special_tokens": { token: { "id": token, "ids": [id], "tokens": [token] } }
            })
        });
        let file = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
            "pre_tokenizer": null, "post_processor": template, "model": model,
            "decoder": { "type": "Sequence", "decoders": [{ "type": "ByteFallback" }, { "type": "Fuse" }] }
        });
        serde_json::to_vec(&file).unwrap()
    }

    #[test]
    fn text_that_spells_a_special_token_stays_text() {
        let own = train(&["the kernel maps the page </s> <|endoftext|>"], 300).unwrap();
        let families = [(own, SEPARATOR), (family("bpe", None), "</s>"), (family("unigram", None), "</s>")];
        for (bytes, separator) in families {
            let tokenizer = Tokenizer::from_bytes(&bytes, separator, None).unwrap();
            for spelled in ["a</s>b", "<s>", "<|endoftext|>", "<unk>a<unk>", "a <0x41> b", "é</s>", "</s></s>"] {
                let tokens = tokenizer.encode(spelled).unwrap();
                let (last, text) = tokens.split_last().unwrap();
                assert_eq!(*last, tokenizer.separator_id());
                assert!(text.iter().all(|id| !tokenizer.is_special(*id)), "{spelled}: {tokens:?}");
                assert_eq!(tokenizer.decode(text).unwrap(), spelled, "{tokens:?}");
            }
        }
    }

    #[test]
    fn a_document_is_opened_as_the_tokenizer_does_it_or_as_the_file_says() {
        let check = |own: Option<&str>, said: Option<&str>, separator: &str, expect: Option<u32>| {
            let tokenizer = Tokenizer::from_bytes(&family("bpe", own), separator, said).unwrap();
            assert_eq!(tokenizer.bos_id(), expect, "{own:?} {said:?}");
            assert_eq!(tokenizer.opener_id(), expect.unwrap_or(tokenizer.separator_id()));
        };
        check(None, None, "</s>", None);
        check(Some("<s>"), None, "</s>", Some(1));
        check(Some("<s>"), Some(""), "</s>", None);
        check(None, Some("<s>"), "</s>", Some(1));
        check(Some("<s>"), None, "<s>", None);
    }
}
