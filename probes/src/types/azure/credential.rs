//! Who we are to Entra, and where that is known from.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use conncheck_config::{Field, Secret, SecretKey, Trust};
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use serde_json::json;
use url::{Url, form_urlencoded};

use crate::address::Location;
use crate::cause::Cause;
use crate::http::{Request, Response, below, endpoint_of, target};
use crate::jwt;
use crate::login::{CLIENT_ID, CLIENT_SECRET, expiry_of, form_encoded};
use crate::outcome::Reason;
use crate::probe::{Access, Invalid};
use crate::tls::{Tls, TlsOptions, TlsPart};

use super::aadsts;
use super::{Choice, Settings, is_guid};

/// As it is called in secrets; the other two are OAuth's.
pub(super) const TENANT_ID: SecretKey = SecretKey(&["tenantID", "tenant-id"]);

/// For how long an assertion of ours is good, seconds.
const ASSERTED: i64 = 600;

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The metadata service of a machine in Azure. Only asked when a managed identity is wanted, or nothing
/// else is left.
const IMDS: &str = "http://169.254.169.254";

/// A cloud of Microsoft's.
pub(super) struct Cloud {
    authorities: &'static [&'static str],
    /// Azure Resource Manager: where it is, and what a token for it is for.
    pub(super) management: &'static str,
}

/// The public one first: what is not known is taken for it.
const CLOUDS: [Cloud; 3] = [
    Cloud {
        authorities: &[
            "login.microsoftonline.com",
            "login.microsoft.com",
            "login.windows.net",
            "sts.windows.net",
        ],
        management: "https://management.azure.com",
    },
    Cloud {
        authorities: &["login.microsoftonline.us", "login-us.microsoftonline.com"],
        management: "https://management.usgovcloudapi.net",
    },
    Cloud {
        authorities: &["login.partner.microsoftonline.cn", "login.chinacloudapi.cn"],
        management: "https://management.chinacloudapi.cn",
    },
];

/// Where tokens are to be had.
pub(super) struct Authority {
    pub(super) url: Url,
    /// What stands in its path.
    tenant: Option<String>,
    username: Option<Secret>,
    password: Option<Secret>,
    /// Whether the definition names it.
    is_given: bool,
}

impl Authority {
    pub(super) fn read(access: &Access<'_>, settings: &Settings) -> Result<Self, Invalid> {
        let given = access.resolved().url.as_ref();
        let text = given.map_or(CLOUDS[0].authorities[0], Secret::expose);
        let wrong = |error: &str| access.invalid(Field::Url, format!("bad `url`: {error}"));
        let (location, url) = parse(text).map_err(|error| wrong(&error))?;
        if !location.query.is_empty() {
            return Err(wrong("an authority has no query (`?`)"));
        }
        let path: Vec<&str> = location
            .path
            .split('/')
            .filter(|part| !part.is_empty())
            .collect();
        let tenant = match path[..] {
            [] => None,
            [tenant] | [tenant, "v2.0"] => Some(tenant.to_owned()),
            _ => {
                return Err(wrong("an authority has no path but a tenant's").hint(
                    "for instance `https://login.microsoftonline.com`; the rest is conncheck's to add",
                ));
            }
        };
        if let (Some(tenant), Some(other)) = (&tenant, &settings.tenant_id)
            && tenant != other.trim()
        {
            return Err(access
                .invalid(
                    Field::Properties,
                    "`tenantID` and the path of `url` name two tenants",
                )
                .hint("keep one of them"));
        }
        Ok(Self {
            url,
            tenant,
            username: location.username.map(Secret::new),
            password: location.password.map(Secret::new),
            is_given: given.is_some(),
        })
    }

    /// The one that the machine is set up for, unless the definition names another.
    fn or_of_environment(self, surroundings: &Surroundings<'_>) -> Result<Self, Invalid> {
        const NAME: &str = "AZURE_AUTHORITY_HOST";
        let Some(host) = surroundings.variable(NAME)?.filter(|_| !self.is_given) else {
            return Ok(self);
        };
        let (_, mut url) =
            parse(&host).map_err(|error| surroundings.invalid(format!("bad `{NAME}`: {error}")))?;
        url.set_path("");
        Ok(Self { url, ..self })
    }

