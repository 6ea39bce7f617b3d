//! `ldap` against real OpenLDAP, and against a directory of our own where slapd cannot be made to
//! say it: Active Directory's texts, `busy`, a notice of disconnection, a bind that is referred.

use std::time::{Duration, Instant};

use conncheck_rig::faults::{Peer, Step};
use conncheck_rig::ldap::{Answer, LdapPeer, Request};
use conncheck_rig::slapd::{AWAY, BASE, CLOSED};
use conncheck_rig::{Certified, PASSWORD, PATIENCE, Rig, Shown, Slapd, SlapdKind, need, plugins};
use serde_json::{Value, json};

use crate::check::{
    FAULTS, LONGER, SHORT, TIMEOUT, assert_down, attempt, attempt_with_secret, attempt_within,
    down, phases, refuses_every_fault, seconds_for, soon, trusting, up, with,
};

crate::trials![
    binds_anonymously_and_by_name_and_password,
    speaks_tls_from_the_start_and_on_request,
    sasl_external_by_certificate_and_by_unix_socket,
    every_way_to_tls_against_every_server,
    every_fault_of_a_certificate,
    client_certificates_missing_wrong_and_right,
    credentials_of_the_spec_win_over_the_url,
    wrong_credentials,
    strangers_are_refused,
    the_base_is_searched_as_the_url_and_the_properties_say,
    slapd_understands_what_the_url_says,
    bases_that_are_not_there_or_not_to_be_read,
    referrals_are_reported_and_not_followed,
    limits_and_servers_behind_the_server,
    a_full_server_does_not_answer,
    active_directory_tells_why,
    busy_unavailable_and_the_notice_of_disconnection,
    a_handshake_that_goes_wrong_after_the_agreement,
    a_stopped_process_is_a_timeout,
    leaves_no_connection_behind_and_says_goodbye,
    verdicts_agree_with_check_ldap,
];

/// A definition at `url`, logging in as `user`.
fn spec(url: &str, user: &str) -> Value {
    json!({"type": "ldap", "url": url, "username": Slapd::dn(user), "password": PASSWORD})
}

fn start_tls(spec: Value) -> Value {
    with(spec, json!({"properties": {"startTLS": true}}))
}

fn with_client(spec: Value, client: &Certified) -> Value {
    with(
        spec,
        json!({"clientCert": client.cert_pem, "clientKey": client.key_pem}),
    )
}

fn binds_anonymously_and_by_name_and_password() {
    let slapd = need!(Rig::shared().get(SlapdKind::Main));
    let root = format!("ldap://localhost:{}", slapd.port());
    let outcome = up(json!({"type": "ldap", "url": root}));
    assert_eq!(phases(&outcome), ["resolve", "connect", "auth", "request"]);
    assert_eq!(outcome.server.as_deref(), Some("OpenLDAP"));

    let outcome = up(spec(&slapd.url(), "probe"));
    assert_eq!(phases(&outcome), ["resolve", "connect", "auth", "request"]);
    // Of an entry nothing is asked but that it is there.
    assert_eq!(outcome.server, None);

    let single = json!({"url": slapd.url(), "type": "ldaps", "username": Slapd::dn("probe"), "secretRef": {"name": "s", "key": "anything"}});
    assert!(attempt_with_secret(&[("anything", PASSWORD)], &single).is_up());
    let whole = json!({"url": slapd.url(), "type": "ldap", "secretRef": {"name": "s"}});
    let values = [("username", &*Slapd::dn("probe")), ("password", PASSWORD)];
    assert!(attempt_with_secret(&values, &whole).is_up());
}

