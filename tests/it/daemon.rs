//! The daemon: its schedule, its metrics, its log, its end.

use std::io::Read as _;
use std::time::Duration;

use conncheck_rig::faults::Peer;
use conncheck_rig::{PATIENCE, Rig, need, prometheus};
use serde_json::json;

use crate::program::{Daemon, code, document, run, text, write};

crate::trials![
    exports_what_it_sees,
    metrics_pass_promtool_and_the_python_parsers_with_hostile_labels,
    speaks_openmetrics_and_gzip_when_asked,
    health_is_its_own_and_never_a_target,
    speaks_on_change_only,
    ends_well_on_sigterm,
    a_running_attempt_is_given_its_grace,
    an_address_in_use_is_an_error,
    a_broken_document_does_not_stop_the_others,
    a_secret_that_appears_is_used_without_a_restart,
];

/// A folder for definitions and one beside it for what is not.
fn folder() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let connections = dir.path().join("connections");
    std::fs::create_dir(&connections).unwrap();
    (dir, connections)
}

fn exports_what_it_sees() {
    let redis = need!(Rig::shared().redis());
    let pki = Rig::shared().pki();
    let (_dir, connections) = folder();
    let up = json!({"type": "redis", "url": redis.tls_url("probe"), "caCert": pki.ca.cert_pem, "labels": {"tier": "cache"}});
    let down = json!({"type": "redis", "url": format!("redis://localhost:{}", redis.port()), "password": "wrong-password"});
    write(
        &connections.join("a.yaml"),
        &[document("up", up), document("down", down)],
    );
    let daemon = Daemon::start(&connections, &["--interval", "1s", "--timeout", "30s"]);
    let identity = |name: &str| {
        format!("connection=\"{name}\",connection_namespace=\"default\",connection_type=\"redis\"")
    };
    let (up, down) = (identity("up"), identity("down"));
    let metrics = daemon.wait_for("second round", |metrics| {
        number(metrics, &format!("probe_attempts_total{{{up}}}")) >= 2.0
            && number(metrics, &format!("probe_attempts_total{{{down}}}")) >= 2.0
    });
    let value = |series: &str| number(&metrics, series);
    assert_eq!(value(&format!("probe_success{{{up}}}")), 1.0);
    assert_eq!(value(&format!("connection_up{{{up}}}")), 1.0);
    assert!(value(&format!("probe_duration_seconds{{{up}}}")) > 0.0);
    for phase in ["resolve", "connect", "tls", "auth", "request"] {
        assert!(
            value(&format!(
                "probe_phase_duration_seconds{{{up},phase=\"{phase}\"}}"
            )) > 0.0
        );
    }
    assert_eq!(
        value(&format!("probe_ssl_earliest_cert_expiry{{{up}}}")),
        pki.server.not_after as f64
    );
    assert_eq!(
        value(&format!(
            "probe_tls_version_info{{{up},version=\"TLSv1.3\"}}"
        )),
        1.0
    );
    assert!(value(&format!("probe_latency_seconds_count{{{up}}}")) >= 2.0);
    assert_eq!(
        value(&format!("probe_failures_total{{{up},reason=\"timeout\"}}")),
        0.0
    );
    assert_eq!(value(&format!("probe_success{{{down}}}")), 0.0);
    assert_eq!(
        value(&format!(
            "probe_failure_reason{{{down},reason=\"auth\",phase=\"auth\"}}"
        )),
        1.0
    );
    assert!(value(&format!("probe_failures_total{{{down},reason=\"auth\"}}")) >= 2.0);
    assert!(value(&format!("probe_consecutive_failures{{{down}}}")) >= 2.0);
    assert_eq!(value(&format!("connection_interval_seconds{{{up}}}")), 1.0);
    assert_eq!(value(&format!("connection_timeout_seconds{{{up}}}")), 30.0);
    assert!(metrics.contains("label_tier=\"cache\""));
    assert!(!metrics.contains(&format!(
        "probe_phase_duration_seconds{{{down},phase=\"request\"}}"
    )));
    for own in [
        "conncheck_build_info{",
        "conncheck_config_last_reload_successful 1",
        "conncheck_config_invalid_connections 0",
        "conncheck_scheduler_attempts_in_flight ",
        "conncheck_scheduler_lag_seconds_bucket{",
        "conncheck_scheduler_skipped_attempts_total{",
        "process_cpu_seconds_total ",
        "process_resident_memory_bytes ",
        "process_open_fds ",
        "process_max_fds ",
        "process_start_time_seconds ",
    ] {
        assert!(metrics.contains(own), "{own}:\n{metrics}");
    }
}

