//! The command line: what can be typed.
//!
//! Never runs anything.

use crate::{
    alerts, aside, audit, branches, checkpoints,
    client::{COMMON, Reach},
    compare, corpora, curves, events, examples, experiments, explain, follow, goodput, init, jobs, lang, login, manual,
    marks, open,
    output::Form,
    plan, steer, tensorboard, tokens, wait, workers,
};
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

/// Turns a corpus and a seed model into a set of domain experts.
///
/// Exit codes: 0 done; 1 the server or the experiment failed; 2 wrong usage; 3 no server answers; 4 input refused; 5 the
/// time given to wait ran out; 130 Ctrl-C ended the watching. An experiment is named by its id, a unique beginning or
/// end of it, or its name (the latest of that name); a branch by its id or as EXPERIMENT/BRANCH.
#[derive(Debug, Parser)]
#[command(name = "senmon", version, max_term_width = 100)]
pub struct Cli {
    /// Server and token.
    #[command(flatten)]
    pub reach: Reach,
    /// Form of the answer.
    #[arg(short, long, global = true, value_enum, default_value_t, help_heading = COMMON)]
    pub output: Form,
    /// Only these columns of a list, in this order, with plain numbers: name,state,tokens.
    #[arg(long, global = true, value_delimiter = ',', value_name = "A,B", help_heading = COMMON)]
    pub columns: Vec<String>,
    /// No line with the names of the columns.
    #[arg(long, global = true, help_heading = COMMON)]
    pub no_header: bool,
    /// Language of tables and sentences. Without it `SENMON_LANG`, `LC_ALL`, `LC_MESSAGES` or `LANG` decides.
    #[arg(long, global = true, value_enum, help_heading = COMMON)]
    pub lang: Option<lang::Chosen>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Submit an experiment file.
    #[command(visible_alias = "submit")]
    Run(experiments::Run),
    /// Show what an experiment file would do, before anything runs.
    Plan(plan::Plan),
    /// Write an experiment file for a corpus, sized by it, with a remark on each key.
    Init(init::Init),
    /// Explain a key of the experiment file: type, default, meaning.
    Explain(explain::Explain),
    /// List experiments.
    #[command(visible_alias = "list")]
    Ls(experiments::List),
    /// Show an experiment: stages and branches.
    #[command(visible_alias = "status", alias = "describe")]
    Show(experiments::Id),
    /// Show the report: did the experts beat one dense model at the same cost?
    Report(experiments::Id),
    /// Show what differs between two experiments, and their figures side by side.
    #[command(visible_alias = "diff")]
    Compare(compare::Compare),
    /// Show the set of experts that an experiment made: what `senmon-worker score` needs (with --output json).
    Ensemble(experiments::Id),
    /// Watch an experiment until it ends, then show its report.
    #[command(visible_alias = "watch")]
    Follow(follow::Follow),
    /// Wait, in silence, until an experiment is in a state.
    Wait(wait::Wait),
    /// Print the dashboard's address of an experiment or branch, and open it.
    Open(open::Open),
    /// Write the curves of an experiment or branch as CSV, JSON Lines or Parquet.
    Export(curves::Export),
    /// Write an experiment's curves as event files of TensorBoard, live with --follow.
    #[command(name = "tensorboard")]
    TensorBoard(tensorboard::TensorBoard),
    /// Show the domains of an experiment.
    Domains(experiments::Id),
    /// Change an experiment's priority, deadline or budget while it goes on.
    Set(experiments::Set),
    /// Show an experiment's labels, or change them, also when it is over.
    Label(marks::Label),
    /// Show an experiment's note, or write it, in Markdown.
    Note(marks::Note),
    /// Pause experiments: branches write a checkpoint and give their slots back.
    Pause(steer::Ids),
    /// Go on with paused experiments.
    Resume(steer::Ids),
    /// Stop experiments for good.
    Cancel(steer::SureIds),
    /// Delete experiments that are over: their checkpoints, shards and scores; their history stays.
    #[command(visible_alias = "rm", alias = "archive")]
    Delete(steer::SureIds),
    /// Branches: one training lineage each.
    #[command(subcommand, alias = "branches")]
    Branch(branches::Branch),
    /// Show the log of a branch's attempts; that of another job: senmon job logs.
    Logs(branches::Logs),
    /// Corpora: registered sets of documents.
    #[command(subcommand, alias = "corpora")]
    Corpus(corpora::Corpus),
    /// Checkpoints.
    #[command(subcommand, alias = "checkpoints")]
    Checkpoint(checkpoints::Checkpoint),
    /// Workers and their slots.
    #[command(subcommand, alias = "workers")]
    Worker(workers::Worker),
    /// Jobs that wait or run.
    #[command(visible_alias = "ps")]
    Queue,
    /// What the server's loops failed on again and again, and try again when asked.
    SetAside(aside::SetAside),
    /// Jobs of all kinds, and their logs.
    #[command(subcommand, alias = "jobs")]
    Job(jobs::Job),
    /// What happened, latest last.
    #[command(alias = "event")]
    Events(events::Events),
    /// What the store holds, its budget, and what the experiments under way may still add.
    Storage,
    /// Show where the time went: goodput, and badput by cause.
    Goodput(goodput::Goodput),
    /// Alerts: who is told of what, by webhook or Slack.
    #[command(subcommand, alias = "alerts")]
    Alert(alerts::Alert),
    /// API tokens.
    #[command(subcommand, alias = "tokens")]
    Token(tokens::Token),
    /// Show who changed what, newest first.
    Audit(audit::Audit),
    /// Sign this machine in: somebody approves its code in the dashboard (or: a token on the standard input).
    Login(login::Login),
    /// Forget a token here; its server stays known.
    Logout(login::Logout),
    /// Show who the server takes this machine for.
    Whoami,
    /// Contexts: servers with their tokens, by name.
    #[command(subcommand, alias = "contexts")]
    Context(login::ContextCommand),
    /// Print the versions of this command and of the server.
    Version,
    /// Print what completes commands in a shell.
    Completion(manual::Completion),
    /// Write the man pages into a folder.
    Man(manual::Man),
}

/// The command line with an example for every command.
#[must_use]
pub fn whole() -> clap::Command {
    examples::with_examples(Cli::command())
}

/// Reads what was typed; ends the program where that is no command.
#[must_use]
pub fn parse() -> Cli {
    let found = whole().get_matches();
    Cli::from_arg_matches(&found).unwrap_or_else(|error| error.exit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        whole().debug_assert();
    }

    #[test]
    fn common_options_stand_apart() {
        let mut whole = whole();
        whole.build();
        let help = whole.find_subcommand_mut("ls").unwrap().render_help().to_string();
        let (own, common) = help.split_once("Common options:").unwrap();
        assert!(own.contains("--state") && !own.contains("--server"), "{help}");
        assert!(common.contains("--server") && common.contains("--columns"), "{help}");
    }
}
