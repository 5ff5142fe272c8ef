//! Carries out what `domain::advance` asks for, for each experiment that is not over.

mod held_out;

use super::ask;
use crate::{
    app::App,
    db::{
        self,
        events::NewEvent,
        experiments::{ExperimentRow, Filter},
        fits::TokenizerRow,
        jobs::NewJob,
    },
    domain::{
        advance::{BranchFacts, Command, ENSEMBLE, EvaluationFacts, Facts, Fit, advance, stages},
        expand::{Domains, expand},
        goodput::sentence,
        report,
    },
};
use anyhow::{Context, Result, bail};
use senmon_corpus::{router::Router, shard_set::windows_by_domain, similarity::similarity_order, tokenizer::Tokenizer};
use senmon_protocol::{
    clustering::{ClusteringState, ClusteringView},
    corpus::CorpusView,
    ids::StorageKey,
    job::{
        EnsembleJob, EnsembleMember, EvaluateJob, InitModel, JobKind, JobResult, JobSpec, MergeJob, MergeMember,
        ModelFolder, Routing, ShardIndex, ShardJob, TrainJob, TrainStart,
    },
    report::{BranchCost, MatrixRow},
    spec::SeedSpec,
    view::{BranchRole, BranchState, BranchView, ExperimentState, StreamExperiment, StreamMessage},
};

/// Advances every open experiment.
///
/// # Errors
/// When the list cannot be read; an experiment that cannot be advanced is logged and does not stop the others.
pub async fn run(app: App) -> Result<()> {
    for experiment in ask(db::experiments::list(&app.db, Filter { open: true, ..Filter::default() })).await? {
        if let Err(error) = ask(one(&app, &experiment)).await {
            tracing::error!(experiment.id = %experiment.id, error = format!("{error:#}"), "could not advance an experiment; trying again");
        }
    }
    Ok(())
}

/// An experiment and what belongs to it.
struct Scene<'a> {
    app: &'a App,
    row: &'a ExperimentRow,
    corpus: CorpusView,
    clustering: Option<ClusteringView>,
    tokenizer: Option<TokenizerRow>,
    branches: Vec<BranchView>,
    evaluations: Vec<db::checkpoints::EvaluationRow>,
}

async fn one(app: &App, row: &ExperimentRow) -> Result<()> {
    let clustering = match row.clustering_id {
        Some(id) => Some(db::fits::clustering(&app.db, id).await?),
        None => None,
    };
    let tokenizer = match row.tokenizer_id {
        Some(id) => Some(db::fits::tokenizer(&app.db, id).await?),
        None => None,
    };
    let scene = Scene {
        app,
        row,
        corpus: db::corpora::get(&app.db, &row.corpus_id.to_string()).await?,
        clustering,
        tokenizer,
        branches: db::branches::plain(&app.db, row.id).await?,
        evaluations: db::checkpoints::evaluations(&app.db, row.id).await?,
    };
    let facts = scene.facts().await?;
    let changes = db::experiments::set_stages(&app.db, row.id, &stages(&facts, false, false)).await?;
    for stage in changes.done {
        let text = format!("The stage {} is done.", db::word(&stage));
        let event = NewEvent {
            kind: "stage_finished",
            level: "info",
            text,
            experiment_id: Some(row.id),
            ..NewEvent::default()
        };
        app.event(event).await;
    }
    if changes.any {
        app.hint(StreamMessage::Experiment(StreamExperiment { experiment_id: row.id }));
    }
    if row.state == ExperimentState::Paused {
        return Ok(());
    }
    super::limits::check(app, row, &scene.branches).await?;
    for command in advance(&facts) {
        scene.carry_out(&command, &facts).await.with_context(|| format!("{command:?}"))?;
        app.wake.schedule.notify_one();
        app.wake.advance.notify_one();
    }
    Ok(())
}

