//! The block form of `spec`: `postgres: {host: …}`, `http: {url: …}`; read into the one [`Spec`].
//!
//! A block says by its name what type it is, and has that type's fields. [`BLOCKS`] is all of them:
//! what each field means here. What is of no meaning to a probe (the subject of a mail) is accepted,
//! what cannot be honoured is refused by name with the way out, and nothing is ignored.
//!
//! A block may say where its peer is by `host` and `database` in place of a `url`. That becomes a URL
//! with templates, `postgres://$(properties.host)/$(properties.database)`, and the two become
//! [`Spec::parts`], which fill it: so references work there, and each value is encoded for its place.
//!
//! Beside a block may stand what a block has no field for: `secretRef`, `properties`, `caCert`,
//! `clientCert`, `clientKey`, `insecureSkipVerify`.
//!
//! A mistake is told in the owner's own words (`postgres.host`, not `url`), also where it is found
//! much later: [`Words`].

use serde_json::{Map, Value as Json, json};

use crate::connection::Spec;
use crate::error::Mistake;
use crate::in_url::{Beside, What};
use crate::legacy;
use crate::node::{Data, Entry, Node};
use crate::read::Reader;
use crate::urls;
use crate::value::{Source, Value};
use crate::words::quoted;
use crate::{Place, Secret, Spanned};

/// A block, and what its fields mean.
pub(crate) struct Block {
    pub name: &'static str,
    /// A name that the table of types knows.
    pub type_name: &'static str,
    address: Address,
    fields: &'static [(&'static str, Means)],
}

/// How a block says where its peer is.
#[derive(Clone, Copy)]
enum Address {
    /// By a URL.
    Url,
    /// By a URL, or by a host: what stands before it, and how the database follows.
    Host {
        scheme: &'static str,
        database: &'static str,
        /// The port when none is given, where that is not the type's own.
        port: Option<&'static str>,
    },
    /// Known to the type; a URL is for the exceptions.
    Known,
}

