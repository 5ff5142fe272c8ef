//! How loops ask the database.

use crate::db;
use std::time::Duration;

/// Longest wait of the others for an answer: more than the largest write takes, the files of a corpus or all domains.
const ANSWER_MAX: Duration = Duration::from_secs(300);

/// Asks the database, but not for ever: a wire may have lost its answer.
pub(super) async fn ask<T, E: From<sqlx::Error>>(work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    db::in_time(ANSWER_MAX, work).await
}
