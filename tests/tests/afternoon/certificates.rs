//! Slips with tokens, certificates and the folders that they are in.

use super::slip::Serve::Runs;
use super::slip::{Slip, afternoon};

#[test]
fn a_service_gets_its_certificate_again() {
    afternoon(&slips());
}

const AGAIN: &str = "countersign issue spiffe://pay.example/prod/reports --out svid --attest token \
    --token-file FILE --url";
const ISSUE_AGAIN: &str = "countersign token create spiffe://pay.example/prod/reports --out FILE\n\
    countersign issue spiffe://pay.example/prod/reports --out svid --attest token \
    --token-file FILE --url $URL";
const RENEW: &str = "countersign renew svid";

pub(crate) fn slips() -> Vec<Slip> {
    let mut slips = tokens();
    slips.extend(folders());
    slips.extend(revocations());
    slips
}

fn tokens() -> Vec<Slip> {
    vec![
        Slip::new("a token is used twice", Runs, "issue reports svid")
            .notices(
                "countersign issue spiffe://pay.example/prod/reports --url $URL \
                 --token-file svid.token --out other --attest token",
                3,
                "the token was used already",
            )
            .step("ask an operator for a new one: countersign token create spiffe://pay.example/prod/reports")
            .repairs("issue reports other"),
        Slip::new(
            "a token is used too late",
            Runs,
            "countersign token create spiffe://pay.example/prod/batch --ttl 1s --out late\n\
             until countersign token list | grep -q expired; do :; done",
        )
        .notices(
            "countersign issue spiffe://pay.example/prod/batch --url $URL --token-file late --out no",
            3,
            "the token has expired",
        )
        .step("ask an operator for a new one: countersign token create spiffe://pay.example/prod/batch")
        .repairs("issue batch batch"),
        Slip::new(
            "a token is another's",
            Runs,
            "countersign token create spiffe://pay.example/prod/reports --out others",
        )
        .notices(
            "countersign issue spiffe://pay.example/prod/batch --url $URL --token-file others --out no",
            3,
            "the token is for spiffe://pay.example/prod/reports",
        )
        .step("ask for spiffe://pay.example/prod/reports")
        .repairs("countersign issue spiffe://pay.example/prod/reports --url $URL --token-file others --out own"),
        Slip::new("half a token is copied", Runs, "(umask 077; head -c 30 svid.token > half)")
            .notices(
                "countersign issue spiffe://pay.example/prod/reports --url $URL --token-file half --out no",
                2,
                "copy it whole",
            )
            .step("countersign token create spiffe://pay.example/prod/reports --out FILE")
            .repairs("issue reports whole"),
        Slip::new("nobody has such a row", Runs, "sed 's#/prod/monolith#/prod/nobody#' policies/workloads.json > table")
            .notices("countersign issue spiffe://pay.example/prod/nobody --out nobody", 3, "has no row")
            .step("add {\"id\": \"/prod/nobody\"} to workloads.json, then: countersign policy apply DIR")
            .repairs("mv table policies/workloads.json; countersign policy apply policies --yes")
            .proof("countersign issue spiffe://pay.example/prod/nobody --out nobody"),
    ]
}

fn folders() -> Vec<Slip> {
    vec![
        Slip::new("another's folder", Runs, "countersign token create spiffe://pay.example/prod/batch --out m")
            .notices(
                "countersign issue spiffe://pay.example/prod/batch --url $URL --token-file m --out svid",
                2,
                "holds the SVID of spiffe://pay.example/prod/reports already",
            )
            .step("choose another --out, or replace it with --yes")
            .repairs("countersign issue spiffe://pay.example/prod/batch --url $URL --token-file m --out batch"),
        Slip::new("the key is gone", Runs, "rm svid/svid.key")
            .notices(RENEW, 1, "there is no svid.key")
            .step(AGAIN)
            .repairs(ISSUE_AGAIN)
            .proof(RENEW),
        Slip::new("the key is another's", Runs, "cp --remove-destination other/svid.key svid/svid.key")
            .notices(RENEW, 1, "cannot be used together")
            .step(AGAIN)
            .repairs("rm svid/svid.key; countersign token create spiffe://pay.example/prod/reports --out FILE\n\
                countersign issue spiffe://pay.example/prod/reports --out svid --attest token --token-file FILE --url $URL")
            .proof(RENEW),
        Slip::new("the certificate is gone", Runs, "rm svid/svid.pem")
            .notices(RENEW, 1, "there is no svid.pem")
            .step(AGAIN)
            .repairs(ISSUE_AGAIN)
            .proof(RENEW),
        Slip::new("what it was asked for is gone", Runs, "rm svid/svid.json")
            .notices(RENEW, 1, "there is no svid.json")
            .step(AGAIN)
            .repairs(ISSUE_AGAIN)
            .proof(RENEW),
        Slip::new("what it trusts is gone", Runs, "rm svid/trust.note")
            .notices(RENEW, 1, "there is no trust.note")
            .step("countersign trust fetch")
            .repairs(super::slip::NEXT)
            .proof(RENEW),
        Slip::new("the folder is gone", Runs, "rm -r svid")
            .notices(RENEW, 1, "svid holds no SVID")
            .step("countersign issue SPIFFE_ID --out svid")
            .repairs(ISSUE_AGAIN)
            .proof(RENEW),
        Slip::new("everybody may write what is made", Runs, "(umask 000; issue reports open)")
            .notices("find open -type f -o -type d", 0, "open")
            .readme("mode 0600")
            .repairs(":")
            .proof("test -z \"$(find open open.token ! -type l -perm /077)\""),
    ]
}

fn revocations() -> Vec<Slip> {
    vec![
        Slip::new("the wrong one is revoked", Runs,
            "issue batch mine; countersign revoke spiffe://pay.example/prod/batch --reason superseded --yes")
            .notices("countersign renew mine", 3, "is revoked since")
            .step("countersign token create spiffe://pay.example/prod/batch")
            .repairs("issue batch mine")
            .proof("countersign renew mine"),
        Slip::new("the wrong one is denied", Runs,
            "countersign deny spiffe://pay.example/prod/batch --reason superseded --yes")
            .notices("issue batch mine", 3, "the identity is denied")
            .step("countersign allow spiffe://pay.example/prod/batch")
            .repairs("countersign allow spiffe://pay.example/prod/batch; issue batch mine")
            .proof("countersign renew mine"),
        Slip::new("a serial number that is none", Runs, ":")
            .notices("countersign revoke deadbeef --reason superseded", 1, "there is no certificate deadbeef")
            .step("`countersign list` shows the serial number of each")
            .repairs(
                "serial=$(countersign list --id '*/prod/batch' | tail -1 | cut -d' ' -f1)\n\
                 countersign revoke $serial --reason superseded",
            )
            .proof("countersign list --revoked | grep -q /prod/batch"),
        Slip::new("somebody is revoked who has nothing", Runs, ":")
            .notices(
                "countersign revoke spiffe://pay.example/prod/nobody-else --reason superseded",
                1,
                "nothing was revoked",
            )
            .step("countersign deny spiffe://pay.example/prod/nobody-else --reason privilege-withdrawn")
            .repairs(
                "countersign deny spiffe://pay.example/prod/nobody-else --reason privilege-withdrawn",
            )
            .proof("countersign denial list | grep -q nobody-else"),
    ]
}