/// What a field of a block is to us.
#[derive(Clone, Copy)]
pub(crate) enum Means {
    Url,
    /// A list of URLs.
    Urls,
    Host,
    Port,
    Database,
    Username,
    Password,
    /// The login itself: a kubeconfig, the key of a service account.
    Certificate,
    CaCert,
    ClientCert,
    ClientKey,
    SkipVerify,
    /// An option of the URL.
    Option,
    /// A property of the type, by its name there.
    Property(&'static str),
    /// A mapping of more.
    Inside(&'static [(&'static str, Means)]),
    /// Of no meaning to a probe.
    Nothing,
    /// Cannot be honoured. What to do instead.
    Refused(&'static str),
    /// The same, unless it is `false`.
    RefusedIfTrue(&'static str),
}

const NO_REFERRING: Means =
    Means::Refused("write here what the other one says; conncheck follows no `connection://`");
pub(crate) const NO_LOGIN_OF_WINDOWS: Means = Means::RefusedIfTrue(
    "basic authentication, bearer tokens and client certificates are supported",
);

const TLS: Means = Means::Inside(&[
    ("ca", Means::CaCert),
    ("cert", Means::ClientCert),
    ("key", Means::ClientKey),
    ("insecureSkipVerify", Means::SkipVerify),
    (
        "handshakeTimeout",
        Means::Refused("leave it out; the annotation `conncheck/timeout` limits all of an attempt"),
    ),
]);

/// Every block that is probed.
pub(crate) static BLOCKS: &[Block] = &[
    Block {
        name: "postgres",
        type_name: "postgres",
        address: Address::Host {
            scheme: "postgres://",
            database: "/",
            port: None,
        },
        fields: &[
            ("url", Means::Url),
            ("host", Means::Host),
            ("port", Means::Port),
            ("username", Means::Username),
            ("password", Means::Password),
            ("database", Means::Database),
            ("insecureTLS", Means::SkipVerify),
        ],
    },
    Block {
        name: "mysql",
        type_name: "mysql",
        address: Address::Host {
            scheme: "mysql://",
            database: "/",
            port: None,
        },
        fields: &[
            ("url", Means::Url),
            ("host", Means::Host),
            ("port", Means::Port),
            ("username", Means::Username),
            ("password", Means::Password),
            ("database", Means::Database),
            ("insecureTLS", Means::SkipVerify),
        ],
    },
    Block {
        name: "mssql",
        type_name: "mssql",
        address: Address::Host {
            scheme: "sqlserver://",
            database: "?database=",
            port: None,
        },
        fields: &[
            ("url", Means::Url),
            ("host", Means::Host),
            ("port", Means::Port),
            ("username", Means::Username),
            ("password", Means::Password),
            ("database", Means::Database),
            (
                "trustServerCertificate",
                Means::Property("trustServerCertificate"),
            ),
        ],
    },
    Block {
        name: "mongo",
        type_name: "mongodb",
        address: Address::Host {
            scheme: "mongodb://",
            database: "/",
            port: None,
        },
        fields: &[
            ("url", Means::Url),
            ("host", Means::Host),
            ("port", Means::Port),
            ("username", Means::Username),
            ("password", Means::Password),
            ("database", Means::Database),
            ("replicaSet", Means::Option),
            ("insecureTLS", Means::SkipVerify),
        ],
    },
    Block {
        name: "redis",
        type_name: "redis",
        address: Address::Url,
        fields: &[
            ("url", Means::Url),
            ("username", Means::Username),
            ("password", Means::Password),
        ],
    },
    Block {
        name: "http",
        type_name: "http",
        address: Address::Url,
        fields: &[
            ("url", Means::Url),
            ("username", Means::Username),
            ("password", Means::Password),
            ("bearer", Means::Property("bearer")),
            ("oauth", Means::Property("oauth")),
            ("headers", Means::Property("headers")),
            ("awsSigV4", Means::Property("awsSigV4")),
            ("tls", TLS),
            ("insecureTLS", Means::SkipVerify),
            ("connection", NO_REFERRING),
            ("ntlm", NO_LOGIN_OF_WINDOWS),
            ("ntlmv2", NO_LOGIN_OF_WINDOWS),
            ("digest", NO_LOGIN_OF_WINDOWS),
        ],
    },
    Block {
        name: "prometheus",
        type_name: "prometheus",
        address: Address::Url,
        fields: &[
            ("url", Means::Url),
            ("username", Means::Username),
            ("password", Means::Password),
            ("bearer", Means::Property("bearer")),
            ("oauth", Means::Property("oauth")),
            ("headers", Means::Property("headers")),
            ("tls", TLS),
            ("insecureTLS", Means::SkipVerify),
            ("connection", NO_REFERRING),
        ],
    },
    Block {
        name: "elasticsearch",
        type_name: "elastic",
        address: Address::Url,
        fields: &[
            ("url", Means::Url),
            ("username", Means::Username),
            ("password", Means::Password),
            ("insecureTLS", Means::SkipVerify),
        ],
    },
    Block {
        name: "opensearch",
        type_name: "elastic",
        address: Address::Url,
        fields: &[
            ("urls", Means::Urls),
            ("url", Means::Url),
            ("username", Means::Username),
            ("password", Means::Password),
            ("index", Means::Property("index")),
            ("insecureSkipVerify", Means::SkipVerify),
            ("ntlm", NO_LOGIN_OF_WINDOWS),
            ("ntlmv2", NO_LOGIN_OF_WINDOWS),
            ("digest", NO_LOGIN_OF_WINDOWS),
        ],
    },
    Block {
        name: "smtp",
        type_name: "smtp",
        address: Address::Host {
            scheme: "smtp://",
            database: "/",
            port: Some("587"),
        },
        fields: &[
            ("host", Means::Host),
            ("port", Means::Port),
            ("username", Means::Username),
            ("password", Means::Password),
            ("encryption", Means::Property("encryption")),
            ("auth", Means::Property("auth")),
            ("insecureTLS", Means::SkipVerify),
            // Of the mail that is never sent.
            ("fromAddress", Means::Nothing),
            ("fromName", Means::Nothing),
            ("toAddresses", Means::Nothing),
            ("subject", Means::Nothing),
            ("headers", Means::Nothing),
        ],
    },
    Block {
        name: "kubernetes",
        type_name: "kubernetes",
        address: Address::Known,
        fields: &[
            ("certificate", Means::Certificate),
            ("kubeconfig", Means::Certificate),
            (
                "eks",
                Means::Refused(
                    "give `kubeconfig` the text that `aws eks update-kubeconfig --kubeconfig FILE` writes",
                ),
            ),
            (
                "gke",
                Means::Refused(
                    "give `kubeconfig` the text that `gcloud container clusters get-credentials` writes",
                ),
            ),
            (
                "cnrm",
                Means::Refused("give `kubeconfig` the cluster's own kubeconfig"),
            ),
            ("connection", NO_REFERRING),
        ],
    },
    Block {
        name: "aws",
        type_name: "aws",
        address: Address::Known,
        fields: &[
            ("url", Means::Url),
            ("region", Means::Property("region")),
            ("profile", Means::Property("profile")),
            ("accessKey", Means::Username),
            ("secretKey", Means::Password),
            ("sessionToken", Means::Property("sessionToken")),
            ("assumeRole", Means::Property("assumeRole")),
            ("insecureTLS", Means::SkipVerify),
        ],
    },
    Block {
        name: "azure",
        type_name: "azure",
        address: Address::Known,
        fields: &[
            ("clientID", Means::Property("clientID")),
            ("clientSecret", Means::Password),
            ("tenantID", Means::Property("tenantID")),
            ("subscriptionID", Means::Property("subscriptionID")),
        ],
    },
    Block {
        name: "gcp",
        type_name: "gcp",
        address: Address::Known,
        fields: &[
            ("endpoint", Means::Url),
            ("certificate", Means::Certificate),
            ("credentials", Means::Certificate),
            ("project", Means::Property("project")),
        ],
    },
];

/// The blocks of types that are not probed, and the names of these types.
const UNPROBED: &[(&str, &str)] = &[
    ("anthropic", "anthropic"),
    ("awskms", "aws_kms"),
    ("azureDevops", "azure_devops"),
    ("azureKeyVault", "azure_key_vault"),
    ("discord", "discord"),
    ("facet", "facet"),
    ("folder", "folder"),
    ("gcpkms", "gcp_kms"),
    ("gcs", "gcs"),
    ("gemini", "gemini"),
    ("git", "git"),
    ("github", "github"),
    ("gitlab", "gitlab"),
    ("loki", "loki"),
    ("ntfy", "ntfy"),
    ("ollama", "ollama"),
    ("openai", "openai"),
    ("pushbullet", "pushbullet"),
    ("pushover", "pushover"),
    ("s3", "s3"),
    ("sftp", "sftp"),
    ("slack", "slack"),
    ("smb", "smb"),
    ("telegram", "telegram"),
];

/// What others call a field of a block.
const RENAMED: &[(&str, &str)] = &[
    ("user", "username"),
    ("login", "username"),
    ("pass", "password"),
    ("uri", "url"),
    ("dsn", "url"),
    ("address", "url"),
    ("endpoint", "url"),
    ("url", "endpoint"),
    ("hostname", "host"),
    ("server", "host"),
    ("address", "host"),
    ("db", "database"),
    ("dbname", "database"),
    ("ssl", "insecureTLS"),
    ("insecure", "insecureTLS"),
    ("insecure_tls", "insecureTLS"),
    ("insecureSkipVerify", "insecureTLS"),
    ("skipTLSVerify", "insecureTLS"),
    ("insecureTLS", "insecureSkipVerify"),
    ("insecureTLS", "trustServerCertificate"),
    ("accessKeyID", "accessKey"),
    ("username", "accessKey"),
    ("secretAccessKey", "secretKey"),
    ("password", "secretKey"),
    ("role", "assumeRole"),
    ("username", "clientID"),
    ("password", "clientSecret"),
    ("tenant", "tenantID"),
    ("subscription", "subscriptionID"),
    ("password", "credentials"),
    ("token", "bearer"),
    ("config", "kubeconfig"),
    ("from", "fromAddress"),
    ("to", "toAddresses"),
];

/// What stands beside a block, not inside of it.
const BESIDE: &[&str] = &[
    "secretRef",
    "caCert",
    "clientCert",
    "clientKey",
    "insecureSkipVerify",
    "properties",
    "name",
    "description",
    "labels",
    "icon",
];

/// What one fields' owner calls it: ours first.
///
/// `url` is `postgres.host` to who wrote that, and `properties.headers` is `http.headers`.
#[derive(Clone, Default)]
pub(crate) struct Words(Vec<(String, String)>);

impl Words {
    pub fn call(&mut self, ours: &str, theirs: String) {
        // The first one is where the value stands.
        if !self.0.iter().any(|(known, _)| known == ours) {
            self.0.push((ours.to_owned(), theirs));
        }
    }

    /// The same text in the owner's words.
    pub fn of(&self, text: String) -> String {
        self.0.iter().fold(text, |text, (ours, theirs)| {
            if !text.contains(ours.as_str()) {
                return text;
            }
            let mut text = text
                .replace(&format!("`{ours}`"), &format!("`{theirs}`"))
                .replace(&format!("`spec.{ours}`"), &format!("`spec.{theirs}`"));
            for next in ['.', '['] {
                text = text.replace(&format!("`{ours}{next}"), &format!("`{theirs}{next}"));
            }
            text
        })
    }

    pub fn of_mistake(&self, mut mistake: Mistake) -> Mistake {
        mistake.message = self.of(mistake.message);
        mistake.hint = mistake.hint.map(|hint| self.of(hint));
        mistake
    }
}

/// What a `spec` in the block form says, as far as it was understood.
#[derive(Default)]
pub(crate) struct InBlock {
    /// The type that it is.
    pub type_name: Option<Spanned<String>>,
    pub spec: Spec,
}

/// A block that is being read.
struct Reading {
    block: &'static Block,
    spec: Spec,
    host: Option<Value>,
    database: Option<Value>,
    /// Options of the URL.
    options: Vec<(&'static str, Value)>,
    entries: Vec<Entry>,
    words: Words,
    /// Which field has said each, to tell of two that mean the same.
    said: Vec<(&'static str, String)>,
}

/// A block of `spec`: its name, its type, and its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockInfo {
    pub name: &'static str,
    /// A name of the type that it is.
    pub type_name: &'static str,
    pub fields: Vec<&'static str>,
}

/// Every block that is probed.
pub fn blocks() -> impl Iterator<Item = BlockInfo> {
    BLOCKS.iter().map(|block| BlockInfo {
        name: block.name,
        type_name: block.type_name,
        fields: block.fields.iter().map(|(name, _)| *name).collect(),
    })
}

/// How each block is written, as a JSON Schema: its name, and what may stand there. `property` knows
/// how a property of a type is written.
pub(crate) fn schemas(
    property: impl Fn(&str, &str) -> Option<Json>,
) -> impl Iterator<Item = (&'static str, Json)> {
    BLOCKS.iter().map(move |block| {
        let mut schema = fields_schema(block.fields, &|name| {
            let schema = property(block.type_name, name)?;
            Some(match legacy::may_be_json(block.type_name, name) {
                true => json!({ "anyOf": [schema, { "$ref": "#/definitions/value" }] }),
                false => schema,
            })
        });
        let description = format!("A connection of type `{}`, as a block.", block.type_name);
        schema["description"] = description.into();
        (block.name, schema)
    })
}

fn fields_schema(
    fields: &[(&'static str, Means)],
    property: &dyn Fn(&str) -> Option<Json>,
) -> Json {
    let fields: Map<String, Json> = fields
        .iter()
        .map(|(name, means)| ((*name).to_owned(), means.schema(property)))
        .collect();
    json!({ "type": ["object", "null"], "properties": fields, "additionalProperties": false })
}

impl Means {
    pub fn schema(self, property: &dyn Fn(&str) -> Option<Json>) -> Json {
        let value = |description: &str| json!({ "description": description, "$ref": "#/definitions/value" });
        let switch = |description: &str| {
            let mut schema = switch_schema();
            schema["description"] = description.into();
            schema
        };
        match self {
            Self::Url => value("Where it is."),
            Self::Urls => json!({
                "description": "Where it is: one or several URLs.",
                "anyOf": [
                    { "$ref": "#/definitions/value" },
                    { "type": "array", "items": { "$ref": "#/definitions/value" } },
                ],
            }),
            Self::Host => value("Its host, with or without a port."),
            Self::Port => value("Its port."),
            Self::Database => value("The database."),
            Self::Username => value("Who we are."),
            Self::Password => value("What proves it. Best a reference: `secret://NAME/KEY`."),
            Self::Certificate => value("The login itself: best a reference, `secret://NAME/KEY`."),
            Self::CaCert => value("PEM: the authorities to trust in place of the machine's."),
            Self::ClientCert => value("PEM: our certificate for mutual TLS."),
            Self::ClientKey => value("PEM: the key of our certificate."),
            Self::Option => value("An option of the URL."),
            Self::SkipVerify => switch("Accept any certificate. It is recorded all the same."),
            Self::Property(name) => match property(name) {
                // An empty one is nothing here.
                Some(schema) => json!({ "anyOf": [schema, { "enum": [{}, null, ""] }] }),
                None => json!(true),
            },
            Self::Inside(fields) => fields_schema(fields, property),
            Self::Nothing => json!({ "description": "Of no meaning to a probe." }),
            Self::Refused(instead) => json!({
                "description": format!("Not supported: {instead}."),
                "type": ["object", "null"],
                "maxProperties": 0,
            }),
            Self::RefusedIfTrue(_) => switch("Not supported, unless it is `false`."),
        }
    }
}

/// How `true` and `false` may be written.
pub(crate) fn switch_schema() -> Json {
    json!({
        "type": ["boolean", "string", "object", "null"],
        "pattern": "^([Tt]rue|TRUE|[Ff]alse|FALSE)$",
        "patternErrorMessage": "true or false.",
        "properties": { "value": { "type": ["boolean", "string", "null"] } },
        "additionalProperties": false,
    })
}

/// How a URL of a type begins that is made of its host.
pub(crate) fn scheme_of(type_name: &str) -> Option<&'static str> {
    let mut blocks = BLOCKS.iter().filter(|block| block.type_name == type_name);
    blocks.find_map(|block| match block.address {
        Address::Host { scheme, .. } => Some(scheme),
        Address::Url | Address::Known => None,
    })
}

/// Every name of a block.
pub(crate) fn block_names() -> impl Iterator<Item = &'static str> {
    let probed = BLOCKS.iter().map(|block| block.name);
    probed.chain(UNPROBED.iter().map(|(name, _)| *name))
}

/// What is written as nothing by whoever dumps a manifest: `url: {}`.
pub(crate) fn is_nothing(node: &Node) -> bool {
    node.is_null() || matches!(&node.data, Data::Map(entries) if entries.is_empty())
}

impl Reader {
    /// The block of a `spec`, if it has one.
    pub fn block(&mut self, spec: &Node) -> Option<InBlock> {
        let mut found = spec
            .entries()
            .iter()
            .filter(|entry| block_names().any(|name| name == entry.key));
        let entry = found.next()?;
        if let Some(second) = found.next() {
            let message = format!(
                "two blocks: {} and {}",
                quoted(&entry.key),
                quoted(&second.key)
            );
            let hint = "a `Connection` is one peer; give the other a document of its own";
            self.blame(Mistake::new(&second.place, message).hint(hint));
            return Some(InBlock::default());
        }
        let type_of = |name: &str| Spanned {
            value: name.to_owned(),
            place: entry.place.clone(),
        };
        if let Some((_, type_name)) = UNPROBED.iter().find(|(name, _)| *name == entry.key) {
            return Some(InBlock {
                type_name: Some(type_of(type_name)),
                spec: Spec::default(),
            });
        }
        let block = BLOCKS.iter().find(|block| block.name == entry.key)?;
        Some(InBlock {
            type_name: Some(type_of(block.type_name)),
            spec: self.read_block(block, entry, spec),
        })
    }

    fn read_block(&mut self, block: &'static Block, entry: &Entry, beside: &Node) -> Spec {
        let path = format!("spec.{}", block.name);
        let before = self.mistakes.len();
        let mut reading = Reading {
            block,
            spec: Spec::default(),
            host: None,
            database: None,
            options: Vec::new(),
            entries: Vec::new(),
            words: Words::default(),
            said: Vec::new(),
        };
        let node = &entry.value;
        match &node.data {
            Data::Map(_) => self.fields_of(&mut reading, node, &path, block.fields, true),
            _ if node.is_null() => {}
            _ => {
                let hint = format!("write `{}: {{{}: …}}`", block.name, block.fields[0].0);
                self.mapping_or(node, &path, hint);
                return reading.spec;
            }
        }
        self.url_or_host(&mut reading, &path);
        if self.mistakes.len() == before && !has_secret_ref(beside) {
            self.needs_address(&reading, entry, &path);
        }
        reading.finish(entry)
    }

    fn fields_of(
        &mut self,
        reading: &mut Reading,
        node: &Node,
        path: &str,
        fields: &'static [(&'static str, Means)],
        outermost: bool,
    ) {
        for entry in node.entries() {
            let Some((name, means)) = fields.iter().find(|(name, _)| *name == entry.key) else {
                self.unknown_in_block(reading.block, entry, path, fields, outermost);
                continue;
            };
            if is_nothing(&entry.value) {
                continue;
            }
            self.field(reading, *means, entry, &format!("{path}.{name}"));
        }
    }

    fn unknown_in_block(
        &mut self,
        block: &Block,
        entry: &Entry,
        path: &str,
        fields: &'static [(&'static str, Means)],
        outermost: bool,
    ) {
        let key = entry.key.as_str();
        if outermost
            && BESIDE.contains(&key)
            && !fields
                .iter()
                .any(|(name, _)| *name == "insecureTLS" && key == "insecureSkipVerify")
        {
            let message = format!("unknown field {} in `{path}`", quoted(key));
            let hint = format!("it stands beside `{}`, in `spec` itself", block.name);
            return self.blame(Mistake::new(&entry.place, message).hint(hint));
        }
        if outermost && key.to_ascii_lowercase().starts_with("sslmode") {
            let message = format!("unknown field {} in `{path}`", quoted(key));
            let hint = "it is an option of the `url`: `…?sslmode=verify-full`";
            return self.blame(Mistake::new(&entry.place, message).hint(hint));
        }
        let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
        let renamed: Vec<(&str, &str)> = RENAMED
            .iter()
            .filter(|(_, ours)| names.contains(ours))
            .copied()
            .collect();
        let single = Node::new(
            entry.value.place.clone(),
            Data::Map(vec![Entry {
                key: entry.key.clone(),
                place: entry.place.clone(),
                value: Node::empty(entry.place.clone()),
            }]),
        );
        self.known_fields(&single, path, &names, &renamed);
    }

    fn field(&mut self, reading: &mut Reading, means: Means, entry: &Entry, path: &str) {
        let node = &entry.value;
        let own = path.trim_start_matches("spec.").to_owned();
        let (ours, slot): (&'static str, fn(&mut Reading) -> &mut Option<Value>) = match means {
            Means::Url => ("url", |reading| &mut reading.spec.url),
            Means::Host => ("host", |reading| &mut reading.host),
            Means::Database => ("database", |reading| &mut reading.database),
            Means::Port => ("port", |reading| &mut reading.spec.port),
            Means::Username => ("username", |reading| &mut reading.spec.username),
            Means::Password => ("password", |reading| &mut reading.spec.password),
            Means::Certificate => ("certificate", |reading| &mut reading.spec.certificate),
            Means::CaCert => ("caCert", |reading| &mut reading.spec.ca_cert),
            Means::ClientCert => ("clientCert", |reading| &mut reading.spec.client_cert),
            Means::ClientKey => ("clientKey", |reading| &mut reading.spec.client_key),
            Means::Urls => {
                if let Some(url) = self.urls(node, path)
                    && self.first_of_its_kind(reading, "url", &own, entry)
                {
                    reading.spec.url = Some(url);
                }
                return;
            }
            Means::SkipVerify => {
                let Some(skip) = self.switch(node, path) else {
                    return;
                };
                let known = &reading.spec.insecure_skip_verify;
                if known
                    .as_ref()
                    .is_some_and(|known| known.value != skip.value)
                {
                    self.first_of_its_kind(reading, "insecureSkipVerify", &own, entry);
                    return;
                }
                reading.said.push(("insecureSkipVerify", own.clone()));
                reading.words.call("insecureSkipVerify", own);
                reading.spec.insecure_skip_verify = Some(skip);
                return;
            }
            Means::Option => {
                if let Some(value) = self.value(Some(node), path) {
                    reading.options.push(("replicaSet", value));
                }
                return;
            }
            Means::Property(name) => {
                let value = self.property_values(node, path);
                if !matches!(value.text(), Some("")) {
                    reading.words.call(&format!("properties.{name}"), own);
                    reading.entries.push(Entry {
                        key: name.to_owned(),
                        place: entry.place.clone(),
                        value,
                    });
                }
                return;
            }
            Means::Inside(fields) => {
                if let Some(node) = self.mapping(Some(node), path) {
                    self.fields_of(reading, node, path, fields, false);
                }
                return;
            }
            Means::Nothing => return,
            Means::Refused(instead) => return self.refuse(entry, path, instead),
            Means::RefusedIfTrue(instead) => {
                if self.switch(node, path).is_some_and(|on| on.value) {
                    self.refuse(entry, path, instead);
                }
                return;
            }
        };
        let Some(value) = self
            .value(Some(node), path)
            .filter(|value| !value.is_empty())
        else {
            return;
        };
        if self.first_of_its_kind(reading, ours, &own, entry) {
            *slot(reading) = Some(value);
        }
    }

    /// Notes that `theirs` says `ours`; a mistake if another field has said it already.
    fn first_of_its_kind(
        &mut self,
        reading: &mut Reading,
        ours: &'static str,
        theirs: &str,
        entry: &Entry,
    ) -> bool {
        if let Some((_, other)) = reading.said.iter().find(|(said, _)| *said == ours) {
            let message = format!("both `{other}` and `{theirs}`");
            self.blame(
                Mistake::new(&entry.place, message).hint("they mean the same; keep one of them"),
            );
            return false;
        }
        reading.said.push((ours, theirs.to_owned()));
        reading.words.call(ours, theirs.to_owned());
        true
    }

    pub fn refuse(&mut self, entry: &Entry, path: &str, instead: &str) {
        let message = format!("`{path}` is not supported");
        self.blame(Mistake::new(&entry.place, message).hint(instead));
    }

    /// A list of URLs as one text.
    pub fn urls(&mut self, node: &Node, path: &str) -> Option<Value> {
        let Data::Seq(items) = &node.data else {
            return self.value(Some(node), path);
        };
        let before = self.mistakes.len();
        let mut values = Vec::new();
        for (index, item) in items.iter().enumerate() {
            values.extend(self.value(Some(item), &format!("{path}[{index}]")));
        }
        if self.mistakes.len() > before {
            return None;
        }
        match values.as_slice() {
            [] => None,
            [only] => Some(only.clone()),
            [first, ..] => {
                let texts: Option<Vec<&str>> = values.iter().map(Value::literal).collect();
                match texts {
                    Some(texts) => Some(Value {
                        place: first.place.clone(),
                        source: Source::Literal(Secret::new(texts.join(","))),
                    }),
                    None => {
                        let message = format!("`{path}`: a reference among several URLs");
                        let hint = "put all of them, with commas between, into the one secret or config map, and refer to it as `url`";
                        self.blame(Mistake::new(&node.place, message).hint(hint));
                        None
                    }
                }
            }
        }
    }

    /// `true` or `false`, also as `{value: true}`.
    pub fn switch(&mut self, node: &Node, path: &str) -> Option<Spanned<bool>> {
        if is_nothing(node) {
            return None;
        }
        let inner = match node.entries() {
            [entry] if entry.key == "value" => &entry.value,
            _ => node,
        };
        self.boolean(Some(inner), path)
    }

    /// Where the peer is must be said.
    fn needs_address(&mut self, reading: &Reading, entry: &Entry, path: &str) {
        let names = |name: &str| reading.block.fields.iter().any(|(field, _)| *field == name);
        let missing = match reading.block.address {
            _ if reading.spec.url.is_some() => None,
            Address::Known => None,
            Address::Host { .. } if names("url") => Some("neither `url` nor `host`"),
            Address::Host { .. } => Some("no `host`"),
            Address::Url if names("urls") => Some("no `urls`"),
            Address::Url => Some("no `url`"),
        };
        let Some(missing) = missing else {
            return;
        };
        let example = match missing {
            "no `urls`" => format!("write `{}: {{urls: [https://…]}}`", reading.block.name),
            "no `url`" => format!("write `{}: {{url: …}}`", reading.block.name),
            _ => format!("write `{}: {{host: …}}`", reading.block.name),
        };
        let mistake = match is_nothing(&entry.value) {
            true => Mistake::new(&entry.place, format!("`{path}` is empty"))
                .hint(format!("{example}, its fields indented below it")),
            false => Mistake::new(&entry.place, format!("`{path}` has {missing}")).hint(example),
        };
        self.blame(mistake);
    }

    /// Makes a URL of host and database, or says what is wrong with the two ways of telling.
    fn url_or_host(&mut self, reading: &mut Reading, path: &str) {
        let Address::Host {
            scheme,
            database,
            port,
        } = reading.block.address
        else {
            return;
        };
        if let Some(host) = &reading.host
            && let Some((message, hint)) = host.literal().and_then(no_host)
        {
            let names = |name: &str| reading.block.fields.iter().any(|(field, _)| *field == name);
            // A hint names only what the block has.
            let hint = hint.filter(|(field, _)| names(field)).map(|(_, hint)| hint);
            let message = format!("`{path}.host`: {message}");
            let mistake = Mistake::new(&host.place, message);
            return self.blame(mistake.maybe_hint(hint.map(str::to_owned)));
        }
        // A reference may bring its own.
        if let (Some(host), Some(port), None) = (&reading.host, port, &reading.spec.port)
            && host.literal().is_none_or(|host| !urls::has_port(host))
        {
            reading.spec.port = Some(Value {
                place: host.place.clone(),
                source: Source::Literal(Secret::new(port)),
            });
        }
        if let Some(url) = reading.spec.url.clone() {
            for (name, value) in [("host", &reading.host), ("database", &reading.database)] {
                let template = [
                    format!("$(properties.{name})"),
                    format!("{{{{properties.{name}}}}}"),
                ];
                let used = url.literal().is_some_and(|url| {
                    let url = url.replace(' ', "");
                    template.iter().any(|template| url.contains(template))
                });
                if let Some(value) = value
                    && !used
                {
                    let message = format!("`{path}` has both `url` and `{name}`");
                    let hint = match name {
                        "host" => "keep one of them".to_owned(),
                        _ => "put the database into the `url`".to_owned(),
                    };
                    self.blame(Mistake::new(&value.place, message).hint(hint));
                }
            }
            self.options(reading, path);
            return;
        }
        let Some(host) = &reading.host else {
            // The secret brings the URL.
            let database = reading.database.iter().map(|value| ("database", value));
            let options = reading.options.iter().map(|(name, value)| (*name, value));
            let beside = database.chain(options).map(|(name, value)| Beside {
                path: format!("{}.{name}", reading.block.name),
                key: name.to_owned(),
                what: match name {
                    "database" => What::Database,
                    _ => What::ReplicaSet,
                },
                value: value.clone(),
            });
            reading.spec.in_url = beside.collect();
            return;
        };
        let mut url = format!("{scheme}$(properties.host)");
        if reading.database.is_some() {
            url.push_str(database);
            url.push_str("$(properties.database)");
        }
        reading.spec.url = Some(Value {
            place: host.place.clone(),
            source: Source::Literal(Secret::new(url)),
        });
        reading
            .words
            .call("url", format!("{}.host", reading.block.name));
        self.options(reading, path);
    }

    /// `replicaSet`, and that `insecureTLS` of MongoDB means that there is TLS.
    fn options(&mut self, reading: &mut Reading, path: &str) {
        let Some(url) = reading.spec.url.clone() else {
            return;
        };
        let Some(text) = url.literal() else {
            for (name, value) in &reading.options {
                let message = format!("`{path}.{name}` beside a `url` that is a reference");
                let hint = format!("put it into the URL: `…/?{name}=…`");
                self.blame(Mistake::new(&value.place, message).hint(hint));
            }
            return;
        };
        let mut text = text.trim().to_owned();
        for (name, value) in &reading.options {
            if urls::has_option(&text, name) {
                let message = format!("`{path}.{name}`, and the `url` has `{name}` too");
                self.blame(Mistake::new(&value.place, message).hint("keep one of them"));
                continue;
            }
            text = urls::with_option(&text, name, &format!("$(properties.{name})"));
        }
        let skips = reading.spec.insecure_skip_verify.as_ref();
        if reading.block.name == "mongo"
            && skips.is_some_and(|skip| skip.value)
            && !text.starts_with("mongodb+srv:")
            && !["tls", "ssl"]
                .iter()
                .any(|name| urls::has_option(&text, name))
        {
            text = urls::with_option(&text, "tls", "true");
        }
        reading.spec.url = Some(Value {
            place: url.place.clone(),
            source: Source::Literal(Secret::new(text)),
        });
    }
}

