//! AWS' files of profiles (`~/.aws/config` and `~/.aws/credentials`), and how a profile logs in.
//!
//! Messages name lines and settings, and quote nothing: the text is a secret.

use std::collections::BTreeMap;

use conncheck_config::Secret;

use super::Role;

/// What is wrong, and the way out.
pub(super) type Mistake = (String, Option<&'static str>);

/// Which of the files it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flavour {
    /// `[default]` and `[profile name]`.
    Config,
    /// `[name]`.
    Credentials,
    /// A text that was given, which may be either.
    Given,
}

/// Settings by profile.
#[derive(Default)]
pub(super) struct Profiles(BTreeMap<String, Profile>);

type Profile = BTreeMap<String, Secret>;

/// How a profile logs in.
pub(super) struct Login {
    pub(super) source: Source,
    /// To be assumed one after the other.
    pub(super) roles: Vec<Role>,
    pub(super) region: Option<String>,
    pub(super) endpoint_url: Option<Secret>,
}

/// Where it begins.
pub(super) enum Source {
    Keys {
        access_key: Secret,
        secret_key: Secret,
        session_token: Option<Secret>,
    },
    WebIdentity {
        token_file: Secret,
        role: Role,
    },
    Program(Secret),
    Environment,
    Container,
    Instance,
}

impl Profiles {
    /// Reads a file. `what` is what it is called in messages.
    pub(super) fn read(text: &Secret, what: &str, flavour: Flavour) -> Result<Self, Mistake> {
        let mut res = Self::default();
        // The section that lines belong to; nothing in one that is no profile.
        let mut section: Option<Option<String>> = None;
        for (index, line) in text
            .expose()
            .trim_start_matches('\u{feff}')
            .lines()
            .enumerate()
        {
            let wrong = |what_is: &str| {
                let hint = "it is written as `[default]`, and below it `aws_access_key_id = …` and `aws_secret_access_key = …`";
                (
                    format!("line {} of {what}: {what_is}", index + 1),
                    Some(hint),
                )
            };
            let is_indented = line.starts_with([' ', '\t']);
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            // Settings within a setting (`s3 =`), none of which is about a login.
            if is_indented && section.is_some() && !line.starts_with('[') {
                continue;
            }
            if let Some(header) = line.strip_prefix('[') {
                let (name, _) = header
                    .split_once(']')
                    .ok_or_else(|| wrong("a `[` without its `]`"))?;
                section = Some(profile_name(name.trim(), flavour));
                if let Some(Some(name)) = &section {
                    res.0.entry(name.clone()).or_default();
                }
                continue;
            }
            let (name, value) = line
                .split_once('=')
                .ok_or_else(|| wrong("neither `[name]` nor `setting = value`"))?;
            let Some(profile) = &section else {
                return Err(wrong("a setting before the first `[name]`"));
            };
            if let Some(profile) = profile {
                let name = name.trim().to_ascii_lowercase();
                let value = Secret::new(without_comment(value).trim());
                res.0
                    .entry(profile.clone())
                    .or_default()
                    .insert(name, value);
            }
        }
        Ok(res)
    }

