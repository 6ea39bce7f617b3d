//! Reading fields out of a [`Node`] while collecting every mistake.

use std::collections::BTreeMap;

use crate::error::Mistake;
use crate::node::{Data, Entry, Node};
use crate::value::{self, Source, Value};
use crate::words::{quoted, suggestion};
use crate::{Place, RefKind, Secret, Spanned, de};

/// Collects what is wrong.
#[derive(Default)]
pub(crate) struct Reader {
    pub mistakes: Vec<Mistake>,
}

impl Reader {
    pub fn blame(&mut self, mistake: Mistake) {
        self.mistakes.push(mistake);
    }

    fn expected(&mut self, node: &Node, path: &str, expected: &str) {
        // What could not be read was reported where it stands.
        if !node.scalar().is_some_and(|scalar| scalar.unknown) {
            let message = format!("`{path}`: expected {expected}, found {}", node.describe());
            self.blame(Mistake::new(&node.place, message));
        }
    }

    /// A mapping that is there; any other is a mistake with this hint.
    pub fn mapping_or(&mut self, node: &Node, path: &str, hint: String) {
        let before = self.mistakes.len();
        self.mapping(Some(node), path);
        if let [mistake] = &mut self.mistakes[before..] {
            mistake.hint = Some(hint);
        }
    }

