//! Connection to target: its type found, its secrets read, its probe built.
//!
//! What is wrong with a definition is found when it is loaded, even while its secrets are missing.
//! A target whose secrets are missing runs all the same: each attempt reads them again, and its
//! outcome has the reason `secret` until they are there. Secrets are read for each attempt, so
//! rotation needs no restart; the probe is built anew only when something came differently.

use std::borrow::Cow;
use std::fmt::Display;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conncheck_config::{ConfigError, Connection, Secret, Spanned, closest};
use conncheck_probes::types::{self, TypeInfo};
use conncheck_probes::{Deadline, Env, Failure, Files, Invalid, Outcome, Probe, Reason};
use tokio::time::Instant;

use crate::cli::Rules;
use crate::duration::{Interval, Timeout};
use crate::redact::Redactor;
use crate::schedule::{Attempt, Attempted};
use crate::secrets::{Asked, Asking, Secrets};
use crate::state::{Facts, Plan};

/// What all targets share.
#[derive(Clone)]
pub struct Context {
    pub secrets: Arc<Secrets>,
    pub env: Env,
    pub redactor: Arc<Redactor>,
}

/// Something that can be attempted.
pub struct Target {
    facts: Arc<Facts>,
    revision: u64,
    connection: Arc<Connection>,
    ty: &'static TypeInfo,
    context: Context,
    /// Held while its secrets are read, possibly by a thread that hangs.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// The probe that was built last. A standard mutex: held to take it out or put it in.
    ready: Mutex<Option<Arc<Ready>>>,
}

/// A probe, and what it was built from.
struct Ready {
    probe: Arc<dyn Probe>,
    endpoint: Arc<str>,
    asked: Asked,
}

/// A definition whose type and plan are known.
pub struct Definition {
    pub connection: Connection,
    pub ty: &'static TypeInfo,
    pub plan: Plan,
}

impl Definition {
    /// Finds the type and the plan. All mistakes at once.
    pub fn read(connection: Connection, rules: &Rules) -> Result<Self, Vec<ConfigError>> {
        let ty = type_of(&connection)?;
        let plan = plan_of(&connection, ty, rules);
        match (plan, connection.of_type(ty.name)) {
            (Ok(plan), Ok(connection)) => Ok(Self {
                connection,
                ty,
                plan,
            }),
            (plan, connection) => {
                let errors = plan.err().into_iter().chain(connection.err());
                Err(errors.flatten().collect())
            }
        }
    }
}

/// A target that runs, and what its owner should know of it.
pub struct Loaded {
    pub target: Arc<Target>,
    /// Secrets that are missing or of no use so far.
    pub unresolved: Vec<ConfigError>,
}

impl Target {
    /// Reads the secrets and builds the probe, as far as that can be done `within` so long. `text` is
    /// a hash of the text that the definition stands in.
    pub async fn load(
        definition: Definition,
        text: u64,
        within: Duration,
        context: &Context,
    ) -> Result<Loaded, Vec<ConfigError>> {
        let Definition {
            connection,
            ty,
            plan,
        } = definition;
        let connection = Arc::new(connection);
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        let deadline = Instant::now() + plan.timeout.min(within);
        let secrets = &context.secrets;
        let look = match secrets.at_hand(|asking| first_look(&connection, ty, asking)) {
            Some(look) => Some(look),
            None => {
                let connection = Arc::clone(&connection);
                let work =
                    move |secrets: &Secrets| first_look(&connection, ty, Asking::new(secrets));
                let read = secrets.reading(&turn, deadline, work).await;
                read.ok().flatten()
            }
        };
        let FirstLook {
            res,
            endpoint,
            unresolved,
            secrets,
        } = look.unwrap_or_else(|| hanging_look(&connection, ty));
        context.redactor.add(&secrets);
        let errors = |mistakes| errors_of(&connection, ty, mistakes);
        let ready = res.map_err(errors)?.map(Arc::new);
        let facts = Arc::new(Facts {
            id: connection.id.clone(),
            type_name: ty.name,
            reasons: ty.reasons,
            plan,
            endpoint: (ready.as_ref().map(|ready| Arc::clone(&ready.endpoint))).or(endpoint),
            labels: connection.labels.clone(),
        });
        context.redactor.keep(facts.endpoint.as_deref());
        let unresolved = errors(unresolved);
        let target = Arc::new(Self {
            revision: revision(text, &plan),
            facts,
            connection,
            ty,
            context: context.clone(),
            turn,
            ready: Mutex::new(ready),
        });
        Ok(Loaded { target, unresolved })
    }

