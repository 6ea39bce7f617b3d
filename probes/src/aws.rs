//! Who we are to AWS: keys that were given, or a session got with them or from where we run.
//!
//! What the SDKs call the default chain, in their order and with their variables: environment, profile,
//! web identity, container, instance. It is ours and not `aws-config`'s, which reads files, environment and
//! clock by itself, tries again, and swallows why a link did not do. Here files and environment are read
//! like those of every definition, each request goes through the attempt, and the message of a chain
//! without an end names every link.
//!
//! Nothing is kept from one attempt to the next, and nothing is written to disk. A metadata service is asked
//! only where a profile names it, or where the default chain has come to it.

mod given;
mod metadata;
mod profile;
mod signer;
mod sts;

use conncheck_config::{Field, Secret, Trust};
use url::Url;

use crate::attempt::Attempt;
use crate::cause::Cause;
use crate::http::target;
use crate::login::form_encoded;
use crate::outcome::{Failure, Phase, Reason};
use crate::probe::{Access, Invalid};
use crate::program::{Program, secret_in, words};
use crate::sigv4::Keys;

use self::metadata::{Container, Instance, of_program};
use self::profile::{Flavour, Login, Mistake, Profiles, Source};

pub(crate) use self::given::{
    ACCESS_KEY, AssumeRole, CREDENTIALS, Given, SECRET_KEY, SESSION_TOKEN, Written,
};
pub(crate) use self::signer::{SigV4Settings, Signer};
pub(crate) use self::sts::{Sts, Talk};

/// The region where nobody says another one, as it was before there were regions.
const REGION: &str = "us-east-1";

/// What we are called in the log of who assumed a role.
const SESSION_NAME: &str = "conncheck";

/// A role to be assumed.
#[derive(Clone, Debug)]
pub(crate) struct Role {
    arn: String,
    external_id: Option<Secret>,
    session_name: String,
    duration_seconds: Option<String>,
}

impl Role {
    /// The error quotes nothing.
    pub(crate) fn new(
        arn: &str,
        external_id: Option<Secret>,
        session_name: Option<String>,
        duration_seconds: Option<u32>,
    ) -> Result<Self, String> {
        let arn = arn.trim();
        let parts: Vec<&str> = arn.splitn(6, ':').collect();
        let is_role = match parts.as_slice() {
            ["arn", _, "iam", _, account, resource] => {
                account.bytes().all(|byte| byte.is_ascii_digit())
                    && resource
                        .strip_prefix("role/")
                        .is_some_and(|name| !name.is_empty())
            }
            _ => false,
        };
        if !is_role {
            return Err(
                "it is not the ARN of a role: `arn:aws:iam::123456789012:role/NAME`".to_owned(),
            );
        }
        // What STS would say of each attempt.
        if duration_seconds.is_some_and(|seconds| !(900..=43_200).contains(&seconds)) {
            return Err("a session lasts from 900 to 43200 seconds".to_owned());
        }
        let is_name = |name: &str| {
            let may_be = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte);
            (2..=64).contains(&name.len()) && name.bytes().all(may_be)
        };
        if session_name.as_deref().is_some_and(|name| !is_name(name)) {
            let message =
                "the name of a session has two to 64 letters, digits and `_+=,.@-`".to_owned();
            return Err(message);
        }
        Ok(Self {
            arn: arn.to_owned(),
            external_id,
            session_name: session_name.unwrap_or_else(|| SESSION_NAME.to_owned()),
            duration_seconds: duration_seconds.map(|seconds| seconds.to_string()),
        })
    }

    /// Its name without path and account.
    fn name(&self) -> &str {
        self.arn.rsplit('/').next().unwrap_or_default()
    }

    fn form<'a>(&'a self, action: &'a str) -> Vec<(&'a str, &'a str)> {
        let mut form = vec![
            ("Action", action),
            ("RoleArn", self.arn.as_str()),
            ("RoleSessionName", self.session_name.as_str()),
        ];
        if let Some(seconds) = &self.duration_seconds {
            form.push(("DurationSeconds", seconds));
        }
        form
    }
}

