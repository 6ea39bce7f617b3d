//! SCRAM-SHA-1 and SCRAM-SHA-256 (RFC 5802, RFC 7677) as MongoDB has them.
//!
//! The server must prove itself too: one that does not know the password either is not believed.

use std::num::NonZeroU32;

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2, rand};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use conncheck_config::Secret;
use md5::{Digest, Md5};

use crate::cause::Cause;
use crate::outcome::Reason;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    Sha1,
    Sha256,
}

impl Hash {
    pub(super) fn mechanism(self) -> &'static str {
        match self {
            Self::Sha1 => "SCRAM-SHA-1",
            Self::Sha256 => "SCRAM-SHA-256",
        }
    }

    fn hmac(self, key: &[u8], text: &[u8]) -> hmac::Tag {
        let algorithm = match self {
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => hmac::HMAC_SHA256,
        };
        hmac::sign(&hmac::Key::new(algorithm, key), text)
    }

    fn digest(self, text: &[u8]) -> digest::Digest {
        let algorithm = match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
        };
        digest::digest(algorithm, text)
    }

    fn bytes(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }
}

/// Fewer rounds than this make a password cheap to guess from what goes over the wire; no server
/// can be set so low.
const ROUNDS_MIN: u32 = 4096;
/// More than this would keep a processor busy for long, and us with it; servers come with 10,000 and
/// 15,000.
const ROUNDS_MAX: u32 = 100_000;

/// What the password comes to with the server's salt. It costs 15,000 rounds of hashing, and is the
/// same at every login until the password changes.
#[derive(Clone)]
pub(super) struct Keys {
    hash: Hash,
    salt: Vec<u8>,
    rounds: u32,
    client: Vec<u8>,
    server: Vec<u8>,
}

/// A user and their password.
pub(super) struct Login {
    pub(super) user: Secret,
    password: Secret,
    /// As SCRAM-SHA-256 wants it; `None` where it can be none.
    prepared: Option<Secret>,
}

impl Login {
    pub(super) fn new(user: Secret, password: Secret) -> Self {
        let prepared = stringprep::saslprep(password.expose())
            .ok()
            .map(|prepared| Secret::new(prepared.into_owned()));
        Self {
            user,
            password,
            prepared,
        }
    }

    /// Whether SCRAM-SHA-256 can be spoken with this password.
    pub(super) fn is_prepared(&self) -> bool {
        self.prepared.is_some()
    }

    pub(super) fn password(&self) -> &Secret {
        &self.password
    }

    /// What is hashed: for SHA-1 the form of the password that servers before SCRAM kept.
    fn hashed(&self, hash: Hash) -> Result<Secret, Cause> {
        match hash {
            Hash::Sha256 => self.prepared.clone().ok_or_else(|| {
                Cause::new(
                    Reason::Auth,
                    "the password has a character that none of SCRAM-SHA-256 may have",
                )
            }),
            Hash::Sha1 => {
                let text = format!("{}:mongo:{}", self.user.expose(), self.password.expose());
                let digest = Md5::digest(text.as_bytes());
                Ok(Secret::new(
                    digest
                        .iter()
                        .map(|byte| format!("{byte:02x}"))
                        .collect::<String>(),
                ))
            }
        }
    }

    fn keys(&self, hash: Hash, salt: &[u8], rounds: u32) -> Result<Keys, Cause> {
        let algorithm = match hash {
            Hash::Sha1 => pbkdf2::PBKDF2_HMAC_SHA1,
            Hash::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
        };
        let mut salted = vec![0; hash.bytes()];
        let password = self.hashed(hash)?;
        let iterations = NonZeroU32::new(rounds).unwrap_or(NonZeroU32::MIN);
        pbkdf2::derive(
            algorithm,
            iterations,
            salt,
            password.expose().as_bytes(),
            &mut salted,
        );
        Ok(Keys {
            hash,
            salt: salt.to_vec(),
            rounds,
            client: hash.hmac(&salted, b"Client Key").as_ref().to_vec(),
            server: hash.hmac(&salted, b"Server Key").as_ref().to_vec(),
        })
    }
}

/// One login: what we say first, what we answer, and what the server must say then.
pub(super) struct Conversation {
    hash: Hash,
    nonce: String,
    first: String,
    expected: Vec<u8>,
}

