//! References to values: look up, trim, fill the templates.
//!
//! Who wins: a secret's `username` and `password` over those of `spec`; the `url` and the
//! certificates of `spec` over those of a whole secret, which may carry others' (a CA for its own
//! purposes, the address of another replica). A `secretRef` whose `key` is named like a URL is the
//! URL, whatever `spec` says: it was asked for by name.
//!
//! `url`, `username`, `password` and the one value of a `secretRef` with `key` are trimmed; other
//! values from references lose line breaks at their end, since a secret made from a file has one.
//! An empty one counts as not given. Templates are filled in `url`, also in one that came from a
//! reference (where an unknown name is left alone), and in the literal texts of `properties`.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::connection::{Connection, Partial, Properties, SecretRef, Spec};
use crate::document::Trust;
use crate::forms::certificate_is_login;
use crate::in_url::What;
use crate::node::{Data, Entry, Node};
use crate::secrets::Secrets;
use crate::template::{self, Kind, Part, Variable};
use crate::urls;
use crate::value::{self, Reference, Source, Value};
use crate::words::listed;
use crate::{Identity, Place, Secret};

/// What a reference points at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefKind {
    Secret,
    ConfigMap,
}

impl RefKind {
    /// What messages call it.
    pub(crate) fn noun(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::ConfigMap => "config map",
        }
    }
}

/// Where values are looked for; the daemon supplies it.
pub trait Lookup: Send + Sync {
    /// The first source that has the secret. `wanted`: the keys that would be used (a source that
    /// cannot list its keys, like the environment, is asked for these).
    fn find(
        &self,
        kind: RefKind,
        namespace: &str,
        name: &str,
        wanted: &[&str],
    ) -> Result<Found, NotFound>;

    /// The content of a file, for `file:///path`.
    fn file(&self, path: &str) -> Result<Secret, NotFound>;

    /// The value of a variable, for `env://NAME`.
    fn env(&self, name: &str) -> Result<Secret, NotFound>;
}

/// A secret or config map that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where, for messages.
    pub source: String,
    pub values: BTreeMap<String, Secret>,
}

/// Nothing was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotFound {
    /// Every place that was tried, for messages.
    pub looked_in: Vec<String>,
    /// What went wrong, where more than absence did, such as a file that may not be read.
    pub detail: Option<String>,
}

/// A value that could not be had: what was looked for, where, and which keys exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    pub place: Place,
    pub message: String,
    pub hint: Option<String>,
}

/// The parts of a `Connection` that a message may point at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    Type,
    Url,
    Username,
    Password,
    SecretRef,
    CaCert,
    ClientCert,
    ClientKey,
    InsecureSkipVerify,
    Properties,
}

/// Everything of a connection that a probe is built from; nothing in it is a reference or a
/// template any more.
#[derive(Clone, Debug)]
pub struct Resolved {
    pub id: Identity,
    /// Whether files of ours may be read for it, and programs run.
    pub trust: Trust,
    pub url: Option<Secret>,
    pub username: Option<Secret>,
    pub password: Option<Secret>,
    /// The one value of a `secretRef` with `key`, unless the key is named like a URL.
    pub key: Option<Secret>,
    pub ca_cert: Option<Secret>,
    pub client_cert: Option<Secret>,
    pub client_key: Option<Secret>,
    /// From `spec`; `properties.insecureSkipVerify` stays among the properties.
    pub insecure_skip_verify: Option<bool>,
    /// An empty mapping when there are none.
    pub properties: Node,
    /// Whether a value is behind a reference that was not looked up (`Connection::resolve_partly`):
    /// which credentials there will be is not known then, and how they go together cannot be judged.
    pub is_partial: bool,
    /// Every value that came from a reference or stands in a field for secrets: never to be
    /// printed.
    pub secrets: Vec<Secret>,
    own_keys: OwnKeys,
    pub(crate) place: Place,
    pub(crate) places: BTreeMap<Field, Place>,
}

impl Resolved {
    /// Where `field` stands, or the connection itself when it is not given.
    pub fn place_of(&self, field: Field) -> Place {
        self.places.get(&field).unwrap_or(&self.place).clone()
    }

    /// Whether `spec` itself gives `field`, not only a secret that holds more than is needed.
    pub fn is_in_spec(&self, field: Field) -> bool {
        self.places.contains_key(&field)
    }

    /// A key of a `secretRef` without `key` that this type reads beside those of every type. Only
    /// asked for where it is used: see [`Resolved::unread`].
    pub fn own_key(&self, key: SecretKey) -> Option<&Secret> {
        let OwnKeys {
            declared, values, ..
        } = &self.own_keys;
        debug_assert!(
            declared.contains(&key),
            "`{}` is read and not declared",
            key.name()
        );
        let value = key.of(values)?;
        self.own_keys.are_read.set(true);
        Some(value)
    }

