//! Opening what was made: the store, and the pin beside it.

use std::path::Path;

use identity::{TextFault, TrustDomain, TrustPin, TrustState, utf8_text};

use crate::error::Error;
use crate::files::{MAX_STATE, read_state, write_private};
use crate::keys::{Keys, online_folder};
use crate::setup::REQUEST;
use crate::shell::quoted;
use crate::store::sqlite::{Migrated, SqliteStore};

/// Opens the store of a CA. One of before heads were sealed is verified and sealed first; then
/// what was checked is returned, for the operator to see.
///
/// The new key is on the disk before the head is sealed by it, and counts as the folder's only
/// afterwards: a crash in between is gone through again. From then on an unsealed store is refused,
/// or whoever writes to the database could ask for a new seal.
pub fn open_store(
    state: &Path,
    trust_domain: &TrustDomain,
    keys: &Keys,
) -> Result<(SqliteStore, Option<Migrated>), Error> {
    if let Some(key) = keys.head_key()? {
        return Ok((SqliteStore::open(state, trust_domain, &key)?, None));
    }
    let (is_sealed, next) = (SqliteStore::is_sealed(state)?, keys.next_head_key()?);
    let opened = match (is_sealed, next) {
        (true, None) => return Err(head_key_gone(state)),
        (true, Some(key)) => (SqliteStore::open(state, trust_domain, &key)?, None),
        (false, next) => {
            let key = next.map_or_else(|| keys.make_next_head_key(), Ok)?;
            let (store, migrated) = SqliteStore::migrate(state, trust_domain, &key)?;
            (store, Some(migrated))
        }
    };
    keys.keep_next_head_key()?;
    Ok(opened)
}

pub(super) fn head_key_gone(state: &Path) -> Error {
    let folder = online_folder(state);
    Error::Folder(format!(
        "{}/head.key is gone: restore it from a backup of that folder; without it nobody can tell \
         whether this CA wrote what the database says",
        folder.display()
    ))
}

/// The pin of a finished CA, as its folder keeps it.
pub fn read_pin(state: &Path) -> Result<TrustPin, Error> {
    let path = state.join(PIN);
    let damaged = |why: &dyn std::fmt::Display| {
        let shown = path.display();
        Error::Folder(format!("{shown} cannot be used: {why}; {}", restore_pin(&path)))
    };
    let text = read_state(&path, MAX_STATE).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::Folder(without_pin(state, &path)),
        _ => Error::Folder(format!("{}: {error}", path.display())),
    })?;
    let text = utf8_text(&text).map_err(|fault| match fault {
        // Base32 in another encoding is base32.
        TextFault::NotUtf8 { .. } => damaged(&"it holds no text"),
        fault => damaged(&fault),
    })?;
    if text.trim().is_empty() {
        return Err(damaged(&"it is empty"));
    }
    text.parse().map_err(|error| damaged(&error))
}

/// The step that brings `trust.pin` back.
fn restore_pin(path: &Path) -> String {
    format!(
        "restore it from a backup, or from the context of an operator of this CA: countersign trust \
         pin > {}",
        quoted(path)
    )
}

fn without_pin(state: &Path, path: &Path) -> String {
    if state.join(REQUEST).exists() {
        return format!(
            "{} waits for its issuer's certificate: countersign init --certificate FILE",
            state.display()
        );
    }
    if !online_folder(state).exists() {
        return format!(
            "there is no CA in {}: look at `state` in the configuration; `countersign init` makes one",
            state.display()
        );
    }
    format!("{} is gone: {}", path.display(), restore_pin(path))
}

/// Writes the pin of a trust state beside the keys.
pub(super) fn write_pin(trust_state: &TrustState, folder: &Path) -> Result<TrustPin, Error> {
    let (path, pin) = (folder.join(PIN), trust_state.pin());
    write_private(&path, format!("{pin}\n").as_bytes())
        .map_err(|error| Error::Folder(format!("{}: {error}", path.display())))?;
    Ok(pin)
}

pub(super) const PIN: &str = "trust.pin";