impl Reading {
    fn finish(mut self, entry: &Entry) -> Spec {
        // What is not there is called by the name that it would have in the block.
        for (name, means) in self.block.fields {
            let ours = match means {
                Means::Url => "url",
                Means::Username => "username",
                Means::Password => "password",
                Means::Certificate => "certificate",
                Means::Inside(inner) => {
                    for (inner, means) in *inner {
                        let ours = match means {
                            Means::CaCert => "caCert",
                            Means::ClientCert => "clientCert",
                            Means::ClientKey => "clientKey",
                            _ => continue,
                        };
                        self.words
                            .call(ours, format!("{}.{name}.{inner}", self.block.name));
                    }
                    continue;
                }
                _ => continue,
            };
            self.words.call(ours, format!("{}.{name}", self.block.name));
        }
        let parts = [("host", self.host), ("database", self.database)];
        let parts = parts
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        self.spec.parts = parts.chain(self.options).collect();
        if !self.entries.is_empty() {
            self.spec.properties = Some(Node::new(
                entry.value.place.clone(),
                Data::Map(self.entries),
            ));
        }
        self.spec.words = self.words;
        self.spec
    }
}

/// Why a text is no host, or hosts, with or without a port: the message, and a hint by the field that it
/// speaks of.
fn no_host(text: &str) -> Option<(&'static str, Option<(&'static str, &'static str)>)> {
    let text = text.trim();
    // A template brings what it brings, and a path is a socket.
    if text.contains(['$', '{']) || text.starts_with('/') {
        return None;
    }
    if text.contains("://") {
        let hint = ("url", "give it as `url`");
        return Some(("a URL where a host is expected", Some(hint)));
    }
    if text.contains('@') {
        let hint = (
            "username",
            "give the user as `username`, and the password as `password`",
        );
        return Some(("a host, and no user, is expected", Some(hint)));
    }
    if text.contains('/') {
        let hint = ("database", "give the database as `database`");
        return Some(("a host, and no path, is expected", Some(hint)));
    }
    if text.contains(['?', '#']) || text.contains(char::is_whitespace) {
        let hint = ("url", "options go into a `url`");
        return Some(("a host is expected", Some(hint)));
    }
    let bad_port = text.split(',').any(|host| {
        let port = host.rsplit_once(':').map(|(_, port)| port);
        urls::has_port(host) && !port.is_some_and(urls::is_port)
    });
    bad_port.then_some(("the port is not a number from 1 to 65535", None))
}