fn speaks_tls_from_the_start_and_on_request() {
    let slapd = need!(Rig::shared().get(SlapdKind::Main));
    let pki = Rig::shared().pki();
    for spec in [
        trusting(spec(&slapd.tls_url(), "probe")),
        start_tls(trusting(spec(&slapd.url(), "probe"))),
        trusting(spec(&format!("{}????!StartTLS", slapd.url()), "probe")),
    ] {
        let outcome = up(spec);
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
    }
    for insecure in [
        json!({"insecureSkipVerify": true}),
        json!({"properties": {"insecureSkipVerify": true}}),
    ] {
        let outcome = up(with(spec(&slapd.tls_url(), "probe"), insecure));
        assert!(!outcome.tls.expect("recorded").verified);
    }
    let intermediate = need!(Rig::shared().get(SlapdKind::Shows(Shown::Intermediate)));
    up(trusting(spec(&intermediate.tls_url(), "probe")));
}

fn sasl_external_by_certificate_and_by_unix_socket() {
    let slapd = need!(Rig::shared().get(SlapdKind::Main));
    let pki = Rig::shared().pki();
    let external = json!({"properties": {"auth": "external"}});
    for url in [slapd.tls_url(), format!("{}????StartTLS", slapd.url())] {
        let spec = trusting(with(json!({"type": "ldap", "url": url}), external.clone()));
        let outcome = up(with_client(spec, &pki.client));
        assert_eq!(
            phases(&outcome),
            ["resolve", "connect", "tls", "auth", "request"]
        );
        assert_eq!(
            outcome.credential_expiry.map(|time| time.as_second()),
            Some(pki.client.not_after)
        );
    }
    let socket = json!({"type": "ldap", "url": slapd.socket_url()});
    let outcome = up(with(socket.clone(), external));
    assert_eq!(phases(&outcome), ["connect", "auth", "request"]);
    // A stranger may not read there, whoever it is by its certificate or user.
    down(socket, "not_found", "request", "32");
    let certificate = trusting(json!({"type": "ldap", "url": slapd.tls_url()}));
    down(
        with_client(certificate, &pki.client),
        "not_found",
        "request",
        "32",
    );
    down(
        json!({"type": "ldap", "url": "ldapi://%2Fnowhere%2Fldapi"}),
        "connect_refused",
        "connect",
        "",
    );
}

/// `ldap`, StartTLS and `ldaps` against servers with TLS, without it, and with nothing else.
fn every_way_to_tls_against_every_server() {
    let main = need!(Rig::shared().get(SlapdKind::Main));
    let required = need!(Rig::shared().get(SlapdKind::TlsRequired));
    let none = need!(Rig::shared().get(SlapdKind::NoTls));
    let plain = |slapd: &Slapd| spec(&slapd.url(), "probe");
    let negotiated = |slapd: &Slapd| trusting(start_tls(spec(&slapd.url(), "probe")));
    let implicit = |slapd: &Slapd| trusting(spec(&slapd.tls_url(), "probe"));
    for slapd in [&main, &required] {
        up(negotiated(slapd));
        up(implicit(slapd));
    }
    up(plain(&main));
    let outcome = down(plain(&required), "auth", "auth", "13");
    let failure = outcome.result.unwrap_err();
    assert_eq!(
        failure.message,
        "the server refused the bind: confidentialityRequired: TLS confidentiality required"
    );
    assert!(failure.hint.unwrap().contains("`startTLS`"));
    up(plain(&none));
    let outcome = down(negotiated(&none), "tls_other", "tls", "2");
    assert_eq!(phases(&outcome), ["resolve", "connect", "tls"]);
    down(implicit(&none), "connect_refused", "connect", "");
    // TLS where none is spoken, and none where TLS is.
    let swapped =
        trusting(json!({"type": "ldap", "url": format!("ldaps://localhost:{}", main.port())}));
    let failure = attempt_within(SHORT, &swapped).result.unwrap_err();
    assert_eq!(failure.phase.map(|phase| phase.as_str()), Some("tls"));
    assert!(
        ["timeout", "connect_reset", "protocol"].contains(&failure.reason.as_str()),
        "{failure:?}"
    );
    let swapped = json!({"type": "ldap", "url": format!("ldap://localhost:{}", main.tls_port())});
    let failure = attempt_within(SHORT, &swapped).result.unwrap_err();
    assert_eq!(failure.phase.map(|phase| phase.as_str()), Some("auth"));
    assert!(
        ["timeout", "connect_reset", "protocol"].contains(&failure.reason.as_str()),
        "{failure:?}"
    );
}

