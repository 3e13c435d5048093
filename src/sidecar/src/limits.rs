//! What one listener takes, and what each connection may do: figures, and the reasons for them.

use std::time::Duration;

/// What one listener takes at most. Handshakes beyond wait in the kernel's backlog.
///
/// How long a *body* may take is the service's question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections with verified peers open at once: 8,192. One on which an answer is under way weighs
    /// some 24 KiB with HTTP's buffers, so this is 200 MiB. Where they are scarce, [`Places`](crate::Places) says who
    /// gives way. Stay below the limit of open files too, with [`handshakes`](Self::handshakes): see
    /// [`within_open_files`](Self::within_open_files).
    pub connections: usize,
    /// Handshakes at once, and clients of the CA that show no certificate: 2,048, half a second's
    /// work of one core. When all are taken, one that lasts longer than a second makes room (with
    /// fewer places less: 0.5 ms for each, 100 ms at least), else the oldest of the address that has
    /// most, for one of an address that has less.
    pub handshakes: usize,
    /// The same from one address (IPv6: one /64), where half of all are taken: 256. One that has said
    /// nothing makes room at once, the oldest of others after that time; what comes before is closed.
    pub handshakes_per_source: usize,
    /// How long a handshake may take: 10 s.
    pub handshake_timeout: Duration,
    /// HTTP/1: from the moment that a request may begin to the end of its header, so the pause
    /// between two requests counts too: 75 s, longer than load balancers keep idle connections.
    pub header_timeout: Duration,
    /// A connection on which no request begins for so long (at most twice) is ended, after the
    /// requests in flight: 5 min.
    pub idle_timeout: Duration,
    /// What is written must move within this, or the connection ends: 30 s. It counts from the moment
    /// that the peer's kernel acknowledges or takes nothing more, or that HTTP/2 grants no room. Our
    /// kernel takes 128 KiB on top of what is under way.
    pub write_timeout: Duration,
    /// Bytes of answers that one connection may leave unread before its next request is begun:
    /// 1 MiB. An answer that is a stream is made as it is read.
    pub unread: usize,
    /// HTTP/2: requests in flight on one connection: 128.
    pub streams: u32,
    /// HTTP/2: bytes of the headers of requests in flight on one connection: 256 KiB, two for each. What
    /// is beyond is not begun (`REFUSED_STREAM`, RFC 9113 §8.7): it may be sent again.
    pub headers: usize,
    /// HTTP/2: how often a ping looks whether the peer still lives: 20 s.
    pub ping_interval: Duration,
    /// HTTP/2: how long the ping's answer may take: 20 s.
    pub ping_timeout: Duration,
    /// How long requests in flight may go on at shutdown before they are cut: 20 s, below the 30 s
    /// that ECS and Kubernetes give by default.
    pub drain: Duration,
}

impl Limits {
    /// HTTP/2: bytes of the headers of requests that wait, on one connection, until its peer has read
    /// more of what was answered: a hundred of the usual size, and half of those in flight at most. What
    /// is beyond that is not begun (`REFUSED_STREAM`), nor is what has a body.
    pub const WAITING: usize = 16 * 1024;
    /// HTTP/2: bytes of the headers in flight of a client without a certificate: 16 KiB, one that is as
    /// large as any.
    pub const STRANGERS_HEADERS: usize = Self::HEADER;
    /// HTTP/2: requests in flight on one connection of a client without a certificate: 4, as some clients
    /// fail that want more at once (the JDK's: "too many concurrent streams").
    pub const STRANGERS_STREAMS: u32 = 4;
    /// HTTP/2: those of them that have a body, which holds some kilobytes while it is on its way: 2. One
    /// more is not begun (`REFUSED_STREAM`).
    pub const STRANGERS_BODIES: usize = 2;
    /// HTTP/2: clients without a certificate that have it at once, with those in their handshake that may
    /// turn out to be one, where such clients may come: 128. A connection of theirs can be made to hold
    /// 90 KiB, against 30 over HTTP/1.1, which is all that is offered (ALPN, RFC 7301) to more.
    pub const STRANGERS_OVER_HTTP_2: usize = 128;
    /// Bytes that a peer may send in a handshake before we answer, beside the first record of what it
    /// asks: several times a hello, or a chain.
    pub const HANDSHAKE: usize = 8 * 1024;

    /// HTTP/2: control frames that a peer may send in a second, over some seconds; then its connection
    /// ends. Those of a request count where it is taken back within 10 ms, or not begun.
    pub const FRAMES_A_SECOND: u64 = 1000;
    /// Bytes of a request's header. More is answered with 431.
    pub const HEADER: usize = 16 * 1024;
    /// Refused handshakes that are told in a second; of more only how many there were.
    pub const TOLD_A_SECOND: u32 = 100;

    /// These limits, no larger than they can be in a process that may open so many files: a quarter
    /// of those is left to everything else, and a quarter of the rest is for handshakes.
    ///
    /// ```
    /// let few = countersign::Limits::default().within_open_files(1024);
    /// assert_eq!((few.connections, few.handshakes, few.handshakes_per_source), (576, 192, 24));
    /// ```
    #[must_use]
    pub fn within_open_files(self, files: usize) -> Self {
        let all = files - files / 4;
        let handshakes = self.handshakes.min((all / 4).max(1));
        let connections = self.connections.min((all - all / 4).max(1));
        let handshakes_per_source = self.handshakes_per_source.min((handshakes / 8).max(1));
        Self { connections, handshakes, handshakes_per_source, ..self }
    }

    /// The default ones, as far as this process may open files now.
    pub(crate) fn of_this_process() -> Self {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let files = files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
        Self::default().within_open_files(files)
    }
}

/// Bytes that the kernel takes of a connection's answers beyond what its peer has room for now:
/// enough that a fast one never waits for us.
#[cfg(feature = "http")]
pub(crate) const UNSENT_IN_KERNEL: u32 = 128 * 1024;

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 8192,
            handshakes: 2048,
            handshakes_per_source: 256,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(75),
            idle_timeout: Duration::from_secs(5 * 60),
            write_timeout: Duration::from_secs(30),
            unread: 1024 * 1024,
            streams: 128,
            headers: 256 * 1024,
            ping_interval: Duration::from_secs(20),
            ping_timeout: Duration::from_secs(20),
            drain: Duration::from_secs(20),
        }
    }
}