/// Where keys come from.
pub(crate) struct Identity {
    base: Base,
    roles: Vec<Role>,
    /// The links of the default chain that did not do, and why.
    passed_over: Vec<String>,
    /// Unless the instance is to be asked.
    region: Option<String>,
    /// In place of the region's own endpoint.
    endpoint: Option<Url>,
    secrets: Vec<Secret>,
}

enum Base {
    Keys(Keys),
    WebIdentity {
        token: Secret,
        role: Role,
    },
    Program(Program),
    Container(Container),
    Instance(Instance),
    /// Why the chain ends without keys, if that is not for having no more links.
    Nothing(Option<Broken>),
}

/// A link that is there and does not do.
struct Broken {
    message: String,
    hint: Option<String>,
}

/// What is known before STS is asked.
pub(crate) struct Begun {
    keys: Option<Keys>,
    pub(crate) region: String,
}

impl Identity {
    pub(crate) fn new(access: &Access<'_>, given: Given) -> Result<Self, Invalid> {
        let mut reading = Reading {
            access,
            region: given.region,
            endpoint: None,
            secrets: Vec::new(),
            passed_over: Vec::new(),
        };
        let (base, mut roles) = reading.base(given.keys, given.file, given.profile)?;
        roles.extend(given.role);
        if reading.region.is_none() {
            reading.region = reading.region_of_ours()?;
        }
        if reading.region.is_none() && !matches!(base, Base::Instance(_)) {
            reading.region = Some(REGION.to_owned());
        }
        if let Some(region) = &reading.region
            && !is_region(region)
        {
            return Err(access
                .invalid(Field::Properties, "the `region` is no name of a region")
                .hint("it is written like `eu-west-1`"));
        }
        if let Base::Keys(keys) = &base {
            reading.secrets.extend(keys.secrets().cloned());
        }
        if let Base::WebIdentity { token, .. } = &base {
            reading.secrets.push(token.clone());
        }
        // As it is sent: a peer may repeat what it was asked.
        let ids = roles.iter().filter_map(|role| role.external_id.as_ref());
        reading.secrets.extend(ids.map(form_encoded));
        Ok(Self {
            base,
            roles,
            passed_over: reading.passed_over,
            region: reading.region,
            endpoint: reading.endpoint,
            secrets: reading.secrets,
        })
    }

    /// The region, unless it is the instance that knows it.
    pub(crate) fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    /// The keys themselves, where they were given.
    fn given_keys(&self) -> Option<&Keys> {
        match &self.base {
            Base::Keys(keys) if self.roles.is_empty() => Some(keys),
            _ => None,
        }
    }

    /// The endpoint that the profile or the environment names.
    pub(crate) fn endpoint(&self) -> Option<&Url> {
        self.endpoint.as_ref()
    }

    pub(crate) fn secrets(&self) -> &[Secret] {
        &self.secrets
    }

    /// Gets what is to be had without STS.
    pub(crate) async fn begin(&self, attempt: &mut Attempt) -> Result<Begun, Failure> {
        let mut region = self.region.clone();
        let keys = match &self.base {
            Base::Keys(keys) => Some(keys.clone()),
            Base::WebIdentity { .. } => None,
            Base::Program(program) => {
                let output = attempt.program(Phase::Auth, program, &[]).await?;
                let keys = of_program(program.name(), &output)
                    .map_err(|cause| cause.in_phase(Phase::Auth))?;
                Some(keys)
            }
            Base::Container(container) => Some(container.keys(attempt).await?),
            Base::Instance(instance) => {
                let given = instance.ask(attempt, region.is_none()).await;
                let given = given.map_err(|failure| self.no_more_links(failure))?;
                region = region.or(given.region);
                Some(given.keys)
            }
            Base::Nothing(broken) => return Err(self.nothing(broken.as_ref())),
        };
        if let Some(keys) = &keys {
            keys.secrets()
                .for_each(|secret| attempt.keeps_secret(secret));
            if let Some(expiry) = keys.expiry {
                attempt.credential_expires(expiry);
            }
        }
        let region = region.unwrap_or_else(|| REGION.to_owned());
        if !is_region(&region) {
            let cause = Cause::protocol("the instance's region is no name of a region")
                .hint("set `region`");
            return Err(cause.in_phase(Phase::Auth));
        }
        Ok(Begun { keys, region })
    }

