//! Names: who answers, and what is said when nobody does.

use std::time::Duration;

use conncheck_probes::{Outcome, ResolverChoice};
use conncheck_rig::dns::{Answer, DnsServer};
use conncheck_rig::{PASSWORD, Rig, need};
use serde_json::json;

use crate::check::{SHORT, TIMEOUT, assert_down, attempt_with, phases};

crate::trials![
    addresses_aliases_and_long_answers_are_found,
    the_system_resolver_can_be_chosen,
    the_hosts_file_is_read,
    every_way_of_not_answering_has_its_code,
    nothing_is_cached,
    a_slow_name_server_is_seen_in_its_phase,
];

const NAME: &str = "cache.conncheck.test";

fn at(name: &str, port: u16) -> serde_json::Value {
    json!({"type": "redis", "url": format!("redis://{name}:{port}"), "username": "probe", "password": PASSWORD})
}

fn asking(server: &DnsServer, timeout: Duration, port: u16) -> Outcome {
    let resolver = ResolverChoice::Servers(vec![server.addr()]);
    attempt_with(timeout, &resolver, &at(NAME, port))
}

fn addresses_aliases_and_long_answers_are_found() {
    let redis = need!(Rig::shared().redis());
    let loopback = || Answer::address([127, 0, 0, 1]);
    let server = DnsServer::start()
        .unwrap()
        .with("real.conncheck.test", loopback());
    for answer in [
        loopback(),
        Answer::Alias("real.conncheck.test".to_owned()),
        Answer::Truncated(vec!["127.0.0.1".parse().unwrap()]),
        // The preferred one is nobody's, the other is.
        Answer::Addresses(vec!["::1".parse().unwrap(), "127.0.0.1".parse().unwrap()]),
    ] {
        server.set(NAME, answer.clone());
        let outcome = asking(&server, TIMEOUT, redis.port());
        assert!(outcome.is_up(), "{answer:?}: {outcome:#?}");
        assert_eq!(phases(&outcome), ["resolve", "connect", "auth", "request"]);
    }
}

fn the_system_resolver_can_be_chosen() {
    let redis = need!(Rig::shared().redis());
    let outcome = attempt_with(
        TIMEOUT,
        &ResolverChoice::System,
        &at("localhost", redis.port()),
    );
    assert!(outcome.is_up(), "{outcome:#?}");
}

fn the_hosts_file_is_read() {
    let redis = need!(Rig::shared().redis());
    let server = DnsServer::start().unwrap();
    let resolver = ResolverChoice::Servers(vec![server.addr()]);
    let outcome = attempt_with(TIMEOUT, &resolver, &at("localhost", redis.port()));
    assert!(outcome.is_up(), "{outcome:#?}");
    assert!(server.questions().is_empty(), "nobody was asked");
}

fn every_way_of_not_answering_has_its_code() {
    let server = DnsServer::start().unwrap();
    for (answer, code) in [
        (Answer::NoSuchName, "NXDOMAIN"),
        (Answer::NoData, "NODATA"),
        (Answer::ServerFailure, "SERVFAIL"),
        (Answer::Refused, "REFUSED"),
    ] {
        server.set(NAME, answer);
        assert_down(&asking(&server, TIMEOUT, 1), "dns", "resolve", code);
    }
    server.set(NAME, Answer::Nonsense);
    let failure = asking(&server, SHORT, 1).result.expect_err("no answer");
    assert_eq!(failure.phase.map(|phase| phase.as_str()), Some("resolve"));
    assert!(
        ["dns", "timeout"].contains(&failure.reason.as_str()),
        "{failure:?}"
    );
}

fn nothing_is_cached() {
    let redis = need!(Rig::shared().redis());
    let server = DnsServer::start()
        .unwrap()
        .with(NAME, Answer::address([127, 0, 0, 1]));
    let resolver = ResolverChoice::Servers(vec![server.addr()]);
    let probe = crate::check::probe(&at(NAME, redis.port()));
    crate::check::RUNTIME.block_on(async {
        let env = conncheck_probes::Env::new(&resolver).unwrap();
        let attempt =
            || conncheck_probes::run(&probe, conncheck_probes::Deadline::after(TIMEOUT), &env);
        assert!(attempt().await.is_up());
        server.set(NAME, Answer::NoSuchName);
        assert_down(&attempt().await, "dns", "resolve", "NXDOMAIN");
        server.set(NAME, Answer::address([127, 0, 0, 1]));
        assert!(attempt().await.is_up());
    });
}

fn a_slow_name_server_is_seen_in_its_phase() {
    let redis = need!(Rig::shared().redis());
    let slow = Duration::from_millis(200);
    let answer = Answer::After(slow, Box::new(Answer::address([127, 0, 0, 1])));
    let server = DnsServer::start().unwrap().with(NAME, answer);
    let outcome = asking(&server, TIMEOUT, redis.port());
    assert!(outcome.is_up(), "{outcome:#?}");
    assert!(outcome.phases[0].1 >= slow, "{:?}", outcome.phases);
}
