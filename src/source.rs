//! Where definitions come from: files, folders, globs and standard input.
//!
//! Reading always yields the whole desired set, and whatever is wrong beside it: a file that
//! cannot be read is an error of that file and of no other.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use conncheck_config::{ConfigError, Connection, Documents, Loader, PassedOver, Trust};
use globset::GlobBuilder;

use crate::cli::whole_file;

/// Definitions are written by people; a larger file is something else.
const LARGEST: u64 = 64 << 20;

/// What makes a file in a folder one of definitions.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// Everything that the sources say at one moment.
#[derive(Debug)]
pub struct Snapshot {
    pub connections: Vec<Connection>,
    pub documents: Documents,
    pub errors: Vec<ConfigError>,
    pub warnings: Vec<ConfigError>,
    /// Documents of other kinds.
    pub passed_over: Vec<PassedOver>,
    /// The files that were looked at.
    pub files: Vec<String>,
    /// A hash of each file's text.
    pub revisions: BTreeMap<Arc<str>, u64>,
}

/// Reads `paths`. Blocks.
pub fn read(paths: &[String]) -> Snapshot {
    let mut walk = Walk::default();
    for path in paths {
        walk.path(path);
    }
    let mut loader = Loader::default();
    let mut errors = walk.errors;
    let mut revisions = BTreeMap::new();
    let mut files = Vec::new();
    for found in &walk.found {
        let name = found.name();
        match found.read() {
            Ok(text) => {
                let mut hasher = DefaultHasher::new();
                text.hash(&mut hasher);
                revisions.insert(Arc::from(&*name), hasher.finish());
                loader.add(&name, &text, Trust::Local);
            }
            Err(err) => errors.push(error(&name, format!("cannot be read: {err}"), None)),
        }
        files.push(name);
    }
    let loaded = loader.finish();
    for passed_over in &loaded.passed_over {
        tracing::debug!(place = %passed_over.place, kind = passed_over.kind, "passed over");
    }
    errors.extend(loaded.errors);
    Snapshot {
        connections: loaded.connections,
        documents: loaded.documents,
        errors,
        warnings: loaded.warnings,
        passed_over: loaded.passed_over,
        files,
        revisions,
    }
}

fn error(file: &str, message: impl Into<String>, hint: Option<&str>) -> ConfigError {
    ConfigError {
        place: whole_file(file),
        type_name: None,
        connection: None,
        message: message.into(),
        hint: hint.map(str::to_owned),
    }
}

enum Found {
    File(PathBuf),
    StandardInput,
}

impl Found {
    /// What messages call it.
    fn name(&self) -> String {
        match self {
            Self::File(path) => path
                .strip_prefix(".")
                .unwrap_or(path)
                .to_string_lossy()
                .into_owned(),
            Self::StandardInput => "<stdin>".to_owned(),
        }
    }

    fn read(&self) -> io::Result<String> {
        let mut bytes = Vec::new();
        match self {
            Self::File(path) => File::open(path)?
                .take(LARGEST + 1)
                .read_to_end(&mut bytes)?,
            Self::StandardInput => io::stdin().take(LARGEST + 1).read_to_end(&mut bytes)?,
        };
        if bytes.len() as u64 > LARGEST {
            return Err(io::Error::other("it is larger than 64 MiB"));
        }
        String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8 text"))
    }
}

/// Finds the files behind paths, each once, however many paths and links lead to it.
#[derive(Default)]
struct Walk {
    found: Vec<Found>,
    errors: Vec<ConfigError>,
    files: HashSet<(u64, u64)>,
    /// Folders seen on the way from this path, so that a link to a parent ends.
    folders: HashSet<(u64, u64)>,
    has_stdin: bool,
}

impl Walk {
    /// Takes in one path as it was given.
    fn path(&mut self, path: &str) {
        self.folders.clear();
        if path == "-" {
            if !self.has_stdin {
                self.has_stdin = true;
                self.found.push(Found::StandardInput);
            }
            return;
        }
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                self.folder(Path::new(path), &metadata, usize::MAX, &has_extension);
            }
            // Whoever names a pipe (`<(…)` in a shell) means it.
            Ok(metadata) => self.file(PathBuf::from(path), &metadata),
            Err(_) if is_glob(path) => self.glob(path),
            Err(err) => {
                let hint = "PATH is a file, a folder, a glob, or `-` for standard input";
                let err = error(path, format!("cannot be read: {err}"), Some(hint));
                self.errors.push(err);
            }
        }
    }

    fn glob(&mut self, path: &str) {
        let plain = path.trim_start_matches("./");
        let glob = match GlobBuilder::new(plain).literal_separator(true).build() {
            Ok(glob) => glob.compile_matcher(),
            Err(err) => {
                let message = format!("is not a glob: {}", err.kind());
                return self.errors.push(error(path, message, None));
            }
        };
        let before = self.found.len();
        let base = base_of(path);
        let takes = |file: &Path| glob.is_match(file.strip_prefix(".").unwrap_or(file));
        let depth = match path.contains("**") {
            true => usize::MAX,
            false => path.matches('/').count() + 1,
        };
        if let Ok(metadata) = fs::metadata(base) {
            self.folder(base, &metadata, depth, &takes);
        }
        if self.found.len() == before {
            self.errors.push(error(path, "no file matches", None));
        }
    }

    /// Everything in a folder and so many levels below that `takes` and does not begin with a dot.
    /// (The folder `..data` of a mounted ConfigMap does, and the links to what is in it do not.)
    fn folder(
        &mut self,
        folder: &Path,
        metadata: &Metadata,
        depth: usize,
        takes: &dyn Fn(&Path) -> bool,
    ) {
        if depth == 0 || !self.folders.insert((metadata.dev(), metadata.ino())) {
            return;
        }
        let entries = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut paths: Vec<_> = match entries {
            Ok(entries) => entries.iter().map(fs::DirEntry::path).collect(),
            Err(err) => {
                let message = format!("cannot be read: {err}");
                return self
                    .errors
                    .push(error(&folder.to_string_lossy(), message, None));
            }
        };
        paths.sort();
        for path in paths {
            if path
                .file_name()
                .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."))
            {
                continue;
            }
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => {
                    self.folder(&path, &metadata, depth - 1, takes);
                }
                // A pipe, a socket or a device in a folder is not a definition, and might hang us.
                Ok(metadata) if metadata.is_file() && takes(&path) => self.file(path, &metadata),
                Err(err) if takes(&path) => {
                    let message = format!("cannot be read: {err}");
                    self.errors
                        .push(error(&path.to_string_lossy(), message, None));
                }
                Ok(_) | Err(_) => {}
            }
        }
    }

    fn file(&mut self, path: PathBuf, metadata: &Metadata) {
        if self.files.insert((metadata.dev(), metadata.ino())) {
            self.found.push(Found::File(path));
        }
    }
}

