//! How documents are written, as a JSON Schema (draft 7, which editors know best).
//!
//! It is for whoever writes: an editor completes and explains the fields, and marks what the loader
//! would refuse. Where the two differ the schema takes more: it sees one document at a time, and
//! neither templates nor what stands behind a reference. What it refuses, the loader refuses.

use schemars::Schema;
use serde_json::{Map, Value, json};

use crate::resolve::{COMMON_KEYS, SecretKey};
use crate::{forms, legacy};

/// What a schema has to know of a type.
pub struct TypeWords<'a> {
    /// The canonical name.
    pub name: &'a str,
    /// Other names for it.
    pub aliases: &'a [&'a str],
    /// The URL schemes that are this type where no `type` is given.
    pub url_schemes: &'a [&'a str],
    /// The keys of a whole secret that it reads beside those that every type does.
    pub secret_keys: &'static [SecretKey],
    /// How its `spec.properties` are written; unknown for a type that this build cannot probe.
    pub properties: Option<Schema>,
}

/// The schema of one document. `annotations`: those of a connection that mean something, each with
/// how it is written; `prefix` is what they start with, and nobody else's do.
pub fn schema(types: &[TypeWords<'_>], prefix: &str, annotations: Map<String, Value>) -> Value {
    let known: Vec<&String> = annotations.keys().collect();
    let annotations = json!({
        "description": "Annotations; those of conncheck say how often and how long.",
        "type": ["object", "null"],
        "properties": annotations,
        "propertyNames": {
            "anyOf": [{ "enum": known }, { "not": { "pattern": format!("^{prefix}") } }],
        },
        "additionalProperties": text(),
    });
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "conncheck",
        "description": "A document that conncheck reads: a Connection, or a Secret, ConfigMap or List beside it. Documents of other kinds are passed over.",
        "$ref": "#/definitions/document",
        "definitions": {
            "document": document(),
            "connection": connection(),
            "connectionMetadata": metadata(Some(annotations)),
            "metadata": metadata(None),
            "spec": spec(types),
            "value": value(),
            "namesProperties": names_properties(),
            "keyRef": key_ref(),
            "texts": {
                "type": ["object", "null"],
                "additionalProperties": text(),
            },
            "secret": secret(),
            "configMap": config_map(),
            "list": list(json!({ "$ref": "#/definitions/document" })),
            "connectionList": list(json!({ "$ref": "#/definitions/connection" })),
            "secretList": list(json!({ "$ref": "#/definitions/secret" })),
            "configMapList": list(json!({ "$ref": "#/definitions/configMap" })),
        },
    })
}

/// A document of any kind.
fn document() -> Value {
    let kinds = [
        ("Connection", "connection"),
        ("Secret", "secret"),
        ("ConfigMap", "configMap"),
        ("List", "list"),
        ("ConnectionList", "connectionList"),
        ("SecretList", "secretList"),
        ("ConfigMapList", "configMapList"),
    ];
    let mut rules: Vec<Value> = kinds
        .map(|(kind, definition)| {
            json!({
                "if": { "required": ["kind"], "properties": { "kind": { "const": kind } } },
                "then": { "$ref": format!("#/definitions/{definition}") },
            })
        })
        .into();
    // A Connection is what most want to write, so its fields are completed before `kind` is there.
    rules.push(json!({
        "if": { "not": { "required": ["kind"] } },
        "then": {
            "properties": {
                "metadata": { "$ref": "#/definitions/connectionMetadata" },
                "spec": { "$ref": "#/definitions/spec" },
            },
        },
    }));
    // Other people have similar names (`Collection`), which theirs must not be taken for.
    for (kind, pattern, versions) in [
        (
            "Connection",
            close_to("Connection"),
            r"^v1$|mission-control|flanksource",
        ),
        ("Secret", close_to("Secret"), "^v1$"),
        ("ConfigMap", close_to("ConfigMap"), "^v1$"),
        ("List", any_case("List"), "^v1$"),
    ] {
        rules.push(json!({
            "if": {
                "required": ["kind"],
                "properties": {
                    "kind": { "type": "string", "pattern": format!("^({pattern})$") },
                    "apiVersion": { "pattern": versions },
                },
            },
            "then": { "properties": { "kind": { "const": kind } } },
        }));
    }
    json!({
        "type": ["object", "null"],
        "properties": {
            "apiVersion": {
                "description": "`mission-control.flanksource.com/v1` for a Connection, `v1` for a Secret, ConfigMap or List.",
                "examples": [crate::document::API_VERSION, "v1"],
            },
            "kind": {
                "description": "`Connection`; `Secret`, `ConfigMap` and `List` are read as well, all other kinds passed over.",
                "type": ["string", "number", "boolean"],
                "examples": kinds.map(|(kind, _)| kind),
            },
        },
        // An empty document is none.
        "anyOf": [{ "required": ["kind"] }, { "maxProperties": 0 }],
        "allOf": rules,
    })
}

