//! What the owner wrote: one `Connection`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use crate::document::Trust;
use crate::error::Mistake;
use crate::forms::Words;
use crate::in_url::Beside;
use crate::node::{Data, Node};
use crate::resolve::{self, Field, Lookup, Resolved, SecretKey, Unresolved};
use crate::template::{self, Part, Variable};
use crate::urls::{self, BadPort};
use crate::value::{self, Reference, Source, Value};
use crate::words::{nearest, quoted};
use crate::{ConfigError, Identity, Place, Spanned};

/// One `Connection` document, read but not yet resolved.
#[derive(Clone)]
pub struct Connection {
    pub id: Identity,
    /// Where the document starts to be about this connection (its `metadata.name`).
    pub place: Place,
    /// `spec.type` as written; the table of types in the probes crate knows the names.
    pub type_name: Option<Spanned<String>>,
    /// The type that a block (`spec.postgres`) is, where there is one.
    pub block: Option<Spanned<String>>,
    /// `spec.name`, for people.
    pub display_name: Option<String>,
    pub description: Option<String>,
    pub icon: Option<String>,
    /// `spec.labels` over `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`, each with the place of its value.
    pub annotations: BTreeMap<String, Spanned<String>>,
    /// Where it came from, and so what its author may have of our machine.
    pub trust: Trust,
    /// Boxed, since it is large, and lists of connections are moved about.
    pub(crate) spec: Box<Spec>,
}

/// The part of a `Connection` that a probe is made of. Every form of `spec` is read into this.
#[derive(Clone, Default)]
pub(crate) struct Spec {
    pub url: Option<Value>,
    pub username: Option<Value>,
    pub password: Option<Value>,
    pub secret_ref: Option<SecretRef>,
    pub ca_cert: Option<Value>,
    pub client_cert: Option<Value>,
    pub client_key: Option<Value>,
    pub insecure_skip_verify: Option<Spanned<bool>>,
    /// A mapping, when given.
    pub properties: Option<Node>,
    /// What templates name by what its owner calls it, and no type knows by that name.
    pub for_templates: Option<Node>,
    /// Stands beside a URL that has none.
    pub port: Option<Value>,
    /// An authority, or the login of a type whose login is a document.
    pub certificate: Option<Value>,
    /// What a block says of an address; `url` names them as if they were properties.
    pub parts: BTreeMap<&'static str, Value>,
    /// What the URL must say too, whoever brings it.
    pub in_url: Vec<Beside>,
    /// What the owner calls all this.
    pub words: Words,
}

/// `spec.secretRef`
#[derive(Clone, Debug)]
pub(crate) struct SecretRef {
    pub place: Place,
    pub name: String,
    /// The connection's own when not given.
    pub namespace: Option<String>,
    /// The whole secret when not given.
    pub key: Option<String>,
}

/// A connection as far as it is known before any reference was looked up.
#[derive(Clone, Debug)]
pub struct Partial {
    pub resolved: Resolved,
    /// Whether `resolved.url` is what it will be.
    pub url_is_known: bool,
    pub(crate) unknown: HashSet<Place>,
    pub(crate) unknown_fields: HashSet<Field>,
}

impl Partial {
    /// Whether `field` is what it will be. An unknown user name or password is a placeholder, an
    /// unknown URL, certificate or key is absent.
    pub fn is_known(&self, field: Field) -> bool {
        !self.unknown_fields.contains(&field)
    }

    /// Whether the value at `place` is a placeholder, so that a mistake there means nothing.
    pub fn is_unknown_at(&self, place: &Place) -> bool {
        self.unknown.contains(place)
    }
}

impl fmt::Debug for Connection {
    /// Who it is, and nothing that could be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.id)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// A mistake of this connection.
    pub fn error(
        &self,
        place: Place,
        message: impl Into<String>,
        hint: Option<String>,
    ) -> ConfigError {
        let mistake = Mistake::new(&place, message).maybe_hint(hint);
        self.spec.words.of_mistake(mistake).of(
            self.type_name
                .as_ref()
                .or(self.block.as_ref())
                .map(|name| name.value.clone()),
            Some(self.id.clone()),
        )
    }

    /// The same once its type is known, by its canonical name.
    pub fn error_of_type(
        &self,
        type_name: &str,
        place: Place,
        message: impl Into<String>,
        hint: Option<String>,
    ) -> ConfigError {
        ConfigError {
            type_name: Some(type_name.to_owned()),
            ..self.error(place, message, hint)
        }
    }

