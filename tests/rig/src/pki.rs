//! Certificates, good and bad, made anew for each rig.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256, RsaKeySize,
};
use time::{Duration, OffsetDateTime};

use crate::error::{Error, Result};

/// What a good server calls itself.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A certificate and its key, as texts and as files.
#[derive(Clone)]
pub struct Certified {
    pub name: &'static str,
    /// The certificate, followed by the intermediate ones where there are any.
    pub cert_pem: String,
    pub key_pem: String,
    pub cert_path: PathBuf,
    /// Readable by its owner only.
    pub key_path: PathBuf,
    /// The end of the leaf's validity, seconds since 1970.
    pub not_after: i64,
}

impl fmt::Debug for Certified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certified")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Two authorities and what they have signed.
#[derive(Debug, Clone)]
pub struct Pki {
    /// The authority that everybody here trusts: `CN=rig CA`.
    pub ca: Certified,
    /// An authority that nobody trusts: `CN=other CA`.
    pub other_ca: Certified,
    /// Signed by `ca`, for localhost, 127.0.0.1 and ::1, good for 90 days.
    pub server: Certified,
    /// The same through an intermediate authority; `cert_pem` holds both.
    pub intermediate: Certified,
    /// Signed by `ca`, for `elsewhere.test` only.
    pub wrong_name: Certified,
    /// Signed by `ca`, ended yesterday.
    pub expired: Certified,
    /// Signed by `ca`, begins tomorrow.
    pub not_yet_valid: Certified,
    /// Like `server`, but signed by `other_ca`.
    pub unknown_ca: Certified,
    /// Like `server`, but signed by itself.
    pub self_signed: Certified,
    /// `CN=probe`, a client's.
    pub client: Certified,
    pub client_expired: Certified,
    /// `CN=probe`, signed by `other_ca`.
    pub client_unknown_ca: Certified,
}

/// What a server shows of itself: the certificate of that name in [`Pki`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    Server,
    Intermediate,
    WrongName,
    Expired,
    NotYetValid,
    UnknownCa,
    SelfSigned,
}

impl Shown {
    /// The good ones first.
    pub const ALL: [Shown; 7] = [
        Shown::Server,
        Shown::Intermediate,
        Shown::WrongName,
        Shown::UnknownCa,
        Shown::SelfSigned,
        Shown::Expired,
        Shown::NotYetValid,
    ];
}

/// A new RSA key, PEM: for what is signed with no other.
pub fn rsa_key() -> Result<String> {
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048);
    key.map(|key| key.serialize_pem())
        .map_err(|err| Error::new(format!("cannot make an RSA key: {err}")))
}

impl Pki {
    /// Makes everything and writes it into `dir`.
    pub fn new(dir: &Path) -> Result<Pki> {
        fs::create_dir_all(dir)
            .map_err(Error::doing(format!("cannot create {}", dir.display())))?;
        let maker = Maker {
            dir: dir.into(),
            now: now(),
        };
        maker
            .all()
            .map_err(|err| Error::new(format!("cannot make the test certificates: {err}")))
    }

    pub fn shown(&self, shown: Shown) -> &Certified {
        match shown {
            Shown::Server => &self.server,
            Shown::Intermediate => &self.intermediate,
            Shown::WrongName => &self.wrong_name,
            Shown::Expired => &self.expired,
            Shown::NotYetValid => &self.not_yet_valid,
            Shown::UnknownCa => &self.unknown_ca,
            Shown::SelfSigned => &self.self_signed,
        }
    }
}

struct Maker {
    dir: PathBuf,
    now: OffsetDateTime,
}

