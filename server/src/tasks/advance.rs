//! Carries out what `domain::advance` asks for, for each experiment that is not over.

mod forgets;
mod held_out;
mod judge;

use super::{
    aside::Aside,
    ask::ask,
    failure::{Cause, cause, lasting},
    forecast, identity,
};
use crate::{
    app::App,
    db::{
        self, DbError,
        evaluations::{EvaluationRow, NewEvaluation},
        events::NewEvent,
        experiments::{ExperimentRow, Filter},
        fits::TokenizerRow,
        jobs::NewJob,
    },
    domain::{
        advance::experiment::{BranchFacts, Command, Evaluated, EvaluationFacts, Facts, Fit, advance, stages},
        expand::{Domains, expand},
        held_out_curve::held_out_curve,
        waits::waits_for,
    },
};
use anyhow::{Context, Result};
use senmon_corpus::{router::Router, shard_set::windows_by_domain, similarity::similarity_order, tokenizer::Tokenizer};
use senmon_protocol::{
    clustering::{ClusteringState, ClusteringView},
    corpus::CorpusView,
    ids::{BranchId, StorageKey},
    job::{
        InitModel, JobKind, JobSpec, MergeJob, MergeMember, ModelFolder, ShardIndex, ShardJob, TrainJob, TrainStart,
    },
    lineage::Lineage,
    said,
    said::{Said, SaidValue, decimal, of},
    spec::SeedSpec,
    view::{
        BranchRole, BranchState, BranchView, CheckpointView, ExperimentState, JobState, StreamExperiment,
        StreamMessage, TroubleKind,
    },
};

/// Advances every open experiment.
///
/// # Errors
/// When the list cannot be read. An experiment that cannot be advanced holds no other up: it fails with a reason that
/// will not change, waits for what is away, and is set aside for the rest.
pub async fn run(app: App) -> Result<()> {
    let aside = Aside::load(&app, TroubleKind::Experiment).await?;
    let open = ask(db::experiments::list(&app.db, Filter { open: true, ..Filter::default() })).await?.rows;
    let running = open.iter().filter(|row| row.state == ExperimentState::Running);
    app.forecasts.keep(&running.map(|row| row.id).collect());
    for row in open {
        if aside.rests(row.id.0) {
            continue;
        }
        if let Err(error) = aside.attempt(row.id.0, &row.spec.name, ask(one(&app, &row))).await {
            tracing::error!(experiment.id = %row.id, error = format!("{error:#}"), "could not advance an experiment; trying again");
            let waits_for = said!("waits_out_of_reach", error = format!("{error:#}"));
            if let Err(error) = note_progress(&app, &row, Some(waits_for)).await {
                tracing::error!(experiment.id = %row.id, error = format!("{error:#}"), "could not note it");
            }
        }
    }
    Ok(())
}