fn connection() -> Value {
    json!({
        "type": "object",
        "properties": {
            "apiVersion": {
                "description": "`mission-control.flanksource.com/v1`. Another is taken with a warning.",
                "examples": [crate::document::API_VERSION],
            },
            "kind": { "const": "Connection" },
            "metadata": { "$ref": "#/definitions/connectionMetadata" },
            "spec": { "$ref": "#/definitions/spec" },
            "status": true,
        },
        "required": ["metadata", "spec"],
        "additionalProperties": false,
    })
}

fn metadata(annotations: Option<Value>) -> Value {
    let mut fields: Map<String, Value> = (crate::document::METADATA.iter())
        .map(|field| ((*field).to_owned(), json!(true)))
        .collect();
    fields.insert(
        "name".to_owned(),
        json!({
            "description": "Its name: with the namespace it is what tells it from all others.",
            "type": ["string", "number", "boolean"],
            "maxLength": 253,
            "pattern": OBJECT_NAME,
            "patternErrorMessage": NAME_MESSAGE,
        }),
    );
    fields.insert(
        "namespace".to_owned(),
        namespace("Its namespace; `default` when left out."),
    );
    fields.insert(
        "labels".to_owned(),
        json!({
            "description": "Labels: they select (`--select`) and override; `spec.labels` wins.",
            "$ref": "#/definitions/texts",
        }),
    );
    let annotations = annotations.unwrap_or_else(|| json!({ "$ref": "#/definitions/texts" }));
    fields.insert("annotations".to_owned(), annotations);
    json!({
        "description": "Who it is.",
        "type": "object",
        "properties": fields,
        "required": ["name"],
        "additionalProperties": false,
    })
}

/// What may be the name of an object in Kubernetes.
const OBJECT_NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
const NAME_MESSAGE: &str = "A name has lower-case letters, digits and inner - and .";

fn namespace(description: &str) -> Value {
    json!({
        "description": description,
        "type": ["string", "number", "boolean", "null"],
        "maxLength": 63,
        "pattern": "^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$",
        "patternErrorMessage": "A namespace has lower-case letters, digits and inner -.",
    })
}

