//! `aws`: STS says who we are.
//!
//! Proves that `GetCallerIdentity` answers to our credential, and reports account and ARN. Every identity
//! may ask that by itself, so it says nothing about what the identity is allowed to do.
//!
//! The credential is a pair of keys, a profile, a role, or what is found where we run (`aws.rs` of this
//! crate). Getting it is `auth`, wherever it comes from; resolving, connecting and TLS are those of every
//! peer on the way together. `GetCallerIdentity` is `request`. Sessions are got anew by each attempt.
//!
//! Single sign-on is refused by name: it takes a person and a browser.

use conncheck_config::{Field, Secret, SecretKey};
use schemars::JsonSchema;
use serde::Deserialize;
use url::Url;

use crate::attempt::Attempt;
use crate::aws::{
    ACCESS_KEY, AssumeRole, CREDENTIALS, Given, Identity, SECRET_KEY, SESSION_TOKEN, Sts, Written,
};
use crate::cause::Cause;
use crate::http::{endpoint_of, target};
use crate::outcome::{Failure, Phase, Reason};
use crate::probe::{Access, Invalid, ProbeType};
use crate::tls::Tls;

/// `spec.properties` of an AWS connection.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Settings {
    /// The region, such as `eu-west-1`. Without it, that of the URL's host, the profile, the
    /// environment or the instance, or else `us-east-1`.
    region: Option<String>,
    /// The profile of the credentials file that was given; without one, of our own files.
    profile: Option<String>,
    /// A role to be assumed: its ARN, or `roleARN`, `externalID`, `sessionName` and
    /// `durationSeconds`.
    assume_role: Option<AssumeRole>,
    /// The URL of STS, in place of the region's own; the same as `url`.
    endpoint: Option<String>,
    /// The access key, in place of `username`.
    access_key: Option<Secret>,
    /// The secret key, in place of `password`.
    secret_key: Option<Secret>,
    /// The token that belongs to the keys of a session.
    session_token: Option<Secret>,
    /// Accept any certificate.
    insecure_skip_verify: Option<bool>,
    /// The name that the certificate must be for, in place of the endpoint's host.
    server_name: Option<String>,
}

pub(crate) struct Aws {
    /// Nothing while a secret is missing.
    identity: Option<Identity>,
    /// In place of the region's own.
    endpoint: Option<Url>,
    tls: Tls,
}

impl ProbeType for Aws {
    type Settings = Settings;

    const FURTHER_REASONS: &'static [Reason] = &[Reason::Permission, Reason::HttpStatus];

    const SECRET_KEYS: &'static [SecretKey] = &[ACCESS_KEY, SECRET_KEY, SESSION_TOKEN, CREDENTIALS];

    fn new(access: Access<'_>, settings: Settings) -> Result<Self, Invalid> {
        let options =
            access.tls_options(settings.insecure_skip_verify, settings.server_name.clone());
        let tls = access.tls(&options)?;
        let endpoint = Endpoint::read(&access, &settings)?;
        // What a secret brings is judged when it is there.
        if access.resolved().is_partial {
            return Ok(Self {
                identity: None,
                endpoint: endpoint.url,
                tls,
            });
        }
        let written = Written {
            access_key: settings.access_key,
            secret_key: settings.secret_key,
            session_token: settings.session_token,
            profile: settings.profile,
            role: settings.assume_role,
            region: settings.region.or(endpoint.region),
        };
        let (username, password) = (endpoint.username.as_deref(), endpoint.password.as_deref());
        let region = written.region.clone();
        let given = Given::read(&access, written, username, password)?;
        let identity = Identity::new(&access, given)?;
        let endpoint = endpoint.url.or_else(|| identity.endpoint().cloned());
        // Whose endpoint is another's may have regions of its own.
        if let (None, Some(region)) = (&endpoint, region) {
            in_aws(&region)
                .map_err(|(what, hint)| access.invalid(Field::Properties, what).hint(hint))?;
        }
        Ok(Self {
            endpoint,
            identity: Some(identity),
            tls,
        })
    }

    fn endpoint(&self) -> String {
        let region = self.identity.as_ref().and_then(Identity::region);
        let url = match (&self.endpoint, region) {
            (Some(url), _) => Some(url.clone()),
            (None, Some(region)) => Sts::url_in(region).ok(),
            (None, None) => None,
        };
        url.as_ref().map(endpoint_of).unwrap_or_default()
    }

