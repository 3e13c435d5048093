//! Crashes after each step, folders of somebody else's, and what stands in the way.

use super::*;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};

/// A pair that matches says the same in both files.
fn set(text: &str) -> Contents {
    [KEY, CHAIN, BUNDLE].map(|name| (name, Zeroizing::new(text.into()))).into()
}

fn pair(directory: &SvidFolder) -> Option<String> {
    let key = directory.read(KEY).unwrap();
    assert_eq!(key, directory.read(CHAIN).unwrap(), "key and certificate do not match");
    key.map(|key| String::from_utf8(key).unwrap())
}

fn replace(directory: &SvidFolder, contents: Contents) {
    directory.replace(contents, &directory.lock().unwrap()).unwrap();
}

/// Crashes after each step of a replacement in a directory that `prepare` filled.
fn crash_everywhere(prepare: impl Fn(&SvidFolder), before: Option<&str>) {
    for crash_after in 0.. {
        let folder = tempfile::tempdir().unwrap();
        let directory = SvidFolder::at(folder.path()).unwrap();
        prepare(&directory);
        let plan = directory.plan(set("new")).unwrap();
        let mut seen = vec![pair(&directory)];
        for step in plan.iter().take(crash_after) {
            directory.take(step, directory.folder().unwrap()).unwrap();
            seen.push(pair(&directory));
        }
        seen.dedup();
        let both = [before.map(str::to_owned), Some("new".to_owned())];
        assert!(both.starts_with(&seen), "after {crash_after} steps: {seen:?}");
        replace(&directory, set("repaired"));
        assert_eq!(pair(&directory).as_deref(), Some("repaired"));
        assert_eq!(directory.generations().unwrap().1.len(), 1);
        if crash_after > plan.len() {
            assert_eq!(seen, both);
            return;
        }
    }
}

#[test]
fn a_crash_during_the_first_issue_leaves_nothing_or_a_pair() {
    crash_everywhere(|_| (), None);
}

#[test]
fn a_crash_during_a_renewal_leaves_the_old_pair_or_the_new_one() {
    crash_everywhere(|directory| replace(directory, set("old")), Some("old"));
}

#[test]
fn a_crash_while_plain_files_are_adopted_leaves_a_pair() {
    let plain = |directory: &SvidFolder| {
        for (name, bytes) in set("old") {
            fs::write(directory.join(name), &bytes).unwrap();
        }
    };
    crash_everywhere(plain, Some("old"));
}

#[test]
fn a_set_that_a_crash_left_half_written_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let directory = SvidFolder::at(folder.path()).unwrap();
    replace(&directory, set("old"));
    fs::create_dir(directory.join(".svid-7")).unwrap();
    fs::write(directory.join(".svid-7/svid.key"), "half of it").unwrap();
    assert_eq!(pair(&directory).as_deref(), Some("old"));
    replace(&directory, set("new"));
    assert_eq!(directory.generations().unwrap(), (8, vec![".svid-8".to_owned()]));
}

#[test]
fn a_set_of_the_largest_number_is_replaced_and_overwrites_nothing() {
    for number in [u64::MAX, u64::MAX - 1, u64::MAX - 2] {
        let folder = tempfile::tempdir().unwrap();
        let directory = SvidFolder::at(folder.path()).unwrap();
        replace(&directory, set("old"));
        let set_of = |number| directory.join(&generation_name(number));
        fs::rename(set_of(1), set_of(number)).unwrap();
        // `.current` leads nowhere, as where somebody renamed it; then to the renamed one.
        for current in [None, Some(generation_name(number))] {
            if let Some(current) = current {
                fs::create_dir(set_of(number)).unwrap();
                fs::write(set_of(number).join(KEY), "kept").unwrap();
                fs::write(set_of(number).join(CHAIN), "kept").unwrap();
                fs::remove_file(directory.join(CURRENT)).unwrap();
                symlink(current, directory.join(CURRENT)).unwrap();
                assert_eq!(pair(&directory).as_deref(), Some("kept"));
            }
            replace(&directory, set("new"));
            assert_eq!(pair(&directory).as_deref(), Some("new"));
            let (newest, all) = directory.generations().unwrap();
            assert!(newest < 9 && all.len() == 1, "{all:?}");
        }
    }
}

/// A service's directory that root opened and has installed a set in; a file that root alone reads.
struct His {
    parent: tempfile::TempDir,
    directory: SvidFolder,
    secret: PathBuf,
}

