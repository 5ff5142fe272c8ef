//! Several models compared from cached scores, document by document: the experts mixed by the router at every number of
//! experts and every temperature, the random-split experts mixed alike, each model that stands alone. No model runs.
//!
//! Never chooses on the reported half: temperature, number of experts and the best single expert come of the
//! calibration half.

use super::{
    context::{JobContext, Phase, asked_to_end, ended},
    evaluate::{HeldOut, Scores, held_out, sheet},
    mix::{Mixing, document_nats},
    place::Place,
    route::{Sight, Stretch, route},
};
use anyhow::{Context, Result};
use senmon_corpus::{
    bootstrap::{Judged, Sums, differences},
    compare::{Documents, Half, alike, held_out_shares, lowest, mean_loss, train_shares},
    router::Router,
    tokenizer::Tokenizer,
    wanted::Wanted,
};
use senmon_protocol::{
    job::{
        AloneResult, Choice, Compared, EndedOutcome, EnsembleJob, EnsembleLine, EnsembleMember, EnsembleResult,
        MemberPart, SurfacePoint, TerminationReason,
    },
    said,
    said::Said,
};

/// Runs a comparison.
///
/// # Errors
/// How it ended without a result.
pub fn run(job: &EnsembleJob, place: &Place, context: &dyn JobContext) -> Result<EnsembleResult, EndedOutcome> {
    let shards = place.shards(&job.shards, &Wanted::HeldOut, context)?;
    let held_out = held_out(&shards, place, &job.held_out, job.tokens_per_document_max).map_err(corrupt)?;
    let index = shards.index();
    let bench = Bench {
        job,
        place,
        documents: sheet(&held_out),
        by_share: held_out_shares(index),
        prior: train_shares(index),
        domains: index.domains,
    };
    let cells = job.top_k.len() * job.temperatures.len();
    let mut work = Work { context, done: 0, total: ((cells + 3) * held_out.len().max(1)) as u64 };
    work.pulse();
    let alone = bench.alone()?;
    let random = bench.random(&mut work)?;
    let routed = bench.routed(&held_out, &mut work)?;
    bench.judge(alone, random, routed, &mut work)
}

fn corrupt(error: anyhow::Error) -> EndedOutcome {
    ended(TerminationReason::CorruptData, format!("{error:#}"))
}

/// How far a comparison is: a unit is one document touched once.
struct Work<'a> {
    context: &'a dyn JobContext,
    done: u64,
    total: u64,
}

impl Work<'_> {
    /// Says that so much was done and hears whether to go on.
    fn step(&mut self, units: u64) -> Result<(), EndedOutcome> {
        self.done += units;
        self.context.progress(self.done.min(self.total), self.total, 0.0);
        self.pulse();
        asked_to_end(self.context.command()).map_or(Ok(()), Err)
    }

    fn pulse(&self) {
        self.context.pulse(Phase::Step);
    }
}

/// What all contestants stand on.
struct Bench<'a> {
    job: &'a EnsembleJob,
    place: &'a Place,
    documents: Documents,
    /// Each domain's share of the held-out tokens, `[k]`.
    by_share: Vec<f64>,
    /// Each domain's share of the training tokens, `[k]`.
    prior: Vec<f64>,
    domains: u32,
}

/// Nats of each document by the models that stand alone.
struct Alone {
    dense: Option<Vec<f64>>,
    others: Vec<(String, Vec<f64>)>,
}

/// What mixing the experts came to.
#[derive(Default)]
struct Routed {
    surface: Vec<SurfacePoint>,
    chosen: Option<Choice>,
    /// The line of each number of experts, with nats of each document.
    lines: Vec<(u32, Option<f64>, Vec<f64>)>,
    best_expert: Option<(String, Vec<f64>)>,
}

