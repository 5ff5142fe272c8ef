//! The folders that files may be read from, and the one way to open a file below them.
//!
//! A path is followed name by name, each opened inside the folder before it and never through a link: a link is read, and
//! where it leads is followed anew from the roots. So what is opened lies below a root at the moment of opening, whoever
//! swaps names meanwhile, and nothing outside is touched, not even looked at. What lies outside is told as what is not
//! there: no answer says which.

use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{CWD, Dir, FileType, Mode, OFlags, fstat, openat, readlinkat},
    io::Errno,
};
use senmon_protocol::{
    said,
    said::{Said, SaidValue},
};
use std::{
    ffi::{OsStr, OsString},
    fmt,
    fs::File,
    io::{self, Read},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Component, Path, PathBuf},
};

/// Links followed on the way to one file, as Linux has it.
const LINKS_MAX: usize = 40;

/// Folders that may be read from, with everything below them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roots(Vec<PathBuf>);

impl Roots {
    /// These folders, by absolute names; one that is not there holds nothing.
    #[must_use]
    pub fn new(names: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        Self(names.into_iter().map(Into::into).collect())
    }

    /// The whole disk: for what a person reads on a machine of theirs.
    #[must_use]
    pub fn whole_disk() -> Self {
        Self::new(["/"])
    }

    /// Names for a machine that sees the same disks: each root's own, and where its links lead here.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let all = self.0.iter().flat_map(|name| [Some(name.clone()), name.canonicalize().ok()]).flatten();
        let mut names: Vec<String> = all.filter_map(|name| name.to_str().map(str::to_owned)).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when no file is there below the roots; when it is none, or the disk refuses.
    pub fn open(&self, path: &Path) -> io::Result<File> {
        let entered = self.enter();
        // A name that is swapped for a link between two looks at it is followed again.
        for _ in 0..LINKS_MAX {
            if let Some(file) = entered.find(path)?.open()? {
                return Ok(file);
            }
        }
        Err(absent())
    }

    /// The bytes of a file that has at most `bytes_max`.
    ///
    /// # Errors
    /// As [`Self::open`], and when the file is larger.
    pub fn read(&self, path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
        read(self.open(path)?, bytes_max)
    }

    /// Where a path leads, without links; a relative one goes from each root in turn.
    ///
    /// # Errors
    /// As [`Self::open`]: the last root's.
    pub fn place(&self, path: &Path) -> io::Result<PathBuf> {
        let entered = self.enter();
        let found = self.0.iter().map(|root| entered.find(&root.join(path)));
        found.reduce(|found, next| found.or(next)).unwrap_or_else(|| Err(absent())).map(|seen| seen.real)
    }

    /// What a person is told whose path cannot be followed or opened.
    #[must_use]
    pub fn refusal(&self, path: &str, error: &io::Error) -> Said {
        let path = format!("{path:?}");
        match error.kind() {
            io::ErrorKind::NotFound => said!("path_outside", path = path, roots = self.said()),
            _ => said!("path_unreadable", path = path, why = error.to_string()),
        }
    }

    /// Their names, or that there are none.
    pub(crate) fn said(&self) -> SaidValue {
        if self.0.is_empty() { said!("roots_none").into() } else { self.to_string().into() }
    }

    /// The roots as they are now, opened.
    pub(crate) fn enter(&self) -> Entered {
        let open = |name: &PathBuf| {
            let real = name.canonicalize().ok()?;
            let folder = openat(CWD, &real, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
            Some(Root { name: name.clone(), real, folder })
        };
        Entered(self.0.iter().filter_map(open).collect())
    }
}

impl fmt::Display for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|name| name.display().to_string()).collect();
        if names.is_empty() { f.write_str("none are set") } else { f.write_str(&names.join(", ")) }
    }
}

/// A folder whose files are read by name.
#[derive(Debug, Clone)]
pub struct Folder {
    roots: Roots,
    path: PathBuf,
}

