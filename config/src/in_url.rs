//! What stands beside a URL and must be what the URL says too: a host, a database, a replica set.
//!
//! A URL is read here only as far as that needs, in every form that its type takes; what is wrong with
//! it is told by the type.

use std::borrow::Cow;

use percent_encoding::{percent_decode_str, utf8_percent_encode};

use crate::error::Mistake;
use crate::template;
use crate::urls;
use crate::value::Value;

/// What its owner has written beside a URL.
#[derive(Clone)]
pub(crate) struct Beside {
    /// Where: `properties.host`.
    pub path: String,
    /// By what name templates know it.
    pub key: String,
    pub what: What,
    pub value: Value,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// One host or several, with their ports or without.
    Host,
    Database,
    /// Put into a URL that has none.
    ReplicaSet,
}

const REPLICA_SET: &str = "replicaSet";

impl Beside {
    /// The URL that says this too; nothing if it says otherwise.
    pub fn in_url(&self, type_name: &str, url: &str, text: &str) -> Option<String> {
        let says = match self.what {
            What::Host => {
                let own = Address::read(type_name, url).hosts;
                let mut wanted = hosts(type_name, text);
                wanted.all(|host| own.iter().any(|own| own.is(&host, type_name)))
            }
            What::Database => {
                let decoded = decode(text);
                let own = Address::read(type_name, url).databases;
                let is = |own: &String| [text, &decoded].iter().any(|text| alike(own, text));
                own.iter().any(is)
            }
            What::ReplicaSet => match urls::option(url, REPLICA_SET) {
                Some(own) => decode(own) == text,
                None => {
                    let text = utf8_percent_encode(text, template::ALL).to_string();
                    return Some(urls::with_option(url, REPLICA_SET, &text));
                }
            },
        };
        says.then(|| url.to_owned())
    }

    /// That the URL says otherwise.
    pub fn contradiction(&self) -> Mistake {
        let path = &self.path;
        let (message, hint) = match self.what {
            What::Host | What::Database => (
                format!("`{path}` is not in the `url`"),
                "only the `url` counts; leave this out if that one is right",
            ),
            What::ReplicaSet => (
                format!("`{path}` contradicts the `url`, which has another `{REPLICA_SET}`"),
                "keep one of them",
            ),
        };
        Mistake::new(&self.value.place, message).hint(hint)
    }
}

/// Where a URL leads.
#[derive(Default)]
struct Address {
    hosts: Vec<Host>,
    databases: Vec<String>,
}

impl Address {
    fn read(type_name: &str, url: &str) -> Self {
        let url = url.trim();
        let scheme = url.find("://");
        // As Go's MySQL driver has it; its passwords may hold anything.
        let network = ["tcp(", "unix("].iter().find_map(|network| {
            let at = url.rfind(network)?;
            let before = &url[..at];
            let is_network = before.is_empty() || before.ends_with(['@', '/']);
            (type_name == "mysql" && is_network).then_some(at + network.len())
        });
        if let Some(open) = network
            && let Some((host, rest)) = url[open..].split_once(')')
            && (rest.is_empty() || rest.starts_with(['/', '?']))
        {
            return Self::of(type_name, "", host, rest);
        }
        if scheme.is_none() && url.contains('=') && !url.contains('?') {
            let mut res = Self::default();
            res.options(type_name, keywords(url));
            return res;
        }
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let host = authority.rsplit_once('@').map_or(authority, |(_, h)| h);
        Self::of(type_name, scheme, host, rest)
    }

    /// `rest`: path and query.
    fn of(type_name: &str, scheme: &str, host: &str, rest: &str) -> Self {
        let rest = rest.split('#').next().unwrap_or_default();
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = decode(path.trim_matches('/'));
        let mut res = Self::default();
        let pairs = query.split(['&', ';']).filter_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            Some((decode(key).into_owned(), decode(value).into_owned()))
        });
        res.options(type_name, pairs);
        // What the query says counts.
        if res.hosts.is_empty() {
            res.hosts = hosts(type_name, host).collect();
        }
        if scheme.eq_ignore_ascii_case("sqlserver") {
            for host in &mut res.hosts {
                host.instance = Some(path.to_lowercase()).filter(|path| !path.is_empty());
            }
        } else if res.databases.is_empty() && !path.is_empty() {
            res.databases.push(path.into_owned());
        }
        res
    }

    fn options(&mut self, type_name: &str, pairs: impl Iterator<Item = (String, String)>) {
        let mut ports = Vec::new();
        for (key, value) in pairs {
            let key: String = key.split_whitespace().collect();
            match key.to_ascii_lowercase().as_str() {
                "host" | "hostaddr" | "server" | "datasource" | "address" | "addr"
                | "networkaddress" => self.hosts.extend(hosts(type_name, &value)),
                "database" | "dbname" | "databasename" | "initialcatalog" => {
                    self.databases.push(value);
                }
                "port" => ports.extend(value.split(',').map(|port| port.trim().to_owned())),
                _ => {}
            }
        }
        // One for all, or one for each.
        for (index, host) in self.hosts.iter_mut().enumerate() {
            let port = ports.get(index).or(ports.first());
            host.port = host.port.take().or_else(|| port.cloned());
        }
    }
}

