//! The experiment file: YAML, every mistake named with its place and what is accepted there.

use crate::{
    error::{CliError, CliResult},
    faults::{self, Found},
    lang::{lang, own},
    place::{self, Place, What},
    schema::Schemas,
};
use senmon_protocol::{file, said, said::words, spec::ExperimentSpec};
use serde_json::Value;
use std::{path::Path, sync::OnceLock};

/// The file that this run of the command read: standard input cannot be read again when the server finds faults in it.
static READ: OnceLock<(String, String)> = OnceLock::new();

/// Reads an experiment file; `-` is standard input.
///
/// # Errors
/// When it cannot be read, or is no experiment: all of its faults, each with path, line and column.
pub fn load(path: &Path) -> CliResult<ExperimentSpec> {
    let is_stdin = path == Path::new("-");
    let text = if is_stdin { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) }
        .map_err(|error| CliError::unread(path, &error))?;
    let name = if is_stdin { own(&said!("standard_input")) } else { path.display().to_string() };
    let (name, text) = READ.get_or_init(|| (name, text));
    parse(text).map_err(|all| CliError::Refused(listed(name, &all)))
}

/// A fault and where it stands.
#[derive(Debug)]
struct Fault {
    place: Option<Place>,
    path: String,
    message: String,
}

impl Fault {
    fn line(&self, name: &str) -> String {
        let place = self.place.map(|at| format!("{}:{}: ", at.line, at.column)).unwrap_or_else(|| " ".into());
        let path = if self.path == "body" { String::new() } else { format!("{}: ", self.path) };
        format!("{name}:{place}{path}{}", self.message)
    }
}

fn listed(name: &str, all: &[Fault]) -> String {
    match all {
        [one] => one.line(name),
        several => {
            let lines: String = several.iter().map(|fault| format!("\n  {}", fault.line(name))).collect();
            format!("{}{lines}", own(&said!("file_has_faults", name = name, count = several.len())))
        }
    }
}

fn parse(text: &str) -> Result<ExperimentSpec, Vec<Fault>> {
    let first = match file::parse::<ExperimentSpec>(text) {
        Ok(spec) => return Ok(spec),
        Err(fault) => fault,
    };
    let value = file::parse::<Value>(text).ok();
    let mut all = value.map(|value| faults::all(&Schemas::of_experiment_file(), &value)).unwrap_or_default();
    let is_among = |found: &Found| first.path == "body" || found.path.starts_with(&first.path);
    if !all.iter().any(is_among) {
        // What the schema does not say: a number that is not finite, a key twice, a text that is no YAML.
        let message = words(first.said.as_ref(), &first.message, lang());
        all.insert(0, Found { path: first.path, message, what: What::Value });
    }
    let placed = |Found { path, message, what }: Found| {
        let (words, told) = without_place(&message);
        Fault { place: place::nearest(text, &path, what).or(told), path, message: words.to_owned() }
    };
    let mut all: Vec<Fault> = all.into_iter().map(placed).collect();
    all.sort_by_key(|fault| fault.place.map(|place| (place.line, place.column)));
    Err(all)
}

/// A message of the parser without the place that it names, and that place.
fn without_place(message: &str) -> (&str, Option<Place>) {
    let Some((words, rest)) = message.split_once(" at line ") else { return (message, None) };
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok());
    (words, numbers.next().zip(numbers.next()).map(|(line, column)| Place { line, column }))
}

/// The same failure, with line and column beside each path of the file that was read.
#[must_use]
pub fn placed(error: CliError) -> CliError {
    match READ.get() {
        Some((name, text)) => error.said(|said| placed_in(name, text, said)),
        None => error,
    }
}

