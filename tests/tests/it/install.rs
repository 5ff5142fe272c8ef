//! What was built is installed into an empty folder and runs there, is taken away again, and nobody's own file is written over.

use anyhow::{Context, Result, ensure};
use senmon_tests::process::{binary, repository};
use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

fn install(prefix: &Path, more: &[&str]) -> Result<Output> {
    let built = binary("senmon-worker")?;
    let mut command = Command::new(repository().join("scripts/install"));
    command.args(more).env("PREFIX", prefix).env("FROM", built.parent().context("a folder of programs")?);
    Ok(command.output()?)
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn programs_are_installed_run_and_are_taken_away() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let prefix = folder.path().join("a folder");
    for _ in 0..2 {
        let done = install(&prefix, &[])?;
        ensure!(done.status.success() && said(&done).contains("libtorch: /"), "{}", said(&done));
    }
    for program in ["senmon", "senmon-server", "senmon-worker"] {
        // The worker finds libtorch although no variable says where it is.
        let ran = Command::new(prefix.join("bin").join(program)).arg("--version").env_clear().output()?;
        ensure!(ran.status.success() && said(&ran).starts_with(program), "{}", said(&ran));
    }
    for path in ["share/man/man1/senmon-branch-fork.1", "share/bash-completion/completions/senmon"] {
        ensure!(fs::metadata(prefix.join(path))?.len() > 100, "{path} is empty");
    }
    fs::write(prefix.join("share/man/man1/other.1"), "")?;
    let done = install(&prefix, &["--remove"])?;
    ensure!(done.status.success(), "{}", said(&done));
    let left: Vec<_> = fs::read_dir(prefix.join("bin"))?.chain(fs::read_dir(prefix.join("lib"))?).collect();
    ensure!(left.is_empty() && prefix.join("share/man/man1/other.1").exists(), "{left:?}");

    fs::write(prefix.join("bin/senmon"), "somebody's own")?;
    let done = install(&prefix, &[])?;
    ensure!(!done.status.success() && said(&done).contains("move it away"), "{}", said(&done));
    ensure!(fs::read_to_string(prefix.join("bin/senmon"))? == "somebody's own");
    Ok(())
}
