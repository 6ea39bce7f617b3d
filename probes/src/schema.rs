//! How settings are written, for the JSON Schema that `--schema` prints.
//!
//! `#[derive(JsonSchema)]` on a type's `Settings` makes their doc comments what an editor shows. A
//! setting that reads itself (`impl Deserialize`) says here how it is written, with [`written!`].
//! [`of_settings`] then allows what the reader of definitions allows everywhere: a number or `true`
//! where text stands, text where a number stands, a reference or template in place of either, and
//! `{value: …}` or `{valueFrom: …}` in place of all of them.

use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use schemars::{JsonSchema, Schema, json_schema};
use serde_json::{Value, json};

/// `written!(Type: schema)`: how a type that reads itself is written.
macro_rules! written {
    ($ty:ident: $schema:expr) => {
        impl schemars::JsonSchema for $ty {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($ty).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                $schema
            }
        }
    };
}
pub(crate) use written;

/// The schema of `spec.properties` of a type.
pub(crate) fn of_settings<S: JsonSchema>() -> Schema {
    let settings = SchemaSettings::draft07().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<S>();
    Lenient.transform(&mut schema);
    // The name of a Rust type, and what is said of it, mean nothing to whoever writes YAML.
    schema.remove("title");
    schema.remove("description");
    schema
}

/// One of `words`, in any case; those are what an editor suggests. The words of `also` are taken as
/// well. (As it stands this asks for both, a suggestion and a match; [`Lenient`] makes it either.)
pub(crate) fn words(words: &[&str], also: &[&str]) -> Schema {
    let all = || words.iter().chain(also);
    let pattern: Vec<String> = all().map(|word| any_case(word)).collect();
    let mut types = vec!["string"];
    if all().any(|word| *word == "true") {
        types.push("boolean");
    }
    if all().any(|word| word.bytes().all(|b| b.is_ascii_digit())) {
        types.push("integer");
    }
    json_schema!({
        "enum": words,
        "type": types,
        "pattern": format!(r"^\s*({})\s*$", pattern.join("|")),
    })
}

/// A pattern for `word` in any case. JSON Schema's have no flag for that.
fn any_case(word: &str) -> String {
    let any = |c: char| match c {
        '-' => "[-_]".to_owned(),
        _ if c.is_ascii_alphabetic() => {
            format!("[{}{}]", c.to_ascii_lowercase(), c.to_ascii_uppercase())
        }
        _ => c.to_string(),
    };
    word.chars().map(any).collect()
}

/// A reference or a template: what it stands for is not known to an editor.
const LATER: &str = r"^\s*(secret|configmap|file|env)://|\$\(|\{\{";

/// Allows what the reader of definitions allows in place of a scalar.
#[derive(Clone)]
struct Lenient;

impl Transform for Lenient {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        if let Some(Value::String(text)) = schema.get_mut("description") {
            // Where our own lines end is of no meaning.
            *text = text
                .split("\n\n")
                .map(|part| part.replace('\n', " "))
                .collect::<Vec<_>>()
                .join("\n\n");
        }
        // What is not given is not `null` to a reader of the schema.
        schema.remove("default");
        schema.remove("format");
        let types = match schema.get("type") {
            Some(Value::String(name)) => vec![name.clone()],
            Some(Value::Array(names)) => (names.iter().filter_map(Value::as_str))
                .map(str::to_owned)
                .collect(),
            _ => return,
        };
        let has = |name: &str| types.iter().any(|ty| ty == name);
        let text = |pattern: &str| format!("{LATER}|{pattern}");
        let pattern = schema.get("pattern").and_then(Value::as_str).map(text);
        if let Some(Value::Array(mut words)) = schema.remove("enum") {
            words.retain(|word| !word.is_null());
            schema.remove("type");
            schema.remove("pattern");
            let pattern = pattern.unwrap_or_else(|| LATER.to_owned());
            let forms = json!([{ "enum": words }, { "type": types, "pattern": pattern }, object()]);
            schema.insert("anyOf".to_owned(), forms);
            return;
        }
        let given = || {
            types
                .iter()
                .map(String::as_str)
                .filter(|name| *name != "null")
        };
        let (mut names, usual): (Vec<&str>, Option<(&str, &str)>) = if has("string") {
            match pattern {
                // Whether a number keeps to a pattern is its author's to say.
                Some(_) => (given().collect(), None),
                None => (vec!["string", "number", "boolean"], None),
            }
        } else if has("integer") {
            let whole = r"^[-+]?(0x[0-9a-fA-F]+|0o[0-7]+|[0-9]+)$";
            (vec!["integer", "string"], Some((whole, "A whole number.")))
        } else if has("number") {
            let number = r"^[-+0-9.eE]*[0-9][-+0-9.eE]*$";
            (vec!["number", "string"], Some((number, "A number.")))
        } else if has("boolean") {
            let either = r"^([Tt]rue|TRUE|[Ff]alse|FALSE)$";
            (vec!["boolean", "string"], Some((either, "true or false.")))
        } else {
            return;
        };
        if has("null") {
            names.push("null");
        }
        names.push("object");
        for (key, constraint) in object().as_object().into_iter().flatten() {
            if schema.get(key).is_none() {
                schema.insert(key.clone(), constraint.clone());
            }
        }
        schema.insert("type".to_owned(), json!(names));
        if let Some((usual, message)) = usual {
            schema.insert("pattern".to_owned(), text(usual).into());
            // What editors show in place of the pattern.
            schema.insert("patternErrorMessage".to_owned(), message.into());
        } else if let Some(pattern) = pattern {
            schema.insert("pattern".to_owned(), pattern.into());
        }
    }
}

