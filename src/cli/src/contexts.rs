//! Contexts: which CA, and as whom. `~/.config/countersign/contexts.toml`:
//!
//! ```toml
//! current = "pay"
//! [contexts.pay]
//! url       = "https://ca.pay.internal:8443"
//! trust_pin = "7Q2M…"
//! directory = "/home/me/.config/countersign/pay"   # svid.pem svid.key trust.note
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use countersign::svid_folder::{KEY, Lock, SvidFolder, create_private};
use identity::TrustPin;
use serde::{Deserialize, Serialize};

use crate::dev_folder::DevFolder;
use crate::error::Error;
use crate::files;
use crate::options::GlobalOptions;
use crate::svid_folder;

/// Every context, and the current one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
    /// Where they were read.
    #[serde(skip)]
    folder: PathBuf,
}

/// A CA and an operator's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// The CA's URL.
    pub(crate) url: String,
    /// Names the trust keys of the CA.
    #[serde(with = "crate::text")]
    pub(crate) trust_pin: TrustPin,
    /// Holds `svid.pem svid.key trust.note`.
    pub(crate) directory: PathBuf,
    /// What was current before this became it; current again when this is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<String>,
    /// The `dev` that it lasts as long as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dev: Option<DevFolder>,
}

/// Whether a new context becomes the current one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MakeCurrent {
    /// Only if there is no other.
    IfNone,
    /// In any case.
    Yes,
}

impl Context {
    /// A context to [`add`].
    pub(crate) fn new(url: &str, trust_pin: TrustPin, directory: &Path) -> Self {
        let (url, directory) = (url.to_owned(), directory.to_owned());
        Self { url, trust_pin, directory, previous: None, dev: None }
    }

    /// The same, as long as a `dev` runs.
    pub(crate) fn while_runs(self, dev: DevFolder) -> Self {
        Self { dev: Some(dev), ..self }
    }

    fn is_left(&self) -> bool {
        self.dev.as_ref().is_some_and(DevFolder::is_left)
    }
}

impl Contexts {
    /// Reads the file; without one, there are no contexts. Those of a `dev` that was killed are
    /// removed, with its keys.
    pub(crate) fn load(options: &GlobalOptions) -> Result<Self, Error> {
        let contexts = read(&path(options)?)?;
        if !contexts.contexts.values().any(Context::is_left) {
            return Ok(contexts);
        }
        edit(options, |contexts| {
            contexts.remove_left();
            Ok(())
        })?;
        read(&path(options)?)
    }

    fn remove_left(&mut self) {
        let is_left =
            |(name, context): (&String, &Context)| context.is_left().then(|| name.clone());
        let left: Vec<String> = self.contexts.iter().filter_map(is_left).collect();
        for name in left {
            if let Some(dev) = self.contexts.get(&name).and_then(|context| context.dev.clone()) {
                dev.clear();
            }
            self.remove(&name);
        }
    }

    /// The name for another `dev`: the first of `dev`, `dev-2`, `dev-3` that none has.
    fn free_name(&self, base: &str) -> String {
        let others = (2..).map(|number| format!("{base}-{number}"));
        let mut names = [base.to_owned()].into_iter().chain(others);
        names.find(|name| !self.contexts.contains_key(name)).expect("numbers have no end")
    }

    /// The context of this name, else the current one, with its name.
    pub(crate) fn select<'a>(
        &'a self,
        name: Option<&'a str>,
    ) -> Result<(&'a str, &'a Context), Error> {
        let name =
            name.or(self.current.as_deref()).ok_or_else(|| match self.contexts.is_empty() {
                true => Error::NoContext { forgotten: all_forgotten(&self.folder) },
                false => Error::NoCurrentContext { known: self.known() },
            })?;
        let context = self.contexts.get(name).ok_or_else(|| {
            let (folder, name) = (&self.folder, name.to_owned());
            match forgotten_in(folder, &name) {
                Some(_) => Error::ForgottenContext(name),
                None => Error::UnknownContext { name, known: self.known() },
            }
        })?;
        Ok((name, context))
    }

    /// Each with its name, and whether it is the current one.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &Context, bool)> {
        self.contexts.iter().map(|(name, context)| {
            (name.as_str(), context, self.current.as_deref() == Some(name.as_str()))
        })
    }

    fn known(&self) -> String {
        let names: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }

    fn add(&mut self, name: &str, context: Context, current: MakeCurrent) {
        let before = self.contexts.get(name).and_then(|replaced| replaced.previous.clone());
        let mut context = Context { previous: before, ..context };
        let is_current = self.current.as_deref() == Some(name);
        if !is_current && (current == MakeCurrent::Yes || self.current.is_none()) {
            context.previous = self.current.replace(name.to_owned());
        }
        self.contexts.insert(name.to_owned(), context);
    }

    fn require(&self, name: &str) -> Result<(), Error> {
        self.select(Some(name)).map(drop)
    }

    fn remove(&mut self, name: &str) -> Option<Context> {
        let removed = self.contexts.remove(name)?;
        for other in self.contexts.values_mut() {
            if other.previous.as_deref() == Some(name) {
                other.previous.clone_from(&removed.previous);
            }
        }
        if self.current.as_deref() == Some(name) {
            let previous = removed.previous.clone();
            self.current = previous.filter(|previous| self.contexts.contains_key(previous));
        }
        Some(removed)
    }
}

