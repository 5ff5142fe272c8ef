//! Alerts and their messages.

use super::{DbError, Listed, Result, Stored, begin, each, unword, word, worded};
use crate::domain::alerts::test;
use chrono::TimeDelta;
use senmon_protocol::{
    alert::{AlertTarget, AlertView, CreateAlert, DeliveryState, DeliveryView, Hook, Mailbox},
    ids::{AlertId, BranchId, ExperimentId, WorkerId},
    said,
    said::{Said, expected::quoted},
    view::EventView,
};
use sqlx::PgPool;

fn target(kind: &str, url: String) -> Result<AlertTarget> {
    match kind {
        "webhook" => Ok(AlertTarget::Webhook(Hook { url })),
        "slack" => Ok(AlertTarget::Slack(Hook { url })),
        "mail" => Ok(AlertTarget::Mail(Mailbox { address: url })),
        other => Err(DbError::Impossible(format!("{other:?} is no kind of target"))),
    }
}

/// What a message says as a kind and values; `text` is its event's, where there is one.
fn said_of(alert: &str, text: Option<&str>, said: Option<Stored<Said>>) -> Option<Said> {
    text.map_or_else(|| Some(test(alert)), |text| worded(Some(text), said))
}

/// Alerts of one owner, at most: every event is held against all that there are.
const ALERTS_MAX: i64 = 100;

/// Makes an alert.
///
/// # Errors
/// [`DbError::Conflict`] when the name is taken, or its owner has enough; [`DbError::NotFound`] for an experiment that there
/// is not.
pub async fn insert(pool: &PgPool, new: &CreateAlert, owner: &str) -> Result<AlertId> {
    let id = AlertId::new();
    let mut tx = begin(pool).await?;
    if let Some(experiment) = new.experiment_id {
        let known = sqlx::query_scalar!(
            "SELECT id FROM experiments WHERE id = $1 AND archived_at IS NULL FOR KEY SHARE",
            experiment.0
        );
        let gone = || DbError::NotFound { noun: "experiment", id: experiment.to_string() };
        known.fetch_optional(&mut *tx).await?.ok_or_else(gone)?;
    }
    let own = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM alerts WHERE owner = $1"#, owner);
    if own.fetch_one(&mut *tx).await? >= ALERTS_MAX {
        return Err(DbError::Conflict(said!("alerts_full", owner = owner, most = ALERTS_MAX)));
    }
    let mut occasions: Vec<String> = new.on.iter().map(word).collect();
    occasions.sort_unstable();
    occasions.dedup();
    let kind = match new.target {
        AlertTarget::Webhook(_) => "webhook",
        AlertTarget::Slack(_) => "slack",
        AlertTarget::Mail(_) => "mail",
    };
    let done = sqlx::query!(
        "INSERT INTO alerts (id, name, owner, occasions, experiment_id, target_kind, target_url) VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (name) DO NOTHING",
        id.0, new.name, owner, &occasions, new.experiment_id.map(|id| id.0), kind, new.target.address()
    )
    .execute(&mut *tx)
    .await?;
    if done.rows_affected() == 0 {
        return Err(DbError::Conflict(said!("alert_name_taken", name = quoted(&new.name))));
    }
    tx.commit().await?;
    Ok(id)
}

/// Alerts by name, their addresses whole; one of them, or all.
///
/// # Errors
/// When Postgres refuses.
pub async fn list(pool: &PgPool, one: Option<AlertId>) -> Result<Listed<AlertView>> {
    let rows = sqlx::query!(
        r#"SELECT a.id, a.name, a.owner, a.occasions, a.experiment_id, a.target_kind, a.target_url, a.created_at,
               d.id AS "delivery_id?", d.state AS "state?", d.tries AS "tries?", d.problem AS "problem?", d.then_at AS "then_at?",
               d.created_at AS "written_at?", e.text AS "text?", e.said AS "said?: Stored<Said>"
           FROM alerts a
           LEFT JOIN LATERAL (SELECT * FROM deliveries WHERE alert_id = a.id ORDER BY id DESC LIMIT 1) d ON true
           LEFT JOIN events e ON e.id = d.event_id
           WHERE $1::uuid IS NULL OR a.id = $1 ORDER BY a.name"#,
        one.map(|id| id.0)
    )
    .fetch_all(pool)
    .await?;
    Ok(each(
        "alert",
        rows,
        |row| row.id,
        |row| {
            let last = match (row.delivery_id, row.state, row.tries, row.written_at) {
                (Some(id), Some(state), Some(tries), Some(at)) => Some(DeliveryView {
                    id,
                    at,
                    said: said_of(&row.name, row.text.as_deref(), row.said),
                    text: row.text.unwrap_or_else(|| test(&row.name).text()),
                    state: unword(&state)?,
                    tries: tries.unsigned_abs(),
                    problem: row.problem,
                    then_at: row.then_at,
                }),
                _ => None,
            };
            Ok(AlertView {
                id: AlertId(row.id),
                name: row.name,
                owner: row.owner,
                on: row.occasions.iter().map(|text| unword(text)).collect::<Result<_>>()?,
                experiment_id: row.experiment_id.map(ExperimentId),
                target: target(&row.target_kind, row.target_url)?,
                created_at: row.created_at,
                last,
            })
        },
    ))
}

