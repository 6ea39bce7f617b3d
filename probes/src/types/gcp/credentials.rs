//! A credential as Google's clients read it: a JSON whose `type` says what else is in it.
//!
//! Where it is not given, it is looked for where Google's clients look (the *application default
//! credentials*): in the file that `GOOGLE_APPLICATION_CREDENTIALS` names, in the one that `gcloud auth
//! application-default login` writes, and at last at the metadata server. A definition that came from the
//! Kubernetes API gets none of that: it would act as us.
//!
//! Messages name what is wrong and quote nothing: all of it may be secret.

use std::time::Duration;

use conncheck_config::{Field, Secret, SecretKey, Trust};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};
use url::Url;

use crate::address::{Mistake, mistake};
use crate::aws::{self, Identity};
use crate::cause::Cause;
use crate::http::target;
use crate::jwt::SigningKey;
use crate::login::{basic, encoded, expiry_of, form_encoded};
use crate::outcome::Reason;
use crate::probe::{Access, Invalid};
use crate::program::{Program, secret_in, words};
use crate::tls::TlsOptions;

use super::source::{
    Federated, Impersonation, Metadata, OfAws, RefreshToken, ServiceAccount, Source, SubjectToken,
    TokenFormat,
};

/// As it is called in secrets that others have made.
pub(super) const CREDENTIAL: SecretKey = SecretKey(&[
    "credentials",
    "credentials.json",
    "creds",
    "key.json",
    "service-account.json",
]);

/// The domain of Google's own cloud; sovereign ones have others.
pub(super) const GOOGLE: &str = "googleapis.com";

const VARIABLE: &str = "GOOGLE_APPLICATION_CREDENTIALS";

/// Who we are, and how that becomes a token.
pub(super) struct Credential {
    pub(super) source: Source,
    /// As whom we go on from there, one after the other.
    pub(super) impersonations: Vec<Impersonation>,
    pub(super) universe: String,
    /// The project that is charged for what is asked, where it is not the credential's own.
    pub(super) quota_project: Option<HeaderValue>,
    /// What a peer may echo, in the forms in which it is sent.
    pub(super) secrets: Vec<Secret>,
}

/// Where a credential was found.
pub(super) enum Given {
    /// In the definition or its secret.
    Json(Field, Secret),
    /// Nowhere in it.
    Nothing,
}

impl Given {
    /// The secret's one value, `credentials` of a whole secret, `password`, or the property.
    pub(super) fn find(access: &Access<'_>, property: Option<Secret>) -> Result<Self, Invalid> {
        let resolved = access.resolved();
        let found = [
            (Field::SecretRef, resolved.key.clone()),
            (Field::SecretRef, resolved.own_key(CREDENTIAL).cloned()),
            (Field::Password, resolved.password.clone()),
        ];
        let found = found
            .into_iter()
            .find_map(|(field, text)| text.map(|text| (field, text)));
        match (found, property) {
            (Some(_), Some(_)) => Err(access
                .invalid(
                    Field::Properties,
                    "two credentials: `properties.credentials`, and the password or secret",
                )
                .hint("keep one of them")),
            (Some((field, text)), None) => Ok(Self::Json(field, text)),
            (None, Some(text)) => Ok(Self::Json(Field::Properties, text)),
            (None, None) => Ok(Self::Nothing),
        }
    }

    pub(super) fn read(self, access: &Access<'_>, tls: &TlsOptions) -> Result<Credential, Invalid> {
        let (field, text) = match self {
            Self::Json(field, text) => (field, text.trimmed()),
            Self::Nothing => return application_default(access, tls),
        };
        let is_path = text.expose().starts_with('/') && text.expose().lines().count() == 1;
        let text = match is_path {
            true => access.file(field, text.expose())?,
            false => text,
        };
        Reader { access, tls, field }.credential(&text)
    }
}

