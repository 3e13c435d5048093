//! What mutual TLS costs a server, as multiples of rustls alone in the same run, and what an idle
//! connection weighs: `cargo bench -p countersign`. Linux only: it reads `/proc`.
//!
//! With other mTLS proxies beside a proxy of ours (see [`beside`]), any of:
//!
//! ```text
//! cargo bench -p countersign --bench handshake -- \
//!     --beside ghostunnel=PATH --beside envoy=PATH --beside nginx=PATH
//! ```

#![allow(clippy::unwrap_used, reason = "a benchmark fails where it unwraps")]

#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/sidecar/authority.rs"]
mod authority;
mod beside;
mod floor;
mod folder;
mod handshakes;
mod idle;
mod process;
mod requests;
mod revocations;

use std::process::ExitCode;

use authority::TestAuthority;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [mode, address, count, folder] if mode == idle::MODE => {
            idle::client(address, count.parse().unwrap(), folder.as_ref());
        }
        [mode, address, backend, folder] if mode == beside::MODE => {
            beside::forward(address, backend, folder.as_ref());
        }
        options => match beside::peers(options) {
            Ok(peers) => measure(peers),
            Err(error) => {
                eprintln!("error: {error}");
                return ExitCode::from(2);
            }
        },
    }
    ExitCode::SUCCESS
}

fn measure(peers: Vec<beside::Peer>) {
    process::describe_machine();
    let authority = TestAuthority::new();
    let floor = floor::measure(&authority);
    println!("\nfull handshakes with X25519MLKEM768, P-256, both certificates: CPU of the server");
    println!("{:<46} {:>9} {:>8} {:>8}", "", "µs", "x floor", "target");
    row("floor: rustls' server half in memory, webpki", floor, floor, None);
    row("tokio-rustls over TCP, webpki", handshakes::bare(&authority), floor, None);
    row("Listener, a peer that returns", handshakes::returning(&authority), floor, Some(1.35));
    row("Listener, a new peer", handshakes::new(&authority), floor, Some(1.6));
    row("Listener, a peer that resumes", handshakes::resuming(&authority), floor, None);
    requests::print(&authority);
    idle::print(&authority);
    revocations::print(&authority);
    if !peers.is_empty() {
        beside::print(&authority, peers);
    }
}

fn row(name: &str, cost: f64, floor: f64, target: Option<f64>) {
    let ratio = cost / floor;
    let verdict = target.map(|target| verdict(ratio, target, 2)).unwrap_or_default();
    println!("{name:<46} {cost:>9.1} {ratio:>8.2} {verdict}");
}

/// The target, and whether it was missed.
fn verdict(figure: f64, target: f64, digits: usize) -> String {
    let missed = if figure > target { "  MISSED" } else { "" };
    format!("{target:>8.digits$}{missed}")
}
