//! What to do about a file that was named on the command line, or in the configuration.

use std::io::ErrorKind;
use std::path::Path;

use countersign::svid_folder::FolderError;
use identity::TextFault;
use server::ConfigError;

use crate::error::{ConfiguredFault, Held};
use crate::shell::quoted;

/// About a file or a folder that the configuration names.
pub(super) fn in_configuration(path: &Path, fault: &ConfiguredFault) -> String {
    let file = quoted(path);
    match fault {
        ConfiguredFault::Contents(_) => {
            "correct what is named there; then the same command again".to_owned()
        }
        ConfiguredFault::Kind(_) => {
            format!("look what it is, and name another in the configuration: ls -ld {file}")
        }
        ConfiguredFault::Read(source) if source.kind() == ErrorKind::NotFound => {
            "put it there, or name another in the configuration; then the same command again"
                .to_owned()
        }
        ConfiguredFault::Read(source) => unread(path, source),
        ConfiguredFault::Text(fault) => to_utf8(path, *fault),
    }
}

/// About the configuration itself.
pub(super) fn of_configuration(path: &Path, source: &ConfigError) -> String {
    let ConfigError::Read { source, .. } = source else {
        let path = quoted(path);
        return format!("correct it, then: countersign config check --config {path}");
    };
    let fault = source.get_ref().and_then(|inner| inner.downcast_ref::<TextFault>());
    match fault {
        Some(fault) => to_utf8(path, *fault),
        None if source.kind() == ErrorKind::NotFound => {
            "write one, or name it with --config FILE; the least it needs: trust_domain = \
             \"pay.example\", names = [\"ca.pay.internal\"], state = \"/var/lib/countersign\""
                .to_owned()
        }
        None => unread(path, source),
    }
}

/// The new file is nobody else's to read: it may hold a secret.
fn to_utf8(path: &Path, fault: TextFault) -> String {
    let file = quoted(path);
    format!(
        "(umask 077; {} {file} > {file}.utf8) && mv {file}.utf8 {file}; then the same command again",
        fault.command()
    )
}

/// About a file that was named and holds no certificate request.
pub(super) fn instead_of_request(path: &Path, holds: Held) -> String {
    let file = quoted(path);
    // What went by is nowhere to be looked at.
    let is_stdin = path == Path::new("stdin");
    let through = |command: &str| match is_stdin {
        true => format!("the same command, given what `{command}` makes of this"),
        false => format!("{command} {file} > {file}.new; then the same command with {file}.new"),
    };
    let step = match holds {
        Held::Certificate => {
            format!(
                "openssl x509 -in {file} -noout -text shows it; name the request that it is for"
            )
        }
        Held::Base64 => format!("it lacks the lines BEGIN and END: {}", through("base64 -di")),
        Held::CutOff => {
            "copy it again, whole, from its BEGIN to its END; `openssl req -new` makes another"
                .to_owned()
        }
        Held::Empty => "give it a request: `openssl req -new` makes one".to_owned(),
        Held::Text(fault) => through(&fault.command()),
        Held::Key => format!("openssl req -new -key {file} -subj / makes a request for it"),
        Held::Unknown if is_stdin => {
            "`openssl req -noout -text -verify`, given the same, shows what is in it".to_owned()
        }
        Held::Unknown => format!(
            "openssl req -in {file} -noout -text -verify shows what is in it, and `openssl req -new` \
             makes another"
        ),
    };
    format!("{step}; a token is as good as before")
}

/// About a file that was named and cannot be read.
pub(super) fn unread(path: &Path, source: &std::io::Error) -> String {
    use ErrorKind::{IsADirectory, NotFound, PermissionDenied, TimedOut};
    let path = quoted(path);
    match source.kind() {
        IsADirectory => format!("name a file: ls -l {path}"),
        NotFound => "name a file that is there; then the same command again".to_owned(),
        // Not the system's word but ours: see `authority::folder`.
        PermissionDenied if source.get_ref().is_some() => format!(
            "look who put it there: ls -ld {path}; root reads what the folder's owner owns, and no links \
             of his: remove it, or chown it, and run the same command again"
        ),
        PermissionDenied => format!("run it as a user who may read it: ls -l {path}"),
        TimedOut => {
            "start what writes into it, or name a file; then the same command again".to_owned()
        }
        _ if path == "stdin" => "name a file, or give another".to_owned(),
        _ => format!("look what it is, and name another: ls -lL {path}"),
    }
}

/// About a file that cannot be written.
pub(super) fn unwritten(path: &Path, source: &std::io::Error) -> Option<String> {
    use ErrorKind::{
        IsADirectory, NotADirectory, NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem,
        StorageFull,
    };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let folder = quoted(parent.unwrap_or_else(|| Path::new(".")));
    match source.kind() {
        // Some of ours say it themselves.
        _ if source.get_ref().is_some() => None,
        IsADirectory => Some(format!("name a file: {} is a folder", quoted(path))),
        NotADirectory => Some(format!(
            "name another place: {folder} is no folder, or not below one; then the same command again"
        )),
        NotFound => Some(format!("mkdir -p {folder}; then the same command again")),
        PermissionDenied => Some(format!("run it as a user who may write there: ls -ld {folder}")),
        QuotaExceeded | StorageFull => {
            Some(format!("free space there: df {folder}; then the same command again"))
        }
        ReadOnlyFilesystem => Some(format!(
            "name a place that can be written, or have this one mounted for writing: findmnt -T \
             {folder}; then the same command again"
        )),
        _ => None,
    }
}

/// What to do about a folder that takes no SVID, or gives none.
pub(super) fn of_folder(error: &FolderError) -> Option<String> {
    let step = match error {
        FolderError::InTheWay { path, .. } => in_the_way(path),
        FolderError::NoLock(path) => format!(
            "look who put it there, remove {}, and run the same command again",
            quoted(path)
        ),
        FolderError::NoRoom { .. } => {
            "nothing was asked for, and a token is as good as before: run it again as that user, or \
             with another folder"
                .to_owned()
        }
        FolderError::NotInPlace { path } => format!(
            "countersign verify {}; then the same command again",
            quoted(&path.with_file_name("svid.pem"))
        ),
        FolderError::Read { path, source } => unread(path, source),
        FolderError::Strangers { folder, strangers } => {
            let files = strangers.iter().map(|name| format!(" {}", quoted(&folder.join(name))));
            let (files, folder) = (files.collect::<String>(), quoted(folder));
            format!(
                "nothing was asked for, and a token is as good as before: name another folder, or \
                 move aside what is there: mkdir -p {folder}/before; mv -i{files} {folder}/before"
            )
        }
        FolderError::Taken { lock, .. } => {
            format!("fuser {} says who; then the same command again", quoted(lock))
        }
        FolderError::Write { path, source } => return unwritten(path, source),
        _ => return None,
    };
    Some(step)
}

pub(super) fn in_the_way(path: &Path) -> String {
    format!("look who put it there, move {} away, and run the same command again", quoted(path))
}
