//! Documents: which are ours, and what is wrong with them.
//!
//! `Connection`, `Secret`, `ConfigMap` and lists of them are read, all others passed over, so that
//! a whole folder of manifests can be pointed at. Every mistake of a document is reported, and a
//! document with a mistake gives no connection; its neighbours are not touched.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::connection::{SecretRef, Spec};
use crate::error::Mistake;
use crate::forms::{self, InBlock};
use crate::node::{self, Data, Node};
use crate::read::Reader;
use crate::resolve::{Found, Lookup, NotFound, RefKind};
use crate::words::{listed, nearest, quoted};
use crate::{ConfigError, Connection, Identity, Place, Secret, Spanned, template};

/// Whether the author of a definition may have our files and environment read, and programs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Came from a file of ours: `file://` and `env://` are read, and so are files that a type names.
    Local,
    /// Came from the Kubernetes API: all of that is refused.
    Remote,
}

/// Reads texts, any number of documents each, and collects what is right and what is wrong.
#[derive(Debug, Default)]
pub struct Loader {
    loaded: Loaded,
}

/// What a [`Loader`] found.
#[derive(Debug, Default)]
pub struct Loaded {
    pub connections: Vec<Connection>,
    pub documents: Documents,
    pub errors: Vec<ConfigError>,
    pub warnings: Vec<ConfigError>,
    /// Documents of other kinds, which are not ours to judge.
    pub passed_over: Vec<PassedOver>,
}

/// A document of a kind that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassedOver {
    pub place: Place,
    pub kind: String,
}

/// The Secret and ConfigMap documents among the loaded ones.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    found: BTreeMap<(RefKind, Identity), (Place, Found)>,
}

pub(crate) const API_VERSION: &str = "mission-control.flanksource.com/v1";

impl Loader {
    /// Reads the documents of one text. `file` is what messages call it.
    pub fn add(&mut self, file: &str, text: &str, trust: Trust) {
        let file: Arc<str> = file.into();
        let mut report = Report::default();
        node::parse(&file, text, |document| match document {
            Ok(root) => self.document(&root, None, trust, &mut report),
            Err(mistake) => report.add(mistake, None, None),
        });
        let Report { mut errors, helm } = report;
        // An unrendered template breaks at every second line; saying so once is enough.
        if let Some(first) = helm
            && let Some((line, column)) = template::find_helm(text)
            && line <= first.line as usize
        {
            let place = Place {
                file,
                line: u32::try_from(line).unwrap_or(u32::MAX),
                column: u32::try_from(column).unwrap_or(u32::MAX),
            };
            let mistake = Mistake::new(&place, "a Helm template that was not rendered")
                .hint("render it first: `helm template … | conncheck -`");
            errors = vec![mistake.alone()];
        }
        errors.sort_by(|a, b| a.place.cmp(&b.place));
        self.loaded.errors.append(&mut errors);
    }

    /// Everything that was read; duplicate identities are found here.
    pub fn finish(mut self) -> Loaded {
        let mut first: HashMap<Identity, Place> = HashMap::new();
        let mut errors = Vec::new();
        self.loaded.connections.retain(|connection| {
            if let Some(place) = first.get(&connection.id) {
                errors.push(connection.error(
                    connection.place.clone(),
                    format!("defined twice, first at {place}"),
                    Some("give one of them another `metadata.name` or `metadata.namespace`".into()),
                ));
                return false;
            }
            first.insert(connection.id.clone(), connection.place.clone());
            true
        });
        self.loaded.errors.append(&mut errors);
        self.loaded
    }

