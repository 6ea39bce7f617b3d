//! `azure`: Entra ID gives an application or a managed identity a token for a resource, and, where a
//! subscription is named, Azure Resource Manager lets it be read with one.
//!
//! Proves that the credential is right today and that the resource is known to the tenant. Without a
//! subscription it says nothing about what the token allows; Entra does not know that either.
//!
//! Every attempt asks for a token anew. A token kept from yesterday would hide that the secret ended
//! today. Its own end is not reported as the credential's, since it is always an hour away; the end
//! of a certificate is.
//!
//! Asking for the token gives `resolve`, `connect`, `tls` and `auth`. The subscription is read from
//! another host, so that its part of the first three adds up with them; its answer is `request`. The
//! TLS facts are then those of that host.
//!
//! Not spoken: the identities of Azure Arc, Service Fabric, Cloud Shell and Machine Learning, and
//! logins that belong to a person (the Azure CLI's, device code, a password). AD FS is another server.
//! PKCS#12 is not read: no crate that does is both small and cared for.

mod aadsts;
mod credential;

use std::time::Duration;

use conncheck_config::{Field, Secret, SecretKey};
use http::header::{self, HeaderMap, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;

use crate::attempt::{Address, Attempt};
use crate::cause::Cause;
use crate::http::{Client, Request, Response, below, endpoint_of};
use crate::login::{CLIENT_ID, CLIENT_SECRET, granted};
use crate::outcome::{Failure, Phase, Reason};
use crate::probe::{Access, Invalid, ProbeType};
use crate::tls::TlsOptions;

use self::credential::{Application, Authority, Credential, Identity, TENANT_ID};

/// How long a metadata service that may not be there is waited for, as Azure's own clients do: outside
/// of Azure what is sent to it gets lost in silence.
const IS_ANYBODY_THERE: Duration = Duration::from_secs(1);

/// `spec.properties` of an Azure connection.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Settings {
    /// The directory: its ID, or one of its domains.
    #[serde(rename = "tenantID")]
    tenant_id: Option<String>,
    /// The application; of a managed identity the client ID where a machine has several. The same as
    /// `username`.
    #[serde(rename = "clientID")]
    client_id: Option<Secret>,
    /// What the token is for: `management`, or the URI of an API (`https://vault.azure.net`).
    resource: Resource,
    /// A subscription that must be readable.
    #[serde(rename = "subscriptionID")]
    subscription_id: Option<String>,
    /// How we prove who we are. `auto` takes what the definition holds, and without anything the first
    /// of `environment`, `workloadIdentity` and `managedIdentity` that this machine has.
    credential: Choice,
    /// The file with the token that another identity provider renews for us, in place of
    /// `AZURE_FEDERATED_TOKEN_FILE`.
    federated_token_file: Option<String>,
    /// Whether to send the certificates that lead from ours to its authority: for applications that
    /// trust a subject and an issuer, and not one certificate.
    send_certificate_chain: bool,
    /// Where Azure Resource Manager is, in place of the one of the authority's cloud.
    management_endpoint: Option<String>,
    /// Accept any certificate.
    insecure_skip_verify: Option<bool>,
    /// The name that the authority's certificate must be for, in place of its host.
    server_name: Option<String>,
}

/// `spec.properties.credential`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Choice {
    #[default]
    Auto,
    ClientSecret,
    ClientCertificate,
    WorkloadIdentity,
    ManagedIdentity,
    Environment,
}

/// What a token is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(from = "String")]
enum Resource {
    /// Azure Resource Manager, by the name that it has in the authority's cloud.
    #[default]
    Management,
    Uri(String),
}

impl From<String> for Resource {
    fn from(text: String) -> Self {
        let uri = text.trim();
        // As the scope of OAuth 2.0 writes it.
        let uri = uri.strip_suffix("/.default").unwrap_or(uri);
        let uri = uri.strip_suffix('/').unwrap_or(uri);
        match uri {
            "management" => Self::Management,
            uri => Self::Uri(uri.to_owned()),
        }
    }
}

