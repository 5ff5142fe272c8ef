//! Plans, and what the server knows of what an experiment file names.

use crate::{
    api::{body::Body, error::ApiResult},
    app::App,
    db::{self, DbError, workers::WorkerRow},
    domain::{
        known::{Known, KnownCorpus},
        planner::{Fleet, plan},
    },
    tasks::forecast,
};
use anyhow::Context;
use axum::{
    body::{Body as Answer, Bytes},
    extract::State,
    http::header,
    response::IntoResponse,
};
use senmon_corpus::{
    roots::{Folder, Roots},
    seed::{belongs, inspect},
    sentencepiece,
    tokenizer::{TOKENIZER_BYTES_MAX, Tokenizer},
};
use senmon_protocol::{
    corpus::{CorpusState, CorpusView},
    model::ModelSpec,
    plan::{PlanRequest, PlanView},
    problem::Fault,
    said,
    said::{Said, expected::quoted},
    spec::{ExperimentSpec, SeedSpec, TokenizerFile, TokenizerSpec},
};
use std::{convert::Infallible, path::Path};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Sent at once of a long answer: what compressing it takes is a moment.
const PIECE_BYTES: usize = 64 << 10;

/// Routes of this noun.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(show))
}

#[utoipa::path(post, path = "/plan", tag = "experiments", request_body = PlanRequest, responses((status = 200, description = "what the experiment would do, and what would be refused", body = PlanView)))]
async fn show(State(app): State<App>, Body(mut request): Body<PlanRequest, 512>) -> ApiResult<impl IntoResponse> {
    let workers = db::workers::list(&app.db, None).await?.rows;
    let (slots, devices) = forecast::fleet(&workers);
    let (known, _) = known(&app, &mut request.experiment, workers).await?;
    let fleet = Fleet { slots, devices, rates: app.forecasts.rates() };
    // A plan of thousands of branches has megabytes: written here too, and sent in pieces, between which others are heard.
    let written = app.heavy.run(move || serde_json::to_vec(&plan(&request, &known, &fleet))).await?;
    let written = Bytes::from(written.context("write the plan")?);
    let pieces = (0..written.len())
        .step_by(PIECE_BYTES)
        .map(move |begin| Ok::<_, Infallible>(written.slice(begin..written.len().min(begin + PIECE_BYTES))));
    let body = Answer::from_stream(futures::stream::iter(pieces));
    Ok(([(header::CONTENT_TYPE, "application/json")], body))
}

/// Looks up the corpus, and checks seed and tokenizer on disk; their paths become absolute.
///
/// # Errors
/// When Postgres refuses.
pub async fn known(
    app: &App,
    spec: &mut ExperimentSpec,
    workers: Vec<WorkerRow>,
) -> ApiResult<(Known, Option<CorpusView>)> {
    let corpus = match db::corpora::get(&app.db, &spec.corpus).await {
        Ok(corpus) => Some(corpus),
        Err(DbError::NotFound { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let corpora = if corpus.is_some() { Vec::new() } else { db::corpora::names(&app.db).await? };
    let roots = app.roots.clone();
    let (mut seed, mut tokenizer) = (spec.seed.clone(), spec.tokenizer.clone());
    // Folders of models may be large, on disks that are far away.
    let look = move || {
        let found = look(&mut seed, &mut tokenizer, &roots);
        (found, seed, tokenizer)
    };
    let (found, seed, tokenizer) = app.heavy.run(look).await?;
    (spec.seed, spec.tokenizer) = (seed, tokenizer);
    let known = Known {
        corpus: corpus.as_ref().map(|corpus| KnownCorpus {
            ready: corpus.state == CorpusState::Ready,
            documents: corpus.counts.documents,
            text_bytes: corpus.counts.text_bytes,
            files: u32::try_from(corpus.files.len()).unwrap_or(u32::MAX),
        }),
        corpora,
        seed: found.seed,
        tokenizer: found.tokenizer,
        mismatch: found.mismatch,
        room: super::storage::room(app).await?,
        now: Some(db::workers::now(&app.db).await?),
        fleet: crate::fleet::workers(app, workers).await?,
    };
    Ok((known, corpus))
}

/// What the disk says of a file's seed and tokenizer.
struct Found {
    seed: Option<Result<ModelSpec, Said>>,
    tokenizer: Option<Result<u32, Fault>>,
    mismatch: Option<Said>,
}

fn look(seed: &mut SeedSpec, tokenizer: &mut TokenizerSpec, roots: &Roots) -> Found {
    let seed = match seed {
        SeedSpec::Checkpoint(seed) => Some(make_real(&mut seed.path, roots).and_then(|()| {
            let folder = Folder::below(roots, &seed.path);
            let unfit = |why: String| said!("seed_unfit", why = format!("{}: {why}", seed.path));
            inspect(&folder).map(|found| (folder, found.spec)).map_err(unfit)
        })),
        SeedSpec::Train(_) => None,
    };
    let tokenizer = match tokenizer {
        TokenizerSpec::File(file) => Some(load_tokenizer(file, roots)),
        TokenizerSpec::Train(_) => None,
    };
    let mismatch = match (&seed, &tokenizer) {
        (Some(Ok((folder, _))), Some(Ok(tokenizer))) => {
            belongs(folder, tokenizer).err().map(|why| said!("tokenizer_not_of_seed", why = why))
        }
        _ => None,
    };
    Found {
        seed: seed.map(|seed| seed.map(|(_, spec)| spec)),
        tokenizer: tokenizer.map(|found| found.map(|tokenizer| tokenizer.vocab_size())),
        mismatch,
    }
}

/// Loads the tokenizer of a file; a fault names the key that is wrong.
fn load_tokenizer(file: &mut TokenizerFile, roots: &Roots) -> Result<Tokenizer, Fault> {
    let fault = |key: &str, said: Said| Fault::said(format!("tokenizer.{key}"), said);
    if let Some(why) = sentencepiece::refusal(Path::new(&file.path), roots) {
        return Err(fault("path", why));
    }
    make_real(&mut file.path, roots).map_err(|why| fault("path", why))?;
    let bytes = roots.read(Path::new(&file.path), TOKENIZER_BYTES_MAX);
    let bytes = bytes.map_err(|error| fault("path", roots.refusal(&file.path, &error)))?;
    Tokenizer::from_bytes(&bytes, &file.separator, file.bos.as_deref()).map_err(|error| {
        let why = format!("{error:#}");
        match why.split_once(": ") {
            Some((key @ ("separator" | "bos"), rest)) => fault(key, said!("tokenizer_unfit", why = rest)),
            _ => fault("path", said!("tokenizer_unfit", why = format!("{}: {why}", file.path))),
        }
    })
}

/// Turns a path, absolute or relative to one of the roots, into the real one, which lies inside them.
fn make_real(path: &mut String, roots: &Roots) -> Result<(), Said> {
    let real = roots.place(Path::new(path)).map_err(|error| roots.refusal(path, &error))?;
    real.to_str().ok_or_else(|| said!("path_no_utf8", path = quoted(path)))?.clone_into(path);
    Ok(())
}