impl Folder {
    /// One below the roots.
    #[must_use]
    pub fn below(roots: &Roots, path: impl Into<PathBuf>) -> Self {
        Self { roots: roots.clone(), path: path.into() }
    }

    /// One of ours: its files lie in it.
    #[must_use]
    pub fn own(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { roots: Roots::new([&path]), path }
    }

    /// Its path, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens one of its files.
    ///
    /// # Errors
    /// As [`Roots::open`].
    pub fn open(&self, name: &str) -> io::Result<File> {
        self.roots.open(&self.path.join(name))
    }

    /// The bytes of one of its files.
    ///
    /// # Errors
    /// As [`Roots::read`].
    pub fn read(&self, name: &str, bytes_max: u64) -> io::Result<Vec<u8>> {
        read(self.open(name)?, bytes_max)
    }

    /// Whether a file of this name can be opened.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.open(name).is_ok()
    }
}

fn read(file: File, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// What every path is told that does not end below the roots.
pub(crate) fn absent() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "no such file below the folders that may be read")
}

struct Root {
    name: PathBuf,
    real: PathBuf,
    folder: OwnedFd,
}

/// Roots that are open.
pub(crate) struct Entered(Vec<Root>);

/// Something below a root.
pub(crate) struct Seen {
    /// Its path without links.
    pub real: PathBuf,
    pub kind: FileType,
    /// Itself, opened for nothing but as a place to go on from.
    place: OwnedFd,
    /// The folder that it lies in and its name there; None for a root.
    within: Option<(OwnedFd, OsString)>,
}

/// One round of following a path.
enum Round {
    Ended(Seen),
    /// A link, or a way out of the root: go on with this path.
    Leads(PathBuf),
}

impl Entered {
    /// Real paths of the roots.
    pub(crate) fn reals(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|root| root.real.as_path())
    }

    /// Follows a path to what it stands for.
    pub(crate) fn find(&self, path: &Path) -> io::Result<Seen> {
        self.follow(path, true)
    }

    /// Follows a path to its last name, which may be a link.
    pub(crate) fn find_unfollowed(&self, path: &Path) -> io::Result<Seen> {
        self.follow(path, false)
    }

    fn follow(&self, path: &Path, last_too: bool) -> io::Result<Seen> {
        let mut path = path.to_owned();
        for _ in 0..=LINKS_MAX {
            match self.round(&path, last_too)? {
                Round::Ended(seen) => return Ok(seen),
                Round::Leads(next) => path = next,
            }
        }
        Err(absent())
    }

    /// Goes down from the root that a path begins with, up to the first link.
    fn round(&self, path: &Path, last_too: bool) -> io::Result<Round> {
        let (root, inner) = self.root_of(path).ok_or_else(absent)?;
        let (mut real, mut places) = (root.real.clone(), Vec::<(OwnedFd, OsString, FileType)>::new());
        let mut parts = inner.components();
        while let Some(part) = parts.next() {
            let name = match part {
                Component::CurDir => continue,
                Component::ParentDir if places.pop().is_some() => {
                    real.pop();
                    continue;
                }
                Component::ParentDir => {
                    let above = real.parent().ok_or_else(absent)?;
                    return Ok(Round::Leads(above.join(parts.as_path())));
                }
                Component::Normal(name) => name,
                Component::RootDir | Component::Prefix(_) => return Err(absent()),
            };
            let folder = places.last().map_or(&root.folder, |(place, ..)| place);
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let place = openat(folder, name, flags, Mode::empty()).map_err(told)?;
            let kind = FileType::from_raw_mode(fstat(&place).map_err(told)?.st_mode);
            if kind == FileType::Symlink && (last_too || !parts.as_path().as_os_str().is_empty()) {
                let target = readlinkat(&place, "", Vec::new()).map_err(told)?;
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                return Ok(Round::Leads(real.join(target).join(parts.as_path())));
            }
            real.push(name);
            places.push((place, name.to_owned(), kind));
        }
        let Some((place, name, kind)) = places.pop() else {
            let place = root.folder.try_clone()?;
            return Ok(Round::Ended(Seen { real, kind: FileType::Directory, place, within: None }));
        };
        let folder = match places.pop() {
            Some((folder, ..)) => folder,
            None => root.folder.try_clone()?,
        };
        Ok(Round::Ended(Seen { real, kind, place, within: Some((folder, name)) }))
    }

    /// The innermost root that a path names, and the rest of the path.
    fn root_of<'a>(&self, path: &'a Path) -> Option<(&Root, &'a Path)> {
        let named = self.0.iter().flat_map(|root| [(root, &root.name), (root, &root.real)]);
        let fits = named.filter_map(|(root, name)| Some((root, path.strip_prefix(name).ok()?)));
        fits.min_by_key(|(_, inner)| inner.as_os_str().len())
    }
}

