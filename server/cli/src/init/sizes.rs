//! First guesses of an experiment's sizes. Pure.

/// What is known of a corpus and the fleet.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// Documents.
    pub documents: u64,
    /// Bytes of their text.
    pub text_bytes: u64,
    /// Slots of the workers that are there; 0 where there is none yet.
    pub slots: u64,
    /// Whether one of them is a GPU.
    pub has_gpu: bool,
    /// Domains that somebody asked for.
    pub domains: Option<u32>,
}

/// Bytes of text that a token of a small vocabulary stands for, about.
const BYTES_A_TOKEN: u64 = 3;
/// Tokens that feed one parameter (Hoffmann et al. 2022).
const TOKENS_A_PARAMETER: u64 = 20;
/// Tokens of a seed that one CPU slot trains in some ten minutes, with the smallest model.
const SEED_TOKENS_A_CPU_SLOT: u64 = 6_000_000;
/// Steps below which an expert's schedule is over before it has done its work.
const STEPS_MIN: u64 = 100;
/// Most domains that a first look is made of.
const DOMAINS_MAX: u64 = 16;

impl Facts {
    /// Tokens of the corpus, about.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        (self.text_bytes / BYTES_A_TOKEN).max(1)
    }
}

/// A shape of a model, and what goes with its size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Model {
    /// Parameters, about.
    pub parameters: u64,
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Width of the feed-forward layers.
    pub intermediate_size: u32,
    /// Blocks.
    pub layers: u32,
    /// Heads.
    pub heads: u32,
    /// Entries of the tokenizer.
    pub vocab_size: u32,
    /// Tokens of a window.
    pub window: u32,
    /// Windows a step.
    pub batch_windows: u32,
    /// Peak learning rate of a seed.
    pub seed_rate: f64,
}

#[rustfmt::skip]
const MODELS: [Model; 6] = [
    Model { parameters: 950_000, hidden_size: 128, intermediate_size: 384, layers: 2, heads: 4, vocab_size: 2_048, window: 256, batch_windows: 16, seed_rate: 4e-3 },
    Model { parameters: 5_800_000, hidden_size: 256, intermediate_size: 768, layers: 6, heads: 4, vocab_size: 4_096, window: 512, batch_windows: 32, seed_rate: 2e-3 },
    Model { parameters: 34_000_000, hidden_size: 512, intermediate_size: 1_536, layers: 8, heads: 8, vocab_size: 16_384, window: 1_024, batch_windows: 64, seed_rate: 1e-3 },
    Model { parameters: 110_000_000, hidden_size: 768, intermediate_size: 2_048, layers: 12, heads: 12, vocab_size: 32_000, window: 1_024, batch_windows: 256, seed_rate: 6e-4 },
    Model { parameters: 370_000_000, hidden_size: 1_024, intermediate_size: 2_816, layers: 24, heads: 16, vocab_size: 32_000, window: 2_048, batch_windows: 256, seed_rate: 3e-4 },
    Model { parameters: 1_300_000_000, hidden_size: 2_048, intermediate_size: 5_632, layers: 24, heads: 16, vocab_size: 32_000, window: 2_048, batch_windows: 512, seed_rate: 2e-4 },
];

impl Model {
    /// A share of the seed's peak learning rate, as it is written.
    #[must_use]
    pub fn rate(&self, share: f64) -> String {
        format!("{}", self.seed_rate * share)
    }

    fn tokens_a_step(&self) -> u64 {
        u64::from(self.window) * u64::from(self.batch_windows)
    }
}

/// Sizes of an experiment.
#[derive(Debug, Clone, PartialEq)]
pub struct Sizes {
    /// Domains.
    pub domains: u32,
    /// The model.
    pub model: Model,
    /// Tokens of the seed.
    pub seed_tokens: u64,
    /// Tokens of all experts together.
    pub experts_tokens: u64,
    /// Held-out documents of each domain that are scored.
    pub documents_scored: u64,
    /// Why the seed gets so many.
    pub why: String,
}

impl Sizes {
    /// Guesses.
    #[must_use]
    pub fn of(facts: &Facts) -> Self {
        let most = if facts.has_gpu { u64::MAX } else { SEED_TOKENS_A_CPU_SLOT * facts.slots.max(2) };
        // Three quarters leave something new to the experts.
        let of_corpus = facts.tokens() / 4 * 3;
        let (seed_tokens, why) = if of_corpus <= most {
            (of_corpus.max(10_000), "three quarters of the corpus, read once".to_owned())
        } else {
            (most, "what CPU slots train in minutes; give more where there is time".to_owned())
        };
        let fed = |model: &&Model| model.parameters * TOKENS_A_PARAMETER <= seed_tokens;
        let model = MODELS.iter().rev().find(fed).copied().unwrap_or(MODELS[0]);
        let experts_tokens = seed_tokens / 2;
        let feeds = experts_tokens / (STEPS_MIN * model.tokens_a_step());
        // Held out are five of a hundred documents, and a domain needs some.
        let holds = facts.documents / 200;
        let guess = feeds.min(holds).clamp(2, DOMAINS_MAX);
        let domains = facts.domains.unwrap_or_else(|| u32::try_from(guess).unwrap_or(2));
        let held_out = facts.documents / 20 / u64::from(domains);
        Self { domains, model, seed_tokens, experts_tokens, documents_scored: held_out.clamp(10, 200), why }
    }

    /// Numbers of experts that the ensemble is measured with: powers of two up to all.
    #[must_use]
    pub fn top_k(&self) -> Vec<u32> {
        let mut all: Vec<u32> =
            std::iter::successors(Some(1), |k| Some(k * 2)).take_while(|k| *k < self.domains).collect();
        all.truncate(4);
        all.push(self.domains);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(documents: u64, text_bytes: u64, slots: u64, has_gpu: bool, expect: (u32, u64, u64)) {
        let sizes = Sizes::of(&Facts { documents, text_bytes, slots, has_gpu, domains: None });
        assert_eq!((sizes.domains, sizes.model.parameters, sizes.seed_tokens), expect);
    }

    #[test]
    fn sizes_follow_the_corpus_and_the_fleet() {
        // The tutorial's corpus: four sources on two cores.
        check(5_355, 12_000_000, 2, false, (3, 950_000, 3_000_000));
        // Ten times as much there: no more than minutes.
        check(50_000, 120_000_000, 2, false, (14, 950_000, 12_000_000));
        // A few documents are no reason for many domains.
        check(300, 12_000_000, 2, false, (2, 950_000, 3_000_000));
        // A large corpus on GPUs: a model that its tokens feed.
        check(40_000_000, 120_000_000_000, 8, true, (16, 1_300_000_000, 30_000_000_000));
        check(1, 1, 0, false, (2, 950_000, 10_000));
    }

    #[test]
    fn the_ensemble_is_measured_up_to_all() {
        for (domains, expect) in [(1, vec![1]), (3, vec![1, 2, 3]), (8, vec![1, 2, 4, 8]), (100, vec![1, 2, 4, 8, 100])]
        {
            let facts = Facts { documents: 9, text_bytes: 9, slots: 1, has_gpu: false, domains: Some(domains) };
            assert_eq!(Sizes::of(&facts).top_k(), expect);
        }
    }
}
