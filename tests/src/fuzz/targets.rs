//! The parsers of foreign bytes, each with real inputs to begin from and what it promises of what it takes.

use super::Broken;
use anyhow::{Context, Result, anyhow, ensure};
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use parquet::{arrow::ArrowWriter, file::properties::WriterProperties};
use senmon_corpus::{
    hex, manifest,
    megatron::{self, IndexedDataset, TokenType},
    read::documents,
    roots::{Folder, Roots},
    seed::inspect,
    tokenizer::{Tokenizer, train},
};
use senmon_protocol::{
    checkpoint::Manifest,
    corpus::DocumentFields,
    file,
    model::ModelSpec,
    plan::PlanRequest,
    spec::ExperimentSpec,
    worker::{CompleteAttempt, EnrolWorker, MetricBatch},
};
use senmon_server::domain::{
    known::{Known, KnownCorpus},
    planner::{Fleet, plan},
    validate::validate,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::{fs, io::Write, path::Path, sync::Arc};

/// Bytes, and the ending of a file that would hold them.
#[derive(Debug, Clone)]
pub struct Input {
    /// Ending of a file's name.
    pub ending: &'static str,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// A parser.
#[derive(Debug)]
pub struct Target {
    /// Name of the target.
    pub name: &'static str,
    /// Real inputs; all are taken.
    pub seeds: fn() -> Result<Vec<Input>>,
    /// Parses an input in a folder of its own: an error is a refusal, [`Broken`] a broken promise.
    pub run: fn(&Input, &Path) -> Result<()>,
}

/// All targets.
pub const TARGETS: [Target; 10] = [
    Target { name: "experiment-file", seeds: experiment_seeds, run: experiment },
    Target { name: "jsonl", seeds: jsonl_seeds, run: records },
    Target { name: "text", seeds: text_seeds, run: records },
    Target { name: "compressed", seeds: compressed_seeds, run: records },
    Target { name: "parquet", seeds: parquet_seeds, run: records },
    Target { name: "idx", seeds: idx_seeds, run: idx },
    Target { name: "safetensors", seeds: safetensors_seeds, run: safetensors },
    Target { name: "manifest", seeds: manifest_seeds, run: checkpoint_manifest },
    Target { name: "tokenizer", seeds: tokenizer_seeds, run: tokenizer },
    Target { name: "worker-messages", seeds: message_seeds, run: message },
];

fn of(ending: &'static str, bytes: impl Into<Vec<u8>>) -> Input {
    Input { ending, bytes: bytes.into() }
}

/// What was taken comes back equal from its JSON: it can be stored.
fn comes_back<T: Serialize + DeserializeOwned + PartialEq>(value: &T) -> Result<()> {
    let bytes = serde_json::to_vec(value)?;
    match serde_json::from_slice::<T>(&bytes) {
        Ok(back) if back == *value => Ok(()),
        _ => Err(Broken(format!("does not come back from {}", String::from_utf8_lossy(&bytes))).into()),
    }
}

fn experiment_seeds() -> Result<Vec<Input>> {
    let folder = crate::process::repository().join("configs/experiments");
    let mut seeds = vec![of("json", serde_json::to_vec(&crate::spec::small_json())?)];
    for entry in fs::read_dir(&folder)? {
        seeds.push(of("yaml", fs::read(entry?.path())?));
    }
    Ok(seeds)
}

fn experiment(input: &Input, _: &Path) -> Result<()> {
    let text = std::str::from_utf8(&input.bytes)?;
    ensure!(text.len() <= file::FILE_BYTES_MAX, "too large");
    let spec: ExperimentSpec = file::parse(text).map_err(|fault| anyhow!("{}: {}", fault.path, fault.message))?;
    comes_back(&spec)?;
    let corpus = KnownCorpus { ready: true, documents: 100_000, text_bytes: 1 << 30, files: 4 };
    let known = Known { corpus: Some(corpus), ..Known::default() };
    let faults = validate(&spec, &known);
    if faults.iter().any(|fault| fault.message.is_empty()) {
        return Err(Broken(format!("a fault without words: {faults:?}")).into());
    }
    let request: PlanRequest = serde_json::from_value(json!({ "experiment": spec, "tokens_per_second": 1000.0 }))?;
    comes_back(&plan(&request, &known, &Fleet::default()))?;
    Ok(())
}

const LINES: &str = "{\"text\": \"a kernel maps pages\", \"id\": \"a#1\", \"meta\": {\"source\": \"x\"}}\n{\"text\": [\"one\", \"two\"], \"id\": 7}\n\n{\"text\": null}\n{\"text\": \"\\ud83c\\udf89 \\ud800 醤油\"}\n";

fn jsonl_seeds() -> Result<Vec<Input>> {
    let array = "[{\"text\": \"a\", \"id\": \"1\"}, {\"text\": \"b\",\n \"id\": \"2\"}]";
    let marked = [&b"\xef\xbb\xbf"[..], LINES.as_bytes()].concat();
    Ok(vec![of("jsonl", LINES), of("json", array), of("ndjson", marked), of("json", LINES)])
}

fn text_seeds() -> Result<Vec<Input>> {
    let page = "A page.\r\nIts second line.\n\n\nAnother paragraph with 醤油 and ünïcode.\n".repeat(20);
    Ok(vec![of("txt", page.as_bytes()), of("txt", &b"\xef\xbb\xbfx"[..])])
}

fn compressed_seeds() -> Result<Vec<Input>> {
    let gz = |bytes: &[u8]| -> Result<Vec<u8>> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes)?;
        Ok(encoder.finish()?)
    };
    let twice = [gz(LINES.as_bytes())?, gz(LINES.as_bytes())?, vec![0; 32]].concat();
    let zst = zstd::encode_all(LINES.as_bytes(), 3)?;
    let frames = [zst.clone(), zst.clone()].concat();
    Ok(vec![of("jsonl.gz", gz(LINES.as_bytes())?), of("jsonl.gz", twice), of("jsonl.zst", zst), of("txt.zst", frames)])
}

