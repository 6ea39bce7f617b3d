//! What Debian has and what cannot be installed beside the rest: unpacked into `target/rig`, which needs no root.
//!
//! Exim and Postfix are each *the* mail server of a Debian machine; installing one removes the other.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    error::{Error, Result},
    install::{self, Package},
    kept::Kept,
};

pub const EXIM: Package = Package {
    name: "exim4-daemon-light",
    program: "exim4",
};

/// `exim4` looks up the user that its package would have made; this is who answers.
const NSS_WRAPPER: &str = "libnss-wrapper";

const ROOT: Kept = Kept {
    name: "unpacked",
    contents: &[EXIM.name, NSS_WRAPPER],
};

/// Fetches and unpacks, unless all is there. Says whether it had to.
pub fn install() -> Result<bool> {
    ROOT.ensure(|root| {
        if install::program("apt-get").is_none() {
            return Err(Error::missing(EXIM.program, EXIM.name));
        }
        let apt = Apt::new(root)?;
        let mut todo: Vec<String> = ROOT.contents.iter().map(|&name| name.to_owned()).collect();
        let mut seen = BTreeSet::new();
        while let Some(name) = todo.pop() {
            if seen.insert(name.clone()) {
                todo.extend(apt.unpack(&name, root)?);
            }
        }
        // It is run by whoever runs the tests, and a program that changes its user gets no help by
        // `LD_PRELOAD`.
        let program = root.join("usr/sbin").join(EXIM.program);
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
            .map_err(Error::doing(format!("cannot change {}", program.display())))
    })
}

/// What [`install`] brings, by name.
pub fn names() -> &'static str {
    EXIM.name
}

/// The path of Exim, made by [`install`].
pub fn exim() -> Result<PathBuf> {
    match ROOT.is_ready()? {
        true => Ok(ROOT.dir()?.join("usr/sbin").join(EXIM.program)),
        false => Err(Error::missing(EXIM.program, EXIM.name)),
    }
}

/// Where the unpacked libraries are.
pub(crate) fn libraries() -> Result<PathBuf> {
    let lib = ROOT.dir()?.join("usr/lib");
    let entries = fs::read_dir(&lib).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .find(|dir| dir.join("libnss_wrapper.so").exists())
        .ok_or_else(|| {
            Error::new(format!(
                "there is no libnss_wrapper.so in {}",
                lib.display()
            ))
        })
}

/// Debian's archive, for a user without rights.
struct Apt {
    /// For what is fetched.
    debs: PathBuf,
}

impl Apt {
    fn new(root: &Path) -> Result<Apt> {
        let debs = root.join("debs");
        for dir in [
            &debs,
            &debs.join("lists/partial"),
            &debs.join("cache/archives/partial"),
        ] {
            fs::create_dir_all(dir)
                .map_err(Error::doing(format!("cannot create {}", dir.display())))?;
        }
        Ok(Apt { debs })
    }

    /// Unpacks a package into `root`. Gives the libraries that it needs and that are not installed.
    fn unpack(&self, name: &str, root: &Path) -> Result<Vec<String>> {
        if self.get(&["download", name]).is_err() {
            // The machine's own lists may be old, or missing.
            let lists = format!("Dir::State::Lists={}", self.debs.join("lists").display());
            let cache = format!("Dir::Cache={}", self.debs.join("cache").display());
            let own = ["-o", &lists, "-o", &cache];
            self.get(&[&own[..], &["update", "-q"]].concat())?;
            self.get(&[&own[..], &["download", name]].concat())?;
        }
        let deb = self.deb(name)?;
        let dpkg = install::program("dpkg").ok_or_else(|| Error::missing("dpkg", "dpkg"))?;
        install::run(&dpkg, &["-x".as_ref(), deb.as_os_str(), root.as_os_str()])?;
        let field: [&OsStr; 3] = ["-f".as_ref(), deb.as_os_str(), "Depends".as_ref()];
        let depends = install::run(&dpkg, &field)?;
        // `libc6 (>= 2.34), debconf | debconf-2.0`
        let names = depends
            .split([',', '|'])
            .filter_map(|part| part.split_whitespace().next());
        Ok(names
            .filter(|name| name.starts_with("lib") && !is_installed(name))
            .map(str::to_owned)
            .collect())
    }

    fn get(&self, words: &[&str]) -> Result<()> {
        let output = Command::new("apt-get")
            .args(words)
            .current_dir(&self.debs)
            .output()
            .map_err(Error::doing("cannot run apt-get"))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(Error::new(format!(
                "`apt-get {}` failed ({}):\n{}",
                words.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim_end()
            ))),
        }
    }

    fn deb(&self, name: &str) -> Result<PathBuf> {
        let begin = format!("{name}_");
        let entries = fs::read_dir(&self.debs).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path())
            .find(|path| {
                let file = path.file_name().unwrap_or_default().to_string_lossy();
                file.starts_with(&begin) && file.ends_with(".deb")
            })
            .ok_or_else(|| Error::new(format!("apt-get brought no {name}")))
    }
}

fn is_installed(name: &str) -> bool {
    let output = Command::new("dpkg-query")
        .args(["-W", "-f=${db:Status-Status}", name])
        .output();
    output.is_ok_and(|output| output.stdout == b"installed")
}
