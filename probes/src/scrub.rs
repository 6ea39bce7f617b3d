//! A target's own secrets are taken out of every text of its outcomes.

use std::borrow::Cow;

use conncheck_config::{REDACTED, Secret};

/// Takes known secrets out of texts.
#[derive(Clone, Default)]
pub struct Scrubber {
    /// Longest first, so that `user:password` goes before `user`.
    secrets: Vec<Secret>,
}

impl Scrubber {
    /// A scrubber of these secrets. Empty ones are left out.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut secrets: Vec<Secret> = secrets
            .into_iter()
            .filter(|secret| !secret.is_empty())
            .cloned()
            .collect();
        secrets.sort_by(|a, b| (b.expose().len(), b.expose()).cmp(&(a.expose().len(), a.expose())));
        secrets.dedup();
        Self { secrets }
    }

    /// `text` with every secret in it replaced.
    pub fn scrub<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut res = Cow::Borrowed(text);
        for secret in &self.secrets {
            if res.contains(secret.expose()) {
                res = Cow::Owned(res.replace(secret.expose(), REDACTED));
            }
        }
        res
    }

    pub(crate) fn scrub_in_place(&self, text: &mut String) {
        if let Cow::Owned(scrubbed) = self.scrub(text) {
            *text = scrubbed;
        }
    }
}

/// Those of a type's own secrets that are to be taken out of its texts. Not those that anything may
/// be called: a password `1` would make `[redacted]8456` of a code.
pub(crate) fn hidden(secrets: impl IntoIterator<Item = Secret>) -> Vec<Secret> {
    let mut secrets: Vec<_> = secrets.into_iter().collect();
    secrets.retain(|secret| !secret.is_commonplace());
    secrets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_secret_goes_first() {
        let secrets = [
            Secret::new("probe"),
            Secret::new("probe:s3cret"),
            Secret::new(""),
        ];
        let scrubber = Scrubber::new(&secrets);
        assert_eq!(
            scrubber.scrub("at postgres://probe:s3cret@db as probe"),
            "at postgres://[redacted]@db as [redacted]"
        );
        assert!(matches!(scrubber.scrub("nothing here"), Cow::Borrowed(_)));
    }
}
