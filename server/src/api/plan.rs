//! Plans, and what the server knows of what an experiment file names.

use crate::{
    api::{auth::Viewer, body::Body, error::ApiResult},
    app::App,
    db::{self, DbError},
    domain::{
        planner::{Fleet, plan},
        validate::{Known, KnownCorpus},
    },
};
use axum::{Json, extract::State};
use senmon_corpus::tokenizer::Tokenizer;
use senmon_protocol::{
    corpus::{CorpusState, CorpusView},
    model::ModelSpec,
    plan::{PlanRequest, PlanView},
    spec::{ExperimentSpec, SeedSpec, TokenizerSpec},
};
use std::path::{Path, PathBuf};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Routes of this noun.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(show))
}

#[utoipa::path(post, path = "/plan", tag = "experiments", request_body = PlanRequest, responses((status = 200, description = "what the experiment would do, and what would be refused", body = PlanView)))]
async fn show(State(app): State<App>, _: Viewer, Body(mut request): Body<PlanRequest>) -> ApiResult<Json<PlanView>> {
    let (known, _) = known(&app, &mut request.experiment).await?;
    let workers = db::workers::list(&app.db, None).await?;
    let slots: usize = workers.iter().filter(|worker| !worker.lost).map(|worker| worker.slots.len()).sum();
    let jobs = db::leases::running(&app.db, None).await?;
    let running = jobs.iter().filter(|row| row.tokens_per_second > 0.0 && !row.job.slots.is_empty());
    #[expect(clippy::cast_precision_loss, reason = "a number of slots")]
    let rates: Vec<f64> = running.map(|row| row.tokens_per_second / row.job.slots.len() as f64).collect();
    #[expect(clippy::cast_precision_loss, reason = "a number of jobs")]
    let rate = (!rates.is_empty()).then(|| rates.iter().sum::<f64>() / rates.len() as f64);
    let fleet = Fleet { slots: u32::try_from(slots).unwrap_or(u32::MAX), tokens_per_second: rate };
    Ok(Json(plan(&request, &known, fleet)))
}

/// Looks up the corpus, and checks seed and tokenizer on disk; their paths become absolute.
///
/// # Errors
/// When Postgres refuses.
pub async fn known(app: &App, spec: &mut ExperimentSpec) -> ApiResult<(Known, Option<CorpusView>)> {
    let corpus = match db::corpora::get(&app.db, &spec.corpus).await {
        Ok(corpus) => Some(corpus),
        Err(DbError::NotFound { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let corpora = if corpus.is_some() {
        Vec::new()
    } else {
        db::corpora::list(&app.db).await?.into_iter().map(|c| c.name).collect()
    };
    let roots = &app.config.corpus_roots;
    let known = Known {
        corpus: corpus.as_ref().map(|corpus| KnownCorpus {
            ready: corpus.state == CorpusState::Ready,
            documents: corpus.counts.documents,
            text_bytes: corpus.counts.text_bytes,
        }),
        corpora,
        seed: match &mut spec.seed {
            SeedSpec::Checkpoint(seed) => Some(make_real(&mut seed.path, roots).and_then(|()| seed_model(&seed.path))),
            SeedSpec::Train(_) => None,
        },
        tokenizer: match &mut spec.tokenizer {
            TokenizerSpec::File(file) => Some(make_real(&mut file.path, roots).and_then(|()| {
                Tokenizer::load(Path::new(&file.path), &file.separator)
                    .map(|tokenizer| tokenizer.vocab_size())
                    .map_err(|error| format!("{error:#}"))
            })),
            TokenizerSpec::Train(_) => None,
        },
        room: super::storage::room(app).await?,
        now: Some(db::workers::now(&app.db).await?),
        fleet: crate::tasks::schedule::workers(app).await?,
    };
    Ok((known, corpus))
}

/// Turns a path, absolute or relative to one of the roots, into the real one, which lies inside them.
fn make_real(path: &mut String, roots: &[PathBuf]) -> Result<(), String> {
    let candidates = roots.iter().map(|root| root.join(&*path).canonicalize());
    let real = candidates.reduce(|found, next| found.or(next)).unwrap_or_else(|| Path::new(path).canonicalize());
    let real = real.map_err(|error| format!("found {path:?}: {error}"))?;
    if !roots.iter().filter_map(|root| root.canonicalize().ok()).any(|root| real.starts_with(root)) {
        return Err(format!("found {path:?}, expected a path inside the server's corpus_roots"));
    }
    real.to_str().ok_or_else(|| format!("found {path:?}, expected UTF-8"))?.clone_into(path);
    Ok(())
}

/// Shape of a Hugging Face folder.
fn seed_model(path: &str) -> Result<ModelSpec, String> {
    let folder = Path::new(path);
    let text =
        std::fs::read_to_string(folder.join("config.json")).map_err(|error| format!("{path}/config.json: {error}"))?;
    ModelSpec::from_config_json(&text).map_err(|error| format!("{path}/{error}"))
}
