//! `make bench-text`: how work on text scales with threads, its figures as a table and in target/bench/text.json.

use anyhow::Result;
use senmon_tests::{bench::text, process::repository};
use std::fs;

/// As in the worker.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    let report = text::run()?;
    println!("{}", text::table(&report));
    let folder = repository().join("target/bench");
    fs::create_dir_all(&folder)?;
    let path = folder.join("text.json");
    fs::write(&path, serde_json::to_string_pretty(&report)? + "\n")?;
    println!("{}", path.display());
    Ok(())
}
