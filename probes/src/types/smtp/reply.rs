//! What a server says: lines of three digits and a text, and what they mean.

use std::fmt;

use crate::cause::Cause;
use crate::outcome::{Phase, Reason};

/// The longest line that is read. RFC 5321 allows 512 bytes.
pub(super) const LINE_MAX_BYTES: usize = 4096;

/// The most lines that a reply may have. Those of large providers have some twenty.
const LINES_MAX: usize = 128;

/// One reply, of one line or of many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) code: u16,
    /// Without the code.
    pub(super) lines: Vec<String>,
}

impl Reply {
    /// The server has done what it was asked.
    pub(super) fn is_done(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// The lines as one text. The enhanced status code, which many servers repeat on every line, is
    /// said once.
    pub(super) fn text(&self) -> String {
        let enhanced = self.enhanced().unwrap_or_default();
        let lines = self.lines.iter().enumerate().map(|(index, line)| {
            let line = line.trim();
            match index {
                0 => line,
                _ => line.strip_prefix(enhanced).map_or(line, str::trim_start),
            }
        });
        lines.collect::<Vec<_>>().join(" ")
    }

    /// `5.7.8`: the enhanced status code (RFC 3463), where the server gives one.
    fn enhanced(&self) -> Option<&str> {
        let word = self.lines.first()?.split_whitespace().next()?;
        let parts: Vec<&str> = word.split('.').collect();
        let is_number = |part: &&str| {
            (1..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
        };
        (parts.len() == 3 && parts.iter().all(is_number)).then_some(word)
    }

    /// Postfix' `421 4.7.1 … No client certificate presented`, `… Client certificate not trusted`.
    fn wants_client_certificate(&self) -> bool {
        !self.is_done() && (self.text().to_ascii_lowercase()).contains("client certificate")
    }

    /// Whether it is for reasons of security or policy that the server says no.
    fn is_policy(&self) -> bool {
        (self.enhanced()).is_some_and(|code| code[1..].starts_with(".7."))
    }
}

/// `535 5.7.8 authentication failed`
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.text())
    }
}

/// A reply of which some lines have come.
#[derive(Default)]
pub(super) struct Growing {
    code: Option<u16>,
    lines: Vec<String>,
}

impl Growing {
    /// Takes the next line, without its end. Gives the reply once that was the last one.
    pub(super) fn push(&mut self, line: &[u8]) -> Result<Option<Reply>, Cause> {
        judge_beginning(line)?;
        let digits = std::str::from_utf8(line.get(..3).unwrap_or_default());
        let Some(code) = digits.ok().and_then(|digits| digits.parse().ok()) else {
            return Err(not_smtp(line));
        };
        if self.code.is_some_and(|first| first != code) {
            return Err(Cause::protocol(format!(
                "the lines of one answer have different codes: {} and {code}",
                self.code.unwrap_or_default()
            )));
        }
        if self.lines.len() == LINES_MAX {
            return Err(endless());
        }
        self.code = Some(code);
        let text = line.get(4..).unwrap_or_default();
        self.lines.push(String::from_utf8_lossy(text).into_owned());
        Ok(match line.get(3) {
            Some(b'-') => None,
            _ => Some(Reply {
                code,
                lines: std::mem::take(&mut self.lines),
            }),
        })
    }

    pub(super) fn is_begun(&self) -> bool {
        self.code.is_some()
    }
}

/// Whether a line that has not ended may still become one of SMTP's. Who speaks something else is
/// told by its first bytes, and need not be waited for.
pub(super) fn judge_beginning(line: &[u8]) -> Result<(), Cause> {
    let may_be = |(at, byte): (usize, &u8)| match at {
        0 => (b'2'..=b'5').contains(byte),
        1 | 2 => byte.is_ascii_digit(),
        _ => matches!(byte, b' ' | b'-' | b'\r'),
    };
    if !line.iter().take(4).enumerate().all(may_be) {
        return Err(not_smtp(line));
    }
    match line.len() > LINE_MAX_BYTES {
        true => Err(endless()),
        false => Ok(()),
    }
}

fn endless() -> Cause {
    Cause::protocol("the answer does not end: this is not SMTP")
}

fn not_smtp(line: &[u8]) -> Cause {
    let cause = Cause::protocol("the answer is not SMTP's: a number of three digits, and a text");
    let looks_like = [
        (&b"SSH-"[..], "it looks like SSH"),
        (b"HTTP/", "it looks like HTTP"),
        (b"+OK", "it looks like POP3, which is for fetching mail"),
        (b"* ", "it looks like IMAP, which is for fetching mail"),
        // An alert.
        (b"\x15\x03", "it speaks TLS from the start: use `smtps://`"),
    ];
    match looks_like.iter().find(|(begin, _)| line.starts_with(begin)) {
        Some((_, hint)) => cause.hint(*hint),
        None => cause,
    }
}

/// What was said before a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Nothing: it is the greeting.
    Nothing,
    Hello,
    StartTls,
    Auth,
    Noop,
}