    fn secrets(&self) -> &[Secret] {
        self.identity
            .as_ref()
            .map(Identity::secrets)
            .unwrap_or_default()
    }

    async fn probe(&self, attempt: &mut Attempt) -> Result<(), Failure> {
        let Some(identity) = &self.identity else {
            let cause = Cause::new(Reason::Internal, "it is not known who we are");
            return Err(cause.in_phase(Phase::Auth));
        };
        let begun = identity.begin(attempt).await?;
        let sts = self.sts(&begun.region)?;
        let mut talk = sts.talk();
        let keys = identity.keys(attempt, begun, &mut talk).await?;
        let caller = talk.who_am_i(attempt, &keys).await?;
        attempt.identity(format!("{} (account {})", caller.arn, caller.account));
        talk.end().await;
        Ok(())
    }
}

impl Aws {
    fn sts(&self, region: &str) -> Result<Sts, Failure> {
        let url = match &self.endpoint {
            Some(url) => url.clone(),
            None => Sts::url_in(region).map_err(|error| {
                Cause::new(
                    Reason::Internal,
                    format!("no endpoint in `{region}`: {error}"),
                )
                .in_phase(Phase::Resolve)
            })?,
        };
        Ok(Sts::new(url, self.tls.clone(), region.to_owned()))
    }
}

/// Why AWS has no such region, and the way out: its host would not be found, and nobody would say why.
fn in_aws(region: &str) -> Result<(), (&'static str, &'static str)> {
    let mut parts = region.rsplit('-');
    let last = parts.next().unwrap_or_default();
    let digits = last.trim_end_matches(|c: char| c.is_ascii_lowercase());
    let is_numbered =
        |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    match (
        is_numbered(digits),
        last.len() - digits.len(),
        parts.count(),
    ) {
        (true, 0, 2..) => Ok(()),
        (true, 1, 2..) => Err((
            "the `region` is an availability zone",
            "leave out the letter at its end",
        )),
        _ => Err((
            "the `region` is no name of a region",
            "it is written like `eu-west-1`",
        )),
    }
}