    /// One document. `kind`: what it is in a typed list, whose items do not say it.
    fn document(&mut self, root: &Node, kind: Option<&str>, trust: Trust, report: &mut Report) {
        if root.is_null() {
            report.add_all(root.mistakes());
            return;
        }
        if !matches!(root.data, Data::Map(_)) {
            report.add_all(root.mistakes());
            let message = format!("expected a document with `kind`, found {}", root.describe());
            report.add(
                Mistake::new(&root.place, message).hint(
                    "separate documents with `---`, or put them under `items` of a `kind: List`",
                ),
                None,
                None,
            );
            return;
        }
        if root.entries().is_empty() && root.mistakes().is_empty() {
            return;
        }
        let api_version = root.get("apiVersion").and_then(Node::text);
        let kind = match (root.get("kind"), kind) {
            (Some(node), _) => match node.text().filter(|_| !node.is_null()) {
                Some(kind) => kind,
                None => {
                    report.add_all(root.mistakes());
                    let message = format!("`kind`: expected text, found {}", node.describe());
                    report.add(Mistake::new(&node.place, message).maybe_helm(), None, None);
                    return;
                }
            },
            (None, Some(kind)) => kind,
            (None, None) => {
                report.add_all(root.mistakes());
                report.add(no_kind(root), None, None);
                return;
            }
        };
        match kind {
            "Connection" => self.connection(root, api_version, trust, report),
            "Secret" => self.values(RefKind::Secret, root, report),
            "ConfigMap" => self.values(RefKind::ConfigMap, root, report),
            "List" | "ConnectionList" | "SecretList" | "ConfigMapList" => {
                let item = kind.strip_suffix("List").filter(|item| !item.is_empty());
                self.list(root, item, trust, report);
            }
            _ => match meant_kind(kind, api_version) {
                Some(meant) => {
                    let place = root.get("kind").map_or(&root.place, |node| &node.place);
                    let message = format!("unknown kind {}", quoted(kind));
                    let hint = format!("did you mean `{meant}`?");
                    report.add(Mistake::new(place, message).hint(hint), None, None);
                }
                None => self.loaded.passed_over.push(PassedOver {
                    place: root.place.clone(),
                    kind: kind.to_owned(),
                }),
            },
        }
    }

    fn list(&mut self, root: &Node, item: Option<&str>, trust: Trust, report: &mut Report) {
        let mut reader = Reader::default();
        reader.known_fields(root, "", &["apiVersion", "kind", "metadata", "items"], &[]);
        match root.get("items").map(|items| (items, &items.data)) {
            Some((_, Data::Seq(items))) => {
                for root in items {
                    self.document(root, item, trust, report);
                }
            }
            Some((items, _)) if items.is_null() => {}
            Some((items, _)) => {
                let message = format!("`items`: expected a list, found {}", items.describe());
                reader.blame(Mistake::new(&items.place, message));
            }
            None => reader.blame(Mistake::new(&root.place, "a list without `items`")),
        }
        report.add_all(reader.mistakes);
    }

    fn connection(
        &mut self,
        root: &Node,
        api_version: Option<&str>,
        trust: Trust,
        report: &mut Report,
    ) {
        let mut reader = Reader {
            mistakes: root.mistakes(),
        };
        let fields = ["apiVersion", "kind", "metadata", "spec", "status"];
        reader.known_fields(root, "", &fields, &[]);
        let metadata = reader.metadata(root);
        let spec = reader.spec(root);

        let named = spec.type_name.as_ref().or(spec.block.as_ref());
        let type_name = named.map(|name| name.value.clone());
        let id = metadata.id.clone();
        // In the documented place, then in the CRD's.
        let mut labels = metadata.labels;
        labels.extend(spec.labels);
        let connection = id.clone().map(|id| Connection {
            id,
            place: metadata.place,
            type_name: spec.type_name,
            block: spec.block,
            display_name: spec.display_name,
            description: spec.description,
            icon: spec.icon,
            labels: labels
                .into_iter()
                .map(|(key, label)| (key, label.value))
                .collect(),
            annotations: metadata.annotations,
            trust,
            spec: Box::new(spec.spec),
        });
        if let Some(connection) = &connection {
            reader.mistakes.extend(connection.check());
        }
        let wrong_version = match api_version {
            Some(API_VERSION) => None,
            Some(_) => Some("`apiVersion` is not the documented one"),
            None => Some("no `apiVersion`"),
        };
        if let Some(problem) = wrong_version {
            let node = root.get("apiVersion").unwrap_or(root);
            let warning = Mistake::new(&node.place, problem)
                .hint(format!("write `apiVersion: {API_VERSION}`"));
            self.loaded
                .warnings
                .push(warning.of(type_name.clone(), id.clone()));
        }
        match connection {
            Some(connection) if reader.mistakes.is_empty() => {
                self.loaded.connections.push(connection);
            }
            _ => {
                for mistake in reader.mistakes {
                    report.add(mistake, type_name.clone(), id.clone());
                }
            }
        }
    }