    /// What is wrong with a whole secret of which nothing was used, now that the probe is built: it
    /// brings only keys that the type reads with other settings than these. Without it the probe
    /// would go without a login, and be up where anybody is let in.
    pub fn unread(&self) -> Option<&Unresolved> {
        let unread = self.own_keys.unread.as_ref();
        unread.filter(|_| !self.own_keys.are_read.get())
    }
}

/// A key of a whole secret, by each name that it goes by; the first that is there wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecretKey(pub &'static [&'static str]);

impl SecretKey {
    /// What messages call it.
    pub fn name(self) -> &'static str {
        self.0.first().copied().unwrap_or_default()
    }

    /// What messages call several.
    pub(crate) fn listed(keys: impl IntoIterator<Item = Self>) -> String {
        listed(&keys.into_iter().map(Self::name).collect::<Vec<_>>())
    }

    fn of(self, values: &BTreeMap<String, Secret>) -> Option<&Secret> {
        self.0.iter().find_map(|name| values.get(*name))
    }
}

const USERNAME: SecretKey = SecretKey(&["username", "user"]);
const PASSWORD: SecretKey = SecretKey(&["password"]);
const URL: SecretKey = SecretKey(&["url", "uri", "dsn"]);
const CA_CERT: SecretKey = SecretKey(&["ca.crt"]);
const CLIENT_CERT: SecretKey = SecretKey(&["tls.crt"]);
const CLIENT_KEY: SecretKey = SecretKey(&["tls.key"]);

/// The keys of a whole secret that every type reads.
pub const COMMON_KEYS: [SecretKey; 6] = [USERNAME, PASSWORD, URL, CA_CERT, CLIENT_CERT, CLIENT_KEY];

/// The keys of a whole secret that one type reads beside [`COMMON_KEYS`]. No others are in it, so what
/// a type does not declare it cannot read.
#[derive(Clone, Debug)]
struct OwnKeys {
    declared: &'static [SecretKey],
    values: BTreeMap<String, Secret>,
    /// Whether a value was asked for. A probe is built on one thread, and so is the answer.
    are_read: Cell<bool>,
    /// What to say if none is: they are all that the secret brings.
    unread: Option<Unresolved>,
}

/// Whether the key of a `secretRef` is named like a URL.
fn names_url(key: &str) -> bool {
    URL.0.contains(&key) || key == "connection-string"
}

impl SecretRef {
    /// Whether its URL counts, and not that of `spec`.
    pub fn is_url(&self) -> bool {
        self.key.as_deref().is_some_and(names_url)
    }
}

/// What all templates of a connection together may become: far more than any body or query, and
/// far less than `$(properties.a)$(properties.a)…` could grow to.
const MOST_FILLED: usize = 1 << 20;

pub(crate) fn resolve(
    connection: &Connection,
    type_name: &str,
    own_keys: &'static [SecretKey],
    lookup: &dyn Lookup,
) -> Result<Resolved, Vec<Unresolved>> {
    let mut run = Run::new(connection, type_name, own_keys, Some(lookup));
    let resolved = run.run();
    match run.unresolved.is_empty() {
        true => Ok(resolved),
        false => Err(run.unresolved),
    }
}

pub(crate) fn resolve_partly(
    connection: &Connection,
    type_name: &str,
    own_keys: &'static [SecretKey],
) -> Partial {
    let mut run = Run::new(connection, type_name, own_keys, None);
    let resolved = run.run();
    Partial {
        resolved,
        url_is_known: !run.unknown_fields.contains(&Field::Url),
        unknown: run.unknown,
        unknown_fields: run.unknown_fields,
    }
}

/// A value that was asked for.
#[derive(Clone)]
enum Got {
    Nothing,
    Value(Secret),
    /// Behind a reference that was not, or could not be, looked up.
    Unknown,
}

impl Got {
    fn of(value: Option<Secret>) -> Self {
        match value.filter(|value| !value.is_empty()) {
            Some(value) => Self::Value(value),
            None => Self::Nothing,
        }
    }

    fn or(self, other: impl FnOnce() -> Self) -> Self {
        match self {
            Self::Nothing => other(),
            got => got,
        }
    }

    fn trimmed(self) -> Self {
        match self {
            Self::Value(value) => Self::of(Some(value.trimmed())),
            got => got,
        }
    }

    fn value(&self) -> Option<Secret> {
        match self {
            Self::Value(value) => Some(value.clone()),
            Self::Nothing | Self::Unknown => None,
        }
    }

    fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown)
    }
}

/// One resolution of one connection.
struct Run<'a> {
    connection: &'a Connection,
    type_name: &'a str,
    /// Those of a whole secret that this type reads beside the common ones.
    own_keys: &'static [SecretKey],
    lookup: Option<&'a dyn Lookup>,
    /// The secrets and config maps that are referred to; `None` for one that was not found.
    objects: HashMap<(RefKind, Identity), Option<Found>>,
    properties: Properties<'a>,
    username: Got,
    password: Got,
    key: Got,
    /// The values of [`crate::connection::Spec::parts`] that were asked for; `None` for one that is not known.
    parts: HashMap<String, Option<String>>,
    /// The properties that templates name, or something in them.
    for_templates: HashSet<String>,
    /// The texts of properties whose templates were filled; `None` for one that is not known.
    filled: HashMap<*const Node, Option<String>>,
    filled_len: usize,
    unresolved: Vec<Unresolved>,
    unknown: HashSet<Place>,
    unknown_fields: HashSet<Field>,
    secrets: Secrets,
}

impl<'a> Run<'a> {
    fn new(
        connection: &'a Connection,
        type_name: &'a str,
        own_keys: &'static [SecretKey],
        lookup: Option<&'a dyn Lookup>,
    ) -> Self {
        Self {
            connection,
            type_name,
            own_keys,
            lookup,
            objects: HashMap::new(),
            properties: Properties::new(&connection.spec),
            username: Got::Nothing,
            password: Got::Nothing,
            key: Got::Nothing,
            parts: HashMap::new(),
            for_templates: HashSet::new(),
            filled: HashMap::new(),
            filled_len: 0,
            unresolved: Vec::new(),
            unknown: HashSet::new(),
            unknown_fields: HashSet::new(),
            secrets: Secrets::default(),
        }
    }

    fn run(&mut self) -> Resolved {
        let spec = &self.connection.spec;
        self.find_objects();
        let whole = self.secret_ref();
        let take = |key: SecretKey| match &whole {
            Whole::Unknown => Got::Unknown,
            Whole::Values(values) => Got::of(key.of(values).cloned()),
        };

        // The secret wins over `spec`, which is still looked at for its mistakes.
        let username = self.value(spec.username.as_ref()).trimmed();
        self.username = take(USERNAME).trimmed().or(|| username);
        let certificate = self.value(spec.certificate.as_ref());
        let certificate = match certificate_is_login(self.type_name) {
            true => {
                self.key =
                    std::mem::replace(&mut self.key, Got::Nothing).or(|| certificate.trimmed());
                Got::Nothing
            }
            false => certificate,
        };
        let password = self.value(spec.password.as_ref()).trimmed();
        self.password = take(PASSWORD).trimmed().or(|| password);

        let mut fields = BTreeMap::new();
        for (field, value, key) in [
            (Field::CaCert, &spec.ca_cert, CA_CERT),
            (Field::ClientCert, &spec.client_cert, CLIENT_CERT),
            (Field::ClientKey, &spec.client_key, CLIENT_KEY),
        ] {
            let given = self.value(value.as_ref());
            let carried = take(key);
            let given = match field {
                Field::CaCert => given.or(|| certificate.clone()),
                _ => given,
            };
            fields.insert(field, given.or(|| carried));
        }
        // One without the other would look like a mistake.
        if [Field::ClientCert, Field::ClientKey]
            .iter()
            .any(|field| fields[field].is_unknown())
        {
            fields.insert(Field::ClientCert, Got::Unknown);
            fields.insert(Field::ClientKey, Got::Unknown);
        }

        let mut properties = match &spec.properties {
            Some(properties) => self.fill_properties(properties),
            None => Node::empty(self.connection.place.clone()),
        };
        let carried = take(URL).trimmed();
        let url = self.url(carried);
        let url = self.with_port(url);
        let url = self.with_what_is_beside(url);
        self.note_those_for_templates(&mut properties);
        fields.insert(Field::Url, url);
        fields.insert(Field::Username, self.username.clone());
        fields.insert(Field::Password, self.password.clone());
        fields.insert(Field::SecretRef, self.key.clone());
        let unknown = fields.iter().filter(|(_, got)| got.is_unknown());
        self.unknown_fields = unknown.map(|(field, _)| *field).collect();

        let own_keys = self.own_keys(whole);
        let value = |field: Field| fields[&field].value();
        // Something must stand for these: whether they are there is part of what is judged.
        let placeholder = |field: Field| match &fields[&field] {
            Got::Unknown => Some(Secret::new("unknown")),
            got => got.value(),
        };
        let mut resolved = Resolved {
            id: self.connection.id.clone(),
            trust: self.connection.trust,
            url: value(Field::Url),
            username: placeholder(Field::Username),
            password: placeholder(Field::Password),
            key: placeholder(Field::SecretRef),
            ca_cert: value(Field::CaCert),
            client_cert: value(Field::ClientCert),
            client_key: value(Field::ClientKey),
            insecure_skip_verify: spec.insecure_skip_verify.as_ref().map(|skip| skip.value),
            properties: properties.named("properties"),
            is_partial: !self.unknown_fields.is_empty(),
            secrets: Vec::new(),
            own_keys,
            place: self.connection.place.clone(),
            places: places(self.connection),
        };
        let known = |field| !self.unknown_fields.contains(&field);
        let secrets = std::mem::take(&mut self.secrets);
        resolved.secrets = secrets.of(self.connection, self.type_name, &resolved, known);
        resolved
    }

