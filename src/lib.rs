//! The daemon: definitions in, attempts on a schedule, state out.
//!
//! `cli` and `settings` say what is wanted, `source` reads definitions, `target` makes them
//! something that can be attempted (with `secrets`), `schedule` attempts, `state` remembers, and
//! `metrics`, `server` and `report` show.

pub mod check;
pub mod cli;
pub mod daemon;
pub mod duration;
pub mod histogram;
pub mod load;
pub mod logging;
pub mod metrics;
pub mod once;
pub mod process;
pub mod redact;
pub mod report;
pub mod schedule;
pub mod schema;
pub mod secrets;
pub mod server;
pub mod settings;
pub mod source;
pub mod state;
pub mod target;
