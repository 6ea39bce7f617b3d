//! Finds the programs that the rig runs, and installs the Debian packages of those that are missing.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::IsTerminal,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::fs::{FlockOperation, flock};

use crate::error::{Error, Result};

/// A Debian package and the program for which we want it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Package {
    pub name: &'static str,
    pub program: &'static str,
}

pub const POSTGRES: Package = Package {
    name: "postgresql",
    program: "postgres",
};
pub const REDIS: Package = Package {
    name: "redis-server",
    program: "redis-server",
};
pub const MARIADB: Package = Package {
    name: "mariadb-server",
    program: "mariadbd",
};
pub const RABBITMQ: Package = Package {
    name: "rabbitmq-server",
    program: "rabbitmq-server",
};
pub const SLAPD: Package = Package {
    name: "slapd",
    program: "slapd",
};
pub const NGINX: Package = Package {
    name: "nginx-light",
    program: "nginx",
};
/// With `promtool`.
pub const PROMETHEUS: Package = Package {
    name: "prometheus",
    program: "prometheus",
};
/// What the benchmarks compare with.
pub const BLACKBOX: Package = Package {
    name: "prometheus-blackbox-exporter",
    program: "prometheus-blackbox-exporter",
};
/// Independent verdicts: `check_http`, `check_ldap`, `check_smtp`.
pub const MONITORING_PLUGINS: Package = Package {
    name: "monitoring-plugins-standard",
    program: "check_ldap",
};
/// For `tsql`, a client of SQL Server's by others, which vouches for our peer.
pub const FREETDS: Package = Package {
    name: "freetds-bin",
    program: "tsql",
};
pub const POSTFIX: Package = Package {
    name: "postfix",
    program: "postfix",
};
/// Makes the users of Postfix.
pub const SASL: Package = Package {
    name: "sasl2-bin",
    program: "saslpasswd2",
};
/// The ways in which they log in: no program, but a library.
pub const SASL_MODULES: Package = Package {
    name: "libsasl2-modules",
    program: "libplain.so",
};
pub const PYTHON: Package = Package {
    name: "python3-venv",
    program: "python3",
};

/// Runs the token endpoints of the clouds, see [`crate::idp`].
pub const NODE: Package = Package {
    name: "nodejs",
    program: "node",
};
pub const NPM: Package = Package {
    name: "npm",
    program: "npm",
};

/// Everything, for `rig install`.
pub const ALL: &[Package] = &[
    POSTGRES,
    REDIS,
    MARIADB,
    RABBITMQ,
    SLAPD,
    NGINX,
    POSTFIX,
    SASL,
    SASL_MODULES,
    PROMETHEUS,
    BLACKBOX,
    MONITORING_PLUGINS,
    FREETDS,
    PYTHON,
    NODE,
    NPM,
];

/// The servers, and what runs those that Python's registry has.
pub const SERVERS: &[Package] = &[
    POSTGRES,
    REDIS,
    MARIADB,
    RABBITMQ,
    SLAPD,
    NGINX,
    POSTFIX,
    SASL,
    SASL_MODULES,
    PROMETHEUS,
    PYTHON,
    NODE,
    NPM,
];

/// What [`ensure`] found and did.
#[derive(Debug, Default)]
pub struct Report {
    pub present: Vec<Package>,
    pub installed: Vec<Package>,
    /// Not to be had, and why.
    pub missing: Vec<(Package, String)>,
}

/// Installs those of `packages` whose program is not there, with services kept from starting. Calls apt only when
/// something is missing.
///
/// What cannot be had is in the report. An error means that installing was not possible at all, with what to run
/// instead.
pub fn ensure(packages: &[Package]) -> Result<Report> {
    let mut report = Report::default();
    let mut wanted: Vec<Package> = Vec::new();
    for &package in packages {
        if is_there(package) {
            report.present.push(package)
        } else {
            wanted.push(package)
        }
    }
    if wanted.is_empty() {
        return Ok(report);
    }
    let names: Vec<&str> = wanted.iter().map(|package| package.name).collect();
    let root = Root::gain(&names)?;
    let _alone = lock()?;
    let _quiet = NoServices::begin(&root)?;
    // Without fresh lists apt asks for versions that the mirror may no longer have. With old lists it may still
    // work, so the install below decides.
    let updated = root.run(&["apt-get", "update", "-q"]);
    let all_at_once = updated.and_then(|()| root.install(&names));
    for package in wanted {
        // One unknown name fails the whole command; the others are still to be had one by one.
        let result = match &all_at_once {
            Ok(()) => Ok(()),
            Err(_) if is_there(package) => Ok(()),
            Err(_) => root.install(&[package.name]),
        };
        match result {
            Ok(()) if is_there(package) => report.installed.push(package),
            Ok(()) => {
                let why = format!("`{}` is not found after installing it", package.program);
                report.missing.push((package, why));
            }
            Err(err) => report.missing.push((package, err.to_string())),
        }
    }
    Ok(report)
}

/// The path of a package's program, or an error that names the way out.
pub fn find(package: Package) -> Result<PathBuf> {
    program(package.program).ok_or_else(|| Error::missing(package.program, package.name))
}

/// Looks in the `PATH` and where Debian puts servers and plugins outside of it.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian's own first: initdb needs its sisters beside it, and a link in the PATH may point anywhere.
    postgres_dirs()
        .into_iter()
        .chain(env::split_paths(&path))
        .chain(
            [
                "/usr/sbin",
                "/usr/local/sbin",
                "/sbin",
                "/usr/local/bin",
                "/usr/lib/nagios/plugins",
            ]
            .map(PathBuf::from),
        )
        .map(|dir| dir.join(name))
        .find(|file| {
            fs::metadata(file)
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
}

/// `/usr/lib/postgresql/*/bin`, the newest first.
fn postgres_dirs() -> Vec<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            Some((
                entry.file_name().to_str()?.parse().ok()?,
                entry.path().join("bin"),
            ))
        })
        .collect();
    versions.sort();
    versions.into_iter().rev().map(|(_, dir)| dir).collect()
}

