//! A CA of real processes in a temporary folder, on free ports.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::PATIENCE;
use crate::command::{Outcome, binary, program};
use crate::ports::Port;

const TERMINAL: &str = include_str!("terminal.py");

/// The trust domain of every environment.
pub const TRUST_DOMAIN: &str = "pay.example";

/// What differs between environments.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `workloads.json`.
    pub workloads: String,
    /// Further lines of the configuration.
    pub configuration: String,
    /// Files that `serve` may open (`ulimit -n`), where fewer than this process.
    pub open_files: Option<u32>,
    /// Further options of `serve`.
    pub serve_options: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            workloads: r#"{"operators": ["/countersign/operator/second"], "workloads": [
                {"id": "/prod/reports", "dns": ["localhost"], "ip": ["127.0.0.1"], "profiles": ["default", "common-name", "short-lived"]},
                {"id": "/prod/monolith"},
                {"id": "/prod/batch"}]}"#
                .to_owned(),
            configuration: "requests_per_second = 0".to_owned(),
            open_files: None,
            serve_options: Vec::new(),
        }
    }
}

/// A CA, made by `init` and run by `serve`; stopped when dropped.
#[derive(Debug)]
pub struct Environment {
    folder: tempfile::TempDir,
    address: SocketAddr,
    admin: SocketAddr,
    server: Option<Child>,
    open_files: Option<u32>,
    serve_options: Vec<String>,
    _ports: [Port; 2],
}

impl Environment {
    /// Makes a CA and serves it.
    pub fn start() -> Self {
        Self::start_with(&Settings::default())
    }

    /// Makes a CA and serves it.
    pub fn start_with(settings: &Settings) -> Self {
        let mut environment = Self::prepare(settings);
        environment.countersign(&["init", "--config", "ca.toml"]).success();
        environment.serve();
        environment
    }

