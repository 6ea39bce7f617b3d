//! `amqp` against real RabbitMQ.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use conncheck_rig::{
    Certified, PASSWORD, PATIENCE, RabbitMq, RabbitMqFront, RabbitMqKind, Rig, Shown, need,
};
use serde_json::{Value, json};

use crate::check::{
    SHORT, assert_down, attempt_with_secret, attempt_within, down, hint_of, phases,
    refuses_every_fault, soon, trusting, up, with,
};

crate::trials![
    logs_in_by_password,
    credentials_of_the_spec_win_over_the_url,
    logs_in_by_certificate,
    wrong_and_missing_credentials,
    every_form_of_a_vhost,
    a_vhost_that_is_missing_forbidden_or_down,
    a_queue_that_is_there_missing_or_anothers,
    limits_that_are_reached_are_unavailable,
    speaks_tls_and_records_the_certificate,
    every_mode_of_tls,
    every_fault_of_a_certificate,
    client_certificates_missing_wrong_and_right,
    an_alarm_is_unavailable_and_costs_no_message,
    a_stopped_process_is_a_timeout,
    a_broker_in_maintenance_refuses,
    a_plain_scheme_on_a_tls_port_and_the_reverse,
    the_broker_s_log_has_no_complaint,
    leaves_no_connection_behind,
];

/// The broker that is paused and alarmed, for one test at a time.
fn own() -> Result<(Arc<RabbitMq>, MutexGuard<'static, ()>), conncheck_rig::Skipped> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    Ok((Rig::shared().get(RabbitMqKind::Own)?, alone))
}

fn spec(url: String) -> Value {
    json!({"type": "amqp", "url": url})
}

fn with_client(spec: &Value, client: &Certified) -> Value {
    with(
        spec.clone(),
        json!({"clientCert": client.cert_pem, "clientKey": client.key_pem}),
    )
}

fn logs_in_by_password() {
    let rabbitmq = need!(Rig::shared().rabbitmq());
    let outcome = up(spec(rabbitmq.url("probe")));
    assert_eq!(phases(&outcome), ["resolve", "connect", "auth", "request"]);
    let server = outcome.server.expect("it says who it is");
    assert!(server.starts_with("RabbitMQ 3."), "{server}");
    up(json!({"type": "rabbitmq", "url": rabbitmq.url("probe")}));
    for options in [
        "auth_mechanism=plain",
        "auth_mechanism=amqplain",
        "auth_mechanism=anonymous&auth_mechanism=amqplain",
        "heartbeat=1&channel_max=1&frame_max=4096&connection_timeout=2000",
        "heartbeat=0&channel_max=0&frame_max=0&connection_timeout=0",
    ] {
        up(spec(format!("{}?{options}", rabbitmq.url("probe"))));
    }
    let url = format!("{}?auth_mechanism=anonymous", rabbitmq.url("probe"));
    down(spec(url), "auth", "auth", "");
}

fn credentials_of_the_spec_win_over_the_url() {
    let rabbitmq = need!(Rig::shared().rabbitmq());
    let url = format!("amqp://nobody:nothing@localhost:{}", rabbitmq.port());
    up(json!({"type": "amqp", "url": url, "username": "probe", "password": PASSWORD}));
    let url = format!("amqp://probe@localhost:{}", rabbitmq.port());
    let key =
        json!({"type": "amqp", "url": url, "secretRef": {"name": "login", "key": "whatever"}});
    let outcome = attempt_with_secret(&[("whatever", PASSWORD)], &key);
    assert!(outcome.is_up(), "{outcome:#?}");
    let url = format!("amqp://localhost:{}", rabbitmq.port());
    let whole = json!({"type": "amqp", "url": url, "secretRef": {"name": "login"}});
    let login = [("username", "probe"), ("password", PASSWORD)];
    let outcome = attempt_with_secret(&login, &whole);
    assert!(outcome.is_up(), "{outcome:#?}");
}