impl Conversation {
    pub(super) fn new(hash: Hash, user: &str) -> Result<Self, Cause> {
        let mut bytes = [0; 24];
        rand::fill(&mut bytes)
            .map_err(|_| Cause::new(Reason::Internal, "there are no random numbers"))?;
        Ok(Self::with_nonce(hash, user, BASE64_STANDARD.encode(bytes)))
    }

    fn with_nonce(hash: Hash, user: &str, nonce: String) -> Self {
        Self {
            hash,
            first: format!("n={},r={nonce}", escaped(user).expose()),
            nonce,
            expected: Vec::new(),
        }
    }

    /// The client's first message. No channel binding: MongoDB has none.
    pub(super) fn first(&self) -> String {
        format!("n,,{}", self.first)
    }

    /// The client's answer to the server's first message. `known` are the keys of an earlier login,
    /// and become those of this one.
    pub(super) fn answer(
        &mut self,
        login: &Login,
        server_first: &[u8],
        known: Option<Keys>,
    ) -> Result<(String, Keys), Cause> {
        let text = std::str::from_utf8(server_first).map_err(|_| not_scram())?;
        let nonce = field(text, "r").ok_or_else(not_scram)?;
        let salt = field(text, "s")
            .and_then(|salt| BASE64_STANDARD.decode(salt).ok())
            .ok_or_else(not_scram)?;
        let rounds: u32 = field(text, "i")
            .and_then(|rounds| rounds.parse().ok())
            .ok_or_else(not_scram)?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(Cause::protocol(
                "the server's answer to the login does not go with what we said",
            ));
        }
        if !(ROUNDS_MIN..=ROUNDS_MAX).contains(&rounds) {
            return Err(Cause::protocol(format!(
                "the server wants the password hashed {rounds} times, and not {ROUNDS_MIN} to {ROUNDS_MAX} times"
            ))
            .hint("too few give the password away to whoever listens: is it the server it should be?"));
        }
        let keys = match known {
            Some(keys) if keys.hash == self.hash && keys.salt == salt && keys.rounds == rounds => {
                keys
            }
            _ => login.keys(self.hash, &salt, rounds)?,
        };
        let last = format!("c=biws,r={nonce}");
        let all = format!("{},{text},{last}", self.first);
        let stored = self.hash.digest(&keys.client);
        let signature = self.hash.hmac(stored.as_ref(), all.as_bytes());
        let proof: Vec<u8> = keys
            .client
            .iter()
            .zip(signature.as_ref())
            .map(|(key, signature)| key ^ signature)
            .collect();
        self.expected = self
            .hash
            .hmac(&keys.server, all.as_bytes())
            .as_ref()
            .to_vec();
        Ok((format!("{last},p={}", BASE64_STANDARD.encode(proof)), keys))
    }

    /// Judges the server's last message.
    pub(super) fn finish(&self, server_last: &[u8]) -> Result<(), Cause> {
        let text = std::str::from_utf8(server_last).map_err(|_| not_scram())?;
        if let Some(error) = field(text, "e") {
            return Err(Cause::new(
                Reason::Auth,
                format!("the server refused the login: {error}"),
            ));
        }
        let signature = field(text, "v")
            .and_then(|signature| BASE64_STANDARD.decode(signature).ok())
            .unwrap_or_default();
        match constant_time::verify_slices_are_equal(&signature, &self.expected) {
            Ok(()) if !self.expected.is_empty() => Ok(()),
            _ => Err(Cause::protocol(
                "the server lets us in and does not prove that it knows the password itself",
            )
            .hint("something else answers in its place: do not trust what it says")),
        }
    }
}

/// A user in a message whose fields end at a comma.
pub(super) fn escaped(user: &str) -> Secret {
    Secret::new(user.replace('=', "=3D").replace(',', "=2C"))
}

/// The value of `name` in `r=…,s=…,i=…`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.split(',')
        .find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
}

