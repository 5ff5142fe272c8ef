//! Discovery: a sample of the corpus to domains, a router, and what people want to know of both.

use crate::{
    describe::describe,
    features::TfidfSvd,
    kmeans::{self, Centres, assign_greedy, squared_distance},
    quality::{nmi, silhouette, stability},
    read::Document,
    router::Router,
};
use ndarray::{Array2, Axis};
use rayon::prelude::*;
use senmon_protocol::{
    clustering::{AbsentFigure, ClusteringQuality, ClusteringSpec, DomainView, FeatureSpec},
    said,
    said::Said,
};
use std::{cmp::Reverse, collections::HashSet};
use xxhash_rust::xxh3::xxh3_128_with_seed;

const SILHOUETTE_ROWS: usize = 2_000;

/// What discovery found.
#[derive(Debug, Clone)]
pub struct Discovery {
    /// The router.
    pub router: Router,
    /// Quality figures.
    pub quality: ClusteringQuality,
    /// The domains.
    pub domains: Vec<DomainView>,
}

/// Where a text comes in the order in which a fit sees texts: it says nothing of the corpus.
fn order_key(text: &str, seed: u64) -> u128 {
    xxh3_128_with_seed(text.as_bytes(), seed)
}

/// Fits domains to a sample, whatever its order.
///
/// # Errors
/// When the sample has fewer documents (with a term) than domains, or no usable term; the sentence names the setting.
pub fn discover(sample: &[Document], spec: &ClusteringSpec) -> Result<Discovery, String> {
    let mut sample: Vec<&Document> = sample.iter().collect();
    sample.sort_by_cached_key(|document| order_key(&document.text, spec.seed));
    let texts: Vec<&str> = sample.iter().map(|document| document.text.as_str()).collect();
    let k = spec.domains as usize;
    if texts.len() < k {
        return Err(format!("clustering.domains: found {k}, but the corpus has {} documents", texts.len()));
    }
    let FeatureSpec::TfidfSvd(features) = &spec.features;
    let (features, rows) = TfidfSvd::fit(&texts, features, spec.seed)?;
    // A document without a term is at no place, and would pull centres to the middle of nowhere.
    let is_known: Vec<bool> = rows.axis_iter(Axis(0)).map(|row| row.iter().any(|x| *x != 0.0)).collect();
    let known: Vec<usize> = (0..texts.len()).filter(|i| is_known[*i]).collect();
    if known.len() < k {
        let (n, all) = (known.len(), texts.len());
        return Err(format!("clustering.domains: found {k}, but only {n} of the sample's {all} documents have a term"));
    }
    let rows_known = if known.len() == texts.len() { rows.clone() } else { rows.select(Axis(0), &known) };
    let fit = |rows: &Array2<f32>, seed| kmeans::fit(rows, k, spec.iterations_max, seed);
    let fitted = fit(&rows_known, spec.seed)?;
    let agreement = stability(&rows_known, &fitted.centres, spec.seed.wrapping_add(1), |rows, seed| {
        fit(rows, seed).map(|fitted| fitted.centres)
    })?;
    let sizes = sizes(&assign_greedy(&rows_known, &fitted.centres).0, k);
    let fallback = (0_u32..).zip(&sizes).min_by_key(|(_, size)| Reverse(**size)).map_or(0, |(number, _)| number);
    let (vocabulary, dimensions) = (features.vocabulary.len(), features.dimensions());
    let router = Router::new(features, fitted.centres.clone(), spec.clone(), fallback);
    let label = |(row, text): (ndarray::ArrayView1<f32>, &&str)| router.assign_vector(row, text);
    let labels: Vec<u32> = rows.axis_iter(Axis(0)).into_par_iter().zip(&texts).map(label).collect();
    let distance = |i: usize| {
        let centre = router.centres().row(labels[i] as usize);
        is_known[i].then(|| squared_distance(rows.row(i), centre).sqrt())
    };
    let distances: Vec<Option<f32>> = (0..texts.len()).map(distance).collect();
    let domains = describe(&sample, &labels, &distances, router.centres());
    let mut quality = Figures { rows: &rows_known, known: &known, fitted: &fitted, sample: &sample, labels: &labels }
        .quality(&distances, agreement);
    quality.vocabulary = vocabulary as u64;
    quality.dimensions = u32::try_from(dimensions).unwrap_or(u32::MAX);
    if known.len() < texts.len() {
        let none = texts.len() - known.len();
        remark(&mut quality, said!("remark_no_term", count = none, domain = fallback));
    }
    Ok(Discovery { router, quality, domains })
}

