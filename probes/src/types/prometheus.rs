//! `prometheus`: a query is answered, and with something.
//!
//! Proves that the query API of Prometheus, or of whatever speaks it (Thanos, Mimir,
//! VictoriaMetrics), lets us in and evaluates a query. Without a query of the owner's it is
//! `vector(1)`, which asks for no series: it proves the API, and nothing about the data.
//!
//! A result counts if there is anything in it: a series whatever its value (`NaN` too), a scalar, a
//! string. Only the scalar `NaN` does not, since that is what `scalar()` makes of nothing. Warnings,
//! and a partial response that is told by one, fail nothing as long as there is a result.
//!
//! Redirects are followed, as Grafana and the official clients follow them, and the login goes to no
//! other origin.

use conncheck_config::{Field, Secret, SecretKey};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::IgnoredAny;
use url::Url;

use crate::attempt::Attempt;
use crate::cause::Cause;
use crate::http::{Request, Response, below};
use crate::login::{
    API_KEY, CLIENT_ID, CLIENT_SECRET, Headers, LoginSettings, Name, OAuthSettings, TOKEN,
};
use crate::outcome::{Failure, Phase, Reason};
use crate::probe::{Access, Invalid, ProbeType};
use crate::site::Site;

/// `spec.properties` of a Prometheus connection.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Settings {
    /// The query that must give something, in place of `vector(1)`.
    query: Option<String>,
    /// Headers to send, such as the tenant's `X-Scope-OrgID`: a mapping, or a list of `name` and
    /// `value`. They go to the origin of `url` only, not to where it may redirect.
    headers: Headers,
    /// A token to send as `Authorization: Bearer …`.
    bearer: Option<Secret>,
    /// The header that the secret's key is sent in, in place of `Authorization: Bearer …`.
    api_key_header: Option<Name>,
    /// Where to get a token from (OAuth 2 client credentials).
    oauth: Option<OAuthSettings>,
    /// Accept any certificate.
    insecure_skip_verify: Option<bool>,
    /// The name that the certificate must be for, in place of the URL's host.
    server_name: Option<String>,
}

pub(crate) struct Prometheus {
    site: Site,
    /// Where the query goes, with the query in it.
    url: Url,
}

impl ProbeType for Prometheus {
    type Settings = Settings;

    const FURTHER_REASONS: &'static [Reason] =
        &[Reason::Permission, Reason::HttpStatus, Reason::Assertion];

    const SECRET_KEYS: &'static [SecretKey] = &[TOKEN, API_KEY, CLIENT_ID, CLIENT_SECRET];

    fn new(access: Access<'_>, settings: Settings) -> Result<Self, Invalid> {
        let base = access.url()?.expose();
        let tls = access.tls_options(settings.insecure_skip_verify, settings.server_name);
        let login = LoginSettings {
            headers: settings.headers,
            bearer: settings.bearer,
            api_key_header: settings.api_key_header,
            oauth: settings.oauth,
            ..LoginSettings::default()
        };
        let site = Site::new(&access, base, tls, login)?;
        if site.url().query_pairs().any(|(name, _)| name == "query") {
            return Err(access
                .invalid(Field::Url, "bad `url`: there is a `query` in it")
                .hint(
                    "`url` is the base, without `/api/v1/query`; the query is `properties.query`",
                ));
        }
        let query = settings.query.as_deref().unwrap_or("vector(1)");
        let url = below(site.url(), &["api", "v1", "query"], &[("query", query)])
            .map_err(|error| access.invalid(Field::Properties, format!("`query`: {error}")))?;
        Ok(Self { site, url })
    }

    fn endpoint(&self) -> String {
        self.site.endpoint()
    }

    fn secrets(&self) -> &[Secret] {
        self.site.secrets()
    }

    async fn probe(&self, attempt: &mut Attempt) -> Result<(), Failure> {
        // A POST would not be followed through a redirect, and some proxies let only GET pass.
        let request = Request::get(self.url.clone(), self.site.log_in(attempt).await?);
        let response = self.site.follow(attempt, request, |_| false).await?;
        if response.status.is_success() {
            response.whole()?;
        }
        self.judge(&response)
            .map_err(|cause| cause.in_phase(Phase::Request))
    }
}

