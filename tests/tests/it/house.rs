//! The house rules that a compiler does not check.

mod circles;

use anyhow::Result;
use senmon_tests::process::repository;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Lines of code in one file before it has more than one purpose.
const LINES_MAX: usize = 500;

#[test]
fn decisions_are_pure() -> Result<()> {
    let words =
        ["async fn", ".await", "sqlx::", "axum::", "tokio::", "Utc::now", "Instant::now", "SystemTime", "env::var"];
    check_absent("server/src/domain", &words)?;
    check_absent("server/corpus/src", &["async fn", ".await", "reqwest", "Utc::now", "SystemTime"])
}

#[test]
fn sql_lives_in_db_alone() -> Result<()> {
    for file in rust_files(&repository().join("server/src"))? {
        let path = file.display().to_string();
        if path.contains("/db/") || path.contains("/db.rs") {
            continue;
        }
        let text = fs::read_to_string(&file)?;
        for word in ["sqlx::query", "query!(", "query_as!(", "query_scalar!("] {
            assert!(!text.contains(word), "{path} contains {word}");
        }
    }
    Ok(())
}

#[test]
fn the_engine_knows_no_network_and_no_daemon() -> Result<()> {
    check_absent("worker/engine/src", &["reqwest", "tokio::", ".await", "senmon_worker", "senmon_store"])?;
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--package=senmon-engine", "--edges=normal,build", "--prefix=none", "--format={lib}"])
        .args(["--offline", "--locked"])
        .current_dir(repository())
        .output()?;
    let (said, tree) = (String::from_utf8_lossy(&tree.stderr), String::from_utf8_lossy(&tree.stdout));
    let crates: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    for needed in ["senmon_engine", "senmon_kernels", "tch"] {
        assert!(crates.contains(needed), "{needed} is not in its tree: {said}");
    }
    for foreign in ["tokio", "reqwest", "hyper", "axum", "sqlx_core", "object_store", "senmon_store", "senmon_worker"] {
        assert!(!crates.contains(foreign), "the engine depends on {foreign}: cargo tree -p senmon-engine -i {foreign}");
    }
    Ok(())
}

#[test]
fn a_session_does_not_know_how_gradients_are_computed() -> Result<()> {
    let engine = repository().join("worker/engine/src");
    let mut files = rust_files(&engine.join("session"))?;
    files.extend(["session.rs", "saver.rs", "commit.rs"].map(|name| engine.join(name)));
    for file in files {
        let text = fs::read_to_string(&file)?;
        for word in ["cuda::", "cpu::", "autograd", "fused", "AdamW"] {
            assert!(!text.contains(word), "{} contains {word}", file.display());
        }
    }
    Ok(())
}

#[test]
fn files_import_each_other_in_no_circle() -> Result<()> {
    for folder in [
        "server",
        "server/protocol",
        "server/corpus",
        "server/store",
        "server/cli",
        "worker",
        "worker/engine",
        "worker/kernels",
    ] {
        let roots = ["src/lib.rs", "src/main.rs"].map(|root| repository().join(folder).join(root));
        let roots: Vec<&PathBuf> = roots.iter().filter(|root| root.exists()).collect();
        assert!(!roots.is_empty(), "{folder} is no crate any more");
        for root in roots {
            let circles = circles::circles(root)?;
            let text: Vec<String> = circles.iter().map(|circle| circle.join("\n")).collect();
            assert!(circles.is_empty(), "files that import each other:\n{}", text.join("\n\n"));
        }
    }
    Ok(())
}

#[test]
fn no_file_is_too_long_and_each_says_what_it_is_for() -> Result<()> {
    for folder in ["server", "worker", "tests"] {
        for file in rust_files(&repository().join(folder))? {
            let text = fs::read_to_string(&file)?;
            let lines = text.lines().count();
            assert!(lines <= LINES_MAX, "{} has {lines} lines", file.display());
            let first = text.lines().next().unwrap_or_default();
            assert!(first.starts_with("//!"), "{} does not say what it is for", file.display());
        }
    }
    Ok(())
}

/// That each message that is said is in the files, with its values, the compiler has seen.
#[test]
fn every_message_is_said_somewhere() -> Result<()> {
    let root = repository();
    let mut said = BTreeSet::new();
    for folder in ["server", "worker"] {
        for file in rust_files(&root.join(folder))? {
            for call in fs::read_to_string(&file)?.split("said!(").skip(1) {
                said.extend(
                    call.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next()).map(str::to_owned),
                );
            }
        }
    }
    for entry in fs::read_dir(root.join("server/protocol/messages"))? {
        let path = entry?.path();
        let messages: BTreeMap<String, serde_json::Value> = serde_json::from_str(&fs::read_to_string(&path)?)?;
        // Terms are found by their English word: heads of columns, states.
        for key in messages.keys().filter(|key| !key.starts_with("term_")) {
            assert!(said.contains(key), "{}: nobody says {key}", path.display());
        }
    }
    Ok(())
}

#[test]
fn every_column_has_a_comment() -> Result<()> {
    for entry in fs::read_dir(repository().join("migrations"))? {
        let path = entry?.path();
        let sql = fs::read_to_string(&path)?;
        for table in sql.split("CREATE TABLE ").skip(1) {
            let name = table.split([' ', '(', '\n']).next().unwrap_or_default();
            assert!(sql.contains(&format!("COMMENT ON TABLE {name} ")), "{}: {name}", path.display());
            let body = table.split("\n)").next().unwrap_or_default();
            for column in body.lines().skip(1).filter_map(column_name) {
                let comment = format!("COMMENT ON COLUMN {name}.{column} ");
                assert!(sql.contains(&comment), "{}: {name}.{column} has no comment", path.display());
            }
        }
    }
    Ok(())
}

/// The name, where a line of a CREATE TABLE declares a column: four spaces and a lower-case word.
fn column_name(line: &str) -> Option<&str> {
    let word = line.strip_prefix("    ")?.split(' ').next()?;
    let is_name = !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit());
    is_name.then_some(word)
}

fn check_absent(folder: &str, words: &[&str]) -> Result<()> {
    for file in rust_files(&repository().join(folder))? {
        let text = fs::read_to_string(&file)?;
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            let found = words.iter().find(|word| line.contains(**word));
            assert!(found.is_none(), "{} contains {}: {line}", file.display(), found.unwrap_or(&""));
        }
    }
    Ok(())
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}
