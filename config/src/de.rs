//! [`Node`] as a serde data format.
//!
//! The requested type decides what a scalar is: `name: 123` is text where text is wanted, and
//! `port: "445"` a number where a number is. Every error knows the node it is about, and none
//! quotes a value: serde's own would (`invalid value: string "hunter2"`), so each of its
//! constructors is replaced.

use std::fmt;

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer,
    MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use crate::error::Mistake;
use crate::node::{Data, Entry, Node, Scalar};
use crate::words::{quoted, suggestion};
use crate::{Place, Spanned};

/// What is wrong inside a [`Node`]. Never quotes a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeError {
    pub place: Place,
    /// From the root of the tree, such as `properties.headers`.
    pub path: String,
    /// Complete: names the path where that helps.
    pub message: String,
    pub hint: Option<String>,
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for NodeError {}

impl From<NodeError> for Mistake {
    fn from(error: NodeError) -> Self {
        Mistake::new(&error.place, error.message).maybe_hint(error.hint)
    }
}

pub(crate) fn deserialize<T: DeserializeOwned>(root: &Node) -> Result<T, NodeError> {
    match read(root) {
        Err(fault) if fault.is_about_what_may_be_unknown(root) => {
            let rest = without_what_may_be_unknown::<T>(root);
            read(&rest).map_err(|fault| fault.report(&rest))
        }
        res => res.map_err(|fault| fault.report(root)),
    }
}

/// Takes out the properties that are there for templates, as far as `T` does not know them.
fn without_what_may_be_unknown<T: DeserializeOwned>(root: &Node) -> Node {
    let mut rest = root.clone();
    while let Err(fault) = read::<T>(&rest)
        && fault.is_about_what_may_be_unknown(&rest)
        && let Data::Map(entries) = &mut rest.data
    {
        entries.remove(fault.0.steps[0]);
    }
    rest
}

/// Finds one mistake at a time: what is wrong is reported and taken out of a copy, and the copy
/// read again.
pub(crate) fn deserialize_all<T: DeserializeOwned>(root: &Node) -> Result<T, Vec<NodeError>> {
    /// More than anyone mends at once.
    const MOST: usize = 20;

    let mut rest = without_what_may_be_unknown::<T>(root);
    let mut fault = match read(&rest) {
        Ok(value) => return Ok(value),
        Err(fault) => fault,
    };
    let mut errors = Vec::new();
    for _ in 0..MOST {
        if !fault.is_moot(&rest) {
            errors.push(fault.report(&rest));
        }
        let Some(wrong) = fault.node_mut(&mut rest) else {
            break;
        };
        wrong.data = Data::Removed;
        rest = without_what_may_be_unknown::<T>(&rest);
        match read::<T>(&rest) {
            Ok(_) => break,
            Err(next) => fault = next,
        }
    }
    errors.sort_by(|a, b| a.place.cmp(&b.place));
    Err(errors)
}

fn read<T: DeserializeOwned>(root: &Node) -> Result<T, Fault> {
    T::deserialize(Value(root)).map_err(|fault| fault.at(root))
}

/// A mistake on its way up to the root.
#[derive(Debug)]
struct Fault(Box<Inner>);

#[derive(Debug)]
struct Inner {
    what: What,
    hint: Option<String>,
    /// Where it is: none before the node is known.
    place: Option<Place>,
    /// From the node up to the root: which child of each parent.
    steps: Vec<usize>,
}

#[derive(Debug)]
enum What {
    /// Expected this, without what was found.
    Expected(String),
    /// A whole sentence, from a type's own `Deserialize`.
    Custom(String),
    /// A whole sentence of ours, which quotes nothing.
    Ours(String),
    UnknownField(String),
    MissingField(&'static str),
    /// The value is not known yet.
    Unknown,
}

impl Fault {
    fn new(what: What) -> Self {
        Self(Box::new(Inner {
            what,
            hint: None,
            place: None,
            steps: Vec::new(),
        }))
    }