    /// Looks up each secret and config map once, for all keys that are wanted of it.
    fn find_objects(&mut self) {
        let connection = self.connection;
        let Some(lookup) = self.lookup else {
            return;
        };
        let mut wanted: BTreeMap<(RefKind, Identity), (&Place, BTreeSet<&str>)> = BTreeMap::new();
        let references = connection.spec.references();
        for (place, reference) in &references {
            if let Reference::Key { kind, name, key } = reference {
                let id = own(connection, name);
                let entry = wanted.entry((*kind, id));
                entry.or_insert((place, BTreeSet::new())).1.insert(key);
            }
        }
        if let Some(secret) = &connection.spec.secret_ref {
            let id = secret_id(connection, secret);
            let entry = wanted.entry((RefKind::Secret, id));
            let keys = &mut entry.or_insert((&secret.place, BTreeSet::new())).1;
            match &secret.key {
                Some(key) => {
                    keys.insert(key);
                }
                None => keys.extend(self.read_keys().flat_map(|key| key.0)),
            }
        }
        for ((kind, id), (place, keys)) in wanted {
            let keys: Vec<&str> = keys.into_iter().collect();
            let found = match lookup.find(kind, &id.namespace, &id.name, &keys) {
                Ok(found) => Some(found),
                Err(problem) => {
                    let what = format!("{} `{id}`", kind.noun());
                    self.unresolved.push(not_found(place, &what, &problem));
                    None
                }
            };
            self.objects.insert((kind, id), found);
        }
    }

    /// What `secretRef` brings. The one value of a `key` is kept aside.
    fn secret_ref(&mut self) -> Whole {
        let connection = self.connection;
        let Some(secret) = &connection.spec.secret_ref else {
            return Whole::Values(BTreeMap::new());
        };
        let id = secret_id(connection, secret);
        let Some(key) = &secret.key else {
            return match self.objects.get(&(RefKind::Secret, id.clone())) {
                Some(Some(found)) => {
                    self.secrets.extend(found.values.values());
                    if let Some(unresolved) = self.of_no_use(secret, &id, &found.values) {
                        self.unresolved.push(unresolved);
                        return Whole::Unknown;
                    }
                    let values = found.values.iter();
                    let values =
                        values.map(|(key, value)| (key.clone(), without_line_break(value)));
                    Whole::Values(values.collect())
                }
                _ => Whole::Unknown,
            };
        };
        let got = self.key(RefKind::Secret, id, key, &secret.place);
        if let Got::Value(value) = &got {
            self.secrets.add(value);
        }
        let what = format!("key `{key}` of the secret");
        self.key = self.not_blank(got, &what, &secret.place).trimmed();
        Whole::Values(BTreeMap::new())
    }

    /// What is read of a whole secret.
    fn read_keys(&self) -> impl Iterator<Item = SecretKey> + use<> {
        COMMON_KEYS.into_iter().chain(self.own_keys.iter().copied())
    }

    /// What is wrong with a whole secret that brings nothing that is read.
    fn of_no_use(
        &self,
        secret: &SecretRef,
        id: &Identity,
        values: &BTreeMap<String, Secret>,
    ) -> Option<Unresolved> {
        let names = self.read_keys().flat_map(|key| key.0);
        let read = names.filter_map(|name| Some((*name, values.get(*name)?)));
        let read: Vec<(&str, &Secret)> = read.collect();
        let is_blank = |(_, value): &(&str, &Secret)| value.trimmed().is_empty();
        if !read.iter().all(is_blank) {
            return None;
        }
        let ty = self.type_name;
        let (rest, hint) = match read.as_slice() {
            [] => (
                match values.is_empty() {
                    true => "has no keys".to_owned(),
                    false => format!("has no key that `{ty}` reads; it has {}", names_in(values)),
                },
                format!(
                    "`{ty}` reads {}: give the one that counts such a name, or point at it with `secretRef.key`",
                    SecretKey::listed(self.read_keys()),
                ),
            ),
            read => {
                let names: Vec<&str> = read.iter().map(|(name, _)| *name).collect();
                let rest = format!("has nothing in {}", listed(&names));
                (rest, HALF_DONE.to_owned())
            }
        };
        Some(Unresolved {
            place: secret.place.clone(),
            message: format!("secret `{id}` {rest}"),
            hint: Some(hint),
        })
    }