impl Scene<'_> {
    async fn facts(&self) -> Result<Facts> {
        let (shards_asked, shards, shard_problem) = db::experiments::shards(&self.app.db, self.row.id).await?;
        Ok(Facts {
            clustering: match &self.clustering {
                None => Fit::Absent,
                Some(view) => match view.state {
                    ClusteringState::Fitting => Fit::Fitting,
                    ClusteringState::Ready => Fit::Ready,
                    ClusteringState::Failed => Fit::Failed(view.problem.clone().unwrap_or_default()),
                },
            },
            tokenizer: self.tokenizer.as_ref().map_or(Fit::Absent, |row| row.fit.clone()),
            files: self.corpus.files.len(),
            shards_asked,
            shards_done: shards.len(),
            shard_problem,
            indexed: self.row.shard_index.is_some(),
            comparison: self.comparison().await?,
            branches: self
                .branches
                .iter()
                .map(|branch| BranchFacts {
                    name: branch.name.clone(),
                    role: branch.role,
                    parent: branch
                        .parent_id
                        .filter(|_| branch.start_checkpoint_id.is_none())
                        .and_then(|id| self.branches.iter().find(|b| b.id == id))
                        .map(|b| b.name.clone()),
                    state: branch.state,
                    problem: branch.why.clone(),
                    tokens: (branch.tokens, branch.tokens_total),
                })
                .collect(),
            evaluations: self
                .evaluations
                .iter()
                .map(|e| EvaluationFacts { title: e.title.clone(), done: e.result.is_some(), failed: e.failed })
                .collect(),
        })
    }

    async fn carry_out(&self, command: &Command, facts: &Facts) -> Result<()> {
        let (app, id, spec) = (self.app, self.row.id, &self.row.spec);
        match command {
            Command::Discover => {
                let clustering = db::fits::ensure_clustering(&app.db, self.row.corpus_id, &spec.clustering).await?;
                let tokenizer = db::fits::ensure_tokenizer(&app.db, self.row.corpus_id, &spec.tokenizer).await?;
                db::experiments::set_fits(&app.db, id, clustering, tokenizer).await?;
                app.wake.discover.notify_one();
            }
            Command::CreateShardJobs => self.create_shard_jobs().await?,
            Command::WriteShardIndex => self.write_shard_index().await?,
            Command::CreateBranches => self.create_branches(facts).await?,
            Command::CompareHeldOut => self.compare_held_out(facts).await?,
            Command::ListHeldOut => self.list_held_out(facts).await?,
            Command::Train(name) => self.train(self.branch(name)?).await?,
            Command::Merge(name) => self.merge(self.branch(name)?).await?,
            Command::GiveUp(name, why) => db::branches::give_up(&app.db, self.branch(name)?.id, why).await?,
            Command::Evaluate(name) => self.evaluate(self.branch(name)?).await?,
            Command::Ensemble(title) => self.ensemble(title).await?,
            Command::Report => self.report(facts).await?,
            Command::Fail(why) => self.fail(why, facts).await?,
        }
        Ok(())
    }

    fn branch(&self, name: &str) -> Result<&BranchView> {
        self.branches.iter().find(|branch| branch.name == name).with_context(|| format!("no branch {name}"))
    }

    fn router(&self) -> Result<StorageKey> {
        self.clustering.as_ref().and_then(|view| view.router.clone()).context("the clustering has no router")
    }

    fn tokenizer(&self) -> Result<(&TokenizerRow, StorageKey)> {
        let row = self.tokenizer.as_ref().context("the experiment has no tokenizer")?;
        Ok((row, row.storage_key.clone().context("the tokenizer is not stored")?))
    }

    fn shards_key(&self) -> Result<StorageKey> {
        Ok(StorageKey::new(format!("shards/{}/index.json", self.row.id))?)
    }

    async fn ensure(
        &self,
        key: String,
        title: String,
        spec: JobSpec,
        branch: Option<&BranchView>,
        evaluation: Option<senmon_protocol::ids::EvaluationId>,
        slots: u16,
    ) -> Result<()> {
        let job = NewJob {
            experiment_id: self.row.id,
            branch_id: branch.map(|b| b.id),
            evaluation_id: evaluation,
            key,
            title,
            spec: &spec,
            priority: self.row.spec.priority,
            slots,
            needs: self.row.spec.resources.needs(matches!(spec.kind(), JobKind::Train | JobKind::Evaluate)),
            remaining: branch.map_or(0, |b| b.tokens_total.saturating_sub(b.tokens)),
        };
        Ok(db::jobs::ensure(&self.app.db, &job).await?)
    }

    async fn create_shard_jobs(&self) -> Result<()> {
        let (tokenizer, key) = self.tokenizer()?;
        for file in &self.corpus.files {
            let name = file.path.rsplit('/').next().unwrap_or(&file.path).to_owned();
            let spec = JobSpec::Shard(ShardJob {
                experiment_id: self.row.id,
                file: file.clone(),
                fields: self.corpus.fields.clone(),
                router: self.router()?,
                tokenizer: key.clone(),
                separator: tokenizer.separator.clone(),
                bos: self.row.spec.tokenizer.bos().map(str::to_owned),
                held_out_fraction: self.row.spec.data.held_out_fraction,
                documents_per_domain: self.row.spec.evaluation.documents_per_domain,
                output: StorageKey::new(format!("shards/{}/{:05}", self.row.id, file.index))?,
            });
            self.ensure(format!("shard/{:05}", file.index), format!("shard {name}"), spec, None, None, 1).await?;
        }
        Ok(())
    }

    async fn write_shard_index(&self) -> Result<()> {
        let (_, shards, _) = db::experiments::shards(&self.app.db, self.row.id).await?;
        let (tokenizer, key) = self.tokenizer()?;
        let bytes = self.app.storage.get(&key).await?.with_context(|| format!("{key} is missing in the store"))?;
        let index = ShardIndex {
            domains: self.row.spec.clustering.domains,
            vocab_size: tokenizer.vocab_size,
            separator_id: tokenizer.separator_id,
            bos_id: Tokenizer::from_bytes(&bytes, &tokenizer.separator, self.row.spec.tokenizer.bos())?.bos_id(),
            shards,
        };
        self.gather_candidates(&index).await?;
        self.app.storage.put(&self.shards_key()?, serde_json::to_vec(&index)?).await?;
        Ok(db::experiments::set_shard_index(&self.app.db, self.row.id, &index).await?)
    }

    async fn create_branches(&self, facts: &Facts) -> Result<()> {
        let index = self.row.shard_index.as_ref().context("the shards have no index")?;
        let windows = windows_by_domain(index, self.row.spec.data.sequence_length);
        let artefact = self.app.storage.local(&self.router()?).await?;
        let (router, _) = Router::load(&artefact.path)?;
        let order = similarity_order(router.centres(), &windows, windows.len());
        match expand(&self.row.spec, &Domains { windows: &windows, order: &order }) {
            Ok(branches) => Ok(db::branches::insert_all(&self.app.db, self.row.id, &branches).await?),
            Err(faults) => {
                let faults: Vec<String> =
                    faults.iter().take(3).map(|fault| format!("{}: {}", fault.path, fault.message)).collect();
                self.fail(&format!("the plan does not fit the domains found: {}", faults.join("; ")), facts).await
            }
        }
    }

    async fn train(&self, branch: &BranchView) -> Result<()> {
        let spec = &self.row.spec;
        let (tokenizer, tokenizer_key) = self.tokenizer()?;
        let start = match (branch.parent_id, &spec.seed, &spec.model) {
            (Some(parent), _, _) => TrainStart::Checkpoint(match branch.start_checkpoint_id {
                Some(id) => db::checkpoints::get(&self.app.db, id).await?.reference(),
                None => db::checkpoints::latest(&self.app.db, parent).await?.context("the parent has no checkpoint")?,
            }),
            (None, SeedSpec::Checkpoint(seed), _) => TrainStart::Folder(ModelFolder { path: seed.path.clone() }),
            (None, SeedSpec::Train(_), Some(model)) => {
                let mut model = model.clone();
                model.vocab_size = Some(model.vocab_size.unwrap_or(tokenizer.vocab_size));
                TrainStart::Init(InitModel { model })
            }
            (None, SeedSpec::Train(_), None) => bail!("the experiment has no model"),
        };
        let training = branch.training.clone().context("the branch has no settings")?;
        let mixture = branch.mixture.clone().unwrap_or(senmon_protocol::job::Mixture {
            version: 1,
            weights: Vec::new(),
            part: None,
        });
        let slots = training.slots;
        let job = JobSpec::Train(Box::new(TrainJob {
            experiment_id: self.row.id,
            branch_id: branch.id,
            branch: branch.name.clone(),
            start,
            resume: None,
            tokenizer: tokenizer_key,
            shards: self.shards_key()?,
            sequence_length: spec.data.sequence_length,
            mixture,
            epochs_max: spec.data.epochs_max,
            attend_across_documents: spec.data.attend_across_documents,
            steps: branch.steps,
            training,
            output: StorageKey::new(format!("checkpoints/{}", branch.id))?,
        }));
        self.ensure(format!("train/{}", branch.name), format!("train {}", branch.name), job, Some(branch), None, slots)
            .await?;
        Ok(db::branches::set_queued(&self.app.db, branch.id).await?)
    }

    async fn merge(&self, branch: &BranchView) -> Result<()> {
        let mut members = Vec::new();
        for expert in self.branches.iter().filter(|b| b.role == BranchRole::Expert && b.state == BranchState::Completed)
        {
            let checkpoint =
                db::checkpoints::latest(&self.app.db, expert.id).await?.context("an expert has no checkpoint")?;
            members.push(MergeMember { checkpoint, weight: 1.0 });
        }
        let job = JobSpec::Merge(MergeJob {
            experiment_id: self.row.id,
            branch_id: branch.id,
            members,
            tokenizer: self.tokenizer()?.1,
            output: StorageKey::new(format!("checkpoints/{}", branch.id))?,
        });
        self.ensure(format!("merge/{}", branch.name), format!("merge {}", branch.name), job, Some(branch), None, 1)
            .await?;
        Ok(db::branches::set_queued(&self.app.db, branch.id).await?)
    }

    async fn evaluate(&self, branch: &BranchView) -> Result<()> {
        let checkpoint =
            db::checkpoints::latest(&self.app.db, branch.id).await?.context("the branch has no checkpoint")?;
        let spec = &self.row.spec;
        let id = db::checkpoints::ensure_evaluation(
            &self.app.db,
            self.row.id,
            &branch.name,
            Some((branch.id, checkpoint.id)),
        )
        .await?;
        let job = JobSpec::Evaluate(EvaluateJob {
            experiment_id: self.row.id,
            evaluation_id: id,
            checkpoint,
            shards: self.shards_key()?,
            held_out: self.held_out_key()?,
            sequence_length: spec.data.sequence_length,
            precision: spec.training.precision,
            output: StorageKey::new(format!("evaluations/{id}"))?,
        });
        self.ensure(format!("evaluate/{}", branch.name), format!("evaluate {}", branch.name), job, None, Some(id), 1)
            .await
    }

    async fn ensemble(&self, title: &str) -> Result<()> {
        let role = if title == ENSEMBLE { BranchRole::Expert } else { BranchRole::Random };
        let mut members = Vec::new();
        for branch in self.branches.iter().filter(|b| b.role == role && b.state == BranchState::Completed) {
            let evaluation = self.evaluations.iter().find(|e| e.branch_id == Some(branch.id));
            if let Some(JobResult::Evaluate(result)) = evaluation.and_then(|e| e.result.as_ref()) {
                members.push(EnsembleMember {
                    branch: branch.name.clone(),
                    domain: branch.domain,
                    scores: result.folder.clone(),
                    sha256: result.sha256.clone(),
                });
            }
        }
        let n = u32::try_from(members.len()).unwrap_or(u32::MAX);
        let (routing, mut top_k) = match role {
            BranchRole::Expert => {
                (Routing::Router, self.row.spec.evaluation.top_k.iter().map(|k| (*k).min(n)).collect::<Vec<_>>())
            }
            _ => (Routing::Uniform, vec![n]),
        };
        top_k.sort_unstable();
        top_k.dedup();
        let spec = &self.row.spec;
        let id = db::checkpoints::ensure_evaluation(&self.app.db, self.row.id, title, None).await?;
        let job = JobSpec::Ensemble(EnsembleJob {
            experiment_id: self.row.id,
            evaluation_id: id,
            members,
            routing,
            shards: self.shards_key()?,
            tokenizer: self.tokenizer()?.1,
            router: self.router()?,
            held_out: self.held_out_key()?,
            route_every_tokens: spec.evaluation.route_every_tokens,
            top_k,
            temperatures: spec.evaluation.temperatures.clone(),
        });
        self.ensure(format!("ensemble/{title}"), format!("mix {}", title.replace('_', " ")), job, None, Some(id), 1)
            .await
    }

    async fn report(&self, facts: &Facts) -> Result<()> {
        let clustering = self.clustering.as_ref().context("the experiment has no clustering")?;
        let (mut matrix, mut costs) = (Vec::new(), Vec::new());
        for branch in &self.branches {
            let evaluation = self.evaluations.iter().find(|e| e.branch_id == Some(branch.id));
            if let Some(evaluation) = evaluation
                && let (Some(JobResult::Evaluate(result)), Some(checkpoint_id)) =
                    (&evaluation.result, evaluation.checkpoint_id)
            {
                matrix.push(MatrixRow {
                    branch: branch.name.clone(),
                    branch_id: branch.id,
                    role: branch.role,
                    domain: branch.domain,
                    checkpoint_id,
                    evaluation_id: evaluation.id,
                    domains: result.domains.clone(),
                });
            }
            #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
            let tokens_per_second = branch.tokens as f64 / branch.wall_seconds.max(1e-9);
            costs.push(BranchCost {
                branch: branch.name.clone(),
                branch_id: branch.id,
                role: branch.role,
                tokens: branch.tokens,
                wall_seconds: branch.wall_seconds,
                tokens_per_second,
                checkpoint_bytes: db::checkpoints::bytes(&self.app.db, branch.id).await?,
                checkpoint_id: branch.checkpoint_id,
            });
        }
        let ensembles = self.evaluations.iter().filter_map(|e| match &e.result {
            Some(JobResult::Ensemble(result)) => Some((e.id, e.title.clone(), result.clone())),
            _ => None,
        });
        let scored = |b: &BranchView| matrix.iter().any(|row: &MatrixRow| row.branch_id == b.id);
        let missing: Vec<_> = self
            .branches
            .iter()
            .filter(|b| !scored(b))
            .map(|b| {
                let why = b.why.as_deref().filter(|_| b.state != BranchState::Completed);
                (b.name.clone(), why.unwrap_or("its evaluation failed").trim_end_matches('.').to_owned())
            })
            .collect();
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
        db::experiments::set_stages(&self.app.db, self.row.id, &stages(facts, true, false)).await?;
        db::experiments::complete(&self.app.db, self.row.id, &report).await?;
        let text = format!("The experiment is complete. {}", report.headline);
        self.app
            .event(NewEvent {
                kind: "experiment_completed",
                level: "info",
                text,
                experiment_id: Some(self.row.id),
                ..NewEvent::default()
            })
            .await;
        self.app.hint(StreamMessage::Experiment(StreamExperiment { experiment_id: self.row.id }));
        Ok(())
    }

    async fn fail(&self, why: &str, facts: &Facts) -> Result<()> {
        db::experiments::fail(&self.app.db, self.row.id, why).await?;
        db::experiments::set_stages(&self.app.db, self.row.id, &stages(facts, false, true)).await?;
        self.app
            .event(NewEvent {
                kind: "experiment_failed",
                level: "error",
                text: format!("The experiment failed: {why}."),
                experiment_id: Some(self.row.id),
                ..NewEvent::default()
            })
            .await;
        self.app.hint(StreamMessage::Experiment(StreamExperiment { experiment_id: self.row.id }));
        Ok(())
    }
}
