//! What an enemy sends first: files that lie, paths that lead out, bodies without end, SQL in every text, and a look for
//! secrets where none may be.

use anyhow::{Context, Result, ensure};
use futures::stream;
use reqwest::Method;
use senmon_corpus::{roots::Folder, seed::inspect};
use senmon_protocol::{model::ModelSpec, view::ExperimentSummary};
use senmon_tests::{World, WorldOptions, spec};
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

const MODEL: &str = r#"{"model_type": "llama", "vocab_size": 8, "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1,
    "num_attention_heads": 1, "max_position_embeddings": 16}"#;

/// A file of weights with this header, and so many bytes behind it.
fn weights(header: &[u8], says: u64, bytes: usize) -> Vec<u8> {
    [&says.to_le_bytes()[..], header, &vec![0; bytes]].concat()
}

#[test]
fn a_file_of_weights_that_lies_is_refused() -> Result<()> {
    let model = ModelSpec::from_config_json(MODEL).map_err(anyhow::Error::msg)?;
    let (mut good, mut end) = (serde_json::Map::new(), 0);
    for (name, shape) in model.tensors() {
        let begin = end;
        end += 4 * shape.iter().product::<u64>();
        good.insert(name, json!({ "dtype": "F32", "shape": shape, "data_offsets": [begin, end] }));
    }
    let end = usize::try_from(end)?;
    let first = good.keys().next().context("a tensor")?.clone();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut header = Value::Object(good.clone());
        change(&mut header[&first]);
        let header = header.to_string().into_bytes();
        weights(&header, header.len() as u64, end)
    };
    let plain = with(&|_| {});
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("config.json"), MODEL)?;
    let look = |bytes: &[u8]| {
        fs::write(folder.path().join("model.safetensors"), bytes).map_err(|error| error.to_string())?;
        inspect(&Folder::own(folder.path()))
    };
    look(&plain).map_err(anyhow::Error::msg)?;
    let max = u64::MAX;
    let cases: [(&str, Vec<u8>); 11] = [
        (
            "a pickle",
            b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.".to_vec(),
        ),
        ("a zip with a pickle", [&b"PK\x03\x04"[..], &[0; 100]].concat()),
        ("a header of 4 GiB", weights(b"{}", 4 << 30, 16)),
        ("a header of 2^64 bytes", weights(b"{}", max, 16)),
        ("a header that is no JSON", weights(b"{\"a\": [[[[", 10, 16)),
        ("offsets beyond the file", with(&|tensor| tensor["data_offsets"] = json!([0, 1_u64 << 40]))),
        ("offsets in the wrong order", with(&|tensor| tensor["data_offsets"] = json!([64, 0]))),
        ("offsets that overlap", with(&|tensor| tensor["data_offsets"] = json!([4, 4 + 4 * 32]))),
        ("a shape that overflows", with(&|tensor| tensor["shape"] = json!([max, max, 4]))),
        ("another type than its size", with(&|tensor| tensor["dtype"] = json!("F64"))),
        ("a type that is none", with(&|tensor| tensor["dtype"] = json!("OBJECT"))),
    ];
    for (what, bytes) in cases {
        let refused = look(&bytes).err().with_context(|| format!("{what} was taken"))?;
        ensure!(refused.contains("model.safetensors") && refused.len() < 2_000, "{what}: {refused}");
    }
    Ok(())
}

#[tokio::test]
async fn a_path_that_leads_out_or_elsewhere_is_refused_in_one_way() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, documents: 40, ..WorldOptions::default() }).await?;
    let inside = world.path("corpus").display().to_string();
    let paths = [
        format!("{inside}/../server/admin-token"),
        format!("{inside}/%2e%2e/server/admin-token"),
        format!("{inside}/%252e%252e/server/admin-token"),
        format!("{inside}\\..\\server\\admin-token"),
        "file:///etc/passwd".into(),
        "http://2130706433/".into(),
        "http://[::ffff:127.0.0.1]:1/x.jsonl".into(),
        "http://169.254.169.254/latest/meta-data".into(),
        "s3://bucket/x.jsonl".into(),
        "/proc/self/environ".into(),
        "/dev/zero".into(),
        "~/x.jsonl".into(),
        "x.jsonl\0.txt".into(),
        format!("{inside}/{}", "a".repeat(5_000)),
        String::new(),
    ];
    for path in &paths {
        let problem = world.api.refused("/api/v1/corpora", &json!({ "name": "x", "paths": [path] })).await?;
        ensure!(problem.status == 422, "{path:?}: {problem:?}");
        let mut spec = spec::small_json();
        spec["tokenizer"] = json!({ "kind": "file", "path": path });
        let problem = world.api.refused("/api/v1/experiments", &spec).await?;
        ensure!(problem.status == 422, "{path:?}: {problem:?}");
    }
    let corpora: Vec<Value> = world.api.list("/api/v1/corpora").await?;
    ensure!(corpora.len() == 1, "{corpora:?}");
    Ok(())
}