/// Where Google's clients look if nobody tells them. What is wrong there is not the definition's
/// mistake: the next attempt may find it put right.
fn application_default(access: &Access<'_>, tls: &TlsOptions) -> Result<Credential, Invalid> {
    if access.resolved().trust == Trust::Remote {
        return Err(access
            .invalid(
                Field::Type,
                "it has no credential, and conncheck's own is not used for a connection that came from the Kubernetes API",
            )
            .hint("give the credential's JSON by a `secretRef` with its `key`"));
    }
    let variable = |name: &str| access.variable(Field::Type, name);
    let read = |path: &str, why: &str, text: Result<Secret, Invalid>| -> Credential {
        let field = Field::Type;
        let read = text.and_then(|text| Reader { access, tls, field }.credential(&text));
        read.unwrap_or_else(|invalid| {
            let message = format!("{why} `{path}`: {}", invalid.message);
            let cause = Cause::new(Reason::Secret, message);
            Credential::absent(match invalid.hint {
                Some(hint) => cause.hint(hint),
                None => cause,
            })
        })
    };
    let mut links = Vec::new();
    match variable(VARIABLE)? {
        Some(path) => {
            let text = access.file(Field::Type, &path);
            return Ok(read(&path, &format!("`{VARIABLE}` names"), text));
        }
        None => links.push(format!("`{VARIABLE}` is not set")),
    }
    let folder = match (variable("CLOUDSDK_CONFIG")?, variable("HOME")?) {
        (Some(folder), _) => Some(folder),
        (None, Some(home)) => Some(format!("{home}/.config/gcloud")),
        (None, None) => None,
    };
    match folder {
        Some(folder) => {
            let path = format!("{folder}/application_default_credentials.json");
            match access.file(Field::Type, &path) {
                Ok(text) => return Ok(read(&path, "gcloud's", Ok(text))),
                Err(invalid) => links.push(invalid.message),
            }
        }
        None => links.push("neither `CLOUDSDK_CONFIG` nor `HOME` is set".to_owned()),
    }
    if variable("NO_GCE_CHECK")?.as_deref() == Some("true") {
        links.push("`NO_GCE_CHECK` says to ask no metadata server".to_owned());
        return Ok(Credential::absent(nowhere(&links)));
    }
    let (host, is_given) = match variable("GCE_METADATA_HOST")? {
        Some(host) => (host, true),
        None => ("metadata.google.internal".to_owned(), false),
    };
    let url = match target(&format!("http://{host}/")) {
        Ok((_, url)) if !host.contains(['/', '@', '?', '#']) => url,
        _ => {
            links.push("`GCE_METADATA_HOST` is not of the form `host` or `host:port`".to_owned());
            return Ok(Credential::absent(nowhere(&links)));
        }
    };
    Ok(Credential::of(Source::Metadata(Metadata {
        url,
        is_given,
        links,
    })))
}

/// There is no credential, and this is where it was looked for.
pub(super) fn nowhere(links: &[String]) -> Cause {
    Cause::new(
        Reason::Secret,
        format!("there is no credential: {}", links.join("; ")),
    )
    .hint("give the credential's JSON by a `secretRef`, set `GOOGLE_APPLICATION_CREDENTIALS`, or run on Google Cloud")
}

impl Credential {
    fn of(source: Source) -> Self {
        Self {
            source,
            impersonations: Vec::new(),
            universe: GOOGLE.to_owned(),
            quota_project: None,
            secrets: Vec::new(),
        }
    }

    fn absent(cause: Cause) -> Self {
        Self::of(Source::Absent(cause))
    }

    /// Keeps a secret, also as it is sent in a form.
    fn keep(&mut self, secret: &Secret) {
        self.secrets.extend([secret.clone(), form_encoded(secret)]);
    }
}

/// Reads the JSON of one credential.
struct Reader<'a> {
    access: &'a Access<'a>,
    tls: &'a TlsOptions,
    /// Where it stands.
    field: Field,
}

