//! Which files a corpus is made of: paths, folders and globs, inside the allowed roots.
//!
//! What a folder or a glob holds and is not taken is said, with the reason. Links to folders are never followed, so
//! every walk ends; a link to a file is taken under its own name, for the ending says the format.

use crate::roots::{Entered, Roots};
use rustix::fs::FileType;
use senmon_protocol::{
    corpus::{FileFormat, LeftOut, LeftOutFile},
    problem::Fault,
    said,
    said::Said,
};
use std::{
    collections::HashMap,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

/// Endings that are read, for messages.
pub const ENDINGS: &str = ".jsonl, .ndjson, .json or .txt (each also with .gz or .zst) or .parquet";
/// Paths of one corpus: what is more belongs into a folder.
const PATHS_MAX: usize = 10_000;
/// Entries looked at for all paths together: a disk's root instead of a folder is a slip, and takes hours.
const ENTRIES_MAX: u64 = 1_000_000;
/// Entries after which it is asked whether to go on.
const ENTRIES_BETWEEN: u64 = 256;
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

/// Resolves `paths` to files. Nothing outside the roots is looked at: a glob that begins above them is matched with what
/// lies below. `go_on` is asked now and then, and ends the walk.
///
/// # Errors
/// Every fault with its place `paths[i]`: not there below the roots, of an unknown ending, standing for no file, or too
/// much to look at.
pub fn expand_paths(paths: &[String], roots: &Roots, go_on: &dyn Fn() -> bool) -> Result<Found, Vec<Fault>> {
    if paths.is_empty() || paths.len() > PATHS_MAX {
        let said = said!("paths_count", count = paths.len(), most = PATHS_MAX);
        return Err(vec![Fault::said("paths", said)]);
    }
    let mut faults = Vec::new();
    let (entered, files, left_out) = (roots.enter(), Vec::new(), LeftOut::default());
    let mut walk = Walk { roots, entered, go_on, entries: 0, files, left_out };
    for (i, path) in paths.iter().enumerate() {
        match walk.expand(path) {
            Ok(()) => {}
            Err(Stop::Fault(said)) => faults.push(Fault::said(format!("paths[{i}]"), said)),
            // What comes behind would be walked in vain.
            Err(Stop::Enough(said)) => return Err(vec![Fault::said(format!("paths[{i}]"), said)]),
        }
    }
    if faults.is_empty() { Ok(walk.end()) } else { Err(faults) }
}

/// Why a path stands for nothing.
enum Stop {
    Fault(Said),
    /// The whole walk is over.
    Enough(Said),
}

struct Walk<'a> {
    roots: &'a Roots,
    entered: Entered,
    go_on: &'a dyn Fn() -> bool,
    /// Looked at so far.
    entries: u64,
    /// By their own names, with the files that they stand for.
    files: Vec<(PathBuf, PathBuf)>,
    left_out: LeftOut,
}

/// What of a folder is asked for.
struct Wanted {
    /// The folder that the pattern goes from.
    base: PathBuf,
    pattern: glob::Pattern,
    /// Components of the pattern; None where it goes to any depth.
    depth: Option<usize>,
}