    pub(super) fn cloud(&self) -> &'static Cloud {
        let host = self.url.host_str().unwrap_or_default();
        let known = |cloud: &&Cloud| cloud.authorities.contains(&host);
        CLOUDS.iter().find(known).unwrap_or(&CLOUDS[0])
    }

    fn token_url(&self, access: &Access<'_>, tenant: &str) -> Result<Url, Invalid> {
        let wrong = |message: &str, hint: &'static str| {
            Err(access
                .invalid(Field::Properties, message.to_owned())
                .hint(hint))
        };
        const WHICH: &str = "an application logs in to one tenant: its ID, or one of its domains";
        if matches!(tenant, "common" | "organizations" | "consumers") {
            return wrong(&format!("`tenantID`: `{tenant}` is for people"), WHICH);
        }
        if tenant == "adfs" {
            return wrong("`tenantID`: AD FS is not Entra ID, and not spoken", WHICH);
        }
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if tenant.is_empty() || !tenant.chars().all(is_plain) {
            return wrong("`tenantID` is neither an ID nor a domain", WHICH);
        }
        let mut url = self.url.clone();
        url.set_path(&format!("/{tenant}/oauth2/v2.0/token"));
        Ok(url)
    }
}

/// An authority as people write it, with or without `https://`.
fn parse(text: &str) -> Result<(Location, Url), String> {
    match text.contains("://") {
        true => target(text),
        false => target(&format!("https://{text}")),
    }
}

/// Who we are.
pub(super) enum Credential {
    Application(Application),
    Identity(Identity),
}

/// An application of the tenant.
pub(super) struct Application {
    pub(super) token_url: Url,
    client_id: Secret,
    proof: Proof,
}

enum Proof {
    Secret(Secret),
    Certificate(Box<Certificate>),
    /// What another identity provider says of us.
    Federated(Secret),
}

/// A certificate that the application trusts, and its key.
struct Certificate {
    /// Knows both.
    tls: Tls,
    expiry: Option<Timestamp>,
    header: serde_json::Value,
}

/// The identity of the machine that we run on.
pub(super) struct Identity {
    pub(super) url: Url,
    header: (HeaderName, HeaderValue),
    secret: Option<Secret>,
    client_id: Option<Secret>,
    /// Why what comes before it in the default chain is not there; empty where it was asked for.
    pub(super) passed_over: Vec<String>,
}

impl Credential {
    /// What the definition holds, or what the machine has.
    pub(super) fn read(
        access: &Access<'_>,
        settings: &Settings,
        authority: Authority,
    ) -> Result<(Option<Self>, Authority), Invalid> {
        let given = Given::read(access, settings, &authority)?;
        let has_secret = given.secret.is_some();
        let has_certificate = given.certificate.is_some();
        let by_name = |name: &str| format!("`credential: {name}`");
        let invalid = |message: String| access.invalid(Field::Properties, message);
        if let Some(unused) = given.unused_by(settings.credential) {
            let name = spelled(settings.credential);
            return Err(invalid(format!("{unused} and {}", by_name(name)))
                .hint("keep one of them: what proves who we are must be one thing"));
        }
        let surroundings = Surroundings { access, settings };
        let (credential, authority) = match settings.credential {
            Choice::Auto if has_secret && has_certificate => {
                return Err(
                    invalid("both a client secret and a client certificate".to_owned())
                        .hint("keep one of them, or say which with `credential`"),
                );
            }
            Choice::Auto if has_secret => (given.by_secret(access, &authority)?, authority),
            Choice::Auto if has_certificate => (
                given.by_certificate(access, settings, &authority)?,
                authority,
            ),
            Choice::ClientSecret if has_secret => (given.by_secret(access, &authority)?, authority),
            Choice::ClientSecret => {
                return Err(invalid(format!("{} without one", by_name("clientSecret")))
                    .hint("give it as a `secretRef` with its `key`, or as `password`"));
            }
            Choice::ClientCertificate if has_certificate => (
                given.by_certificate(access, settings, &authority)?,
                authority,
            ),
            Choice::ClientCertificate => {
                return Err(
                    invalid(format!("{} without one", by_name("clientCertificate")))
                        .hint("give `clientCert` and `clientKey`, both PEM"),
                );
            }
            _ if access.resolved().trust == Trust::Remote => {
                return Err(access
                    .invalid(
                        Field::Type,
                        "neither a client secret nor a client certificate, and our own identity is not lent to a connection that came from the Kubernetes API",
                    )
                    .hint("give `tenantID`, `clientID` and a `secretRef`: whoever writes the connection also says where a token is sent"));
            }
            Choice::Environment => {
                let authority = authority.or_of_environment(&surroundings)?;
                let found = surroundings.environment(&given, &authority)?;
                (
                    found.map_err(|why| chosen(access, "environment", &why))?,
                    authority,
                )
            }
            Choice::WorkloadIdentity => {
                let authority = authority.or_of_environment(&surroundings)?;
                let found = surroundings.workload_identity(&given, &authority)?;
                (
                    found.map_err(|why| chosen(access, "workloadIdentity", &why))?,
                    authority,
                )
            }
            Choice::ManagedIdentity => {
                let client_id = given.client_id.clone();
                let found = surroundings.managed_identity(client_id, Vec::new())?;
                (
                    found.map_err(|why| chosen(access, "managedIdentity", &why))?,
                    authority,
                )
            }
            Choice::Auto => {
                let authority = authority.or_of_environment(&surroundings)?;
                (surroundings.chain(&given, &authority)?, authority)
            }
        };
        Ok((Some(credential), authority))
    }