/// A text or reference as `{value: …}` or `{valueFrom: …}`, which may stand for any scalar.
fn object() -> Value {
    json!({
        "type": "object",
        "properties": { "name": true, "value": true, "valueFrom": { "type": "object" } },
        "additionalProperties": false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types;

    /// Of every type: what it does not know is refused, and what it knows is explained.
    #[test]
    fn every_setting_is_explained() {
        for info in types::all() {
            let Some(schema) = info.settings_schema() else {
                continue;
            };
            let name = info.name;
            assert_eq!(schema.get("type"), Some(&json!("object")), "{name}");
            assert_eq!(
                schema.get("additionalProperties"),
                Some(&json!(false)),
                "{name}"
            );
            let settings = schema.get("properties").and_then(Value::as_object).unwrap();
            for (setting, schema) in settings {
                let described = schema.get("description").and_then(Value::as_str);
                assert!(
                    described.is_some_and(|text| text.ends_with('.')),
                    "{name}: {setting}"
                );
                // Otherwise it would take anything: a setting that reads itself says how, with `written!`.
                let known = ["type", "anyOf"]
                    .iter()
                    .any(|key| schema.get(key).is_some());
                assert!(known, "{name}: {setting}: {schema}");
            }
        }
    }

    #[test]
    fn words_are_taken_in_any_case() {
        let schema = words(&["verify-ca", "true"], &["1"]);
        let pattern = schema.get("pattern").unwrap();
        assert_eq!(
            pattern,
            r"^\s*([vV][eE][rR][iI][fF][yY][-_][cC][aA]|[tT][rR][uU][eE]|1)\s*$"
        );
        assert_eq!(
            schema.get("type"),
            Some(&json!(["string", "boolean", "integer"]))
        );
    }

    #[test]
    fn a_scalar_may_be_written_as_another_or_come_later() {
        #[derive(serde::Deserialize, JsonSchema)]
        #[serde(default, rename_all = "camelCase")]
        #[derive(Default)]
        #[allow(dead_code, reason = "only its schema counts")]
        struct Settings {
            /// A.
            text: Option<String>,
            /// B.
            a_number: Option<u16>,
            /// C.
            either: bool,
        }
        let schema = of_settings::<Settings>();
        let mut lenient = json!({
            "type": "object",
            "properties": {
                "text": { "description": "A.", "type": ["string", "number", "boolean", "null", "object"] },
                "aNumber": {
                    "description": "B.",
                    "type": ["integer", "string", "null", "object"],
                    "minimum": 0,
                    "maximum": 65535,
                    "pattern": format!("{LATER}|^[-+]?(0x[0-9a-fA-F]+|0o[0-7]+|[0-9]+)$"),
                    "patternErrorMessage": "A whole number.",
                },
                "either": {
                    "description": "C.",
                    "type": ["boolean", "string", "object"],
                    "pattern": format!("{LATER}|^([Tt]rue|TRUE|[Ff]alse|FALSE)$"),
                    "patternErrorMessage": "true or false.",
                },
            },
        });
        // Each as a value object, too.
        for property in ["text", "aNumber", "either"] {
            lenient["properties"][property]["additionalProperties"] = json!(false);
            lenient["properties"][property]["properties"] =
                json!({"name": true, "value": true, "valueFrom": {"type": "object"}});
        }
        assert_eq!(schema, lenient);
    }
}
