//! The command line: modes, exit codes, selection, reports.

use std::io::Write;
use std::process::Stdio;

use conncheck_probes::types;
use conncheck_rig::faults::Peer;
use conncheck_rig::{Rig, dead_mount, need};
use serde_json::{Value, json};

use crate::program::{code, conncheck, document, report, run, text, write};

crate::trials![
    all_up_is_0_and_one_down_is_1,
    an_invalid_definition_is_2_and_hides_nobody,
    nothing_to_probe_is_2,
    usage_is_2,
    every_mistake_at_once_and_no_network,
    from_standard_input_folders_and_globs,
    selects_by_label_type_and_name,
    the_json_report_has_every_key,
    the_json_of_check_config_has_every_key,
    the_text_report_has_the_failing_ones_last,
    a_closed_pipe_is_the_end_and_not_a_panic,
    flag_beats_environment_beats_file,
    a_secret_from_each_source,
    a_missing_secret_touches_nobody_else,
    secrets_on_a_dead_mount_touch_nobody_else,
    a_value_that_is_missing_is_no_mistake_of_the_definition,
    paused_connections_are_not_probed,
    every_mistake_that_a_type_sees_has_its_message,
    the_deadline_holds,
    the_schema_is_printed,
];

fn the_json_of_check_config_has_every_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    let head = "apiVersion: mission-control.flanksource.com/v1\nkind: Connection\n";
    let text = format!(
        "{head}metadata: {{name: bad}}\nspec: {{type: Valkey, url: 'redis://h', passwrd: hunter2-a}}\n---\n\
         {head}metadata: {{name: soon}}\nspec: {{url: 'redis://h', secretRef: {{name: cache}}}}\n---\n\
         {head}metadata: {{name: good}}\nspec: {{url: 'redis://h', password: hunter2-b}}\n---\n\
         kind: Deployment\nspec: hunter2-c\n"
    );
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let (code, mut report) = report(&["--check-config", "--output", "json", file]);
    assert_eq!(code, 2);
    assert!(!report.to_string().contains("hunter2"), "{report}");
    let hint = report["warnings"][0]["hint"].take();
    assert!(hint.as_str().unwrap().starts_with("looked in: "), "{hint}");
    let expected = json!({
        "summary": {
            "files": 1, "valid": 2, "invalid": 1, "errors": 1, "warnings": 1, "passedOver": 1,
        },
        "errors": [{
            "file": file, "line": 4, "column": 40, "type": "redis", "connection": "default/bad",
            "message": "unknown field `passwrd` in `spec`", "hint": "did you mean `password`?",
        }],
        "warnings": [{
            "file": file, "line": 9, "column": 37, "type": "redis", "connection": "default/soon",
            "message": "secret `default/cache` was not found", "hint": null,
        }],
        "files": [file],
        "passedOver": [{"file": file, "line": 16, "kind": "Deployment"}],
    });
    assert_eq!(report, expected);
}

fn the_schema_is_printed() {
    let output = run(&["--schema"]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed, conncheck::schema::schema());
}

fn redis_up(name: &str) -> Option<Value> {
    let redis = need!(Rig::shared().redis(), None);
    Some(document(
        name,
        json!({"type": "redis", "url": redis.url("probe")}),
    ))
}

fn redis_down(name: &str) -> Value {
    // Port 1 is nobody's.
    document(name, json!({"type": "redis", "url": "redis://127.0.0.1:1"}))
}

fn all_up_is_0_and_one_down_is_1() {
    let Some(up) = redis_up("up") else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    write(&file, std::slice::from_ref(&up));
    let output = run(&["--check-once", file.to_str().unwrap()]);
    assert_eq!(code(&output), 0, "{}", text(&output.stdout));
    write(&file, &[up, redis_down("down")]);
    let output = run(&["--check-once", file.to_str().unwrap()]);
    assert_eq!(code(&output), 1, "{}", text(&output.stdout));
}

fn an_invalid_definition_is_2_and_hides_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let mut bad = redis_down("bad");
    bad["spec"]["passwrd"] = json!("x");
    write(&dir.path().join("a.yaml"), &[bad, redis_down("good")]);
    let (code, report) = report(&[
        "--check-once",
        "--output",
        "json",
        dir.path().to_str().unwrap(),
    ]);
    assert_eq!(code, 2);
    assert_eq!(report["summary"]["total"], 1);
    assert_eq!(report["summary"]["invalid"], 1);
    assert_eq!(report["connections"][0]["name"], "good");
    let error = &report["errors"][0];
    assert_eq!(error["connection"], "default/bad");
    assert_eq!(error["hint"], "did you mean `password`?");
    assert_eq!(error["line"], 1);
}

