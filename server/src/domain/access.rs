//! Who may do what: one table over every operation of the API. What it does not list, nobody may do.

use senmon_protocol::{ids::WorkerId, said, said::Said, view::Role};
use serde_json::{Map, Value};

/// What an operation asks of who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Nothing: it is how one gets in.
    Open,
    /// Any token or session.
    Known,
    /// To read: viewer, user, admin.
    Read,
    /// To make something of one's own, or to spend the server's time: user, admin.
    Create,
    /// To change something: the user whose it is, admin.
    Change,
    /// To manage: admin.
    Manage,
    /// To become a worker, or the same one again.
    Join,
    /// To act as the worker that one is.
    Act,
}

/// What an operation is about; how its `{id}` is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noun {
    /// Nothing that stays.
    Nothing,
    /// An experiment.
    Experiment,
    /// A branch; its experiment's owner owns it.
    Branch,
    /// A checkpoint; its experiment's owner owns it.
    Checkpoint,
    /// A corpus, by id or name.
    Corpus,
    /// A worker.
    Worker,
    /// An attempt; its worker acts for it.
    Attempt,
    /// A token.
    Token,
    /// An alert.
    Alert,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    /// HTTP method.
    pub method: &'static str,
    /// Path below `/api/v1`, as the OpenAPI document writes it.
    pub path: &'static str,
    /// Who may.
    pub rule: Rule,
    /// What it is about.
    pub noun: Noun,
}

impl Operation {
    /// Whether it changes something that people own or manage: such are written into the audit.
    #[must_use]
    pub fn is_audited(&self) -> bool {
        self.method != "GET"
            && (self.noun == Noun::Token || matches!(self.rule, Rule::Create | Rule::Change | Rule::Manage))
            && self.rule != Rule::Open
    }

    /// `POST /experiments/{id}/cancel`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// Whether a role may, by the rule alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Yes,
    /// It may with what is its own.
    IfOwn,
    /// It may not.
    No,
}

/// The verdict of a rule over a role.
#[must_use]
pub fn verdict(rule: Rule, role: Role) -> Verdict {
    use Role::{Admin, Enrol, User, Viewer, Worker};
    match (rule, role) {
        (Rule::Open | Rule::Known, _)
        | (Rule::Read, Viewer | User | Admin)
        | (Rule::Create, User | Admin)
        | (Rule::Change | Rule::Manage, Admin)
        | (Rule::Join, Enrol) => Verdict::Yes,
        (Rule::Change, User) | (Rule::Join | Rule::Act, Worker) => Verdict::IfOwn,
        _ => Verdict::No,
    }
}

/// Who a rule lets in, in words.
#[must_use]
pub fn who(rule: Rule) -> Said {
    match rule {
        Rule::Open | Rule::Known => said!("roles_anybody"),
        Rule::Read => said!("roles_read"),
        Rule::Create => said!("roles_create"),
        Rule::Change => said!("roles_change"),
        Rule::Manage => said!("roles_manage"),
        Rule::Join => said!("roles_join"),
        Rule::Act => said!("roles_act"),
    }
}

/// Priorities above are the admin's.
pub const USER_PRIORITY_MAX: u8 = 80;