    /// What must not be printed, beside what the definition holds.
    pub(super) fn secrets(&self) -> Vec<Secret> {
        let secret = match self {
            Self::Application(application) => match &application.proof {
                Proof::Secret(secret) | Proof::Federated(secret) => Some(secret),
                Proof::Certificate(_) => None,
            },
            Self::Identity(identity) => identity.secret.as_ref(),
        };
        let as_sent = |secret: &Secret| [secret.clone(), form_encoded(secret)];
        secret.into_iter().flat_map(as_sent).collect()
    }
}

/// What was asked for by name is not there.
fn chosen(access: &Access<'_>, name: &str, why: &str) -> Invalid {
    access.invalid(
        Field::Properties,
        format!("`credential: {name}`, and {why}"),
    )
}

fn spelled(choice: Choice) -> &'static str {
    match choice {
        Choice::Auto => "auto",
        Choice::ClientSecret => "clientSecret",
        Choice::ClientCertificate => "clientCertificate",
        Choice::WorkloadIdentity => "workloadIdentity",
        Choice::ManagedIdentity => "managedIdentity",
        Choice::Environment => "environment",
    }
}

/// What the definition holds of who we are.
struct Given {
    tenant: Option<String>,
    client_id: Option<Secret>,
    secret: Option<Secret>,
    certificate: Option<Secret>,
}

impl Given {
    fn read(
        access: &Access<'_>,
        settings: &Settings,
        authority: &Authority,
    ) -> Result<Self, Invalid> {
        let resolved = access.resolved();
        let own = |key: SecretKey| resolved.own_key(key).map(Secret::trimmed);
        let username = access.username(None);
        if let (Some(id), Some(username)) = (&settings.client_id, &username)
            && id.trimmed().expose() != username.expose()
        {
            return Err(access
                .invalid(
                    Field::Properties,
                    "`clientID` and `username` are two applications",
                )
                .hint("they mean the same; keep one of them"));
        }
        let client_id = (settings.client_id.as_ref().map(Secret::trimmed))
            .or(username)
            .or_else(|| own(CLIENT_ID))
            .or_else(|| authority.username.clone());
        let tenant = settings
            .tenant_id
            .as_ref()
            .map(|tenant| tenant.trim().to_owned());
        let of_secret = || own(TENANT_ID).map(|id| id.expose().to_owned());
        let secret = (resolved.key.clone())
            .or_else(|| resolved.password.clone())
            .or_else(|| own(CLIENT_SECRET))
            .or_else(|| authority.password.clone());
        Ok(Self {
            tenant: tenant
                .or_else(|| authority.tenant.clone())
                .or_else(of_secret),
            client_id: client_id.filter(|id| !id.is_empty()),
            secret: secret.filter(|secret| !secret.is_empty()),
            certificate: resolved.client_cert.clone(),
        })
    }