/// Memory that the server held at most, in bytes.
fn memory(world: &World) -> Result<u64> {
    let pid = world.server.as_ref().context("a server")?.id();
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

#[tokio::test]
async fn what_is_too_much_is_refused_and_costs_no_memory() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, documents: 40, ..WorldOptions::default() }).await?;
    let before = memory(&world)?;
    let token = world.api.token().to_owned();
    // Ten gigabytes are announced: refused before they are sent.
    let mut raw = TcpStream::connect(("127.0.0.1", world.port()))?;
    raw.set_read_timeout(Some(Duration::from_secs(30)))?;
    let head = format!(
        "POST /api/v1/corpora HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: 10737418240\r\n\r\n{{"
    );
    raw.write_all(head.as_bytes())?;
    let mut answer = [0; 12];
    raw.read_exact(&mut answer)?;
    ensure!(&answer == b"HTTP/1.1 413", "{}", String::from_utf8_lossy(&answer));
    // And one that has no end says so by never ending.
    let post = |path: &str| reqwest::Client::new().post(format!("{}{path}", world.api.base())).bearer_auth(&token);
    let endless = stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 1 << 16]));
    let sent = post("/api/v1/corpora")
        .header("content-type", "application/json")
        .body(reqwest::Body::wrap_stream(endless))
        .send();
    if let Ok(Ok(answer)) = tokio::time::timeout(Duration::from_secs(60), sent).await {
        ensure!(answer.status() == 413, "{}", answer.status());
    }
    // A thousand to one: no body is unpacked.
    let bomb = zstd::encode_all(&vec![b' '; 64 << 20][..], 3)?;
    for coding in ["gzip", "zstd", "br", "deflate"] {
        let sent =
            post("/api/v1/experiments").header("content-encoding", coding).header("content-type", "application/json");
        let answer = sent.body(bomb.clone()).send().await?;
        ensure!(answer.status() == 415, "{coding}: {}", answer.status());
    }
    // A hundred thousand branches.
    let mut many = spec::small_json();
    many["plan"] = json!(vec![json!({ "kind": "fan_out", "tokens": 46080 }); 2_000]);
    let (status, answer) = world.api.send(Method::POST, "/api/v1/experiments", Some(&many)).await?;
    ensure!((400..500).contains(&status), "{status} {answer}");
    let mut many = spec::small_json();
    many["evaluation"]["repeats"] = json!(100_000);
    let (status, answer) = world.api.send(Method::POST, "/api/v1/experiments", Some(&many)).await?;
    ensure!((400..500).contains(&status), "{status} {answer}");
    // A million names of metrics, and as many labels.
    let series: serde_json::Map<_, _> = (0..1_000_000).map(|n| (format!("m{n}"), json!([0.5]))).collect();
    let batch = json!({ "fence": 1, "steps": [1], "tokens": [1], "at_ms": [1], "series": series });
    let worker = senmon_tests::client::Api::new(world.api.base(), &world.worker_token()?);
    let path = format!("/api/v1/attempts/{}/metrics", uuid::Uuid::now_v7());
    let (status, answer) = worker.send(Method::POST, &path, Some(&batch)).await?;
    ensure!((400..500).contains(&status), "{status} {answer}");
    let mut labelled = spec::small_json();
    labelled["labels"] = json!((0..1_000_000).map(|n| n.to_string()).collect::<Vec<_>>());
    let (status, answer) = world.api.send(Method::POST, "/api/v1/experiments", Some(&labelled)).await?;
    ensure!(status == 413, "{status} {answer}");
    let grown = memory(&world)?.saturating_sub(before);
    ensure!(grown < 600 << 20, "the server took {} MiB", grown >> 20);
    Ok(())
}