/// The table.
pub const ACCESS: &[Operation] = &[
    row("POST", "/session", Rule::Open, Noun::Nothing),
    row("GET", "/session", Rule::Known, Noun::Nothing),
    row("DELETE", "/session", Rule::Known, Noun::Nothing),
    row("POST", "/login", Rule::Open, Noun::Nothing),
    row("POST", "/login/token", Rule::Open, Noun::Nothing),
    row("GET", "/login/{id}", Rule::Read, Noun::Nothing),
    row("POST", "/login/{id}/approve", Rule::Read, Noun::Token),
    row("GET", "/tokens", Rule::Manage, Noun::Token),
    row("POST", "/tokens", Rule::Manage, Noun::Token),
    row("DELETE", "/tokens/{id}", Rule::Manage, Noun::Token),
    row("GET", "/audit", Rule::Manage, Noun::Nothing),
    row("GET", "/corpora", Rule::Read, Noun::Corpus),
    row("POST", "/corpora", Rule::Create, Noun::Corpus),
    row("GET", "/corpora/{id}", Rule::Read, Noun::Corpus),
    row("DELETE", "/corpora/{id}", Rule::Change, Noun::Corpus),
    row("GET", "/clusterings/{id}", Rule::Read, Noun::Nothing),
    row("POST", "/plan", Rule::Read, Noun::Nothing),
    row("GET", "/experiments", Rule::Read, Noun::Experiment),
    row("POST", "/experiments", Rule::Create, Noun::Experiment),
    row("GET", "/experiments/{id}", Rule::Read, Noun::Experiment),
    row("PATCH", "/experiments/{id}", Rule::Change, Noun::Experiment),
    row("DELETE", "/experiments/{id}", Rule::Change, Noun::Experiment),
    row("GET", "/experiments/{id}/branches", Rule::Read, Noun::Experiment),
    row("POST", "/experiments/{id}/pause", Rule::Change, Noun::Experiment),
    row("POST", "/experiments/{id}/resume", Rule::Change, Noun::Experiment),
    row("POST", "/experiments/{id}/cancel", Rule::Change, Noun::Experiment),
    row("GET", "/experiments/{id}/domains", Rule::Read, Noun::Experiment),
    row("GET", "/experiments/{id}/ensemble", Rule::Read, Noun::Experiment),
    row("GET", "/experiments/{id}/evaluations", Rule::Read, Noun::Experiment),
    row("GET", "/experiments/{id}/goodput", Rule::Read, Noun::Experiment),
    row("GET", "/experiments/{id}/metrics", Rule::Read, Noun::Experiment),
    row("GET", "/experiments/{id}/report", Rule::Read, Noun::Experiment),
    row("GET", "/experiments/{id}/spec", Rule::Read, Noun::Experiment),
    row("GET", "/branches/{id}", Rule::Read, Noun::Branch),
    row("GET", "/branches/{id}/attempts", Rule::Read, Noun::Branch),
    row("GET", "/branches/{id}/goodput", Rule::Read, Noun::Branch),
    row("GET", "/branches/{id}/logs", Rule::Read, Noun::Branch),
    row("GET", "/branches/{id}/metrics", Rule::Read, Noun::Branch),
    row("GET", "/branches/{id}/skips", Rule::Read, Noun::Branch),
    row("POST", "/branches/{id}/pause", Rule::Change, Noun::Branch),
    row("POST", "/branches/{id}/resume", Rule::Change, Noun::Branch),
    row("POST", "/branches/{id}/cancel", Rule::Change, Noun::Branch),
    row("POST", "/branches/{id}/continue", Rule::Change, Noun::Branch),
    row("POST", "/branches/{id}/fork", Rule::Change, Noun::Branch),
    row("GET", "/checkpoints", Rule::Read, Noun::Checkpoint),
    row("GET", "/checkpoints/{id}", Rule::Read, Noun::Checkpoint),
    row("GET", "/checkpoints/{id}/files/{name}", Rule::Read, Noun::Checkpoint),
    row("POST", "/checkpoints/{id}/verify", Rule::Create, Noun::Checkpoint),
    row("GET", "/events", Rule::Read, Noun::Nothing),
    row("GET", "/stream", Rule::Read, Noun::Nothing),
    row("GET", "/alerts", Rule::Read, Noun::Alert),
    row("POST", "/alerts", Rule::Create, Noun::Alert),
    row("DELETE", "/alerts/{id}", Rule::Change, Noun::Alert),
    row("POST", "/alerts/{id}/test", Rule::Change, Noun::Alert),
    row("GET", "/alerts/{id}/deliveries", Rule::Read, Noun::Alert),
    row("GET", "/set-aside", Rule::Read, Noun::Nothing),
    row("DELETE", "/set-aside/{kind}/{id}", Rule::Manage, Noun::Nothing),
    row("GET", "/storage", Rule::Read, Noun::Nothing),
    row("GET", "/goodput", Rule::Read, Noun::Nothing),
    row("GET", "/fleet", Rule::Read, Noun::Nothing),
    row("GET", "/jobs", Rule::Read, Noun::Nothing),
    row("GET", "/jobs/{id}", Rule::Read, Noun::Nothing),
    row("GET", "/jobs/{id}/attempts", Rule::Read, Noun::Nothing),
    row("GET", "/jobs/{id}/logs", Rule::Read, Noun::Nothing),
    row("GET", "/workers", Rule::Read, Noun::Worker),
    row("GET", "/workers/{id}", Rule::Read, Noun::Worker),
    row("GET", "/workers/{id}/metrics", Rule::Read, Noun::Worker),
    row("POST", "/workers/{id}/drain", Rule::Manage, Noun::Worker),
    row("POST", "/workers/{id}/enable", Rule::Manage, Noun::Worker),
    row("POST", "/workers/{id}/disable", Rule::Manage, Noun::Worker),
    row("DELETE", "/workers/{id}", Rule::Manage, Noun::Worker),
    row("POST", "/workers", Rule::Join, Noun::Worker),
    row("POST", "/workers/{id}/poll", Rule::Act, Noun::Worker),
    row("POST", "/workers/{id}/heartbeat", Rule::Act, Noun::Worker),
    row("POST", "/workers/{id}/readings", Rule::Act, Noun::Worker),
    row("POST", "/attempts/{id}/started", Rule::Act, Noun::Attempt),
    row("POST", "/attempts/{id}/metrics", Rule::Act, Noun::Attempt),
    row("POST", "/attempts/{id}/logs", Rule::Act, Noun::Attempt),
    row("POST", "/attempts/{id}/announce", Rule::Act, Noun::Attempt),
    row("POST", "/attempts/{id}/checkpoints", Rule::Act, Noun::Attempt),
    row("POST", "/attempts/{id}/complete", Rule::Act, Noun::Attempt),
];