impl Reply {
    /// What it means that this is no "yes".
    pub(super) fn refusal(&self, said: Said, command: &str) -> Cause {
        let message = match said {
            Said::Nothing => format!("expected the greeting `220`, got {self}"),
            _ => format!("`{command}` was answered {self}"),
        };
        let (reason, hint) = self.classify(said);
        let cause = Cause::new(reason, message).code(self.code.to_string());
        let cause = match hint {
            "" => cause,
            hint => cause.hint(hint),
        };
        match self.wants_client_certificate() {
            // Some servers judge it after the handshake only.
            true => cause.phase(Phase::Tls),
            false => cause,
        }
    }

    /// Reason and hint, by what was said, the code, and where that is not enough the text.
    fn classify(&self, said: Said) -> (Reason, &'static str) {
        let text = self.text().to_ascii_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        match (said, self.code) {
            _ if self.wants_client_certificate() => (
                Reason::TlsOther,
                "are `clientCert` and `clientKey` given, still valid, and issued by the authority that it knows?",
            ),
            (_, 421) if says(&["too many", "connections", "rate limit"]) => (
                Reason::Unavailable,
                "its limit of connections is reached: who holds them?",
            ),
            (Said::Auth, 432) => (
                Reason::Auth,
                "the password must be changed at the server first",
            ),
            (Said::StartTls, 400..=499) => (
                Reason::Unavailable,
                "can it read its certificate and key? its log says more",
            ),
            (Said::Auth, 400..=499) => (
                Reason::Unavailable,
                "can it reach its own database of passwords? its log says more",
            ),
            (_, 400..=499) => (Reason::Unavailable, ""),
            (Said::Nothing, 500..=599) if self.is_policy() || says(&REFUSES_THE_CLIENT) => (
                Reason::Permission,
                "it refuses this machine's address: an access list, or a blocklist that has it",
            ),
            (Said::Nothing, 500..=599) => (
                Reason::Unavailable,
                "it says that there is no mail service for us",
            ),
            // What a server says that does not know the command.
            (Said::Hello, 500 | 502 | 503 | 530) => (Reason::Protocol, "is it a mail server?"),
            (Said::Hello, 500..=599) => (
                Reason::Permission,
                "it does not like the name that we give: `heloName` sets another",
            ),
            (Said::StartTls, 500..=599) => (
                Reason::TlsOther,
                "it offered STARTTLS and does not do it: its log says more",
            ),
            (Said::Auth, 535) => (
                Reason::Auth,
                "wrong username or password; or the account may not log in by SMTP (large providers want an app password, or `auth: xoauth2`)",
            ),
            (Said::Auth, 534) => (
                Reason::Auth,
                "this way of logging in is too weak for it: an app password, `auth: xoauth2` or another `auth`",
            ),
            (Said::Auth, 530 | 538) => (
                Reason::Auth,
                "it wants TLS before a login: leave `encryption: none` out",
            ),
            (Said::Auth, 504) => (Reason::Auth, "`auth` sets another mechanism"),
            (Said::Noop, 530) => (
                Reason::Auth,
                "it wants a login: give `username` and `password`, or a `secretRef`",
            ),
            (Said::Auth | Said::Noop, 550..=559) => (Reason::Permission, ""),
            (Said::Auth | Said::Noop, 500..=599) if self.is_policy() => (Reason::Permission, ""),
            _ => (Reason::Protocol, ""),
        }
    }
}

