//! Which keys a query may see: those up to itself, of its document, and not further back than its layer looks.

use senmon_protocol::model::variant::Variant;
use std::{collections::BTreeMap, ops::Range};
use tch::{Device, Kind, Tensor};

/// How far each layer looks back over sequences of `length` tokens; None where a window hides nothing.
#[must_use]
pub fn of_layers(variant: &Variant, length: i64) -> Vec<Option<i64>> {
    variant.layers.iter().map(|layer| layer.window.map(i64::from).filter(|window| *window < length)).collect()
}

/// The first key of each query, by window: what the CPU's softmax reads. Tokens `[b, t]`; None for a window that is
/// none, where documents do not count.
#[derive(Debug, Default)]
pub struct Firsts(BTreeMap<i64, Vec<i32>>);

impl Firsts {
    /// For sequences of `t` tokens, `b` of them, and the windows of the layers.
    #[must_use]
    pub fn new(windows: &[Option<i64>], b: i64, t: i64, document_first: Option<&[i32]>) -> Self {
        let mut firsts = BTreeMap::new();
        for window in windows.iter().flatten() {
            firsts.entry(*window).or_insert_with(|| {
                let first = |index: i64| {
                    let token = index % t;
                    let of_document = usize::try_from(index).ok().and_then(|i| document_first.map(|first| first[i]));
                    let of_window = i32::try_from((token - window + 1).max(0)).unwrap_or(i32::MAX);
                    of_document.unwrap_or(0).max(of_window)
                };
                (0..b * t).map(first).collect()
            });
        }
        Self(firsts)
    }

    /// Of a layer with this window.
    #[must_use]
    pub fn of<'a>(&'a self, window: Option<i64>, document_first: Option<&'a [i32]>) -> Option<&'a [i32]> {
        window.and_then(|window| self.0.get(&window)).map(Vec::as_slice).or(document_first)
    }
}

/// What is added to the scores of `length` queries, `[length, length]`: minus infinity where a key is not seen.
pub fn mask(window: Option<i64>, length: i64, kind: Kind, device: Device) -> Tensor {
    let hidden = || Tensor::full([length, length], f64::NEG_INFINITY, (kind, device));
    let later = hidden().triu(1);
    window.map_or_else(|| later.shallow_clone(), |window| &later + hidden().tril(-window))
}

/// Which of some keys each of some queries may see, `[b or 1, 1, queries, keys]`; `document_first`, `[b, t]`, names the
/// first token of each token's document.
pub fn seen(
    window: Option<i64>,
    (queries, keys): (Range<i64>, Range<i64>),
    document_first: Option<&Tensor>,
    device: Device,
) -> Tensor {
    let count = queries.end - queries.start;
    let places = |range: &Range<i64>| Tensor::arange_start(range.start, range.end, (Kind::Int64, device));
    let (keys, of_queries) = (places(&keys).view([1, 1, -1]), places(&queries).view([1, -1, 1]));
    let mut seen = keys.le_tensor(&of_queries);
    if let Some(first) = document_first {
        let first = first.narrow(1, queries.start, count).to_device(device).to_kind(Kind::Int64).unsqueeze(-1);
        seen = seen.logical_and(&keys.ge_tensor(&first));
    }
    if let Some(window) = window {
        seen = seen.logical_and(&keys.gt_tensor(&(&of_queries - window)));
    }
    seen.unsqueeze(1)
}
