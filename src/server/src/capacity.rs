//! How many connections the service takes: as many as the files that it may open.

use std::time::Duration;

use authority::{CRL_LIMIT, FEED_BACKLOG, LIMITS, MAX_LEFT_BEHIND};
use countersign::Limits;
use identity::feed::{MAX_CHUNK, MAX_CHUNKS};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::bodies::{OF_OPERATORS, OF_STRANGERS, OF_WORKLOADS};
use crate::caller::{BODY_TIME, LEAST_RATE, MAX_BODY};
use crate::error::ServerError;
use crate::readiness::PROBE_EVERY;

/// The files that this process may open, and what is made of them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capacity {
    /// The limit of open files (`ulimit -n`).
    pub open_files: usize,
    /// What the API takes.
    pub api: Limits,
    /// What the admin port takes.
    pub admin: Limits,
}

impl Capacity {
    /// Raises the limit of open files as far as this process may, and takes its share of it. Without
    /// that, 1,005 strangers would leave no file to the database: many systems begin with 1,024.
    pub fn raise() -> Self {
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "cannot raise the limit of open files (ulimit -n)");
        }
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Self::of(usize::try_from(files).unwrap_or(usize::MAX))
    }

    /// What so many open files allow.
    pub fn of(open_files: usize) -> Self {
        let admin = Limits {
            connections: 0,
            handshakes: ADMIN,
            handshakes_per_source: ADMIN / 2,
            idle_timeout: Duration::from_secs(60),
            ..Limits::default()
        };
        let admin = admin.within_open_files(open_files / 8);
        let admin = Limits {
            handshakes: admin.handshakes.max(LEAST_ADMIN),
            handshakes_per_source: admin.handshakes_per_source.max(LEAST_ADMIN / 8),
            ..admin
        };
        let api =
            Limits { unread: UNREAD, streams: STREAMS, headers: HEADERS, ..Limits::default() };
        let api = api.within_open_files(open_files - admin.handshakes.min(open_files));
        Self { open_files, api, admin }
    }

    /// Fails if the CA would have too few files for itself, beside whoever comes: it would start, and
    /// sooner or later let nobody in.
    pub fn require_enough(&self) -> Result<(), ServerError> {
        match self.open_files {
            open_files @ ..LEAST => Err(ServerError::FewFiles { open_files, least: LEAST }),
            _ => Ok(()),
        }
    }

    /// Every limit that is not configured, by its name: what `config check` shows.
    pub fn limits(&self) -> Vec<(String, String)> {
        let server = self.of_server().into_iter().map(|(name, value)| (name.to_owned(), value));
        let engine = LIMITS.iter().map(|it| (format!("limits.{}", it.name()), it.shown()));
        server.chain(engine).collect()
    }

    fn of_server(&self) -> Vec<(&'static str, String)> {
        let Limits {
            connections,
            handshakes,
            handshakes_per_source,
            handshake_timeout,
            header_timeout,
            idle_timeout,
            write_timeout,
            unread,
            streams,
            headers,
            drain,
            ..
        } = &self.api;
        let mebibytes = |bytes: usize| format!("{} MiB", bytes / 1024 / 1024);
        let seconds = |duration: &Duration| format!("{} s", duration.as_secs());
        vec![
            ("limits.open_files", self.open_files.to_string()),
            ("limits.open_files_least", LEAST.to_string()),
            ("limits.connections", connections.to_string()),
            ("limits.strangers", handshakes.to_string()),
            ("limits.strangers_per_address", handshakes_per_source.to_string()),
            ("limits.admin_connections", self.admin.handshakes.to_string()),
            ("limits.feed_snapshot", mebibytes(MAX_CHUNKS * MAX_CHUNK)),
            ("limits.crl_certificates", CRL_LIMIT.to_string()),
            ("limits.threads_for_disks", BLOCKING_THREADS.to_string()),
            ("limits.acts_left_behind", MAX_LEFT_BEHIND.to_string()),
            ("limits.store_probed_every", format!("{PROBE_EVERY} s")),
            ("limits.requests_per_connection", streams.to_string()),
            ("limits.requests_per_connection_of_strangers", Limits::STRANGERS_STREAMS.to_string()),
            ("limits.requests_with_a_body_of_strangers", Limits::STRANGERS_BODIES.to_string()),
            ("limits.strangers_over_http2", Limits::STRANGERS_OVER_HTTP_2.to_string()),
            ("limits.requests_at_once_of_a_token", crate::rate::OF_A_TOKEN.to_string()),
            ("limits.request_body", format!("{} KiB", MAX_BODY / 1024)),
            ("limits.bodies_of_strangers", mebibytes(OF_STRANGERS)),
            ("limits.bodies_of_workloads", mebibytes(OF_WORKLOADS)),
            ("limits.bodies_of_operators", mebibytes(OF_OPERATORS)),
            ("limits.policy_sets_at_once", crate::policy_sets::AT_ONCE.to_string()),
            ("limits.refusals_told_a_second", refusals_told()),
            ("limits.handshakes_told_a_second", Limits::TOLD_A_SECOND.to_string()),
            ("limits.frames_a_second", Limits::FRAMES_A_SECOND.to_string()),
            ("limits.request_header", format!("{} KiB", Limits::HEADER / 1024)),
            ("limits.feed_messages_unread", FEED_BACKLOG.to_string()),
            ("limits.feed_poll", seconds(&crate::routes::LONGEST_POLL)),
            ("limits.unread_answers", format!("{} KiB", unread / 1024)),
            ("limits.headers_in_flight", format!("{} KiB", headers / 1024)),
            ("limits.headers_of_strangers", format!("{} KiB", Limits::STRANGERS_HEADERS / 1024)),
            ("limits.waiting_headers", format!("{} KiB", Limits::WAITING / 1024)),
            ("limits.handshake", format!("{} KiB", Limits::HANDSHAKE / 1024)),
            ("limits.handshake_timeout", seconds(handshake_timeout)),
            ("limits.header_timeout", seconds(header_timeout)),
            ("limits.body_timeout", seconds(&BODY_TIME)),
            ("limits.body_least_rate", format!("{} KiB/s", LEAST_RATE / 1024)),
            ("limits.write_timeout", seconds(write_timeout)),
            ("limits.idle_timeout", seconds(idle_timeout)),
            ("limits.drain", seconds(drain)),
            ("limits.stop", seconds(&STOPPED_WITHIN)),
        ]
    }

    /// Tells what may be open at once.
    pub(crate) fn measure(&self) {
        metrics::gauge!("countersign_open_files_limit").set(self.open_files as f64);
        for (port, kind, limit) in [
            ("api", "peers", self.api.connections),
            ("api", "strangers", self.api.handshakes),
            ("admin", "strangers", self.admin.handshakes),
        ] {
            metrics::gauge!("countersign_connections_limit", "port" => port, "kind" => kind)
                .set(limit as f64);
        }
    }
}