impl Seen {
    /// Opens a regular file; None when its name has become another thing meanwhile.
    fn open(&self) -> io::Result<Option<File>> {
        let not_a_file = || Err(io::Error::new(io::ErrorKind::InvalidInput, "expected a file"));
        let Some((folder, name)) = self.within.as_ref().filter(|_| self.kind == FileType::RegularFile) else {
            return not_a_file();
        };
        // Not blocking: a pipe that has taken the name would wait for its writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        match openat(folder, name, flags, Mode::empty()) {
            Ok(file) if FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::RegularFile => {
                Ok(Some(file.into()))
            }
            Ok(_) => not_a_file(),
            Err(Errno::LOOP) => Ok(None),
            Err(error) => Err(told(error)),
        }
    }

    /// What a folder holds, name by name, with its kind.
    pub(crate) fn list(self) -> io::Result<impl Iterator<Item = io::Result<(OsString, FileType)>>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(&self.place, ".", flags, Mode::empty()).map_err(told)?;
        let place = folder.try_clone()?;
        let listed = Dir::new(folder)?;
        let named = listed
            .filter(|entry| !entry.as_ref().is_ok_and(|entry| matches!(entry.file_name().to_bytes(), b"." | b"..")));
        Ok(named.map(move |entry| {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
            let kind = match entry.file_type() {
                FileType::Unknown => kind_of(place.as_fd(), &name)?,
                kind => kind,
            };
            Ok((name, kind))
        }))
    }
}