    /// What stands there and would be left aside.
    fn unused_by(&self, choice: Choice) -> Option<&'static str> {
        let (secret, certificate) = match choice {
            Choice::Auto => return None,
            Choice::ClientSecret => (None, self.certificate.as_ref()),
            Choice::ClientCertificate => (self.secret.as_ref(), None),
            _ => (self.secret.as_ref(), self.certificate.as_ref()),
        };
        match (secret, certificate) {
            (Some(_), _) => Some("a client secret"),
            (None, Some(_)) => Some("a client certificate"),
            (None, None) => None,
        }
    }

    fn by_secret(&self, access: &Access<'_>, authority: &Authority) -> Result<Credential, Invalid> {
        let secret = self.secret.clone().unwrap_or_else(|| Secret::new(""));
        self.application(access, authority, Proof::Secret(secret))
    }

    fn by_certificate(
        &self,
        access: &Access<'_>,
        settings: &Settings,
        authority: &Authority,
    ) -> Result<Credential, Invalid> {
        let tls = access.tls(&TlsOptions {
            client_cert: access.resolved().client_cert.clone(),
            client_key: access.resolved().client_key.clone(),
            ..TlsOptions::default()
        })?;
        let certificate =
            Certificate::new(tls, settings.send_certificate_chain).ok_or_else(|| {
                access
                    .invalid(Field::ClientKey, "`clientKey`: Entra takes RSA keys only")
                    .hint("make the certificate anew with an RSA key of 2048 bits or more")
            })?;
        self.application(access, authority, Proof::Certificate(Box::new(certificate)))
    }

    fn application(
        &self,
        access: &Access<'_>,
        authority: &Authority,
        proof: Proof,
    ) -> Result<Credential, Invalid> {
        let missing = |name: &str, hint: &'static str| {
            let message = format!("there is no `{name}`");
            access.invalid(Field::Properties, message).hint(hint)
        };
        let tenant = self.tenant.as_deref().ok_or_else(|| {
            missing(
                "tenantID",
                "the directory (tenant) ID of the app registration, or one of its domains",
            )
        })?;
        let client_id = self.client_id.clone().ok_or_else(|| {
            missing(
                "clientID",
                "the application (client) ID of the app registration; `username` means the same",
            )
        })?;
        Ok(Credential::Application(Application {
            token_url: authority.token_url(access, tenant)?,
            client_id,
            proof,
        }))
    }
}

/// What the machine that we run on has.
struct Surroundings<'a> {
    access: &'a Access<'a>,
    settings: &'a Settings,
}

/// What a link of the chain has, or why it has nothing.
type Link<T> = Result<Result<T, String>, Invalid>;