fn has_extension(file: &Path) -> bool {
    let extension = file.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| EXTENSIONS.contains(&&*extension.to_ascii_lowercase()))
}

fn is_glob(path: &str) -> bool {
    path.contains(['*', '?', '[', '{'])
}

/// The folder that a glob starts from: everything before its first component with a wildcard.
fn base_of(glob: &str) -> &Path {
    let wild = glob.find(['*', '?', '[', '{']).unwrap_or(glob.len());
    match glob[..wild].rfind('/') {
        Some(0) => Path::new("/"),
        Some(slash) => Path::new(&glob[..slash]),
        None => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Makes files (a name that ends in `/` is a folder, `a -> b` a link) and gives what is found
    /// behind `paths`, relative to the temporary folder.
    fn check(files: &[&str], paths: &[&str], expected: &[&str]) {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let (name, to) = file.split_once(" -> ").unwrap_or((file, ""));
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match (to, name.ends_with('/')) {
                ("", true) => fs::create_dir_all(path).unwrap(),
                ("", false) => fs::write(path, "").unwrap(),
                _ => symlink(to, path).unwrap(),
            }
        }
        let mut walk = Walk::default();
        for path in paths {
            walk.path(dir.path().join(path).to_str().unwrap());
        }
        let prefix = format!("{}/", dir.path().display());
        let found = walk.found.iter().map(Found::name);
        let errors = walk
            .errors
            .iter()
            .map(|err| format!("{}: {}", err.place, err.message));
        let all: Vec<_> = found
            .chain(errors)
            .map(|name| name.replace(&prefix, ""))
            .collect();
        assert_eq!(all, expected);
    }

    #[test]
    fn a_folder_is_read_with_everything_below() {
        let files = [
            "c/b.yml",
            "c/a.yaml",
            "c/d/e.json",
            "c/readme.md",
            "c/.git/x.yaml",
            "c/Z.YAML",
        ];
        check(
            &files,
            &["c"],
            &["c/Z.YAML", "c/a.yaml", "c/b.yml", "c/d/e.json"],
        );
    }

    #[test]
    fn a_mounted_config_map_is_read_once() {
        let files = [
            "m/..2026_11_22/db.yaml",
            "m/..data -> ..2026_11_22",
            "m/db.yaml -> ..data/db.yaml",
        ];
        check(&files, &["m", "m"], &["m/db.yaml"]);
    }

    #[test]
    fn links_that_go_round_end() {
        let files = ["c/a.yaml", "c/again -> ../c", "c/same.yaml -> a.yaml"];
        check(&files, &["c"], &["c/a.yaml"]);
    }

    #[test]
    fn globs_keep_to_their_level() {
        let files = ["c/a.yaml", "c/b.txt", "c/d/e.yaml", "c/d/f/g.yaml"];
        check(&files, &["c/*.yaml"], &["c/a.yaml"]);
        check(&files, &["c/*/*.yaml"], &["c/d/e.yaml"]);
        check(
            &files,
            &["c/**/*.yaml"],
            &["c/a.yaml", "c/d/e.yaml", "c/d/f/g.yaml"],
        );
        check(&files, &["c/{b,x}.txt"], &["c/b.txt"]);
    }

    #[test]
    fn what_is_not_there_is_an_error_and_the_rest_is_read() {
        check(
            &["a.yaml", "broken.yaml -> nowhere"],
            &["nope.yaml", "a.yaml", "*.json", ""],
            &[
                "a.yaml",
                "nope.yaml: cannot be read: No such file or directory (os error 2)",
                "*.json: no file matches",
                "broken.yaml: cannot be read: No such file or directory (os error 2)",
            ],
        );
    }

    #[test]
    fn a_pipe_in_a_folder_is_passed_by() {
        let dir = tempfile::tempdir().unwrap();
        let made = std::process::Command::new("mkfifo")
            .arg(dir.path().join("x.yaml"))
            .status();
        assert!(made.unwrap().success());
        let snapshot = read(&[dir.path().to_str().unwrap().to_owned()]);
        assert!(snapshot.files.is_empty());
        assert!(snapshot.errors.is_empty());
    }

    #[test]
    fn text_that_is_not_text_is_an_error_of_its_file() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.yaml"), b"\xff\xfe").unwrap();
        let snapshot = read(&[dir.path().to_str().unwrap().to_owned()]);
        assert_eq!(snapshot.errors.len(), 1);
        assert_eq!(
            snapshot.errors[0].message,
            "cannot be read: it is not UTF-8 text"
        );
    }
}
