//! `elastic`: the cluster, or an index of it, is as healthy as its owner wants.
//!
//! Proves that Elasticsearch or OpenSearch lets us in and says of itself that its health is at least
//! `minimumStatus`. Red below that is `unavailable`, since the cluster says that it cannot serve all
//! of its data; yellow below green is an `assertion`.
//!
//! Nothing is waited for at the server. Its own waits (30 s for an index to exist, 30 s for a master
//! to be elected) are cut to a millisecond and to three quarters of the attempt's time, so that its
//! word comes before our deadline. OpenSearch calls the second by another name too, and notes once in
//! its deprecation log that we use the one that both of them know.
//!
//! Where several URLs are given each is tried in order, with its share of the attempt's time, and the
//! first that is healthy is enough. Redirects are not followed: neither server gives any, and their
//! official clients follow none. The type needs no version of the server; it is told where the answer
//! has it in a header.

use std::time::Duration;

use conncheck_config::{Field, Secret, SecretKey, urls};
use http::{HeaderName, StatusCode};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{self, Deserializer};
use url::Url;

use crate::attempt::Attempt;
use crate::cause::Cause;
use crate::http::{Request, Response, below};
use crate::login::{API_KEY, Headers, KeyIs, LoginSettings, TOKEN};
use crate::outcome::{Failure, Phase, Reason};
use crate::probe::{Access, Invalid, ProbeType};
use crate::schema::{words, written};
use crate::several::{named, together};
use crate::site::Site;

/// `spec.properties` of an Elasticsearch or OpenSearch connection.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Settings {
    /// The worst health that is still right: `green`, `yellow` or `red`; `yellow` if not given.
    minimum_status: Option<Status>,
    /// The index whose health counts, in place of the whole cluster's; also several with commas
    /// between them, or a pattern. One that does not exist is `not_found`.
    index: Option<String>,
    /// Headers to send: a mapping, or a list of `name` and `value`.
    headers: Headers,
    /// A token to send as `Authorization: Bearer …`: a service account's, or a JWT.
    bearer: Option<Secret>,
    /// Accept any certificate.
    insecure_skip_verify: Option<bool>,
    /// The name that the certificate must be for, in place of the URL's host.
    server_name: Option<String>,
}

pub(crate) struct Elastic {
    nodes: Vec<Node>,
    wanted: Status,
    index: Option<String>,
    secrets: Vec<Secret>,
}

/// One URL: a node, or what stands in front of some.
struct Node {
    site: Site,
    /// Where its health is.
    url: Url,
}

/// From bad to good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Status {
    Red,
    Yellow,
    Green,
}

impl ProbeType for Elastic {
    type Settings = Settings;

    const FURTHER_REASONS: &'static [Reason] = &[
        Reason::Permission,
        Reason::NotFound,
        Reason::HttpStatus,
        Reason::Assertion,
    ];

    const SECRET_KEYS: &'static [SecretKey] = &[API_KEY, TOKEN];

    fn new(access: Access<'_>, settings: Settings) -> Result<Self, Invalid> {
        let index = settings.index.as_deref().map(str::trim);
        if index == Some("") {
            return Err(access
                .invalid(Field::Properties, "`index` is empty")
                .hint("leave it out to ask for the health of the whole cluster"));
        }
        let nodes = urls(access.url()?.expose());
        let nodes: Vec<Node> = nodes
            .into_iter()
            .map(|url| Node::new(&access, url, &settings, index))
            .collect::<Result<_, _>>()?;
        let secrets = nodes.iter().flat_map(|node| node.site.secrets());
        Ok(Self {
            secrets: secrets.cloned().collect(),
            nodes,
            wanted: settings.minimum_status.unwrap_or(Status::Yellow),
            index: index.map(str::to_owned),
        })
    }

    fn endpoint(&self) -> String {
        let endpoints: Vec<_> = self.nodes.iter().map(|node| node.site.endpoint()).collect();
        endpoints.join(",")
    }

    fn secrets(&self) -> &[Secret] {
        &self.secrets
    }

    async fn probe(&self, attempt: &mut Attempt) -> Result<(), Failure> {
        let mut failures = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let left = (self.nodes.len() - index) as u32;
            let share = attempt.time_left() / left;
            attempt.limit((left > 1).then_some(share));
            let res = self.ask(attempt, node, share).await;
            attempt.limit(None);
            match res {
                Ok(()) => return Ok(()),
                Err(failure) if self.nodes.len() == 1 => return Err(failure),
                Err(failure) => {
                    let failure = named(&node.site.endpoint(), failure);
                    attempt.failed_before(&failure.message);
                    failures.push((rank(&failure), failure));
                }
            }
        }
        Err(together(failures))
    }
}