impl Surroundings<'_> {
    fn invalid(&self, message: impl Into<String>) -> Invalid {
        self.access.invalid(Field::Type, message)
    }

    fn variable(&self, name: &str) -> Result<Option<String>, Invalid> {
        let value = self.access.variable(Field::Type, name)?;
        Ok(value.filter(|value| !value.trim().is_empty()))
    }

    /// The default chain of Azure's own clients, as far as it is of use without a person.
    fn chain(&self, given: &Given, authority: &Authority) -> Result<Credential, Invalid> {
        let mut passed_over = Vec::new();
        match self.environment(given, authority)? {
            Ok(credential) => return Ok(credential),
            Err(why) => passed_over.push(format!("environment: {why}")),
        }
        match self.workload_identity(given, authority)? {
            Ok(credential) => return Ok(credential),
            Err(why) => passed_over.push(format!("workload identity: {why}")),
        }
        let client_id = match &given.client_id {
            Some(id) => Some(id.clone()),
            None => self.variable("AZURE_CLIENT_ID")?.map(Secret::new),
        };
        let links = passed_over.join("; ");
        self.managed_identity(client_id, passed_over)?
            .map_err(|why| {
                self.invalid(format!(
                    "no credential was found: {links}; managed identity: {why}"
                ))
                .hint("give `tenantID`, `clientID` and a `secretRef` with the client secret")
            })
    }

    /// `tenantID` and `clientID`, each from the definition or else the environment.
    fn application_ids(&self, given: &Given) -> Link<Given> {
        let mut ids = [
            (given.tenant.clone(), "AZURE_TENANT_ID"),
            (
                (given.client_id.as_ref()).map(|id| id.expose().to_owned()),
                "AZURE_CLIENT_ID",
            ),
        ];
        for (id, name) in &mut ids {
            if id.is_none() {
                *id = self.variable(name)?.map(|value| value.trim().to_owned());
            }
            if id.is_none() {
                return Ok(Err(format!("`{name}` is not set")));
            }
        }
        let [(tenant, _), (client_id, _)] = ids;
        Ok(Ok(Given {
            tenant,
            client_id: client_id.map(Secret::new),
            secret: None,
            certificate: None,
        }))
    }

    fn environment(&self, given: &Given, authority: &Authority) -> Link<Credential> {
        const PATH: &str = "AZURE_CLIENT_CERTIFICATE_PATH";
        let ids = match self.application_ids(given)? {
            Ok(ids) => ids,
            Err(why) => return Ok(Err(why)),
        };
        let proof = if let Some(secret) = self.variable("AZURE_CLIENT_SECRET")? {
            Proof::Secret(Secret::new(secret).trimmed())
        } else if let Some(path) = self.variable(PATH)? {
            let pem = self.access.file(Field::Type, path.trim())?;
            let options = TlsOptions {
                client_cert: Some(pem),
                ..TlsOptions::default()
            };
            let tls = Tls::new(&options).map_err(|mistake| {
                let message = match mistake.part {
                    TlsPart::ClientKey => format!("`{PATH}`: the key: {}", mistake.message),
                    _ => format!("`{PATH}`: {}", mistake.message),
                };
                Invalid {
                    hint: mistake.hint,
                    ..self.invalid(message)
                }
            })?;
            let certificate = Certificate::new(tls, self.settings.send_certificate_chain)
                .ok_or_else(|| self.invalid(format!("`{PATH}`: Entra takes RSA keys only")))?;
            Proof::Certificate(Box::new(certificate))
        } else {
            return Ok(Err(format!(
                "neither `AZURE_CLIENT_SECRET` nor `{PATH}` is set"
            )));
        };
        ids.application(self.access, authority, proof).map(Ok)
    }

    fn workload_identity(&self, given: &Given, authority: &Authority) -> Link<Credential> {
        const NAME: &str = "AZURE_FEDERATED_TOKEN_FILE";
        let path = match &self.settings.federated_token_file {
            Some(path) => Some(path.clone()),
            None => self.variable(NAME)?,
        };
        let Some(path) = path else {
            return Ok(Err(format!("`{NAME}` is not set")));
        };
        let ids = match self.application_ids(given)? {
            Ok(ids) => ids,
            Err(why) => return Ok(Err(why)),
        };
        let token = self.access.file(Field::Properties, path.trim())?.trimmed();
        if token.is_empty() {
            return Err(self.invalid("the file of the federated token is empty"));
        }
        ids.application(self.access, authority, Proof::Federated(token))
            .map(Ok)
    }

    fn managed_identity(
        &self,
        client_id: Option<Secret>,
        passed_over: Vec<String>,
    ) -> Link<Credential> {
        let not_spoken = |whose: &str| {
            Ok(Err(format!(
                "the identity that this machine has is {whose}, which is not spoken here"
            )))
        };
        let identity = |name: &str, text: &str, path: &[&str], version: &str| {
            let (_, url) =
                target(text).map_err(|error| self.invalid(format!("bad `{name}`: {error}")))?;
            below(&url, path, &[("api-version", version)])
                .map_err(|error| self.invalid(format!("bad `{name}`: {error}")))
        };
        let (url, header, secret) = match self.variable("IDENTITY_ENDPOINT")? {
            Some(endpoint) => {
                if self.variable("IDENTITY_SERVER_THUMBPRINT")?.is_some() {
                    return not_spoken("Service Fabric's");
                }
                let Some(secret) = self.variable("IDENTITY_HEADER")?.map(Secret::new) else {
                    return match self.variable("IMDS_ENDPOINT")? {
                        Some(_) => not_spoken("Azure Arc's"),
                        None => Ok(Err(
                            "`IDENTITY_ENDPOINT` is set and `IDENTITY_HEADER` is not".to_owned(),
                        )),
                    };
                };
                let name = HeaderName::from_static("x-identity-header");
                let mut value = HeaderValue::from_str(secret.expose()).map_err(|_| {
                    self.invalid("`IDENTITY_HEADER` has characters that no header may have")
                })?;
                value.set_sensitive(true);
                let url = identity("IDENTITY_ENDPOINT", &endpoint, &[], "2019-08-01")?;
                (url, (name, value), Some(secret))
            }
            None if self.variable("MSI_ENDPOINT")?.is_some() => {
                return not_spoken("Cloud Shell's or Machine Learning's");
            }
            None => {
                const HOST: &str = "AZURE_POD_IDENTITY_AUTHORITY_HOST";
                let host = self.variable(HOST)?;
                let host = host.as_deref().unwrap_or(IMDS);
                let path = ["metadata", "identity", "oauth2", "token"];
                let url = identity(HOST, host, &path, "2018-02-01")?;
                let name = HeaderName::from_static("metadata");
                (url, (name, HeaderValue::from_static("true")), None)
            }
        };
        Ok(Ok(Credential::Identity(Identity {
            url,
            header,
            secret,
            client_id,
            passed_over,
        })))
    }
}

