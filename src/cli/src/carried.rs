//! The options of this run that the commands it prints need, too: pasted without them, they would ask
//! another CA, or find none.
//!
//! What is printed is worded here, in the engine and by the CA at the other end, which know nothing of
//! this command line. So every text marks the commands in it: a command stands in backticks, or nothing
//! follows it that a shell would take for a part of it. The options go to its end, and nowhere else. That
//! every text of the workspace keeps to this is tested in `next_step`.

use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};

use clap::ArgMatches;
use clap::parser::ValueSource;

use crate::shell;

/// Each as one word of a command line; none where it was left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    config: Option<String>,
    context: Option<String>,
}

/// As this process was called. There is one command line, and everything that is told follows it.
static CARRIED: Mutex<Carried> = Mutex::new(Carried { config: None, context: None });

/// Says which commands there are. Until then none is found in a text.
pub(crate) fn know(commands: fn() -> clap::Command) {
    // The same ones, where it was said before.
    let _ = COMMANDS.set(LazyLock::new(commands));
}

/// Keeps what the command line says. What comes from a variable, the next command finds there.
pub(crate) fn keep(matches: &ArgMatches) {
    *CARRIED.lock().unwrap_or_else(PoisonError::into_inner) = Carried::of(matches);
}

/// The context was chosen for a CA, and is not the one that a command without it would take.
pub(crate) fn keep_context(name: &str) {
    CARRIED.lock().unwrap_or_else(PoisonError::into_inner).context = Some(shell::word(name));
}

/// What a service tells is read for as long as it runs, and elsewhere: in its diagnostics, from
/// `/readyz`, in a status. So its configuration is named there as it is from any folder, and also where
/// a variable chose it.
pub(crate) fn keep_config(path: &Path) {
    let config = (path != Path::new(server::DEFAULT_PATH)).then(|| {
        let absolute = std::path::absolute(path);
        shell::quoted(absolute.as_deref().unwrap_or(path))
    });
    CARRIED.lock().unwrap_or_else(PoisonError::into_inner).config = config;
}

/// A text with the options put into each command of ours in it.
pub(crate) fn carried(text: &str) -> String {
    CARRIED.lock().unwrap_or_else(PoisonError::into_inner).clone().put_into(text)
}

impl Carried {
    /// As the command line of a test.
    #[cfg(test)]
    pub(crate) fn with(config: &Path, context: &str) -> Self {
        Self { config: Some(shell::quoted(config)), context: Some(shell::word(context)) }
    }

    fn of(matches: &ArgMatches) -> Self {
        let (mut leaf, mut names) = (matches, vec![]);
        while let Some((name, below)) = leaf.subcommand() {
            names.push(name);
            leaf = below;
        }
        let is_typed = |id| leaf.value_source(id) == Some(ValueSource::CommandLine);
        let config = leaf.try_get_one::<PathBuf>("config").ok().flatten();
        let config = config.filter(|_| is_typed("config")).map(|path| shell::quoted(path));
        let context = leaf.try_get_one::<String>("context").ok().flatten();
        let context = context.filter(|_| is_typed("context")).map(|name| shell::word(name));
        // What these print is typed by somebody else.
        let is_newcomer = matches!(names[..], ["operator", "request"]);
        Self { config, context: context.filter(|_| !is_newcomer) }
    }

    pub(crate) fn put_into(&self, text: &str) -> String {
        if *self == Self::default() {
            return text.to_owned();
        }
        let (mut told, mut rest) = (String::new(), text);
        for typed in commands_in(text) {
            let (before, behind) = rest.split_at(typed.end - (text.len() - rest.len()));
            told.push_str(before);
            told.push_str(&self.options(&typed, behind));
            rest = behind;
        }
        told + rest
    }

    /// What a command needs beside what it says itself.
    fn options(&self, typed: &Typed, behind: &str) -> String {
        let says = |option: &str| {
            let name = |word: &String| word.split('=').next() == Some(option);
            typed.words.iter().any(name)
        };
        let behind = behind.trim_start_matches(['`', ',', ' ']);
        let is_theirs = THEIRS.iter().any(|by| behind.starts_with(by));
        let takes_context = !WITHOUT_CONTEXT.contains(&&*typed.name) && !is_theirs;
        let names_another = ["--context", "--url", "--token-file"].into_iter().any(says);
        let config = self.config.as_ref().filter(|_| typed.takes_config && !says("--config"));
        let context = self.context.as_ref().filter(|_| takes_context && !names_another);
        let option = |name, value: Option<&String>| {
            value.map(|value| format!(" --{name} {value}")).unwrap_or_default()
        };
        option("config", config) + &option("context", context)
    }
}