fn spec(types: &[TypeWords<'_>]) -> Value {
    let value =
        |description: &str| json!({ "description": description, "$ref": "#/definitions/value" });
    let text = |description: &str| json!({ "description": description, "type": ["string", "number", "boolean", "null"] });
    let mut fields = json!({
        "type": type_name(types),
        "url": value("Where, in the form of the type. `$(username)`, `$(password)` and `$(properties.KEY)` are filled in."),
        "username": value("Who we are; wins over what stands in the URL."),
        "password": value("Wins over what stands in the URL. Best a reference: `secret://NAME/KEY`."),
        "secretRef": secret_ref(types),
        "caCert": value("PEM, or a reference to it: replaces the machine's trusted authorities for this connection."),
        "clientCert": value("PEM, or a reference to it: our certificate for mutual TLS."),
        "clientKey": value("PEM, or a reference to it: the key of `clientCert`."),
        "insecureSkipVerify": forms::switch_schema(),
        "properties": {
            "description": "The settings of the type.",
            "type": ["object", "null"],
        },
        "name": text("A name for people."),
        "description": text("What it is, for people."),
        "labels": {
            "description": "Labels: they select (`--select`) and override.",
            "$ref": "#/definitions/texts",
        },
        "icon": text("A picture, for people."),
        "certificate": value("`caCert` in the legacy form; the login of `kubernetes` and `gcp`."),
        "port": value("Put into the `url`."),
        "insecure_tls": forms::switch_schema(),
    });
    fields["insecureSkipVerify"]["description"] =
        "Accept any certificate. It is recorded all the same.".into();
    fields["insecure_tls"]["description"] = "`insecureSkipVerify` in the legacy form.".into();
    let property = |type_name: &str, name: &str| {
        let ty = types.iter().find(|ty| ty.name == type_name)?;
        ty.properties
            .as_ref()?
            .get("properties")?
            .get(name)
            .cloned()
    };
    let mut blocks = Vec::new();
    for (name, schema) in forms::schemas(property) {
        fields[name] = schema;
        blocks.push(json!({ "required": [name] }));
    }
    let is_block = json!({ "anyOf": blocks.clone() });
    let mut rules: Vec<Value> = types.iter().filter_map(settings_of).collect();
    rules.push(json!({
        "if": {
            "properties": { "type": { "type": "null" } },
            "required": ["url"],
            "not": is_block,
        },
        "then": {
            "properties": { "url": literal(&pattern_of_schemes(types.iter().flat_map(|ty| ty.url_schemes))) },
        },
    }));
    rules.push(json!({ "if": is_block, "then": { "oneOf": blocks } }));
    json!({
        "description": "What is to be probed, and how.",
        "type": "object",
        "properties": fields,
        "additionalProperties": false,
        "anyOf": [{ "required": ["type"] }, { "required": ["url"] }, is_block],
        // A secret or a block may bring the other one.
        "if": { "not": { "anyOf": [{ "required": ["secretRef"] }, is_block] } },
        "then": { "dependencies": { "clientKey": ["clientCert"] } },
        "allOf": rules,
    })
}

/// `spec.type`: what an editor suggests, and every other way to write it.
fn type_name(types: &[TypeWords<'_>]) -> Value {
    let mut names = Vec::new();
    let mut explained = Vec::new();
    for ty in types {
        names.push(ty.name);
        explained.push(match ty.aliases {
            [] => String::new(),
            aliases => format!("also called {}", aliases.join(", ")),
        });
    }
    for ty in types {
        for alias in ty.aliases {
            names.push(alias);
            explained.push(format!("the same as {}", ty.name));
        }
    }
    let pattern = any_of(names.iter().copied());
    json!({
        "description": "What it is; case does not matter. Without it the scheme of `url` decides.",
        "anyOf": [
            { "enum": names, "enumDescriptions": explained },
            { "type": ["string", "null"], "pattern": pattern },
        ],
    })
}

/// What holds for the connections of one type.
fn settings_of(ty: &TypeWords<'_>) -> Option<Value> {
    let mut properties = ty.properties.clone()?;
    properties.insert("type".to_owned(), json!(["object", "null"]));
    // What a template names need not be a setting.
    properties.remove("additionalProperties");
    let own = properties.get("properties").cloned().unwrap_or_default();
    let legacy = legacy::schemas(ty.name, &|name| own.get(name).cloned());
    if let Some(Value::Object(known)) = properties.get_mut("properties") {
        known.extend(
            legacy
                .into_iter()
                .map(|(name, schema)| (name.to_owned(), schema)),
        );
    }
    let known: Vec<String> = (properties.get("properties").and_then(Value::as_object))
        .map(|known| known.keys().cloned().collect())
        .unwrap_or_default();
    let names = any_of([ty.name].into_iter().chain(ty.aliases.iter().copied()));
    let mut when = vec![json!({
        "required": ["type"],
        "properties": { "type": { "type": "string", "pattern": names } },
    })];
    if !ty.url_schemes.is_empty() {
        when.push(json!({
            "required": ["url"],
            "properties": {
                "type": { "type": "null" },
                "url": literal(&pattern_of_schemes(ty.url_schemes)),
            },
        }));
    }
    Some(json!({
        "if": { "anyOf": when },
        "then": {
            "properties": { "properties": properties },
            "if": { "not": { "$ref": "#/definitions/namesProperties" } },
            "then": { "properties": { "properties": { "propertyNames": { "enum": known } } } },
        },
    }))
}

/// Whether a template somewhere in it names a property.
fn names_properties() -> Value {
    let this = json!({ "$ref": "#/definitions/namesProperties" });
    json!({
        "anyOf": [
            { "type": "string", "pattern": r"(\$\(|\{\{) *properties\." },
            { "type": "array", "contains": this },
            { "type": "object", "not": { "additionalProperties": { "not": this } } },
        ],
    })
}

/// A value whose text is there and looks like this.
fn literal(pattern: &str) -> Value {
    json!({
        "type": ["string", "object"],
        "pattern": pattern,
        "patternErrorMessage": "No type has URLs with this scheme: say which it is with `type`.",
        "required": ["value"],
        "properties": { "value": { "type": "string", "pattern": pattern } },
    })
}

fn pattern_of_schemes<'a>(schemes: impl IntoIterator<Item = &'a &'a str>) -> String {
    let schemes: Vec<String> = schemes.into_iter().map(|scheme| any_case(scheme)).collect();
    format!(r"^\s*({})://", schemes.join("|"))
}

/// A text, a number, `true` or a reference; or `{value: …}`, or `{valueFrom: …}`.
fn value() -> Value {
    json!({
        "type": ["string", "number", "boolean", "object", "null"],
        "allOf": [reference()],
        "properties": {
            "name": true,
            "value": {
                "description": "The text itself.",
                "type": ["string", "number", "boolean", "null"],
                "allOf": [reference()],
            },
            "valueFrom": {
                "description": "Where the text is.",
                "type": ["object", "null"],
                "properties": {
                    "secretKeyRef": {
                        "description": "A key of a secret.",
                        "$ref": "#/definitions/keyRef",
                    },
                    "configMapKeyRef": {
                        "description": "A key of a config map.",
                        "$ref": "#/definitions/keyRef",
                    },
                },
                "additionalProperties": false,
                "minProperties": 1,
                "maxProperties": 1,
            },
        },
        "additionalProperties": false,
        // An empty one is nothing.
        "anyOf": [{ "maxProperties": 0 }, { "required": ["value"] }, { "required": ["valueFrom"] }],
        "if": {
            "type": "object",
            "required": ["value", "valueFrom"],
            "properties": { "valueFrom": { "type": "object" } },
        },
        "then": { "properties": { "value": { "enum": [null, ""] } } },
    })
}

/// What starts like a reference must be one.
fn reference() -> Value {
    let key = r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?/[-_.A-Za-z0-9]+";
    let pattern = format!(
        r"^\s*(secret://{key}|configmap://{key}|file:///[\s\S]*\S|env://[A-Za-z_][A-Za-z0-9_]*)\s*$"
    );
    json!({
        "if": { "type": "string", "pattern": r"^\s*(secret|configmap|file|env|helm|serviceaccount|connection)://" },
        "then": {
            "pattern": pattern,
            "patternErrorMessage": "A reference is written secret://NAME/KEY, configmap://NAME/KEY, file:///path or env://NAME.",
        },
    })
}

fn key_ref() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": object_name(),
            "key": { "description": "The key in it.", "type": ["string", "number", "boolean"], "minLength": 1 },
        },
        "required": ["name", "key"],
        "additionalProperties": false,
    })
}

