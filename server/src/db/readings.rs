//! How workers' machines and devices were: a row a source and minute, thinned when it has grown old.

use super::{Result, workers::session_over};
use chrono::{DateTime, Utc};
use senmon_protocol::{ids::WorkerId, readings::Readings};
use sqlx::PgPool;

/// Days after which a quarter of an hour is one row.
const FINE_DAYS: i32 = 2;
/// Quarters of hours that one statement makes.
pub const QUARTERS_MAX: i64 = 200;

/// What is known of one moment; a machine has no temperature, a device no network.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reading {
    /// Use of CPU or device.
    pub share: Option<f32>,
    /// Memory in use.
    pub memory_used: Option<f32>,
    /// Memory in all.
    pub memory: Option<f32>,
    /// From the network.
    pub received: Option<f32>,
    /// To the network.
    pub sent: Option<f32>,
    /// From disks.
    pub read: Option<f32>,
    /// To disks.
    pub written: Option<f32>,
    /// Temperature.
    pub celsius: Option<f32>,
    /// Power.
    pub watts: Option<f32>,
    /// Time held back by heat or power.
    pub throttled: Option<f32>,
    /// Errors of memory that could not be corrected.
    pub ecc_uncorrected: Option<f32>,
}

/// A reading, of what, and when it began.
#[derive(Debug, Clone)]
pub struct Point {
    /// Machine or device.
    pub source: String,
    /// Begin.
    pub at: DateTime<Utc>,
    /// What was read.
    pub reading: Reading,
}

/// Stores the readings of the present minute; a second one of a minute is left out.
///
/// # Errors
/// [`super::DbError::Conflict`] for an old session.
pub async fn store(pool: &PgPool, worker: WorkerId, readings: &Readings) -> Result<()> {
    #[expect(clippy::cast_possible_truncation, reason = "seven digits are enough to draw")]
    let short = |value: Option<f64>| value.map(|value| value as f32);
    let machine = Reading {
        share: short(readings.cpu_share),
        memory_used: short(readings.memory_used_bytes),
        memory: short(readings.memory_bytes),
        received: short(readings.received_bytes_per_second),
        sent: short(readings.sent_bytes_per_second),
        read: short(readings.read_bytes_per_second),
        written: short(readings.written_bytes_per_second),
        ..Reading::default()
    };
    let devices = readings.devices.iter().map(|device| {
        let reading = Reading {
            share: short(device.utilisation),
            memory_used: short(device.memory_used_bytes),
            memory: short(device.memory_bytes),
            celsius: short(device.celsius),
            watts: short(device.watts),
            throttled: short(device.throttled),
            ecc_uncorrected: short(device.ecc_uncorrected),
            ..Reading::default()
        };
        (device.device.clone(), reading)
    });
    let all: Vec<(String, Reading)> = std::iter::once(("machine".to_owned(), machine)).chain(devices).collect();
    let column = |of: fn(&Reading) -> Option<f32>| all.iter().map(|(_, reading)| of(reading)).collect::<Vec<_>>();
    let columns = [
        column(|reading| reading.share),
        column(|reading| reading.memory_used),
        column(|reading| reading.memory),
        column(|reading| reading.received),
        column(|reading| reading.sent),
        column(|reading| reading.read),
        column(|reading| reading.written),
        column(|reading| reading.celsius),
        column(|reading| reading.watts),
        column(|reading| reading.throttled),
        column(|reading| reading.ecc_uncorrected),
    ];
    let sources: Vec<String> = all.iter().map(|(source, _)| source.clone()).collect();
    let known = sqlx::query_scalar!(
        r#"WITH known AS (SELECT id FROM workers WHERE id = $1 AND session = $2),
           stored AS (
               INSERT INTO readings (worker_id, source, minutes, at, share, memory_used_bytes, memory_bytes, received_bytes, sent_bytes, read_bytes, written_bytes, celsius, watts, throttled, ecc_uncorrected)
               SELECT known.id, u.source, 1, date_trunc('minute', now()), u.share, u.used, u.memory, u.received, u.sent, u.read, u.written, u.celsius, u.watts, u.throttled, u.ecc
               FROM known, unnest($3::text[], $4::real[], $5::real[], $6::real[], $7::real[], $8::real[], $9::real[], $10::real[], $11::real[], $12::real[], $13::real[], $14::real[])
                   AS u(source, share, used, memory, received, sent, read, written, celsius, watts, throttled, ecc)
               ON CONFLICT DO NOTHING)
           SELECT EXISTS (SELECT 1 FROM known) AS "known!""#,
        worker.0,
        readings.session,
        &sources,
        columns[0].as_slice() as &[Option<f32>],
        columns[1].as_slice() as &[Option<f32>],
        columns[2].as_slice() as &[Option<f32>],
        columns[3].as_slice() as &[Option<f32>],
        columns[4].as_slice() as &[Option<f32>],
        columns[5].as_slice() as &[Option<f32>],
        columns[6].as_slice() as &[Option<f32>],
        columns[7].as_slice() as &[Option<f32>],
        columns[8].as_slice() as &[Option<f32>],
        columns[9].as_slice() as &[Option<f32>],
        columns[10].as_slice() as &[Option<f32>],
    )
    .fetch_one(pool)
    .await?;
    if known { Ok(()) } else { Err(session_over(worker)) }
}

