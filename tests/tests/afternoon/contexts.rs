//! Slips on the operator's side: contexts, their files, where they point, and what an operator does to
//! herself.

use super::slip::Serve::Runs;
use super::slip::{NEXT, Slip, afternoon};

#[test]
fn an_operator_finds_the_way_back_to_the_ca() {
    afternoon(&slips());
}

const STATUS: &str = "countersign status";
const RECOVER: &str = "countersign init --config ca.toml --recover";
const RECOVER_ADMIN: &str = "countersign init --config ca.toml --recover --operator admin";
const LOCKED_OUT: &str =
    "the way back is then `countersign init --recover --config {D}/ca.toml` on the CA's host";

pub(crate) fn slips() -> Vec<Slip> {
    let mut slips = files();
    slips.extend(addresses());
    slips.extend(herself());
    slips
}

fn files() -> Vec<Slip> {
    vec![
        Slip::new("the list of contexts is gone", Runs, "rm $C/contexts.toml")
            .notices(STATUS, 2, "no context says which CA to ask")
            .step("`countersign context use pay.example`")
            .repairs("countersign context use pay.example")
            .proof(STATUS),
        Slip::new("the list of contexts is empty", Runs, ": > $C/contexts.toml")
            .notices("countersign context list; countersign status", 2, "there is none")
            .step("`countersign context use pay.example`")
            .repairs("countersign context use pay.example")
            .proof(STATUS),
        Slip::new("the list of contexts is gone, and one is named", Runs, "rm $C/contexts.toml")
            .notices("countersign status --context pay.example", 2, "its folder is there")
            .step("next: countersign context use pay.example")
            .repairs(NEXT)
            .proof(STATUS),
        Slip::new("the list and the folders of contexts are gone", Runs, "rm -r $C")
            .notices(STATUS, 2, "no context says which CA to ask")
            .step("countersign init --recover")
            .stops_and_repairs(RECOVER)
            .proof(STATUS),
        Slip::new("the list of contexts is broken", Runs, "echo '[[' >> $C/contexts.toml")
            .notices(STATUS, 2, "contexts.toml cannot be read")
            .step("contexts.toml.before; then `countersign context use pay.example`")
            .repairs(
                "mv $C/contexts.toml $C/contexts.toml.before\n\
                 countersign context use pay.example",
            )
            .proof(STATUS),
        Slip::new("the list of contexts is no text", Runs, "printf '\\377' >> $C/contexts.toml")
            .notices(STATUS, 2, "contexts.toml cannot be read")
            .step("mv {D}/.config/countersign/contexts.toml {D}/.config/countersign/contexts.toml.before")
            .repairs(
                "mv $C/contexts.toml $C/contexts.toml.before\n\
                 countersign context use pay.example",
            )
            .proof(STATUS),
        Slip::new("a context's folder is gone", Runs, "rm -r $C/pay.example")
            .notices(STATUS, 1, "there is no svid.pem")
            .step("`countersign init --recover --operator NAME` on the CA's host")
            .stops_and_repairs(RECOVER_ADMIN)
            .proof(STATUS),
        Slip::new("the operator's key is gone", Runs, "rm $C/pay.example/svid.key")
            .notices(STATUS, 1, "there is no svid.key")
            .step("`countersign init --recover --operator admin` on the CA's host")
            .stops_and_repairs(RECOVER_ADMIN)
            .proof(STATUS),
        Slip::new(
            "the operator's key is another's",
            Runs,
            "cp --remove-destination reports/svid.key $C/pay.example/svid.key",
        )
        .notices(STATUS, 1, "cannot be used together")
        .step("`countersign init --recover --operator admin` on the CA's host")
        .stops_and_repairs(RECOVER_ADMIN)
        .proof(STATUS),
        Slip::new("what the operator trusts is gone", Runs, "rm $C/pay.example/trust.note")
            .notices(STATUS, 1, "there is no trust.note")
            .step("countersign trust fetch")
            .repairs(NEXT)
            .proof(STATUS),
    ]
}

fn addresses() -> Vec<Slip> {
    vec![
        Slip::new("a context that is none", Runs, ":")
            .notices(
                "countersign status --context prod",
                2,
                "no context \"prod\"; known: pay.example",
            )
            .step("choose one of them with --context NAME")
            .repairs("countersign status --context pay.example"),
        Slip::new(
            "another context is the current one",
            Runs,
            "sed 's#/state\"#/second\"#' ca.toml > second.toml\n\
             countersign init --config second.toml --context second\n\
             countersign context use second",
        )
        .notices(STATUS, 5, "not to be trusted")
        .step("if its trust keys are the same")
        .repairs("countersign context list; countersign context use pay.example")
        .proof(STATUS),
        Slip::new("a port where nobody listens", Runs, ":")
            .notices(
                "countersign status --url https://127.0.0.1:1",
                4,
                "no answer from https://127.0.0.1:1",
            )
            .step("the same command again once the CA runs")
            .repairs("countersign status --url $URL"),
        Slip::new("a name that nobody knows", Runs, ":")
            .notices(
                "countersign status --url https://ca.invalid:8443",
                4,
                "no address is known for ca.invalid",
            )
            .step("`countersign context list` shows that of each context")
            .repairs("countersign context list | grep -q $URL; countersign status --url $URL"),
        Slip::new("a URL without its scheme", Runs, ":")
            .notices(
                "countersign status --url ca.pay.internal:8443",
                2,
                "it does not begin with https://",
            )
            .step("such as https://ca.pay.internal:8443")
            .repairs("countersign status --url $URL"),
        Slip::new("the wrong pin", Runs, ":")
            .notices(
                "countersign trust fetch $URL --out note --pin \
                 $(printf 'A%.0s' {1..52})",
                1,
                "there is no trust state of that pin",
            )
            .step("countersign trust pin")
            .repairs("countersign trust fetch $URL --out note --pin $(countersign trust pin)"),
    ]
}

fn herself() -> Vec<Slip> {
    vec![
        Slip::new("an operator denies herself", Runs,
            "deny='countersign deny spiffe://pay.example/countersign/operator/admin --reason superseded'\n\
             ! $deny 2> told; $deny --allow-locking-everybody-out")
            .notices("cat told; countersign status", 3, LOCKED_OUT)
            .step("countersign init --recover")
            .stops_and_repairs(RECOVER)
            .proof(STATUS),
        Slip::new("an operator revokes herself", Runs,
            "revoke='countersign revoke spiffe://pay.example/countersign/operator/admin --reason superseded'\n\
             ! $revoke 2> told; $revoke --allow-locking-everybody-out")
            .notices("cat told; countersign status", 3, LOCKED_OUT)
            .step("countersign init --recover")
            .stops_and_repairs(RECOVER)
            .proof(STATUS),
        Slip::new(
            "an operator denies the CA",
            Runs,
            "countersign deny spiffe://pay.example/countersign/authority --reason superseded \
             --allow-locking-everybody-out 2> told",
        )
        .notices("cat told; countersign status", 0, "the CA's own certificate is refused")
        .step("countersign allow spiffe://pay.example/countersign/authority")
        .repairs("countersign allow spiffe://pay.example/countersign/authority")
        .proof(STATUS),
    ]
}
