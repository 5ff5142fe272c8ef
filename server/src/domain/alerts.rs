//! Which events are occasions for alerts, what a message says, and when it is sent again.

use chrono::TimeDelta;
use senmon_protocol::{
    alert::{AlertMessage, AlertTarget, Occasion},
    said,
    said::Said,
    view::EventView,
};
use serde_json::{Value, json};

/// Why no mail is sent.
#[must_use]
pub fn no_mail() -> Said {
    said!("alert_no_mail")
}

/// The occasion that an event is, if it is one.
#[must_use]
pub fn occasion(kind: &str, level: &str) -> Option<Occasion> {
    Some(match kind {
        "experiment_completed" => Occasion::Finished,
        "experiment_failed" | "branch_failed" => Occasion::Failed,
        "loss_spike" | "rolled_back" => Occasion::LossSpike,
        "step_skipped" => Occasion::NotFinite,
        "chain_forgot" => Occasion::Forgetting,
        "experiment_stalled" => Occasion::Stalled,
        "budget_spent" | "deadline_missed" => Occasion::Budget,
        "worker_lost" | "worker_set_aside" | "slot_set_aside" | "device_xid" => Occasion::WorkerLost,
        "storage_nearly_full" | "disk_low" | "disk_full" | "store_disk_low" | "database_nearly_full" => {
            Occasion::StorageLow
        }
        "loop_failing" | "set_aside" | "store_ahead" | "store_unknown" | "checkpoint_damaged" if level != "info" => {
            Occasion::Server
        }
        _ => return None,
    })
}

/// What a message says that no event is behind.
#[must_use]
pub fn test(alert: &str) -> Said {
    said!("alert_test", alert = alert)
}

/// What people are told: of which experiment, and what.
#[must_use]
pub fn told(alert: &str, experiment: Option<&str>, event: Option<&EventView>) -> Said {
    let Some(event) = event else { return test(alert) };
    let what = event.said.clone().unwrap_or_else(|| Said::verbatim(event.text.as_str()));
    match experiment {
        Some(experiment) => said!("alert_of_experiment", experiment = experiment, what = what),
        None => what,
    }
}

/// What is posted; None where it goes by mail.
#[must_use]
pub fn body(target: &AlertTarget, message: &AlertMessage) -> Option<Value> {
    match target {
        AlertTarget::Webhook(_) => Some(json!(message)),
        AlertTarget::Slack(_) => Some(json!({ "text": message.text })),
        AlertTarget::Mail(_) => None,
    }
}

/// How long to wait before a message is sent again that was sent so often; None when that was often enough (after about
/// nine hours).
#[must_use]
pub fn again(tries: u32) -> Option<TimeDelta> {
    (tries < 12).then(|| TimeDelta::seconds((10_i64 << tries.min(9)).min(3600)))
}

/// An address without what may be a secret: its scheme and host.
#[must_use]
pub fn shown(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let more = if rest.len() > authority.len() { "/…" } else { "" };
    format!("{scheme}://{host}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use senmon_protocol::said::Lang;

    #[test]
    fn messages_are_sent_again_less_and_less_often_and_not_for_ever() {
        let waits: Vec<i64> = (1..).map_while(again).map(|wait| wait.num_seconds()).collect();
        assert!(waits.is_sorted() && waits[0] == 20 && waits.last() == Some(&3600), "{waits:?}");
        assert!((4 * 3600..12 * 3600).contains(&waits.iter().sum::<i64>()), "{waits:?}");
    }

    #[test]
    fn secrets_of_an_address_are_not_shown() {
        let check = |url: &str, expect: &str| assert_eq!(shown(url), expect);
        check("https://hooks.example.com/services/T0/B0/secret", "https://hooks.example.com/…");
        check("https://user:secret@example.com:8443?token=secret", "https://example.com:8443/…");
        check("http://example.com", "http://example.com");
    }

    #[test]
    fn a_message_names_its_experiment_in_either_language() {
        let event = EventView {
            id: 1,
            at: chrono::DateTime::UNIX_EPOCH,
            kind: "budget_spent".into(),
            level: "warn".into(),
            text: "An old sentence.".into(),
            said: None,
            experiment_id: None,
            branch_id: None,
            worker_id: None,
            step: None,
        };
        let check = |told: Said, en: &str, ja: &str| {
            let words = [Lang::English, Lang::Japanese].map(|lang| told.in_words(lang).unwrap());
            assert_eq!(words, [en, ja]);
        };
        check(told("night", Some("demo"), Some(&event)), "demo: An old sentence.", "demo: An old sentence.");
        let event = EventView { said: Some(said!("next_waits")), ..event };
        let (en, ja) = ("demo: It waits to be resumed.", "demo: 再開されるのを待ちます。");
        check(told("night", Some("demo"), Some(&event)), en, ja);
        let en = "This is a test of the alert night: messages arrive.";
        check(told("night", None, None), en, "通知 night のテストです。メッセージは届いています。");
    }

    #[test]
    fn what_is_calm_is_no_occasion() {
        assert_eq!(occasion("worker_enrolled", "info"), None);
        assert_eq!(occasion("storage_has_room", "info"), None);
        assert_eq!(occasion("worker_lost", "warn"), Some(Occasion::WorkerLost));
    }
}
