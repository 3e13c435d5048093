//! Slips in the state folder: keys, database, and the disk below.

use super::slip::Serve::{Restarted, Runs, Stopped};
use super::slip::{Slip, afternoon};

#[test]
fn what_is_missing_in_the_state_folder_is_named_and_put_back() {
    afternoon(&slips());
}

const SERVE: &str = "countersign serve --config ca.toml";
const STATUS: &str = "countersign status";
const BY_HAND: &str = "`countersign key prepare countersignature --config ca.toml` (or `feed`), then \
                       `countersign rotate --config ca.toml`";

pub(crate) fn slips() -> Vec<Slip> {
    vec![
        Slip::new("a key for everybody", Restarted, "chmod 644 state/keys/issuer.key")
            .notices(STATUS, 0, "NOT READY")
            .step("chmod 600 {D}/state/keys/issuer.key")
            .repairs("chmod 600 $D/state/keys/issuer.key"),
        Slip::new(
            "the log's key is gone",
            Restarted,
            "cp -a state/keys backup; rm state/keys/log.key",
        )
        .notices(STATUS, 0, "without the log key no checkpoint is signed")
        .step("restore it from a backup")
        .repairs("cp -a backup/log.key state/keys/; rm -r backup"),
        Slip::new(
            "the key of the database is gone",
            Stopped,
            "cp -a state/keys backup; rm state/keys/head.key",
        )
        .notices(SERVE, 1, "head.key is gone")
        .step("restore it from a backup")
        .repairs("cp -a backup/head.key state/keys/; rm -r backup"),
        Slip::new("a key is cut off", Restarted, "cp -a state/keys backup; truncate -s 99 state/keys/log.key")
            .notices(STATUS, 0, "log.key is damaged: it is cut off")
            .step("restore it from a backup")
            .repairs("cp -a backup/log.key state/keys/; rm -r backup"),
        Slip::new("all keys are gone", Stopped, "mv state/keys backup")
            .notices(SERVE, 1, "{D}/state/keys: the folder is gone")
            .step("restore it from a backup")
            .repairs("mv backup state/keys"),
        Slip::new("the issuer's key is lost", Restarted, "rm state/keys/issuer.key")
            .notices(STATUS, 0, "without the issuer key no certificate is issued")
            .step("countersign init --recover --replace-lost-issuer")
            .stops_and_repairs("countersign init --config ca.toml --recover --replace-lost-issuer")
            .proof("countersign verify reports/svid.pem"),
        Slip::new(
            "the countersignature's key is lost",
            Restarted,
            "rm state/keys/countersignature.key",
        )
        .notices(STATUS, 0, "without the countersignature key")
        .readme(BY_HAND)
        .repairs(
            "countersign key prepare countersignature --config ca.toml\n\
             countersign rotate --config ca.toml 2>&1 | grep 'activate countersignature: waits for'\n\
             countersign revoke spiffe://pay.example/prod/reports --reason superseded --yes\n\
             countersign rotate --config ca.toml",
        ),
        Slip::new("the feed's key is lost", Restarted, "rm state/keys/feed.key")
            .notices(STATUS, 0, "without the feed")
            .readme(BY_HAND)
            .repairs(
                "countersign key prepare feed --config ca.toml\n\
                 countersign rotate --config ca.toml 2>&1 | grep 'activate feed: waits for'\n\
                 countersign revoke spiffe://pay.example/prod/reports --reason superseded --yes\n\
                 countersign rotate --config ca.toml",
            ),
        Slip::new(
            "the CA's own certificate is gone",
            Restarted,
            "rm state/keys/own-certificate.sealed",
        )
        .notices(STATUS, 0, "pay.example")
        .readme("| `keys/own-certificate.sealed` | nothing: it is made anew |")
        .repairs(":")
        .proof("test -f state/keys/own-certificate.sealed"),
        Slip::new("the pin is gone", Stopped, "rm state/trust.pin")
            .notices(SERVE, 1, "{D}/state/trust.pin is gone")
            .step("countersign trust pin > {D}/state/trust.pin")
            .repairs("countersign trust pin > $D/state/trust.pin"),
        Slip::new("the pin is empty", Stopped, ": > state/trust.pin")
            .notices(SERVE, 1, "{D}/state/trust.pin cannot be used: it is empty")
            .step("countersign trust pin > {D}/state/trust.pin")
            .repairs("countersign trust pin > $D/state/trust.pin"),
        Slip::new("the database is gone", Stopped, "cp -a state backup; rm state/countersign.db*")
            .notices(SERVE, 1, "there is no {D}/state/countersign.db")
            .step("restore a backup of the whole folder")
            .repairs("rm -r state; mv backup state"),
        Slip::new(
            "the database is another file",
            Stopped,
            "cp -a state backup; rm state/countersign.db*; cp ca.toml state/countersign.db",
        )
        .notices(SERVE, 1, "file is not a database")
        .step("restore a backup")
        .repairs("rm -r state; mv backup state"),
        Slip::new("the whole folder is gone", Stopped, "mv state backup")
            .notices(SERVE, 1, "there is no CA in {D}/state")
            .readme("Back up the whole state folder")
            .repairs("mv backup state"),
        Slip::new(
            "the disk is full",
            Runs,
            "prlimit --pid $(cat serve.pid) --fsize=4096:unlimited\n\
             until curl -s $ADMIN/readyz | grep -q 'cannot be used'; do :; done",
        )
        .notices("issue reports none", 4, "store")
        .readme("a full disk is known before anybody needs a certificate")
        .repairs("prlimit --pid $(cat serve.pid) --fsize=unlimited:unlimited"),
    ]
}
