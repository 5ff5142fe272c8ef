//! The promise of the whole store, without a database: whatever is repeated, compacted or resumed in between, the curve
//! is the one of the plain list of points.

use super::{
    LOSS, Points, Segment, compact,
    draw::{Piece, curves, draw, tail},
    last_current,
    pyramid::{Buckets, FAN, level, summarise},
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// A store in memory that follows the rules of `db::metrics` and `db::ingest`.
#[derive(Default)]
struct Store {
    landed: BTreeMap<(i64, i64), Points>,
    /// By fence, level and first step; whether a row above covers it.
    rows: BTreeMap<(i64, u32, i64), (Vec<u8>, bool)>,
}

impl Store {
    fn buckets(level: u32, body: &[u8]) -> Buckets {
        if level == 0 {
            Buckets::of(Points::decode(body, |_| true).unwrap())
        } else {
            Buckets::decode(body, |_| true).unwrap()
        }
    }

    fn land(&mut self, fence: i64, batch: Points) {
        let chunk = self.rows.range((fence, 0, i64::MIN)..(fence, 1, i64::MIN)).next_back();
        let compacted =
            chunk.and_then(|(key, row)| Self::buckets(key.1, &row.0).step_last.last().copied()).unwrap_or(-1);
        if batch.steps[0] > compacted {
            self.landed.entry((fence, batch.steps[0])).or_insert(batch);
        }
    }

    /// Compacts the first `count` batches of a fence, then summarises as far as it goes.
    fn compact(&mut self, fence: i64, count: usize) {
        let firsts: Vec<_> =
            self.landed.range((fence, i64::MIN)..=(fence, i64::MAX)).take(count).map(|(key, _)| *key).collect();
        let mut points = Points::default();
        for key in &firsts {
            points.append(self.landed.remove(key).unwrap());
        }
        let Some(&first) = points.steps.first() else { return };
        self.rows.insert((fence, 0, first), (points.encode(true), true));
        self.rows.insert((fence, 1, first), (Buckets::of(points).fold().encode(), false));
        for level in 1.. {
            let open = |(key, row): &(&(i64, u32, i64), &(Vec<u8>, bool))| key.0 == fence && key.1 == level && !row.1;
            let roots: Vec<_> = self.rows.iter().filter(open).map(|(key, _)| *key).take(FAN).collect();
            if roots.len() < FAN {
                return;
            }
            let children: Vec<_> = roots.iter().map(|key| Self::buckets(level, &self.rows[key].0)).collect();
            roots.iter().for_each(|key| self.rows.get_mut(key).unwrap().1 = true);
            self.rows.insert((fence, level + 1, roots[0].2), (summarise(&children).encode(), false));
        }
    }

    fn curve(&self, segments: &[Segment], most: usize) -> (Buckets, BTreeMap<i64, Buckets>) {
        let piece = |fence, level, body: &[u8]| Piece { fence, level, buckets: Self::buckets(level, body) };
        let mut pieces: Vec<Piece> = self
            .landed
            .iter()
            .map(|(key, points)| Piece { fence: key.0, level: 0, buckets: Buckets::of(points.clone()) })
            .collect();
        let all = || self.rows.iter().map(|(key, row)| (piece(key.0, key.1, &row.0), row.1));
        let roots: i64 = all().filter(|(_, covered)| !covered).map(|(piece, _)| piece.buckets.total()).sum();
        let level = level(roots + pieces.iter().map(|piece| piece.buckets.total()).sum::<i64>(), most);
        pieces.extend(all().filter(|(p, covered)| p.level == level || (p.level < level && !covered)).map(|(p, _)| p));
        let cut_through = |piece: &Piece| {
            let cut = last_current(piece.fence, segments);
            piece.level < level && piece.buckets.step_first[0] <= cut && cut < *piece.buckets.step_last.last().unwrap()
        };
        let finer: Vec<_> = all().map(|(piece, _)| piece).filter(cut_through).collect();
        let (current, tails) = draw(pieces, &finer, segments, (0, i64::MAX));
        (current.fold_to(most), tails)
    }
}

/// Attempts: where each starts, and the losses that it reports from there on.
fn attempts() -> impl Strategy<Value = Vec<(usize, Vec<Option<i8>>)>> {
    prop::collection::vec((0_usize..250, prop::collection::vec(prop::option::weighted(0.9, any::<i8>()), 1..250)), 1..4)
}

proptest! {
    // Each case is a store's whole life: a few hundred points, dozens of compactions.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn repeats_and_compactions_in_any_order_leave_the_curve_of_the_plain_list(
        attempts in attempts(), sizes in prop::collection::vec(1_usize..9, 1..20), most in 1_usize..120,
        turns in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..12), 0..80),
    ) {
        let (mut store, mut segments, mut plain) = (Store::default(), Vec::new(), BTreeMap::<(i64, i64), Option<f64>>::new());
        let mut sent: Vec<(i64, Points)> = Vec::new();
        let mut turns = turns.into_iter().cycle();
        for ((start, losses), fence) in attempts.iter().zip(1_i64..) {
            segments.push(Segment { fence, step_start: *start as i64 });
            let steps: Vec<i64> = (*start as i64 + 1..).take(losses.len()).collect();
            let values: Vec<Option<f64>> = losses.iter().map(|loss| loss.map(f64::from)).collect();
            plain.extend(steps.iter().zip(&values).map(|(step, value)| ((fence, *step), *value)));
            let (mut at, mut sizes) = (0, sizes.iter().cycle());
            while at < steps.len() {
                let end = (at + sizes.next().unwrap()).min(steps.len());
                let batch = Points {
                    steps: steps[at..end].to_vec(), tokens: steps[at..end].to_vec(), at_ms: steps[at..end].to_vec(),
                    series: [(LOSS.to_owned(), values[at..end].to_vec())].into(),
                };
                store.land(fence, batch.clone());
                sent.push((fence, batch));
                at = end;
                // A late repeat, then perhaps a compaction.
                if let Some((index, count)) = turns.next() {
                    let (fence_before, again) = index.get(&sent).clone();
                    store.land(fence_before, again);
                    store.compact(fence_before, count);
                }
            }
        }
        for (fence, batch) in sent {
            store.land(fence, batch);
        }
        let is_current = |fence: i64, step: i64| step <= last_current(fence, &segments);
        let expected: Vec<_> = plain.iter().filter(|((fence, step), _)| is_current(*fence, *step)).collect();
        let (drawn, tails) = store.curve(&segments, most);
        prop_assert!(drawn.len() <= most);
        prop_assert_eq!(drawn.total(), expected.len() as i64, "every current point is drawn once");
        let mut rest = expected.iter();
        let curve = curves(&drawn, &[LOSS.to_owned()]).remove(LOSS).unwrap();
        for i in 0..drawn.len() {
            let bucket: Vec<_> = rest.by_ref().take(drawn.points[i] as usize).collect();
            prop_assert_eq!(bucket.first().map(|point| point.0.1), Some(drawn.step_first[i]));
            prop_assert_eq!(bucket.last().map(|point| point.0.1), Some(drawn.step_last[i]));
            let finite = || bucket.iter().filter_map(|point| *point.1);
            prop_assert_eq!(curve.min.as_ref().unwrap_or(&curve.mean)[i], finite().reduce(f64::min));
            prop_assert_eq!(curve.max.as_ref().unwrap_or(&curve.mean)[i], finite().reduce(f64::max));
        }
        let superseded: BTreeSet<i64> = plain.keys().filter(|(fence, step)| !is_current(*fence, *step)).map(|key| key.0).collect();
        prop_assert_eq!(tails.keys().copied().collect::<BTreeSet<_>>(), superseded);
        let points: i64 = tails.values().map(Buckets::total).sum();
        prop_assert_eq!(points as usize, plain.len() - expected.len(), "every superseded point is in its tail");
    }

    #[test]
    fn a_chunk_is_whole_or_the_last(points in prop::collection::vec(1_i64..3000, 0..20), finished: bool) {
        let count = compact::chunk(points.iter().copied(), finished);
        let sum: i64 = points[..count].iter().sum();
        let before: i64 = points[..count.saturating_sub(1)].iter().sum();
        prop_assert!(count == 0 || before < 4096);
        prop_assert!(sum >= 4096 || (finished && count == points.len()) || (!finished && count == 0));
    }
}

#[test]
fn a_resume_takes_the_tail_back_at_once() {
    let points = |steps: std::ops::RangeInclusive<i64>| {
        let steps: Vec<i64> = steps.collect();
        let losses = steps.iter().map(|step| Some(*step as f64)).collect();
        Points { tokens: steps.clone(), at_ms: steps.clone(), steps, series: [(LOSS.to_owned(), losses)].into() }
    };
    let mut store = Store::default();
    store.land(1, points(1..=8));
    let segments = [Segment { fence: 1, step_start: 0 }, Segment { fence: 2, step_start: 3 }];
    let (drawn, tails) = store.curve(&segments, 100);
    assert_eq!(drawn.step_last, [1, 2, 3]);
    assert_eq!(tail(1, &tails[&1]).steps, [4, 5, 6, 7, 8]);
    // What was reported before there was a codec.
    let json = br#"{"steps":[1],"tokens":[512],"at_ms":[7],"series":{"train/loss":[2.5],"x":[null]}}"#;
    let old = Points::decode(json, |name| name == LOSS).unwrap();
    assert_eq!((old.steps, old.series), (vec![1], [(LOSS.to_owned(), vec![Some(2.5)])].into()));
}