fn secret_ref(types: &[TypeWords<'_>]) -> Value {
    let own: String = types
        .iter()
        .filter(|ty| !ty.secret_keys.is_empty())
        .map(|ty| {
            format!(
                "; of `{}` also {}",
                ty.name,
                SecretKey::listed(ty.secret_keys.iter().copied())
            )
        })
        .collect();
    let common = SecretKey::listed(COMMON_KEYS);
    json!({
        "description": format!("A secret: with `key` one value of it, without all of it. Then these of its keys are read: {common}{own}. Wins over `username` and `password`."),
        "type": ["object", "null"],
        "properties": {
            "name": object_name(),
            "namespace": namespace("The namespace of the secret; the connection's own when left out."),
            "key": {
                "description": "One value of the secret: the URL if it is named like one, else what the type says (mostly the password).",
                "type": ["string", "number", "boolean", "null"],
            },
        },
        "required": ["name"],
        "additionalProperties": false,
    })
}

fn object_name() -> Value {
    json!({
        "description": "Its name.",
        "type": ["string", "number", "boolean"],
        "maxLength": 253,
        "pattern": OBJECT_NAME,
        "patternErrorMessage": NAME_MESSAGE,
    })
}

fn secret() -> Value {
    let plain = json!({
        "type": "object",
        "properties": {
            "apiVersion": true,
            "kind": { "const": "Secret" },
            "metadata": { "$ref": "#/definitions/metadata" },
            "type": true,
            "immutable": true,
            "data": {
                "description": "The values in base64. Plain text goes under `stringData`.",
                "type": ["object", "null"],
                "additionalProperties": {
                    "type": ["string", "number", "boolean", "null"],
                    "pattern": r"^\s*([A-Za-z0-9+/]\s*)*(=\s*){0,2}$",
                    "patternErrorMessage": "Not base64; plain text goes under stringData.",
                },
            },
            "stringData": {
                "description": "The values as they are.",
                "$ref": "#/definitions/texts",
            },
        },
        "required": ["metadata"],
        "additionalProperties": false,
    });
    // One that sops encrypted is passed over.
    json!({ "if": { "required": ["sops"] }, "else": plain })
}

fn config_map() -> Value {
    json!({
        "type": "object",
        "properties": {
            "apiVersion": true,
            "kind": { "const": "ConfigMap" },
            "metadata": { "$ref": "#/definitions/metadata" },
            "immutable": true,
            "data": { "description": "The values as they are.", "$ref": "#/definitions/texts" },
            "binaryData": true,
        },
        "required": ["metadata"],
        "additionalProperties": false,
    })
}

fn list(item: Value) -> Value {
    json!({
        "type": "object",
        "properties": {
            "apiVersion": true,
            "kind": true,
            "metadata": true,
            "items": { "type": ["array", "null"], "items": item },
        },
        "required": ["items"],
        "additionalProperties": false,
    })
}

/// What is read as text.
fn text() -> Value {
    json!({ "type": ["string", "number", "boolean", "null"] })
}

/// A pattern for any of `words`, in any case.
fn any_of<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.map(any_case).collect();
    format!(r"^\s*({})\s*$", words.join("|"))
}

