//! Exec plugins: a program that gets the credential (`client.authentication.k8s.io`, v1 and v1beta1).
//!
//! The program is run in an attempt, as part of `auth`, and what it gives is kept until it expires, as
//! its contract says, or until the API server refuses it. Without a time it is kept until it is refused.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use conncheck_config::{Secret, read_one};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::attempt::Attempt;
use crate::cause::Cause;
use crate::login::expiry_of;
use crate::outcome::{Failure, Phase};
use crate::program::Program;

use super::kubeconfig::{Cluster, Exec, Mistake};

const GROUP: &str = "client.authentication.k8s.io";

pub(super) struct Plugin {
    program: Program,
    /// What the program is told of the cluster.
    info: String,
    api_version: String,
    /// A standard mutex: held to look at it or to change it.
    kept: Mutex<Option<Arc<Granted>>>,
}

/// What a plugin gave.
pub(super) struct Granted {
    pub(super) token: Option<Secret>,
    /// Certificate and key, PEM.
    pub(super) client: Option<(Secret, Secret)>,
    pub(super) expiry: Option<Timestamp>,
}

impl Plugin {
    /// Reads how it is run. `directory` is where the kubeconfig is, if it is a file; `environment` is
    /// what a program gets.
    pub(super) fn new(
        exec: Exec,
        cluster: &Cluster,
        server: &str,
        authority: Option<&Secret>,
        directory: Option<&str>,
        environment: Vec<(std::ffi::OsString, std::ffi::OsString)>,
    ) -> Result<Self, Mistake> {
        let refused = |message: String, hint| Err((message, Some(hint)));
        let version = exec.api_version.as_deref().unwrap_or_default();
        let api_version = match version
            .strip_prefix(GROUP)
            .and_then(|rest| rest.strip_prefix('/'))
        {
            Some("v1" | "v1beta1") => version.to_owned(),
            Some("v1alpha1") => {
                return refused(
                    format!(
                        "the exec plugin speaks `{GROUP}/v1alpha1`, which Kubernetes has removed (1.24)"
                    ),
                    "have a newer version of the plugin write the kubeconfig",
                );
            }
            _ => {
                return refused(
                    format!(
                        "`apiVersion` of the exec plugin is neither `{GROUP}/v1` nor `{GROUP}/v1beta1`"
                    ),
                    "have the plugin write the kubeconfig anew",
                );
            }
        };
        match exec.interactive_mode.as_deref() {
            None | Some("Never" | "IfAvailable") => {}
            Some("Always") => {
                return refused(
                    "the exec plugin wants to talk with somebody (`interactiveMode: Always`), and nobody is there".to_owned(),
                    "use a login that needs nobody: a service account, a client secret, a workload identity",
                );
            }
            Some(_) => {
                return refused(
                    "`interactiveMode` of the exec plugin is none of `Never`, `IfAvailable` and `Always`".to_owned(),
                    "write `interactiveMode: Never`",
                );
            }
        }
        let command = match (
            exec.command.filter(|command| !command.is_empty()),
            directory,
        ) {
            (None, _) => return Err(("the exec plugin has no `command`".to_owned(), None)),
            // A bare name is looked up in `PATH`.
            (Some(command), _) if command.starts_with('/') || !command.contains('/') => command,
            (Some(command), Some(directory)) => format!("{directory}/{command}"),
            (Some(_), None) => {
                return refused(
                    "the `command` of the exec plugin is a path relative to the kubeconfig, which is not a file".to_owned(),
                    "name it by its whole path, or by a name that is in `PATH`",
                );
            }
        };
        let mut environment = environment;
        for variable in exec.env.into_iter().flatten() {
            let value = variable.value.unwrap_or_default();
            environment.retain(|(name, _)| *name != *variable.name);
            environment.push((variable.name.into(), value.expose().into()));
        }
        let arguments = exec.args.unwrap_or_default();
        let has_zero = |text: &str| text.contains('\0');
        if has_zero(&command) || arguments.iter().any(|text| has_zero(text.expose())) {
            return Err((
                "the exec plugin has a zero byte in its command or arguments".to_owned(),
                None,
            ));
        }
        let mut spec = json!({"interactive": false});
        if exec.provide_cluster_info == Some(true) {
            spec["cluster"] = cluster_info(cluster, server, authority);
        }
        let info = json!({"apiVersion": api_version, "kind": "ExecCredential", "spec": spec});
        Ok(Self {
            program: Program {
                command,
                arguments: arguments
                    .iter()
                    .map(|text| text.expose().to_owned())
                    .collect(),
                environment,
            },
            info: info.to_string(),
            api_version,
            kept: Mutex::default(),
        })
    }