/// Whether its program is here.
pub fn is_there(package: Package) -> bool {
    if package == PYTHON {
        // Debian's python3 is often there without what `-m venv` needs.
        return program("python3").is_some_and(|python| {
            Command::new(python)
                .args(["-c", "import venv, ensurepip"])
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        });
    }
    if package == SASL_MODULES {
        let libraries = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
        return libraries
            .map(|dir| dir.path().join("sasl2").join(package.program))
            .any(|library| library.exists());
    }
    program(package.program).is_some()
}

/// The folder for what outlives a run: `target/rig`.
pub fn cache_dir() -> Result<PathBuf> {
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    let dir = target.join("rig");
    fs::create_dir_all(&dir).map_err(Error::doing(format!("cannot create {}", dir.display())))?;
    Ok(dir)
}

/// The root of the repository that this was built from.
pub fn workspace() -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    dir.canonicalize().unwrap_or(dir)
}

/// One installation at a time, whoever asks.
pub(crate) fn lock() -> Result<fs::File> {
    let path = cache_dir()?.join("install.lock");
    let file = fs::File::create(&path)
        .map_err(Error::doing(format!("cannot create {}", path.display())))?;
    flock(&file, FlockOperation::LockExclusive)
        .map_err(Error::doing(format!("cannot lock {}", path.display())))?;
    Ok(file)
}

/// The right to install packages.
struct Root {
    prefix: Vec<&'static str>,
}

impl Root {
    fn gain(names: &[&str]) -> Result<Root> {
        let names = names.join(" ");
        if program("apt-get").is_none() {
            return Err(Error::new(format!(
                "missing: {names} (Debian's names), and there is no `apt-get` here\n\
                 hint: install them by this system's own package manager"
            )));
        }
        if rustix::process::geteuid().is_root() {
            return Ok(Root { prefix: Vec::new() });
        }
        let sudo = || program("sudo").is_some();
        if std::io::stdin().is_terminal() && sudo() {
            return Ok(Root {
                prefix: vec!["sudo"],
            });
        }
        let silent = Command::new("sudo")
            .args(["-n", "true"])
            .stderr(Stdio::null())
            .status();
        if silent.is_ok_and(|status| status.success()) {
            return Ok(Root {
                prefix: vec!["sudo", "-n"],
            });
        }
        Err(Error::new(format!(
            "missing: {names}, and we are neither root nor allowed to `sudo`\n\
             hint: as root, run `apt-get update && apt-get install -y --no-install-recommends {names}`"
        )))
    }

    fn install(&self, names: &[&str]) -> Result<()> {
        let args = [
            "apt-get",
            "install",
            "-y",
            "-q",
            "--no-install-recommends",
            "-o",
            "DPkg::Lock::Timeout=300",
        ];
        self.run(&[&args[..], names].concat())
    }

    fn run(&self, words: &[&str]) -> Result<()> {
        // `env` because sudo would clear the variable otherwise.
        let mut line: Vec<&str> = self.prefix.clone();
        line.extend(["env", "DEBIAN_FRONTEND=noninteractive"]);
        line.extend(words);
        let output = Command::new(line[0])
            .args(&line[1..])
            .stdin(Stdio::inherit())
            .output()
            .map_err(Error::doing(format!("cannot run `{}`", words.join(" "))))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let lines: Vec<&str> = said
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        let tail = lines[lines.len().saturating_sub(5)..].join("\n  ");
        Err(Error::new(format!(
            "`{}` failed ({}):\n  {tail}",
            words.join(" "),
            output.status
        )))
    }
}

const POLICY: &str = "/usr/sbin/policy-rc.d";
const MINE: &str = "conncheck-rig";

/// Keeps packages from starting their services while it lives: Debian asks `policy-rc.d`. One that is already
/// there is not touched.
struct NoServices<'a> {
    root: Option<&'a Root>,
}

impl NoServices<'_> {
    fn begin(root: &Root) -> Result<NoServices<'_>> {
        // One of ours is left from a run that was killed.
        let there = fs::read_to_string(POLICY).ok();
        if there.is_some_and(|text| !text.contains(MINE)) {
            return Ok(NoServices { root: None });
        }
        let file = env::temp_dir().join(format!("conncheck-policy-{}", std::process::id()));
        fs::write(
            &file,
            format!(
                "#!/bin/sh\n# {MINE}: no service starts while packages are installed.\nexit 101\n"
            ),
        )
        .map_err(Error::doing("cannot write a policy-rc.d"))?;
        let from = file.to_string_lossy().into_owned();
        let result = root.run(&["install", "-m", "755", &from, POLICY]);
        let _ = fs::remove_file(&file);
        result.map(|()| NoServices { root: Some(root) })
    }
}

impl Drop for NoServices<'_> {
    fn drop(&mut self) {
        if let Some(root) = self.root {
            let _ = root.run(&["rm", "-f", POLICY]);
        }
    }
}

/// Runs a program to its end and returns what it said, or an error with the end of it.
pub(crate) fn run(program: &Path, args: &[&OsStr]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .map_err(Error::doing(format!("cannot run {}", program.display())))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    Err(Error::new(format!(
        "{} failed ({}):\n{}",
        program.display(),
        output.status,
        said.trim_end()
    )))
}