/// A pattern for `word` in any case. Those of a JSON Schema have no flag for it.
fn any_case(word: &str) -> String {
    let any = |c: char| match c.is_ascii_alphabetic() {
        true => format!("[{}{}]", c.to_ascii_lowercase(), c.to_ascii_uppercase()),
        false if matches!(c, '+' | '.') => format!(r"\{c}"),
        false => c.to_string(),
    };
    word.chars().map(any).collect()
}

/// A pattern for `word` in any case with one slip: a letter too many, too few, wrong, or swapped with
/// its neighbour.
fn close_to(word: &str) -> String {
    let mut forms = vec![any_case(word)];
    for at in 0..word.len() {
        let (before, rest) = word.split_at(at);
        let (letter, after) = rest.split_at(1);
        forms.push(format!("{}[A-Za-z]?{}", any_case(before), any_case(after)));
        forms.push(format!("{}[A-Za-z]{}", any_case(before), any_case(rest)));
        if let Some(next) = after.chars().next() {
            let swapped = format!("{before}{next}{letter}{}", &after[1..]);
            forms.push(any_case(&swapped));
        }
    }
    forms.push(format!("{}[A-Za-z]", any_case(word)));
    forms.join("|")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(schema: &Value, of: &str) -> Vec<String> {
        let fields = &schema["definitions"][of]["properties"];
        let mut fields: Vec<String> = fields.as_object().unwrap().keys().cloned().collect();
        fields.sort();
        fields
    }

    fn sorted(fields: &[&str]) -> Vec<String> {
        let mut fields: Vec<String> = fields.iter().map(|field| (*field).to_owned()).collect();
        fields.sort();
        fields
    }

    #[test]
    fn the_fields_are_those_of_the_loader() {
        let schema = schema(&[], "conncheck/", Map::new());
        assert_eq!(
            fields(&schema, "metadata"),
            sorted(&crate::document::METADATA)
        );
        assert_eq!(
            fields(&schema, "connectionMetadata"),
            sorted(&crate::document::METADATA)
        );
        let spec: Vec<&str> = (crate::document::SPEC.into_iter())
            .chain(crate::document::LEGACY)
            .chain(forms::blocks().map(|block| block.name))
            .collect();
        assert_eq!(fields(&schema, "spec"), sorted(&spec));
    }
}
