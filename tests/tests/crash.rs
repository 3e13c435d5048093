//! Killed under load, again and again: what a client holds is in the log and in the store.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::{HashMap, HashSet};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use system_tests::{Environment, PATIENCE};
use tlog::{CertificateLeaf, EntryKind, entry_kind};

/// 20 kills in a usual run, 200 in a long one. When to kill comes from a fixed seed; what is being
/// written at that moment does not, and over the kills it meets every await that persists. On a slow
/// machine that may be before any client has anything, so every fourth kill waits for the first.
#[test]
#[expect(clippy::disallowed_methods, reason = "a test's own setting")]
fn killed_under_load_nothing_that_was_handed_out_is_lost() {
    let kills = if std::env::var_os("COUNTERSIGN_LONG").is_some() { 200 } else { 20 };
    let mut environment = Environment::start();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for kill in 0..kills {
        let mut clients: Vec<_> =
            (0..4).map(|client| start_client(&environment, kill, client)).collect();
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let begun = Instant::now();
        let until = Duration::from_millis(20 + seed % 150);
        let waits_for_one = kill % 4 == 0;
        while begun.elapsed() < until || waits_for_one && !has_installed(&environment, kill) {
            assert!(begun.elapsed() < PATIENCE, "the clients get nothing");
            std::thread::yield_now();
        }
        environment.kill();
        for client in &mut clients {
            client.kill().unwrap();
            client.wait().unwrap();
        }
        environment.serve();
    }
    environment.stop();
    let held = held_by_clients(&environment);
    assert!(!held.is_empty(), "the clients got nothing at all");
    compare(&environment, &held);
}

/// A shell that asks for one certificate after the other, each with a new key.
fn start_client(environment: &Environment, kill: usize, client: usize) -> std::process::Child {
    let script = format!(
        "for n in $(seq 100); do \"$0\" issue spiffe://pay.example/prod/reports \
         --out held/{kill}-{client}-$n -q; done"
    );
    let mut command = std::process::Command::new("bash");
    command.arg("-c").arg(script).arg(system_tests::binary());
    command.current_dir(environment.folder()).env_clear();
    command.env("PATH", "/usr/bin:/bin").env("HOME", environment.folder());
    command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
    command.spawn().unwrap()
}

/// Whether a client has a certificate since the last kill.
fn has_installed(environment: &Environment, kill: usize) -> bool {
    let Ok(folders) = std::fs::read_dir(environment.path("held")) else { return false };
    let since = format!("{kill}-");
    let mut folders = folders.map(Result::unwrap);
    folders.any(|folder| {
        folder.file_name().to_string_lossy().starts_with(&since)
            && folder.path().join("svid.pem").exists()
    })
}

/// Every certificate that a client installed, by its leaf index.
fn held_by_clients(environment: &Environment) -> HashMap<u64, Vec<u8>> {
    let mut held = HashMap::new();
    for entry in std::fs::read_dir(environment.path("held")).unwrap() {
        let Ok(chain) = std::fs::read(entry.unwrap().path().join("svid.pem")) else { continue };
        let mut blocks = CertificateDer::pem_slice_iter(&chain).map(Result::unwrap);
        let (leaf, issuer) = (blocks.next().unwrap(), blocks.next().unwrap());
        let (_, issuer) = x509_parser::parse_x509_certificate(&issuer).unwrap();
        let (rebuilt, _) =
            CertificateLeaf::from_certificate(&leaf, issuer.public_key().raw).unwrap();
        let twice = held.insert(rebuilt.leaf_index, leaf.to_vec());
        assert!(twice.is_none_or(|other| other == leaf.to_vec()), "one leaf, two certificates");
    }
    held
}

fn compare(environment: &Environment, held: &HashMap<u64, Vec<u8>>) {
    let database = rusqlite::Connection::open(environment.path("state/countersign.db")).unwrap();
    let stored: HashMap<u64, Vec<u8>> = database
        .prepare("SELECT leaf_index, der FROM certificates")
        .unwrap()
        .query_map([], |row| Ok((row.get::<_, i64>(0)? as u64, row.get(1)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    for (index, certificate) in held {
        assert_eq!(stored.get(index), Some(certificate), "certificate {index} is not in the store");
    }
    let mut serials = HashSet::new();
    let mut gaps = 0;
    let mut entries =
        database.prepare("SELECT place & ((1 << 40) - 1), bytes FROM entries").unwrap();
    let entries = entries
        .query_map([], |row| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, Vec<u8>>(1)?)))
        .unwrap();
    for entry in entries {
        let (index, bytes) = entry.unwrap();
        if entry_kind(&bytes) != Some(EntryKind::Leaf) {
            continue;
        }
        let leaf = CertificateLeaf::parse(&bytes).unwrap();
        let tbs = x509_parser::prelude::FromDer::from_der(&leaf.tbs_certificate);
        let (_, tbs): (_, x509_parser::certificate::TbsCertificate<'_>) = tbs.unwrap();
        assert!(serials.insert(tbs.raw_serial().to_vec()), "a serial number stands twice");
        match stored.get(&index) {
            Some(certificate) => {
                let split = tlog::split_certificate(certificate).unwrap();
                let (bare, _) = tlog::splice_out(split.tbs).unwrap();
                assert_eq!(bare, leaf.tbs_certificate, "certificate {index} is another's");
            }
            None => gaps += 1,
        }
    }
    let shown: i64 = database
        .query_row(
            "SELECT count(*) FROM records r LEFT JOIN certificates c USING (leaf_index)
             WHERE c.leaf_index IS NULL",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(gaps, shown, "each leaf has its certificate or is shown as a gap");
}