    fn expected(what: impl Into<String>) -> Self {
        Self::new(What::Expected(what.into()))
    }

    fn hint(mut self, hint: Option<String>) -> Self {
        self.0.hint = hint;
        self
    }

    /// It is about `node`, unless it is about one further down.
    fn at(mut self, node: &Node) -> Self {
        if self.0.place.is_none() {
            self.0.place = Some(node.place.clone());
            // A type's own message may quote the text it disliked.
            if let What::Custom(message) = &mut self.0.what
                && let Some(text) = node.text()
                && text.len() > 2
                && message.contains(text)
            {
                *message = message.replace(text, "…");
            }
        }
        self
    }

    fn step(mut self, child: usize) -> Self {
        self.0.steps.push(child);
        self
    }

    /// Whether it only follows from what is not known, or was reported and taken out.
    fn is_moot(&self, root: &Node) -> bool {
        let node = self.node(root);
        match &self.0.what {
            What::Unknown => true,
            What::Custom(_) | What::Ours(_) => node.has_unknown(),
            What::Expected(_) => node.scalar().is_some_and(|scalar| scalar.unknown),
            What::UnknownField(_) => false,
            What::MissingField(name) => node
                .entries()
                .iter()
                .any(|entry| entry.key == *name && matches!(entry.value.data, Data::Removed)),
        }
    }

    /// Whether it is a property that only templates name.
    fn is_about_what_may_be_unknown(&self, root: &Node) -> bool {
        let is_unknown = matches!(self.0.what, What::UnknownField(_));
        is_unknown && self.0.steps.len() == 1 && self.node(root).may_be_unknown()
    }

    fn node<'a>(&self, root: &'a Node) -> &'a Node {
        let steps = self.0.steps.iter().rev();
        steps.fold(root, |node, step| child(node, *step).unwrap_or(node))
    }

    /// The node it is about, unless that is the root.
    fn node_mut<'a>(&self, root: &'a mut Node) -> Option<&'a mut Node> {
        let mut node = root;
        if self.0.steps.is_empty() {
            return None;
        }
        for step in self.0.steps.iter().rev() {
            node = match &mut node.data {
                Data::Seq(items) => items.get_mut(*step)?,
                Data::Map(entries) => &mut entries.get_mut(*step)?.value,
                Data::Scalar(_) | Data::Removed => return None,
            };
        }
        Some(node)
    }

    fn report(&self, root: &Node) -> NodeError {
        let node = self.node(root);
        let depth = self.0.steps.len();
        let path = self.path(root, depth);
        let message = match &self.0.what {
            What::Expected(expected) => about(
                &path,
                format!("expected {expected}, found {}", node.describe()),
            ),
            What::Custom(message) | What::Ours(message) => about(&path, message.clone()),
            What::Unknown => about(&path, "the value is not known yet".to_owned()),
            What::MissingField(name) if path.is_empty() => format!("`{name}` is missing"),
            What::MissingField(name) => format!("`{path}` has no `{name}`"),
            What::UnknownField(name) => {
                let parent = self.path(root, depth.saturating_sub(1));
                match root.name() {
                    Some("properties") if depth <= 1 => {
                        format!("unknown property {}", quoted(name))
                    }
                    _ if parent.is_empty() => format!("unknown field {}", quoted(name)),
                    _ => format!("unknown field {} in `{parent}`", quoted(name)),
                }
            }
        };
        NodeError {
            place: self.0.place.clone().unwrap_or_else(|| root.place.clone()),
            path,
            message,
            hint: self.0.hint.clone(),
        }
    }

    /// `properties.headers[2].name`, down to `depth` steps.
    fn path(&self, root: &Node, depth: usize) -> String {
        let mut path = root.name().unwrap_or_default().to_owned();
        let mut node = root;
        for step in self.0.steps.iter().rev().take(depth) {
            match &node.data {
                Data::Map(entries) => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    let key = entries.get(*step).map_or("", |entry| entry.key.as_str());
                    path.push_str(quoted(key).trim_matches('`'));
                }
                _ => path.push_str(&format!("[{step}]")),
            }
            node = child(node, *step).unwrap_or(node);
        }
        path
    }
}