fn every_fault_of_a_certificate() {
    refuses_every_fault(SlapdKind::Shows, |slapd| {
        [
            trusting(spec(&slapd.tls_url(), "probe")),
            trusting(start_tls(spec(&slapd.url(), "probe"))),
        ]
    });
    let slapd = need!(Rig::shared().get(SlapdKind::Shows(Shown::WrongName)));
    let named = json!({"properties": {"serverName": "elsewhere.test"}});
    up(with(
        trusting(spec(&slapd.tls_url(), "probe")),
        named.clone(),
    ));
    up(with(
        trusting(start_tls(spec(&slapd.url(), "probe"))),
        named,
    ));
}

fn client_certificates_missing_wrong_and_right() {
    let slapd = need!(Rig::shared().get(SlapdKind::MutualTls));
    let pki = Rig::shared().pki();
    for spec in [
        trusting(spec(&slapd.tls_url(), "probe")),
        trusting(start_tls(spec(&slapd.url(), "probe"))),
    ] {
        for spec in [
            spec.clone(),
            with_client(spec.clone(), &pki.client_unknown_ca),
            with_client(spec.clone(), &pki.client_expired),
        ] {
            // slapd over GnuTLS sends no alert: it hangs up on what we say first.
            let outcome = down(spec, "connect_reset", "auth", "");
            let hint = outcome.result.unwrap_err().hint.expect("a hint");
            assert!(hint.contains("`clientCert` and `clientKey`"), "{hint}");
        }
        let outcome = up(with_client(spec, &pki.client));
        assert_eq!(
            outcome.credential_expiry.map(|time| time.as_second()),
            Some(pki.client.not_after)
        );
    }
}

fn credentials_of_the_spec_win_over_the_url() {
    let slapd = need!(Rig::shared().get(SlapdKind::Main));
    let at = |user_info: &str, more: &str| {
        format!("ldap://{user_info}localhost:{}/{BASE}{more}", slapd.port())
    };
    up(spec(&at("cn=nobody:nothing@", ""), "probe"));
    up(spec(&at("", "????bindname=cn=nobody"), "probe"));
    let name = Slapd::dn("probe").replace(',', "%2C");
    up(json!({"type": "ldap", "url": at(&format!("{name}:{PASSWORD}@"), "")}));
    up(
        json!({"type": "ldap", "url": at("", &format!("????!bindname={name}")), "password": PASSWORD}),
    );
}

fn wrong_credentials() {
    let slapd = need!(Rig::shared().get(SlapdKind::Main));
    let wrong = with(
        spec(&slapd.url(), "probe"),
        json!({"password": "not-the-password"}),
    );
    let failure = down(wrong, "auth", "auth", "49").result.unwrap_err();
    assert_eq!(
        failure.message,
        "the server refused the bind: invalidCredentials"
    );
    assert!(
        failure
            .hint
            .unwrap()
            .starts_with("wrong bind DN or password")
    );
    down(spec(&slapd.url(), "nobody"), "auth", "auth", "49");
    let active_directory_s = with(
        spec(&slapd.url(), "probe"),
        json!({"username": "probe@rig.test"}),
    );
    let failure = down(active_directory_s, "auth", "auth", "34")
        .result
        .unwrap_err();
    assert!(failure.hint.unwrap().contains("wants a DN"));
    // A certificate proves nothing to whoever did not ask for one.
    let external =
        json!({"type": "ldap", "url": slapd.tls_url(), "properties": {"auth": "external"}});
    let none = need!(Rig::shared().get(SlapdKind::NoTls));
    let negotiated = with(
        external,
        json!({"url": none.url(), "properties": {"startTLS": true}}),
    );
    let negotiated = with_client(trusting(negotiated), &Rig::shared().pki().client);
    down(negotiated, "tls_other", "tls", "2");
}