fn his() -> Option<His> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root works in folders of others");
        return None;
    }
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("his");
    fs::create_dir(&path).unwrap();
    chown(&path, Some(HIM), Some(HIM)).unwrap();
    let directory = SvidFolder::at(&path).unwrap();
    replace(&directory, set("first"));
    let secret = parent.path().join("secret");
    fs::write(&secret, SECRET).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    Some(His { parent, directory, secret })
}

impl His {
    /// No file below the folder's parent has the secret, but for the secret itself.
    fn keeps_the_secret(&self) {
        let mut folders = vec![self.parent.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                match entry.file_type().unwrap() {
                    kind if kind.is_dir() => folders.push(entry.path()),
                    kind if kind.is_file() && entry.path() != self.secret => {
                        // A second name of it may stand there, which he could make himself.
                        let is = entry.metadata().unwrap();
                        let is_secret = fs::read(entry.path()).unwrap() == SECRET.as_bytes();
                        let is_itself = is.ino() == fs::metadata(&self.secret).unwrap().ino();
                        assert!(!is_secret || is_itself, "{}", entry.path().display());
                    }
                    _ => (),
                }
            }
        }
    }
}

#[test]
fn our_own_links_are_walked_in_a_folder_of_somebody_elses() {
    let Some(his) = his() else { return };
    let directory = &his.directory;
    assert_eq!(pair(directory).as_deref(), Some("first"));
    let is = |name: &str| {
        let is = fs::metadata(directory.join(name)).unwrap();
        (is.uid(), is.gid(), is.mode() & 0o777)
    };
    assert_eq!(is(KEY), (HIM, HIM, 0o600));
    assert_eq!(is(CURRENT), (HIM, HIM, 0o700));
    fs::set_permissions(directory.join(KEY), fs::Permissions::from_mode(0o640)).unwrap();
    replace(directory, set("second"));
    assert_eq!(is(KEY), (HIM, HIM, 0o640));
}

#[test]
fn in_a_folder_of_somebody_elses_nothing_is_read_that_he_put_there_and_may_not_read() {
    type Make = fn(&Path, &Path) -> io::Result<()>;
    let made: [(&str, Make); 2] = [
        ("a link", |secret, at| symlink(secret, at)),
        ("a name", |secret, at| fs::hard_link(secret, at)),
    ];
    for name in NAMES {
        for (what, make) in made {
            let Some(his) = his() else { return };
            drop(fs::remove_file(his.directory.join(name)));
            make(&his.secret, &his.directory.join(name)).unwrap();
            let read = his.directory.read(name);
            assert!(matches!(read, Err(FolderError::Read { .. })), "{what} {name}: {read:?}");
            assert!(his.directory.plan(set("second")).is_err(), "{what} {name}");
            assert!(his.directory.replace_beside("crl.pem", name, b"").is_err(), "{what} {name}");
            his.keeps_the_secret();
        }
    }
}

#[test]
fn no_link_in_the_place_of_a_set_is_followed() {
    let Some(his) = his() else { return };
    let directory = &his.directory;
    let outside = his.parent.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::copy(&his.secret, outside.join(KEY)).unwrap();
    for to in [outside.as_path(), Path::new("../outside"), Path::new(".svid-9/../../outside")] {
        fs::remove_file(directory.join(CURRENT)).unwrap();
        symlink(to, directory.join(CURRENT)).unwrap();
        assert!(directory.read(KEY).is_err(), "{}", to.display());
    }
    // The set itself is the link.
    fs::remove_file(directory.join(CURRENT)).unwrap();
    symlink(".svid-9", directory.join(CURRENT)).unwrap();
    symlink(&outside, directory.join(".svid-9")).unwrap();
    assert_eq!(directory.read(KEY).unwrap(), None);
    assert!(directory.read_newest(CHAIN).is_none());
    // What is put right is put right in the folder, and only the link is removed.
    replace(directory, set("second"));
    assert_eq!(fs::read(outside.join(KEY)).unwrap(), SECRET.as_bytes());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn a_run_stays_in_the_folder_that_it_opened() {
    let Some(his) = his() else { return };
    let directory = &his.directory;
    let (moved, victim) = (his.parent.path().join("moved"), his.parent.path().join("victim"));
    let lock = directory.lock().unwrap();
    directory.require_room(&lock, &set("new")).unwrap();
    // The name leads to the folder of another service from here on.
    fs::rename(directory.path(), &moved).unwrap();
    fs::create_dir(&victim).unwrap();
    chown(&victim, Some(HIM + 1), None).unwrap();
    fs::write(victim.join(KEY), "the victim's").unwrap();
    fs::create_dir(victim.join(".svid-1")).unwrap();
    symlink(&victim, directory.path()).unwrap();
    lchown(directory.path(), Some(HIM), None).unwrap();

    directory.require_room(&lock, &set("new")).unwrap();
    directory.write("svid.key.next", b"next").unwrap();
    directory.replace(set("second"), &lock).unwrap();
    directory.replace_beside("crl.pem", BUNDLE, b"crl").unwrap();
    directory.remove("svid.key.next").unwrap();
    assert_eq!(pair(directory).as_deref(), Some("second"));
    assert_eq!(fs::read(moved.join(KEY)).unwrap(), b"second");
    assert_eq!(fs::metadata(moved.join("crl.pem")).unwrap().uid(), HIM);
    let mut left: Vec<_> =
        fs::read_dir(&victim).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [".svid-1", KEY]);
    assert_eq!(fs::read(victim.join(KEY)).unwrap(), b"the victim's");
}