pub(crate) struct Azure {
    client: Client,
    /// Who gives us tokens.
    home: Url,
    /// Nothing while a secret is missing that would tell.
    credential: Option<Credential>,
    resource: String,
    subscription: Option<Subscription>,
    secrets: Vec<Secret>,
}

/// A subscription that must be readable.
struct Subscription {
    id: String,
    url: Url,
    /// What a token must be for to read it.
    resource: String,
}

impl ProbeType for Azure {
    type Settings = Settings;

    const FURTHER_REASONS: &'static [Reason] =
        &[Reason::Permission, Reason::NotFound, Reason::HttpStatus];

    const SECRET_KEYS: &'static [SecretKey] = &[CLIENT_ID, CLIENT_SECRET, TENANT_ID];

    fn new(access: Access<'_>, settings: Settings) -> Result<Self, Invalid> {
        let options = TlsOptions {
            client_cert: None,
            client_key: None,
            ..access.tls_options(settings.insecure_skip_verify, settings.server_name.clone())
        };
        let authority = Authority::read(&access, &settings)?;
        let (credential, authority) = match access.resolved().is_partial {
            // What a secret brings is judged when it is there.
            true => (None, authority),
            false => Credential::read(&access, &settings, authority)?,
        };
        let cloud = authority.cloud();
        let subscription = match &settings.subscription_id {
            None => None,
            Some(id) => {
                let endpoint = settings.management_endpoint.as_deref();
                let endpoint = endpoint.unwrap_or(cloud.management);
                Some(Subscription::new(&access, id, endpoint, cloud.management)?)
            }
        };
        let resource = match settings.resource {
            Resource::Management => cloud.management.to_owned(),
            Resource::Uri(uri) => uri,
        };
        let between = |c: char| c == ',' || c.is_whitespace();
        if resource
            .split(between)
            .filter(|one| !one.is_empty())
            .count()
            > 1
        {
            let message = "`resource` names several, and a token is for one";
            return Err(access
                .invalid(Field::Properties, message)
                .hint("keep one of them; each other one is a `Connection` of its own"));
        }
        if resource.is_empty() || resource.contains(between) {
            return Err(access
                .invalid(Field::Properties, "`resource` is not the URI of an API")
                .hint(
                    "for instance `https://vault.azure.net`, or `api://` and an application's ID",
                ));
        }
        let home = match &credential {
            Some(Credential::Identity(identity)) => identity.url.clone(),
            _ => authority.url.clone(),
        };
        let secrets = credential.as_ref().map(Credential::secrets);
        Ok(Self {
            client: Client::new(&access, &home, options)?,
            home,
            credential,
            resource,
            subscription,
            secrets: secrets.unwrap_or_default(),
        })
    }

    fn endpoint(&self) -> String {
        endpoint_of(&self.home)
    }

    fn secrets(&self) -> &[Secret] {
        &self.secrets
    }

    async fn probe(&self, attempt: &mut Attempt) -> Result<(), Failure> {
        let mut token = self.token(attempt, &self.resource).await?;
        if let Some(subscription) = &self.subscription {
            if subscription.resource != self.resource {
                token = self.token(attempt, &subscription.resource).await?;
            }
            self.read(attempt, subscription, token).await?;
        }
        Ok(())
    }
}

impl Azure {
    /// A token for `resource`, as it is sent.
    async fn token(&self, attempt: &mut Attempt, resource: &str) -> Result<HeaderValue, Failure> {
        match &self.credential {
            None => {
                let cause = Cause::new(Reason::Internal, "it is not known who we are");
                Err(cause.in_phase(Phase::Auth))
            }
            Some(Credential::Application(application)) => {
                self.as_application(attempt, application, resource).await
            }
            Some(Credential::Identity(identity)) => {
                self.as_identity(attempt, identity, resource).await
            }
        }
    }

