//! What a definition says of its keys, in whichever field.

use std::fmt;

use conncheck_config::{Field, Secret, SecretKey};
use schemars::json_schema;
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor, value::MapAccessDeserializer};

use super::Role;
use crate::probe::{Access, Invalid};
use crate::schema::written;
use crate::sigv4::Keys;

/// A role: its ARN, or more about it.
#[derive(Debug)]
pub(crate) struct AssumeRole {
    role_arn: String,
    external_id: Option<Secret>,
    session_name: Option<String>,
    duration_seconds: Option<u32>,
}

written!(AssumeRole: {
    let arn = json_schema!({ "type": "string", "pattern": r"^\s*arn:[^:]+:iam::\d+:role/" });
    let text = json_schema!({ "type": "string" });
    json_schema!({ "anyOf": [arn, {
        "type": "object",
        "properties": {
            "roleARN": arn,
            "roleArn": arn,
            "externalID": text,
            "externalId": text,
            "sessionName": text,
            "durationSeconds": { "type": "integer", "minimum": 900, "maximum": 43200 },
        },
        "anyOf": [{ "required": ["roleARN"] }, { "required": ["roleArn"] }],
        "additionalProperties": false,
    }] })
});

impl<'de> Deserialize<'de> for AssumeRole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "camelCase")]
        struct Whole {
            #[serde(rename = "roleARN", alias = "roleArn")]
            role_arn: String,
            #[serde(rename = "externalID", alias = "externalId")]
            external_id: Option<Secret>,
            session_name: Option<String>,
            duration_seconds: Option<u32>,
        }

        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = AssumeRole;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the ARN of a role, or a mapping with `roleARN`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<AssumeRole, E> {
                Ok(AssumeRole {
                    role_arn: text.to_owned(),
                    external_id: None,
                    session_name: None,
                    duration_seconds: None,
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<AssumeRole, A::Error> {
                let whole = Whole::deserialize(MapAccessDeserializer::new(map))?;
                Ok(AssumeRole {
                    role_arn: whole.role_arn,
                    external_id: whole.external_id,
                    session_name: whole.session_name,
                    duration_seconds: whole.duration_seconds,
                })
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// What the properties say.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) access_key: Option<Secret>,
    pub(crate) secret_key: Option<Secret>,
    pub(crate) session_token: Option<Secret>,
    pub(crate) profile: Option<String>,
    pub(crate) role: Option<AssumeRole>,
    /// The region, as the definition or the host of its URL names it.
    pub(crate) region: Option<String>,
}

/// What a definition says of its keys.
#[derive(Default)]
pub(crate) struct Given {
    pub(super) keys: Option<Keys>,
    /// The text of a credentials file, and where it stands.
    pub(super) file: Option<(Field, Secret)>,
    pub(super) profile: Option<String>,
    pub(super) role: Option<Role>,
    pub(super) region: Option<String>,
}

/// The keys of a whole secret, as they are called in the field.
pub(crate) const ACCESS_KEY: SecretKey = SecretKey(&[
    "AWS_ACCESS_KEY_ID",
    "aws_access_key_id",
    "accessKeyId",
    "accessKey",
    "access-key",
]);
pub(crate) const SECRET_KEY: SecretKey = SecretKey(&[
    "AWS_SECRET_ACCESS_KEY",
    "aws_secret_access_key",
    "secretAccessKey",
    "secretKey",
    "secret-access-key",
    "secret-key",
]);
pub(crate) const SESSION_TOKEN: SecretKey = SecretKey(&[
    "AWS_SESSION_TOKEN",
    "aws_session_token",
    "sessionToken",
    "session-token",
]);
/// The text of a credentials file.
pub(crate) const CREDENTIALS: SecretKey = SecretKey(&["credentials"]);

impl Given {
    /// Reads secret, `spec`, properties and the user-info of the URL.
    pub(crate) fn read(
        access: &Access<'_>,
        written: Written,
        username: Option<&str>,
        password: Option<&str>,
    ) -> Result<Self, Invalid> {
        let keys = Halves::of(access, &written, username, password)?;
        let (keys, key) = keys.together(access)?;
        let file = match key {
            Some(key) => Some(key),
            // A secret with keys may have a file beside them, for others.
            None if keys.is_none() => access.resolved().own_key(CREDENTIALS).cloned(),
            None => None,
        };
        let role = written.role.map(|role| {
            Role::new(
                &role.role_arn,
                role.external_id,
                role.session_name,
                role.duration_seconds,
            )
        });
        let role = role
            .transpose()
            .map_err(|what| access.invalid(Field::Properties, format!("`assumeRole`: {what}")))?;
        Ok(Self {
            keys,
            file: file.map(|text| (Field::SecretRef, text)),
            profile: written.profile,
            role,
            region: written.region,
        })
    }
}

/// Where the half of the keys stands that cannot be sent.
fn place_of(access: &Access<'_>, what: &str) -> Field {
    let own = match what {
        _ if what.contains("access key") => Field::Username,
        _ if what.contains("secret key") => Field::Password,
        _ => Field::Properties,
    };
    let fields = [own, Field::SecretRef, Field::Properties];
    let given = |field: &Field| access.resolved().is_in_spec(*field);
    fields.into_iter().find(given).unwrap_or(own)
}

/// Both halves of the keys, wherever each stands.
struct Halves {
    access_key: Option<Secret>,
    secret_key: Option<Secret>,
    session_token: Option<Secret>,
    /// The secret's single key, if it is not one of them.
    key: Option<Secret>,
}

impl Halves {
    fn of(
        access: &Access<'_>,
        written: &Written,
        username: Option<&str>,
        password: Option<&str>,
    ) -> Result<Self, Invalid> {
        let resolved = access.resolved();
        let own = |key: SecretKey| resolved.own_key(key).cloned();
        // The secret wins over `spec`, and that over the URL.
        let one = |secret: Option<Secret>,
                   field: &Option<Secret>,
                   property: &Option<Secret>,
                   names: [&str; 2]| {
            match (secret, field, property) {
                (None, Some(_), Some(_)) => Err(access
                    .invalid(
                        Field::Properties,
                        format!("both `{}` and the property `{}`", names[0], names[1]),
                    )
                    .hint("they mean the same; keep one of them")),
                (secret, field, property) => Ok(secret
                    .or_else(|| field.clone())
                    .or_else(|| property.clone())),
            }
        };
        let access_key = one(
            own(ACCESS_KEY),
            &resolved.username,
            &written.access_key,
            ["username", "accessKey"],
        )?
        .or_else(|| username.map(Secret::new));
        let mut secret_key = one(
            own(SECRET_KEY),
            &resolved.password,
            &written.secret_key,
            ["password", "secretKey"],
        )?
        .or_else(|| password.map(Secret::new));
        let mut key = resolved.key.clone();
        // Beside an access key it is the other half, which no credentials file looks like.
        if access_key.is_some() && !key.as_ref().is_some_and(|key| key.expose().contains('[')) {
            secret_key = key.take().or(secret_key);
        }
        Ok(Self {
            access_key,
            secret_key,
            session_token: own(SESSION_TOKEN).or_else(|| written.session_token.clone()),
            key,
        })
    }

    fn together(self, access: &Access<'_>) -> Result<(Option<Keys>, Option<Secret>), Invalid> {
        let (field, message, hint) = match (&self.access_key, &self.secret_key) {
            (Some(access_key), Some(secret_key)) => {
                let keys = Keys::new(access_key, secret_key, self.session_token.as_ref())
                    .map_err(|what| access.invalid(place_of(access, &what), what))?;
                return Ok((Some(keys), self.key));
            }
            (Some(_), None) => (
                Field::Username,
                "an access key without its secret key",
                "give `password` or a `secretRef`",
            ),
            (None, Some(_)) => (
                Field::Password,
                "a secret key without its access key",
                "give the access key as `username`",
            ),
            (None, None) if self.session_token.is_some() => (
                Field::Properties,
                "a `sessionToken` without its keys",
                "give access key and secret key too: `username` and `password`",
            ),
            (None, None) => return Ok((None, self.key)),
        };
        Err(access.invalid(field, message).hint(hint))
    }
}