    /// Whether a definition that is not selected is right, as far as that shows without reading a
    /// file: what nobody asked for may lie on a mount that hangs.
    pub fn judge(definition: &Definition, context: &Context) -> Result<(), Vec<ConfigError>> {
        let Definition { connection, ty, .. } = definition;
        let partly = |asking: Asking<'_>| {
            let look = judge_partly(connection, ty, &asking, Vec::new());
            (!asking.has_missed()).then_some(look)
        };
        let secrets = &context.secrets;
        let look = secrets
            .at_hand(|asking| first_look(connection, ty, asking))
            .or_else(|| secrets.at_hand(partly))
            .unwrap_or_else(|| hanging_look(connection, ty));
        context.redactor.add(&look.secrets);
        look.res
            .map(drop)
            .map_err(|mistakes| errors_of(connection, ty, mistakes))
    }

    /// The probe as the secrets are now.
    async fn probe(&self, deadline: Instant) -> Result<Arc<Ready>, Failure> {
        let last = self.lock().clone();
        if let Some(ready) = &last
            && ready.asked.is_nothing()
        {
            return Ok(Arc::clone(ready));
        }
        let work = {
            let (connection, ty) = (Arc::clone(&self.connection), self.ty);
            let redactor = Arc::clone(&self.context.redactor);
            move |secrets: &Secrets| match last {
                Some(ready) if ready.asked.holds(secrets) => Ok(ready),
                _ => build(&connection, ty, secrets, &redactor).map(Arc::new),
            }
        };
        let res = self
            .context
            .secrets
            .reading(&self.turn, deadline, work)
            .await;
        let ready = res.unwrap_or_else(|_| {
            let waited = humantime::format_duration(self.facts.plan.timeout);
            let message = format!("reading its secrets took longer than {waited}");
            let hint = "does the folder or mount that they are read from hang?";
            Err(secret_failure(message, Some(hint.to_owned())))
        })?;
        *self.lock() = Some(Arc::clone(&ready));
        Ok(ready)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Ready>>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt for Target {
    fn facts(&self) -> &Arc<Facts> {
        &self.facts
    }

    fn revision(&self) -> u64 {
        self.revision
    }

    /// One deadline holds reading the secrets and the probe.
    async fn attempt(&self) -> Attempted {
        let started_at = jiff::Timestamp::now();
        let started = Instant::now();
        let deadline = Deadline::after(self.facts.plan.timeout);
        match self.probe(deadline.at()).await {
            Ok(ready) => Attempted {
                endpoint: Some(Arc::clone(&ready.endpoint)),
                outcome: conncheck_probes::run(&ready.probe, deadline, &self.context.env).await,
            },
            Err(failure) => {
                let mut outcome = Outcome::failed_before_start(failure);
                outcome.started_at = started_at;
                outcome.duration = started.elapsed();
                Attempted {
                    endpoint: self.facts.endpoint.clone(),
                    outcome,
                }
            }
        }
    }
}

/// What could be found out about a definition when it was loaded.
struct FirstLook {
    /// The probe; nothing while secrets are missing; or mistakes.
    res: Result<Option<Ready>, Vec<Invalid>>,
    /// Where it goes, where that is known without any secret.
    endpoint: Option<Arc<str>>,
    unresolved: Vec<Invalid>,
    secrets: Vec<Secret>,
}

/// Builds the probe, or finds out whether secrets or the definition are to blame. Nothing if
/// `asking` would have had to block for that and may not.
fn first_look(connection: &Connection, ty: &TypeInfo, asking: Asking<'_>) -> Option<FirstLook> {
    let resolved = match ty.resolve(connection, &asking) {
        _ if asking.has_missed() => return None,
        Ok(resolved) => resolved,
        Err(unresolved) => {
            let unresolved = unresolved.into_iter().map(Invalid::unresolved).collect();
            let look = judge_partly(connection, ty, &asking, unresolved);
            return (!asking.has_missed()).then_some(look);
        }
    };
    let mistakes = match ty.build(&resolved, &asking) {
        _ if asking.has_missed() => return None,
        Ok(probe) => {
            return Some(FirstLook {
                res: Ok(Some(Ready::new(probe, asking.asked()))),
                endpoint: None,
                unresolved: Vec::new(),
                secrets: resolved.secrets,
            });
        }
        Err(mistakes) => mistakes,
    };
    // What came from outside may come differently the next time, and does not make the definition
    // wrong; only what is wrong without it does.
    let mut look = match asking.went_outside() {
        true => judge_partly(connection, ty, &asking, mistakes),
        false => FirstLook {
            res: Err(mistakes),
            endpoint: None,
            unresolved: Vec::new(),
            secrets: Vec::new(),
        },
    };
    look.secrets.extend(resolved.secrets);
    (!asking.has_missed()).then_some(look)
}

/// Looks at what is known without any secret.
fn judge_partly(
    connection: &Connection,
    ty: &TypeInfo,
    files: &dyn Files,
    unresolved: Vec<Invalid>,
) -> FirstLook {
    let partial = ty.resolve_partly(connection);
    let (endpoint, mut mistakes) = match partial.url_is_known {
        true => match ty.build(&partial.resolved, files) {
            Ok(probe) => {
                let endpoint = Some(probe.endpoint()).filter(|endpoint| !endpoint.is_empty());
                (endpoint.map(Arc::from), Vec::new())
            }
            Err(mistakes) => (None, mistakes),
        },
        false => (None, ty.check_settings(&partial.resolved)),
    };
    // What is wrong with a placeholder says nothing about the value.
    mistakes.retain(|mistake| !partial.is_unknown_at(&mistake.place));
    FirstLook {
        res: match mistakes.is_empty() {
            true => Ok(None),
            false => Err(mistakes),
        },
        endpoint,
        unresolved,
        secrets: partial.resolved.secrets,
    }
}

/// What can be said while the reading of secrets hangs: nothing is read here.
fn hanging_look(connection: &Connection, ty: &TypeInfo) -> FirstLook {
    let partial = ty.resolve_partly(connection);
    let mistakes = ty.check_settings(&partial.resolved);
    FirstLook {
        res: match mistakes.is_empty() {
            true => Ok(None),
            false => Err(mistakes),
        },
        endpoint: None,
        unresolved: vec![Invalid {
            place: connection.place.clone(),
            message: "reading its secrets did not end".to_owned(),
            hint: Some("does the folder or mount that they are read from hang?".into()),
        }],
        secrets: partial.resolved.secrets,
    }
}

/// Builds the probe for an attempt: whatever is wrong now came with a secret. Blocks.
fn build(
    connection: &Connection,
    ty: &TypeInfo,
    secrets: &Secrets,
    redactor: &Redactor,
) -> Result<Ready, Failure> {
    let asking = Asking::new(secrets);
    let first_of = |mistakes| first_of(connection, mistakes);
    let resolved = ty.resolve(connection, &asking).map_err(|unresolved| {
        first_of(unresolved.into_iter().map(Invalid::unresolved).collect())
    })?;
    redactor.add(&resolved.secrets);
    let probe = ty.build(&resolved, &asking).map_err(first_of)?;
    Ok(Ready::new(probe, asking.asked()))
}

impl Ready {
    fn new(probe: Arc<dyn Probe>, asked: Asked) -> Self {
        Self {
            endpoint: probe.endpoint().into(),
            probe,
            asked,
        }
    }
}

/// One failure has one message, so the first mistake speaks for the others.
fn first_of(connection: &Connection, mistakes: Vec<Invalid>) -> Failure {
    let others = mistakes.len().saturating_sub(1);
    let first = mistakes.into_iter().next();
    let (mut message, hint) = match first {
        Some(first) => (
            connection.in_own_words(first.message),
            first.hint.map(|hint| connection.in_own_words(hint)),
        ),
        None => ("a value is missing".to_owned(), None),
    };
    if others > 0 {
        message = format!("{message} (and {others} more)");
    }
    secret_failure(message, hint)
}

fn secret_failure(message: String, hint: Option<String>) -> Failure {
    Failure {
        reason: Reason::Secret,
        phase: None,
        code: None,
        message,
        hint: hint.map(Cow::Owned),
    }
}

fn errors_of(connection: &Connection, ty: &TypeInfo, mistakes: Vec<Invalid>) -> Vec<ConfigError> {
    let error = |invalid: Invalid| {
        connection.error_of_type(ty.name, invalid.place, invalid.message, invalid.hint)
    };
    mistakes.into_iter().map(error).collect()
}

/// The type that the owner wrote, or that the URL's scheme says.
pub(crate) fn type_of(connection: &Connection) -> Result<&'static TypeInfo, Vec<ConfigError>> {
    let find = |name: &Spanned<String>| {
        types::find(&name.value).map_err(|unknown| {
            let mut error =
                connection.error(name.place.clone(), unknown.message, Some(unknown.hint));
            error.type_name = None;
            vec![error]
        })
    };
    match (&connection.type_name, &connection.block) {
        (Some(name), None) | (None, Some(name)) => return find(name),
        (Some(name), Some(block)) => {
            let (ty, of_block) = (find(name)?, find(block)?);
            if ty.name == of_block.name {
                return Ok(ty);
            }
            let message = format!(
                "the `type` is `{}`, and the block is one of `{}`",
                ty.name, of_block.name
            );
            let hint = "leave `type` out: the block says what it is";
            return Err(vec![connection.error(
                name.place.clone(),
                message,
                Some(hint.to_owned()),
            )]);
        }
        (None, None) => {}
    }
    let scheme = connection.url_scheme();
    if let Some(ty) = scheme.as_deref().and_then(types::by_scheme) {
        return Ok(ty);
    }
    let message = match scheme {
        Some(scheme) => format!("there is no `type`, and none has URLs with `{scheme}://`"),
        None => "there is no `type`, and no `url` that would tell".to_owned(),
    };
    let names: Vec<_> = types::all().iter().map(|ty| ty.name).collect();
    let hint = format!("set `spec.type` to one of: {}", names.join(", "));
    Err(vec![connection.error(
        connection.place.clone(),
        message,
        Some(hint),
    )])
}

