//! Whether the files of a crate import each other in a circle: every path of a file's code, in `use` and in expressions,
//! is followed to the file that it leads into. What a file says of its own submodules' items counts, and what a
//! submodule takes of the file above it; `mod x;` does not, nor what only unit tests import.

use anyhow::{Context, Result, ensure};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// A module's path in its crate; the root's is empty.
type Name = Vec<String>;
/// Files by the path of their module, and the code in them.
type Sources = BTreeMap<Name, Source>;

/// One file.
#[derive(Debug)]
pub struct Source {
    file: PathBuf,
    tokens: Vec<String>,
}

/// Circles of files of the crate that begins with `root`, each file of a circle with those of it that it imports.
pub fn circles(root: &Path) -> Result<Vec<Vec<String>>> {
    let mut sources = Sources::new();
    let folder = root.parent().context("a folder")?;
    read(root, folder, &Name::new(), &mut sources)?;
    Ok(found(&sources))
}

/// Reads a file and those of its submodules, which lie in `folder`.
fn read(file: &Path, folder: &Path, name: &Name, sources: &mut Sources) -> Result<()> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let tokens = tokens(&text);
    for child in declared(&tokens) {
        let (beside, below) = (folder.join(format!("{child}.rs")), folder.join(&child).join("mod.rs"));
        let path = if beside.exists() { beside } else { below };
        let name: Name = name.iter().cloned().chain([child.clone()]).collect();
        read(&path, &folder.join(&child), &name, sources)?;
    }
    sources.insert(name.clone(), Source { file: file.to_owned(), tokens });
    Ok(())
}

fn found(sources: &Sources) -> Vec<Vec<String>> {
    let imports: BTreeMap<&Name, BTreeSet<Name>> =
        sources.iter().map(|(name, source)| (name, Reader::new(name, source, sources).imports())).collect();
    let reached: BTreeMap<&Name, BTreeSet<Name>> = sources.keys().map(|name| (name, reach(name, &imports))).collect();
    let mut left: BTreeSet<&Name> = sources.keys().collect();
    let mut circles = Vec::new();
    while let Some(name) = left.pop_first() {
        // Those that it reaches and that reach it, itself included.
        let circle: BTreeSet<&Name> =
            sources.keys().filter(|other| reached[name].contains(*other) && reached[*other].contains(name)).collect();
        left.retain(|name| !circle.contains(name));
        let file = |name: &Name| sources[name].file.display().to_string();
        let line = |name: &&Name| {
            let others: Vec<String> = imports[*name].iter().filter(|other| circle.contains(other)).map(file).collect();
            format!("{} imports {}", file(name), others.join(", "))
        };
        if !circle.is_empty() {
            circles.push(circle.iter().map(line).collect());
        }
    }
    circles
}

/// The modules to which a module's imports lead, and theirs.
fn reach(from: &Name, imports: &BTreeMap<&Name, BTreeSet<Name>>) -> BTreeSet<Name> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&Name> = vec![from];
    while let Some(name) = next.pop() {
        next.extend(imports[name].iter().filter(|other| reached.insert((*other).clone())));
    }
    reached
}

/// Follows the paths of one file.
struct Reader<'a> {
    name: &'a Name,
    tokens: &'a [String],
    sources: &'a Sources,
    /// Modules that the file's `use` gave a name.
    aliases: BTreeMap<String, Name>,
    /// Modules written out in the file around the place that is read, and how many braces are open around each.
    within: Vec<(String, usize)>,
    imports: BTreeSet<Name>,
}

impl<'a> Reader<'a> {
    fn new(name: &'a Name, source: &'a Source, sources: &'a Sources) -> Self {
        let (aliases, within, imports) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        Self { name, tokens: &source.tokens, sources, aliases, within, imports }
    }

