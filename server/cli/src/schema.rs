//! The schema of the experiment file as shapes: what [`crate::explain`] explains and [`crate::faults`] compares with.
//!
//! It comes from the types that read the file, as the OpenAPI document does; nothing of it is written here a second time.

use senmon_protocol::schema::{EXPERIMENT_FILE, experiment_file};
use serde_json::{Map, Value};

/// The schemas.
#[derive(Debug)]
pub struct Schemas(Map<String, Value>);

/// A key of an object.
#[derive(Debug, Clone)]
pub struct Key<'a> {
    /// Its name.
    pub name: &'a str,
    /// Schema of its value.
    pub schema: &'a Value,
    /// Whether it must be given.
    pub required: bool,
}

/// One of several kinds of an object, told by a key.
#[derive(Debug, Clone)]
pub struct Variant<'a> {
    /// Value of that key.
    pub word: &'a str,
    /// The other keys.
    pub keys: Vec<Key<'a>>,
    /// What it is.
    pub about: String,
}

/// What a value is.
#[derive(Debug, Clone)]
pub enum Shape<'a> {
    /// An object of these keys.
    Object(Vec<Key<'a>>),
    /// An object whose other keys depend on the one named here.
    Kinds(&'a str, Vec<Variant<'a>>),
    /// A list.
    List(&'a Value),
    /// Names with values.
    Map(&'a Value),
    /// One of these words.
    Words(Vec<&'a str>),
    /// A count of tokens.
    Tokens,
    /// An integer from, to.
    Integer(Option<i128>, Option<i128>),
    /// A number.
    Number,
    /// Text.
    Text,
    /// A time.
    Time,
    /// True or false.
    Bool,
    /// Something that the schema does not describe.
    Any,
}

impl Schemas {
    /// Of the experiment file.
    #[must_use]
    pub fn of_experiment_file() -> Self {
        Self(experiment_file().unwrap_or_default())
    }

    /// The file itself.
    #[must_use]
    pub fn root(&self) -> &Value {
        self.0.get(EXPERIMENT_FILE).unwrap_or(&Value::Null)
    }

    /// The schema that a reference stands for, and its name; and whether null stands for it too.
    fn target<'a>(&'a self, schema: &'a Value) -> (&'a Value, Option<&'a str>, bool) {
        let (mut schema, mut name, mut is_optional) = (schema, None, false);
        loop {
            if let Some(reference) = schema["$ref"].as_str() {
                let found = reference.rsplit('/').next().unwrap_or_default();
                let Some(target) = self.0.get(found) else { return (&Value::Null, name, is_optional) };
                (schema, name) = (target, Some(found));
                continue;
            }
            let parts = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array());
            let is_null = |part: &&Value| part["type"] == "null";
            if let Some(parts) = parts
                && parts.iter().any(|part| is_null(&part))
                && let Some(part) = parts.iter().find(|part| !is_null(part))
            {
                (schema, is_optional) = (part, true);
                continue;
            }
            match schema["allOf"].as_array().map(Vec::as_slice) {
                Some([only]) => schema = only,
                _ => return (schema, name, is_optional || is_nullable(schema)),
            }
        }
    }

    /// Whether null stands for the value too.
    #[must_use]
    pub fn is_optional(&self, schema: &Value) -> bool {
        self.target(schema).2
    }

    /// What a value of a schema is.
    #[must_use]
    pub fn shape<'a>(&'a self, schema: &'a Value) -> Shape<'a> {
        let (schema, name, _) = self.target(schema);
        if name == Some("Tokens") {
            return Shape::Tokens;
        }
        if let Some(words) = words(schema) {
            return Shape::Words(words);
        }
        if let Some(parts) = schema["oneOf"].as_array() {
            return self.kinds(parts).unwrap_or(Shape::Any);
        }
        match type_of(schema) {
            Some("boolean") => Shape::Bool,
            Some("integer") => {
                let bound = |name: &str| schema[name].as_f64().and_then(|bound| format!("{bound:.0}").parse().ok());
                Shape::Integer(bound("minimum"), bound("maximum"))
            }
            Some("number") => Shape::Number,
            Some("string") if schema["format"] == "date-time" => Shape::Time,
            Some("string") => Shape::Text,
            Some("array") => Shape::List(&schema["items"]),
            Some("object") if schema["properties"].is_object() => Shape::Object(self.keys(schema)),
            Some("object") => Shape::Map(&schema["additionalProperties"]),
            _ if schema["allOf"].is_array() => Shape::Object(self.keys(schema)),
            _ => Shape::Any,
        }
    }

    /// The kinds of an object that a key with one word tells apart.
    fn kinds<'a>(&'a self, parts: &'a [Value]) -> Option<Shape<'a>> {
        let mut tag = None;
        let mut variants = Vec::new();
        for part in parts {
            let mut keys = self.keys(part);
            let told = |key: &Key<'a>| words(key.schema).filter(|words| words.len() == 1).map(|words| words[0]);
            let at = keys.iter().position(|key| told(key).is_some())?;
            let key = keys.remove(at);
            tag = Some(key.name);
            variants.push(Variant { word: told(&key)?, keys, about: self.about(part) });
        }
        Some(Shape::Kinds(tag?, variants))
    }

    /// The keys of an object, those of its parts together; what must be given first.
    fn keys<'a>(&'a self, schema: &'a Value) -> Vec<Key<'a>> {
        let parts: Vec<&Value> = match schema["allOf"].as_array() {
            Some(parts) => parts.iter().map(|part| self.target(part).0).collect(),
            None => vec![self.target(schema).0],
        };
        let of = |part: &'a Value| {
            let must: Vec<&str> = part["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let keys = part["properties"].as_object().into_iter().flatten();
            keys.map(move |(name, schema)| Key { name, schema, required: must.contains(&name.as_str()) })
        };
        let mut keys: Vec<Key<'a>> = parts.into_iter().flat_map(of).collect();
        keys.sort_by_key(|key| !key.required);
        keys
    }

    /// What a value is, in words: the key's own, else those of its type.
    #[must_use]
    pub fn about(&self, schema: &Value) -> String {
        let own = |schema: &Value| schema["description"].as_str().map(str::to_owned);
        let inner = |schema: &Value| {
            let parts = ["oneOf", "allOf", "anyOf"].iter().filter_map(|name| schema[*name].as_array()).flatten();
            parts.filter_map(own).next()
        };
        let text = own(schema).or_else(|| inner(schema)).or_else(|| own(self.target(schema).0)).unwrap_or_default();
        self.plain(&text)
    }

    /// Links between types as plain words; what only points elsewhere is that other text.
    fn plain(&self, text: &str) -> String {
        if let Some(link) = text.trim().strip_prefix("See [`").and_then(|rest| rest.strip_suffix("`].")) {
            let there = link
                .split_once("::")
                .and_then(|(name, key)| self.0.get(name)?["properties"].get(key).map(|schema| self.about(schema)));
            return there.unwrap_or_default();
        }
        text.replace("[`", "`").replace("`]", "`")
    }
}

fn is_nullable(schema: &Value) -> bool {
    schema["type"].as_array().is_some_and(|types| types.iter().any(|one| one == "null"))
}

fn type_of(schema: &Value) -> Option<&str> {
    match &schema["type"] {
        Value::String(one) => Some(one),
        Value::Array(several) => several.iter().filter_map(Value::as_str).find(|one| *one != "null"),
        _ => None,
    }
}

/// The words that a value is one of: listed, or one a part with a remark each.
fn words(schema: &Value) -> Option<Vec<&str>> {
    if let Some(word) = schema["const"].as_str() {
        return Some(vec![word]);
    }
    if let Some(listed) = schema["enum"].as_array() {
        return listed.iter().map(Value::as_str).collect();
    }
    let parts = schema["oneOf"].as_array().filter(|parts| !parts.is_empty())?;
    let each = parts.iter().map(|part| words(part).filter(|words| words.len() == 1 && !part["properties"].is_object()));
    each.map(|words| words.map(|words| words[0])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key<'a>(schemas: &'a Schemas, path: &[&str]) -> &'a Value {
        path.iter().fold(schemas.root(), |schema, name| match schemas.shape(schema) {
            Shape::Object(keys) => keys.into_iter().find(|key| key.name == *name).unwrap().schema,
            shape => panic!("{name} of {shape:?}"),
        })
    }

    #[test]
    fn the_file_has_the_shapes_of_its_types() {
        let schemas = Schemas::of_experiment_file();
        assert!(matches!(schemas.shape(key(&schemas, &["name"])), Shape::Text));
        assert!(matches!(schemas.shape(key(&schemas, &["weight_average"])), Shape::Bool));
        assert!(matches!(schemas.shape(key(&schemas, &["deadline"])), Shape::Time));
        assert!(matches!(schemas.shape(key(&schemas, &["training", "learning_rate"])), Shape::Number));
        assert!(matches!(schemas.shape(key(&schemas, &["resources", "labels"])), Shape::Map(_)));
        assert!(matches!(schemas.shape(key(&schemas, &["retention", "keep_every_tokens"])), Shape::Tokens));
        let Shape::Words(words) = schemas.shape(key(&schemas, &["training", "precision"])) else { panic!() };
        assert_eq!(words, ["fp32", "bf16"]);
        let Shape::Kinds("kind", kinds) = schemas.shape(key(&schemas, &["tokenizer"])) else { panic!() };
        assert_eq!(kinds.iter().map(|kind| kind.word).collect::<Vec<_>>(), ["train", "file"]);
        assert!(kinds[0].keys.iter().any(|key| key.name == "vocab_size" && key.required));
        let Shape::List(items) = schemas.shape(key(&schemas, &["plan"])) else { panic!() };
        assert!(matches!(schemas.shape(items), Shape::Kinds("kind", _)));
        assert!(schemas.is_optional(key(&schemas, &["model"])) && !schemas.is_optional(key(&schemas, &["data"])));
    }

    #[test]
    fn a_text_that_points_elsewhere_is_that_text() {
        let schemas = Schemas::of_experiment_file();
        assert_eq!(schemas.plain("See [`TrainingSpec::learning_rate`]."), "Peak learning rate.");
        assert_eq!(schemas.plain("As [`Tokens`] say"), "As `Tokens` say");
    }
}