fn has_secret_ref(spec: &Node) -> bool {
    spec.get("secretRef").is_some_and(|node| !is_nothing(node))
}

impl Spec {
    /// Takes in what stands beside the block. Gives the mistakes: what is said in both places.
    pub fn join(&mut self, beside: Self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut both = |place: &Place, ours: &str, words: &Words| {
            let theirs = words.of(format!("`{ours}`"));
            let message = format!("both `spec.{ours}` and {theirs}");
            mistakes.push(Mistake::new(place, message).hint("keep one of them"));
        };
        for (ours, own, other) in [
            ("caCert", &mut self.ca_cert, beside.ca_cert),
            ("clientCert", &mut self.client_cert, beside.client_cert),
            ("clientKey", &mut self.client_key, beside.client_key),
        ] {
            match other {
                Some(other) if own.is_some() => both(&other.place, ours, &self.words),
                Some(other) => {
                    self.words.forget(ours);
                    *own = Some(other);
                }
                None => {}
            }
        }
        if let Some(other) = beside.insecure_skip_verify {
            match &self.insecure_skip_verify {
                Some(own) if own.value != other.value => {
                    both(&other.place, "insecureSkipVerify", &self.words);
                }
                _ => self.insecure_skip_verify = Some(other),
            }
        }
        self.secret_ref = beside.secret_ref;
        self.properties = match (self.properties.take(), beside.properties) {
            (Some(own), Some(other)) => {
                let mut entries = other.entries().to_vec();
                for entry in own.entries() {
                    match other.iter().find(|(key, _, _)| *key == entry.key) {
                        Some((key, place, _)) => {
                            both(place, &format!("properties.{key}"), &self.words);
                        }
                        None => entries.push(entry.clone()),
                    }
                }
                Some(Node::new(other.place, Data::Map(entries)))
            }
            (own, other) => other.or(own),
        };
        mistakes
    }
}

