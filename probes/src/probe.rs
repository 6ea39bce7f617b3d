//! What a type of connection has to say, and what it is given.

use std::ffi::OsString;
use std::pin::Pin;
use std::sync::Arc;

use conncheck_config::{Field, NodeError, Place, Resolved, Secret, SecretKey, Trust, Unresolved};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::attempt::{Address, Attempt};
use crate::outcome::{Failure, Reason};
use crate::scrub::Scrubber;
use crate::tls::{Tls, TlsMistake, TlsOptions, TlsPart, Verify};

/// One type of connection: how its definition is read, and the conversation that proves a peer.
pub trait ProbeType: Sized + Send + Sync + 'static {
    /// `spec.properties` of this type. Denies unknown fields; every field's doc comment is written
    /// for the person editing the YAML, whose editor shows it (`--schema`): hence `JsonSchema`, which
    /// is derived. See `schema.rs` for a field that reads itself.
    type Settings: DeserializeOwned + JsonSchema;

    /// The reasons this type can give beside those that every type can. Their counters are exported
    /// from the start.
    const FURTHER_REASONS: &'static [Reason];

    /// The keys of a whole secret that this type reads beside those that every type does
    /// ([`COMMON_KEYS`](conncheck_config::COMMON_KEYS)): no other is to be had by
    /// [`Resolved::own_key`].
    const SECRET_KEYS: &'static [SecretKey] = &[];

    /// Reads a definition. Pure: no clock, no network, and files only through [`Access::file`].
    fn new(access: Access<'_>, settings: Self::Settings) -> Result<Self, Invalid>;

    /// `scheme://host:port` and nothing else: no user, no path, no query. Empty only while a secret is
    /// missing that would tell.
    fn endpoint(&self) -> String;

    /// Secrets that the definition holds in another form: an encoded login, which a peer may echo.
    fn secrets(&self) -> &[Secret] {
        &[]
    }

    /// The conversation: one line a step.
    fn probe(&self, attempt: &mut Attempt) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// A probe that is ready to run, of whatever type.
pub trait Probe: Send + Sync {
    /// `scheme://host:port` and nothing else.
    fn endpoint(&self) -> &str;

    /// The secrets of this target, to be taken out of everything that it says.
    fn scrubber(&self) -> &Scrubber;

    /// The conversation. [`crate::run`] is the one who calls this.
    fn run<'a>(
        &'a self,
        attempt: &'a mut Attempt,
    ) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>>;
}

/// What a definition may have of the machine that we run on: the daemon's part, since this crate
/// opens no file and reads no environment.
pub trait Files: Send + Sync {
    /// The text of a file that a definition names by its path (`sslrootcert=/path`), or why it cannot
    /// be had.
    fn read(&self, path: &str) -> Result<Secret, String>;

    /// A variable that a platform sets for what runs on it (`KUBERNETES_SERVICE_HOST`).
    fn variable(&self, _name: &str) -> Option<String> {
        None
    }

    /// The environment of a program that a definition has run (an exec plugin), or why none is run.
    fn environment(&self) -> Result<Vec<(OsString, OsString)>, String> {
        Err("programs are not run here".to_owned())
    }
}

/// What is wrong with a definition, once its type is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Where.
    pub place: Place,
    /// What. Never quotes a value that may be secret.
    pub message: String,
    /// The way out.
    pub hint: Option<String>,
}

impl Invalid {
    /// What a secret lacks, as a mistake of the definition that refers to it.
    pub fn unresolved(unresolved: Unresolved) -> Self {
        Self {
            place: unresolved.place,
            message: unresolved.message,
            hint: unresolved.hint,
        }
    }

    /// Adds the way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// What a type is built from: the resolved connection.
#[derive(Clone, Copy)]
pub struct Access<'a> {
    resolved: &'a Resolved,
    files: &'a dyn Files,
}

impl<'a> Access<'a> {
    pub(crate) fn new(resolved: &'a Resolved, files: &'a dyn Files) -> Self {
        Self { resolved, files }
    }