    /// A mapping; nothing when it is null or, with a mistake, something else.
    pub fn mapping<'a>(&mut self, node: Option<&'a Node>, path: &str) -> Option<&'a Node> {
        let node = node.filter(|node| !node.is_null())?;
        if matches!(node.data, Data::Map(_)) {
            return Some(node);
        }
        self.expected(node, path, "a mapping");
        None
    }

    /// Reports the fields of a mapping that are not `known`. `renamed`: what others call ours.
    pub fn known_fields(
        &mut self,
        node: &Node,
        path: &str,
        known: &[&str],
        renamed: &[(&str, &str)],
    ) {
        for (key, place, _) in node.iter() {
            if known.contains(&key) {
                continue;
            }
            let hint = match renamed
                .iter()
                .find(|(other, _)| other.eq_ignore_ascii_case(key))
            {
                Some((_, ours)) => Some(format!("did you mean `{ours}`?")),
                None => suggestion(key, known),
            };
            let message = match path {
                "" => format!("unknown field {}", quoted(key)),
                _ => format!("unknown field {} in `{path}`", quoted(key)),
            };
            self.blame(Mistake::new(place, message).maybe_hint(hint));
        }
    }

    /// Text; a number or boolean is text too.
    pub fn text(&mut self, node: Option<&Node>, path: &str) -> Option<String> {
        let node = node.filter(|node| !node.is_null())?;
        match node.scalar() {
            Some(scalar) if scalar.unknown => None,
            Some(scalar) => Some(scalar.text.expose().to_owned()),
            None => {
                self.expected(node, path, "text");
                None
            }
        }
    }

    /// A mapping of texts, such as labels.
    pub fn texts(&mut self, node: Option<&Node>, path: &str) -> BTreeMap<String, Spanned<String>> {
        let mut texts = BTreeMap::new();
        let Some(node) = self.mapping(node, path) else {
            return texts;
        };
        for (key, _, value) in node.iter() {
            let place = value.place.clone();
            // Nothing is an empty text: the key is what counts.
            let text = match value.scalar() {
                _ if value.is_null() => Some(String::new()),
                Some(scalar) if !scalar.unknown => Some(scalar.text.expose().to_owned()),
                _ => {
                    let path = format!("{path}.{}", quoted(key).trim_matches('`'));
                    self.text(Some(value), &path)
                }
            };
            if let Some(value) = text {
                texts.insert(key.to_owned(), Spanned { value, place });
            }
        }
        texts
    }

    pub fn boolean(&mut self, node: Option<&Node>, path: &str) -> Option<Spanned<bool>> {
        let node = node.filter(|node| !node.is_null())?;
        match node.deserialize() {
            Ok(value) => Some(Spanned {
                value,
                place: node.place.clone(),
            }),
            Err(de::NodeError { message, hint, .. }) => {
                if !node.has_unknown() {
                    let message = format!("`{path}`: {message}");
                    self.blame(Mistake::new(&node.place, message).maybe_hint(hint));
                }
                None
            }
        }
    }

    /// A text, a reference, `{value: …}` or `{valueFrom: …}`.
    pub fn value(&mut self, node: Option<&Node>, path: &str) -> Option<Value> {
        let node = node.filter(|node| !node.is_null())?;
        match &node.data {
            Data::Scalar(scalar) if scalar.unknown => None,
            Data::Scalar(scalar) => self.text_value(&scalar.text, &node.place, path),
            Data::Map(_) => self.value_object(node, path),
            _ => {
                self.expected(node, path, "text");
                None
            }
        }
    }

    fn text_value(&mut self, text: &Secret, place: &Place, path: &str) -> Option<Value> {
        let source = match value::reference(text.expose()) {
            None => Source::Literal(text.clone()),
            Some(Ok(reference)) => Source::Reference(reference),
            Some(Err((message, hint))) => {
                let message = format!("`{path}`: {message}");
                self.blame(Mistake::new(place, message).maybe_hint(hint));
                return None;
            }
        };
        Some(Value {
            place: place.clone(),
            source,
        })
    }

    fn value_object(&mut self, node: &Node, path: &str) -> Option<Value> {
        const FORM: &str = "write the text itself, `secret://NAME/KEY`, or `valueFrom: {secretKeyRef: {name: …, key: …}}`";
        // A password in braces is read as such a mapping, so its keys are not quoted.
        // `name` is of no meaning but for headers, and may stand everywhere.
        let known = |key: &str| matches!(key, "name" | "value" | "valueFrom");
        if let Some((_, place, _)) = node.iter().find(|(key, _, _)| !known(key)) {
            let message =
                format!("`{path}`: expected text, or a mapping of `value` or `valueFrom`");
            let hint = "a text that starts with `{` needs quotes";
            self.blame(Mistake::new(place, message).hint(hint).maybe_helm());
            return None;
        }
        // Whoever dumps a manifest writes `password: {}` for none.
        if node.entries().is_empty() {
            return None;
        }
        let something = |node: &&Node| !node.is_null() && node.text() != Some("");
        let from = node.get("valueFrom").filter(|from| !from.is_null());
        let value = node.get("value");
        match (
            value.filter(|value| from.is_none() || something(value)),
            from,
        ) {
            (Some(_), Some(from)) => {
                let message = format!("`{path}`: both `value` and `valueFrom`");
                self.blame(Mistake::new(&from.place, message).hint("keep one of them"));
                None
            }
            (Some(value), None) if value.scalar().is_some() => self.value(Some(value), path),
            (Some(value), None) => {
                self.expected(value, &format!("{path}.value"), "text");
                None
            }
            (None, Some(from)) => self.value_from(from, &format!("{path}.valueFrom")),
            (None, None) => {
                let message = format!("`{path}`: neither `value` nor `valueFrom`");
                self.blame(Mistake::new(&node.place, message).hint(FORM));
                None
            }
        }
    }

    /// `spec.properties`: whatever they are called, these are names of settings.
    pub fn properties(&mut self, node: &Node) -> Node {
        let entries = node.entries().iter().map(|entry| {
            let path = format!("properties.{}", quoted(&entry.key).trim_matches('`'));
            Entry {
                key: entry.key.clone(),
                place: entry.place.clone(),
                value: self.property_values(&entry.value, &path),
            }
        });
        let entries = entries.collect();
        node.with_data(Data::Map(entries))
    }

    /// A property with all that is in it: where a text may stand, `{value: …}` and `{valueFrom: …}`
    /// may, and become the text or the `secret://` that says the same.
    pub fn property_values(&mut self, node: &Node, path: &str) -> Node {
        let data = match &node.data {
            Data::Map(entries) => {
                if let Some(from) = node.get("valueFrom") {
                    return self.property_value_from(node, from, path);
                }
                // These hold names of the owner's choice.
                let chosen = ["headers", "params"];
                let free = chosen
                    .iter()
                    .any(|name| path.ends_with(&format!(".{name}")));
                if let [entry] = entries.as_slice()
                    && entry.key == "value"
                    && !free
                    && entry.value.scalar().is_some()
                {
                    return entry.value.clone();
                }
                Data::Map(
                    entries
                        .iter()
                        .map(|entry| {
                            let shown = quoted(&entry.key);
                            let path = format!("{path}.{}", shown.trim_matches('`'));
                            Entry {
                                key: entry.key.clone(),
                                place: entry.place.clone(),
                                value: self.property_values(&entry.value, &path),
                            }
                        })
                        .collect(),
                )
            }
            Data::Seq(items) => Data::Seq(
                items
                    .iter()
                    .enumerate()
                    .map(|(index, item)| self.property_values(item, &format!("{path}[{index}]")))
                    .collect(),
            ),
            _ => return node.clone(),
        };
        node.with_data(data)
    }

    /// `{valueFrom: …}`, and with a `name` the `{name: …, value: …}` of a header.
    fn property_value_from(&mut self, node: &Node, from: &Node, path: &str) -> Node {
        let value = match self.value(Some(node), path).map(|value| value.source) {
            Some(Source::Literal(text)) => Node::text_of(from.place.clone(), text),
            Some(Source::Reference(reference)) => {
                Node::text_of(from.place.clone(), Secret::new(reference.as_text()))
            }
            None => return Node::unknown(node.place.clone()),
        };
        let Some(name) = node.entries().iter().find(|entry| entry.key == "name") else {
            return value;
        };
        let value = Entry {
            key: "value".to_owned(),
            place: from.place.clone(),
            value,
        };
        node.with_data(Data::Map(vec![name.clone(), value]))
    }

    fn value_from(&mut self, node: &Node, path: &str) -> Option<Value> {
        let node = self.mapping(Some(node), path)?;
        let before = self.mistakes.len();
        for (key, place, _) in node.iter() {
            let hint = match key {
                "helmRef" => {
                    "put the value into a secret or config map, and write `secretKeyRef` or `configMapKeyRef`"
                }
                "serviceAccount" => {
                    "put a token of the service account into a secret, and write `secretKeyRef`"
                }
                _ => continue,
            };
            let message = format!("`{path}.{key}` is not supported");
            self.blame(Mistake::new(place, message).hint(hint));
        }
        if self.mistakes.len() > before {
            return None;
        }
        self.known_fields(node, path, &["secretKeyRef", "configMapKeyRef"], &[]);
        if self.mistakes.len() > before {
            return None;
        }
        match node.entries() {
            [entry] => {
                let kind = match entry.key.as_str() {
                    "secretKeyRef" => RefKind::Secret,
                    _ => RefKind::ConfigMap,
                };
                self.key_ref(kind, &entry.value, &format!("{path}.{}", entry.key))
            }
            entries => {
                let message = match entries.len() {
                    0 => format!("`{path}` is empty"),
                    _ => format!("`{path}`: both `secretKeyRef` and `configMapKeyRef`"),
                };
                self.blame(
                    Mistake::new(&node.place, message)
                        .hint("give one of `secretKeyRef` and `configMapKeyRef`"),
                );
                None
            }
        }
    }

    fn key_ref(&mut self, kind: RefKind, node: &Node, path: &str) -> Option<Value> {
        let node = self.mapping(Some(node), path)?;
        self.known_fields(node, path, &["name", "key"], &[]);
        let name = self.object_name(node, path);
        let key = self.required(node, "key", path);
        Some(Value {
            place: node.place.clone(),
            source: Source::Reference(value::Reference::Key {
                kind,
                name: name?,
                key: key?,
            }),
        })
    }

    /// The `name` of a secret or config map in a reference.
    pub fn object_name(&mut self, node: &Node, path: &str) -> Option<String> {
        let name = self.required(node, "name", path)?;
        self.check_name(node.get("name")?, &name, &format!("{path}.name"), false)
    }

    /// A text that must be there.
    fn required(&mut self, node: &Node, field: &str, path: &str) -> Option<String> {
        let before = self.mistakes.len();
        let text = self.text(node.get(field), &format!("{path}.{field}"));
        match text.filter(|text| !text.is_empty()) {
            Some(text) => Some(text),
            None => {
                let unknown = node.get(field).is_some_and(Node::has_unknown);
                if self.mistakes.len() == before && !unknown {
                    self.blame(Mistake::new(
                        &node.place,
                        format!("`{path}` has no `{field}`"),
                    ));
                }
                None
            }
        }
    }

    pub fn check_name(
        &mut self,
        node: &Node,
        name: &str,
        path: &str,
        label: bool,
    ) -> Option<String> {
        match value::check_name(name, label) {
            Ok(()) => Some(name.to_owned()),
            Err(problem) => {
                let message = format!("`{path}` {problem}");
                let hint = value::mended_name(name, label);
                self.blame(Mistake::new(&node.place, message).maybe_hint(hint));
                None
            }
        }
    }
}