/// Words of greetings that are meant for the one who connects.
const REFUSES_THE_CLIENT: [&str; 10] = [
    "banned",
    "blacklist",
    "block",
    "denied",
    "listed",
    "not allowed",
    "policy",
    "refused",
    "rejected",
    "reputation",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reply(text: &str) -> Reply {
        let mut growing = Growing::default();
        let mut lines = text.lines().map(|line| growing.push(line.as_bytes()));
        let reply = lines.find_map(|line| line.unwrap());
        reply.expect("a whole reply")
    }

    #[test]
    fn one_line_and_many() {
        assert_eq!(reply("250 ok").to_string(), "250 ok");
        assert_eq!(reply("250").to_string(), "250 ");
        let many = reply("535-5.7.8 Username and Password not accepted. See\n535 5.7.8  https://a");
        assert_eq!(
            many.to_string(),
            "535 5.7.8 Username and Password not accepted. See https://a"
        );
        assert_eq!(many.enhanced(), Some("5.7.8"));
        assert_eq!(reply("220 192.0.2.1 ready").enhanced(), None);
    }

    #[test]
    fn what_is_not_a_reply() {
        for (lines, message, hint) in [
            (&["hello"][..], "not SMTP's", ""),
            (&["25"], "not SMTP's", ""),
            (&["150 ok"], "not SMTP's", ""),
            (&["250ok"], "not SMTP's", ""),
            (&[""], "not SMTP's", ""),
            (&["250-a", "550 b"], "have different codes: 250 and 550", ""),
            (&["SSH-2.0-OpenSSH_9.2"], "not SMTP's", "SSH"),
            (&["+OK Dovecot ready."], "not SMTP's", "POP3"),
            (&["* OK IMAP4rev1"], "not SMTP's", "IMAP"),
            (&["HTTP/1.1 400 Bad Request"], "not SMTP's", "HTTP"),
            (&["\x15\x03\x03\0\x02\x02\x0a"], "not SMTP's", "`smtps://`"),
        ] {
            let mut growing = Growing::default();
            let res: Result<Vec<_>, _> = lines
                .iter()
                .map(|line| growing.push(line.as_bytes()))
                .collect();
            let cause = res.expect_err("not a reply");
            assert_eq!(cause.reason, Reason::Protocol);
            assert!(cause.message.contains(message), "{lines:?}: {cause:?}");
            assert!(
                cause.hint.clone().unwrap_or_default().contains(hint),
                "{lines:?}: {cause:?}"
            );
        }
    }

    #[test]
    fn a_reply_has_an_end() {
        let long = format!("250 {}", "x".repeat(LINE_MAX_BYTES));
        assert!(judge_beginning(long.as_bytes()).is_err());
        let mut growing = Growing::default();
        for _ in 0..LINES_MAX {
            assert_eq!(growing.push(b"250-more"), Ok(None));
        }
        assert!(growing.push(b"250 end").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..12), 0..4)) {
            let mut growing = Growing::default();
            for line in lines {
                let _ = growing.push(&line).map(|reply| reply.map(|reply| reply.refusal(Said::Auth, "AUTH")));
            }
        }
    }

    #[test]
    fn each_answer_has_its_reason() {
        use Reason::{Auth, Permission, Protocol, TlsOther, Unavailable};
        for (said, text, reason) in [
            (
                Said::Nothing,
                "421 4.7.0 a Error: too many connections from b",
                Unavailable,
            ),
            (Said::Nothing, "450 4.7.1 try again", Unavailable),
            (Said::Nothing, "454 no", Unavailable),
            (Said::Nothing, "554 No SMTP service here", Unavailable),
            (
                Said::Nothing,
                "521 this host does not accept mail",
                Unavailable,
            ),
            (
                Said::Nothing,
                "554 5.7.1 Service unavailable; Client host blocked",
                Permission,
            ),
            (
                Said::Nothing,
                "554 your address is listed at zen.example.org",
                Permission,
            ),
            (Said::Nothing, "550 5.7.1 go away", Permission),
            (Said::Nothing, "250 ok", Protocol),
            (Said::Hello, "421 4.3.2 shutting down", Unavailable),
            (Said::Hello, "451 4.3.0 try again", Unavailable),
            (
                Said::Hello,
                "504 5.5.2 <a>: Helo command rejected: need fully-qualified hostname",
                Permission,
            ),
            (
                Said::Hello,
                "550 5.7.1 Helo command rejected: Host not found",
                Permission,
            ),
            (
                Said::Hello,
                "501 Syntactically invalid argument(s)",
                Permission,
            ),
            (Said::Hello, "502 command not implemented", Protocol),
            (
                Said::Hello,
                "530 Please login with USER and PASS.",
                Protocol,
            ),
            (
                Said::Hello,
                "421 4.7.1 a Error: No client certificate presented",
                TlsOther,
            ),
            (Said::Hello, "354 go on", Protocol),
            (
                Said::StartTls,
                "454 4.7.0 TLS not available due to local problem",
                Unavailable,
            ),
            (Said::StartTls, "502 5.5.1 not implemented", TlsOther),
            (Said::StartTls, "354 go on", Protocol),
            (Said::Auth, "535 5.7.8 Error: authentication failed", Auth),
            (
                Said::Auth,
                "534 5.7.9 Application-specific password required.",
                Auth,
            ),
            (Said::Auth, "538 5.7.11 Encryption required", Auth),
            (
                Said::Auth,
                "530 5.7.0 Must issue a STARTTLS command first",
                Auth,
            ),
            (
                Said::Auth,
                "504 5.5.4 Unrecognized authentication type",
                Auth,
            ),
            (
                Said::Auth,
                "432 4.7.12 A password transition is needed",
                Auth,
            ),
            (
                Said::Auth,
                "454 4.7.0 Temporary authentication failure",
                Unavailable,
            ),
            (Said::Auth, "421 4.7.0 too many errors", Unavailable),
            (
                Said::Auth,
                "550 5.7.1 this account may not send",
                Permission,
            ),
            (Said::Auth, "501 5.5.2 cannot decode", Protocol),
            (Said::Auth, "503 bad sequence", Protocol),
            (Said::Noop, "421 4.4.2 timeout", Unavailable),
            (Said::Noop, "530 5.7.0 Authentication required", Auth),
            (
                Said::Noop,
                "503 5.7.0 Error: access denied for b",
                Permission,
            ),
            (Said::Noop, "500 what?", Protocol),
        ] {
            let cause = reply(text).refusal(said, "NOOP");
            assert_eq!(cause.reason, reason, "{text}");
            assert_eq!(cause.code.as_deref(), Some(&text[..3]), "{text}");
            assert!(cause.message.ends_with(text), "{text}");
        }
    }
}