    /// A Secret or ConfigMap.
    fn values(&mut self, kind: RefKind, root: &Node, report: &mut Report) {
        let mut reader = Reader {
            mistakes: root.mistakes(),
        };
        if let Some(sops) = root.get("sops") {
            let warning = Mistake::new(&sops.place, "a secret that sops encrypted is passed over")
                .hint("decrypt it first: `sops decrypt FILE | conncheck -`");
            self.loaded.warnings.push(warning.alone());
            return;
        }
        let fields: &[&str] = match kind {
            RefKind::Secret => &[
                "apiVersion",
                "kind",
                "metadata",
                "type",
                "immutable",
                "data",
                "stringData",
            ],
            RefKind::ConfigMap => &[
                "apiVersion",
                "kind",
                "metadata",
                "immutable",
                "data",
                "binaryData",
            ],
        };
        reader.known_fields(root, "", fields, &[]);
        let metadata = reader.metadata(root);
        let mut values = BTreeMap::new();
        match kind {
            RefKind::Secret => {
                reader.encoded(root.get("data"), &mut values);
                reader.plain(root.get("stringData"), "stringData", &mut values);
            }
            RefKind::ConfigMap => reader.plain(root.get("data"), "data", &mut values),
        }
        let wrong = !reader.mistakes.is_empty();
        for mut mistake in reader.mistakes {
            if let Some(id) = &metadata.id {
                mistake.message = format!("{} `{id}`: {}", kind.noun(), mistake.message);
            }
            report.add(mistake, None, None);
        }
        let Some(id) = metadata.id.filter(|_| !wrong) else {
            return;
        };
        let source = format!("document {}", metadata.place);
        let what = kind.noun();
        match self.loaded.documents.found.entry((kind, id)) {
            Slot::Vacant(slot) => {
                slot.insert((metadata.place, Found { source, values }));
            }
            Slot::Occupied(slot) => {
                let (_, id) = slot.key();
                let (first, _) = slot.get();
                let message = format!("{what} `{id}` is defined twice, first at {first}");
                let warning = Mistake::new(&metadata.place, message).hint("the first is used");
                self.loaded.warnings.push(warning.alone());
            }
        }
    }
}

impl Documents {
    /// The document of that kind, namespace and name.
    pub fn find(&self, kind: RefKind, namespace: &str, name: &str) -> Option<Found> {
        self.get(kind, namespace, name).cloned()
    }

    /// Whether there is a document of that kind, namespace and name.
    pub fn contains(&self, kind: RefKind, namespace: &str, name: &str) -> bool {
        self.get(kind, namespace, name).is_some()
    }

    fn get(&self, kind: RefKind, namespace: &str, name: &str) -> Option<&Found> {
        let id = Identity {
            namespace: namespace.into(),
            name: name.into(),
        };
        self.found.get(&(kind, id)).map(|(_, found)| found)
    }

    /// Every value of every Secret document, for whoever must keep them from being printed.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.found
            .iter()
            .filter(|((kind, _), _)| *kind == RefKind::Secret)
            .flat_map(|(_, (_, found))| found.values.values())
    }
}

/// The documents, and neither files nor variables.
impl Lookup for Documents {
    fn find(
        &self,
        kind: RefKind,
        namespace: &str,
        name: &str,
        _: &[&str],
    ) -> Result<Found, NotFound> {
        Self::find(self, kind, namespace, name).ok_or_else(NotFound::default)
    }

    fn file(&self, _: &str) -> Result<Secret, NotFound> {
        Err(NotFound::default())
    }

    fn env(&self, _: &str) -> Result<Secret, NotFound> {
        Err(NotFound::default())
    }
}