fn strangers_are_refused() {
    let slapd = need!(Rig::shared().get(SlapdKind::NoAnonymous));
    let root = json!({"type": "ldap", "url": format!("ldap://localhost:{}", slapd.port())});
    let failure = down(root, "auth", "auth", "48").result.unwrap_err();
    assert_eq!(
        failure.message,
        "the server refused the anonymous bind: inappropriateAuthentication: anonymous bind disallowed"
    );
    assert!(failure.hint.unwrap().contains("`username` and `password`"));
    up(spec(&slapd.url(), "probe"));
}

fn the_base_is_searched_as_the_url_and_the_properties_say() {
    let slapd = need!(Rig::shared().get(SlapdKind::Main));
    let at = |more: &str| spec(&format!("{}{more}", slapd.url()), "probe");
    let properties = |properties: Value| {
        let url = format!("ldap://localhost:{}", slapd.port());
        with(spec(&url, "probe"), json!({"properties": properties}))
    };
    up(properties(json!({"baseDN": BASE})));
    up(properties(
        json!({"baseDN": Slapd::dn("probe"), "filter": "(&(objectClass=inetOrgPerson)(cn=pro*))"}),
    ));
    up(properties(
        json!({"baseDN": BASE, "scope": "sub", "filter": "(uid=probe)"}),
    ));
    up(at("??sub?(uid=probe)"));
    // More than one is found, and one is all that was asked for.
    up(at("?cn,sn?one?(objectClass=inetOrgPerson)"));
    // The property wins over the URL.
    up(with(
        at("??base?(uid=nobody)"),
        json!({"properties": {"filter": "(dc=rig)"}}),
    ));
    up(with(
        at("??base?(uid=probe)"),
        json!({"properties": {"scope": "sub"}}),
    ));
    up(with(
        spec(
            &format!("ldap://localhost:{}/dc=nowhere,{BASE}", slapd.port()),
            "probe",
        ),
        json!({"properties": {"baseDN": BASE}}),
    ));
    for (spec, hint) in [
        (at("???(uid=probe)"), "set `scope`"),
        (at("??sub?(uid=nobody)"), "nothing there matches"),
        (
            with(at(""), json!({"properties": {"filter": "(!(dc=rig))"}})),
            "does not match",
        ),
    ] {
        let failure = down(spec, "assertion", "request", "").result.unwrap_err();
        assert_eq!(
            failure.message.split(';').next().unwrap(),
            format!("expected an entry, and the search at `{BASE}` found none")
        );
        assert!(
            failure.hint.as_deref().unwrap().contains(hint),
            "{failure:?}"
        );
    }
}

/// What slapd's log says that it was asked.
fn slapd_understands_what_the_url_says() {
    let dir = tempfile::tempdir().unwrap();
    need!(Rig::shared().get(SlapdKind::Main));
    let slapd = Slapd::builder(Rig::shared().pki(), dir.path())
        .name("read-back")
        .start()
        .unwrap();
    for (more, asked, attributes) in [
        (
            "",
            format!("base=\"{BASE}\" scope=0 deref=0 filter=\"(objectClass=*)\""),
            "1.1",
        ),
        (
            "?cn,mail?sub?(|(cn=a%20b*c%2A)(!(createTimestamp>=2020%5C30101000000Z))(uid~=x)(cn:dn:caseExactMatch:=y))",
            format!(
                "base=\"{BASE}\" scope=2 deref=0 filter=\"(|(cn=a b*c*)(!(createTimestamp>=20200101000000Z))(uid~=x)(cn:dn:caseExactMatch:=y))\""
            ),
            "cn mail",
        ),
        (
            "?*?one",
            format!("base=\"{BASE}\" scope=1 deref=0 filter=\"(objectClass=*)\""),
            "*",
        ),
    ] {
        let spec = spec(&format!("{}{more}", slapd.url()), "probe");
        let log = told_by(&slapd, &spec);
        assert!(log.contains(&format!("SRCH {asked}\n")), "{asked}: {log}");
        assert!(log.contains(&format!("SRCH attr={attributes}\n")), "{log}");
    }
}