fn child(node: &Node, step: usize) -> Option<&Node> {
    match &node.data {
        Data::Seq(items) => items.get(step),
        Data::Map(entries) => entries.get(step).map(|entry| &entry.value),
        Data::Scalar(_) | Data::Removed => None,
    }
}

fn about(path: &str, message: String) -> String {
    match path {
        "" => message,
        _ => format!("`{path}`: {message}"),
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.what {
            What::Expected(expected) => write!(f, "expected {expected}"),
            What::Custom(message) | What::Ours(message) => f.write_str(message),
            What::UnknownField(name) => write!(f, "unknown field {}", quoted(name)),
            What::MissingField(name) => write!(f, "`{name}` is missing"),
            What::Unknown => f.write_str("the value is not known yet"),
        }
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        let message = message.to_string();
        // The name of a Rust type helps nobody who writes YAML.
        match message.starts_with("data did not match any variant of untagged enum") {
            true => Self::new(What::Ours("has none of the forms understood here".into())),
            false => Self::new(What::Custom(message)),
        }
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::expected(wanted(expected))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(What::Ours(format!("expected {}", wanted(expected))))
    }

    fn invalid_length(len: usize, expected: &dyn Expected) -> Self {
        let message = format!("expected {}, found {len} items", wanted(expected));
        Self::new(What::Ours(message))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let meant = crate::words::nearest(variant, expected);
        let hint = meant.map(|meant| format!("did you mean `{meant}`?"));
        Self::new(What::Ours(format!("expected {}", either(expected)))).hint(hint)
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::new(What::UnknownField(field.to_owned())).hint(suggestion(field, expected))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(What::MissingField(field))
    }

    fn duplicate_field(field: &'static str) -> Self {
        let message = format!("`{field}` is given twice, under two names");
        Self::new(What::Ours(message))
    }
}

/// `a`, `b` or `c`.
fn either(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match names.as_slice() {
        [] => "nothing".to_owned(),
        [only] => only.clone(),
        [rest @ .., last] => format!("{} or {last}", rest.join(", ")),
    }
}

/// What serde expects, in the words of the person who writes YAML.
fn wanted(expected: &dyn Expected) -> String {
    let expected = expected.to_string();
    match expected.as_str() {
        "a string" | "a borrowed string" | "a character" => "text",
        "a boolean" => "`true` or `false`",
        "a sequence" | "an array" => "a list",
        "a map" => "a mapping",
        "unit" => "nothing",
        "f32" | "f64" => "a number",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" | "u64" | "usize" => "a whole number, not negative",
        other if other.starts_with("struct ") => "a mapping",
        other if other.starts_with("enum ") => "text",
        other => other,
    }
    .to_owned()
}

/// A plain scalar that is a boolean.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// A scalar that is a whole number: decimal, `0x` or `0o`.
pub(crate) fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, digits) = match digits.get(..2) {
        Some("0x") => (16, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        _ => (10, digits),
    };
    // Rust's own would accept a second sign.
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let number = i128::from_str_radix(digits, radix).ok()?;
    Some(if negative { -number } else { number })
}

/// A scalar that is a decimal number; not Rust's `inf` and `nan`.
pub(crate) fn float(text: &str) -> Option<f64> {
    let numeric = |b: u8| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E');
    match text.bytes().all(numeric) && text.bytes().any(|b| b.is_ascii_digit()) {
        true => text.parse().ok(),
        false => None,
    }
}

/// A node that is being read.
#[derive(Clone, Copy)]
struct Value<'a>(&'a Node);

impl<'a> Value<'a> {
    /// The scalar that a `visitor` wants.
    fn scalar(self, visitor: &dyn Expected) -> Result<&'a Scalar, Fault> {
        match &self.0.data {
            Data::Scalar(scalar) if scalar.unknown => Err(Fault::new(What::Unknown)),
            Data::Scalar(scalar) if !scalar.is_null() => Ok(scalar),
            _ => Err(Fault::expected(wanted(visitor))),
        }
    }

    fn integer(self, visitor: &dyn Expected) -> Result<i128, Fault> {
        let text = self.scalar(visitor)?.text.expose();
        integer(text).ok_or_else(|| Fault::expected(wanted(visitor)))
    }
}