    /// A message or hint about this connection in the words of who wrote it: `postgres.host` where that
    /// is what stands for `url`.
    pub fn in_own_words(&self, text: String) -> String {
        self.spec.words.of(text)
    }

    /// The lower-case scheme of a literal `url`, for a connection without `type`.
    pub fn url_scheme(&self) -> Option<String> {
        let url = self.spec.url.as_ref()?.literal()?.trim();
        let (scheme, _) = url.split_once("://")?;
        let valid = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
        valid.then(|| scheme.to_ascii_lowercase())
    }

    /// Whether anything of it is a reference.
    pub fn needs_lookup(&self) -> bool {
        self.spec.secret_ref.is_some() || !self.spec.references().is_empty()
    }

    /// Looks up the references, trims, fills the templates. `type_name` is the canonical one, for
    /// `$(type)`; `own_keys` are those of a whole secret that the type reads beside
    /// [`COMMON_KEYS`](crate::COMMON_KEYS).
    pub fn resolve(
        &self,
        type_name: &str,
        own_keys: &'static [SecretKey],
        lookup: &dyn Lookup,
    ) -> Result<Resolved, Vec<Unresolved>> {
        resolve::resolve(self, type_name, own_keys, lookup)
    }

    /// The same without looking anything up: a value that is not known yet is a placeholder, so
    /// that the rest can be judged when the definition is loaded.
    pub fn resolve_partly(&self, type_name: &str, own_keys: &'static [SecretKey]) -> Partial {
        resolve::resolve_partly(self, type_name, own_keys)
    }

    /// Everything that is wrong with the references and templates as they are written.
    pub(crate) fn check(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        if self.trust == Trust::Remote {
            for (place, reference) in self.spec.references() {
                if reference.is_local() {
                    mistakes.push(
                        Mistake::new(place, "`file://` and `env://` are not read for a connection that came from the Kubernetes API")
                            .hint("put the value into a secret: `secret://NAME/KEY`"),
                    );
                }
            }
        }
        let mut templates = Templates {
            spec: &self.spec,
            properties: Properties::new(&self.spec),
            mistakes: &mut mistakes,
            open: Vec::new(),
            chain: 0,
            done: HashSet::new(),
            in_part: false,
        };
        // In the order of `resolve`, so that what is short enough here is short enough there.
        if let Some(properties) = &self.spec.properties {
            templates.node(properties);
        }
        if let Some(url) = &self.spec.url
            && let Some(text) = url.literal()
        {
            templates.text(text, &url.place);
        }
        for part in self.spec.parts.values() {
            if let Some(text) = part.literal() {
                templates.in_part = true;
                templates.text(text, &part.place);
            }
        }
        mistakes.extend(self.check_port());
        let words = &self.spec.words;
        mistakes
            .into_iter()
            .map(|mistake| words.of_mistake(mistake))
            .collect()
    }

    /// Whether a literal `port` goes with a literal `url`.
    pub(crate) fn check_port(&self) -> Option<Mistake> {
        let port = self.spec.port.as_ref()?;
        let place = &port.place;
        let Some(url) = &self.spec.url else {
            return match self.spec.secret_ref {
                Some(_) => None,
                None => Some(
                    Mistake::new(place, "a `port` without a `url`")
                        .hint("write the port into the `url`"),
                ),
            };
        };
        let port = port.literal()?;
        let mistake = |problem: BadPort| {
            let message = format!("`port` {}", problem.message());
            let hint = problem.hint().map(str::to_owned);
            Some(Mistake::new(place, message).maybe_hint(hint))
        };
        if !urls::is_port(port) {
            return mistake(BadPort::NoNumber);
        }
        let url = url.literal()?;
        // What a template will bring is judged when it is filled.
        let host = match self.spec.parts.get("host") {
            Some(host) => host.literal()?.to_owned(),
            None => url.trim().to_owned(),
        };
        match urls::with_port(&host, port) {
            Err(BadPort::Contradicts | BadPort::NoPlace) if host.contains(['$', '{']) => None,
            Err(problem) => mistake(problem),
            Ok(_) => None,
        }
    }