/// The pairs of `host=h user='a b'` and of `Server=h;User Id="a;b"`.
fn keywords(text: &str) -> impl Iterator<Item = (String, String)> {
    let is_ado = text.contains(';');
    let mut rest = text;
    std::iter::from_fn(move || {
        let (key, behind) = rest.split_once('=')?;
        let behind = behind.trim_start();
        let quote = behind.chars().next().filter(|c| matches!(c, '\'' | '"'));
        let (value, behind) = match quote {
            Some(quote) => behind[1..].split_once(quote).unwrap_or((behind, "")),
            None => {
                let ends = |c: char| if is_ado { c == ';' } else { c.is_whitespace() };
                behind.split_at(behind.find(ends).unwrap_or(behind.len()))
            }
        };
        rest = behind;
        let key = key.trim_start_matches(|c: char| c == ';' || c.is_whitespace());
        Some((key.to_owned(), value.trim().to_owned()))
    })
}

/// A host, in lower case.
struct Host {
    name: String,
    port: Option<String>,
    /// The named instance of SQL Server.
    instance: Option<String>,
}

impl Host {
    fn read(type_name: &str, text: &str) -> Self {
        let text = decode(text.trim()).to_lowercase();
        let mut text = text.as_str();
        let (mut port, mut instance) = (None, None);
        if type_name == "mssql" {
            text = text.strip_prefix("tcp:").unwrap_or(text).trim();
            if let Some((before, behind)) = text.rsplit_once(',') {
                (text, port) = (before.trim(), Some(behind.trim().to_owned()));
            }
            if let Some((before, behind)) = text.split_once('\\') {
                (text, instance) = (before, Some(behind.to_owned()));
            }
            if matches!(text, "." | "(local)") {
                text = "localhost";
            }
        }
        if urls::has_port(text)
            && let Some((before, behind)) = text.rsplit_once(':')
        {
            (text, port) = (before, Some(behind.to_owned()));
        }
        let bare = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'));
        Self {
            name: bare.unwrap_or(text).to_owned(),
            port,
            instance,
        }
    }

    /// Whether this is the one that was `wanted`, who may have said less. A port that is the usual one
    /// need not be there.
    fn is(&self, wanted: &Self, type_name: &str) -> bool {
        let port = match (&self.port, &wanted.port) {
            (Some(own), Some(wanted)) => own == wanted,
            (None, Some(wanted)) => usual_ports(type_name).contains(&wanted.as_str()),
            (_, None) => true,
        };
        let instance = match (&self.instance, &wanted.instance) {
            (Some(own), Some(wanted)) => own == wanted,
            (None, Some(wanted)) => wanted == "mssqlserver",
            (_, None) => true,
        };
        self.name == wanted.name && port && instance
    }
}

fn hosts<'a>(type_name: &'a str, text: &'a str) -> impl Iterator<Item = Host> {
    // SQL Server's is one, with a comma before its port.
    let texts: Vec<&str> = match type_name {
        "mssql" => vec![text],
        _ => text.split(',').collect(),
    };
    let texts = texts.into_iter().filter(|text| !text.trim().is_empty());
    texts.map(|text| Host::read(type_name, text))
}

fn usual_ports(type_name: &str) -> &'static [&'static str] {
    match type_name {
        "postgres" => &["5432"],
        "mysql" => &["3306"],
        "mssql" => &["1433"],
        "mongodb" => &["27017"],
        // It is known by how the connection is encrypted.
        "smtp" => &["25", "465", "587"],
        _ => &[],
    }
}

