//! What to type in other terminals while `dev` runs: lines that can be pasted as they are.

use super::lines::command;
use super::{DOMAIN, Dev, shown};

impl Dev {
    /// The commands, each group below what it is for.
    pub(super) fn hints(&self, tools_serial_number: Option<&str>) -> String {
        let program = shown(&self.executable);
        let url = self.url();
        let mut hints = Hints(String::from("\n  From other terminals, while this runs:\n\n"));
        if let Some(serial_number) = tools_serial_number {
            self.hint_at_tools(serial_number, &mut hints);
        }
        hints.about("a certificate in files, in two steps");
        let monolith = format!("spiffe://{DOMAIN}/monolith");
        hints.add(&[&program, "token create", &monolith, "--out token"]);
        hints.add(&[
            &program,
            "issue",
            &monolith,
            &format!("--url {url}"),
            "--token-file token",
            "--out monolith",
        ]);
        hints.about("cut a demo service off, and see who was told");
        hints.add(&[
            &format!("{program} revoke --yes"),
            &format!("spiffe://{DOMAIN}/reports"),
            "--reason key-compromise",
            "--wait 5s",
        ]);
        hints.about("a service of yours as /orders: its environment, and a call of the monolith");
        hints.add(&[&format!("eval \"$({program} dev env /orders)\"")]);
        hints.add(&[
            "cargo run -p countersign --example client --",
            "$MONOLITH_URL/api/data/reports",
        ]);
        hints.about("everything");
        hints.add(&[&format!("{program} status;"), &format!("{program} list")]);
        let Hints(text) = hints;
        format!("{text}\n  Ctrl-C stops it and cleans up.")
    }

    fn hint_at_tools(&self, serial_number: &str, hints: &mut Hints) {
        let program = shown(&self.executable);
        let file = |name: &str| shown(&self.folder.join("tools").join(name));
        let (url, issuer) = (self.url(), self.running.authority().view.issuer_id());
        let (bundle, chain, crl) = (file("bundle.pem"), file("svid.pem"), file("crl.pem"));
        let cacert = format!("--cacert {bundle}");
        hints.about("a call with its certificate");
        // With it the URL is wider than a terminal.
        hints.add(&[&format!("serial={serial_number}")]);
        hints.add(&[
            "curl",
            &cacert,
            &format!("--cert {chain}"),
            &format!("--key {}", file("svid.key")),
            &format!("{url}/v1/certificates/$serial"),
        ]);
        hints.about("what others say of it");
        let roots = format!("-CAfile {bundle}");
        let untrusted = format!("-untrusted {chain}");
        hints.add(&["openssl verify -x509_strict", &roots, &untrusted, &chain]);
        hints.add(&[&program, "verify", &chain]);
        hints.about("revoke it: OpenSSL sees it by CRL, and it renews no more");
        let tools = format!("spiffe://{DOMAIN}/tools");
        hints.add(&[&program, "revoke --yes", &tools, "--reason key-compromise"]);
        hints.add(&[&format!("issuer={issuer}")]);
        hints.add(&[
            "curl -s",
            &cacert,
            &format!("{url}/crl/$issuer"),
            &format!("| openssl crl -inform DER -out {crl}"),
        ]);
        let by_crl = format!("-CRLfile {crl}");
        hints.add(&["openssl verify -crl_check", &by_crl, &roots, &untrusted, &chain]);
    }
}

struct Hints(String);

impl Hints {
    fn about(&mut self, comment: &str) {
        self.0.push_str(&format!("  # {comment}\n"));
    }

    fn add(&mut self, parts: &[&str]) {
        self.0.push_str(&command(parts));
        self.0.push('\n');
    }
}