    /// Whether a literal `url` says what stands beside it, as far as no template is asked.
    pub(crate) fn check_in_url(&self, type_name: &str) -> Vec<Mistake> {
        let is_plain = |text: &&str| !text.contains("$(") && !text.contains("{{");
        if (self.spec.secret_ref.as_ref()).is_some_and(SecretRef::is_url) {
            return Vec::new();
        }
        let Some(url) = self.spec.url.as_ref().and_then(Value::literal) else {
            return Vec::new();
        };
        let mut url = url.trim().to_owned();
        for known in ["username", "password"] {
            url = url.replace(&format!("$({known})"), "");
            url = url.replace(&format!("{{{{{known}}}}}"), "");
        }
        if !is_plain(&url.as_str()) {
            return Vec::new();
        }
        if let Some(port) = &self.spec.port {
            let port = port.literal();
            // What is wrong with the port has been told.
            let Some(Ok(with_port)) = port.map(|port| urls::with_port(&url, port)) else {
                return Vec::new();
            };
            url = with_port;
        }
        let beside = self.spec.in_url.iter().filter(|beside| {
            let text = beside.value.literal().map(str::trim).filter(is_plain);
            text.is_some_and(|text| beside.in_url(type_name, &url, text).is_none())
        });
        beside.map(Beside::contradiction).collect()
    }
}

impl Spec {
    /// The values outside of `properties`.
    fn values(&self) -> impl Iterator<Item = &Value> {
        [
            &self.url,
            &self.username,
            &self.password,
            &self.ca_cert,
            &self.client_cert,
            &self.client_key,
            &self.port,
            &self.certificate,
        ]
        .into_iter()
        .flatten()
        .chain(self.parts.values())
        .chain(self.in_url.iter().map(|beside| &beside.value))
    }

    /// Every reference and where it stands, but for `secretRef`.
    pub fn references(&self) -> Vec<(&Place, Reference)> {
        fn collect<'a>(node: &'a Node, into: &mut Vec<(&'a Place, Reference)>) {
            if let Some(Ok(reference)) = node.text().and_then(value::reference) {
                into.push((&node.place, reference));
            }
            node.children().for_each(|child| collect(child, into));
        }
        let mut references: Vec<(&Place, Reference)> = self
            .values()
            .filter_map(|value| match &value.source {
                Source::Reference(reference) => Some((&value.place, reference.clone())),
                Source::Literal(_) => None,
            })
            .collect();
        for properties in self.properties.iter().chain(&self.for_templates) {
            collect(properties, &mut references);
        }
        references
    }

    pub fn property_names(&self) -> Vec<&str> {
        let properties = self.properties.iter();
        properties
            .flat_map(Node::iter)
            .map(|(key, _, _)| key)
            .collect()
    }
}

/// Finds properties by name without searching each mapping more than once.
pub(crate) struct Properties<'a> {
    spec: &'a Spec,
    seen: HashMap<*const Node, HashMap<&'a str, &'a Node>>,
}

impl<'a> Properties<'a> {
    pub fn new(spec: &'a Spec) -> Self {
        Self {
            spec,
            seen: HashMap::new(),
        }
    }

    /// What `$(properties.KEY)` names: the property of that name, or for `a.b` the `b` in `a`.
    pub fn get(&mut self, key: &str) -> Option<&'a Node> {
        let spec = self.spec;
        let mut roots = spec.properties.iter().chain(&spec.for_templates);
        roots.find_map(|root| {
            self.child(root, key).or_else(|| {
                key.split('.')
                    .try_fold(root, |node, part| self.child(node, part))
            })
        })
    }

    fn child(&mut self, node: &'a Node, key: &str) -> Option<&'a Node> {
        let entries = node.entries().iter();
        let index = self.seen.entry(node).or_insert_with(|| {
            entries
                .map(|entry| (entry.key.as_str(), &entry.value))
                .collect()
        });
        index.get(key).copied()
    }
}

/// How many mistakes in templates are reported: more than anyone mends at once.
const MOST_MISTAKES: usize = 20;

/// How many properties may stand in one another's templates.
const LONGEST_CHAIN: usize = 16;

/// Follows the templates of one connection.
struct Templates<'a> {
    spec: &'a Spec,
    properties: Properties<'a>,
    mistakes: &'a mut Vec<Mistake>,
    /// The properties that are being followed, to find a circle.
    open: Vec<*const Node>,
    chain: usize,
    done: HashSet<*const Node>,
    /// What is looked at is one of [`Spec::parts`], which cannot name one another.
    in_part: bool,
}

