//! Everything that touches a network peer.
//!
//! A [`Resolved`](conncheck_config::Resolved) connection becomes a [`Probe`] through the table in
//! [`types`], and [`run`] makes one attempt of it: an [`Outcome`] with the time of each phase, what
//! the peer showed of its certificate, and, when it failed, one [`Reason`] out of a closed set.
//!
//! # How to add a type
//!
//! One new file, one line in a table, a sample, and a test module. Take `types/redis.rs` as the
//! example; it is the shortest.
//!
//! 1. **The file**, `src/types/<type>.rs`. It reads top to bottom: what it proves, its settings, the
//!    conversation, what its errors mean, its tests.
//!    * A `Settings` struct for `spec.properties`: `#[serde(default, deny_unknown_fields,
//!      rename_all = "camelCase")]`, never flattened, with a doc comment on each field for the person
//!      who edits the YAML. `JsonSchema` is derived as well: the comments are what their editor shows
//!      (`--schema`). A field that reads itself says how it is written (`schema.rs`). Types over TLS have `insecureSkipVerify` and `serverName`.
//!    * `impl ProbeType`: `FURTHER_REASONS`, those that not every type can give; `SECRET_KEYS`,
//!      the keys of a whole secret that not every type reads, each with a row in the tests of
//!      `types.rs` and in the README, and read by `Resolved::own_key`; `new`, which turns an
//!      `Access` and the settings into something that cannot be wrong (a mistake is
//!      `access.invalid(field, …)`, and an option that is not honoured is refused by name);
//!      `endpoint`, which is `scheme://host:port`
//!      and nothing else; and `probe`, the conversation, one line a step.
//!    * In `probe`: `attempt.dial(&address)` resolves and connects, `attempt.tls(stream, &tls, host)`
//!      shakes hands and records the chain, `attempt.phase(Phase::Auth, step)` times a step, tags its
//!      failure and lets a deadline blame the right one, `attempt.server("Name 1.2")` notes who
//!      answers, `attempt.goodbye(farewell)` leaves the peer's log clean. The probe looks at no clock,
//!      opens no socket of its own, spawns no task and never retries: a driver that wants to run
//!      beside the conversation is polled beside it.
//!    * One `impl From<driver::Error> for Cause`: the driver's errors as a table, tested as one. What
//!      wraps an I/O or TLS error goes through `Cause::from_chain`, which knows those.
//! 2. **The table**, `src/types.rs`: its `mod`, and one line with its name, aliases and URL schemes. A
//!    type with a driver has a Cargo feature of the same name in `probes/Cargo.toml`, which the root's
//!    `Cargo.toml` passes on.
//! 3. **The sample**, `config/samples/<type>.yaml`. A test builds it, and `docker-compose.yml` mounts
//!    it beside the type's server.
//! 4. **The tests**, `tests/it/<type>.rs`, on its real server, with a row in `faults.rs` (how it talks)
//!    and in `redaction.rs` (where its secrets stand). The table of faults, the hunt for leaks, the
//!    redaction sweep and the check of the README walk the table of types, and fail while a type has no
//!    row or no section.
//!
//! # What holds for all of them
//!
//! * Nothing outlives an attempt. [`run`] drops the conversation at the deadline and shuts every
//!   socket that was dialled, whoever still holds a duplicate. The one kind of program that is ever
//!   run, an exec plugin of a kubeconfig, is killed then with all its children (`program.rs`).
//! * No outcome holds a secret of its target: every text in it is scrubbed before it leaves.
//! * rustls is named in `tls.rs` alone, and no driver outside the type that it belongs to.
//! * This crate reads neither the environment nor, but for the system's trust store and resolver
//!   configuration, any file. Files that a definition names, and the environment of a program that it
//!   has run, come through [`Files`], and only for definitions of our own ([`Trust::Local`]).
//!
//! [`Trust::Local`]: conncheck_config::Trust::Local

#![cfg_attr(
    not(feature = "all"),
    allow(dead_code, reason = "what the types that were left out would use")
)]

mod address;
mod attempt;
mod aws;
mod cause;
mod dns;
mod http;
mod jwt;
mod login;
mod outcome;
mod probe;
mod program;
mod schema;
mod scrub;
mod several;
mod sigv4;
mod site;
#[cfg(test)]
mod testing;
mod tls;
pub mod types;

pub use attempt::{Deadline, Env, run};
pub use dns::ResolverChoice;
pub use outcome::{Failure, Outcome, Phase, Reason, TlsFacts};
pub use probe::{Files, Invalid, Probe};
pub use scrub::Scrubber;
pub use tls::{gather_entropy, install_crypto_provider, read_system_roots};