fn decode(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

fn alike(one: &str, other: &str) -> bool {
    one.to_lowercase() == other.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Source;
    use crate::{Place, Secret};

    fn in_url(what: What, type_name: &str, url: &str, text: &str) -> Option<String> {
        let beside = Beside {
            path: "properties.a".to_owned(),
            key: "a".to_owned(),
            what,
            value: Value {
                place: Place {
                    file: "t".into(),
                    line: 1,
                    column: 1,
                },
                source: Source::Literal(Secret::new("")),
            },
        };
        beside.in_url(type_name, url, text)
    }

    #[track_caller]
    fn check(what: What, expected: bool, cases: &[(&str, &str, &str)]) {
        for (type_name, url, text) in cases {
            let says = in_url(what, type_name, url, text).is_some();
            assert_eq!(says, expected, "{url} {text}");
        }
    }

    #[test]
    fn a_host_is_the_same_in_every_form() {
        check(
            What::Host,
            true,
            &[
                ("postgres", "postgres://u:p@DB.test/shop", "db.test"),
                ("postgres", "postgres://h/shop", "h:5432"),
                ("postgres", "postgres://h:5433/shop", "h"),
                ("postgres", "postgres://a:1,b:2/shop", "b:2, a"),
                ("postgres", "postgres://[::1]:1/shop", "[::1]:1"),
                ("postgres", "postgres://[::1]/shop", "::1"),
                ("postgres", "postgres:///shop?host=/var/run", "/var/run"),
                ("postgres", "postgres://%2Fvar%2Frun/shop", "/var/run"),
                ("postgres", "user=u host = 'h' port=5433", "h:5433"),
                ("postgres", "host=a,b port=1,2", "b:2"),
                ("mysql", "u:p/@w@tcp(h:3306)/shop?tls=true", "h"),
                ("mysql", "mysql://u:p@tcp(h)/shop", "h:3306"),
                ("mysql", "tcp(h)/shop", "h"),
                ("mysql", "u@unix(/x/y)/shop", "/x/y"),
                ("mysql", "mysql://tcp(h)@host/shop", "host"),
                ("mssql", "sqlserver://h:1433", "h,1433"),
                ("mssql", "sqlserver://h", "tcp:h,1433"),
                ("mssql", "sqlserver://h:1500/SQLEXPRESS", r"h\SqlExpress"),
                ("mssql", "Server=tcp:h,1500;Database=shop", "h:1500"),
                (
                    "mssql",
                    r#"Password="a;Server=x";Data Source = .\A"#,
                    r"localhost\a",
                ),
                ("mongodb", "mongodb+srv://c.test/?a=b", "c.test"),
                ("mongodb", "mongodb://a,b:1/", "a:27017,b:1"),
                ("smtp", "smtp://u:p@m:25/?from=x@y", "m"),
                ("smtp", "m:2525", "m:2525"),
            ],
        );
    }

    #[test]
    fn another_host_is_another() {
        check(
            What::Host,
            false,
            &[
                ("postgres", "postgres://db.example.com/shop", "example.com"),
                ("postgres", "postgres://db:db@h/db?db=db", "db"),
                ("postgres", "postgres://h/shop", "h:5433"),
                ("postgres", "postgres://h:5433/shop", "h:5432"),
                ("postgres", "postgres://a/shop", "a,b"),
                ("postgres", "postgres://a/shop?host=b", "a"),
                ("postgres", "user=h password='host=h' host=x", "h"),
                ("mysql", "h:tcp(h)@tcp(x)/h", "h"),
                ("mssql", "sqlserver://h:1433", "h,1434"),
                ("mssql", r"Server=h\A,1500", r"h\B"),
                ("mssql", r#"Password="a;Server=h";Server=x"#, "h"),
                ("smtp", "smtp://mail.test", "mail"),
                ("smtp", "smtp://mail", "mail:2525"),
            ],
        );
    }

    #[test]
    fn a_database_is_the_whole_of_its_name() {
        check(
            What::Database,
            true,
            &[
                ("postgres", "postgres://h/a%20b", "a b"),
                ("postgres", "postgres://h/a%20b", "a%20b"),
                ("postgres", "postgres://h/x?dbname=shop", "shop"),
                ("postgres", "host=h dbname=shop", "SHOP"),
                ("mysql", "u:p/@w@tcp(h)/shop?tls=true", "shop"),
                ("mssql", "sqlserver://h/INSTANCE?database=a%20b", "a b"),
                ("mssql", "mssql://h/orders", "orders"),
                ("mssql", "Server=h;Initial Catalog=orders", "orders"),
            ],
        );
        check(
            What::Database,
            false,
            &[
                ("postgres", "postgres://h/workshop", "shop"),
                ("postgres", "postgres://shop:shop@shop?x=shop", "shop"),
                ("postgres", "postgres://h/x/shop", "shop"),
                ("postgres", "postgres://h/a?dbname=b", "a"),
                ("mysql", "shop@tcp(shop)/other", "shop"),
                ("mssql", "sqlserver://h/orders", "orders"),
                ("mssql", "Server=orders", "orders"),
            ],
        );
    }

    #[test]
    fn a_replica_set_is_put_where_none_is() {
        let with = |url, text| in_url(What::ReplicaSet, "mongodb", url, text);
        for (url, text, expected) in [
            ("mongodb://h", "rs0", Some("mongodb://h/?replicaSet=rs0")),
            (
                "mongodb://h/?a=b",
                "r&s",
                Some("mongodb://h/?a=b&replicaSet=r%26s"),
            ),
            (
                "mongodb://h/?replicaset=r%26s",
                "r&s",
                Some("mongodb://h/?replicaset=r%26s"),
            ),
            ("mongodb://h/?replicaSet=other", "rs0", None),
            ("mongodb://h/?replicaSet=", "rs0", None),
        ] {
            assert_eq!(with(url, text).as_deref(), expected, "{url} {text}");
        }
    }
}