    /// Everything that the owner wrote.
    pub fn resolved(&self) -> &'a Resolved {
        self.resolved
    }

    /// The URL; its absence is the owner's mistake.
    pub fn url(&self) -> Result<&'a Secret, Invalid> {
        self.resolved
            .url
            .as_ref()
            .ok_or_else(|| self.invalid(Field::Url, "there is no `url`"))
    }

    /// The user: `spec` and its secret win over what the URL says.
    pub fn username(&self, in_url: Option<&str>) -> Option<Secret> {
        (self.resolved.username.clone()).or_else(|| in_url.map(Secret::new))
    }

    /// The password: `spec` and its secret win over what the URL says. A secret's single key is the
    /// password of most types.
    pub fn password(&self, in_url: Option<&str>) -> Option<Secret> {
        (self.resolved.key.clone())
            .or_else(|| self.resolved.password.clone())
            .or_else(|| in_url.map(Secret::new))
    }

    /// A mistake in `field`.
    pub fn invalid(&self, field: Field, message: impl Into<String>) -> Invalid {
        Invalid {
            place: self.resolved.place_of(field),
            message: message.into(),
            hint: None,
        }
    }

    /// The text of a file that the definition names in `field`.
    pub fn file(&self, field: Field, path: &str) -> Result<Secret, Invalid> {
        self.is_ours(field, "files of ours are not read")?;
        self.files
            .read(path)
            .map_err(|error| self.invalid(field, error))
    }

    /// A variable that the platform has set for us, which `field` asks for. An empty one is not set.
    pub fn variable(&self, field: Field, name: &str) -> Result<Option<String>, Invalid> {
        self.is_ours(field, "our environment is not read")?;
        let value = self.files.variable(name);
        Ok(value.filter(|value| !value.is_empty()))
    }

    /// The environment of a program that `field` has run.
    pub fn environment(&self, field: Field) -> Result<Vec<(OsString, OsString)>, Invalid> {
        self.is_ours(field, "programs are not run")?;
        self.files
            .environment()
            .map_err(|error| self.invalid(field, error))
    }

    /// Refuses a unix socket to a definition from elsewhere: whoever listens there knows us by our user.
    pub fn may_reach(&self, address: &Address) -> Result<(), Invalid> {
        match address {
            Address::Tcp { .. } => Ok(()),
            Address::Unix(_) => self.is_ours(Field::Url, "unix sockets are not opened"),
        }
    }

    /// Refuses a certificate that `spec` gives where no TLS is spoken: whoever wrote it means TLS. One
    /// that a secret happens to hold beside the login says nothing.
    pub fn without_tls(&self, way_out: &'static str) -> Result<(), Invalid> {
        for (field, name) in [(Field::CaCert, "caCert"), (Field::ClientCert, "clientCert")] {
            if self.resolved.is_in_spec(field) {
                return Err(self
                    .invalid(field, format!("a `{name}`, and no TLS"))
                    .hint(way_out));
            }
        }
        Ok(())
    }

    /// The author of a definition from elsewhere need not be trusted with our machine.
    fn is_ours(&self, field: Field, refusal: &str) -> Result<(), Invalid> {
        match self.resolved.trust {
            Trust::Local => Ok(()),
            Trust::Remote => Err(self
                .invalid(
                    field,
                    format!("{refusal} for a connection that came from the Kubernetes API"),
                )
                .hint("put the text itself into the secret")),
        }
    }

    /// What `caCert`, `clientCert`, `clientKey` and the two TLS settings say.
    pub fn tls_options(
        &self,
        insecure_skip_verify: Option<bool>,
        server_name: Option<String>,
    ) -> TlsOptions {
        let insecure = self.resolved.insecure_skip_verify.or(insecure_skip_verify);
        TlsOptions {
            ca_cert: self.resolved.ca_cert.clone(),
            client_cert: self.resolved.client_cert.clone(),
            client_key: self.resolved.client_key.clone(),
            verify: match insecure {
                Some(true) => Verify::Nothing,
                _ => Verify::Full,
            },
            server_name,
            ..TlsOptions::default()
        }
    }

    /// Builds TLS; a mistake is placed where the owner wrote it.
    pub fn tls(&self, options: &TlsOptions) -> Result<Tls, Invalid> {
        Tls::new(options).map_err(|mistake| self.tls_mistake(mistake))
    }

    /// A mistake in what the owner wrote.
    pub fn tls_mistake(&self, mistake: TlsMistake) -> Invalid {
        let (field, name) = match mistake.part {
            TlsPart::CaCert => (Field::CaCert, "`caCert`: "),
            TlsPart::ClientCert => (Field::ClientCert, "`clientCert`: "),
            TlsPart::ClientKey => (Field::ClientKey, "`clientKey`: "),
            TlsPart::ServerName => (Field::Properties, "`serverName`: "),
            TlsPart::System => (Field::Type, ""),
        };
        Invalid {
            place: self.resolved.place_of(field),
            message: format!("{name}{}", mistake.message),
            hint: mistake.hint,
        }
    }

    /// The same where options of the URL name files: a mistake in what is no field of the connection
    /// is told of its option.
    pub fn tls_with_files(
        &self,
        options: &TlsOptions,
        option_of: impl Fn(TlsPart) -> Option<&'static str>,
    ) -> Result<Tls, Invalid> {
        Tls::new(options).or_else(|mistake| {
            let field = match mistake.part {
                TlsPart::CaCert => &self.resolved.ca_cert,
                TlsPart::ClientCert => &self.resolved.client_cert,
                TlsPart::ClientKey => &self.resolved.client_key,
                TlsPart::ServerName | TlsPart::System => return self.tls(options),
            };
            match option_of(mistake.part) {
                Some(option) if field.is_none() => Err(Invalid {
                    hint: mistake.hint,
                    ..self.invalid(Field::Url, format!("`{option}`: {}", mistake.message))
                }),
                _ => self.tls(options),
            }
        })
    }
}

/// A probe of a known type, with what every target has.
struct Typed<P> {
    probe: P,
    endpoint: String,
    scrubber: Scrubber,
}

