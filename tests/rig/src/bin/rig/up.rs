//! `rig up`: the servers alone, for trying things by hand.

use conncheck_rig::{MssqlKind, PASSWORD, Result, Rig};

pub fn run() -> Result<()> {
    crate::install::servers()?;
    let rig = Rig::shared();
    rig.start_all()?;
    println!("password of all users: {PASSWORD}");
    println!(
        "authority:             {}",
        rig.pki().ca.cert_path.display()
    );
    if let Ok(postgres) = rig.postgres() {
        println!(
            "PostgreSQL (pid {}):  {}",
            postgres.process().pid(),
            postgres.url("probe")
        );
    }
    if let Ok(mariadb) = rig.mariadb() {
        println!(
            "MariaDB (pid {}):     {}",
            mariadb.process().pid(),
            mariadb.url("probe")
        );
    }
    if let Ok(redis) = rig.redis() {
        println!(
            "Redis (pid {}):       {}  {}",
            redis.process().pid(),
            redis.url("probe"),
            redis.tls_url("probe")
        );
    }
    if let Ok(rabbitmq) = rig.rabbitmq() {
        println!(
            "RabbitMQ (pid {}):    {}  {}",
            rabbitmq.process().pid(),
            rabbitmq.url("probe"),
            rabbitmq.tls_url("probe")
        );
    }
    if let Ok(nginx) = rig.nginx() {
        println!(
            "nginx (pid {}):       {}  {}",
            nginx.process().pid(),
            nginx.url("/health"),
            nginx.https_url("/health")
        );
    }
    if let Ok(mssql) = rig.get(MssqlKind::Main) {
        println!("SQL Server (a peer of ours): {}", mssql.url("probe"));
    }
    if let Ok(postfix) = rig.postfix() {
        println!(
            "Postfix (pid {}):     smtp://probe@localhost:{}  smtps://probe@localhost:{}",
            postfix.process().pid(),
            postfix.smtp,
            postfix.smtps
        );
    }
    if let Ok(exim) = rig.exim() {
        println!(
            "Exim (pid {}):        smtp://probe@localhost:{}  smtps://probe@localhost:{}",
            exim.process().pid(),
            exim.smtp,
            exim.smtps
        );
    }
    crate::serving();
    println!("until Ctrl-C");
    crate::wait_for_signal()
}
