//! `aws` against moto, which checks signatures, keys, sessions and policies; against a metadata service of our
//! own; and, for what moto never says (clocks, ended sessions), against a peer that says it in STS' own words.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;

use conncheck_config::{Documents, Secret};
use conncheck_probes::{Files, Outcome, ResolverChoice};
use conncheck_rig::http::{HttpPeer, response};
use conncheck_rig::{
    AccessKey, AwsMetadata, MetadataMood, Moto, MotoFront, MotoKind, PATIENCE, Peer, Rig, Shown,
    need,
};
use serde_json::{Value, json};

use crate::check::{
    FAULTS, SHORT, TIMEOUT, assert_down, attempt, attempt_with_secret, attempt_within,
    client_certificates, down, phases, probe_on, refuses, run, up, with,
};
use crate::web::{hint, message, seconds, summary, trusting, with_properties};

crate::trials![
    static_keys,
    keys_in_every_place,
    a_session_needs_its_token,
    refusals_are_told_apart,
    a_profile_of_a_credentials_file,
    a_role_is_assumed,
    roles_are_assumed_one_after_the_other,
    a_program_gives_keys,
    the_environment,
    our_own_files,
    a_web_identity,
    a_container,
    a_container_that_has_none,
    an_instance,
    an_instance_that_has_none,
    the_default_chain_takes_the_first_link_that_is_there,
    a_link_that_is_broken_ends_the_chain,
    a_chain_without_an_end_names_every_link,
    nobody_asks_a_metadata_service_unasked,
    what_moto_never_says,
    a_wrong_clock,
    every_fault_of_a_certificate,
    client_certificate_missing_wrong_and_right,
    a_stopped_server_refuses,
    one_connection_and_a_clean_end,
    an_http_request_is_signed,
    an_http_request_that_is_refused,
    an_http_request_is_signed_by_whoever_we_are,
];

fn moto() -> Option<Arc<Moto>> {
    Some(need!(Rig::shared().get(MotoKind::Main), None))
}

/// Ends the test where there is no moto.
macro_rules! moto {
    () => {
        match moto() {
            Some(moto) => moto,
            None => return,
        }
    };
}

fn at(moto: &Moto) -> Value {
    trusting(json!({"type": "aws", "url": moto.https_url()}))
}

fn with_keys(spec: Value, key: &AccessKey) -> Value {
    let spec = with(spec, json!({"username": key.id, "password": key.secret}));
    match &key.session {
        None => spec,
        Some((token, _)) => with_properties(spec, json!({"sessionToken": token})),
    }
}

fn with_file(spec: Value, text: &str) -> (Value, String) {
    let spec = with(
        spec,
        json!({"secretRef": {"name": "any", "key": "credentials"}}),
    );
    (spec, text.to_owned())
}

/// One attempt of a definition whose secret is this file.
fn by_file(spec: Value, text: &str) -> Outcome {
    let (spec, text) = with_file(spec, text);
    attempt_with_secret(&[("credentials", &text)], &spec)
}

/// A `[name]` with these keys.
fn section(name: &str, key: &AccessKey) -> String {
    let mut text = format!(
        "[{name}]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
        key.id, key.secret
    );
    if let Some((token, _)) = &key.session {
        text += &format!("aws_session_token = {token}\n");
    }
    text
}

/// A machine with these variables and files, and nothing else.
#[derive(Clone, Default)]
struct Machine {
    variables: BTreeMap<String, String>,
    files: BTreeMap<String, String>,
}

impl Machine {
    fn new<const N: usize>(variables: [(&str, &str); N]) -> Self {
        // The metadata service of whatever this runs on is nobody's business.
        let mut res = Self::default().set("AWS_EC2_METADATA_DISABLED", "true");
        for (name, value) in variables {
            res = res.set(name, value);
        }
        res
    }

    fn set(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.variables.remove(name);
        self
    }

    fn file(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.to_owned(), text.to_owned());
        self
    }

    fn attempt(&self, spec: &Value) -> Outcome {
        let probe = probe_on(self, &Documents::default(), spec);
        run(TIMEOUT, &ResolverChoice::Auto, &probe)
    }

    fn up(&self, spec: &Value) -> Outcome {
        let outcome = self.attempt(spec);
        assert_eq!(summary(&outcome), "up", "{outcome:#?}");
        outcome
    }
}

