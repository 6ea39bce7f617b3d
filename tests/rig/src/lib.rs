//! What conncheck is tested against, and what its demo shows: real servers on free ports of 127.0.0.1 with
//! certificates made for the occasion, and peers of our own that do everything wrong.
//!
//! ```no_run
//! use conncheck_rig::{Rig, need};
//!
//! #[test]
//! fn a_probe_logs_in() {
//!     let rig = Rig::shared();
//!     let postgres = need!(rig.postgres());
//!     println!("{}", postgres.url("probe"));
//! }
//! ```
//!
//! Nothing here outlives the test: see [`process`].
//!
//! Everybody's password is [`PASSWORD`].

mod acceptor;
pub mod apiserver;
pub mod dead_mount;
pub mod dns;
pub mod elastic;
mod error;
pub mod exim;
pub mod faults;
pub mod http;
pub mod idp;
pub mod install;
mod kept;
pub mod ldap;
pub mod mariadb;
pub mod metadata;
pub mod mongodb;
pub mod moto;
pub mod mssql;
pub mod mysql8;
pub mod nginx;
pub mod node;
mod packets;
pub mod pki;
pub mod plugins;
pub mod ports;
pub mod postfix;
pub mod postgres;
pub mod process;
pub mod prometheus;
pub mod proxy;
pub mod python;
pub mod rabbitmq;
pub mod redis;
pub mod relay;
mod rig;
pub mod secantus;
mod shared;
pub mod slapd;
pub mod smtp;
pub mod tls;
pub mod unpacked;
mod user;

pub use crate::{
    apiserver::{ApiServer, ApiServerKind},
    dns::{Answer, DnsServer},
    elastic::{Elastic, ElasticKind},
    error::{Error, Result},
    exim::{Exim, EximKind},
    faults::{BlackHole, Peer, Step},
    http::{HttpPeer, TokenServer},
    idp::{AppCertificate, Idp, IdpKind},
    mariadb::{MariaDb, MariaDbKind},
    metadata::{AwsMetadata, MetadataMood},
    mongodb::MongoPeer,
    moto::{AccessKey, Moto, MotoFront, MotoKind},
    mssql::{Mssql, MssqlKind},
    mysql8::Mysql8,
    nginx::{Nginx, NginxKind},
    pki::{Certified, Pki, Shown},
    postfix::{Postfix, PostfixKind},
    postgres::{Postgres, PostgresKind},
    process::Process,
    prometheus::{Prometheus, PrometheusKind},
    proxy::TunnelProxy,
    rabbitmq::{RabbitMq, RabbitMqFront, RabbitMqKind},
    redis::{Redis, RedisKind},
    relay::Relay,
    rig::{Kind, REQUIRE_SERVERS, Rig, Server, Skipped},
    secantus::{Secantus, SecantusKind},
    slapd::{Slapd, SlapdKind},
    smtp::SmtpPeer,
};

/// Of every user on every server here.
pub const PASSWORD: &str = "probe-password";

/// How long to wait for what is sure to come: it costs nothing where it comes, and a busy machine may be late.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);
