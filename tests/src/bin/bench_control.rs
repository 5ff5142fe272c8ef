//! `make bench-control`: the control plane under full load, its figures as a table and in target/bench/control.json.

use anyhow::Result;
use senmon_tests::{
    bench::{Size, run},
    process::repository,
};
use std::fs;

#[tokio::main]
async fn main() -> Result<()> {
    let report = run(&Size::from_env()?).await?;
    println!("{}", report.table());
    let folder = repository().join("target/bench");
    fs::create_dir_all(&folder)?;
    let path = folder.join("control.json");
    fs::write(&path, serde_json::to_string_pretty(&report.json())? + "\n")?;
    println!("{}", path.display());
    Ok(())
}