/// Adds a context, or replaces the one of the same name.
pub(crate) fn add(
    name: &str,
    context: Context,
    current: MakeCurrent,
    options: &GlobalOptions,
) -> Result<(), Error> {
    edit(options, |contexts| {
        contexts.add(name, context, current);
        Ok(())
    })
}

/// Adds the context of a `dev` and makes it the current one, under a name that no other has that
/// runs. Returns the name.
pub(crate) fn add_dev(
    base: &str,
    context: Context,
    options: &GlobalOptions,
) -> Result<String, Error> {
    edit(options, |contexts| {
        contexts.remove_left();
        // One of before there were locks, or made by hand, is replaced as it always was.
        let is_taken = contexts.contexts.get(base).is_some_and(|it| it.dev.is_some());
        let name = if is_taken { contexts.free_name(base) } else { base.to_owned() };
        contexts.add(&name, context, MakeCurrent::Yes);
        Ok(name)
    })
}

/// The name of the current context, if it is a running `dev`'s.
pub(crate) fn current_dev(options: &GlobalOptions) -> Result<Option<String>, Error> {
    let contexts = Contexts::load(options)?;
    let current = contexts.current.as_ref().and_then(|name| contexts.contexts.get_key_value(name));
    Ok(current.filter(|(_, context)| context.dev.is_some()).map(|(name, _)| name.clone()))
}

/// Removes a context, if it is there. If it was the current one, the one before is again.
pub(crate) fn remove(name: &str, options: &GlobalOptions) -> Result<(), Error> {
    edit(options, |contexts| {
        contexts.remove(name);
        Ok(())
    })
}

/// Makes a context the current one. One that was forgotten is there again, as long as its folder is:
/// its record says of which CA it is.
pub(crate) fn make_current(name: &str, options: &GlobalOptions) -> Result<(), Error> {
    edit(options, |contexts| {
        if !contexts.contexts.contains_key(name)
            && let Some(forgotten) = forgotten(name, options)
        {
            contexts.add(name, forgotten, MakeCurrent::IfNone);
        }
        contexts.require(name)?;
        contexts.current = Some(name.to_owned());
        Ok(())
    })
}

/// The context whose folder is there, with a key and the record of an SVID.
pub(crate) fn forgotten(name: &str, options: &GlobalOptions) -> Option<Context> {
    forgotten_in(&folder(options).ok()?, name)
}

fn forgotten_in(folder: &Path, name: &str) -> Option<Context> {
    require_name(name).ok()?;
    let path = folder.join(name);
    let directory = SvidFolder::at(&path).ok()?;
    let record = svid_folder::record(&directory).ok()??;
    let has_key = directory.has(KEY).ok()?;
    has_key.then(|| Context::new(&record.url, record.trust_pin, &path))
}

/// The names of all whose folders are there, where the list of them is lost.
fn all_forgotten(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).into_iter().flatten();
    let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut forgotten: Vec<_> = names.filter(|name| forgotten_in(folder, name).is_some()).collect();
    forgotten.sort();
    forgotten
}

/// Removes a context that is there, and returns it.
pub(crate) fn forget(name: &str, options: &GlobalOptions) -> Result<Context, Error> {
    edit(options, |contexts| {
        contexts.require(name)?;
        Ok(contexts.remove(name).expect("it was there a line before"))
    })
}

