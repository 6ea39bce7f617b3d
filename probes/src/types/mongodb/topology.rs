//! What servers say of themselves and of each other, and which of them will do.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use super::scram::Hash;
use super::uri::{self, Mode, Tags};
use super::wire::{Reply, TEXTS_MAX};
use crate::attempt::Address;
use crate::cause::Cause;
use crate::outcome::Failure;

/// What a server is, by its own word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Standalone,
    /// `mongos`: the router of a sharded cluster.
    Router,
    Primary,
    Secondary,
    Arbiter,
    /// A member that starts up, recovers, or is hidden.
    Other,
    /// Started as a member of a set, and not told which.
    Uninitiated,
}

impl Role {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Standalone => "a standalone server",
            Self::Router => "a router of a sharded cluster",
            Self::Primary => "a primary",
            Self::Secondary => "a secondary",
            Self::Arbiter => "an arbiter",
            Self::Other | Self::Uninitiated => "a member of a replica set",
        }
    }
}

/// What a server says of itself.
#[derive(Clone, Debug)]
pub(super) struct Member {
    /// As it was reached.
    pub(super) address: Address,
    pub(super) role: Role,
    pub(super) set: Option<String>,
    /// By the names in the set's configuration, arbiters included.
    pub(super) members: Vec<Address>,
    pub(super) primary: Option<Address>,
    tags: Tags,
    /// Milliseconds since 1970.
    last_write: Option<i64>,
    wire_version: i64,
    /// The ways to log in that there are for our user.
    mechanisms: Option<Vec<String>>,
    pub(super) is_behind_load_balancer: bool,
}

/// Since 3.6 servers speak `OP_MSG`.
const OLDEST_WIRE_VERSION: i64 = 6;

impl Member {
    pub(super) fn read(address: &Address, reply: &Reply) -> Result<Self, Cause> {
        let is_primary = reply.is("isWritablePrimary") || reply.is("ismaster");
        let set = reply.text("setName").map(str::to_owned);
        let role = match &set {
            _ if reply.text("msg") == Some("isdbgrid") => Role::Router,
            None if reply.is("isreplicaset") => Role::Uninitiated,
            None => Role::Standalone,
            Some(_) if reply.is("hidden") => Role::Other,
            Some(_) if is_primary => Role::Primary,
            Some(_) if reply.is("secondary") => Role::Secondary,
            Some(_) if reply.is("arbiterOnly") => Role::Arbiter,
            Some(_) => Role::Other,
        };
        let wire_version = reply
            .number("maxWireVersion")
            .ok_or_else(|| Cause::protocol("the answer to `hello` is not that of MongoDB"))?;
        if wire_version < OLDEST_WIRE_VERSION {
            return Err(Cause::protocol(format!(
                "the server is too old: it speaks wire version {wire_version}, and {OLDEST_WIRE_VERSION} (MongoDB 3.6) is needed"
            )));
        }
        // What cannot be read cannot be reached either, and no peer sends us to a socket of ours.
        let host = |text: &str| {
            let address = uri::host(text).ok();
            address.filter(|address| matches!(address, Address::Tcp { .. }))
        };
        Ok(Self {
            address: address.clone(),
            role,
            set,
            members: ["hosts", "passives", "arbiters"]
                .into_iter()
                .filter_map(|key| reply.texts(key))
                .flatten()
                .filter_map(|text| host(&text))
                .take(TEXTS_MAX)
                .collect(),
            primary: reply.text("primary").and_then(host),
            tags: reply.pairs("tags"),
            last_write: reply
                .document("lastWrite")
                .and_then(|last| last.get_datetime("lastWriteDate").ok())
                .map(|date| date.timestamp_millis()),
            wire_version,
            mechanisms: reply.texts("saslSupportedMechs"),
            is_behind_load_balancer: reply.has("serviceId"),
        })
    }

    /// Whether `address` is what the set calls one of its members.
    pub(super) fn goes_by(&self, address: &Address) -> bool {
        self.members.is_empty() || self.members.contains(address) || self.role == Role::Other
    }

    /// What the set calls its members, of which a message takes ten.
    pub(super) fn names(&self) -> String {
        const NAMES_MAX: usize = 10;
        let mut names: Vec<_> = (self.members.iter().take(NAMES_MAX))
            .map(|name| format!("`{name}`"))
            .collect();
        if self.members.len() > NAMES_MAX {
            names.push("…".to_owned());
        }
        names.join(", ")
    }

    fn has(&self, wanted: &Tags) -> bool {
        wanted.iter().all(|tag| self.tags.contains(tag))
    }

    /// A server that does not say knows SHA-1 only.
    pub(super) fn best_hash(&self) -> Hash {
        match &self.mechanisms {
            Some(known) if known.iter().any(|name| name == Hash::Sha256.mechanism()) => {
                Hash::Sha256
            }
            _ => Hash::Sha1,
        }
    }
}