/// What is answered beside the API to the clients of other programs; paths from the root. All of it reads: a POST among
/// them is how that program asks.
pub const NEIGHBOURS: &[Operation] = &[
    row("GET", "/api/2.0/mlflow/experiments/get", Rule::Read, Noun::Experiment),
    row("GET", "/api/2.0/mlflow/experiments/get-by-name", Rule::Read, Noun::Experiment),
    row("GET", "/api/2.0/mlflow/experiments/search", Rule::Read, Noun::Experiment),
    row("POST", "/api/2.0/mlflow/experiments/search", Rule::Read, Noun::Experiment),
    row("GET", "/api/2.0/mlflow/runs/get", Rule::Read, Noun::Branch),
    row("POST", "/api/2.0/mlflow/runs/search", Rule::Read, Noun::Branch),
    row("GET", "/api/2.0/mlflow/metrics/get-history", Rule::Read, Noun::Branch),
];

const fn row(method: &'static str, path: &'static str, rule: Rule, noun: Noun) -> Operation {
    Operation { method, path, rule, noun }
}

/// The row of a request; `path` as the router matched it, below `/api/v1`. A HEAD is the GET without its body.
#[must_use]
pub fn operation(method: &str, path: &str) -> Option<&'static Operation> {
    let method = if method == "HEAD" { "GET" } else { method };
    ACCESS.iter().find(|row| row.method == method && row.path == path)
}

/// The row of a request of another program's client.
#[must_use]
pub fn neighbour(method: &str, path: &str) -> Option<&'static Operation> {
    let method = if method == "HEAD" { "GET" } else { method };
    NEIGHBOURS.iter().find(|row| row.method == method && row.path == path)
}

/// Who a worker says it is, and by what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A new machine, by an enrolment token.
    Token,
    /// A worker, by its credential.
    Credential(WorkerId),
}

/// The worker of the name that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its row.
    pub id: WorkerId,
    /// Host that it was on.
    pub host: String,
    /// Whether it was heard of within the time after which it is lost.
    pub lives: bool,
}

/// Why a worker is not enrolled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Another machine has the name, and lives.
    NameTaken,
    /// The credential is another worker's.
    NotItsName,
}

