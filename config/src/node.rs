//! The located tree: YAML in which each node knows its place.
//!
//! The only file that names the YAML parser. It reads the parser's events into [`Node`]s and
//! resolves aliases and merge keys on the way. What is wrong but does not break the syntax (a
//! duplicate key, an alias without its anchor) is kept as a mistake of the node where it stands,
//! so that one document in a `List` is judged for its own mistakes only.
//!
//! Work and memory are linear in the size of the text, whatever it says: nesting ends at
//! [`MAX_DEPTH`], and all aliases of a text together may copy [`ALIAS_BUDGET`] nodes and a
//! constant share of its size. Nothing here recurses deeper than that.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, ScanError, Span, Tag};
use serde::de::DeserializeOwned;

use crate::de;
use crate::error::Mistake;
use crate::words::quoted;
use crate::{ConfigError, Place, Secret};

pub use crate::de::NodeError;

/// How deep lists and mappings may nest. A Kubernetes object needs about twenty.
const MAX_DEPTH: usize = 64;

/// How many nodes the aliases of one text may copy, whatever its size.
const ALIAS_BUDGET: usize = 250_000;

/// A scalar, a list or a mapping, and where it stands.
///
/// Its values may be secret, so `Debug` shows the shape only.
#[derive(Clone)]
pub struct Node {
    pub place: Place,
    pub(crate) data: Data,
    extra: Option<Box<Extra>>,
}

#[derive(Clone)]
pub(crate) enum Data {
    Scalar(Scalar),
    Seq(Vec<Node>),
    Map(Vec<Entry>),
    /// Taken out after its mistake was reported, to find the next one.
    Removed,
}

#[derive(Clone)]
pub(crate) struct Scalar {
    pub text: Secret,
    /// Written without quotes, so that `true`, `1` and `null` are more than text.
    pub plain: bool,
    /// The value is not known yet: it came from a reference that was not looked up, or stands for
    /// something that was already reported.
    pub unknown: bool,
}

#[derive(Clone)]
pub(crate) struct Entry {
    pub key: String,
    pub place: Place,
    pub value: Node,
}

#[derive(Clone, Default)]
struct Extra {
    mistakes: Vec<Mistake>,
    /// What paths in messages start with.
    name: Option<&'static str>,
    /// There for a template: no mistake where nothing else knows it.
    for_templates: bool,
    /// A text that may hold a list or mapping as JSON, once it is known.
    may_be_json: bool,
}

impl Node {
    /// The tree as a `T`, or the first mistake.
    pub fn deserialize<T: DeserializeOwned>(&self) -> Result<T, NodeError> {
        de::deserialize(self)
    }

    /// The tree as a `T`, or every mistake in it, in the order of the file. Mistakes that hang on
    /// a value that is not known yet (see [`Connection::resolve_partly`]) are left out, so the
    /// list may be empty.
    ///
    /// [`Connection::resolve_partly`]: crate::Connection::resolve_partly
    pub fn deserialize_all<T: DeserializeOwned>(&self) -> Result<T, Vec<NodeError>> {
        de::deserialize_all(self)
    }