fn parquet_seeds() -> Result<Vec<Input>> {
    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("one page"), None, Some("醤油 と 砂糖"), Some("")]));
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3, 4]));
    let batch = RecordBatch::try_from_iter([("text", texts), ("id", ids)])?;
    let write = |properties: WriterProperties| -> Result<Input> {
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties))?;
        writer.write(&batch)?;
        Ok(of("parquet", writer.into_inner()?))
    };
    let plain = WriterProperties::builder().set_dictionary_enabled(false).build();
    Ok(vec![write(WriterProperties::default())?, write(plain)?])
}

/// Reads a file of records to its end, as the scan does.
fn records(input: &Input, folder: &Path) -> Result<()> {
    let path = folder.join(format!("input.{}", input.ending));
    fs::write(&path, &input.bytes)?;
    let fields = DocumentFields {
        id: Some("id".into()),
        source: (input.ending != "parquet").then(|| "meta.source".into()),
        zstd_window_bytes_max: 1 << 20,
        ..DocumentFields::default()
    };
    let mut found = documents(&Roots::new([folder]), &path, &fields)?;
    let (mut items, mut good) = (0_usize, 0_usize);
    for item in &mut found {
        items += 1;
        good += usize::from(item.is_ok());
        // Compressed bytes may stand for many records; what they stand for is bounded by the format.
        if items > 10_000_000 {
            return Err(Broken("yields records without end".into()).into());
        }
    }
    let read = found.end()?;
    if read.bytes != input.bytes.len() as u64 || read.sha256 != hex(&Sha256::digest(&input.bytes)) {
        return Err(Broken("hashes other bytes than it was given".into()).into());
    }
    ensure!(good > 0, "no record");
    Ok(())
}

fn idx_seeds() -> Result<Vec<Input>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("shard.idx");
    megatron::write_index(&path, &[3, 0, 5, 8], TokenType::U16)?;
    Ok(vec![of("idx", fs::read(path)?)])
}

fn idx(input: &Input, folder: &Path) -> Result<()> {
    fs::write(folder.join("shard.bin"), [7_u8; 32])?;
    fs::write(folder.join("shard.idx"), &input.bytes)?;
    let data = IndexedDataset::open(&folder.join("shard"))?;
    let mut out = [0; 16];
    for document in (0..data.documents().min(100)).chain([data.documents(), u64::MAX]) {
        let Some((first, length)) = data.document(document) else { continue };
        if first.checked_add(length).is_none_or(|end| end > data.tokens()) {
            return Err(
                Broken(format!("document {document}: {length} tokens from {first} of {}", data.tokens())).into()
            );
        }
        let length = usize::try_from(length)?.min(out.len());
        data.read(first, &mut out[..length])
            .map_err(|error| Broken(format!("its own document {document}: {error}")))?;
    }
    match data.read(u64::MAX, &mut out) {
        Ok(()) => Err(Broken("reads beyond the end".into()).into()),
        Err(_) => Ok(()),
    }
}

const MODEL: &str = r#"{"model_type": "llama", "vocab_size": 32, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "max_position_embeddings": 64}"#;