    /// What a whole secret brings for this type alone.
    fn own_keys(&self, whole: Whole) -> OwnKeys {
        let mut values = match whole {
            Whole::Values(values) => values,
            Whole::Unknown => BTreeMap::new(),
        };
        let connection = self.connection;
        let is_there = |value: &Secret| !value.trimmed().is_empty();
        let is_common = COMMON_KEYS
            .iter()
            .any(|key| key.of(&values).is_some_and(is_there));
        let unread = match &connection.spec.secret_ref {
            Some(secret) if !values.is_empty() && !is_common => Some(Unresolved {
                place: secret.place.clone(),
                message: format!(
                    "secret `{}` has no key that `{}` reads with these settings; it has {}",
                    secret_id(connection, secret),
                    self.type_name,
                    names_in(&values),
                ),
                hint: Some(
                    "name the one that counts with `secretRef.key`, or call them `username` and `password`"
                        .to_owned(),
                ),
            }),
            _ => None,
        };
        let names: Vec<&str> = self
            .own_keys
            .iter()
            .flat_map(|key| key.0)
            .copied()
            .collect();
        values.retain(|name, _| names.contains(&name.as_str()));
        OwnKeys {
            declared: self.own_keys,
            values,
            are_read: Cell::new(false),
            unread,
        }
    }

    fn key(&mut self, kind: RefKind, id: Identity, key: &str, place: &Place) -> Got {
        let object = (kind, id);
        let Some(Some(found)) = self.objects.get(&object) else {
            return Got::Unknown;
        };
        if let Some(value) = found.values.get(key) {
            return Got::Value(value.clone());
        }
        let rest = match found.values.is_empty() {
            true => "it is empty".to_owned(),
            false => format!("it has {}", names_in(&found.values)),
        };
        let (kind, id) = object;
        self.unresolved.push(Unresolved {
            place: place.clone(),
            message: format!("{} `{id}` has no key `{key}`; {rest}", kind.noun()),
            hint: Some(format!("found in {}", found.source)),
        });
        Got::Unknown
    }

    /// Follows a reference.
    fn reference(&mut self, reference: &Reference, place: &Place) -> Got {
        let got = match reference {
            Reference::Key { kind, name, key } => {
                self.key(*kind, own(self.connection, name), key, place)
            }
            Reference::File(path) => match self.lookup.map(|lookup| lookup.file(path)) {
                Some(Ok(value)) => Got::Value(value),
                Some(Err(problem)) => {
                    let what = format!("file `{path}`");
                    self.unresolved.push(not_found(place, &what, &problem));
                    Got::Unknown
                }
                None => Got::Unknown,
            },
            Reference::Env(name) => match self.lookup.map(|lookup| lookup.env(name)) {
                Some(Ok(value)) => Got::Value(value),
                Some(Err(problem)) => {
                    let what = format!("environment variable `{name}`");
                    self.unresolved.push(not_found(place, &what, &problem));
                    Got::Unknown
                }
                None => Got::Unknown,
            },
        };
        match got {
            Got::Value(value) => {
                let value = without_line_break(&value);
                if reference.is_secret() {
                    self.secrets.add(&value);
                }
                Got::Value(value)
            }
            got => {
                self.unknown.insert(place.clone());
                got
            }
        }
    }

    /// A field of `spec`.
    fn value(&mut self, value: Option<&Value>) -> Got {
        match value {
            None => Got::Nothing,
            Some(Value {
                source: Source::Literal(text),
                ..
            }) => Got::of(Some(text.clone())),
            Some(Value {
                source: Source::Reference(reference),
                place,
            }) => {
                let got = self.reference(reference, place);
                self.not_blank(got, "what is behind this reference", place)
            }
        }
    }

    /// Nothing where something was referred to: without it a probe would go without a login, say, and
    /// be up.
    fn not_blank(&mut self, got: Got, what: &str, place: &Place) -> Got {
        match got {
            Got::Value(value) if value.trimmed().is_empty() => {
                self.unresolved.push(Unresolved {
                    place: place.clone(),
                    message: format!("{what} is empty"),
                    hint: Some(HALF_DONE.to_owned()),
                });
                Got::Unknown
            }
            got => got,
        }
    }

