//! That a certificate was shown is noted once, by few at a time, and holds nobody up.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use api::Report;
use authority::sequencer::Member;
use authority::store::Store;
use authority::store::faulty::{Fault, FaultyStore};
use support::Environment;

fn is_note(member: &Member) -> bool {
    matches!(member, Member::Seen(_))
}

#[tokio::test]
async fn what_is_shown_again_and_again_while_the_store_is_slow_is_noted_once() {
    let (go, told) = channel::<()>();
    let noted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&noted);
    let wrap = |store| -> Arc<dyn Store> {
        Arc::new(FaultyStore::new(store, move |group: &[Member]| {
            let notes = group.iter().filter(|member| is_note(member)).count();
            if count.fetch_add(notes, Ordering::SeqCst) == 0 && notes > 0 {
                told.recv_timeout(Duration::from_secs(60)).unwrap();
            }
            None
        }))
    };
    let environment = Environment::start_with(|keys, _| keys, wrap).await;
    let operator = environment.operator().await;
    let svid = environment.verified(&environment.issue(&operator, "/prod/reports").await);
    let authority = &environment.authority;
    let waiting: Vec<_> = (0..50).map(|_| authority.note_shown(&svid)).collect();
    go.send(()).unwrap();
    futures_util::future::join_all(waiting.into_iter().map(authority::Noting::ended)).await;
    assert!(authority.has_seen(svid.serial_number()));
    authority.note_shown(&svid).ended().await;
    assert_eq!(noted.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_store_that_takes_nothing_keeps_no_report_out_and_the_next_request_notes_it() {
    let fails = Arc::new(AtomicBool::new(false));
    let is_failing = Arc::clone(&fails);
    let wrap = |store| -> Arc<dyn Store> {
        let fault = move || is_failing.load(Ordering::SeqCst).then_some(Fault::NotPersisted);
        Arc::new(FaultyStore::new(store, move |_: &[Member]| fault()))
    };
    let environment = Environment::start_with(|keys, _| keys, wrap).await;
    let operator = environment.operator().await;
    let caller = environment.caller(&environment.issue(&operator, "/prod/reports").await);
    let svid = caller.svid.as_ref().unwrap();
    let authority = &environment.authority;
    fails.store(true, Ordering::SeqCst);
    authority.note_shown(svid).ended().await;
    assert!(!authority.has_seen(svid.serial_number()));
    authority.report(&caller, Report { trust_sequence: 1, ..Report::default() }).await.unwrap();
    authority.subscribe(&caller, None).await.unwrap();
    fails.store(false, Ordering::SeqCst);
    authority.note_shown(svid).ended().await;
    assert!(authority.has_seen(svid.serial_number()));
}