/// A whole number of one width.
macro_rules! whole {
    ($($method:ident $visit:ident $ty:ty;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            let number = self.integer(&visitor)?;
            match <$ty>::try_from(number) {
                Ok(number) => visitor.$visit(number),
                Err(_) => Err(Fault::new(What::Ours(format!(
                    "expected a whole number from {} to {}", <$ty>::MIN, <$ty>::MAX,
                )))),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Value<'_> {
    type Error = Fault;

    /// As YAML 1.2 reads a plain scalar.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let scalar = match &self.0.data {
            Data::Scalar(scalar) => scalar,
            Data::Seq(items) => return visitor.visit_seq(Items::new(items)),
            Data::Map(entries) => return visitor.visit_map(Entries::new(entries)),
            Data::Removed => return visitor.visit_unit(),
        };
        let text = scalar.text.expose();
        if scalar.unknown {
            return Err(Fault::new(What::Unknown));
        }
        if !scalar.plain {
            return visitor.visit_str(text);
        }
        if scalar.is_null() {
            return visitor.visit_unit();
        }
        if let Some(boolean) = boolean(text) {
            return visitor.visit_bool(boolean);
        }
        if let Some(number) = integer(text) {
            if let Ok(number) = u64::try_from(number) {
                return visitor.visit_u64(number);
            }
            if let Ok(number) = i64::try_from(number) {
                return visitor.visit_i64(number);
            }
        }
        match float(text) {
            Some(number) => visitor.visit_f64(number),
            None => visitor.visit_str(text),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let text = self.scalar(&visitor)?.text.expose();
        if let Some(boolean) = boolean(text) {
            return visitor.visit_bool(boolean);
        }
        // YAML 1.1 read these as booleans, YAML 1.2 does not, and most people cannot know.
        let hint = match text.to_ascii_lowercase().as_str() {
            "yes" | "on" | "y" => Some("write `true`".to_owned()),
            "no" | "off" | "n" => Some("write `false`".to_owned()),
            _ => None,
        };
        Err(Fault::expected("`true` or `false`").hint(hint))
    }

    whole! {
        deserialize_u8 visit_u8 u8;
        deserialize_u16 visit_u16 u16;
        deserialize_u32 visit_u32 u32;
        deserialize_u64 visit_u64 u64;
        deserialize_i8 visit_i8 i8;
        deserialize_i16 visit_i16 i16;
        deserialize_i32 visit_i32 i32;
        deserialize_i64 visit_i64 i64;
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let text = self.scalar(&visitor)?.text.expose();
        match float(text) {
            Some(number) => visitor.visit_f64(number),
            None => Err(Fault::expected("a number")),
        }
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.0.data {
            // Text is text whatever it will be, so the rest can be judged.
            Data::Scalar(scalar) if scalar.unknown => visitor.visit_str("unknown"),
            Data::Scalar(scalar) if !scalar.is_null() => visitor.visit_str(scalar.text.expose()),
            Data::Scalar(scalar) if !matches!(scalar.text.expose(), "" | "~") => {
                let hint = "put quotes around it if the word itself is meant".to_owned();
                Err(Fault::expected(wanted(&visitor)).hint(Some(hint)))
            }
            _ => Err(Fault::expected(wanted(&visitor))),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0.is_null() {
            true => visitor.visit_none(),
            false => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0.is_null() {
            true => visitor.visit_unit(),
            false => Err(Fault::expected(wanted(&visitor))),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match name {
            SPANNED => visitor.visit_seq(PlaceAndValue {
                node: self.0,
                next: 0,
            }),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.0.data {
            Data::Seq(items) => visitor.visit_seq(Items::new(items)),
            Data::Scalar(scalar) if scalar.unknown => Err(Fault::new(What::Unknown)),
            _ => Err(Fault::expected("a list")),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.0.data {
            Data::Map(entries) => visitor.visit_map(Entries::new(entries)),
            Data::Scalar(scalar) if scalar.unknown => Err(Fault::new(What::Unknown)),
            _ => Err(Fault::expected("a mapping")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.0.data {
            Data::Scalar(scalar) if scalar.unknown => Err(Fault::new(What::Unknown)),
            Data::Scalar(scalar) if !scalar.is_null() => {
                visitor.visit_enum(scalar.text.expose().into_deserializer())
            }
            Data::Map(entries) => match entries.as_slice() {
                [entry] => visitor.visit_enum(Variant(entry)),
                _ => Err(Fault::expected(format!("one of {}", either(variants)))),
            },
            _ => Err(Fault::expected(either(variants))),
        }
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! { i128 u128 bytes byte_buf unit_struct }
}

struct Items<'a> {
    items: &'a [Node],
    next: usize,
}

impl<'a> Items<'a> {
    fn new(items: &'a [Node]) -> Self {
        Self { items, next: 0 }
    }
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        while let Some(item) = self.items.get(self.next) {
            let index = self.next;
            self.next += 1;
            if !matches!(item.data, Data::Removed) {
                let value = seed.deserialize(Value(item));
                return value.map(Some).map_err(|fault| fault.at(item).step(index));
            }
        }
        Ok(None)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len() - self.next)
    }
}

struct Entries<'a> {
    entries: &'a [Entry],
    next: usize,
}

impl<'a> Entries<'a> {
    fn new(entries: &'a [Entry]) -> Self {
        Self { entries, next: 0 }
    }
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        while let Some(entry) = self.entries.get(self.next) {
            if matches!(entry.value.data, Data::Removed) {
                self.next += 1;
                continue;
            }
            let key = seed.deserialize(Key(&entry.key));
            return key.map(Some).map_err(|mut fault| {
                fault.0.place = Some(entry.place.clone());
                fault.step(self.next)
            });
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some(entry) = self.entries.get(self.next) else {
            return Err(Fault::expected("a value"));
        };
        let index = self.next;
        self.next += 1;
        seed.deserialize(Value(&entry.value))
            .map_err(|fault| fault.at(&entry.value).step(index))
    }
}

/// A key: text, or a number where the map has numbers for keys.
struct Key<'a>(&'a str);

impl<'de> Deserializer<'de> for Key<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_str(self.0)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0.parse() {
            Ok(number) => visitor.visit_u16(number),
            Err(_) => Err(Fault::new(What::Ours(format!(
                "expected {} as a key",
                wanted(&visitor)
            )))),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_enum(self.0.into_deserializer())
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
        unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// A variant with content: a mapping of one entry.
struct Variant<'a>(&'a Entry);

impl<'a, 'de> EnumAccess<'de> for Variant<'a> {
    type Error = Fault;
    type Variant = Content<'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Content<'a>), Fault> {
        let variant = seed.deserialize(Key(&self.0.key)).map_err(|mut fault| {
            fault.0.place = Some(self.0.place.clone());
            fault.step(0)
        })?;
        Ok((variant, Content(&self.0.value)))
    }
}

struct Content<'a>(&'a Node);

impl<'de> VariantAccess<'de> for Content<'_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        match self.0.is_null() {
            true => Ok(()),
            false => Err(Fault::expected("nothing").at(self.0).step(0)),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        seed.deserialize(Value(self.0))
            .map_err(|fault| fault.at(self.0).step(0))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Fault> {
        Value(self.0)
            .deserialize_seq(visitor)
            .map_err(|fault| fault.at(self.0).step(0))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        Value(self.0)
            .deserialize_map(visitor)
            .map_err(|fault| fault.at(self.0).step(0))
    }
}

/// The name by which [`Spanned`] asks for a place along with the value.
const SPANNED: &str = "$conncheck_config::Spanned";

/// File, line, column and value of a node, as [`Spanned`] takes them.
struct PlaceAndValue<'a> {
    node: &'a Node,
    next: usize,
}

impl<'de> SeqAccess<'de> for PlaceAndValue<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let place = &self.node.place;
        self.next += 1;
        match self.next {
            1 => seed.deserialize(Key(&place.file)).map(Some),
            2 => seed.deserialize(place.line.into_deserializer()).map(Some),
            3 => seed.deserialize(place.column.into_deserializer()).map(Some),
            4 => seed.deserialize(Value(self.node)).map(Some),
            _ => Ok(None),
        }
    }
}

