//! Corpora and clusterings.

use crate::{
    api::{
        auth::Who,
        body::Body,
        error::{ApiError, ApiResult},
        gate::Made,
        page::page,
        params::{self, PageQuery, Path, Query},
        storage::may_grow,
    },
    app::App,
    db::{self, events::NewEvent, lists::Wanted, troubles::Trouble},
    domain::report::domain_sums,
    fleet::scene,
};
use axum::{Extension, Json, extract::State, http::StatusCode, response::IntoResponse};
use senmon_corpus::snapshot::{Found, expand_paths};
use senmon_protocol::{
    clustering::{ClusteringView, DomainView},
    corpus::{CorpusState, CorpusView, LeftOut, RegisterCorpus, ZSTD_WINDOW_BYTES_MAX},
    ids::{ClusteringId, ExperimentId},
    problem::Fault,
    said,
    said::{
        Said,
        expected::{found, range},
        of,
    },
    view::{JobState, Page, TroubleKind},
};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Routes of this noun.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, register))
        .routes(routes!(show, delete))
        .routes(routes!(clustering))
        .routes(routes!(domains))
}

/// Which corpora.
#[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// Only what its name contains, in any case.
    q: Option<String>,
    /// Only in one of these states, separated by commas.
    #[param(pattern = "^(scanning|ready|failed)(,(scanning|ready|failed))*$")]
    state: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<uuid::Uuid>,
    /// Items of a page. Default 50.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
}

#[utoipa::path(get, path = "/corpora", tag = "corpora", params(ListQuery), responses((status = 200, description = "corpora, newest first", body = Page<CorpusView>)))]
async fn list(State(app): State<App>, Query(query): Query<ListQuery>) -> ApiResult<Json<Page<CorpusView>>> {
    let limit = params::limit(query.limit)?;
    let states = params::words::<CorpusState>("state", query.state.as_deref())?;
    let wanted = Wanted { q: query.q, states, cursor: query.cursor, limit: limit + 1 };
    let mut listed = db::corpora::list(&app.db, &wanted).await?;
    explain(&app, &mut listed.rows).await?;
    Ok(Json(page(listed, limit, |item| item.id.to_string())))
}

#[utoipa::path(post, path = "/corpora", tag = "corpora", request_body = RegisterCorpus, responses((status = 202, description = "registered; the scan has begun", body = CorpusView), (status = 409, description = "the name is taken"), (status = 422, description = "faults of the input")))]
async fn register(
    State(app): State<App>,
    Who(who): Who,
    Body(body): Body<RegisterCorpus, 4096>,
) -> ApiResult<impl IntoResponse> {
    may_grow(&app)?;
    let mut faults: Vec<Fault> = params::name_fault(&body.name).into_iter().collect();
    if !(0.0..=1.0).contains(&body.tolerated_broken_share) {
        faults.push(Fault::said("tolerated_broken_share", found(body.tolerated_broken_share, range(0, 1))));
    }
    if !(1 << 10..=ZSTD_WINDOW_BYTES_MAX).contains(&body.fields.zstd_window_bytes_max) {
        let said = found(body.fields.zstd_window_bytes_max, range(1024, ZSTD_WINDOW_BYTES_MAX));
        faults.push(Fault::said("fields.zstd_window_bytes_max", said));
    }
    let (paths, roots) = (body.paths.clone(), app.roots.clone());
    // A folder may hold a million entries, on a disk that is far away.
    let listed = app.heavy.run_while(move |wanted| expand_paths(&paths, &roots, &|| wanted.go_on())).await?;
    let taken = listed.unwrap_or_else(|refused| {
        faults.extend(refused);
        Found { files: Vec::new(), left_out: LeftOut::default() }
    });
    if !faults.is_empty() {
        return Err(ApiError::Invalid(faults));
    }
    let paths: Vec<String> = taken.files.iter().map(|path| path.display().to_string()).collect();
    let id = db::corpora::insert(&app.db, &body, &who.name, &paths, &taken.left_out).await?;
    app.wake.scan.notify_one();
    Ok((StatusCode::ACCEPTED, Extension(Made(id.0)), Json(db::corpora::get(&app.db, &id.to_string()).await?)))
}

