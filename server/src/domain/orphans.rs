//! What lies in the store and belongs to nobody: folders that a killed attempt left behind.
//!
//! Only folders that an attempt of a job known here could have written are looked at, and only of fences that were
//! granted here: a store shared with another server, or with an older copy of the database, is left alone.

use chrono::{DateTime, Utc};
use senmon_protocol::ids::StorageKey;
use senmon_store::Object;
use std::collections::{BTreeMap, HashMap, HashSet};
use uuid::Uuid;

/// A job as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Folder that its attempts write below.
    pub output: StorageKey,
    /// Fence of its last attempt.
    pub fence: i64,
    /// Whether that attempt runs.
    pub is_running: bool,
}

/// Whether a store is the one of a database, by the identity that the database knows and the one that lies there.
#[must_use]
pub fn is_ours_by(known: Uuid, here: Option<Uuid>) -> bool {
    here == Some(known) || cfg!(feature = "plant-store-unknown")
}

/// Folders to remove: written by an attempt that is over, spoken for by no row, untouched since `before`.
#[must_use]
pub fn orphans(
    objects: &[Object],
    owners: &[Owner],
    spoken_for: &HashSet<String>,
    before: DateTime<Utc>,
) -> Vec<StorageKey> {
    let owners: HashMap<&str, &Owner> = owners.iter().map(|owner| (owner.output.as_str(), owner)).collect();
    let mut touched: BTreeMap<&str, DateTime<Utc>> = BTreeMap::new();
    for object in objects {
        if let Some((folder, _)) = object.key.as_str().rsplit_once('/') {
            let last = touched.entry(folder).or_insert(object.modified);
            *last = (*last).max(object.modified);
        }
    }
    let is_left = |folder: &str| {
        let Some((output, name)) = folder.rsplit_once('/') else { return false };
        let (Some(owner), Some(fence)) = (owners.get(output), fence_of(name)) else { return false };
        let over = fence < owner.fence || (fence == owner.fence && !owner.is_running);
        over && !spoken_for.contains(folder)
    };
    let old = touched.into_iter().filter(|(folder, last)| *last < before && is_left(folder));
    old.filter_map(|(folder, _)| StorageKey::new(folder).ok()).collect()
}

/// A folder of a fence that no row has given: the database is an older copy of itself, put back without a restore.
#[must_use]
pub fn ahead<'a>(objects: &'a [Object], owners: &[Owner]) -> Option<&'a str> {
    let fences: HashMap<&str, i64> = owners.iter().map(|owner| (owner.output.as_str(), owner.fence)).collect();
    let mut folders = objects.iter().filter_map(|object| Some(object.key.as_str().rsplit_once('/')?.0));
    folders.find(|folder| {
        let Some((output, name)) = folder.rsplit_once('/') else { return false };
        fence_of(name).zip(fences.get(output)).is_some_and(|(fence, given)| fence > *given)
    })
}

/// The fence in a folder's name: `f3`, `00000250-f3`, `00000250-f3-s1`.
fn fence_of(name: &str) -> Option<i64> {
    name.split('-').find_map(|part| part.strip_prefix('f')?.parse().ok()).filter(|fence| *fence > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn key(text: &str) -> StorageKey {
        StorageKey::new(text).unwrap()
    }

    fn left(folders: &[(&str, i64)], fence: i64, is_running: bool, rows: &[&str]) -> Vec<String> {
        let objects: Vec<_> = folders
            .iter()
            .map(|(folder, modified)| Object { key: key(folder).join("x").unwrap(), bytes: 1, modified: at(*modified) })
            .collect();
        let owners = [Owner { output: key("checkpoints/b"), fence, is_running }];
        let rows = rows.iter().map(|row| (*row).to_owned()).collect();
        orphans(&objects, &owners, &rows, at(100)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_what_a_dead_attempt_left_is_removed() {
        let folders =
            [("checkpoints/b/00000001-f1", 1), ("checkpoints/b/00000002-f2", 1), ("checkpoints/b/00000003-f2-s1", 1)];
        assert_eq!(left(&folders, 2, true, &[]), ["checkpoints/b/00000001-f1"], "fence 2 still runs");
        assert_eq!(left(&folders, 2, false, &["checkpoints/b/00000001-f1"]).len(), 2);
        assert_eq!(left(&[("checkpoints/b/00000001-f1", 100)], 2, false, &[]), [""; 0], "too young");
    }

    #[test]
    fn what_nobody_here_wrote_is_left_alone() {
        let foreign =
            [("checkpoints/other/00000001-f1", 1), ("checkpoints/b/notes", 1), ("checkpoints/b", 1), ("mine", 1)];
        assert_eq!(left(&foreign, 9, false, &[]), [""; 0]);
        let newer = [("checkpoints/b/00000009-f3", 1)];
        assert_eq!(left(&newer, 2, false, &[]), [""; 0], "a fence that this database never granted");
        let object = |name: &str| Object { key: key(name), bytes: 1, modified: at(1) };
        let owners = [Owner { output: key("checkpoints/b"), fence: 2, is_running: false }];
        let objects = [object("checkpoints/b/00000009-f2/x"), object("checkpoints/c/00000009-f3/x"), object("x")];
        assert_eq!(ahead(&objects, &owners), None);
        let objects = [object("checkpoints/b/00000009-f3/x")];
        assert_eq!(ahead(&objects, &owners), Some("checkpoints/b/00000009-f3"));
    }

    proptest! {
        #[test]
        fn a_live_attempt_or_a_row_protects(fence in 1_i64..5, current in 1_i64..5, is_running: bool, has_row: bool, age in 0_i64..200) {
            let folder = format!("checkpoints/b/00000010-f{fence}");
            let rows: Vec<&str> = has_row.then_some(folder.as_str()).into_iter().collect();
            let removed = !left(&[(&folder, age)], current, is_running, &rows).is_empty();
            let live = fence > current || (fence == current && is_running);
            prop_assert_eq!(removed, !live && !has_row && age < 100);
        }
    }
}