fn safetensors_seeds() -> Result<Vec<Input>> {
    let model = ModelSpec::from_config_json(MODEL).map_err(anyhow::Error::msg)?;
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in model.tensors() {
        let begin = end;
        end += 2 * shape.iter().product::<u64>();
        header.insert(name, json!({ "dtype": "BF16", "shape": shape, "data_offsets": [begin, end] }));
    }
    let header = serde_json::to_vec(&header)?;
    let zeros = vec![0; usize::try_from(end)?];
    Ok(vec![of("safetensors", [&header.len().to_le_bytes()[..], &header, &zeros].concat()), of("json", MODEL)])
}

fn safetensors(input: &Input, folder: &Path) -> Result<()> {
    let of_weights = input.ending == "safetensors";
    let weights = if of_weights { input.bytes.clone() } else { safetensors_seeds()?.swap_remove(0).bytes };
    fs::write(folder.join("model.safetensors"), weights)?;
    fs::write(folder.join("config.json"), if of_weights { MODEL.as_bytes() } else { &input.bytes })?;
    let seed = inspect(&Folder::own(folder)).map_err(anyhow::Error::msg)?;
    comes_back(&seed.spec)
}

fn manifest_seeds() -> Result<Vec<Input>> {
    let id = "018f0000-0000-7000-8000-000000000000";
    let sha256 = "ab".repeat(32);
    let meta = json!({
        "kind": "resumable", "experiment_id": id, "branch_id": id, "fence": 3, "step": 20, "tokens": 10240,
        "lineage": { "drawn": [{ "domain": 0, "windows": 4 }], "reshuffles": [] }, "parent_id": null, "bytes": 7, "loss": 3.25,
        "config_sha256": sha256, "state_sha256": sha256
    });
    let text = json!({
        "format": 1, "id": id, "files": { "model.safetensors": { "bytes": 7, "sha256": sha256 } }, "meta": meta,
        "created_at": "2027-01-31T08:00:00Z", "writer": "0.1.0"
    });
    Ok(vec![of("json", serde_json::to_vec(&text)?)])
}

fn checkpoint_manifest(input: &Input, _: &Path) -> Result<()> {
    let found: Manifest = manifest::parse(&input.bytes, &hex(&Sha256::digest(&input.bytes)))?;
    comes_back(&found)
}

fn tokenizer_seeds() -> Result<Vec<Input>> {
    let own =
        train(&["the kernel maps the page into memory and the driver asks the kernel", "醤油と砂糖を鍋に入れて"], 280)?;
    let words = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": { "type": "NFKC" },
        "added_tokens": [{ "id": 3, "content": "<|endoftext|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true }],
        "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": { "a": 0, "b": 1, "[UNK]": 2, "<|endoftext|>": 3 }, "unk_token": "[UNK]" }
    });
    Ok(vec![of("json", own), of("json", serde_json::to_vec(&words)?)])
}

fn tokenizer(input: &Input, _: &Path) -> Result<()> {
    let tokenizer = Tokenizer::from_bytes(&input.bytes, "<|endoftext|>", None)?;
    let tokens = tokenizer.encode_text("the kernel maps 醤油 \u{1f389} a b")?;
    if let Some(token) = tokens.iter().find(|token| **token >= tokenizer.vocab_size()) {
        return Err(Broken(format!("token {token} of a vocabulary of {}", tokenizer.vocab_size())).into());
    }
    tokenizer.decode(&tokens).context("decode its own tokens")?;
    Ok(())
}

fn message_seeds() -> Result<Vec<Input>> {
    let enrol = json!({ "name": "w", "protocol_version": 1, "version": "0.1.0", "host": "h", "capabilities": ["train"],
        "slots": [{ "index": 0, "device": "cpu", "device_name": "x", "memory_bytes": 1, "threads": 1 }], "labels": { "a": "b" } });
    let metrics = json!({ "fence": 1, "steps": [1, 2], "tokens": [5, 10], "at_ms": [1, 2], "series": { "train/loss": [3.5, null] } });
    let complete = json!({ "fence": 1, "outcome": { "kind": "ended", "reason": "cancelled", "message": "x" } });
    Ok([enrol, metrics, complete].map(|value| of("json", value.to_string())).into())
}

fn message(input: &Input, _: &Path) -> Result<()> {
    fn read<T: Serialize + DeserializeOwned + PartialEq>(bytes: &[u8]) -> Option<Result<()>> {
        serde_json::from_slice::<T>(bytes).ok().map(|value| comes_back(&value))
    }
    let bytes = &input.bytes;
    let read =
        read::<EnrolWorker>(bytes).or_else(|| read::<MetricBatch>(bytes)).or_else(|| read::<CompleteAttempt>(bytes));
    read.context("no message of a worker")?
}