fn refusals_told() -> String {
    let most = crate::diagnostics::REFUSALS_A_SECOND;
    format!("{most} of strangers, of workloads and of operators each; of failures as many")
}

/// Threads of the runtime for what waits for disks: each has a connection to the store and an arena
/// of its own, half a megabyte, and more of them read no faster. Work that takes long is done one by
/// one.
pub const BLOCKING_THREADS: usize = 8;
/// Probes and a few scrapers.
const ADMIN: usize = 256;
/// However few files there are: whoever is slow on the admin port has its place for a tenth of a second,
/// and a probe waits behind few of them.
const LEAST_ADMIN: usize = 16;
/// What the CA opens itself: two dozen at rest; three for each thread that reads the store.
const OWN: usize = 24 + 3 * BLOCKING_THREADS;
/// A quarter of what the admin port leaves is kept back.
const LEAST: usize = 4 * OWN + LEAST_ADMIN;
/// The largest answer of the API is a page of certificates: whoever has left one unread waits.
const UNREAD: usize = 64 * 1024;
/// Requests in flight on one connection over HTTP/2: a workload has one for the feed and one more now
/// and then, an operator's command one after another. Each may cost some kilobytes.
const STREAMS: u32 = 32;
/// One for each, of a kilobyte, or a few that are large.
const HEADERS: usize = 32 * 1024;
/// From the signal to the end of the process: less than the 30 s after which ECS (`stopTimeout`) and
/// Kubernetes kill it.
pub const STOPPED_WITHIN: Duration = Duration::from_secs(25);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_kept_back_whatever_the_limit() {
        for files in [LEAST, 256, 1024, 4096, 65_536, 1 << 30] {
            let capacity = Capacity::of(files);
            capacity.require_enough().unwrap();
            let Capacity { api, admin, .. } = capacity;
            let taken = api.connections + api.handshakes + admin.handshakes;
            assert!(taken <= files - files / 8, "{files}: {taken}");
            assert!(taken <= files - OWN, "{files}: {taken}");
            assert!(api.handshakes > 0 && api.handshakes_per_source > 0);
            assert!(admin.handshakes > 0 && admin.handshakes_per_source > 0);
        }
        assert!((0..LEAST).all(|files| Capacity::of(files).require_enough().is_err()));
        assert_eq!(Capacity::of(1 << 20).api.connections, Limits::default().connections);
    }
}
