//! The OpenAPI document: what the handlers say of themselves, and what holds for every operation alike, added here so
//! that no handler can forget it.

use crate::{api::gate::ROOT, domain::access};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use utoipa::OpenApi;

/// What the handlers' own descriptions are added to.
#[derive(OpenApi)]
#[openapi(
    info(title = "Senmon", description = "c-BTM expert training: corpora, experiments, branches, checkpoints, workers. Bearer tokens; errors are application/problem+json.", license(name = "Apache-2.0", identifier = "Apache-2.0")),
    components(schemas(
        senmon_protocol::problem::Problem,
        senmon_protocol::said::SaidValue,
        senmon_protocol::view::StreamMessage
    )),
    modifiers(&Bearer)
)]
pub struct Base;

struct Bearer;

impl utoipa::Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        document.components.get_or_insert_default().add_security_scheme("bearer", scheme);
        document.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>("bearer", [])]);
    }
}

/// Refusals that operations share: status, name, what it means.
const REFUSALS: [(&str, &str, &str); 10] = [
    ("401", "Unauthenticated", "no token, or one that is not known"),
    ("403", "Forbidden", "the role may not do that"),
    ("404", "NotFound", "there is no such thing"),
    ("409", "Conflict", "the state does not allow it, or the Idempotency-Key came with another request"),
    ("412", "PreconditionFailed", "it was changed since it was read: the faults say what"),
    ("413", "TooLarge", "the body is larger than this request may have"),
    ("415", "UnsupportedMediaType", "the body is of another kind than this request may have"),
    ("422", "InvalidInput", "a parameter, a header or the body has faults; all of them are named"),
    ("429", "TooManyRequests", "ask again after `Retry-After` seconds"),
    ("503", "Unavailable", "the database or the store does not answer; ask again in a moment"),
];

/// Mutations by method that change nothing that a repeat would change again: they take no `Idempotency-Key`.
const REPEATABLE: [&str; 6] =
    ["/plan", "/session", "/login", "/login/token", "/checkpoints/{id}/verify", "/set-aside/{kind}/{id}"];

/// The whole document.
#[must_use]
pub fn finish(raw: &utoipa::openapi::OpenApi) -> Value {
    let mut document = serde_json::to_value(raw).unwrap_or_default();
    let things = Things::of(&document);
    if let Some(paths) = document["paths"].as_object_mut() {
        for (path, item) in paths {
            for (method, operation) in item.as_object_mut().into_iter().flatten() {
                complete(path.trim_start_matches(ROOT), method, operation, &things);
            }
        }
    }
    let refusals = REFUSALS.iter().map(|(status, name, words)| ((*name).to_owned(), refusal(status, words)));
    document["components"]["responses"] = Value::Object(refusals.collect());
    merge_tags(&mut document["components"]["schemas"]);
    bound(&mut document["components"]["schemas"]);
    document
}

/// An operation with all that it shares with others.
fn complete(path: &str, method: &str, operation: &mut Value, things: &Things) {
    // Handlers share names across nouns; method and path do not: `get_experiments_id_report`.
    operation["operationId"] = json!(name(path, method));
    if let Some(row) = access::operation(&method.to_uppercase(), path) {
        operation["description"] = json!(format!("Who may: {}.", access::who(row.rule).text()));
    }
    let is_people = !operation["tags"].to_string().contains("worker protocol");
    let takes_key = method != "get" && is_people && !REPEATABLE.contains(&path);
    let takes_tag = method == "patch";
    if !operation["parameters"].is_array() {
        operation["parameters"] = json!([]);
    }
    if let Some(parameters) = operation["parameters"].as_array_mut() {
        parameters.iter_mut().for_each(plain_parameter);
        if takes_key {
            parameters.push(json!({
                "name": "Idempotency-Key", "in": "header", "required": false,
                "description": "for a day the same key and request do nothing more: the answer is the one that they got",
                "schema": { "type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$" }
            }));
        }
        if takes_tag {
            parameters.push(json!({
                "name": "If-Match", "in": "header", "required": false,
                "description": "the `ETag` that was read: refused where somebody changed it since", "schema": { "type": "string" }
            }));
        }
    }
    let has_path = path.contains('{');
    let has_input = operation["parameters"].as_array().is_some_and(|all| !all.is_empty());
    let has_body = operation.get("requestBody").is_some();
    let is_open = operation["security"] == json!([{}]);
    if operation["parameters"] == json!([]) {
        operation.as_object_mut().map(|operation| operation.remove("parameters"));
    }
    let applies = |status: &str| match status {
        "401" => true,
        "403" => !is_open || path == "/session",
        "404" => has_path,
        "409" => method != "get",
        "412" => takes_tag,
        "413" | "415" => has_body,
        "422" => has_input || has_body,
        _ => true,
    };
    let Some(responses) = operation["responses"].as_object_mut() else { return };
    for (status, name, _) in REFUSALS.iter().filter(|(status, ..)| applies(status)) {
        let reference = json!({ "$ref": format!("#/components/responses/{name}") });
        responses.entry(*status).or_insert(reference);
    }
    for (status, response) in responses.iter_mut().filter(|(status, _)| status.starts_with(['4', '5'])) {
        if response.get("$ref").is_none() {
            let words = response["description"].as_str().unwrap_or_default().to_owned();
            *response = refusal(status, &words);
        }
    }
    link(path, method, responses, things);
    let streams =
        responses.values_mut().filter_map(|response| response.get_mut("content")?.get_mut("text/event-stream"));
    streams.for_each(|content| content["schema"] = event());
}