fn sizes(labels: &[u32], k: usize) -> Vec<u64> {
    labels.iter().fold(vec![0; k], |mut sizes, &domain| {
        sizes[domain as usize] += 1;
        sizes
    })
}

/// What the figures of quality are computed from.
struct Figures<'a> {
    /// The sample's vectors that are not zero, [m, d], and their places in the sample.
    rows: &'a Array2<f32>,
    known: &'a [usize],
    fitted: &'a Centres,
    sample: &'a [&'a Document],
    labels: &'a [u32],
}

impl Figures<'_> {
    fn quality(&self, distances: &[Option<f32>], stability: (Option<f64>, Option<f64>)) -> ClusteringQuality {
        let k = self.fitted.centres.nrows();
        let labels: Vec<u32> = self.known.iter().map(|&i| self.labels[i]).collect();
        let mean = |values: &mut dyn Iterator<Item = f32>| {
            let (sum, n) = values.fold((0.0, 0.0), |(sum, n), value| (sum + f64::from(value), n + 1.0));
            (n > 0.0).then(|| sum / n)
        };
        let plain = assign_greedy(self.rows, &self.fitted.plain);
        let sizes = sizes(self.labels, k);
        #[expect(clippy::cast_precision_loss, reason = "documents of a sample")]
        let balance = sizes.iter().max().map(|max| *max as f64 * k as f64 / self.sample.len() as f64);
        let labelled: Vec<usize> = (0..self.known.len()).filter(|&i| self.source(i).is_some()).collect();
        let sources: Vec<Option<&str>> = labelled.iter().map(|&i| self.source(i)).collect();
        let with_sources = |labels: &[u32]| nmi(&sources, &labelled.iter().map(|&i| labels[i]).collect::<Vec<_>>());
        let mut quality = ClusteringQuality {
            sample_documents: self.sample.len() as u64,
            documents_without_terms: (self.sample.len() - self.known.len()) as u64,
            documents_distinct: self.fitted.distinct as u64,
            iterations: self.fitted.iterations,
            inertia_mean: mean(&mut distances.iter().flatten().map(|distance| distance * distance)),
            inertia_mean_plain: mean(&mut plain.1.iter().copied()),
            balance_max_over_mean: balance,
            balance_gap_max: self.fitted.gap,
            silhouette: silhouette(self.rows, &labels, SILHOUETTE_ROWS),
            stability_nmi: stability.0,
            stability_ari: stability.1,
            source_documents: labelled.len() as u64,
            source_nmi: with_sources(&labels),
            source_nmi_plain: with_sources(&plain.0),
            ..ClusteringQuality::default()
        };
        let classes = if k == 1 { said!("figure_one_domain") } else { said!("figure_all_in_one") };
        let source = match sources.iter().collect::<HashSet<_>>().len() {
            0 => said!("figure_no_label"),
            1 => said!("figure_one_label"),
            _ => classes.clone(),
        };
        let distinct = self.fitted.distinct;
        let proof = if distinct < k { said!("figure_few_distinct") } else { said!("figure_proof_failed") };
        say_what_is_absent(&mut quality, &classes, &source, &proof);
        if distinct < k {
            remark(&mut quality, said!("remark_few_distinct", distinct = distinct, domains = k));
        }
        let empty = (0..k).filter(|&d| sizes[d] == 0).map(|d| d.to_string()).collect::<Vec<_>>();
        if !empty.is_empty() {
            remark(&mut quality, said!("remark_empty_domains", domains = empty));
        }
        quality
    }

    fn source(&self, i: usize) -> Option<&str> {
        self.sample[self.known[i]].source.as_deref()
    }
}

