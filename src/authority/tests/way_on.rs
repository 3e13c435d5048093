//! No policy set ends a CA: what it asks for itself depends on none, and who applies one can go on.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use api::{IssueRequest, IssuedCertificate, OperatorRequest, Secret, Ttl};
use authority::clock::Clock;
use authority::policy::{
    Action, ActivePolicy, IssueContext, OPERATOR_LIFE, PolicyError, PolicySet, Principal, Query,
};
use authority::sequencer::{ActMember, Acted, Effect, Member, Outcome};
use authority::setup::{self, NewAuthority, Parent};
use authority::{Act, Caller, Error, EventDraft};
use identity::SpiffeId;
use issuance::KeyType;
use support::{Environment, NOW, csr, id, policy_files, request, trust_domain};

const SHIPPED: &str = include_str!("../../../policies/countersign.cedar");
const AT_MOST_12_HOURS: &str = r#"@id("at-most-12h") forbid (principal, action in [Action::"Issue",
    Action::"Renew"], resource) when { context.validity_seconds > 43200 };"#;

/// Sets that once kept the CA from starting, its host from making an operator, or both: policies
/// beside the shipped ones, and the profile `default`.
const SETS: &[(&str, &str)] = &[
    ("", RSA_ONLY),
    ("", r#""longest":"24h","shortest":"5m","validity":"24h","key_types":["ecdsa-p256"]"#),
    ("", r#""longest":"5m","shortest":"5m","validity":"5m","key_types":["ecdsa-p256"]"#),
    ("", FIRST_DNS),
    (
        "",
        r#""longest":"1h","shortest":"5m","validity":"1h","key_types":["ecdsa-p256"],
           "revocation":"none-available""#,
    ),
    (AT_MOST_12_HOURS, AS_SHIPPED),
    (
        r#"@id("nameless") forbid (principal, action == Action::"Issue", resource)
           unless { context.dns.isEmpty() };"#,
        AS_SHIPPED,
    ),
    (
        r#"@id("theirs") forbid (principal, action in [Action::"Issue", Action::"Renew"],
           resource in Path::"/countersign") unless { resource ==
           Identity::"spiffe://example.org/countersign/operator/admin" };"#,
        AS_SHIPPED,
    ),
    (r#"@id("everything") forbid (principal, action, resource);"#, FIRST_DNS),
];
const AS_SHIPPED: &str =
    r#""longest":"7d","shortest":"5m","validity":"24h","key_types":["ecdsa-p256"]"#;
const RSA_ONLY: &str = r#""longest":"7d","shortest":"5m","validity":"24h","key_types":["rsa"]"#;
const FIRST_DNS: &str = r#""longest":"7d","shortest":"5m","validity":"24h",
    "key_types":["ecdsa-p256"],"common_name":"first-dns""#;

fn set(policies: &str, default: &str) -> BTreeMap<String, String> {
    let shipped = include_str!("../../../policies/profiles.json");
    let mut profiles: Vec<serde_json::Value> = serde_json::from_str(shipped).unwrap();
    profiles[0] = serde_json::from_str(&format!(r#"{{"name":"default",{default}}}"#)).unwrap();
    let mut files = policy_files();
    files.insert("countersign.cedar".to_owned(), SHIPPED.to_owned());
    files.insert("mine.cedar".to_owned(), policies.to_owned());
    files.insert("profiles.json".to_owned(), serde_json::to_string(&profiles).unwrap());
    files
}

/// Puts a set into force as a CA did that asked less before.
async fn put_into_force(environment: &mut Environment, files: &BTreeMap<String, String>) {
    let set = PolicySet::parse(files).unwrap();
    let (hash, by) = (*set.hash(), Act { actor: "test", request_id: "test" });
    let detail = serde_json::json!({ "files": [], "hash": format!("{hash:?}") });
    let event = EventDraft::new("policy.change", &by, "policies", &detail);
    let expected = Some(environment.store.head().await.unwrap().policy_hash);
    let files = serde_json::to_string(set.files()).unwrap();
    let effect = Effect::ActivatePolicy { expected, hash, files };
    let act = ActMember { event, effect, allowed_under: None };
    let now = environment.clock.unix_milliseconds();
    let done = environment.store.commit(vec![Member::Act(Box::new(act))], now).await.unwrap();
    assert!(matches!(done[0], Outcome::Act(Acted::Done { .. })), "{done:?}");
    environment.restart().await;
}

/// As `serve` asks, with the names of its configuration.
async fn certify_itself(environment: &Environment) -> Result<IssuedCertificate, Error> {
    let body = IssueRequest {
        spiffe_id: Some(SpiffeId::authority(&trust_domain())),
        dns: Some(vec!["ca.internal".to_owned()]),
        ip: Some(vec!["10.9.9.9".parse().unwrap()]),
        ..request(&csr())
    };
    environment.authority.issuing.issue_internal(&body, "own-certificate").await
}

fn operators(name: &str) -> IssueRequest {
    let spiffe_id = Some(SpiffeId::operator(&trust_domain(), name).unwrap());
    IssueRequest { spiffe_id, ttl: Some(Ttl(OPERATOR_LIFE)), ..request(&csr()) }
}

/// As `init` and `init --recover` ask.
async fn recover(environment: &Environment) -> Result<IssuedCertificate, Error> {
    environment.authority.issuing.issue_internal(&operators("admin"), "init").await
}

async fn apply(
    environment: &Environment,
    by: &Caller,
    files: &BTreeMap<String, String>,
) -> Result<(), Error> {
    let active = environment.authority.operations.policies(by).unwrap().hash;
    environment.authority.operations.replace_policies(by, files, &active).await.map(drop)
}

#[tokio::test]
async fn no_set_in_force_keeps_the_ca_from_certifying_itself_or_an_operator() {
    for (policies, default) in SETS {
        let mut environment = Environment::start().await;
        put_into_force(&mut environment, &set(policies, default)).await;
        let own = certify_itself(&environment).await;
        let own = own.unwrap_or_else(|error| panic!("{policies} {default}: {error}"));
        let day = Duration::from_secs(24 * 3600);
        assert_eq!((own.not_after - NOW).unsigned_abs(), day, "{policies} {default}");
        let operator = recover(&environment).await;
        let operator = operator.unwrap_or_else(|error| panic!("{policies} {default}: {error}"));
        assert_eq!((operator.not_after - NOW).unsigned_abs(), OPERATOR_LIFE);
    }
}

/// It is for the CA's own paths alone, whatever the CA is told to ask for.
#[tokio::test]
async fn what_depends_on_no_policy_set_is_only_what_the_ca_needs() {
    let environment = Environment::start().await;
    for path in ["/prod/reports", "", "/countersigned/x"] {
        let body = IssueRequest { spiffe_id: Some(id(path)), ..request(&csr()) };
        assert!(
            environment.authority.issuing.issue_internal(&body, "init").await.is_err(),
            "{path}"
        );
    }
}

#[tokio::test]
async fn operators_renew_and_join_whatever_a_set_makes_of_the_profile_default() {
    for (policies, default) in SETS.iter().take_while(|(policies, _)| policies.is_empty()) {
        let environment = Environment::start().await;
        let admin = environment.caller(&recover(&environment).await.unwrap());
        apply(&environment, &admin, &set(policies, default)).await.unwrap();
        let renewed = environment.authority.issuing.issue(&admin, &operators("admin"), None).await;
        let renewed = renewed.unwrap_or_else(|error| panic!("{default}: {error}"));
        assert_eq!((renewed.not_after - NOW).unsigned_abs(), OPERATOR_LIFE);
        let asked = OperatorRequest {
            name: "newcomer".to_owned(),
            ttl: None,
            key_sha256: None,
            again: false,
        };
        let token =
            environment.authority.operations.add_operator(&admin, &asked).await.unwrap().token;
        let attestation = api::Attestation::Token { token };
        let body = IssueRequest { attestation, ..operators("newcomer") };
        let joined = environment.authority.issuing.issue(&support::anonymous(), &body, None).await;
        joined.unwrap_or_else(|error| panic!("{default}: {error}"));
    }
}

#[tokio::test]
async fn a_set_under_which_its_operator_could_not_renew_is_refused_with_a_way_out() {
    let files = set(AT_MOST_12_HOURS, AS_SHIPPED);
    let (domain, parsed) = (trust_domain(), PolicySet::parse(&files).unwrap());
    for domain in [None, Some(&domain)] {
        let refused = parsed.require_way_on(domain, None).unwrap_err();
        assert!(matches!(refused, PolicyError::Governance(_)), "{refused}");
        for said in ["at-most-12h", "unless { principal is Operator }"] {
            assert!(refused.to_string().contains(said), "{refused}");
        }
    }
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    let refused = apply(&environment, &admin, &files).await;
    assert!(matches!(refused, Err(Error::Policy(PolicyError::Governance(_)))), "{refused:?}");

    let mended =
        AT_MOST_12_HOURS.replace("> 43200 };", "> 43200 } unless { principal is Operator };");
    let files = set(&mended, AS_SHIPPED);
    PolicySet::parse(&files).unwrap().require_way_on(None, None).unwrap();
    apply(&environment, &admin, &files).await.unwrap();
    environment.authority.issuing.issue(&admin, &operators("admin"), None).await.unwrap();
    let token = environment.token(&admin, "/prod/reports").await;
    let refused = environment.issue_with(&token, &csr()).await;
    assert!(matches!(refused, Err(Error::Denied(_))), "a workload asks for a day: {refused:?}");
}

/// What replaces a set is made from it, and names it by its hash.
#[tokio::test]
async fn a_set_that_its_operator_could_not_see_is_refused_with_a_way_out() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    for action in ["ReadPolicy", "ReadStatus"] {
        let policy =
            format!(r#"@id("unseen") forbid (principal, action == Action::"{action}", resource)"#);
        let files = set(&format!("{policy};"), AS_SHIPPED);
        let refused = PolicySet::parse(&files).unwrap().require_way_on(None, None).unwrap_err();
        assert!(refused.to_string().contains("unseen"), "{refused}");
        let refused = apply(&environment, &admin, &files).await;
        assert!(matches!(refused, Err(Error::Policy(PolicyError::Governance(_)))), "{refused:?}");

        let files = set(&format!("{policy} unless {{ principal is Operator }};"), AS_SHIPPED);
        PolicySet::parse(&files).unwrap().require_way_on(None, None).unwrap();
        apply(&environment, &admin, &files).await.unwrap();
    }
}

/// A set that names who may is judged in the trust domain that it names.
#[test]
fn a_set_that_names_its_operators_is_not_refused_for_others() {
    let only = |name: &str| {
        let id = format!("spiffe://pay.example/countersign/operator/{name}");
        set(
            &format!(
                r#"forbid (principal is Operator, action, resource)
                   unless {{ principal == Operator::"{id}" }};"#
            ),
            AS_SHIPPED,
        )
    };
    let parsed = PolicySet::parse(&only("root-ops")).unwrap();
    parsed.require_way_on(None, None).unwrap();
    parsed.require_way_on(Some(&trust_domain()), Some("root-ops")).unwrap();
    let other = parsed.require_way_on(Some(&trust_domain()), Some("admin")).unwrap_err();
    assert!(other.to_string().contains("/countersign/operator/admin"), "{other}");
}

#[tokio::test]
async fn no_ca_begins_with_a_set_that_its_operator_cannot_change() {
    let environment = Environment::start().await;
    let folder = tempfile::tempdir().unwrap();
    let policies = r#"forbid (principal, action == Action::"ChangePolicy", resource);"#;
    let policy = PolicySet::parse(&set(policies, AS_SHIPPED)).unwrap();
    let new = NewAuthority {
        trust_domain: trust_domain(),
        state: folder.path(),
        passphrase: &Secret::new("online"),
        offline_passphrase: &Secret::new("offline"),
        policy: &policy,
        operator: "admin",
        parent: Parent::Local,
    };
    let refused = setup::create(&new, &*environment.clock).await.unwrap_err();
    assert!(matches!(refused, Error::Policy(PolicyError::Governance(_))), "{refused}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn the_host_replaces_a_set_that_lets_nobody_replace_it() {
    let mut environment = Environment::start().await;
    let nothing = r#"@id("everything") forbid (principal, action, resource);"#;
    put_into_force(&mut environment, &set(nothing, RSA_ONLY)).await;
    let admin = environment.operator().await;
    assert!(environment.authority.operations.policies(&admin).is_err());
    let store = std::sync::Arc::clone(&environment.store);
    let in_force = setup::policies_in_force(&*store).await.unwrap();
    assert_eq!(in_force["mine.cedar"], nothing);
    let (domain, clock) = (trust_domain(), environment.clock.clone());
    for (policies, replaced) in [(nothing, None), ("", Some(true)), ("", Some(false))] {
        let next = PolicySet::parse(&set(policies, AS_SHIPPED)).unwrap();
        let done = setup::replace_policies(&domain, &*store, &next, "admin", &*clock).await;
        assert_eq!(done.ok(), replaced);
    }
    environment.restart().await;
    apply(&environment, &admin, &set("", FIRST_DNS)).await.unwrap();
}

/// Under a set that permits everything to everybody: who may make tokens makes no operator.
#[test]
fn no_set_gives_away_what_is_ours() {
    let mut files = policy_files();
    files.insert(
        "countersign.cedar".to_owned(),
        r#"@id("all") permit (principal, action, resource);"#.to_owned(),
    );
    let set = PolicySet::parse(&files).unwrap();
    let operators = HashSet::from(["admin".to_owned(), "second".to_owned()]);
    let policy = ActivePolicy::new(set, trust_domain(), operators).unwrap();
    let context = IssueContext {
        attestor: "svid",
        dns: Vec::new(),
        ip: Vec::new(),
        key_type: KeyType::EcdsaP256,
        profile: "default".to_owned(),
        validity_seconds: 3600,
    };
    let (admin, workload) = ("/countersign/operator/admin", "/prod/reports");
    for (who, whose, allowed) in [
        (workload, admin, false),
        (workload, "/countersign/authority", false),
        (workload, "/countersign/operator/nobody", false),
        (workload, "/prod/monolith", true),
        (admin, "/countersign/operator/second", false),
        (admin, "/countersign/authority", false),
        (admin, admin, true),
        (admin, workload, true),
    ] {
        for action in
            [Action::CreateToken, Action::Issue(context.clone()), Action::Renew(context.clone())]
        {
            let (principal, name) = (Principal::of(&id(who)), action.name());
            let decision = policy.decide(&Query { principal, action, resource: Some(id(whose)) });
            assert_eq!(decision.allowed, allowed, "{who} {name} {whose}: {decision:?}");
        }
    }
}