/// The annotations that we know; all others of this prefix are mistakes.
pub(crate) const ANNOTATIONS: [&str; 3] = [
    "conncheck/interval",
    "conncheck/timeout",
    "conncheck/paused",
];

/// Annotations over overrides over defaults.
pub(crate) fn plan_of(
    connection: &Connection,
    ty: &TypeInfo,
    rules: &Rules,
) -> Result<Plan, Vec<ConfigError>> {
    let mut errors = Vec::new();
    for (name, written) in &connection.annotations {
        if name.starts_with("conncheck/") && !ANNOTATIONS.contains(&name.as_str()) {
            let hint = match closest(name, ANNOTATIONS) {
                Some(close) => format!("did you mean `{close}`?"),
                None => format!("known are: {}", ANNOTATIONS.join(", ")),
            };
            let message = format!("unknown annotation `{name}`");
            errors.push(connection.error(written.place.clone(), message, Some(hint)));
        }
    }
    let annotations = &connection.annotations;
    let mut annotated = Annotated {
        connection,
        errors: &mut errors,
    };
    let interval = annotated.read::<Interval>(annotations.get("conncheck/interval"));
    let timeout = annotated.read::<Timeout>(annotations.get("conncheck/timeout"));
    let paused = annotated.read::<bool>(annotations.get("conncheck/paused"));
    if !errors.is_empty() {
        for error in &mut errors {
            error.type_name = Some(ty.name.to_owned());
        }
        return Err(errors);
    }
    let matching = || {
        let overrides = rules.overrides.iter();
        overrides.filter(|rule| rule.matches.takes(connection, ty))
    };
    let interval = interval.or_else(|| matching().find_map(|rule| rule.interval));
    let timeout = timeout.or_else(|| matching().find_map(|rule| rule.timeout));
    let paused = paused.or_else(|| matching().find_map(|rule| rule.paused));
    let rise = matching().find_map(|rule| rule.rise);
    let fall = matching().find_map(|rule| rule.fall);
    let interval = interval.map_or(rules.interval, |interval| interval.0);
    let timeout = timeout.map(|timeout| timeout.0).or(rules.timeout);
    Ok(Plan {
        interval,
        timeout: timeout.unwrap_or(interval.min(DEFAULT_TIMEOUT)),
        rise: rise.map_or(rules.rise, |rise| rise.0),
        fall: fall.map_or(rules.fall, |fall| fall.0),
        paused: paused.unwrap_or(false),
    })
}