    /// The keys themselves, through as many roles as it takes.
    pub(crate) async fn keys(
        &self,
        attempt: &mut Attempt,
        begun: Begun,
        sts: &mut Talk<'_>,
    ) -> Result<Keys, Failure> {
        let mut keys = match (begun.keys, &self.base) {
            (Some(keys), _) => keys,
            (None, Base::WebIdentity { token, role }) => {
                sts.assume_with_token(attempt, token, role).await?
            }
            (None, _) => return Err(self.nothing(None)),
        };
        for role in &self.roles {
            keys = sts.assume(attempt, &keys, role).await?;
        }
        Ok(keys)
    }

    fn nothing(&self, broken: Option<&Broken>) -> Failure {
        let mut links = self.passed_over.clone();
        let mut hint = None;
        if let Some(broken) = broken {
            links.push(broken.message.clone());
            hint.clone_from(&broken.hint);
        }
        let cause = Cause::new(
            Reason::Secret,
            format!("found no credentials: {}", links.join("; ")),
        );
        let hint = hint.unwrap_or_else(|| {
            "give access key and secret key (`username` and `password`, or a `secretRef`), or let conncheck run with a role".to_owned()
        });
        cause.hint(hint).in_phase(Phase::Auth)
    }

    /// The instance was the last hope of the chain.
    fn no_more_links(&self, failure: Failure) -> Failure {
        if self.passed_over.is_empty() {
            return failure;
        }
        let last = Broken {
            message: format!("instance: {}", failure.message),
            hint: failure.hint.map(Into::into),
        };
        Failure {
            phase: failure.phase,
            ..self.nothing(Some(&last))
        }
    }
}

fn is_region(region: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !region.is_empty() && region.len() <= 32 && region.bytes().all(is_part)
}

/// A definition that is being read.
struct Reading<'a> {
    access: &'a Access<'a>,
    region: Option<String>,
    endpoint: Option<Url>,
    secrets: Vec<Secret>,
    passed_over: Vec<String>,
}

type Read = (Base, Vec<Role>);

impl<'a> Reading<'a> {
    fn base(
        &mut self,
        keys: Option<Keys>,
        file: Option<(Field, Secret)>,
        profile: Option<String>,
    ) -> Result<Read, Invalid> {
        match (keys, file, profile) {
            (Some(keys), None, None) => Ok((Base::Keys(keys), Vec::new())),
            (Some(_), Some((field, _)), _) => Err(self
                .access
                .invalid(field, "both keys and a credentials file")
                .hint("keep one of them")),
            (Some(_), None, Some(_)) => Err(self
                .access
                .invalid(Field::Properties, "both keys and a `profile`")
                .hint("keep one of them")),
            (None, Some((field, text)), profile) => {
                let profiles = Profiles::read(&text, "the credentials file", Flavour::Given)
                    .map_err(|mistake| self.mistake(field, mistake))?;
                self.secrets.extend(profiles.secrets().cloned());
                self.given_profile(field, &profiles, profile)
            }
            (None, None, profile) => {
                if self.access.resolved().trust == Trust::Remote {
                    return Err(self
                        .access
                        .invalid(
                            Field::Type,
                            "our own identity is not used for a connection that came from the Kubernetes API",
                        )
                        .hint("give it one: access key and secret key, or a credentials file, in a secret"));
                }
                match profile {
                    Some(profile) => self.our_profile(&profile),
                    None => self.chain(),
                }
            }
        }
    }

