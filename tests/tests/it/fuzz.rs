//! Every parser of foreign bytes, fuzzed for a moment (`make fuzz` does it for longer).

use anyhow::{Result, ensure};
use senmon_tests::fuzz::{Length, fuzz, targets::TARGETS};

/// Inputs of each target. The same ones each time: what fails once fails again.
const EXECUTIONS: u64 = 1_500;

#[test]
fn foreign_bytes_are_read_or_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for target in &TARGETS {
        let found = fuzz(target, 7, Length::Executions(EXECUTIONS), folder.path())?;
        ensure!(found.faults.is_empty(), "{found:?}; kept in {}", folder.keep().display());
        ensure!(found.accepted > 0, "{} refuses everything: {found:?}", target.name);
    }
    Ok(())
}