impl<P: ProbeType> Probe for Typed<P> {
    fn endpoint(&self) -> &str {
        &self.endpoint
    }

    fn scrubber(&self) -> &Scrubber {
        &self.scrubber
    }

    fn run<'a>(
        &'a self,
        attempt: &'a mut Attempt,
    ) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>> {
        Box::pin(self.probe.probe(attempt))
    }
}

/// Reads a definition as type `P`.
pub(crate) fn build<P: ProbeType>(
    resolved: &Resolved,
    files: &dyn Files,
) -> Result<Arc<dyn Probe>, Vec<Invalid>> {
    let settings = settings::<P>(resolved)?;
    let access = Access::new(resolved, files);
    // A template may have brought a secret to where a mistake is quoted from, such as the name of an
    // option.
    let told = |mut invalid: Invalid| {
        let scrubber = Scrubber::new(&resolved.secrets);
        scrubber.scrub_in_place(&mut invalid.message);
        let hint = invalid.hint.iter_mut();
        hint.for_each(|hint| scrubber.scrub_in_place(hint));
        vec![invalid]
    };
    // A certificate that cannot be read is a mistake also where this URL needs none.
    let given = [
        &resolved.ca_cert,
        &resolved.client_cert,
        &resolved.client_key,
    ];
    if given.iter().any(|pem| pem.is_some()) {
        access.tls(&access.tls_options(None, None)).map_err(told)?;
    }
    let probe = P::new(access, settings).map_err(told)?;
    if let Some(unread) = resolved.unread() {
        return Err(vec![Invalid::unresolved(unread.clone())]);
    }
    Ok(Arc::new(Typed {
        endpoint: probe.endpoint(),
        scrubber: Scrubber::new(resolved.secrets.iter().chain(probe.secrets())),
        probe,
    }))
}

/// Reads `spec.properties` as type `P` wants them. Every mistake at once; none at all where only
/// values are to blame that are not known yet.
pub(crate) fn settings<P: ProbeType>(resolved: &Resolved) -> Result<P::Settings, Vec<Invalid>> {
    let mistake = |error: NodeError| Invalid {
        place: error.place,
        message: error.message,
        hint: error.hint,
    };
    resolved
        .properties
        .deserialize_all()
        .map_err(|errors| errors.into_iter().map(mistake).collect())
}

#[cfg(all(test, feature = "all"))]
mod tests {
    use crate::testing::{Authority, build, build_or_say, build_remote, quoted};

    /// Whoever listens on a socket of this machine knows us by our user.
    #[test]
    fn who_wrote_it_elsewhere_has_us_open_no_socket() {
        for (ty, url) in [
            ("ldap", "ldapi://%2Frun%2Fslapd%2Fldapi"),
            ("mongodb", "mongodb://%2Ftmp%2Fmongodb-27017.sock/"),
            ("mysql", "u:p@unix(/run/mysqld/mysqld.sock)/db"),
            ("postgres", "host=/run/postgresql user=u"),
            ("redis", "unix:///run/redis/redis.sock"),
        ] {
            let spec = format!("url: '{url}'");
            build(ty, &spec, &[]).unwrap_or_else(|mistakes| panic!("{ty}: {mistakes:?}"));
            let mistakes = build_remote(ty, &spec, &[]).err().expect(ty);
            assert_eq!(
                mistakes[0].message,
                "unix sockets are not opened for a connection that came from the Kubernetes API"
            );
        }
    }

    #[test]
    fn a_secret_that_a_template_brought_is_not_quoted() {
        for (ty, url) in [
            ("smtp", "smtp://h?$(password)=x"),
            ("postgres", "postgres://h?$(password)=x"),
            ("mongodb", "mongodb://h/?x$(password)=x"),
        ] {
            let spec = format!("url: '{url}'\npassword: secret://login/password");
            let mistakes = build(ty, &spec, &[("password", "hunter2hunter2")]).err();
            let message = mistakes.expect(ty).remove(0).message;
            assert!(message.contains("[redacted]"), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    /// It would be of no use, and the login would go out in plain text.
    #[test]
    fn a_certificate_where_no_tls_is_spoken_is_a_mistake() {
        for (ty, url) in [
            ("amqp", "amqp://h"),
            ("ldap", "ldap://h"),
            ("redis", "redis://h"),
        ] {
            let pem = Authority::new("test authority").pem;
            let given = format!("url: {url}\ncaCert: {}", quoted(&pem));
            let message = build_or_say(ty, &given).err();
            let message = message.expect(ty);
            assert!(message.starts_with("a `caCert`, and no TLS ("), "{message}");
            // A secret may hold more than is needed.
            let carried = format!("url: {url}\nsecretRef: {{name: login}}");
            let secret = [
                ("ca.crt", pem.as_str()),
                ("username", "cn=u"),
                ("password", "pw"),
            ];
            build(ty, &carried, &secret).unwrap_or_else(|mistakes| panic!("{ty}: {mistakes:?}"));
        }
    }
}