impl Node {
    fn new(
        access: &Access<'_>,
        url: &str,
        settings: &Settings,
        index: Option<&str>,
    ) -> Result<Self, Invalid> {
        let tls = access.tls_options(settings.insecure_skip_verify, settings.server_name.clone());
        let login = LoginSettings {
            headers: settings.headers.clone(),
            bearer: settings.bearer.clone(),
            key_is: KeyIs::ElasticApiKey,
            ..LoginSettings::default()
        };
        let site = Site::new(access, url, tls, login).map_err(|invalid| {
            match invalid.hint.is_none()
                && invalid.message.starts_with("bad `url`")
                && url.contains(',')
            {
                true => invalid
                    .hint("several URLs are each written in full: `https://a:9200,https://b:9200`"),
                false => invalid,
            }
        })?;
        let path = site.url().path().trim_end_matches('/');
        if ["/_cluster/health", "/_cluster", "/_cat/health"]
            .iter()
            .any(|end| path.ends_with(end))
        {
            return Err(access
                .invalid(
                    Field::Url,
                    "bad `url`: it is the base that `/_cluster/health` is added to",
                )
                .hint("leave the end of it out; an index is `properties.index`"));
        }
        if matches!(index, Some("." | "..")) {
            return Err(
                access.invalid(Field::Properties, "`index`: there is no index of that name")
            );
        }
        // An index that does not exist is waited for, half a minute if nobody says otherwise.
        let (path, query) = match index {
            None => (&["_cluster", "health"][..], &[][..]),
            Some(index) => (
                &["_cluster", "health", index][..],
                &[("timeout", "1ms")][..],
            ),
        };
        let url = below(site.url(), path, query)
            .map_err(|error| access.invalid(Field::Properties, format!("`index`: {error}")))?;
        Ok(Self { site, url })
    }
}

/// What the health API answers.
#[derive(Deserialize)]
struct Health {
    cluster_name: String,
    status: Status,
    #[serde(default)]
    timed_out: bool,
    number_of_nodes: Option<u64>,
    active_shards: Option<u64>,
    initializing_shards: Option<u64>,
    unassigned_shards: Option<u64>,
}

impl Elastic {
    async fn ask(
        &self,
        attempt: &mut Attempt,
        node: &Node,
        share: Duration,
    ) -> Result<(), Failure> {
        let headers = node.site.log_in(attempt).await?;
        let wait = (share * 3 / 4).as_millis().max(1);
        let mut url = node.url.clone();
        url.query_pairs_mut()
            .append_pair("master_timeout", &format!("{wait}ms"));
        let request = Request::get(url, headers);
        let response = node.site.send(attempt, &request).await?;
        if let Some(server) = server_of(&response) {
            attempt.server(server);
        }
        if response.status.is_success() {
            response.whole()?;
        }
        self.judge(node, &response)
            .map_err(|cause| cause.in_phase(Phase::Request))
    }

    fn judge(&self, node: &Node, response: &Response) -> Result<(), Cause> {
        // It says in time that it could not say in time, with all that it knows.
        let is_late = response.status == StatusCode::REQUEST_TIMEOUT;
        if !response.status.is_success() && !is_late {
            return Err(refused(node, response));
        }
        match response.json::<Health>() {
            Ok(health) => {
                self.judge_health(&health)
                    .map_err(|cause| match is_late && cause.code.is_none() {
                        true => cause.code("408"),
                        false => cause,
                    })
            }
            Err(_) if is_late => Err(Cause {
                reason: Reason::Unavailable,
                ..refused(node, response)
            }),
            Err(cause) if is_dashboard(response) => Err(cause.hint(DASHBOARD)),
            Err(cause) if response.is_html() => {
                Err(cause
                    .hint("a web page answered: a login page in front of it, or another server"))
            }
            Err(cause) => Err(cause),
        }
    }

