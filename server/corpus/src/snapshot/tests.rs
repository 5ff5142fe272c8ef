//! What paths, folders and globs stand for.

use super::*;
use std::{fs, os::unix::fs::symlink};

fn expand(path: &Path, root: &Path) -> Result<Found, String> {
    let found = expand_paths(&[path.display().to_string()], &Roots::new([root]), &|| true);
    found.map_err(|faults| faults[0].message.clone())
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
    check(root.clone(), Ok(3));
    check(folder.path().join("r*/*.jsonl"), Ok(1));
    check(PathBuf::from("/**/*.jsonl"), Ok(1));
    check(PathBuf::from("/**"), Ok(3));
    check(folder.path().join("*.jsonl"), Err("matches no"));
    check(folder.path().join("out*/**"), Err("matches no"));
    check(PathBuf::from("/etc/**"), Err("matches no"));
    check(root.join("../*.txt"), Err("matches no"));
    check(root.join("notes.md"), Err("expected a"));
    check(root.join("gone/*.txt"), Err("matches no"));
    check(PathBuf::from("a.jsonl"), Err("absolute"));
    let found = expand(&root, &root).unwrap();
    assert!(found.left_out.first.iter().any(|file| file.path.ends_with("link.txt")), "{:?}", found.left_out);
}

#[test]
fn what_is_not_there_and_what_lies_outside_are_told_alike() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    fs::create_dir_all(&root).unwrap();
    fs::create_dir_all(folder.path().join("out")).unwrap();
    fs::write(folder.path().join("out/there.txt"), "x").unwrap();
    for (name, target) in [("a", "../out/there.txt"), ("b", "../out/gone.txt"), ("c", "gone.txt"), ("d", "../out")] {
        symlink(target, root.join(name).with_extension("txt")).unwrap();
    }
    let said = |path: &Path| {
        let message = expand(path, &root).unwrap_err();
        message.replace(&format!("{:?}", path.display().to_string()), "PATH")
    };
    let gone = said(&root.join("gone.txt"));
    assert!(gone.contains("PATH") && gone.contains(root.to_str().unwrap()), "{gone}");
    let outside = ["out/there.txt", "out/gone.txt", "out", "root/../out/there.txt", "root/a.txt", "root/b.txt"];
    for name in outside.into_iter().chain(["root/c.txt", "root/d.txt", "root/d.txt/there.txt", "", ".."]) {
        assert_eq!(said(&folder.path().join(name)), gone, "{name}");
    }
    for path in ["/etc/passwd", "/etc/no-such-file", "/proc/self/environ", "/"] {
        assert_eq!(said(Path::new(path)), gone, "{path}");
    }
    let globs = ["out/*.txt", "out/no*.txt", "gone/*.txt", "../../etc/*.txt"];
    let none = said(&folder.path().join(globs[0]));
    for glob in globs {
        assert_eq!(said(&folder.path().join(glob)), none, "{glob}");
    }
    fs::write(root.join("z.txt"), "x").unwrap();
    let left_out = expand(&root, &root).unwrap().left_out;
    let whys: Vec<_> = left_out.first.iter().map(|file| &file.why).collect();
    assert!(whys.len() == 4 && whys.iter().all(|why| *why == whys[0]), "{whys:?}");
}

#[test]
fn no_walk_goes_on_when_it_is_not_wanted_or_looks_at_too_much() {
    let folder = tempfile::tempdir().unwrap();
    for i in 0..2 * ENTRIES_BETWEEN {
        fs::write(folder.path().join(format!("{i}.txt")), "").unwrap();
    }
    let roots = Roots::new([folder.path()]);
    let all = |paths: usize, go_on: &dyn Fn() -> bool| {
        let found = expand_paths(&vec!["/**".to_owned(); paths], &roots, go_on);
        found.map(|found| found.files.len()).map_err(|faults| faults[0].message.clone())
    };
    assert_eq!(all(2, &|| true), Ok(2 * ENTRIES_BETWEEN as usize));
    assert!(all(1, &|| false).unwrap_err().contains("the time is over"));
    assert!(all(2000, &|| true).unwrap_err().contains("more than 1000000"), "over all paths together");
    assert!(all(PATHS_MAX + 1, &|| true).unwrap_err().contains("found 10001 paths"));
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
    let common = [links[0], ("gone.jsonl", "no such file"), links[1], ("pipe.jsonl", "not a file")];
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
