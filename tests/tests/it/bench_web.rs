//! The benchmark of the dashboard, small: pages show what is stored, and panning draws frames. Times are not judged.

use anyhow::{Result, ensure};
use senmon_tests::bench::web::{Size, run};

#[tokio::test]
async fn stored_curves_are_drawn_and_panned() -> Result<()> {
    let report = run(&Size { branches: 40, points: 20_000, seconds: 1, times: 1 }).await?;
    let wide = &report["wide"];
    let drawn = wide["points_drawn"].as_f64().unwrap_or_default();
    ensure!((40.0 * 150.0..40.0 * 2_000.0).contains(&drawn), "{report}");
    ensure!(wide["pan"]["frames"].as_f64().is_some_and(|frames| frames > 5.0), "{report}");
    ensure!(report["finished_demo"]["senmon"]["requests"].as_f64().is_some_and(|requests| requests < 30.0), "{report}");
    Ok(())
}
