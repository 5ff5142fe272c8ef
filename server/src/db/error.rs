//! Why the database did not do it.

use senmon_protocol::said::Said;

/// Why the database did not do it.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// There is no such row.
    #[error("no {noun} {id}")]
    NotFound {
        /// What was looked for.
        noun: &'static str,
        /// By which id or name.
        id: String,
    },
    /// The attempt's lease is over, or somebody else's.
    #[error("the lease of attempt {0} is over: a newer fence may have been granted")]
    StaleFence(String),
    /// The row is in a state that does not allow it.
    #[error("{}", .0.text())]
    Conflict(Said),
    /// Another machine lives under a worker's name.
    #[error("{}", .0.text())]
    NameTaken(Said),
    /// A value that would not come back from the database as it went.
    #[error("{path}: {}", .why.text())]
    Unstorable {
        /// Where it stands in what was asked.
        path: String,
        /// What was found, what is expected.
        why: Said,
    },
    /// A stored value that no version of this program writes.
    #[error("impossible value in the database: {0}")]
    Impossible(String),
    /// Postgres said no.
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
}

/// Result of this module.
pub type Result<T> = std::result::Result<T, DbError>;