/// Puts the place in front of each line that begins with a path of the file.
fn placed_in(name: &str, text: &str, said: &str) -> String {
    let line = |line: &str| {
        let indent = &line[..line.len() - line.trim_start().len()];
        let path = line.trim_start().split_once(": ").map(|(path, _)| path).filter(|path| !path.contains(' '));
        match path.and_then(|path| place::nearest(text, path, What::Value)) {
            Some(at) => format!("{indent}{name}:{}:{}: {}", at.line, at.column, line.trim_start()),
            None => line.to_owned(),
        }
    };
    said.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// What a text says, for tests of what is written here.
#[cfg(test)]
pub fn check_text(text: &str) -> Result<ExperimentSpec, String> {
    parse(text).map_err(|all| listed("text", &all))
}

#[cfg(test)]
mod tests {
    use super::*;
    use senmon_protocol::spec::SeedSpec;
    use std::path::Path;

    const GOOD: &str = include_str!("../../../configs/experiments/quick.yaml");

    fn check(from: &str, to: &str, expect: &[&str]) {
        assert!(GOOD.contains(from), "{from:?} is not in quick.yaml");
        let why = listed("quick.yaml", &parse(&GOOD.replace(from, to)).expect_err("it was accepted"));
        for part in expect {
            assert!(why.contains(part), "{why:?} does not say {part:?}");
        }
    }

    #[test]
    fn the_shipped_experiments_are_accepted() {
        parse(GOOD).unwrap();
        parse(include_str!("../../../configs/experiments/demo.yaml")).unwrap();
        parse(include_str!("../../../configs/experiments/h100-10b.yaml")).unwrap();
    }

    #[test]
    fn the_demo_asks_no_more_slots_of_a_machine_with_one_core() {
        use std::process::{Command, Stdio};
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for name in ["demo", "quick", "smollm2"] {
            let file = root.join(format!("configs/experiments/{name}.yaml"));
            let mut fit = Command::new(root.join("scripts/fit-slots"));
            let fitted =
                fit.arg("1").stdin(std::fs::File::open(&file).unwrap()).stderr(Stdio::inherit()).output().unwrap();
            let (before, after) = (std::fs::read_to_string(&file).unwrap(), String::from_utf8(fitted.stdout).unwrap());
            let (before, mut after) = (parse(&before).unwrap(), parse(&after).unwrap());
            let json = serde_json::to_string(&after).unwrap();
            assert!(!json.contains("\"slots\":2"), "{name}: {json}");
            // Nothing else was changed.
            after.training.slots = before.training.slots;
            if let (SeedSpec::Train(after), SeedSpec::Train(before)) = (&mut after.seed, &before.seed) {
                after.training.slots = before.training.slots;
            }
            assert_eq!(after, before, "{name}");
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_its_path_and_what_is_accepted() {
        check(
            "learning_rate: 0.003",
            "learning_rat: 0.003",
            &["quick.yaml:", "training.learning_rat", "`learning_rate`"],
        );
        check("corpus: demo", "corpuss: demo", &["corpuss", "`corpus`"]);
        check("share: proportional", "shape: proportional", &["plan[0]", "shape", "`share`"]);
    }

    #[test]
    fn a_wrong_value_is_named_with_its_path() {
        check("domains: 4", "domains: four", &["clustering.domains", "four"]);
        check("share: proportional", "share: fair", &["plan[0]", "fair", "`proportional`"]);
        check("tokens: 600K", "tokens: 600Q", &["seed", "600Q", "6.5M"]);
    }

    #[test]
    fn all_faults_are_named_at_once_with_line_and_column() {
        let text = GOOD
            .replace("domains: 4", "domains: four")
            .replace("schedule: cosine", "schedule: cosin")
            .replace("random_split: false", "randomsplit: false");
        let why = listed("quick.yaml", &parse(&text).unwrap_err());
        let at = |line: &str| text.lines().position(|found| found.contains(line)).unwrap() + 1;
        for part in [
            "quick.yaml has 3 faults:".to_owned(),
            format!("\n  quick.yaml:{}:12: clustering.domains: found \"four\"", at("domains: four")),
            format!("\n  quick.yaml:{}:13: training.schedule: ", at("cosin")),
            format!(
                "\n  quick.yaml:{}:3: controls.randomsplit: there is no such key; did you mean `random_split`?",
                at("randomsplit")
            ),
        ] {
            assert!(why.contains(&part), "{why}\nlacks {part}");
        }
    }

    #[test]
    fn what_only_the_reader_finds_has_its_place_too() {
        for (from, to, part) in [
            ("hidden_size: 64", "rope_theta: .inf", "model.rope_theta: found the number inf"),
            ("corpus: demo", "corpus: demo\ncorpus: other", "duplicate field"),
            ("top_k: [1, 2, 4]", "top_k: [1, 2, 4", "did not find expected"),
        ] {
            let faults = parse(&GOOD.replace(from, to)).expect_err("it was accepted");
            let why = listed("quick.yaml", &faults);
            assert!(why.contains(part) && !why.contains(" at line "), "{why}");
            assert!(faults.iter().any(|fault| fault.place.is_some()), "{why}");
        }
    }

    #[test]
    fn faults_of_the_server_have_their_place() {
        let said = "the file has faults\n  training.learning_rate: found 0, expected more\n  data.epochs_max: too many\n  request 0192: x";
        let placed = placed_in("quick.yaml", GOOD, said);
        let line = |part: &str| GOOD.lines().position(|line| line.contains(part)).unwrap() + 1;
        for part in [
            format!("\n  quick.yaml:{}:18: training.learning_rate: found 0", line("learning_rate: 0.003")),
            format!("\n  quick.yaml:{}:1: data.epochs_max: ", line("data:")),
            "\n  request 0192: x".to_owned(),
        ] {
            assert!(placed.contains(&part), "{placed}\nlacks {part}");
        }
    }

    #[test]
    fn a_tree_survives_the_way_to_the_server() {
        let spec = parse(GOOD).unwrap();
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<ExperimentSpec>(&json).unwrap(), spec);
    }
}