    /// A profile of a text that was given.
    fn given_profile(
        &mut self,
        field: Field,
        profiles: &Profiles,
        profile: Option<String>,
    ) -> Result<Read, Invalid> {
        let name = profile.as_deref().unwrap_or("default");
        if !profiles.has(name) {
            let count = match profiles.len() {
                0 => "none".to_owned(),
                1 => "one of another name".to_owned(),
                count => format!("{count} of other names"),
            };
            let message = format!("the credentials file has no profile `{name}`, but {count}");
            return Err(match (profiles.len(), profile.is_some()) {
                (0, _) => self.access.invalid(field, message).hint(
                    "it is written as `[default]`, and below it `aws_access_key_id = …` and `aws_secret_access_key = …`; \
                     a secret key alone goes with the access key as `username`",
                ),
                (_, false) => self.access.invalid(field, message).hint("name it with `profile`"),
                _ => self.access.invalid(Field::Properties, message),
            });
        }
        let login = profiles
            .login(name)
            .map_err(|mistake| self.mistake(field, mistake))?;
        let Some(login) = login else {
            return Err(self.access.invalid(
                field,
                format!("the profile `{name}` of the credentials file says nothing of a login"),
            ));
        };
        self.logs_in(field, login, false)
    }

    /// A profile of our own files, which the definition names.
    fn our_profile(&mut self, name: &str) -> Result<Read, Invalid> {
        let (profiles, missing) = self.our_profiles()?;
        let invalid = |message: String| self.access.invalid(Field::Properties, message);
        if !profiles.has(name) {
            let missing = match missing.is_empty() {
                true => String::new(),
                false => format!(" ({})", missing.join(", ")),
            };
            return Err(invalid(format!(
                "there is no profile `{name}` in our own files{missing}"
            )));
        }
        self.secrets.extend(profiles.secrets().cloned());
        match profiles.login(name) {
            Ok(Some(login)) => self.logs_in(Field::Properties, login, true),
            Ok(None) => Err(invalid(format!(
                "the profile `{name}` says nothing of a login"
            ))),
            Err(mistake) => Err(self.mistake(Field::Properties, mistake)),
        }
    }

    /// Both of our own files, and what of them is not there.
    fn our_profiles(&self) -> Result<(Profiles, Vec<String>), Invalid> {
        let field = Field::Properties;
        let home = self.variable(field, "HOME")?;
        let mut res = Profiles::default();
        let mut missing = Vec::new();
        for (variable, file, flavour) in [
            ("AWS_CONFIG_FILE", "config", Flavour::Config),
            (
                "AWS_SHARED_CREDENTIALS_FILE",
                "credentials",
                Flavour::Credentials,
            ),
        ] {
            let path = match (self.variable(field, variable)?, &home) {
                (Some(path), home) => match (path.strip_prefix("~/"), home) {
                    (Some(rest), Some(home)) => format!("{home}/{rest}"),
                    _ => path,
                },
                (None, Some(home)) => format!("{home}/.aws/{file}"),
                (None, None) => {
                    missing.push("`HOME` is not set".to_owned());
                    continue;
                }
            };
            match self.access.file(field, &path) {
                Ok(text) => {
                    let profiles = Profiles::read(&text, &format!("`{path}`"), flavour)
                        .map_err(|mistake| self.mistake(field, mistake))?;
                    res = res.and(profiles);
                }
                Err(invalid) => missing.push(invalid.message),
            }
        }
        missing.dedup();
        Ok((res, missing))
    }

    /// The default chain.
    fn chain(&mut self) -> Result<Read, Invalid> {
        let links: [Link<'a>; 4] = [
            Self::environment_link,
            Self::profile_link,
            Self::web_identity_link,
            Self::container_link,
        ];
        for link in links {
            match link(self) {
                Ok(Some(read)) => return Ok(read),
                Ok(None) => {}
                // It is there, and was meant: going on would be to log in as somebody else.
                Err(invalid) => {
                    let broken = Broken {
                        message: invalid.message,
                        hint: invalid.hint,
                    };
                    return Ok((Base::Nothing(Some(broken)), Vec::new()));
                }
            }
        }
        let instance = Instance::of(self.access, Field::Properties)?;
        let base = match instance {
            Some(instance) => Base::Instance(instance),
            None => {
                self.pass_over("instance", "`AWS_EC2_METADATA_DISABLED` says not to ask it");
                Base::Nothing(None)
            }
        };
        self.endpoint_of_ours()?;
        Ok((base, Vec::new()))
    }