    /// The value of `key`, when this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries()
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.value)
    }

    /// The keys of a mapping, each with its place and value, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Place, &Node)> {
        self.entries()
            .iter()
            .map(|entry| (entry.key.as_str(), &entry.place, &entry.value))
    }

    /// The text of a scalar, which may be secret.
    pub fn text(&self) -> Option<&str> {
        match &self.data {
            Data::Scalar(scalar) => Some(scalar.text.expose()),
            _ => None,
        }
    }

    /// Nothing, written as `null`, as `~` or not at all.
    pub fn is_null(&self) -> bool {
        matches!(&self.data, Data::Scalar(scalar) if scalar.is_null())
    }

    /// An empty mapping that stands at `place`.
    pub(crate) fn empty(place: Place) -> Self {
        Self::new(place, Data::Map(Vec::new()))
    }

    pub(crate) fn new(place: Place, data: Data) -> Self {
        Self {
            place,
            data,
            extra: None,
        }
    }

    /// A scalar of which nothing is known yet.
    pub(crate) fn unknown(place: Place) -> Self {
        let scalar = Scalar {
            text: Secret::default(),
            plain: false,
            unknown: true,
        };
        Self::new(place, Data::Scalar(scalar))
    }

    /// A text that stands at `place`.
    pub(crate) fn text_of(place: Place, text: Secret) -> Self {
        let scalar = Scalar {
            text,
            plain: false,
            unknown: false,
        };
        Self::new(place, Data::Scalar(scalar))
    }

    /// The same node, and what was found wrong with it, with other data.
    pub(crate) fn with_data(&self, data: Data) -> Self {
        Self {
            place: self.place.clone(),
            data,
            extra: self.extra.clone(),
        }
    }

    /// Notes that a template names this property, so that it is no mistake if its type does not.
    pub(crate) fn is_for_templates(&mut self) {
        self.extra.get_or_insert_default().for_templates = true;
    }

    pub(crate) fn may_be_unknown(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.for_templates)
    }

    /// Notes that the text that this will be may hold JSON.
    pub(crate) fn may_be_json(mut self) -> Self {
        self.extra.get_or_insert_default().may_be_json = true;
        self
    }

    /// A reference or template in the place of this, now that its text is known.
    pub(crate) fn filled(&self, text: String) -> Self {
        let node = Self::text_of(self.place.clone(), Secret::new(text));
        match self.extra.as_ref().is_some_and(|extra| extra.may_be_json) {
            // What is wrong with it is told where it is read.
            true => node.json().and_then(Result::ok).unwrap_or(node),
            false => node,
        }
    }

    /// The list or mapping that a text holds as JSON, if it looks like that. All of it stands where the
    /// text stands.
    pub(crate) fn json(&self) -> Option<Result<Self, Mistake>> {
        fn moved(mut node: Node, place: &Place) -> Node {
            node.place.clone_from(place);
            match &mut node.data {
                Data::Seq(items) => {
                    for item in items {
                        *item = moved(std::mem::replace(item, Node::empty(place.clone())), place);
                    }
                }
                Data::Map(entries) => {
                    for entry in entries {
                        entry.place.clone_from(place);
                        let empty = Node::empty(place.clone());
                        entry.value = moved(std::mem::replace(&mut entry.value, empty), place);
                    }
                }
                Data::Scalar(_) | Data::Removed => {}
            }
            node
        }
        let text = self.text()?.trim();
        if !text.starts_with(['[', '{']) || text.starts_with("{{") {
            return None;
        }
        let mut res = None;
        parse(&self.place.file, text, |document| {
            let document = document.and_then(|node| match node.mistakes().into_iter().next() {
                Some(mistake) => Err(mistake),
                None => Ok(node),
            });
            if !matches!(res, Some(Err(_))) {
                res = Some(document);
            }
        });
        Some(res?.map(|node| moved(node, &self.place)))
    }

    /// The same tree, whose paths in messages start with `name`.
    pub(crate) fn named(mut self, name: &'static str) -> Self {
        self.extra.get_or_insert_default().name = Some(name);
        self
    }

    pub(crate) fn name(&self) -> Option<&'static str> {
        self.extra.as_ref().and_then(|extra| extra.name)
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.data {
            Data::Map(entries) => entries,
            _ => &[],
        }
    }

    pub(crate) fn scalar(&self) -> Option<&Scalar> {
        match &self.data {
            Data::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    pub(crate) fn children(&self) -> impl Iterator<Item = &Node> {
        let (items, entries) = match &self.data {
            Data::Seq(items) => (items.as_slice(), [].as_slice()),
            Data::Map(entries) => ([].as_slice(), entries.as_slice()),
            Data::Scalar(_) | Data::Removed => ([].as_slice(), [].as_slice()),
        };
        items.iter().chain(entries.iter().map(|entry| &entry.value))
    }

    /// Whether anything in the tree is not known yet.
    pub(crate) fn has_unknown(&self) -> bool {
        match &self.data {
            Data::Scalar(scalar) => scalar.unknown,
            _ => self.children().any(Node::has_unknown),
        }
    }

    /// What the parser found wrong in this tree, in the order of the file.
    pub(crate) fn mistakes(&self) -> Vec<Mistake> {
        fn collect(node: &Node, into: &mut Vec<Mistake>) {
            into.extend(node.extra.iter().flat_map(|extra| extra.mistakes.clone()));
            node.children().for_each(|child| collect(child, into));
        }
        let mut mistakes = Vec::new();
        collect(self, &mut mistakes);
        mistakes.sort_by(|a, b| a.place.cmp(&b.place));
        // An alias repeats the mistakes of its anchor.
        mistakes.dedup();
        mistakes
    }

    /// What it is, for messages: `text`, `a list`.
    pub(crate) fn describe(&self) -> &'static str {
        match &self.data {
            Data::Scalar(scalar) => scalar.describe(),
            Data::Seq(_) => "a list",
            Data::Map(_) => "a mapping",
            Data::Removed => "nothing",
        }
    }
}

