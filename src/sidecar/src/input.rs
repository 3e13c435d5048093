//! Files that somebody named: of a size that makes sense, and waited for by nobody without end.
//!
//! The CA has a reader of its own, which blocks its thread: the library links nothing of it, and what
//! both link does no I/O.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::OFlags;
use zeroize::Zeroizing;

/// Reads a plain file whole.
pub(crate) fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = open(path)?;
    if !file.metadata()?.is_file() {
        return Err(refuse("it is no plain file"));
    }
    let mut bytes = room();
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    bounded(bytes)
}

/// The same of one that may be a pipe, as a shell's `<(…)` makes one, if somebody writes into it soon.
pub(crate) async fn read_soon(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut pipe = open(path)?;
    if !pipe.metadata()?.file_type().is_fifo() {
        return read(path);
    }
    let written = tokio::time::timeout(PATIENCE, read_pipe(&mut pipe));
    written.await.map_err(|_| {
        let why = format!("nobody wrote into this pipe for {} s", PATIENCE.as_secs());
        io::Error::new(io::ErrorKind::TimedOut, why)
    })?
}

async fn read_pipe(pipe: &mut File) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = room();
    let mut part = Zeroizing::new([0; 4096]);
    while bytes.len() <= MAX_BYTES {
        match pipe.read(&mut *part) {
            // Nobody has opened it to write yet, where nothing came.
            Ok(0) if !bytes.is_empty() => break,
            Ok(0) => tokio::time::sleep(LOOK_AGAIN).await,
            Ok(read) => bytes.extend_from_slice(&part[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Err(error) => return Err(error),
        }
    }
    bounded(bytes)
}

/// Opening a pipe would wait for its writer.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)
}

/// Sized once: a buffer that grows leaves copies of a secret behind.
fn room() -> Zeroizing<Vec<u8>> {
    Zeroizing::new(Vec::with_capacity(MAX_BYTES + 4096))
}

fn bounded(bytes: Zeroizing<Vec<u8>>) -> io::Result<Zeroizing<Vec<u8>>> {
    match bytes.len() {
        length if length > MAX_BYTES => Err(refuse("it is larger than 256 KiB")),
        _ => Ok(bytes),
    }
}

fn refuse(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// A chain with its issuers has some kilobytes.
const MAX_BYTES: usize = 256 * 1024;
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn pipe(folder: &Path) -> std::path::PathBuf {
        let path = folder.join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        path
    }

    #[tokio::test(start_paused = true)]
    async fn a_pipe_without_a_writer_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = pipe(folder.path());
        assert_eq!(read_soon(&path).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(read(&path).unwrap_err().to_string().contains("plain file"));
    }

    #[tokio::test]
    async fn a_pipe_is_read_to_its_end_however_late_its_writer_comes() {
        let folder = tempfile::tempdir().unwrap();
        let path = pipe(folder.path());
        let (read, ()) = tokio::join!(read_soon(&path), async {
            tokio::task::yield_now().await;
            let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
            writer.write_all(b"ct1.secret").unwrap();
        });
        assert_eq!(**read.unwrap(), *b"ct1.secret");
    }

    #[tokio::test]
    async fn what_is_no_file_or_has_no_end_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for odd in [folder.path(), Path::new("/dev/zero")] {
            assert!(read_soon(odd).await.is_err(), "{}", odd.display());
        }
        let path = folder.path().join("file");
        std::fs::write(&path, vec![b'a'; MAX_BYTES]).unwrap();
        assert_eq!(read(&path).unwrap().len(), MAX_BYTES);
        std::fs::write(&path, vec![b'a'; MAX_BYTES + 1]).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("larger"));
    }
}