impl<'de, T: de::Deserialize<'de>> de::Deserialize<'de> for Spanned<T> {
    /// From a [`Node`] it gets the place; from anything else, none.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Both<T>(std::marker::PhantomData<T>);

        impl<'de, T: de::Deserialize<'de>> Visitor<'de> for Both<T> {
            type Value = Spanned<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value with its place")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Spanned<T>, A::Error> {
                let mut missing = || de::Error::custom("a value with its place");
                let file: String = seq.next_element()?.ok_or_else(&mut missing)?;
                let line = seq.next_element()?.ok_or_else(&mut missing)?;
                let column = seq.next_element()?.ok_or_else(&mut missing)?;
                let value = seq.next_element()?.ok_or_else(&mut missing)?;
                let file = file.into();
                Ok(Spanned {
                    value,
                    place: Place { file, line, column },
                })
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                deserializer: D,
            ) -> Result<Spanned<T>, D::Error> {
                let place = Place {
                    file: "".into(),
                    line: 0,
                    column: 0,
                };
                let value = T::deserialize(deserializer)?;
                Ok(Spanned { value, place })
            }
        }

        deserializer.deserialize_newtype_struct(SPANNED, Both(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use serde::Deserialize;

    use super::*;
    use crate::Secret;

    fn node(text: &str) -> Node {
        let file: Arc<str> = "t.yaml".into();
        let mut root = None;
        crate::node::parse(&file, text, |document| root = Some(document.unwrap()));
        root.unwrap()
    }

    #[track_caller]
    fn check<T: DeserializeOwned + fmt::Debug + PartialEq>(text: &str, expected: T) {
        assert_eq!(node(text).deserialize::<T>(), Ok(expected), "{text}");
    }

    #[track_caller]
    fn wrong<T: DeserializeOwned + fmt::Debug>(text: &str, expected: &str) {
        let error = node(text).deserialize::<T>().unwrap_err();
        let hint = error
            .hint
            .map(|hint| format!("; {hint}"))
            .unwrap_or_default();
        let said = format!(
            "{}:{} {}{hint}",
            error.place.line, error.place.column, error.message
        );
        assert_eq!(said, expected, "{text}");
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Mode {
        Require,
        VerifyFull,
        Custom(u8),
        Named { name: String },
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(untagged)]
    enum Status {
        One(u16),
        Range(String),
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "camelCase")]
    struct Inner {
        first: u8,
        #[serde(default)]
        second_one: Option<Spanned<String>>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(transparent)]
    struct Newtype(u16);

    #[test]
    fn the_wanted_type_decides() {
        check("123", "123".to_owned());
        check("true", "true".to_owned());
        check("\"445\"", 445_u16);
        check("0x1F", 31_u8);
        check("-5", -5_i64);
        check("1.5", 1.5_f64);
        check("7", 7.0_f64);
        check("'true'", true);
        check("~", None::<String>);
        check("''", Some(String::new()));
        check("[1, 2]", vec![1_u8, 2]);
        check("[1, a]", (1_u8, "a".to_owned()));
        check(
            "{a: 1, 200: x}",
            BTreeMap::from([("a".to_owned(), "1".to_owned()), ("200".into(), "x".into())]),
        );
        check("{200: x}", BTreeMap::from([(200_u16, "x".to_owned())]));
        check("7", Newtype(7));
        check("s3cret", Secret::new("s3cret"));
        check("x", 'x');
    }

    #[test]
    fn enums_in_all_their_forms() {
        check("verify-full", Mode::VerifyFull);
        check("custom: 3", Mode::Custom(3));
        check("named: {name: x}", Mode::Named { name: "x".into() });
        check(
            "[200, 2xx, \"300\"]",
            vec![
                Status::One(200),
                Status::Range("2xx".into()),
                Status::Range("300".into()),
            ],
        );
        wrong::<Mode>(
            "verify-ful",
            "1:1 expected `require`, `verify-full`, `custom` or `named`; did you mean `verify-full`?",
        );
        wrong::<Mode>(
            "custom: x",
            "1:9 `custom`: expected a whole number from 0 to 255, found text",
        );
        wrong::<Vec<Status>>(
            "[200, {a: b}]",
            "1:7 `[1]`: has none of the forms understood here",
        );
        wrong::<Mode>(
            "[x]",
            "1:1 expected `require`, `verify-full`, `custom` or `named`, found a list",
        );
    }

    #[test]
    fn spanned_knows_its_place() {
        let inner: Inner = node("first: 1\nsecondOne: x\n").deserialize().unwrap();
        let second = inner.second_one.unwrap();
        assert_eq!(
            (second.value.as_str(), second.place.to_string().as_str()),
            ("x", "t.yaml:2:12")
        );
    }

    #[test]
    fn errors_say_where_and_what_without_the_value() {
        wrong::<u16>(
            "hunter2",
            "1:1 expected a whole number from 0 to 65535, found text",
        );
        wrong::<u16>("70000", "1:1 expected a whole number from 0 to 65535");
        wrong::<u16>(
            "1.5",
            "1:1 expected a whole number from 0 to 65535, found a number",
        );
        wrong::<bool>(
            "no",
            "1:1 expected `true` or `false`, found text; write `false`",
        );
        wrong::<String>(
            "null",
            "1:1 expected text, found nothing; put quotes around it if the word itself is meant",
        );
        wrong::<String>("[a]", "1:1 expected text, found a list");
        wrong::<BTreeMap<String, String>>("a:", "1:2 `a`: expected text, found nothing");
        wrong::<BTreeMap<u16, String>>(
            "x: y",
            "1:1 `x`: expected a whole number from 0 to 65535 as a key",
        );
        wrong::<char>("hunter2", "1:1 expected text");
        wrong::<f64>("inf", "1:1 expected a number, found text");
        wrong::<BTreeMap<String, Vec<Inner>>>(
            "a:\n- first: 1\n- first: 2\n  secondone: x\n",
            "4:3 unknown field `secondone` in `a[1]`; did you mean `secondOne`?",
        );
        wrong::<BTreeMap<String, Inner>>("a: {secondOne: x}", "1:4 `a` has no `first`");
        wrong::<Inner>(
            "first: [hunter2]",
            "1:8 `first`: expected a whole number from 0 to 255, found a list",
        );
    }

    #[test]
    fn a_types_own_message_loses_the_value() {
        #[derive(Debug)]
        struct Interval;

        impl<'de> Deserialize<'de> for Interval {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Err(de::Error::custom(format!("`{text}` is no duration")))
            }
        }

        wrong::<BTreeMap<String, Interval>>("a: hunter2", "1:4 `a`: `…` is no duration");
    }

    #[test]
    fn every_mistake_is_found() {
        let text = "a: {first: x, third: 1}\nb: {first: 1, secondOne: []}\nc: 3\nd: {}\n";
        let errors = node(text)
            .deserialize_all::<BTreeMap<String, Inner>>()
            .unwrap_err();
        let said: Vec<&str> = errors.iter().map(|error| error.message.as_str()).collect();
        assert_eq!(
            said,
            [
                "`a.first`: expected a whole number from 0 to 255, found text",
                "unknown field `third` in `a`",
                "`b.secondOne`: expected text, found a list",
                "`c`: expected a mapping, found a number",
                "`d` has no `first`",
            ]
        );
    }
}
