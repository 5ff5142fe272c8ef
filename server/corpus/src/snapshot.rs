//! Which files a corpus is made of: paths, folders and globs, inside the allowed roots.
//!
//! What a folder or a glob holds and is not taken is said, with the reason. Links to folders are never followed, so
//! every walk ends; a link to a file is taken under its own name, for the ending says the format.

use senmon_protocol::{
    corpus::{FileFormat, LeftOut, LeftOutFile},
    problem::Fault,
};
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

/// Endings that are read, for messages.
pub const ENDINGS: &str = ".jsonl, .ndjson, .json or .txt (each also with .gz or .zst) or .parquet";
/// Entries looked at for one path: a disk's root instead of a folder is a slip, and takes hours.
const ENTRIES_MAX: u64 = 1_000_000;
/// Left-out files that are named.
const LEFT_OUT_SHOWN: usize = 100;

/// How the bytes of a file are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// What is in the unpacked bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Json,
    Text,
    Parquet,
}

/// Format of a file by its ending.
#[must_use]
pub fn format_of(path: &Path) -> Option<FileFormat> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let endings = [
        (".jsonl", FileFormat::Jsonl),
        (".jsonl.gz", FileFormat::JsonlGz),
        (".jsonl.zst", FileFormat::JsonlZst),
        (".ndjson", FileFormat::Jsonl),
        (".ndjson.gz", FileFormat::JsonlGz),
        (".ndjson.zst", FileFormat::JsonlZst),
        (".json", FileFormat::Json),
        (".json.gz", FileFormat::JsonGz),
        (".json.zst", FileFormat::JsonZst),
        (".parquet", FileFormat::Parquet),
        (".txt", FileFormat::Text),
        (".txt.gz", FileFormat::TextGz),
        (".txt.zst", FileFormat::TextZst),
    ];
    endings.into_iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, format)| format)
}

/// The layers of a format.
pub(crate) fn layers(format: FileFormat) -> (Content, Compression) {
    match format {
        FileFormat::Jsonl | FileFormat::Json => (Content::Json, Compression::None),
        FileFormat::JsonlGz | FileFormat::JsonGz => (Content::Json, Compression::Gzip),
        FileFormat::JsonlZst | FileFormat::JsonZst => (Content::Json, Compression::Zstd),
        FileFormat::Text => (Content::Text, Compression::None),
        FileFormat::TextGz => (Content::Text, Compression::Gzip),
        FileFormat::TextZst => (Content::Text, Compression::Zstd),
        FileFormat::Parquet => (Content::Parquet, Compression::None),
    }
}

/// What paths stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The files, sorted, none twice.
    pub files: Vec<PathBuf>,
    /// What folders and globs held and was not taken.
    pub left_out: LeftOut,
}

/// Resolves `paths` to files. Where a link leads is inside the roots as well.
///
/// # Errors
/// Every fault with its place `paths[i]`: outside the roots, missing, of an unknown ending, or standing for no file.
pub fn expand_paths(paths: &[String], roots: &[PathBuf]) -> Result<Found, Vec<Fault>> {
    let roots: Vec<PathBuf> = roots.iter().filter_map(|root| root.canonicalize().ok()).collect();
    let mut faults = Vec::new();
    let mut walk = Walk { roots: &roots, files: Vec::new(), left_out: LeftOut::default() };
    for (i, path) in paths.iter().enumerate() {
        if let Err(message) = walk.expand(path) {
            faults.push(Fault { path: format!("paths[{i}]"), message });
        }
    }
    if paths.is_empty() {
        faults.push(Fault {
            path: "paths".into(),
            message: "found an empty list, expected files, folders or globs".into(),
        });
    }
    if faults.is_empty() { Ok(walk.end()) } else { Err(faults) }
}

struct Walk<'a> {
    roots: &'a [PathBuf],
    /// By their own names, with the files that they stand for.
    files: Vec<(PathBuf, PathBuf)>,
    left_out: LeftOut,
}

/// What of a folder is asked for.
struct Wanted {
    pattern: glob::Pattern,
    /// Components of the pattern; None where it goes to any depth.
    depth: Option<usize>,
}