/// The value of a series, whatever the order of its labels; NaN where there is none.
pub(crate) fn number(metrics: &str, series: &str) -> f64 {
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let wanted: Vec<&str> = labels
        .trim_end_matches('}')
        .split(',')
        .filter(|label| !label.is_empty())
        .collect();
    metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .find(|(series, _)| {
            let (found, labels) = series.split_once('{').unwrap_or((series, "}"));
            let labels: Vec<&str> = labels
                .trim_end_matches('}')
                .split(',')
                .filter(|label| !label.is_empty())
                .collect();
            found == name
                && labels.len() == wanted.len()
                && wanted.iter().all(|label| labels.contains(label))
        })
        .map_or(f64::NAN, |(_, value)| value.parse().unwrap())
}

fn metrics_pass_promtool_and_the_python_parsers_with_hostile_labels() {
    let (_dir, connections) = folder();
    let mut hostile = document(
        "hostile",
        json!({
            "type": "redis", "url": "redis://127.0.0.1:1",
            "labels": {
                "quotes": "a \"b\" 'c' \\ \\n",
                "lines": "one\ntwo\r\nthree",
                "unicode": "größe ✓ \u{202e}evil",
                "control": "\u{1}\u{8}\u{1b}",
                "a/b-c.d": "1", "a_b_c_d": "2", "0digits": "3", "": "4",
                "braces": "} 1\nprobe_success{connection=\"fake\"} 1",
            },
        }),
    );
    hostile["metadata"]["namespace"] = json!("prod-1");
    write(&connections.join("a.yaml"), &[hostile]);
    let daemon = Daemon::start(&connections, &["--interval", "1s"]);
    daemon.wait_for("attempt", |metrics| {
        metrics.contains("probe_failure_reason{")
    });
    let classic = daemon.metrics();
    let open = daemon.get(
        "/metrics",
        &["Accept: application/openmetrics-text; version=1.0.0"],
    );
    assert!(
        !classic.contains("\nprobe_success{connection=\"fake\"}"),
        "{classic}"
    );
    prometheus::check_metrics(&classic).unwrap();
    prometheus::parse_text(&classic).unwrap();
    prometheus::parse_openmetrics(&open.text()).unwrap();
}

fn speaks_openmetrics_and_gzip_when_asked() {
    let (_dir, connections) = folder();
    write(
        &connections.join("a.yaml"),
        &[document("a", json!({"url": "redis://127.0.0.1:1"}))],
    );
    let daemon = Daemon::start(&connections, &[]);
    let classic = daemon.get("/metrics", &[]);
    assert!(
        classic
            .head
            .contains("content-type: text/plain; version=0.0.4"),
        "{}",
        classic.head
    );
    assert!(!classic.text().contains("# EOF"));
    let open = daemon.get(
        "/metrics",
        &["Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5"],
    );
    assert!(
        open.head
            .contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{}",
        open.head
    );
    assert!(open.text().ends_with("# EOF\n"));
    let zipped = daemon.get("/metrics", &["Accept-Encoding: gzip"]);
    assert!(
        zipped.head.contains("content-encoding: gzip"),
        "{}",
        zipped.head
    );
    let mut plain = String::new();
    flate2::read::GzDecoder::new(&zipped.body[..])
        .read_to_string(&mut plain)
        .unwrap();
    assert!(plain.contains("conncheck_build_info{"));
}

fn health_is_its_own_and_never_a_target() {
    let (_dir, connections) = folder();
    write(
        &connections.join("a.yaml"),
        &[document("a", json!({"url": "redis://127.0.0.1:1"}))],
    );
    let daemon = Daemon::start(&connections, &["--interval", "1s"]);
    daemon.wait_for("failure", |metrics| {
        metrics.contains("probe_failure_reason{")
    });
    assert_eq!(daemon.get("/-/healthy", &[]).status, 200);
    assert_eq!(daemon.get("/-/ready", &[]).status, 200);
    assert_eq!(daemon.get("/nothing/here", &[]).status, 404);
    assert_eq!(
        daemon
            .request("POST", "/metrics", &["Content-Length: 0"])
            .status,
        405
    );
}

fn speaks_on_change_only() {
    let redis = need!(Rig::shared().redis());
    let (dir, connections) = folder();
    let own = conncheck_rig::Redis::builder(Rig::shared().pki(), dir.path())
        .name("changing")
        .start()
        .unwrap();
    let steady = document(
        "steady",
        json!({"type": "redis", "url": redis.url("probe")}),
    );
    let changing = document(
        "changing",
        json!({"type": "redis", "url": own.url("probe")}),
    );
    write(&connections.join("a.yaml"), &[steady, changing]);
    let often = ["--interval", "1s", "--timeout", "30s"];
    let daemon = Daemon::start(
        &connections,
        &[&often[..], &["--log-format", "json"]].concat(),
    );
    let attempts = |metrics: &str, name: &str| {
        number(
            metrics,
            &format!(
                "probe_attempts_total{{connection=\"{name}\",connection_namespace=\"default\",connection_type=\"redis\"}}"
            ),
        )
    };
    daemon.wait_for("three rounds", |metrics| {
        attempts(metrics, "steady") >= 3.0 && attempts(metrics, "changing") >= 3.0
    });
    drop(own);
    daemon.wait_for("a failure or two", |metrics| {
        number(metrics, "probe_consecutive_failures{connection=\"changing\",connection_namespace=\"default\",connection_type=\"redis\"}") >= 2.0
    });
    let log = daemon.log();
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let about = |name: &str| {
        lines
            .iter()
            .filter(|line| {
                line.to_string().contains(&format!("\"{name}\""))
                    || line.to_string().contains(&format!("/{name}"))
            })
            .count()
    };
    assert_eq!(about("steady"), 1, "up, once: {log}");
    assert_eq!(about("changing"), 2, "up, then down: {log}");
    // The last attempt may have been under way when the server went.
    let reasons = ["connect_refused", "connect_reset"];
    assert!(reasons.iter().any(|reason| log.contains(reason)), "{log}");
}

