//! The properties of the legacy form, by the names that they have there.
//!
//! In that form `properties` are texts, and what had no field of its own became one of them: the
//! tenant of Azure as `tenant`, an OAuth login as `clientID` and `tokenURL` beside each other, headers
//! as JSON, the sender of a mail. [`LEGACY`] says what each comes to. As in a block, what is of no
//! meaning to a probe is accepted, what cannot be honoured is refused by name with the way out, and two
//! that mean the same must say the same.
//!
//! A name means something for one type only, so this waits until the type is known
//! ([`Connection::of_type`]). Templates go on finding each property by the name that its owner gave it.

use std::collections::HashSet;

use serde_json::{Map, Value as Json, json};

use crate::connection::{Connection, Spec};
use crate::error::Mistake;
use crate::forms::{self, Means, NO_LOGIN_OF_WINDOWS};
use crate::in_url::{Beside, What};
use crate::node::{Data, Entry, Node};
use crate::read::Reader;
use crate::resolve::named_by_templates;
use crate::value::{self, Source, Value};
use crate::{ConfigError, Secret, urls};

type Fields = &'static [(&'static str, To)];

/// The properties that one type has in the legacy form.
struct Legacy {
    /// The canonical name.
    type_name: &'static str,
    fields: &'static [Fields],
}

/// What a property comes to.
#[derive(Clone, Copy)]
enum To {
    /// What a field of a block may come to as well.
    Field(Means),
    /// A property of the type, which may also be written as JSON in a text.
    Json(&'static str),
    /// A property within one of the type's.
    Inside(&'static str, &'static str),
    /// What the `url` says already, or is made to say.
    InUrl(What),
}

const fn property(name: &'static str) -> To {
    To::Field(Means::Property(name))
}

const fn refused(instead: &'static str) -> To {
    To::Field(Means::Refused(instead))
}

const NOTHING: To = To::Field(Means::Nothing);

/// Whatever the type: what stands beside the properties as `insecure_tls`.
const SWITCH: Fields = &[
    ("insecure_tls", property("insecureSkipVerify")),
    ("insecureTLS", property("insecureSkipVerify")),
];

/// Logins that no type over HTTP has.
const WINDOWS: Fields = &[
    ("ntlm", To::Field(NO_LOGIN_OF_WINDOWS)),
    ("ntlmv2", To::Field(NO_LOGIN_OF_WINDOWS)),
    ("digest", To::Field(NO_LOGIN_OF_WINDOWS)),
];

/// Who we are over HTTP.
const HTTP: Fields = &[
    ("headers", To::Json("headers")),
    ("bearer", property("bearer")),
    ("clientID", To::Inside("oauth", "clientID")),
    ("clientSecret", To::Inside("oauth", "clientSecret")),
    ("tokenURL", To::Inside("oauth", "tokenURL")),
    ("scopes", To::Inside("oauth", "scope")),
    ("params", To::Inside("oauth", "params")),
    ("ca", To::Field(Means::CaCert)),
    ("cert", To::Field(Means::ClientCert)),
    ("key", To::Field(Means::ClientKey)),
    // Of a browser, whose cookies stand among the headers as well.
    ("storageState", NOTHING),
    ("sessionStorage", NOTHING),
];

const DATABASE: &[Fields] = &[
    SWITCH,
    &[
        ("host", To::InUrl(What::Host)),
        ("database", To::InUrl(What::Database)),
    ],
];

static LEGACY: &[Legacy] = &[
    Legacy {
        type_name: "postgres",
        fields: DATABASE,
    },
    Legacy {
        type_name: "mysql",
        fields: DATABASE,
    },
    Legacy {
        type_name: "mssql",
        fields: &[
            DATABASE[0],
            DATABASE[1],
            &[(
                "trust_server_certificate",
                property("trustServerCertificate"),
            )],
        ],
    },
    Legacy {
        type_name: "mongodb",
        // `database` is one of its own.
        fields: &[
            SWITCH,
            &[
                ("host", To::InUrl(What::Host)),
                ("replica_set", To::InUrl(What::ReplicaSet)),
            ],
        ],
    },
    Legacy {
        type_name: "redis",
        fields: &[SWITCH, &[("db", property("database"))]],
    },
    Legacy {
        type_name: "http",
        fields: &[SWITCH, HTTP, WINDOWS, &[("awsSigV4", To::Json("awsSigV4"))]],
    },
    Legacy {
        type_name: "prometheus",
        fields: &[
            SWITCH,
            HTTP,
            WINDOWS,
            &[(
                "awsSigV4",
                refused(
                    "write `type: http`, whose requests can be signed, and a query into the `url`: `…/api/v1/query?query=up`",
                ),
            )],
        ],
    },
    Legacy {
        type_name: "webhook",
        fields: &[
            SWITCH,
            // Of the message that is not sent.
            &[
                ("contentType", NOTHING),
                ("requestMethod", NOTHING),
                ("key", NOTHING),
                ("titleKey", NOTHING),
            ],
        ],
    },
    Legacy {
        type_name: "elastic",
        fields: &[
            SWITCH,
            WINDOWS,
            &[
                ("urls", To::Field(Means::Urls)),
                ("index", property("index")),
                ("insecureSkipVerify", property("insecureSkipVerify")),
            ],
        ],
    },
    Legacy {
        type_name: "smtp",
        fields: &[
            SWITCH,
            &[
                ("host", To::InUrl(What::Host)),
                ("port", To::Field(Means::Port)),
                ("encryptionMethod", property("encryption")),
                ("authMethod", property("auth")),
                ("auth", property("auth")),
                // Of the mail that is never sent.
                ("from", NOTHING),
                ("fromName", NOTHING),
                ("fromname", NOTHING),
                ("to", NOTHING),
                ("subject", NOTHING),
                ("headers", NOTHING),
            ],
        ],
    },
    Legacy {
        type_name: "aws",
        fields: &[
            SWITCH,
            &[
                ("region", property("region")),
                ("profile", property("profile")),
                ("assumeRole", property("assumeRole")),
                ("sessionToken", property("sessionToken")),
                // Of a bucket, of which STS knows nothing.
                ("bucket", NOTHING),
                ("objectPath", NOTHING),
                ("usePathStyle", NOTHING),
            ],
        ],
    },
    Legacy {
        type_name: "azure",
        fields: &[
            SWITCH,
            &[
                ("tenant", property("tenantID")),
                ("tenantID", property("tenantID")),
                ("clientSecret", To::Field(Means::Password)),
                ("scopes", property("resource")),
                (
                    "tokenURL",
                    refused("give the authority as `url`, and the tenant as `properties.tenantID`"),
                ),
                (
                    "bearer",
                    refused(
                        "conncheck gets a token of its own: give an application's ID and secret as `username` and `password`",
                    ),
                ),
                (
                    "container",
                    refused(
                        "the key of a storage account is no login at Entra ID: give an application's ID and secret as `username` and `password`",
                    ),
                ),
            ],
        ],
    },
    Legacy {
        type_name: "gcp",
        fields: &[
            SWITCH,
            &[
                ("endpoint", To::Field(Means::Url)),
                ("project", property("project")),
                // Of a bucket, of which a token says nothing.
                ("bucket", NOTHING),
            ],
        ],
    },
    Legacy {
        type_name: "kubernetes",
        fields: &[SWITCH],
    },
    Legacy {
        type_name: "ldap",
        fields: &[SWITCH],
    },
    Legacy {
        type_name: "amqp",
        fields: &[SWITCH],
    },
];

/// The properties that a type has in the legacy form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegacyInfo {
    /// The canonical name of the type.
    pub type_name: &'static str,
    pub properties: Vec<&'static str>,
}