    fn at(&self, at: usize) -> &'a str {
        self.tokens.get(at).map_or("", String::as_str)
    }

    fn imports(mut self) -> BTreeSet<Name> {
        let (mut at, mut braces) = (0, 0_usize);
        while at < self.tokens.len() {
            let token = self.at(at);
            match token {
                "{" => braces += 1,
                "}" => {
                    braces = braces.saturating_sub(1);
                    self.within.pop_if(|(_, around)| *around == braces);
                }
                "mod" if self.at(at + 2) == "{" => {
                    self.within.push((self.at(at + 1).to_owned(), braces));
                    braces += 1;
                    at += 2;
                }
                "use" => {
                    at = self.tree(at + 1, &[]);
                    continue;
                }
                _ if is_word(token) && self.at(at + 1) == "::" && (at == 0 || self.at(at - 1) != "::") => {
                    let mut path = vec![token.to_owned()];
                    while self.at(at + 1) == "::" && is_word(self.at(at + 2)) {
                        path.push(self.at(at + 2).to_owned());
                        at += 2;
                    }
                    self.follow(&path, None);
                }
                _ => {}
            }
            at += 1;
        }
        self.imports
    }

    /// Reads one tree of a `use`; where it ends.
    fn tree(&mut self, mut at: usize, before: &[String]) -> usize {
        let mut path = before.to_vec();
        loop {
            match self.at(at) {
                "{" => {
                    at += 1;
                    while !matches!(self.at(at), "}" | "") {
                        at = self.tree(at, &path);
                        at += usize::from(self.at(at) == ",");
                    }
                    return at + 1;
                }
                "::" => at += 1,
                word if is_word(word) && self.at(at + 1) == "::" => {
                    path.push(word.to_owned());
                    at += 2;
                }
                word => {
                    if word != "self" || path.is_empty() {
                        path.push(word.to_owned());
                    }
                    let renamed = self.at(at + 1) == "as";
                    let called =
                        if renamed { self.at(at + 2).to_owned() } else { path.last().cloned().unwrap_or_default() };
                    self.follow(&path, Some(called));
                    return at + if renamed { 3 } else { 1 };
                }
            }
        }
    }

    /// Notes the file that a path leads into. A module itself is nothing of it: `named` is what a `use` calls it, and what
    /// is taken of it comes later.
    fn follow(&mut self, path: &[String], named: Option<String>) {
        let here: Name = self.name.iter().cloned().chain(self.within.iter().map(|(name, _)| name.clone())).collect();
        let ups = path.iter().take_while(|word| *word == "super").count();
        let (mut name, rest) = match path[0].as_str() {
            "crate" => (Name::new(), &path[1..]),
            "self" => (here, &path[1..]),
            "super" => (here[..here.len().saturating_sub(ups)].to_vec(), &path[ups..]),
            word => match self.aliases.get(word) {
                Some(name) => (name.clone(), &path[1..]),
                None if self.within.is_empty() => (self.name.clone(), path),
                None => return,
            },
        };
        let own_word = !matches!(path[0].as_str(), "crate" | "self" | "super") && !self.aliases.contains_key(&path[0]);
        let mut rest = rest.iter();
        while let Some(word) = rest.clone().next() {
            let below: Name = name.iter().cloned().chain([word.clone()]).collect();
            if !self.sources.contains_key(&below) {
                break;
            }
            name = below;
            rest.next();
        }
        if own_word && name == *self.name {
            return; // another crate, or an item of this file
        }
        match named {
            Some(called) if rest.len() == 0 => {
                self.aliases.insert(called, name);
            }
            _ => {
                while !self.sources.contains_key(&name) {
                    name.pop();
                }
                if name != *self.name {
                    self.imports.insert(name);
                }
            }
        }
    }
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Submodules with files of their own.
fn declared(tokens: &[String]) -> Vec<String> {
    let mods = tokens.windows(3).filter(|three| three[0] == "mod" && three[2] == ";");
    mods.map(|three| three[1].clone()).collect()
}

/// The words and signs of a file's code, without comments, texts and what is compiled for unit tests alone. A text that is
/// a path, as attributes have them, stays.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (token, length) = if rest.starts_with("//") {
            (None, rest.find('\n').unwrap_or(rest.len()))
        } else if rest.starts_with("/*") {
            (None, comment(rest))
        } else if let Some(hashes) = raw_text(rest) {
            let end = format!("\"{}", "#".repeat(hashes));
            let begin = rest.find('"').unwrap_or(0) + 1;
            (None, rest[begin..].find(&end).map_or(rest.len(), |at| begin + at + end.len()))
        } else if first == '"' {
            let length = quoted(rest, '"');
            let inside = &rest[1..length.saturating_sub(1).max(1)];
            let is_path = ["crate::", "super::", "self::"].iter().any(|start| inside.starts_with(start))
                && inside.chars().all(|c| c.is_alphanumeric() || "_:".contains(c));
            if is_path {
                tokens.extend(self::tokens(inside));
            }
            (None, length)
        } else if first == '\'' && is_char(rest) {
            (None, quoted(rest, '\''))
        } else if first.is_alphanumeric() || first == '_' {
            let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            (Some(&rest[..length]), length)
        } else if rest.starts_with("::") {
            (Some("::"), 2)
        } else {
            (Some(&rest[..first.len_utf8()]).filter(|_| !first.is_whitespace()), first.len_utf8())
        };
        tokens.extend(token.map(str::to_owned));
        rest = &rest[length..];
    }
    without_tests(&tokens)
}

/// Length of a comment that may hold others.
fn comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// Signs # around a raw text; None where none begins.
fn raw_text(text: &str) -> Option<usize> {
    let rest = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = rest.chars().take_while(|c| *c == '#').count();
    rest[hashes..].starts_with('"').then_some(hashes)
}

/// Whether a quote begins a character and no lifetime.
fn is_char(text: &str) -> bool {
    let mut chars = text.chars().skip(1);
    matches!((chars.next(), chars.next()), (Some('\\'), _) | (Some(_), Some('\'')))
}