fn logs_in_by_certificate() {
    let rabbitmq = need!(Rig::shared().rabbitmq());
    let pki = Rig::shared().pki();
    let bare = trusting(spec(format!("amqps://localhost:{}", rabbitmq.tls_port())));
    let outcome = up(with_client(&bare, &pki.client));
    assert_eq!(
        outcome.credential_expiry.map(|time| time.as_second()),
        Some(pki.client.not_after)
    );
    // The certificate speaks for us, whatever the URL says.
    let url = format!(
        "amqps://nobody:nothing@localhost:{}/%2f?auth_mechanism=external",
        rabbitmq.tls_port()
    );
    up(with_client(&trusting(spec(url)), &pki.client));
    let url = format!(
        "amqps://localhost:{}?cacertfile={}&certfile={}&keyfile={}&verify=verify_peer&fail_if_no_peer_cert=true",
        rabbitmq.tls_port(),
        pki.ca.cert_path.display(),
        pki.client.cert_path.display(),
        pki.client.key_path.display(),
    );
    up(spec(url));
    // With credentials it is one of TLS alone.
    let wrong = json!({"username": "probe", "password": "wrong"});
    down(
        with(with_client(&bare, &pki.client), wrong),
        "auth",
        "auth",
        "403",
    );
}

fn wrong_and_missing_credentials() {
    let rabbitmq = need!(Rig::shared().rabbitmq());
    let bare = spec(format!("amqp://localhost:{}", rabbitmq.port()));
    for (username, password) in [("probe", "wrong"), ("unknown", PASSWORD)] {
        let wrong = json!({"username": username, "password": password});
        let spec = with(bare.clone(), wrong);
        let outcome = down(spec, "auth", "auth", "403");
        let message = outcome.result.as_ref().unwrap_err().message.clone();
        assert!(message.starts_with("403 ACCESS_REFUSED"), "{message}");
        assert!(hint_of(outcome).contains("log"));
    }
    let outcome = down(bare, "auth", "auth", "403");
    assert!(hint_of(outcome).contains("`guest`"));
}

fn every_form_of_a_vhost() {
    let rabbitmq = need!(Rig::shared().rabbitmq());
    let url = rabbitmq.url("probe");
    for (path, vhost) in [
        ("", None),
        ("/%2f", None),
        ("/team%2Fa", None),
        ("", Some("team/a")),
        ("/nowhere", Some("/")),
    ] {
        let spec = spec(format!("{url}{path}"));
        up(match vhost {
            None => spec,
            Some(vhost) => with(spec, json!({"properties": {"vhost": vhost}})),
        });
    }
}

fn a_vhost_that_is_missing_forbidden_or_down() {
    let rabbitmq = need!(Rig::shared().rabbitmq());
    let missing = format!("{}/nowhere", rabbitmq.url("probe"));
    let outcome = down(spec(missing), "not_found", "auth", "530");
    assert_eq!(phases(&outcome), ["resolve", "connect", "auth"]);
    let empty = format!("{}/", rabbitmq.url("probe"));
    let outcome = down(spec(empty), "not_found", "auth", "530");
    assert!(hint_of(outcome).contains("ends in `/`"));
    let forbidden = rabbitmq.url("stranger");
    down(spec(forbidden), "permission", "auth", "530");
    rabbitmq
        .erlang(
            "rabbit_vhost:add(<<\"down\">>, <<\"rig\">>), \
             rabbit_auth_backend_internal:set_permissions(<<\"probe\">>, <<\"down\">>, <<>>, <<>>, <<>>, <<\"rig\">>), \
             rabbit_vhost_sup_sup:stop_and_delete_vhost(<<\"down\">>)",
        )
        .unwrap();
    let stopped = format!("{}/down", rabbitmq.url("probe"));
    down(spec(stopped), "unavailable", "auth", "541");
}

fn a_queue_that_is_there_missing_or_anothers() {
    let rabbitmq = need!(Rig::shared().rabbitmq());
    let queue = |user: &str, path: &str, name: &str| {
        let spec = spec(format!("{}{path}", rabbitmq.url(user)));
        with(spec, json!({"properties": {"queue": name}}))
    };
    up(queue("probe", "", "orders"));
    up(queue("probe", "/team%2fa", "orders"));
    // To be told of a queue RabbitMQ asks for no permission.
    up(queue("nobody", "", "orders"));
    let outcome = down(
        queue("probe", "", "invoices"),
        "not_found",
        "request",
        "404",
    );
    let message = outcome.result.unwrap_err().message;
    assert_eq!(message, "404 NOT_FOUND - no queue 'invoices' in vhost '/'");
    let declared = "rabbit_amqqueue:lookup({resource, <<\"/\">>, queue, <<\"invoices\">>})";
    assert_eq!(rabbitmq.erlang(declared).unwrap(), "{error, not_found}");

    let owner = "whereis(rabbit_alarm)";
    let name = "{resource, <<\"/\">>, queue, <<\"private\">>}";
    let declare = format!(
        "element(1, rabbit_amqqueue:declare({name}, false, false, [], {owner}, <<\"rig\">>))"
    );
    assert_eq!(rabbitmq.erlang(&declare).unwrap(), "new");
    up(queue("probe", "", "private"));
}

