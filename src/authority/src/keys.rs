//! The keys of a state folder: those that `serve` holds, and those that only `init` and `rotate`
//! open. A key is found by what it is, the hash of its public key, not by its file's name.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::{KeyPurpose, Secret};
use tlog::Hash;
use zeroize::Zeroizing;

use crate::files::{Readers, SecretError, read_secret, sync_folder, write_for_owner};
use crate::seal::HeadKey;
use crate::signer::file::{self, FileSigner, KeyKind};
use crate::signer::sealed::{self, Passphrase};
use crate::signer::{Signer, SignerError};

/// The sealed keys of a folder, opened. Clones share what is open.
#[derive(Debug, Clone)]
pub struct Keys {
    folder: PathBuf,
    passphrase: Arc<Passphrase>,
    open: Arc<Mutex<Vec<OpenKey>>>,
    /// Files that did not open, as they were then.
    failed: Arc<Mutex<HashMap<PathBuf, (Stamp, SignerError)>>>,
}

/// What changes when a file does, or who may read it.
type Stamp = (u64, u64, i64, i64);

#[derive(Debug, Clone)]
struct OpenKey {
    path: PathBuf,
    id: Hash,
    signer: Arc<dyn Signer>,
    head: Option<HeadKey>,
}

impl Keys {
    /// Opens the keys that `serve` signs with, in `<state>/keys`.
    pub fn open(state: &Path, passphrase: &Secret) -> Result<Self, SignerError> {
        Self::open_folder(online_folder(state), passphrase)
    }

    /// Opens the root and trust keys, in `<state>/offline`.
    pub fn open_offline(state: &Path, passphrase: &Secret) -> Result<Self, SignerError> {
        Self::open_folder(offline_folder(state), passphrase)
    }

    /// Makes the first keys for these purposes, side by side.
    pub(crate) fn generate(
        folder: PathBuf,
        passphrase: &Secret,
        purposes: &[KeyPurpose],
    ) -> Result<Self, SignerError> {
        let named = |purpose: &KeyPurpose| (kind(*purpose), format!("{purpose}.key"));
        let mut wanted: Vec<_> = purposes.iter().map(named).collect();
        // Whoever writes the log seals its head.
        if purposes.contains(&KeyPurpose::Log) {
            wanted.push((KeyKind::Ed25519, HEAD.to_owned()));
        }
        let passphrase = Arc::new(Passphrase::new(passphrase));
        let make = |(kind, name): &(KeyKind, String)| {
            let path = folder.join(name);
            let signer = FileSigner::generate(*kind, &path, &passphrase)?;
            Ok(OpenKey::new(path, signer))
        };
        let open = side_by_side(&wanted, make).into_iter().collect::<Result<_, SignerError>>()?;
        let open = Arc::new(Mutex::new(open));
        Ok(Self { folder, passphrase, open, failed: Arc::default() })
    }

    /// The same keys, whose files were moved to another folder.
    pub(crate) fn moved_to(mut self, folder: PathBuf) -> Self {
        for key in self.open_keys().iter_mut() {
            key.path = folder.join(key.path.file_name().unwrap_or_default());
        }
        self.folder = folder;
        self
    }

    /// A file that does not open may be no key of ours; where none does, the passphrase is wrong, or
    /// all of them are damaged.
    fn open_folder(folder: PathBuf, passphrase: &Secret) -> Result<Self, SignerError> {
        if !folder.exists() {
            let path = folder.display().to_string();
            return Err(SignerError::File { path, why: FOLDER_GONE.to_owned() });
        }
        let (passphrase, open) = (Arc::new(Passphrase::new(passphrase)), Arc::default());
        let keys = Self { folder, passphrase, open, failed: Arc::default() };
        let failed = keys.look_again()?;
        if !keys.open_keys().is_empty() {
            return Ok(keys);
        }
        let is_sealed = |error: &SignerError| matches!(error, SignerError::Passphrase { .. });
        let mut errors: Vec<_> = failed.into_iter().map(|(_, error)| error).collect();
        // The passphrase first: what it does not open may be all there is.
        errors.sort_by_key(|error| !is_sealed(error));
        errors.into_iter().next().map_or(Ok(keys), Err)
    }