    /// Writes configuration and passphrases, and starts nothing.
    pub fn prepare(settings: &Settings) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ports = [Port::reserve(), Port::reserve()];
        let [address, admin] = [0, 1].map(|port: usize| ports[port].address());
        let environment = Self {
            folder,
            address,
            admin,
            server: None,
            open_files: settings.open_files,
            serve_options: settings.serve_options.clone(),
            _ports: ports,
        };
        environment.write("passphrase", "the passphrase of this test");
        environment.write("offline-passphrase", "another passphrase of this test");
        fs::create_dir(environment.path("policies")).expect("a new folder");
        environment.write("policies/workloads.json", &settings.workloads);
        environment.write(
            "ca.toml",
            &format!(
                "trust_domain = \"{TRUST_DOMAIN}\"\nlisten = \"{address}\"\n\
                 admin_listen = \"{admin}\"\nnames = [\"127.0.0.1\", \"localhost\"]\n\
                 state = \"{}\"\npolicies = \"{}\"\npassphrase_file = \"{}\"\n\
                 offline_passphrase_file = \"{}\"\n{}\n",
                environment.path("state").display(),
                environment.path("policies").display(),
                environment.path("passphrase").display(),
                environment.path("offline-passphrase").display(),
                settings.configuration,
            ),
        );
        environment
    }

    /// Starts `serve` and waits until it is ready, [`PATIENCE`] at most.
    pub fn serve(&mut self) {
        self.serve_until("200");
    }

    /// Starts `serve` and waits until `/readyz` answers with this status, [`PATIENCE`] at most.
    pub fn serve_until(&mut self, status: &str) {
        let log = File::options().create(true).append(true).open(self.path("serve.log"));
        let log = log.expect("the log can be written");
        let mut command = self.command(&["serve", "--config", "ca.toml"]);
        if let Some(files) = self.open_files {
            let limited = format!("ulimit -n {files} && exec \"$0\" serve --config ca.toml \"$@\"");
            command = self.in_folder("sh", &["-c", &limited]);
            command.arg(binary());
        }
        command.args(&self.serve_options);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.server = Some(command.spawn().expect("the binary can be started"));
        self.wait_for(&format!("HTTP/1.1 {status}"));
    }

    fn wait_for(&mut self, status: &str) {
        let begun = Instant::now();
        while !self.admin("/readyz").starts_with(status) {
            let server = self.server.as_mut().expect("it was started");
            let ended = server.try_wait().expect("its state can be asked");
            let late = begun.elapsed() > PATIENCE;
            assert!(ended.is_none() && !late, "serve did not start: {}", self.log());
            crate::pause();
        }
    }

    /// Ends `serve` with SIGTERM; returns its exit code.
    pub fn stop(&mut self) -> i32 {
        let Some(mut server) = self.server.take() else { return 0 };
        signal(&server, "TERM");
        server.wait().expect("it can be waited for").code().unwrap_or(-1)
    }

    /// Ends `serve` with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().expect("it can be killed");
            server.wait().expect("it can be waited for");
        }
    }

    /// The process id of `serve`.
    pub fn server_pid(&self) -> u32 {
        self.server.as_ref().expect("it was started").id()
    }

    /// Runs a command of `countersign` in the environment's folder, as the first operator. One that
    /// has not ended after two minutes is ended, with the exit code 124.
    pub fn countersign(&self, arguments: &[&str]) -> Outcome {
        program(&mut self.in_time(arguments))
    }

    /// The same command, to be changed before it is run.
    pub fn in_time(&self, arguments: &[&str]) -> Command {
        let mut command = self.in_folder("timeout", &["--kill-after=5", "120"]);
        command.arg(binary()).args(arguments).stdin(Stdio::null());
        command
    }

    /// The command itself, to be changed before it is run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.in_folder(binary(), arguments)
    }

    /// Runs a command of `countersign` on a terminal of so many columns, and types each answer once
    /// its prompt was shown. Its stdout is all that the terminal showed.
    pub fn on_terminal(
        &self,
        columns: u16,
        answers: &[(&str, &str)],
        arguments: &[&str],
    ) -> Outcome {
        program(&mut self.terminal(columns, answers, arguments))
    }

    /// The same command, to be changed before it is run.
    pub fn terminal(&self, columns: u16, answers: &[(&str, &str)], arguments: &[&str]) -> Command {
        let answers = serde_json::to_string(answers).expect("pairs of texts");
        let mut command = self.in_folder("python3", &["-c", TERMINAL, &columns.to_string()]);
        command.arg(answers).arg(binary()).args(arguments).stdin(Stdio::null());
        command
    }

    /// Any program in the environment's folder, with nothing else of this process's environment.
    fn in_folder(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.folder.path());
        command
    }

    /// Gets a first certificate by token into a folder of this name.
    pub fn issue(&self, path: &str, folder: &str) -> PathBuf {
        self.issue_with(path, folder, &[]).success();
        self.path(folder)
    }

    /// The same with further options, and whatever comes of it.
    pub fn issue_with(&self, path: &str, folder: &str, options: &[&str]) -> Outcome {
        let id = self.id(path);
        let file = format!("{folder}.token");
        self.write(&file, &self.token(path));
        let url = self.url();
        let mut arguments =
            vec!["issue", &id, "--url", &url, "--token-file", &file, "--out", folder];
        arguments.extend(options);
        self.countersign(&arguments)
    }

    /// A bootstrap token for a path.
    pub fn token(&self, path: &str) -> String {
        let created = self.countersign(&["token", "create", &self.id(path)]).success();
        created.stdout.trim().to_owned()
    }

    /// The trust pin.
    pub fn pin(&self) -> String {
        self.countersign(&["trust", "pin"]).success().stdout.trim().to_owned()
    }

    /// The SPIFFE ID of a path.
    pub fn id(&self, path: &str) -> String {
        format!("spiffe://{TRUST_DOMAIN}{path}")
    }

    /// The URL of the API.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Where TLS is served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the admin port is served.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// A file of the environment.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The environment's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file of the environment, for its owner alone.
    pub fn write(&self, name: &str, contents: &str) {
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.path(name);
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        file.write_all(contents.as_bytes()).expect("a small file can be written");
    }

    /// What `serve` has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("serve.log")).unwrap_or_default()
    }

    /// How many revocations and denials there were: not the log's size, for the service writes there of
    /// its own accord, too.
    pub fn revocations(&self) -> String {
        let metrics = self.admin("/metrics");
        let is_one = |line: &&str| line.starts_with("countersign_revocations_total");
        metrics.lines().find(is_one).expect("it is counted from the start").to_owned()
    }

    /// An answer of the admin port, header and all; empty while it does not answer.
    pub fn admin(&self, path: &str) -> String {
        let mut answer = String::new();
        if let Ok(mut stream) = TcpStream::connect(self.admin) {
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
            if stream.write_all(request.as_bytes()).is_ok() {
                stream.read_to_string(&mut answer).unwrap_or_default();
            }
        }
        answer
    }

    /// `curl` against the API, without a certificate.
    pub fn curl_as_stranger(&self, path: &str) -> Outcome {
        let bundle = self.path(&format!(".config/countersign/{TRUST_DOMAIN}/bundle.pem"));
        let mut command = Command::new("curl");
        command.args(["-sSf", "--cacert"]).arg(bundle).arg(format!("{}{path}", self.url()));
        program(&mut command)
    }

    /// `curl` against the API, with the operator's certificate, and with further options.
    pub fn curl(&self, path: &str, options: &[&str]) -> Outcome {
        let operator = self.path(&format!(".config/countersign/{TRUST_DOMAIN}"));
        let mut command = Command::new("curl");
        command
            .args(["-sS", "--cacert"])
            .arg(operator.join("bundle.pem"))
            .arg("--cert")
            .arg(operator.join("svid.pem"))
            .arg("--key")
            .arg(operator.join("svid.key"))
            .args(options)
            .arg(format!("{}{path}", self.url()));
        program(&mut command)
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        self.kill();
    }
}

fn signal(process: &Child, name: &str) {
    program(Command::new("kill").arg(format!("-{name}")).arg(process.id().to_string())).success();
}