impl Reader<'_> {
    fn credential(&self, text: &Secret) -> Result<Credential, Invalid> {
        let json: Value =
            serde_json::from_str(text.expose()).map_err(|_| self.wrong(no_json(text)))?;
        let mut secrets = Vec::new();
        collect_secrets(&json, &mut secrets);
        let fields = Fields::of(&json, "the credential").map_err(|wrong| self.wrong(wrong))?;
        let mut res = self.read(&fields, 0)?;
        res.secrets.extend(secrets);
        Ok(res)
    }

    fn wrong(&self, Mistake { message, hint }: Mistake) -> Invalid {
        let invalid = self.access.invalid(self.field, message);
        match hint {
            Some(hint) => invalid.hint(hint),
            None => invalid,
        }
    }

    fn read(&self, fields: &Fields<'_>, depth: usize) -> Result<Credential, Invalid> {
        let wrong = |error| self.wrong(error);
        let universe = fields.optional("universe_domain").map_err(wrong)?;
        let universe = universe.unwrap_or_else(|| GOOGLE.to_owned());
        let is_domain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        if !universe.chars().all(is_domain) {
            return Err(wrong(mistake(
                "`universe_domain` of the credential is not a domain",
            )));
        }
        let ty = fields.optional("type").map_err(wrong)?;
        let mut res = match ty.as_deref() {
            Some("service_account") => {
                let source = service_account(fields, &universe).map_err(wrong)?;
                Credential::of(source)
            }
            Some("authorized_user") => refresh_token(fields, &universe).map_err(wrong)?,
            Some("external_account") => self.external_account(fields, &universe)?,
            Some("external_account_authorized_user") => self.federated_user(fields, &universe)?,
            Some("impersonated_service_account") => self.impersonated(fields, depth)?,
            ty => return Err(wrong(unknown_type(ty, fields))),
        };
        res.universe = universe;
        let quota = fields.optional("quota_project_id").map_err(wrong)?;
        res.quota_project = match quota {
            None => res.quota_project,
            Some(quota) => Some(HeaderValue::from_str(&quota).map_err(|_| {
                wrong(mistake(
                    "`quota_project_id` of the credential has characters that no header may have",
                ))
            })?),
        };
        Ok(res)
    }

    fn impersonated(&self, fields: &Fields<'_>, depth: usize) -> Result<Credential, Invalid> {
        let wrong = |error| self.wrong(error);
        if depth > 2 {
            return Err(wrong(mistake("the credential impersonates too often")));
        }
        let inner = fields
            .section(
                "source_credentials",
                "`source_credentials` of the credential",
            )
            .map_err(wrong)?
            .ok_or_else(|| wrong(fields.missing("source_credentials")))?;
        let mut res = self.read(&inner, depth + 1)?;
        let url = fields
            .url("service_account_impersonation_url", None)
            .map_err(wrong)?;
        let delegates = match fields.map.get("delegates") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(list)) if list.iter().all(Value::is_string) => list
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            Some(_) => {
                return Err(wrong(mistake(
                    "`delegates` of the credential is not a list of texts",
                )));
            }
        };
        res.impersonations.push(Impersonation {
            url,
            delegates,
            lifetime_seconds: None,
        });
        Ok(res)
    }

    fn federated_user(&self, fields: &Fields<'_>, universe: &str) -> Result<Credential, Invalid> {
        let wrong = |error| self.wrong(error);
        let token = Secret::new(fields.text("refresh_token").map_err(wrong)?);
        let url = format!("https://sts.{universe}/v1/oauthtoken");
        let source = RefreshToken {
            url: fields.url("token_url", Some(&url)).map_err(wrong)?,
            form: vec![("refresh_token", token.clone())],
            authorization: None,
            is_federated: true,
        };
        let mut res = Credential::of(Source::RefreshToken(source));
        res.keep(&token);
        self.authorize(&mut res, fields)?;
        Ok(res)
    }

    /// `client_id` and `client_secret`, as the token exchange takes them.
    fn authorize(&self, res: &mut Credential, fields: &Fields<'_>) -> Result<(), Invalid> {
        let text = |name| fields.optional(name).map_err(|error| self.wrong(error));
        let Some(id) = text("client_id")? else {
            return Ok(());
        };
        let password = Secret::new(text("client_secret")?.unwrap_or_default());
        let value = basic(self.access, Some(&Secret::new(id)), &password)?;
        res.secrets.push(encoded(&value));
        match &mut res.source {
            Source::RefreshToken(source) => source.authorization = Some(value),
            Source::Federated(source) => source.authorization = Some(value),
            _ => {}
        }
        Ok(())
    }

    fn external_account(&self, fields: &Fields<'_>, universe: &str) -> Result<Credential, Invalid> {
        let wrong = |error| self.wrong(error);
        let audience = fields.text("audience").map_err(wrong)?;
        let token_type = fields.text("subject_token_type").map_err(wrong)?;
        let impersonation = fields
            .optional_url("service_account_impersonation_url")
            .map_err(wrong)?;
        let lifetime_seconds = match fields
            .section(
                "service_account_impersonation",
                "`service_account_impersonation`",
            )
            .map_err(wrong)?
        {
            None => None,
            Some(inner) => inner.number("token_lifetime_seconds").map_err(wrong)?,
        };
        let mut options = Map::new();
        if let Some(project) = fields
            .optional("workforce_pool_user_project")
            .map_err(wrong)?
            && !fields.map.contains_key("client_id")
        {
            options.insert("userProject".to_owned(), project.into());
        }
        let url = format!("https://sts.{universe}/v1/token");
        let account = impersonation.as_ref().and_then(impersonated_account);
        let (subject, expiry) =
            self.subject_token(fields, &audience, &token_type, account.as_deref())?;
        let mut secrets = Vec::new();
        let mut file = None;
        match &subject {
            SubjectToken::File { token: Ok(token) } => file = Some(token.clone()),
            SubjectToken::Program { program, .. } => {
                secrets.extend(program.arguments.iter().filter_map(|text| secret_in(text)));
            }
            SubjectToken::Aws(aws) => secrets.extend_from_slice(aws.identity.secrets()),
            _ => {}
        }
        let mut res = Credential::of(Source::Federated(Box::new(Federated {
            url: fields.url("token_url", Some(&url)).map_err(wrong)?,
            audience,
            token_type,
            options: (!options.is_empty()).then(|| Value::Object(options).to_string()),
            authorization: None,
            subject,
            expiry,
        })));
        self.authorize(&mut res, fields)?;
        res.secrets.extend(secrets);
        if let Some(token) = file {
            res.keep(&token);
        }
        res.impersonations
            .extend(impersonation.map(|url| Impersonation {
                url,
                delegates: Vec::new(),
                lifetime_seconds,
            }));
        Ok(res)
    }

    /// Where the token comes from that is exchanged for one of Google's, and when it ends, if it is a
    /// file that somebody else keeps new.
    fn subject_token(
        &self,
        fields: &Fields<'_>,
        audience: &str,
        token_type: &str,
        account: Option<&str>,
    ) -> Result<(SubjectToken, Option<jiff::Timestamp>), Invalid> {
        let wrong = |error| self.wrong(error);
        let source = fields
            .section("credential_source", "`credential_source` of the credential")
            .map_err(wrong)?
            .ok_or_else(|| wrong(fields.missing("credential_source")))?;
        let has = |name: &str| source.map.contains_key(name);
        if has("certificate") {
            return Err(wrong(
                mistake("the credential federates an X.509 certificate (`certificate`), which is not supported here")
                    .hint("use one whose `credential_source` is a file, a URL or an executable, or a service account's key"),
            ));
        }
        // Its author need not be trusted with our machine and with what answers to it alone.
        if self.access.resolved().trust == Trust::Remote {
            return Err(wrong(
                mistake("the credential names a file, a URL or a program that gives a token (`credential_source`): that is not asked for a connection that came from the Kubernetes API")
                    .hint("give a service account's key instead"),
            ));
        }
        if has("environment_id") {
            return self.of_aws(&source);
        }
        let format = TokenFormat::read(&source).map_err(wrong)?;
        if let Some(path) = source.optional("file").map_err(wrong)? {
            let read = self.access.file(self.field, &path);
            let token = read.map_err(|invalid| invalid.message).and_then(|text| {
                let token = format.token_of(&text);
                token.map_err(|what| format!("`{path}` {what}"))
            });
            let expiry = token
                .as_ref()
                .ok()
                .and_then(|token| expiry_of(token.expose()));
            return Ok((SubjectToken::File { token }, expiry));
        }
        if has("url") {
            let mut headers = HeaderMap::new();
            if let Some(given) = source.section("headers", "`headers`").map_err(wrong)? {
                for (name, value) in given.map {
                    let parsed = HeaderName::try_from(name.as_str()).ok();
                    let value = value
                        .as_str()
                        .and_then(|text| HeaderValue::from_str(text).ok());
                    let Some((name, mut value)) = parsed.zip(value) else {
                        return Err(wrong(mistake(
                            "`headers` of `credential_source` cannot be sent",
                        )));
                    };
                    value.set_sensitive(true);
                    headers.insert(name, value);
                }
            }
            return Ok((
                SubjectToken::Url {
                    url: source.url("url", None).map_err(wrong)?,
                    headers,
                    format,
                },
                None,
            ));
        }
        match source
            .section("executable", "`executable` of `credential_source`")
            .map_err(wrong)?
        {
            Some(inner) => self.executable(&inner, audience, token_type, account),
            None => Err(wrong(mistake(
                "`credential_source` of the credential has neither `file`, `url` nor `executable`",
            ))),
        }
    }

    /// An AWS identity, found where AWS' own clients find it. The URLs of its metadata are not needed
    /// for that, and could only lead elsewhere.
    fn of_aws(
        &self,
        source: &Fields<'_>,
    ) -> Result<(SubjectToken, Option<jiff::Timestamp>), Invalid> {
        const METADATA: [&str; 2] = ["169.254.169.254", "[fd00:ec2::254]"];
        let wrong = |error| self.wrong(error);
        if source.optional("environment_id").map_err(wrong)?.as_deref() != Some("aws1") {
            return Err(wrong(
                mistake("`environment_id` of `credential_source` is not `aws1`")
                    .hint("have `gcloud iam workload-identity-pools create-cred-config` write the credential anew"),
            ));
        }
        for name in ["region_url", "url", "imdsv2_session_token_url"] {
            let url = source.optional_url(name).map_err(wrong)?;
            let host = url.as_ref().and_then(Url::host_str);
            if host.is_some_and(|host| !METADATA.contains(&host)) {
                return Err(wrong(
                    mistake(format!("`{name}` of `credential_source` is not at the metadata service of AWS"))
                        .hint("for another one set `AWS_EC2_METADATA_SERVICE_ENDPOINT` where conncheck runs"),
                ));
            }
        }
        let url = source
            .text("regional_cred_verification_url")
            .map_err(wrong)?;
        if target(&url.replace("{region}", "r")).is_err() {
            return Err(wrong(mistake(
                "`regional_cred_verification_url` of `credential_source` is not a URL",
            )));
        }
        Ok((
            SubjectToken::Aws(Box::new(OfAws {
                identity: Identity::new(self.access, aws::Given::default())?,
                url,
                tls: self.access.tls(self.tls)?,
            })),
            None,
        ))
    }

    fn executable(
        &self,
        fields: &Fields<'_>,
        audience: &str,
        token_type: &str,
        account: Option<&str>,
    ) -> Result<(SubjectToken, Option<jiff::Timestamp>), Invalid> {
        const ALLOWED: &str = "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES";
        let wrong = |error| self.wrong(error);
        let command = fields.text("command").map_err(wrong)?;
        let words = words(&command).map_err(|error| {
            let what = "bad `command` of the credential's `executable`";
            wrong(mistake(format!("{what}: {error}")))
        })?;
        let mut words = words.into_iter();
        let program = words.next().unwrap_or_default();
        let limit = match fields.number("timeout_millis").map_err(wrong)? {
            None => Duration::from_secs(30),
            Some(millis @ 5_000..=120_000) => Duration::from_millis(millis),
            Some(_) => {
                return Err(wrong(mistake(
                    "`timeout_millis` of the credential's `executable` is not between 5000 and 120000",
                )));
            }
        };
        // As Google's clients want it: the JSON may come from somebody who should run nothing here.
        if self.access.variable(self.field, ALLOWED)?.as_deref() != Some("1") {
            return Err(wrong(
                mistake("the credential has a program run (`executable`), which Google's clients do only when allowed")
                    .hint(format!("if you trust it, set `{ALLOWED}=1` in the environment of conncheck")),
            ));
        }
        let mut environment = self.access.environment(self.field)?;
        let file = fields.optional("output_file").map_err(wrong)?;
        for (name, value) in [
            ("GOOGLE_EXTERNAL_ACCOUNT_AUDIENCE", Some(audience)),
            ("GOOGLE_EXTERNAL_ACCOUNT_TOKEN_TYPE", Some(token_type)),
            ("GOOGLE_EXTERNAL_ACCOUNT_INTERACTIVE", Some("0")),
            ("GOOGLE_EXTERNAL_ACCOUNT_REVOKE", Some("0")),
            ("GOOGLE_EXTERNAL_ACCOUNT_ID", account),
            ("GOOGLE_EXTERNAL_ACCOUNT_IMPERSONATED_EMAIL", account),
            ("GOOGLE_EXTERNAL_ACCOUNT_OUTPUT_FILE", file.as_deref()),
        ] {
            if let Some(value) = value {
                environment.retain(|(known, _)| known != name);
                environment.push((name.into(), value.into()));
            }
        }
        let program = Program {
            command: program,
            arguments: words.collect(),
            environment,
        };
        Ok((SubjectToken::Program { program, limit }, None))
    }
}

