"""Domains beside scikit-learn's: TfidfVectorizer, TruncatedSVD and KMeans on the same texts of the demo corpus."""

import gzip
import io
import json

import numpy
import pytest
import world as worlds
import zstandard
from safetensors.numpy import load_file
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import normalized_mutual_info_score
from sklearn.preprocessing import normalize
from terms import terms

K = 8
DIMENSIONS = 100
VOCABULARY = 50_000
# K-means has many minima of nearly one inertia whose NMI differs by 0.03, here and there: means are compared.
SEEDS = range(7, 11)


class Fit:
    """Centres and what they are worth on unit vectors z, [n, d]."""

    def __init__(self, z, centres, sources):
        distances = 1 - 2 * z @ centres.T + (centres**2).sum(1)
        self.centres = centres
        self.labels = distances.argmin(1)
        self.inertia = distances.min(1).mean()
        self.nmi = normalized_mutual_info_score(sources, self.labels)


def documents():
    """Every document of the demo corpus once: text to source."""
    found = {}
    for path in sorted(worlds.CORPUS.glob("*.jsonl*")):
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        elif path.suffix == ".zst":
            data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read()
        for line in data.decode().splitlines():
            record = json.loads(line)
            found.setdefault(record["text"], record["source"])
    return found


class Ours:
    """A clustering as the server fits it, and its router."""

    def __init__(self, world, seed):
        clustering = {"domains": K, "sample_documents": 1_000_000, "seed": seed}
        submitted = worlds.EXPERIMENT | {"name": f"clusters-{seed}", "corpus": "demo", "clustering": clustering}
        experiment = f"/api/v1/experiments/{worlds.summary(world.post('/api/v1/experiments', submitted))['id']}"

        def fitted():
            id = world.get(experiment).get("clustering_id")
            view = world.get(f"/api/v1/clusterings/{id}") if id else None
            return view if view and view["state"] != "fitting" else None

        world.until("the clustering is fitted", 180, fitted)
        view = fitted()
        assert view["state"] == "ready", view["problem"]
        world.post(f"{experiment}/cancel", None)
        self.quality, self.domains = view["quality"], view["domains"]
        folder = world.storage / view["router"]
        self.tensors = load_file(folder / "router.safetensors")
        self.vocabulary = json.loads((folder / "router.json").read_text())["vocabulary"]


@pytest.fixture(scope="module")
def ours(world):
    """One clustering per seed, the default one first."""
    world.register("demo", worlds.CORPUS)
    return [Ours(world, seed) for seed in SEEDS]


@pytest.fixture(scope="module")
def corpus():
    found = documents()
    return list(found), list(found.values())


@pytest.fixture(scope="module")
def theirs(corpus):
    """scikit-learn's pipeline, once per seed."""
    texts, sources = corpus
    weights = TfidfVectorizer(analyzer=terms, min_df=2, max_features=VOCABULARY).fit_transform(texts)
    z = normalize(TruncatedSVD(DIMENSIONS, random_state=7).fit_transform(weights))
    return [Fit(z, KMeans(K, n_init=4, random_state=seed).fit(z).cluster_centers_, sources) for seed in SEEDS]


@pytest.fixture(scope="module")
def vectors(corpus, ours):
    """Our unit vectors of the corpus, made by scikit-learn out of the first router's parts."""
    vectoriser = TfidfVectorizer(analyzer=terms, vocabulary=ours[0].vocabulary)
    vectoriser.idf_ = ours[0].tensors["idf"].astype(numpy.float64)
    return normalize(vectoriser.transform(corpus[0]) @ ours[0].tensors["components"].astype(numpy.float64))


def mean(values):
    return float(numpy.mean(list(values)))


def test_the_figures_of_quality_are_scikit_learns(corpus, ours, vectors):
    fit = Fit(vectors, ours[0].tensors["centres"].astype(numpy.float64), corpus[1])
    quality = ours[0].quality
    assert quality["sample_documents"] == len(corpus[0])
    assert quality["inertia_mean"] == pytest.approx(fit.inertia, rel=1e-4)
    assert quality["source_nmi"] == pytest.approx(fit.nmi, abs=1e-3)
    sizes = [domain["sample_documents"] for domain in ours[0].domains]
    assert numpy.abs(numpy.bincount(fit.labels, minlength=K) - sizes).sum() <= 4, "a few documents lie between two centres"


def test_k_means_is_as_good_as_scikit_learns(ours, theirs):
    found = {name: mean(fit.quality[name] for fit in ours) for name in ("inertia_mean_plain", "source_nmi_plain")}
    wanted = {"inertia": mean(fit.inertia for fit in theirs), "nmi": mean(fit.nmi for fit in theirs)}
    print(found, wanted)
    assert found["inertia_mean_plain"] <= 1.01 * wanted["inertia"]
    assert found["source_nmi_plain"] >= wanted["nmi"] - 0.01


def test_balance_costs_no_more_than_it_must(corpus, ours, vectors):
    """scikit-learn has no balanced k-means: its centres are moved by balanced passes, whose assignments solve the dual
    by subgradients to within a few documents."""
    fits = [balanced(vectors, KMeans(K, n_init=1, random_state=seed).fit(vectors).cluster_centers_, corpus[1]) for seed in SEEDS]
    found = {name: mean(fit.quality[name] for fit in ours) for name in ("inertia_mean", "source_nmi")}
    wanted = {"inertia": mean(fit.inertia for fit in fits), "nmi": mean(fit.nmi for fit in fits)}
    print(found, wanted)
    assert max(fit.quality["balance_gap_max"] for fit in ours) <= 0.005
    assert found["inertia_mean"] <= 1.01 * wanted["inertia"]
    assert found["source_nmi"] >= wanted["nmi"] - 0.01


def balanced(z, centres, sources):
    for _ in range(20):
        scores = 2 * z @ centres.T - (centres**2).sum(1)
        prices, step = numpy.zeros(K), 0.1
        for _ in range(300):
            labels = (scores - prices).argmax(1)
            prices += step * (numpy.bincount(labels, minlength=K) * K / len(z) - 1) / 4
            step = max(step * 0.98, 0.001)
        centres = numpy.stack([z[labels == domain].mean(0) for domain in range(K)])
    return Fit(z, centres, sources)
