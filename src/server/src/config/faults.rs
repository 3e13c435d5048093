//! Everything that is wrong in a configuration, at once: a line that cannot be used is told, taken
//! away, and the rest is read again.

use std::fmt;

use identity::without_values;

use super::{Config, checks};

/// What is wrong with one key, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// In which line it stands, from 1; none where it stands nowhere.
    pub line: Option<usize>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// Reads a text whose syntax is TOML's, and says all that is wrong with it.
pub(super) fn read(text: &str) -> Result<Config, Vec<Fault>> {
    let mut reading =
        Reading { lines: text.lines().map(str::to_owned).collect(), ..Reading::default() };
    let config = loop {
        let left = reading.text();
        match toml::from_str::<Config>(&left) {
            Ok(config) => break Some(config),
            // Each fault costs another reading of the whole: who has more of them begins with these.
            Err(_) if reading.faults.len() == MOST_FAULTS => {
                let what = format!("more than these {MOST_FAULTS}: correct these first");
                reading.faults.push(Fault { line: None, what });
                break None;
            }
            // What was taken away began or ended something that goes on in other lines.
            Err(_) if left.parse::<toml::Table>().is_err() => break None,
            Err(error) if !reading.goes_on_after(&error) => break None,
            Err(_) => {}
        }
    };
    let Reading { mut faults, known, removed, .. } = reading;
    if let Some(config) = &config {
        let is_left = |key: &&(&str, String)| {
            !known.contains(&key.0.to_owned()) && !removed.contains(&key.0.to_owned())
        };
        let found = checks::all(config);
        faults.extend(
            found.iter().filter(is_left).map(|(key, why)| Fault {
                line: line_of(text, key),
                what: format!("{key}: {why}"),
            }),
        );
    }
    match config {
        Some(config) if faults.is_empty() => Ok(config),
        _ => {
            faults.sort_by_key(|fault| fault.line.unwrap_or(usize::MAX));
            Err(faults)
        }
    }
}

#[derive(Default)]
struct Reading {
    lines: Vec<String>,
    faults: Vec<Fault>,
    /// Keys that are missing, and stand before the text so that the rest can be read.
    known: Vec<String>,
    /// Keys whose lines were taken away.
    removed: Vec<String>,
}

impl Reading {
    fn text(&self) -> String {
        let given = self.known.iter().map(|key| match key.as_str() {
            "names" => "names = [\"localhost\"]\n".to_owned(),
            key => format!("{key} = \"missing.example\"\n"),
        });
        given.collect::<String>() + &self.lines.join("\n")
    }

    /// Takes note of it; false where nothing can be read beside it.
    fn goes_on_after(&mut self, error: &toml::de::Error) -> bool {
        let message = error.message().trim().to_owned();
        if let Some(key) = quoted(&message).filter(|_| message.starts_with("missing field")) {
            if self.known.contains(&key) {
                return false;
            }
            if !self.removed.contains(&key) {
                let needed = expected(&key).map(|it| format!(", {it}")).unwrap_or_default();
                self.faults.push(Fault { line: None, what: format!("{key} is missing{needed}") });
            }
            self.known.push(key);
            return true;
        }
        let before = self.text();
        let Some(span) = error.span().filter(|span| span.end <= before.len()) else {
            self.faults.push(Fault { line: None, what: without_values(&message) });
            return false;
        };
        let line_at =
            |place: usize| before.as_bytes()[..place].iter().filter(|byte| **byte == b'\n').count();
        let (Some(first), Some(last)) = (
            line_at(span.start).checked_sub(self.known.len()),
            line_at(span.end.saturating_sub(1).max(span.start)).checked_sub(self.known.len()),
        ) else {
            return false;
        };
        let Some(line) = self.lines.get(first).cloned() else { return false };
        if line.is_empty() {
            return false;
        }
        self.tell(first, &message);
        self.take_away(first, last, &line);
        true
    }

    fn tell(&mut self, at: usize, message: &str) {
        let table = self.lines[..at].iter().rev().find_map(|line| header(line)).unwrap_or_default();
        // A line that goes on is no key, and what stands in it is nobody's to see.
        let mut begun = self.lines[..=at].iter().rev().filter(|line| begins(line));
        let key = begun.next().map_or_else(String::new, |line| key_of(line));
        let what = match quoted(message).filter(|_| message.starts_with("unknown field")) {
            Some(unknown) => {
                // The message goes on with those that are known, each in backticks.
                let known: Vec<&str> = message.split('`').skip(3).step_by(2).collect();
                match nearest(&unknown, &known) {
                    Some(meant) => format!("unknown field `{unknown}`: did you mean `{meant}`?"),
                    None => format!("unknown field `{unknown}`; known: {}", known.join(", ")),
                }
            }
            None => {
                let is_address = ["admin_listen", "listen"].contains(&&*key);
                let right = match expected(&key) {
                    Some(_) if is_address && self.lines[at].contains('%') => {
                        "; zone ids (%eth0) are not supported: name the interface's number, or another \
                         address"
                            .to_owned()
                    }
                    right => right.map(|right| format!("; {right}")).unwrap_or_default(),
                };
                let of = if table.is_empty() { String::new() } else { format!("[{table}] ") };
                format!("{of}{key}: {}{right}", without_values(message))
            }
        };
        self.removed.push(key);
        self.faults.push(Fault { line: Some(at + 1), what });
    }

