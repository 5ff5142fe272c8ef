//! The benchmark of the control plane, small: everything that was acknowledged is stored, once. Times are not judged.

use anyhow::Result;
use senmon_tests::bench::{Size, run};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_under_load_loses_and_doubles_no_point() -> Result<()> {
    let size = Size {
        workers: 20,
        branches: 60,
        points: 200_000,
        curve_points: 100_000,
        batch_steps: 500,
        seconds: 12,
        files: 500,
    };
    let report = run(&size).await?;
    assert!(report.value("grants").is_some_and(|grants| grants >= 20.0), "{}", report.table());
    assert!(report.value("batches").is_some_and(|batches| batches >= 100.0), "{}", report.table());
    Ok(())
}
