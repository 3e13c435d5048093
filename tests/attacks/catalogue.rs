//! The attacks: what each does, to which CA, and what it may cost.

use std::net::Ipv4Addr;
use std::pin::Pin;

use anyhow::Context;

use crate::attacker::Attacker;
use crate::{crowd, floods, refusals, renewals, slow, subscribers, unread, waiting};

type Running = Pin<Box<dyn Future<Output = anyhow::Result<()>>>>;

/// One row of the table.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) run: fn(Attacker) -> Running,
    /// `ulimit -n` of the CA, where not this process's.
    pub(crate) open_files: Option<u32>,
    /// The same with `--long`.
    pub(crate) open_files_long: Option<u32>,
    /// Lines of the CA's configuration.
    pub(crate) configuration: &'static str,
    /// Revocations that a newcomer is told: without and with `--long`.
    pub(crate) revocations: [usize; 2],
    /// Where honest strangers come from.
    pub(crate) strangers_from: Ipv4Addr,
    /// Per cent of a core that the CA may spend.
    pub(crate) most_cpu: Option<f64>,
}

/// Each of them, in the order in which they run.
pub(crate) const ATTACKS: &[Attack] = &[
    of("unread", "asks for openapi.json and reads nothing", |a| Box::pin(unread::api(a))),
    of("unread-h2", "the same over HTTP/2, 100 streams each", |a| Box::pin(unread::http_2(a))),
    of("unread-h2-window", "the same, read, but with no window", |a| {
        Box::pin(unread::no_window(a))
    }),
    of("unread-admin", "asks the admin port for /metrics and reads nothing", |a| {
        Box::pin(unread::admin(a))
    }),
    feed("feed", "one certificate subscribes and reads nothing", |a| {
        Box::pin(subscribers::one_certificate(a))
    }),
    feed("feed-replicas", "replicas of an identity subscribe and read nothing", |a| {
        Box::pin(subscribers::many_replicas(a))
    }),
    flood("flood-settings", "HTTP/2 SETTINGS", |a| Box::pin(floods::settings(a))),
    flood("flood-ping", "HTTP/2 PING", |a| Box::pin(floods::ping(a))),
    flood("flood-priority", "HTTP/2 PRIORITY", |a| Box::pin(floods::priority(a))),
    flood("flood-window", "HTTP/2 WINDOW_UPDATE", |a| Box::pin(floods::window(a))),
    flood("flood-continuation", "HTTP/2 CONTINUATION, empty, without end", |a| {
        Box::pin(floods::continuation(a))
    }),
    of("flood-header-bomb", "HTTP/2 headers of 48 MB in 16 KB", |a| {
        Box::pin(floods::header_bomb(a))
    }),
    of("flood-reset", "HTTP/2 requests taken back at once", |a| Box::pin(floods::reset(a))),
    Attack {
        open_files: Some(2_048),
        ..of("crowd", "one certificate connects without end", |a| {
            Box::pin(crowd::one_certificate(a))
        })
    },
    Attack {
        open_files: Some(2_048),
        ..of("crowd-line", "certificates renewed from one another do", |a| {
            Box::pin(crowd::one_line(a))
        })
    },
    few_files("handshakes", "TCP without TLS, more than the CA has files", |a| {
        Box::pin(slow::handshakes(a))
    }),
    of("connects", "TCP without a byte, from the operators' own address", |a| {
        Box::pin(slow::connects(a))
    }),
    few_files("strangers", "idle strangers, more than the CA has files", |a| {
        Box::pin(slow::connections(a))
    }),
    of("slow-headers", "a byte of a header a second", |a| Box::pin(slow::headers(a))),
    of("slow-bodies", "a byte of a body a second", |a| Box::pin(slow::bodies(a))),
    of("bodies", "64 KiB of body but for the last byte", |a| {
        Box::pin(slow::nearly_whole_bodies(a))
    }),
    of("bodies-h2", "the same over HTTP/2, 100 streams each", |a| {
        Box::pin(slow::nearly_whole_bodies_by_streams(a))
    }),
    of("bodies-of-strangers", "the same by a hundred addresses, as slow as may be", |a| {
        Box::pin(slow::bodies_of_strangers(a))
    }),
    of("bodies-of-a-line", "the same by certificates renewed from one another", |a| {
        Box::pin(slow::bodies_of_a_line(a))
    }),
    of("waiting", "headers of 15 KiB wait behind an answer without room", |a| {
        Box::pin(waiting::by_a_certificate(a))
    }),
    of("waiting-strangers", "the same by strangers", |a| Box::pin(waiting::by_strangers(a))),
    of("endless-h2", "bodies that never end, behind such headers", |a| {
        Box::pin(waiting::bodies(a))
    }),
    of("hellos", "a hello of TLS of 64 KiB that is never whole", |a| Box::pin(waiting::hellos(a))),
    of("renew-revoke", "renews, revokes the old, and again", |a| {
        Box::pin(renewals::renew_and_revoke(a))
    }),
    Attack {
        configuration: "",
        ..of("refused", "requests that are refused, from the operator's address", |a| {
            Box::pin(refusals::of_every_kind(a))
        })
    },
    of("refused-unlimited", "the same with requests_per_second = 0", |a| {
        Box::pin(refusals::of_every_kind(a))
    }),
    of("log-noise", "control characters wherever text goes", |a| {
        Box::pin(refusals::control_characters(a))
    }),
    of("oversized", "deep and long bodies, many headers, long paths", |a| {
        Box::pin(refusals::oversized(a))
    }),
];

/// The attack of this name.
pub(crate) fn named(name: &str) -> anyhow::Result<&'static Attack> {
    ATTACKS.iter().find(|attack| attack.name == name).context("there is no such attack")
}

const fn of(name: &'static str, what: &'static str, run: fn(Attacker) -> Running) -> Attack {
    Attack {
        name,
        what,
        run,
        open_files: None,
        open_files_long: None,
        configuration: "requests_per_second = 0",
        revocations: [0, 0],
        strangers_from: Ipv4Addr::LOCALHOST,
        most_cpu: None,
    }
}

/// A snapshot is read by each subscriber, or is not.
const fn feed(name: &'static str, what: &'static str, run: fn(Attacker) -> Running) -> Attack {
    Attack { revocations: [500, 10_000], ..of(name, what, run) }
}

/// A flood costs a few per cent of a core a connection, then the connection.
const fn flood(name: &'static str, what: &'static str, run: fn(Attacker) -> Running) -> Attack {
    Attack { most_cpu: Some(5.0 * floods::CONNECTIONS as f64), ..of(name, what, run) }
}

/// Places are so few that the operators' address, with twenty new connections a second, has as many as
/// any of the attacker's: strangers come from another.
const fn few_files(name: &'static str, what: &'static str, run: fn(Attacker) -> Running) -> Attack {
    Attack {
        open_files: Some(512),
        open_files_long: Some(1_024),
        strangers_from: Ipv4Addr::new(127, 0, 2, 1),
        ..of(name, what, run)
    }
}