fn name(path: &str, method: &str) -> String {
    let words: Vec<&str> = path.split(['/', '{', '}']).filter(|word| !word.is_empty()).collect();
    format!("{method}_{}", words.join("_"))
}

/// A parameter that is absent is absent: there is no null in an address.
fn plain_parameter(parameter: &mut Value) {
    let schema = &mut parameter["schema"];
    let plain = schema["type"].as_array().and_then(|types| types.iter().find(|kind| *kind != "null")).cloned();
    if let Some(kind) = plain {
        schema["type"] = kind;
    }
    let is_text = schema["type"] == "string";
    if is_text && ["format", "enum", "pattern"].iter().all(|key| schema.get(*key).is_none()) {
        schema["pattern"] = json!("^[^\\u0000]*$");
    }
    bound(schema);
}

/// One server-sent event of a stream.
fn event() -> Value {
    let data = json!({ "type": "string", "contentMediaType": "application/json", "contentSchema": { "$ref": "#/components/schemas/StreamMessage" } });
    json!({ "type": "object", "required": ["data"], "properties": { "event": { "type": "string" }, "data": data } })
}

fn refusal(status: &str, words: &str) -> Value {
    let schema = json!({ "schema": { "$ref": "#/components/schemas/Problem" } });
    let mut response = json!({ "description": words, "content": { "application/problem+json": schema } });
    if ["429", "503"].contains(&status) {
        let description = "seconds after which to ask again";
        response["headers"] = json!({ "Retry-After": { "description": description, "schema": { "type": "integer" } } });
    }
    response
}

/// Gives whole numbers the bounds of their format: 300 is no uint8.
fn bound(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            // As the registry of formats writes them.
            if let Some(format) = map.get_mut("format").filter(|format| format.is_string()) {
                *format = json!(format.as_str().unwrap_or_default().replace("u-int", "uint"));
            }
            let bounds = match map.get("format").and_then(Value::as_str) {
                Some("uint8") => Some((json!(0), json!(u8::MAX))),
                Some("uint16") => Some((json!(0), json!(u16::MAX))),
                Some("uint32") => Some((json!(0), json!(u32::MAX))),
                Some("uint64") => Some((json!(0), json!(u64::MAX))),
                Some("int32") => Some((json!(i32::MIN), json!(i32::MAX))),
                Some("int64") => Some((json!(i64::MIN), json!(i64::MAX))),
                _ => None,
            };
            if let Some((minimum, maximum)) = bounds {
                map.entry("minimum").or_insert(minimum);
                map.entry("maximum").or_insert(maximum);
            }
            map.values_mut().for_each(bound);
        }
        Value::Array(items) => items.iter_mut().for_each(bound),
        _ => {}
    }
}

/// What can be done with one thing of each noun: `branches` to the operations at `/branches/{id}` and below.
struct Things {
    operations: BTreeMap<String, Vec<String>>,
    /// By the schema of one thing, its noun.
    shapes: BTreeMap<String, String>,
}