impl Scalar {
    pub fn is_null(&self) -> bool {
        let text = self.text.expose();
        self.plain && matches!(text, "" | "~" | "null" | "Null" | "NULL")
    }

    fn describe(&self) -> &'static str {
        let text = self.text.expose();
        if !self.plain {
            "text"
        } else if self.is_null() {
            "nothing"
        } else if de::boolean(text).is_some() {
            "a boolean"
        } else if de::integer(text).is_some() || de::float(text).is_some() {
            "a number"
        } else {
            "text"
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.data {
            Data::Scalar(_) => f.write_str(crate::secret::REDACTED),
            Data::Seq(items) => f.debug_list().entries(items).finish(),
            // A password in braces is read as a key, so keys are not shown either.
            Data::Map(entries) => f
                .debug_set()
                .entries(entries.iter().map(|entry| &entry.value))
                .finish(),
            Data::Removed => f.write_str("removed"),
        }
    }
}

/// One YAML document of settings into a `T`: strict, every mistake located.
///
/// A text without any document reads like an empty mapping.
pub fn read_one<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, Vec<ConfigError>> {
    let file: Arc<str> = file.into();
    let mut root: Option<Node> = None;
    let mut errors = Vec::new();
    parse(&file, text, |document| match document {
        Err(mistake) => errors.push(mistake.alone()),
        Ok(node) => {
            errors.extend(node.mistakes().into_iter().map(Mistake::alone));
            match &root {
                _ if node.is_null() => {}
                None => root = Some(node),
                Some(first) => errors.push(
                    Mistake::new(
                        &node.place,
                        format!(
                            "a second document; the first starts on line {}",
                            first.place.line
                        ),
                    )
                    .hint("settings are one document; remove the `---`")
                    .alone(),
                ),
            }
        }
    });
    let root = root.unwrap_or_else(|| Node::empty(place(&file, 1, 1)));
    match root.deserialize_all() {
        Ok(value) if errors.is_empty() => Ok(value),
        Ok(_) => Err(errors),
        Err(mistakes) => {
            errors.extend(
                mistakes
                    .into_iter()
                    .map(|mistake| Mistake::from(mistake).alone()),
            );
            errors.sort_by(|a, b| a.place.cmp(&b.place));
            Err(errors)
        }
    }
}

/// Reads every document of `text` and hands each to `each`: its tree, or why it has none.
pub(crate) fn parse(file: &Arc<str>, text: &str, mut each: impl FnMut(Result<Node, Mistake>)) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder::new(file, text.len());
    let mut rest = text;
    while let Some(next) = parse_stream(rest, &mut builder, &mut each) {
        // JSON objects one a line: no YAML, but what many tools write.
        builder.lines_before += rest[..next].matches('\n').count();
        rest = &rest[next..];
    }
}