/// What every type has in the legacy form.
pub fn legacy() -> impl Iterator<Item = LegacyInfo> {
    LEGACY.iter().map(|legacy| LegacyInfo {
        type_name: legacy.type_name,
        properties: fields_of(legacy.type_name).map(|(name, _)| name).collect(),
    })
}

fn fields_of(type_name: &str) -> impl Iterator<Item = (&'static str, To)> {
    let legacy = LEGACY.iter().find(|legacy| legacy.type_name == type_name);
    let fields = legacy.map_or([].as_slice(), |legacy| legacy.fields);
    fields.iter().copied().flatten().copied()
}

/// Whether this property of a type may also be JSON in a text.
pub(crate) fn may_be_json(type_name: &str, name: &str) -> bool {
    fields_of(type_name).any(|(known, to)| known == name && matches!(to, To::Json(_)))
}

/// How these properties of a type are written, as a JSON Schema. `property` knows how one of the type's
/// own is.
pub(crate) fn schemas(
    type_name: &str,
    property: &dyn Fn(&str) -> Option<Json>,
) -> Vec<(&'static str, Json)> {
    let value = || json!({ "$ref": "#/definitions/value" });
    let schema = |name: &str, to: To| {
        let (ours, schema) = match to {
            To::Field(means @ Means::Property(ours)) => (ours.to_owned(), means.schema(property)),
            To::Field(means) => (name.to_owned(), means.schema(property)),
            To::Json(ours) => (
                ours.to_owned(),
                json!({ "anyOf": [property(ours).unwrap_or(json!(true)), value()] }),
            ),
            To::Inside(ours, inner @ ("scope" | "params")) => {
                (format!("{ours}.{inner}"), json!(true))
            }
            To::Inside(ours, inner) => (format!("{ours}.{inner}"), value()),
            To::InUrl(_) => (name.to_owned(), value()),
        };
        // An empty one is nothing.
        let nothing = json!({
            "type": ["string", "object", "null"],
            "pattern": r"^\s*$",
            "maxProperties": 0,
        });
        let mut res = Map::new();
        let description = match (to, schema.get("description")) {
            _ if ours != name => json!(format!("`{ours}` in the legacy form.")),
            (To::InUrl(What::ReplicaSet), _) => json!("`replicaSet` of the URL."),
            (To::InUrl(_), _) => json!("What the URL says already."),
            (_, Some(description)) => description.clone(),
            (_, None) => json!("A property of the legacy form."),
        };
        res.insert("description".to_owned(), description);
        res.insert("anyOf".to_owned(), json!([schema, nothing]));
        Json::Object(res)
    };
    let fields = fields_of(type_name);
    fields.map(|(name, to)| (name, schema(name, to))).collect()
}

