//! What workloads report, and how far a revocation has come.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::collections::BTreeSet;

use api::{
    ClosedConnections, HeldBack, IssuedCertificate, Report, RevocationReach, WaitingState,
    WorkloadFilter,
};
use authority::clock::Clock;
use authority::{Caller, Error};
use support::{Environment, id};

async fn revoke(environment: &Environment, operator: &Caller, target: &str) -> u64 {
    environment.revoke(operator, target).await
}

/// Reports that the feed was applied up to an index, and that it closed so many connections.
async fn report(
    environment: &Environment,
    issued: &IssuedCertificate,
    sequence: u64,
    connections: u64,
) {
    let closed = vec![ClosedConnections { log_index: sequence, connections }];
    let report = Report { feed_sequence: sequence, closed, ..Report::default() };
    environment.authority.fleet.report(&environment.caller(issued), report).await.unwrap();
}

async fn reach(environment: &Environment, operator: &Caller, index: u64) -> RevocationReach {
    environment.authority.fleet.revocation_reach(operator, index).await.unwrap()
}

#[tokio::test]
async fn a_revocation_counts_who_has_it_and_names_who_has_not_answered() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let reports = environment.issue(&operator, "/prod/reports").await;
    let monolith = environment.issue(&operator, "/prod/monolith").await;
    let quick = environment.issue(&operator, "/prod/quick").await;
    for issued in [&reports, &monolith, &quick] {
        report(&environment, issued, 0, 0).await;
    }
    let log_index = revoke(&environment, &operator, quick.spiffe_id.as_str()).await;
    let begun = reach(&environment, &operator, log_index).await;
    assert_eq!((begun.live, begun.reached), (2, 0), "the revoked one answers no more");
    report(&environment, &reports, log_index, 3).await;
    let later = reach(&environment, &operator, log_index).await;
    assert_eq!((later.live, later.reached, later.connections_closed), (2, 1, 3));
    assert_eq!(later.waiting.len(), 1);
    assert_eq!(later.waiting[0].spiffe_id, monolith.spiffe_id);
    assert_eq!(later.waiting[0].serial_number, monolith.serial_number);
}

fn held_back(first: u64, last: u64, peers: u64, seconds: u64) -> Option<HeldBack> {
    Some(HeldBack { first, last, peers, seconds })
}

#[tokio::test]
async fn whoever_holds_a_revocation_back_does_not_have_it_yet() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    let caller = environment.caller(&issued);
    let first = revoke(&environment, &operator, id("/prod/quick").as_str()).await;
    let second = revoke(&environment, &operator, id("/prod/monolith").as_str()).await;
    let report = |held_back| Report { feed_sequence: second, held_back, ..Report::default() };
    let holding = report(held_back(second, u64::MAX, 4, 600));
    environment.authority.fleet.report(&caller, holding).await.unwrap();
    let waiting = reach(&environment, &operator, second).await;
    assert_eq!((waiting.live, waiting.reached, waiting.silent), (1, 0, 0));
    assert_eq!(waiting.waiting[0].held_back, held_back(second, second, 4, 600));
    assert_eq!(reach(&environment, &operator, first).await.reached, 1, "that one it has");
    environment
        .authority
        .fleet
        .report(&caller, report(held_back(second + 1, second + 9, 4, 600)))
        .await
        .unwrap();
    assert_eq!(reach(&environment, &operator, second).await.reached, 1, "of none that is");
    environment.authority.fleet.report(&caller, report(None)).await.unwrap();
    assert_eq!(reach(&environment, &operator, second).await.reached, 1);
}

#[tokio::test]
async fn whoever_reports_is_waited_for_and_whoever_is_silent_is_named() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let monolith = environment.issue(&operator, "/prod/monolith").await;
    let caller = environment.caller(&monolith);
    let mut subscription = environment.authority.feed.subscribe(&caller, None).await.unwrap();
    assert!(subscription.next().await.is_some());
    let log_index = revoke(&environment, &operator, id("/prod/reports").as_str()).await;
    let listening = reach(&environment, &operator, log_index).await;
    assert_eq!((listening.live, listening.silent, listening.unreporting), (0, 0, 1));
    assert_eq!(listening.waiting.len(), 1);
    report(&environment, &monolith, 0, 0).await;
    let waiting = reach(&environment, &operator, log_index).await;
    assert_eq!((waiting.live, waiting.reached, waiting.waiting.len()), (1, 0, 1));
    environment.clock.advance(time::Duration::seconds(61));
    let silent = reach(&environment, &operator, log_index).await;
    assert_eq!((silent.live, silent.silent, silent.waiting.len()), (0, 1, 1));
}

