//! The experiment file: YAML, every mistake named with its place and what is accepted there.

use crate::error::{CliError, CliResult};
use senmon_protocol::{file, problem::Fault, spec::ExperimentSpec};
use std::path::Path;

/// Reads an experiment file; `-` is standard input.
///
/// # Errors
/// When it cannot be read, or is no experiment: with the path of the key.
pub fn load(path: &Path) -> CliResult<ExperimentSpec> {
    let text =
        if path == Path::new("-") { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) }
            .map_err(|error| CliError::Refused(format!("read {}: {error}", path.display())))?;
    parse(&text).map_err(|why| CliError::Refused(format!("{}: {why}", path.display())))
}

fn parse(text: &str) -> Result<ExperimentSpec, String> {
    file::parse(text)
        .map_err(|Fault { path, message, .. }| if path == "body" { message } else { format!("{path}: {message}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use senmon_protocol::spec::SeedSpec;
    use std::path::Path;

    const GOOD: &str = include_str!("../../../configs/experiments/quick.yaml");

    fn check(from: &str, to: &str, expect: &[&str]) {
        assert!(GOOD.contains(from), "{from:?} is not in quick.yaml");
        let why = parse(&GOOD.replace(from, to)).expect_err("it was accepted");
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
        check("learning_rate: 0.003", "learning_rat: 0.003", &["training", "learning_rat", "`learning_rate`"]);
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
    fn a_tree_survives_the_way_to_the_server() {
        let spec = parse(GOOD).unwrap();
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<ExperimentSpec>(&json).unwrap(), spec);
    }
}