#[test]
fn whose_a_file_is_is_that_of_the_file_that_was_read() {
    let Some(his) = his() else { return };
    let directory = &his.directory;
    // A plain file of root's, that he may not read, though it stands in his folder.
    fs::remove_file(directory.join(KEY)).unwrap();
    fs::copy(&his.secret, directory.join(KEY)).unwrap();
    let plan = directory.plan([(BUNDLE, Zeroizing::new(b"new".to_vec()))].into()).unwrap();
    // He exchanges it for one that anybody reads, before anything is written.
    fs::remove_file(directory.join(KEY)).unwrap();
    fs::write(directory.join(KEY), "mine").unwrap();
    chown(directory.join(KEY), Some(HIM), Some(HIM)).unwrap();
    fs::set_permissions(directory.join(KEY), fs::Permissions::from_mode(0o644)).unwrap();
    for step in &plan {
        directory.take(step, directory.folder().unwrap()).unwrap();
    }
    let is = fs::metadata(directory.join(KEY)).unwrap();
    assert_eq!(fs::read(directory.join(KEY)).unwrap(), SECRET.as_bytes());
    assert_eq!((is.uid(), is.mode() & 0o777), (0, 0o600), "as root's file was");
}

#[test]
fn a_link_in_the_place_of_the_lock_or_of_what_is_written_beside_is_not_followed() {
    let Some(his) = his() else { return };
    let directory = &his.directory;
    for name in [".countersign.lock", "crl.pem", "svid.checkpoint", "svid.key.next"] {
        drop(fs::remove_file(directory.join(name)));
        symlink(&his.secret, directory.join(name)).unwrap();
    }
    assert!(matches!(directory.lock(), Err(FolderError::NoLock(_))));
    assert!(directory.replace_beside("crl.pem", BUNDLE, b"new").is_err());
    directory.write("svid.checkpoint", b"new").unwrap();
    assert!(directory.read("svid.key.next").is_err());
    assert_eq!(fs::read(&his.secret).unwrap(), SECRET.as_bytes());
}

#[test]
fn what_is_not_replaced_stays_and_everything_is_private() {
    let folder = tempfile::tempdir().unwrap();
    let directory = SvidFolder::create(folder.path().join("svid")).unwrap();
    replace(&directory, set("first"));
    replace(&directory, [(TRUST_NOTE, Zeroizing::new(b"note".to_vec()))].into());
    assert_eq!(pair(&directory).as_deref(), Some("first"));
    assert_eq!(directory.read(TRUST_NOTE).unwrap().unwrap(), b"note");
    let mode = |name| fs::metadata(directory.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(KEY), mode(CHAIN), mode("")), (0o600, 0o600, 0o700));
}

#[test]
fn a_folder_takes_no_place_of_a_file_or_of_a_link_that_leads_nowhere() {
    let directory = tempfile::tempdir().unwrap();
    let (file, link) = (directory.path().join("file"), directory.path().join("link"));
    fs::write(&file, "").unwrap();
    symlink(directory.path().join("nowhere"), &link).unwrap();
    for path in [&file, &link] {
        let refused = create_private(path).unwrap_err();
        assert!(matches!(refused, FolderError::InTheWay { .. }), "{refused:?}");
    }
    fs::create_dir(directory.path().join("nowhere")).unwrap();
    create_private(&link).unwrap();
}

const HIM: u32 = 4711;
const SECRET: &str = "of root alone";