#[tokio::test]
async fn a_renewed_certificate_takes_the_place_of_the_one_before_and_of_no_other() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let first = environment.issue(&operator, "/prod/monolith").await;
    let sibling = environment.issue(&operator, "/prod/monolith").await;
    let other = environment.issue(&operator, "/prod/reports").await;
    report(&environment, &first, 0, 0).await;
    let replaces = |issued: &IssuedCertificate| Report {
        replaces: Some(issued.serial_number),
        ..Report::default()
    };
    let authority = &environment.authority;
    let list = || authority.fleet.workloads(&operator, &WorkloadFilter::default()).unwrap().items;
    let serials = || list().iter().map(|it| it.serial_number).collect::<BTreeSet<_>>();
    authority.fleet.report(&environment.caller(&other), replaces(&first)).await.unwrap();
    authority.fleet.report(&environment.caller(&sibling), replaces(&first)).await.unwrap();
    let (first_number, sibling_number) = (first.serial_number, sibling.serial_number);
    let expected = BTreeSet::from([first_number, sibling_number, other.serial_number]);
    assert_eq!(serials(), expected, "nobody silences another, of its identity or not");
    let renewed = environment.renew(&environment.caller(&first), &support::csr()).await.unwrap();
    authority.fleet.report(&environment.caller(&renewed), replaces(&first)).await.unwrap();
    let expected = BTreeSet::from([renewed.serial_number, sibling_number, other.serial_number]);
    assert_eq!(serials(), expected);
}

/// Reports that so many connections are open, and nothing else.
async fn has_open(environment: &Environment, issued: &IssuedCertificate, open_connections: u64) {
    let report = Report { open_connections, ..Report::default() };
    environment.authority.fleet.report(&environment.caller(issued), report).await.unwrap();
}

#[tokio::test]
async fn what_is_said_to_be_closed_counts_as_far_as_it_can_be_true() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    environment.issue(&operator, "/prod/quick").await;
    let honest = environment.issue(&operator, "/prod/monolith").await;
    let liar = environment.issue(&operator, "/prod/reports").await;
    has_open(&environment, &honest, 5000).await;
    has_open(&environment, &liar, 3).await;
    let log_index = revoke(&environment, &operator, id("/prod/quick").as_str()).await;
    report(&environment, &honest, log_index, 4000).await;
    report(&environment, &liar, log_index, 1 << 20).await;
    // What it says of itself afterwards makes it no truer.
    let closed = vec![ClosedConnections { log_index, connections: 1 << 20 }];
    let open_connections = 1 << 20;
    let again = Report { feed_sequence: log_index, closed, open_connections, ..Report::default() };
    environment.authority.fleet.report(&environment.caller(&liar), again.clone()).await.unwrap();
    environment.authority.fleet.report(&environment.caller(&liar), again).await.unwrap();
    let told = reach(&environment, &operator, log_index).await;
    assert_eq!(told.connections_closed, 4000 + 1024);
    let by = |by: &api::ClosedBy| (by.serial_number, by.connections, by.claimed);
    assert_eq!(
        told.closed_by.iter().map(by).collect::<Vec<_>>(),
        [(liar.serial_number, 1024, Some(1 << 20)), (honest.serial_number, 4000, None)]
    );
    let renewed = environment.renew(&environment.caller(&honest), &support::csr()).await.unwrap();
    let closed = vec![ClosedConnections { log_index, connections: 4000 }];
    let replaces = Some(honest.serial_number);
    let after = Report { feed_sequence: log_index, closed, replaces, ..Report::default() };
    environment.authority.fleet.report(&environment.caller(&renewed), after).await.unwrap();
    let told = reach(&environment, &operator, log_index).await;
    assert_eq!(told.connections_closed, 4000 + 1024, "its word goes on with its new certificate");
    revoke(&environment, &operator, &liar.serial_number.to_string()).await;
    let told = reach(&environment, &operator, log_index).await;
    assert_eq!(told.connections_closed, 4000, "who is revoked is believed no more");
}