/// The errors of one text.
#[derive(Default)]
struct Report {
    errors: Vec<ConfigError>,
    /// Where the first that may come from a Helm template stands.
    helm: Option<Place>,
}

impl Report {
    fn add(&mut self, mistake: Mistake, type_name: Option<String>, id: Option<Identity>) {
        if mistake.maybe_helm && self.helm.is_none() {
            self.helm = Some(mistake.place.clone());
        }
        self.errors.push(mistake.of(type_name, id));
    }

    fn add_all(&mut self, mistakes: Vec<Mistake>) {
        for mistake in mistakes {
            self.add(mistake, None, None);
        }
    }
}

fn no_kind(root: &Node) -> Mistake {
    let mistake = Mistake::new(&root.place, "a document without `kind`").maybe_helm();
    let meant = root
        .entries()
        .iter()
        .find(|entry| nearest(&entry.key, &["kind"]).is_some());
    match meant {
        Some(entry) => mistake.hint(format!(
            "write `kind` in place of {} on line {}",
            quoted(&entry.key),
            entry.place.line
        )),
        None => mistake.hint("say `kind: Connection`; documents of other kinds are passed over"),
    }
}

/// The kind of ours that was meant. Other people have kinds with similar names (`Collection`), so
/// theirs must not look like ours in `apiVersion` either.
fn meant_kind(kind: &str, api_version: Option<&str>) -> Option<&'static str> {
    const CORE: [&str; 3] = ["Secret", "ConfigMap", "List"];
    let close = |names: &[&'static str]| {
        let near = |name: &&&str| {
            let (kind, name) = (kind.to_ascii_lowercase(), name.to_ascii_lowercase());
            kind.len() <= 64 && strsim::damerau_levenshtein(&kind, &name) <= name.len() / 5
        };
        names.iter().find(near).copied()
    };
    match api_version {
        None => close(&["Connection"]).or_else(|| close(&CORE)),
        Some("v1") => close(&["Connection"]).or_else(|| close(&CORE)),
        Some(version) if version.contains("mission-control") || version.contains("flanksource") => {
            close(&["Connection"])
        }
        Some(_) => None,
    }
}

/// `metadata`, as far as it was understood.
struct Metadata {
    place: Place,
    id: Option<Identity>,
    labels: BTreeMap<String, Spanned<String>>,
    annotations: BTreeMap<String, Spanned<String>>,
}

/// Everything that Kubernetes and its tools put into `metadata`.
pub(crate) const METADATA: [&str; 19] = [
    "name",
    "namespace",
    "labels",
    "annotations",
    "description",
    "icon",
    "generateName",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "ownerReferences",
    "finalizers",
    "managedFields",
    "selfLink",
    "clusterName",
    "initializers",
];