impl Bench<'_> {
    fn members(&self, part: MemberPart) -> Vec<&EnsembleMember> {
        self.job.members.iter().filter(|member| member.part == part).collect()
    }

    /// The scores of a member, if they are of the documents at hand.
    fn load(&self, member: &EnsembleMember) -> Result<Scores, EndedOutcome> {
        let scores = Scores::load(&self.place.path(&member.scores), &member.sha256).map_err(corrupt)?;
        if scores.documents == self.documents {
            return Ok(scores);
        }
        Err(corrupt(anyhow::anyhow!("the scores of {} are of other documents than those at hand", member.branch)))
    }

    fn load_all(&self, part: MemberPart) -> Result<Vec<Scores>, EndedOutcome> {
        self.members(part).into_iter().map(|member| self.load(member)).collect()
    }

    fn alone(&self) -> Result<Alone, EndedOutcome> {
        let dense = self.members(MemberPart::Dense).first().map(|member| self.load(member)).transpose()?;
        let others = self.members(MemberPart::Alone).into_iter();
        let others = others.map(|member| Ok((member.branch.clone(), self.load(member)?.nats())));
        Ok(Alone { dense: dense.map(|scores| scores.nats()), others: others.collect::<Result<_, _>>()? })
    }

    /// The random-split experts, every one with the same weight for every token: nats of each document.
    fn random(&self, work: &mut Work) -> Result<Option<(u32, Vec<f64>)>, EndedOutcome> {
        let members = self.load_all(MemberPart::Random)?;
        if members.is_empty() {
            return Ok(None);
        }
        let mut first = 0;
        let stretch = |(document, &tokens): (usize, &u32)| {
            let tokens = first..first + tokens as usize;
            first = tokens.end;
            Stretch { document, tokens, distances: None }
        };
        let whole: Vec<Stretch> = self.documents.tokens.iter().enumerate().map(stretch).collect();
        let prior = vec![1.0; members.len()];
        let mixing = Mixing { prior: &prior, top_k: members.len(), temperature: 1.0 };
        let nats = self.mixed(&members, &whole, mixing, work)?;
        Ok(Some((count(members.len()), nats)))
    }

    fn mixed(
        &self,
        members: &[Scores],
        stretches: &[Stretch],
        mixing: Mixing,
        work: &mut Work,
    ) -> Result<Vec<f64>, EndedOutcome> {
        let logprobs: Vec<&[f32]> = members.iter().map(|member| member.logprobs.as_slice()).collect();
        document_nats(&logprobs, stretches, self.documents.tokens.len(), mixing, &mut || work.step(1))
    }

    /// The experts at every number of experts and every temperature.
    fn routed(&self, held_out: &[HeldOut], work: &mut Work) -> Result<Routed, EndedOutcome> {
        let experts = self.members(MemberPart::Expert);
        if experts.is_empty() {
            return Ok(Routed::default());
        }
        let centre = |member: &&EnsembleMember| {
            let known = member.domain.filter(|domain| *domain < self.domains);
            let domain = known.with_context(|| format!("{}: a routed member needs a domain", member.branch));
            domain.map(|domain| domain as usize).map_err(corrupt)
        };
        let centres: Vec<usize> = experts.iter().map(centre).collect::<Result<_, _>>()?;
        let stretches = self.route(&centres, held_out, work)?;
        let members = self.load_all(MemberPart::Expert)?;
        let prior: Vec<f64> = centres.iter().map(|&domain| self.prior[domain]).collect();
        let mut routed = Routed::default();
        for &top_k in &self.job.top_k {
            let mut cells = Vec::new();
            for &temperature in &self.job.temperatures {
                let mixing = Mixing { prior: &prior, top_k: top_k as usize, temperature };
                let nats = self.mixed(&members, &stretches, mixing, work)?;
                let point = self.point(top_k, temperature, &nats);
                routed.surface.push(point);
                cells.push(((temperature, nats), point.calibration));
            }
            let best = lowest(cells.iter().map(|(cell, loss)| (cell, *loss))).cloned();
            // Without a finite loss there is nothing to choose: the line says what was found at the first temperature.
            let (temperature, nats) = match best {
                Some((temperature, nats)) => (Some(temperature), nats),
                None => (None, cells.into_iter().next().map(|((_, nats), _)| nats).unwrap_or_default()),
            };
            routed.lines.push((top_k, temperature, nats));
        }
        routed.chosen = choose(&routed.surface);
        let nats = experts.iter().zip(&members).map(|(member, scores)| (member.branch.clone(), scores.nats()));
        routed.best_expert = lowest(nats.map(|(branch, nats)| {
            let loss = self.mean(&nats, Half::Calibration, &self.by_share);
            ((branch, nats), loss)
        }));
        Ok(routed)
    }

    fn route(&self, centres: &[usize], held_out: &[HeldOut], work: &mut Work) -> Result<Vec<Stretch>, EndedOutcome> {
        let (router, _) = Router::load(&self.place.path(&self.job.router)).map_err(corrupt)?;
        let fits = router.domains() == self.domains as usize;
        if !fits {
            let (found, expected) = (router.domains(), self.domains);
            return Err(corrupt(anyhow::anyhow!("the router has {found} domains, the shards {expected}")));
        }
        let path = self.place.path(&self.job.tokenizer);
        let tokenizer = std::fs::read(path).context("tokenizer").and_then(|bytes| Tokenizer::parse(&bytes));
        let tokenizer = tokenizer.map_err(corrupt)?;
        let sight = Sight { router: &router, tokenizer: &tokenizer, centres, every: self.job.route_every_tokens };
        route(&sight, held_out, &mut || work.step(1))
    }

    fn mean(&self, nats: &[f64], half: Half, weights: &[f64]) -> Option<f64> {
        mean_loss(&self.documents.losses(nats, half, self.domains), weights).ok()
    }

    fn point(&self, top_k: u32, temperature: f64, nats: &[f64]) -> SurfacePoint {
        let alike = alike(self.domains as usize);
        SurfacePoint {
            top_k,
            temperature,
            calibration: self.mean(nats, Half::Calibration, &self.by_share),
            calibration_macro: self.mean(nats, Half::Calibration, &alike),
            reported: self.mean(nats, Half::Reported, &self.by_share),
            reported_macro: self.mean(nats, Half::Reported, &alike),
        }
    }

    /// Every contestant against dense, on the reported half.
    fn judge(
        &self,
        alone: Alone,
        random: Option<(u32, Vec<f64>)>,
        routed: Routed,
        work: &mut Work,
    ) -> Result<EnsembleResult, EndedOutcome> {
        let all = alone.others.iter().map(|(_, nats)| nats);
        let all = all.chain(routed.best_expert.iter().map(|(_, nats)| nats)).chain(random.iter().map(|(_, nats)| nats));
        let all: Vec<&Vec<f64>> = all.chain(routed.lines.iter().map(|(_, _, nats)| nats)).collect();
        let mut judged = self.compared(alone.dense.as_deref(), &all, work)?.into_iter();
        let mut next = || judged.next().unwrap_or_default();
        let others = alone.others.iter().map(|(branch, _)| AloneResult { branch: branch.clone(), vs_dense: next() });
        let others = others.collect();
        let best_expert = routed.best_expert.map(|(branch, _)| AloneResult { branch, vs_dense: next() });
        let mut line = |top_k, temperature, nats: &[f64]| EnsembleLine {
            top_k,
            temperature,
            domains: self.documents.losses(nats, Half::Reported, self.domains),
            vs_dense: next(),
        };
        let random = random.map(|(members, nats)| line(members, None, &nats));
        let lines = routed.lines.iter().map(|(top_k, temperature, nats)| line(*top_k, *temperature, nats)).collect();
        Ok(EnsembleResult {
            lines,
            surface: routed.surface,
            chosen: routed.chosen,
            random,
            alone: others,
            best_expert,
            resamples: if alone.dense.is_some() { self.job.resamples } else { 0 },
        })
    }

    fn compared(
        &self,
        dense: Option<&[f64]>,
        all: &[&Vec<f64>],
        work: &mut Work,
    ) -> Result<Vec<Compared>, EndedOutcome> {
        let Some(dense) = dense else {
            let said = said!("no_dense_model");
            let none = Compared { absent: Some(said.text()), absent_said: Some(said), ..Compared::default() };
            return Ok(vec![none; all.len()]);
        };
        let kept: Vec<usize> = (0..dense.len()).filter(|&i| self.documents.reported[i]).collect();
        let pick = |nats: &[f64]| kept.iter().map(|&i| nats[i]).collect::<Vec<f64>>();
        let (base, contestants) = (pick(dense), all.iter().map(|nats| pick(nats)).collect::<Vec<_>>());
        let domain: Vec<u32> = kept.iter().map(|&i| self.documents.domain[i]).collect();
        let tokens: Vec<u32> = kept.iter().map(|&i| self.documents.tokens[i]).collect();
        let group: Vec<u64> = kept.iter().map(|&i| self.documents.group[i]).collect();
        let sums = Sums { domain: &domain, tokens: &tokens, group: &group, base: &base, contestants: &contestants };
        let weightings = [self.by_share.clone(), alike(self.domains as usize)];
        let (resamples, seed) = (self.job.resamples, self.job.random_seed);
        let (begun, units) = (work.done, self.documents.tokens.len() as u64);
        let mut end = None;
        let found = differences(&sums, &weightings, resamples, seed, &mut |resample| {
            let now = begun + units * u64::from(resample) / u64::from(resamples.max(1));
            end = work.step(now - work.done).err();
            end.is_none()
        });
        match (found, end) {
            (Some(found), _) => Ok(found.into_iter().map(of_both).collect()),
            (None, Some(end)) => Err(end),
            (None, None) => Err(ended(TerminationReason::InternalError, "the bootstrap stopped by itself.")),
        }
    }
}

/// The point with the lowest loss on the calibration half.
fn choose(surface: &[SurfacePoint]) -> Option<Choice> {
    let points = surface.iter().map(|point| (point, point.calibration));
    lowest(points).map(|point| Choice { top_k: point.top_k, temperature: point.temperature })
}

/// The judgements by share and alike.
fn of_both(judged: Vec<Judged>) -> Compared {
    let mut absent_said: Option<Said> = None;
    let mut found = judged.into_iter().map(|judged| judged.map_err(|why| absent_said = Some(why)).ok());
    let (by_share, alike) = (found.next().flatten(), found.next().flatten());
    drop(found);
    Compared { by_share, alike, absent: absent_said.as_ref().map(Said::text), absent_said }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