    fn environment_link(&mut self) -> Result<Option<Read>, Invalid> {
        match self.environment(Field::Properties)? {
            Ok(base) => {
                self.endpoint_of_ours()?;
                Ok(Some((base, Vec::new())))
            }
            Err(missing) => {
                self.pass_over("environment", &format!("`{missing}` is not set"));
                Ok(None)
            }
        }
    }

    /// The keys of the environment, or which of them is missing.
    fn environment(&self, field: Field) -> Result<Result<Base, &'static str>, Invalid> {
        let mut found = Vec::new();
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            match self.variable(field, name)? {
                Some(value) => found.push(Secret::new(value)),
                None => return Ok(Err(name)),
            }
        }
        let token = self.variable(field, "AWS_SESSION_TOKEN")?.map(Secret::new);
        let [access_key, secret_key] = found.as_slice() else {
            return Ok(Err("AWS_ACCESS_KEY_ID"));
        };
        let keys = Keys::new(access_key, secret_key, token.as_ref())
            .map_err(|what| self.access.invalid(field, format!("environment: {what}")))?;
        Ok(Ok(Base::Keys(keys)))
    }

    fn profile_link(&mut self) -> Result<Option<Read>, Invalid> {
        let named = self.variable(Field::Properties, "AWS_PROFILE")?;
        let name = named.clone().unwrap_or_else(|| "default".to_owned());
        let (profiles, missing) = self.our_profiles()?;
        let what = format!("profile `{name}`");
        if !profiles.has(&name) {
            let why = match missing.is_empty() {
                true => "it is in none of our files".to_owned(),
                false => missing.join(", "),
            };
            if named.is_some() {
                let message = format!("{what} of `AWS_PROFILE`: {why}");
                return Err(self.access.invalid(Field::Properties, message));
            }
            self.pass_over(&what, &why);
            return Ok(None);
        }
        self.secrets.extend(profiles.secrets().cloned());
        let login = profiles.login(&name).map_err(|(message, hint)| {
            self.mistake(Field::Properties, (format!("{what}: {message}"), hint))
        })?;
        match login {
            Some(login) => self.logs_in(Field::Properties, login, true).map(Some),
            None => {
                self.pass_over(&what, "it says nothing of a login");
                Ok(None)
            }
        }
    }

    fn web_identity_link(&mut self) -> Result<Option<Read>, Invalid> {
        let field = Field::Properties;
        let Some(path) = self.variable(field, "AWS_WEB_IDENTITY_TOKEN_FILE")? else {
            self.pass_over("web identity", "`AWS_WEB_IDENTITY_TOKEN_FILE` is not set");
            return Ok(None);
        };
        let wrong = |what: String| self.access.invalid(field, format!("web identity: {what}"));
        let arn = self
            .variable(field, "AWS_ROLE_ARN")?
            .ok_or_else(|| wrong("`AWS_ROLE_ARN` is not set".to_owned()))?;
        let session = self.variable(field, "AWS_ROLE_SESSION_NAME")?;
        let role = Role::new(&arn, None, session, None)
            .map_err(|what| wrong(format!("`AWS_ROLE_ARN`: {what}")))?;
        let token = self
            .access
            .file(field, &path)
            .map_err(|invalid| wrong(invalid.message))?
            .trimmed();
        self.endpoint_of_ours()?;
        Ok(Some((Base::WebIdentity { token, role }, Vec::new())))
    }

    fn container_link(&mut self) -> Result<Option<Read>, Invalid> {
        match Container::of(self.access, Field::Properties, &mut self.secrets)? {
            Some(container) => {
                self.endpoint_of_ours()?;
                Ok(Some((Base::Container(container), Vec::new())))
            }
            None => {
                self.pass_over("container", "no `AWS_CONTAINER_CREDENTIALS_…_URI` is set");
                Ok(None)
            }
        }
    }

    /// What a profile says becomes what is done.
    fn logs_in(&mut self, field: Field, login: Login, is_ours: bool) -> Result<Read, Invalid> {
        if is_ours {
            // As the SDKs have it, the environment wins over the files beside it.
            if self.region.is_none() {
                self.region = self.region_of_ours()?;
            }
            self.endpoint_of_ours()?;
        }
        self.region = self.region.take().or(login.region);
        if self.endpoint.is_none()
            && let Some(url) = &login.endpoint_url
        {
            self.endpoint = Some(self.endpoint_url(field, "endpoint_url", url.expose())?);
        }
        let base = match login.source {
            Source::Keys {
                access_key,
                secret_key,
                session_token,
            } => {
                let keys = Keys::new(&access_key, &secret_key, session_token.as_ref())
                    .map_err(|what| self.access.invalid(field, format!("the profile: {what}")))?;
                Base::Keys(keys)
            }
            Source::WebIdentity { token_file, role } => Base::WebIdentity {
                token: self.access.file(field, token_file.expose())?.trimmed(),
                role,
            },
            Source::Program(command) => {
                let environment = self.access.environment(field)?;
                let mut words = words(command.expose())
                    .map_err(|what| {
                        let message = format!("bad `credential_process`: {what}");
                        self.access.invalid(field, message)
                    })?
                    .into_iter();
                let command = words.next().unwrap_or_default();
                let arguments: Vec<String> = words.collect();
                let secrets = arguments.iter().filter_map(|text| secret_in(text));
                self.secrets.extend(secrets);
                Base::Program(Program {
                    command,
                    arguments,
                    environment,
                })
            }
            Source::Environment => match self.environment(field)? {
                Ok(base) => base,
                Err(missing) => {
                    let message =
                        format!("`credential_source` is `Environment`, and `{missing}` is not set");
                    return Err(self.access.invalid(field, message));
                }
            },
            Source::Container => match Container::of(self.access, field, &mut self.secrets)? {
                Some(container) => Base::Container(container),
                None => {
                    return Err(self.access.invalid(
                        field,
                        "`credential_source` is `EcsContainer`, and no `AWS_CONTAINER_CREDENTIALS_…_URI` is set",
                    ));
                }
            },
            Source::Instance => match Instance::of(self.access, field)? {
                Some(instance) => Base::Instance(instance),
                None => {
                    return Err(self.access.invalid(
                        field,
                        "`credential_source` is `Ec2InstanceMetadata`, and `AWS_EC2_METADATA_DISABLED` says not to ask it",
                    ));
                }
            },
        };
        // It was chosen, and is no last resort.
        self.passed_over.clear();
        Ok((base, login.roles))
    }

    /// The region of the environment, where that is ours to read.
    fn region_of_ours(&self) -> Result<Option<String>, Invalid> {
        if self.access.resolved().trust == Trust::Remote {
            return Ok(None);
        }
        let field = Field::Properties;
        match self.variable(field, "AWS_REGION")? {
            Some(region) => Ok(Some(region)),
            None => self.variable(field, "AWS_DEFAULT_REGION"),
        }
    }

    /// The endpoint of the environment: it goes with an identity of ours.
    fn endpoint_of_ours(&mut self) -> Result<(), Invalid> {
        let field = Field::Properties;
        let ignored = self.variable(field, "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")?;
        if ignored.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(());
        }
        for name in ["AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL"] {
            if let Some(url) = self.variable(field, name)? {
                self.endpoint = Some(self.endpoint_url(field, name, &url)?);
                break;
            }
        }
        Ok(())
    }

    fn endpoint_url(&self, field: Field, name: &str, url: &str) -> Result<Url, Invalid> {
        let (_, url) = target(url)
            .map_err(|error| self.access.invalid(field, format!("bad `{name}`: {error}")))?;
        Ok(url)
    }

    fn variable(&self, field: Field, name: &str) -> Result<Option<String>, Invalid> {
        self.access.variable(field, name)
    }

    fn pass_over(&mut self, link: &str, why: &str) {
        self.passed_over.push(format!("{link}: {why}"));
    }

    fn mistake(&self, field: Field, (message, hint): Mistake) -> Invalid {
        let invalid = self.access.invalid(field, message);
        match hint {
            Some(hint) => invalid.hint(hint),
            None => invalid,
        }
    }
}

type Link<'a> = fn(&mut Reading<'a>) -> Result<Option<Read>, Invalid>;