    async fn as_application(
        &self,
        attempt: &mut Attempt,
        application: &Application,
        resource: &str,
    ) -> Result<HeaderValue, Failure> {
        if let Some(expiry) = application.expiry() {
            attempt.credential_expires(expiry);
        }
        let (form, assertion) = application
            .form(resource)
            .map_err(|cause| cause.in_phase(Phase::Auth))?;
        if let Some(assertion) = &assertion {
            attempt.keeps_secret(assertion);
        }
        let request = Request::form(application.token_url.clone(), form);
        let response = self.client.send(attempt, Phase::Auth, &request).await?;
        take_token(attempt, &response, |response| {
            application.explain(aadsts::refusal(response), response)
        })
    }

    async fn as_identity(
        &self,
        attempt: &mut Attempt,
        identity: &Identity,
        resource: &str,
    ) -> Result<HeaderValue, Failure> {
        if !identity.passed_over.is_empty() {
            is_anybody_there(attempt, identity).await?;
        }
        let request = identity
            .request(resource)
            .map_err(|error| Cause::new(Reason::Internal, error).in_phase(Phase::Auth))?;
        let response = self.client.send(attempt, Phase::Auth, &request).await?;
        take_token(attempt, &response, |response| identity.refusal(response))
    }

    async fn read(
        &self,
        attempt: &mut Attempt,
        subscription: &Subscription,
        token: HeaderValue,
    ) -> Result<(), Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(header::AUTHORIZATION, token);
        let request = Request::get(subscription.url.clone(), headers);
        let response = self.client.send(attempt, Phase::Request, &request).await?;
        attempt.http_status(response.status.as_u16());
        response.whole()?;
        subscription
            .judge(&response)
            .map_err(|cause| cause.in_phase(Phase::Request))
    }
}

/// Where nothing else is left, a machine outside of Azure must not wait for the whole timeout.
async fn is_anybody_there(attempt: &mut Attempt, identity: &Identity) -> Result<(), Failure> {
    let address = Address::Tcp {
        host: (identity.url.host_str().unwrap_or_default())
            .trim_matches(['[', ']'])
            .to_owned(),
        port: identity.url.port_or_known_default().unwrap_or(80),
    };
    attempt.limit(Some(IS_ANYBODY_THERE));
    let res = attempt.dial(&address).await;
    attempt.limit(None);
    res.map(drop).map_err(|failure| Failure {
        message: format!(
            "no credential was found: {}; managed identity: `{address}`: {}",
            identity.passed_over.join("; "),
            failure.message.trim_start_matches(&format!("`{address}`: ")),
        ),
        hint: Some(
            "give `tenantID`, `clientID` and a `secretRef` with the client secret; only machines in Azure have a managed identity"
                .into(),
        ),
        ..failure
    })
}

/// The token of an answer, or why there is none.
fn take_token(
    attempt: &mut Attempt,
    response: &Response,
    refusal: impl FnOnce(&Response) -> Cause,
) -> Result<HeaderValue, Failure> {
    attempt.http_status(response.status.as_u16());
    response.whole()?;
    let res = match response.status.is_success() {
        true => granted(response),
        false => Err(refusal(response)),
    };
    let (value, token) = res.map_err(|cause| cause.in_phase(Phase::Auth))?;
    attempt.keeps_secret(&token);
    Ok(value)
}

impl Subscription {
    fn new(access: &Access<'_>, id: &str, endpoint: &str, resource: &str) -> Result<Self, Invalid> {
        let invalid = |message: String| access.invalid(Field::Properties, message);
        let id = id.trim();
        if !access.resolved().is_partial && !is_guid(id) {
            return Err(invalid("`subscriptionID` is not the ID of a subscription".to_owned())
                .hint("`az account list` tells it; it is no name but like `00000000-0000-0000-0000-000000000000`"));
        }
        let (_, endpoint) = crate::http::target(endpoint)
            .map_err(|error| invalid(format!("bad `managementEndpoint`: {error}")))?;
        let url = below(
            &endpoint,
            &["subscriptions", id],
            &[("api-version", "2022-12-01")],
        )
        .map_err(|error| invalid(format!("`subscriptionID`: {error}")))?;
        Ok(Self {
            id: id.to_owned(),
            url,
            resource: resource.to_owned(),
        })
    }

