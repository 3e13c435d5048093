//! Ports of loopback that stay ours until we give them back.
//!
//! A port that the kernel gave and that was closed again is anybody's: the next connection that some
//! other process opens may take it before the server listens. So ports come from below the range that
//! the kernel gives, and a lock on a file says whose each is.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};

/// A port of loopback, nobody else's while this lives.
#[derive(Debug)]
pub struct Port {
    port: u16,
    _lock: File,
}

impl Port {
    /// The next port on which nobody listens and which no other test has.
    pub fn reserve() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let folder = locks();
        // Processes begin at different places, so that they seldom meet.
        let begin = u16::try_from(std::process::id() % u32::from(PORTS)).unwrap_or(0);
        for _ in 0..PORTS {
            let step = NEXT.fetch_add(1, Ordering::Relaxed);
            let port = FIRST + (begin.wrapping_add(step)) % PORTS;
            let lock = File::create(folder.join(port.to_string())).expect("a file can be made");
            if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok() {
                return Self { port, _lock: lock };
            }
        }
        panic!("all ports from {FIRST} on are taken");
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }
}

fn locks() -> PathBuf {
    let folder = std::env::temp_dir().join("countersign-test-ports");
    fs::create_dir_all(&folder).expect("the folder of temporary files can be written");
    folder
}

/// Below 32,768, where Linux begins to give ports to whoever connects.
const FIRST: u16 = 20_000;
const PORTS: u16 = 12_000;
