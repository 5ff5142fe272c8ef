//! Reads the message files into a table. A message without both languages, or whose values differ between them, does not
//! compile.

use std::{collections::BTreeMap, env, fmt::Write as _, fs, path::Path, process::ExitCode};

#[path = "src/said/catalogue.rs"]
mod catalogue;

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("messages: {why}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let folder = Path::new("messages");
    println!("cargo::rerun-if-changed={}", folder.display());
    println!("cargo::rerun-if-changed=src/said/catalogue.rs");
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))? {
        let path = entry.map_err(|error| error.to_string())?.path();
        let at = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        let text = fs::read_to_string(&path).map_err(|error| at(&error))?;
        for (key, words) in catalogue::read(&text).map_err(|error| at(&error))? {
            let names = catalogue::names(&key, &words).map_err(|error| at(&error))?;
            if all.insert(key.clone(), (words, names)).is_some() {
                return Err(at(&format!("{key}: another file has it too")));
            }
        }
    }
    let mut table = String::from("/// Every message, by key.\nconst MESSAGES: &[Message] = &[\n");
    for (key, (catalogue::Words { en, ja }, names)) in all {
        let written = writeln!(table, "    Message {{ key: {key:?}, en: {en:?}, ja: {ja:?}, names: &{names:?} }},");
        written.map_err(|error| error.to_string())?;
    }
    table.push_str("];\n");
    let out = env::var("OUT_DIR").map_err(|error| error.to_string())?;
    fs::write(Path::new(&out).join("messages.rs"), table).map_err(|error| error.to_string())
}
