//! The files of a policies folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::error::Error;
use crate::files;

/// Reads `schema.cedarschema`, `*.cedar`, `workloads.json` and `profiles.json` of a folder, by
/// name; other files and folders are not part of a policy set.
pub(crate) fn read(folder: &Path) -> Result<BTreeMap<String, String>, Error> {
    let failed = |source| Error::Read { path: folder.to_owned(), source };
    let mut contents = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).filter(|name| belongs(name));
        if let Some(name) = name.filter(|_| path.is_file()) {
            contents.insert(name.to_owned(), files::read_text(&path)?);
        }
    }
    if contents.is_empty() {
        return Err(Error::NoPolicies(folder.to_owned()));
    }
    Ok(contents)
}

/// Editors leave `.#prod.cedar` and the like beside the files that they edit.
fn belongs(name: &str) -> bool {
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
    fn a_folder_without_policies_is_not_an_empty_policy_set() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(read(folder.path()), Err(Error::NoPolicies(_))));
    }
}