impl Certificate {
    /// Nothing if its key is no RSA key.
    fn new(tls: Tls, with_chain: bool) -> Option<Self> {
        if !tls.signs_ps256() {
            return None;
        }
        let chain: Vec<&[u8]> = tls.client_certificates().collect();
        let thumbprint = digest(&SHA256, chain.first()?);
        let mut header = json!({
            "alg": "PS256",
            "typ": "JWT",
            "x5t#S256": BASE64_URL_SAFE_NO_PAD.encode(thumbprint),
        });
        if with_chain {
            let chain = chain.iter().map(|der| BASE64_STANDARD.encode(der));
            header["x5c"] = chain.collect();
        }
        Some(Self {
            expiry: tls.client_certificate_expiry(),
            header,
            tls,
        })
    }

    /// What proves that we have the key, for some minutes.
    fn assertion(&self, client_id: &Secret, audience: &Url) -> Result<Secret, Cause> {
        let failed = || Cause::new(Reason::Internal, "the assertion cannot be signed");
        let mut unique = [0; 16];
        aws_lc_rs::rand::fill(&mut unique).map_err(|_| failed())?;
        let now = Timestamp::now().as_second();
        let claims = json!({
            "aud": audience.as_str(),
            "iss": client_id.expose(),
            "sub": client_id.expose(),
            "jti": BASE64_URL_SAFE_NO_PAD.encode(unique),
            "iat": now,
            "nbf": now,
            "exp": now + ASSERTED,
        });
        jwt::signed(&self.header, &claims, |message| {
            self.tls.sign_ps256(message).ok_or_else(failed)
        })
    }
}

