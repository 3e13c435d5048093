//! Running programs, and what came of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What a program did.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its exit code; -1 where a signal ended it.
    pub code: i32,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Outcome {
    /// Panics, with all that was said, unless the exit code is 0.
    #[track_caller]
    pub fn success(self) -> Self {
        self.exits(0)
    }

    /// Panics, with all that was said, unless the exit code is this one.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Panics unless stdout or stderr has this text.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        let said = self.stdout.contains(text) || self.stderr.contains(text);
        assert!(said, "{text:?} is not in\nstdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Stdout as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error} in {:?}", self.stdout))
    }
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a program to its end.
#[track_caller]
pub fn program(command: &mut Command) -> Outcome {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    output.into()
}

/// Runs `openssl` in a folder.
#[track_caller]
pub fn openssl(folder: &Path, arguments: &[&str]) -> Outcome {
    program(Command::new("openssl").args(arguments).current_dir(folder))
}

/// The `countersign` binary that is tested.
#[expect(clippy::disallowed_methods, reason = "a test's own setting")]
pub fn binary() -> PathBuf {
    if let Some(named) = std::env::var_os("COUNTERSIGN_BIN") {
        return named.into();
    }
    built("countersign", "cargo build -p countersign-cli")
}

/// An example of the library.
pub fn example(name: &str) -> PathBuf {
    built(&format!("examples/{name}"), "cargo build -p countersign --examples")
}

/// A program that was built beside this one.
fn built(name: &str, by: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let built = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST").join(name);
    assert!(built.exists(), "{} is missing: {by}", built.display());
    built
}