/// STS as the definition names it, and the login in its URL.
#[derive(Default)]
struct Endpoint {
    url: Option<Url>,
    region: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

impl Endpoint {
    fn read(access: &Access<'_>, settings: &Settings) -> Result<Self, Invalid> {
        let (field, name, text) = match (&access.resolved().url, &settings.endpoint) {
            (None, None) => return Ok(Self::default()),
            (Some(url), None) => (Field::Url, "url", url.expose()),
            (None, Some(endpoint)) => (Field::Properties, "endpoint", endpoint.as_str()),
            (Some(_), Some(_)) => {
                return Err(access
                    .invalid(Field::Properties, "both `url` and `properties.endpoint`")
                    .hint("they mean the same; keep one of them"));
            }
        };
        let bad = |error: &str| access.invalid(field, format!("bad `{name}`: {error}"));
        let (location, mut url) = target(text).map_err(|error| bad(&error))?;
        if url.query().is_some() {
            return Err(bad("it has a query, and STS has no options there")
                .hint("region, role and keys have properties of their own"));
        }
        if url.path().is_empty() {
            url.set_path("/");
        }
        let host = url.host_str().unwrap_or_default();
        Ok(Self {
            region: Sts::region_in(host).map(str::to_owned),
            username: location.username,
            password: location.password,
            url: Some(url),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use crate::probe::Probe;
    use crate::testing::{build, build_or_say, build_partly, build_remote, check_refused, quoted};

    const KEYS: &str = "username: AKIA1\npassword: s3cr3t";
    const KEYED: &str = "secretRef: {name: login, key: credentials}";
    const FILE: &str = "[default]\naws_access_key_id = AKIA1\naws_secret_access_key = s3cr3t-1\naws_session_token = t0k3n-1\nregion = eu-west-3\n";

    fn endpoint(spec: &str, secret: &[(&str, &str)]) -> String {
        let probe: Arc<dyn Probe> = build("aws", spec, secret).unwrap();
        probe.endpoint().to_owned()
    }

    #[test]
    fn the_region_says_where_it_is() {
        for (spec, secret, host) in [
            (KEYS.to_owned(), &[][..], "sts.us-east-1.amazonaws.com"),
            (
                format!("{KEYS}\nproperties: {{region: cn-north-1}}"),
                &[],
                "sts.cn-north-1.amazonaws.com.cn",
            ),
            (
                KEYED.to_owned(),
                &[("credentials", FILE)],
                "sts.eu-west-3.amazonaws.com",
            ),
            (
                format!("{KEYED}\nproperties: {{region: eu-west-1}}"),
                &[("credentials", FILE)],
                "sts.eu-west-1.amazonaws.com",
            ),
            (
                format!("{KEYS}\nurl: https://sts-fips.us-east-2.amazonaws.com"),
                &[],
                "sts-fips.us-east-2.amazonaws.com",
            ),
            (
                format!(
                    "{KEYS}\nproperties: {{region: x, endpoint: \"https://sts.$(name).$(properties.region).corp\"}}"
                ),
                &[],
                "sts.test.x.corp",
            ),
        ] {
            assert_eq!(
                endpoint(&spec, secret),
                format!("https://{host}:443"),
                "{spec}"
            );
        }
    }

    #[test]
    fn mistakes_are_told_with_the_way_out() {
        for (spec, expected) in [
            (
                "username: AKIA1",
                "an access key without its secret key (give `password` or a `secretRef`)",
            ),
            (
                "password: M4RK3R",
                "a secret key without its access key (give the access key as `username`)",
            ),
            (
                "properties: {sessionToken: M4RK3R}",
                "a `sessionToken` without its keys (give access key and secret key too: `username` and `password`)",
            ),
            (
                "username: AKIA1\npassword: b\nproperties: {accessKey: M4RK3R}",
                "both `username` and the property `accessKey` (they mean the same; keep one of them)",
            ),
            (
                "username: AKIA1\npassword: 'M4RK3R x'",
                "the secret key has blanks, line ends or other characters that none has",
            ),
            (
                "username: AKIA1\npassword: b\nproperties: {region: 'M4RK3R/'}",
                "the `region` is no name of a region (it is written like `eu-west-1`)",
            ),
            (
                "username: AKIA1\npassword: b\nproperties: {region: eu-west1}",
                "the `region` is no name of a region (it is written like `eu-west-1`)",
            ),
            (
                "username: AKIA1\npassword: b\nproperties: {region: us-gov-west-1b}",
                "the `region` is an availability zone (leave out the letter at its end)",
            ),
            (
                "username: AKIA1\npassword: b\nproperties: {assumeRole: {roleARN: 'arn:aws:iam::123456789012:role/R', durationSeconds: 60}}",
                "`assumeRole`: a session lasts from 900 to 43200 seconds",
            ),
            (
                "username: AKIA1\npassword: b\nproperties: {assumeRole: {roleARN: 'arn:aws:iam::123456789012:role/R', sessionName: 'M4RK3R x'}}",
                "`assumeRole`: the name of a session has two to 64 letters, digits and `_+=,.@-`",
            ),
            (
                "username: AKIA1\npassword: b\nproperties: {assumeRole: 'M4RK3R'}",
                "`assumeRole`: it is not the ARN of a role: `arn:aws:iam::123456789012:role/NAME`",
            ),
            (
                "username: AKIA1\npassword: b\nproperties: {profile: a}",
                "both keys and a `profile` (keep one of them)",
            ),
            (
                "url: https://a.test\nproperties: {endpoint: 'https://b.test'}",
                "both `url` and `properties.endpoint` (they mean the same; keep one of them)",
            ),
            (
                "url: https://a.test/?region=M4RK3R",
                "bad `url`: it has a query, and STS has no options there (region, role and keys have properties of their own)",
            ),
            (
                "url: ftp://M4RK3R.test",
                "bad `url`: this scheme is not HTTP: use `http://` or `https://`",
            ),
            (
                "properties: {assumeRole: {sessionName: x}}",
                "`properties.assumeRole` has no `roleARN`",
            ),
            (
                "properties: {assumeRole: [x]}",
                "`properties.assumeRole`: expected the ARN of a role, or a mapping with `roleARN`, found a list",
            ),
            (
                "properties: {profile: a}",
                "there is no profile `a` in our own files (`HOME` is not set)",
            ),
        ] {
            let said = build_or_say("aws", spec).err().unwrap_or_default();
            assert_eq!(said, expected, "{spec}");
        }
        for (text, spec, expected) in [
            (
                "M4RK3R",
                KEYED.to_owned(),
                "line 1 of the credentials file: neither `[name]` nor `setting = value`",
            ),
            (
                "",
                KEYED.to_owned(),
                "the credentials file has no profile `default`, but none",
            ),
            (
                "[M4RK3R]",
                KEYED.to_owned(),
                "the credentials file has no profile `default`, but one of another name",
            ),
            (
                FILE,
                format!("{KEYED}\nproperties: {{profile: b}}"),
                "the credentials file has no profile `b`, but one of another name",
            ),
            (
                FILE,
                format!("{KEYED}\n{KEYS}"),
                "both keys and a credentials file",
            ),
            (
                "[default]\nregion = M4RK3R",
                KEYED.to_owned(),
                "the profile `default` of the credentials file says nothing of a login",
            ),
            (
                "[default]\ncredential_process = 'M4RK3R",
                KEYED.to_owned(),
                "bad `credential_process`: a quote in it is not closed",
            ),
            (
                "[default]\nrole_arn = arn:aws:iam::123456789012:role/a\ncredential_source = EcsContainer",
                KEYED.to_owned(),
                "`credential_source` is `EcsContainer`, and no `AWS_CONTAINER_CREDENTIALS_…_URI` is set",
            ),
        ] {
            // An empty value is no value, and there is nothing to refuse but the chain.
            if !text.is_empty() {
                check_refused(build("aws", &spec, &[("credentials", text)]), expected);
            }
        }
    }

    #[test]
    fn who_wrote_it_elsewhere_gets_nothing_of_our_machine() {
        const FILES: &str =
            "files of ours are not read for a connection that came from the Kubernetes API";
        const ENVIRONMENT: &str =
            "our environment is not read for a connection that came from the Kubernetes API";
        let role = "role_arn = arn:aws:iam::123456789012:role/a";
        for spec in ["url: https://a.test", "properties: {profile: a}"] {
            check_refused(
                build_remote("aws", spec, &[]),
                "our own identity is not used for a connection that came from the Kubernetes API",
            );
        }
        for (text, expected) in [
            (
                format!("[default]\n{role}\nweb_identity_token_file = /t"),
                FILES,
            ),
            (
                format!("[default]\n{role}\ncredential_source = Environment"),
                ENVIRONMENT,
            ),
            (
                format!("[default]\n{role}\ncredential_source = EcsContainer"),
                ENVIRONMENT,
            ),
            (
                format!("[default]\n{role}\ncredential_source = Ec2InstanceMetadata"),
                ENVIRONMENT,
            ),
            (
                "[default]\ncredential_process = x".to_owned(),
                "programs are not run for a connection that came from the Kubernetes API",
            ),
        ] {
            check_refused(
                build_remote("aws", KEYED, &[("credentials", &text)]),
                expected,
            );
        }
        assert!(build_remote("aws", KEYED, &[("credentials", FILE)]).is_ok());
        assert!(build_remote("aws", KEYS, &[]).is_ok());
    }

    #[test]
    fn what_a_peer_may_repeat_is_known_to_be_secret() {
        let probe = build("aws", KEYED, &[("credentials", FILE)]).unwrap();
        for secret in ["AKIA1", "s3cr3t-1", "t0k3n-1"] {
            assert_eq!(probe.scrubber().scrub(secret), "[redacted]");
        }
        assert_eq!(probe.scrubber().scrub("eu-west-3"), "eu-west-3");
    }

    #[test]
    fn what_is_missing_is_judged_when_it_is_there() {
        for spec in [
            KEYED,
            "username: AKIA1\npassword: secret://a/b",
            "url: secret://a/b",
        ] {
            assert!(build_partly("aws", spec).is_ok(), "{spec}");
        }
        let role = "username: secret://a/b\nproperties: {assumeRole: x, durationSeconds: 1}";
        assert!(build_partly("aws", role).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[\\[\\]=#; \na-z]{1,80}", url in "[a-z0-9@:/?#%.\\[\\]]{1,40}") {
            let _ = build("aws", KEYED, &[("credentials", &format!("[default]\n{text}"))]);
            let _ = build("aws", &format!("{KEYS}\nurl: {}", quoted(&format!("https://{url}"))), &[]);
        }
    }
}
