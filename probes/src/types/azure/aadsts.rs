//! What Entra's refusals mean: the table of its codes (`AADSTS…`).

use serde::Deserialize;

use crate::cause::Cause;
use crate::http::Response;
use crate::outcome::Reason;

/// An error as Entra and the metadata services write it.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Refused {
    error: String,
    error_description: String,
    error_codes: Vec<u64>,
}

/// Why there is no token.
pub(super) fn refusal(response: &Response) -> Cause {
    let refused = response.json::<Refused>().unwrap_or_default();
    if let Some(cause) = refused.cause() {
        return cause;
    }
    let unexpected = response.unexpected("a token");
    match refused.error.as_str() {
        "" if unexpected.hint.is_none() && unexpected.reason == Reason::HttpStatus => {
            unexpected.hint("is it an authority of Entra ID? `url` says where that is")
        }
        "" => unexpected,
        error => {
            let reason = match error {
                "invalid_client" | "unauthorized_client" | "invalid_grant" => Reason::Auth,
                "access_denied" | "interaction_required" => Reason::Permission,
                "invalid_resource" | "invalid_scope" => Reason::NotFound,
                "temporarily_unavailable" | "server_error" => Reason::Unavailable,
                "invalid_request" | "unsupported_grant_type" => Reason::Protocol,
                _ => unexpected.reason,
            };
            let message = match refused.error_description.as_str() {
                "" => error.to_owned(),
                description => format!("{error}: {}", without_ids(description)),
            };
            Cause {
                reason,
                message,
                ..unexpected
            }
            .code(error)
        }
    }
}

impl Refused {
    /// What its code means, if it has one.
    fn cause(&self) -> Option<Cause> {
        let code = self.code()?;
        let text = without_ids(&self.error_description);
        let text = text.split_once(": ").map_or(&*text, |(_, words)| words);
        let known = TABLE.iter().find(|(known, ..)| *known == code);
        let cause = match known {
            Some((_, reason, hint)) => {
                // The rest is advice, and ours is shorter.
                let cause = Cause::new(*reason, format!("AADSTS{code}: {}", sentence(text)));
                match *hint {
                    "" => cause,
                    hint => cause.hint(hint),
                }
            }
            None => Cause::new(self.reason(), format!("AADSTS{code}: {text}")).hint(format!(
                "https://login.microsoftonline.com/error?code={code} explains the code"
            )),
        };
        Some(cause.code(format!("AADSTS{code}")))
    }

    fn code(&self) -> Option<u64> {
        // What repeats another server's error has the text alone.
        let in_text = || {
            let (_, rest) = self.error_description.split_once("AADSTS")?;
            let end = rest.find(|c: char| !c.is_ascii_digit());
            rest[..end.unwrap_or(rest.len())].parse().ok()
        };
        self.error_codes.first().copied().or_else(in_text)
    }

    fn reason(&self) -> Reason {
        match self.error.as_str() {
            "invalid_resource" | "invalid_scope" => Reason::NotFound,
            "access_denied" | "interaction_required" | "consent_required" => Reason::Permission,
            "temporarily_unavailable" | "server_error" => Reason::Unavailable,
            "unsupported_grant_type" | "invalid_request" => Reason::Protocol,
            _ => Reason::Auth,
        }
    }
}

/// Without what differs each time: a message that changes is news, and this is none. Entra's sign-in
/// log finds the attempt by its time and its application.
fn without_ids(text: &str) -> String {
    let end = [
        "Trace ID:",
        "Correlation ID:",
        "Current time:",
        "Please visit",
        "Review the documentation",
    ]
    .iter()
    .filter_map(|mark| text.find(mark))
    .min();
    let text = text[..end.unwrap_or(text.len())].trim();
    let mut res = text.trim_end_matches([',', '.', ' ']).to_owned();
    if res.matches('[').count() > res.matches(']').count() {
        res.push(']');
    }
    res
}

/// The first sentence, with the brackets that may follow it.
pub(super) fn sentence(text: &str) -> &str {
    let ends = text.match_indices(['.', ';']).map(|(at, _)| at);
    let is_end = |at: &usize| {
        let rest = &text[at + 1..];
        let next = rest.trim_start();
        next.len() < rest.len() && next.starts_with(|c: char| c.is_uppercase())
    };
    let end = ends.filter(is_end).find(|at| {
        // Inside of brackets it goes on.
        text[..*at].matches('[').count() == text[..*at].matches(']').count()
    });
    text[..end.unwrap_or(text.len())].trim_end_matches('.')
}