/// Reads documents up to the end, or up to a further JSON object on a line of its own: gives where
/// that starts.
fn parse_stream(
    text: &str,
    builder: &mut Builder<'_>,
    each: &mut impl FnMut(Result<Node, Mistake>),
) -> Option<usize> {
    let options = granit_parser::options! {
        emit_unresolved_aliases: true,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut parser = Parser::new_from_str_with_options(text, options);
    let mut last_error = None;
    builder.reset();
    loop {
        let mistake = match parser.next_event()? {
            Ok((event, span)) => match builder.event(event, span) {
                Ok(None) => continue,
                Ok(Some(root)) => {
                    each(Ok(root));
                    continue;
                }
                Err(too_deep) => too_deep,
            },
            Err(error) => {
                let mark = error.marker();
                if let (ErrorKind::ExpectedDocumentStart, 0, Some(at)) =
                    (error.kind(), mark.col(), mark.byte_offset())
                    && at > 0
                    && text[at..].starts_with('{')
                {
                    return Some(at);
                }
                // A parser that does not get on would report the same place for ever.
                if last_error.is_some_and(|last| last >= mark.index()) {
                    return None;
                }
                last_error = Some(mark.index());
                builder.syntax(&error)
            }
        };
        each(Err(mistake));
        builder.reset();
        match parser.proceed_next_document() {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => {
                each(Err(builder.syntax(&error)));
                return None;
            }
        }
    }
}

fn place(file: &Arc<str>, line: usize, column: usize) -> Place {
    Place {
        file: Arc::clone(file),
        line: u32::try_from(line).unwrap_or(u32::MAX),
        column: u32::try_from(column).unwrap_or(u32::MAX),
    }
}

/// Builds the tree of one document at a time from the parser's events.
struct Builder<'a> {
    file: &'a Arc<str>,
    /// The lists and mappings that are open, outermost first.
    open: Vec<Open>,
    root: Option<Built>,
    /// What each anchor stands for; `None` when a copy would have cost too much.
    anchors: HashMap<usize, Option<Built>>,
    /// How many nodes aliases may still copy.
    budget: usize,
    /// Lines of the text before the part that is being parsed.
    lines_before: usize,
    /// Whether this document was already told that its aliases copy too much.
    over_budget: bool,
}

/// A list or mapping that is not complete.
struct Open {
    node: Node,
    anchor: usize,
    size: Size,
    slot: Slot,
    /// Where each key of a large mapping is, to find duplicates in linear time.
    index: HashMap<String, usize>,
    merges: Vec<Node>,
}

/// What the next node of a mapping will be.
enum Slot {
    Key,
    Value(String, Place),
    Merge,
    /// The value of a key that was refused.
    Nowhere,
}

struct Built {
    node: Node,
    size: Size,
}

/// How much work a copy of a tree is, and how deep it goes.
#[derive(Clone, Copy)]
struct Size {
    nodes: usize,
    height: usize,
}

impl<'a> Builder<'a> {
    fn new(file: &'a Arc<str>, text_len: usize) -> Self {
        Self {
            file,
            open: Vec::new(),
            root: None,
            anchors: HashMap::new(),
            budget: ALIAS_BUDGET + text_len,
            lines_before: 0,
            over_budget: false,
        }
    }

    /// Forgets the document that was being built.
    fn reset(&mut self) {
        self.open.clear();
        self.root = None;
        self.anchors.clear();
        self.over_budget = false;
    }

    /// Takes one event; gives the tree of the document that it completes.
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<Option<Node>, Mistake> {
        let at = self.place(span.start);
        match event {
            Event::DocumentStart(..) => self.reset(),
            Event::DocumentEnd => {
                let root = self.root.take().map(|built| built.node);
                self.reset();
                return Ok(root);
            }
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain
                    && !tag
                        .as_ref()
                        .is_some_and(|tag| tag.is_yaml_core_schema_tag("str"));
                let size = Size {
                    nodes: 1 + text.len() / 32,
                    height: 0,
                };
                let scalar = Scalar {
                    text: Secret::new(text),
                    plain,
                    unknown: false,
                };
                let mut node = Node::new(at, Data::Scalar(scalar));
                self.judge_tag(&mut node, tag.as_deref(), &span);
                self.built(Built { node, size }, anchor);
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.start(
                    Node::new(at, Data::Seq(Vec::new())),
                    anchor,
                    tag.as_deref(),
                    &span,
                )?;
            }
            Event::MappingStart(_, anchor, tag) => {
                self.start(
                    Node::new(at, Data::Map(Vec::new())),
                    anchor,
                    tag.as_deref(),
                    &span,
                )?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => self.alias(anchor, at)?,
            Event::UnresolvedAlias(_) => {
                // The name may be the beginning of a password, so it is not quoted.
                let mistake = Mistake::new(&at, "an alias (`*…`) without its anchor")
                    .hint("a text that starts with `*` needs quotes");
                self.put_unknown(at, mistake);
            }
            _ => {}
        }
        Ok(None)
    }

