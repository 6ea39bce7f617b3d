//! AWS' signature of a request (Signature Version 4), by its specification.
//!
//! Some sixty lines of HMAC over a request that is written in one agreed way. The crate `aws-sigv4` does
//! the same and brings the runtime of AWS' SDK along, with a second SHA-256 and HMAC.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use aws_lc_rs::{digest, hmac};
use conncheck_config::Secret;
use http::header::{self, HeaderName, HeaderValue};
use jiff::Timestamp;
use percent_encoding::{
    AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode, utf8_percent_encode,
};
use url::{Position, Url};

use crate::cause::Cause;
use crate::http::Request;
use crate::outcome::Reason;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// What RFC 3986 calls unreserved stays as it is.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const UNRESERVED_OR_SLASH: &AsciiSet = &UNRESERVED.remove(b'/');

const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");
const CONTENT_HASH: HeaderName = HeaderName::from_static("x-amz-content-sha256");

/// What a request is signed with.
#[derive(Clone)]
pub(crate) struct Keys {
    access_key: Secret,
    secret_key: Secret,
    session_token: Option<Secret>,
    /// When they end, if they do.
    pub(crate) expiry: Option<Timestamp>,
}

impl Keys {
    /// Takes keys that can be sent. The error says what cannot, and quotes nothing.
    pub(crate) fn new(
        access_key: &Secret,
        secret_key: &Secret,
        session_token: Option<&Secret>,
    ) -> Result<Self, String> {
        let checked = |what: &str, secret: &Secret| {
            let secret = secret.trimmed();
            match secret.expose() {
                "" => Err(format!("the {what} is empty")),
                text if text.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(secret),
                _ => Err(format!(
                    "the {what} has blanks, line ends or other characters that none has"
                )),
            }
        };
        // An empty one is how a template or a shell writes that there is none.
        let session_token = session_token.filter(|token| !token.trimmed().is_empty());
        Ok(Self {
            access_key: checked("access key", access_key)?,
            secret_key: checked("secret key", secret_key)?,
            session_token: session_token
                .map(|token| checked("session token", token))
                .transpose()?,
            expiry: None,
        })
    }

    /// Whether they are those of a session, and its token is missing.
    pub(crate) fn lack_a_token(&self) -> bool {
        self.session_token.is_none() && self.access_key.expose().starts_with("ASIA")
    }

    pub(crate) fn have_a_token(&self) -> bool {
        self.session_token.is_some()
    }

    /// Everything in them that must not be printed.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &Secret> {
        [&self.access_key, &self.secret_key]
            .into_iter()
            .chain(&self.session_token)
    }
}

/// For what a signature is good.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) region: &'a str,
    pub(crate) service: &'a str,
}

/// Signs `request` as it will be sent: its headers get a date, the session's token and the signature.
pub(crate) fn sign(
    request: &mut Request,
    keys: &Keys,
    scope: Scope<'_>,
    at: Timestamp,
) -> Result<(), Cause> {
    let time = at.strftime("%Y%m%dT%H%M%SZ").to_string();
    let day = time.get(..8).unwrap_or_default();
    let hash = hex(digest::digest(&digest::SHA256, &request.body).as_ref());
    // A plus is a blank to some readers and a plus to others.
    if let Some(query) = request.url.query().filter(|query| query.contains('+')) {
        let query = query.replace('+', "%20");
        request.url.set_query(Some(&query));
    }
    let mut set = |name: HeaderName, value: &str| -> Result<(), Cause> {
        request.headers.insert(name, sendable(value)?);
        Ok(())
    };
    set(DATE, &time)?;
    if let Some(token) = &keys.session_token {
        set(TOKEN, token.expose())?;
    }
    if scope.service == "s3" {
        set(CONTENT_HASH, &hash)?;
    }
    let headers = signed_headers(request);
    let names: Vec<&str> = headers.keys().map(String::as_str).collect();
    let names = names.join(";");
    let mut canonical = format!(
        "{}\n{}\n{}\n",
        request.method,
        canonical_path(&request.url, scope.service),
        canonical_query(&request.url)
    );
    for (name, value) in &headers {
        let _ = writeln!(canonical, "{name}:{value}");
    }
    let _ = write!(canonical, "\n{names}\n{hash}");
    let Scope { region, service } = scope;
    let within = format!("{day}/{region}/{service}/aws4_request");
    let canonical_hash = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
    let to_sign = format!("{ALGORITHM}\n{time}\n{within}\n{canonical_hash}");
    let first = Secret::new(format!("AWS4{}", keys.secret_key.expose()));
    let mut key = hmac_sha256(first.expose().as_bytes(), day);
    for part in [region, service, "aws4_request"] {
        key = hmac_sha256(key.as_ref(), part);
    }
    let signature = hex(hmac_sha256(key.as_ref(), &to_sign).as_ref());
    let credential = keys.access_key.expose();
    let authorization = format!(
        "{ALGORITHM} Credential={credential}/{within}, SignedHeaders={names}, Signature={signature}"
    );
    let value = sendable(&authorization)?;
    request.headers.insert(header::AUTHORIZATION, value);
    Ok(())
}