#[tokio::test]
async fn sql_in_a_text_is_a_text() -> Result<()> {
    let world = World::start(WorldOptions { workers: 0, documents: 40, ..WorldOptions::default() }).await?;
    let texts = [
        "' OR 1=1 --",
        "'; DROP TABLE experiments; --",
        "\" ; SELECT pg_sleep(10) --",
        "x' UNION SELECT secret_sha256 FROM tokens --",
        "$1",
        "%s %d {} ${jndi:ldap://x} {{7*7}}",
        "\\'; --",
        "name ASC; DROP TABLE jobs",
        "') ON CONFLICT DO NOTHING; --",
    ];
    for text in texts {
        let mut small = spec::small_json();
        small["name"] = json!(text);
        small["description"] = json!(text);
        small["labels"] = json!([text]);
        let made: Value = world.api.post("/api/v1/experiments", &small).await?;
        ensure!(made["name"] == text && made["spec"]["description"] == text && made["labels"][0] == text, "{made}");
        let mut named = spec::small_json();
        named["corpus"] = json!(text);
        ensure!(world.api.refused("/api/v1/experiments", &named).await?.status == 422, "{text}");
        ensure!(world.api.refused("/api/v1/corpora", &json!({ "name": text, "paths": ["x"] })).await?.status == 422);
        let token: Value = world.api.post("/api/v1/tokens", &json!({ "name": text, "role": "viewer" })).await?;
        ensure!(token["name"] == text.trim(), "{token}");
        let url = |path: &str, name: &str| -> Result<reqwest::Url> {
            Ok(reqwest::Url::parse_with_params(&format!("{}{path}", world.api.base()), [(name, text)])?)
        };
        let get = async |url| -> Result<(u16, Value)> {
            let answer = reqwest::Client::new().get::<reqwest::Url>(url).bearer_auth(world.api.token()).send().await?;
            Ok((answer.status().as_u16(), answer.json().await?))
        };
        // What is a text finds exactly what has it; what is a word, a number or an order is none.
        for (path, name) in [
            ("/api/v1/experiments", "q"),
            ("/api/v1/experiments", "owner"),
            ("/api/v1/corpora", "q"),
            ("/api/v1/jobs", "q"),
        ] {
            let (status, page) = get(url(path, name)?).await?;
            let found = page["items"].as_array().context("items")?;
            let expected = usize::from(path.ends_with("experiments") && name == "q");
            ensure!(status == 200 && found.len() == expected, "{path}?{name}={text}: {page}");
        }
        let refused = [
            ("experiments", "sort"),
            ("experiments", "state"),
            ("experiments", "cursor"),
            ("jobs", "kind"),
            ("events", "level"),
            ("events", "since"),
            ("workers", "limit"),
        ];
        for (noun, name) in refused {
            let (status, answer) = get(url(&format!("/api/v1/{noun}"), name)?).await?;
            ensure!(status == 422, "{noun}?{name}={text}: {answer}");
        }
        let mut path = reqwest::Url::parse(&format!("{}/api/v1/corpora", world.api.base()))?;
        path.path_segments_mut().map_err(|()| anyhow::anyhow!("a path"))?.push(text);
        ensure!(get(path).await?.0 == 404, "{text}");
    }
    let all: Vec<ExperimentSummary> = world.api.list("/api/v1/experiments").await?;
    ensure!(all.len() == texts.len(), "{} experiments", all.len());
    Ok(())
}

#[tokio::test]
async fn secrets_are_in_no_log_no_answer_and_no_process_list() -> Result<()> {
    let world = World::start(WorldOptions { documents: 40, ..WorldOptions::default() }).await?;
    let made: Value = world.api.post("/api/v1/tokens", &json!({ "name": "canary", "role": "user" })).await?;
    let secret = made["secret"].as_str().context("a secret")?.to_owned();
    let wrong = "smn_a_canary0123456789abcdef0123456789abcdef0123456789abcdef01234567";
    let mut said = String::new();
    for token in [secret.as_str(), wrong] {
        let api = senmon_tests::client::Api::new(world.api.base(), token);
        for (method, path, body) in [
            (Method::GET, "/api/v1/experiments".to_owned(), Value::Null),
            (Method::GET, format!("/api/v1/experiments?q={token}"), Value::Null),
            (Method::GET, format!("/api/v1/nothing?token={token}"), Value::Null),
            (Method::POST, "/api/v1/session".into(), json!({ "token": token })),
            (Method::POST, "/api/v1/session".into(), json!({ "token": token, "extra": 1 })),
            (Method::POST, "/api/v1/experiments".into(), json!({ "name": 7 })),
        ] {
            said += &api.send(method, &path, Some(&body)).await?.1.to_string();
        }
    }
    said += &world.api.send::<()>(Method::GET, "/api/v1/tokens", None).await?.1.to_string();
    said += &world.api.send::<()>(Method::GET, "/api/v1/events?limit=500", None).await?.1.to_string();
    let mut secrets = vec![secret, wrong.to_owned()];
    for name in ["admin-token", "worker-token"] {
        secrets.push(fs::read_to_string(world.path("server").join(name))?.trim().to_owned());
    }
    let mut places = vec![("an answer".to_owned(), said)];
    for name in ["server.log", "worker-0.log"] {
        places.push((name.into(), fs::read_to_string(world.path(name)).unwrap_or_default()));
    }
    for process in fs::read_dir("/proc")?.flatten() {
        for file in ["cmdline", "comm"] {
            let text = fs::read(process.path().join(file)).unwrap_or_default();
            places.push((process.path().join(file).display().to_string(), String::from_utf8_lossy(&text).into_owned()));
        }
    }
    for (place, text) in &places {
        let found = secrets.iter().find(|secret| text.contains(&secret[6..]));
        ensure!(found.is_none(), "a secret is in {place}");
    }
    Ok(())
}
