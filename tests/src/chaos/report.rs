//! What the suite found: a table for people, the same as JSON.

use anyhow::{Context, Result};
use serde::Serialize;
use std::{fs, path::Path, time::Duration};

/// One figure of a scenario.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// What it is.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// `s`, or nothing for counts.
    pub unit: &'static str,
}

/// Figures of a scenario.
pub type Figures = Vec<Figure>;

impl Figure {
    /// A count.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts for people")]
    pub fn count(name: &str, value: usize) -> Self {
        Self { name: name.to_owned(), value: value as f64, unit: "" }
    }

    /// What was checked to be none: the scenario fails where it is not.
    #[must_use]
    pub fn zero(name: &str) -> Self {
        Self::count(name, 0)
    }

    /// A time.
    #[must_use]
    pub fn of(name: &str, time: Duration) -> Self {
        Self { name: name.to_owned(), value: time.as_secs_f64(), unit: "s" }
    }

    fn text(&self) -> String {
        if self.unit.is_empty() { format!("{:.0}", self.value) } else { format!("{:.2} {}", self.value, self.unit) }
    }
}

/// How a scenario went.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Went {
    /// Everything held.
    Held {
        /// What was seen.
        figures: Figures,
    },
    /// Something did not.
    Broke {
        /// What.
        problem: String,
    },
    /// It cannot run here.
    Skipped {
        /// Why, in a sentence.
        why: String,
    },
}

/// One scenario.
#[derive(Debug, Clone, Serialize)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// How long it took.
    pub seconds: f64,
    /// How it went.
    pub went: Went,
}

/// The whole run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Seed of all choices.
    pub seed: u64,
    /// How long it took.
    pub seconds: f64,
    /// Scenarios in order.
    pub scenarios: Vec<Scenario>,
}

impl Report {
    /// Whether everything held.
    #[must_use]
    pub fn held(&self) -> bool {
        !self.scenarios.iter().any(|scenario| matches!(scenario.went, Went::Broke { .. }))
    }

    /// Writes it as JSON, whole or not at all.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write(&self, path: &Path) -> Result<()> {
        fs::create_dir_all(path.parent().context("a report lies in a folder")?)?;
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec_pretty(self)?)?;
        fs::rename(new, path).context("put the report in its place")
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        for scenario in &self.scenarios {
            let word = match &scenario.went {
                Went::Held { .. } => "held",
                Went::Broke { .. } => "BROKE",
                Went::Skipped { .. } => "skipped",
            };
            text.push_str(&format!("{:<54} {word:>8} {:>7.1} s\n", scenario.name, scenario.seconds));
            match &scenario.went {
                Went::Held { figures } => {
                    for figure in figures {
                        text.push_str(&format!("    {:<50} {:>8}\n", figure.name, figure.text()));
                    }
                }
                Went::Broke { problem } => text.push_str(&format!("    {}\n", problem.replace('\n', "\n    "))),
                Went::Skipped { why } => text.push_str(&format!("    {why}\n")),
            }
        }
        text
    }
}