    fn start(
        &mut self,
        mut node: Node,
        anchor: usize,
        tag: Option<&Tag>,
        span: &Span,
    ) -> Result<(), Mistake> {
        if self.open.len() >= MAX_DEPTH {
            return Err(too_deep(&node.place));
        }
        self.judge_tag(&mut node, tag, span);
        self.open.push(Open {
            node,
            anchor,
            size: Size {
                nodes: 1,
                height: 1,
            },
            slot: Slot::Key,
            index: HashMap::new(),
            merges: Vec::new(),
        });
        Ok(())
    }

    fn end(&mut self) {
        let Some(mut open) = self.open.pop() else {
            return;
        };
        merge(&mut open);
        let built = Built {
            node: open.node,
            size: open.size,
        };
        self.built(built, open.anchor);
    }

    /// A node is complete: remember it if it is anchored, and put it where it belongs.
    fn built(&mut self, built: Built, anchor: usize) {
        if anchor != 0 {
            let copy = self.afford(built.size).then(|| Built {
                node: built.node.clone(),
                size: built.size,
            });
            self.anchors.insert(anchor, copy);
        }
        self.put(built);
    }

    fn alias(&mut self, anchor: usize, at: Place) -> Result<(), Mistake> {
        let size = match self.anchors.get(&anchor) {
            Some(target) => target.as_ref().map(|target| target.size),
            None => {
                let mistake = Mistake::new(&at, "an alias inside of what it stands for");
                self.put_unknown(at, mistake);
                return Ok(());
            }
        };
        if let Some(size) = size {
            if self.open.len() + size.height > MAX_DEPTH {
                return Err(too_deep(&at));
            }
            if self.afford(size)
                && let Some(Some(target)) = self.anchors.get(&anchor)
            {
                let copy = Built {
                    node: target.node.clone(),
                    size,
                };
                self.put(copy);
                return Ok(());
            }
        }
        if std::mem::replace(&mut self.over_budget, true) {
            self.put(Built::unknown(at));
        } else {
            let mistake = Mistake::new(
                &at,
                "the aliases of this file stand for more than 250,000 values",
            )
            .hint("write the values out, or split the file");
            self.put_unknown(at, mistake);
        }
        Ok(())
    }

    fn afford(&mut self, size: Size) -> bool {
        match self.budget.checked_sub(size.nodes) {
            Some(rest) => {
                self.budget = rest;
                true
            }
            None => false,
        }
    }

    /// Stands in for something that cannot be had and is reported once.
    fn put_unknown(&mut self, at: Place, mistake: Mistake) {
        let mut built = Built::unknown(at);
        built.node.blame(mistake);
        self.put(built);
    }

    fn put(&mut self, built: Built) {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(built);
            return;
        };
        open.size.nodes = open.size.nodes.saturating_add(built.size.nodes);
        open.size.height = open.size.height.max(built.size.height + 1);
        match &mut open.node.data {
            Data::Seq(items) => items.push(built.node),
            _ => open.put_in_mapping(built.node),
        }
    }

    /// A tag of YAML's own may stand; any other would be ignored, which is worse than refused.
    fn judge_tag(&self, node: &mut Node, tag: Option<&Tag>, span: &Span) {
        if let Some(tag) = tag
            && tag.is_custom()
            && tag.original() != "!"
        {
            // The tag may be the beginning of a password, so it is not quoted.
            let at = self.place(span.tag_start().unwrap_or(span.start));
            let mistake = Mistake::new(&at, "a YAML tag (`!…`) that means nothing here")
                .hint("a text that starts with `!` needs quotes");
            node.blame(mistake);
        }
    }

    fn syntax(&self, error: &ScanError) -> Mistake {
        syntax(&self.place(*error.marker()), error.kind())
    }

    fn place(&self, mark: Marker) -> Place {
        place(self.file, self.lines_before + mark.line(), mark.col() + 1)
    }
}

