//! The contestants of a report: losses and how sure their differences are, costs, and what was chosen from.

use crate::{
    lang::own,
    resolve::short,
    table::Table,
    words::{self, or_dash, percent_signed},
};
use senmon_protocol::{
    report::{Contestant, ContestantCost, Difference, Report, Spread, SurfaceRow},
    said,
    said::decimal,
};
use std::fmt::Write as _;

/// Losses in both weightings, each with its difference to dense; what they stand on; what is absent, and why.
pub fn losses(report: &Report) -> String {
    let has_spread = report.contestants.iter().any(|line| line.spread.is_some());
    let mut heads =
        vec!["", ">perplexity", ">vs dense", "95 % interval", ">alike", ">vs dense", "95 % interval", ">temperature"];
    heads.extend(has_spread.then_some(["repeats: vs dense, range"]).into_iter().flatten());
    heads.push("evaluation");
    let mut table = Table::new(&heads);
    let perplexity = |found: Option<f64>| or_dash(found.map(|found| format!("{found:.2}")));
    for line in &report.contestants {
        let by_share = line.vs_dense.map(|found| found.percent).or(line.vs_dense_percent);
        let mut cells = vec![
            line.title.clone(),
            perplexity(line.perplexity),
            or_dash(by_share.map(percent_signed)),
            or_dash(line.vs_dense.as_ref().map(interval)),
            perplexity(line.perplexity_macro),
            or_dash(line.vs_dense_macro.map(|found| percent_signed(found.percent))),
            or_dash(line.vs_dense_macro.as_ref().map(interval)),
            or_dash(line.temperature.map(|temperature| temperature.to_string())),
        ];
        if has_spread {
            cells.push(or_dash(line.spread.as_ref().map(spread)));
        }
        cells.push(short(line.evaluation_id));
        table.row(cells);
    }
    let mut text = table.render();
    let basis = &report.basis;
    let stands_on = said!(
        "report_basis",
        reported = words::count(basis.documents_reported),
        reported_tokens = words::tokens(basis.tokens_reported),
        others = words::count(basis.documents_calibration),
        other_tokens = words::tokens(basis.tokens_calibration),
        repeats = basis.repeats,
        resamples = words::count(basis.resamples.into())
    );
    let _ = writeln!(text, "{}", own(&stands_on));
    for line in &report.contestants {
        for why in &line.absent {
            let _ = writeln!(text, "{}", own(&said!("contestant_absent", title = &line.title, why = why)));
        }
    }
    text
}

/// `−4.1 to −2.3 %`, and whether that shows a difference.
fn interval(found: &Difference) -> String {
    let (low, high) = (percent_signed(found.percent_low), percent_signed(found.percent_high));
    own(&match found.is_shown() {
        true => said!("interval_shown", low = low, high = high),
        false => said!("interval_not_shown", low = low, high = high),
    })
}

fn spread(found: &Spread) -> String {
    match (found.vs_dense_percent_mean, found.vs_dense_percent_min, found.vs_dense_percent_max) {
        (Some(mean), Some(low), Some(high)) => own(&said!(
            "spread_percent",
            mean = percent_signed(mean),
            low = percent_signed(low),
            high = percent_signed(high),
            times = found.repeats
        )),
        _ => own(&said!(
            "spread_loss",
            mean = decimal(found.loss_mean, 3),
            low = decimal(found.loss_min, 3),
            high = decimal(found.loss_max, 3)
        )),
    }
}

/// What each contestant costs to use and to train.
pub fn costs(report: &Report) -> String {
    let all: Vec<&ContestantCost> = report.contestants.iter().map(|line| &line.cost).collect();
    let on_gpus = all.iter().any(|cost| cost.gpu_hours > 0.0);
    let on_cpus = all.iter().any(|cost| cost.cpu_slot_hours > 0.0);
    let unit = match (on_gpus, on_cpus) {
        (true, true) => "GPU-hours + slot-hours (CPU)",
        (true, false) => "GPU-hours",
        (false, _) => "slot-hours (CPU)",
    };
    let (hours, per_nat) = (format!(">{unit}"), ">hours per nat over the seed");
    let mut table =
        Table::new(&["", ">active parameters", ">forward passes a token", ">training tokens", &hours, per_nat]);
    for Contestant { title, cost, .. } in &report.contestants {
        let hours = match (on_gpus, on_cpus) {
            (true, true) => format!("{:.2} + {:.2}", cost.gpu_hours, cost.cpu_slot_hours),
            _ => format!("{:.2}", cost.gpu_hours + cost.cpu_slot_hours),
        };
        table.row(vec![
            title.clone(),
            or_dash(cost.parameters_active.map(words::tokens)),
            or_dash(cost.forward_passes.map(|passes| passes.to_string())),
            words::tokens(cost.training_tokens),
            hours,
            or_dash(cost.hours_per_nat.map(|hours| format!("{hours:.2}"))),
        ]);
    }
    table.render()
}

/// Losses of every number of experts (columns) at every temperature (rows): calibration half / reported half.
pub fn surface(rows: &[SurfaceRow]) -> String {
    let mut top_k: Vec<u32> = rows.iter().map(|row| row.point.top_k).collect();
    top_k.dedup();
    let heads: Vec<String> =
        [">temperature".to_owned()].into_iter().chain(top_k.iter().map(|k| format!(">top {k}  "))).collect();
    let mut table = Table::new(&heads.iter().map(String::as_str).collect::<Vec<_>>());
    let first = rows.iter().filter(|row| Some(&row.point.top_k) == top_k.first());
    for temperature in first.map(|row| row.point.temperature) {
        let cell = |k: &u32| {
            #[expect(clippy::float_cmp, reason = "the same temperature, as it was given")]
            let found = rows.iter().find(|row| row.point.top_k == *k && row.point.temperature == temperature);
            or_dash(found.map(surface_cell))
        };
        table.row([temperature.to_string()].into_iter().chain(top_k.iter().map(cell)).collect());
    }
    table.render()
}

fn surface_cell(row: &SurfaceRow) -> String {
    let loss = |found: Option<f64>| or_dash(found.map(|loss| format!("{loss:.4}")));
    let mark = match (row.chosen, row.best_of_top_k) {
        (true, _) => "**",
        (false, true) => "* ",
        (false, false) => "  ",
    };
    format!("{} / {}{mark}", loss(row.point.calibration), loss(row.point.reported))
}