fn sendable(value: &str) -> Result<HeaderValue, Cause> {
    let mut value = HeaderValue::from_str(value).map_err(|_| {
        Cause::new(
            Reason::Internal,
            "the region or the service of the signature cannot be sent in a header",
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// The host, what the body is, and everything of AWS' own, and of Google's, who reads such signatures too.
fn signed_headers(request: &Request) -> BTreeMap<String, String> {
    let host = &request.url[Position::BeforeHost..Position::AfterPort];
    let mut res = BTreeMap::from([("host".to_owned(), host.to_owned())]);
    for name in request.headers.keys() {
        let is_signed = *name == header::HOST
            || *name == header::CONTENT_TYPE
            || name.as_str().starts_with("x-amz-")
            || name.as_str().starts_with("x-goog-");
        if is_signed {
            let values = request.headers.get_all(name).iter();
            let values: Vec<String> = values
                .map(|value| {
                    let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
                    text.split_whitespace().collect::<Vec<_>>().join(" ")
                })
                .collect();
            res.insert(name.as_str().to_owned(), values.join(","));
        }
    }
    res
}

/// S3 takes the path as it is; all others encode once more what is sent.
fn canonical_path(url: &Url, service: &str) -> String {
    let path = url.path();
    match service {
        "s3" => {
            let decoded: Vec<u8> = percent_decode(path.as_bytes()).collect();
            percent_encode(&decoded, UNRESERVED_OR_SLASH).to_string()
        }
        _ => utf8_percent_encode(path, UNRESERVED_OR_SLASH).to_string(),
    }
}

fn canonical_query(url: &Url) -> String {
    let encode = |text: &str| {
        let decoded: Vec<u8> = percent_decode(text.as_bytes()).collect();
        percent_encode(&decoded, UNRESERVED).to_string()
    };
    let query = url.query().unwrap_or_default();
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let mut pairs: Vec<(String, String)> = pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (encode(name), encode(value))
        })
        .collect();
    pairs.sort();
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.join("&")
}

fn hmac_sha256(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut res, byte| {
        let _ = write!(res, "{byte:02x}");
        res
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, Method};
    use proptest::prelude::*;

    use super::*;

    /// Of AWS' own test suite.
    fn keys(token: Option<&str>) -> Keys {
        let secret = Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
        let token = token.map(Secret::new);
        Keys::new(&Secret::new("AKIDEXAMPLE"), &secret, token.as_ref()).unwrap()
    }

    fn request(method: Method, url: &str, headers: &[(&str, &str)], body: &str) -> Request {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        Request {
            method,
            url: Url::parse(url).unwrap(),
            headers: headers.collect::<HeaderMap>(),
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    fn signed(mut request: Request, keys: &Keys, service: &str, at: &str) -> (Request, String) {
        let scope = Scope {
            region: "us-east-1",
            service,
        };
        sign(&mut request, keys, scope, at.parse().unwrap()).unwrap();
        let value = request.headers[header::AUTHORIZATION].to_str().unwrap();
        let value = value.to_owned();
        (request, value)
    }

    fn check(request: Request, token: Option<&str>, names: &str, signature: &str) {
        let url = request.url.clone();
        let (_, value) = signed(request, &keys(token), "service", "2015-08-30T12:36:00Z");
        let expected = format!(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders={names}, Signature={signature}"
        );
        assert_eq!(value, expected, "{url}");
    }

    #[test]
    fn aws_test_suite() {
        const HOST: &str = "https://example.amazonaws.com/";
        let names = "host;x-amz-date";
        for (method, query, signature) in [
            // get-vanilla
            (
                Method::GET,
                "",
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
            // post-vanilla
            (
                Method::POST,
                "",
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ),
            // get-vanilla-query-order-key-case
            (
                Method::GET,
                "?Param2=value2&Param1=value1",
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
        ] {
            let url = format!("{HOST}{query}");
            check(request(method, &url, &[], ""), None, names, signature);
        }
        // post-x-www-form-urlencoded
        check(
            request(
                Method::POST,
                HOST,
                &[("Content-Type", "application/x-www-form-urlencoded")],
                "Param1=value1",
            ),
            None,
            "content-type;host;x-amz-date",
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
        );
    }

    /// The example of the documentation, a call of IAM.
    #[test]
    fn aws_documentation() {
        let url = "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08";
        let content_type = [(
            "Content-Type",
            "application/x-www-form-urlencoded; charset=utf-8",
        )];
        let request = request(Method::GET, url, &content_type, "");
        let (_, value) = signed(request, &keys(None), "iam", "2015-08-30T12:36:00Z");
        assert!(
            value.ends_with(
                "Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
            ),
            "{value}"
        );
    }

    /// The example of S3's documentation, which has a header of S3's own.
    #[test]
    fn s3_documentation() {
        let keys = Keys::new(
            &Secret::new("AKIAIOSFODNN7EXAMPLE"),
            &Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
            None,
        )
        .unwrap();
        let url = "https://examplebucket.s3.amazonaws.com/?lifecycle";
        let (sent, value) = signed(
            request(Method::GET, url, &[], ""),
            &keys,
            "s3",
            "2013-05-24T00:00:00Z",
        );
        assert!(
            value.ends_with(
                "SignedHeaders=host;x-amz-content-sha256;x-amz-date, \
                 Signature=fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
            ),
            "{value}"
        );
        assert_eq!(
            sent.headers[CONTENT_HASH],
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn paths_and_queries_are_written_in_one_way() {
        let url = |text: &str| Url::parse(text).unwrap();
        let path = |text: &str, service| canonical_path(&url(text), service);
        let at = "https://h.test/a b/%E1%88%B4/x!y";
        assert_eq!(path(at, "s3"), "/a%20b/%E1%88%B4/x%21y");
        assert_eq!(path(at, "es"), "/a%2520b/%25E1%2588%25B4/x%21y");
        assert_eq!(
            canonical_query(&url("https://h.test/?b=2&a=%2f&a=1&c&B=x%20y&d=e=f")),
            "B=x%20y&a=%2F&a=1&b=2&c=&d=e%3Df"
        );
        let (sent, _) = signed(
            request(Method::GET, "https://h.test/?q=a+b", &[], ""),
            &keys(None),
            "es",
            "2015-08-30T12:36:00Z",
        );
        assert_eq!(sent.url.as_str(), "https://h.test/?q=a%20b");
    }

    #[test]
    fn a_session_s_token_is_sent_and_signed() {
        let plain = request(
            Method::GET,
            "https://h.test:8443/",
            &[("X-Amz-Meta", " a  b "), ("Accept", "*/*")],
            "",
        );
        let (sent, value) = signed(plain, &keys(Some("t")), "sts", "2015-08-30T12:36:00Z");
        assert_eq!(sent.headers[TOKEN], "t");
        assert!(sent.headers[TOKEN].is_sensitive());
        assert!(
            value.contains("SignedHeaders=host;x-amz-date;x-amz-meta;x-amz-security-token,"),
            "{value}"
        );
        let headers = signed_headers(&sent);
        assert_eq!(headers["host"], "h.test:8443");
        assert_eq!(headers["x-amz-meta"], "a b");
    }

    #[test]
    fn keys_that_cannot_be_sent_are_told_without_them() {
        let secret = |text: &str| Secret::new(text);
        let refused = |access: &str, key: &str, token: Option<&str>| {
            let token = token.map(Secret::new);
            Keys::new(&secret(access), &secret(key), token.as_ref()).err()
        };
        assert_eq!(refused("AKIA\n", " k ", Some("")), None);
        assert_eq!(refused("", "k", None).unwrap(), "the access key is empty");
        for (access, key, token, what) in [
            ("M4RK3R x", "k", None, "access key"),
            ("a", "M4RK3R\nx", None, "secret key"),
            ("a", "k", Some("M4RK3R ü"), "session token"),
        ] {
            let message = refused(access, key, token).unwrap();
            assert!(
                message.starts_with(&format!("the {what} has ")),
                "{message}"
            );
            assert!(!message.contains("M4RK3R"));
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(path in "\\PC{0,40}", query in "\\PC{0,40}", body in "\\PC{0,40}") {
            let mut url = Url::parse("https://h.test/").unwrap();
            url.set_path(&path);
            url.set_query(Some(&query));
            for service in ["s3", "sts"] {
                let plain = request(Method::POST, url.as_str(), &[], &body);
                signed(plain, &keys(None), service, "2015-08-30T12:36:00Z");
            }
        }
    }
}