fn ends_well_on_sigterm() {
    let (_dir, connections) = folder();
    write(
        &connections.join("a.yaml"),
        &[document("a", json!({"url": "redis://127.0.0.1:1"}))],
    );
    for signal in ["-TERM", "-INT"] {
        let mut daemon = Daemon::start(&connections, &[]);
        daemon.signal(signal);
        assert_eq!(daemon.exit_code(PATIENCE), Some(0), "{}", daemon.log());
    }
}

fn a_running_attempt_is_given_its_grace() {
    let peer = Peer::silent().unwrap();
    let (_dir, connections) = folder();
    let spec = json!({"url": format!("redis://{}", peer.addr())});
    write(&connections.join("a.yaml"), &[document("a", spec)]);
    let mut daemon = Daemon::start(
        &connections,
        &[
            "--interval",
            "1s",
            "--timeout",
            "60s",
            "--shutdown-grace",
            "500ms",
        ],
    );
    assert!(peer.has_accepted(1, PATIENCE));
    let asked = std::time::Instant::now();
    daemon.signal("-TERM");
    // It waited, and not for the minute that the attempt may take.
    assert_eq!(daemon.exit_code(PATIENCE), Some(0));
    assert!(asked.elapsed() >= Duration::from_millis(450), "it waited");
}

fn an_address_in_use_is_an_error() {
    let (_dir, connections) = folder();
    write(
        &connections.join("a.yaml"),
        &[document("a", json!({"url": "redis://127.0.0.1:1"}))],
    );
    let peer = Peer::silent().unwrap();
    let at = peer.addr().to_string();
    let output = run(&["--listen", &at, connections.to_str().unwrap()]);
    assert_eq!(code(&output), 1);
    assert!(
        text(&output.stderr).contains(&at),
        "{}",
        text(&output.stderr)
    );
}

fn a_broken_document_does_not_stop_the_others() {
    let (_dir, connections) = folder();
    let mut bad = document("bad", json!({"url": "redis://127.0.0.1:1"}));
    bad["spec"]["passwrd"] = json!("x");
    write(
        &connections.join("a.yaml"),
        &[bad, document("good", json!({"url": "redis://127.0.0.1:1"}))],
    );
    let daemon = Daemon::start(&connections, &["--interval", "1s"]);
    let metrics = daemon.wait_for("attempt", |metrics| metrics.contains("probe_success{"));
    assert!(
        metrics.contains("conncheck_config_invalid_connections 1"),
        "{metrics}"
    );
    assert!(
        daemon.log().contains("did you mean `password`?"),
        "{}",
        daemon.log()
    );
}

fn a_secret_that_appears_is_used_without_a_restart() {
    let redis = need!(Rig::shared().redis());
    let (dir, connections) = folder();
    let spec = json!({
        "url": format!("redis://localhost:{}", redis.port()),
        "secretRef": {"name": "late", "key": "password"},
    });
    write(&connections.join("a.yaml"), &[document("a", spec)]);
    let secrets = dir.path().join("secrets");
    std::fs::create_dir_all(secrets.join("late")).unwrap();
    let daemon = Daemon::start(
        &connections,
        &[
            "--interval",
            "1s",
            "--secrets-dir",
            secrets.to_str().unwrap(),
        ],
    );
    daemon.wait_for("failure", |metrics| {
        metrics.contains("reason=\"secret\",") || metrics.contains("reason=\"secret\"}")
    });
    std::fs::write(secrets.join("late/password"), "wrong-password").unwrap();
    daemon.wait_for("wrong password", |metrics| {
        metrics.contains("probe_failure_reason{") && metrics.contains("phase=\"auth\"")
    });
    std::fs::write(secrets.join("late/password"), conncheck_rig::PASSWORD).unwrap();
    daemon.wait_for("success", |metrics| {
        number(metrics, "probe_success{connection=\"a\",connection_namespace=\"default\",connection_type=\"redis\"}") == 1.0
    });
}
