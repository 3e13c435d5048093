//! Slips in the configuration and in what it names, and commands at the wrong moment.

use super::slip::Serve::{Runs, Stopped};
use super::slip::{Slip, afternoon};

#[test]
fn what_is_wrong_in_the_configuration_is_named_and_put_right() {
    afternoon(&slips());
}

const SERVE: &str = "countersign serve --config ca.toml";
const CHECK: &str = "countersign config check --config ca.toml";
const RECOVER: &str = "countersign init --config ca.toml --recover";

pub(crate) fn slips() -> Vec<Slip> {
    vec![
        Slip::new("a line that is not TOML", Stopped, "sed -i 's/^listen = /listen /' ca.toml")
            .notices(SERVE, 2, "expected `=`")
            .step(CHECK)
            .repairs("sed -i 's/^listen /listen = /' ca.toml; countersign config check --config ca.toml"),
        Slip::new("a key that is none", Stopped, "sed -i 's/^listen/lisen/' ca.toml")
            .notices(SERVE, 2, "unknown field `lisen`: did you mean `listen`?")
            .step(CHECK)
            .repairs("sed -i 's/^lisen/listen/' ca.toml; countersign config check --config ca.toml"),
        Slip::new("a name with a port", Stopped, "sed -i 's/\"localhost\"/\"localhost:8443\"/' ca.toml")
            .notices(SERVE, 2, "names: \"localhost:8443\": a name has no port")
            .step(CHECK)
            .repairs("sed -i 's/localhost:8443/localhost/' ca.toml; countersign config check --config ca.toml"),
        Slip::new("CRLs over TLS", Stopped, "echo 'crl_url = \"https://ca/crl\"' >> ca.toml")
            .notices(SERVE, 2, "crl_url: \"https://ca/crl\" does not start with http://")
            .step(CHECK)
            .repairs("sed -i '/^crl_url/d' ca.toml; countersign config check --config ca.toml"),
        Slip::new("another trust domain", Stopped, "sed -i 's/\"pay.example\"/\"pay.other\"/' ca.toml")
            .notices(SERVE, 1, "it belongs to trust domain pay.example, not pay.other")
            .step("check `trust_domain` and `state`")
            .repairs("sed -i 's/\"pay.other\"/\"pay.example\"/' ca.toml"),
        Slip::new("another state folder", Stopped, "sed -i 's#/state\"#/stat\"#' ca.toml")
            .notices(SERVE, 1, "there is no CA in {D}/stat")
            .step("look at `state` in the configuration")
            .repairs("sed -i 's#/stat\"#/state\"#' ca.toml"),
        Slip::new("the wrong passphrase", Stopped, "cp -p passphrase kept; echo 'of another CA' > passphrase")
            .notices(SERVE, 1, "does not open with this passphrase")
            .step("check `passphrase_file`")
            .repairs("mv kept passphrase"),
        Slip::new("a passphrase for everybody", Stopped, "chmod 644 passphrase")
            .notices(SERVE, 2, "it has mode 0644: others may read or write it")
            .step("chmod 600 {D}/passphrase")
            .repairs("chmod 600 $D/passphrase"),
        Slip::new("a passphrase that is gone", Stopped, "mv passphrase kept")
            .notices(SERVE, 2, "passphrase_file: {D}/passphrase: No such file")
            .step("put it there, or name another in the configuration")
            .repairs("mv kept passphrase"),
        Slip::new("no policies", Stopped, "mv policies kept")
            .notices(CHECK, 2, "policies: {D}/policies: No such file")
            .step("put it there, or name another in the configuration")
            .repairs("mv kept policies; countersign config check --config ca.toml"),
        Slip::new("two `serve` at once", Runs, ":")
            .notices(SERVE, 1, "another process serves from {D}/state")
            .step("stop it first")
            .repairs(":"),
        Slip::new(
            "a second CA on the same port",
            Runs,
            "sed 's#/state\"#/second\"#' ca.toml > second.toml\n\
             countersign init --config second.toml --context second",
        )
        .notices("countersign serve --config second.toml", 1, "cannot listen on 127.0.0.1:")
        .step("choose another `listen` in the configuration")
        .repairs(
            "sed -i 's/listen = .*/listen = \"127.0.0.1:0\"/' second.toml\n\
             countersign serve --config second.toml > second.log 2>&1 & pid=$!\n\
             until grep -q '^serving https' second.log; do kill -0 $pid; done\n\
             kill $pid; wait $pid",
        ),
        Slip::new("`init` where there is a CA", Runs, ":")
            .notices("countersign init --config ca.toml", 1, "has a CA already")
            .step("countersign init --recover")
            .stops_and_repairs(RECOVER),
        Slip::new("recovery while it serves", Runs, ":")
            .notices(RECOVER, 1, "another process serves from {D}/state")
            .step("stop it first")
            .stops_and_repairs(RECOVER),
        Slip::new("the offline keys are elsewhere", Runs, "mv state/offline kept")
            .notices("countersign issuer prepare --config ca.toml", 1, "{D}/state/offline is not there")
            .step("put that folder back from where it is kept, and run the same command again")
            .repairs("mv kept state/offline; countersign issuer prepare --config ca.toml"),
        Slip::new(
            "the wrong offline passphrase",
            Runs,
            "cp -p offline-passphrase kept; echo 'of another CA' > offline-passphrase",
        )
        .notices("countersign rotate --config ca.toml; countersign trust prepare --config ca.toml || \
                  countersign key prepare trust --config ca.toml", 1, "does not open with this passphrase")
        .step("check `offline_passphrase_file`")
        .repairs("mv kept offline-passphrase; countersign rotate --config ca.toml"),
    ]
}