/// The account in `…/serviceAccounts/ACCOUNT:generateAccessToken`.
fn impersonated_account(url: &Url) -> Option<String> {
    let (_, rest) = url.path().split_once("/serviceAccounts/")?;
    Some(rest.split_once(':')?.0.to_owned())
}

fn service_account(fields: &Fields<'_>, universe: &str) -> Result<Source, Mistake> {
    let pem = Secret::new(fields.text("private_key")?);
    let key = SigningKey::from_pem(&pem).map_err(|what| {
        let wrong = mistake(format!("`private_key` of the credential {what}"));
        match pem.expose().contains("\\n") {
            true => wrong.hint(
                "its line ends are the two characters `\\n`: the JSON was escaped once too often on its way into the secret",
            ),
            false => wrong.hint(
                "use the file as Google gave it out: `gcloud iam service-accounts keys create`",
            ),
        }
    })?;
    let url = "https://oauth2.googleapis.com/token";
    Ok(Source::ServiceAccount(Box::new(ServiceAccount {
        email: fields.text("client_email")?,
        key_id: fields.optional("private_key_id")?,
        key,
        url: fields.url("token_uri", Some(url))?,
        signs_its_tokens: universe != GOOGLE,
    })))
}

fn refresh_token(fields: &Fields<'_>, universe: &str) -> Result<Credential, Mistake> {
    let text = |name| fields.text(name).map(Secret::new);
    let (token, secret) = (text("refresh_token")?, text("client_secret")?);
    let url = format!("https://oauth2.{universe}/token");
    let source = RefreshToken {
        url: fields.url("token_uri", Some(&url))?,
        form: vec![
            ("client_id", text("client_id")?),
            ("client_secret", secret.clone()),
            ("refresh_token", token.clone()),
        ],
        authorization: None,
        is_federated: false,
    };
    let mut res = Credential::of(Source::RefreshToken(source));
    res.keep(&token);
    res.keep(&secret);
    Ok(res)
}