    fn judge(&self, response: &Response) -> Result<(), Cause> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Found {
            subscription_id: String,
        }
        #[derive(Deserialize)]
        struct Refused {
            error: Words,
        }
        #[derive(Deserialize)]
        struct Words {
            code: String,
            #[serde(default)]
            message: String,
        }
        if response.status.is_success() {
            let found: Found = response.json()?;
            return match found.subscription_id.eq_ignore_ascii_case(&self.id) {
                true => Ok(()),
                false => Err(Cause::protocol(
                    "expected the subscription that was asked for, got another one",
                )),
            };
        }
        let unexpected = response.unexpected("the subscription");
        let Ok(Refused { error }) = response.json::<Refused>() else {
            return Err(unexpected
                .hint("is it Azure Resource Manager? `managementEndpoint` says where that is"));
        };
        let (reason, hint) = match error.code.as_str() {
            "AuthorizationFailed" => (
                Reason::Permission,
                "give the application the role `Reader` on the subscription; that takes effect after some minutes",
            ),
            "SubscriptionNotFound" => (
                Reason::NotFound,
                "is `subscriptionID` right, and the application of the same tenant, with a role on it?",
            ),
            "InvalidSubscriptionId" => (Reason::NotFound, "is `subscriptionID` right?"),
            "InvalidAuthenticationTokenTenant" => (
                Reason::Auth,
                "the subscription belongs to another tenant: set that one's `tenantID`, and have the application there",
            ),
            "InvalidAuthenticationTokenAudience" => (
                Reason::Auth,
                "the token is for another cloud: do `url` (the authority) and `managementEndpoint` belong together?",
            ),
            _ => (unexpected.reason, ""),
        };
        let message = format!("{}: {}", error.code, aadsts::sentence(&error.message));
        let cause = Cause {
            reason,
            message,
            ..unexpected
        }
        .code(error.code);
        Err(match hint {
            "" => cause,
            hint => cause.hint(hint),
        })
    }
}