/// What the query API answers.
#[derive(Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
enum Answer {
    Success {
        data: Data,
        warnings: Option<Vec<String>>,
    },
    #[serde(rename_all = "camelCase")]
    Error {
        error_type: String,
        #[serde(default)]
        error: String,
    },
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data {
    Vector(Vec<IgnoredAny>),
    Matrix(Vec<IgnoredAny>),
    Scalar(IgnoredAny, String),
    String(IgnoredAny, IgnoredAny),
}

impl Prometheus {
    fn judge(&self, response: &Response) -> Result<(), Cause> {
        match response.json() {
            Ok(Answer::Error { error_type, error }) => {
                Err(self.refused(response, error_type, &error))
            }
            Ok(Answer::Success { data, warnings }) if response.status.is_success() => {
                judge_result(&data, &warnings.unwrap_or_default())
            }
            Err(cause) if response.status.is_success() => Err(self.not_the_api(response, cause)),
            Ok(_) | Err(_) => Err(self.not_answered(response)),
        }
    }

    /// An error of the API's own.
    fn refused(&self, response: &Response, error_type: String, error: &str) -> Cause {
        let by_status = self.site.unexpected(response, "a result");
        // VictoriaMetrics gives the status in place of a type.
        let (reason, hint) = match error_type.as_str() {
            "bad_data" | "400" => (Reason::Assertion, "is `properties.query` right?"),
            "execution" | "422" => (
                Reason::Assertion,
                "the query is PromQL, and cannot be evaluated on the data that there is",
            ),
            "timeout" => (
                Reason::Unavailable,
                "the query took longer than the server lets one take",
            ),
            "canceled" | "unavailable" | "too_many_requests" | "429" | "503" => {
                (Reason::Unavailable, "")
            }
            _ if response.status.is_success() => (Reason::Assertion, ""),
            _ => (by_status.reason, ""),
        };
        let cause = Cause {
            reason,
            message: format!("{error_type}: {error}"),
            ..by_status
        };
        let cause = cause.code(error_type);
        match hint {
            "" => cause,
            hint => cause.hint(hint),
        }
    }

    /// A status without the API's words: whoever answered is in front of it, or none.
    fn not_answered(&self, response: &Response) -> Cause {
        let cause = self.site.unexpected(response, "a result");
        match (response.status.as_u16(), self.surplus()) {
            (401, _) if response.text().contains("no org id") => cause.hint(
                "it wants to know the tenant: set `headers: {X-Scope-OrgID: …}`",
            ),
            (404 | 405, Some(surplus)) => cause.hint(surplus),
            (404, None) => cause.hint(
                "is the API below a prefix? (Mimir: `/prometheus`; VictoriaMetrics' cluster: `/select/0/prometheus`)",
            ),
            _ => cause,
        }
    }

    /// An answer that is well, and no answer to a query.
    fn not_the_api(&self, response: &Response, cause: Cause) -> Cause {
        if response.is_truncated {
            let cause = Cause {
                reason: Reason::Assertion,
                ..cause
            };
            return cause.hint("let the query count or aggregate: `count(…)`");
        }
        match (&response.elsewhere, self.surplus()) {
            (Some(elsewhere), _) => cause.hint(format!(
                "a redirect led to `{elsewhere}`, which answered this: a login page? then it wants a login in front of the API"
            )),
            (None, Some(surplus)) => cause.hint(surplus),
            (None, None) if response.is_html() => cause.hint(
                "a web page answered: a login page in front of the API, or another server",
            ),
            (None, None) => cause,
        }
    }

