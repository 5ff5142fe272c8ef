//! Held-out loss beside training: the same few documents of each domain, scored every so many steps. Text that is damaged or
//! cannot be scored is said, and training goes on.

use crate::{
    context::{JobContext, Phase, asked_to_end},
    evaluate::{BATCH_WINDOWS, HeldOut, held_out_list, run_windows, windows},
    memory::within_memory,
    model::{Model, Use},
    place::Place,
    trainer::Trainer,
};
use anyhow::{Result as Anyhow, anyhow};
use senmon_corpus::{held_out::Listed, shard_set::ShardSet, wanted::Wanted};
use senmon_protocol::{
    job::{EndedOutcome, HeldOutCurve, TerminationReason, TrainJob},
    said,
};
use std::collections::BTreeMap;
use tch::{Device, Kind};
use xxhash_rust::xxh3::xxh3_64;

/// Tokens of a domain in the whole, at least: of fewer, a loss says little. Where that leaves no room for all, some
/// domains are in it and others are not, the same ones in every branch.
const WHOLE_TOKENS_MIN: u32 = 64;

/// What is scored beside training.
pub(super) struct Scorer<'a> {
    curve: &'a HeldOutCurve,
    /// Name of each curve, and its documents by domain.
    sets: Vec<(String, Vec<Vec<HeldOut>>)>,
    opener: u32,
    /// Windows scored at once.
    batch: usize,
}

impl<'a> Scorer<'a> {
    /// Reads the documents of a job's curves; None where it has none, or they cannot be read.
    pub(super) fn open(
        job: &'a TrainJob,
        place: &Place,
        context: &dyn JobContext,
    ) -> Result<Option<Self>, EndedOutcome> {
        let Some(curve) = &job.held_out else { return Ok(None) };
        let read = match place.shards(&job.shards, &Wanted::HeldOut, context) {
            Err(end) if end.reason != TerminationReason::CorruptData => return Err(end),
            Err(end) => Err(anyhow!(end.message)),
            Ok(shards) => sets(curve, &shards, place).map(|sets| (sets, shards.index().opener_id())),
        };
        match read {
            Ok((sets, opener)) => Ok(Some(Self { curve, sets, opener, batch: BATCH_WINDOWS })),
            Err(error) => {
                let said = said!("held_out_unread", error = format!("{error:#}"));
                context.event("held_out_unread", 0, "warn", said);
                Ok(None)
            }
        }
    }

    /// Whether something is scored after a step.
    pub(super) fn is_due(&self, step: u64, steps: u64) -> bool {
        step == steps || step.is_multiple_of(self.curve.every_steps.max(1))
    }

    /// Losses of the curves, nats per token; none where a command asks to end, or memory does not hold one window.
    pub(super) fn score(
        &mut self,
        trainer: &Trainer,
        (device, kind, length): (Device, Kind, u32),
        step: u64,
        context: &dyn JobContext,
    ) -> BTreeMap<String, f64> {
        let documents: Vec<&HeldOut> = self.sets.iter().flat_map(|(_, domains)| domains.iter().flatten()).collect();
        let total = documents.iter().map(|document| document.tokens.len()).sum();
        let mut told = |_, _| {
            context.pulse(Phase::Long);
            asked_to_end(context.command()).map_or(Ok(()), Err)
        };
        while self.batch > 0 {
            let scored = within_memory(|| {
                let (spec, how) = (trainer.spec.clone(), Use { trains: false, deterministic: trainer.deterministic });
                let model = Model::over(spec, &trainer.layout, &trainer.weights, kind, length.into(), how);
                run_windows(&model, device, windows(&documents, self.opener, length), total, self.batch, &mut told)
            });
            match scored {
                Ok(Ok(logprobs)) => return self.losses(&logprobs),
                Ok(Err(_)) => return BTreeMap::new(),
                Err(_) if self.batch > 1 => self.batch /= 2,
                Err(said) => {
                    self.batch = 0;
                    let said = said!("held_out_unread_from_here", error = said);
                    context.event("held_out_unread", step, "warn", said);
                }
            }
        }
        BTreeMap::new()
    }

    /// Each curve's loss: the mean over its domains of the loss of each, so that every domain counts alike.
    #[expect(clippy::cast_precision_loss, reason = "counts of a few thousand")]
    fn losses(&self, logprobs: &[f32]) -> BTreeMap<String, f64> {
        let mut rest = logprobs;
        let mut domain = |documents: &Vec<HeldOut>| {
            let (own, behind) = rest.split_at(documents.iter().map(|document| document.tokens.len()).sum());
            rest = behind;
            -own.iter().map(|logprob| f64::from(*logprob)).sum::<f64>() / own.len() as f64
        };
        let mean = |(name, domains): &(String, Vec<Vec<HeldOut>>)| {
            (name.clone(), domains.iter().map(&mut domain).sum::<f64>() / domains.len() as f64)
        };
        self.sets.iter().map(mean).collect()
    }
}

/// The documents of each curve.
fn sets(curve: &HeldOutCurve, shards: &ShardSet, place: &Place) -> Anyhow<Vec<(String, Vec<Vec<HeldOut>>)>> {
    let list = held_out_list(place, &curve.list)?;
    let mut by_domain: BTreeMap<u32, Vec<&Listed>> = BTreeMap::new();
    list.documents.iter().filter(|document| !document.reported).for_each(|document| {
        by_domain.entry(document.domain).or_default().push(document);
    });
    let mut sets = Vec::new();
    for domain in &curve.domains {
        let Some(listed) = by_domain.get(domain) else { continue };
        let read = first_tokens(listed, curve.tokens_per_domain, shards)?;
        sets.push((format!("held_out/domain/{domain}"), vec![read]));
    }
    let count = u32::try_from(by_domain.len()).unwrap_or(u32::MAX).max(1);
    let each = (curve.tokens_whole / count).max(WHOLE_TOKENS_MIN);
    let mut domains: Vec<u32> = by_domain.keys().copied().collect();
    // An order that no numbering of the domains has a hand in.
    domains.sort_by_key(|domain| xxh3_64(&domain.to_le_bytes()));
    domains.truncate((curve.tokens_whole / each).max(1) as usize);
    let whole = domains.iter().map(|domain| first_tokens(&by_domain[domain], each, shards)).collect::<Anyhow<_>>()?;
    sets.push(("held_out/whole".to_owned(), whole));
    sets.retain(|(_, domains)| !domains.is_empty());
    Ok(sets)
}

/// The first documents of a list, up to so many tokens.
fn first_tokens(listed: &[&Listed], tokens_max: u32, shards: &ShardSet) -> Anyhow<Vec<HeldOut>> {
    let mut left = tokens_max as usize;
    let mut read = Vec::new();
    for document in listed {
        if left == 0 {
            break;
        }
        let mut tokens = shards.held_out(document)?;
        tokens.truncate(left);
        left -= tokens.len();
        let Listed { domain, group, reported, .. } = **document;
        read.push(HeldOut { domain, group, reported, tokens });
    }
    Ok(read)
}