/// The folder of `contexts.toml`: operators' own SVIDs are kept below it.
pub(crate) fn folder(options: &GlobalOptions) -> Result<PathBuf, Error> {
    let home = options.home.as_ref().map(|home| home.join(".config"));
    // XDG Base Directory Specification: a relative path is to be ignored.
    let config = options.config_home.clone().filter(|path| path.is_absolute());
    config.or(home).map(|config| config.join("countersign")).ok_or(Error::NoHome)
}

/// Refuses a folder that the file cannot name.
pub(crate) fn require_text(directory: &Path) -> Result<(), Error> {
    match directory.to_str() {
        Some(_) => Ok(()),
        None => Err(Error::NoText { path: directory.to_owned() }),
    }
}

/// Refuses unless the file can be written: with as much as it may have.
pub(crate) fn require_room(options: &GlobalOptions) -> Result<(), Error> {
    let folder = folder(options)?;
    create_private(&folder)?;
    let _lock = Lock::of(&folder)?;
    let tried = folder.join(".contexts.try");
    let written = files::replace(&tried, &[0; ABOUT]);
    let removed = files::remove_if_there(&tried);
    written.and(removed)
}

fn path(options: &GlobalOptions) -> Result<PathBuf, Error> {
    Ok(folder(options)?.join("contexts.toml"))
}

fn edit<T>(
    options: &GlobalOptions,
    change: impl FnOnce(&mut Contexts) -> Result<T, Error>,
) -> Result<T, Error> {
    let folder = folder(options)?;
    create_private(&folder)?;
    let _lock = Lock::of(&folder)?;
    let path = path(options)?;
    let mut contexts = read(&path)?;
    let changed = change(&mut contexts)?;
    contexts.contexts.values().try_for_each(|context| require_text(&context.directory))?;
    let text = toml::to_string(&contexts).expect("contexts are text");
    files::replace(&path, text.as_bytes())?;
    Ok(changed)
}

fn read(path: &Path) -> Result<Contexts, Error> {
    let folder = path.parent().unwrap_or(path);
    let Some(bytes) = files::read_if_there(path)? else {
        return Ok(Contexts { folder: folder.to_owned(), ..Contexts::default() });
    };
    let broken = |why| {
        let forgotten = all_forgotten(folder);
        Error::BrokenContexts { path: path.to_owned(), why, forgotten }
    };
    let text = identity::utf8_text(&bytes).map_err(|fault| broken(fault.to_string()))?;
    let contexts: Contexts =
        toml::from_str(text).map_err(|error| broken(server::without_source(&error)))?;
    Ok(Contexts { folder: folder.to_owned(), ..contexts })
}

/// Dozens of contexts.
const ABOUT: usize = 16 * 1024;
/// Of a context. Longer file names there are nowhere.
pub(crate) const MAX_NAME: usize = 255;

