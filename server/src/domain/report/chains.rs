//! Where chains forgot.

use super::input::Scored;
use senmon_corpus::compare::{lowest, mean_loss};
use senmon_protocol::{
    clustering::DomainView,
    ids::BranchId,
    job::DomainLoss,
    report::{ChainLink, ChainReport, Forgetting},
    said,
    said::{Said, decimal},
    spec::{BranchGroup, ExperimentSpec},
    view::BranchRole,
};

/// Below so many nats per token a chain forgot nothing of note.
const NOTE_NATS: f64 = 0.005;

/// The chains of the plan. `weights` are the domains' in overall losses.
pub fn chains(spec: &ExperimentSpec, matrix: &[Scored], views: &[DomainView], weights: &[f64]) -> Vec<ChainReport> {
    let groups = spec.plan.iter().filter_map(|group| match group {
        BranchGroup::Chain(chain) => Some(chain.name.as_str()),
        _ => None,
    });
    groups
        .map(|name| {
            let mut rows: Vec<(u32, &Scored)> = matrix
                .iter()
                .filter(|scored| scored.row.role == BranchRole::Chain)
                .filter_map(|scored| {
                    let link = scored.row.branch.strip_prefix(name)?.strip_prefix('-')?;
                    Some((link.parse().ok()?, scored))
                })
                .collect();
            rows.sort_by_key(|(link, _)| *link);
            let rows: Vec<&Scored> = rows.into_iter().map(|(_, scored)| scored).collect();
            let links: Vec<ChainLink> = (0..rows.len()).map(|i| link(&rows[..=i], weights)).collect();
            let said = headline(&links, views);
            ChainReport { headline: said.text(), headline_said: Some(said), name: name.to_owned(), links }
        })
        .collect()
}

/// From so many nats per token on it is told at once that a link forgot.
const TOLD_NATS: f64 = 0.05;

/// The links of the plan's chains, of those that are scored, that have forgotten what is worth telling: each with its
/// sentence.
pub fn forgotten(spec: &ExperimentSpec, matrix: &[Scored], views: &[DomainView]) -> Vec<(BranchId, Said)> {
    let told = |link: &ChainLink| {
        let worst = link.forgetting.iter().max_by(|a, b| a.loss_delta.total_cmp(&b.loss_delta))?;
        let label = views.get(worst.domain as usize).map_or("", |view| view.label.as_str());
        let said = said!(
            "link_forgot",
            branch = &link.branch,
            nats = decimal(worst.loss_delta, 3),
            domain = worst.domain,
            label = label
        );
        (worst.loss_delta >= TOLD_NATS).then_some((link.branch_id, said))
    };
    // No weights are needed: nothing is said of the whole.
    chains(spec, matrix, views, &[]).iter().flat_map(|chain| &chain.links).filter_map(told).collect()
}

/// The last link of a chain so far.
fn link(so_far: &[&Scored], weights: &[f64]) -> ChainLink {
    let (last, before) = so_far.split_last().expect("a link");
    ChainLink {
        branch: last.row.branch.clone(),
        branch_id: last.row.branch_id,
        domain: last.row.domain.unwrap_or(0),
        loss: mean_loss(&last.row.domains, weights).ok(),
        domains: last.row.domains.clone(),
        forgetting: before.iter().filter_map(|earlier| forgetting(earlier.row.domain?, so_far)).collect(),
    }
}

fn on(losses: &[DomainLoss], domain: u32) -> Option<f64> {
    losses.iter().find(|found| found.domain == domain).and_then(|found| found.loss)
}

/// Loss of the last link on a domain over that of the link which the calibration half calls best.
fn forgetting(domain: u32, so_far: &[&Scored]) -> Option<Forgetting> {
    let best = lowest(so_far.iter().map(|scored| (scored, on(&scored.calibration, domain))))?;
    let loss_delta = on(&so_far.last()?.row.domains, domain)? - on(&best.row.domains, domain)?;
    loss_delta.is_finite().then_some(Forgetting { domain, loss_delta })
}

fn headline(links: &[ChainLink], views: &[DomainView]) -> Said {
    let Some(last) = links.last() else { return said!("chain_nothing") };
    let worst = last.forgetting.iter().max_by(|a, b| a.loss_delta.total_cmp(&b.loss_delta));
    match worst.filter(|worst| worst.loss_delta > NOTE_NATS) {
        Some(worst) => {
            let label = views.get(worst.domain as usize).map_or("", |view| view.label.as_str());
            said!("chain_forgot", nats = decimal(worst.loss_delta, 3), domain = worst.domain, label = label)
        }
        None => said!("chain_kept"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::report::tests::scored;

    #[test]
    fn forgetting_is_measured_from_the_link_that_the_calibration_half_calls_best() {
        let spec = crate::domain::expand::tests::spec();
        let link = |name: &str, domain, reported: [f64; 2], calibration: [f64; 2]| {
            let mut link = scored(name, BranchRole::Chain, Some(domain), &reported.map(Some));
            link.calibration.iter_mut().zip(calibration).for_each(|(found, loss)| found.loss = Some(loss));
            link
        };
        let rows = [link("chain-0", 0, [2.0, 3.0], [2.1, 3.0]), link("chain-1", 1, [2.5, 2.0], [2.6, 2.0])];
        let found = chains(&spec, &rows, &[], &[0.75, 0.25]);
        assert_eq!(found[0].links[0].forgetting, []);
        assert_eq!(found[0].links[0].loss, Some(2.25));
        assert_eq!(found[0].links[1].forgetting, [Forgetting { domain: 0, loss_delta: 0.5 }]);
        let told = forgotten(&spec, &rows, &[]);
        assert!(
            told.len() == 1 && told[0].1.text().starts_with("chain-1 has forgotten 0.500 nats per token of domain 0"),
            "{told:?}"
        );
        assert!(found[0].headline.contains("0.500 nats"), "{}", found[0].headline);
        // The reported half likes the second link better, the calibration half the first: nothing is picked afterwards.
        let rows = [link("chain-0", 0, [2.0, 3.0], [2.0, 3.0]), link("chain-1", 1, [1.9, 2.0], [2.1, 2.0])];
        let delta = chains(&spec, &rows, &[], &[0.5, 0.5])[0].links[1].forgetting[0].loss_delta;
        assert!((delta + 0.1).abs() < 1e-12, "{delta}");
        assert_eq!(forgotten(&spec, &rows, &[]), []);
        let rows = [link("chain-0", 0, [f64::NAN, 3.0], [2.0, 3.0]), link("chain-1", 1, [f64::NAN, 2.0], [2.1, 2.0])];
        assert_eq!(chains(&spec, &rows, &[], &[0.5, 0.5])[0].links[1].forgetting, [], "no figure out of no number");
    }
}