    /// What opens the other files is the right passphrase.
    fn beside_others(&self, error: SignerError) -> SignerError {
        match error {
            SignerError::Passphrase { path } if !self.open_keys().is_empty() => {
                SignerError::OtherPassphrase { path }
            }
            error => error,
        }
    }

    /// The key with this SubjectPublicKeyInfo's SHA-256; also one that was put there since.
    pub fn signer(&self, purpose: KeyPurpose, id: &Hash) -> Result<Arc<dyn Signer>, SignerError> {
        if let Some(signer) = self.find(id) {
            return Ok(signer);
        }
        let failed = self.look_again()?;
        self.find(id).ok_or_else(|| {
            let named = |path: &Path| is_named(path, purpose.name());
            let failed = failed.into_iter().find(|(path, _)| named(path));
            failed.map(|(_, error)| error).unwrap_or_else(|| SignerError::Missing {
                purpose: purpose.name(),
                id: format!("{id:?}"),
                folder: self.folder.display().to_string(),
            })
        })
    }

    /// The key that seals the log's head; none in a folder of before heads were sealed.
    pub fn head_key(&self) -> Result<Option<HeadKey>, SignerError> {
        self.sealing(HEAD)
    }

    /// The same, where heads are sealed.
    pub(crate) fn require_head_key(&self) -> Result<HeadKey, SignerError> {
        let gone = || SignerError::Refused("the key of the head's seal is gone".to_owned());
        self.head_key()?.ok_or_else(gone)
    }

    /// The key that an earlier migration left unfinished, if any.
    pub(crate) fn next_head_key(&self) -> Result<Option<HeadKey>, SignerError> {
        self.sealing(NEXT_HEAD)
    }

    /// Makes the key of a migration. It counts only once it is kept.
    pub(crate) fn make_next_head_key(&self) -> Result<HeadKey, SignerError> {
        let path = self.folder.join(NEXT_HEAD);
        let signer = FileSigner::generate(KeyKind::Ed25519, &path, &self.passphrase)?;
        let key = OpenKey::new(path, signer);
        self.open_keys().push(key.clone());
        key.head.ok_or_else(|| file_error(&key.path, &"it seals no head"))
    }

    /// The migration is done: from now on this folder's head is sealed, and no other is taken.
    pub(crate) fn keep_next_head_key(&self) -> Result<(), SignerError> {
        let (next, path) = (self.folder.join(NEXT_HEAD), self.folder.join(HEAD));
        fs::rename(&next, &path)
            .and_then(|()| sync_folder(&self.folder))
            .map_err(|error| file_error(&path, &error))?;
        for key in self.open_keys().iter_mut().filter(|key| key.path == next) {
            key.path.clone_from(&path);
        }
        Ok(())
    }

    /// Keeps the key, PKCS#8, of the CA's own certificate.
    pub(crate) fn keep_own(&self, key: &[u8]) -> Result<(), SignerError> {
        let path = self.folder.join(OWN);
        let sealed = sealed::seal(key, &self.passphrase);
        let sealed = sealed.map_err(|error| file_error(&path, &error))?;
        write_for_owner(&path, sealed.as_bytes()).map_err(|error| file_error(&path, &error))
    }