/// Whether it looks like `00000000-0000-0000-0000-000000000000`.
fn is_guid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups
            .iter()
            .all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::probe::{Files, Probe};
    use crate::testing::{
        LONG, Peer, answer, build, build_on, build_partly, build_remote, ok, quoted, run,
        with_access,
    };

    const APP: &str = "username: app\npassword: s3cret\nproperties: {tenantID: a.test}\n";

    /// A machine with these variables and these files.
    struct Machine<'a>(&'a [(&'a str, &'a str)]);

    impl Files for Machine<'_> {
        fn read(&self, path: &str) -> Result<Secret, String> {
            let text = self.variable(path);
            text.map(Secret::new)
                .ok_or_else(|| format!("`{path}` does not exist"))
        }

        fn variable(&self, name: &str) -> Option<String> {
            let found = self.0.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        }
    }

    #[track_caller]
    fn said(res: Result<Arc<dyn Probe>, Vec<Invalid>>) -> String {
        let Err(invalid) = res else {
            panic!("nothing is wrong");
        };
        invalid[0].message.clone()
    }

    #[test]
    fn the_cloud_follows_from_the_authority() {
        for (url, endpoint, management) in [
            ("", "https://login.microsoftonline.com:443", "azure.com"),
            (
                "url: login.microsoftonline.us\n",
                "https://login.microsoftonline.us:443",
                "usgovcloudapi.net",
            ),
            (
                "url: https://login.partner.microsoftonline.cn/\n",
                "https://login.partner.microsoftonline.cn:443",
                "chinacloudapi.cn",
            ),
            (
                "url: https://login.test:8443\n",
                "https://login.test:8443",
                "azure.com",
            ),
            (
                "url: https://login.test/a.test/v2.0\n",
                "https://login.test:443",
                "azure.com",
            ),
        ] {
            let spec = format!("{url}{APP}");
            let probe = build("azure", &spec, &[]).unwrap();
            assert_eq!(probe.endpoint(), endpoint);
            let cloud = with_access("azure", &spec, |access| {
                let authority = Authority::read(access, &Settings::default()).unwrap();
                authority.cloud().management
            });
            assert_eq!(cloud, format!("https://management.{management}"));
        }
    }

    #[test]
    fn a_resource_is_written_in_several_ways() {
        for (text, expected) in [
            ("management", Resource::Management),
            (
                "https://vault.azure.net",
                Resource::Uri("https://vault.azure.net".into()),
            ),
            (
                "https://vault.azure.net/",
                Resource::Uri("https://vault.azure.net".into()),
            ),
            (
                " https://vault.azure.net/.default ",
                Resource::Uri("https://vault.azure.net".into()),
            ),
            ("api://app", Resource::Uri("api://app".into())),
        ] {
            assert_eq!(Resource::from(text.to_owned()), expected);
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (spec, message) in [
            (
                "url: ftp://h.test",
                "bad `url`: this scheme is not HTTP: use `http://` or `https://`",
            ),
            (
                "url: https://h.test/a/b",
                "bad `url`: an authority has no path but a tenant's",
            ),
            (
                "url: https://h.test?x=1",
                "bad `url`: an authority has no query (`?`)",
            ),
            (
                "url: https://h.test/a\nproperties: {tenantID: b}",
                "`tenantID` and the path of `url` name two tenants",
            ),
            (
                "password: x\nproperties: {clientID: a}",
                "there is no `tenantID`",
            ),
            (
                "password: x\nproperties: {tenantID: a}",
                "there is no `clientID`",
            ),
            (
                "username: a\npassword: x\nproperties: {tenantID: a, clientID: b}",
                "`clientID` and `username` are two applications",
            ),
            (
                "username: a\npassword: x\nproperties: {tenantID: common}",
                "`tenantID`: `common` is for people",
            ),
            (
                "username: a\npassword: x\nproperties: {tenantID: adfs}",
                "`tenantID`: AD FS is not Entra ID, and not spoken",
            ),
            (
                "username: a\npassword: x\nproperties: {tenantID: a/b}",
                "`tenantID` is neither an ID nor a domain",
            ),
            (
                "properties: {credential: clientSecret}",
                "`credential: clientSecret` without one",
            ),
            (
                "properties: {credential: clientCertificate}",
                "`credential: clientCertificate` without one",
            ),
            (
                "password: x\nproperties: {credential: managedIdentity}",
                "a client secret and `credential: managedIdentity`",
            ),
            (
                "properties: {credential: environment}",
                "`credential: environment`, and `AZURE_TENANT_ID` is not set",
            ),
            (
                "properties: {credential: environment, tenantID: a, clientID: b}",
                "`credential: environment`, and neither `AZURE_CLIENT_SECRET` nor `AZURE_CLIENT_CERTIFICATE_PATH` is set",
            ),
            (
                "properties: {credential: workloadIdentity}",
                "`credential: workloadIdentity`, and `AZURE_FEDERATED_TOKEN_FILE` is not set",
            ),
            (
                "properties: {credential: workloadIdentity, federatedTokenFile: /t, tenantID: a, clientID: b}",
                "`/t` does not exist",
            ),
            (
                "username: a\npassword: x\nproperties: {tenantID: a, resource: ''}",
                "`resource` is not the URI of an API",
            ),
            (
                "username: a\npassword: x\nproperties: {tenantID: a, resource: 'https://a/.default offline_access'}",
                "`resource` names several, and a token is for one",
            ),
            (
                "username: a\npassword: x\nproperties: {tenantID: a, scopes: 'https://a/.default,https://b/.default'}",
                "`resource` names several, and a token is for one",
            ),
            (
                "username: a\npassword: x\nproperties: {tenantID: a, subscriptionID: shop}",
                "`subscriptionID` is not the ID of a subscription",
            ),
            (
                "username: a\npassword: x\nproperties: {tenantID: a, subscriptionID: 00000000-0000-0000-0000-000000000000, managementEndpoint: nowhere}",
                "bad `managementEndpoint`: it has no scheme (`redis://`, `https://` …)",
            ),
        ] {
            assert_eq!(said(build("azure", spec, &[])), message, "{spec}");
        }
    }

    #[test]
    fn identities_that_are_not_spoken_are_named() {
        let identity = |variables: &[(&str, &str)]| {
            let spec = "properties: {credential: managedIdentity}";
            said(build_on(&Machine(variables), "azure", spec))
        };
        let endpoint = ("IDENTITY_ENDPOINT", "http://127.0.0.1:1/token");
        for (more, whose) in [
            (&[("IMDS_ENDPOINT", "x")][..], "Azure Arc's"),
            (
                &[
                    ("IDENTITY_HEADER", "x"),
                    ("IDENTITY_SERVER_THUMBPRINT", "x"),
                ],
                "Service Fabric's",
            ),
        ] {
            let message = identity(&[&[endpoint], more].concat());
            assert!(message.contains(whose), "{message}");
        }
        assert!(identity(&[endpoint]).contains("`IDENTITY_HEADER` is not"));
        assert!(identity(&[("MSI_ENDPOINT", "x")]).contains("Cloud Shell's"));
        let bad = identity(&[("AZURE_POD_IDENTITY_AUTHORITY_HOST", "nowhere")]);
        assert!(
            bad.starts_with("bad `AZURE_POD_IDENTITY_AUTHORITY_HOST`"),
            "{bad}"
        );
        // The whole chain, where the last link is such a one.
        let variables = [endpoint, ("IMDS_ENDPOINT", "x")];
        let message = said(build_on(&Machine(&variables), "azure", "properties: {}"));
        assert_eq!(
            message,
            "no credential was found: environment: `AZURE_TENANT_ID` is not set; workload identity: \
             `AZURE_FEDERATED_TOKEN_FILE` is not set; managed identity: the identity that this machine has is \
             Azure Arc's, which is not spoken here"
        );
    }

    #[test]
    fn without_any_credential_the_metadata_service_is_what_is_left() {
        for spec in [
            "properties: {}",
            "properties: {credential: managedIdentity}",
        ] {
            let probe = build("azure", spec, &[]).unwrap();
            assert_eq!(probe.endpoint(), "http://169.254.169.254:80");
        }
    }

    #[test]
    fn our_identity_is_not_lent_to_a_definition_from_elsewhere() {
        for credential in ["auto", "environment", "workloadIdentity", "managedIdentity"] {
            let spec = format!("properties: {{credential: {credential}}}");
            let message = said(build_remote("azure", &spec, &[]));
            assert!(
                message.contains("our own identity is not lent"),
                "{message}"
            );
        }
        assert!(build_remote("azure", APP, &[]).is_ok());
    }

    #[test]
    fn without_its_secret_a_definition_is_judged_as_far_as_it_is_known() {
        let keyed = "secretRef: {name: elsewhere, key: k}\n";
        let probe = build_partly("azure", keyed).unwrap();
        assert_eq!(probe.endpoint(), "https://login.microsoftonline.com:443");
        let spec = format!("{keyed}url: https://h.test/a/b");
        assert!(build_partly("azure", &spec).is_err());
    }

    #[test]
    fn a_certificate_must_have_an_rsa_key_and_be_pem() {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        let pem = params.self_signed(&key).unwrap().pem() + &key.serialize_pem();
        let spec = |pem: &str| {
            let pem = quoted(pem);
            format!("username: a\nclientCert: {pem}\nproperties: {{tenantID: a}}")
        };
        let message = said(build("azure", &spec(&pem), &[]));
        assert_eq!(message, "`clientKey`: Entra takes RSA keys only");
        let pfx = "MIIKkQIBAzCCCkcGCSqGSIb3DQEHAaCCCjgEggo0MIIKMDCCBOcGCSqGSIb3DQEH";
        let message = said(build("azure", &spec(pfx), &[]));
        assert_eq!(
            message,
            "`clientCert`: it is PKCS#12 (`.pfx`, `.p12`), and PEM text is wanted"
        );
        let environment = [
            ("AZURE_TENANT_ID", "a"),
            ("AZURE_CLIENT_ID", "b"),
            ("AZURE_CLIENT_CERTIFICATE_PATH", "/app.pem"),
            ("/app.pem", "nonsense"),
        ];
        let message = said(build_on(&Machine(&environment), "azure", "properties: {}"));
        assert_eq!(
            message,
            "`AZURE_CLIENT_CERTIFICATE_PATH`: a client certificate without its key"
        );
    }

    #[tokio::test]
    async fn what_the_environment_holds_is_not_printed() {
        let body = |text: &str| {
            format!(
                "{{\"error\": \"invalid_client\", \"error_description\": \"AADSTS1: you sent {text}\"}}"
            )
        };
        for (text, expected) in [
            ("s3cr&t", "AADSTS1: you sent [redacted]"),
            ("s3cr%26t", "AADSTS1: you sent [redacted]"),
        ] {
            let body = body(text);
            let answer = answer(format!(
                "HTTP/1.1 401 Unauthorized\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ));
            let peer = Peer::new([answer]).await;
            let environment = [
                ("AZURE_TENANT_ID", "a.test"),
                ("AZURE_CLIENT_ID", "app"),
                ("AZURE_CLIENT_SECRET", "s3cr&t"),
            ];
            let spec = format!("url: http://127.0.0.1:{}", peer.port);
            let probe = build_on(&Machine(&environment), "azure", &spec).unwrap();
            let failure = run(&probe, LONG).await.result.unwrap_err();
            assert_eq!(failure.message, expected);
            let heard = peer.heard().pop().unwrap();
            assert!(
                heard.starts_with("POST /a.test/oauth2/v2.0/token HTTP/1.1\r\n"),
                "{heard}"
            );
            assert!(
                heard.ends_with(
                    "grant_type=client_credentials&client_id=app&scope=https%3A%2F%2Fmanagement.azure.com%2F.default&client_secret=s3cr%26t"
                ),
                "{heard}"
            );
        }
    }

    #[tokio::test]
    async fn a_token_that_the_resource_manager_repeats_is_not_printed() {
        let peer = Peer::new([
            ok(r#"{"access_token": "t0ken", "token_type": "Bearer"}"#),
            answer(
                "HTTP/1.1 401 Unauthorized\r\nContent-Length: 66\r\n\r\n{\"error\": {\"code\": \"Invalid\", \"message\": \"you sent Bearer t0ken\"}}",
            ),
        ])
        .await;
        let at = format!("http://127.0.0.1:{}", peer.port);
        let spec = format!(
            "url: {at}\nusername: app\npassword: s3cret\nproperties: {{tenantID: a.test, managementEndpoint: '{at}/arm/', subscriptionID: 00000000-0000-0000-0000-000000000000}}"
        );
        let outcome = run(&build("azure", &spec, &[]).unwrap(), LONG).await;
        let failure = outcome.result.unwrap_err();
        assert_eq!(failure.message, "Invalid: you sent Bearer [redacted]");
        assert_eq!(failure.code.as_deref(), Some("Invalid"));
        let heard = peer.heard().pop().unwrap();
        assert!(
            heard.starts_with(
                "GET /arm/subscriptions/00000000-0000-0000-0000-000000000000?api-version=2022-12-01 HTTP/1.1\r\n"
            ),
            "{heard}"
        );
    }
}
