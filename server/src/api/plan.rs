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
    view::JobState,
};
use std::path::{Path, PathBuf};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Routes of this noun.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(show))
}

#[utoipa::path(post, path = "/plan", tag = "experiments", request_body = PlanRequest, responses((status = 200, description = "what the experiment would do, and what would be refused", body = PlanView)))]
async fn show(State(app): State<App>, _: Viewer, Body(request): Body<PlanRequest>) -> ApiResult<Json<PlanView>> {
    let (known, _) = known(&app, &request.experiment).await?;
    let workers = db::workers::list(&app.db).await?;
    let slots: usize = workers.iter().filter(|worker| !worker.lost).map(|worker| worker.slots.len()).sum();
    let jobs = db::jobs::open(&app.db).await?;
    let running = jobs.iter().filter(|job| job.state == JobState::Running && job.tokens_per_second > 0.0);
    let rates: Vec<f64> = running.map(|job| job.tokens_per_second / f64::from(job.slots)).collect();
    #[expect(clippy::cast_precision_loss, reason = "a number of jobs")]
    let rate = (!rates.is_empty()).then(|| rates.iter().sum::<f64>() / rates.len() as f64);
    let fleet = Fleet { slots: u32::try_from(slots).unwrap_or(u32::MAX), tokens_per_second: rate };
    Ok(Json(plan(&request, &known, fleet)))
}

/// Looks up the corpus, and checks seed and tokenizer on disk.
///
/// # Errors
/// When Postgres refuses.
pub async fn known(app: &App, spec: &ExperimentSpec) -> ApiResult<(Known, Option<CorpusView>)> {
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
        seed: match &spec.seed {
            SeedSpec::Checkpoint(seed) => Some(seed_model(&seed.path, roots)),
            SeedSpec::Train(_) => None,
        },
        tokenizer: match &spec.tokenizer {
            TokenizerSpec::File(file) => Some(inside(&file.path, roots).and_then(|path| {
                Tokenizer::load(&path, &file.separator)
                    .map(|tokenizer| tokenizer.vocab_size())
                    .map_err(|error| format!("{error:#}"))
            })),
            TokenizerSpec::Train(_) => None,
        },
    };
    Ok((known, corpus))
}

fn inside(path: &str, roots: &[PathBuf]) -> Result<PathBuf, String> {
    let real = Path::new(path).canonicalize().map_err(|error| format!("found {path:?}: {error}"))?;
    let allowed = roots.iter().filter_map(|root| root.canonicalize().ok()).any(|root| real.starts_with(root));
    if allowed { Ok(real) } else { Err(format!("found {path:?}, expected a path inside the server's corpus_roots")) }
}

/// Shape of a Hugging Face folder.
fn seed_model(path: &str, roots: &[PathBuf]) -> Result<ModelSpec, String> {
    let folder = inside(path, roots)?;
    let text =
        std::fs::read_to_string(folder.join("config.json")).map_err(|error| format!("{path}/config.json: {error}"))?;
    ModelSpec::from_config_json(&text).map_err(|error| format!("{path}/{error}"))
}