impl Walk<'_> {
    fn expand(&mut self, text: &str) -> Result<(), Stop> {
        let text = text.strip_prefix("file://").unwrap_or(text);
        let path = Path::new(text);
        if !path.is_absolute() {
            return Err(Stop::Fault(said!("path_relative", path = format!("{text:?}"))));
        }
        let before = (self.files.len(), self.left_out.count);
        let seen = self.entered.find(path);
        // A name may hold a bracket.
        if text.contains(['*', '?', '[']) && seen.is_err() {
            let plain = path.iter().take_while(|part| !part.to_string_lossy().contains(['*', '?', '[']));
            let base: PathBuf = plain.collect();
            let rest: PathBuf = path.iter().skip(base.iter().count()).collect();
            let pattern = rest.to_str().map(glob::Pattern::new).and_then(Result::ok);
            let pattern = pattern.ok_or_else(|| Stop::Fault(said!("path_no_glob", path = format!("{text:?}"))))?;
            let depth = (!pattern.as_str().contains("**")).then(|| rest.iter().count());
            let (base, from) = match self.entered.find(&base) {
                Ok(seen) => (seen.real.clone(), vec![seen.real]),
                Err(_) => (base.clone(), self.below(&base)),
            };
            let wanted = Wanted { base, pattern, depth };
            for folder in from {
                self.folder(folder, Some(&wanted))?;
            }
            return self.some(before, text, true);
        }
        let seen = seen.map_err(|error| Stop::Fault(self.roots.refusal(text, &error)))?;
        if seen.kind == FileType::Directory {
            self.folder(seen.real, None)?;
            return self.some(before, text, false);
        }
        // The name of a link, in its true folder.
        let own = path.parent().and_then(|parent| self.entered.find(parent).ok()).zip(path.file_name());
        let named = own.map_or_else(|| seen.real.clone(), |(parent, name)| parent.real.join(name));
        if seen.kind != FileType::RegularFile || format_of(&named).is_none() {
            return Err(Stop::Fault(said!("path_other_ending", path = format!("{text:?}"), endings = ENDINGS)));
        }
        self.files.push((named, seen.real));
        Ok(())
    }

    /// The outermost roots below a folder that is below none itself.
    fn below(&self, base: &Path) -> Vec<PathBuf> {
        let inner: Vec<&Path> = self.entered.reals().filter(|root| root.starts_with(base)).collect();
        let outermost = |root: &&&Path| !inner.iter().any(|other| other != *root && root.starts_with(other));
        let mut roots: Vec<PathBuf> = inner.iter().filter(outermost).map(|root| root.to_path_buf()).collect();
        roots.sort();
        roots.dedup();
        roots
    }

    /// Takes what is below a folder.
    fn folder(&mut self, folder: PathBuf, wanted: Option<&Wanted>) -> Result<(), Stop> {
        let mut waiting = vec![folder];
        while let Some(folder) = waiting.pop() {
            // It may have become a link since it was seen.
            let seen = self.entered.find_unfollowed(&folder);
            let listed = match seen.and_then(|seen| seen.list()) {
                Ok(listed) => self.listed(listed)?,
                Err(error) => Err(error),
            };
            match listed {
                Err(error) => self.leave_out(&folder, &format!("cannot be listed: {error}")),
                Ok(mut listed) => {
                    listed.sort_by(|a, b| a.0.cmp(&b.0));
                    for (name, kind) in listed {
                        self.entry(folder.join(name), kind, wanted, &mut waiting);
                    }
                }
            }
        }
        Ok(())
    }

    /// The entries of a folder, as many as may still be looked at.
    fn listed(
        &mut self,
        listed: impl Iterator<Item = io::Result<(OsString, FileType)>>,
    ) -> Result<io::Result<Vec<(OsString, FileType)>>, Stop> {
        let mut entries = Vec::new();
        for entry in listed {
            self.entries += 1;
            if self.entries > ENTRIES_MAX {
                return Err(Stop::Enough(said!("walk_too_large", most = ENTRIES_MAX)));
            }
            if self.entries.is_multiple_of(ENTRIES_BETWEEN) && !(self.go_on)() {
                return Err(Stop::Enough(said!("walk_over", count = self.entries)));
            }
            match entry {
                Ok(entry) => entries.push(entry),
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(entries))
    }

    fn entry(&mut self, path: PathBuf, kind: FileType, wanted: Option<&Wanted>, waiting: &mut Vec<PathBuf>) {
        let matches = wanted.is_none_or(|wanted| wanted.matches(&path));
        let deeper = wanted.is_none_or(|wanted| wanted.goes_below(&path));
        let is_link = kind == FileType::Symlink;
        if is_link && !matches && !deeper {
            return;
        }
        let (kind, real) = match is_link.then(|| self.entered.find(&path)) {
            None => (kind, path.clone()),
            Some(Ok(seen)) => (seen.kind, seen.real),
            Some(Err(error)) => {
                if matches {
                    self.leave_out(&path, &format!("a link that cannot be followed: {error}"));
                }
                return;
            }
        };
        match kind {
            FileType::Directory if is_link => self.leave_out(&path, "a link to a folder, which is not followed"),
            FileType::Directory if deeper => waiting.push(path),
            FileType::Directory if matches => {
                self.leave_out(&path, "a folder; end the pattern with /** for what it holds");
            }
            _ if !matches => {}
            FileType::RegularFile if path.to_str().is_none() => self.leave_out(&path, "its name is not UTF-8"),
            FileType::RegularFile if format_of(&path).is_none() => {
                self.leave_out(&path, &format!("its ending is not {ENDINGS}"));
            }
            FileType::RegularFile => self.files.push((path, real)),
            _ => self.leave_out(&path, "not a file"),
        }
    }

    fn some(&self, (files, left_out): (usize, u64), text: &str, is_glob: bool) -> Result<(), Stop> {
        if self.files.len() > files {
            return Ok(());
        }
        let (path, roots) = (format!("{text:?}"), self.roots.said());
        let none = match is_glob {
            true => said!("glob_matches_none", path = path, endings = ENDINGS, roots = roots),
            false => said!("folder_holds_none", path = path, endings = ENDINGS, roots = roots),
        };
        Err(Stop::Fault(match (self.left_out.count - left_out, self.left_out.first.last()) {
            (0, _) => none,
            (count, None) => said!("files_left_out", none = none, count = count),
            (count, Some(file)) => {
                let (path, why) = (file.path.as_str(), file.why.as_str());
                said!("files_left_out_such_as", none = none, count = count, path = path, why = why)
            }
        }))
    }

    fn leave_out(&mut self, path: &Path, why: &str) {
        self.left_out.count += 1;
        if self.left_out.first.len() < LEFT_OUT_SHOWN {
            self.left_out.first.push(LeftOutFile { path: path.display().to_string(), why: why.into() });
        }
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
    fn inner<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(&self.base).unwrap_or(path)
    }

    fn matches(&self, path: &Path) -> bool {
        let options = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::default() };
        self.pattern.matches_path_with(self.inner(path), options)
    }

    /// Whether something below a folder can match.
    fn goes_below(&self, folder: &Path) -> bool {
        self.depth.is_none_or(|depth| self.inner(folder).iter().count() < depth)
    }
}

#[cfg(test)]
mod tests;