/// `hello` does not say the version, but which it speaks as.
const VERSIONS: &[(i64, &str)] = &[
    (6, "3.6"),
    (7, "4.0"),
    (8, "4.2"),
    (9, "4.4"),
    (13, "5.0"),
    (17, "6.0"),
    (21, "7.0"),
    (25, "8.0"),
];

impl fmt::Display for Member {
    /// `MongoDB 8.0 protocol, primary of rs0`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = VERSIONS
            .iter()
            .rev()
            .find(|(wire, _)| *wire <= self.wire_version)
            .map_or("3.6", |(_, version)| version);
        write!(f, "MongoDB {version} protocol")?;
        let set = self.set.as_deref().unwrap_or_default();
        match self.role {
            Role::Standalone | Role::Uninitiated => Ok(()),
            Role::Router => write!(f, ", router"),
            Role::Primary => write!(f, ", primary of {set}"),
            Role::Secondary => write!(f, ", secondary of {set}"),
            Role::Arbiter => write!(f, ", arbiter of {set}"),
            Role::Other => write!(f, ", member of {set}"),
        }
    }
}

/// Which members of a replica set are wanted.
pub(super) struct ReadPreference {
    pub(super) mode: Mode,
    pub(super) tags: Vec<Tags>,
    pub(super) max_staleness: Option<Duration>,
    pub(super) heartbeat: Duration,
}

impl ReadPreference {
    /// Whether this member is as good as any can be.
    pub(super) fn takes(&self, member: &Member) -> bool {
        let has_tags = || {
            self.tags.first().is_none_or(|wanted| member.has(wanted))
                && self.max_staleness.is_none()
        };
        match self.mode {
            Mode::Primary | Mode::PrimaryPreferred => member.role == Role::Primary,
            Mode::Secondary | Mode::SecondaryPreferred => {
                member.role == Role::Secondary && has_tags()
            }
            Mode::Nearest => has_tags(),
        }
    }

    /// The best of those that there are, once everybody was asked.
    pub(super) fn second_best<'m>(&self, members: &'m [Member]) -> Option<&'m Member> {
        let of = |role: Role| members.iter().filter(move |member| member.role == role);
        let primary = of(Role::Primary).next();
        let newest = members.iter().filter_map(|member| member.last_write).max();
        let is_fresh = |member: &&Member| match (self.max_staleness, newest, member.last_write) {
            (Some(limit), Some(newest), Some(last)) => {
                Duration::from_millis(newest.abs_diff(last)) + self.heartbeat <= limit
            }
            (Some(_), ..) => member.role == Role::Primary,
            (None, ..) => true,
        };
        let tagged = |candidates: Vec<&'m Member>| match &self.tags[..] {
            [] => candidates.first().copied(),
            sets => sets
                .iter()
                .find_map(|set| candidates.iter().copied().find(|member| member.has(set))),
        };
        let secondary = || tagged(of(Role::Secondary).filter(is_fresh).collect());
        match self.mode {
            Mode::Primary => None,
            Mode::PrimaryPreferred | Mode::Secondary => secondary(),
            Mode::SecondaryPreferred => secondary().or(primary),
            Mode::Nearest => tagged(members.iter().filter(is_fresh).collect()),
        }
    }
}

/// How many hosts are asked at most: a replica set has fifty members.
const HOSTS_MAX: usize = 64;

/// Who is still to be asked, and what was seen so far.
pub(super) struct Search {
    pub(super) waiting: VecDeque<Address>,
    asked: Vec<Address>,
    pub(super) kept: Vec<Member>,
    pub(super) failed: Vec<(Address, Failure)>,
    /// Whom a member has named as the primary.
    pub(super) primaries: Vec<Address>,
}

impl Search {
    pub(super) fn new(seeds: &[Address]) -> Self {
        let mut waiting = VecDeque::new();
        for seed in seeds {
            if !waiting.contains(seed) {
                waiting.push_back(seed.clone());
            }
        }
        Self {
            waiting,
            asked: Vec::new(),
            kept: Vec::new(),
            failed: Vec::new(),
            primaries: Vec::new(),
        }
    }

    pub(super) fn next(&mut self) -> Option<Address> {
        let address = self.waiting.pop_front()?;
        self.asked.push(address.clone());
        Some(address)
    }