    /// What is often left at the end of a base URL.
    fn surplus(&self) -> Option<String> {
        const SURPLUS: [&str; 7] = [
            "/api/v1/query",
            "/api/v1",
            "/api",
            "/graph",
            "/query",
            "/metrics",
            "/-/ready",
        ];
        let path = self.site.url().path().trim_end_matches('/');
        let found = SURPLUS.iter().find(|end| path.ends_with(**end))?;
        Some(format!(
            "`url` is the base that `/api/v1/query` is added to: leave `{found}` out"
        ))
    }
}

fn judge_result(data: &Data, warnings: &[String]) -> Result<(), Cause> {
    let what = match data {
        Data::Vector(series) if series.is_empty() => "an empty vector",
        Data::Matrix(series) if series.is_empty() => "an empty matrix",
        Data::Scalar(_, value) if value == "NaN" => "the scalar `NaN`",
        Data::Vector(_) | Data::Matrix(_) | Data::Scalar(..) | Data::String(..) => return Ok(()),
    };
    let cause = Cause::new(
        Reason::Assertion,
        format!("expected a result of the query, got {what}"),
    );
    Err(match (warnings, data) {
        ([first, ..], _) => cause.hint(format!("it warns: {first}")),
        ([], Data::Scalar(..)) => cause.hint("`scalar()` makes it of anything but one series"),
        ([], _) => cause.hint("no series matches the query now"),
    })
}

#[cfg(test)]
mod tests {
    use crate::outcome::Failure;
    use crate::testing::{LONG, Peer, Script, answer, build, failure, ok, run, status};

    fn spec(peer: &Peer, lines: &str) -> String {
        format!("url: http://127.0.0.1:{}\n{lines}", peer.port)
    }