impl Templates<'_> {
    fn node(&mut self, node: &Node) {
        let this: *const Node = node;
        if !self.done.insert(this) {
            return;
        }
        self.open.push(this);
        match &node.data {
            Data::Scalar(scalar) if scalar.unknown => {}
            Data::Scalar(scalar) => match value::reference(scalar.text.expose()) {
                // Looked up as it is.
                Some(Ok(_)) => {}
                Some(Err((message, hint))) => self
                    .mistakes
                    .push(Mistake::new(&node.place, message).maybe_hint(hint)),
                None => self.text(scalar.text.expose(), &node.place),
            },
            _ => node.children().for_each(|child| self.node(child)),
        }
        self.open.pop();
    }

    fn text(&mut self, text: &str, place: &Place) {
        if let Some(scheme) = ["secret://", "configmap://"]
            .into_iter()
            .find(|scheme| text.contains(scheme))
        {
            let message = format!("`{scheme}` inside of a text; a reference is the whole value");
            let hint = "say `password: secret://NAME/KEY`, and `$(password)` in this text";
            self.mistakes.push(Mistake::new(place, message).hint(hint));
        }
        if !text.contains(['$', '{']) {
            return;
        }
        if template::find_helm(&text.replace("$${{", "")).is_some() {
            let mistake = Mistake::new(place, "a Helm template that was not rendered")
                .hint("for the brackets themselves write `$${{`")
                .maybe_helm();
            self.mistakes.push(mistake);
            return;
        }
        for part in template::parse(text) {
            if self.mistakes.len() >= MOST_MISTAKES {
                return;
            }
            if let Part::Variable(name) = part
                && let Err(mistake) = self.variable(name, place)
            {
                self.mistakes.push(mistake);
            }
        }
    }

    fn variable(&mut self, name: &str, place: &Place) -> Result<(), Mistake> {
        let nothing = |field: &str| {
            Mistake::new(place, format!("nothing to fill `$({field})` with"))
                .hint(format!("give `spec.{field}` or `spec.secretRef`"))
        };
        match template::variable(name) {
            Some(Variable::Username) if self.spec.username.is_none() => {
                match self.spec.secret_ref {
                    Some(SecretRef { key: None, .. }) => Ok(()),
                    _ => Err(nothing("username")),
                }
            }
            Some(Variable::Password)
                if self.spec.password.is_none() && self.spec.secret_ref.is_none() =>
            {
                Err(nothing("password"))
            }
            Some(Variable::Property(key)) => self.property(key, place),
            Some(_) => Ok(()),
            None => {
                let (message, hint) = template::unknown_variable(name, &self.spec.property_names());
                Err(Mistake::new(place, message).hint(hint))
            }
        }
    }

    fn property(&mut self, key: &str, place: &Place) -> Result<(), Mistake> {
        if self.spec.parts.contains_key(key) {
            return match self.in_part {
                true => Err(Mistake::new(
                    place,
                    format!("`$(properties.{key})` cannot stand here"),
                )
                .hint("write the text itself")),
                false => Ok(()),
            };
        }
        let Some(node) = self.properties.get(key) else {
            let names = self.spec.property_names();
            let (shown, hint) = match nearest(key, &names) {
                Some(meant) => (
                    format!("`$(properties.{key})`"),
                    format!("did you mean `$(properties.{meant})`?"),
                ),
                None => (
                    "a template".to_owned(),
                    "give it under `spec.properties`".to_owned(),
                ),
            };
            return Err(
                Mistake::new(place, format!("{shown} names a property that is not there"))
                    .hint(hint),
            );
        };
        let key = quoted(key);
        match &node.data {
            Data::Scalar(scalar) if scalar.unknown => Ok(()),
            Data::Scalar(scalar) if !scalar.is_null() => {
                if self.open.contains(&std::ptr::from_ref(node)) {
                    let message = format!("the templates go in a circle through property {key}");
                    return Err(Mistake::new(place, message));
                }
                if self.chain >= LONGEST_CHAIN {
                    let message = format!(
                        "more than {LONGEST_CHAIN} properties stand in one another's templates"
                    );
                    return Err(Mistake::new(place, message));
                }
                self.chain += 1;
                self.node(node);
                self.chain -= 1;
                Ok(())
            }
            _ => {
                let found = node.describe();
                Err(Mistake::new(
                    place,
                    format!("a template needs text, and property {key} is {found}"),
                ))
            }
        }
    }
}
