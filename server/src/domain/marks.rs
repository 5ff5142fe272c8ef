//! What people mark experiments with: labels and a note. Labels are words (`overnight`) or pairs (`team=speech`), and a
//! pair is a label like any other. Decides which are refused.

use senmon_protocol::{problem::Fault, said};

/// Labels of one experiment at most.
const LABELS_MAX: usize = 50;
/// Characters of a label at most.
const LABEL_MAX: usize = 100;
/// Characters of a note at most; the schema says the same.
const NOTE_MAX: usize = 10_000;

/// Notes every fault of labels. Lists are filtered by labels that stand between commas.
pub fn labels(labels: &[String], faults: &mut Vec<Fault>) {
    if labels.len() > LABELS_MAX {
        faults.push(Fault::said("labels", said!("labels_too_many", found = labels.len(), most = LABELS_MAX)));
    }
    for (i, label) in labels.iter().enumerate() {
        let path = format!("labels[{i}]");
        let odd = |c: char| c == ',' || c.is_control();
        if label.is_empty() || label.chars().count() > LABEL_MAX || label.trim() != label || label.contains(odd) {
            let said = said!("label_malformed", found = format!("{label:?}"), most = LABEL_MAX);
            faults.push(Fault::said(path, said));
        } else if labels[..i].contains(label) {
            faults.push(Fault::said(path, said!("label_twice", found = format!("{label:?}"))));
        }
    }
}

/// Notes what is wrong with a note.
pub fn note(note: &str, faults: &mut Vec<Fault>) {
    let found = note.chars().count();
    if found > NOTE_MAX {
        faults.push(Fault::said("note", said!("note_too_long", found = found, most = NOTE_MAX)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(given: &[&str], expect: &[&str]) {
        let given: Vec<String> = given.iter().map(|label| (*label).to_owned()).collect();
        let mut faults = Vec::new();
        labels(&given, &mut faults);
        let paths: Vec<&str> = faults.iter().map(|fault| fault.path.as_str()).collect();
        assert_eq!(paths, expect, "{given:?}");
    }

    #[test]
    fn words_and_pairs_are_labels_and_what_no_filter_could_name_is_none() {
        check(&["overnight", "team=音声", "team=nlp", "two words"], &[]);
        check(
            &["a,b", "", " x", "line\nend", "ok", "ok"],
            &["labels[0]", "labels[1]", "labels[2]", "labels[3]", "labels[5]"],
        );
        check(&[&"é".repeat(101)], &["labels[0]"]);
        let many: Vec<String> = (0..51).map(|i| i.to_string()).collect();
        check(&many.iter().map(String::as_str).collect::<Vec<_>>(), &["labels"]);
    }

    #[test]
    fn a_note_is_measured_in_characters() {
        let faults = |text: &str| {
            let mut faults = Vec::new();
            note(text, &mut faults);
            faults.len()
        };
        assert_eq!((faults(&"語".repeat(10_000)), faults(&"語".repeat(10_001))), (0, 1));
    }
}
