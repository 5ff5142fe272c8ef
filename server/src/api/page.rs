//! Pages of lists.

use crate::db::Listed;
use senmon_protocol::view::Page;

/// A page of at most `limit` of the items, of which one more than `limit` was read.
pub(super) fn page<T>(listed: Listed<T>, limit: i64, cursor: impl Fn(&T) -> String) -> Page<T> {
    let Listed { rows: mut items, broken } = listed;
    let limit = usize::try_from(limit).unwrap_or(1);
    let more = items.len() + broken.len() > limit;
    items.truncate(limit);
    let last = items.last().map(cursor).or_else(|| broken.last().map(|row| row.id.clone()));
    Page { items, next_cursor: last.filter(|_| more), broken }
}