/// What is known of a worker over some time, as means over so many minutes each: by source, the oldest first.
///
/// # Errors
/// When Postgres refuses.
pub async fn over(
    pool: &PgPool,
    worker: WorkerId,
    (from, to): (DateTime<Utc>, DateTime<Utc>),
    minutes: i32,
) -> Result<Vec<Point>> {
    let rows = sqlx::query!(
        r#"SELECT source, date_bin(make_interval(mins => $4), at, 'epoch'::timestamptz) AS "at!",
               avg(share)::real AS share, avg(memory_used_bytes)::real AS memory_used, avg(memory_bytes)::real AS memory, avg(received_bytes)::real AS received,
               avg(sent_bytes)::real AS sent, avg(read_bytes)::real AS read, avg(written_bytes)::real AS written, avg(celsius)::real AS celsius, avg(watts)::real AS watts,
               avg(throttled)::real AS throttled, max(ecc_uncorrected) AS ecc_uncorrected
           FROM readings WHERE worker_id = $1 AND at >= $2 AND at < $3 GROUP BY source, 2 ORDER BY source, 2"#,
        worker.0, from, to, minutes
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let reading = Reading {
                share: row.share,
                memory_used: row.memory_used,
                memory: row.memory,
                received: row.received,
                sent: row.sent,
                read: row.read,
                written: row.written,
                celsius: row.celsius,
                watts: row.watts,
                throttled: row.throttled,
                ecc_uncorrected: row.ecc_uncorrected,
            };
            Point { source: row.source, at: row.at, reading }
        })
        .collect())
}

/// When the oldest reading of a worker began.
///
/// # Errors
/// When Postgres refuses.
pub async fn oldest(pool: &PgPool, worker: WorkerId) -> Result<Option<DateTime<Utc>>> {
    Ok(sqlx::query_scalar!("SELECT min(at) FROM readings WHERE worker_id = $1", worker.0).fetch_one(pool).await?)
}

/// Makes one row of a quarter of an hour that has grown old. Tells how many quarters were made.
///
/// # Errors
/// When Postgres refuses.
pub async fn thin(pool: &PgPool) -> Result<u64> {
    let made = sqlx::query!(
        "WITH due AS (
             SELECT DISTINCT worker_id, source, date_bin('15 minutes', at, 'epoch'::timestamptz) AS quarter FROM readings
             WHERE minutes = 1 AND at < date_bin('15 minutes', now() - make_interval(days => $1), 'epoch'::timestamptz) LIMIT $2),
         gone AS (
             DELETE FROM readings r USING due d
             WHERE r.worker_id = d.worker_id AND r.source = d.source AND r.minutes = 1 AND r.at >= d.quarter AND r.at < d.quarter + interval '15 minutes'
             RETURNING r.*)
         INSERT INTO readings (worker_id, source, minutes, at, share, memory_used_bytes, memory_bytes, received_bytes, sent_bytes, read_bytes, written_bytes, celsius, watts, throttled, ecc_uncorrected)
         SELECT worker_id, source, 15, date_bin('15 minutes', at, 'epoch'::timestamptz), avg(share), avg(memory_used_bytes), avg(memory_bytes), avg(received_bytes),
             avg(sent_bytes), avg(read_bytes), avg(written_bytes), avg(celsius), avg(watts), avg(throttled), max(ecc_uncorrected) FROM gone GROUP BY 1, 2, 4
         ON CONFLICT DO NOTHING",
        FINE_DAYS,
        QUARTERS_MAX
    );
    Ok(made.execute(pool).await?.rows_affected())
}

/// Removes what is older than so many days, so many rows at most.
///
/// # Errors
/// When Postgres refuses.
pub async fn prune(pool: &PgPool, days: i32) -> Result<u64> {
    let done = sqlx::query!(
        "DELETE FROM readings WHERE ctid = ANY(ARRAY(SELECT ctid FROM readings WHERE minutes IN (1, 15) AND at < now() - make_interval(days => $1) LIMIT $2))",
        days,
        super::prune::ROWS_MAX
    );
    Ok(done.execute(pool).await?.rows_affected())
}
