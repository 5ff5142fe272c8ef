//! Which files a corpus is made of: paths, folders and globs, inside the allowed roots.

use senmon_protocol::{corpus::FileFormat, problem::Fault};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Endings that are read, for messages.
pub const ENDINGS: &str = ".jsonl, .jsonl.gz, .jsonl.zst, .parquet or .txt";

/// Format of a file by its ending.
#[must_use]
pub fn format_of(path: &Path) -> Option<FileFormat> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let endings = [
        (".jsonl", FileFormat::Jsonl),
        (".jsonl.gz", FileFormat::JsonlGz),
        (".jsonl.zst", FileFormat::JsonlZst),
        (".parquet", FileFormat::Parquet),
        (".txt", FileFormat::Text),
    ];
    endings.into_iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, format)| format)
}

/// Resolves `paths` to files, sorted and without repetition. Symbolic links are followed before the roots are checked.
///
/// # Errors
/// Every fault with its place `paths[i]`: outside the roots, missing, of an unknown ending, or standing for no file.
pub fn expand_paths(paths: &[String], roots: &[PathBuf]) -> Result<Vec<PathBuf>, Vec<Fault>> {
    let roots: Vec<PathBuf> = roots.iter().filter_map(|root| root.canonicalize().ok()).collect();
    let mut files = Vec::new();
    let mut faults = Vec::new();
    for (i, path) in paths.iter().enumerate() {
        match expand_one(path, &roots) {
            Ok(found) => files.extend(found),
            Err(message) => faults.push(Fault { path: format!("paths[{i}]"), message }),
        }
    }
    if paths.is_empty() {
        faults.push(Fault {
            path: "paths".into(),
            message: "found an empty list, expected files, folders or globs".into(),
        });
    }
    files.sort();
    files.dedup();
    if faults.is_empty() { Ok(files) } else { Err(faults) }
}

fn expand_one(text: &str, roots: &[PathBuf]) -> Result<Vec<PathBuf>, String> {
    let text = text.strip_prefix("file://").unwrap_or(text);
    if !Path::new(text).is_absolute() {
        return Err(format!("found {text:?}, expected an absolute path"));
    }
    if text.contains(['*', '?', '[']) {
        let matches = glob::glob(text).map_err(|error| format!("found {text:?}, expected a glob: {error}"))?;
        let mut files = Vec::new();
        for path in matches.flatten().filter(|path| path.is_file() && format_of(path).is_some()) {
            files.push(inside(&path, roots)?);
        }
        return if files.is_empty() { Err(format!("{text:?} matches no {ENDINGS} file")) } else { Ok(files) };
    }
    let path = inside(Path::new(text), roots)?;
    if path.is_dir() {
        let mut files = Vec::new();
        walk(&path, roots, &mut files)?;
        return if files.is_empty() { Err(format!("the folder {text:?} holds no {ENDINGS} file")) } else { Ok(files) };
    }
    if format_of(&path).is_none() {
        return Err(format!("found {text:?}, expected a {ENDINGS} file"));
    }
    Ok(vec![path])
}

fn inside(path: &Path, roots: &[PathBuf]) -> Result<PathBuf, String> {
    let real = path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))?;
    if roots.iter().any(|root| real.starts_with(root)) {
        return Ok(real);
    }
    let roots: Vec<_> = roots.iter().map(|root| root.display().to_string()).collect();
    Err(format!("{} lies outside the server's corpus_roots ({})", path.display(), roots.join(", ")))
}

fn walk(folder: &Path, roots: &[PathBuf], files: &mut Vec<PathBuf>) -> Result<(), String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for entry in entries {
        let path = entry.map_err(|error| format!("{}: {error}", folder.display()))?.path();
        if path.is_dir() && !path.is_symlink() {
            walk(&path, roots, files)?;
        } else if path.is_file() && format_of(&path).is_some() {
            files.push(inside(&path, roots)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_inside_the_roots_are_taken() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("sub")).unwrap();
        for name in ["root/a.jsonl", "root/sub/b.txt", "root/notes.md", "outside.txt"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        std::os::unix::fs::symlink(folder.path().join("outside.txt"), root.join("link.txt")).unwrap();
        let check = |path: PathBuf, expect: Result<usize, &str>| {
            let found = expand_paths(&[path.display().to_string()], std::slice::from_ref(&root));
            match (found, expect) {
                (Ok(files), Ok(count)) => assert_eq!(files.len(), count, "{files:?}"),
                (Err(faults), Err(text)) => assert!(faults[0].message.contains(text), "{faults:?}"),
                (found, expect) => panic!("{found:?}, expected {expect:?}"),
            }
        };
        check(root.join("a.jsonl"), Ok(1));
        check(root.join("*.jsonl"), Ok(1));
        check(root.join("sub"), Ok(1));
        check(root.clone(), Err("outside"));
        check(root.join("link.txt"), Err("outside"));
        check(root.join("../outside.txt"), Err("outside"));
        check(root.join("notes.md"), Err("expected a"));
        check(root.join("gone.txt"), Err("No such file"));
        check(PathBuf::from("a.jsonl"), Err("absolute"));
    }
}