    /// What was given before and still holds, or what the program gives now.
    pub(super) async fn credential(&self, attempt: &mut Attempt) -> Result<Arc<Granted>, Failure> {
        if let Some(kept) = self.kept() {
            return Ok(kept);
        }
        let output = attempt
            .program(
                Phase::Auth,
                &self.program,
                &[("KUBERNETES_EXEC_INFO", &self.info)],
            )
            .await?;
        let granted = self
            .read(&output)
            .map_err(|cause| cause.in_phase(Phase::Auth))?;
        let granted = Arc::new(granted);
        *self.lock() = Some(Arc::clone(&granted));
        Ok(granted)
    }

    fn kept(&self) -> Option<Arc<Granted>> {
        let kept = self.lock().clone()?;
        let holds = kept.expiry.is_none_or(|expiry| Timestamp::now() < expiry);
        holds.then_some(kept)
    }

    /// What it is called in messages.
    pub(super) fn name(&self) -> &str {
        self.program.name()
    }

    /// The API server has refused it: the next attempt gets another one.
    pub(super) fn forget(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Granted>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, output: &Secret) -> Result<Granted, Cause> {
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct ExecCredential {
            api_version: String,
            kind: String,
            status: Option<Status>,
        }

        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct Status {
            expiration_timestamp: Option<String>,
            token: Option<Secret>,
            client_certificate_data: Option<Secret>,
            client_key_data: Option<Secret>,
        }

        let name = self.program.name();
        let wrong = |what: &str| {
            Cause::protocol(format!("the exec plugin `{name}` {what}"))
                .hint("run it by hand: it must write an `ExecCredential` and nothing else")
        };
        if output.trimmed().is_empty() {
            return Err(wrong("ended well, and wrote no credential"));
        }
        // JSON is YAML, and a plugin may write either.
        let read = read_one::<ExecCredential>("credential", output.expose())
            .map_err(|_| wrong("wrote what is not an `ExecCredential`"))?;
        if read.kind != "ExecCredential" {
            return Err(wrong("wrote what is not an `ExecCredential`"));
        }
        if read.api_version != self.api_version {
            let version = &self.api_version;
            return Err(Cause::protocol(format!(
                "the exec plugin `{name}` was to speak `{version}`, and wrote another `apiVersion`"
            ))
            .hint("let the kubeconfig name the version that the plugin speaks"));
        }
        let status = read
            .status
            .ok_or_else(|| wrong("wrote a credential without `status`"))?;
        let client = match (status.client_certificate_data, status.client_key_data) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            _ => {
                return Err(wrong(
                    "gave one of client certificate and client key, and not the other",
                ));
            }
        };
        let token = status.token.map(|token| token.trimmed());
        let token = token.filter(|token| !token.is_empty());
        if token.is_none() && client.is_none() {
            return Err(wrong("gave neither a token nor a client certificate"));
        }
        let said = match status.expiration_timestamp {
            None => None,
            Some(text) => Some(
                text.parse::<Timestamp>()
                    .map_err(|_| wrong("gave an `expirationTimestamp` that is no time"))?,
            ),
        };
        let of_token = token.as_ref().and_then(|token| expiry_of(token.expose()));
        let expiry = [said, of_token].into_iter().flatten().min();
        Ok(Granted {
            token,
            client,
            expiry,
        })
    }
}

/// The cluster as `provideClusterInfo` tells it.
fn cluster_info(cluster: &Cluster, server: &str, authority: Option<&Secret>) -> Value {
    let mut info = json!({"server": server});
    let mut add = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            info[name] = value;
        }
    };
    add(
        "tls-server-name",
        cluster.tls_server_name.clone().map(Value::from),
    );
    add(
        "insecure-skip-tls-verify",
        cluster.insecure_skip_tls_verify.map(Value::from),
    );
    let data = authority.map(|pem| BASE64_STANDARD.encode(pem.expose()));
    add("certificate-authority-data", data.map(Value::from));
    let proxy = cluster.proxy_url.as_ref();
    add("proxy-url", proxy.map(|proxy| proxy.expose().into()));
    let mut extensions = cluster.extensions.iter().flatten();
    let config = extensions.find(|extension| extension.name == format!("{GROUP}/exec"));
    add(
        "config",
        config.and_then(|extension| extension.extension.clone()),
    );
    info
}
