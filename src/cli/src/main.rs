//! `countersign`: a private CA for service-to-service mTLS, and its operators' commands.
//!
//! In scope: reading arguments, contexts and files; asking the CA through the library
//! `countersign`; showing what it says. Results go to stdout, everything else to stderr; the exit
//! code is one of [`exit::Exit`].
//!
//! Not in scope: any rule about certificates. They live in `identity` (verify), `issuance` (lint)
//! and the CA (policy), and this crate only shows what those decided.

mod acceptance;
mod admin_port;
mod args;
mod bundle_file;
mod ca_context;
mod ca_host;
mod carried;
mod chain;
mod clock;
mod columns;
mod commands;
mod context;
mod contexts;
mod crl_file;
mod description;
mod destination;
mod dev_folder;
mod diagnostics;
mod error;
mod escape;
mod exit;
mod files;
mod folder_contents;
mod installation;
mod memory;
mod next_step;
mod operator_place;
mod options;
mod other_file;
mod output;
mod own_svid;
mod passphrase;
mod passphrase_rules;
mod pending;
mod policy_folder;
mod presented;
mod private_key;
mod refused_svid;
mod renewal;
mod report;
mod seen_log;
mod session;
mod shell;
mod subject;
mod svid_folder;
mod svid_record;
mod table;
mod target;
mod text;
mod trust;
mod verdict;

use std::process::ExitCode;

use anyhow::Context;
use mimalloc::MiMalloc;
use server::BLOCKING_THREADS;
use tokio::runtime::Builder;

use crate::error::exit_of;
use crate::exit::Exit;
use crate::memory::Swap;
use crate::output::Lines;
use crate::session::Session;

/// A certificate costs some hundred allocations: with the system's allocator a tenth of its time.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let swap = memory::protect();
    files::keep_owners_permissions();
    let runtime =
        Builder::new_multi_thread().enable_all().max_blocking_threads(BLOCKING_THREADS).build();
    match runtime.context("the system gives no threads; see `ulimit -u`") {
        Ok(runtime) => runtime.block_on(run(swap)).into(),
        Err(error) => {
            report::error(&error);
            Exit::Failed.into()
        }
    }
}

async fn run(swap: Swap) -> Exit {
    let cli = args::parse();
    cli.start_diagnostics();
    tracing::debug!(?swap, "memory is not dumpable");
    let lines = cli.lines();
    let session = Session::new(cli.options).with_lines(lines);
    match commands::run(cli.command, &session).await {
        Ok(exit) => exit,
        Err(error) => {
            let error = admin_port::recognised(error).await;
            match lines {
                Lines::Diagnostics => report::event(&error),
                Lines::Text => report::error(&error),
            }
            exit_of(&error)
        }
    }
}