fn unknown_type(ty: Option<&str>, fields: &Fields<'_>) -> Mistake {
    const SUPPORTED: &str = "it may be `service_account`, `authorized_user`, `external_account`, \
         `external_account_authorized_user` or `impersonated_service_account`";
    let has = |name| fields.map.contains_key(name);
    match ty {
        Some("gdch_service_account") => mistake(
            "the credential is a `gdch_service_account` (Google Distributed Cloud), which is not supported",
        )
        .hint(SUPPORTED),
        None if has("installed") || has("web") => {
            mistake("that is the OAuth client of an app, and no credential").hint(
                "use a service account's key, or what `gcloud auth application-default login` writes",
            )
        }
        None => mistake("the credential has no `type`").hint(SUPPORTED),
        Some(_) => mistake("the credential has a `type` that is not known").hint(SUPPORTED),
    }
}

/// What a text is that is no JSON.
fn no_json(text: &Secret) -> Mistake {
    let text = text.expose().trim();
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || "+/=\n\r".contains(c);
    let (what, hint) = match text {
        _ if text.starts_with("-----BEGIN") => (
            "a bare private key",
            "give the whole JSON of the service account's key",
        ),
        _ if text.starts_with("AIza") => (
            "an API key, by which nobody is known",
            "give the JSON of a service account's key",
        ),
        _ if text.starts_with("ya29.") => (
            "an access token, which ends within the hour",
            "give what such tokens are got with: the JSON of a service account's key",
        ),
        _ if text.starts_with("ey") && text.chars().all(is_base64) => (
            "JSON in base64",
            "it was encoded once too often: a Secret's `data` wants it once, `stringData` not at all",
        ),
        _ => (
            "",
            "it is what `gcloud iam service-accounts keys create` writes; is it the right key of the secret?",
        ),
    };
    let message = match what {
        "" => "the credential is not JSON".to_owned(),
        what => format!("the credential is not JSON, but {what}"),
    };
    mistake(message).hint(hint)
}