fn nothing_to_probe_is_2() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    assert_eq!(code(&run(&["--check-once", path])), 2, "an empty folder");
    write(&dir.path().join("a.yaml"), &[redis_down("a")]);
    let output = run(&["--check-once", "--name", "nobody", path]);
    assert_eq!(code(&output), 2, "nobody selected");
    assert!(
        text(&output.stderr).contains("nothing to probe")
            || text(&output.stdout).contains("nothing to probe")
    );
}

fn usage_is_2() {
    assert_eq!(code(&run(&["--no-such-flag"])), 2);
    assert_eq!(code(&run(&[])), 2, "no path");
    assert_eq!(code(&run(&["--check-once", "/nowhere/at/all.yaml"])), 2);
    assert_eq!(
        code(&run(&["--check-once", "--timeout", "0s", "x.yaml"])),
        2
    );
    assert_eq!(
        code(&run(&["--check-once", "--resolver", "nonsense", "x.yaml"])),
        2
    );
}

fn every_mistake_at_once_and_no_network() {
    let peer = Peer::silent().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let at = peer.addr();
    let good = document(
        "good",
        json!({"type": "redis", "url": format!("redis://{at}")}),
    );
    let file = dir.path().join("a.yaml");
    write(&file, std::slice::from_ref(&good));
    let output = run(&["--check-config", file.to_str().unwrap()]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let bad = |name: &str, spec: Value| document(name, spec);
    write(
        &file,
        &[
            good,
            bad(
                "one",
                json!({"type": "redis", "url": format!("redis://{at}"), "properties": {"databse": 1}}),
            ),
            bad(
                "two",
                json!({"type": "postgres", "url": format!("postgres://a@{at}/b?sslmod=require")}),
            ),
            bad(
                "three",
                json!({"type": "http", "url": format!("http://{at}"), "caCert": "not PEM"}),
            ),
            bad(
                "four",
                json!({"type": "slack", "url": "https://hooks.slack.com"}),
            ),
        ],
    );
    let output = run(&["--check-config", file.to_str().unwrap()]);
    assert_eq!(code(&output), 2);
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    for (name, hint) in [
        ("one", "did you mean `database`?"),
        ("two", "did you mean `sslmode`?"),
        ("three", "it must be PEM text"),
        ("four", "supported types: "),
    ] {
        assert!(said.contains(&format!("`{name}`")), "{name}: {said}");
        assert!(said.contains(hint), "{hint}: {said}");
    }
    assert_eq!(peer.accepted(), 0, "no network");
}

fn from_standard_input_folders_and_globs() {
    let mut child = conncheck(&["--check-once", "--output", "json", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let documents = redis_down("from-stdin").to_string();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(documents.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["connections"][0]["name"], "from-stdin");

    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    write(&dir.path().join("a.yaml"), &[redis_down("a")]);
    write(&dir.path().join("sub/b.yml"), &[redis_down("b")]);
    write(&dir.path().join("sub/c.json"), &[redis_down("c")]);
    std::fs::write(dir.path().join("README.txt"), "not: [ours").unwrap();
    assert_eq!(names(&[dir.path().to_str().unwrap()]), ["a", "b", "c"]);
    let glob = format!("{}/sub/*.y*ml", dir.path().display());
    assert_eq!(names(&[&glob]), ["b"]);
}

/// The names in the report, in their order.
fn names(args: &[&str]) -> Vec<String> {
    let all: Vec<&str> = ["--check-once", "--output", "json"]
        .iter()
        .chain(args)
        .copied()
        .collect();
    let (_, report) = report(&all);
    let mut names: Vec<String> = report["connections"]
        .as_array()
        .unwrap()
        .iter()
        .map(|connection| connection["name"].as_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

fn selects_by_label_type_and_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let mut blue = redis_down("blue-cache");
    blue["spec"]["labels"] = json!({"tier": "cache", "zone": "a"});
    let mut green = redis_down("green-cache");
    green["spec"]["labels"] = json!({"tier": "cache", "zone": "b"});
    let http = document("page", json!({"url": "http://127.0.0.1:1"}));
    write(&dir.path().join("a.yaml"), &[blue, green, http]);
    assert_eq!(names(&[path]), ["blue-cache", "green-cache", "page"]);
    assert_eq!(
        names(&["--select", "tier=cache", path]),
        ["blue-cache", "green-cache"]
    );
    assert_eq!(
        names(&["--select", "tier=cache,zone=b", path]),
        ["green-cache"]
    );
    assert_eq!(names(&["--type", "HTTPS", path]), ["page"]);
    assert_eq!(
        names(&["--name", "*-cache", path]),
        ["blue-cache", "green-cache"]
    );
    assert_eq!(names(&["--name", "default/p*", path]), ["page"]);
}

fn the_json_report_has_every_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    write(&file, &[redis_down("a")]);
    let (_, report) = report(&["--check-once", "--output", "json", file.to_str().unwrap()]);
    let connection = report["connections"][0].as_object().unwrap();
    for key in [
        "namespace",
        "name",
        "type",
        "up",
        "reason",
        "phase",
        "code",
        "message",
        "hint",
        "startedAt",
        "durationSeconds",
        "phases",
        "tls",
        "endpoint",
        "server",
        "credentialExpiry",
        "failedBefore",
    ] {
        assert!(connection.contains_key(key), "{key}");
    }
    assert_eq!(connection["up"], false);
    assert_eq!(connection["reason"], "connect_refused");
    assert_eq!(connection["phase"], "connect");
    assert!(connection["tls"].is_null());
    assert!(report["errors"].as_array().unwrap().is_empty());
}

fn the_text_report_has_the_failing_ones_last() {
    let Some(up) = redis_up("zebra") else { return };
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a.yaml"), &[redis_down("aardvark"), up]);
    let output = run(&["--check-once", dir.path().to_str().unwrap()]);
    let report = text(&output.stdout);
    let place = |word: &str| {
        report
            .find(word)
            .unwrap_or_else(|| panic!("{word}: {report}"))
    };
    assert!(place("zebra") < place("aardvark"), "{report}");
    assert!(place("aardvark") < place("connect_refused"), "{report}");
    assert!(report.contains("hint: "), "{report}");
    assert!(
        !report.contains('\u{1b}'),
        "no colours where there is no terminal: {report:?}"
    );
    assert!(report.contains("1 up, 1 down"), "{report}");
}

fn a_closed_pipe_is_the_end_and_not_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let many: Vec<Value> = (0..500)
        .map(|index| redis_down(&format!("c{index}")))
        .collect();
    write(&dir.path().join("a.yaml"), &many);
    let mut child = conncheck(&["--check-once", dir.path().to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(
        !text(&output.stderr).contains("panicked"),
        "{}",
        text(&output.stderr)
    );
    assert!(output.status.code().is_some());
}

fn flag_beats_environment_beats_file() {
    let peer = Peer::silent().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    let spec = json!({"type": "redis", "url": format!("redis://{}", peer.addr())});
    write(&file, &[document("a", spec)]);
    let settings = dir.path().join("settings.yml");
    std::fs::write(&settings, "defaults: {timeout: 300ms}\n").unwrap();
    let message = |flag: &[&str], environment: Option<&str>| {
        let mut command = conncheck(&["--check-once", "--output", "json"]);
        command.args([
            "--config",
            settings.to_str().unwrap(),
            file.to_str().unwrap(),
        ]);
        command.args(flag);
        if let Some(timeout) = environment {
            command.env("CONNCHECK_TIMEOUT", timeout);
        }
        let output = command.output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        report["connections"][0]["message"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert!(
        message(&[], None).contains("300ms"),
        "{}",
        message(&[], None)
    );
    assert!(message(&[], Some("200ms")).contains("200ms"));
    assert!(message(&["--timeout", "100ms"], Some("200ms")).contains("100ms"));
}

fn a_secret_from_each_source() {
    let redis = need!(Rig::shared().redis());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    let path = file.to_str().unwrap();
    let spec = json!({
        "type": "redis", "url": format!("redis://localhost:{}", redis.port()),
        "secretRef": {"name": "cache-login"},
    });
    let connection = document("a", spec);
    let check = |args: &[&str], environment: &[(&str, &str)]| {
        let mut command = conncheck(&["--check-once"]);
        command
            .args(args)
            .arg(path)
            .envs(environment.iter().copied());
        let output = command.output().unwrap();
        (code(&output), text(&output.stdout))
    };
    write(&file, std::slice::from_ref(&connection));
    let (exit, report) = check(&[], &[]);
    assert_eq!(exit, 1);
    assert!(
        report.contains("secret `default/cache-login` was not found"),
        "{report}"
    );

    let (exit, report) = check(
        &[],
        &[
            ("CONNCHECK_SECRET_CACHE_LOGIN_USERNAME", "probe"),
            (
                "CONNCHECK_SECRET_CACHE_LOGIN_PASSWORD",
                conncheck_rig::PASSWORD,
            ),
        ],
    );
    assert_eq!(exit, 0, "{report}");

    let secrets = dir.path().join("secrets/default/cache-login");
    std::fs::create_dir_all(&secrets).unwrap();
    std::fs::write(secrets.join("username"), "probe\n").unwrap();
    std::fs::write(
        secrets.join("password"),
        format!("{}\n", conncheck_rig::PASSWORD),
    )
    .unwrap();
    let (exit, report) = check(
        &[
            "--secrets-dir",
            dir.path().join("secrets").to_str().unwrap(),
        ],
        &[],
    );
    assert_eq!(exit, 0, "{report}");

    let credentials = dir.path().join("credentials");
    std::fs::create_dir(&credentials).unwrap();
    std::fs::write(
        credentials.join("cache-login.password"),
        conncheck_rig::PASSWORD,
    )
    .unwrap();
    let (exit, report) = check(
        &[],
        &[("CREDENTIALS_DIRECTORY", credentials.to_str().unwrap())],
    );
    assert_eq!(exit, 0, "{report}");

    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cache-login"},
        "stringData": {"username": "probe", "password": conncheck_rig::PASSWORD},
    });
    write(&file, &[connection, secret]);
    let (exit, report) = check(&[], &[]);
    assert_eq!(exit, 0, "{report}");
}

fn a_missing_secret_touches_nobody_else() {
    let Some(up) = redis_up("up") else { return };
    let peer = Peer::silent().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let spec = json!({
        "type": "redis", "url": format!("redis://{}", peer.addr()),
        "secretRef": {"name": "nowhere", "key": "password"},
    });
    write(&dir.path().join("a.yaml"), &[document("missing", spec), up]);
    let (exit, report) = report(&[
        "--check-once",
        "--output",
        "json",
        dir.path().to_str().unwrap(),
    ]);
    assert_eq!(exit, 1);
    let of = |name: &str| {
        let connections = report["connections"].as_array().unwrap();
        connections
            .iter()
            .find(|connection| connection["name"] == name)
            .unwrap()
            .clone()
    };
    assert_eq!(of("up")["up"], true);
    assert_eq!(of("missing")["reason"], "secret");
    assert!(of("missing")["phase"].is_null());
    assert_eq!(
        of("missing")["endpoint"],
        format!("redis://{}", peer.addr())
    );
    assert_eq!(peer.accepted(), 0, "nothing is attempted");
}

fn paused_connections_are_not_probed() {
    let peer = Peer::silent().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut paused = document(
        "paused",
        json!({"type": "redis", "url": format!("redis://{}", peer.addr())}),
    );
    paused["metadata"]["annotations"] = json!({"conncheck/paused": "true"});
    write(&dir.path().join("a.yaml"), &[paused]);
    let output = run(&["--check-once", dir.path().to_str().unwrap()]);
    assert_eq!(code(&output), 2, "nothing to probe");
    assert_eq!(peer.accepted(), 0);
}

fn the_deadline_holds() {
    let peer = Peer::silent().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let many: Vec<Value> = (0..50)
        .map(|index| {
            document(
                &format!("c{index}"),
                json!({"type": "redis", "url": format!("redis://{}", peer.addr())}),
            )
        })
        .collect();
    write(&dir.path().join("a.yaml"), &many);
    let (exit, report) = report(&[
        "--check-once",
        "--output",
        "json",
        "--timeout",
        "300ms",
        dir.path().to_str().unwrap(),
    ]);
    assert_eq!(exit, 1);
    for connection in report["connections"].as_array().unwrap() {
        assert_eq!(connection["reason"], "timeout");
        let duration = connection["durationSeconds"].as_f64().unwrap();
        assert!((0.3..30.0).contains(&duration), "{connection}");
    }
}

/// More of them than may be read at a time, and one that is well.
fn secrets_on_a_dead_mount_touch_nobody_else() {
    let redis = need!(Rig::shared().redis());
    let dir = tempfile::tempdir().unwrap();
    let (folder, login) = (dir.path().join("dead"), dir.path().join("password"));
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(&login, conncheck_rig::PASSWORD).unwrap();
    let url = format!("redis://probe@localhost:{}", redis.port());
    let reads = |name: &str, path: &std::path::Path| {
        let password = format!("file://{}", path.display());
        document(
            name,
            json!({"type": "redis", "url": url, "password": password}),
        )
    };
    let mut all: Vec<Value> = (0..20)
        .map(|number| reads(&format!("dead-{number}"), &folder.join("password")))
        .collect();
    all.push(reads("live", &login));
    let file = dir.path().join("a.yaml");
    write(&file, &all);
    let beside = |args: &[&str]| {
        let mut command = conncheck(&["--timeout", "3s", file.to_str().unwrap()]);
        command.args(args);
        dead_mount::run_beside(&folder, &command)
    };

    let output = need!(beside(&["--check-once", "--output", "json"]));
    assert_eq!(code(&output), 1, "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    for connection in report["connections"].as_array().unwrap() {
        if connection["name"] == "live" {
            assert_eq!(connection["up"], true, "{connection}");
            continue;
        }
        assert_eq!(connection["reason"], "secret");
        assert_eq!(
            connection["message"],
            "reading its secrets took longer than 3s"
        );
    }

    let output = need!(beside(&["--check-config"]));
    let said = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(code(&output), 0, "{said}");
    assert_eq!(said.matches("reading its secrets did not end").count(), 20);

    // Nobody asked for those on the mount, so nobody reads them, though they are more than may hang.
    all.extend((20..300).map(|number| reads(&format!("dead-{number}"), &folder.join("password"))));
    write(&file, &all);
    let output = need!(beside(&["--check-once", "--name", "live"]));
    assert_eq!(code(&output), 0, "{}", text(&output.stdout));
}

fn a_value_that_is_missing_is_no_mistake_of_the_definition() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    let missing = |key: &str| format!("secret://missing/{key}");
    write(
        &file,
        &[
            document(
                "a",
                json!({"type": "redis", "url": "redis://h", "properties": {"database": missing("db")}}),
            ),
            document(
                "b",
                json!({"type": "postgres", "url": "postgres://u@h/db", "caCert": missing("ca"), "clientCert": missing("crt"), "clientKey": missing("key")}),
            ),
            document(
                "c",
                json!({"type": "http", "url": "http://h", "properties": {"expectedStatus": "env://NOWHERE", "bodyRegex": "file:///nowhere", "bearer": missing("token")}}),
            ),
            document(
                "d",
                json!({"type": "postgres", "secretRef": {"name": "missing"}}),
            ),
            document(
                "e",
                json!({"type": "postgres", "url": "postgres://h/db", "secretRef": {"name": "missing"}}),
            ),
            document(
                "f",
                json!({"type": "http", "url": missing("url"), "properties": {"bodyContains": 1}}),
            ),
        ],
    );
    let output = run(&["--check-config", file.to_str().unwrap()]);
    assert_eq!(code(&output), 0, "{}", text(&output.stdout));
    let output = run(&["--check-once", "--output", "json", file.to_str().unwrap()]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    for connection in report["connections"].as_array().unwrap() {
        assert_eq!(connection["reason"], "secret", "{connection}");
    }
}

/// One mistake a file, that only its type can see; its message is read in review like prose.
fn every_mistake_that_a_type_sees_has_its_message() {
    let folder =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config/testdata/invalid/types");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let mut messages = String::new();
    for file in files {
        let output = conncheck(&["--check-config", &file])
            .current_dir(&folder)
            .output()
            .unwrap();
        assert_eq!(code(&output), 2, "{file}: {}", text(&output.stdout));
        let said = text(&output.stdout);
        let said = said.lines().filter(|line| !line.contains(" in 1 file"));
        messages += &said.collect::<Vec<_>>().join("\n");
        messages += "\n\n";
    }
    // Which types there are is no part of a message's wording.
    let all: Vec<_> = types::all().iter().map(|info| info.name).collect();
    insta::assert_snapshot!(messages.replace(&all.join(", "), "<all of them>"));
}
