//! Evaluations, comparisons and the report of an experiment.
//!
//! Never computes a figure: jobs do, and `domain::report` puts together what they found.

use super::{Scene, is_of};
use crate::{
    db::{
        self,
        evaluations::{EvaluationRow, NewEvaluation, Subject},
        events::NewEvent,
    },
    domain::{
        advance::experiment::{Facts, ensemble_title, is_compared, stages},
        goodput::sentence,
        report::{self, Mixed, Scored},
    },
    tasks::failure::lasting,
};
use anyhow::{Context, Result};
use senmon_corpus::{bootstrap::RESAMPLES, shard_set::windows_by_domain, windows::fresh_share};
use senmon_protocol::{
    ids::{EvaluationId, StorageKey},
    job::{EnsembleJob, EnsembleMember, EvaluateJob, JobResult, JobSpec, MemberPart},
    lineage::Lineage,
    report::{BranchCost, MatrixRow},
    said,
    said::{Said, SaidValue},
    view::{BranchRole, BranchState, BranchView, StreamExperiment, StreamMessage},
};

impl Scene<'_> {
    pub(super) async fn evaluate(&self, branch: &BranchView) -> Result<()> {
        let checkpoint = db::checkpoints::latest(&self.app.db, branch.id)
            .await?
            .ok_or_else(|| lasting("the branch has no checkpoint"))?;
        let spec = &self.row.spec;
        let (id, of) = (EvaluationId::new(), Subject::Checkpoint(branch.id, checkpoint.id));
        let key = format!("evaluate/{}", checkpoint.id);
        let job = JobSpec::Evaluate(EvaluateJob {
            experiment_id: self.row.id,
            evaluation_id: id,
            checkpoint,
            shards: self.shards_key()?,
            sequence_length: spec.data.sequence_length,
            held_out: self.held_out_key()?,
            tokens_per_document_max: spec.evaluation.tokens_per_document_max,
            precision: spec.training.precision,
            output: StorageKey::new(format!("evaluations/{id}"))?,
        });
        let evaluation = NewEvaluation { id, of, title: branch.name.clone() };
        self.ensure(key, format!("evaluate {}", branch.name), job, None, Some(evaluation), 1).await
    }

    /// Asks for the comparison of one repeat: its experts, its controls and the seed.
    pub(super) async fn ensemble(&self, repeat: u32) -> Result<()> {
        let mut members = Vec::new();
        for branch in self.branches.iter().filter(|b| b.state == BranchState::Completed) {
            let part = match branch.role {
                BranchRole::Seed => MemberPart::Alone,
                role if !is_compared(role) || branch.repeat != repeat => continue,
                BranchRole::Expert => MemberPart::Expert,
                BranchRole::Random => MemberPart::Random,
                BranchRole::Dense => MemberPart::Dense,
                _ => MemberPart::Alone,
            };
            if let Some(JobResult::Evaluate(result)) = self.evaluation(branch).and_then(|e| e.result.as_ref()) {
                members.push(EnsembleMember {
                    branch: branch.name.clone(),
                    part,
                    domain: branch.domain,
                    scores: result.folder.clone(),
                    sha256: result.sha256.clone(),
                });
            }
        }
        let spec = &self.row.spec;
        let experts = members.iter().filter(|member| member.part == MemberPart::Expert).count();
        let most = u32::try_from(experts).unwrap_or(u32::MAX);
        let mut top_k: Vec<u32> = spec.evaluation.top_k.iter().map(|k| (*k).min(most)).filter(|k| *k > 0).collect();
        top_k.sort_unstable();
        top_k.dedup();
        let title = ensemble_title(repeat);
        let id = EvaluationId::new();
        let job = JobSpec::Ensemble(EnsembleJob {
            experiment_id: self.row.id,
            evaluation_id: id,
            members,
            shards: self.shards_key()?,
            tokenizer: self.tokenizer()?.1,
            router: self.router()?,
            held_out: self.held_out_key()?,
            tokens_per_document_max: spec.evaluation.tokens_per_document_max,
            route_every_tokens: spec.evaluation.route_every_tokens,
            top_k,
            temperatures: spec.evaluation.temperatures.clone(),
            resamples: RESAMPLES,
            random_seed: spec.training.random_seed,
        });
        let (key, name) = (format!("ensemble/{repeat}"), format!("compare {title}"));
        let evaluation = NewEvaluation { id, of: Subject::Repeat(repeat), title };
        self.ensure(key, name, job, None, Some(evaluation), 1).await
    }

    /// What the evaluation of a branch found.
    pub(super) fn scored(&self, branch: &BranchView) -> Option<Scored> {
        let evaluation = self.evaluation(branch)?;
        let Some(JobResult::Evaluate(result)) = &evaluation.result else { return None };
        let row = MatrixRow {
            branch: branch.name.clone(),
            branch_id: branch.id,
            role: branch.role,
            domain: branch.domain,
            repeat: branch.repeat,
            checkpoint_id: evaluation.checkpoint_id?,
            evaluation_id: evaluation.id,
            domains: result.domains.clone(),
        };
        Some(Scored { row, calibration: result.calibration.clone(), parameters: result.parameters })
    }

    /// The evaluation of a branch's last checkpoint.
    fn evaluation(&self, branch: &BranchView) -> Option<&EvaluationRow> {
        self.evaluations.iter().find(|evaluation| is_of(evaluation, branch))
    }

    /// The scored branches, and what each branch cost.
    async fn rows(&self) -> Result<(Vec<Scored>, Vec<BranchCost>)> {
        let index = self.row.shard_index.as_ref().context("the shards have no index")?;
        let windows = windows_by_domain(index, self.row.spec.data.sequence_length);
        let (mut matrix, mut costs) = (Vec::new(), Vec::new());
        for branch in &self.branches {
            matrix.extend(self.scored(branch));
            let spent = db::branches::spent(&self.app.db, branch.id).await?;
            let trained = branch.tokens > 0 && spent.wall > 0.0;
            #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
            let rate = branch.tokens as f64 / spent.wall;
            costs.push(BranchCost {
                branch: branch.name.clone(),
                branch_id: branch.id,
                role: branch.role,
                tokens: branch.tokens,
                wall_seconds: spent.wall,
                gpu_hours: spent.gpu / 3600.0,
                cpu_slot_hours: spent.cpu / 3600.0,
                tokens_per_second: trained.then_some(rate),
                fresh_share: self.fresh_share(branch, &windows).await?,
                checkpoint_bytes: db::checkpoints::bytes(&self.app.db, branch.id).await?,
                checkpoint_id: branch.checkpoint_id,
            });
        }
        Ok((matrix, costs))
    }

    /// Share of what a branch drew that its lineage read for the first time.
    async fn fresh_share(&self, branch: &BranchView, windows: &[u64]) -> Result<Option<f64>> {
        let (Some(end), true) = (branch.checkpoint_id, branch.steps > 0) else { return Ok(None) };
        let before = match branch.parent_id {
            Some(parent) => self.start(branch, parent).await?.meta.lineage,
            None => Lineage::default(),
        };
        let after = db::checkpoints::get(&self.app.db, end).await?.meta.lineage;
        Ok(fresh_share(windows, &before, &after))
    }

    pub(super) async fn report(&self, facts: &Facts) -> Result<()> {
        let clustering = self.clustering.as_ref().context("the experiment has no clustering")?;
        let (matrix, costs) = self.rows().await?;
        let repeats = self.branches.iter().map(|branch| branch.repeat).max().unwrap_or(0);
        let ensembles = (0..=repeats).filter_map(|repeat| {
            let evaluation = self.evaluations.iter().find(|e| e.repeat == Some(repeat))?;
            match &evaluation.result {
                Some(JobResult::Ensemble(result)) => {
                    Some(Mixed { repeat, evaluation_id: evaluation.id, result: (**result).clone() })
                }
                _ => None,
            }
        });
        let scored = |b: &BranchView| matrix.iter().any(|scored: &Scored| scored.row.branch_id == b.id);
        let missing: Vec<_> =
            self.branches.iter().filter(|b| !scored(b)).map(|b| (b.name.clone(), why_missing(b))).collect();
        let report = report::assemble(report::Input {
            experiment_id: self.row.id,
            spec: &self.row.spec,
            now: db::workers::now(&self.app.db).await?,
            quality: clustering.quality.clone().unwrap_or_default(),
            domains: &clustering.domains,
            index: self.row.shard_index.as_ref().context("the shards have no index")?,
            matrix,
            ensembles: ensembles.collect(),
            costs,
            missing,
            held_out: self.row.held_out.clone().unwrap_or_default(),
            goodput: sentence(&crate::api::goodput::experiment(self.app, self.row.id).await?),
        });
        let stages = stages(facts, true, false);
        if !db::experiments::complete(&self.app.db, self.row.id, &report, self.branches.len(), &stages).await? {
            return Ok(());
        }
        let headline = report.headline_said.clone().unwrap_or_else(|| Said::verbatim(report.headline.as_str()));
        let said = said!("experiment_completed", headline = headline);
        self.app
            .event(NewEvent {
                kind: "experiment_completed",
                level: "info",
                said,
                experiment_id: Some(self.row.id),
                ..NewEvent::default()
            })
            .await;
        self.app.hint(StreamMessage::Experiment(StreamExperiment { experiment_id: self.row.id }));
        Ok(())
    }
}

/// Why a branch has no figures.
fn why_missing(branch: &BranchView) -> SaidValue {
    match (&branch.why_said, &branch.why) {
        _ if branch.state == BranchState::Completed => said!("evaluation_failed").into(),
        (Some(said), _) => said.clone().into(),
        (None, Some(why)) => why.trim_end_matches('.').into(),
        (None, None) => said!("evaluation_failed").into(),
    }
}