/// What in the JSON nobody else may see, wherever it stands.
fn collect_secrets(json: &Value, res: &mut Vec<Secret>) {
    const NAMES: [&str; 4] = ["private_key", "client_secret", "refresh_token", "headers"];
    match json {
        Value::Object(map) => {
            for (name, value) in map {
                match (name.as_str(), value) {
                    ("headers", Value::Object(headers)) => {
                        let texts = headers.values().filter_map(Value::as_str);
                        res.extend(texts.map(Secret::new));
                    }
                    (name, Value::String(text)) if NAMES.contains(&name) => {
                        res.push(Secret::new(text.trim()));
                    }
                    _ => collect_secrets(value, res),
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| collect_secrets(value, res)),
        _ => {}
    }
}

/// An object of a credential's JSON.
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
    what: &'a str,
}

impl<'a> Fields<'a> {
    fn of(json: &'a Value, what: &'a str) -> Result<Self, Mistake> {
        match json {
            Value::Object(map) => Ok(Self { map, what }),
            _ => Err(mistake(format!("{what} is JSON, but no object"))
                .hint("it is what `gcloud iam service-accounts keys create` writes")),
        }
    }

    fn missing(&self, name: &str) -> Mistake {
        mistake(format!("{} has no `{name}`", self.what))
            .hint("use the file as it was given out, and all of it")
    }

    pub(super) fn optional(&self, name: &str) -> Result<Option<String>, Mistake> {
        match self.map.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.trim().to_owned())),
            Some(_) => Err(mistake(format!("`{name}` of {} is not text", self.what))),
        }
    }

    fn text(&self, name: &str) -> Result<String, Mistake> {
        self.optional(name)?.ok_or_else(|| self.missing(name))
    }

    fn number(&self, name: &str) -> Result<Option<u64>, Mistake> {
        match self.map.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64() {
                Some(number) => Ok(Some(number)),
                None => Err(mistake(format!(
                    "`{name}` of {} is not a number",
                    self.what
                ))),
            },
        }
    }

    pub(super) fn section<'b>(
        &'b self,
        name: &str,
        what: &'b str,
    ) -> Result<Option<Fields<'b>>, Mistake> {
        match self.map.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Fields { map, what })),
            Some(_) => Err(mistake(format!("{what} is not an object"))),
        }
    }

    fn url(&self, name: &str, default: Option<&str>) -> Result<Url, Mistake> {
        let text = match (self.optional(name)?, default) {
            (Some(text), _) => text,
            (None, Some(default)) => default.to_owned(),
            (None, None) => return Err(self.missing(name)),
        };
        let (_, url) = target(&text)
            .map_err(|error| mistake(format!("bad `{name}` of {}: {error}", self.what)))?;
        Ok(url)
    }

    fn optional_url(&self, name: &str) -> Result<Option<Url>, Mistake> {
        match self.optional(name)? {
            None => Ok(None),
            Some(_) => self.url(name, None).map(Some),
        }
    }
}
