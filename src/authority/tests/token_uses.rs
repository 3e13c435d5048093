//! Whoever writes to the database takes no token's use back, and gives none another maker.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use api::{DenyRequest, Secret, TokenFilter};
use authority::{Caller, Error};
use rusqlite::Connection;
use support::{Environment, csr, id};

fn database(environment: &Environment) -> Connection {
    Connection::open(environment.folder.path().join("countersign.db")).unwrap()
}

/// A CA with a token that was used, and its request.
async fn used() -> (Environment, Secret, String) {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/reports").await;
    let request = csr();
    environment.issue_with(&token, &request).await.unwrap();
    (environment, token, request)
}

async fn require_used(environment: &Environment, token: &Secret) {
    let refused = environment.issue_with(token, &csr()).await.unwrap_err();
    assert!(refused.to_string().contains("the token was used"), "{refused}");
}

const TAKE_BACK: &str = "UPDATE tokens SET used_by = NULL, used_leaf = NULL";

#[tokio::test]
async fn a_use_that_was_taken_back_in_the_database_stays_one() {
    let (mut environment, token, request) = used().await;
    assert_eq!(database(&environment).execute(TAKE_BACK, []).unwrap(), 1);
    require_used(&environment, &token).await;

    environment.restart().await;
    require_used(&environment, &token).await;
    // Nor by the request that used it: its certificate is there, and no second is made.
    environment.issue_with(&token, &request).await.unwrap_err();
    let records = database(&environment);
    let count = "SELECT count(*) FROM records r JOIN identities i ON i.id = r.identity
                 WHERE i.spiffe_id LIKE '%/prod/reports'";
    assert_eq!(records.query_row(count, [], |row| row.get::<_, i64>(0)).unwrap(), 1);
}

/// After a restart it is the log that says of a use, and not by which request.
#[tokio::test]
async fn who_lists_tokens_takes_nobody_their_own_retry() {
    let (mut environment, token, request) = used().await;
    environment.restart().await;
    let operator = environment.operator().await;
    environment.authority.operations.tokens(&operator, &TokenFilter::default()).await.unwrap();
    environment.issue_with(&token, &request).await.unwrap();
    require_used(&environment, &token).await;
}

#[tokio::test]
async fn a_broken_line_of_renewals_stays_broken_after_a_restart() {
    let mut environment = Environment::start().await;
    let operator = environment.operator().await;
    let held = environment.caller(&environment.issue(&operator, "/prod/reports").await);
    let renewed = environment.renew(&held, &csr()).await.unwrap();
    let newest = environment.caller(&renewed);
    environment.renew(&newest, &csr()).await.unwrap();
    environment.renew(&held, &csr()).await.unwrap_err();
    environment.restart().await;
    let refused = environment.renew(&held, &csr()).await.unwrap_err();
    assert!(refused.to_string().contains("broken by a second renewal"), "{refused}");
}

#[tokio::test]
async fn whose_line_is_broken_is_told_what_begins_another() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let workload = environment.caller(&environment.issue(&operator, "/prod/reports").await);
    for (held, steps) in [
        (workload, ["revoke spiffe://pay.example/prod/reports", "countersign token create"]),
        (
            operator,
            ["/countersign/operator/admin --reason", "countersign operator add NAME --again"],
        ),
    ] {
        let newest = environment.caller(&environment.renew(&held, &csr()).await.unwrap());
        environment.renew(&newest, &csr()).await.unwrap();
        for broken in [&held, &held, &newest] {
            let refused = environment.renew(broken, &csr()).await.unwrap_err();
            let Error::Attestation { next_step, why } = refused else { panic!("{refused}") };
            assert!(steps.iter().all(|step| next_step.contains(step)), "{why}: {next_step}");
        }
    }
}

#[tokio::test]
async fn a_token_that_was_hidden_at_the_start_is_not_unused_either() {
    let (mut environment, token, _) = used().await;
    let database = database(&environment);
    // Beside the database: of a table in it, the CA would say that it is nobody's.
    let hide = "ATTACH ':memory:' AS aside; \
                CREATE TABLE aside.hidden AS SELECT * FROM tokens; DELETE FROM tokens;";
    database.execute_batch(hide).unwrap();
    environment.restart().await;
    // A later one is redeemed meanwhile, and what was done since it was made is known.
    let operator = environment.operator().await;
    environment.issue(&operator, "/prod/monolith").await;
    database.execute_batch("INSERT INTO tokens SELECT * FROM aside.hidden;").unwrap();
    database.execute(TAKE_BACK, []).unwrap();
    require_used(&environment, &token).await;
}

#[tokio::test]
async fn an_entry_that_was_changed_proves_no_use_and_no_other_maker() {
    let environment = Environment::start().await;
    let admin = environment.operator().await;
    let second = environment.enrol("second").await;
    let token = environment.token(&second, "/prod/reports").await;
    let deny = DenyRequest {
        spiffe_id: id("/countersign/operator/second"),
        reason: "key-compromise".to_owned(),
        named_override: None,
    };
    environment.authority.operations.deny(&admin, &deny).await.unwrap();
    let refused = environment.issue_with(&token, &csr()).await.unwrap_err();
    assert!(refused.to_string().contains("whoever made it"), "{refused}");

    // As if the first operator had made it, with the certificate that it has now.
    let text = |caller: &Caller| {
        let svid = caller.svid.clone().unwrap();
        (svid.spiffe_id().to_string(), svid.serial_number().to_string())
    };
    let ((was, was_with), (is, is_with)) = (text(&second), text(&admin));
    let changed = database(&environment)
        .execute(
            "UPDATE entries SET bytes = CAST(replace(replace(bytes, ?1, ?2), ?3, ?4) AS BLOB)
             WHERE instr(bytes, '\"type\":\"token.create\"')",
            [&was, &is, &was_with, &is_with],
        )
        .unwrap();
    assert_eq!(changed, 1);
    // What this process has logged itself it knows; what it reads at a start it has proved.
    let refused = environment.issue_with(&token, &csr()).await.unwrap_err();
    assert!(refused.to_string().contains("whoever made it"), "{refused}");
    let Environment { folder, store, keys, clock, pin, .. } = &environment;
    let refused = support::open(folder.path(), store, keys, clock, *pin).await.unwrap_err();
    assert!(refused.to_string().contains("not the one that was logged"), "{refused}");
}