fn bases_that_are_not_there_or_not_to_be_read() {
    let slapd = need!(Rig::shared().get(SlapdKind::Main));
    let at =
        |base: &str, user: &str| spec(&format!("ldap://localhost:{}/{base}", slapd.port()), user);
    let failure = down(
        at(&format!("ou=a,ou=b,{BASE}"), "probe"),
        "not_found",
        "request",
        "32",
    )
    .result
    .unwrap_err();
    assert_eq!(
        failure.message,
        format!(
            "`ou=a,ou=b,{BASE}` does not exist; the nearest entry above it is `{BASE}` (noSuchObject)"
        )
    );
    let failure = down(at(BASE, "barred"), "permission", "request", "50")
        .result
        .unwrap_err();
    assert_eq!(
        failure.message,
        format!("the search at `{BASE}` failed: insufficientAccessRights")
    );
    down(at(BASE, "blind"), "not_found", "request", "32");
    down(at("nonsense=x", "probe"), "not_found", "request", "34");
    let failure = down(at(CLOSED, "probe"), "permission", "request", "53")
        .result
        .unwrap_err();
    assert!(failure.message.contains("restricted"), "{failure:?}");
}

fn referrals_are_reported_and_not_followed() {
    let slapd = need!(Rig::shared().get(SlapdKind::Main));
    let at = |base: &str| {
        spec(
            &format!("ldap://localhost:{}/{base}", slapd.port()),
            "probe",
        )
    };
    for (base, host) in [
        ("dc=unknown".to_owned(), "ldap://other.test:1389"),
        (format!("ou=elsewhere,{BASE}"), "ldap://elsewhere.test"),
    ] {
        let failure = down(at(&base), "not_found", "request", "10")
            .result
            .unwrap_err();
        assert_eq!(
            failure.message,
            format!(
                "`{base}` is not on this server (referral); it refers to `{host}`, where conncheck does not go"
            )
        );
    }
    // Beside an entry a referral does no harm; alone it is worth a word.
    up(at(&format!("{BASE}??sub?(uid=probe)")));
    let failure = down(
        at(&format!("{BASE}??sub?(uid=nobody)")),
        "assertion",
        "request",
        "",
    )
    .result
    .unwrap_err();
    assert!(
        failure
            .message
            .ends_with("; it refers to `ldap://elsewhere.test`, where conncheck does not go"),
        "{failure:?}"
    );
    let bind = LdapPeer::start(|_| {
        vec![Answer::Referral(vec![
            "ldap://u:hunter2@other.test/dc=x".to_owned(),
        ])]
    })
    .unwrap();
    let spec = spec(&format!("ldap://{}", bind.addr()), "probe");
    let failure = down(spec, "not_found", "auth", "10").result.unwrap_err();
    assert_eq!(
        failure.message,
        "the server refused the bind: referral; it refers to `ldap://other.test`, where conncheck does not go"
    );
}

fn limits_and_servers_behind_the_server() {
    let slapd = need!(Rig::shared().get(SlapdKind::Main));
    let url = format!("{}??sub?(description=x)", slapd.url());
    let failure = down(spec(&url, "limited"), "unavailable", "request", "11")
        .result
        .unwrap_err();
    assert!(failure.hint.unwrap().contains("limit"));
    let away = format!("ldap://localhost:{}/{AWAY}", slapd.port());
    down(spec(&away, "probe"), "unavailable", "request", "52");
}

/// slapd has no limit of connections of its own; out of descriptors it leaves whoever comes to the kernel.
fn a_full_server_does_not_answer() {
    let slapd = need!(Rig::shared().get(SlapdKind::Full));
    let outcome = attempt_within(SHORT, &spec(&slapd.url(), "probe"));
    assert_down(&outcome, "timeout", "auth", "");
}

