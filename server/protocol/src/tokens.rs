//! A count of tokens, written by people as `6.5M` and kept as a number.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use utoipa::ToSchema;

/// A count of tokens. Read from an integer or from text such as `800K`, `6.5M`, `42B` (powers of 1000).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = u64)]
pub struct Tokens(pub u64);

/// Why a text is no [`Tokens`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("token count {found:?}: expected a whole number, or one with K, M, B or T such as 6.5M")]
pub struct BadTokens {
    /// The refused text.
    pub found: String,
}

const SUFFIXES: [(char, u32); 4] = [('K', 3), ('M', 6), ('B', 9), ('T', 12)];

impl FromStr for Tokens {
    type Err = BadTokens;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadTokens { found: text.to_owned() };
        let compact = text.trim().replace('_', "").to_ascii_uppercase();
        let (digits, zeros) = SUFFIXES
            .iter()
            .find_map(|&(suffix, zeros)| compact.strip_suffix(suffix).map(|digits| (digits, zeros)))
            .unwrap_or((&compact, 0));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) {
            return Err(bad());
        }
        let fraction_len = u32::try_from(fraction.len()).map_err(|_| bad())?;
        if fraction_len > zeros {
            return Err(bad());
        }
        let padded = format!("{whole}{fraction}{}", "0".repeat((zeros - fraction_len) as usize));
        padded.parse().map(Self).map_err(|_| bad())
    }
}

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
        let count = self.0 as f64;
        match self.0 {
            0..1_000 => write!(f, "{}", self.0),
            1_000..1_000_000 => write!(f, "{:.1} K", count / 1e3),
            1_000_000..1_000_000_000 => write!(f, "{:.1} M", count / 1e6),
            1_000_000_000..1_000_000_000_000 => write!(f, "{:.1} B", count / 1e9),
            _ => write!(f, "{:.1} T", count / 1e12),
        }
    }
}

impl<'de> Deserialize<'de> for Tokens {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Tokens;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of tokens such as 6500000 or \"6.5M\"")
            }
            fn visit_u64<E>(self, count: u64) -> Result<Tokens, E> {
                Ok(Tokens(count))
            }
            fn visit_i64<E: serde::de::Error>(self, count: i64) -> Result<Tokens, E> {
                u64::try_from(count)
                    .map(Tokens)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(count), &self))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Tokens, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_write_token_counts_with_suffixes() {
        for (text, count) in [("12", 12), ("6.5M", 6_500_000), ("42B", 42_000_000_000), ("1_000", 1000), ("0.8k", 800)]
        {
            assert_eq!(text.parse(), Ok(Tokens(count)), "{text}");
        }
        for text in ["", "M", "1.5", "-3", "6.5Q", "1.0000001M", "99999999999T"] {
            assert!(text.parse::<Tokens>().is_err(), "{text:?} was accepted");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_count_survives_json(count: u64) {
            let json = serde_json::to_string(&Tokens(count)).unwrap();
            proptest::prop_assert_eq!(serde_json::from_str::<Tokens>(&json).unwrap(), Tokens(count));
        }
    }
}