    /// The URL, its templates filled. `carried`: what a whole secret has.
    fn url(&mut self, carried: Got) -> Got {
        let connection = self.connection;
        let secret = connection.spec.secret_ref.as_ref();
        let given = match (
            secret.and_then(|secret| secret.key.as_deref()),
            &connection.spec.url,
        ) {
            (Some(key), url) if names_url(key) => {
                // Looked at for its mistakes only.
                self.value(url.as_ref());
                std::mem::replace(&mut self.key, Got::Nothing)
            }
            (_, url) => self.value(url.as_ref()).trimmed(),
        };
        let literal = connection.spec.url.as_ref().and_then(Value::literal);
        let got = given.or(|| carried);
        let Got::Value(text) = got else {
            return got;
        };
        let place = match (&connection.spec.url, secret) {
            (Some(url), _) => url.place.clone(),
            (None, Some(secret)) => secret.place.clone(),
            (None, None) => connection.place.clone(),
        };
        let own_text = literal.is_some_and(|literal| literal.trim() == text.expose());
        let parts = match own_text {
            true => template::parse(text.expose()),
            false => template::parse_known(text.expose(), |name| match template::variable(name) {
                Some(Variable::Property(key)) => self.properties.get(key).is_some(),
                Some(_) => true,
                None => false,
            }),
        };
        match self.fill(&parts, Kind::Url, &place) {
            Some(text) => Got::of(Some(Secret::new(text))),
            None => Got::Unknown,
        }
    }

    fn fill_properties(&mut self, node: &Node) -> Node {
        let data = match &node.data {
            Data::Scalar(_) => return self.property(node),
            Data::Seq(items) => Data::Seq(
                items
                    .iter()
                    .map(|item| self.fill_properties(item))
                    .collect(),
            ),
            Data::Map(entries) => {
                let entries = entries.iter().map(|entry| Entry {
                    key: entry.key.clone(),
                    place: entry.place.clone(),
                    value: self.fill_properties(&entry.value),
                });
                Data::Map(entries.collect())
            }
            Data::Removed => Data::Removed,
        };
        Node::new(node.place.clone(), data)
    }

    /// A scalar among the properties. One without reference or template stays what it is.
    fn property(&mut self, node: &Node) -> Node {
        let text = node.text().unwrap_or_default();
        let special = text.contains(['$', '{']) || value::reference(text).is_some();
        if !special || node.is_null() {
            return node.clone();
        }
        match self.property_text(node) {
            Some(text) => node.filled(text),
            None => {
                self.unknown.insert(node.place.clone());
                Node::unknown(node.place.clone())
            }
        }
    }

    fn property_text(&mut self, node: &Node) -> Option<String> {
        let this: *const Node = node;
        if let Some(known) = self.filled.get(&this) {
            return known.clone();
        }
        let text = node.text()?;
        let filled = match value::reference(text) {
            Some(Ok(reference)) => {
                let got = self.reference(&reference, &node.place);
                got.value().map(|value| value.expose().to_owned())
            }
            _ => self.fill(&template::parse(text), Kind::Property, &node.place),
        };
        self.filled.insert(this, filled.clone());
        filled
    }