fn limits_that_are_reached_are_unavailable() {
    let rabbitmq = need!(Rig::shared().rabbitmq());
    let full = format!("{}/full", rabbitmq.url("probe"));
    down(spec(full), "unavailable", "auth", "530");
    down(spec(rabbitmq.url("limited")), "unavailable", "auth", "530");
    let channelless = spec(rabbitmq.url("channelless"));
    down(channelless, "unavailable", "request", "530");
}

fn speaks_tls_and_records_the_certificate() {
    let rabbitmq = need!(Rig::shared().rabbitmq());
    let pki = Rig::shared().pki();
    let outcome = up(trusting(spec(rabbitmq.tls_url("probe"))));
    assert_eq!(
        phases(&outcome),
        ["resolve", "connect", "tls", "auth", "request"]
    );
    let tls = outcome.tls.expect("recorded");
    assert!(tls.verified);
    assert_eq!(tls.version.as_deref(), Some("TLSv1.3"));
    assert_eq!(
        tls.earliest_expiry.map(|time| time.as_second()),
        Some(pki.server.not_after)
    );

    let insecure = json!({"insecureSkipVerify": true});
    let outcome = up(with(spec(rabbitmq.tls_url("probe")), insecure));
    assert!(!outcome.tls.expect("recorded").verified);

    let front = need!(Rig::shared().get(RabbitMqFront(Shown::Intermediate)));
    let outcome = up(trusting(spec(at(front.port()))));
    assert!(outcome.tls.expect("recorded").verified);
}

fn at(port: u16) -> String {
    format!("amqps://probe:{PASSWORD}@localhost:{port}")
}

/// What the URL says of verification, times what the connection says, for a certificate that is good,
/// one for another name, and one of an authority that nobody knows.
fn every_mode_of_tls() {
    let rabbitmq = need!(Rig::shared().rabbitmq());
    let wrong_name = need!(Rig::shared().get(RabbitMqFront(Shown::WrongName)));
    let unknown_ca = need!(Rig::shared().get(RabbitMqFront(Shown::UnknownCa)));
    let ca = &Rig::shared().pki().ca;
    let file = format!("cacertfile={}", ca.cert_path.display());
    let ca_cert = json!({"caCert": ca.cert_pem});
    let nothing = json!({});
    let ports = [rabbitmq.tls_port(), wrong_name.port(), unknown_ca.port()];
    let (up_, name, unknown) = ("", "tls_name_mismatch", "tls_unknown_ca");
    for (options, more, expected) in [
        ("", &nothing, [unknown; 3]),
        ("verify=verify_peer", &nothing, [unknown; 3]),
        ("verify=verify_none", &nothing, [up_; 3]),
        ("", &ca_cert, [up_, name, unknown]),
        ("verify=verify_peer", &ca_cert, [up_, name, unknown]),
        // A `caCert` is always verified against.
        ("verify=verify_none", &ca_cert, [up_, name, unknown]),
        (&file, &nothing, [up_, name, unknown]),
        (
            &format!("{file}&verify=verify_peer"),
            &nothing,
            [up_, name, unknown],
        ),
        (&format!("{file}&verify=verify_none"), &nothing, [up_; 3]),
        (
            &format!("{file}&server_name_indication=elsewhere.test"),
            &nothing,
            [name, up_, unknown],
        ),
        (
            &format!("{file}&server_name_indication=disable"),
            &nothing,
            [up_, name, unknown],
        ),
        (
            "",
            &json!({"caCert": ca.cert_pem, "insecureSkipVerify": true}),
            [up_; 3],
        ),
        (
            "",
            &json!({"caCert": ca.cert_pem, "properties": {"serverName": "elsewhere.test"}}),
            [name, up_, unknown],
        ),
    ] {
        for (port, expected) in ports.iter().zip(expected) {
            let spec = with(spec(format!("{}?{options}", at(*port))), more.clone());
            match expected {
                "" => drop(up(spec)),
                reason => drop(down(spec, reason, "tls", "")),
            }
        }
    }
}

fn every_fault_of_a_certificate() {
    refuses_every_fault(RabbitMqFront, |front| [trusting(spec(at(front.port())))]);
}

