//! What is measured of one proxy.

use super::backend::Backend;
use super::proxy::{Proxy, REQUEST};
use super::software::{Peer, Software};
use crate::authority::TestAuthority;
use crate::floor::{CLIENT, SERVER};
use crate::process::{Metered, median, runtime};
use crate::{folder, handshakes, requests};

/// A proxy with its figures so far.
pub(crate) struct Candidate {
    software: Software,
    proxy: Proxy,
    /// MiB once started, and KiB for each idle connection.
    memory: (f64, f64),
    key_exchange: String,
    new: Vec<f64>,
    returns: Vec<f64>,
    request: Vec<f64>,
}

impl Candidate {
    /// Starts it, sees that it does what all of them do, and weighs it.
    pub(crate) fn start(authority: &TestAuthority, peer: &Peer, connections: usize) -> Self {
        let backend = Backend::start();
        let proxy = Proxy::start(peer, &backend, folder::write(authority, SERVER, CLIENT));
        let resident = proxy.process.resident() / 1024.0;
        proxy.refuses_strangers(authority);
        let key_exchange = proxy.key_exchange(authority);
        let memory = (resident, proxy.idle(authority, &backend, connections));
        let (new, returns, request) = Default::default();
        let software = peer.software;
        Self { software, proxy, memory, key_exchange, new, returns, request }
    }

    /// Measures everything once.
    pub(crate) fn round(&mut self, authority: &TestAuthority) {
        let (server, address) = (&self.proxy.process, self.proxy.address);
        let connections = |clients| handshakes::round(server, address, REQUEST, clients);
        self.new.push(connections(handshakes::new_clients(authority)));
        self.returns.push(connections(handshakes::returning_clients(authority)));
        self.request.push(runtime().block_on(requests(authority, &self.proxy)));
    }

    /// Prints the medians.
    pub(crate) fn print(&self, floor: f64) {
        let [new, returns, request] =
            [&self.new, &self.returns, &self.request].map(|rounds| median(rounds.clone()));
        let (resident, idle) = self.memory;
        println!(
            "{:<22}{new:>8.1} {:>8.2} {returns:>8.1} {:>8.2} {request:>8.1} {resident:>8.1} \
             {idle:>8.1}  {}",
            self.software.name(),
            new / floor,
            returns / floor,
            self.key_exchange
        );
    }
}

/// Microseconds of the proxy for each request, on some connections at once: with one alone, most
/// would be spent on waking up.
async fn requests(authority: &TestAuthority, proxy: &Proxy) -> f64 {
    let mut streams = Vec::new();
    for _ in 0..AT_ONCE {
        streams.push(requests::connect(authority, proxy.address).await);
    }
    let before = proxy.process.micros();
    let asking = streams.into_iter().map(|mut stream| {
        tokio::spawn(async move {
            for _ in 0..REQUESTS {
                requests::ask(&mut stream).await;
            }
            stream
        })
    });
    for asked in asking.collect::<Vec<_>>() {
        asked.await.unwrap();
    }
    (proxy.process.micros() - before) / (AT_ONCE * REQUESTS) as f64
}

const AT_ONCE: usize = 16;
const REQUESTS: usize = 500;