impl Connection {
    /// The same once its type is known: what the legacy form calls otherwise stands where the type
    /// looks for it. `type_name` is the canonical one.
    pub fn of_type(mut self, type_name: &str) -> Result<Self, Vec<ConfigError>> {
        let mistakes = match self.spec.properties.take() {
            Some(properties) => self.move_properties(type_name, &properties),
            None => Vec::new(),
        };
        let mistakes = match mistakes.is_empty() {
            true => self.check_in_url(type_name),
            false => mistakes,
        };
        if mistakes.is_empty() {
            return Ok(self);
        }
        let errors = mistakes.into_iter().map(|mistake| {
            self.error_of_type(type_name, mistake.place, mistake.message, mistake.hint)
        });
        Err(errors.collect())
    }

    fn move_properties(&mut self, type_name: &str, properties: &Node) -> Vec<Mistake> {
        let mut moving = Moving {
            reader: Reader::default(),
            named: named_by_templates(&self.spec, properties),
            spec: &mut self.spec,
            entries: Vec::new(),
            said: Vec::new(),
        };
        moving.all(type_name, properties);
        let Moving {
            mut reader,
            named,
            entries,
            said,
            ..
        } = moving;
        // What else a template may name. A URL that is not there yet may name anything.
        let names_anything = (self.spec.url.as_ref()).is_none_or(|url| url.literal().is_none());
        let own: HashSet<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
        let for_templates = properties.entries().iter().filter(|entry| {
            (names_anything || named.contains(&entry.key)) && !own.contains(entry.key.as_str())
        });
        let for_templates: Vec<Entry> = for_templates.cloned().collect();
        self.spec.for_templates = match for_templates.is_empty() {
            true => None,
            false => Some(properties.with_data(Data::Map(for_templates))),
        };
        self.spec.properties = Some(properties.with_data(Data::Map(entries)));
        if said.iter().any(|(ours, _)| ours == "port") {
            reader.mistakes.extend(self.check_port());
        }
        reader.mistakes
    }
}

/// Properties on their way to where they belong.
struct Moving<'a> {
    reader: Reader,
    spec: &'a mut Spec,
    /// The properties that templates name.
    named: HashSet<String>,
    /// What the type will read.
    entries: Vec<Entry>,
    /// What was said under another name: ours, theirs.
    said: Vec<(String, String)>,
}

