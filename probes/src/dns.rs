//! Who answers names, and in which order their addresses are tried.
//!
//! `getaddrinfo` runs on a pool of threads and cannot be cancelled: with slow name servers and many
//! targets it would starve everything else that uses that pool. So names are asked by a resolver
//! that is itself asynchronous. It reads `resolv.conf` and the hosts file, and not the name service
//! switch; whoever needs that (LDAP, mDNS) chooses `system`, which is kept behind a few permits.
//! Nothing is cached: what is measured is what an application would meet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::str::FromStr;
use std::sync::Arc;

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ProtocolConfig, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{Resolver as Hickory, TokioResolver};
use tokio::sync::Semaphore;

use crate::cause::Cause;
use crate::outcome::Reason;

/// How many calls of `getaddrinfo` may wait at once.
const SYSTEM_LOOKUPS: usize = 32;

/// Who answers names: the value of `--resolver`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ResolverChoice {
    /// The hosts file and the name servers of `resolv.conf`; `system` where there is no such file.
    #[default]
    Auto,
    /// The C library's `getaddrinfo`, with everything that `nsswitch.conf` says.
    System,
    /// These name servers, and the hosts file.
    Servers(Vec<SocketAddr>),
}

impl FromStr for ResolverChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "system" => Ok(Self::System),
            servers => servers
                .split(',')
                .map(|server| {
                    let server = server.trim();
                    server
                        .parse::<SocketAddr>()
                        .or_else(|_| server.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)))
                        .map_err(|_| {
                            format!(
                                "`{server}` is not `auto`, `system` or an address such as `10.0.0.2:53`"
                            )
                        })
                })
                .collect::<Result<_, _>>()
                .map(Self::Servers),
        }
    }
}

/// Answers names.
#[derive(Clone)]
pub(crate) enum Resolver {
    Own(Box<TokioResolver>),
    System(Arc<Semaphore>),
}

impl Resolver {
    pub(crate) fn new(choice: &ResolverChoice) -> Result<Self, String> {
        let system = || Self::System(Arc::new(Semaphore::new(SYSTEM_LOOKUPS)));
        let builder = match choice {
            ResolverChoice::System => return Ok(system()),
            ResolverChoice::Auto => match TokioResolver::builder_tokio() {
                Ok(builder) => builder,
                Err(_) => return Ok(system()),
            },
            ResolverChoice::Servers(servers) => {
                let servers = servers.iter().map(name_server).collect();
                Hickory::builder_with_config(
                    ResolverConfig::from_parts(None, Vec::new(), servers),
                    TokioRuntimeProvider::default(),
                )
            }
        };
        let mut builder = builder;
        without_cache(builder.options_mut());
        builder
            .build()
            .map(|resolver| Self::Own(Box::new(resolver)))
            .map_err(|error| format!("the resolver could not be set up: {error}"))
    }

    /// The addresses of `host`, best first. Never empty.
    pub(crate) async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, Cause> {
        let addresses = match self {
            Self::Own(resolver) => match resolver.lookup_ip(host).await {
                Ok(found) => found.iter().collect(),
                Err(error) => return Err(cause_of(host, ADDRESS, &error)),
            },
            Self::System(permits) => {
                let _permit = permits.acquire().await;
                #[expect(
                    clippy::disallowed_methods,
                    reason = "this is the one place, behind permits"
                )]
                let found = tokio::net::lookup_host((host, 0)).await;
                match found {
                    Ok(found) => found.map(|address| address.ip()).collect::<Vec<_>>(),
                    Err(error) => {
                        return Err(Cause::new(
                            Reason::Dns,
                            format!("`{host}` could not be resolved: {error}"),
                        ));
                    }
                }
            }
        };
        let addresses = in_order(addresses, has_route);
        match addresses.is_empty() {
            true => Err(no_data(host, ADDRESS)),
            false => Ok(addresses),
        }
    }

    /// The hosts and ports that the SRV records of `name` lead to, best first. Never empty.
    pub(crate) async fn services(&self, name: &str) -> Result<Vec<(String, u16)>, Cause> {
        let found = self.records(name, RecordType::SRV).await?;
        let mut services: Vec<_> = found
            .iter()
            .filter_map(|record| match record {
                RData::SRV(srv) => Some((srv.priority, srv)),
                _ => None,
            })
            .collect();
        services.sort_by_key(|(priority, _)| *priority);
        let services: Vec<_> = services
            .into_iter()
            .map(|(_, srv)| (plain(&srv.target.to_utf8()), srv.port))
            .collect();
        match services.is_empty() {
            true => Err(no_data(name, "SRV record")),
            false => Ok(services),
        }
    }

    /// The TXT records of `name`, each in one piece; a name that has none is as good.
    pub(crate) async fn texts(&self, name: &str) -> Result<Vec<String>, Cause> {
        match self.records(name, RecordType::TXT).await {
            Ok(found) => Ok(found
                .iter()
                .filter_map(|record| match record {
                    RData::TXT(text) => {
                        Some(String::from_utf8_lossy(&text.txt_data.concat()).into_owned())
                    }
                    _ => None,
                })
                .collect()),
            Err(cause) if matches!(cause.code.as_deref(), Some("NODATA" | "NXDOMAIN")) => {
                Ok(Vec::new())
            }
            Err(cause) => Err(cause),
        }
    }

    async fn records(&self, name: &str, record_type: RecordType) -> Result<Vec<RData>, Cause> {
        let Self::Own(resolver) = self else {
            return Err(Cause::new(
                Reason::Dns,
                format!("the system's resolver cannot be asked for {record_type} records"),
            )
            .hint("use `--resolver auto` or `--resolver IP:PORT`, or name the hosts themselves"));
        };
        // Absolute: no search domain of this machine is tried behind it.
        match resolver.lookup(format!("{name}."), record_type).await {
            Ok(found) => Ok(found
                .answers()
                .iter()
                .map(|record| record.data.clone())
                .collect()),
            Err(error) => Err(cause_of(name, &format!("{record_type} record"), &error)),
        }
    }
}

