//! The options of this run that the commands it prints need, too: pasted without them, they would ask
//! another CA, or find none.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

use crate::args;
use crate::shell;

/// Each as one word of a command line; none where it was left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Carried {
    config: Option<String>,
    context: Option<String>,
}

/// As this process was called. There is one command line, and everything that is told follows it.
static CARRIED: Mutex<Carried> = Mutex::new(Carried { config: None, context: None });

/// Keeps what the command line says. What comes from a variable, the next command finds there.
pub(crate) fn keep(matches: &ArgMatches) {
    *CARRIED.lock().unwrap_or_else(PoisonError::into_inner) = Carried::of(matches);
}

/// The context was chosen for a CA, and is not the one that a command without it would take.
pub(crate) fn keep_context(name: &str) {
    CARRIED.lock().unwrap_or_else(PoisonError::into_inner).context = Some(shell::word(name));
}

/// A text with the options put into each command of ours in it.
pub(crate) fn carried(text: &str) -> String {
    CARRIED.lock().unwrap_or_else(PoisonError::into_inner).clone().put_into(text)
}

impl Carried {
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

    fn put_into(&self, text: &str) -> String {
        if *self == Self::default() {
            return text.to_owned();
        }
        let (mut told, mut rest) = (String::new(), text);
        while let Some(at) = rest.find(NAME) {
            let (before, behind) = rest.split_at(at + NAME.len());
            let (typed, options) = self.options(behind);
            told.push_str(before);
            told.push_str(&behind[..typed]);
            told.push_str(&options);
            rest = &behind[typed..];
        }
        told + rest
    }

    /// How much of a text is a command, and what is to stand behind it.
    fn options(&self, behind: &str) -> (usize, String) {
        let Some((name, command)) = named(behind) else { return (0, String::new()) };
        let rest = &behind[name.len()..];
        let (line, _) = rest.split_at(end(rest));
        let (line, after) = rest.split_at(typed(line, &command));
        let has = |options: &[&str]| options.iter().any(|option| line.contains(option));
        let after = after.trim_start_matches([',', '`', ' ']);
        let is_theirs = THEIRS.iter().any(|by| after.starts_with(by));
        let takes_config = command.get_arguments().any(|argument| argument.get_id() == "config");
        let takes_context = !WITHOUT_CONTEXT.contains(&name) && !is_theirs;
        let mut options = String::new();
        if let Some(config) = self.config.as_ref().filter(|_| takes_config && !has(&["--config"])) {
            options.push_str(&format!(" --config {config}"));
        }
        let names_another = has(&["--context", "--url", "--token-file"]);
        if let Some(context) = self.context.as_ref().filter(|_| takes_context && !names_another) {
            options.push_str(&format!(" --context {context}"));
        }
        (name.len() + line.len(), options)
    }
}

/// The command whose name a text begins with; none where it goes on as a sentence.
fn named(text: &str) -> Option<(&str, Command)> {
    let (mut command, mut end) = (args::command(), 0);
    loop {
        let word = text[end..].split(|c: char| !c.is_ascii_lowercase()).next().unwrap_or_default();
        command = command.find_subcommand(word)?.clone();
        end += word.len();
        if !command.has_subcommands() {
            return Some((&text[..end], command));
        }
        text[end..].strip_prefix(' ')?;
        end += 1;
    }
}

/// How much behind a command's name belongs to it: its options, and as many words as it takes. Prose
/// may follow.
fn typed(line: &str, command: &Command) -> usize {
    let root = args::command();
    let takes_value = |name: &str| {
        let mut known = command.get_arguments().chain(root.get_arguments());
        let option = known.find(|it| it.get_long() == Some(name))?;
        Some(option.get_action().takes_values())
    };
    let (mut end, mut left) = (0, command.get_positionals().count());
    let mut is_value = false;
    while let Some((gap, word)) = next_word(&line[end..]) {
        // A colon or a full stop is the sentence's.
        let bare = word.trim_end_matches([':', '.']);
        if is_value {
            is_value = false;
        } else if let Some(option) = bare.strip_prefix("--") {
            let Some(takes_value) = takes_value(option) else { break };
            is_value = takes_value;
        } else if left > 0 {
            left -= 1;
        } else {
            break;
        }
        end += gap + bare.len();
        if bare.len() < word.len() {
            break;
        }
    }
    end
}

/// What stands before the next word of a command line, and the word.
fn next_word(line: &str) -> Option<(usize, &str)> {
    let word = line.trim_start_matches([' ', '\\', '\n']);
    let gap = line.len() - word.len();
    let quoted = word.strip_prefix('\'').or_else(|| word.strip_prefix("$'"));
    let end = match quoted.and_then(|quoted| quoted.find("' ")) {
        Some(end) => word.len() - quoted.unwrap_or_default().len() + end + 1,
        None if quoted.is_some() => word.len(),
        None => word.find([' ', '\n']).unwrap_or(word.len()),
    };
    (gap > 0 && end > 0).then(|| (gap, &word[..end]))
}

/// Where a command ends at the latest: with the backticks, the sentence, or the line that is not continued.
fn end(text: &str) -> usize {
    let mut is_quoted = false;
    let mut is_end = |(at, c): &(usize, char)| match c {
        '\'' => {
            is_quoted = !is_quoted;
            false
        }
        '\n' => !text[..*at].ends_with('\\'),
        c => !is_quoted && "`;,()".contains(*c),
    };
    text.char_indices().find(|it| is_end(it)).map_or(text.len(), |(at, _)| at)
}

const NAME: &str = "countersign ";
/// Behind a command that somebody else types, where his own context is.
const THEIRS: [&str; 2] = ["by another operator", "by an operator"];
/// They ask no CA of a context.
const WITHOUT_CONTEXT: [&str; 15] = [
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
    "renew",
    "serve",
    "trust fetch",
    "verify",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn called(line: &str) -> Carried {
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
                "`countersign serve` runs it, countersign key prepare log does not: that",
                format!(
                    "`countersign serve --config ca.toml` runs it, countersign key prepare log {both} \
                     does not: that"
                ),
            ),
            (
                "countersign init --certificate 'a b' --operator bob: then\ncountersign rotate.",
                format!(
                    "countersign init --certificate 'a b' --operator bob {both}: then\ncountersign \
                     rotate {both}."
                ),
            ),
            (
                "countersign list shows it; countersign deny ID --reason superseded \\\n  --wait 5s",
                "countersign list --context hers shows it; countersign deny ID --reason superseded \
                 \\\n  --wait 5s --context hers"
                    .to_owned(),
            ),
            ("countersign status", "countersign status --context hers".to_owned()),
        ] {
            assert_eq!(init.put_into(text), expected);
        }
        for text in [
            "countersign is a CA; see countersign policy, or countersign context list",
            "countersign config check --config other.toml; countersign status --context his",
            "countersign issue spiffe://a.example/b --out d \\\n  --url https://ca --token-file t",
            "`countersign allow spiffe://a.example/b`, by another operator",
        ] {
            assert_eq!(init.put_into(text), text);
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