const SECRET: &str = "make a new client secret (App registrations, Certificates & secrets) and put its value where `secretRef` points";
const FEDERATION: &str = "the application's federated credential must name issuer, subject and audience exactly as they stand in the token";
const TENANT: &str = "is `tenantID` right, and `url` the authority of its cloud (`https://login.microsoftonline.us`, `https://login.partner.microsoftonline.cn`)?";
const RESOURCE: &str = "is `resource` right for this cloud, and is that API known in the tenant (an enterprise application)?";
const POLICY: &str = "a Conditional Access policy for workload identities refuses it: the sign-in log of Entra names the policy";
const PERSON: &str =
    "that is about a person's account: `clientID` and its secret must be an application's";
const ASSIGN: &str = "assign the application to the API's enterprise application, or have its owner not require that";

/// Its codes, what they are to whoever is woken, and the way out. `auth`: the credential, or who shows
/// it, must be mended; `permission`: that is right and somebody has to allow more; `not_found`: the
/// definition names what is not there.
const TABLE: &[(u64, Reason, &str)] = &[
    (
        7000215,
        Reason::Auth,
        "give the value of the client secret and not its ID; Entra shows the value only once, so make a new one if it is lost",
    ),
    (7000222, Reason::Auth, SECRET),
    (
        7000216,
        Reason::Auth,
        "neither a client secret nor an assertion has arrived: does something in between change the request?",
    ),
    (
        7000218,
        Reason::Auth,
        "neither a client secret nor an assertion has arrived: does something in between change the request?",
    ),
    (
        700016,
        Reason::Auth,
        "is `clientID` the application (client) ID, not an object ID, and is the application of this tenant?",
    ),
    (
        7000229,
        Reason::Auth,
        "the application has no enterprise application (service principal) in this tenant: `az ad sp create --id` makes it",
    ),
    (
        7000112,
        Reason::Auth,
        "somebody has switched the application off: Enterprise applications, Properties, Enabled for users to sign-in",
    ),
    (
        700027,
        Reason::Auth,
        "upload the certificate in use to the application (App registrations, Certificates & secrets), or use the one that is there",
    ),
    (
        700030,
        Reason::Auth,
        "the certificate's subject is none that the application trusts: is it the right one?",
    ),
    (
        5002738,
        Reason::Auth,
        "upload the certificate in use to the application (App registrations, Certificates & secrets)",
    ),
    (
        700023,
        Reason::Auth,
        "is `url` the authority of the tenant's cloud?",
    ),
    (700024, Reason::Auth, "is the clock of this machine right?"),
    (500133, Reason::Auth, "is the clock of this machine right?"),
    (50013, Reason::Auth, FEDERATION),
    (
        50027,
        Reason::Auth,
        "the file of the federated token holds something else",
    ),
    (70021, Reason::Auth, FEDERATION),
    (700211, Reason::Auth, FEDERATION),
    (700212, Reason::Auth, FEDERATION),
    (700213, Reason::Auth, FEDERATION),
    (700238, Reason::Auth, FEDERATION),
    (50034, Reason::Auth, PERSON),
    (50053, Reason::Auth, PERSON),
    (50055, Reason::Auth, PERSON),
    (50057, Reason::Auth, PERSON),
    (50126, Reason::Auth, PERSON),
    (
        50194,
        Reason::Auth,
        "the application belongs to one tenant only: set that one's `tenantID`",
    ),
    (
        65001,
        Reason::Permission,
        "have an administrator of the tenant consent to the application",
    ),
    (
        65004,
        Reason::Permission,
        "have an administrator of the tenant consent to the application",
    ),
    (
        90094,
        Reason::Permission,
        "have an administrator of the tenant consent to the application",
    ),
    (50105, Reason::Permission, ASSIGN),
    (501051, Reason::Permission, ASSIGN),
    (50076, Reason::Permission, POLICY),
    (50079, Reason::Permission, POLICY),
    (53000, Reason::Permission, POLICY),
    (53001, Reason::Permission, POLICY),
    (53003, Reason::Permission, POLICY),
    (53011, Reason::Permission, POLICY),
    (530032, Reason::Permission, POLICY),
    (530034, Reason::Permission, POLICY),
    (530035, Reason::Permission, POLICY),
    (
        5000225,
        Reason::NotFound,
        "the tenant was blocked for inactivity: its administrator gets it back within twenty days",
    ),
    (90002, Reason::NotFound, TENANT),
    (90019, Reason::NotFound, TENANT),
    (900023, Reason::NotFound, TENANT),
    (50059, Reason::NotFound, TENANT),
    (
        900382,
        Reason::NotFound,
        "the tenant is of another cloud: set `url` to the authority of its own",
    ),
    (
        900383,
        Reason::NotFound,
        "the tenant is of another cloud: set `url` to the authority of its own",
    ),
    (50001, Reason::NotFound, RESOURCE),
    (500011, Reason::NotFound, RESOURCE),
    (
        500014,
        Reason::NotFound,
        "the API's enterprise application is switched off in the tenant",
    ),
    (70011, Reason::NotFound, RESOURCE),
    (1002012, Reason::NotFound, RESOURCE),
    (
        90033,
        Reason::Unavailable,
        "Entra says that this is over soon",
    ),
    (
        90055,
        Reason::Unavailable,
        "the tenant has asked for too many tokens",
    ),
    (
        50196,
        Reason::Unavailable,
        "the application asks for too many tokens: what else uses it?",
    ),
    (70003, Reason::Protocol, ""),
    (
        900144,
        Reason::Protocol,
        "does something in between change the request?",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(description: &str, reason: Reason, code: &str, message: &str) {
        let refused = Refused {
            error: "invalid_client".to_owned(),
            error_description: description.to_owned(),
            error_codes: Vec::new(),
        };
        let cause = refused.cause().expect("a code");
        assert_eq!(
            (cause.reason, cause.code.as_deref(), cause.message.as_str()),
            (reason, Some(code), message)
        );
    }

    #[test]
    fn a_message_is_the_code_and_what_it_is_about() {
        check(
            "AADSTS7000215: Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID, for a secret added to app 'a'.\r\nTrace ID: 1\r\nCorrelation ID: 2\r\nTimestamp: 3",
            Reason::Auth,
            "AADSTS7000215",
            "AADSTS7000215: Invalid client secret provided",
        );
        check(
            "AADSTS90002: Tenant 'x.test' not found. Check to make sure you have the correct tenant ID. Trace ID: 1",
            Reason::NotFound,
            "AADSTS90002",
            "AADSTS90002: Tenant 'x.test' not found",
        );
        check(
            "AADSTS700027: The certificate with identifier used to sign the client assertion is not registered on application. [Reason - The key was not found., Thumbprint of key used by client: 'AB', Please visit the Azure Portal]",
            Reason::Auth,
            "AADSTS700027",
            "AADSTS700027: The certificate with identifier used to sign the client assertion is not registered on application. [Reason - The key was not found., Thumbprint of key used by client: 'AB']",
        );
        check(
            "AADSTS700024: Client assertion is not within its valid time range. Current time: 2026-01-01T00:00:00.000Z, assertion valid from",
            Reason::Auth,
            "AADSTS700024",
            "AADSTS700024: Client assertion is not within its valid time range",
        );
        check(
            "AADSTS500011: The resource principal named https://a.b was not found in the tenant named c. This can happen",
            Reason::NotFound,
            "AADSTS500011",
            "AADSTS500011: The resource principal named https://a.b was not found in the tenant named c",
        );
    }

    #[test]
    fn a_code_that_is_not_known_is_told_with_all_its_words() {
        check(
            "AADSTS123456789: One thing. And another. Trace ID: 1",
            Reason::Auth,
            "AADSTS123456789",
            "AADSTS123456789: One thing. And another",
        );
        for (error, reason) in [
            ("invalid_resource", Reason::NotFound),
            ("temporarily_unavailable", Reason::Unavailable),
            ("access_denied", Reason::Permission),
            ("invalid_request", Reason::Protocol),
            ("unauthorized_client", Reason::Auth),
        ] {
            let refused = Refused {
                error: error.to_owned(),
                error_description: String::new(),
                error_codes: vec![1],
            };
            let cause = refused.cause().unwrap();
            assert_eq!(
                (cause.reason, cause.code.as_deref()),
                (reason, Some("AADSTS1"))
            );
        }
    }

    #[test]
    fn every_code_stands_once_in_the_table_and_has_a_way_out() {
        let mut codes: Vec<u64> = TABLE.iter().map(|(code, ..)| *code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), TABLE.len());
        for (code, reason, hint) in TABLE {
            assert!(!hint.is_empty() || *reason == Reason::Protocol, "{code}");
        }
    }

    #[test]
    fn what_is_no_code_is_none() {
        for description in [
            "",
            "AADSTS",
            "AADSTSx: y",
            "Identity not found",
            "AADSTS99999999999999999999999: x",
        ] {
            let refused = Refused {
                error_description: description.to_owned(),
                ..Refused::default()
            };
            assert!(refused.cause().is_none(), "{description}");
        }
        assert_eq!(sentence(""), "");
        assert_eq!(sentence("...."), "");
        assert_eq!(sentence("a. [b. C"), "a. [b. C");
    }
}
