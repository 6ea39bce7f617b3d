//! An HTTP server as a connection names it: where it is, and who we are there.
//!
//! What every type over HTTP begins with. The types differ in what they ask and in what they make of
//! the answer.

use conncheck_config::{Field, Secret};
use http::{HeaderMap, StatusCode};
use url::Url;

use crate::attempt::Attempt;
use crate::cause::Cause;
use crate::http::{Client, Request, Response, endpoint_of, target};
use crate::login::{Login, LoginSettings};
use crate::outcome::{Failure, Phase};
use crate::probe::{Access, Invalid};
use crate::tls::TlsOptions;

pub(crate) struct Site {
    client: Client,
    /// Without user-info, as it can be sent.
    url: Url,
    login: Login,
}

impl Site {
    /// Reads a URL, and what `spec`, its secret and the settings say of the login there.
    pub(crate) fn new(
        access: &Access<'_>,
        url: &str,
        tls: TlsOptions,
        login: LoginSettings,
    ) -> Result<Self, Invalid> {
        let (location, url) = target(url)
            .map_err(|error| access.invalid(Field::Url, format!("bad `url`: {error}")))?;
        Ok(Self {
            client: Client::new(access, &url, tls)?,
            login: Login::new(*access, &location, login)?,
            url,
        })
    }

    /// `scheme://host:port` and nothing else.
    pub(crate) fn endpoint(&self) -> String {
        endpoint_of(&self.url)
    }

    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// The login in the form in which it is sent: a peer may echo it.
    pub(crate) fn secrets(&self) -> &[Secret] {
        self.login.secrets()
    }

    /// Whether we say who we are, by `Authorization`.
    pub(crate) fn has_login(&self) -> bool {
        self.login.sends_authorization()
    }

    /// The headers of a request that say who we are. Asks for a token where one is wanted.
    pub(crate) async fn log_in(&self, attempt: &mut Attempt) -> Result<HeaderMap, Failure> {
        self.login.headers(attempt, &self.client).await
    }

    /// Signs a request as it will be sent, where that is how we say who we are.
    pub(crate) async fn sign(
        &self,
        attempt: &mut Attempt,
        request: &mut Request,
    ) -> Result<(), Failure> {
        self.login.sign(attempt, request).await
    }

    /// One request and its answer, whatever that is. Nothing is followed.
    pub(crate) async fn send(
        &self,
        attempt: &mut Attempt,
        request: &Request,
    ) -> Result<Response, Failure> {
        self.client.send(attempt, Phase::Request, request).await
    }

    /// A request, and where redirects lead from it. An answer that `is_wanted` is the last one.
    pub(crate) async fn follow(
        &self,
        attempt: &mut Attempt,
        request: Request,
        is_wanted: impl Fn(StatusCode) -> bool,
    ) -> Result<Response, Failure> {
        self.client
            .follow(attempt, Phase::Request, request, is_wanted)
            .await
    }

    /// What it means that this status came where `expected` was expected.
    pub(crate) fn unexpected(&self, response: &Response, expected: &str) -> Cause {
        self.login.explain(response.unexpected(expected), response)
    }
}