#[tokio::test]
async fn nobody_closed_a_connection_of_somebody_who_had_no_certificate() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    let ended = environment.issue(&operator, "/prod/monolith").await;
    environment.clock.advance(time::Duration::hours(26));
    let operator = environment.operator().await;
    let live = environment.issue(&operator, "/prod/reports").await;
    assert!(
        ended.not_after < environment.clock.now() && issued.not_after < environment.clock.now()
    );
    let nobody = revoke(&environment, &operator, id("/prod/quick").as_str()).await;
    let expired = revoke(&environment, &operator, id("/prod/monolith").as_str()).await;
    for log_index in [nobody, expired] {
        report(&environment, &live, log_index, 7).await;
        let told = reach(&environment, &operator, log_index).await;
        assert_eq!((told.reached, told.connections_closed, told.closed_by.len()), (1, 0, 0));
    }
}

#[tokio::test]
async fn who_reports_and_applies_nothing_is_named_and_not_waited_for() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let stuck = environment.issue(&operator, "/prod/reports").await;
    let honest = environment.issue(&operator, "/prod/monolith").await;
    let first = revoke(&environment, &operator, id("/prod/quick").as_str()).await;
    report(&environment, &stuck, 0, 0).await;
    let told = reach(&environment, &operator, first).await;
    assert_eq!((told.live, told.reached, told.stuck), (1, 0, 0), "it may be about to");
    assert_eq!(told.waiting[0].state, Some(WaitingState::Late));
    environment.clock.advance(time::Duration::seconds(10));
    assert_eq!(reach(&environment, &operator, first).await.stuck, 0, "it has said nothing since");
    report(&environment, &stuck, 0, 0).await;
    report(&environment, &honest, first, 0).await;
    let second = revoke(&environment, &operator, id("/prod/quick").as_str()).await;
    let told = reach(&environment, &operator, second).await;
    assert_eq!((told.live, told.reached, told.stuck), (2, 0, 1));
    let states: Vec<_> = told.waiting.iter().map(|it| (it.serial_number, it.state)).collect();
    let (late, named) = (Some(WaitingState::Late), Some(WaitingState::Stuck));
    assert_eq!(states, [(honest.serial_number, late), (stuck.serial_number, named)]);
    assert_eq!(told.waiting[1].feed_sequence, Some(0));
    report(&environment, &stuck, second, 0).await;
    report(&environment, &honest, second, 0).await;
    let told = reach(&environment, &operator, second).await;
    assert_eq!((told.live, told.reached, told.stuck), (2, 2, 0), "who catches up counts again");
}

#[tokio::test]
async fn whose_certificate_is_no_good_any_more_is_not_waited_for() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let denied = environment.issue(&operator, "/prod/reports").await;
    let revoked = environment.issue(&operator, "/prod/monolith").await;
    let body = api::IssueRequest { ttl: Some("5m".parse().unwrap()), ..support::request("") };
    let token = environment.token(&operator, "/prod/quick").await;
    let attestation = api::Attestation::Token { token };
    let body = api::IssueRequest { attestation, csr: support::csr(), ..body };
    let short =
        environment.authority.issuing.issue(&support::anonymous(), &body, None).await.unwrap();
    environment.clock.advance(time::Duration::seconds(280));
    for issued in [&denied, &revoked, &short] {
        report(&environment, issued, 0, 0).await;
    }
    let log_index = revoke(&environment, &operator, id("/prod/other").as_str()).await;
    assert_eq!(reach(&environment, &operator, log_index).await.live, 3);
    let asked = api::DenyRequest {
        spiffe_id: denied.spiffe_id.clone(),
        reason: "unspecified".to_owned(),
        named_override: None,
    };
    environment.authority.operations.deny(&operator, &asked).await.unwrap();
    revoke(&environment, &operator, &revoked.serial_number.to_string()).await;
    environment.clock.advance(time::Duration::seconds(30));
    let told = reach(&environment, &operator, log_index).await;
    assert_eq!((told.live, told.silent, told.unreporting, told.waiting.len()), (0, 0, 0, 0));
}

#[tokio::test]
async fn workloads_come_in_pages_with_the_age_of_their_reports() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    for path in ["/prod/quick", "/prod/monolith", "/prod/reports"] {
        let issued = environment.issue(&operator, path).await;
        report(&environment, &issued, 7, 1).await;
    }
    environment.clock.advance(time::Duration::seconds(5));
    let mut filter = WorkloadFilter { limit: Some(2), after: None };
    let first = environment.authority.fleet.workloads(&operator, &filter).unwrap();
    assert_eq!(first.items.len(), 2);
    assert_eq!(first.items[0].spiffe_id, id("/prod/monolith"));
    assert_eq!(first.items[0].report_seconds_ago, Some(5));
    filter.after = first.next;
    let last = environment.authority.fleet.workloads(&operator, &filter).unwrap();
    assert_eq!((last.items.len(), last.next), (1, None));
    filter.after = Some("elsewhere".to_owned());
    assert!(matches!(
        environment.authority.fleet.workloads(&operator, &filter),
        Err(Error::Invalid { .. })
    ));
    environment.clock.advance(time::Duration::hours(2));
    let operator = environment.operator().await;
    let forgotten = environment.authority.fleet.workloads(&operator, &WorkloadFilter::default());
    assert!(forgotten.unwrap().items.is_empty());
}