impl Files for Machine {
    fn read(&self, path: &str) -> Result<Secret, String> {
        let file = self.files.get(path);
        file.map(Secret::new)
            .ok_or_else(|| format!("`{path}` does not exist"))
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    fn environment(&self) -> Result<Vec<(OsString, OsString)>, String> {
        Ok(vec![("PATH".into(), "/usr/bin:/bin".into())])
    }
}

fn in_environment(key: &AccessKey) -> Machine {
    let machine = Machine::new([
        ("AWS_ACCESS_KEY_ID", &key.id),
        ("AWS_SECRET_ACCESS_KEY", &key.secret),
    ]);
    match &key.session {
        None => machine,
        Some((token, _)) => machine.set("AWS_SESSION_TOKEN", token),
    }
}

/// An instance whose metadata service is `metadata`.
fn on_instance(metadata: &AwsMetadata) -> Machine {
    Machine::default().set("AWS_EC2_METADATA_SERVICE_ENDPOINT", &metadata.url())
}

fn metadata(mood: MetadataMood, moto: &Moto) -> AwsMetadata {
    AwsMetadata::start(mood, moto.session()).unwrap()
}

fn ends(key: &AccessKey) -> Option<i64> {
    let (_, expiration) = key.session.as_ref()?;
    seconds(Some(expiration.parse().unwrap()))
}

const USER: &str = "arn:aws:iam::123456789012:user/probe (account 123456789012)";
const OUTCAST: &str = "arn:aws:iam::123456789012:user/outcast (account 123456789012)";
const SESSION: &str = "arn:aws:sts::123456789012:assumed-role/auditor/rig (account 123456789012)";

fn is_session_of(role: &str, outcome: &Outcome) {
    let expected =
        format!("arn:aws:sts::123456789012:assumed-role/{role}/conncheck (account 123456789012)");
    assert_eq!(outcome.identity.as_deref(), Some(&*expected));
    let in_an_hour = jiff::Timestamp::now().as_second() + 3600;
    let ends = seconds(outcome.credential_expiry).expect("a session ends");
    assert!((ends - in_an_hour).abs() < 60, "{outcome:?}");
}

fn static_keys() {
    let moto = moto!();
    let outcome = up(with_keys(at(&moto), moto.user()));
    assert_eq!(phases(&outcome), ["resolve", "connect", "tls", "request"]);
    assert_eq!(outcome.identity.as_deref(), Some(USER));
    assert_eq!(outcome.http_status, Some(200));
    assert_eq!(outcome.credential_expiry, None, "keys of a user do not end");
    let tls = outcome.tls.expect("recorded");
    assert!(tls.verified);
    let pki = Rig::shared().pki();
    assert_eq!(seconds(tls.earliest_expiry), Some(pki.server.not_after));
}

fn keys_in_every_place() {
    let moto = moto!();
    let AccessKey { id, secret, .. } = moto.user();
    let spec = at(&moto);
    // As properties, templates among them.
    let keys = json!({"properties": {"accessKey": id, "secretKey": secret}});
    up(with(spec.clone(), keys));
    up(trusting(json!({
        "type": "aws", "username": id, "password": secret,
        "properties": {"endpoint": moto.https_url(), "accessKey": null, "region": "eu-west-1"},
    })));
    // In the URL, over which `spec` wins.
    let in_url = format!(
        "https://{id}:{}@localhost:{}",
        percent_encoding::utf8_percent_encode(secret, percent_encoding::NON_ALPHANUMERIC),
        moto.tls_port()
    );
    up(with(spec.clone(), json!({"url": in_url})));
    let other =
        json!({"url": in_url, "username": moto.outcast().id, "password": moto.outcast().secret});
    assert_eq!(
        up(with(spec.clone(), other)).identity.as_deref(),
        Some(OUTCAST)
    );
    // A whole secret, by the names that are used for it; it wins over `spec`.
    let whole = with(
        spec.clone(),
        json!({"secretRef": {"name": "any"}, "username": "AKIAWRONG", "password": "wrong"}),
    );
    for [access_key, secret_key] in [
        ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
        ["aws_access_key_id", "aws_secret_access_key"],
        ["accessKey", "secretKey"],
        ["access-key", "secret-access-key"],
        ["username", "password"],
    ] {
        let outcome = attempt_with_secret(&[(access_key, id), (secret_key, secret)], &whole);
        assert_eq!(summary(&outcome), "up", "{access_key}: {outcome:#?}");
    }
    // The secret's single key beside a `username` is the secret key.
    let keyed = json!({"username": id, "secretRef": {"name": "any", "key": "secret"}});
    let outcome = attempt_with_secret(&[("secret", &format!("{secret}\n"))], &with(spec, keyed));
    assert_eq!(summary(&outcome), "up", "{outcome:#?}");
}

fn a_session_needs_its_token() {
    let moto = moto!();
    let outcome = up(with_keys(at(&moto), moto.session()));
    assert_eq!(outcome.identity.as_deref(), Some(SESSION));
    let session = moto.session();
    let whole = with(at(&moto), json!({"secretRef": {"name": "any"}}));
    let (token, _) = session.session.clone().unwrap();
    let outcome = attempt_with_secret(
        &[
            ("AWS_ACCESS_KEY_ID", &session.id),
            ("AWS_SECRET_ACCESS_KEY", &session.secret),
            ("AWS_SESSION_TOKEN", &token),
        ],
        &whole,
    );
    assert_eq!(summary(&outcome), "up", "{outcome:#?}");
    let of_another = AccessKey {
        session: Some(("another".to_owned(), String::new())),
        ..session.clone()
    };
    let spec = with_keys(at(&moto), &of_another);
    let outcome = down(spec, "auth", "request", "InvalidClientTokenId");
    assert!(
        hint(&outcome).starts_with("the session token is not"),
        "{outcome:?}"
    );
}

fn refusals_are_told_apart() {
    let moto = moto!();
    let key = |id: &str, secret: &str| AccessKey {
        id: id.to_owned(),
        secret: secret.to_owned(),
        session: None,
    };
    let ask = |key: &AccessKey| attempt(&with_keys(at(&moto), key));
    let outcome = ask(&key(&moto.user().id, "wrong"));
    assert_eq!(summary(&outcome), "auth request SignatureDoesNotMatch");
    assert!(
        hint(&outcome).starts_with("the secret key is not"),
        "{outcome:?}"
    );
    assert!(
        message(&outcome).starts_with(
            "expected to be told who we are (`GetCallerIdentity`), got SignatureDoesNotMatch: The request signature we calculated"
        ),
        "{outcome:?}"
    );
    let outcome = ask(&key("AKIAUNKNOWN000000000", "x"));
    assert_eq!(summary(&outcome), "auth request InvalidClientTokenId");
    assert!(hint(&outcome).contains("does not exist"), "{outcome:?}");
}

fn a_profile_of_a_credentials_file() {
    let moto = moto!();
    let text = format!(
        "# who we are\n{}region = eu-west-1\n\n{}",
        section("default", moto.user()),
        section("profile other", moto.outcast()),
    );
    let outcome = by_file(at(&moto), &text);
    assert_eq!(summary(&outcome), "up", "{outcome:#?}");
    assert_eq!(outcome.identity.as_deref(), Some(USER));
    let other = with_properties(at(&moto), json!({"profile": "other"}));
    let outcome = by_file(other, &text);
    assert_eq!(outcome.identity.as_deref(), Some(OUTCAST), "{outcome:#?}");
    // The key `credentials` of a whole secret is one as well.
    let whole = with(at(&moto), json!({"secretRef": {"name": "any"}}));
    let outcome = attempt_with_secret(&[("credentials", &text)], &whole);
    assert_eq!(summary(&outcome), "up", "{outcome:#?}");
    // Where STS is may stand there, too.
    let text = format!(
        "{text}\n{}endpoint_url = {}\n",
        section("here", moto.user()),
        moto.https_url()
    );
    let here = trusting(json!({"type": "aws", "properties": {"profile": "here"}}));
    assert_eq!(summary(&by_file(here, &text)), "up");
}

fn a_role_is_assumed() {
    let moto = moto!();
    let spec = |role: Value| {
        with_properties(
            with_keys(at(&moto), moto.user()),
            json!({"assumeRole": role}),
        )
    };
    let outcome = up(spec(json!(Moto::role("auditor"))));
    assert_eq!(
        phases(&outcome),
        ["resolve", "connect", "tls", "auth", "request"]
    );
    is_session_of("auditor", &outcome);
    let outcome = up(spec(json!({
        "roleARN": Moto::role("auditor"), "sessionName": "me", "externalID": "x", "durationSeconds": 900,
    })));
    assert_eq!(
        outcome.identity.as_deref(),
        Some("arn:aws:sts::123456789012:assumed-role/auditor/me (account 123456789012)")
    );
    let left = outcome.credential_expiry.unwrap().as_second() - jiff::Timestamp::now().as_second();
    assert!((800..=901).contains(&left), "{left}");
    // Who may not assume it.
    let outcast = with_keys(at(&moto), moto.outcast());
    let outcome = down(
        with_properties(outcast, json!({"assumeRole": Moto::role("auditor")})),
        "permission",
        "auth",
        "AccessDenied",
    );
    assert!(
        message(&outcome).starts_with(
            "expected a session of the role `auditor` (`AssumeRole`), got AccessDenied: "
        ),
        "{outcome:?}"
    );
    assert!(
        hint(&outcome).starts_with("the role must trust this identity"),
        "{outcome:?}"
    );
}

fn roles_are_assumed_one_after_the_other() {
    let moto = moto!();
    let text = format!(
        "[default]\nrole_arn = {}\nsource_profile = between\n[profile between]\nrole_arn = {}\nsource_profile = base\n{}",
        Moto::role("auditor"),
        Moto::role("auditor"),
        section("base", moto.user()),
    );
    is_session_of("auditor", &by_file(at(&moto), &text));
    let then = with_properties(at(&moto), json!({"assumeRole": Moto::role("auditor")}));
    is_session_of("auditor", &by_file(then, &section("default", moto.user())));
}

fn a_program_gives_keys() {
    let moto = moto!();
    let session = moto.session();
    let (token, expiration) = session.session.clone().unwrap();
    let output = json!({
        "Version": 1, "AccessKeyId": session.id, "SecretAccessKey": session.secret,
        "SessionToken": token, "Expiration": expiration,
    });
    let by = |command: &str| {
        by_file(
            at(&moto),
            &format!("[default]\ncredential_process = {command}\n"),
        )
    };
    let outcome = by(&format!("sh -c 'echo \"$1\"' sh '{output}'"));
    assert_eq!(summary(&outcome), "up", "{outcome:#?}");
    assert_eq!(outcome.identity.as_deref(), Some(SESSION));
    assert_eq!(seconds(outcome.credential_expiry), ends(session));
    let outcome = by("sh -c 'echo not logged in >&2; exit 2'");
    assert_eq!(summary(&outcome), "auth auth exit 2");
    assert_eq!(
        message(&outcome),
        "the program `sh` failed (exit 2): not logged in"
    );
    let outcome = by("echo Success");
    assert_eq!(summary(&outcome), "protocol auth -");
    let outcome = by("no-such-program --x");
    assert_eq!(summary(&outcome), "secret auth -");
}

fn the_environment() {
    let moto = moto!();
    let outcome = in_environment(moto.user()).up(&at(&moto));
    assert_eq!(outcome.identity.as_deref(), Some(USER));
    let outcome = in_environment(moto.session()).up(&at(&moto));
    assert_eq!(outcome.identity.as_deref(), Some(SESSION));
    // The endpoint of the environment goes with it.
    let bare = trusting(json!({"type": "aws"}));
    let machine = in_environment(moto.user()).set("AWS_ENDPOINT_URL", "https://localhost:1");
    machine
        .clone()
        .set("AWS_ENDPOINT_URL_STS", &moto.https_url())
        .up(&bare);
    let outcome = machine.attempt(&bare);
    assert_eq!(summary(&outcome), "connect_refused connect -");
    // It is not that of keys which the definition has.
    let probe = probe_on(
        &machine,
        &Documents::default(),
        &with_keys(bare, moto.user()),
    );
    assert_eq!(probe.endpoint(), "https://sts.us-east-1.amazonaws.com:443");
}

fn our_own_files() {
    let moto = moto!();
    let config = format!(
        "[default]\nregion = eu-west-1\n[profile auditor]\nrole_arn = {}\nsource_profile = default\n",
        Moto::role("auditor")
    );
    let machine = Machine::new([("HOME", "/home/rig")])
        .file("/home/rig/.aws/config", &config)
        .file(
            "/home/rig/.aws/credentials",
            &section("default", moto.user()),
        );
    let outcome = machine.up(&at(&moto));
    assert_eq!(outcome.identity.as_deref(), Some(USER));
    let named = with_properties(at(&moto), json!({"profile": "auditor"}));
    is_session_of("auditor", &machine.up(&named));
    is_session_of(
        "auditor",
        &machine.clone().set("AWS_PROFILE", "auditor").up(&at(&moto)),
    );
    let elsewhere = Machine::new([
        ("AWS_CONFIG_FILE", "/etc/aws/config"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/etc/aws/credentials"),
    ])
    .file("/etc/aws/credentials", &section("default", moto.user()));
    elsewhere.up(&at(&moto));
    // A region of the environment wins over that of our files.
    let bare = json!({"type": "aws"});
    for (machine, host) in [
        (machine.clone(), "sts.eu-west-1.amazonaws.com"),
        (
            machine.set("AWS_REGION", "cn-north-1"),
            "sts.cn-north-1.amazonaws.com.cn",
        ),
    ] {
        let probe = probe_on(&machine, &Documents::default(), &bare);
        assert_eq!(probe.endpoint(), format!("https://{host}:443"));
    }
}

fn a_web_identity() {
    let moto = need!(Rig::shared().get(MotoKind::Lenient));
    let machine = Machine::new([
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token"),
        ("AWS_ROLE_ARN", &Moto::role("auditor")),
    ])
    .file("/var/run/token", "header.payload.signature\n");
    let outcome = machine.up(&at(&moto));
    assert_eq!(
        phases(&outcome),
        ["resolve", "connect", "tls", "auth", "request"]
    );
    is_session_of("auditor", &outcome);
    let outcome = machine
        .clone()
        .set("AWS_ROLE_SESSION_NAME", "pod")
        .up(&at(&moto));
    assert!(
        outcome
            .identity
            .unwrap()
            .contains("assumed-role/auditor/pod")
    );
    // In a profile.
    let config = format!(
        "[default]\nrole_arn = {}\nweb_identity_token_file = /var/run/token\n",
        Moto::role("auditor")
    );
    let in_file = Machine::new([("HOME", "/home/rig")])
        .file("/home/rig/.aws/config", &config)
        .file("/var/run/token", "header.payload.signature");
    is_session_of("auditor", &in_file.up(&at(&moto)));
    // What STS says of a token that it does not take, which moto never says.
    for (code, words, reason, way_out) in [
        (
            "ExpiredTokenException",
            "Token expired: current date/time 1 must be before the expiration date/time 0",
            "auth",
            "who writes its file must renew it",
        ),
        (
            "InvalidIdentityToken",
            "No OpenIDConnect provider found in your account for https://oidc.test",
            "auth",
            "does the role trust this identity provider",
        ),
        (
            "AccessDenied",
            "Not authorized to perform sts:AssumeRoleWithWebIdentity",
            "permission",
            "trust this identity provider",
        ),
        (
            "IDPCommunicationError",
            "Couldn't retrieve verification key from your identity provider",
            "unavailable",
            "cannot reach the identity provider",
        ),
    ] {
        let peer = sts(code, words, None);
        let outcome = machine.attempt(&json!({"type": "aws", "url": peer.url("")}));
        assert_down(&outcome, reason, "auth", code);
        assert!(hint(&outcome).contains(way_out), "{outcome:?}");
        assert!(
            message(&outcome).ends_with(&format!("got {code}: {words}")),
            "{outcome:?}"
        );
        let sent = &peer.requests()[0];
        assert_eq!(
            sent.header("authorization"),
            None,
            "the token is all that proves it"
        );
        assert!(
            sent.body_text()
                .contains("WebIdentityToken=header.payload.signature")
        );
    }
    let broken = machine.without("AWS_ROLE_ARN").attempt(&at(&moto));
    assert_eq!(summary(&broken), "secret auth -");
    assert!(
        message(&broken).ends_with("; web identity: `AWS_ROLE_ARN` is not set"),
        "{broken:?}"
    );
}

fn in_container(metadata: &AwsMetadata) -> Machine {
    Machine::new([
        (
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            &metadata.container_url(),
        ),
        (
            "AWS_CONTAINER_AUTHORIZATION_TOKEN",
            AwsMetadata::CONTAINER_TOKEN,
        ),
    ])
}

fn a_container() {
    let moto = moto!();
    let metadata = metadata(MetadataMood::Good, &moto);
    let outcome = in_container(&metadata).up(&at(&moto));
    assert_eq!(outcome.identity.as_deref(), Some(SESSION));
    assert_eq!(seconds(outcome.credential_expiry), ends(moto.session()));
    assert_eq!(
        phases(&outcome),
        ["resolve", "connect", "tls", "auth", "request"]
    );
    // As EKS Pod Identity has it: the token is in a file, which wins.
    let eks = in_container(&metadata)
        .set("AWS_CONTAINER_AUTHORIZATION_TOKEN", "old")
        .set("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/var/run/token")
        .file("/var/run/token", AwsMetadata::CONTAINER_TOKEN);
    eks.up(&at(&moto));
    let config = format!(
        "[default]\nrole_arn = {}\ncredential_source = EcsContainer\n",
        Moto::role("auditor")
    );
    let with_role = in_container(&metadata)
        .set("HOME", "/home/rig")
        .file("/home/rig/.aws/config", &config);
    is_session_of("auditor", &with_role.up(&at(&moto)));
    let asked = format!("GET {}", AwsMetadata::CONTAINER_PATH);
    assert_eq!(metadata.asked(), [&*asked, &asked, &asked]);
}

fn a_container_that_has_none() {
    let moto = moto!();
    let good = metadata(MetadataMood::Good, &moto);
    let outcome = in_container(&good)
        .set("AWS_CONTAINER_AUTHORIZATION_TOKEN", "wrong")
        .attempt(&at(&moto));
    assert_eq!(summary(&outcome), "auth auth InvalidAuthorization");
    assert_eq!(
        message(&outcome),
        format!(
            "container credentials at `http://{}`: expected credentials, got 401 Unauthorized: InvalidAuthorization: authorization token is not valid",
            good.addr()
        )
    );
    let none = metadata(MetadataMood::WithoutRole, &moto);
    let outcome = in_container(&none).attempt(&at(&moto));
    assert_eq!(summary(&outcome), "auth auth NoIdInRequest");
    assert!(
        hint(&outcome).contains("has the task a role"),
        "{outcome:?}"
    );
    let page = metadata(MetadataMood::Page, &moto);
    let outcome = in_container(&page).attempt(&at(&moto));
    assert_eq!(summary(&outcome), "protocol auth -");
    // A token never goes in plain text to who might be anybody.
    let far = Machine::new([("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://10.0.0.1/x")]);
    let outcome = far.attempt(&at(&moto));
    assert_eq!(summary(&outcome), "secret auth -");
    assert_eq!(phases(&outcome), [""; 0]);
    assert!(
        message(&outcome).contains("leads neither to this machine"),
        "{outcome:?}"
    );
}

fn an_instance() {
    let moto = moto!();
    let metadata = metadata(MetadataMood::Good, &moto);
    let machine = on_instance(&metadata);
    let outcome = machine.up(&at(&moto));
    assert_eq!(outcome.identity.as_deref(), Some(SESSION));
    assert_eq!(seconds(outcome.credential_expiry), ends(moto.session()));
    let role = format!(
        "/latest/meta-data/iam/security-credentials/{}",
        AwsMetadata::ROLE
    );
    let mut expected = vec![
        "PUT /latest/api/token".to_owned(),
        "GET /latest/meta-data/iam/security-credentials/".to_owned(),
        format!("GET {role}"),
        "GET /latest/meta-data/placement/region".to_owned(),
    ];
    assert_eq!(metadata.asked(), expected);
    assert_eq!(metadata.peer().accepted(), 1, "one connection");
    // With a region of its own it need not be asked for that.
    let regional = with_properties(at(&moto), json!({"region": "eu-west-1"}));
    machine.up(&regional);
    let three = expected[..3].to_vec();
    expected.extend(three.clone());
    assert_eq!(metadata.asked(), expected);
    // In a profile that is given, without anything of ours.
    let text = format!(
        "[default]\nregion = eu-west-1\nrole_arn = {}\ncredential_source = Ec2InstanceMetadata\n",
        Moto::role("auditor")
    );
    let by_profile = machine
        .set("HOME", "/home/rig")
        .file("/home/rig/.aws/config", &text);
    is_session_of("auditor", &by_profile.up(&at(&moto)));
    assert!(metadata.peer().everybody_left(PATIENCE));
}

fn an_instance_that_has_none() {
    let moto = moto!();
    let chain = "found no credentials: environment: `AWS_ACCESS_KEY_ID` is not set; profile `default`: `HOME` is not set; \
                 web identity: `AWS_WEB_IDENTITY_TOKEN_FILE` is not set; container: no `AWS_CONTAINER_CREDENTIALS_…_URI` is set; instance: ";
    for (mood, what, way_out) in [
        (
            MetadataMood::WithoutRole,
            "expected the name of the instance's role, got 404 Not Found",
            "attach an instance profile",
        ),
        (
            MetadataMood::Off,
            "expected a token (IMDSv2), got 403 Forbidden",
            "switched off",
        ),
        (
            MetadataMood::Distrusted,
            "it has no credentials: AssumeRoleUnauthorizedAccess: EC2 cannot assume the role rig-instance-role.",
            "may the service assume it",
        ),
        (
            MetadataMood::Page,
            "expected a token (IMDSv2), got 20 bytes of text/html",
            "does a proxy answer in its place?",
        ),
        (MetadataMood::Cut, "", ""),
    ] {
        let metadata = metadata(mood, &moto);
        let outcome = on_instance(&metadata).attempt(&at(&moto));
        assert_eq!(summary(&outcome), "secret auth -", "{outcome:#?}");
        assert!(message(&outcome).starts_with(chain), "{outcome:#?}");
        assert!(message(&outcome).contains(what), "{mood:?}: {outcome:#?}");
        assert!(hint(&outcome).contains(way_out), "{outcome:?}");
        // As the one that was chosen it fails for what it is.
        let text = format!(
            "[default]\nrole_arn = {}\ncredential_source = Ec2InstanceMetadata\n",
            Moto::role("auditor")
        );
        let chosen = on_instance(&metadata)
            .set("HOME", "/home/rig")
            .file("/home/rig/.aws/config", &text)
            .attempt(&at(&moto));
        let reason = match mood {
            MetadataMood::Page => "protocol",
            MetadataMood::Cut => "connect_reset",
            _ => "auth",
        };
        let failure = chosen.result.as_ref().unwrap_err();
        assert_eq!(failure.reason.as_str(), reason, "{chosen:#?}");
        assert!(
            failure.message.contains(&metadata.addr().to_string()),
            "{failure:?}"
        );
    }
    // Nobody answers there, as on every machine that is no instance.
    let silent = Peer::silent().unwrap();
    let machine = Machine::default().set(
        "AWS_EC2_METADATA_SERVICE_ENDPOINT",
        &format!("http://{}", silent.addr()),
    );
    let outcome = machine.attempt(&at(&moto));
    assert_eq!(summary(&outcome), "secret auth -", "{outcome:#?}");
    assert!(message(&outcome).contains(" within 2s"), "{outcome:#?}");
    assert!(hint(&outcome).contains("hop limit"), "{outcome:#?}");
}

fn the_default_chain_takes_the_first_link_that_is_there() {
    let moto = moto!();
    let metadata = metadata(MetadataMood::Good, &moto);
    // Each link is somebody else.
    let all = on_instance(&metadata)
        .set("AWS_ACCESS_KEY_ID", &moto.user().id)
        .set("AWS_SECRET_ACCESS_KEY", &moto.user().secret)
        .set("HOME", "/home/rig")
        .file(
            "/home/rig/.aws/credentials",
            &section("default", moto.outcast()),
        )
        .set("AWS_WEB_IDENTITY_TOKEN_FILE", "/token")
        .set("AWS_ROLE_ARN", &Moto::role("auditor"))
        .set("AWS_ROLE_SESSION_NAME", "web")
        .file("/token", "web-token")
        .set(
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            &metadata.container_url(),
        );
    assert_eq!(all.up(&at(&moto)).identity.as_deref(), Some(USER));
    let profile = all.without("AWS_SECRET_ACCESS_KEY");
    assert_eq!(profile.up(&at(&moto)).identity.as_deref(), Some(OUTCAST));
    let mut web = profile;
    web.files.remove("/home/rig/.aws/credentials");
    let lenient = need!(Rig::shared().get(MotoKind::Lenient));
    let outcome = web.up(&at(&lenient));
    let identity = outcome.identity.unwrap();
    assert!(identity.contains("/auditor/web"), "{identity}");
    assert!(
        metadata.asked().is_empty(),
        "before the chain has come to it"
    );
    let container = web.without("AWS_WEB_IDENTITY_TOKEN_FILE");
    // It is there, and wants a token: the instance is not asked instead.
    assert_eq!(
        summary(&container.attempt(&at(&moto))),
        "auth auth InvalidAuthorization"
    );
    let instance = container.without("AWS_CONTAINER_CREDENTIALS_FULL_URI");
    assert_eq!(instance.up(&at(&moto)).identity.as_deref(), Some(SESSION));
    // What the definition says comes before all of it.
    let given = with_keys(at(&moto), moto.outcast());
    assert_eq!(instance.up(&given).identity.as_deref(), Some(OUTCAST));
}

fn a_link_that_is_broken_ends_the_chain() {
    let moto = moto!();
    let metadata = metadata(MetadataMood::Good, &moto);
    let machine = on_instance(&metadata).set("HOME", "/home/rig");
    for (machine, what) in [
        (
            machine.clone().set("AWS_PROFILE", "gone"),
            "profile `gone` of `AWS_PROFILE`: `/home/rig/.aws/config` does not exist, `/home/rig/.aws/credentials` does not exist",
        ),
        (
            machine
                .clone()
                .file("/home/rig/.aws/config", "[default]\nsso_session = x\n"),
            "profile `default`: the profile logs in by single sign-on (`sso_session`), which takes a person and a browser",
        ),
        (
            machine
                .clone()
                .file("/home/rig/.aws/config", "[default]\nnonsense\n"),
            "line 2 of `/home/rig/.aws/config`: neither `[name]` nor `setting = value`",
        ),
        (
            machine
                .set("AWS_WEB_IDENTITY_TOKEN_FILE", "/token")
                .set("AWS_ROLE_ARN", &Moto::role("auditor")),
            "web identity: `/token` does not exist",
        ),
    ] {
        let outcome = machine.attempt(&at(&moto));
        assert_eq!(summary(&outcome), "secret auth -");
        assert!(message(&outcome).ends_with(what), "{outcome:#?}");
    }
    assert!(metadata.asked().is_empty());
}

fn a_chain_without_an_end_names_every_link() {
    let spec = json!({"type": "aws"});
    let machine = Machine::new([("HOME", "/home/rig"), ("AWS_ACCESS_KEY_ID", "AKIAHALF")]);
    let outcome = machine.attempt(&spec);
    assert_eq!(summary(&outcome), "secret auth -");
    assert_eq!(
        message(&outcome),
        "found no credentials: environment: `AWS_SECRET_ACCESS_KEY` is not set; \
         profile `default`: `/home/rig/.aws/config` does not exist, `/home/rig/.aws/credentials` does not exist; \
         web identity: `AWS_WEB_IDENTITY_TOKEN_FILE` is not set; \
         container: no `AWS_CONTAINER_CREDENTIALS_…_URI` is set; \
         instance: `AWS_EC2_METADATA_DISABLED` says not to ask it"
    );
    assert!(hint(&outcome).starts_with("give access key and secret key"));
    assert_eq!(phases(&outcome), [""; 0], "nobody was asked");
}

fn nobody_asks_a_metadata_service_unasked() {
    let moto = moto!();
    let metadata = metadata(MetadataMood::Good, &moto);
    let machine = on_instance(&metadata);
    for spec in [
        with_keys(at(&moto), moto.user()),
        // Without a region, too.
        with_keys(
            trusting(json!({"type": "aws", "url": moto.https_url()})),
            moto.session(),
        ),
        with_properties(
            with_keys(at(&moto), moto.user()),
            json!({"assumeRole": Moto::role("auditor")}),
        ),
    ] {
        machine.up(&spec);
    }
    assert_eq!(metadata.peer().accepted(), 0);
}

/// A refusal as STS writes it.
fn sts(code: &str, words: &str, date: Option<String>) -> HttpPeer {
    let body = format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n  <Error>\n    <Type>Sender</Type>\n    \
         <Code>{code}</Code>\n    <Message>{words}</Message>\n  </Error>\n  <RequestId>00000000-0000-0000-0000-000000000000</RequestId>\n\
         </ErrorResponse>\n"
    );
    HttpPeer::start(move |_| {
        let mut headers = vec![("Content-Type", "text/xml")];
        headers.extend(date.as_deref().map(|date| ("Date", date)));
        response(403, &headers, &body)
    })
    .unwrap()
}

fn at_peer(peer: &HttpPeer) -> Value {
    json!({"type": "aws", "url": peer.url(""), "username": "AKIARIG", "password": "s3cr3t"})
}

fn what_moto_never_says() {
    let long = |_: ()| None;
    let session = |_: ()| Some("sessionToken");
    for (code, words, token, reason, way_out) in [
        (
            "ExpiredToken",
            "The security token included in the request is expired",
            session(()),
            "auth",
            "the session has ended: get new keys",
        ),
        (
            "InvalidClientTokenId",
            "The security token included in the request is invalid.",
            session(()),
            "auth",
            "the session token is not that of this access key",
        ),
        (
            "RegionDisabledException",
            "STS is not activated in this region for account:1.",
            long(()),
            "permission",
            "activate STS in that region",
        ),
        (
            "SignatureDoesNotMatch",
            "Credential should be scoped to a valid region. ",
            long(()),
            "auth",
            "it was signed for the region `us-east-1`",
        ),
        (
            "AccessDenied",
            "User: arn:aws:iam::1:user/x is not authorized to perform: sts:GetCallerIdentity with an explicit deny in a service control policy",
            long(()),
            "permission",
            "a policy denies `sts:GetCallerIdentity`",
        ),
        (
            "Throttling",
            "Rate exceeded",
            long(()),
            "unavailable",
            "let `interval` be longer",
        ),
        (
            "MissingAuthenticationToken",
            "Request is missing Authentication Token",
            long(()),
            "auth",
            "does a proxy in between take the header `Authorization` away?",
        ),
    ] {
        let peer = sts(code, words, None);
        let mut spec = at_peer(&peer);
        if let Some(name) = token {
            spec = with_properties(spec, json!({name: "t0k3n"}));
        }
        let outcome = down(spec, reason, "request", code);
        assert!(hint(&outcome).contains(way_out), "{outcome:?}");
        let sent = &peer.requests()[0];
        assert_eq!(sent.header("x-amz-security-token"), token.map(|_| "t0k3n"));
    }
    // The request is repeated behind the first line, with the token in it.
    let peer = sts(
        "SignatureDoesNotMatch",
        "It does not match.\n\nThe Canonical String for this request should have been\n'POST\n/\n\nx-amz-security-token:t0k3n",
        None,
    );
    let outcome = attempt(&at_peer(&peer));
    assert!(message(&outcome).ends_with("got SignatureDoesNotMatch: It does not match."));
    // No AWS at all.
    let peer =
        HttpPeer::answers(response(200, &[("Content-Type", "text/html")], "<html>")).unwrap();
    let outcome = down(at_peer(&peer), "protocol", "request", "200");
    assert_eq!(hint(&outcome), "is it the endpoint of STS?");
    let peer = HttpPeer::answers(response(502, &[], "")).unwrap();
    down(at_peer(&peer), "http_status", "request", "502");
    // A session that is cut short, and one that has no keys in it.
    let peer = HttpPeer::answers(response(
        200,
        &[],
        "<AssumeRoleResponse><AccessKeyId>A</AccessKeyId>",
    ))
    .unwrap();
    let role = json!({"assumeRole": Moto::role("auditor")});
    down(
        with_properties(at_peer(&peer), role),
        "protocol",
        "auth",
        "200",
    );
}

fn a_wrong_clock() {
    let late = "Signature expired: 20261125T110000Z is now earlier than 20261125T114500Z (20261125T120000Z - 15 min.)";
    let early = "Signature not yet current: 20261125T130000Z is still later than 20261125T121500Z (20261125T120000Z + 15 min.)";
    let now = jiff::Timestamp::now();
    for (code, words, off, clock) in [
        (
            "SignatureDoesNotMatch",
            late,
            3 * 3600,
            "our clock is 3 h behind the server's: set it right (NTP)",
        ),
        (
            "SignatureDoesNotMatch",
            early,
            -20 * 60,
            "our clock is 20 min ahead of the server's: set it right (NTP)",
        ),
        (
            "RequestTimeTooSkewed",
            "The difference is too large",
            -3 * 86400,
            "our clock is 3 days ahead of the server's: set it right (NTP)",
        ),
        (
            "SignatureDoesNotMatch",
            late,
            0,
            "the clocks agree by its `Date`",
        ),
    ] {
        let theirs = now + jiff::SignedDuration::from_secs(off);
        let date = theirs.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let peer = sts(code, words, Some(date));
        let outcome = down(at_peer(&peer), "auth", "request", code);
        assert!(hint(&outcome).starts_with(clock), "{outcome:?}");
    }
}

fn every_fault_of_a_certificate() {
    let moto = moto!();
    let pki = Rig::shared().pki();
    let front = |shown| Rig::shared().get(MotoFront(shown));
    let at = |port: u16| {
        let spec = json!({"type": "aws", "url": format!("https://localhost:{port}")});
        with_keys(trusting(spec), moto.user())
    };
    let intermediate = need!(front(Shown::Intermediate));
    let tls = up(at(intermediate.port())).tls.expect("recorded");
    assert_eq!(
        seconds(tls.earliest_expiry),
        Some(pki.intermediate.not_after)
    );
    for (shown, reason) in FAULTS {
        let certificate = pki.shown(shown);
        let front = need!(front(shown));
        let spec = at(front.port());
        refuses(certificate, spec.clone(), reason);
        for skip in [
            json!({"insecureSkipVerify": true}),
            json!({"properties": {"insecureSkipVerify": true}}),
        ] {
            let tls = up(with(spec.clone(), skip)).tls.expect("recorded");
            assert!(!tls.verified);
            assert_eq!(seconds(tls.earliest_expiry), Some(certificate.not_after));
        }
        // A role's session is not asked for either where nobody is trusted.
        let role = json!({"assumeRole": Moto::role("auditor")});
        refuses(certificate, with_properties(spec, role), reason);
    }
    let named = |port| with_properties(at(port), json!({"serverName": "elsewhere.test"}));
    up(named(need!(front(Shown::WrongName)).port()));
    down(named(moto.tls_port()), "tls_name_mismatch", "tls", "");
    down(
        with_keys(json!({"type": "aws", "url": moto.https_url()}), moto.user()),
        "tls_unknown_ca",
        "tls",
        "",
    );
    let plain = with_keys(
        trusting(json!({"type": "aws", "url": format!("https://localhost:{}", moto.port())})),
        moto.user(),
    );
    down(plain, "protocol", "tls", "");
}

fn client_certificate_missing_wrong_and_right() {
    let moto = moto!();
    let url = format!("https://localhost:{}", moto.mutual_tls_port());
    let spec = trusting(json!({"type": "aws", "url": url}));
    client_certificates(&with_keys(spec, moto.user()));
}

fn a_stopped_server_refuses() {
    let rig = Rig::shared();
    moto!();
    let moto = Moto::start(rig, "moto-stopped").unwrap();
    let spec = with_keys(json!({"type": "aws", "url": moto.url()}), moto.user());
    up(spec.clone());
    moto.process().pause();
    let outcome = attempt_within(SHORT, &spec);
    assert_down(&outcome, "timeout", "request", "");
    moto.process().resume();
    drop(moto);
    down(spec, "connect_refused", "connect", "");
}

fn one_connection_and_a_clean_end() {
    let session = "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ASIARIG</AccessKeyId>\
         <SecretAccessKey>s3cr3t</SecretAccessKey><SessionToken>t0k3n</SessionToken><Expiration>2040-01-01T00:00:00Z</Expiration>\
         </Credentials></AssumeRoleResult></AssumeRoleResponse>";
    let me = "<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:sts::1:assumed-role/a/b</Arn>\
         <UserId>u</UserId><Account>1</Account></GetCallerIdentityResult></GetCallerIdentityResponse>";
    let peer = HttpPeer::start(move |request| {
        let body = match request.body_text().contains("Action=AssumeRole&") {
            true => session,
            false => me,
        };
        response(200, &[("Content-Type", "text/xml")], body)
    })
    .unwrap();
    let spec = with_properties(
        at_peer(&peer),
        json!({"assumeRole": Moto::role("a"), "region": "eu-west-1"}),
    );
    let outcome = up(spec);
    assert_eq!(
        outcome.identity.as_deref(),
        Some("arn:aws:sts::1:assumed-role/a/b (account 1)")
    );
    assert_eq!(
        outcome.credential_expiry,
        "2040-01-01T00:00:00Z".parse().ok()
    );
    assert_eq!(peer.accepted(), 1, "one connection");
    assert!(peer.everybody_left(PATIENCE));
    let requests = peer.requests();
    let signed = |index: usize| requests[index].header("authorization").unwrap().to_owned();
    assert!(
        signed(0).contains("Credential=AKIARIG/")
            && signed(0).contains("/eu-west-1/sts/aws4_request")
    );
    assert!(signed(1).contains("Credential=ASIARIG/"), "by the session");
    assert_eq!(requests[1].header("x-amz-security-token"), Some("t0k3n"));
    assert!(
        requests[0]
            .header("user-agent")
            .unwrap()
            .starts_with("conncheck/")
    );
}

/// A request that AWS answers to whoever may: the users of the account. By `POST`: moto takes the query of
/// a `GET` for a part of the body, and so finds no such signature right (AWS' own example of one is a test of
/// `sigv4.rs`).
fn users(moto: &Moto) -> Value {
    trusting(json!({
        "type": "http",
        "url": moto.https_url(),
        "properties": {
            "method": "POST",
            "body": "Action=ListUsers&Version=2010-05-08&PathPrefix=%2F",
            "headers": {"Content-Type": "application/x-www-form-urlencoded"},
            "awsSigV4": {"service": "iam", "region": "us-east-1"},
            "bodyContains": "<ListUsersResult>",
        },
    }))
}

fn as_user(spec: Value, key: &AccessKey) -> Value {
    with(spec, json!({"username": key.id, "password": key.secret}))
}

fn an_http_request_is_signed() {
    let moto = moto!();
    let AccessKey { id, secret, .. } = moto.user();
    let outcome = up(as_user(users(&moto), moto.user()));
    assert_eq!(phases(&outcome), ["resolve", "connect", "tls", "request"]);
    let keys = json!({"awsSigV4": {"accessKey": id, "secretKey": secret}});
    up(with_properties(users(&moto), keys));
    let session = moto.session();
    let (token, _) = session.session.clone().unwrap();
    let token = json!({"awsSigV4": {"sessionToken": token}});
    up(with_properties(as_user(users(&moto), session), token));
    // S3 wants the hash of the body beside it.
    let buckets = json!({
        "properties": {"method": "GET", "body": null, "headers": {}, "awsSigV4": {"service": "s3"}, "bodyContains": "<ListAllMyBucketsResult"},
    });
    up(with(as_user(users(&moto), moto.user()), buckets));
}

fn an_http_request_that_is_refused() {
    let moto = moto!();
    let ask = |key: &AccessKey| attempt(&as_user(users(&moto), key));
    let outcome = ask(moto.outcast());
    assert_eq!(summary(&outcome), "permission request AccessDenied");
    assert!(
        message(&outcome).starts_with("expected 2xx, got 403 Forbidden: AccessDenied: User: arn:aws:iam::123456789012:user/outcast is not authorized"),
        "{outcome:?}"
    );
    assert!(
        hint(&outcome).starts_with("a policy denies this request to `iam`"),
        "{outcome:?}"
    );
    let wrong = AccessKey {
        secret: "wrong".to_owned(),
        ..moto.user().clone()
    };
    let outcome = ask(&wrong);
    assert_eq!(summary(&outcome), "auth request SignatureDoesNotMatch");
    let unknown = AccessKey {
        id: "AKIAUNKNOWN000000000".to_owned(),
        ..wrong
    };
    assert_eq!(summary(&ask(&unknown)), "auth request InvalidClientTokenId");
    // Whoever expects a refusal gets one.
    let expected = json!({"expectedStatus": 403, "bodyContains": "AccessDenied"});
    up(with_properties(
        as_user(users(&moto), moto.outcast()),
        expected,
    ));
    // A redirect is an answer: its target would want a signature of its own.
    let peer = HttpPeer::start(|request| match request.target.as_str() {
        "/" => response(301, &[("Location", "/there")], ""),
        _ => response(200, &[], ""),
    })
    .unwrap();
    let spec = json!({
        "type": "http", "url": peer.url("/"), "username": "AKIARIG", "password": "s3cr3t",
        "properties": {"awsSigV4": {"service": "s3", "region": "eu-west-1"}},
    });
    let outcome = down(spec, "http_status", "request", "301");
    assert!(hint(&outcome).contains("it redirects to"), "{outcome:?}");
    let sent = &peer.requests()[0];
    let authorization = sent.header("authorization").unwrap();
    assert!(
        authorization.starts_with("AWS4-HMAC-SHA256 Credential=AKIARIG/"),
        "{authorization}"
    );
    assert!(authorization.contains(
        "/eu-west-1/s3/aws4_request, SignedHeaders=host;x-amz-content-sha256;x-amz-date, "
    ));
}

fn an_http_request_is_signed_by_whoever_we_are() {
    let moto = moto!();
    in_environment(moto.user()).up(&users(&moto));
    // STS has its own endpoint, which is not that of the request.
    let role = json!({"awsSigV4": {"assumeRole": Moto::role("auditor")}});
    let machine = in_environment(moto.user()).set("AWS_ENDPOINT_URL_STS", &moto.url());
    let outcome = machine.up(&with_properties(users(&moto), role));
    assert_eq!(
        phases(&outcome),
        ["resolve", "connect", "tls", "auth", "request"]
    );
    assert!(outcome.credential_expiry.is_some());
    let nobody = Machine::new([]).attempt(&users(&moto));
    assert_eq!(summary(&nobody), "secret auth -");
    assert!(
        message(&nobody).starts_with("found no credentials: "),
        "{nobody:?}"
    );
    let file = with(
        users(&moto),
        json!({"secretRef": {"name": "any", "key": "credentials"}}),
    );
    let text = section("default", moto.user());
    let outcome = attempt_with_secret(&[("credentials", &text)], &file);
    assert_eq!(summary(&outcome), "up", "{outcome:#?}");
}
