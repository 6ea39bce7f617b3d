//! The peer that speaks for SQL Server is taken for one by FreeTDS, a client by others.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
};

use conncheck_rig::{MssqlKind, PASSWORD, Rig, Shown, Skipped, install, need};

/// What `tsql` says when it logs in and asks these queries.
fn tsql(kind: MssqlKind, encryption: &str, login: [&str; 3], queries: &[&str]) -> Option<String> {
    let rig = Rig::shared();
    let program = need!(install::find(install::FREETDS).map_err(Skipped::from), None);
    let mssql = need!(rig.get(kind), None);
    let dir = tempfile::tempdir().expect("a folder");
    let conf = dir.path().join("freetds.conf");
    let text = format!(
        "[rig]\nhost = localhost\nport = {}\ntds version = 7.4\nencryption = {encryption}\nca file = {}\ntimeout = 5\nconnect timeout = 5\n",
        mssql.port(),
        rig.pki().ca.cert_path.display(),
    );
    fs::write(&conf, text).expect("a file");
    let [user, password, database] = login;
    // It waits for ever where it gets lost.
    let mut child = Command::new("timeout")
        .args(["10".as_ref(), program.as_os_str()])
        .args(["-S", "rig", "-U", user, "-P", password, "-D", database])
        .env("FREETDSCONF", &conf)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("tsql");
    let input: String = queries
        .iter()
        .map(|query| format!("{query}\ngo\n"))
        .collect();
    // One that was not let in reads no queries.
    let _ = (child.stdin.take().expect("a pipe")).write_all(format!("{input}exit\n").as_bytes());
    let output = child.wait_with_output().expect("tsql ends");
    let said = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&said).into_owned())
}

const PROBE: [&str; 3] = ["probe", PASSWORD, "orders"];

#[test]
fn freetds_agrees_with_it_on_encryption() {
    for (kind, encryption, is_in) in [
        (MssqlKind::Main, "off", true),
        (MssqlKind::Main, "request", true),
        (MssqlKind::Main, "require", true),
        (MssqlKind::ForcesTls, "request", true),
        (MssqlKind::ForcesTls, "require", true),
        (MssqlKind::NoTls, "off", true),
        (MssqlKind::NoTls, "request", true),
        (MssqlKind::NoTls, "require", false),
        (MssqlKind::Shows(Shown::UnknownCa), "require", false),
        (MssqlKind::Shows(Shown::Intermediate), "require", true),
    ] {
        let Some(said) = tsql(kind, encryption, PROBE, &["SELECT 1"]) else {
            return;
        };
        let got_a_row = said.contains("(1 row affected)");
        assert_eq!(got_a_row, is_in, "{kind:?} {encryption}:\n{said}");
    }
    let mssql = need!(Rig::shared().get(MssqlKind::Shows(Shown::Intermediate)));
    assert!(mssql.logins().iter().all(|login| login.encrypted));
}

#[test]
fn freetds_reads_its_rows() {
    let queries = [
        "SELECT 1; SELECT 2",
        "SELECT * FROM everything",
        "SELECT * FROM big",
        "EXEC greet",
    ];
    let Some(said) = tsql(MssqlKind::Main, "require", PROBE, &queries) else {
        return;
    };
    for words in [
        "(3 rows affected)",
        "1\t506381209866536711\t1\t0.0151587081\t",
        "05050505-0505-0505-0505-050505050505\tabc\thi\taad1\taaaa010203\t<\t1\thi",
        "(200 rows affected)",
        "hello",
        "(return status = 0)",
    ] {
        assert!(said.contains(words), "{words}:\n{said}");
    }
}

#[test]
fn freetds_hears_its_refusals() {
    for (login, number) in [
        (["probe", "wrong", "orders"], "Msg 18456"),
        (["disabled", PASSWORD, "orders"], "Msg 18470"),
        (["probe", PASSWORD, "nowhere"], "Msg 4060"),
    ] {
        let Some(said) = tsql(MssqlKind::Main, "require", login, &[]) else {
            return;
        };
        assert!(said.contains(number), "{login:?}:\n{said}");
    }
    for (query, number) in [
        ("SELECT * FROM nowhere", "Msg 208"),
        ("SELECT * FROM secrets", "Msg 229"),
        ("RAISERROR('end', 20, 1) WITH LOG", "Msg 50000"),
    ] {
        let Some(said) = tsql(MssqlKind::Main, "require", PROBE, &[query]) else {
            return;
        };
        assert!(said.contains(number), "{query}:\n{said}");
    }
}

#[test]
fn freetds_follows_it_to_another_server() {
    // Over TLS, FreeTDS 1.3 takes the old session along to the other server.
    let Some(said) = tsql(MssqlKind::Routes, "off", PROBE, &["SELECT 1"]) else {
        return;
    };
    assert!(said.contains("(1 row affected)"), "{said}");
}
