//! Other mTLS proxies beside ours: the same certificates, the same client, the same work.
//!
//! Each proxy is a process with one thread for connections. It takes TLS 1.3 only, demands a
//! client certificate below the root, keeps no session, logs nothing, and connects to the same
//! plain backend for each connection that it takes. Ours is a [`Listener`](countersign::Listener)
//! that forwards: the library inside a service, above, needs neither backend nor copying.
//!
//! What the figures include:
//!
//! - A connection: TCP, a full handshake with both certificates, the connection to the backend,
//!   one request and its answer, and both ends closed. *New*: each client has another certificate.
//!   *Returns*: all have the same, which only ours remembers; a new revocation makes it forget.
//! - A request: the next one on a connection that is kept alive, sixteen of them at once.
//! - Memory: resident once started, and what each idle connection adds, with its backend's.
//!
//! The proxies take turns, round by round, and so does the floor: machines of this kind change their
//! speed while they run. Medians of the rounds are shown.
//!
//! What is not the same: ours verifies the log's countersignature and looks up revocations, which
//! none of the others can; ours, Envoy and ghostunnel compare the SPIFFE ID, nginx cannot;
//! ghostunnel sends a session ticket that nobody uses, and has no option against it; and nginx
//! with an OpenSSL before 3.5 has no ML-KEM, hence the cheaper key exchange that the table shows.

mod backend;
mod candidate;
mod forwarder;
mod proxy;
mod software;

use crate::authority::TestAuthority;
use crate::floor;
use crate::process::median;
use candidate::Candidate;
pub(crate) use forwarder::{MODE, forward};
use software::Software;
pub(crate) use software::{Peer, peers};

/// Prints one row for each.
pub(crate) fn print(authority: &TestAuthority, peers: Vec<Peer>) {
    let ours = Peer { software: Software::Countersign, program: std::env::current_exe().unwrap() };
    let mut candidates: Vec<Candidate> = std::iter::once(ours)
        .chain(peers)
        .map(|peer| Candidate::start(authority, &peer, CONNECTIONS))
        .collect();
    let mut floors = Vec::new();
    for _ in 0..ROUNDS {
        floors.push(floor::once(authority));
        candidates.iter_mut().for_each(|candidate| candidate.round(authority));
    }
    let floor = median(floors);
    println!("\nproxies, one thread each: CPU of the process; memory of {CONNECTIONS} connections");
    println!("floor in the same rounds: {floor:.1} µs");
    header(["", "new", "x floor", "returns", "x floor", "request", "RSS", "idle", "key exchange"]);
    header(["", "µs", "", "µs", "", "µs", "MiB", "KiB each", ""]);
    candidates.iter().for_each(|candidate| candidate.print(floor));
}

fn header(columns: [&str; 9]) {
    let [name, numbers @ .., last] = columns;
    let numbers = numbers.map(|column| format!("{column:>8}")).join(" ");
    println!("{name:<22}{numbers}  {last}");
}

const CONNECTIONS: usize = 1_000;
const ROUNDS: usize = 7;
