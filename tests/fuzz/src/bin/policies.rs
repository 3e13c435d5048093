//! A policy set as `PUT /v1/policies` takes it: policies, table, profiles and schema, with `---` on a
//! line between them; what is empty is left out. An operator sends it, and the CA's stack is at stake.
#![no_main]

use std::collections::{BTreeMap, HashSet};

use authority::OwnNames;
use authority::policy::{Action, ActivePolicy, PolicySet, Principal, Query};
use fuzz::trust_domain;
use identity::SpiffeId;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let files: BTreeMap<String, String> = NAMES
        .iter()
        .zip(text.splitn(NAMES.len(), "\n---\n"))
        .filter(|(_, text)| !text.is_empty())
        .map(|(name, text)| ((*name).to_owned(), text.to_owned()))
        .collect();
    // What is wrong is said in words that can be shown.
    let set = match PolicySet::parse(&files) {
        Ok(set) => set,
        Err(error) => return drop((error.to_string(), error.next_step())),
    };
    let names = ["ca.internal".to_owned(), "10.9.9.9".to_owned()];
    drop(OwnNames::configured(&names).refuse_rows(set.workloads()));
    for operator in [None, Some("admin")] {
        drop(set.require_way_on(Some(&trust_domain()), operator));
    }
    drop(set.require_way_on(None, None));
    let again = PolicySet::parse(set.files()).expect("what was taken is taken again");
    assert_eq!(again.hash(), set.hash());
    let operators = HashSet::from(["admin".to_owned()]);
    let Ok(active) = ActivePolicy::new(set, trust_domain(), operators) else { return };
    let admin = SpiffeId::operator(&trust_domain(), "admin").expect("a constant name is valid");
    for action in [Action::ChangePolicy, Action::ReadStatus] {
        let query = Query { principal: Principal::of(&admin), action, resource: None };
        assert_eq!(active.decide(&query), active.decide(&query));
    }
});

const NAMES: [&str; 4] =
    ["countersign.cedar", "workloads.json", "profiles.json", "schema.cedarschema"];