fn name_server(server: &SocketAddr) -> NameServerConfig {
    let connection = |protocol| {
        let mut connection = ConnectionConfig::new(protocol);
        connection.port = server.port();
        connection
    };
    NameServerConfig::new(
        server.ip(),
        true,
        vec![
            connection(ProtocolConfig::Udp),
            connection(ProtocolConfig::Tcp),
        ],
    )
}

fn without_cache(options: &mut ResolverOpts) {
    options.cache_size = 0;
}

/// What is asked for where a host is to be reached.
const ADDRESS: &str = "address (no A or AAAA record)";

fn no_data(name: &str, wanted: &str) -> Cause {
    Cause::new(Reason::Dns, format!("`{name}` has no {wanted}"))
        .code("NODATA")
        .hint("the name exists, and has nothing of this kind: is it the right name?")
}

/// A name without its dot at the end, in lower case.
fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

fn cause_of(host: &str, wanted: &str, error: &NetError) -> Cause {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => {
                Cause::new(Reason::Dns, format!("`{host}` does not exist (NXDOMAIN)"))
                    .code("NXDOMAIN")
                    .hint(
                        "check the spelling, and whether this machine asks the right name servers",
                    )
            }
            ResponseCode::NoError => no_data(host, wanted),
            code => refused(host, code),
        },
        NetError::Dns(DnsError::ResponseCode(code)) => refused(host, *code),
        NetError::Timeout => {
            Cause::new(Reason::Dns, format!("no name server answered for `{host}`"))
                .hint("are the name servers of this machine reachable? `--resolver` chooses others")
        }
        NetError::Io(error) => Cause::new(
            Reason::Dns,
            format!("the name servers could not be asked for `{host}`: {error}"),
        ),
        NetError::NoConnections => Cause::new(
            Reason::Dns,
            format!("no name server could be asked for `{host}`"),
        ),
        error => Cause::new(
            Reason::Dns,
            format!("`{host}` could not be resolved: {error}"),
        ),
    }
}

fn refused(host: &str, code: ResponseCode) -> Cause {
    let name = match code {
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        code => format!("{code:?}").to_uppercase(),
    };
    Cause::new(
        Reason::Dns,
        format!("the name server answered {name} for `{host}`"),
    )
    .code(name)
    .hint("the name server itself is in trouble, or does not serve this machine")
}

/// Addresses in the order in which they are tried: those that this machine has a route to first
/// (rule 1 of RFC 6724), IPv6 and IPv4 taking turns (RFC 8305), otherwise as the server said.
fn in_order(addresses: Vec<IpAddr>, has_route: impl Fn(IpAddr) -> bool) -> Vec<IpAddr> {
    let (routed, unrouted): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|&address| has_route(address));
    let mut res = taking_turns(routed);
    res.extend(taking_turns(unrouted));
    res
}

fn taking_turns(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let (v6, v4): (Vec<_>, Vec<_>) = addresses.into_iter().partition(IpAddr::is_ipv6);
    let (mut v6, mut v4) = (v6.into_iter(), v4.into_iter());
    let mut res = Vec::new();
    loop {
        match (v6.next(), v4.next()) {
            (None, None) => return res,
            (six, four) => res.extend(six.into_iter().chain(four)),
        }
    }
}

/// Whether this machine has a route to `address`. Connecting a UDP socket asks the kernel and sends
/// nothing.
fn has_route(address: IpAddr) -> bool {
    let any = match address {
        IpAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        IpAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    UdpSocket::bind(any).is_ok_and(|socket| socket.connect((address, 9)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn families_take_turns_and_the_unreachable_come_last() {
        let addresses = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"].map(ip);
        let order = in_order(addresses.to_vec(), |_| true);
        assert_eq!(
            order,
            ["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2"].map(ip)
        );
        let order = in_order(addresses.to_vec(), |address| address.is_ipv4());
        assert_eq!(
            order,
            ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"].map(ip)
        );
    }

    #[test]
    fn the_choice_is_read() {
        assert_eq!("auto".parse(), Ok(ResolverChoice::Auto));
        assert_eq!("system".parse(), Ok(ResolverChoice::System));
        assert_eq!(
            "10.0.0.2:5353, 10.0.0.3".parse(),
            Ok(ResolverChoice::Servers(vec![
                "10.0.0.2:5353".parse().unwrap(),
                "10.0.0.3:53".parse().unwrap(),
            ]))
        );
        assert!("nonsense".parse::<ResolverChoice>().is_err());
    }
}
