//! `make bench-web`: the dashboard on stored curves, its figures in target/bench/web.json.

use anyhow::Result;
use senmon_tests::{
    bench::web::{Size, run},
    process::repository,
};
use std::fs;

#[tokio::main]
async fn main() -> Result<()> {
    let report = run(&Size::from_env()?).await?;
    let folder = repository().join("target/bench");
    fs::create_dir_all(&folder)?;
    let path = folder.join("web.json");
    fs::write(&path, serde_json::to_string_pretty(&report)? + "\n")?;
    println!("{}", path.display());
    Ok(())
}