    fn fill(&mut self, parts: &[Part<'_>], kind: Kind, place: &Place) -> Option<String> {
        let of_block = &self.connection.spec.parts;
        // The name of a database may hold anything, and is never a path.
        let is_segment = |name: &str| {
            let key = name.strip_prefix("properties.");
            key.is_some_and(|key| of_block.contains_key(key))
        };
        let value = |name: &str| {
            let value = self.variable(name, place)?;
            self.filled_len += value.len();
            (self.filled_len <= MOST_FILLED).then_some(value)
        };
        let filled = template::fill(parts, kind, value, is_segment);
        if self.filled_len > MOST_FILLED {
            let message = "the templates of this connection fill to more than 1 MiB";
            if !self
                .unresolved
                .iter()
                .any(|unresolved| unresolved.message == message)
            {
                self.unresolved.push(Unresolved {
                    place: place.clone(),
                    message: message.to_owned(),
                    hint: None,
                });
            }
        }
        filled
    }

    fn variable(&mut self, name: &str, place: &Place) -> Option<String> {
        let connection = self.connection;
        match template::variable(name)? {
            Variable::Name => Some(connection.id.name.clone()),
            Variable::Namespace => Some(connection.id.namespace.clone()),
            Variable::Type => Some(self.type_name.to_owned()),
            Variable::Username => self.credential(self.username.clone(), "username", place),
            Variable::Password => {
                // The one value of a secret is what a template can mean by it.
                let password = self.password.clone().or(|| self.key.clone());
                self.credential(password, "password", place)
            }
            Variable::Property(key) => {
                if let Some(part) = self.connection.spec.parts.get(key) {
                    return self.part(key, part);
                }
                note_named(key, &mut self.for_templates);
                let node = self.properties.get(key)?;
                self.property_text(node)
            }
        }
    }

    /// A value of a block that is part of the URL.
    fn part(&mut self, name: &str, part: &Value) -> Option<String> {
        if let Some(known) = self.parts.get(name) {
            return known.clone();
        }
        let text = match &part.source {
            Source::Reference(reference) => self.reference(reference, &part.place).value(),
            Source::Literal(text) => self
                .fill(&template::parse(text.expose()), Kind::Property, &part.place)
                .map(Secret::new),
        };
        let text = text.map(|text| text.expose().trim().to_owned());
        let text = match text {
            Some(text) if name == "host" && text.contains("://") => {
                self.unresolved.push(Unresolved {
                    place: part.place.clone(),
                    message: "`host`: a URL where a host is expected".to_owned(),
                    hint: Some("give it as `url`".to_owned()),
                });
                None
            }
            Some(text) if name == "host" && urls::is_bare_ipv6(&text) => Some(format!("[{text}]")),
            text => text,
        };
        self.parts.insert(name.to_owned(), text.clone());
        text
    }

    /// The URL with the port that stands beside it.
    fn with_port(&mut self, url: Got) -> Got {
        let Some(port) = &self.connection.spec.port else {
            return url;
        };
        let got = self.value(Some(port)).trimmed();
        match (url, got) {
            (url, Got::Nothing) => url,
            (Got::Nothing, _) => Got::Nothing,
            (Got::Unknown, _) | (_, Got::Unknown) => Got::Unknown,
            (Got::Value(url), Got::Value(number)) => {
                match urls::with_port(url.expose(), number.expose()) {
                    Ok(url) => Got::of(Some(Secret::new(url))),
                    Err(problem) => {
                        self.unresolved.push(Unresolved {
                            place: port.place.clone(),
                            message: format!("`port` {}", problem.message()),
                            hint: problem.hint().map(str::to_owned),
                        });
                        Got::Unknown
                    }
                }
            }
        }
    }

    /// The URL with what stands beside it and must be in it.
    fn with_what_is_beside(&mut self, url: Got) -> Got {
        let connection = self.connection;
        connection.spec.in_url.iter().fold(url, |url, beside| {
            // What a template has put there may be a piece of something.
            let key = &beside.key;
            let is_named = self.for_templates.contains(key) || self.parts.contains_key(key);
            if is_named && beside.what != What::ReplicaSet {
                return url;
            }
            let value = &beside.value;
            let text = match &value.source {
                Source::Reference(_) => self.value(Some(value)).trimmed(),
                Source::Literal(text) => {
                    let parts = template::parse(text.expose());
                    match self.fill(&parts, Kind::Property, &value.place) {
                        Some(text) => Got::of(Some(Secret::new(text))).trimmed(),
                        None => Got::Unknown,
                    }
                }
            };
            match (url, text) {
                (Got::Value(url), Got::Value(text)) => {
                    match beside.in_url(self.type_name, url.expose(), text.expose()) {
                        Some(url) => Got::Value(Secret::new(url)),
                        None => {
                            let mistake = beside.contradiction();
                            self.unresolved.push(Unresolved {
                                place: mistake.place,
                                message: mistake.message,
                                hint: mistake.hint,
                            });
                            Got::Unknown
                        }
                    }
                }
                (Got::Value(_), Got::Unknown) if beside.what == What::ReplicaSet => Got::Unknown,
                (url, _) => url,
            }
        })
    }

    /// A property that a template names is there for it, whether or not its type knows it.
    fn note_those_for_templates(&mut self, properties: &mut Node) {
        let spec = &self.connection.spec;
        // Templates that could not be filled name them too.
        for properties in spec.properties.iter().chain(&spec.for_templates) {
            let named = named_by_templates(spec, properties);
            self.for_templates.extend(named);
        }
        let named = &self.for_templates;
        if let Data::Map(entries) = &mut properties.data {
            for entry in entries {
                if named.contains(&entry.key) {
                    entry.value.is_for_templates();
                }
            }
        }
    }

    fn credential(&mut self, got: Got, name: &str, place: &Place) -> Option<String> {
        match got {
            Got::Value(value) => Some(value.expose().to_owned()),
            Got::Unknown => None,
            Got::Nothing => {
                let connection = self.connection;
                let secret = connection.spec.secret_ref.as_ref();
                let hint = secret.map(|secret| {
                    let id = secret_id(connection, secret);
                    format!("secret `{id}` has no `{name}`, and `spec.{name}` is empty")
                });
                self.unresolved.push(Unresolved {
                    place: place.clone(),
                    message: format!("nothing to fill `$({name})` with"),
                    hint,
                });
                None
            }
        }
    }
}

/// The properties that templates name, or something in them: in `spec` and in `properties` themselves.
pub(crate) fn named_by_templates(spec: &Spec, properties: &Node) -> HashSet<String> {
    let mut named = HashSet::new();
    let url = spec.url.as_ref().and_then(Value::literal);
    let parts = spec.parts.values().filter_map(Value::literal);
    for text in url.into_iter().chain(parts) {
        named_in(text).for_each(|key| note_named(key, &mut named));
    }
    collect_named(properties, &mut named);
    named
}

/// `a.b` is the property of that name, or `b` in `a`.
fn note_named(key: &str, named: &mut HashSet<String>) {
    named.insert(key.to_owned());
    if let Some((outer, _)) = key.split_once('.') {
        named.insert(outer.to_owned());
    }
}

/// The properties that the templates of a text name.
fn named_in(text: &str) -> impl Iterator<Item = &str> {
    let parts = match text.contains(['$', '{']) {
        true => template::parse(text),
        false => Vec::new(),
    };
    parts.into_iter().filter_map(|part| match part {
        Part::Variable(name) => match template::variable(name)? {
            Variable::Property(key) => Some(key),
            _ => None,
        },
        Part::Text(_) => None,
    })
}

fn collect_named(node: &Node, into: &mut HashSet<String>) {
    if let Some(text) = node.text() {
        named_in(text).for_each(|key| note_named(key, into));
    }
    node.children().for_each(|child| collect_named(child, into));
}

/// The values of a `secretRef` without `key`.
enum Whole {
    Values(BTreeMap<String, Secret>),
    Unknown,
}

/// Why something may be empty that a definition refers to, and the way out.
const HALF_DONE: &str = "a rotation that is half done? leave the reference out if nothing is meant";

/// Which keys there are.
fn names_in(values: &BTreeMap<String, Secret>) -> String {
    listed(&values.keys().collect::<Vec<_>>())
}

fn own(connection: &Connection, name: &str) -> Identity {
    Identity {
        namespace: connection.id.namespace.clone(),
        name: name.to_owned(),
    }
}

fn secret_id(connection: &Connection, secret: &SecretRef) -> Identity {
    let mut id = own(connection, &secret.name);
    if let Some(namespace) = &secret.namespace {
        id.namespace.clone_from(namespace);
    }
    id
}

fn not_found(place: &Place, what: &str, problem: &NotFound) -> Unresolved {
    let message = match &problem.detail {
        Some(detail) => format!("{what}: {detail}"),
        None => format!("{what} was not found"),
    };
    let hint = match problem.looked_in.as_slice() {
        [] => None,
        places => Some(format!("looked in: {}", places.join(", "))),
    };
    Unresolved {
        place: place.clone(),
        message,
        hint,
    }
}

fn without_line_break(value: &Secret) -> Secret {
    Secret::new(value.expose().trim_end_matches(['\n', '\r']))
}

fn places(connection: &Connection) -> BTreeMap<Field, Place> {
    let spec = &connection.spec;
    let value = |value: &Option<Value>| value.as_ref().map(|value| value.place.clone());
    [
        (
            Field::Type,
            connection.type_name.as_ref().map(|name| name.place.clone()),
        ),
        (Field::Url, value(&spec.url)),
        (Field::Username, value(&spec.username)),
        (Field::Password, value(&spec.password)),
        (
            Field::SecretRef,
            match &spec.secret_ref {
                Some(secret) => Some(secret.place.clone()),
                None => value(&spec.certificate),
            },
        ),
        (
            Field::CaCert,
            value(&spec.ca_cert).or_else(|| value(&spec.certificate)),
        ),
        (Field::ClientCert, value(&spec.client_cert)),
        (Field::ClientKey, value(&spec.client_key)),
        (
            Field::InsecureSkipVerify,
            spec.insecure_skip_verify
                .as_ref()
                .map(|skip| skip.place.clone()),
        ),
        (
            Field::Properties,
            spec.properties
                .as_ref()
                .map(|properties| properties.place.clone()),
        ),
    ]
    .into_iter()
    .filter_map(|(field, place)| Some((field, place?)))
    .collect()
}
