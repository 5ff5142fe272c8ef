//! Examples of every command: they stand in its `--help` and its man page, and a test types each of them.

use clap::Command;

/// Examples by command, as people type it.
#[rustfmt::skip]
const EXAMPLES: &[(&str, &[&str])] = &[
    ("", &["senmon login lab --server https://senmon.example:8443", "senmon init mycorpus > first.yaml", "senmon run first.yaml --follow", "senmon ls --columns name,state"]),
    ("run", &["senmon run first.yaml", "senmon run first.yaml --name second --follow", "senmon init mycorpus | senmon run -"]),
    ("plan", &["senmon plan first.yaml", "senmon plan first.yaml --tokens-per-second 10000 --slots 8", "senmon plan first.yaml --peak-flops 989e12 --utilisation 0.4 --days 7"]),
    ("init", &["senmon init mycorpus > first.yaml", "senmon init mycorpus --name first --domains 8 --file first.yaml"]),
    ("explain", &["senmon explain", "senmon explain training.learning_rate", "senmon explain plan.chain", "senmon explain --recursive"]),
    ("ls", &["senmon ls", "senmon ls night --state running,paused --sort oldest", "senmon ls --label demo --columns id,name,tokens --no-header"]),
    ("show", &["senmon show first", "senmon show first -o json"]),
    ("report", &["senmon report first", "senmon report first -o json > report.json"]),
    ("compare", &["senmon compare first second", "senmon compare first second -o json"]),
    ("ensemble", &["senmon ensemble first -o json > ensemble.json"]),
    ("follow", &["senmon follow first", "senmon watch first -o json"]),
    ("wait", &["senmon wait first --timeout 6h", "senmon wait first second --for over"]),
    ("open", &["senmon open first", "senmon open first/expert-0 --print"]),
    ("export", &["senmon export first > curves.csv", "senmon export first/expert-0 --format jsonl --keys train/loss --file loss.jsonl", "senmon export first --format parquet --file curves.parquet"]),
    ("tensorboard", &["senmon tensorboard first --to runs", "senmon tensorboard first --to runs --follow"]),
    ("domains", &["senmon domains first"]),
    ("set", &["senmon set first --priority 70", "senmon set first --deadline +3d", "senmon set first --slot-hours 500 --wall-hours 96"]),
    ("label", &["senmon label first", "senmon label first team=speech overnight", "senmon label first team- overnight-"]),
    ("note", &["senmon note first", "senmon note first 'Overfits.'", "senmon note first - < note.md"]),
    ("pause", &["senmon pause first", "senmon pause first second third"]),
    ("resume", &["senmon resume first second"]),
    ("cancel", &["senmon cancel first", "senmon cancel --yes first second"]),
    ("delete", &["senmon delete first", "senmon delete --yes first second"]),
    ("branch", &["senmon branch ls first", "senmon branch show first/expert-0"]),
    ("branch ls", &["senmon branch ls first", "senmon branch ls first --columns branch,state,loss"]),
    ("branch show", &["senmon branch show first/expert-0"]),
    ("branch logs", &["senmon branch logs first/expert-0 --follow"]),
    ("branch metrics", &["senmon branch metrics first/expert-0 --keys train/loss --points 100"]),
    ("branch pause", &["senmon branch pause first/expert-0 first/expert-1"]),
    ("branch resume", &["senmon branch resume first/expert-0"]),
    ("branch cancel", &["senmon branch cancel first/expert-0"]),
    ("branch continue", &["senmon branch continue first/expert-0"]),
    ("branch fork", &["senmon branch fork first/expert-0 --name longer --tokens 2M", "senmon branch fork first/chain-1 --name mixed --tokens 2M --mixture 5=0.7,3=0.3 --checkpoint 0192cafe"]),
    ("logs", &["senmon logs first/expert-0 -n 50", "senmon logs first/expert-0 --follow"]),
    ("corpus", &["senmon corpus add mycorpus data/ --wait", "senmon corpus ls"]),
    ("corpus add", &["senmon corpus add mycorpus data/ --wait", "senmon corpus add web 'data/*.jsonl.zst' --text-field body --id-field url"]),
    ("corpus ls", &["senmon corpus ls"]),
    ("corpus show", &["senmon corpus show mycorpus"]),
    ("corpus delete", &["senmon corpus delete mycorpus"]),
    ("checkpoint", &["senmon checkpoint ls first", "senmon checkpoint export 0192cafe model/"]),
    ("checkpoint ls", &["senmon checkpoint ls first", "senmon checkpoint ls first --branch expert-0"]),
    ("checkpoint show", &["senmon checkpoint show 0192cafe"]),
    ("checkpoint verify", &["senmon checkpoint verify 0192cafe"]),
    ("checkpoint export", &["senmon checkpoint export 0192cafe model/", "senmon checkpoint export 0192cafe model/ --dtype fp32"]),
    ("worker", &["senmon worker ls", "senmon worker drain node-3"]),
    ("worker ls", &["senmon worker ls", "senmon worker ls --columns worker,slot,runs"]),
    ("worker drain", &["senmon worker drain node-3 node-4"]),
    ("worker enable", &["senmon worker enable node-3 node-4"]),
    ("worker disable", &["senmon worker disable node-3"]),
    ("worker delete", &["senmon worker delete node-3"]),
    ("queue", &["senmon queue", "senmon ps --columns job,state,why"]),
    ("set-aside", &["senmon set-aside", "senmon set-aside --again 0192cafe"]),
    ("job", &["senmon job ls first --state failed", "senmon job logs 0192cafe"]),
    ("job ls", &["senmon job ls", "senmon job ls first --state failed,cancelled -n 20"]),
    ("job logs", &["senmon job logs 0192cafe --follow"]),
    ("events", &["senmon events first --level warn", "senmon events first --branch seed --since 6h", "senmon events --since 2027-01-31 --until 2027-02-01 --reverse", "senmon events -f -o json"]),
    ("storage", &["senmon storage"]),
    ("goodput", &["senmon goodput first", "senmon goodput first/expert-0", "senmon goodput --fleet --hours 168"]),
    ("alert", &["senmon alert create night --on failed,stalled --slack-file hook.txt", "senmon alert test night"]),
    ("alert create", &["senmon alert create night --on failed,stalled,worker_lost --slack-file hook.txt --experiment first", "senmon alert create all --on finished,failed --webhook-file address.txt"]),
    ("alert ls", &["senmon alert ls"]),
    ("alert test", &["senmon alert test night"]),
    ("alert deliveries", &["senmon alert deliveries night"]),
    ("alert delete", &["senmon alert delete night"]),
    ("token", &["senmon token create hanako --role user --days 180", "senmon token ls"]),
    ("token create", &["senmon token create hanako --role user --days 180", "senmon token create fleet --role enrol --uses 20 > enrolment-token", "senmon token create hanako --another"]),
    ("token ls", &["senmon token ls"]),
    ("token revoke", &["senmon token revoke hanako"]),
    ("audit", &["senmon audit -n 100", "senmon audit first --who hanako"]),
    ("login", &["senmon login lab --server https://senmon.example:8443", "senmon login < admin-token"]),
    ("logout", &["senmon logout", "senmon logout lab"]),
    ("whoami", &["senmon whoami"]),
    ("context", &["senmon context ls", "senmon context use lab", "senmon ls --context lab"]),
    ("context ls", &["senmon context ls"]),
    ("context use", &["senmon context use lab"]),
    ("context delete", &["senmon context delete lab"]),
    ("version", &["senmon version"]),
    ("completion", &["senmon completion bash > ~/.local/share/bash-completion/completions/senmon", "senmon completion zsh > ~/.zfunc/_senmon", "senmon completion fish > ~/.config/fish/completions/senmon.fish"]),
    ("man", &["senmon man ~/.local/share/man/man1"]),
];