    /// The key that was kept last; none where none was.
    pub(crate) fn kept_own(&self) -> Result<Option<Zeroizing<Vec<u8>>>, SignerError> {
        let path = self.folder.join(OWN);
        let sealed = match read_secret(&path, Readers::Owner) {
            Err(SecretError::Io(error)) if error.kind() == ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| file::unread(&path, &error))?,
        };
        let key = sealed::open(&sealed, &self.passphrase)
            .map_err(|why| self.beside_others(file::unopened(&path, why)))?;
        Ok(Some(Zeroizing::new(key.as_bytes().to_vec())))
    }

    fn sealing(&self, name: &str) -> Result<Option<HeadKey>, SignerError> {
        let path = self.folder.join(name);
        let open = |keys: &Self| {
            let open = keys.open_keys();
            open.iter().find(|key| key.path == path).map(|key| key.head.clone())
        };
        let mut found = open(self);
        if found.is_none() {
            let failed = self.look_again()?.into_iter().find(|(failed, _)| *failed == path);
            if let Some((_, error)) = failed {
                return Err(error);
            }
            found = open(self);
        }
        let none = || file_error(&path, &"it is not the Ed25519 key that seals the log's head");
        found.map(|head| head.ok_or_else(none)).transpose()
    }

    /// A key for this purpose that is none of those known by these ids: one that an earlier attempt
    /// left, or a new one.
    pub fn unused_or_new(
        &self,
        purpose: KeyPurpose,
        known: &[String],
    ) -> Result<Arc<dyn Signer>, SignerError> {
        self.look_again()?;
        let prefix = format!("{purpose}-");
        let is_left = |key: &&OpenKey| key.is_named(&prefix) && !known.contains(&key.id());
        if let Some(left) = self.open_keys().iter().find(is_left).cloned() {
            return Ok(left.signer);
        }
        let named = |id: &Hash| self.folder.join(format!("{prefix}{:.16}.key", format!("{id:?}")));
        let (signer, path) = FileSigner::generate_at(kind(purpose), named, &self.passphrase)?;
        let key = OpenKey::new(path, signer);
        self.open_keys().push(key.clone());
        Ok(key.signer)
    }

    /// Removes the file of a key that counts no more. It is no error if it is gone already.
    pub fn destroy(&self, id: &str) -> Result<(), SignerError> {
        self.look_again()?;
        let mut open = self.open_keys();
        for key in open.iter().filter(|key| key.id() == id) {
            match fs::remove_file(&key.path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(SignerError::File {
                        path: key.path.display().to_string(),
                        why: error.to_string(),
                    });
                }
                _ => {}
            }
        }
        open.retain(|key| key.id() != id);
        Ok(())
    }

    /// Forgets what is open of these keys; their files are whoever's removes them.
    pub(crate) fn forget(&self, is_retired: impl Fn(&Hash) -> bool) {
        self.open_keys().retain(|key| !is_retired(&key.id));
    }

    /// The key that `init` made for this purpose; none where a parent elsewhere holds it.
    pub fn first(&self, purpose: KeyPurpose) -> Option<Arc<dyn Signer>> {
        let name = format!("{purpose}.key");
        let open = self.open_keys();
        open.iter().find(|key| key.is_named(&name)).map(|key| Arc::clone(&key.signer))
    }

    /// The public keys, SubjectPublicKeyInfo, of the open keys that were made for this purpose.
    pub(crate) fn public_keys(&self, purpose: KeyPurpose) -> Vec<Vec<u8>> {
        let named = [format!("{purpose}.key"), format!("{purpose}-")];
        let open = self.open_keys();
        let made = open.iter().filter(|key| named.iter().any(|name| key.is_named(name)));
        made.map(|key| key.signer.public_key().to_vec()).collect()
    }

    /// Puts a watch around the key that `init` made for this purpose.
    #[cfg(any(test, feature = "test-seams"))]
    pub fn wrap(
        self,
        purpose: KeyPurpose,
        wrap: impl FnOnce(Arc<dyn Signer>) -> Arc<dyn Signer>,
    ) -> Self {
        let name = format!("{purpose}.key");
        let found = self.open_keys().iter().position(|key| key.is_named(&name));
        if let Some(position) = found {
            let signer = Arc::clone(&self.open_keys()[position].signer);
            let wrapped = wrap(signer);
            self.open_keys()[position].signer = wrapped;
        }
        self
    }

    /// Opens the files that are not open yet; returns those that do not open.
    fn look_again(&self) -> Result<Vec<(PathBuf, SignerError)>, SignerError> {
        let unreadable = |error: std::io::Error| SignerError::File {
            path: self.folder.display().to_string(),
            why: error.to_string(),
        };
        let known: Vec<PathBuf> = self.open_keys().iter().map(|key| key.path.clone()).collect();
        let mut new = Vec::new();
        for file in fs::read_dir(&self.folder).map_err(unreadable)? {
            let path = file.map_err(unreadable)?.path();
            if path.extension().is_some_and(|is| is == "key") && !known.contains(&path) {
                new.push(path);
            }
        }
        let stamps: Vec<Option<Stamp>> = new.iter().map(|path| stamp(path)).collect();
        let failed_before = self.failed().clone();
        let opened = side_by_side(&new, |path| match failed_before.get(path) {
            // The same file does not open to the same passphrase.
            Some((before, error)) if stamp(path) == Some(*before) => Err(error.clone()),
            _ => FileSigner::open(path, &self.passphrase),
        });
        let mut failed = Vec::new();
        let mut open = self.open_keys();
        self.failed().clear();
        for ((path, stamp), signer) in new.into_iter().zip(stamps).zip(opened) {
            match signer {
                Ok(signer) => open.push(OpenKey::new(path, signer)),
                Err(error) => {
                    let known = stamp.map(|stamp| (stamp, error.clone()));
                    self.failed().extend(known.map(|known| (path.clone(), known)));
                    failed.push((path, error));
                }
            }
        }
        drop(open);
        Ok(failed.into_iter().map(|(path, error)| (path, self.beside_others(error))).collect())
    }

    fn failed(&self) -> MutexGuard<'_, HashMap<PathBuf, (Stamp, SignerError)>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &Hash) -> Option<Arc<dyn Signer>> {
        let open = self.open_keys();
        open.iter().find(|key| key.id == *id).map(|key| Arc::clone(&key.signer))
    }

    fn open_keys(&self) -> MutexGuard<'_, Vec<OpenKey>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenKey {
    fn new(path: PathBuf, signer: FileSigner) -> Self {
        let is_head = [HEAD, NEXT_HEAD].iter().any(|name| path.ends_with(name));
        let head = if is_head { HeadKey::of(&signer) } else { None };
        Self { path, id: Hash::of(signer.public_key()), signer: Arc::new(signer), head }
    }

    fn id(&self) -> String {
        format!("{:?}", self.id)
    }

    fn is_named(&self, prefix: &str) -> bool {
        is_named(&self.path, prefix)
    }
}