    /// With what the other file says, which wins.
    pub(super) fn and(mut self, other: Self) -> Self {
        for (name, settings) in other.0 {
            self.0.entry(name).or_default().extend(settings);
        }
        self
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whatever stands there that must not be printed.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &Secret> {
        const SECRET: [&str; 6] = [
            "aws_access_key_id",
            "aws_secret_access_key",
            "aws_session_token",
            "aws_security_token",
            "credential_process",
            "external_id",
        ];
        let settings = self.0.values().flatten();
        settings
            .filter(|(name, _)| SECRET.contains(&name.as_str()))
            .map(|(_, value)| value)
    }

    /// How the profile logs in; nothing if it does not say.
    pub(super) fn login(&self, name: &str) -> Result<Option<Login>, Mistake> {
        let mut visited = Vec::new();
        let source = self.source(name, &mut visited)?;
        let Some((source, roles)) = source else {
            return Ok(None);
        };
        let region = self.get(name, "region");
        Ok(Some(Login {
            source,
            roles,
            region: region.map(|region| region.expose().to_owned()),
            endpoint_url: self.get(name, "endpoint_url").cloned(),
        }))
    }

    fn source(
        &self,
        name: &str,
        visited: &mut Vec<String>,
    ) -> Result<Option<(Source, Vec<Role>)>, Mistake> {
        let get = |setting| self.get(name, setting);
        let keys = self.keys(name)?;
        // Whom a role leads to by `source_profile` is taken by their keys first.
        if !visited.is_empty()
            && let Some(keys) = keys
        {
            return Ok(Some((keys, Vec::new())));
        }
        if visited.iter().any(|seen| seen == name) {
            return Err((
                "a `source_profile` leads back to where it began".to_owned(),
                None,
            ));
        }
        visited.push(name.to_owned());
        let sso = self.0.get(name).and_then(|profile| {
            let mut names = profile.keys();
            names.find(|name| name.starts_with("sso_") || *name == "login_session")
        });
        let Some(role) = get("role_arn") else {
            if let Some(token_file) = get("web_identity_token_file") {
                let _ = token_file;
                return Err((
                    "a `web_identity_token_file` without `role_arn`".to_owned(),
                    None,
                ));
            }
            if let Some(keys) = keys {
                return Ok(Some((keys, Vec::new())));
            }
            if let Some(program) = get("credential_process") {
                return Ok(Some((Source::Program(program.clone()), Vec::new())));
            }
            return match sso {
                Some(setting) => Err((
                    format!(
                        "the profile logs in by single sign-on (`{setting}`), which takes a person and a browser"
                    ),
                    Some(
                        "use a role or keys, or a profile with `credential_process = aws configure export-credentials --profile NAME`",
                    ),
                )),
                None => Ok(None),
            };
        };
        if get("mfa_serial").is_some() {
            return Err((
                "the role wants a code from a device (`mfa_serial`), and nobody is there"
                    .to_owned(),
                Some("let the role be assumed without one by the identity that conncheck has"),
            ));
        }
        let role = self.role(name, role)?;
        let source = (
            get("source_profile"),
            get("credential_source"),
            get("web_identity_token_file"),
        );
        let (source, mut roles) = match source {
            (None, None, Some(token_file)) => {
                let token_file = token_file.clone();
                return Ok(Some((Source::WebIdentity { token_file, role }, Vec::new())));
            }
            // Its own keys.
            (Some(own), None, None) if own.expose() == name => match keys {
                Some(keys) => (keys, Vec::new()),
                None => {
                    return Err((
                        "a profile that is its own `source_profile`, and has no keys".to_owned(),
                        None,
                    ));
                }
            },
            (Some(source), None, None) => {
                if !self.has(source.expose()) {
                    return Err((
                        "a `source_profile` that is not there".to_owned(),
                        Some("give its profile too: `[name]` with its keys"),
                    ));
                }
                self.source(source.expose(), visited)?.ok_or_else(|| {
                    (
                        "a `source_profile` that has neither keys nor a role".to_owned(),
                        None,
                    )
                })?
            }
            (None, Some(source), None) => {
                let source = match source.expose().to_ascii_lowercase().as_str() {
                    "environment" => Source::Environment,
                    "ec2instancemetadata" => Source::Instance,
                    "ecscontainer" => Source::Container,
                    _ => {
                        return Err((
                            "`credential_source` is none of `Environment`, `Ec2InstanceMetadata` and `EcsContainer`"
                                .to_owned(),
                            None,
                        ));
                    }
                };
                (source, Vec::new())
            }
            (None, None, None) => {
                return Err((
                    "a `role_arn`, and nothing that says who assumes it".to_owned(),
                    Some("add `source_profile`, `credential_source` or `web_identity_token_file`"),
                ));
            }
            _ => {
                return Err((
                    "more than one of `source_profile`, `credential_source` and `web_identity_token_file`"
                        .to_owned(),
                    Some("keep one of them"),
                ));
            }
        };
        roles.push(role);
        Ok(Some((source, roles)))
    }

    fn keys(&self, name: &str) -> Result<Option<Source>, Mistake> {
        let get = |setting| self.get(name, setting).cloned();
        let token = get("aws_session_token").or_else(|| get("aws_security_token"));
        match (get("aws_access_key_id"), get("aws_secret_access_key")) {
            (Some(access_key), Some(secret_key)) => Ok(Some(Source::Keys {
                access_key,
                secret_key,
                session_token: token,
            })),
            (None, None) => Ok(None),
            _ => Err((
                "one of `aws_access_key_id` and `aws_secret_access_key`, and not the other"
                    .to_owned(),
                None,
            )),
        }
    }

    fn role(&self, name: &str, arn: &Secret) -> Result<Role, Mistake> {
        let get = |setting| self.get(name, setting);
        let duration = match get("duration_seconds") {
            None => None,
            Some(text) => Some(
                text.expose()
                    .parse()
                    .map_err(|_| ("`duration_seconds` is not a number".to_owned(), None))?,
            ),
        };
        let session_name = get("role_session_name").map(|name| name.expose().to_owned());
        Role::new(
            arn.expose(),
            get("external_id").cloned(),
            session_name,
            duration,
        )
        .map_err(|what| (format!("`role_arn`: {what}"), None))
    }

    fn get(&self, profile: &str, setting: &str) -> Option<&Secret> {
        let value = self.0.get(profile)?.get(setting)?;
        Some(value).filter(|value| !value.is_empty())
    }
}

/// The profile that a section is, if it is one.
fn profile_name(section: &str, flavour: Flavour) -> Option<String> {
    let prefixed = section
        .strip_prefix("profile")
        .filter(|rest| rest.starts_with([' ', '\t']))
        .map(str::trim);
    match (flavour, prefixed) {
        (Flavour::Config | Flavour::Given, Some(name)) => Some(name.to_owned()),
        (Flavour::Config, None) if section == "default" => Some(section.to_owned()),
        // `[sso-session x]` and `[services x]`.
        (Flavour::Config, None) => None,
        (Flavour::Given, None) if section.contains([' ', '\t']) => None,
        (Flavour::Credentials | Flavour::Given, _) => Some(section.to_owned()),
    }
}

/// A comment behind a value has a blank before it.
fn without_comment(value: &str) -> &str {
    let starts = [" #", " ;", "\t#", "\t;"];
    let ends = starts.iter().filter_map(|start| value.find(start));
    match ends.min() {
        Some(end) => value.get(..end).unwrap_or(value),
        None => value,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::program::words;

    fn read(text: &str, flavour: Flavour) -> Result<Profiles, Mistake> {
        Profiles::read(&Secret::new(text), "the file", flavour)
    }

    /// How `profile` of a given text logs in, in one line.
    fn login(text: &str, profile: &str) -> String {
        let res = read(text, Flavour::Given).and_then(|profiles| profiles.login(profile));
        let login = match res {
            Ok(Some(login)) => login,
            Ok(None) => return "nothing".to_owned(),
            Err((message, _)) => return message,
        };
        let source = match &login.source {
            Source::Keys {
                access_key,
                secret_key,
                session_token,
            } => {
                let token = session_token.as_ref().map_or("-", Secret::expose);
                format!("{} {} {token}", access_key.expose(), secret_key.expose())
            }
            Source::WebIdentity { token_file, role } => {
                format!("{} as {}", token_file.expose(), role.arn)
            }
            Source::Program(command) => command.expose().to_owned(),
            Source::Environment => "environment".to_owned(),
            Source::Container => "container".to_owned(),
            Source::Instance => "instance".to_owned(),
        };
        let roles = login
            .roles
            .iter()
            .map(|role| format!(" -> {}", role.name()));
        format!("{source}{}", roles.collect::<String>())
    }

    const R: &str = "role_arn = arn:aws:iam::123456789012:role";

    #[test]
    fn a_profile_logs_in() {
        for (text, expected) in [
            (
                "[a]\naws_access_key_id=A\naws_secret_access_key = b=c \n".to_owned(),
                "A b=c -",
            ),
            (
                "\u{feff}# x\r\n[ a ]\r\nAWS_ACCESS_KEY_ID = A\r\naws_secret_access_key = B # old\r\naws_session_token = T#t\r\n".to_owned(),
                "A B T#t",
            ),
            (
                "[profile a]\ns3 =\n  aws_access_key_id = no\ncredential_process = \"/a b\" c\n".to_owned(),
                "\"/a b\" c",
            ),
            (format!("[a]\n{R}/x/One\nsource_profile=b\n[b]\naws_access_key_id=A\naws_secret_access_key=B"), "A B - -> One"),
            (format!("[a]\n{R}/One\nsource_profile=b\n[b]\n{R}/Two\nsource_profile = c\n[c]\n{R}/Three\ncredential_source=Ec2InstanceMetadata"), "instance -> Three -> Two -> One"),
            (format!("[a]\n{R}/One\nsource_profile=a\naws_access_key_id=A\naws_secret_access_key=B"), "A B - -> One"),
            (format!("[a]\n{R}/One\ncredential_source=EcsContainer"), "container -> One"),
            (format!("[a]\n{R}/One\ncredential_source=Environment"), "environment -> One"),
            (format!("[a]\n{R}/One\nweb_identity_token_file=/t"), "/t as arn:aws:iam::123456789012:role/One"),
            // The keys of whom a role leads to count, and not their own role.
            (format!("[a]\n{R}/One\nsource_profile=b\n[b]\n{R}/Two\nsource_profile=a\naws_access_key_id=A\naws_secret_access_key=B"), "A B - -> One"),
            ("[a]\nregion = x".to_owned(), "nothing"),
            ("[sso-session a]\nsso_region = x\n[b]".to_owned(), "nothing"),
        ] {
            assert_eq!(login(&text, "a"), expected, "{text}");
        }
    }

    #[test]
    fn mistakes_name_the_place_and_no_value() {
        for (text, expected) in [
            (
                "M4RK3R".to_owned(),
                "line 1 of the file: neither `[name]` nor `setting = value`",
            ),
            (
                "a = M4RK3R".to_owned(),
                "line 1 of the file: a setting before the first `[name]`",
            ),
            (
                "\n[M4RK3R\n".to_owned(),
                "line 2 of the file: a `[` without its `]`",
            ),
            (
                "[a]\naws_access_key_id = M4RK3R".to_owned(),
                "one of `aws_access_key_id` and `aws_secret_access_key`, and not the other",
            ),
            (
                "[a]\nsso_account_id = M4RK3R".to_owned(),
                "the profile logs in by single sign-on (`sso_account_id`), which takes a person and a browser",
            ),
            (
                format!("[a]\n{R}/One"),
                "a `role_arn`, and nothing that says who assumes it",
            ),
            (
                format!("[a]\n{R}/One\nsource_profile = M4RK3R\ncredential_source = Environment"),
                "more than one of `source_profile`, `credential_source` and `web_identity_token_file`",
            ),
            (
                format!("[a]\n{R}/One\nsource_profile = M4RK3R"),
                "a `source_profile` that is not there",
            ),
            (
                format!("[a]\n{R}/One\nsource_profile = b\n[b]\nregion = M4RK3R"),
                "a `source_profile` that has neither keys nor a role",
            ),
            (
                format!("[a]\n{R}/One\nsource_profile = a"),
                "a profile that is its own `source_profile`, and has no keys",
            ),
            (
                format!("[a]\n{R}/One\nsource_profile = b\n[b]\n{R}/Two\nsource_profile = a"),
                "a `source_profile` leads back to where it began",
            ),
            (
                format!("[a]\n{R}/One\ncredential_source = M4RK3R"),
                "`credential_source` is none of `Environment`, `Ec2InstanceMetadata` and `EcsContainer`",
            ),
            (
                format!("[a]\n{R}/One\nsource_profile = a\nmfa_serial = M4RK3R"),
                "the role wants a code from a device (`mfa_serial`), and nobody is there",
            ),
            (
                format!("[a]\n{R}/One\nsource_profile = a\nduration_seconds = M4RK3R"),
                "`duration_seconds` is not a number",
            ),
            (
                "[a]\nweb_identity_token_file = /M4RK3R".to_owned(),
                "a `web_identity_token_file` without `role_arn`",
            ),
        ] {
            assert_eq!(login(&text, "a"), expected, "{text}");
        }
        let bad = login("[a]\nrole_arn = M4RK3R\nsource_profile = a", "a");
        assert!(
            bad.starts_with("`role_arn`: ") && !bad.contains("M4RK3R"),
            "{bad}"
        );
    }

    #[test]
    fn the_two_files_are_one() {
        let config = "[default]\nregion = eu-west-1\naws_access_key_id = old\n[profile b]\nregion = x\n[c]\nregion = y";
        let credentials = "[default]\naws_access_key_id = A\naws_secret_access_key = B\n[d]";
        let both = read(config, Flavour::Config).unwrap();
        let both = both.and(read(credentials, Flavour::Credentials).unwrap());
        let login = both.login("default").unwrap().unwrap();
        assert_eq!(login.region.as_deref(), Some("eu-west-1"));
        assert!(
            matches!(&login.source, Source::Keys { access_key, .. } if access_key.expose() == "A")
        );
        assert_eq!(
            ["b", "c", "d"].map(|name| both.has(name)),
            [true, false, true]
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "([\\[\\]=#; \\na-z\"'\\\\]|\\PC){0,80}") {
            login(&text, "a");
            let _ = words(&text);
        }
    }
}