impl Walk<'_> {
    fn expand(&mut self, text: &str) -> Result<(), String> {
        let text = text.strip_prefix("file://").unwrap_or(text);
        let path = Path::new(text);
        if !path.is_absolute() {
            return Err(format!("found {text:?}, expected an absolute path"));
        }
        let before = (self.files.len(), self.left_out.count);
        // A name may hold a bracket.
        if text.contains(['*', '?', '[']) && !path.exists() {
            let plain = path.iter().take_while(|part| !part.to_string_lossy().contains(['*', '?', '[']));
            let base: PathBuf = plain.collect();
            let rest: PathBuf = path.iter().skip(base.iter().count()).collect();
            let pattern = rest.to_str().map(glob::Pattern::new).and_then(Result::ok);
            let pattern = pattern.ok_or_else(|| format!("found {text:?}, expected a glob"))?;
            let depth = (!pattern.as_str().contains("**")).then(|| rest.iter().count());
            let base = base.canonicalize().map_err(|error| format!("{}: {error}", base.display()))?;
            self.folder(base, Some(&Wanted { pattern, depth }))?;
            return self.some(before, &format!("{text:?} matches"));
        }
        let real = self.inside(path)?;
        if real.is_dir() {
            self.folder(real, None)?;
            return self.some(before, &format!("the folder {text:?} holds"));
        }
        // The name of a link, in its true folder, as long as that lies inside the roots too.
        let own = path.parent().and_then(|parent| parent.canonicalize().ok()).zip(path.file_name());
        let own = own.map(|(parent, name)| parent.join(name)).filter(|own| self.holds(own));
        let named = own.unwrap_or_else(|| real.clone());
        if !real.is_file() || format_of(&named).is_none() {
            return Err(format!("found {text:?}, expected a {ENDINGS} file"));
        }
        self.files.push((named, real));
        Ok(())
    }

    /// Takes what is below a folder.
    fn folder(&mut self, base: PathBuf, wanted: Option<&Wanted>) -> Result<(), String> {
        let mut waiting = vec![base.clone()];
        let mut entries = 0;
        while let Some(folder) = waiting.pop() {
            let listed = fs::read_dir(&folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            let mut listed = match listed {
                Ok(listed) => listed,
                Err(error) => {
                    self.leave_out(&folder, &format!("cannot be listed: {error}"));
                    continue;
                }
            };
            entries += listed.len() as u64;
            if entries > ENTRIES_MAX {
                return Err(format!("{} holds more than {ENTRIES_MAX} entries; name its folders", base.display()));
            }
            listed.sort_by_key(fs::DirEntry::file_name);
            for entry in listed {
                let path = entry.path();
                let inner = path.strip_prefix(&base).unwrap_or(&path);
                let matches = wanted.is_none_or(|wanted| wanted.matches(inner));
                let deeper = wanted.is_none_or(|wanted| wanted.depth.is_none_or(|depth| inner.iter().count() < depth));
                let link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
                match fs::metadata(&path) {
                    Err(error) if matches => self.leave_out(&path, &format!("cannot be read: {error}")),
                    Err(_) => {}
                    Ok(found) if found.is_dir() && link => {
                        if matches || deeper {
                            self.leave_out(&path, "a link to a folder, which is not followed");
                        }
                    }
                    Ok(found) if found.is_dir() => {
                        if deeper && self.leads_inside(&path) {
                            waiting.push(path);
                        } else if matches {
                            self.leave_out(&path, "a folder; end the pattern with /** for what it holds");
                        }
                    }
                    Ok(_) if !matches => {}
                    Ok(found) if !found.is_file() => self.leave_out(&path, "not a file"),
                    Ok(_) if path.to_str().is_none() => self.leave_out(&path, "its name is not UTF-8"),
                    Ok(_) if format_of(&path).is_none() => {
                        self.leave_out(&path, &format!("its ending is not {ENDINGS}"));
                    }
                    Ok(_) => {
                        let real = self.inside(&path)?;
                        self.files.push((path, real));
                    }
                }
            }
        }
        Ok(())
    }

    fn some(&self, (files, left_out): (usize, u64), what: &str) -> Result<(), String> {
        if self.files.len() > files {
            return Ok(());
        }
        let passed = match self.left_out.count - left_out {
            0 => String::new(),
            n => {
                let first = self.left_out.first.last();
                let first = first.map(|file| format!(", such as {}: {}", file.path, file.why)).unwrap_or_default();
                format!("; {n} are left out{first}")
            }
        };
        Err(format!("{what} no {ENDINGS} file{passed}"))
    }

    fn leave_out(&mut self, path: &Path, why: &str) {
        self.left_out.count += 1;
        if self.left_out.first.len() < LEFT_OUT_SHOWN {
            self.left_out.first.push(LeftOutFile { path: path.display().to_string(), why: why.into() });
        }
    }

    fn inside(&self, path: &Path) -> Result<PathBuf, String> {
        let real = path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))?;
        if self.holds(&real) {
            return Ok(real);
        }
        let roots: Vec<_> = self.roots.iter().map(|root| root.display().to_string()).collect();
        Err(format!("{} lies outside the server's corpus_roots ({})", path.display(), roots.join(", ")))
    }

    fn holds(&self, path: &Path) -> bool {
        self.roots.iter().any(|root| path.starts_with(root))
    }

    /// Whether something inside the roots can lie below a folder.
    fn leads_inside(&self, folder: &Path) -> bool {
        self.holds(folder) || self.roots.iter().any(|root| root.starts_with(folder))
    }

    fn end(mut self) -> Found {
        let mut all = std::mem::take(&mut self.files);
        all.sort();
        all.dedup();
        let mut files: Vec<PathBuf> = Vec::new();
        let mut taken: HashMap<PathBuf, usize> = HashMap::new();
        for (named, real) in all {
            match taken.get(&real) {
                Some(&first) => {
                    let why = format!("the same file as {}", files[first].display());
                    self.leave_out(&named, &why);
                }
                None => {
                    taken.insert(real, files.len());
                    files.push(named);
                }
            }
        }
        Found { files, left_out: self.left_out }
    }
}

