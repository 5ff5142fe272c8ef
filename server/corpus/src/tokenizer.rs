//! Byte-level BPE in Hugging Face's `tokenizer.json`: trained, loaded, applied.

use anyhow::{Context, Result, anyhow, ensure};
use rayon::prelude::*;
use std::path::Path;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerBuilder,
    TokenizerImpl,
    models::bpe::{BPE, BpeTrainerBuilder},
    pre_tokenizers::byte_level::ByteLevel,
};

/// The separator of a trained tokenizer; its id is 0.
pub const SEPARATOR: &str = "<|endoftext|>";

/// A tokenizer with the token that separates documents.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    separator_id: u32,
}

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

impl Tokenizer {
    /// Loads `tokenizer.json`.
    ///
    /// # Errors
    /// When the file is no tokenizer, or does not know the separator.
    pub fn load(path: &Path, separator: &str) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        Self::from_bytes(&bytes, separator).with_context(|| path.display().to_string())
    }

    /// Loads the bytes of `tokenizer.json`.
    ///
    /// # Errors
    /// As [`Tokenizer::load`].
    pub fn from_bytes(bytes: &[u8], separator: &str) -> Result<Self> {
        let mut inner =
            tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| anyhow!("no tokenizer.json: {error}"))?;
        inner.with_truncation(None).map_err(|error| anyhow!("{error}"))?.with_padding(None);
        let separator_id =
            inner.token_to_id(separator).with_context(|| format!("the tokenizer has no token {separator:?}"))?;
        Ok(Self { inner, separator_id })
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

    /// Tokens of each text, each closed by the separator.
    ///
    /// # Errors
    /// When the tokenizer cannot encode a text.
    pub fn encode(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>> {
        let one = |text: &&str| {
            let encoding =
                self.inner.encode_fast(*text, false).map_err(|error| anyhow!("encode a document: {error}"))?;
            Ok(encoding.get_ids().iter().copied().chain([self.separator_id]).collect())
        };
        texts.par_iter().map(one).collect()
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

    #[test]
    fn any_text_survives_and_training_is_deterministic() {
        let texts = ["the kernel maps the page", "設定ファイルを読む", "the page of the kernel 設定"];
        let bytes = train(&texts, 300).unwrap();
        assert_eq!(bytes, train(&texts, 300).unwrap());
        let tokenizer = Tokenizer::from_bytes(&bytes, SEPARATOR).unwrap();
        assert_eq!(tokenizer.separator_id(), 0);
        assert!(tokenizer.vocab_size() <= 300);
        for text in ["the page", "未知の文字 🎉\n\ttabs", ""] {
            let tokens = tokenizer.encode(&[text]).unwrap().remove(0);
            assert_eq!(tokens.last(), Some(&0));
            assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
        }
        assert!(tokenizer.decode(&[999_999]).unwrap_err().to_string().contains("999999"));
        assert!(Tokenizer::from_bytes(&bytes, "<eos>").unwrap_err().to_string().contains("<eos>"));
        assert!(Tokenizer::from_bytes(b"{}", SEPARATOR).is_err());
    }
}