/// For file systems whose lists do not say it.
fn kind_of(folder: rustix::fd::BorrowedFd, name: &OsStr) -> io::Result<FileType> {
    let stat = rustix::fs::statat(folder, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

/// What is not there is told as what lies outside.
fn told(error: Errno) -> io::Error {
    match error {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG => absent(),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::unix::fs::symlink,
        sync::atomic::{AtomicBool, Ordering},
    };

    fn outcome(roots: &Roots, path: &Path) -> String {
        let read = roots.open(path).and_then(|mut file| {
            let mut text = String::new();
            file.read_to_string(&mut text).map(|_| text)
        });
        read.unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn links_are_followed_as_long_as_they_stay_below_the_roots() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["a/blobs", "a/deep/er", "b/c", "out"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        for (name, text) in [("a/blobs/1", "blob"), ("b/c/2", "other root"), ("out/3", "secret"), ("a/x", "plain")] {
            fs::write(at(name), text).unwrap();
        }
        symlink(at("a"), at("alias")).unwrap();
        let links = [
            ("a/deep/er/hub", PathBuf::from("../../blobs/1"), "blob"),
            ("a/deep/folder", "../blobs/../deep/er".into(), "expected a file"),
            ("a/absolute", at("a/blobs/1"), "blob"),
            ("a/other", at("b/c/2"), "other root"),
            ("a/other_relative", "../b/c/2".into(), "other root"),
            ("a/twice", "other".into(), "other root"),
            ("a/out", at("out/3"), ""),
            ("a/out_relative", "../out/3".into(), ""),
            ("a/out_folder", at("out"), ""),
            ("a/out_gone", at("out/gone"), ""),
            ("a/gone", "blobs/gone".into(), ""),
            ("a/round", "round".into(), ""),
            ("a/proc", "/proc/self/environ".into(), ""),
        ];
        let absent = absent().to_string();
        for (name, target, expect) in links {
            symlink(&target, at(name)).unwrap();
            let expect = if expect.is_empty() { absent.as_str() } else { expect };
            // A root may be a link itself.
            for roots in [Roots::new([at("a"), at("b")]), Roots::new([at("alias"), at("b")])] {
                assert_eq!(outcome(&roots, &at(name)), expect, "{name} -> {target:?}");
            }
        }
        symlink(at("alias/blobs/1"), at("a/by_alias")).unwrap();
        let roots = Roots::new([at("alias"), at("b"), at("a/deep"), at("missing")]);
        let check = |path: &str, expect: &str| {
            let expect = if expect.is_empty() { absent.as_str() } else { expect };
            assert_eq!(outcome(&roots, &at(path)), expect, "{path}");
        };
        check("a/x", "plain");
        check("alias/x", "plain");
        check("a/by_alias", "blob");
        check("a/deep/../x", "plain");
        check("a/deep/folder/hub", "blob");
        check("a/deep/folder/../../x", "plain");
        check("b/../a/x", "plain");
        check("a/../out/3", "");
        check("a/../out/gone", "");
        check("a/out_folder/3", "");
        check("a/x/3", "");
        check("out/3", "");
        check("missing/3", "");
        check("", "");
        assert_eq!(outcome(&Roots::new([at("a")]), &at("a/by_alias")), absent, "no name outside is looked at");
        assert_eq!(outcome(&Roots::default(), &at("a/x")), absent);
        assert_eq!(outcome(&Roots::whole_disk(), &at("a/out")), "secret");
        assert_eq!(outcome(&roots, Path::new("a/x")), absent, "no path goes from where the program stands");
    }

    #[test]
    fn a_name_that_changes_while_it_is_opened_never_leads_out() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("good")).unwrap();
        fs::create_dir_all(folder.path().join("bad")).unwrap();
        fs::write(root.join("good/file"), "good").unwrap();
        fs::write(folder.path().join("bad/file"), "bad").unwrap();
        symlink("good/file", root.join("file")).unwrap();
        symlink("good", root.join("sub")).unwrap();
        let (roots, over) = (Roots::new([&root]), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let targets = [("good/file", "good"), ("../bad/file", "../bad")];
                for (file, sub) in targets.iter().cycle() {
                    for (name, target) in [("file", file), ("sub", sub)] {
                        let _ = fs::remove_file(root.join("new"));
                        symlink(target, root.join("new")).unwrap();
                        fs::rename(root.join("new"), root.join(name)).unwrap();
                    }
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
            let mut good = 0;
            for _ in 0..2000 {
                for path in ["file", "sub/file", "sub/../good/file"] {
                    let found = outcome(&roots, &root.join(path));
                    assert_ne!(found, "bad");
                    good += usize::from(found == "good");
                }
            }
            over.store(true, Ordering::Relaxed);
            assert!(good > 0);
        });
    }

    #[test]
    fn a_pipe_or_a_long_file_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let (roots, pipe) = (Roots::new([folder.path()]), folder.path().join("pipe"));
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert_eq!(outcome(&roots, &pipe), "expected a file");
        fs::write(folder.path().join("long"), "12345").unwrap();
        assert_eq!(roots.read(&folder.path().join("long"), 5).unwrap(), b"12345");
        assert!(roots.read(&folder.path().join("long"), 4).unwrap_err().to_string().contains("more than 4 bytes"));
    }
}
