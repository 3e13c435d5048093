//! Connections that do nothing: what they weigh, and how long they take to be judged again.
//!
//! Their clients live in another process, so that only the server's memory counts.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign::{Limits, Verification};

use crate::authority::TestAuthority;
use crate::floor::{CLIENT, SERVER, endpoint, peers};
use crate::folder;
use crate::process::{Process, in_thread, runtime};
use crate::requests::hello;
use crate::verdict;

pub(crate) fn print(authority: &TestAuthority) {
    println!("\n{CONNECTIONS} idle connections (sweep: low milliseconds)");
    let server = endpoint(authority, authority.svid(SERVER));
    let (http, served) = (server.clone(), peers(authority, CLIENT));
    let (_, address) = in_thread(async move |ready| {
        let listener = http.listen("127.0.0.1:0", served).await.unwrap().with_limits(limits());
        ready.send(listener.local_address()).unwrap();
        let serving = listener.serve(tower::service_fn(hello));
        serving.until(std::future::pending(), Duration::ZERO).await.unwrap();
    });
    let clients = weigh(authority, server.verification(), "memory of one, serving HTTP", address);
    drop(clients);
    let server = endpoint(authority, authority.svid(SERVER));
    let verification = Arc::clone(server.verification());
    let peers = peers(authority, CLIENT);
    let (_, address) = in_thread(async move |ready| {
        let mut listener = server.listen("127.0.0.1:0", peers).await.unwrap().with_limits(limits());
        ready.send(listener.local_address()).unwrap();
        let mut held = Vec::with_capacity(CONNECTIONS);
        while let Some(stream) = listener.accept().await {
            held.push(stream);
        }
    });
    let clients = weigh(authority, &verification, "memory of one, a stream", address);
    sweep(authority, &verification);
    drop(clients);
}

fn limits() -> Limits {
    Limits { connections: CONNECTIONS * 5 / 4, ..Limits::default() }
}

/// Opens them all, and prints what each but the first few costs.
fn weigh(
    authority: &TestAuthority,
    verification: &Verification,
    name: &str,
    address: SocketAddr,
) -> [Clients; 2] {
    let warm = Clients::start(authority, address, 100);
    let this = Process(std::process::id());
    let before = this.resident();
    let clients = Clients::start(authority, address, CONNECTIONS - 100);
    while verification.connections().open < CONNECTIONS {
        std::thread::yield_now();
    }
    let each = (this.resident() - before) / (CONNECTIONS - 100) as f64;
    println!("{name:<46} {each:>9.1} KiB {}", verdict(each, 20.0, 0));
    [warm, clients]
}

fn sweep(authority: &TestAuthority, verification: &Verification) {
    verification.update_revocations(|held| {
        for number in 0_u64..100_000 {
            let serial_number = identity::SerialNumber::from_octets(&(number + 1).to_be_bytes());
            held.revoke_serial(serial_number.unwrap());
        }
    });
    let timed = |name: &str, change: &dyn Fn()| {
        let begun = Instant::now();
        change();
        println!("{name:<46} {:>9.2} ms", begun.elapsed().as_secs_f64() * 1000.0);
    };
    timed("a revocation that closes none of them", &|| {
        let other = authority.id("/prod/other");
        verification.update_revocations(|held| held.deny(other, 1));
    });
    timed("a trust state that covers all of them", &|| {
        assert_eq!(verification.replace_trust(authority.trust()), 0);
    });
    timed("a revocation that closes all of them", &|| {
        let client = authority.id(CLIENT);
        verification.update_revocations(|held| held.deny(client, 1));
    });
    assert_eq!(verification.connections().closed_in_all(), CONNECTIONS as u64);
}

/// A process that holds connections until it is dropped.
pub(crate) struct Clients(Child);

impl Clients {
    pub(crate) fn start(authority: &TestAuthority, address: SocketAddr, count: usize) -> Self {
        let folder = folder::write(authority, CLIENT, SERVER);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([MODE, &address.to_string(), &count.to_string()])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let ready = BufReader::new(child.stdout.take().unwrap()).lines().next();
        assert_eq!(ready.unwrap().unwrap(), READY);
        Self(child)
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Opens connections, says so, and holds them.
pub(crate) fn client(address: &str, count: usize, folder: &Path) {
    let (endpoint, peers) = folder::open(folder);
    runtime().block_on(async {
        let mut held = Vec::with_capacity(count);
        for _ in 0..count {
            held.push(endpoint.connect(address, peers.clone()).await.unwrap());
        }
        println!("{READY}");
        std::future::pending::<()>().await;
    });
}

const CONNECTIONS: usize = 10_000;
/// The argument of a process that is to be the clients.
pub(crate) const MODE: &str = "hold-connections";
const READY: &str = "ready";