/// The fields of the documented form.
pub(crate) const SPEC: [&str; 14] = [
    "type",
    "url",
    "username",
    "password",
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

/// The further fields of the legacy form.
pub(crate) const LEGACY: [&str; 3] = ["certificate", "port", "insecure_tls"];

/// What others call a field of `spec`.
const RENAMED: [(&str, &str); 17] = [
    ("user", "username"),
    ("login", "username"),
    ("pass", "password"),
    ("secret", "secretRef"),
    ("secretKeyRef", "secretRef"),
    ("uri", "url"),
    ("dsn", "url"),
    ("endpoint", "url"),
    ("address", "url"),
    ("ca", "caCert"),
    ("cert", "clientCert"),
    ("key", "clientKey"),
    ("insecure", "insecureSkipVerify"),
    ("skipVerify", "insecureSkipVerify"),
    ("props", "properties"),
    ("title", "name"),
    ("displayName", "name"),
];

/// `spec`, as far as it was understood.
#[derive(Default)]
struct SpecFields {
    type_name: Option<Spanned<String>>,
    block: Option<Spanned<String>>,
    display_name: Option<String>,
    description: Option<String>,
    icon: Option<String>,
    labels: BTreeMap<String, Spanned<String>>,
    spec: Spec,
}

impl Reader {
    fn metadata(&mut self, root: &Node) -> Metadata {
        let mut metadata = Metadata {
            place: root.place.clone(),
            id: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
        };
        let before = self.mistakes.len();
        let Some(node) = self.mapping(root.get("metadata"), "metadata") else {
            let unknown = root.get("metadata").is_some_and(Node::has_unknown);
            if self.mistakes.len() == before && !unknown {
                let mistake = Mistake::new(&root.place, "no `metadata.name`");
                self.blame(mistake.hint("add `metadata: {name: …}`"));
            }
            return metadata;
        };
        self.known_fields(node, "metadata", &METADATA, &[]);
        let name = match node.get("name").filter(|name| !name.is_null()) {
            Some(node) => {
                metadata.place = node.place.clone();
                self.text(Some(node), "metadata.name")
                    .and_then(|name| self.check_name(node, &name, "metadata.name", false))
            }
            None => {
                self.blame(Mistake::new(&node.place, "no `metadata.name`"));
                None
            }
        };
        let namespace = match node.get("namespace").filter(|node| !node.is_null()) {
            Some(node) => self
                .text(Some(node), "metadata.namespace")
                .and_then(|name| {
                    // Written by templates that leave it out.
                    match name.is_empty() {
                        true => Some("default".to_owned()),
                        false => self.check_name(node, &name, "metadata.namespace", true),
                    }
                }),
            None => Some("default".to_owned()),
        };
        metadata.labels = self.texts(node.get("labels"), "metadata.labels");
        metadata.annotations = self.texts(node.get("annotations"), "metadata.annotations");
        metadata.id = match (namespace, name) {
            (Some(namespace), Some(name)) => Some(Identity { namespace, name }),
            _ => None,
        };
        metadata
    }

    fn spec(&mut self, root: &Node) -> SpecFields {
        const EXAMPLE: &str = "say at least `type` and `url`";
        let before = self.mistakes.len();
        let Some(node) = self.mapping(root.get("spec"), "spec") else {
            let unknown = root.get("spec").is_some_and(Node::has_unknown);
            if self.mistakes.len() == before && !unknown {
                let place = root.get("spec").map_or(&root.place, |node| &node.place);
                self.blame(Mistake::new(place, "no `spec`").hint(EXAMPLE));
            }
            return SpecFields::default();
        };
        if node.entries().is_empty() && node.mistakes().is_empty() {
            self.blame(Mistake::new(&node.place, "`spec` is empty").hint(EXAMPLE));
            return SpecFields::default();
        }
        self.fields_of_spec(node);
        let type_name = self.type_name(node.get("type"));
        let labels = self.texts(node.get("labels"), "spec.labels");
        let block = self.block(node);
        let mut fields = SpecFields {
            type_name,
            block: None,
            display_name: self.text(node.get("name"), "spec.name"),
            description: self.text(node.get("description"), "spec.description"),
            icon: self.text(node.get("icon"), "spec.icon"),
            labels,
            spec: Spec {
                url: self.value(node.get("url"), "spec.url"),
                username: self.value(node.get("username"), "spec.username"),
                password: self.value(node.get("password"), "spec.password"),
                secret_ref: self.secret_ref(node.get("secretRef")),
                ca_cert: self.value(node.get("caCert"), "spec.caCert"),
                client_cert: self.value(node.get("clientCert"), "spec.clientCert"),
                client_key: self.value(node.get("clientKey"), "spec.clientKey"),
                insecure_skip_verify: node
                    .get("insecureSkipVerify")
                    .and_then(|node| self.switch(node, "spec.insecureSkipVerify")),
                properties: self
                    .mapping(node.get("properties"), "spec.properties")
                    .map(|node| self.properties(node)),
                port: self.value(node.get("port"), "spec.port"),
                certificate: self.value(node.get("certificate"), "spec.certificate"),
                ..Spec::default()
            },
        };
        self.legacy_switch(node, &mut fields.spec);
        if let Some(block) = block {
            self.beside_block(node, block, &mut fields);
            return fields;
        }
        self.two_certificates(&fields);
        self.type_or_scheme(node, &fields);
        fields
    }

    /// Reports the fields that `spec` does not have.
    fn fields_of_spec(&mut self, node: &Node) {
        for (key, place, _) in node.iter() {
            let known = SPEC.iter().chain(&LEGACY).any(|name| *name == key);
            if known || forms::block_names().any(|name| name == key) {
                continue;
            }
            let message = format!("unknown field {} in `spec`", quoted(key));
            let renamed = RENAMED
                .iter()
                .find(|(other, _)| other.eq_ignore_ascii_case(key))
                .map(|(_, ours)| *ours);
            let names: Vec<&str> = SPEC
                .into_iter()
                .chain(LEGACY)
                .chain(forms::block_names())
                .collect();
            let hint = match (forms::elsewhere(key, node), renamed, nearest(key, &names)) {
                (Some(elsewhere), _, _) => elsewhere,
                (None, Some(meant), _) | (None, None, Some(meant)) => {
                    format!("did you mean `{meant}`?")
                }
                (None, None, None) => format!(
                    "known here are {}, and blocks such as `postgres`",
                    listed(&SPEC)
                ),
            };
            self.blame(Mistake::new(place, message).hint(hint));
        }
    }

    /// `insecure_tls`, by its older name.
    fn legacy_switch(&mut self, node: &Node, spec: &mut Spec) {
        let Some(switch) = node
            .get("insecure_tls")
            .filter(|node| !forms::is_nothing(node))
        else {
            return;
        };
        let Some(skip) = self.switch(switch, "spec.insecure_tls") else {
            return;
        };
        match &spec.insecure_skip_verify {
            Some(known) if known.value != skip.value => self.blame(
                Mistake::new(
                    &skip.place,
                    "`insecure_tls` contradicts `insecureSkipVerify`",
                )
                .hint("they mean the same; keep one of them"),
            ),
            Some(_) => {}
            None => {
                spec.words
                    .call("insecureSkipVerify", "insecure_tls".to_owned());
                spec.insecure_skip_verify = Some(skip);
            }
        }
    }

    /// `caCert` by its older name, or a login.
    fn two_certificates(&mut self, fields: &SpecFields) {
        let spec = &fields.spec;
        let Some(certificate) = &spec.certificate else {
            return;
        };
        let type_name = fields.type_name.as_ref();
        let is_login = type_name.is_some_and(|name| forms::certificate_is_login(&name.value));
        let other = match is_login {
            true => spec
                .secret_ref
                .as_ref()
                .filter(|secret| secret.key.is_some())
                .map(|_| "`secretRef` with `key`"),
            false => spec.ca_cert.as_ref().map(|_| "`caCert`"),
        };
        if let Some(other) = other {
            let message = format!("both `certificate` and {other}");
            self.blame(
                Mistake::new(&certificate.place, message)
                    .hint("they mean the same; keep one of them"),
            );
        }
    }

    /// What the block says, with what may stand beside it.
    fn beside_block(&mut self, node: &Node, block: InBlock, fields: &mut SpecFields) {
        fields.block = block.type_name;
        let Some(type_name) = &fields.block else {
            return;
        };
        for name in [
            "url",
            "username",
            "password",
            "port",
            "certificate",
            "insecure_tls",
        ] {
            let Some(entry) = node.entries().iter().find(|entry| entry.key == name) else {
                continue;
            };
            let is_off = entry.value.text() == Some("false");
            if forms::is_nothing(&entry.value) || is_off {
                continue;
            }
            let name_of_block = node
                .iter()
                .find(|(_, place, _)| **place == type_name.place)
                .map_or("", |(key, _, _)| key);
            let message = format!("`spec.{name}` beside the block `{name_of_block}`");
            let hint = forms::inside(name_of_block);
            self.blame(Mistake::new(&entry.place, message).hint(hint));
        }
        let beside = std::mem::replace(&mut fields.spec, block.spec);
        let both = beside
            .secret_ref
            .as_ref()
            .filter(|secret| secret.key.is_some());
        if let (Some(certificate), Some(_)) = (&fields.spec.certificate, both) {
            let message = "both `certificate` and `secretRef` with `key`";
            self.blame(
                Mistake::new(&certificate.place, fields.spec.words.of(message.to_owned()))
                    .hint("they mean the same; keep one of them"),
            );
        }
        self.mistakes.extend(fields.spec.join(beside));
    }

    fn type_name(&mut self, node: Option<&Node>) -> Option<Spanned<String>> {
        let name = self.text(node, "spec.type")?;
        let node = node?;
        if name.trim().is_empty() {
            let mistake = Mistake::new(&node.place, "`spec.type` is empty");
            self.blame(mistake.hint("say `type: postgres`, `type: http`, …"));
            return None;
        }
        Some(Spanned {
            value: name.trim().to_owned(),
            place: node.place.clone(),
        })
    }

    /// Without `type` the scheme of a literal `url` decides.
    fn type_or_scheme(&mut self, node: &Node, fields: &SpecFields) {
        // A `type` or `url` that is there but wrong was reported; an unknown field may be either.
        if fields.type_name.is_some() || !self.mistakes.is_empty() {
            return;
        }
        let example = "say `type: postgres`, `type: http`, …";
        let Some(url) = &fields.spec.url else {
            let mistake = Mistake::new(&node.place, "neither `type` nor `url`");
            return self.blame(mistake.hint(example));
        };
        let scheme = url.literal().map(|url| url.trim().split_once("://"));
        let problem = match scheme {
            Some(Some((scheme, _))) if !scheme.is_empty() && !scheme.contains(['$', '{']) => return,
            Some(Some(_)) => "no `type`, and the scheme of the `url` is a template",
            Some(None) => "no `type`, and the `url` has no scheme",
            None => "no `type`, and the `url` is a reference",
        };
        self.blame(Mistake::new(&url.place, problem).hint(example));
    }

    fn secret_ref(&mut self, node: Option<&Node>) -> Option<SecretRef> {
        let node = node.filter(|node| !node.is_null())?;
        if node.scalar().is_some_and(|scalar| !scalar.unknown) {
            let mistake = Mistake::new(
                &node.place,
                "`spec.secretRef`: expected a mapping, found text",
            );
            self.blame(
                mistake.hint(
                    "write `secretRef: {name: …}`, with `key` if it is one value of the secret",
                ),
            );
            return None;
        }
        let node = self.mapping(Some(node), "spec.secretRef")?;
        self.known_fields(node, "spec.secretRef", &["name", "namespace", "key"], &[]);
        let name = self.object_name(node, "spec.secretRef");
        let namespace = self
            .text(node.get("namespace"), "spec.secretRef.namespace")
            .filter(|namespace| !namespace.is_empty());
        if let (Some(namespace), Some(node)) = (&namespace, node.get("namespace")) {
            self.check_name(node, namespace, "spec.secretRef.namespace", true)?;
        }
        let key = self
            .text(node.get("key"), "spec.secretRef.key")
            .filter(|key| !key.is_empty());
        Some(SecretRef {
            place: node.place.clone(),
            name: name?,
            namespace,
            key,
        })
    }

    /// `stringData` of a Secret, `data` of a ConfigMap.
    fn plain(&mut self, node: Option<&Node>, path: &str, values: &mut BTreeMap<String, Secret>) {
        let texts = self.texts(node, path).into_iter();
        values.extend(texts.map(|(key, text)| (key, Secret::new(text.value))));
    }

    /// `data` of a Secret.
    fn encoded(&mut self, node: Option<&Node>, values: &mut BTreeMap<String, Secret>) {
        for (key, text) in self.texts(node, "data") {
            let packed: String = text.value.split_ascii_whitespace().collect();
            match BASE64_STANDARD.decode(packed) {
                // What is not text, such as a key store, is of no use to a probe.
                Ok(bytes) => {
                    if let Ok(text) = String::from_utf8(bytes) {
                        values.insert(key, Secret::new(text));
                    }
                }
                Err(_) => {
                    let message =
                        format!("`data.{}` is not base64", quoted(&key).trim_matches('`'));
                    self.blame(
                        Mistake::new(&text.place, message)
                            .hint("plain text goes under `stringData`, which encodes it"),
                    );
                }
            }
        }
    }
}
