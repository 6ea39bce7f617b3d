//! `elastic` against a stand-in that answers as OpenSearch does, with nginx in front for logins, for
//! certificates, and for what the stand-in never says.

use conncheck_rig::{
    Elastic, ElasticKind, Nginx, NginxKind, PASSWORD, PATIENCE, Rig, faults, need,
};
use serde_json::{Value, json};

use crate::check::{
    LONGER, SHARED, SHORT, TIMEOUT, assert_down, attempt, attempt_with_secret, attempt_within,
    down, phases, up, with,
};
use crate::web::{
    self, agrees_with_check_http, hint, message, own_nginx, soon, summary, table, trusting,
    with_properties,
};

crate::trials![
    the_health_of_the_cluster,
    the_health_of_an_index,
    a_missing_index_is_told_at_once,
    a_red_cluster_and_one_without_a_master,
    errors_are_told_in_the_server_s_words,
    other_servers_are_told_apart,
    logs_in_with_a_password_and_with_an_api_key,
    wrong_and_missing_credentials,
    several_urls_are_tried_in_order,
    several_that_fail_are_all_named,
    verifies_and_records_the_certificate,
    every_fault_of_a_certificate,
    the_server_name_may_be_another,
    client_certificates_missing_wrong_and_right,
    plain_http_to_a_tls_port_and_the_reverse,
    a_stopped_server_is_a_timeout,
    verdicts_agree_with_check_http,
    leaves_no_connection_and_no_complaint_behind,
];

fn elastic(url: impl Into<String>) -> Value {
    json!({"type": "elastic", "url": url.into()})
}

/// Through nginx, at one of its origins.
fn proxied(origin: &str) -> Value {
    elastic(format!("{origin}/open"))
}

fn the_health_of_the_cluster() {
    let server = need!(Rig::shared().get(ElasticKind::Main));
    let outcome = up(elastic(server.url()));
    assert_eq!(phases(&outcome), ["resolve", "connect", "request"]);
    assert_eq!(outcome.http_status, Some(200));
    assert_eq!(outcome.server.as_deref(), Some("Elasticsearch"));
    table(
        &elastic(server.url()),
        &[
            (json!({"minimumStatus": "red"}), "up"),
            (json!({"minimumStatus": "yellow"}), "up"),
            (
                json!({"minimumStatus": "green"}),
                "assertion request yellow",
            ),
        ],
    );
    let spec = with_properties(elastic(server.url()), json!({"minimumStatus": "green"}));
    let outcome = attempt(&spec);
    assert_eq!(
        message(&outcome),
        "cluster `osmem` is yellow (1 node, 1 shard unassigned), expected green"
    );
    assert!(hint(&outcome).contains("allocation/explain"));

    let empty = need!(Rig::shared().get(ElasticKind::Empty));
    let green = json!({"minimumStatus": "green"});
    up(with_properties(elastic(empty.url()), green));

    let nginx = need!(Rig::shared().get(NginxKind::BeforeElastic));
    let outcome = up(elastic(nginx.url("/opensearch3")));
    assert_eq!(outcome.server.as_deref(), Some("OpenSearch 3.0.0"));
    assert!(soon(|| !nginx.requests("/opensearch3/").is_empty()));
}

fn the_health_of_an_index() {
    let server = need!(Rig::shared().get(ElasticKind::Main));
    let row = |index: &str, minimum: &str| json!({"index": index, "minimumStatus": minimum});
    let missing = "not_found request 408";
    table(
        &elastic(server.url()),
        &[
            (row("catalog", "green"), "up"),
            (row("orders", "yellow"), "up"),
            (row("orders", "green"), "assertion request yellow"),
            (row("catalog,orders", "yellow"), "up"),
            (row("cat*", "green"), "up"),
            (row("nothing", "red"), missing),
            (row("catalog,nothing", "yellow"), missing),
            (row("nothing-*", "green"), "not_found request -"),
        ],
    );
}

fn a_missing_index_is_told_at_once() {
    // Left to itself the server waits half a minute for it.
    let server = need!(Rig::shared().get(ElasticKind::Main));
    let spec = with_properties(elastic(server.url()), json!({"index": "nothing"}));
    let outcome = down(spec, "not_found", "request", "408");
    assert_eq!(
        message(&outcome),
        "there is no index `nothing` in cluster `osmem`"
    );
}

