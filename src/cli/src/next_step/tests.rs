//! Every command in a next step of the workspace is one that there is.

use std::fs;
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use countersign::svid_folder::FolderError;

use super::*;
use crate::args;
use crate::carried::{self, Carried, Typed};
use crate::passphrase_rules::Fault;

/// The commands of ours in a text.
fn commands_in(text: &str) -> Vec<Typed> {
    carried::know(args::command);
    carried::commands_in(text)
}

/// A command is marked in its text, and so can be typed whole: before the options of this run are put
/// behind it, and after.
#[test]
fn every_command_that_is_named_to_users_can_be_typed() {
    let config = Path::new("/a b/it's \"hers\"; `rm` $HOME/ca.toml");
    carried::know(args::command);
    let carried = Carried::with(config, "pay.example");
    let mut wrong = Vec::new();
    let mut seen = 0;
    for file in product_code() {
        for literal in literals(&fs::read_to_string(&file).unwrap()) {
            let commands = commands_in(&literal);
            let told = carried.put_into(&literal);
            let with_options = commands_in(&told);
            seen += commands.len();
            let is_typed = commands.len() == named_in(&literal)
                && with_options.len() == commands.len()
                && commands.iter().zip(&with_options).all(|(plain, command)| {
                    let (own, added) = command.words.split_at(plain.words.len());
                    own == plain.words
                        && filled(own).is_some_and(|words| arrive(&words, added, config))
                });
            if !is_typed {
                wrong.push(format!("{}: {literal}\n    {told}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 150, "only {seen} were found");
}

/// Whether what was added to a command is taken, as it was given.
fn arrive(words: &[String], added: &[String], config: &Path) -> bool {
    let Some(matches) = parsed(&[words, added].concat()) else { return false };
    let mut leaf = &matches;
    while let Some((_, below)) = leaf.subcommand() {
        leaf = below;
    }
    let is_added = |option: &str| added.iter().any(|word| word == option);
    let named = leaf.try_get_one::<PathBuf>("config").ok().flatten();
    let context = leaf.get_one::<String>("context");
    (!is_added("--config") || named.is_some_and(|path| path == config))
        && (!is_added("--context") || context.is_some_and(|name| name == "pay.example"))
}

/// What is printed is typed again: a path is one word, whatever stands in it.
#[test]
fn every_path_in_a_step_is_one_word() {
    let path = || PathBuf::from("/a b/it's\n$HOME");
    let io = || std::io::Error::other("full");
    let errors = [
        Error::BrokenContexts { path: path(), why: String::new(), forgotten: vec![] },
        Error::Configuration {
            path: path(),
            source: Box::new(server::Config::parse("port = 7").unwrap_err()),
        },
        Error::ContextTaken { name: "a".into(), directory: path(), whose: "b".into() },
        Error::Exposed { setting: "a", path: path(), why: String::new() },
        Error::NoPolicies(path().join("x")),
        Error::InTheWay { path: path(), why: String::new() },
        Error::KnownPassphrase { setting: "a", path: path(), fault: Fault::TooShort },
        Error::NewPassphrase { setting: "a", path: path(), fault: Fault::TooShort },
        FolderError::NoLock(path()).into(),
        FolderError::NotInPlace { path: path().join("x") }.into(),
        Error::StaleCrl {
            path: path(),
            ended: time::OffsetDateTime::UNIX_EPOCH,
            source: Box::new(Error::Read { path: path(), source: io() }),
        },
        FolderError::Taken { lock: path(), waited: std::time::Duration::from_secs(60) }.into(),
    ];
    for error in errors {
        let step = error.next_step().unwrap();
        let word = r"$'/a b/it\'s\n$HOME";
        assert!(step.contains(word) && !step.contains("it's"), "{error:?}: {step}");
    }
}

/// What wakes somebody, and what they read then.
#[test]
fn every_command_of_the_alerts_and_of_the_readme_can_be_typed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for (file, least) in [("README.md", 35), ("terraform/monitoring/alerts.yaml", 41)] {
        let text = fs::read_to_string(root.join(file)).unwrap();
        let lines = text.split('\n').map(|line| line.split(" #").next().unwrap_or_default());
        // What is left out is nobody's to type, and quotes are those of YAML.
        let text = lines.collect::<Vec<_>>().join("\n").replace(['…', '"'], ";");
        let commands = commands_in(&text);
        assert!(commands.len() >= least, "{file}: only {} were found", commands.len());
        // A sentence may speak of a command by its name alone.
        let typed = commands.iter().filter(|command| command.words.join(" ") != command.name);
        let wrong: Vec<_> = typed.filter(|command| filled(&command.words).is_none()).collect();
        assert!(wrong.is_empty(), "{file}: {wrong:#?}");
    }
}

#[test]
fn what_cannot_be_typed_is_found() {
    for (command, expected) in [
        ("rotate goes on with it", false),
        ("rotate`, and more", true),
        ("rotate, and more", false),
        ("issue {} --out {} --attest token --token-file FILE --url {}", true),
        ("allow SPIFFE_ID", true),
        ("policy explain", false),
        ("revoke SERIAL", false),
        ("rotate --force", false),
        ("issuer prepare --config FILE; then", true),
    ] {
        let found = commands_in(&format!("countersign {command}"));
        let can_be_typed = found.iter().any(|it| filled(&it.words).is_some());
        assert_eq!(can_be_typed, expected, "{command}");
        assert_eq!(named_in(&format!("countersign {command}")), 1, "{command}");
    }
    assert_eq!(named_in("countersign policy, or countersign is"), 1);
    let text = "let a = \"see: `countersign status`; then countersign \\\n   rotate\";";
    let found: Vec<_> = literals(text).iter().flat_map(|it| commands_in(it)).collect();
    let words: Vec<_> = found.iter().map(|command| command.words.join(" ")).collect();
    assert_eq!(words, ["status", "rotate"]);
}

/// Sources without tests; `dev` prints commands with the path of its executable.
fn product_code() -> Vec<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folders: Vec<PathBuf> = fs::read_dir(workspace)
        .unwrap()
        .map(|entry| entry.unwrap().path().join("src"))
        .filter(|path| path.is_dir())
        .collect();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true if path.ends_with("dev") => {}
                true => folders.push(path),
                false if path.ends_with("tests.rs") => {}
                false if path.extension().is_some_and(|it| it == "rs") => files.push(path),
                false => {}
            }
        }
    }
    files
}

