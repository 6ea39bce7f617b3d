//! However the rig's owner ends, its servers end too.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use conncheck_rig::{PATIENCE, Rig, install, need};
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn sigterm_stops_everything_in_order() {
    check(Signal::TERM, true);
}

#[test]
fn ctrl_c_stops_everything_in_order() {
    check(Signal::INT, true);
}

#[test]
fn sigkill_leaves_no_server_and_the_next_rig_sweeps_up() {
    let dir = check(Signal::KILL, false);
    assert!(
        dir.as_ref().is_none_or(|dir| dir.exists()),
        "nobody could remove it yet"
    );
    drop(Rig::new().expect("a rig"));
    assert!(
        dir.is_none_or(|dir| !dir.exists()),
        "a new rig removes what a killed one left"
    );
}

/// Runs `rig up`, sends it the signal, and gives its folder.
fn check(signal: Signal, in_order: bool) -> Option<PathBuf> {
    for package in [
        install::POSTGRES,
        install::RABBITMQ,
        install::REDIS,
        install::NGINX,
    ] {
        need!(
            install::find(package).map_err(conncheck_rig::Skipped::from),
            None
        );
    }
    let (mut owner, dir) = up();
    let servers = descendants(owner.id());
    assert!(
        servers.len() > 5,
        "PostgreSQL and RabbitMQ with their children, epmd, Redis, nginx: {servers:?}"
    );
    kill_process(Pid::from_child(&owner), signal).expect("it is ours");
    let status = owner.wait().expect("it is ours");
    if in_order {
        assert!(status.success(), "{status}");
        assert!(!dir.exists());
    }
    let started = Instant::now();
    while servers.iter().any(|&pid| runs(pid)) {
        assert!(started.elapsed() < PATIENCE, "{servers:?} still run");
        thread::sleep(Duration::from_millis(10));
    }
    Some(dir)
}

fn up() -> (Child, PathBuf) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_rig"))
        .arg("up")
        .stdout(Stdio::piped())
        .spawn()
        .expect("the rig's own binary");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped"))
        .lines()
        .map_while(Result::ok);
    let authority = lines
        .find(|line| line.starts_with("authority:"))
        .expect("it says where things are");
    let path = authority.split_whitespace().last().expect("a path");
    lines
        .find(|line| line.contains("until Ctrl-C"))
        .expect("it starts");
    let dir = Path::new(path)
        .ancestors()
        .nth(2)
        .expect("the rig's folder");
    (child, dir.to_owned())
}

fn descendants(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut todo = vec![pid];
    while let Some(parent) = todo.pop() {
        for task in fs::read_dir(format!("/proc/{parent}/task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children
                .split_whitespace()
                .filter_map(|child| child.parse().ok())
            {
                found.push(child);
                todo.push(child);
            }
        }
    }
    found
}

/// A zombie that waits for a parent to notice does not count.
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}
