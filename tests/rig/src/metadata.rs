//! Where a machine of AWS gets its credentials: the metadata service of an EC2 instance (version 2), and the
//! endpoint of a container (ECS, EKS). Our own, since the real ones are link-local addresses of AWS' machines; the
//! answers are those that AWS documents. It counts what it is asked.

use std::net::SocketAddr;

use crate::{
    error::Result,
    http::{HttpPeer, Request, response},
    moto::AccessKey,
};

/// The running peer. Dropping it stops it.
pub struct AwsMetadata {
    peer: HttpPeer,
}

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataMood {
    /// It gives credentials.
    Good,
    /// Nobody has attached a role.
    WithoutRole,
    /// The role is there, and may not be assumed by the instance.
    Distrusted,
    /// Switched off for this instance.
    Off,
    /// Credentials that are cut in the middle.
    Cut,
    /// Says nothing that makes sense: a proxy's page.
    Page,
}

impl AwsMetadata {
    pub const ROLE: &str = "rig-instance-role";
    pub const REGION: &str = "eu-central-1";
    /// Where a container asks.
    pub const CONTAINER_PATH: &str = "/v2/credentials/rig";
    /// What it sends there as `Authorization`.
    pub const CONTAINER_TOKEN: &str = "rig-container-token";
    /// Of version 2.
    pub const TOKEN: &str = "rig-metadata-token==";

    /// Gives `key`, which is one of a session.
    pub fn start(mood: MetadataMood, key: &AccessKey) -> Result<AwsMetadata> {
        let key = key.clone();
        let peer = HttpPeer::start(move |request| answer(mood, &key, request))?;
        Ok(AwsMetadata { peer })
    }

    pub fn addr(&self) -> SocketAddr {
        self.peer.addr()
    }

    /// For `AWS_EC2_METADATA_SERVICE_ENDPOINT`.
    pub fn url(&self) -> String {
        self.peer.url("")
    }

    /// For `AWS_CONTAINER_CREDENTIALS_FULL_URI`.
    pub fn container_url(&self) -> String {
        self.peer.url(AwsMetadata::CONTAINER_PATH)
    }

    /// Method and path of what it was asked.
    pub fn asked(&self) -> Vec<String> {
        let requests = self.peer.requests().into_iter();
        requests
            .map(|request| format!("{} {}", request.method, request.target))
            .collect()
    }

    pub fn peer(&self) -> &HttpPeer {
        &self.peer
    }
}

fn answer(mood: MetadataMood, key: &AccessKey, request: &Request) -> Vec<u8> {
    const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
    let plain = |status, body: &str| response(status, &[("Content-Type", "text/plain")], body);
    let json = |status, body: &str| response(status, &[("Content-Type", "application/json")], body);
    if mood == MetadataMood::Page {
        return response(
            200,
            &[("Content-Type", "text/html")],
            "<html>Sign in</html>",
        );
    }
    if request.target == AwsMetadata::CONTAINER_PATH {
        return match (mood, request.header("authorization")) {
            (MetadataMood::Good, Some(AwsMetadata::CONTAINER_TOKEN)) => {
                json(200, &credentials(key, ""))
            }
            (MetadataMood::Good, _) => json(
                401,
                r#"{"code":"InvalidAuthorization","message":"authorization token is not valid"}"#,
            ),
            (MetadataMood::WithoutRole, _) => json(
                400,
                r#"{"code":"NoIdInRequest","message":"CredentialsV2Request: no role for the task","HTTPErrorCode":400}"#,
            ),
            _ => json(500, ""),
        };
    }
    match (request.method.as_str(), request.target.as_str()) {
        ("PUT", "/latest/api/token") if mood == MetadataMood::Off => plain(403, ""),
        ("PUT", "/latest/api/token") => {
            match request.header("x-aws-ec2-metadata-token-ttl-seconds") {
                Some(_) => plain(200, AwsMetadata::TOKEN),
                None => plain(400, ""),
            }
        }
        _ if request.header("x-aws-ec2-metadata-token") != Some(AwsMetadata::TOKEN) => {
            plain(401, "")
        }
        ("GET", ROLES) if mood == MetadataMood::WithoutRole => plain(404, ""),
        ("GET", ROLES) => plain(200, AwsMetadata::ROLE),
        ("GET", "/latest/meta-data/placement/region") => plain(200, AwsMetadata::REGION),
        ("GET", path) if path.strip_prefix(ROLES) == Some(AwsMetadata::ROLE) => match mood {
            MetadataMood::Distrusted => json(
                200,
                r#"{"Code":"AssumeRoleUnauthorizedAccess","Message":"EC2 cannot assume the role rig-instance-role.","LastUpdated":"2026-01-01T00:00:00Z"}"#,
            ),
            MetadataMood::Cut => {
                b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\nConnection: close\r\n\r\n{\"Code\":\"Success\",".to_vec()
            }
            _ => json(200, &credentials(key, r#""Code":"Success","Type":"AWS-HMAC","#)),
        },
        _ => plain(404, ""),
    }
}

/// As both services write them.
fn credentials(key: &AccessKey, more: &str) -> String {
    let (token, expiration) = key.session.clone().unwrap_or_default();
    let AccessKey { id, secret, .. } = key;
    format!(
        r#"{{{more}"AccessKeyId":"{id}","SecretAccessKey":"{secret}","Token":"{token}","Expiration":"{expiration}"}}"#
    )
}
