//! A JSON web token that we sign ourselves (RFC 7515): by it a token server knows who holds a
//! private key.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use conncheck_config::Secret;
use serde_json::Value;

use crate::cause::Cause;
use crate::outcome::Reason;
use crate::tls::private_key_der;

/// An RSA key that signs.
pub(crate) struct SigningKey(RsaKeyPair);

impl SigningKey {
    /// Reads PEM, `PKCS#8` or `PKCS#1`. The error quotes nothing.
    pub(crate) fn from_pem(pem: &Secret) -> Result<Self, &'static str> {
        if pem.expose().contains("ENCRYPTED") {
            return Err("is encrypted");
        }
        let der = private_key_der(pem).ok_or("is not a private key in PEM")?;
        let der = der.secret_der();
        RsaKeyPair::from_pkcs8(der)
            .or_else(|_| RsaKeyPair::from_der(der))
            .map(Self)
            .map_err(|_| "is not an RSA key of 2048 bits or more")
    }

    /// The signed token.
    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> Result<Secret, Cause> {
        signed(header, claims, |message| {
            let mut signature = vec![0; self.0.public_modulus_len()];
            self.0
                .sign(
                    &RSA_PKCS1_SHA256,
                    &SystemRandom::new(),
                    message,
                    &mut signature,
                )
                .map_err(|_| Cause::new(Reason::Internal, "signing with the private key failed"))?;
            Ok(signature)
        })
    }
}

/// A token with the signature that `sign` makes of its other two parts.
pub(crate) fn signed(
    header: &Value,
    claims: &Value,
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, Cause>,
) -> Result<Secret, Cause> {
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let text = |json: &Value| encode(json.to_string().as_bytes());
    let message = format!("{}.{}", text(header), text(claims));
    let signature = sign(message.as_bytes())?;
    Ok(Secret::new(format!("{message}.{}", encode(&signature))))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
    use base64::prelude::BASE64_STANDARD;
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_signed_with_the_key() {
        let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let der = key.as_der().unwrap();
        let pem = |label: &str| {
            let text = BASE64_STANDARD.encode(der.as_ref());
            format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
        };
        let signing = SigningKey::from_pem(&Secret::new(pem("PRIVATE KEY")));
        let signing = signing.unwrap_or_else(|error| panic!("{error}"));
        let token = signing
            .sign(&json!({"alg": "RS256"}), &json!({"iss": "me"}))
            .unwrap();
        let (message, signature) = token.expose().rsplit_once('.').unwrap();
        let decode = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).unwrap();
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key());
        public
            .verify(message.as_bytes(), &decode(signature))
            .unwrap();
        let (header, claims) = message.split_once('.').unwrap();
        assert_eq!(decode(header), br#"{"alg":"RS256"}"#);
        assert_eq!(decode(claims), br#"{"iss":"me"}"#);
    }

    #[test]
    fn what_is_no_rsa_key_is_told() {
        let elliptic = rcgen::KeyPair::generate().unwrap().serialize_pem();
        for (pem, expected) in [
            ("", "is not a private key in PEM"),
            ("abc", "is not a private key in PEM"),
            (
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n",
                "is encrypted",
            ),
            (
                "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n",
                "is not an RSA key of 2048 bits or more",
            ),
            (elliptic.as_str(), "is not an RSA key of 2048 bits or more"),
        ] {
            assert_eq!(
                SigningKey::from_pem(&Secret::new(pem)).err(),
                Some(expected)
            );
        }
    }
}