/// The string literals before the tests of a file, with continued lines joined.
fn literals(source: &str) -> Vec<String> {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = lines.collect::<Vec<_>>().join("\n").replace("'\"'", "' '");
    let mut found = Vec::new();
    let mut characters = code.chars().peekable();
    while let Some(c) = characters.next() {
        if c != '"' {
            continue;
        }
        let mut literal = String::new();
        while let Some(c) = characters.next().filter(|c| *c != '"') {
            match (c, characters.peek()) {
                ('\\', Some('\n')) => while characters.next_if(|c| c.is_whitespace()).is_some() {},
                ('\\', Some('n')) => {
                    characters.next();
                    literal.push('\n');
                }
                ('\\', Some(_)) => literal.extend(characters.next()),
                (c, _) => literal.push(c),
            }
        }
        found.push(literal);
    }
    found
}

/// How often a text names a command.
fn named_in(text: &str) -> usize {
    let command = args::command();
    let first =
        |rest: &str| rest.split(|c: char| !c.is_ascii_lowercase()).next().map(str::to_owned);
    let named = text.split("countersign ").skip(1).filter_map(first);
    named.filter(|name| command.find_subcommand(name).is_some()).count()
}

/// The words with something in the place of each that stands for something; none where they cannot be
/// typed.
fn filled(words: &[String]) -> Option<Vec<String>> {
    let open = words.iter().filter(|word| word.contains('{')).count();
    (0..CANDIDATES.len().pow(open as u32)).find_map(|mut chosen| {
        let words = words.iter().map(|word| match word.as_str() {
            "SPIFFE_ID" | "WHO" | "WHOM" => CANDIDATES[0],
            "SERIAL" => CANDIDATES[1],
            "DIR" | "FILE" => CANDIDATES[4],
            "NAME" => CANDIDATES[5],
            "PIN" => CANDIDATES[3],
            "URL" => CANDIDATES[2],
            word if word.contains('{') => {
                let candidate = CANDIDATES[chosen % CANDIDATES.len()];
                chosen /= CANDIDATES.len();
                candidate
            }
            word => word,
        });
        let words: Vec<String> = words.map(str::to_owned).collect();
        parsed(&words).is_some().then_some(words)
    })
}

fn parsed(words: &[String]) -> Option<ArgMatches> {
    let line = std::iter::once("countersign").chain(words.iter().map(String::as_str));
    args::command().try_get_matches_from(line).ok()
}

const CANDIDATES: [&str; 8] = [
    "spiffe://pay.example/prod/a",
    "8f2c01",
    "https://ca.pay.internal:8443",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "some/path",
    "admin",
    "superseded",
    "0000000000000000000000000000000000000000000000000000000000000000",
];