    /// Lines stay where they are. With a table's head goes what stands in it.
    fn take_away(&mut self, first: usize, mut last: usize, line: &str) {
        if header(line).is_some() {
            let behind = self.lines.iter().skip(first + 1);
            last = first + behind.take_while(|line| header(line).is_none()).count();
        }
        let last = last.min(self.lines.len() - 1);
        self.lines[first..=last].iter_mut().for_each(String::clear);
    }
}

/// The name of a table that begins in this line.
fn header(line: &str) -> Option<String> {
    let line = line.split('#').next().unwrap_or_default().trim();
    let name = line.strip_prefix('[')?.strip_suffix(']')?.trim_matches(['[', ']', ' ']);
    (!name.is_empty() && name.chars().all(is_bare)).then(|| name.to_owned())
}

/// What the names of keys and tables are made of.
fn is_bare(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_-.\" ".contains(c)
}

/// Whether a key or a table begins in this line.
fn begins(line: &str) -> bool {
    let key = line.split_once('=').map(|(key, _)| key.trim());
    key.is_some_and(|key| !key.is_empty() && key.chars().all(is_bare)) || header(line).is_some()
}

fn key_of(line: &str) -> String {
    header(line).unwrap_or_else(|| {
        line.split('=').next().unwrap_or_default().trim().trim_matches('"').to_owned()
    })
}

fn line_of(text: &str, key: &str) -> Option<usize> {
    let key = key.rsplit('.').next().unwrap_or(key);
    text.lines().position(|line| line.contains('=') && key_of(line) == key).map(|line| line + 1)
}

fn quoted(message: &str) -> Option<String> {
    message.split('`').nth(1).map(str::to_owned)
}

/// The one that was meant, most likely: at most a third of it is otherwise.
fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    let distances = known.iter().map(|known| (distance(given, known), *known));
    let (distance, nearest) = distances.min()?;
    (distance * 3 <= nearest.chars().count().max(3)).then_some(nearest)
}

/// How many characters have to be put in, taken away or changed (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in to.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

/// What a key is to be.
fn expected(key: &str) -> Option<&'static str> {
    Some(match key {
        "admin_listen" | "listen" => "an address and a port: \"0.0.0.0:8443\", \"[::]:8443\"",
        "budgets" | "keys" => "a table: its keys stand below it, each in a line",
        "crl_url" => "an URL in quotes: \"http://crl.pay.internal/{issuer}\"",
        "names" => "how clients reach it: [\"ca.pay.internal\"]",
        "offline_passphrase_file" | "passphrase_file" | "policies" | "state" => "a path in quotes",
        "issues_per_hour"
        | "renewals_per_hour"
        | "requests_per_second"
        | "revocations_per_hour" => "a whole number from 0 to 4294967295, without quotes",
        "rotate_every" => "a duration in quotes: \"90d\"",
        "trust_domain" => "a name in quotes: \"pay.example\"",
        _ => return None,
    })
}