fn client_certificates_missing_wrong_and_right() {
    let (rabbitmq, _alone) = need!(own());
    let pki = Rig::shared().pki();
    let spec = trusting(spec(rabbitmq.tls_url("probe")));
    down(spec.clone(), "tls_other", "tls", "certificate_required");
    let unknown = with_client(&spec, &pki.client_unknown_ca);
    down(unknown, "tls_other", "tls", "unknown_ca");
    let expired = with_client(&spec, &pki.client_expired);
    down(expired, "tls_other", "tls", "certificate_expired");
    let outcome = up(with_client(&spec, &pki.client));
    assert_eq!(
        outcome.credential_expiry.map(|time| time.as_second()),
        Some(pki.client.not_after)
    );
}

fn an_alarm_is_unavailable_and_costs_no_message() {
    let (rabbitmq, _alone) = need!(own());
    let received = "[maps:get(messages_received_total, Counters, 0) || \
                    Counters <- maps:values(rabbit_global_counters:overview())]";
    let before = rabbitmq.erlang(received).unwrap();
    // So that the broker misses soon what it has blocked.
    let heartbeat = |user: &str| spec(format!("{}?heartbeat=1", rabbitmq.url(user)));
    for (alarm, over, message) in [
        (
            "vm_memory_monitor:set_vm_memory_high_watermark({absolute, 1})",
            "vm_memory_monitor:set_vm_memory_high_watermark({absolute, 400000000})",
            "the broker lets us in and takes no messages: low on memory",
        ),
        (
            "rabbit_alarm:set_alarm({{resource_limit, disk, node()}, []})",
            "rabbit_alarm:clear_alarm({resource_limit, disk, node()})",
            "the broker lets us in and takes no messages: low on disk",
        ),
    ] {
        rabbitmq.erlang(alarm).unwrap();
        // Also one who may not write: nothing is asked for.
        for user in ["probe", "nobody"] {
            let outcome = down(
                heartbeat(user),
                "unavailable",
                "request",
                "connection.blocked",
            );
            assert_eq!(outcome.result.unwrap_err().message, message);
        }
        // Nor may a connection be left that is missed by nobody.
        let without = spec(format!("{}?heartbeat=0", rabbitmq.url("probe")));
        down(without, "unavailable", "request", "connection.blocked");
        let missed = "lists:all(fun([{timeout, Seconds}]) -> Seconds > 0 andalso Seconds =< 10 end, \
                      rabbit_networking:connection_info_all([timeout]))";
        assert_eq!(rabbitmq.erlang(missed).unwrap(), "true");
        // Whoever only consumes is not blocked.
        let consumer = json!({"properties": {"resourceAlarms": false}});
        up(with(spec(rabbitmq.url("probe")), consumer));
        rabbitmq.erlang(over).unwrap();
        up(heartbeat("probe"));
    }
    assert_eq!(rabbitmq.erlang(received).unwrap(), before);
    for user in ["probe", "nobody"] {
        is_left(&rabbitmq, user);
    }
}

/// Waits until the broker knows of no connection of that user.
fn is_left(rabbitmq: &RabbitMq, user: &str) {
    let is_left = || rabbitmq.connections_of(user).unwrap() == 0;
    assert!(soon(is_left), "connections are left");
}

fn a_stopped_process_is_a_timeout() {
    let (rabbitmq, _alone) = need!(own());
    rabbitmq.process().pause();
    let outcome = attempt_within(SHORT, &spec(rabbitmq.url("probe")));
    assert_down(&outcome, "timeout", "auth", "");
    let message = outcome.result.unwrap_err().message;
    assert!(
        message.starts_with("the broker did not greet us within 400ms"),
        "{message}"
    );
    let spec_with_tls = trusting(spec(rabbitmq.tls_url("probe")));
    assert_down(&attempt_within(SHORT, &spec_with_tls), "timeout", "tls", "");
    rabbitmq.process().resume();
    up(spec(rabbitmq.url("probe")));
}

fn a_broker_in_maintenance_refuses() {
    let (rabbitmq, _alone) = need!(own());
    rabbitmq
        .erlang("rabbit_maintenance:suspend_all_client_listeners()")
        .unwrap();
    down(
        spec(rabbitmq.url("probe")),
        "connect_refused",
        "connect",
        "",
    );
    rabbitmq
        .erlang("rabbit_maintenance:resume_all_client_listeners()")
        .unwrap();
    up(spec(rabbitmq.url("probe")));
}

