//! The integration tests: real servers, faulty peers, and the built program.
//!
//! One binary, so that the servers start once. It has its own `main`, so that they are stopped
//! in order and whoever was skipped is told aloud at the end. `cargo test --test it -- redis` runs
//! the tests whose names contain `redis`; the names are `<module>::<test>`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a test panics, and its clock is a real one"
)]

mod amqp;
mod aws;
mod azure;
mod check;
mod cli;
mod daemon;
mod dns;
mod docs;
mod elastic;
mod faults;
mod gcp;
mod http;
mod kubernetes;
mod ldap;
mod leaks;
mod mongodb;
mod mssql;
mod mysql;
mod postgres;
mod program;
mod prometheus;
mod redaction;
mod redis;
mod smtp;
mod web;
mod webhook;

use std::process::ExitCode;

use conncheck_rig::Rig;
use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    conncheck_probes::install_crypto_provider();
    conncheck_probes::gather_entropy();
    if leaks::run_as_child() {
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::from_args();
    let trials: Vec<Trial> = [
        amqp::trials(),
        aws::trials(),
        azure::trials(),
        cli::trials(),
        daemon::trials(),
        dns::trials(),
        docs::trials(),
        elastic::trials(),
        faults::trials(),
        gcp::trials(),
        http::trials(),
        ldap::trials(),
        kubernetes::trials(),
        leaks::trials(),
        mongodb::trials(),
        mysql::trials(),
        mssql::trials(),
        postgres::trials(),
        prometheus::trials(),
        redaction::trials(),
        redis::trials(),
        smtp::trials(),
        webhook::trials(),
    ]
    .into_iter()
    .flatten()
    .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    let skipped = Rig::shared().skipped();
    for skipped in &skipped {
        eprintln!("skipped: {}: {}", skipped.name, skipped.why);
    }
    eprintln!("{} servers skipped", skipped.len());
    conclusion.exit_code()
}

/// The trials of a module: each function is one.
#[macro_export]
macro_rules! trials {
    ($($test:ident),* $(,)?) => {
        pub(crate) fn trials() -> Vec<libtest_mimic::Trial> {
            vec![$(libtest_mimic::Trial::test(
                concat!(module_path!(), "::", stringify!($test)).trim_start_matches("it::"),
                || { $test(); Ok(()) },
            )),*]
        }
    };
}