#[tokio::test]
async fn reports_are_bounded_and_read_by_operators_alone() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    let caller = environment.caller(&issued);
    let peers = vec![id("/prod/monolith"); 201];
    let large =
        environment.authority.fleet.report(&caller, Report { peers, ..Report::default() }).await;
    assert!(matches!(large, Err(Error::Invalid { .. })));
    let stranger =
        environment.authority.fleet.report(&support::anonymous(), Report::default()).await;
    assert!(matches!(stranger, Err(Error::Attestation { .. })));
    let listed = environment.authority.fleet.workloads(&caller, &WorkloadFilter::default());
    assert!(matches!(listed, Err(Error::Denied(_))));
    let log_index = revoke(&environment, &operator, id("/prod/quick").as_str()).await;
    let asked = environment.authority.fleet.revocation_reach(&caller, log_index).await;
    assert!(matches!(asked, Err(Error::Denied(_))));
    for none in [log_index - 1, log_index + 1, u64::MAX] {
        let asked = environment.authority.fleet.revocation_reach(&operator, none).await;
        assert!(matches!(asked, Err(Error::NotFound(_))), "{none}");
    }
}

#[tokio::test]
async fn a_report_of_what_no_process_can_have_had_is_refused_whole() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    let caller = environment.caller(&issued);
    environment.issue(&operator, "/prod/quick").await;
    has_open(&environment, &issued, 1 << 20).await;
    let log_index = revoke(&environment, &operator, id("/prod/quick").as_str()).await;
    report(&environment, &issued, log_index, 1 << 20).await;
    let closed = |connections| ClosedConnections { log_index, connections };
    let lies = [
        Report { closed: vec![closed(1_000_000_000_000_000)], ..Report::default() },
        Report { closed: vec![closed((1 << 20) + 1)], ..Report::default() },
        Report { closed: vec![closed(1), closed(1)], ..Report::default() },
        Report { open_connections: u64::MAX, ..Report::default() },
        Report { held_back: held_back(2, 1, 5, 60), ..Report::default() },
        Report { held_back: held_back(1, 2, 1 << 21, 60), ..Report::default() },
        Report { held_back: held_back(1, 2, 5, 86_401), ..Report::default() },
    ];
    for lie in lies {
        let refused = environment.authority.fleet.report(&caller, lie.clone()).await;
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{lie:?}");
    }
    let reach = reach(&environment, &operator, log_index).await;
    assert_eq!(reach.connections_closed, 1 << 20, "the report before stands");
}

#[tokio::test]
async fn nobody_reports_to_be_further_than_the_ca() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    let told = revoke(&environment, &operator, id("/prod/quick").as_str()).await;
    let long = |n: u32| identity::SpiffeId::parse(&format!("{}/{n:0>900}", id("/prod"))).unwrap();
    let claims = Report {
        trust_sequence: u64::MAX,
        feed_sequence: u64::MAX,
        checkpoint_size: Some(u64::MAX),
        closed: vec![ClosedConnections { log_index: told + 9, connections: 5 }],
        peers: (0..200).map(long).collect(),
        seconds_without_authority: u64::MAX,
        ..Report::default()
    };
    environment.authority.fleet.report(&environment.caller(&issued), claims).await.unwrap();
    let list =
        environment.authority.fleet.workloads(&operator, &WorkloadFilter::default()).unwrap();
    let held = list.items[0].report.as_ref().unwrap();
    assert_eq!((held.trust_sequence, held.feed_sequence), (1, told));
    assert!(held.checkpoint_size.unwrap() <= told + 1);
    assert!(held.closed.is_empty() && held.peers.len() < 20);
    assert!(held.seconds_without_authority <= 24 * 3600);
    let later = revoke(&environment, &operator, id("/prod/monolith").as_str()).await;
    let reach = reach(&environment, &operator, later).await;
    assert_eq!(reach.reached, 0, "what was claimed before it happened is no answer");
}