    fn json(status: &str, body: &str) -> Script {
        answer(format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    }

    fn success(data: &str) -> Script {
        json(
            "200 OK",
            &format!(r#"{{"status":"success","data":{data}}}"#),
        )
    }

    async fn verdict(script: Script) -> String {
        let peer = Peer::new([script]).await;
        match run(&build("prometheus", &spec(&peer, ""), &[]).unwrap(), LONG)
            .await
            .result
        {
            Ok(()) => "up".to_owned(),
            Err(failure) => format!("{}: {}", failure.reason, failure.message),
        }
    }

    async fn refused(script: Script) -> Failure {
        let peer = Peer::new([script]).await;
        failure(&build("prometheus", &spec(&peer, ""), &[]).unwrap(), LONG).await
    }

    #[tokio::test]
    async fn the_query_goes_below_the_base() {
        let peer = Peer::new([success(r#"{"resultType":"scalar","result":[1,"1"]}"#)]).await;
        for (base, query, expected) in [
            ("", "", "/api/v1/query?query=vector%281%29"),
            ("/", "", "/api/v1/query?query=vector%281%29"),
            (
                "/prometheus",
                "",
                "/prometheus/api/v1/query?query=vector%281%29",
            ),
            (
                "/select/0/prometheus/",
                "up{job=~'a.+&b=c#d'} == 1",
                "/select/0/prometheus/api/v1/query?query=up%7Bjob%3D%7E%27a.%2B%26b%3Dc%23d%27%7D+%3D%3D+1",
            ),
            (
                "/a%2Fb?partial_response=false&x=%26",
                "",
                "/a%2Fb/api/v1/query?partial_response=false&x=%26&query=vector%281%29",
            ),
        ] {
            let mut spec = format!("url: 'http://127.0.0.1:{}{base}'", peer.port);
            if !query.is_empty() {
                spec += &format!("\nproperties: {{query: \"{query}\"}}");
            }
            let outcome = run(&build("prometheus", &spec, &[]).unwrap(), LONG).await;
            assert_eq!(outcome.result, Ok(()));
            let heard = peer.heard().pop().unwrap();
            let line = heard.lines().next().unwrap();
            assert_eq!(line, format!("GET {expected} HTTP/1.1"));
        }
    }

    #[tokio::test]
    async fn a_result_counts_if_there_is_anything_in_it() {
        for (data, expected) in [
            (
                r#"{"resultType":"vector","result":[{"metric":{},"value":[1.5,"1"]}]}"#,
                "up",
            ),
            (
                r#"{"resultType":"vector","result":[{"metric":{"a":"b"},"value":[1,"NaN"]}]}"#,
                "up",
            ),
            (
                r#"{"resultType":"vector","result":[{"metric":{},"histogram":[1,{"count":"0"}]}]}"#,
                "up",
            ),
            (
                r#"{"resultType":"matrix","result":[{"metric":{},"values":[[1,"1"]]}]}"#,
                "up",
            ),
            (r#"{"resultType":"scalar","result":[1.1,"0"]}"#, "up"),
            (r#"{"resultType":"scalar","result":[1.1,"+Inf"]}"#, "up"),
            (r#"{"resultType":"string","result":[1.1,""]}"#, "up"),
            (
                r#"{"result":[],"resultType":"vector"}"#,
                "assertion: expected a result of the query, got an empty vector",
            ),
            (
                r#"{"resultType":"matrix","result":[]}"#,
                "assertion: expected a result of the query, got an empty matrix",
            ),
            (
                r#"{"resultType":"scalar","result":[1,"NaN"]}"#,
                "assertion: expected a result of the query, got the scalar `NaN`",
            ),
            (
                r#"{"resultType":"streams","result":[]}"#,
                "protocol: the answer (64 bytes of application/json) is JSON, but not what was expected",
            ),
            (
                r#"{"resultType":"vector","result":null}"#,
                "protocol: the answer (65 bytes of application/json) is JSON, but not what was expected",
            ),
        ] {
            assert_eq!(verdict(success(data)).await, expected, "{data}");
        }
    }

    #[tokio::test]
    async fn errors_of_the_api_are_told_from_those_of_the_way() {
        let error = |status, ty: &str| {
            json(
                status,
                &format!(r#"{{"status":"error","errorType":"{ty}","error":"why not"}}"#),
            )
        };
        for (script, reason, code, message) in [
            (
                error("400 Bad Request", "bad_data"),
                "assertion",
                "bad_data",
                "bad_data: why not",
            ),
            (
                error("422 Unprocessable Entity", "execution"),
                "assertion",
                "execution",
                "execution: why not",
            ),
            (
                error("422 Unprocessable Entity", "422"),
                "assertion",
                "422",
                "422: why not",
            ),
            (
                error("503 Service Unavailable", "timeout"),
                "unavailable",
                "timeout",
                "timeout: why not",
            ),
            (
                error("499", "canceled"),
                "unavailable",
                "canceled",
                "canceled: why not",
            ),
            (
                error("503 Service Unavailable", "unavailable"),
                "unavailable",
                "unavailable",
                "unavailable: why not",
            ),
            (
                error("500 Internal Server Error", "internal"),
                "http_status",
                "internal",
                "internal: why not",
            ),
            (
                error("403 Forbidden", "forbidden"),
                "permission",
                "forbidden",
                "forbidden: why not",
            ),
            (
                error("200 OK", "internal"),
                "assertion",
                "internal",
                "internal: why not",
            ),
            (
                json("503 Service Unavailable", "Service Unavailable"),
                "unavailable",
                "503",
                "expected a result, got 503 Service Unavailable",
            ),
            (
                json(
                    "502 Bad Gateway",
                    r#"{"status":"success","data":{"resultType":"scalar","result":[1,"1"]}}"#,
                ),
                "http_status",
                "502",
                "expected a result, got 502 Bad Gateway",
            ),
            (
                json("403 Forbidden", "{}"),
                "permission",
                "403",
                "expected a result, got 403 Forbidden",
            ),
            (
                ok("<html>Sign in</html>"),
                "protocol",
                "",
                "the answer (20 bytes) is not JSON",
            ),
            (
                ok(""),
                "protocol",
                "",
                "the answer (an empty body) is not JSON",
            ),
            (
                ok("[]"),
                "protocol",
                "",
                "the answer (2 bytes) is JSON, but not what was expected",
            ),
            (
                ok(r#"{"status":"success"}"#),
                "protocol",
                "",
                "the answer (20 bytes) is JSON, but not what was expected",
            ),
            (
                ok(r#"{"status":"success","data":"#),
                "protocol",
                "",
                "the answer (27 bytes) is not JSON",
            ),
        ] {
            let failure = refused(script).await;
            assert_eq!(failure.message, message);
            assert_eq!(failure.reason.as_str(), reason, "{message}");
            assert_eq!(failure.code.unwrap_or_default(), code, "{message}");
        }
    }

    #[tokio::test]
    async fn what_goes_wrong_has_its_way_out() {
        let html = || {
            answer("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>")
        };
        let nothing = r#"{"status":"success","data":{"resultType":"vector","result":[]},"warnings":["no store could be reached"]}"#;
        for (path, script, hint) in [
            (
                "",
                html(),
                "a web page answered: a login page in front of the API, or another server",
            ),
            (
                "/graph",
                html(),
                "`url` is the base that `/api/v1/query` is added to: leave `/graph` out",
            ),
            (
                "/prom/api/v1/",
                status("404 Not Found", &[]),
                "`url` is the base that `/api/v1/query` is added to: leave `/api/v1` out",
            ),
            (
                "/api/v1/query",
                status("404 Not Found", &[]),
                "`url` is the base that `/api/v1/query` is added to: leave `/api/v1/query` out",
            ),
            (
                "",
                status("404 Not Found", &[]),
                "is the API below a prefix? (Mimir: `/prometheus`; VictoriaMetrics' cluster: `/select/0/prometheus`)",
            ),
            (
                "",
                answer("HTTP/1.1 401 Unauthorized\r\nContent-Length: 10\r\n\r\nno org id\n"),
                "it wants to know the tenant: set `headers: {X-Scope-OrgID: …}`",
            ),
            (
                "",
                success(r#"{"resultType":"vector","result":[]}"#),
                "no series matches the query now",
            ),
            (
                "",
                json("200 OK", nothing),
                "it warns: no store could be reached",
            ),
        ] {
            let peer = Peer::new([script]).await;
            let spec = format!("url: http://127.0.0.1:{}{path}", peer.port);
            let failure = failure(&build("prometheus", &spec, &[]).unwrap(), LONG).await;
            assert_eq!(failure.hint.as_deref(), Some(hint));
        }
    }

    #[tokio::test]
    async fn a_redirect_to_a_login_page_names_the_place() {
        let sso = Peer::new([ok("<html>")]).await;
        let location = format!("Location: http://127.0.0.1:{}/login?to=x", sso.port);
        let peer = Peer::new([status("302 Found", &[&location])]).await;
        let failure = failure(&build("prometheus", &spec(&peer, ""), &[]).unwrap(), LONG).await;
        assert_eq!(failure.reason.as_str(), "protocol");
        assert_eq!(
            failure.hint.as_deref(),
            Some(&*format!(
                "a redirect led to `http://127.0.0.1:{}`, which answered this: a login page? then it wants a login in front of the API",
                sso.port
            ))
        );
    }

    #[tokio::test]
    async fn an_answer_that_is_too_long_is_not_called_nonsense() {
        let series = r#"{"metric":{},"value":[1,"1"]},"#.repeat(40_000);
        let body = format!(
            r#"{{"status":"success","data":{{"resultType":"vector","result":[{}]}}}}"#,
            series.trim_end_matches(',')
        );
        let failure = refused(ok(&body)).await;
        assert_eq!(failure.reason.as_str(), "assertion");
        assert_eq!(
            failure.message,
            "the answer is longer than the 1 MiB that is read"
        );
        assert_eq!(
            failure.hint.as_deref(),
            Some("let the query count or aggregate: `count(…)`")
        );
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_proves_nothing() {
        let half = answer("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"status\":\"success\"");
        assert_eq!(refused(half).await.reason.as_str(), "connect_reset");
    }

    #[test]
    fn a_definition_that_cannot_be_meant_is_refused() {
        for (spec, message) in [
            (
                "url: http://h.test/api/v1/query?query=up",
                "bad `url`: there is a `query` in it",
            ),
            (
                "url: h.test:9090",
                "bad `url`: this scheme is not HTTP: use `http://` or `https://`",
            ),
            ("properties: {}", "there is no `url`"),
            (
                "url: http://h.test\nproperties: {tenant: a}",
                "unknown property `tenant`",
            ),
        ] {
            let invalid = build("prometheus", spec, &[]).err().unwrap();
            assert_eq!(invalid[0].message, message);
        }
        let long = format!(
            "url: http://h.test\nproperties: {{query: '{}'}}",
            "a".repeat(70_000)
        );
        let invalid = build("prometheus", &long, &[]).err().unwrap();
        assert_eq!(
            invalid[0].message,
            "`query`: it cannot be sent: a character in it is not allowed, or it is too long"
        );
        let probe = build("prometheus", "url: https://u:p@h.test/x?y=z", &[]).unwrap();
        assert_eq!(probe.endpoint(), "https://h.test:443");
    }
}