impl Built {
    fn unknown(at: Place) -> Self {
        Self {
            node: Node::unknown(at),
            size: Size {
                nodes: 1,
                height: 0,
            },
        }
    }
}

impl Node {
    fn blame(&mut self, mistake: Mistake) {
        self.extra.get_or_insert_default().mistakes.push(mistake);
    }
}

impl Open {
    fn put_in_mapping(&mut self, node: Node) {
        match std::mem::replace(&mut self.slot, Slot::Key) {
            Slot::Key => self.slot = self.key(node),
            Slot::Value(key, place) => self.entry(Entry {
                key,
                place,
                value: node,
            }),
            Slot::Merge => self.merges.push(node),
            Slot::Nowhere => {}
        }
    }

    fn key(&mut self, node: Node) -> Slot {
        let Data::Scalar(scalar) = &node.data else {
            let mistake = Mistake::new(&node.place, format!("{} as a key", node.describe()))
                .hint("a key is plain text; a text that starts with `{` or `[` needs quotes")
                .maybe_helm();
            self.node.blame(mistake);
            return Slot::Nowhere;
        };
        if let Some(extra) = &node.extra {
            for mistake in &extra.mistakes {
                self.node.blame(mistake.clone());
            }
        }
        if scalar.unknown {
            return Slot::Nowhere;
        }
        let key = scalar.text.expose();
        if scalar.plain && key == "<<" {
            return Slot::Merge;
        }
        if let Some(first) = self.find(key) {
            let message = format!(
                "duplicate key {}, first on line {}",
                quoted(key),
                first.line
            );
            self.node.blame(Mistake::new(&node.place, message));
            return Slot::Nowhere;
        }
        Slot::Value(key.to_owned(), node.place)
    }

    fn entry(&mut self, entry: Entry) {
        let Data::Map(entries) = &mut self.node.data else {
            return;
        };
        // Small mappings are searched, large ones looked up.
        const SMALL: usize = 16;
        if entries.len() == SMALL {
            let keys = entries.iter().enumerate();
            self.index = keys.map(|(at, entry)| (entry.key.clone(), at)).collect();
        }
        if entries.len() >= SMALL {
            self.index.insert(entry.key.clone(), entries.len());
        }
        entries.push(entry);
    }

    /// Where `key` was given already.
    fn find(&self, key: &str) -> Option<&Place> {
        let entries = self.node.entries();
        let found = match self.index.is_empty() {
            true => entries.iter().find(|entry| entry.key == key),
            false => self.index.get(key).map(|at| &entries[*at]),
        };
        found.map(|entry| &entry.place)
    }
}

/// Adds what `<<` brings: own keys win, and of several mappings the earlier.
fn merge(open: &mut Open) {
    for merged in std::mem::take(&mut open.merges) {
        let sources = match merged.data {
            Data::Seq(items) => items,
            _ => vec![merged],
        };
        for source in sources {
            for mistake in source.extra.iter().flat_map(|extra| &extra.mistakes) {
                open.node.blame(mistake.clone());
            }
            match source.data {
                Data::Map(entries) => {
                    for entry in entries {
                        if open.find(&entry.key).is_none() {
                            open.entry(entry);
                        }
                    }
                }
                Data::Scalar(scalar) if scalar.unknown => {}
                _ => {
                    let found = source.describe();
                    let message = format!("`<<` merges mappings, found {found}");
                    open.node.blame(Mistake::new(&source.place, message));
                }
            }
        }
    }
}

fn too_deep(at: &Place) -> Mistake {
    Mistake::new(at, format!("nested deeper than {MAX_DEPTH} levels"))
}