/// Notes what an experiment waits for, and tells people once when it has made no progress for too long.
async fn note_progress(app: &App, row: &ExperimentRow, waits_for: Option<Said>) -> Result<()> {
    db::progress::note(&app.db, row.id, waits_for.as_ref()).await?;
    let after_ms = app.config.stalled_after_ms;
    let Some(seconds) = db::progress::stalled(&app.db, row.id, app.since(), after_ms).await? else { return Ok(()) };
    let scene = crate::fleet::scene(app).await?;
    let queued = scene.jobs.iter().find(|job| job.owner.id() == row.id.into() && job.state == JobState::Queued);
    let (hours, waits_for) = (decimal(seconds / 3600.0, 1), waits_for.unwrap_or_else(|| said!("waits_for_server")));
    let said = match queued {
        None => said!("experiment_stalled", hours = hours, waits_for = waits_for),
        Some(job) => {
            let (title, why) = (of::title(&job.title), scene.why(job));
            said!("experiment_stalled_job", hours = hours, waits_for = waits_for, job = title, why = why)
        }
    };
    let event = NewEvent {
        kind: "experiment_stalled",
        level: "warn",
        said,
        experiment_id: Some(row.id),
        ..NewEvent::default()
    };
    app.event(event).await;
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
    evaluations: Vec<EvaluationRow>,
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
        evaluations: db::evaluations::evaluations(&app.db, row.id).await?.all()?,
    };
    let facts = scene.facts().await?;
    let changes = db::experiments::set_stages(&app.db, row.id, &stages(&facts, false, false)).await?;
    for stage in changes.done {
        let said = said!("stage_finished", stage = of::stage(stage));
        let event = NewEvent {
            kind: "stage_finished",
            level: "info",
            said,
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
    scene.tell_forgetting().await?;
    let files: Vec<u64> = scene.corpus.files.iter().map(|file| file.counts.text_bytes).collect();
    let Scene { branches, evaluations, .. } = &scene;
    let progress = forecast::Progress { row, files: &files, branches, evaluations, facts: &facts };
    app.forecasts.note(row.id, forecast::left(&progress), row.model.clone());
    note_progress(app, row, waits_for(&facts)).await?;
    for command in advance(&facts) {
        if let Err(error) = scene.carry_out(&command, &facts).await {
            // A disk that is away looks like artefacts that are lost.
            if cause(&error) != Cause::Lasting || !identity::is_seen(app).await? {
                return Err(error.context(format!("it could not {}", command.said().text())));
            }
            let why = said!("could_not", what = command.said(), error = format!("{error:#}"));
            return scene.fail(&why, &facts).await;
        }
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
                    repeat: branch.repeat,
                    parent: branch
                        .parent_id
                        .filter(|_| branch.start_checkpoint_id.is_none())
                        .and_then(|id| self.branches.iter().find(|b| b.id == id))
                        .map(|b| b.name.clone()),
                    state: branch.state,
                    problem: branch.why_said.clone().map(SaidValue::from).or_else(|| Some(branch.why.as_ref()?.into())),
                    tokens: (branch.tokens, branch.tokens_total),
                })
                .collect(),
            evaluations: self
                .evaluations
                .iter()
                .filter_map(|e| {
                    let branch = || self.branches.iter().find(|b| is_of(e, b)).map(|b| b.name.clone());
                    let of = e.repeat.map(Evaluated::Repeat).or_else(|| branch().map(Evaluated::Branch))?;
                    Some(EvaluationFacts { of, done: e.result.is_some(), failed: e.failed })
                })
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
            Command::Ensemble(repeat) => self.ensemble(*repeat).await?,
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
        evaluation: Option<NewEvaluation>,
        slots: u16,
    ) -> Result<()> {
        let job = NewJob {
            experiment_id: self.row.id,
            branch_id: branch.map(|b| b.id),
            evaluation,
            key,
            title,
            priority: self.row.spec.priority,
            slots,
            needs: self.row.spec.resources.needs(matches!(spec.kind(), JobKind::Train | JobKind::Evaluate)),
            remaining: branch.map_or(0, |b| b.tokens_total.saturating_sub(b.tokens)),
            spec,
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
        let bytes = self.app.storage.get(&key).await?.ok_or_else(|| missing(&key))?;
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
        let found = expand(&self.row.spec, &Domains { windows: &windows, order: &order });
        for note in &found.notes {
            let why = note.said.clone().map_or_else(|| SaidValue::from(&note.message), SaidValue::from);
            let said = said!("domain_left_out", path = &note.path, why = why);
            self.app
                .event(NewEvent {
                    kind: "domain_left_out",
                    level: "warn",
                    said,
                    experiment_id: Some(self.row.id),
                    ..NewEvent::default()
                })
                .await;
        }
        match found.sound() {
            Ok(branches) => Ok(db::branches::insert_all(&self.app.db, self.row.id, &branches).await?),
            Err(faults) => {
                let faults: Vec<String> =
                    faults.iter().take(3).map(|fault| format!("{}: {}", fault.path, fault.message)).collect();
                self.fail(&said!("plan_does_not_fit", why = faults.join("; ")), facts).await
            }
        }
    }

    async fn train(&self, branch: &BranchView) -> Result<()> {
        let spec = &self.row.spec;
        let (tokenizer, tokenizer_key) = self.tokenizer()?;
        // What is not of this house has read nothing of this corpus, as far as anybody knows.
        let nothing = Lineage::default();
        let (start, lineage) = match (branch.parent_id, &spec.seed, &spec.model) {
            (Some(parent), _, _) => {
                let start = self.start(branch, parent).await?;
                let lineage = start.meta.lineage.clone();
                (TrainStart::Checkpoint(start.reference()), lineage)
            }
            (None, SeedSpec::Checkpoint(seed), _) => {
                (TrainStart::Folder(ModelFolder { path: seed.path.clone() }), nothing)
            }
            (None, SeedSpec::Train(_), Some(model)) => {
                let mut model = model.clone();
                model.vocab_size = Some(model.vocab_size.unwrap_or(tokenizer.vocab_size));
                (TrainStart::Init(InitModel { model }), nothing)
            }
            (None, SeedSpec::Train(_), None) => return Err(lasting("the experiment has no model")),
        };
        let training = branch.training.clone().context("the branch has no settings")?;
        let mixture = branch.mixture.clone().unwrap_or(senmon_protocol::job::Mixture {
            version: 1,
            weights: Vec::new(),
            part: None,
            reshuffle: None,
        });
        let slots = training.slots;
        let step_tokens = u64::from(training.batch_windows) * u64::from(spec.data.sequence_length);
        let list = self.held_out_key()?;
        let asked = spec.evaluation.during_training;
        // A branch that starts before the documents are listed waits for nothing, and has no such curve.
        let held_out = self
            .row
            .held_out
            .as_ref()
            .and(self.row.shard_index.as_ref())
            .and_then(|index| held_out_curve(branch, &self.branches, index.domains, step_tokens, asked, list));
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
            lineage,
            epochs_max: spec.data.epochs_max,
            attend_across_documents: spec.data.attend_across_documents,
            steps: branch.steps,
            training,
            held_out,
            output: StorageKey::new(format!("checkpoints/{}", branch.id))?,
        }));
        self.ensure(format!("train/{}", branch.name), format!("train {}", branch.name), job, Some(branch), None, slots)
            .await
    }

    /// The checkpoint that a branch starts from: the one that somebody chose, else its parent's last.
    async fn start(&self, branch: &BranchView, parent: BranchId) -> Result<CheckpointView> {
        let db = &self.app.db;
        let id = match branch.start_checkpoint_id {
            Some(id) => id,
            None => {
                db::checkpoints::latest(db, parent).await?.ok_or_else(|| lasting("the parent has no checkpoint"))?.id
            }
        };
        Ok(db::checkpoints::get(db, id).await?)
    }

    async fn merge(&self, branch: &BranchView) -> Result<()> {
        let mut members = Vec::new();
        let is_member = |b: &&BranchView| {
            b.role == BranchRole::Expert && b.repeat == branch.repeat && b.state == BranchState::Completed
        };
        for expert in self.branches.iter().filter(is_member) {
            let checkpoint = db::checkpoints::latest(&self.app.db, expert.id)
                .await?
                .ok_or_else(|| lasting("an expert has no checkpoint"))?;
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
            .await
    }

    async fn fail(&self, why: &Said, facts: &Facts) -> Result<()> {
        match db::experiments::fail(&self.app.db, self.row.id, why, &stages(facts, false, true)).await {
            // Somebody ended it meanwhile.
            Err(DbError::Conflict(_)) => return Ok(()),
            failed => failed?,
        }
        self.app
            .event(NewEvent {
                kind: "experiment_failed",
                level: "error",
                said: said!("experiment_failed", why = why.clone()),
                experiment_id: Some(self.row.id),
                ..NewEvent::default()
            })
            .await;
        self.app.hint(StreamMessage::Experiment(StreamExperiment { experiment_id: self.row.id }));
        Ok(())
    }
}

fn missing(key: &StorageKey) -> anyhow::Error {
    lasting(format!("{key} is missing in the store"))
}

/// Whether an evaluation scores the last checkpoint of a branch.
fn is_of(evaluation: &EvaluationRow, branch: &BranchView) -> bool {
    evaluation.checkpoint_id.is_some() && evaluation.checkpoint_id == branch.checkpoint_id
}