type Authority = (Certified, Issuer<'static, KeyPair>);
type Made<T> = std::result::Result<T, Box<dyn std::error::Error>>;

impl Maker {
    fn all(&self) -> Made<Pki> {
        let (valid, expired, future) = (self.days(-1, 90), self.days(-60, -1), self.days(1, 90));
        let (ca, by_ca) = self.authority("ca", "rig CA", None)?;
        let (other_ca, by_other) = self.authority("other_ca", "other CA", None)?;
        let (middle, by_middle) =
            self.authority("intermediate_ca", "rig intermediate CA", Some(&by_ca))?;
        let mut intermediate = self.server("intermediate", &NAMES, valid, Some(&by_middle))?;
        intermediate.cert_pem.push_str(&middle.cert_pem);
        fs::write(&intermediate.cert_path, &intermediate.cert_pem)?;
        Ok(Pki {
            server: self.server("server", &NAMES, valid, Some(&by_ca))?,
            intermediate,
            wrong_name: self.server("wrong_name", &["elsewhere.test"], valid, Some(&by_ca))?,
            expired: self.server("expired", &NAMES, expired, Some(&by_ca))?,
            not_yet_valid: self.server("not_yet_valid", &NAMES, future, Some(&by_ca))?,
            unknown_ca: self.server("unknown_ca", &NAMES, valid, Some(&by_other))?,
            self_signed: self.server("self_signed", &NAMES, valid, None)?,
            client: self.client("client", valid, &by_ca)?,
            client_expired: self.client("client_expired", expired, &by_ca)?,
            client_unknown_ca: self.client("client_unknown_ca", valid, &by_other)?,
            ca,
            other_ca,
        })
    }

    fn authority(
        &self,
        name: &'static str,
        common_name: &str,
        by: Option<&Issuer<'static, KeyPair>>,
    ) -> Made<Authority> {
        let mut params = self.params(common_name, &[], self.days(-1, 3650))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certified = self.sign(name, &params, &key, by)?;
        Ok((certified, Issuer::new(params, key)))
    }

    fn server(
        &self,
        name: &'static str,
        names: &[&str],
        validity: (OffsetDateTime, OffsetDateTime),
        by: Option<&Issuer<'static, KeyPair>>,
    ) -> Made<Certified> {
        let mut params = self.params(names[0], names, validity)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        self.sign(name, &params, &KeyPair::generate()?, by)
    }

    fn client(
        &self,
        name: &'static str,
        validity: (OffsetDateTime, OffsetDateTime),
        by: &Issuer<'static, KeyPair>,
    ) -> Made<Certified> {
        let mut params = self.params("probe", &[], validity)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        self.sign(name, &params, &KeyPair::generate()?, Some(by))
    }

    fn params(
        &self,
        common_name: &str,
        names: &[&str],
        (from, until): (OffsetDateTime, OffsetDateTime),
    ) -> Made<CertificateParams> {
        let names: Vec<String> = names.iter().map(|&name| name.into()).collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.not_before = from;
        params.not_after = until;
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }

    fn sign(
        &self,
        name: &'static str,
        params: &CertificateParams,
        key: &KeyPair,
        by: Option<&Issuer<'static, KeyPair>>,
    ) -> Made<Certified> {
        let cert = match by {
            Some(issuer) => params.signed_by(key, issuer)?,
            None => params.self_signed(key)?,
        };
        let certified = Certified {
            name,
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
            cert_path: self.dir.join(format!("{name}.crt")),
            key_path: self.dir.join(format!("{name}.key")),
            not_after: params.not_after.unix_timestamp(),
        };
        fs::write(&certified.cert_path, &certified.cert_pem)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&certified.key_path)?;
        file.write_all(certified.key_pem.as_bytes())?;
        Ok(certified)
    }

    fn days(&self, from: i64, until: i64) -> (OffsetDateTime, OffsetDateTime) {
        (
            self.now + Duration::days(from),
            self.now + Duration::days(until),
        )
    }
}

/// Whole seconds: a certificate knows no finer ones.
fn now() -> OffsetDateTime {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    OffsetDateTime::UNIX_EPOCH + Duration::seconds(seconds.cast_signed())
}
