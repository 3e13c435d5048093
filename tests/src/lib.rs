//! What the tests of the whole share: [`Environment`], a CA of real processes on free ports.
//!
//! In scope: starting, stopping and killing `countersign`, running its commands as their users do,
//! asking OpenSSL and others what they think of the result, and clients that cost little, for
//! whoever measures. Not in scope: any stand-in for
//! what runs here.
//!
//! The binary is the one built beside these tests (`cargo build -p countersign-cli`, which
//! `tests/run` does first), or what `COUNTERSIGN_BIN` names; examples of the library are those
//! built beside them too.

use std::time::Duration;

mod client;
mod command;
mod environment;
mod ports;
mod process;
pub mod readme;
mod requests;

pub use client::{Client, Door, Target};
pub use command::{Outcome, binary, example, openssl, program};
pub use environment::{Environment, Settings, TRUST_DOMAIN};
pub use ports::Port;
pub use process::{Memory, Process};
pub use requests::{Requests, certificate_request, post, token_request};

/// How long a test waits for what is done at once elsewhere: on a busy machine nothing is.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks at what is waited for: who spins takes the processor from it.
pub fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}
