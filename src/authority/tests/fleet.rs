//! What workloads report, and how far a revocation has come.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use api::{
    ClosedConnections, HeldBack, IssuedCertificate, Report, RevocationReach, WorkloadFilter,
};
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
    environment.authority.report(&environment.caller(issued), report).await.unwrap();
}

async fn reach(environment: &Environment, operator: &Caller, index: u64) -> RevocationReach {
    environment.authority.revocation_reach(operator, index).await.unwrap()
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
    environment.authority.report(&caller, holding).await.unwrap();
    let waiting = reach(&environment, &operator, second).await;
    assert_eq!((waiting.live, waiting.reached, waiting.silent), (1, 0, 0));
    assert_eq!(waiting.waiting[0].held_back, held_back(second, second, 4, 600));
    assert_eq!(reach(&environment, &operator, first).await.reached, 1, "that one it has");
    environment
        .authority
        .report(&caller, report(held_back(second + 1, second + 9, 4, 600)))
        .await
        .unwrap();
    assert_eq!(reach(&environment, &operator, second).await.reached, 1, "of none that is");
    environment.authority.report(&caller, report(None)).await.unwrap();
    assert_eq!(reach(&environment, &operator, second).await.reached, 1);
}

#[tokio::test]
async fn whoever_reports_is_waited_for_and_whoever_is_silent_is_named() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let monolith = environment.issue(&operator, "/prod/monolith").await;
    let caller = environment.caller(&monolith);
    let mut subscription = environment.authority.subscribe(&caller, None).await.unwrap();
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
async fn a_renewed_certificate_takes_the_place_of_the_one_before() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let first = environment.issue(&operator, "/prod/monolith").await;
    let second = environment.issue(&operator, "/prod/monolith").await;
    let other = environment.issue(&operator, "/prod/reports").await;
    report(&environment, &first, 0, 0).await;
    let replaces = |issued: &IssuedCertificate| Report {
        replaces: Some(issued.serial_number),
        ..Report::default()
    };
    let authority = &environment.authority;
    authority.report(&environment.caller(&other), replaces(&first)).await.unwrap();
    let list = || authority.workloads(&operator, &WorkloadFilter::default()).unwrap().items;
    assert_eq!(list().len(), 2, "nobody takes the place of another identity");
    authority.report(&environment.caller(&second), replaces(&first)).await.unwrap();
    let serials: Vec<_> = list().iter().map(|instance| instance.serial_number).collect();
    assert_eq!(serials, [second.serial_number, other.serial_number]);
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
    let first = environment.authority.workloads(&operator, &filter).unwrap();
    assert_eq!(first.items.len(), 2);
    assert_eq!(first.items[0].spiffe_id, id("/prod/monolith"));
    assert_eq!(first.items[0].report_seconds_ago, Some(5));
    filter.after = first.next;
    let last = environment.authority.workloads(&operator, &filter).unwrap();
    assert_eq!((last.items.len(), last.next), (1, None));
    filter.after = Some("elsewhere".to_owned());
    assert!(matches!(
        environment.authority.workloads(&operator, &filter),
        Err(Error::Invalid { .. })
    ));
    environment.clock.advance(time::Duration::hours(2));
    let operator = environment.operator().await;
    let forgotten = environment.authority.workloads(&operator, &WorkloadFilter::default());
    assert!(forgotten.unwrap().items.is_empty());
}

#[tokio::test]
async fn reports_are_bounded_and_read_by_operators_alone() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    let caller = environment.caller(&issued);
    let peers = vec![id("/prod/monolith"); 201];
    let large = environment.authority.report(&caller, Report { peers, ..Report::default() }).await;
    assert!(matches!(large, Err(Error::Invalid { .. })));
    let stranger = environment.authority.report(&support::anonymous(), Report::default()).await;
    assert!(matches!(stranger, Err(Error::Attestation { .. })));
    let listed = environment.authority.workloads(&caller, &WorkloadFilter::default());
    assert!(matches!(listed, Err(Error::Denied(_))));
    let log_index = revoke(&environment, &operator, id("/prod/quick").as_str()).await;
    let asked = environment.authority.revocation_reach(&caller, log_index).await;
    assert!(matches!(asked, Err(Error::Denied(_))));
    for none in [log_index - 1, log_index + 1, u64::MAX] {
        let asked = environment.authority.revocation_reach(&operator, none).await;
        assert!(matches!(asked, Err(Error::NotFound(_))), "{none}");
    }
}

#[tokio::test]
async fn a_report_of_what_no_process_can_have_had_is_refused_whole() {
    let environment = Environment::start().await;
    let operator = environment.operator().await;
    let issued = environment.issue(&operator, "/prod/reports").await;
    let caller = environment.caller(&issued);
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
        let refused = environment.authority.report(&caller, lie.clone()).await;
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
    environment.authority.report(&environment.caller(&issued), claims).await.unwrap();
    let list = environment.authority.workloads(&operator, &WorkloadFilter::default()).unwrap();
    let held = list.items[0].report.as_ref().unwrap();
    assert_eq!((held.trust_sequence, held.feed_sequence), (1, told));
    assert!(held.checkpoint_size.unwrap() <= told + 1);
    assert!(held.closed.is_empty() && held.peers.len() < 20);
    assert!(held.seconds_without_authority <= 24 * 3600);
    let later = revoke(&environment, &operator, id("/prod/monolith").as_str()).await;
    let reach = reach(&environment, &operator, later).await;
    assert_eq!(reach.reached, 0, "what was claimed before it happened is no answer");
}