fn a_red_cluster_and_one_without_a_master() {
    let nginx = need!(Rig::shared().get(NginxKind::BeforeElastic));
    let red = elastic(nginx.url("/red"));
    let outcome = down(red.clone(), "unavailable", "request", "red");
    assert_eq!(
        message(&outcome),
        "cluster `rig` is red (1 node, 3 shards unassigned, 1 shard starting), expected at least yellow"
    );
    table(
        &red,
        &[
            (json!({"minimumStatus": "red"}), "up"),
            (json!({"minimumStatus": "green"}), "unavailable request red"),
            (json!({"index": "orders"}), "unavailable request red"),
        ],
    );
    down(elastic(nginx.url("/late")), "unavailable", "request", "408");
    let outcome = down(
        elastic(nginx.url("/masterless")),
        "unavailable",
        "request",
        "master_not_discovered_exception",
    );
    assert!(hint(&outcome).contains("no master"), "{outcome:#?}");
    // What it is asked to wait for a master is less than what we wait for its answer.
    let spec = elastic(nginx.url("/masterless?waiting"));
    let outcome = attempt_within(TIMEOUT, &spec);
    assert!(!outcome.is_up());
    let logged = nginx.wait_for_requests("waiting", 1);
    let wait = logged[0].uri.split("master_timeout=").nth(1).unwrap();
    let wait: u64 = wait.strip_suffix("ms").unwrap().parse().unwrap();
    assert!((1..=11_250).contains(&wait), "of 15 seconds: {wait}");
}

fn errors_are_told_in_the_server_s_words() {
    let nginx = need!(Rig::shared().get(NginxKind::BeforeElastic));
    let outcome = down(
        elastic(nginx.url("/blocked")),
        "unavailable",
        "request",
        "cluster_block_exception",
    );
    assert!(message(&outcome).contains("state not recovered"));
    let outcome = down(
        elastic(nginx.url("/uninitialized")),
        "unavailable",
        "request",
        "503",
    );
    assert!(hint(&outcome).contains("securityadmin"), "{outcome:#?}");
    // Its own, by the path that makes an index name of us.
    let server = need!(Rig::shared().get(ElasticKind::Main));
    let outcome = attempt(&elastic(format!("{}/_nothing", server.url())));
    let failure = outcome.result.expect_err("no such thing");
    assert_eq!(failure.reason.as_str(), "http_status", "{failure:?}");
    assert!(failure.code.is_some(), "{failure:?}");
}

fn other_servers_are_told_apart() {
    let nginx = need!(Rig::shared().get(NginxKind::BeforeElastic));
    let outcome = down(elastic(nginx.url("/page")), "protocol", "request", "");
    assert_eq!(outcome.http_status, Some(200));
    assert!(hint(&outcome).contains("login page"), "{outcome:#?}");
    let outcome = down(
        elastic(nginx.url("/dashboards")),
        "protocol",
        "request",
        "404",
    );
    assert!(hint(&outcome).contains("Kibana"), "{outcome:#?}");
    let outcome = down(elastic(nginx.url("")), "http_status", "request", "404");
    assert!(hint(&outcome).contains("9200"), "{outcome:#?}");
    for (path, reason, code) in [
        ("/private", "auth", "401"),
        ("/hook/nothing", "http_status", "404"),
    ] {
        down(elastic(nginx.url(path)), reason, "request", code);
    }
}

fn logs_in_with_a_password_and_with_an_api_key() {
    let nginx = need!(Rig::shared().get(NginxKind::BeforeElastic));
    let secured = trusting(elastic(nginx.https_url("/secured")));
    let outcome = up(with(
        secured.clone(),
        json!({"username": "probe", "password": PASSWORD}),
    ));
    assert_eq!(phases(&outcome), ["resolve", "connect", "tls", "request"]);
    let url = |user: &str, password: &str| {
        let url = format!("http://{user}:{password}@localhost:{}/secured", nginx.http);
        elastic(url)
    };
    up(url("probe", PASSWORD));
    up(with(
        url("nobody", "nothing"),
        json!({"username": "probe", "password": PASSWORD}),
    ));
    let keyed = with(
        secured.clone(),
        json!({"secretRef": {"name": "search", "key": "anything"}}),
    );
    for key in [Elastic::API_KEY, Elastic::API_KEY_ENCODED] {
        let outcome = attempt_with_secret(&[("anything", key)], &keyed);
        assert_eq!(summary(&outcome), "up", "{outcome:#?}");
    }
    // As the operator for Kubernetes writes them, the key of the secret is the user's name.
    let named = with(keyed.clone(), json!({"username": "probe"}));
    let outcome = attempt_with_secret(&[("anything", PASSWORD)], &named);
    assert_eq!(summary(&outcome), "up", "{outcome:#?}");
    let whole = with(secured.clone(), json!({"secretRef": {"name": "search"}}));
    for secret in [
        &[("username", "probe"), ("password", PASSWORD)][..],
        &[("api-key", Elastic::API_KEY)],
        &[("token", Nginx::BEARER)],
    ] {
        let outcome = attempt_with_secret(secret, &whole);
        assert_eq!(summary(&outcome), "up", "{outcome:#?}");
    }
    up(with_properties(secured, json!({"bearer": Nginx::BEARER})));

    let outcome = attempt_with_secret(&[("anything", Elastic::API_KEY_OF_GUEST)], &keyed);
    assert_eq!(
        summary(&outcome),
        "permission request security_exception",
        "{outcome:#?}"
    );
    assert!(hint(&outcome).contains("`monitor`"), "{outcome:#?}");
}

