//! Signs the request of a type over HTTP (`awsSigV4`).

use conncheck_config::{Field, Secret};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;

use super::given::{AssumeRole, Given, Written};
use super::sts::About;
use super::{Identity, Sts};
use crate::address::Location;
use crate::attempt::Attempt;
use crate::cause::Cause;
use crate::http::{Request, Response, endpoint_of};
use crate::outcome::{Failure, Phase, Reason};
use crate::probe::{Access, Invalid};
use crate::sigv4::{Scope, sign};
use crate::tls::{Tls, TlsOptions};

/// `properties.awsSigV4`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct SigV4Settings {
    /// The service as signatures call it: `es`, `execute-api`, `aps`, `s3`.
    service: String,
    /// The region. Without it, that of the URL's host, the profile, the environment or the instance.
    region: Option<String>,
    /// The access key, in place of `username`.
    access_key: Option<Secret>,
    /// The secret key, in place of `password`.
    secret_key: Option<Secret>,
    /// The token that belongs to the keys of a session.
    session_token: Option<Secret>,
    /// The profile of the credentials file that was given; without one, of our own files.
    profile: Option<String>,
    /// A role to be assumed: its ARN, or `roleARN`, `externalID`, `sessionName` and
    /// `durationSeconds`.
    assume_role: Option<AssumeRole>,
}

pub(crate) struct Signer {
    identity: Identity,
    service: String,
    /// For STS, where a session is to be had first.
    tls: Tls,
    /// The right that is needed, for messages.
    right: String,
}

impl Signer {
    pub(crate) fn new(
        access: &Access<'_>,
        url: &Location,
        settings: SigV4Settings,
    ) -> Result<Self, Invalid> {
        let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let service = settings.service.trim().to_owned();
        if service.is_empty() || !service.bytes().all(is_part) {
            return Err(access
                .invalid(
                    Field::Properties,
                    "`awsSigV4.service` is no name of a service",
                )
                .hint("it is written as in signatures: `es`, `execute-api`, `aps`, `s3`"));
        }
        let host = url.host.as_deref().unwrap_or_default();
        let written = Written {
            access_key: settings.access_key,
            secret_key: settings.secret_key,
            session_token: settings.session_token,
            profile: settings.profile,
            role: settings.assume_role,
            region: settings.region.or_else(|| region_in(host)),
        };
        let (username, password) = (url.username.as_deref(), url.password.as_deref());
        let given = Given::read(access, written, username, password)?;
        Ok(Self {
            identity: Identity::new(access, given)?,
            right: format!("this request to `{service}`"),
            service,
            tls: access.tls(&TlsOptions::default())?,
        })
    }

    pub(crate) fn secrets(&self) -> &[Secret] {
        self.identity.secrets()
    }

    /// Gets the keys anew, and signs the request as it will be sent.
    pub(crate) async fn sign(
        &self,
        attempt: &mut Attempt,
        request: &mut Request,
    ) -> Result<(), Failure> {
        let begun = self.identity.begin(attempt).await?;
        let region = begun.region.clone();
        let wrong = |what: String| Cause::new(Reason::Internal, what).in_phase(Phase::Auth);
        let url = match self.identity.endpoint() {
            Some(url) => url.clone(),
            None => Sts::url_in(&region)
                .map_err(|error| wrong(format!("no endpoint in `{region}`: {error}")))?,
        };
        attempt.talks_to(Some(endpoint_of(&url)));
        let sts = Sts::new(url, self.tls.clone(), region.clone());
        let mut talk = sts.talk();
        let keys = self.identity.keys(attempt, begun, &mut talk).await?;
        talk.end().await;
        attempt.talks_to(None);
        let scope = Scope {
            region: &region,
            service: &self.service,
        };
        sign(request, &keys, scope, Timestamp::now()).map_err(|cause| cause.in_phase(Phase::Auth))
    }

    /// More about a refusal, from what AWS says of it.
    pub(crate) fn explain(&self, cause: Cause, response: &Response) -> Cause {
        let about = About {
            keys: self.identity.given_keys(),
            allow: &self.right,
            region: self.identity.region().unwrap_or("that of the instance"),
        };
        about.refine(cause, response, Timestamp::now())
    }
}

/// The region that a host of AWS' own names: `search-x.eu-west-1.es.amazonaws.com`.
fn region_in(host: &str) -> Option<String> {
    if !host.contains(".amazonaws.") {
        return None;
    }
    let is_region = |label: &&str| {
        let parts: Vec<&str> = label.split('-').collect();
        let [area, .., number] = parts.as_slice() else {
            return false;
        };
        parts.len() >= 3
            && area.len() == 2
            && number.len() == 1
            && number.as_bytes()[0].is_ascii_digit()
    };
    host.split('.').find(is_region).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{build_or_say, build_remote, check_refused};

    #[test]
    fn mistakes_are_told_with_the_way_out() {
        let spec = "url: https://a.test\nusername: AKIA1\npassword: s3cr3t";
        for (properties, expected) in [
            ("awsSigV4: {}", "`properties.awsSigV4` has no `service`"),
            (
                "awsSigV4: {service: 'M4RK3R s'}",
                "`awsSigV4.service` is no name of a service (it is written as in signatures: `es`, `execute-api`, `aps`, `s3`)",
            ),
            (
                "awsSigV4: {service: es}, followRedirects: true",
                "`followRedirects` with `awsSigV4` (a signature is for one URL: let `url` name where it redirects to)",
            ),
            (
                "awsSigV4: {service: es}, bearer: M4RK3R",
                "both `awsSigV4` and `bearer` (keep one of them)",
            ),
            (
                "awsSigV4: {service: es}, headers: {Authorization: M4RK3R}",
                "both `awsSigV4` and the header `authorization` (keep one of them)",
            ),
            (
                "awsSigV4: {service: es, secretKey: M4RK3R}",
                "both `password` and the property `secretKey` (they mean the same; keep one of them)",
            ),
        ] {
            let spec = format!("{spec}\nproperties: {{{properties}}}");
            let said = build_or_say("http", &spec).err().unwrap_or_default();
            assert_eq!(said, expected, "{properties}");
        }
        check_refused(
            build_remote(
                "http",
                "url: https://a.test\nproperties: {awsSigV4: {service: es}}",
                &[],
            ),
            "our own identity is not used for a connection that came from the Kubernetes API",
        );
    }

    #[test]
    fn a_host_of_aws_names_its_region() {
        for (host, region) in [
            ("search-x-1.eu-west-1.es.amazonaws.com", Some("eu-west-1")),
            (
                "aps-workspaces.us-gov-west-1.amazonaws.com",
                Some("us-gov-west-1"),
            ),
            (
                "a.execute-api.cn-north-1.amazonaws.com.cn",
                Some("cn-north-1"),
            ),
            ("iam.amazonaws.com", None),
            ("search.eu-west-1.evil.test", None),
        ] {
            assert_eq!(region_in(host).as_deref(), region, "{host}");
        }
    }
}
