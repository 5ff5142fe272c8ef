//! Where the time went: accounts of branches, experiments and the fleet, and the skip ledger.

use crate::{
    api::{
        error::{ApiError, ApiResult},
        params::{PageQuery, Path, Query},
    },
    app::App,
    db::{
        self,
        goodput::{JobRecord, Records, Scope},
    },
    domain::goodput::{Account, fleet::fleet, steps},
};
use axum::{Json, extract::State};
use chrono::{TimeDelta, Utc};
use senmon_protocol::{
    goodput::{GoodputView, SkipView, TokenAccount},
    ids::{BranchId, ExperimentId, Fence},
    said::expected::{above_at_most, found},
    view::{BranchView, Page},
};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Hours of a fleet's account, at most: a year.
const HOURS_MAX: f64 = 24.0 * 366.0;

/// Routes of this noun.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(of_branch))
        .routes(routes!(of_experiment))
        .routes(routes!(of_fleet))
        .routes(routes!(skips))
}

#[utoipa::path(get, path = "/branches/{id}/goodput", tag = "branches", params(("id" = uuid::Uuid, Path, description = "the branch")), responses((status = 200, description = "its wall time by cause", body = GoodputView), (status = 404, description = "no such branch")))]
async fn of_branch(State(app): State<App>, Path(id): Path<BranchId>) -> ApiResult<Json<GoodputView>> {
    let branch = db::branches::get(&app.db, id).await?;
    let records = db::goodput::records(&app.db, Scope::Branch(id)).await?;
    Ok(Json(view(&records, &[branch], |_| 1)))
}

#[utoipa::path(get, path = "/experiments/{id}/goodput", tag = "experiments", params(("id" = uuid::Uuid, Path, description = "the experiment")), responses((status = 200, description = "the slot-seconds of its jobs by cause", body = GoodputView), (status = 404, description = "no such experiment")))]
async fn of_experiment(State(app): State<App>, Path(id): Path<ExperimentId>) -> ApiResult<Json<GoodputView>> {
    db::experiments::get(&app.db, id).await?;
    Ok(Json(experiment(&app, id).await?))
}

/// The account of an experiment.
///
/// # Errors
/// When Postgres refuses.
pub async fn experiment(app: &App, id: ExperimentId) -> db::Result<GoodputView> {
    let branches = db::branches::plain(&app.db, id).await?;
    let records = db::goodput::records(&app.db, Scope::Experiment(id)).await?;
    let mut view = view(&records, &branches, |job| job.slots);
    let waited =
        records.jobs.iter().map(|job| job.history.first_wait(records.now) * i32::try_from(job.slots).unwrap_or(1));
    view.first_wait_seconds = waited.sum::<TimeDelta>().as_seconds_f64();
    Ok(view)
}

fn view(records: &Records, branches: &[BranchView], weight: impl Fn(&JobRecord) -> u32) -> GoodputView {
    let mut account = Account::default();
    let mut tokens = TokenAccount::default();
    for job in &records.jobs {
        for piece in job.history.pieces(records.now) {
            account.add(&piece, weight(job));
        }
        let branch = branches.iter().find(|branch| Some(branch.id) == job.branch && branch.steps > 0);
        if let Some(branch) = branch {
            let batch = branch.tokens_total / branch.steps;
            tokens = sum(tokens, steps::tokens(branch.step, batch, &job.segments, &job.skips));
        }
    }
    let from = records.jobs.iter().filter_map(|job| job.history.from()).min();
    GoodputView { tokens: Some(tokens), ..counted(account.view(from, records.now), records) }
}

fn sum(a: TokenAccount, b: TokenAccount) -> TokenAccount {
    TokenAccount {
        steps: a.steps + b.steps,
        steps_superseded: a.steps_superseded + b.steps_superseded,
        steps_skipped: a.steps_skipped + b.steps_skipped,
        drawn: a.drawn + b.drawn,
        skipped: a.skipped + b.skipped,
        trained: a.trained + b.trained,
        superseded: a.superseded + b.superseded,
    }
}

/// The view with its attempts and faults counted.
fn counted(view: GoodputView, records: &Records) -> GoodputView {
    let attempts = || records.jobs.iter().flat_map(|job| &job.history.attempts);
    let faults = attempts().filter(|attempt| attempt.ended.is_some_and(|(_, end)| end.is_fault()));
    GoodputView { attempts: attempts().count() as u64, faults: faults.count() as u64, ..view }
}

/// How far back.
#[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
struct Window {
    /// Hours before now. Default 24.
    #[param(exclusive_minimum = 0, maximum = 8784)]
    hours: Option<f64>,
}

#[utoipa::path(get, path = "/goodput", tag = "workers", params(Window), responses((status = 200, description = "the slot-seconds of all workers by cause", body = GoodputView), (status = 422, description = "hours out of range")))]
async fn of_fleet(State(app): State<App>, Query(window): Query<Window>) -> ApiResult<Json<GoodputView>> {
    let hours = window.hours.unwrap_or(24.0);
    if !(hours > 0.0 && hours <= HOURS_MAX) {
        return Err(ApiError::invalid("hours", found(hours, above_at_most(0, HOURS_MAX))));
    }
    Ok(Json(recent(&app, hours).await?))
}

/// The account of the fleet over the last hours.
///
/// # Errors
/// When Postgres refuses.
pub async fn recent(app: &App, hours: f64) -> db::Result<GoodputView> {
    #[expect(clippy::cast_possible_truncation, reason = "a year of milliseconds fits")]
    let back = TimeDelta::milliseconds((hours * 3_600_000.0) as i64);
    let since: chrono::DateTime<Utc> = db::workers::now(&app.db).await? - back;
    let records = db::goodput::records(&app.db, Scope::Since(since)).await?;
    let workers = db::goodput::supplies(&app.db, &records).await?;
    // Nothing can be accounted for before the first worker came.
    let first = workers.iter().filter_map(|worker| worker.slots.first()).map(|(at, _)| *at).min();
    let from = first.map_or(since, |first| first.max(since));
    Ok(counted(fleet(&workers, from, records.now).view(Some(from), records.now), &records))
}

#[utoipa::path(get, path = "/branches/{id}/skips", tag = "branches", params(("id" = uuid::Uuid, Path, description = "the branch"), PageQuery), responses((status = 200, description = "the skip ledger: batches that the branch did not train on, oldest first", body = Page<SkipView>), (status = 404, description = "no such branch")))]
async fn skips(
    State(app): State<App>,
    Path(id): Path<BranchId>,
    Query(query): Query<PageQuery>,
) -> ApiResult<Json<Page<SkipView>>> {
    let branch = db::branches::get(&app.db, id).await?;
    let windows = branch.training.as_ref().map_or(0, |training| u64::from(training.batch_windows));
    let rows = db::goodput::skips(&app.db, id).await?;
    let segments: Vec<_> =
        db::goodput::records(&app.db, Scope::Branch(id)).await?.jobs.into_iter().flat_map(|job| job.segments).collect();
    let line = |row: db::goodput::SkipRow| SkipView {
        fence: Fence(row.skip.fence),
        step: row.skip.step,
        batch: row.skip.batch,
        window_first: row.skip.batch * windows,
        windows,
        reason: row.skip.reason,
        text: row.text,
        said: row.said,
        superseded: row.skip.step > steps::last_current(row.skip.fence, &segments),
        at: row.at,
    };
    let lines = rows.into_iter().map(line).collect();
    Ok(Json(query.of(lines, |line: &SkipView| format!("{}-{}", line.fence, line.batch))?))
}