    /// The primary that a member names is asked next, the others after everybody else.
    pub(super) fn follow(&mut self, member: &Member) {
        if let Some(primary) = &member.primary {
            self.primaries.push(primary.clone());
            if !self.asked.contains(primary) && self.asked.len() < HOSTS_MAX {
                self.waiting.retain(|waiting| waiting != primary);
                self.waiting.push_front(primary.clone());
            }
        }
        for address in &member.members {
            let is_known = self.asked.contains(address) || self.waiting.contains(address);
            if !is_known && self.asked.len() + self.waiting.len() < HOSTS_MAX {
                self.waiting.push_back(address.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, role: Role) -> Member {
        Member {
            address: uri::host(name).unwrap(),
            role,
            set: Some("rs0".to_owned()),
            members: Vec::new(),
            primary: None,
            tags: vec![("dc".to_owned(), name.to_owned())],
            last_write: Some(1_000_000),
            wire_version: 21,
            mechanisms: None,
            is_behind_load_balancer: false,
        }
    }

    fn wanted(mode: Mode) -> ReadPreference {
        ReadPreference {
            mode,
            tags: Vec::new(),
            max_staleness: None,
            heartbeat: Duration::from_secs(10),
        }
    }

    #[test]
    fn the_second_best_is_what_the_mode_allows() {
        let all = [member("a", Role::Primary), member("b", Role::Secondary)];
        for (mode, best, without_primary, without_secondary) in [
            (Mode::Primary, None, None, None),
            (Mode::PrimaryPreferred, Some("b"), Some("b"), None),
            (Mode::Secondary, Some("b"), Some("b"), None),
            (Mode::SecondaryPreferred, Some("b"), Some("b"), Some("a")),
            (Mode::Nearest, Some("a"), Some("b"), Some("a")),
        ] {
            for (members, expected) in [
                (&all[..], best),
                (&all[1..], without_primary),
                (&all[..1], without_secondary),
            ] {
                let found = wanted(mode).second_best(members);
                let found = found.map(|member| member.address.host());
                assert_eq!(found, expected, "{mode:?} of {} members", members.len());
            }
        }
    }

    #[test]
    fn tags_and_staleness_narrow_the_choice() {
        let tag = |value: &str| vec![("dc".to_owned(), value.to_owned())];
        let mut old = member("b", Role::Secondary);
        old.last_write = Some(1_000_000 - 85_000);
        let all = [
            member("a", Role::Primary),
            old,
            member("c", Role::Secondary),
        ];
        let best = |wanted: &ReadPreference| {
            let found = wanted.second_best(&all);
            found.map(|member| member.address.host().to_owned())
        };
        let mut secondary = wanted(Mode::Secondary);
        secondary.tags = vec![tag("nowhere"), tag("c")];
        assert_eq!(best(&secondary).as_deref(), Some("c"));
        assert!(!secondary.takes(&all[2]));
        secondary.tags = vec![tag("c")];
        assert!(secondary.takes(&all[2]) && !secondary.takes(&all[1]));
        secondary.tags = vec![tag("nowhere")];
        assert_eq!(best(&secondary), None);
        secondary.tags = Vec::new();
        secondary.max_staleness = Some(Duration::from_secs(90));
        // 85 s behind, and what may have happened since it was last seen.
        assert_eq!(best(&secondary).as_deref(), Some("c"));
        secondary.max_staleness = Some(Duration::from_secs(95));
        assert_eq!(best(&secondary).as_deref(), Some("b"));
    }

    #[test]
    fn the_primary_is_asked_next_and_nobody_twice() {
        let address = |name: &str| uri::host(name).unwrap();
        let mut search = Search::new(&[address("a"), address("b"), address("a")]);
        assert_eq!(search.next(), Some(address("a")));
        let mut a = member("a", Role::Secondary);
        a.primary = Some(address("c"));
        a.members = ["a", "b", "c", "d"].map(address).to_vec();
        search.follow(&a);
        for name in ["c", "b", "d"] {
            assert_eq!(search.next(), Some(address(name)));
        }
        search.follow(&a);
        assert_eq!(search.next(), None);
    }

    #[test]
    fn a_peer_cannot_fill_our_memory_with_names() {
        let names = |count| (0..count).map(|n| format!("h{n}")).collect::<Vec<_>>();
        let reply = super::super::wire::tests::reply(&bson::rawdoc! {
            "ok": 1,
            "maxWireVersion": 21,
            "setName": "rs0",
            "secondary": true,
            "hosts": bson::RawArrayBuf::from_iter(names(5000)),
            "passives": bson::RawArrayBuf::from_iter(names(5000)),
        });
        let member = Member::read(&uri::host("a").unwrap(), &reply).unwrap();
        assert_eq!(member.members.len(), TEXTS_MAX);
        let said = member.names();
        assert!(said.ends_with("`h8:27017`, `h9:27017`, …"), "{said}");
    }

    #[test]
    fn a_peer_cannot_send_us_round_for_ever() {
        let mut search = Search::new(&[uri::host("a").unwrap()]);
        let mut a = member("a", Role::Secondary);
        a.members = (0..1000)
            .map(|n| uri::host(&format!("h{n}")).unwrap())
            .collect();
        search.follow(&a);
        assert_eq!(search.waiting.len(), HOSTS_MAX);
    }
}