/// Deletes an alert with its messages.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn delete(pool: &PgPool, id: AlertId) -> Result<()> {
    let mut tx = begin(pool).await?;
    let done = sqlx::query!("DELETE FROM alerts WHERE id = $1", id.0).execute(&mut *tx).await?;
    if done.rows_affected() == 0 {
        return Err(DbError::NotFound { noun: "alert", id: id.to_string() });
    }
    Ok(tx.commit().await?)
}

/// Writes a message that only tries the alert.
///
/// # Errors
/// [`DbError::NotFound`].
pub async fn try_out(pool: &PgPool, id: AlertId) -> Result<()> {
    let mut tx = begin(pool).await?;
    let done = sqlx::query!("INSERT INTO deliveries (alert_id) SELECT id FROM alerts WHERE id = $1", id.0)
        .execute(&mut *tx)
        .await?;
    if done.rows_affected() == 0 {
        return Err(DbError::NotFound { noun: "alert", id: id.to_string() });
    }
    Ok(tx.commit().await?)
}

/// Messages of an alert, newest first.
///
/// # Errors
/// When Postgres refuses.
pub async fn deliveries(pool: &PgPool, id: AlertId, before: Option<i64>, limit: i64) -> Result<Vec<DeliveryView>> {
    let rows = sqlx::query!(
        r#"SELECT d.id, d.state, d.tries, d.problem, d.then_at, d.created_at, e.text AS "text?", e.said AS "said?: Stored<Said>", a.name
           FROM deliveries d JOIN alerts a ON a.id = d.alert_id LEFT JOIN events e ON e.id = d.event_id
           WHERE d.alert_id = $1 AND ($2::bigint IS NULL OR d.id < $2) ORDER BY d.id DESC LIMIT $3"#,
        id.0,
        before,
        limit
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(DeliveryView {
                id: row.id,
                at: row.created_at,
                said: said_of(&row.name, row.text.as_deref(), row.said),
                text: row.text.unwrap_or_else(|| test(&row.name).text()),
                state: unword(&row.state)?,
                tries: row.tries.unsigned_abs(),
                problem: row.problem,
                then_at: Some(row.then_at),
            })
        })
        .collect()
}

/// A message that is due.
#[derive(Debug)]
pub struct Due {
    /// Its number.
    pub id: i64,
    /// How often it was sent, this time included.
    pub tries: u32,
    /// Name of the alert.
    pub alert: String,
    /// Name of the experiment.
    pub experiment: Option<String>,
    /// Where it goes.
    pub target: AlertTarget,
    /// What happened; None where somebody tried the alert.
    pub event: Option<EventView>,
}

/// Takes messages that are due: each is one more time sent, and due again in `again_ms` should this server die meanwhile.
///
/// # Errors
/// When Postgres refuses.
pub async fn due(pool: &PgPool, again_ms: i64, limit: i64) -> Result<Vec<Due>> {
    let rows = sqlx::query!(
        r#"WITH due AS (
             UPDATE deliveries SET tries = tries + 1, then_at = now() + make_interval(secs => $1::bigint / 1000.0)
             WHERE id IN (SELECT id FROM deliveries WHERE state = 'waiting' AND then_at <= now() ORDER BY then_at LIMIT $2 FOR UPDATE SKIP LOCKED)
             RETURNING id, alert_id, event_id, tries)
         SELECT d.id, d.tries, a.name, a.target_kind, a.target_url, e.id AS "event_id?", e.at AS "at?", e.kind AS "kind?", e.level AS "level?",
             e.text AS "text?", e.said AS "said?: Stored<Said>", e.experiment_id AS "experiment_id?", e.branch_id AS "branch_id?", e.worker_id AS "worker_id?", e.step AS "step?",
             (SELECT x.name FROM experiments x WHERE x.id = e.experiment_id) AS experiment
         FROM due d JOIN alerts a ON a.id = d.alert_id LEFT JOIN events e ON e.id = d.event_id ORDER BY d.id"#,
        again_ms,
        limit
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|row| {
            let event = match (row.event_id, row.at, row.kind, row.level, row.text) {
                (Some(id), Some(at), Some(kind), Some(level), Some(text)) => Some(EventView {
                    id,
                    at,
                    kind,
                    level,
                    said: worded(Some(&text), row.said),
                    text,
                    experiment_id: row.experiment_id.map(ExperimentId),
                    branch_id: row.branch_id.map(BranchId),
                    worker_id: row.worker_id.map(WorkerId),
                    step: row.step.map(super::count),
                }),
                _ => None,
            };
            Ok(Due {
                id: row.id,
                tries: row.tries.unsigned_abs(),
                alert: row.name,
                experiment: row.experiment,
                target: target(&row.target_kind, row.target_url)?,
                event,
            })
        })
        .collect()
}

/// Notes what became of a message that was sent: taken, to be sent again after a while, or given up.
///
/// # Errors
/// When Postgres refuses.
pub async fn sent(pool: &PgPool, id: i64, problem: Option<&str>, again: Option<TimeDelta>) -> Result<()> {
    let state = match (problem, again) {
        (None, _) => DeliveryState::Delivered,
        (Some(_), Some(_)) => DeliveryState::Waiting,
        (Some(_), None) => DeliveryState::GivenUp,
    };
    let wait_ms = again.filter(|_| problem.is_some()).map_or(0, |again| again.num_milliseconds());
    sqlx::query!(
        "UPDATE deliveries SET state = $2, problem = $3, then_at = now() + make_interval(secs => $4::bigint / 1000.0) WHERE id = $1 AND state = 'waiting'",
        id, word(&state), problem, wait_ms
    )
    .execute(pool)
    .await?;
    Ok(())
}
