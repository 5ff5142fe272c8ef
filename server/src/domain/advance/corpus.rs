//! What a registered corpus needs next: each file read alone, the texts that several share found, then its end.

/// Everything known of a corpus that is scanned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Its files.
    pub files: u64,
    /// Scans asked for, one a file.
    pub scans_asked: u64,
    /// Scans completed.
    pub scans_done: u64,
    /// Where the comparison of its files stands.
    pub deduplication: Step,
    /// Why a job of it was given up.
    pub problem: Option<String>,
}

/// Where one job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Not asked for.
    Absent,
    /// Asked for.
    UnderWay,
    /// Completed.
    Done,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Create one job a file.
    CreateScans,
    /// Refuse the corpus for what its files are, or create the job that compares them.
    Deduplicate,
    /// Take the snapshot: it is ready.
    Finish,
    /// End it.
    Fail(String),
}

/// Decides what to do next; nothing where it waits for a worker.
#[must_use]
pub fn advance(facts: &Facts) -> Vec<Command> {
    if let Some(why) = &facts.problem {
        return vec![Command::Fail(why.clone())];
    }
    match facts.deduplication {
        _ if facts.scans_asked < facts.files => vec![Command::CreateScans],
        _ if facts.scans_done < facts.files => Vec::new(),
        Step::Absent => vec![Command::Deduplicate],
        Step::UnderWay => Vec::new(),
        Step::Done => vec![Command::Finish],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A world that does what it is told, with workers that finish or give up a job now and then.
        #[test]
        fn it_comes_to_its_end_whatever_the_order(files in 1_u64..20, steps in prop::collection::vec(0_u8..8, 200)) {
            let mut facts =
                Facts { files, scans_asked: 0, scans_done: 0, deduplication: Step::Absent, problem: None };
            let mut told = Vec::new();
            for step in steps {
                match advance(&facts).as_slice() {
                    [Command::CreateScans] => facts.scans_asked = files,
                    [Command::Deduplicate] => facts.deduplication = Step::UnderWay,
                    [end] => {
                        told.push(end.clone());
                        break;
                    }
                    [] if step == 0 => {}
                    [] if step == 1 && files > 15 => facts.problem = Some("why".into()),
                    [] if facts.scans_done < facts.scans_asked => facts.scans_done += 1,
                    [] => facts.deduplication = Step::Done,
                    more => prop_assert!(false, "{more:?}"),
                }
            }
            let expected = facts.problem.map_or(Command::Finish, Command::Fail);
            prop_assert_eq!(told, [expected]);
        }
    }
}