impl Wanted {
    fn matches(&self, inner: &Path) -> bool {
        let options = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::default() };
        self.pattern.matches_path_with(inner, options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn expand(path: &Path, root: &Path) -> Result<Found, String> {
        expand_paths(&[path.display().to_string()], &[root.to_owned()]).map_err(|faults| faults[0].message.clone())
    }

    #[test]
    fn only_files_inside_the_roots_are_taken() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("sub")).unwrap();
        for name in ["root/a.jsonl", "root/sub/b.txt", "root/sub/[c].json", "root/notes.md", "outside.txt"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        symlink(folder.path().join("outside.txt"), root.join("link.txt")).unwrap();
        let check = |path: PathBuf, expect: Result<usize, &str>| match (expand(&path, &root), expect) {
            (Ok(found), Ok(count)) => assert_eq!(found.files.len(), count, "{found:?}"),
            (Err(message), Err(text)) => assert!(message.contains(text), "{message}"),
            (found, expect) => panic!("{found:?}, expected {expect:?}"),
        };
        check(root.join("a.jsonl"), Ok(1));
        check(root.join("*.jsonl"), Ok(1));
        check(root.join("sub"), Ok(2));
        check(root.join("sub/[c].json"), Ok(1));
        check(root.join("s*/*.txt"), Ok(1));
        check(root.join("s*/**"), Ok(2));
        check(folder.path().join("r*/*.jsonl"), Ok(1));
        check(folder.path().join("*.jsonl"), Err("matches no"));
        check(root.clone(), Err("outside"));
        check(root.join("link.txt"), Err("outside"));
        check(root.join("../outside.txt"), Err("outside"));
        check(root.join("notes.md"), Err("expected a"));
        check(root.join("gone.txt"), Err("No such file"));
        check(root.join("gone/*.txt"), Err("No such file"));
        check(PathBuf::from("a.jsonl"), Err("absolute"));
    }

    #[test]
    fn what_is_left_out_is_said_and_no_walk_is_endless() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("blobs")).unwrap();
        fs::create_dir_all(root.join("snapshot/data.jsonl")).unwrap();
        fs::write(root.join("blobs/0af3"), "x").unwrap();
        fs::write(root.join("snapshot/plain.ndjson.gz"), "x").unwrap();
        fs::write(root.join("snapshot/README.md"), "x").unwrap();
        symlink("../blobs/0af3", root.join("snapshot/train.jsonl")).unwrap();
        symlink("../blobs/0af3", root.join("snapshot/twice.jsonl")).unwrap();
        symlink("../blobs/gone", root.join("snapshot/gone.jsonl")).unwrap();
        for name in ["here", "again"] {
            symlink(".", root.join("snapshot").join(name)).unwrap();
        }
        let fifo = std::process::Command::new("mkfifo").arg(root.join("snapshot/pipe.jsonl")).status().unwrap();
        assert!(fifo.success());
        let check = |path: &str, files: &[&str], left_out: &[(&str, &str)]| {
            let found = expand(&root.join(path), &root).unwrap();
            let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
            assert_eq!(found.files.iter().map(|path| name(path)).collect::<Vec<_>>(), files, "{path}");
            let mut names: Vec<_> =
                found.left_out.first.iter().map(|file| (name(Path::new(&file.path)), file.why.clone())).collect();
            names.sort();
            assert_eq!(found.left_out.count as usize, left_out.len(), "{path}: {names:?}");
            for ((name, why), (expect, reason)) in names.iter().zip(left_out) {
                assert!(name == expect && why.contains(reason), "{path}: {name}: {why}, expected {expect}: {reason}");
            }
        };
        let links = [("again", "not followed"), ("here", "not followed")];
        let common = [links[0], ("gone.jsonl", "No such file"), links[1], ("pipe.jsonl", "not a file")];
        let same = ("twice.jsonl", "the same file as");
        let readme = [("README.md", "its ending")];
        let files = ["plain.ndjson.gz", "train.jsonl"];
        check("snapshot", &files, &[&readme[..], &common, &[same]].concat());
        check("**/*.jsonl", &files[1..], &[&common[..], &[same]].concat());
        let data = ("data.jsonl", "a folder");
        check("snapshot/*.jsonl", &files[1..], &[data, common[1], common[3], same]);
        check("snapshot/train.jsonl", &files[1..], &[]);
        check("snapshot/here/here/train.jsonl", &files[1..], &[]);
        let none = expand(&root.join("blobs"), &root).unwrap_err();
        assert!(none.contains("holds no") && none.contains("0af3"), "{none}");
    }
}
