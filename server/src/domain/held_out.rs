//! What comparisons with the training text leave of the held-out documents.

use senmon_corpus::held_out::Candidate;
use senmon_protocol::{
    job::DecontaminateResult,
    report::{HeldOutSummary, LeftOut},
    said,
    said::{Said, decimal},
};
use std::collections::BTreeMap;

/// Documents left out that a report names.
const NAMED_MAX: usize = 100;

/// What a comparison that is over found, or why it was given up.
pub type Compared = Result<DecontaminateResult, String>;

/// The candidates that stay, and what is said of the others. `compared` is None where no comparison was asked for.
#[must_use]
pub fn summary(candidates: &[Candidate], compared: Option<Vec<Compared>>) -> (Vec<&Candidate>, HeldOutSummary) {
    let mut summary = HeldOutSummary::default();
    let mut closest: BTreeMap<u32, (f64, String)> = BTreeMap::new();
    if let Some(compared) = compared {
        let documents = compared.iter().flatten().map(|found| found.documents).sum();
        summary.compared = Some(documents);
        for found in compared {
            match found {
                Err(problem) => summary.problems.push(problem),
                Ok(found) => {
                    for overlap in found.overlaps {
                        let best = closest.entry(overlap.candidate).or_default();
                        if overlap.share > best.0 {
                            *best = (overlap.share, overlap.document);
                        }
                    }
                }
            }
        }
    }
    let mut kept = Vec::new();
    for (candidate, number) in candidates.iter().zip(0_u32..) {
        let Some((share, document)) = closest.remove(&number) else {
            kept.push(candidate);
            continue;
        };
        summary.left_out += 1;
        if summary.left_out_first.len() < NAMED_MAX {
            let (id, domain) = (candidate.id.clone(), candidate.domain);
            summary.left_out_first.push(LeftOut { id, domain, share, document });
        }
    }
    summary.documents = kept.len() as u64;
    (kept, summary)
}

/// What a report says of it.
#[must_use]
pub fn sentences(summary: &HeldOutSummary, held_out_fraction: f64) -> Vec<Said> {
    let documents = summary.documents;
    let mut lines = vec![match summary.compared {
        None => said!("method_not_compared", documents = documents),
        Some(compared) => {
            said!("method_compared", documents = documents, left_out = summary.left_out, compared = compared)
        }
    }];
    let named = |left: &LeftOut| {
        let (id, domain, percent) = (&left.id, left.domain, decimal(left.share * 100.0, 0));
        said!("document_left_out", id = id, domain = domain, percent = percent, document = &left.document)
    };
    if !summary.left_out_first.is_empty() {
        let first: Vec<Said> = summary.left_out_first.iter().take(10).map(named).collect();
        let rest = summary.left_out - first.len() as u64;
        lines.push(match rest {
            0 => said!("method_left_out", documents = first),
            more => said!("method_left_out_more", documents = first, more = more),
        });
    }
    lines.extend(summary.problems.iter().map(|problem| said!("method_problem", problem = problem)));
    lines.push(said!("method_split", percent = (held_out_fraction * 100.0).to_string()));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use senmon_protocol::job::Overlap;

    fn candidates(n: u32) -> Vec<Candidate> {
        let make = |i: u32| Candidate {
            id: format!("d{i}"),
            key: (i.into(), 0),
            group: i.into(),
            domain: 0,
            shard: 0,
            document: i.into(),
            grams: vec![i.into()],
        };
        (0..n).map(make).collect()
    }

    fn found(overlaps: &[(u32, f64, &str)]) -> Compared {
        let overlap =
            |&(candidate, share, document): &(u32, f64, &str)| Overlap { candidate, share, document: document.into() };
        Ok(DecontaminateResult { documents: 10, overlaps: overlaps.iter().map(overlap).collect() })
    }

    #[test]
    fn what_stands_in_training_text_is_left_out_counted_and_named() {
        let all = candidates(4);
        let compared =
            vec![found(&[(1, 0.6, "a")]), found(&[(1, 0.9, "b"), (3, 0.7, "c")]), Err("x.jsonl: gone".into())];
        let (kept, summary) = summary(&all, Some(compared));
        assert_eq!(kept.iter().map(|c| c.id.as_str()).collect::<Vec<_>>(), ["d0", "d2"]);
        assert_eq!((summary.documents, summary.left_out, summary.compared), (2, 2, Some(20)));
        assert_eq!(summary.left_out_first[0].document, "b");
        let said = sentences(&summary, 0.05).iter().map(Said::text).collect::<Vec<_>>().join(" ");
        for part in
            ["2 were left out", "d1 (domain 0, 90 % in b)", "Not compared with the held-out documents: x.jsonl: gone."]
        {
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn without_a_comparison_everything_stays_and_the_report_says_so() {
        let all = candidates(3);
        let (kept, summary) = summary(&all, None);
        assert_eq!((kept.len(), summary.left_out), (3, 0));
        assert!(sentences(&summary, 0.05)[0].text().contains("not compared"));
    }
}