    fn judge_health(&self, health: &Health) -> Result<(), Cause> {
        let cluster = &health.cluster_name;
        if let Some(index) = self.index.as_ref().filter(|_| health.is_of_nothing()) {
            let message = format!("there is no index `{index}` in cluster `{cluster}`");
            return Err(Cause::new(Reason::NotFound, message)
                .hint("is `properties.index` spelled right, and was the index created?"));
        }
        if health.status >= self.wanted && !health.timed_out {
            return Ok(());
        }
        let what = match &self.index {
            None => format!("cluster `{cluster}`"),
            Some(index) => format!("index `{index}` of cluster `{cluster}`"),
        };
        let status = health.status.as_str();
        let counts = health.counts();
        if health.status >= self.wanted {
            let message = format!(
                "{what} is {status}{counts}, and says that it could not make sure of it in time"
            );
            return Err(Cause::new(Reason::Unavailable, message)
                .hint("its master is busy, or was just elected"));
        }
        let wanted = match self.wanted {
            Status::Green => "green",
            _ => "at least yellow",
        };
        let message = format!("{what} is {status}{counts}, expected {wanted}");
        Err(match health.status {
            Status::Red => Cause::new(Reason::Unavailable, message).hint(
                "a primary shard is missing, and its data with it: `GET _cluster/allocation/explain` says why",
            ),
            _ => Cause::new(Reason::Assertion, message).hint(
                "a replica is missing: `GET _cluster/allocation/explain` says why (a single node can hold none: `number_of_replicas: 0`)",
            ),
        }
        .code(status))
    }
}

impl Health {
    /// Whether it is the health of an index that is not there. One is called red although no shard is
    /// missing, and a pattern that matches none is called green although there is no shard at all.
    fn is_of_nothing(&self) -> bool {
        let misses_none = self.initializing_shards == Some(0) && self.unassigned_shards == Some(0);
        misses_none && (self.status == Status::Red || self.active_shards == Some(0))
    }

    /// ` (3 nodes, 5 shards unassigned)`, as far as it tells.
    fn counts(&self) -> String {
        let count = |count: Option<u64>, what: &str, of: &str| {
            let count = count?;
            let s = if count == 1 { "" } else { "s" };
            Some(format!("{count} {what}{s}{of}"))
        };
        let initializing = self.initializing_shards.filter(|count| *count > 0);
        let parts: Vec<_> = [
            count(self.number_of_nodes, "node", ""),
            count(self.unassigned_shards, "shard", " unassigned"),
            count(initializing, "shard", " starting"),
        ]
        .into_iter()
        .flatten()
        .collect();
        match parts.is_empty() {
            true => String::new(),
            false => format!(" ({})", parts.join(", ")),
        }
    }
}

/// How both servers tell of an error.
#[derive(Deserialize)]
struct Refused {
    error: What,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum What {
    Typed {
        #[serde(rename = "type")]
        ty: String,
        reason: Option<String>,
    },
    Text(String),
}

/// What a status means that is no health.
fn refused(node: &Node, response: &Response) -> Cause {
    let cause = node.site.unexpected(response, "the health of the cluster");
    if is_dashboard(response) {
        return Cause {
            reason: Reason::Protocol,
            ..cause
        }
        .hint(DASHBOARD);
    }
    let (ty, reason) = match response.json() {
        Ok(Refused {
            error: What::Typed { ty, reason },
        }) => (ty, reason.unwrap_or_default()),
        Ok(Refused {
            error: What::Text(text),
        }) => {
            let message = format!("{}: {text}", cause.message);
            return Cause { message, ..cause };
        }
        Err(_) => return in_front(response, cause),
    };
    let (reason_is, hint) = match ty.as_str() {
        "index_not_found_exception" => (
            Reason::NotFound,
            "is `properties.index` spelled right, and was the index created?",
        ),
        "master_not_discovered_exception" | "cluster_manager_not_discovered_exception" => (
            Reason::Unavailable,
            "no master is elected: are more than half of the master-eligible nodes up, and do they see each other?",
        ),
        "cluster_block_exception"
        | "circuit_breaking_exception"
        | "process_cluster_event_timeout_exception"
        | "node_closed_exception"
        | "not_master_exception" => (Reason::Unavailable, ""),
        "security_exception" if response.status == StatusCode::FORBIDDEN => (
            Reason::Permission,
            "the role needs the cluster privilege `monitor`",
        ),
        _ => (cause.reason, ""),
    };
    let cause = Cause {
        reason: reason_is,
        message: match reason.is_empty() {
            true => ty.clone(),
            false => format!("{ty}: {reason}"),
        },
        ..cause
    }
    .code(ty);
    match (hint, &cause.hint) {
        // What the login knows of itself says more.
        ("", _) | (_, Some(_)) => cause,
        (hint, None) => cause.hint(hint),
    }
}

/// An answer without the servers' own words: from a proxy, a security plugin, or somebody else.
fn in_front(response: &Response, cause: Cause) -> Cause {
    match response.status.as_u16() {
        404 => cause.hint("is it below a prefix, and is the port right? (usually 9200)"),
        503 if response.text().contains("Security not initialized") => {
            cause.hint("the security plugin has no configuration yet: `securityadmin.sh` loads it")
        }
        _ => cause,
    }
}

const DASHBOARD: &str =
    "Kibana or OpenSearch Dashboards answers there: the cluster's own port is usually 9200";

fn is_dashboard(response: &Response) -> bool {
    ["kbn-name", "osd-name"]
        .into_iter()
        .any(|name| response.headers.contains_key(name))
}

/// `OpenSearch 3.0.0`, `Elasticsearch`: what the headers of an answer tell.
fn server_of(response: &Response) -> Option<String> {
    let header = |name| response.header(HeaderName::from_static(name));
    if let Some(version) = header("x-opensearch-version") {
        let version = version.split_whitespace().next()?;
        return Some(version.replace('/', " "));
    }
    Some(header("x-elastic-product")?.into_owned())
}

/// Of several failures that one says most which a cluster said itself.
fn rank(failure: &Failure) -> u8 {
    match failure.reason {
        Reason::Auth
        | Reason::Permission
        | Reason::NotFound
        | Reason::Assertion
        | Reason::Unavailable => 0,
        Reason::Dns
        | Reason::ConnectRefused
        | Reason::ConnectUnreachable
        | Reason::ConnectReset
        | Reason::Timeout => 2,
        _ => 1,
    }
}

impl Status {
    const ALL: [Self; 3] = [Self::Red, Self::Yellow, Self::Green];

