//! Everything that touches a network peer.

mod address;
mod attempt;
mod cause;
mod dns;
mod http;
mod login;
mod outcome;
mod probe;
mod scrub;
mod tls;
pub mod types;

pub use attempt::{Env, run};
pub use dns::ResolverChoice;
pub use outcome::{Failure, Outcome, Phase, Reason, TlsFacts};
pub use probe::{Files, Invalid, Probe};
pub use scrub::Scrubber;
pub use tls::install_crypto_provider;