/// A command with its examples, and all below it.
#[must_use]
pub fn with_examples(command: Command) -> Command {
    decorate(command, "")
}

fn decorate(command: Command, path: &str) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|below| below.get_name().to_owned()).collect();
    let command = match EXAMPLES.iter().find(|(of, _)| *of == path) {
        Some((_, lines)) => {
            let lines: String = lines.iter().map(|line| format!("\n  {line}")).collect();
            command.after_help(format!("Examples:{lines}"))
        }
        None => command,
    };
    names.into_iter().fold(command, |command, name| {
        let below = if path.is_empty() { name.clone() } else { format!("{path} {name}") };
        command.mut_subcommand(name, |inner| decorate(inner, &below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command;

    fn walk(command: &Command, path: &str, look: &mut impl FnMut(&Command, &str)) {
        look(command, path);
        for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
            walk(below, format!("{path} {}", below.get_name()).trim(), look);
        }
    }

    #[test]
    fn every_help_has_examples() {
        let mut whole = command::whole();
        whole.build();
        let mut known = Vec::new();
        walk(&whole, "", &mut |command, path| {
            let help = command.clone().render_long_help().to_string();
            assert!(help.contains("\nExamples:\n  senmon "), "{path:?} has no example:\n{help}");
            known.push(path.to_owned());
        });
        for (path, _) in EXAMPLES {
            assert!(known.iter().any(|known| known == path), "{path:?} is no command");
        }
    }

    #[test]
    fn every_example_can_be_typed() {
        for (path, lines) in EXAMPLES {
            for line in *lines {
                let typed = line
                    .split(['|', '<', '>'])
                    .find(|part| part.contains(&format!("senmon {path}")) || path.is_empty());
                let typed = typed.unwrap_or(line.split(['|', '<', '>']).next().unwrap());
                let words: Vec<&str> = typed.split_whitespace().map(|word| word.trim_matches('\'')).collect();
                assert_eq!(words[0], "senmon", "{line}");
                let found = command::whole().try_get_matches_from(&words);
                assert!(found.is_ok(), "{line}: {}", found.unwrap_err());
            }
        }
    }

    #[test]
    fn people_type_other_words_for_commands() {
        for typed in [
            "senmon list",
            "senmon ps",
            "senmon status x",
            "senmon logs x/y",
            "senmon version",
            "senmon watch x",
            "senmon rm x",
            "senmon submit x.yaml",
            "senmon workers list",
            "senmon jobs list",
            "senmon tokens list",
            "senmon corpora ls",
            "senmon checkpoints list",
            "senmon contexts list",
            "senmon diff a b",
            "senmon archive x",
        ] {
            let found = command::whole().try_get_matches_from(typed.split(' '));
            assert!(found.is_ok(), "{typed}: {}", found.unwrap_err());
        }
    }
}