impl Moving<'_> {
    fn all(&mut self, type_name: &str, properties: &Node) {
        let mut others = Vec::new();
        for entry in properties.entries() {
            let to = fields_of(type_name).find(|(name, _)| *name == entry.key);
            match to.map(|(_, to)| to) {
                None => self.entries.push(entry.clone()),
                Some(_) if is_blank(&entry.value) => {}
                Some(To::Field(Means::Property(ours))) if ours == entry.key => {
                    self.entries.push(entry.clone());
                }
                Some(To::Json(_)) => {
                    let value = self.json(entry);
                    self.entries.push(Entry {
                        value,
                        ..entry.clone()
                    });
                }
                Some(_) if forms::is_nothing(&entry.value) => {}
                Some(to) => others.push((to, entry)),
            }
        }
        let inside = self.entries.len();
        // Behind those that have the type's own names, so that these are found whatever the order.
        for (to, entry) in others {
            self.one(type_name, to, entry);
        }
        // What is made of several that stand beside each other is a mapping for us only.
        for entry in &self.entries[inside..] {
            if let Some((_, theirs)) = self.said.iter().find(|(ours, _)| {
                ours.strip_prefix("properties.")
                    .and_then(|ours| ours.strip_prefix(&entry.key))
                    .is_some_and(|rest| rest.starts_with('.'))
            }) {
                let ours = format!("properties.{}", entry.key);
                self.spec.words.call(&ours, "properties".to_owned());
                self.spec.words.call(&entry.key, theirs.clone());
            }
        }
        self.switches();
    }

    fn one(&mut self, type_name: &str, to: To, entry: &Entry) {
        let path = format!("properties.{}", entry.key);
        match to {
            To::Field(Means::Property(ours)) | To::Json(ours) => {
                self.put(&[ours], entry, entry.value.clone());
            }
            To::Inside(ours, inner) => {
                let value = match inner {
                    "params" => self.json(entry),
                    "scope" => with_blanks(&entry.value),
                    _ => entry.value.clone(),
                };
                self.put(&[ours, inner], entry, value);
            }
            To::InUrl(what) => self.in_url(type_name, what, entry, &path),
            To::Field(means) => self.field(means, entry, &path),
        }
    }

    fn field(&mut self, means: Means, entry: &Entry, path: &str) {
        type Slot = fn(&mut Spec) -> &mut Option<Value>;
        let (ours, slot): (&str, Slot) = match means {
            Means::Url => ("url", |spec| &mut spec.url),
            Means::Password => ("password", |spec| &mut spec.password),
            Means::CaCert if self.spec.certificate.is_some() => {
                ("certificate", |spec| &mut spec.certificate)
            }
            Means::CaCert => ("caCert", |spec| &mut spec.ca_cert),
            Means::ClientCert => ("clientCert", |spec| &mut spec.client_cert),
            Means::ClientKey => ("clientKey", |spec| &mut spec.client_key),
            // What a template has put there.
            Means::Port if self.named.contains(&entry.key) => return,
            Means::Port => ("port", |spec| &mut spec.port),
            Means::Urls => return self.urls(entry, path),
            Means::Refused(instead) => return self.reader.refuse(entry, path, instead),
            Means::RefusedIfTrue(instead) => {
                let is_on = self.reader.switch(&entry.value, path);
                if is_on.is_some_and(|on| on.value) {
                    self.reader.refuse(entry, path, instead);
                }
                return;
            }
            _ => return,
        };
        let Some(value) = self.reader.value(Some(&entry.value), path) else {
            return;
        };
        match slot(self.spec) {
            Some(known) if is_same(known, &value) => {}
            Some(known) if !known.is_empty() => self.both(ours, entry),
            slot => {
                *slot = Some(value);
                self.say(ours, path);
            }
        }
    }

    /// One URL or several. The first of them may stand as `url` as well.
    fn urls(&mut self, entry: &Entry, path: &str) {
        let Some(value) = self.reader.urls(&entry.value, path) else {
            return;
        };
        let url = self.spec.url.as_ref().filter(|url| !url.is_empty());
        let is_same = url.is_none_or(|url| {
            let first = value
                .literal()
                .and_then(|all| urls::urls(all).first().copied());
            is_same(url, &value) || (first.is_some() && url.literal().map(str::trim) == first)
        });
        match is_same {
            true => {
                self.spec.url = Some(value);
                self.say("url", path);
            }
            false => self.both("url", entry),
        }
    }

    /// What the URL was made of says the same as the URL.
    fn in_url(&mut self, type_name: &str, what: What, entry: &Entry, path: &str) {
        let key = entry.key.as_str();
        let Some(value) = self.reader.value(Some(&entry.value), path) else {
            return;
        };
        if let Some(part) = self.spec.parts.get(key) {
            if !is_same(part, &value) {
                self.both(key, entry);
            }
            return;
        }
        if self.named.contains(key) && what != What::ReplicaSet {
            return;
        }
        if self.spec.url.is_none() && self.spec.secret_ref.is_none() && what == What::Host {
            let message = format!("a `{path}` without a `url`");
            let scheme = forms::scheme_of(type_name).unwrap_or_default();
            let hint = format!("write `url: {scheme}$({path})`");
            let mistake = Mistake::new(&entry.place, message).hint(hint);
            return self.reader.blame(mistake);
        }
        self.spec.in_url.push(Beside {
            path: path.to_owned(),
            key: entry.key.clone(),
            what,
            value,
        });
    }

    /// A property that may be JSON in a text, as the list or mapping that it is.
    fn json(&mut self, entry: &Entry) -> Node {
        let node = &entry.value;
        let path = format!("properties.{}", entry.key);
        match node.json() {
            None => node.clone().may_be_json(),
            Some(Ok(inner)) => self.reader.property_values(&inner, &path),
            Some(Err(mistake)) => {
                let message = format!("`{path}` is no JSON: {}", mistake.message);
                self.reader.blame(Mistake::new(&node.place, message));
                Node::unknown(node.place.clone())
            }
        }
    }

    /// Gives one of the type's properties, or what is in it, this value. It is a mistake if it has
    /// another.
    fn put(&mut self, ours: &[&str], entry: &Entry, value: Node) {
        let ours_path = ours.join(".");
        let full = format!("properties.{ours_path}");
        let new = |key: &str, value: Node| Entry {
            key: key.to_owned(),
            place: entry.place.clone(),
            value,
        };
        let mut entries = &mut self.entries;
        let (last, outer) = match ours {
            [outer @ .., last] => (*last, outer),
            [] => return,
        };
        for key in outer {
            let at = match entries.iter().position(|entry| entry.key == *key) {
                Some(at) => at,
                None => {
                    entries.push(new(key, Node::empty(entry.place.clone())));
                    entries.len() - 1
                }
            };
            entries = match &mut entries[at].value.data {
                Data::Map(entries) => entries,
                _ => return self.both(&full, entry),
            };
        }
        match entries.iter().find(|entry| entry.key == last) {
            None => {
                entries.push(new(last, value));
                let theirs = format!("properties.{}", entry.key);
                self.say(&full, &theirs);
                self.spec.words.call(&ours_path, theirs);
            }
            Some(known) => {
                let known = known.value.text().map(str::trim);
                if known.is_none() || known != value.text().map(str::trim) {
                    self.both(&full, entry);
                }
            }
        }
    }

    /// Notes that `theirs` says `ours`.
    fn say(&mut self, ours: &str, theirs: &str) {
        self.said.push((ours.to_owned(), theirs.to_owned()));
        self.spec.words.call(ours, theirs.to_owned());
    }

    fn both(&mut self, ours: &str, entry: &Entry) {
        let said = self.said.iter().find(|(known, _)| known == ours);
        let other = match said {
            Some((_, theirs)) => format!("`{theirs}`"),
            None => self.spec.words.of(format!("`{ours}`")),
        };
        let message = format!("both {other} and `properties.{}`", entry.key);
        let hint = "they mean the same; keep one of them";
        self.reader
            .blame(Mistake::new(&entry.place, message).hint(hint));
    }

    /// Whether `insecureSkipVerify` says the same among the properties and beside them.
    fn switches(&mut self) {
        let ours = "insecureSkipVerify";
        let Some(beside) = &self.spec.insecure_skip_verify else {
            return;
        };
        let Some(entry) = self.entries.iter().find(|entry| entry.key == ours) else {
            return;
        };
        let inside = entry.value.text().map(str::to_ascii_lowercase);
        let inside = inside.and_then(|text| text.parse::<bool>().ok());
        if inside.is_some_and(|inside| inside != beside.value) {
            let full = format!("properties.{ours}");
            let said = self.said.iter().find(|(known, _)| *known == full);
            let inside = said.map_or(full.as_str(), |(_, theirs)| theirs);
            let beside = self.spec.words.of(format!("`{ours}`"));
            let message = format!("`{inside}` contradicts {beside}");
            let hint = "they mean the same; keep one of them";
            self.reader
                .blame(Mistake::new(&entry.place, message).hint(hint));
        }
    }
}

/// What is written for nothing by whoever writes every property down.
fn is_blank(node: &Node) -> bool {
    !node.has_unknown() && node.text().is_some_and(|text| text.trim().is_empty())
}

fn is_same(one: &Value, other: &Value) -> bool {
    match (&one.source, &other.source) {
        (Source::Literal(one), Source::Literal(other)) => {
            one.expose().trim() == other.expose().trim()
        }
        (Source::Reference(one), Source::Reference(other)) => one == other,
        _ => false,
    }
}

/// A list with commas between as one with blanks, which is how OAuth has it.
fn with_blanks(node: &Node) -> Node {
    match node.text() {
        Some(text) if text.contains(',') && value::reference(text).is_none() => {
            let scopes: Vec<&str> = text.split(',').map(str::trim).collect();
            Node::text_of(node.place.clone(), Secret::new(scopes.join(" ")))
        }
        _ => node.clone(),
    }
}