fn remark(quality: &mut ClusteringQuality, said: Said) {
    quality.remarks.push(said.text());
    quality.remarks_said.push(said);
}

/// Figures that are absent, or not finite, are None and have their reason.
fn say_what_is_absent(quality: &mut ClusteringQuality, classes: &Said, source: &Said, proof: &Said) {
    let (no_term, no_sample) = (&said!("figure_no_term"), &said!("figure_no_sample"));
    let figures = [
        ("inertia_mean", &mut quality.inertia_mean, no_term),
        ("inertia_mean_plain", &mut quality.inertia_mean_plain, no_term),
        ("balance_max_over_mean", &mut quality.balance_max_over_mean, no_sample),
        ("balance_gap_max", &mut quality.balance_gap_max, proof),
        ("silhouette", &mut quality.silhouette, classes),
        ("stability_nmi", &mut quality.stability_nmi, classes),
        ("stability_ari", &mut quality.stability_ari, classes),
        ("source_nmi", &mut quality.source_nmi, source),
        ("source_nmi_plain", &mut quality.source_nmi_plain, source),
    ];
    for (figure, value, why) in figures {
        let why = if value.is_some_and(|value| !value.is_finite()) { said!("not_finite") } else { why.clone() };
        *value = value.filter(|value| value.is_finite());
        if value.is_none() {
            quality.absent.push(AbsentFigure { figure: figure.to_owned(), why: why.text(), why_said: Some(why) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        roots::Roots,
        sample::{SAMPLE_BYTES_MAX, SampleFile, SampleSize, sample},
    };
    use senmon_protocol::corpus::DocumentFields;

    fn spec(domains: u32) -> ClusteringSpec {
        serde_json::from_value(
            serde_json::json!({ "domains": domains, "features": { "kind": "tfidf_svd", "dimensions": 8 } }),
        )
        .unwrap()
    }

    fn documents() -> Vec<Document> {
        let kernel = [
            "the kernel maps a page into memory",
            "memory pages and kernel drivers",
            "a driver asks the kernel for memory",
        ];
        let cooking = ["鍋に醤油と砂糖を入れて煮る", "醤油と出汁で野菜を煮る料理", "砂糖と醤油の料理を鍋で作る"];
        let texts = kernel.iter().chain(&cooking).cycle().take(60);
        let source = |i: usize| Some(if i % 6 < 3 { "kernel" } else { "cooking" }.to_owned());
        texts
            .zip(0..)
            .map(|(text, i)| Document {
                record: i,
                id: i.to_string(),
                group: None,
                source: source(i as usize),
                text: format!("{text} {i}"),
            })
            .collect()
    }

    #[test]
    fn two_languages_become_two_domains_with_readable_labels() {
        let found = discover(&documents(), &spec(2)).unwrap();
        assert!(found.quality.source_nmi.unwrap() > 0.99, "{:?}", found.quality);
        let labels: Vec<_> = found.domains.iter().map(|domain| domain.label.clone()).collect();
        assert!(
            labels.iter().any(|label| label.contains("kernel")) && labels.iter().any(|label| label.contains("醤油")),
            "{labels:?}"
        );
        assert_ne!(found.router.assign("kernel memory"), found.router.assign("鍋と料理"));
        assert!(discover(&documents()[..3], &spec(4)).unwrap_err().contains("clustering.domains"));
    }

    #[test]
    fn the_order_of_files_and_documents_does_not_matter_at_any_sample_size() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, documents: &[Document]| {
            let path = folder.path().join(name);
            let line = |d: &Document| serde_json::json!({ "text": d.text, "source": d.source }).to_string() + "\n";
            std::fs::write(&path, documents.iter().map(line).collect::<String>()).unwrap();
            SampleFile { sha256: crate::sha256_file(&path).unwrap(), path, dropped: vec![] }
        };
        let mut sorted = documents();
        for (i, document) in sorted.iter_mut().enumerate() {
            let words = ["thread", "socket", "cache", "鍋物", "昆布", "味噌"];
            document.text = format!("{} {} {}", document.text, words[i / 3 % 6], words[i / 7 % 6]);
        }
        sorted.sort_by(|a, b| a.source.cmp(&b.source));
        let mut shuffled = sorted.clone();
        shuffled.sort_by_key(|document| order_key(&document.text, 99));
        let of_sorted = [write("a.jsonl", &sorted[..30]), write("b.jsonl", &sorted[30..])];
        let of_shuffled = [("x", 0..7), ("y", 7..40), ("z", 40..60)]
            .map(|(name, part)| write(&format!("{name}.jsonl"), &shuffled[part]));
        for n in [12, 35, 60] {
            let fit = |files: &[SampleFile]| {
                let fields = DocumentFields { source: Some("source".into()), ..DocumentFields::default() };
                let size = SampleSize { documents: n, bytes: SAMPLE_BYTES_MAX };
                discover(&sample(&Roots::whole_disk(), files, &fields, size, 7).unwrap(), &spec(4)).unwrap()
            };
            let (one, other) = (fit(&of_sorted), fit(&of_shuffled));
            assert_eq!((&one.router, &one.quality), (&other.router, &other.quality), "{n} documents");
            let of_given_order = discover(&sorted, &spec(4)).unwrap().router;
            assert_eq!(of_given_order, discover(&shuffled, &spec(4)).unwrap().router);
        }
    }

    /// What a fit of `texts` says: everything finite, every figure given or its absence explained, nothing lost.
    fn check(name: &str, texts: &[String], k: u32, expect: Result<&str, &str>) -> Option<Discovery> {
        let document = |(text, record): (&String, u64)| Document {
            record,
            id: record.to_string(),
            group: None,
            source: None,
            text: text.clone(),
        };
        let documents: Vec<Document> = texts.iter().zip(0..).map(document).collect();
        let (found, remark) = match (discover(&documents, &spec(k)), expect) {
            (Ok(found), Ok(remark)) => (found, remark),
            (Err(why), Err(expect)) => {
                assert!(why.contains(expect), "{name}: {why}");
                return None;
            }
            (found, _) => panic!("{name}: {:?}", found.map(|found| found.quality)),
        };
        assert!(found.router.centres().iter().all(|x| x.is_finite()), "{name}");
        assert_eq!(found.domains.len(), k as usize, "{name}");
        assert_eq!(found.domains.iter().map(|d| d.sample_documents).sum::<u64>(), texts.len() as u64, "{name}");
        assert!(
            found.domains.iter().all(|d| d.sample_documents > 0 && !d.label.is_empty()),
            "{name}: {:?}",
            found.domains
        );
        let serde_json::Value::Object(quality) = serde_json::to_value(&found.quality).unwrap() else { panic!() };
        let none: Vec<&String> = quality.iter().filter(|(_, value)| value.is_null()).map(|(name, _)| name).collect();
        let mut explained: Vec<&String> = found.quality.absent.iter().map(|absent| &absent.figure).collect();
        explained.sort();
        assert_eq!(none, explained, "{name}");
        assert!(found.quality.remarks.join(" ").contains(remark), "{name}: {:?}", found.quality.remarks);
        Some(found)
    }

    #[test]
    fn any_input_gives_domains_or_one_clear_error() {
        let words = ["kernel", "page", "driver", "thread", "mutex", "buffer", "socket", "cache", "inode", "mount"];
        let bag = |i: usize| (0..10).map(|j| words[(i * 3 + j * 7) % 10]).collect::<Vec<_>>().join(" ");
        let texts = |n: usize, text: &dyn Fn(usize) -> String| (0..n).map(text).collect::<Vec<_>>();
        let found =
            check("one bag of words", &texts(400, &|i| format!("{} {i}", bag(i))), 8, Ok("1 distinct")).unwrap();
        assert!(found.domains.iter().all(|domain| (25..80).contains(&domain.sample_documents)));
        check(
            "three bags",
            &texts(300, &|i| format!("{} {} {i}", words[i % 3], words[i % 3 + 3])),
            8,
            Ok("3 distinct"),
        );
        let few = texts(60, &|i| {
            if i < 50 { format!("{} {i}", bag(i)) } else { format!("{} {}", words[i - 50], words[i % 9]) }
        });
        check("mostly one bag", &few, 6, Ok(""));
        check("one document", &texts(1, &bag), 1, Ok(""));
        check("one domain", &texts(40, &|i| format!("{} {}", words[i % 10], words[i % 7])), 1, Ok(""));
        check("as many domains as documents", &texts(9, &|i| format!("{} {}", words[i], words[i + 1])), 9, Ok(""));
        check("fewer documents than dimensions", &texts(5, &|i| format!("{} {}", words[i], words[i + 1])), 2, Ok(""));
        check("fewer documents than domains", &texts(3, &bag), 4, Err("clustering.domains: found 4"));
        check("Thai", &texts(40, &|i| ["แม่น้ำไหล", "ภูเขาสูง"][i % 2].repeat(i % 3 + 1)), 2, Ok(""));
        check("Khmer", &texts(40, &|i| ["ទន្លេហូរ", "ភ្នំខ្ពស់"][i % 2].repeat(i % 3 + 1)), 2, Ok(""));
        check("hiragana", &texts(40, &|i| ["これはです", "それでもない"][i % 2].to_owned()), 2, Err("no term"));
        check("digits", &texts(40, &|i| format!("{i} {} 12.5", i * 7)), 2, Err("numbers, symbols and emoji"));
        check("emoji", &texts(40, &|i| "😀👍🏽🇯🇵".repeat(i + 1)), 2, Err("numbers, symbols and emoji"));
        check("spaces", &texts(40, &|i| " ".repeat(i)), 2, Err("no term"));
        let half =
            texts(40, &|i| if i % 2 == 0 { format!("{i}") } else { format!("{} {}", words[i % 10], words[i % 7]) });
        let found = check("half of it digits", &half, 4, Ok("20 documents of the sample have no term")).unwrap();
        assert_eq!(found.quality.documents_without_terms, 20);
        let few = texts(40, &|i| if i > 2 { format!("{i}") } else { bag(i) });
        check("three documents with words", &few, 4, Err("only 3 of the sample's 40 documents have a term"));
    }

    #[test]
    fn what_is_shown_of_a_text_with_nul_characters_can_be_stored() {
        let mut documents = documents();
        for document in &mut documents {
            document.text = format!("\0{} \0 {}\0\0", document.text, document.text);
            document.source = document.source.as_ref().map(|source| format!("{source}\0"));
        }
        let found = discover(&documents, &spec(2)).unwrap();
        let stored = serde_json::to_string(&found.domains).unwrap();
        assert!(stored.contains('\u{fffd}') && !stored.contains("\\u0000"), "{stored}");
    }

    #[test]
    fn the_artefact_carries_the_same_bits() {
        let folder = tempfile::tempdir().unwrap();
        let found = discover(&documents(), &spec(3)).unwrap();
        let hash = found.router.save(folder.path()).unwrap();
        let (loaded, loaded_hash) = Router::load(folder.path()).unwrap();
        assert_eq!((&loaded, loaded_hash), (&found.router, hash));
        assert_eq!(loaded.distances("kernel driver"), found.router.distances("kernel driver"));
        let path = folder.path().join(crate::router::TENSORS_FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(Router::load(folder.path()).unwrap_err().to_string().contains("SHA-256"));
    }
}