/// Which kind of key a purpose needs.
fn kind(purpose: KeyPurpose) -> KeyKind {
    match purpose {
        KeyPurpose::Feed | KeyPurpose::Log => KeyKind::Ed25519,
        KeyPurpose::Countersignature
        | KeyPurpose::Issuer
        | KeyPurpose::Root
        | KeyPurpose::Trust => KeyKind::EcdsaP256,
    }
}

/// None where it cannot be looked at.
fn stamp(path: &Path) -> Option<Stamp> {
    let is = fs::metadata(path).ok()?;
    Some((is.ino(), is.len(), is.ctime(), is.ctime_nsec()))
}

/// In a folder of before, each costs 600,000 rounds of PBKDF2.
fn side_by_side<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R, SignerError> + Sync,
) -> Vec<Result<R, SignerError>> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = items.iter().map(|item| scope.spawn(move || work(item))).collect();
        let died = |_| SignerError::Refused("the thread that opened it died".to_owned());
        threads.into_iter().map(|thread| thread.join().map_err(died)?).collect()
    })
}

fn is_named(path: &Path, prefix: &str) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix))
}

/// The folder of the keys that `serve` opens.
pub(crate) fn online_folder(state: &Path) -> PathBuf {
    state.join("keys")
}

/// The folder of the keys that only `init` and `rotate` open.
pub(crate) fn offline_folder(state: &Path) -> PathBuf {
    state.join("offline")
}

fn file_error(path: &Path, why: &dyn std::fmt::Display) -> SignerError {
    SignerError::File { path: path.display().to_string(), why: why.to_string() }
}

/// The key of the CA's own certificate, sealed; no CA key, so it has another name than those.
const FOLDER_GONE: &str = "the folder is gone: restore it from a backup";
const OWN: &str = "own-certificate.sealed";
/// What seals the log's head; it signs nothing.
const HEAD: &str = "head.key";
/// The same, while a folder of before is being migrated.
const NEXT_HEAD: &str = "head-next.key";