/// Refuses a name that a folder may not bear.
pub(crate) fn require_name(name: &str) -> Result<(), Error> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if (1..=MAX_NAME).contains(&name.len())
        && name.chars().all(is_plain)
        && !name.starts_with(['.', '-'])
    {
        return Ok(());
    }
    Err(Error::ContextName(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev_folder::{self, Afterwards};

    struct Environment {
        options: GlobalOptions,
        _home: tempfile::TempDir,
    }

    fn environment() -> Environment {
        let home = tempfile::tempdir().unwrap();
        let options =
            GlobalOptions { home: Some(home.path().to_owned()), ..GlobalOptions::default() };
        Environment { options, _home: home }
    }

    impl Environment {
        fn add(&self, name: &str, current: MakeCurrent) {
            let pin = "A".repeat(52).parse().unwrap();
            let url = format!("https://{name}:8443");
            let context = Context::new(&url, pin, Path::new("/somewhere"));
            add(name, context, current, &self.options).unwrap();
        }

        fn current(&self) -> Option<String> {
            let contexts = Contexts::load(&self.options).unwrap();
            contexts.select(None).ok().map(|(name, _)| name.to_owned())
        }
    }

    #[test]
    fn contexts_survive_their_file() {
        let environment = environment();
        environment.add("pay", MakeCurrent::IfNone);
        environment.add("test", MakeCurrent::IfNone);
        let contexts = Contexts::load(&environment.options).unwrap();
        assert_eq!(contexts.select(None).unwrap().0, "pay");
        assert_eq!(contexts.select(Some("test")).unwrap().1.url, "https://test:8443");
        let unknown = contexts.select(Some("prod")).unwrap_err().to_string();
        assert!(unknown.ends_with("known: pay, test"), "{unknown}");
    }

    #[test]
    fn removing_the_current_context_restores_the_one_before() {
        let environment = environment();
        for name in ["pay", "dev", "dev2"] {
            environment.add(name, MakeCurrent::Yes);
        }
        environment.add("dev2", MakeCurrent::Yes);
        remove("dev", &environment.options).unwrap();
        assert_eq!(environment.current().as_deref(), Some("dev2"));
        remove("dev2", &environment.options).unwrap();
        assert_eq!(environment.current().as_deref(), Some("pay"));
        remove("pay", &environment.options).unwrap();
        assert_eq!(environment.current(), None);
    }

    #[test]
    fn a_context_that_is_not_there_is_neither_used_nor_forgotten() {
        let environment = environment();
        for name in ["pay", "test"] {
            environment.add(name, MakeCurrent::IfNone);
        }
        let options = &environment.options;
        for refused in [make_current("prod", options), forget("prod", options).map(drop)] {
            let why = refused.unwrap_err().to_string();
            assert!(why.ends_with("known: pay, test"), "{why}");
        }
        make_current("test", options).unwrap();
        assert_eq!(environment.current().as_deref(), Some("test"));
        assert_eq!(forget("test", options).unwrap().url, "https://test:8443");
        assert_eq!(environment.current(), None, "nobody chose another");
        let contexts = Contexts::load(options).unwrap();
        let why = contexts.select(None).unwrap_err().to_string();
        assert!(why.ends_with("known: pay"), "{why}");
        forget("pay", options).unwrap();
        let none = Contexts::load(options).unwrap();
        assert!(matches!(none.select(None), Err(Error::NoContext { .. })));
    }

    #[test]
    fn two_dev_at_once_have_a_context_each_and_one_that_was_killed_has_none() {
        let environment = environment();
        environment.add("pay", MakeCurrent::Yes);
        let add = |folder: &Path| {
            let pin = "A".repeat(52).parse().unwrap();
            let dev = DevFolder { path: folder.to_owned(), afterwards: Afterwards::Removed };
            let context = Context::new("https://localhost:1", pin, folder).while_runs(dev);
            add_dev("dev", context, &environment.options).unwrap()
        };
        let temporary = tempfile::tempdir().unwrap();
        let folders = ["countersign-1", "countersign-2"].map(|name| temporary.path().join(name));
        let mut running = Vec::new();
        for (folder, name) in folders.iter().zip(["dev", "dev-2"]) {
            fs::create_dir(folder).unwrap();
            running.push(dev_folder::claim(folder).unwrap().unwrap());
            assert_eq!(add(folder), name);
        }
        assert_eq!(environment.current().as_deref(), Some("dev-2"));
        remove("dev-2", &environment.options).unwrap();
        assert_eq!(environment.current().as_deref(), Some("dev"), "the other one is untouched");
        assert_eq!(add(&folders[1]), "dev-2");
        // Killed, in this order.
        drop(running.remove(0));
        assert_eq!(environment.current().as_deref(), Some("dev-2"));
        assert!(!folders[0].exists() && folders[1].exists());
        drop(running);
        assert_eq!(environment.current().as_deref(), Some("pay"), "what was before is again");
        assert!(!folders[1].exists(), "its keys are gone");
    }

    #[test]
    fn a_file_with_unknown_fields_is_refused_by_name() {
        let environment = environment();
        environment.add("pay", MakeCurrent::Yes);
        let path = path(&environment.options).unwrap();
        fs::write(&path, "currant = \"pay\"\n").unwrap();
        let error = Contexts::load(&environment.options).unwrap_err().to_string();
        assert!(error.contains("contexts.toml") && error.contains("currant"), "{error}");
    }

    #[test]
    fn xdg_config_home_goes_before_home_unless_it_is_relative() {
        let home = Some(PathBuf::from("/home/me"));
        let folder_of = |config: &str| {
            let config_home = Some(config.into());
            folder(&GlobalOptions { config_home, home: home.clone(), ..GlobalOptions::default() })
        };
        assert_eq!(folder_of("/etc/me").unwrap(), Path::new("/etc/me/countersign"));
        assert_eq!(folder_of("me").unwrap(), Path::new("/home/me/.config/countersign"));
        assert!(folder(&GlobalOptions::default()).is_err());
    }
}
