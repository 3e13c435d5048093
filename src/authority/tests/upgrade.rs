//! A database of before the log told all that renewals are decided by: its renewals are decided as
//! before, its rows only ever restrict, and no version of before opens it again.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use api::{IssuedCertificate, KeyPurpose, KeyState, KeyStep};
use authority::sequencer::Head;
use authority::store::StoreError;
use authority::{Caller, Error, Event};
use support::before::{
    Lasts, Stopped, events, left_by_version_6, record, renewed_before, renewed_by, renewed_until,
    upgraded,
};
use support::older::{RENEWALS_IN_ROWS, database};
use support::rotation::take;
use support::told::Told;
use support::{Environment, csr, reopen};

/// A workload's first certificate, its holder, and the request that its key signs.
async fn issued() -> (Environment, IssuedCertificate, Caller, String) {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let token = environment.token(&operator, "/prod/reports").await;
    let request = csr();
    let first = environment.issue_with(&token, &request).await.unwrap();
    let held = environment.caller(&first);
    (environment, first, held, request)
}

async fn refused(environment: &Environment, caller: &Caller) -> bool {
    match environment.renew(caller, &csr()).await {
        Ok(_) => false,
        Err(error) if error.to_string().contains("renewed already") => true,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn what_was_renewed_and_not_shown_is_given_again_and_replaced_once() {
    // Whether the row of it is there or not: the record says it.
    for rows in [true, false] {
        let (environment, first, held, request) = issued().await;
        let before = renewed_before(&environment, &first, 1, &request).await;
        let row = format!(
            "INSERT INTO renewals VALUES (x'{}', {}, 0)",
            first.serial_number, before.place
        );
        let mut environment = upgraded(environment, if rows { &row } else { "" }).await;
        let again = environment.renew(&held, &request).await.unwrap();
        assert_eq!(again.serial_number, before.serial_number, "the same request again");
        assert!(!refused(&environment, &held).await, "it was not seen: it is replaced, once");
        environment.restart().await;
        assert!(refused(&environment, &held).await);
    }
}

#[tokio::test]
async fn what_rows_call_shown_is_not_replaced_whatever_becomes_of_them() {
    for restarts in [false, true] {
        let (environment, first, held, request) = issued().await;
        let before = renewed_before(&environment, &first, 1, &request).await;
        let rows = format!(
            "INSERT INTO renewals VALUES (x'{}', {}, 0); INSERT INTO seen VALUES (x'{}')",
            first.serial_number, before.place, before.serial_number
        );
        let mut environment = upgraded(environment, &rows).await;
        if restarts {
            environment.restart().await;
        }
        let again = environment.renew(&held, &request).await.unwrap();
        assert_eq!(again.serial_number, before.serial_number, "the same request again");
        assert!(refused(&environment, &held).await);
        assert_eq!(events(&environment, "renew.conflict").await.len(), 1);
    }
}

/// What its first renewal lost was replaced, by a request of its own key.
#[tokio::test]
async fn what_took_the_place_of_another_is_given_again_and_not_replaced() {
    for asks_for_the_lost in [false, true] {
        let (environment, first, held, request) = issued().await;
        let requested = csr();
        let lost = renewed_before(&environment, &first, 1, &requested).await;
        let newer = renewed_before(&environment, &first, 2, &request).await;
        let rows: String = [first.serial_number, lost.serial_number]
            .iter()
            .map(|it| format!("INSERT INTO renewals VALUES (x'{it}', {}, 1);", newer.place))
            .collect();
        let environment = upgraded(environment, &rows).await;
        if asks_for_the_lost {
            let refused = environment.renew(&held, &requested).await.unwrap_err().to_string();
            assert!(refused.contains("renewed already"), "{refused}");
            continue;
        }
        let again = environment.renew(&held, &request).await.unwrap();
        assert_eq!(again.serial_number, newer.serial_number);
        assert_eq!(events(&environment, "renew.conflict").await, []);
        assert!(refused(&environment, &held).await);
    }
}

#[tokio::test]
async fn what_the_log_names_already_stays_as_it_is() {
    for renews_the_lost in [false, true] {
        let (environment, _, held, _) = issued().await;
        let lost = environment.renew(&held, &csr()).await.unwrap();
        let newer = environment.renew(&held, &csr()).await.unwrap();
        let environment = upgraded(environment, "").await;
        let caller = environment.caller(if renews_the_lost { &lost } else { &newer });
        assert_eq!(refused(&environment, &caller).await, renews_the_lost);
    }
}

#[tokio::test]
async fn who_renewed_with_a_certificate_has_shown_it() {
    let (environment, first, held, request) = issued().await;
    renewed_before(&environment, &first, 1, &request).await;
    let mut environment = upgraded(environment, "").await;
    let second = environment.renew(&held, &request).await.unwrap();
    environment.renew(&environment.caller(&second), &csr()).await.unwrap();
    // The log tells it, though nobody was noted as shown.
    environment.restart().await;
    assert!(refused(&environment, &held).await);
}

async fn waiting(environment: &Environment, operator: &Caller) -> u64 {
    let keys = environment.authority.rotation.keys(operator).await.unwrap().items;
    let is_it =
        |key: &&api::KeyRecord| key.purpose == KeyPurpose::Feed && key.state == KeyState::Prepared;
    keys.iter().find(is_it).unwrap().next.clone().unwrap().waiting
}

#[tokio::test]
async fn what_rows_call_shown_lets_no_rotation_go_on() {
    let (environment, first, held, request) = issued().await;
    let operator = environment.operator().await;
    let offline = environment.offline_keys();
    take(&environment, &offline, &operator, KeyPurpose::Feed, KeyStep::Prepare).await.unwrap();
    let before = renewed_before(&environment, &first, 1, &request).await;
    let rows = format!("INSERT INTO seen VALUES (x'{}')", before.serial_number);
    let environment = upgraded(environment, &rows).await;
    assert_eq!(waiting(&environment, &operator).await, 1);
    let renewed = environment.renew(&held, &request).await.unwrap();
    environment.authority.view.note_shown(environment.caller(&renewed).svid.as_ref().unwrap());
    assert_eq!(waiting(&environment, &operator).await, 0);
}

/// What a writer to the database can leave there.
const ROWS: &[&str] = &[
    "INSERT INTO seen SELECT serial_number FROM records",
    "INSERT INTO seen VALUES ('text'), (x''), (1), (zeroblob(1000))",
    "INSERT INTO renewals SELECT serial_number, leaf_index, 1 FROM records",
    "INSERT INTO renewals SELECT serial_number, leaf_index - 2, 1 FROM records",
    "INSERT INTO renewals SELECT serial_number, leaf_index + 1, 1 FROM records",
    "INSERT INTO renewals SELECT serial_number, (SELECT max(leaf_index) FROM records), 1 FROM records",
    "INSERT INTO renewals SELECT serial_number, 9223372036854775807, 1 FROM records",
    "INSERT INTO renewals SELECT serial_number, -1, 1 FROM records",
    "INSERT INTO renewals SELECT serial_number, 'text', 'text' FROM records",
    "INSERT INTO broken_lineages SELECT serial_number, 1 FROM records",
];

#[tokio::test]
async fn no_row_breaks_an_honest_line() {
    for rows in ROWS {
        let (environment, _, held, _) = issued().await;
        let operator = environment.operator().await;
        let other = environment.caller(&environment.issue(&operator, "/prod/reports").await);
        let environment = upgraded(environment, rows).await;
        for held in [&held, &other] {
            let request = csr();
            let renewed = environment.renew(held, &request).await.expect(rows);
            assert_eq!(environment.renew(held, &request).await.unwrap(), renewed, "{rows}");
        }
        assert_eq!(events(&environment, "renew.conflict").await, [], "{rows}");
    }
}

#[tokio::test]
async fn no_row_gives_a_second_renewal() {
    for rows in ROWS.iter().chain(&["DELETE FROM seen", "DELETE FROM renewals"]) {
        let (environment, first, held, request) = issued().await;
        let second = renewed_before(&environment, &first, 1, &request).await;
        let third = renewed_before(&environment, &first, 2, &csr()).await;
        let honest = format!(
            "INSERT OR REPLACE INTO renewals VALUES (x'{}', {}, 0), (x'{}', {}, 0)",
            first.serial_number, second.place, second.serial_number, third.place
        );
        let environment = upgraded(environment, &format!("{honest}; {}", or_replace(rows))).await;
        assert!(refused(&environment, &held).await, "{rows}");
    }
}

fn or_replace(rows: &str) -> String {
    rows.replace("INSERT INTO", "INSERT OR REPLACE INTO")
}

#[tokio::test]
async fn what_fails_in_between_leaves_what_was_there_and_is_done_by_the_next_start() {
    let (environment, first, held, request) = issued().await;
    let before = renewed_before(&environment, &first, 1, &request).await;
    let size = environment.store.head().await.unwrap().edge.size();
    let rows = format!("INSERT INTO seen VALUES (x'{}')", before.serial_number);
    let stopped = left_by_version_6(environment, &rows).await;
    // It is looked at last, before the commit.
    stopped.change("CREATE TABLE another (a)");
    assert!(matches!(stopped.refuses().await, Error::Store(StoreError::Versions { .. })));
    assert_eq!(stopped.version(), 6);
    let sql = "SELECT (SELECT size FROM head), (SELECT count(*) FROM seen)";
    let found: (i64, i64) = database(stopped.folder.path())
        .query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    assert_eq!(found, (size as i64, 1));
    stopped.change("DROP TABLE another");
    let environment = stopped.start().await.unwrap();
    assert!(refused(&environment, &held).await);
}

#[tokio::test]
async fn it_is_told_once_and_the_same_from_the_same_database() {
    let (environment, first, _, request) = issued().await;
    let before = renewed_before(&environment, &first, 1, &request).await;
    let rows = format!("INSERT INTO seen VALUES (x'{}')", before.serial_number);
    let stopped = left_by_version_6(environment, &rows).await;
    let state = stopped.folder.path().to_owned();
    let copy = state.join("copy.db");
    database(&state).execute("VACUUM INTO ?1", [copy.to_str()]).unwrap();
    let mut heads: Vec<Head> = Vec::new();
    for put_back in [false, false, true] {
        if put_back {
            let database = state.join("countersign.db");
            for beside in ["-wal", "-shm"] {
                let beside = state.join(format!("countersign.db{beside}"));
                std::fs::remove_file(beside).ok();
            }
            std::fs::copy(&copy, database).unwrap();
        }
        let store = reopen(&state, &stopped.keys).await.unwrap();
        heads.push(store.head().await.unwrap());
        let told = store.entries(0, 10_000).await.unwrap();
        let told = told.iter().filter_map(|entry| Event::parse(entry).ok());
        assert_eq!(told.filter(|event| event.kind == "renew.upgrade").count(), 2);
    }
    assert!(heads.iter().all(|head| *head == heads[0]));
}

#[tokio::test]
async fn where_nothing_lives_nothing_is_told() {
    let environment = Environment::start().await;
    let before = environment.store.head().await.unwrap();
    let environment = upgraded(environment, "INSERT INTO seen VALUES (x'01')").await;
    assert_eq!(environment.store.head().await.unwrap(), before);
}

#[tokio::test]
async fn one_that_was_brought_up_to_date_is_not_taken_for_one_of_before() {
    let (environment, ..) = issued().await;
    let Environment { folder, clock, store, keys, pin, authority } =
        upgraded(environment, "").await;
    drop((authority, store));
    drop(reopen(folder.path(), &keys).await.unwrap());
    let stopped = Stopped { folder, clock, keys, pin };
    stopped.change(&format!("{RENEWALS_IN_ROWS} UPDATE meta SET version = 6"));
    let refused = stopped.refuses().await.to_string();
    assert!(refused.contains("somebody else wrote it"), "{refused}");
}

#[tokio::test]
async fn a_database_of_a_later_version_is_refused_with_what_opens_it() {
    let (environment, ..) = issued().await;
    let stopped = left_by_version_6(environment, "UPDATE meta SET version = 8").await;
    let refused = stopped.refuses().await.to_string();
    assert!(
        refused.contains("its schema has version 8, this program knows 7: run the countersign that wrote it, or a newer one"),
        "{refused}"
    );
}

/// Nothing leads back from there.
#[tokio::test]
async fn what_is_not_this_authoritys_log_or_not_whole_is_refused_as_it_was() {
    let newest = "place = (SELECT max(place) FROM entries)";
    for (change, undone) in [
        (
            "UPDATE meta SET trust_domain = 'other.example'".to_owned(),
            "UPDATE meta SET trust_domain = 'pay.example'".to_owned(),
        ),
        (
            format!("UPDATE entries SET bytes = CAST(bytes || ' ' AS BLOB) WHERE {newest}"),
            format!(
                "UPDATE entries SET bytes = substr(bytes, 1, length(bytes) - 1) WHERE {newest}"
            ),
        ),
    ] {
        let (environment, ..) = issued().await;
        let stopped = left_by_version_6(environment, &change).await;
        stopped.refuses().await;
        assert_eq!(stopped.version(), 6, "{change}");
        stopped.change(&undone);
        stopped.start().await.unwrap();
    }
}

/// What a writer to the database does to the record of a renewal before the upgrade, and undoes after it.
const HIDINGS: [(&str, &str); 3] = [
    (
        "UPDATE records SET not_after = 0 WHERE leaf_index",
        "UPDATE records SET not_after = {end} WHERE leaf_index",
    ),
    (
        "UPDATE records SET facts = '{}' || facts WHERE leaf_index",
        "UPDATE records SET facts = substr(facts, 3) WHERE leaf_index",
    ),
    (
        "UPDATE records SET leaf_index = leaf_index + 1000 WHERE leaf_index",
        "UPDATE records SET leaf_index = leaf_index - 1000 WHERE leaf_index - 1000",
    ),
];

#[tokio::test]
async fn a_renewal_whose_record_was_hidden_from_the_upgrade_is_one() {
    for (hide, show) in HIDINGS {
        let (environment, first, held, request) = issued().await;
        let operator = environment.operator().await;
        let before = renewed_before(&environment, &first, 1, &request).await;
        let rows = format!("PRAGMA foreign_keys = OFF; {hide} = {}", before.place);
        let (told, _listening) = Told::listen();
        let environment = upgraded(environment, &rows).await;
        let told = told.with("not renewed any more");
        assert_eq!(told.len(), 1, "{hide}: {told:?}");
        for word in ["certificates=2 identities=1", "/prod/reports", "countersign token create"] {
            assert!(told[0].contains(word), "{hide}: {told:?}");
        }
        // Of none of the identity that was there it can be told; what comes later is renewed.
        let show = show.replace("{end}", &first.not_after.unix_timestamp().to_string());
        let show = format!("PRAGMA foreign_keys = OFF; {show} = {}", before.place);
        database(environment.folder.path()).execute_batch(&show).unwrap();
        record(&environment, &first).await;
        let refused = environment.renew(&held, &csr()).await.expect_err(hide).to_string();
        assert!(refused.contains("cannot be told"), "{hide}: {refused}");
        assert_eq!(events(&environment, "renew.conflict").await, [], "{hide}");
        let later = environment.caller(&environment.issue(&operator, "/prod/reports").await);
        environment.renew(&later, &csr()).await.unwrap();
    }
}

/// What nobody can read of the event says the leaf, and its record what it renewed.
#[tokio::test]
async fn a_renewal_whose_event_cannot_be_read_is_one() {
    for is_hidden in [false, true] {
        let (environment, first, held, request) = issued().await;
        let unread = |detail: &mut serde_json::Value| detail["not_after"] = "tomorrow".into();
        let before = renewed_by(&environment, &first, 1, &request, unread).await;
        let hide = format!("DELETE FROM records WHERE leaf_index = {}", before.place);
        let rows =
            if is_hidden { format!("PRAGMA foreign_keys = OFF; {hide}") } else { String::new() };
        let environment = upgraded(environment, &rows).await;
        match environment.renew(&held, &request).await {
            Ok(again) => {
                assert_eq!((is_hidden, again.serial_number), (false, before.serial_number))
            }
            Err(error) => {
                assert!(is_hidden && error.to_string().contains("cannot be told"), "{error}")
            }
        }
    }
}

/// The younger of the two has ended, and the elder lives.
#[tokio::test]
async fn what_was_renewed_by_what_has_ended_is_renewed() {
    let (environment, first, held, request) = issued().await;
    let lasts = Lasts(first.not_after.unix_timestamp() - 3600);
    let ended = renewed_until(&environment, &first, 1, &request, lasts).await;
    environment.clock.advance(time::Duration::hours(23) + time::Duration::minutes(30));
    let operator = environment.operator().await;
    environment.token(&operator, "/prod/monolith").await;
    let rows = format!("INSERT INTO seen VALUES (x'{}')", ended.serial_number);
    let environment = upgraded(environment, &rows).await;
    assert!(refused(&environment, &held).await);
}

fn hidden(place: u64) -> String {
    format!("PRAGMA foreign_keys = OFF; DELETE FROM records WHERE leaf_index = {place}")
}

/// So many hours and a half, of which the log knows.
async fn later(environment: &Environment, hours: i64) {
    environment.clock.advance(time::Duration::hours(hours) + time::Duration::minutes(30));
    let operator = environment.operator().await;
    environment.token(&operator, "/prod/quick").await;
}

#[tokio::test]
async fn what_has_ended_is_not_told_as_renewed_no_more() {
    let (environment, elder, _, request) = issued().await;
    let lasts = Lasts(elder.not_after.unix_timestamp() + 48 * 3600);
    renewed_until(&environment, &elder, 1, &request, lasts).await;
    let operator = environment.operator().await;
    let first = environment.issue(&operator, "/prod/monolith").await;
    let renewal = renewed_before(&environment, &first, 1, &csr()).await;
    later(&environment, 24).await;
    let (told, _listening) = Told::listen();
    let environment = upgraded(environment, &hidden(renewal.place)).await;
    assert_eq!(told.with("not renewed any more"), <[String; 0]>::default());
    let told = events(&environment, "renew.upgrade").await;
    assert!(told.iter().all(|event| event.detail["closed"] == serde_json::json!([])), "{told:?}");
}

/// It ended, and what it may have renewed lives.
#[tokio::test]
async fn what_a_hidden_renewal_that_has_ended_may_have_renewed_is_renewed_no_more() {
    let (environment, first, held, request) = issued().await;
    let lasts = Lasts(first.not_after.unix_timestamp() - 3600);
    let renewal = renewed_until(&environment, &first, 1, &request, lasts).await;
    later(&environment, 23).await;
    let (told, _listening) = Told::listen();
    let environment = upgraded(environment, &hidden(renewal.place)).await;
    let told = told.with("not renewed any more");
    assert!(told[0].contains("certificates=1 identities=1"), "{told:?}");
    let refused = environment.renew(&held, &csr()).await.unwrap_err().to_string();
    assert!(refused.contains("cannot be told"), "{refused}");
}