/// Whether a worker may enrol under a name. A restart on the same host goes on at once; another host waits until the
/// first is lost: two machines under one name would end each other's sessions for ever.
///
/// # Errors
/// [`Refusal`].
pub fn may_enrol(entry: &Entry, host: &str, holder: Option<&Holder>) -> Result<(), Refusal> {
    match (entry, holder) {
        (Entry::Credential(id), holder) if holder.is_none_or(|holder| holder.id != *id) => Err(Refusal::NotItsName),
        (Entry::Credential(_), Some(holder)) if holder.lives && holder.host != host => Err(Refusal::NameTaken),
        (Entry::Token, Some(holder)) if holder.lives && !cfg!(feature = "plant-names-shared") => {
            Err(Refusal::NameTaken)
        }
        _ => Ok(()),
    }
}

/// What differs between two pictures of a row: the values before, the values after. What was made has no before.
#[must_use]
pub fn changes(before: Option<Value>, after: Option<Value>) -> (Value, Value) {
    let map = |value| if let Some(Value::Object(map)) = value { map } else { Map::new() };
    let (before, after) = (map(before), map(after));
    let differing = |one: &Map<String, Value>, other: &Map<String, Value>| {
        one.iter().filter(|(key, value)| other.get(*key) != Some(value)).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    (Value::Object(differing(&before, &after)), Value::Object(differing(&after, &before)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const ROLES: [Role; 5] = [Role::Viewer, Role::User, Role::Admin, Role::Worker, Role::Enrol];

    #[test]
    fn no_operation_has_two_rows() {
        for (i, one) in ACCESS.iter().enumerate() {
            assert!(
                ACCESS[i + 1..].iter().all(|other| (one.method, one.path) != (other.method, other.path)),
                "{one:?}"
            );
        }
    }

    #[test]
    fn neighbours_only_read() {
        for row in NEIGHBOURS {
            assert!(row.rule == Rule::Read && !row.path.starts_with("/api/v1"), "{}", row.name());
        }
    }

    #[test]
    fn people_and_machines_share_no_operation_but_who_am_i() {
        for row in ACCESS.iter().filter(|row| !matches!(row.rule, Rule::Open | Rule::Known)) {
            let may = |role: &&Role| verdict(row.rule, **role) != Verdict::No;
            let machines = ROLES.iter().filter(may).filter(|role| matches!(role, Role::Worker | Role::Enrol)).count();
            let people = ROLES.iter().filter(may).count() - machines;
            assert!(machines == 0 || people == 0, "{}", row.name());
        }
    }

    #[test]
    fn who_reads_changes_nothing() {
        for row in ACCESS.iter().filter(|row| verdict(row.rule, Role::Viewer) != Verdict::No) {
            // To approve a command is to give it a token of one's own role.
            let own = ["/session", "/plan", "/login", "/login/token", "/login/{id}/approve"].contains(&row.path);
            let harmless = row.method == "GET" || own;
            assert!(harmless, "{}", row.name());
        }
    }

    proptest! {
        #[test]
        fn of_two_machines_under_a_name_one_is_refused_while_the_other_lives(
            lives in any::<bool>(), same_host in any::<bool>(), by_token in any::<bool>(), own in any::<bool>(),
        ) {
            let (id, other) = (WorkerId::new(), WorkerId::new());
            let entry = if by_token { Entry::Token } else { Entry::Credential(if own { id } else { other }) };
            let holder = Holder { id, host: "a".into(), lives };
            let answer = may_enrol(&entry, if same_host { "a" } else { "b" }, Some(&holder));
            let expected = match (by_token, own) {
                (true, _) if lives => Err(Refusal::NameTaken),
                (true, _) => Ok(()),
                (false, false) => Err(Refusal::NotItsName),
                (false, true) if lives && !same_host => Err(Refusal::NameTaken),
                (false, true) => Ok(()),
            };
            prop_assert_eq!(answer, expected);
        }
    }

    #[test]
    fn only_what_changed_is_kept() {
        let (before, after) = (json!({ "a": 1, "b": 2 }), json!({ "a": 1, "b": 3, "c": null }));
        assert_eq!(changes(Some(before), Some(after)), (json!({ "b": 2 }), json!({ "b": 3, "c": null })));
        assert_eq!(changes(None, Some(json!({ "a": 1 }))), (json!({}), json!({ "a": 1 })));
    }
}
