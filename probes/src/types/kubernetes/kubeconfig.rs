//! A kubeconfig: which cluster, and who we are there.
//!
//! Read by the one reader of YAML that there is, `conncheck_config`'s. A message names what is wrong and its line
//! and quotes nothing: all of it may be secret. What `kubectl` leaves alone (`preferences`, `extensions`)
//! is left alone; what would change who we are or where we go is honoured or refused by name.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use conncheck_config::{Secret, read_one};
use serde::Deserialize;
use serde_json::Value;

use crate::program::secret_in;

/// The parts of a kubeconfig that one context names.
#[derive(Debug, Default)]
pub(super) struct Kubeconfig {
    pub(super) cluster: Cluster,
    pub(super) user: User,
}

/// What is wrong with it, and the way out.
pub(super) type Mistake = (String, Option<&'static str>);

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Document {
    kind: Option<String>,
    current_context: Option<String>,
    clusters: Option<Vec<NamedCluster>>,
    contexts: Option<Vec<NamedContext>>,
    users: Option<Vec<NamedUser>>,
}

#[derive(Debug, Deserialize)]
struct NamedCluster {
    name: String,
    #[serde(default)]
    cluster: Option<Cluster>,
}

#[derive(Debug, Deserialize)]
struct NamedContext {
    name: String,
    #[serde(default)]
    context: Option<Context>,
}

#[derive(Debug, Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default)]
    user: Option<User>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: Option<String>,
    user: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct Cluster {
    pub(super) server: Option<String>,
    pub(super) tls_server_name: Option<String>,
    pub(super) insecure_skip_tls_verify: Option<bool>,
    pub(super) certificate_authority: Option<String>,
    pub(super) certificate_authority_data: Option<Secret>,
    pub(super) proxy_url: Option<Secret>,
    pub(super) extensions: Option<Vec<Extension>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Extension {
    pub(super) name: String,
    #[serde(default)]
    pub(super) extension: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct User {
    pub(super) client_certificate: Option<String>,
    pub(super) client_certificate_data: Option<Secret>,
    pub(super) client_key: Option<String>,
    pub(super) client_key_data: Option<Secret>,
    pub(super) token: Option<Secret>,
    #[serde(rename = "tokenFile")]
    pub(super) token_file: Option<String>,
    pub(super) username: Option<Secret>,
    pub(super) password: Option<Secret>,
    pub(super) exec: Option<Exec>,
    auth_provider: Option<Value>,
    #[serde(rename = "as")]
    pub(super) impersonate: Option<Secret>,
    pub(super) as_uid: Option<Secret>,
    pub(super) as_groups: Option<Vec<Secret>>,
    pub(super) as_user_extra: Option<BTreeMap<String, Vec<Secret>>>,
}

/// How to run an exec plugin.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Exec {
    pub(super) api_version: Option<String>,
    pub(super) command: Option<String>,
    #[serde(default)]
    pub(super) args: Option<Vec<Secret>>,
    #[serde(default)]
    pub(super) env: Option<Vec<Variable>>,
    #[serde(default)]
    pub(super) provide_cluster_info: Option<bool>,
    #[serde(default)]
    pub(super) interactive_mode: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) value: Option<Secret>,
}

impl Exec {
    /// What its environment and its arguments may hold.
    pub(super) fn secrets(&self) -> Vec<Secret> {
        let values = self
            .env
            .iter()
            .flatten()
            .filter_map(|env| env.value.as_ref());
        let texts = values.chain(self.args.iter().flatten());
        texts.filter_map(|text| secret_in(text.expose())).collect()
    }
}

impl Kubeconfig {
    /// Reads `text`, and takes what `context` (or the current one) names.
    pub(super) fn read(text: &Secret, context: Option<&str>) -> Result<Self, Mistake> {
        let document: Document = read_one("kubeconfig", text.expose()).map_err(|errors| {
            let Some(first) = errors.first() else {
                return ("the kubeconfig cannot be read".to_owned(), None);
            };
            let more = match errors.len() - 1 {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            let (line, message) = (first.place.line, &first.message);
            (
                format!("line {line} of the kubeconfig: {message}{more}"),
                None,
            )
        })?;
        if document
            .kind
            .as_deref()
            .is_some_and(|kind| kind != "Config")
        {
            return Err((
                "it is a Kubernetes document, but not a kubeconfig (`kind: Config`)".to_owned(),
                Some("is it the right key of the secret?"),
            ));
        }
        if document.contexts.is_none() && document.clusters.is_none() {
            return Err((
                "it is not a kubeconfig: it has neither `clusters` nor `contexts`".to_owned(),
                Some(
                    "is it the right key of the secret? a token goes into `password`, or into a key of its own",
                ),
            ));
        }
        document.of(context)
    }
}

impl Document {
    fn of(self, context: Option<&str>) -> Result<Kubeconfig, Mistake> {
        let contexts = self.contexts.unwrap_or_default();
        let count = match contexts.len() {
            1 => "it has one context".to_owned(),
            count => format!("it has {count} contexts"),
        };
        // Their names are the secret's, and not told.
        let found = match (context, self.current_context.filter(|name| !name.is_empty())) {
            (Some(wanted), _) => contexts
                .into_iter()
                .find(|named| named.name == wanted)
                .ok_or_else(|| {
                    (
                        format!("the kubeconfig has no context `{wanted}`; {count}"),
                        Some("`kubectl config get-contexts` lists them"),
                    )
                })?,
            (None, Some(current)) => contexts
                .into_iter()
                .find(|named| named.name == current)
                .ok_or_else(|| {
                    (
                        format!("the kubeconfig has no context of the name that its `current-context` says; {count}"),
                        Some("name one with `properties.context`"),
                    )
                })?,
            (None, None) => {
                return Err((
                    format!("the kubeconfig has no `current-context`; {count}"),
                    Some("name one with `properties.context`"),
                ));
            }
        };
        let context = found.context.unwrap_or_default();
        let missing = |what: &str| {
            let message = format!("the context of the kubeconfig names a {what} that is not in it");
            (message, None)
        };
        let cluster = match context.cluster.filter(|name| !name.is_empty()) {
            None => Cluster::default(),
            Some(name) => (self.clusters.into_iter().flatten())
                .find(|named| named.name == name)
                .ok_or_else(|| missing("cluster"))?
                .cluster
                .unwrap_or_default(),
        };
        let user = match context.user.filter(|name| !name.is_empty()) {
            None => User::default(),
            Some(name) => (self.users.into_iter().flatten())
                .find(|named| named.name == name)
                .ok_or_else(|| missing("user"))?
                .user
                .unwrap_or_default(),
        };
        let user = user.without_blanks();
        user.check()?;
        Ok(Kubeconfig { cluster, user })
    }
}

impl User {
    /// What is empty is not there: a template whose variable was not set.
    fn without_blanks(mut self) -> Self {
        for secret in [
            &mut self.client_certificate_data,
            &mut self.client_key_data,
            &mut self.token,
            &mut self.username,
            &mut self.password,
        ] {
            secret.take_if(|secret| secret.is_empty());
        }
        for path in [
            &mut self.client_certificate,
            &mut self.client_key,
            &mut self.token_file,
        ] {
            path.take_if(|path| path.is_empty());
        }
        self
    }

    fn check(&self) -> Result<(), Mistake> {
        let refused = |message: &str, hint| Err((message.to_owned(), Some(hint)));
        if self.auth_provider.is_some() {
            return refused(
                "the user of the kubeconfig has an `auth-provider`, which Kubernetes has removed (1.26)",
                "use an `exec` plugin: `gke-gcloud-auth-plugin`, `kubelogin`, …",
            );
        }
        let has_token = self.token.is_some() || self.token_file.is_some();
        if has_token && (self.username.is_some() || self.password.is_some()) {
            return refused(
                "the user of the kubeconfig has both a token and a username or password",
                "keep one of them",
            );
        }
        if self.username.is_some() != self.password.is_some() {
            return refused(
                "the user of the kubeconfig has one of `username` and `password`, and not the other",
                "give both, or a `token`",
            );
        }
        let has_certificate =
            self.client_certificate.is_some() || self.client_certificate_data.is_some();
        let has_key = self.client_key.is_some() || self.client_key_data.is_some();
        if has_key && !has_certificate {
            return refused(
                "the user of the kubeconfig has a client key without a certificate",
                "give `client-certificate-data`",
            );
        }
        let more =
            self.as_uid.is_some() || self.as_groups.is_some() || self.as_user_extra.is_some();
        if more && self.impersonate.is_none() {
            return refused(
                "the user of the kubeconfig has `as-uid`, `as-groups` or `as-user-extra` without `as`",
                "say with `as` who is impersonated",
            );
        }
        Ok(())
    }

    /// Whether it says who we are without having a program run.
    pub(super) fn is_complete(&self) -> bool {
        self.token.is_some()
            || self.token_file.is_some()
            || self.username.is_some()
            || self.client_certificate.is_some()
            || self.client_certificate_data.is_some()
    }
}

/// What stands behind `…-data`.
pub(super) fn decoded(name: &str, data: &Secret) -> Result<Secret, Mistake> {
    let bare: String = data.expose().split_whitespace().collect();
    let text = BASE64_STANDARD
        .decode(bare)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    text.map(Secret::new).ok_or_else(|| {
        (
            format!("`{name}` of the kubeconfig is not base64 of PEM text"),
            None,
        )
    })
}