/// As many as somebody reads.
const MOST_FAULTS: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "trust_domain = \"pay.example\"\nnames = [\"ca.pay.internal\"]\n";

    fn told(text: &str) -> String {
        let faults = read(text).unwrap_err();
        faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn each_key_is_told_what_it_is_to_be() {
        for (line, expected) in [
            ("lissten = \"0.0.0.0:1\"", "line 3: unknown field `lissten`: did you mean `listen`?"),
            ("port = 7", "line 3: unknown field `port`; known: trust_domain, listen"),
            (
                "listen = 8443",
                "line 3: listen: invalid type: integer `…`, expected socket address; an address and a port",
            ),
            (
                "listen = \"[fe80::1%lo]:8443\"",
                "line 3: listen: invalid socket address syntax; zone ids (%eth0) are not supported",
            ),
            (
                "listen = \"localhost:1\"",
                "line 3: listen: invalid socket address syntax; an address and a port",
            ),
            (
                "requests_per_second = -1",
                "line 3: requests_per_second: invalid value: integer `…`, expected u32; a whole number from 0",
            ),
            (
                "requests_per_second = \"7\"",
                "; a whole number from 0 to 4294967295, without quotes",
            ),
            (
                "state = 7",
                "line 3: state: invalid type: integer `…`, expected path string; a path in quotes",
            ),
            ("state = \"\"", "line 3: state: it is empty: name a path, or leave the line away"),
            ("passphrase_file = \"\"", "line 3: passphrase_file: it is empty"),
            ("state = \"~/ca\"", "line 3: state: \"~/ca\": nothing replaces ~ here"),
            ("policies = \"$HOME/p\"", "line 3: policies: \"$HOME/p\": no variable is replaced"),
            ("passphrase_file = \"/run/${X}\"", "passphrase_file: \"/run/${X}\": no variable"),
            ("state = \"/proc/ca\"", "line 3: state: /proc keeps nothing"),
            (
                "crl_url = \"http://127.1/\"",
                "crl_url: \"http://127.1/\": an IPv4 address is written",
            ),
            (
                "crl_url = \"http://a..b:80/\"",
                "crl_url: \"http://a..b:80/\": a DNS name is made of",
            ),
            (
                "crl_url = \"http://web.1/\"",
                "crl_url: \"http://web.1/\": a DNS name does not end in a number",
            ),
            (
                "crl_url = \"http://{issuer}.crl.internal/\"",
                "crl_url: \"http://{issuer}.crl.internal/\": a DNS name is made of",
            ),
            ("crl_url = \"http://x:0/\"", "crl_url: \"http://x:0/\": nothing listens on port 0"),
            ("crl_url = \"http://x:70000/\"", "crl_url: \"http://x:70000/\": a port is a number"),
            ("crl_url = \"http://me@x/\"", "crl_url: \"http://me@x/\": a user stands before"),
            (
                "crl_url = \"https://x/\"",
                "line 3: crl_url: \"https://x/\" does not start with http://",
            ),
            ("crl_url = \"http://\"", "line 3: crl_url: \"http://\" has no host"),
            (
                "crl_url = \"http://x/{isuer}\"",
                "line 3: crl_url: \"http://x/{isuer}\" has a brace that is none of {issuer}",
            ),
            (
                "crl_url = \"http://ä/\"",
                "line 3: crl_url: \"http://ä/\" has a character that no certificate can carry in an URL",
            ),
            (
                "admin_listen = \"0.0.0.0:8443\"",
                "line 3: admin_listen: 0.0.0.0:8443 is that of `listen` too",
            ),
            (
                "admin_listen = \"127.0.0.1:8443\"",
                "line 3: admin_listen: 127.0.0.1:8443 is that of `listen` too",
            ),
            (
                "[keys]\nrotate_every = \"0s\"",
                "line 4: keys.rotate_every: 0s would replace each key at once",
            ),
            (
                "[keys]\nrotate_every = 90",
                "line 4: [keys] rotate_every: invalid type: integer `…`, expected a string; a duration in quotes: \"90d\"",
            ),
            (
                "[budgets]\nissue_per_hour = 3",
                "line 4: unknown field `issue_per_hour`: did you mean `issues_per_hour`?",
            ),
            ("[key]\nrotate_every = \"1d\"", "line 3: unknown field `key`: did you mean `keys`?"),
            ("keys = 3", "; a table: its keys stand below it"),
        ] {
            let told = told(&format!("{BASE}{line}\n"));
            assert!(told.contains(expected) && told.lines().count() == 1, "{line}:\n{told}");
        }
        assert_eq!(
            told("names = [\"a\"]"),
            "trust_domain is missing, a name in quotes: \"pay.example\""
        );
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once_and_nothing_twice() {
        let text = "trust_domain = \"Pay\"\nlisten = 3\nnames = [\n  \"a:1\"\n]\nfoo = 1\n\
                    [key]\nrotate_every = \"1d\"\nother = 3\n[budgets]\nissue_per_hour = 1\n";
        let told = told(text);
        let lines: Vec<&str> = told.lines().map(|line| line.split(':').next().unwrap()).collect();
        assert_eq!(lines, ["line 1", "line 2", "line 3", "line 6", "line 7", "line 11"], "{told}");
        assert!(told.contains("a name has no port"), "{told}");
    }

    /// A megabyte of what is no configuration is no work of hours.
    #[test]
    fn of_very_many_faults_the_first_are_told() {
        let many: String = (0..5_000).map(|n| format!("x{n} = 1\n")).collect();
        let faults = read(&format!("{BASE}{many}")).unwrap_err();
        assert_eq!(faults.len(), MOST_FAULTS + 1);
        assert_eq!(faults[0].line, Some(3));
        assert!(faults[MOST_FAULTS].what.starts_with("more than these 100:"), "{faults:?}");
        let few: String = (0..MOST_FAULTS).map(|n| format!("x{n} = 1\n")).collect();
        assert_eq!(read(&format!("{BASE}{few}")).unwrap_err().len(), MOST_FAULTS);
    }

    #[test]
    fn a_value_of_several_lines_goes_as_a_whole() {
        let told = told("trust_domain = \"pay.example\"\nnames = [\n  7,\n  \"b\",\n]\nport = 1\n");
        assert!(told.starts_with("line "), "{told}");
        assert!(told.contains("unknown field `port`"), "{told}");
    }

    #[test]
    fn nothing_that_is_written_ends_the_search_in_a_panic_or_never() {
        for text in [
            "",
            "[a]\n[b]\n[c]",
            "a.b = 1",
            "[[keys]]",
            "keys = { rotate_every = 1, x = 2 }",
            "names = \"\"\"\na\n\"\"\"",
            "\"lis\\nten\" = 1",
            "[keys.more]\nx = 1",
            "ä = 'ö'",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
