//! The files of a policies folder.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use crate::error::Error;
use crate::files;
use crate::output::Output;

/// Reads `schema.cedarschema`, `*.cedar`, `workloads.json` and `profiles.json` of a folder, by
/// name; other files and folders are not part of a policy set.
pub(crate) fn read(folder: &Path) -> Result<BTreeMap<String, String>, Error> {
    let failed = |source| Error::Read { path: folder.to_owned(), source };
    let mut contents = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).filter(|name| belongs(name));
        if let Some(name) = name {
            require_file(&path)?;
            let text = files::read_text(&path)?;
            let why = match () {
                () if text.trim().is_empty() => Some("it is empty"),
                () if text.contains('\0') => Some("it has a NUL: what stood there was lost"),
                () => None,
            };
            if let Some(why) = why {
                return Err(Error::Malformed { path, why: why.to_owned() });
            }
            contents.insert(name.to_owned(), text);
        }
    }
    if contents.is_empty() {
        return Err(Error::NoPolicies(folder.to_owned()));
    }
    Ok(contents)
}

/// What bears a policy's name and is none is not passed over: it may have been a `forbid`.
fn require_file(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    if path.metadata().map_err(failed)?.is_file() {
        return Ok(());
    }
    let why = "a policy set is made of plain files, and this is none";
    Err(failed(io::Error::new(io::ErrorKind::InvalidInput, why)))
}

/// Warns of what in a folder looks as if it were meant, and is no part of a policy set.
pub(crate) fn warn_of_others(folder: &Path, output: Output) -> Result<(), Error> {
    let others =
        others(folder).map_err(|source| Error::Read { path: folder.to_owned(), source })?;
    if !others.is_empty() {
        output.warn(format!(
            "not read, because no part of a policy set is called so, or it is no file: {}\n{PARTS}",
            others.join(", ")
        ));
    }
    Ok(())
}

fn others(folder: &Path) -> io::Result<Vec<String>> {
    let mut others = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let lower = name.to_lowercase();
        let looks_meant = [".json", ".cedar", ".cedarschema"].iter().any(|it| lower.ends_with(it));
        let is_read = belongs(&name) && path.is_file();
        if looks_meant && !is_read && !name.starts_with('.') && name != TABLES_SCHEMA {
            others.push(name);
        }
    }
    others.sort();
    Ok(others)
}

/// For editors; it ships beside the table.
const TABLES_SCHEMA: &str = "workloads.schema.json";
const PARTS: &str = "parts are: *.cedar, schema.cedarschema, workloads.json, profiles.json";

/// Editors leave `.#prod.cedar` and the like beside the files that they edit.
pub(crate) fn belongs(name: &str) -> bool {
    let named = ["schema.cedarschema", "workloads.json", "profiles.json"].contains(&name);
    named || (name.ends_with(".cedar") && !name.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_policy_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["own-row.cedar", "workloads.json", "README.md", ".#own-row.cedar", "x.json"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let files = read(folder.path()).unwrap();
        assert_eq!(files.into_keys().collect::<Vec<_>>(), ["own-row.cedar", "workloads.json"]);
    }

    #[test]
    fn a_policy_whose_text_is_gone_is_not_one_policy_less() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("workloads.json"), "{}").unwrap();
        for lost in ["\u{feff}\n", "", "// \0\0\0"] {
            fs::write(folder.path().join("forbid.cedar"), lost).unwrap();
            assert!(matches!(read(folder.path()), Err(Error::Malformed { .. })), "{lost:?}");
        }
        fs::write(folder.path().join("forbid.cedar"), "// None yet.\n").unwrap();
        assert_eq!(read(folder.path()).unwrap().len(), 2);
    }

    #[test]
    fn what_bears_a_policys_name_and_cannot_be_read_is_named() {
        for make in [
            (&|path: &Path| fs::create_dir(path)) as &dyn Fn(&Path) -> io::Result<()>,
            &|path| std::os::unix::fs::symlink("/nowhere", path),
            &|path| std::os::unix::fs::symlink(path, path),
            &|path| std::os::unix::fs::symlink("/dev/zero", path),
        ] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("workloads.json"), "{}").unwrap();
            let path = folder.path().join("forbid.cedar");
            make(&path).unwrap();
            let refused = read(folder.path());
            assert!(
                matches!(&refused, Err(Error::Read { path: it, .. }) if *it == path),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn what_looks_as_if_it_were_meant_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (meant, others) = (
            ["Own-Row.CEDAR", "profile.json", "shema.cedarschema", "workload.json"],
            [".#a.cedar", "README.md", "own-row.cedar", "own-row.cedar~", "workloads.schema.json"],
        );
        for name in meant.iter().chain(&others) {
            fs::write(folder.path().join(name), "").unwrap();
        }
        fs::create_dir(folder.path().join("workloads.json")).unwrap();
        let named = super::others(folder.path()).unwrap();
        assert_eq!(named, [&meant[..], &["workloads.json"]].concat());
    }

    #[test]
    fn a_folder_without_policies_is_not_an_empty_policy_set() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(read(folder.path()), Err(Error::NoPolicies(_))));
    }
}
