//! The schema of the experiment file: the part of the OpenAPI document that describes it, made of the same types.

use crate::spec::ExperimentSpec;
use serde_json::{Map, Value};
use utoipa::{PartialSchema as _, ToSchema as _};

/// Name of the file's own schema among them.
pub const EXPERIMENT_FILE: &str = "ExperimentSpec";

/// Schemas by name: the experiment file's, and those that it refers to.
///
/// # Errors
/// When a schema cannot be written as JSON.
pub fn experiment_file() -> serde_json::Result<Map<String, Value>> {
    let mut schemas = vec![(EXPERIMENT_FILE.to_owned(), ExperimentSpec::schema())];
    ExperimentSpec::schemas(&mut schemas);
    schemas.into_iter().map(|(name, schema)| Ok((name, serde_json::to_value(schema)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_is_among_them() {
        let schemas = experiment_file().unwrap();
        let text = serde_json::to_string(&schemas).unwrap();
        let names: Vec<&str> =
            text.split("#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(names.len() > 10, "{names:?}");
        for name in names {
            assert!(schemas.contains_key(name), "{name}");
        }
        assert!(schemas[EXPERIMENT_FILE]["properties"]["training"].is_object());
    }
}