impl Application {
    /// What is sent to ask for a token, and the assertion in it that was made for this once.
    pub(super) fn form(&self, resource: &str) -> Result<(String, Option<Secret>), Cause> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        form.append_pair("client_id", self.client_id.expose());
        form.append_pair("scope", &format!("{resource}/.default"));
        let mut made = None;
        let assertion = match &self.proof {
            Proof::Secret(secret) => {
                form.append_pair("client_secret", secret.expose());
                None
            }
            Proof::Certificate(certificate) => {
                Some(&*made.insert(certificate.assertion(&self.client_id, &self.token_url)?))
            }
            Proof::Federated(token) => Some(token),
        };
        if let Some(assertion) = assertion {
            form.append_pair("client_assertion_type", ASSERTION_TYPE);
            form.append_pair("client_assertion", assertion.expose());
        }
        Ok((form.finish(), made))
    }

    /// When the credential itself ends, where that is known. A federated token ends within the hour,
    /// and somebody renews it: its end says nothing.
    pub(super) fn expiry(&self) -> Option<Timestamp> {
        match &self.proof {
            Proof::Certificate(certificate) => certificate.expiry,
            Proof::Secret(_) | Proof::Federated(_) => None,
        }
    }

    /// More about a refusal, from what we know of the credential.
    pub(super) fn explain(&self, cause: Cause, response: &Response) -> Cause {
        match (&self.proof, cause.code.as_deref()) {
            (Proof::Secret(secret), Some("AADSTS7000215")) if is_guid(secret.expose()) => cause
                .hint("that is the client secret's ID: give its value; Entra shows that only once, so make a new one if it is lost"),
            (Proof::Federated(token), Some("AADSTS700024" | "AADSTS500133")) => {
                match expiry_of(token.expose()).filter(|expiry| *expiry < Timestamp::now()) {
                    Some(expiry) => cause.hint(format!(
                        "the federated token ended {expiry}: who should renew its file does not"
                    )),
                    None => wrong_clock(cause, response),
                }
            }
            (_, Some("AADSTS700024" | "AADSTS500133")) => wrong_clock(cause, response),
            (Proof::Certificate(certificate), Some("AADSTS700027")) => {
                match certificate.expiry.filter(|expiry| *expiry < Timestamp::now()) {
                    Some(expiry) => cause.hint(format!(
                        "the certificate ended {expiry}: make a new one, upload it to the application, and put it here"
                    )),
                    None => cause,
                }
            }
            _ => cause,
        }
    }
}

/// By how much our clock is wrong, if the server's says so.
fn wrong_clock(cause: Cause, response: &Response) -> Cause {
    let Some(theirs) = response.date() else {
        return cause;
    };
    let ahead = Timestamp::now().as_second() - theirs.as_second();
    match ahead {
        -60..=60 => cause,
        _ => {
            let which = if ahead > 0 { "ahead of" } else { "behind" };
            let minutes = ahead.unsigned_abs() / 60;
            cause.hint(format!(
                "the clock of this machine is {minutes} minutes {which} the server's: set it right"
            ))
        }
    }
}

impl Identity {
    pub(super) fn request(&self, resource: &str) -> Result<Request, &'static str> {
        let mut query = vec![("resource", resource)];
        query.extend(self.client_id.as_ref().map(|id| ("client_id", id.expose())));
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let (name, value) = &self.header;
        headers.insert(name, value.clone());
        Ok(Request::get(below(&self.url, &[], &query)?, headers))
    }

    /// Why the metadata service gives no token.
    pub(super) fn refusal(&self, response: &Response) -> Cause {
        #[derive(Default, serde::Deserialize)]
        #[serde(default)]
        struct OfAppService {
            #[serde(alias = "Message")]
            message: String,
        }
        let cause = aadsts::refusal(response);
        if cause
            .code
            .as_deref()
            .is_some_and(|code| code.starts_with("AADSTS"))
        {
            return cause;
        }
        let endpoint = endpoint_of(&self.url);
        let whose = match &self.client_id {
            Some(_) => "an identity with that `clientID`",
            None => "an identity",
        };
        let assign =
            format!("assign {whose} to this machine or app, or see what else `clientID` should be");
        match response.status {
            // Not ready yet, or just being updated: its own documentation says to come back.
            StatusCode::GONE | StatusCode::NOT_FOUND => Cause::new(
                Reason::Unavailable,
                format!("the metadata service `{endpoint}` has no tokens at the moment"),
            )
            .code(response.status.as_str()),
            status if status.is_server_error() => Cause {
                reason: Reason::Unavailable,
                ..cause
            },
            StatusCode::BAD_REQUEST => {
                let words = response.json::<OfAppService>().unwrap_or_default().message;
                let message = match words.as_str() {
                    "" => cause.message,
                    words => format!("no token: {}", aadsts::sentence(words)),
                };
                Cause {
                    reason: Reason::Auth,
                    message,
                    ..cause
                }
                .hint(assign)
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if self.secret.is_some() => cause
                .hint("`IDENTITY_HEADER` is not (any more) what the platform gave this process"),
            _ => cause,
        }
    }
}
