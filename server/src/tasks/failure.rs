//! Why something could not be done: what is away comes back, what will not change is an end, and of the rest nobody
//! knows.

use crate::db::DbError;
use std::{error::Error, io::ErrorKind};

/// What trying again would change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The database or the store cannot be reached, or has no room: it is tried again for as long as it takes.
    Away,
    /// Nothing: the same would happen again.
    Lasting,
    /// Nobody knows; after a few tries it counts as nothing.
    Unknown,
}

/// A reason that will not change.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Lasting(pub String);

/// An error that will not change.
pub fn lasting(reason: impl Into<String>) -> anyhow::Error {
    Lasting(reason.into()).into()
}

/// What trying again would change. The first in the chain of causes that says so decides.
#[must_use]
pub fn cause(error: &anyhow::Error) -> Cause {
    error.chain().find_map(of).unwrap_or(Cause::Unknown)
}

fn of(error: &(dyn Error + 'static)) -> Option<Cause> {
    if error.is::<Lasting>() {
        return Some(Cause::Lasting);
    }
    if let Some(error) = error.downcast_ref::<DbError>() {
        return match error {
            DbError::NotFound { .. } | DbError::Conflict(_) | DbError::NameTaken(_) | DbError::Unstorable { .. } => {
                Some(Cause::Lasting)
            }
            // Another version of this program may read it: nothing is ended for it.
            DbError::StaleFence(_) | DbError::Impossible(_) => Some(Cause::Unknown),
            DbError::Sql(error) => Some(of_database(error)),
        };
    }
    if let Some(error) = error.downcast_ref::<sqlx::Error>() {
        return Some(of_database(error));
    }
    if let Some(error) = error.downcast_ref::<serde_json::Error>() {
        return (!error.is_io()).then_some(Cause::Lasting);
    }
    if let Some(error) = error.downcast_ref::<std::io::Error>() {
        return Some(of_disk(error.kind()));
    }
    senmon_store::is_away(error).then_some(Cause::Away)
}

/// By the class of the error's SQLSTATE (Postgres, appendix A).
fn of_database(error: &sqlx::Error) -> Cause {
    let sqlx::Error::Database(said) = error else {
        use sqlx::Error::{Io, PoolClosed, PoolTimedOut, Protocol, Tls, WorkerCrashed};
        let away = matches!(error, Io(_) | Tls(_) | Protocol(_) | PoolTimedOut | PoolClosed | WorkerCrashed);
        return if away { Cause::Away } else { Cause::Unknown };
    };
    match said.code().as_deref().and_then(|code| code.get(..2)) {
        // Data that cannot be; a rule of the schema.
        Some("22" | "23") => Cause::Lasting,
        // Connections, other transactions, resources, operators, the system.
        Some("08" | "25" | "40" | "53" | "55" | "57" | "58") => Cause::Away,
        _ => Cause::Unknown,
    }
}

fn of_disk(kind: ErrorKind) -> Cause {
    match kind {
        ErrorKind::NotFound
        | ErrorKind::InvalidData
        | ErrorKind::InvalidInput
        | ErrorKind::UnexpectedEof
        | ErrorKind::IsADirectory
        | ErrorKind::NotADirectory => Cause::Unknown,
        _ => Cause::Away,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};
    use senmon_protocol::said::Said;

    fn check(error: anyhow::Error, expect: Cause) {
        assert_eq!(cause(&error.context("around it")), expect);
    }

    #[test]
    fn what_comes_back_is_told_from_what_does_not() {
        check(anyhow!("who knows"), Cause::Unknown);
        check(lasting("no such thing"), Cause::Lasting);
        check(DbError::Conflict(Said::verbatim("taken")).into(), Cause::Lasting);
        check(DbError::Impossible("not a state".into()).into(), Cause::Unknown);
        check(DbError::Sql(sqlx::Error::PoolTimedOut).into(), Cause::Away);
        check(sqlx::Error::RowNotFound.into(), Cause::Unknown);
        check(std::io::Error::from(ErrorKind::StorageFull).into(), Cause::Away);
        check(std::io::Error::from(ErrorKind::UnexpectedEof).into(), Cause::Unknown);
        let broken = serde_json::from_str::<u8>("x").context("read the list").unwrap_err();
        check(broken, Cause::Lasting);
    }
}
