//! A row of the tables, and what makes it happen.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use system_tests::{Environment, Outcome, PATIENCE, Settings, binary, pause, program};

/// What `serve` does while a slip happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serve {
    /// It runs, before and after.
    Runs,
    /// It was stopped before, and is started by who has noticed.
    Stopped,
    /// It was stopped before, and started again before anybody notices.
    Restarted,
}

/// One slip. Scripts are of bash, typed in the environment's folder: `$D`, with `$URL` and `$ADMIN` of
/// the CA, the contexts in `$C`, the process of `serve` in `serve.pid`, and `issue NAME FOLDER` for a certificate by a new token.
#[derive(Debug)]
pub(crate) struct Slip {
    what: &'static str,
    serve: Serve,
    does: &'static str,
    notices: (&'static str, i32),
    says: &'static str,
    step: Step,
    stops: bool,
    repairs: &'static str,
    proof: &'static str,
}

/// Where the step stands that repairs it; `{D}` is the environment's folder.
#[derive(Debug)]
enum Step {
    /// In what the command that noticed said.
    Printed(&'static str),
    /// In README.md.
    Readme(&'static str),
}

impl Slip {
    pub(crate) fn new(what: &'static str, serve: Serve, does: &'static str) -> Self {
        Self {
            what,
            serve,
            does,
            notices: ("", 0),
            says: "",
            step: Step::Printed(""),
            stops: false,
            repairs: "",
            proof: ":",
        }
    }

    /// What is typed next, how it exits, and what it says is wrong.
    pub(crate) fn notices(self, typed: &'static str, exit: i32, says: &'static str) -> Self {
        Self { notices: (typed, exit), says, ..self }
    }

    /// The step that it names.
    pub(crate) fn step(self, step: &'static str) -> Self {
        Self { step: Step::Printed(step), ..self }
    }

    /// The step that README names.
    pub(crate) fn readme(self, step: &'static str) -> Self {
        Self { step: Step::Readme(step), ..self }
    }

    /// That step, typed; [`NEXT`] is what stands behind `next:`, as it is.
    pub(crate) fn repairs(self, typed: &'static str) -> Self {
        Self { repairs: typed, ..self }
    }

    /// The same with `serve` stopped first, as it says.
    pub(crate) fn stops_and_repairs(self, typed: &'static str) -> Self {
        Self { repairs: typed, stops: true, ..self }
    }

    /// What holds then, besides that the CA issues.
    pub(crate) fn proof(self, typed: &'static str) -> Self {
        Self { proof: typed, ..self }
    }
}

/// Stands for the printed next step.
pub(crate) const NEXT: &str = "NEXT";

/// One CA to which all of it happens, in order.
pub(crate) fn afternoon(slips: &[Slip]) {
    let mut environment = Environment::prepare(&Settings::default());
    fs::create_dir(environment.path("bin")).unwrap();
    symlink(binary(), environment.path("bin/countersign")).unwrap();
    environment.countersign(&["init", "--config", "ca.toml"]).success();
    environment.serve();
    types(&environment, "issue reports reports").success();
    for (number, slip) in slips.iter().enumerate() {
        happens(&mut environment, slip);
        let issues = format!(
            "issue reports proof-{number} && countersign verify proof-{number}/svid.pem && \
             cd proof-{number} && openssl verify -CAfile bundle.pem -untrusted svid.pem svid.pem"
        );
        check(slip, "it issues again", types(&environment, &issues), 0);
    }
    assert_eq!(environment.stop(), 0);
}

fn happens(environment: &mut Environment, slip: &Slip) {
    match slip.serve {
        Serve::Runs => environment.write("serve.pid", &environment.server_pid().to_string()),
        Serve::Stopped | Serve::Restarted => drop(environment.stop()),
    }
    check(slip, "the slip itself", types(environment, slip.does), 0);
    if slip.serve == Serve::Restarted {
        environment.serve_until("");
    }
    let (typed, exit) = slip.notices;
    let said = check(slip, "what notices it", types(environment, typed), exit);
    let text = said.stdout.clone() + &said.stderr;
    let here = |text: &str| text.replace("{D}", &environment.folder().display().to_string());
    assert!(text.contains(&here(slip.says)), "{}: not said: {:?}\n{text}", slip.what, slip.says);
    match slip.step {
        Step::Printed(step) => {
            assert!(text.contains(&here(step)), "{}: no step {step:?} in\n{text}", slip.what);
        }
        Step::Readme(step) => {
            let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
            let readme = fs::read_to_string(readme).unwrap();
            assert!(readme.contains(step), "{}: README has no {step:?}", slip.what);
        }
    }
    if slip.stops {
        environment.stop();
    }
    let repair = match slip.repairs {
        NEXT => text.split("next: ").nth(1).unwrap().lines().next().unwrap().to_owned(),
        typed => typed.to_owned(),
    };
    check(slip, "the repair", types(environment, &repair), 0);
    is_served(environment, slip);
    check(slip, "the proof", types(environment, slip.proof), 0);
}

fn is_served(environment: &mut Environment, slip: &Slip) {
    if slip.stops || slip.serve == Serve::Stopped {
        return environment.serve();
    }
    let begun = Instant::now();
    while !environment.admin("/readyz").starts_with("HTTP/1.1 200") {
        let late = begun.elapsed() > PATIENCE;
        assert!(!late, "{}: not ready: {}", slip.what, environment.admin("/readyz"));
        pause();
    }
}

#[track_caller]
fn check(slip: &Slip, part: &str, outcome: Outcome, exit: i32) -> Outcome {
    let Outcome { code, stdout, stderr } = &outcome;
    assert_eq!(*code, exit, "{}: {part}: stdout: {stdout}\nstderr: {stderr}", slip.what);
    outcome
}

/// Types lines in the environment's folder; they end with the first that fails.
pub(crate) fn types(environment: &Environment, lines: &str) -> Outcome {
    let script = format!(
        "issue() {{ countersign token create spiffe://pay.example/prod/$1 --out $2.token &&\n\
         countersign issue spiffe://pay.example/prod/$1 --url $URL --token-file $2.token --out $2; }}\n\
         set -e\n{lines}\n"
    );
    let mut bash = Command::new("timeout");
    bash.args(["--kill-after=5", "120", "bash", "-c", &script]).env_clear();
    bash.current_dir(environment.folder()).env("HOME", environment.folder());
    let bin = environment.path("bin");
    bash.env("PATH", format!("{}:/usr/sbin:/usr/bin:/bin", bin.display()));
    bash.env("D", environment.folder()).env("C", environment.path(".config/countersign"));
    bash.env("URL", environment.url()).env("ADMIN", environment.admin_address().to_string());
    program(bash.stdin(Stdio::null()))
}
