//! Slips in policy sets.

use super::slip::Serve::Runs;
use super::slip::{Slip, afternoon};

#[test]
fn a_policy_set_that_went_wrong_is_followed_by_one_that_does_not() {
    afternoon(&slips());
}

const APPLY: &str = "countersign policy apply edited --yes";
const CHECK: &str = "countersign policy check DIR";
const PUT_RIGHT: &str = "rm -r edited; cp -a policies edited\n\
    countersign policy check edited; countersign policy apply edited --yes";

pub(crate) fn slips() -> Vec<Slip> {
    vec![
        Slip::new(
            "a table that is no JSON",
            Runs,
            "cp -a policies edited; echo '{' >> edited/workloads.json",
        )
        .notices(APPLY, 1, "workloads.json")
        .step(CHECK)
        .repairs(PUT_RIGHT),
        Slip::new(
            "a row with a field that is none",
            Runs,
            "sed -i 's/\"dns\"/\"dnss\"/' edited/workloads.json",
        )
        .notices(APPLY, 1, "unknown field `dnss`, expected one of")
        .step(CHECK)
        .repairs(PUT_RIGHT),
        Slip::new(
            "a row that is no path",
            Runs,
            "sed -i 's#\"/prod/batch\"#\"prod/batch\"#' edited/workloads.json",
        )
        .notices(APPLY, 1, "row \"prod/batch\"")
        .step(CHECK)
        .repairs(PUT_RIGHT),
        Slip::new("a policy that is no Cedar", Runs, "echo 'permit(principal,' > edited/own.cedar")
            .notices(APPLY, 1, "own.cedar")
            .step(CHECK)
            .repairs(PUT_RIGHT),
        Slip::new(
            "a set that forbids everything",
            Runs,
            "echo 'forbid(principal, action, resource);' > edited/own.cedar",
        )
        .notices(APPLY, 1, "would lock the CA")
        .step("unless { principal is Operator }")
        .repairs(PUT_RIGHT),
        Slip::new("an empty folder", Runs, "rm -r edited; mkdir edited")
            .notices(APPLY, 2, "has no policy files")
            .step("*.cedar, schema.cedarschema, workloads.json, profiles.json")
            .repairs(PUT_RIGHT),
        Slip::new(
            "a set without the row",
            Runs,
            "echo '{\"workloads\": [{\"id\": \"/prod/batch\"}]}' > edited/workloads.json\n\
             countersign policy apply edited --yes",
        )
        .notices("issue reports lost", 3, "/prod/reports has no row in the workload table")
        .step("to workloads.json, then: countersign policy apply DIR")
        .repairs(PUT_RIGHT),
        Slip::new(
            "a set without the operators",
            Runs,
            "sed -i 's/\"operators\": *\\[[^]]*\\]/\"operators\": []/' edited/workloads.json\n\
             countersign policy apply edited --yes 2> told",
        )
        .notices("cat told", 0, "/countersign/operator/second loses its place as an operator")
        .readme("list `/countersign/operator/NAME` under `operators`")
        .repairs(PUT_RIGHT)
        .proof("countersign status"),
    ]
}