fn active_directory_tells_why() {
    for (data, hint) in [
        ("52e", "wrong password"),
        ("533", "disabled"),
        ("775", "locked"),
        ("532", "the password has expired"),
        ("773", "must be changed"),
        ("701", "the account has expired"),
    ] {
        let text = format!(
            "80090308: LdapErr: DSID-0C090447, comment: AcceptSecurityContext error, data {data}, v4563\0"
        );
        let peer = LdapPeer::start(move |_| vec![Answer::Result(49, text.clone())]).unwrap();
        let spec = json!({"type": "ldap", "url": format!("ldap://{}", peer.addr()), "username": "EXAMPLE\\probe", "password": PASSWORD});
        let failure = down(spec, "auth", "auth", "49").result.unwrap_err();
        assert!(
            failure.message.ends_with(&format!("data {data}, v4563")),
            "{failure:?}"
        );
        assert!(
            failure.hint.as_deref().unwrap().contains(hint),
            "{failure:?}"
        );
    }
    let peer = LdapPeer::start(|request| match request {
        Request::Bind => vec![Answer::success()],
        _ => vec![Answer::Result(
            1,
            "000004DC: LdapErr: DSID-0C090A5C, comment: In order to perform this operation a successful bind must be completed on the connection., data 0, v4563".to_owned(),
        )],
    })
    .unwrap();
    let spec = json!({"type": "ldap", "url": format!("ldap://{}/dc=example", peer.addr())});
    let failure = down(spec, "auth", "request", "1").result.unwrap_err();
    assert!(failure.hint.unwrap().contains("`username` and `password`"));
}

fn busy_unavailable_and_the_notice_of_disconnection() {
    let of = |bind: Vec<Answer>, search: Vec<Answer>| {
        let peer = LdapPeer::start(move |request| match request {
            Request::Bind => bind.clone(),
            _ => search.clone(),
        })
        .unwrap();
        let spec = json!({"type": "ldap", "url": format!("ldap://{}/dc=a", peer.addr())});
        (peer, spec)
    };
    let says = |code: u8, text: &str| vec![Answer::Result(code, text.to_owned())];
    let notice = || vec![Answer::Notice(52, "closing".to_owned()), Answer::HangUp];
    for (bind, search, reason, phase, code) in [
        (says(51, ""), vec![], "unavailable", "auth", "51"),
        (says(52, ""), vec![], "unavailable", "auth", "52"),
        (says(0, ""), says(51, ""), "unavailable", "request", "51"),
        (notice(), vec![], "unavailable", "auth", "52"),
        (says(0, ""), notice(), "unavailable", "request", "52"),
        (
            says(0, ""),
            vec![Answer::HangUp],
            "connect_reset",
            "request",
            "",
        ),
        (says(0, ""), says(0, ""), "assertion", "request", ""),
        (says(8, ""), vec![], "auth", "auth", "8"),
        (says(7, ""), vec![], "auth", "auth", "7"),
    ] {
        let (_peer, spec) = of(bind, search);
        down(spec, reason, phase, code);
    }
    let found = vec![
        Answer::Reference("ldap://b/".to_owned()),
        Answer::Entry("dc=a".to_owned()),
        Answer::success(),
    ];
    let (_peer, spec) = of(says(0, ""), found);
    up(spec);
}

/// StartTLS is agreed to, and then everything that a handshake may meet.
fn a_handshake_that_goes_wrong_after_the_agreement() {
    // The request is 31 bytes long; the answer is a success.
    let agreement = b"\x30\x0c\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00";
    let then = |steps: Vec<Step>| {
        let first = [Step::ReceiveExactly(31), Step::Send(agreement.to_vec())];
        Peer::script(first.into_iter().chain(steps).collect::<Vec<_>>()).unwrap()
    };
    let alert = vec![0x15, 3, 3, 0, 2, 2, 40];
    for (steps, reason, code) in [
        (vec![], "timeout", ""),
        (vec![Step::Receive, Step::Close], "connect_reset", ""),
        (vec![Step::Close], "connect_reset", ""),
        (
            vec![Step::Receive, Step::Send(b"HTTP/1.1 400\r\n\r\n".to_vec())],
            "protocol",
            "",
        ),
        (
            vec![Step::Receive, Step::Send(alert)],
            "tls_other",
            "handshake_failure",
        ),
    ] {
        let peer = then(steps);
        let spec = start_tls(spec(&format!("ldap://{}", peer.addr()), "probe"));
        let timeout = match reason {
            "timeout" => LONGER,
            _ => TIMEOUT,
        };
        assert_down(&attempt_within(timeout, &spec), reason, "tls", code);
        assert!(peer.everybody_left(PATIENCE));
    }
    // Words of somebody in between, to be taken for the server's once TLS stands.
    let injected = LdapPeer::start(move |_| {
        let bind = b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x00";
        vec![Answer::Raw([&agreement[..], bind].concat())]
    })
    .unwrap();
    let spec = start_tls(spec(&format!("ldap://{}", injected.addr()), "probe"));
    let failure = down(spec, "protocol", "tls", "").result.unwrap_err();
    assert!(failure.message.contains("in plain text"), "{failure:?}");
    let silent = Peer::silent().unwrap();
    let spec = start_tls(json!({"type": "ldap", "url": format!("ldap://{}", silent.addr())}));
    let outcome = attempt_within(SHORT, &spec);
    assert_down(&outcome, "timeout", "tls", "");
    let message = outcome.result.unwrap_err().message;
    assert!(
        message.starts_with("the server did not answer the request for TLS"),
        "{message}"
    );
}