/// The parser's complaint in the words of the person who wrote the text.
fn syntax(at: &Place, kind: &ErrorKind) -> Mistake {
    use ErrorKind as K;
    let (message, hint) = match kind {
        K::RecursionLimitExceeded => return too_deep(at),
        K::TabNotAllowed
        | K::TabInBlockIndentation
        | K::TabInIndentation
        | K::TabAtBlockScalarStart
        | K::TabInPlainScalar => (
            "a tab where only spaces may stand".to_owned(),
            "YAML is indented with spaces",
        ),
        K::UnclosedQuotedScalar | K::DocumentIndicatorInQuotedScalar => (
            "a quote is not closed".to_owned(),
            "a quote inside a quoted text is written `\\\"` in double quotes, `''` in single ones",
        ),
        K::InvalidTrailingSingleQuotedScalar | K::InvalidTrailingDoubleQuotedScalar => (
            "text behind a closing quote".to_owned(),
            "a quote inside a quoted text is written `\\\"` in double quotes, `''` in single ones",
        ),
        K::UnclosedFlowCollection { open } => (
            format!("`{open}` is not closed"),
            "a text that starts with `{` or `[` needs quotes",
        ),
        K::UnexpectedEofFlowSequence => (
            "`[` is not closed".to_owned(),
            "a text that starts with `[` needs quotes",
        ),
        K::UnexpectedEofFlowMapping | K::UnexpectedEofImplicitFlowMapping => (
            "`{` is not closed".to_owned(),
            "a text that starts with `{` needs quotes",
        ),
        K::ExpectedFlowMappingSeparator | K::ExpectedFlowSequenceSeparator => (
            "expected `,` or a closing bracket".to_owned(),
            "a text that starts with `{` or `[` needs quotes",
        ),
        K::MisplacedFlowCollectionEnd | K::MismatchedFlowCollectionEnd { .. } => (
            "a closing bracket that was not opened".to_owned(),
            "a text that contains brackets may need quotes",
        ),
        K::MappingValueNotAllowed | K::MappingKeyNotAllowed | K::InvalidColonPlacement => (
            "`:` is not expected here".to_owned(),
            "is the line indented like its neighbours? a text that contains `: ` needs quotes",
        ),
        K::SimpleKeyExpected | K::InvalidSimpleKey | K::ExpectedBlockMappingKey => (
            "expected `key: value`".to_owned(),
            "is the line indented like its neighbours, with a `:` and a space behind the key?",
        ),
        K::InvalidQuotedScalarIndent => (
            "a quoted text goes on here without being indented".to_owned(),
            "is its closing quote missing?",
        ),
        K::InvalidIndentation | K::InvalidBlockScalarIndent => (
            "wrong indentation".to_owned(),
            "indent the line like its neighbours",
        ),
        K::ExpectedDocumentStart => (
            "more text behind the end of a document".to_owned(),
            "start the next document with `---`",
        ),
        K::UnknownQuotedScalarEscape => (
            "an unknown `\\` escape in double quotes".to_owned(),
            "write `\\\\` for a backslash, or use single quotes",
        ),
        K::UnexpectedCharacter { character } if character.is_control() => (
            format!(
                "a control character that YAML does not allow (U+{:04X})",
                u32::from(*character)
            ),
            "between double quotes write it as an escape, such as `\\x7f`",
        ),
        // The character may be the first of a password, so it is not quoted.
        K::UnexpectedCharacter { .. } => (
            "a character that cannot start a text".to_owned(),
            "a text that starts with `@`, `` ` `` or `%` needs quotes",
        ),
        K::Custom(_) | K::InputIo { .. } | K::InputDecoding { .. } => {
            return Mistake::new(at, "not valid YAML");
        }
        other => return Mistake::new(at, format!("not valid YAML: {other}")).maybe_helm(),
    };
    Mistake::new(at, message).hint(hint).maybe_helm()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many nodes and mistakes the documents of `text` have.
    fn size(text: &str) -> (usize, usize) {
        fn count(node: &Node) -> usize {
            1 + node.children().map(count).sum::<usize>()
        }
        let file = "t.yaml".into();
        let (mut nodes, mut mistakes) = (0, 0);
        parse(&file, text, |document| match document {
            Ok(root) => {
                nodes += count(&root);
                mistakes += root.mistakes().len();
            }
            Err(_) => mistakes += 1,
        });
        (nodes, mistakes)
    }

    /// A document of ten lists, each ten times the one before.
    fn bomb() -> String {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let aliases = format!("*a{}, ", level - 1).repeat(10);
            text += &format!("a{level}: &a{level} [{aliases}]\n");
        }
        text
    }

    #[test]
    fn an_alias_bomb_goes_out() {
        let (nodes, mistakes) = size(&bomb());
        assert!(nodes <= ALIAS_BUDGET + bomb().len(), "{nodes}");
        assert_eq!(mistakes, 1);
    }

    /// All documents of a text share one budget, so that a thousand small bombs are no large one.
    #[test]
    fn a_thousand_alias_bombs_cost_no_more_than_one() {
        let text = format!("{}---\n", bomb()).repeat(1000);
        let (nodes, mistakes) = size(&text);
        assert!(nodes <= ALIAS_BUDGET + 2 * text.len(), "{nodes}");
        assert_eq!(mistakes, 1000);
    }

    #[test]
    fn a_large_text_cannot_be_repeated_for_nothing() {
        let text = format!(
            "a: &a {}\nb: [{}]\n",
            "x".repeat(1 << 20),
            "*a,".repeat(10_000)
        );
        let file = "t.yaml".into();
        let mut bytes = 0;
        parse(&file, &text, |document| {
            let root = document.unwrap_or_else(|mistake| panic!("{mistake:?}"));
            let items = root.get("b").into_iter().flat_map(Node::children);
            bytes = items.filter_map(Node::text).map(str::len).sum();
        });
        assert!(bytes <= 32 * (ALIAS_BUDGET + text.len()), "{bytes}");
    }

    #[test]
    fn nesting_ends_at_its_limit() {
        for (open, close) in [
            ("[", "]"),
            ("{a: ", "}"),
            ("- ", ""),
            ("[{a: ", "}]"),
            ("? ", ""),
        ] {
            for depth in [MAX_DEPTH / 2 - 1, MAX_DEPTH + 1, 100_000] {
                let text = format!("{}x{}", open.repeat(depth), close.repeat(depth));
                let (nodes, mistakes) = size(&text);
                assert!(nodes <= 2 * MAX_DEPTH, "{open} {depth}: {nodes}");
                assert_eq!(
                    mistakes > 0,
                    depth > MAX_DEPTH || open == "? ",
                    "{open} {depth}"
                );
            }
        }
        // Through aliases, too.
        let deep = format!("a: &a {}{}\n", "[".repeat(40), "]".repeat(40));
        let text = format!("{deep}b: {}*a{}\n", "[".repeat(40), "]".repeat(40));
        assert_eq!(size(&text), (0, 1));
    }

    #[test]
    fn many_keys_are_told_apart() {
        let keys: String = (0..50_000).map(|n| format!("k{n}: {n}\n")).collect();
        assert_eq!(size(&keys), (50_001, 0));
        assert_eq!(size(&format!("{keys}k7: x\n")), (50_001, 1));
    }

    #[test]
    fn places_count_from_one() {
        let file = "t.yaml".into();
        let mut said = Vec::new();
        let text = "# ü\nä: \"x\"\nb:\n  - c: |\n      text\n    d:\n";
        parse(&file, text, |document| {
            fn walk(node: &Node, said: &mut Vec<String>) {
                said.push(format!(
                    "{}:{} {}",
                    node.place.line,
                    node.place.column,
                    node.describe()
                ));
                node.children().for_each(|child| walk(child, said));
            }
            walk(
                &document.unwrap_or_else(|mistake| panic!("{mistake:?}")),
                &mut said,
            );
        });
        let expected = [
            "2:1 a mapping",
            "2:4 text",
            "4:3 a list",
            "4:5 a mapping",
            "5:7 text",
            "6:6 nothing",
        ];
        assert_eq!(said, expected);
    }
}