/// A command of ours that stands in a text.
#[derive(Debug)]
pub(crate) struct Typed {
    /// As in `key prepare`.
    pub(crate) name: String,
    /// What stands behind `countersign`.
    pub(crate) words: Vec<String>,
    takes_config: bool,
    /// Where it ends in the text.
    end: usize,
}

/// The commands of ours that stand in a text. One ends where a shell would end it, or with the
/// backticks that it stands in; `countersign` that no command follows is a name.
pub(crate) fn commands_in(text: &str) -> Vec<Typed> {
    let mut found: Vec<Typed> = Vec::new();
    let Some(commands) = COMMANDS.get() else { return found };
    for (at, _) in text.match_indices(NAME) {
        let begin = at + NAME.len();
        if found.last().is_some_and(|before| begin < before.end) {
            continue;
        }
        let Some((words, length)) = shell::words(&text[begin..]) else { continue };
        let (mut command, mut names) = (&**commands, Vec::new());
        for word in &words {
            let Some(below) = command.find_subcommand(word) else { break };
            command = below;
            names.push(word.as_str());
        }
        if !names.is_empty() && !command.is_subcommand_required_set() {
            let takes_config = command.get_arguments().any(|it| it.get_id() == "config");
            found.push(Typed { name: names.join(" "), words, takes_config, end: begin + length });
        }
    }
    found
}

/// Made once: diagnostics are looked through line by line.
static COMMANDS: OnceLock<LazyLock<clap::Command>> = OnceLock::new();
const NAME: &str = "countersign ";
/// Behind a command that somebody else types, where his own context is.
const THEIRS: [&str; 2] = ["by another operator", "by an operator"];
/// They ask no CA of a context.
const WITHOUT_CONTEXT: [&str; 16] = [
    "completions",
    "config check",
    "context list",
    "context remove",
    "context use",
    "dev",
    "dev env",
    "inspect",
    "lint",
    "operator join",
    "policy check",
    "policy shipped",
    "renew",
    "serve",
    "trust fetch",
    "verify",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args;

    fn called(line: &str) -> Carried {
        know(args::command);
        let words = line.split(' ');
        Carried::of(&args::command().try_get_matches_from(words).unwrap())
    }

    #[test]
    fn a_printed_command_has_what_this_one_was_called_with() {
        let init = called("countersign init --config ca.toml --context hers");
        let both = "--config ca.toml --context hers";
        for (text, expected) in [
            (
                "next: countersign init --recover (here)",
                format!("next: countersign init --recover {both} (here)"),
            ),
            (
                "`countersign serve` runs it, `countersign key prepare log` does not: that",
                format!(
                    "`countersign serve --config ca.toml` runs it, `countersign key prepare log \
                     {both}` does not: that"
                ),
            ),
            (
                "countersign init --certificate 'a;`b' --operator bob; then:\ncountersign rotate",
                format!(
                    "countersign init --certificate 'a;`b' --operator bob {both}; then:\ncountersign \
                     rotate {both}"
                ),
            ),
            (
                "`countersign list` shows it; countersign deny ID --reason superseded \\\n  --wait 5s",
                "`countersign list --context hers` shows it; countersign deny ID --reason superseded \
                 \\\n  --wait 5s --context hers"
                    .to_owned(),
            ),
            ("countersign status", "countersign status --context hers".to_owned()),
        ] {
            assert_eq!(init.put_into(text), expected);
        }
        for text in [
            "countersign is a CA; see `countersign policy`, or: countersign context list",
            "countersign it's; countersign list 'it",
            "countersign config check --config other.toml; countersign status --context=his",
            "countersign issue spiffe://a.example/b --out d \\\n  --url https://ca --token-file t",
            "`countersign allow spiffe://a.example/b`, by another operator",
            "`countersign token create spiffe://a.example/b` by an operator, then as before",
        ] {
            assert_eq!(init.put_into(text), text);
        }
    }

    #[test]
    fn the_commands_without_a_context_are_commands() {
        know(args::command);
        for name in WITHOUT_CONTEXT {
            let found = commands_in(&format!("countersign {name}"));
            assert_eq!(found.len(), 1, "{name}");
            assert_eq!(found[0].name, name);
        }
    }

    #[test]
    fn what_was_not_typed_is_not_printed() {
        for line in [
            "countersign init",
            "countersign status --json",
            "countersign operator request bob --context hers --trust-pin AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        ] {
            assert_eq!(called(line), Carried::default(), "{line}");
        }
        assert_eq!(called("countersign --context a status").context.as_deref(), Some("a"));
        assert_eq!(called("countersign rotate --config a%b").config.as_deref(), Some("a%b"));
    }
}