fn wrong_and_missing_credentials() {
    let nginx = need!(Rig::shared().get(NginxKind::BeforeElastic));
    let secured = elastic(nginx.url("/secured"));
    let accepts = "`Basic` (realm `security`) or `ApiKey`";
    let outcome = down(secured.clone(), "auth", "request", "security_exception");
    assert_eq!(hint(&outcome), format!("it wants a login: {accepts}"));
    let refused = format!("it refused the login that was sent; it accepts {accepts}");
    let wrong = json!({"username": "probe", "password": "wrong"});
    let outcome = down(
        with(secured.clone(), wrong),
        "auth",
        "request",
        "security_exception",
    );
    assert_eq!(hint(&outcome), refused);
    let keyed = with(
        secured,
        json!({"secretRef": {"name": "search", "key": "key"}}),
    );
    let outcome = attempt_with_secret(&[("key", "rig:wrong")], &keyed);
    assert_eq!(summary(&outcome), "auth request security_exception");
    assert_eq!(hint(&outcome), refused);
}

fn several_urls_are_tried_in_order() {
    let server = need!(Rig::shared().get(ElasticKind::Main));
    let nginx = need!(Rig::shared().get(NginxKind::BeforeElastic));
    let refused = faults::refused().unwrap();
    let dead = format!("http://{}", refused.addr());
    let outcome = up(elastic(format!(
        "{dead},{},{}",
        nginx.url("/red"),
        server.url()
    )));
    let [first, second] = &outcome.failed_before[..] else {
        panic!("{outcome:#?}");
    };
    assert!(
        first.starts_with(&format!("`{dead}`: ")) && first.contains("connection refused"),
        "{first}"
    );
    let red = format!("`http://localhost:{}`: cluster `rig` is red", nginx.http);
    assert!(second.starts_with(&red), "{second}");
    // One after a healthy one is not asked.
    let outcome = up(elastic(format!("{} {dead}", server.url())));
    assert!(outcome.failed_before.is_empty(), "{outcome:#?}");
    // One that hangs has its share of the time.
    let silent = faults::Peer::silent().unwrap();
    let spec = elastic(format!("http://{}, {}", silent.addr(), server.url()));
    let outcome = attempt_within(SHARED, &spec);
    assert!(outcome.is_up(), "{outcome:#?}");
    assert_eq!(outcome.failed_before.len(), 1);
    assert!(silent.everybody_left(PATIENCE));
}

fn several_that_fail_are_all_named() {
    let nginx = need!(Rig::shared().get(NginxKind::BeforeElastic));
    let refused = faults::refused().unwrap();
    let dead = format!("http://{}", refused.addr());
    let spec = elastic(format!(
        "{dead},{},{}",
        nginx.url("/red"),
        nginx.https_url("/open")
    ));
    // The red one says most: the cluster itself says it.
    let outcome = down(spec, "unavailable", "request", "red");
    let said = message(&outcome);
    for part in [
        format!("`{dead}`: "),
        format!("`http://localhost:{}`: cluster", nginx.http),
        format!("`https://localhost:{}`: the certificate", nginx.https),
    ] {
        assert!(said.contains(&part), "{said}");
    }
    let silent = faults::Peer::silent().unwrap();
    let spec = elastic(format!("{dead},http://{}", silent.addr()));
    let outcome = attempt_within(LONGER, &spec);
    assert_down(&outcome, "timeout", "request", "");
    assert!(message(&outcome).contains(&dead), "{outcome:#?}");
}

fn verifies_and_records_the_certificate() {
    let nginx = need!(Rig::shared().get(NginxKind::BeforeElastic));
    web::verifies_and_records_the_certificate(&nginx, proxied);
}