impl Things {
    fn of(document: &Value) -> Self {
        let mut things = Self { operations: BTreeMap::new(), shapes: BTreeMap::new() };
        for (path, item) in document["paths"].as_object().into_iter().flatten() {
            let path = path.trim_start_matches(ROOT);
            let words: Vec<&str> = path.split('/').skip(1).collect();
            if words.get(1) != Some(&"{id}") || path.matches('{').count() != 1 {
                continue;
            }
            let here = things.operations.entry(words[0].to_owned()).or_default();
            here.extend(item.as_object().into_iter().flat_map(Map::keys).map(|method| name(path, method)));
            if let (2, Some(shape)) = (words.len(), shape(&item["get"]["responses"]["200"])) {
                things.shapes.insert(shape.to_owned(), words[0].to_owned());
            }
        }
        things
    }

    /// Links to all that can be done with a thing of this noun, whose id is there in the answer.
    fn links(&self, noun: &str, id: &str, is_wanted: impl Fn(&str) -> bool) -> Value {
        let operations = self.operations.get(noun).into_iter().flatten().filter(|operation| is_wanted(operation));
        let links = operations.map(|operation| {
            let parameters = json!({ "id": format!("$response.body#/{id}") });
            (operation.clone(), json!({ "operationId": operation, "parameters": parameters }))
        });
        Value::Object(links.collect())
    }
}

/// Name of the schema of an answer.
fn shape(response: &Value) -> Option<&str> {
    response["content"]["application/json"]["schema"]["$ref"].as_str()?.rsplit('/').next()
}

/// Links from what makes a thing, or lists some, to all that can be done with it.
fn link(path: &str, method: &str, responses: &mut Map<String, Value>, things: &Things) {
    let last = path.rsplit('/').next().unwrap_or_default();
    for (_, response) in responses.iter_mut().filter(|(status, _)| status.starts_with('2')) {
        let Some(shape) = shape(response).map(str::to_owned) else { continue };
        let links = match (method, things.shapes.get(&shape)) {
            ("post", Some(noun)) => things.links(noun, "id", |_| true),
            ("post", None) if !path.contains('{') => {
                things.links(last, if last == "workers" { "worker_id" } else { "id" }, |_| true)
            }
            // The first of a list is as good as any; nobody deletes it for that.
            ("get", _) if shape.starts_with("Page") => {
                things.links(last, "items/0/id", |operation| !operation.starts_with("delete"))
            }
            _ => continue,
        };
        if links.as_object().is_some_and(|links| !links.is_empty()) {
            response["links"] = links;
        }
    }
}

/// Variants that are told apart by a tag, as one object each: the tag is none of the unknown keys that the variant's own
/// schema refuses.
fn merge_tags(schemas: &mut Value) {
    let all = schemas.clone();
    for schema in schemas.as_object_mut().into_iter().flat_map(Map::values_mut) {
        for variant in schema["oneOf"].as_array_mut().into_iter().flatten() {
            let Some([own, tag]) = variant["allOf"].as_array().map(Vec::as_slice) else { continue };
            let name = own["$ref"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default();
            let mut merged = all[name].clone();
            if merged["additionalProperties"] != json!(false) {
                continue;
            }
            for (key, value) in tag["properties"].as_object().into_iter().flatten() {
                merged["properties"][key] = value.clone();
            }
            let required =
                [&merged["required"], &tag["required"]].map(|list| list.as_array().cloned().unwrap_or_default());
            merged["required"] = json!(required.concat());
            *variant = merged;
        }
        if schema["oneOf"].is_null() {
            schema.as_object_mut().map(|schema| schema.remove("oneOf"));
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_operation_says_what_it_refuses_and_how() {
        let document = crate::api::openapi();
        let mut seen = 0;
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let responses = operation["responses"].as_object().unwrap();
                for status in ["401", "429", "503"] {
                    assert!(responses.contains_key(status), "{method} {path}: {status}");
                }
                for (status, response) in responses.iter().filter(|(status, _)| status.starts_with(['4', '5'])) {
                    let is_problem = response["content"]["application/problem+json"].is_object();
                    assert!(is_problem || response["$ref"].is_string(), "{method} {path} {status}: {response}");
                }
                assert!(operation.get("requestBody").is_none() || responses.contains_key("415"), "{method} {path}");
                seen += 1;
            }
        }
        assert!(seen > 50, "{seen} operations");
        let made = &document["paths"]["/api/v1/experiments"]["post"]["responses"]["202"]["links"];
        assert!(made["get_experiments_id"].is_object() && made["delete_experiments_id"].is_object(), "{made}");
        let priority = &document["components"]["schemas"]["ChangeExperiment"]["properties"]["priority"];
        assert_eq!(priority["maximum"], 255, "{priority}");
    }
}
