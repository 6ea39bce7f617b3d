//! What a type with several hosts says when none of them would do.

use std::fmt;

use crate::cause::Cause;
use crate::outcome::{Failure, Phase, Reason};

/// The failure, told of the host at which it happened.
pub(crate) fn named(host: &impl fmt::Display, failure: Failure) -> Failure {
    let prefix = format!("`{host}`: ");
    match failure.message.starts_with(&prefix) {
        true => failure,
        false => Failure {
            message: format!("{prefix}{}", failure.message),
            ..failure
        },
    }
}

/// One failure for several hosts, each with its rank. The one of the lowest rank gives the reason,
/// the first where several have it; the message has them all.
pub(crate) fn together(failures: Vec<(u8, Failure)>) -> Failure {
    let messages: Vec<_> = failures
        .iter()
        .map(|(_, failure)| failure.message.as_str())
        .collect();
    let message = messages.join("; ");
    match failures.into_iter().min_by_key(|(rank, _)| *rank) {
        Some((_, decisive)) => Failure {
            message,
            ..decisive
        },
        None => Cause::new(Reason::Internal, "there is no host to try").in_phase(Phase::Connect),
    }
}
