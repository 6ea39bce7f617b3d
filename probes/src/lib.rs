//! Everything that touches a network peer.

mod outcome;

pub use outcome::{Failure, Outcome, Phase, Reason, TlsFacts};
