//! Sources to targets: everything that is right, and everything that is wrong.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use conncheck_config::{ConfigError, PassedOver};
use conncheck_probes::Env;
use tokio::task::JoinSet;

use crate::cli::Options;
use crate::redact::Redactor;
use crate::secrets::Secrets;
use crate::source;
use crate::target::{self, Context, Definition, Target};

/// What came of reading all definitions.
#[derive(Default)]
pub struct Loaded {
    /// The selected ones, in the order of the sources.
    pub targets: Vec<Arc<Target>>,
    /// Everything that is wrong, selected or not.
    pub errors: Vec<ConfigError>,
    /// What works and should be mended.
    pub warnings: Vec<ConfigError>,
    /// Secrets that are missing or of no use so far: their targets run and say so.
    pub unresolved: Vec<ConfigError>,
    /// How many definitions are right, selected or not.
    pub valid: usize,
    /// Documents of other kinds, which are nobody's mistake.
    pub passed_over: Vec<PassedOver>,
    /// The files that were looked at.
    pub files: Vec<String>,
}

impl Loaded {
    /// How many definitions are wrong. One may have several mistakes.
    pub fn invalid(&self) -> usize {
        let nameless = self
            .errors
            .iter()
            .filter(|error| error.connection.is_none())
            .count();
        let named = self
            .errors
            .iter()
            .filter_map(|error| error.connection.as_ref());
        nameless + named.collect::<BTreeSet<_>>().len()
    }
}

/// Reads and builds everything.
pub async fn load(options: &Options, env: &Env, redactor: &Arc<Redactor>) -> Loaded {
    let paths = options.paths.clone();
    let read = tokio::task::spawn_blocking(move || source::read(&paths)).await;
    let snapshot = match read {
        Ok(snapshot) => snapshot,
        Err(err) => std::panic::resume_unwind(err.into_panic()),
    };
    redactor.add(snapshot.documents.secrets());
    let names = snapshot.connections.iter();
    redactor.keep(names.flat_map(|connection| {
        let id = &connection.id;
        [id.namespace.as_str(), id.name.as_str()]
    }));
    let absolute = |dir: &PathBuf| std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
    let context = Context {
        secrets: Arc::new(
            Secrets::new(
                snapshot.documents,
                options.secrets_dir.as_ref().map(absolute),
                options.credentials_dir.clone(),
            )
            .exec_plugins(options.exec_plugins),
        ),
        env: env.clone(),
        redactor: Arc::clone(redactor),
    };
    let mut loaded = Loaded {
        errors: snapshot.errors,
        warnings: snapshot.warnings,
        passed_over: snapshot.passed_over,
        files: snapshot.files,
        ..Loaded::default()
    };
    // Reading secrets may block, so the targets are loaded side by side.
    let mut loading = JoinSet::new();
    for (number, connection) in snapshot.connections.into_iter().enumerate() {
        let definition = match Definition::read(connection, &options.rules) {
            Ok(definition) => definition,
            Err(errors) => {
                loaded.errors.extend(errors);
                continue;
            }
        };
        let selected = options
            .selection
            .takes(&definition.connection, definition.ty);
        let text = snapshot
            .revisions
            .get(&definition.connection.place.file)
            .copied();
        let context = context.clone();
        loading.spawn(async move {
            let res = Target::load(definition, text.unwrap_or_default(), &context).await;
            (number, selected, res)
        });
    }
    let mut all = loading.join_all().await;
    all.sort_by_key(|(number, ..)| *number);
    for (_, selected, res) in all {
        match res {
            Ok(target::Loaded { target, unresolved }) => {
                loaded.valid += 1;
                if selected {
                    loaded.targets.push(target);
                    loaded.unresolved.extend(unresolved);
                }
            }
            Err(errors) => loaded.errors.extend(errors),
        }
    }
    loaded.errors.sort_by(|a, b| a.place.cmp(&b.place));
    let Loaded {
        errors,
        warnings,
        unresolved,
        ..
    } = &mut loaded;
    for mistake in errors.iter_mut().chain(warnings).chain(unresolved) {
        let clean = |text: &mut String| *text = redactor.redact(text).into_owned();
        clean(&mut mistake.message);
        mistake.hint.iter_mut().for_each(clean);
    }
    for other in &mut loaded.passed_over {
        other.kind = redactor.redact(&other.kind).into_owned();
    }
    loaded
}