    fn as_str(self) -> &'static str {
        match self {
            Self::Red => "red",
            Self::Yellow => "yellow",
            Self::Green => "green",
        }
    }
}

written!(Status: words(&Self::ALL.map(Self::as_str), &[]));

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let found = Self::ALL
            .into_iter()
            .find(|status| status.as_str().eq_ignore_ascii_case(text.trim()));
        found.ok_or_else(|| de::Error::custom("expected `green`, `yellow` or `red`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{
        LONG, Peer, Script, answer, basic_login, build, check_logins, failure, ok, percent_encoded,
        run, status,
    };

    fn spec(peer: &Peer, lines: &str) -> String {
        format!("url: http://127.0.0.1:{}\n{lines}", peer.port)
    }

    fn json(status: &str, body: &str) -> Script {
        answer(format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    }

    /// A health with so many active and unassigned shards.
    fn health(color: &str, active: u64, unassigned: u64) -> String {
        format!(
            r#"{{"cluster_name":"logs","status":"{color}","timed_out":false,"number_of_nodes":3,"active_shards":{active},"relocating_shards":0,"initializing_shards":0,"unassigned_shards":{unassigned}}}"#
        )
    }

    async fn refused(script: Script, lines: &str) -> Failure {
        let peer = Peer::new([script]).await;
        failure(&build("elastic", &spec(&peer, lines), &[]).unwrap(), LONG).await
    }

    async fn verdict(script: Script, properties: &str) -> String {
        let peer = Peer::new([script]).await;
        let spec = spec(&peer, &format!("properties: {{{properties}}}"));
        match run(&build("elastic", &spec, &[]).unwrap(), LONG)
            .await
            .result
        {
            Ok(()) => "up".to_owned(),
            Err(failure) => format!(
                "{} {}: {}",
                failure.reason,
                failure.code.unwrap_or_default(),
                failure.message
            ),
        }
    }

    #[tokio::test]
    async fn health_is_asked_for_below_the_base_and_never_waited_for() {
        let peer = Peer::new([ok(&health("green", 5, 0))]).await;
        for (base, index, expected) in [
            ("", "", "/_cluster/health?"),
            ("/es/", "", "/es/_cluster/health?"),
            ("/es?tenant=a", "", "/es/_cluster/health?tenant=a&"),
            ("", "orders", "/_cluster/health/orders?timeout=1ms&"),
            (
                "",
                "logs-*,metrics",
                "/_cluster/health/logs-*,metrics?timeout=1ms&",
            ),
            (
                "",
                "<logs-{now/d}>",
                "/_cluster/health/%3Clogs-%7Bnow%2Fd%7D%3E?timeout=1ms&",
            ),
        ] {
            let mut spec = format!("url: http://127.0.0.1:{}{base}", peer.port);
            if !index.is_empty() {
                spec += &format!("\nproperties: {{index: '{index}'}}");
            }
            let timeout = Duration::from_secs(100);
            let outcome = run(&build("elastic", &spec, &[]).unwrap(), timeout).await;
            assert_eq!(outcome.result, Ok(()));
            let heard = peer.heard().pop().unwrap();
            let target = heard.split(' ').nth(1).unwrap();
            let wait = target
                .strip_prefix(expected)
                .and_then(|rest| rest.strip_prefix("master_timeout="))
                .and_then(|rest| rest.strip_suffix("ms"))
                .unwrap_or_else(|| panic!("{target}"));
            let wait: u64 = wait.parse().unwrap();
            let late = 65_000..=75_000;
            assert!(late.contains(&wait), "of 100 seconds: {wait}");
        }
    }

    #[tokio::test]
    async fn the_health_that_is_wanted_decides() {
        for (color, wanted, expected) in [
            ("green", "green", "up"),
            ("green", "yellow", "up"),
            ("yellow", "yellow", "up"),
            ("yellow", "Red", "up"),
            ("red", "red", "up"),
            (
                "yellow",
                "GREEN",
                "assertion yellow: cluster `logs` is yellow (3 nodes, 1 shard unassigned), expected green",
            ),
            (
                "red",
                "yellow",
                "unavailable red: cluster `logs` is red (3 nodes, 1 shard unassigned), expected at least yellow",
            ),
            (
                "red",
                "green",
                "unavailable red: cluster `logs` is red (3 nodes, 1 shard unassigned), expected green",
            ),
        ] {
            let script = ok(&health(color, 9, 1));
            let got = verdict(script, &format!("minimumStatus: {wanted}")).await;
            assert_eq!(got, expected, "{color}, {wanted}");
        }
        assert_eq!(verdict(ok(&health("yellow", 9, 1)), "").await, "up");
        assert!(
            verdict(ok(&health("red", 9, 1)), "")
                .await
                .starts_with("unavailable")
        );
        assert_eq!(
            verdict(
                ok(&health("yellow", 9, 2)),
                "index: orders, minimumStatus: green"
            )
            .await,
            "assertion yellow: index `orders` of cluster `logs` is yellow (3 nodes, 2 shards unassigned), expected green"
        );
    }

    #[tokio::test]
    async fn an_index_that_is_missing_is_not_a_red_one() {
        let late = |body: &str| json("408 Request Timeout", body);
        for (script, expected) in [
            // What both servers answer.
            (
                late(&health("red", 0, 0).replace("false", "true")),
                "not_found 408: there is no index `a` in cluster `logs`",
            ),
            // A pattern that matches none.
            (
                ok(&health("green", 0, 0)),
                "not_found : there is no index `a` in cluster `logs`",
            ),
            (
                json(
                    "404 Not Found",
                    r#"{"error":{"type":"index_not_found_exception","reason":"no such index [a]"},"status":404}"#,
                ),
                "not_found index_not_found_exception: index_not_found_exception: no such index [a]",
            ),
            (
                ok(&health("red", 0, 2)),
                "unavailable red: index `a` of cluster `logs` is red (3 nodes, 2 shards unassigned), expected at least yellow",
            ),
            (
                late(&health("yellow", 3, 2).replace("false", "true")),
                "unavailable 408: index `a` of cluster `logs` is yellow (3 nodes, 2 shards unassigned), and says that it could not make sure of it in time",
            ),
            (
                late(r#"{"cluster_name":"rig","status":"yellow","timed_out":true}"#),
                "unavailable 408: index `a` of cluster `rig` is yellow, and says that it could not make sure of it in time",
            ),
            (
                late("<html>"),
                "unavailable 408: expected the health of the cluster, got 408 Request Timeout",
            ),
        ] {
            assert_eq!(verdict(script, "index: a").await, expected);
        }
        // A cluster without an index is as healthy as one can be.
        assert_eq!(verdict(ok(&health("green", 0, 0)), "").await, "up");
    }

    #[tokio::test]
    async fn errors_of_the_server_are_told_in_its_words() {
        let error = |status: &str, ty: &str| {
            json(
                status,
                &format!(
                    r#"{{"error":{{"root_cause":[],"type":"{ty}","reason":"why not"}},"status":0}}"#
                ),
            )
        };
        for (script, reason, code, message) in [
            (
                error("401 Unauthorized", "security_exception"),
                "auth",
                "security_exception",
                "security_exception: why not",
            ),
            (
                error("403 Forbidden", "security_exception"),
                "permission",
                "security_exception",
                "security_exception: why not",
            ),
            (
                error("503 Service Unavailable", "master_not_discovered_exception"),
                "unavailable",
                "master_not_discovered_exception",
                "master_not_discovered_exception: why not",
            ),
            (
                error("403 Forbidden", "cluster_block_exception"),
                "unavailable",
                "cluster_block_exception",
                "cluster_block_exception: why not",
            ),
            (
                error("429 Too Many Requests", "circuit_breaking_exception"),
                "unavailable",
                "circuit_breaking_exception",
                "circuit_breaking_exception: why not",
            ),
            (
                error("400 Bad Request", "illegal_argument_exception"),
                "http_status",
                "illegal_argument_exception",
                "illegal_argument_exception: why not",
            ),
            (
                json(
                    "503 Service Unavailable",
                    r#"{"error":{"type":"master_not_discovered_exception","reason":null},"status":503}"#,
                ),
                "unavailable",
                "master_not_discovered_exception",
                "master_not_discovered_exception",
            ),
            (
                json(
                    "405 Method Not Allowed",
                    r#"{"error":"Incorrect HTTP method","status":405}"#,
                ),
                "http_status",
                "405",
                "expected the health of the cluster, got 405 Method Not Allowed: Incorrect HTTP method",
            ),
            (
                status("401 Unauthorized", &[]),
                "auth",
                "401",
                "expected the health of the cluster, got 401 Unauthorized",
            ),
            (
                status("502 Bad Gateway", &[]),
                "http_status",
                "502",
                "expected the health of the cluster, got 502 Bad Gateway",
            ),
            (
                status("302 Found", &["Location: https://sso.test/login"]),
                "http_status",
                "302",
                "expected the health of the cluster, got 302 Found",
            ),
            (
                status("404 Not Found", &["kbn-name: kibana"]),
                "protocol",
                "404",
                "expected the health of the cluster, got 404 Not Found",
            ),
            (
                ok("<html>"),
                "protocol",
                "",
                "the answer (6 bytes) is not JSON",
            ),
            (
                ok(r#"{"status":"ok"}"#),
                "protocol",
                "",
                "the answer (15 bytes) is JSON, but not what was expected",
            ),
            (
                ok(r#"{"cluster_name":"x","status":"purple"}"#),
                "protocol",
                "",
                "the answer (38 bytes) is JSON, but not what was expected",
            ),
            (
                ok("{}"),
                "protocol",
                "",
                "the answer (2 bytes) is JSON, but not what was expected",
            ),
            (
                ok(""),
                "protocol",
                "",
                "the answer (an empty body) is not JSON",
            ),
            (
                answer("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"cluster_name\""),
                "connect_reset",
                "",
                "the peer hung up in the middle of its answer, after 15 bytes of the body",
            ),
        ] {
            let failure = refused(script, "").await;
            assert_eq!(failure.message, message);
            assert_eq!(failure.reason.as_str(), reason, "{message}");
            assert_eq!(failure.code.unwrap_or_default(), code, "{message}");
        }
    }

    #[tokio::test]
    async fn what_goes_wrong_has_its_way_out() {
        for (script, lines, hint) in [
            (
                answer(
                    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
                ),
                "",
                "a web page answered: a login page in front of it, or another server",
            ),
            (
                status("404 Not Found", &["kbn-name: kibana"]),
                "",
                DASHBOARD,
            ),
            (
                status("404 Not Found", &[]),
                "",
                "is it below a prefix, and is the port right? (usually 9200)",
            ),
            (
                answer(
                    "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 36\r\n\r\nOpenSearch Security not initialized.",
                ),
                "",
                "the security plugin has no configuration yet: `securityadmin.sh` loads it",
            ),
            (
                status("302 Found", &["Location: https://sso.test/login?x"]),
                "",
                "it redirects to `https://sso.test:443`",
            ),
            (
                status(
                    "401 Unauthorized",
                    &[
                        "WWW-Authenticate: Basic realm=\"security\", charset=\"UTF-8\"",
                        "WWW-Authenticate: ApiKey",
                    ],
                ),
                "username: elastic\npassword: hunter2",
                "it refused the login that was sent; it accepts `Basic` (realm `security`) or `ApiKey`",
            ),
        ] {
            assert_eq!(refused(script, lines).await.hint.as_deref(), Some(hint));
        }
    }

    #[tokio::test]
    async fn a_single_key_is_an_api_key_in_either_form() {
        const KEY: &str = "secretRef: {name: login, key: api-key}\n";
        const WHOLE: &str = "secretRef: {name: login}\n";
        const SENT: &str = "ApiKey aWQ6azN5"; // id:k3y
        let peer = Peer::new([ok(&health("green", 1, 0))]).await;
        for (lines, secret, expected) in [
            (KEY.to_owned(), &[("api-key", "id:k3y\n")][..], SENT),
            (KEY.to_owned(), &[("api-key", "aWQ6azN5")], SENT),
            (WHOLE.to_owned(), &[("api-key", "aWQ6azN5")], SENT),
            (WHOLE.to_owned(), &[("apiKey", "id:k3y")], SENT),
            (WHOLE.to_owned(), &[("token", "t0ken")], "Bearer t0ken"),
            (
                WHOLE.to_owned(),
                &[
                    ("username", "elastic"),
                    ("password", "pw"),
                    ("api-key", "x:y"),
                ],
                "Basic ZWxhc3RpYzpwdw==",
            ),
            // As the operator of Kubernetes writes its secrets: the key is called like the user.
            (
                format!("username: elastic\n{KEY}"),
                &[("api-key", "pw")],
                "Basic ZWxhc3RpYzpwdw==",
            ),
            (
                "properties: {bearer: t0ken}".to_owned(),
                &[],
                "Bearer t0ken",
            ),
            (
                "properties: {headers: {Authorization: Custom x}}".to_owned(),
                &[],
                "Custom x",
            ),
        ] {
            let probe = build("elastic", &spec(&peer, &lines), secret).unwrap();
            assert_eq!(run(&probe, LONG).await.result, Ok(()), "{lines}");
            let heard = peer.heard().pop().unwrap();
            let sent = heard
                .lines()
                .find_map(|line| line.strip_prefix("Authorization: "));
            assert_eq!(sent, Some(expected), "{lines}");
        }
    }

    #[tokio::test]
    async fn no_form_of_an_api_key_is_printed() {
        for key in ["id:k3ys3cret", "aWQ6azN5czNjcmV0"] {
            let echo = json(
                "401 Unauthorized",
                r#"{"error":{"type":"security_exception","reason":"ApiKey aWQ6azN5czNjcmV0 is id:k3ys3cret: k3ys3cret"}}"#,
            );
            let peer = Peer::new([echo]).await;
            let lines = "secretRef: {name: login, key: key}";
            let probe = build("elastic", &spec(&peer, lines), &[("key", key)]).unwrap();
            assert_eq!(
                failure(&probe, LONG).await.message,
                "security_exception: ApiKey [redacted] is [redacted]: [redacted]"
            );
        }
    }

    #[tokio::test]
    async fn the_first_healthy_one_wins_and_the_others_are_told() {
        let healthy = Peer::new([ok(&health("green", 1, 0))]).await;
        let red = Peer::new([ok(&health("red", 1, 1))]).await;
        let html = Peer::new([ok("<html>")]).await;
        let at = |peer: &Peer| format!("http://127.0.0.1:{}", peer.port);
        let build = |urls: &[String]| {
            let spec = format!("url: '{}'", urls.join(", "));
            build("elastic", &spec, &[]).unwrap()
        };
        let probe = build(&[at(&html), at(&red), at(&healthy)]);
        assert_eq!(
            probe.endpoint(),
            format!("{},{},{}", at(&html), at(&red), at(&healthy))
        );
        let outcome = run(&probe, LONG).await;
        assert_eq!(outcome.result, Ok(()));
        assert_eq!(
            outcome.failed_before,
            [
                format!("`{}`: the answer (6 bytes) is not JSON", at(&html)),
                format!(
                    "`{}`: cluster `logs` is red (3 nodes, 1 shard unassigned), expected at least yellow",
                    at(&red)
                ),
            ]
        );
        // The first one that answered by a red cluster says more than a page.
        let outcome = run(&build(&[at(&html), at(&red)]), LONG).await;
        assert!(outcome.failed_before.is_empty());
        let failure = outcome.result.unwrap_err();
        assert_eq!(failure.reason, Reason::Unavailable);
        assert_eq!(failure.code.as_deref(), Some("red"));
        assert_eq!(
            failure.message,
            format!(
                "`{}`: the answer (6 bytes) is not JSON; `{}`: cluster `logs` is red (3 nodes, 1 shard unassigned), expected at least yellow",
                at(&html),
                at(&red)
            )
        );
        // Nobody is asked once one is healthy.
        let asked = red.heard().len();
        let outcome = run(&build(&[at(&healthy), at(&red)]), LONG).await;
        assert_eq!(outcome.result, Ok(()));
        assert!(outcome.failed_before.is_empty());
        assert_eq!(red.heard().len(), asked);
    }

    #[tokio::test]
    async fn one_that_hangs_does_not_hide_the_others() {
        let hangs = Peer::new([crate::testing::hold("")]).await;
        let healthy = Peer::new([ok(&health("green", 1, 0))]).await;
        let spec = format!(
            "url: http://127.0.0.1:{} http://127.0.0.1:{}",
            hangs.port, healthy.port
        );
        let outcome = run(
            &build("elastic", &spec, &[]).unwrap(),
            Duration::from_secs(2),
        )
        .await;
        assert_eq!(outcome.result, Ok(()));
        let [failed] = &outcome.failed_before[..] else {
            panic!("{outcome:?}");
        };
        assert!(
            failed.contains("the peer did not answer the request within"),
            "{failed}"
        );
        hangs.is_left(1).await;
    }

    #[tokio::test]
    async fn each_url_has_its_own_login() {
        let first = Peer::new([status("503 Service Unavailable", &[])]).await;
        let second = Peer::new([ok(&health("green", 1, 0))]).await;
        let spec = format!(
            "url: 'http://a:one,1@127.0.0.1:{},http://b:two@127.0.0.1:{}'",
            first.port, second.port
        );
        let outcome = run(&build("elastic", &spec, &[]).unwrap(), LONG).await;
        assert_eq!(outcome.result, Ok(()));
        let sent = |peer: &Peer, expected: &str| {
            let heard = peer.heard().pop().unwrap();
            let expected = format!("Authorization: Basic {expected}\r\n");
            assert!(heard.contains(&expected), "{heard}");
        };
        sent(&first, "YTpvbmUsMQ==");
        sent(&second, "Yjp0d28=");
    }

    #[test]
    fn any_login_is_what_was_given() {
        let url = "https://$(username):$(password)@a:9200,http://b:9200";
        check_logins(
            "elastic",
            url,
            percent_encoded,
            (":", ""),
            |probe: &Elastic| basic_login(probe.secrets()),
        );
    }

    #[test]
    fn the_server_is_told_by_its_headers() {
        let response = |headers: &[(&'static str, &str)]| {
            let mut map = http::HeaderMap::new();
            for (name, value) in headers {
                map.insert(*name, value.parse().unwrap());
            }
            Response {
                status: StatusCode::OK,
                headers: map,
                body: bytes::Bytes::new(),
                is_truncated: false,
                cut: None,
                elsewhere: None,
            }
        };
        for (headers, expected) in [
            (
                &[("x-elastic-product", "Elasticsearch")][..],
                Some("Elasticsearch"),
            ),
            (
                &[("x-opensearch-version", "OpenSearch/3.0.0 (opensearch)")],
                Some("OpenSearch 3.0.0"),
            ),
            (&[], None),
        ] {
            assert_eq!(server_of(&response(headers)).as_deref(), expected);
        }
    }

    #[test]
    fn a_definition_that_cannot_be_meant_is_refused() {
        for (spec, message) in [
            ("properties: {}", "there is no `url`"),
            (
                "url: http://h.test\nproperties: {minimumStatus: blue}",
                "`properties.minimumStatus`: expected `green`, `yellow` or `red`",
            ),
            (
                "url: http://h.test/_cluster/health",
                "bad `url`: it is the base that `/_cluster/health` is added to",
            ),
            (
                "url: http://a.test,ftp://b.test",
                "bad `url`: this scheme is not HTTP: use `http://` or `https://`",
            ),
            (
                "url: http://h.test\nproperties: {expectedStatus: 200}",
                "unknown property `expectedStatus`",
            ),
            (
                "url: http://h.test\nproperties: {bearer: a, headers: {Authorization: b}}",
                "the bearer token and another login both set the header `authorization`",
            ),
        ] {
            let invalid = build("elastic", spec, &[]).err().unwrap();
            assert_eq!(invalid[0].message, message);
        }
        let spec = "url: http://h.test\nproperties: {index: secret://login/index}";
        let invalid = build("elastic", spec, &[("index", " ")]).err().unwrap();
        assert_eq!(invalid[0].message, "`index` is empty");
        let invalid = build("elastic", "url: https://a.test:9200,b.test:9200", &[]);
        assert_eq!(
            invalid.err().unwrap()[0].hint.as_deref(),
            Some("several URLs are each written in full: `https://a:9200,https://b:9200`")
        );
        let secret = [("k", "id:key")];
        let spec = "url: http://h.test\nsecretRef: {name: login, key: k}\nproperties: {bearer: b}";
        let invalid = build("elastic", spec, &secret).err().unwrap();
        assert_eq!(
            invalid[0].message,
            "the bearer token and another login both set the header `authorization`"
        );
        for name in ["elasticsearch", "elastic-search", "OpenSearch"] {
            assert!(build(name, "url: http://h.test", &[]).is_ok());
        }
    }
}