fn not_scram() -> Cause {
    Cause::protocol("the server's answer to the login is not that of SCRAM")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(user: &str, password: &str) -> Login {
        Login::new(Secret::new(user), Secret::new(password))
    }

    /// The examples of RFC 7677, and of the specification of MongoDB's drivers for SHA-1.
    #[test]
    fn the_examples_of_the_specifications_come_out() {
        for (hash, nonce, server_first, answer, server_last) in [
            (
                Hash::Sha256,
                "rOprNGfwEbeRWgbNEkqO",
                "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
                "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
                "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
            ),
            (
                Hash::Sha1,
                "fyko+d2lbbFgONRv9qkxdawL",
                "r=fyko+d2lbbFgONRv9qkxdawLHo+Vgk7qvUOKUwuWLIWg4l/9SraGMHEE,s=rQ9ZY3MntBeuP3E1TDVC4w==,i=10000",
                "c=biws,r=fyko+d2lbbFgONRv9qkxdawLHo+Vgk7qvUOKUwuWLIWg4l/9SraGMHEE,p=MC2T8BvbmWRckDw8oWl5IVghwCY=",
                "v=UMWeI25JD1yNYZRMpZ4VHvhZ9e0=",
            ),
        ] {
            let login = login("user", "pencil");
            let mut conversation = Conversation::with_nonce(hash, "user", nonce.to_owned());
            assert_eq!(conversation.first(), format!("n,,n=user,r={nonce}"));
            let (said, keys) = conversation
                .answer(&login, server_first.as_bytes(), None)
                .unwrap();
            assert_eq!(said, answer);
            conversation.finish(server_last.as_bytes()).unwrap();
            // With the keys of before it is the same.
            let mut again = Conversation::with_nonce(hash, "user", nonce.to_owned());
            let (said, _) = again
                .answer(&login, server_first.as_bytes(), Some(keys))
                .unwrap();
            assert_eq!(said, answer);
        }
    }

    #[test]
    fn keys_of_another_salt_are_not_taken() {
        let login = login("user", "pencil");
        let mut conversation = Conversation::with_nonce(Hash::Sha256, "user", "abc".to_owned());
        let (first, keys) = conversation
            .answer(&login, b"r=abcd,s=AAAA,i=4096", None)
            .unwrap();
        let (second, _) = conversation
            .answer(&login, b"r=abcd,s=AAAB,i=4096", Some(keys))
            .unwrap();
        assert_ne!(first, second);
    }

    #[test]
    fn a_server_that_does_not_know_the_password_is_not_believed() {
        let mut conversation = Conversation::with_nonce(Hash::Sha256, "user", "abc".to_owned());
        let before = conversation.finish(b"v=").unwrap_err();
        assert_eq!(before.reason, Reason::Protocol);
        conversation
            .answer(&login("user", "pencil"), b"r=abcd,s=AAAA,i=4096", None)
            .unwrap();
        for last in [
            &b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="[..],
            b"v=",
            b"",
            b"\xff",
        ] {
            assert_eq!(
                conversation.finish(last).unwrap_err().reason,
                Reason::Protocol
            );
        }
        let refused = conversation.finish(b"e=other-error").unwrap_err();
        assert_eq!(refused.reason, Reason::Auth);
    }

    #[test]
    fn as_many_rounds_as_may_be_are_taken() {
        for hash in [Hash::Sha1, Hash::Sha256] {
            let mut conversation = Conversation::with_nonce(hash, "user", "abc".to_owned());
            conversation
                .answer(&login("user", "pencil"), b"r=abcd,s=AAAA,i=100000", None)
                .unwrap();
        }
    }

    #[test]
    fn a_dishonest_first_answer_is_refused() {
        for answer in [
            &b"r=xyz,s=AAAA,i=4096"[..],
            b"r=abc,s=AAAA,i=4096",
            b"r=abcd,s=AAAA,i=4095",
            b"r=abcd,s=AAAA,i=0",
            b"r=abcd,s=AAAA,i=100001",
            b"r=abcd,s=AAAA,i=2000000000",
            b"r=abcd,s=AAAA,i=4294967296",
            b"r=abcd,s=AAAA,i=-1",
            b"r=abcd,s=!!,i=4096",
            b"r=abcd,i=4096",
            b"",
            b"\xff\xff",
        ] {
            let mut conversation = Conversation::with_nonce(Hash::Sha256, "user", "abc".to_owned());
            let cause = conversation
                .answer(&login("user", "pencil"), answer, None)
                .err()
                .unwrap();
            assert_eq!(cause.reason, Reason::Protocol, "{answer:?}");
        }
    }

    #[test]
    fn what_would_break_a_message_is_escaped() {
        let conversation = Conversation::with_nonce(Hash::Sha1, "a=b,c", "n".to_owned());
        assert_eq!(conversation.first(), "n,,n=a=3Db=2Cc,r=n");
        // Soft hyphens count for nothing, and a full-width letter is a letter (RFC 4013).
        let login = login("u", "I\u{ad}X\u{ff21}");
        assert_eq!(login.hashed(Hash::Sha256).unwrap().expose(), "IXA");
        assert!(!Login::new(Secret::new("u"), Secret::new("a\u{7}")).is_prepared());
    }
}