impl Words {
    /// What stands beside the block is called as we call it.
    fn forget(&mut self, ours: &str) {
        self.0.retain(|(known, _)| known != ours);
    }
}

/// The way out for a field that belongs inside of the block `name`.
pub(crate) fn inside(name: &str) -> String {
    format!("it belongs inside of `{name}`; is it indented deeper than that?")
}

/// Why a field cannot stand in `spec` where it does, if it would be right elsewhere.
pub(crate) fn elsewhere(key: &str, spec: &Node) -> Option<String> {
    let block = BLOCKS.iter().find(|block| spec.get(block.name).is_some());
    if let Some(block) = block
        && block.fields.iter().any(|(name, _)| *name == key)
    {
        return Some(inside(block.name));
    }
    Some(match key {
        "host" | "hostname" | "database" | "dbname" => {
            "put it into the `url`, or into a block such as `postgres: {host: …, database: …}`"
                .to_owned()
        }
        "accessKey" | "secretKey" | "region" | "assumeRole" | "profile" | "sessionToken" => {
            format!("put it into a block: `aws: {{{key}: …}}`")
        }
        "tenantID" | "clientID" | "clientSecret" | "subscriptionID" => {
            format!("put it into a block: `azure: {{{key}: …}}`")
        }
        "kubeconfig" => "put it into a block: `kubernetes: {kubeconfig: …}`".to_owned(),
        "credentials" | "project" => format!("put it into a block: `gcp: {{{key}: …}}`"),
        "bearer" | "headers" | "oauth" | "awsSigV4" => {
            format!("write `properties: {{{key}: …}}`, or a block: `http: {{{key}: …}}`")
        }
        "tls" => "write `caCert`, `clientCert`, `clientKey` and `insecureSkipVerify`, or a block: `http: {tls: …}`".to_owned(),
        "query" | "encryption" | "auth" | "index" | "method" | "body" | "serverName" => {
            format!("write `properties: {{{key}: …}}`")
        }
        "ldap" | "amqp" | "rabbitmq" | "webhook" | "valkey" | "mariadb" => {
            format!("there is no such block; write `type: {key}` and `url`")
        }
        "mongodb" => "did you mean `mongo`?".to_owned(),
        "elastic" => "did you mean `elasticsearch`?".to_owned(),
        "postgresql" => "did you mean `postgres`?".to_owned(),
        "sqlserver" | "sql_server" => "did you mean `mssql`?".to_owned(),
        "google_cloud" => "did you mean `gcp`?".to_owned(),
        "k8s" => "did you mean `kubernetes`?".to_owned(),
        "email" => "did you mean `smtp`?".to_owned(),
        _ => return None,
    })
}

/// Whether `certificate` is the login of this type, and not the authority that its peer is verified
/// against.
pub(crate) fn certificate_is_login(type_name: &str) -> bool {
    let names = ["kubernetes", "k8s", "gcp", "google_cloud"];
    names
        .iter()
        .any(|name| name.eq_ignore_ascii_case(type_name.trim()))
}