fn every_fault_of_a_certificate() {
    let nginx = need!(Rig::shared().get(NginxKind::BeforeElastic));
    web::every_fault_of_a_certificate(&nginx, proxied);
}

fn the_server_name_may_be_another() {
    let nginx = need!(Rig::shared().get(NginxKind::BeforeElastic));
    web::the_server_name_may_be_another(&nginx, proxied);
}

fn client_certificates_missing_wrong_and_right() {
    let nginx = need!(Rig::shared().get(NginxKind::BeforeElastic));
    web::client_certificates_missing_wrong_and_right(&nginx, proxied);
}

fn plain_http_to_a_tls_port_and_the_reverse() {
    let nginx = need!(Rig::shared().get(NginxKind::BeforeElastic));
    web::plain_http_to_a_tls_port_and_the_reverse(&nginx, proxied);
}

/// One that a test may stop.
fn own() -> (tempfile::TempDir, Elastic) {
    let dir = tempfile::tempdir().unwrap();
    let server = Elastic::start(ElasticKind::Main, dir.path(), "own-elastic").unwrap();
    (dir, server)
}

fn a_stopped_server_is_a_timeout() {
    need!(Rig::shared().get(ElasticKind::Main));
    let (_dir, server) = own();
    let spec = elastic(server.url());
    server.process().pause();
    assert_down(&attempt_within(SHORT, &spec), "timeout", "request", "");
    server.process().resume();
    up(spec.clone());
    drop(server);
    down(spec, "connect_refused", "connect", "");

    let (_dir, nginx) = own_nginx();
    nginx.process().pause();
    let spec = trusting(elastic(nginx.https_url("/open")));
    assert_down(&attempt_within(SHORT, &spec), "timeout", "tls", "");
}

fn verdicts_agree_with_check_http() {
    let nginx = need!(Rig::shared().get(NginxKind::BeforeElastic));
    let (_dir, server) = own();
    let healthy = "\"status\":\"(yellow|green)\"";
    let agree = |state: &str, is_up: bool, spec: Value, port: u16, path: &str, more: &[&str]| {
        let (port, path) = (port.to_string(), format!("{path}/_cluster/health"));
        let args = ["-p", &port, "-u", &path, "-r", healthy];
        agrees_with_check_http(state, is_up, &spec, &[&args, more].concat());
    };
    let http = |path: &str| elastic(nginx.url(path));
    agree("up", true, elastic(server.url()), server.port(), "", &[]);
    agree("red", false, http("/red"), nginx.http, "/red", &[]);
    agree("408", false, http("/late"), nginx.http, "/late", &[]);
    agree("a page", false, http("/page"), nginx.http, "/page", &[]);
    for (state, is_up, password) in [
        ("the right password", true, PASSWORD),
        ("a wrong password", false, "wrong"),
    ] {
        let login = json!({"username": "probe", "password": password});
        let spec = with(trusting(elastic(nginx.https_url("/secured"))), login);
        let login = format!("probe:{password}");
        let more = ["-S", "--sni", "-a", &login];
        agree(state, is_up, spec, nginx.https, "/secured", &more);
    }
    let spec = trusting(proxied(&format!("https://localhost:{}", nginx.expired)));
    let more = ["-S", "--sni", "-C", "1"];
    agree(
        "an expired certificate",
        false,
        spec,
        nginx.expired,
        "/open",
        &more,
    );
    server.process().pause();
    let spec = elastic(server.url());
    agree("SIGSTOPped", false, spec.clone(), server.port(), "", &[]);
    server.process().resume();
    server.process().stop();
    agree("stopped", false, spec, server.port(), "", &[]);
}

fn leaves_no_connection_and_no_complaint_behind() {
    let server = need!(Rig::shared().get(ElasticKind::Main));
    let dir = tempfile::tempdir().unwrap();
    let nginx = Nginx::before_elastic(Rig::shared().pki(), dir.path(), &server).unwrap();
    let before = nginx.sockets();
    let login = json!({"username": "probe", "password": PASSWORD});
    for spec in [
        elastic(nginx.url("/open")),
        trusting(elastic(nginx.https_url("/open"))),
        with(trusting(elastic(nginx.https_url("/secured"))), login),
        with_properties(
            elastic(nginx.url("/open")),
            json!({"index": "catalog", "minimumStatus": "green"}),
        ),
    ] {
        for _ in 0..3 {
            up(spec.clone());
        }
    }
    assert!(
        soon(|| nginx.sockets() <= before),
        "{} sockets, and {before} before",
        nginx.sockets()
    );
    assert_eq!(nginx.log(), "");
}