fn a_plain_scheme_on_a_tls_port_and_the_reverse() {
    let rabbitmq = need!(Rig::shared().rabbitmq());
    let plain = format!("amqp://probe:{PASSWORD}@localhost:{}", rabbitmq.tls_port());
    let outcome = down(spec(plain), "protocol", "auth", "");
    assert!(hint_of(outcome).contains("amqps://"));
    down(spec(at(rabbitmq.port())), "protocol", "tls", "");
}

/// What the broker writes of connections of ours, whether they have ended well or not: who came, that
/// a login or a vhost was refused, who went. No word of one that was broken off.
fn the_broker_s_log_has_no_complaint() {
    let rabbitmq = need!(Rig::shared().rabbitmq());
    let before = rabbitmq.log().len();
    // Names that no other test uses.
    rabbitmq
        .erlang(&format!(
            "rabbit_auth_backend_internal:add_user(<<\"polite\">>, <<\"{PASSWORD}\">>, <<\"rig\">>), \
             rabbit_auth_backend_internal:set_permissions(<<\"polite\">>, <<\"/\">>, <<>>, <<>>, <<>>, <<\"rig\">>)"
        ))
        .unwrap();
    let polite = rabbitmq.url("polite");
    let queue = |name: &str| json!({"properties": {"queue": name}});
    up(spec(polite.clone()));
    up(with(
        spec(polite.clone()),
        json!({"properties": {"resourceAlarms": false}}),
    ));
    up(with(spec(polite.clone()), queue("orders")));
    up(trusting(spec(rabbitmq.tls_url("polite"))));
    let missing = with(spec(polite.clone()), queue("invoices"));
    down(missing, "not_found", "request", "404");
    down(
        spec(format!("{polite}/nowhere")),
        "not_found",
        "auth",
        "530",
    );
    let wrong = json!({"username": "polite", "password": "wrong"});
    let bare = spec(format!("amqp://localhost:{}", rabbitmq.port()));
    down(with(bare, wrong), "auth", "auth", "403");

    let patience = Instant::now() + PATIENCE;
    let theirs: Vec<String> = loop {
        let log = rabbitmq.log()[before..].to_owned();
        let ours: Vec<Vec<&str>> = connections(&log)
            .into_iter()
            .filter(|lines| lines.iter().any(|line| line.contains("'polite'")))
            .collect();
        let is_over = |lines: &Vec<&str>| lines.iter().any(|line| line.contains("closing AMQP"));
        if ours.len() == 7 && ours.iter().all(is_over) {
            break ours.concat().into_iter().map(str::to_owned).collect();
        }
        assert!(
            Instant::now() < patience,
            "not every connection has come and gone: {ours:#?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    };
    for complaint in ["[warning]", "unexpectedly", "handshake_timeout", "missed"] {
        let bad: Vec<_> = theirs
            .iter()
            .filter(|line| line.contains(complaint))
            .collect();
        assert!(bad.is_empty(), "{bad:#?}");
    }
    // Errors are what was refused: the vhost, the queue, the password.
    let errors = |text: &str| {
        theirs
            .iter()
            .filter(|line| line.contains("[error]") && line.contains(text))
            .count()
    };
    assert_eq!(errors("Error on AMQP connection"), 2, "{theirs:#?}");
    assert_eq!(errors("Channel error on connection"), 1, "{theirs:#?}");
}

/// The lines of each connection: what its own process says, and what is said of it.
fn connections(log: &str) -> Vec<Vec<&str>> {
    let accepted = log.lines().filter_map(|line| {
        let (_, rest) = line.split_once("accepting AMQP connection <")?;
        rest.split_once('>')
    });
    accepted
        .map(|(id, _)| {
            let (by_it, of_it) = (format!("] <{id}> "), format!(" connection <{id}> "));
            log.lines()
                .filter(|line| line.contains(&by_it) || line.contains(&of_it))
                .collect()
        })
        .collect()
}

fn leaves_no_connection_behind() {
    let rabbitmq = need!(Rig::shared().rabbitmq());
    rabbitmq
        .erlang(&format!(
            "rabbit_auth_backend_internal:add_user(<<\"counted\">>, <<\"{PASSWORD}\">>, <<\"rig\">>), \
             rabbit_auth_backend_internal:set_permissions(<<\"counted\">>, <<\"/\">>, <<>>, <<>>, <<>>, <<\"rig\">>)"
        ))
        .unwrap();
    for _ in 0..20 {
        up(spec(rabbitmq.url("counted")));
    }
    // It has said that they are closed, and takes a moment to forget them.
    is_left(&rabbitmq, "counted");
}