#[utoipa::path(get, path = "/corpora/{id}", tag = "corpora", params(("id" = String, Path, description = "id or name")), responses((status = 200, description = "the corpus", body = CorpusView), (status = 404, description = "no such corpus")))]
async fn show(State(app): State<App>, Path(id): Path<String>) -> ApiResult<Json<CorpusView>> {
    let mut corpus = [db::corpora::get(&app.db, &id).await?];
    explain(&app, &mut corpus).await?;
    let [corpus] = corpus;
    Ok(Json(corpus))
}

/// Says of corpora that are scanned what that waits for, and why it does not get on.
async fn explain(app: &App, corpora: &mut [CorpusView]) -> ApiResult<()> {
    if corpora.iter().all(|corpus| corpus.state != CorpusState::Scanning) {
        return Ok(());
    }
    let troubles = db::troubles::of(&app.db, TroubleKind::Corpus, None).await?;
    let scene = scene(app).await?;
    for corpus in corpora.iter_mut() {
        let Some(scan) = &mut corpus.scan else { continue };
        corpus.problem_said = troubles.get(&corpus.id.0).map(Trouble::said);
        corpus.problem = corpus.problem_said.as_ref().map(Said::text);
        let mut jobs = scene.jobs.iter().filter(|job| job.owner.id() == corpus.id.into());
        let is_read = jobs.clone().any(|job| job.state == JobState::Running);
        if let Some(queued) = jobs.find(|job| job.state == JobState::Queued).filter(|_| !is_read) {
            let waits_for = said!("job_and_why", job = of::title(&queued.title), why = scene.why(queued));
            scan.waits_for = Some(waits_for.text());
            scan.waits_for_said = Some(waits_for);
        }
    }
    Ok(())
}

#[utoipa::path(delete, path = "/corpora/{id}", tag = "corpora", params(("id" = String, Path, description = "id or name")), responses((status = 204, description = "deleted: its name is free, its files stay where they are"), (status = 404, description = "no such corpus"), (status = 409, description = "in use: by which experiments")))]
async fn delete(State(app): State<App>, Who(who): Who, Path(id): Path<String>) -> ApiResult<StatusCode> {
    let corpus = db::corpora::get(&app.db, &id).await?;
    db::archive::corpus(&app.db, corpus.id).await?;
    let said = said!("corpus_deleted", who = &who.name, name = corpus.name);
    app.event(NewEvent { kind: "corpus_deleted", level: "info", said, ..NewEvent::default() }).await;
    Ok(StatusCode::NO_CONTENT)
}

#[utoipa::path(get, path = "/clusterings/{id}", tag = "corpora", params(("id" = uuid::Uuid, Path, description = "the clustering")), responses((status = 200, description = "the clustering", body = ClusteringView), (status = 404, description = "no such clustering")))]
async fn clustering(State(app): State<App>, Path(id): Path<ClusteringId>) -> ApiResult<Json<ClusteringView>> {
    Ok(Json(db::fits::clustering(&app.db, id).await?))
}

#[utoipa::path(get, path = "/experiments/{id}/domains", tag = "experiments", params(("id" = uuid::Uuid, Path, description = "the experiment"), PageQuery), responses((status = 200, description = "its domains, none before discovery", body = Page<DomainView>), (status = 404, description = "no such experiment")))]
async fn domains(
    State(app): State<App>,
    Path(id): Path<ExperimentId>,
    Query(query): Query<PageQuery>,
) -> ApiResult<Json<Page<DomainView>>> {
    let experiment = db::experiments::get(&app.db, id).await?;
    let mut domains = match experiment.clustering_id {
        Some(clustering) => db::fits::clustering(&app.db, clustering).await?.domains,
        None => Vec::new(),
    };
    if let Some(index) = &experiment.shard_index {
        for (domain, sum) in domains.iter_mut().zip(domain_sums(index)) {
            domain.tokens = Some(sum.tokens);
            domain.documents = Some(sum.documents);
            domain.documents_held_out = Some(sum.held_out);
        }
    }
    Ok(Json(query.of(domains, |domain| domain.index.to_string())?))
}