fn a_stopped_process_is_a_timeout() {
    let dir = tempfile::tempdir().unwrap();
    need!(Rig::shared().get(SlapdKind::Main));
    let slapd = Slapd::builder(Rig::shared().pki(), dir.path())
        .name("paused")
        .start()
        .unwrap();
    slapd.process().pause();
    let plain = spec(&slapd.url(), "probe");
    assert_down(&attempt_within(SHORT, &plain), "timeout", "auth", "");
    let tls = trusting(spec(&slapd.tls_url(), "probe"));
    assert_down(&attempt_within(SHORT, &tls), "timeout", "tls", "");
    let negotiated = trusting(start_tls(plain.clone()));
    assert_down(&attempt_within(SHORT, &negotiated), "timeout", "tls", "");
    slapd.process().resume();
    up(plain.clone());
    drop(slapd);
    down(plain, "connect_refused", "connect", "");
}

/// What slapd's log says of one attempt, to its end.
fn told_by(slapd: &Slapd, spec: &Value) -> String {
    let before = slapd.log().len();
    attempt(spec);
    let patience = Instant::now() + PATIENCE;
    loop {
        // Whoever looked whether it is ready may still be leaving.
        let log = slapd.log()[before..].to_owned();
        let connection = log.split_once(" ACCEPT ").and_then(|(start, _)| {
            let (_, number) = start.rsplit_once("conn=")?;
            Some(format!(" conn={} ", number.split(' ').next()?))
        });
        let lines = log.split_inclusive('\n').filter(|line| {
            (connection.as_ref()).is_some_and(|connection| line.contains(connection.as_str()))
        });
        let told: String = lines.collect();
        if told.ends_with('\n') && told.contains(" closed") {
            return told;
        }
        assert!(Instant::now() < patience, "it does not end: {log}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whatever the verdict: slapd's log has an unbind and a plain end.
fn leaves_no_connection_behind_and_says_goodbye() {
    let dir = tempfile::tempdir().unwrap();
    need!(Rig::shared().get(SlapdKind::Main));
    let slapd = Slapd::builder(Rig::shared().pki(), dir.path())
        .name("quiet")
        .start()
        .unwrap();
    let none = Slapd::builder(Rig::shared().pki(), dir.path())
        .name("quiet-without-tls")
        .without_tls()
        .start()
        .unwrap();
    let good = spec(&slapd.url(), "probe");
    let wrong = with(good.clone(), json!({"password": "wrong"}));
    let tls = trusting(spec(&slapd.tls_url(), "probe"));
    let nowhere = spec(
        &format!("ldap://localhost:{}/ou=x,{BASE}", slapd.port()),
        "probe",
    );
    for (slapd, spec) in [
        (&slapd, good.clone()),
        (&slapd, wrong.clone()),
        (
            &slapd,
            with(
                good.clone(),
                json!({"properties": {"filter": "(uid=nobody)"}}),
            ),
        ),
        (&slapd, nowhere),
        (&slapd, tls.clone()),
        (&slapd, with(tls, json!({"password": "wrong"}))),
        (&slapd, trusting(start_tls(good.clone()))),
        (&slapd, trusting(start_tls(wrong))),
        (&none, trusting(start_tls(self::spec(&none.url(), "probe")))),
    ] {
        let log = told_by(slapd, &spec);
        assert!(log.contains(" UNBIND\n"), "{spec}: {log}");
        assert!(log.contains(" closed\n"), "{spec}: {log}");
        assert!(!log.contains("connection lost"), "{spec}: {log}");
        assert!(!log.contains("TLS negotiation failure"), "{spec}: {log}");
    }
    let before = slapd.log().len();
    for _ in 0..20 {
        up(good.clone());
    }
    let count = |word: &str| slapd.log()[before..].matches(word).count();
    assert!(soon(|| count(" closed\n") >= 20));
    assert_eq!((count(" ACCEPT from"), count(" closed\n")), (20, 20));
}

/// Nagios' plugin looks at the same servers and comes to the same verdict. It wants a base and has
/// no other search than ours. By number, since libldap takes `localhost` for the name of the machine.
fn verdicts_agree_with_check_ldap() {
    need!(plugins::run("check_ldap", &["--version"]));
    let dir = tempfile::tempdir().unwrap();
    let main = need!(Rig::shared().get(SlapdKind::Main));
    let pki = Rig::shared().pki();
    let agree = |what: &str, port: u16, tls: &str, password: &str, is_up: bool| {
        let (dn, port_) = (Slapd::dn("probe"), port.to_string());
        let seconds = seconds_for(what);
        let timeout = seconds.to_string();
        let mut args = vec!["-H", "127.0.0.1", "-p", &port_, "-b", BASE, "-3"];
        args.extend(["-t", &timeout]);
        args.extend(["-D", &dn, "-P", password]);
        let (scheme, start_tls) = match tls {
            "--ssl" => ("ldaps", false),
            "--starttls" => ("ldap", true),
            _ => ("ldap", false),
        };
        args.extend([tls].iter().filter(|option| !option.is_empty()));
        let trust = [
            ("LDAPTLS_CACERT", pki.ca.cert_path.as_os_str()),
            ("LDAPTLS_REQCERT", "demand".as_ref()),
        ];
        let theirs = plugins::run_with("check_ldap", &args, &trust).expect("it is there");
        assert_eq!(theirs.is_ok(), is_up, "{what}: {theirs:?}");
        let spec = json!({
            "type": "ldap", "url": format!("{scheme}://127.0.0.1:{port}/{BASE}"),
            "username": dn, "password": password, "properties": {"startTLS": start_tls},
        });
        let spec = match tls {
            "" => spec,
            _ => trusting(spec),
        };
        let ours = attempt_within(Duration::from_secs(seconds), &spec);
        assert_eq!(ours.is_up(), is_up, "{what}: {ours:#?}");
    };
    let ways = |slapd: &Slapd| {
        [
            (slapd.port(), ""),
            (slapd.port(), "--starttls"),
            (slapd.tls_port(), "--ssl"),
        ]
    };
    for (port, tls) in ways(&main) {
        agree("up", port, tls, PASSWORD, true);
        agree("wrong password", port, tls, "wrong", false);
    }
    for (shown, _) in FAULTS {
        let slapd = need!(Rig::shared().get(SlapdKind::Shows(shown)));
        for (port, tls) in ways(&slapd) {
            agree(&format!("{shown:?}"), port, tls, PASSWORD, tls.is_empty());
        }
    }
    let paused = Slapd::builder(pki, dir.path())
        .name("compared")
        .start()
        .unwrap();
    paused.process().pause();
    for (port, tls) in ways(&paused) {
        agree("SIGSTOPped", port, tls, PASSWORD, false);
    }
    paused.process().resume();
    let ways = ways(&paused);
    drop(paused);
    for (port, tls) in ways {
        agree("stopped", port, tls, PASSWORD, false);
    }
}
