//! A CA in this process, a home for an operator, and the real binary.

mod authority;

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;

use api::BootstrapToken;
use axum::Router;
use countersign::{Credentials, Limits, Verification, serve, server_config};
use hyper_util::service::TowerToHyperService;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use tokio::net::TcpListener;
use tokio::process::Command;

#[allow(unused_imports, reason = "each test file uses its own part")]
pub(crate) use authority::{Fault, Log, TestAuthority};

/// Everything that a journey needs; ends with it.
pub(crate) struct Environment {
    pub(crate) authority: Arc<TestAuthority>,
    pub(crate) url: String,
    home: tempfile::TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) exit: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Environment {
    pub(crate) async fn new() -> Self {
        let authority = TestAuthority::new();
        let router = authority::router(Arc::clone(&authority));
        let url = start(&authority, router).await;
        Self { authority, url, home: tempfile::tempdir().unwrap() }
    }

    /// Makes an operator's context from an SVID that was issued some hours ago.
    pub(crate) async fn with_operator(issued_hours_ago: i64) -> Self {
        let environment = Self::new().await;
        let folder = environment.path(".config/countersign");
        let operator = environment.path("operator");
        for directory in [&folder, &operator] {
            std::fs::create_dir_all(directory).unwrap();
        }
        let authority = &environment.authority;
        let (chain, key) = authority.svid("/countersign/operator/ann", issued_hours_ago);
        std::fs::write(operator.join("svid.pem"), chain).unwrap();
        std::fs::write(operator.join("svid.key"), key).unwrap();
        std::fs::write(operator.join("trust.note"), authority.trust_note()).unwrap();
        let contexts = format!(
            "current = \"test\"\n[contexts.test]\nurl = {:?}\ntrust_pin = \"{}\"\ndirectory = {:?}\n",
            environment.url,
            authority.pin(),
            operator
        );
        std::fs::write(folder.join("contexts.toml"), contexts).unwrap();
        environment
    }

    /// The URL of something with the CA's certificate that answers in its place.
    #[allow(dead_code, reason = "each test file uses its own part")]
    pub(crate) async fn behind(&self, router: Router) -> String {
        start(&self.authority, router).await
    }

    /// A path below the operator's home.
    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.home.path().join(below)
    }

    pub(crate) fn read(&self, below: &str) -> String {
        std::fs::read_to_string(self.path(below)).unwrap()
    }

    /// Writes a token that the CA takes.
    pub(crate) fn token(&self) -> PathBuf {
        let path = self.path("token");
        let token = BootstrapToken::new([7; 32], self.authority.pin());
        std::fs::write(&path, token.expose() + "\n").unwrap();
        path
    }

    /// Gets an SVID into `svid`, by token.
    pub(crate) async fn issue(&self) -> Ended {
        let token = self.token();
        let line = format!(
            "issue spiffe://pay.example/reports --dns reports.internal --out svid --url {} \
             --token-file {}",
            self.url,
            token.display()
        );
        self.run(&line).await
    }

    /// Runs the binary in the home; words are separated by spaces.
    pub(crate) async fn run(&self, line: &str) -> Ended {
        self.run_with(line.split_whitespace()).await
    }

    /// Runs a line of a shell, which finds the binary by its name; one that begins with a command of
    /// it needs not even that.
    #[allow(dead_code, reason = "each test file uses its own part")]
    pub(crate) async fn shell(&self, line: &str) -> Ended {
        let binary = Path::new(env!("CARGO_BIN_EXE_countersign")).parent().unwrap();
        let is_ours = ["inspect", "lint", "verify"].iter().any(|name| line.starts_with(name));
        let line = if is_ours { format!("countersign {line}") } else { line.to_owned() };
        let output = Command::new("sh")
            .args(["-c", &line])
            .current_dir(self.home.path())
            .env_clear()
            .env("HOME", self.home.path())
            .env("PATH", format!("{}:/usr/bin:/bin", binary.display()))
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(std::time::Duration::from_secs(60), output).await;
        output.expect("it takes too long").unwrap().into()
    }

    pub(crate) async fn run_with<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Ended {
        let output = Command::new(env!("CARGO_BIN_EXE_countersign"))
            .args(words)
            .current_dir(self.home.path())
            .env_clear()
            .env("HOME", self.home.path())
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(std::time::Duration::from_secs(60), output).await;
        output.expect("it takes too long").unwrap().into()
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            exit: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ended {
    /// Demands an exit code, and shows what was said if it is another.
    #[track_caller]
    pub(crate) fn expect(self, exit: i32) -> Self {
        assert_eq!(self.exit, exit, "{}{}", self.stdout, self.stderr);
        self
    }
}

async fn start(authority: &Arc<TestAuthority>, router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let (chain, key) = authority.svid("/countersign/authority", 0);
    let credentials = credentials(&chain, &key);
    let verification = Verification::new(authority.trust());
    let tls = server_config(credentials, Arc::clone(&verification), None).unwrap();
    let service = TowerToHyperService::new(router);
    tokio::spawn(async move {
        let forever = std::future::pending();
        serve(listener, tls, verification, service, Limits::default(), forever).await
    });
    url
}

fn credentials(chain: &str, key: &str) -> Arc<Credentials> {
    let chain = rustls_pki_types::CertificateDer::pem_slice_iter(chain.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    Credentials::new(chain.collect::<Result<_, _>>().unwrap(), key).unwrap()
}

/// Whether two files say the same.
pub(crate) fn same(a: &Path, b: &Path) -> bool {
    std::fs::read(a).unwrap() == std::fs::read(b).unwrap()
}