/// A timeout that nobody chose is also never longer than the interval.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

struct Annotated<'a> {
    connection: &'a Connection,
    errors: &'a mut Vec<ConfigError>,
}

impl Annotated<'_> {
    fn read<T: FromStr<Err: Display>>(&mut self, written: Option<&Spanned<String>>) -> Option<T> {
        let Spanned { value, place } = written?;
        let res = value.trim().parse();
        let note = |err: &T::Err| {
            let err = self.connection.error(place.clone(), err.to_string(), None);
            self.errors.push(err);
        };
        res.inspect_err(note).ok()
    }
}

/// Tells a definition from another of the same name: by the text that it stands in, so a change
/// elsewhere in its file makes it another, too. That costs it nothing: it goes on in step and
/// keeps its totals.
fn revision(text: u64, plan: &Plan) -> u64 {
    let Plan {
        interval,
        timeout,
        rise,
        fall,
        paused,
    } = plan;
    let mut hasher = DefaultHasher::new();
    (text, interval, timeout, rise, fall, paused).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use conncheck_config::{Loader, Trust};
    use conncheck_probes::ResolverChoice;

    use super::*;
    use crate::cli::Options;

    /// Definitions in a file of their own, with secrets in a folder beside it and a settings file.
    struct Bench {
        dir: tempfile::TempDir,
        rules: Rules,
        context: Context,
    }

    impl Bench {
        fn new(settings: &str) -> Self {
            conncheck_probes::install_crypto_provider();
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("conncheck.yaml");
            fs::write(&file, format!("connections: [x]\n{settings}")).unwrap();
            let args = ["conncheck".into(), "--config".into(), file.into()];
            let options = Options::read(args).unwrap();
            let secrets_dir = dir.path().join("secrets");
            let secrets = Secrets::new(Default::default(), Some(secrets_dir), None);
            let context = Context {
                secrets: Arc::new(secrets),
                env: Env::new(&ResolverChoice::System).unwrap(),
                redactor: Arc::default(),
            };
            Self {
                dir,
                rules: options.rules,
                context,
            }
        }

        fn secret(&self, key: &str, text: &str) {
            let dir = self.dir.path().join("secrets/default/cache");
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(key), text).unwrap();
        }

        fn definition(&self, spec: &str) -> Definition {
            Definition::read(connection("{name: cache}", spec), &self.rules).unwrap()
        }

        fn judge(&self, spec: &str) -> Result<(), String> {
            let res = Target::judge(&self.definition(spec), &self.context);
            res.map_err(|errors| errors.iter().map(ToString::to_string).collect())
        }

        async fn load(&self, spec: &str) -> Result<Loaded, String> {
            let all = |errors: Vec<ConfigError>| {
                let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
                errors
                    .join("\n")
                    .replace(&*self.dir.path().to_string_lossy(), "TMP")
            };
            let definition = Definition::read(connection("{name: cache}", spec), &self.rules);
            let definition = definition.map_err(all)?;
            Target::load(definition, 0, Duration::from_secs(30), &self.context)
                .await
                .map_err(all)
        }
    }

    fn connection(metadata: &str, spec: &str) -> Connection {
        let head = "apiVersion: mission-control.flanksource.com/v1\nkind: Connection";
        let text = format!("{head}\nmetadata: {metadata}\nspec: {spec}\n");
        let mut loader = Loader::default();
        loader.add("c.yaml", &text, Trust::Local);
        let mut loaded = loader.finish();
        assert!(loaded.errors.is_empty(), "{:?}", loaded.errors);
        loaded.connections.remove(0)
    }

    /// What the plan of a redis connection `prod/cache` with `tier: cache` is.
    #[track_caller]
    fn check_plan(settings: &str, annotations: &str, expected: &str) {
        let bench = Bench::new(settings);
        let metadata = format!("{{name: cache, namespace: prod, annotations: {{{annotations}}}}}");
        let spec = "{type: redis, url: 'redis://h', labels: {tier: cache}}";
        let shown = match Definition::read(connection(&metadata, spec), &bench.rules) {
            Ok(Definition { plan, .. }) => {
                let paused = if plan.paused { " paused" } else { "" };
                let Plan {
                    interval,
                    timeout,
                    rise,
                    fall,
                    ..
                } = plan;
                format!("{interval:?} {timeout:?} {rise} {fall}{paused}")
            }
            Err(errors) => errors
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("\n"),
        };
        assert_eq!(shown, expected);
    }

    #[test]
    fn annotations_beat_overrides_and_these_the_defaults() {
        check_plan("", "", "30s 10s 1 1");
        check_plan(
            "defaults: {interval: 1m, timeout: 2s, rise: 2, fall: 3}",
            "",
            "60s 2s 2 3",
        );
        let overrides = "defaults: {interval: 1m, fall: 9}\n\
                         overrides:\n\
                         - {match: {type: postgres}, interval: 7s}\n\
                         - {match: {type: valkey, labels: {tier: cache}}, fall: 3}\n\
                         - {match: {name: 'prod/c*', namespace: pr*}, interval: 15s, fall: 4}\n\
                         - {match: {labels: {tier: web}}, rise: 5}\n\
                         - {paused: true}\n";
        let overrides = match types::find("postgres") {
            Ok(_) => overrides.to_owned(),
            Err(_) => overrides.replace("type: postgres", "name: nope"),
        };
        check_plan(&overrides, "", "15s 10s 1 3 paused");
        check_plan(
            &overrides,
            "conncheck/interval: 5s, conncheck/paused: 'false'",
            "5s 5s 1 3",
        );
    }

    #[test]
    fn only_a_timeout_that_nobody_chose_is_cut_to_the_interval() {
        check_plan("defaults: {interval: 4s}", "", "4s 4s 1 1");
        check_plan("defaults: {interval: 4s, timeout: 20s}", "", "4s 20s 1 1");
        check_plan(
            "",
            "conncheck/interval: 4s, conncheck/timeout: 20s",
            "4s 20s 1 1",
        );
    }

    #[test]
    fn a_mistake_in_an_annotation_is_located() {
        check_plan(
            "",
            "conncheck/intervall: 3s, conncheck/timeout: 0s, conncheck/paused: maybe, other/x: y",
            "c.yaml:3:77: redis connection `prod/cache`: unknown annotation `conncheck/intervall`\n\
             hint: did you mean `conncheck/interval`?\n\
             c.yaml:3:100: redis connection `prod/cache`: `0s` is not between 1ms and 1h, as a \
             timeout must be\n\
             c.yaml:3:122: redis connection `prod/cache`: provided string was not `true` or `false`",
        );
    }

    #[tokio::test]
    async fn the_scheme_tells_the_type_where_none_is_written() {
        let bench = Bench::new("");
        let loaded = bench.load("{url: 'rediss://h'}").await.ok().unwrap();
        assert_eq!(loaded.target.facts.type_name, "redis");
        assert_eq!(
            loaded.target.facts.endpoint.as_deref(),
            Some("rediss://h:6379")
        );
        let refused = bench.load("{url: 'gopher://h'}").await.err().unwrap();
        assert!(refused.contains("there is no `type`, and none has URLs with `gopher://`"));
        let refused = bench
            .load("{type: redsi, url: 'redis://h'}")
            .await
            .err()
            .unwrap();
        assert!(refused.contains("did you mean `redis`?"), "{refused}");
    }

    const SECRET: &str = "{type: redis, url: 'redis://127.0.0.1:1', secretRef: {name: cache}}";

    #[tokio::test]
    async fn a_missing_secret_is_an_outcome_until_it_is_there() {
        let bench = Bench::new("");
        let Loaded { target, unresolved } = bench.load(SECRET).await.ok().unwrap();
        assert_eq!(unresolved.len(), 1);
        let failure = target.attempt().await.outcome.result.unwrap_err();
        assert_eq!((failure.reason, failure.phase), (Reason::Secret, None));
        bench.secret("password", "hunter2!");
        let attempted = target.attempt().await;
        let failure = attempted.outcome.result.unwrap_err();
        assert_eq!(failure.reason, Reason::ConnectRefused);
        assert_eq!(attempted.endpoint.as_deref(), Some("redis://127.0.0.1:1"));
        assert_eq!(bench.context.redactor.redact("hunter2!"), "[redacted]");
    }

    /// Neither while another secret is missing nor while nothing is read.
    #[tokio::test]
    async fn a_secret_is_in_no_mistake() {
        let bench = Bench::new("");
        let spec = "{type: smtp, url: 'smtp://h?$(password)=x', username: 'secret://nope/key', \
                    password: hunter2hunter2}";
        let said = bench.load(spec).await.err().unwrap();
        assert!(said.contains("unknown option `[redacted]`"), "{said}");
        let said = bench.judge(spec).unwrap_err();
        assert!(said.contains("unknown option `[redacted]`"), "{said}");
    }

    /// What lies in a file is not read for that, and all else is.
    #[tokio::test]
    async fn what_is_not_selected_is_judged() {
        let bench = Bench::new("");
        let password = "password: 'file:///nowhere'";
        let said = bench.judge(&format!(
            "{{type: redis, url: 'redis://h:port', {password}}}"
        ));
        assert!(said.clone().unwrap_err().contains("port"), "{said:?}");
        let well = bench.judge(&format!("{{type: redis, url: 'redis://h', {password}}}"));
        assert_eq!(well, Ok(()));
    }

    #[tokio::test]
    async fn a_mistake_is_found_while_the_secret_is_missing() {
        let bench = Bench::new("");
        let spec = SECRET.replace("secretRef", "properties: {databse: 3}, secretRef");
        let refused = bench.load(&spec).await.err().unwrap();
        assert!(refused.contains("redis connection `cache`: unknown property `databse`"));
    }

    #[tokio::test]
    async fn the_probe_is_built_anew_only_when_a_secret_changes() {
        let bench = Bench::new("");
        bench.secret("password", "one!");
        let target = bench.load(SECRET).await.ok().unwrap().target;
        let deadline = || Instant::now() + Duration::from_secs(5);
        let first = target.probe(deadline()).await.ok().unwrap();
        let again = target.probe(deadline()).await.ok().unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        bench.secret("password", "two!");
        let changed = target.probe(deadline()).await.ok().unwrap();
        assert!(!Arc::ptr_eq(&first, &changed));
    }

    #[tokio::test]
    async fn a_secret_of_no_use_does_not_make_the_definition_wrong() {
        let bench = Bench::new("");
        bench.secret("url", "redis://h:port");
        let spec = "{type: redis, secretRef: {name: cache}}";
        let Loaded { target, unresolved } = bench.load(spec).await.ok().unwrap();
        assert_eq!(unresolved.len(), 1);
        let failure = target.attempt().await.outcome.result.unwrap_err();
        assert_eq!(failure.reason, Reason::Secret);
        bench.secret("url", "redis://127.0.0.1:1");
        let failure = target.attempt().await.outcome.result.unwrap_err();
        assert_eq!(failure.reason, Reason::ConnectRefused);
    }

    #[tokio::test]
    async fn a_pipe_in_the_place_of_a_secret_does_not_hang() {
        let bench = Bench::new("");
        bench.secret("password", "hunter2!");
        let pipe = bench.dir.path().join("secrets/default/cache/token");
        let made = std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap();
        assert!(made.success());
        let target = bench.load(SECRET).await.ok().unwrap().target;
        let failure = target.attempt().await.outcome.result.unwrap_err();
        assert_eq!(failure.reason, Reason::ConnectRefused);
    }
}