/// Length of what stands between two quotes, with them.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// Leaves out each item behind `#[cfg(test)]`.
fn without_tests(tokens: &[String]) -> Vec<String> {
    let is_test = |attribute: &[String]| {
        let has = |word: &str| attribute.iter().any(|token| token == word);
        has("cfg") && has("test") && !has("not")
    };
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at] == "#" && tokens.get(at + 1).is_some_and(|next| next == "[") {
            let end = at + 1 + closing(&tokens[at + 1..]);
            if is_test(&tokens[at..end]) {
                at = end;
                while tokens.get(at).is_some_and(|token| token == "#") {
                    at += 1 + closing(&tokens[at + 1..]);
                }
                while at < tokens.len() && !matches!(tokens[at].as_str(), ";" | "{" | "}") {
                    at += if matches!(tokens[at].as_str(), "(" | "[") { closing(&tokens[at..]) } else { 1 };
                }
                at += match tokens.get(at).map(String::as_str) {
                    Some("{") => closing(&tokens[at..]),
                    Some(";") => 1,
                    _ => 0,
                };
                continue;
            }
        }
        kept.push(tokens[at].clone());
        at += 1;
    }
    kept
}

/// Tokens up to the sign that closes the first one, with it.
fn closing(tokens: &[String]) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

/// What is found in files of these paths and texts: the modules of each circle.
fn check(files: &[(&str, &str)], expect: &[&[&str]]) {
    let name = |path: &str| path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect::<Name>();
    let source = |(path, text): &(&str, &str)| (name(path), Source { file: path.into(), tokens: tokens(text) });
    let circles = found(&files.iter().map(source).collect());
    let circles: Vec<Vec<&str>> =
        circles.iter().map(|circle| circle.iter().filter_map(|line| line.split(' ').next()).collect()).collect();
    assert_eq!(circles, expect, "{files:?}");
}

#[test]
fn a_circle_is_found_however_it_is_written() {
    for back in [
        "use crate::a::A;",
        "use super::a::{self, A};",
        "use crate::{a::A, c::C};",
        "use crate::a; fn f(x: a::A) {}",
        "use crate::a as other; fn f(x: other::A) {}",
        "fn f() { crate::a::f(&'x', r#\"\"#); }",
        "mod inside { use super::super::a::A; }",
        "use super::a::*;",
        "#[serde(with = \"crate::a\")] struct B;\n#[serde(with = \"crate::a::with\")] struct C;",
    ] {
        check(&[("", "mod a; mod b; mod c;"), ("a", "use crate::b::B;"), ("b", back), ("c", "")], &[&["a", "b"]]);
    }
    let three =
        [("", "mod a; mod b; mod c;"), ("a", "use crate::b::B;"), ("b", "use crate::c::C;"), ("c", "use crate::a::A;")];
    check(&three, &[&["a", "b", "c"]]);
}

#[test]
fn a_submodule_and_the_file_above_it_are_a_circle_only_where_both_import() {
    check(&[("", "mod a;"), ("a", "mod b; use b::B;"), ("a/b", "use super::A;")], &[&["a", "a/b"]]);
    check(&[("", "mod a;"), ("a", "mod b;"), ("a/b", "use super::A;")], &[]);
    check(&[("", "mod a;"), ("a", "mod b; mod c; pub use b::B;"), ("a/b", "use super::c::C;"), ("a/c", "")], &[]);
    check(&[("", "mod a; pub use a::A;"), ("a", "use crate::B;")], &[&["", "a"]]);
}

#[test]
fn comments_texts_other_crates_and_unit_tests_import_nothing() {
    for harmless in [
        "// use crate::a::A;\n/* crate::a::A /* */ crate::a::B */",
        "const TEXT: &str = \"it said: \\\" crate::a::A\"; const C: char = '\"';",
        "fn f<'a>() { other::a::A::new() }",
        "#[cfg(test)]\nmod tests { use crate::a::A; fn f() { {} } }",
        "#[cfg(test)]\n#[rustfmt::skip]\npub(super) fn f() { crate::a::f() }",
        "#[cfg(test)] use crate::a::A;",
        "use crate::a;",
    ] {
        check(&[("", "mod a; mod b;"), ("a", "use crate::b::B;"), ("b", harmless)], &[]);
    }
    check(
        &[("", "mod a; mod b;"), ("a", "use crate::b::B;"), ("b", "#[cfg(not(test))] use crate::a::A;")],
        &[&["a", "b"]],
    );
}

#[test]
fn a_module_without_a_file_is_an_error() -> Result<()> {
    let home = tempfile::tempdir()?;
    fs::write(home.path().join("lib.rs"), "mod a;")?;
    ensure!(circles(&home.path().join("lib.rs")).is_err());
    Ok(())
}
