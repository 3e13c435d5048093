//! What an operator can break in an afternoon: each slip, what says so, the step that it names, that
//! step typed, and the proof that the CA issues again.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod certificates;
mod configuration;
mod contexts;
mod policies;
mod slip;
mod state;
mod time;

use slip::Slip;

/// A table that loses rows would prove nothing.
#[test]
fn there_are_as_many_slips_as_an_afternoon_has() {
    let tables: [fn() -> Vec<Slip>; 5] =
        [certificates::slips, configuration::slips, contexts::slips, policies::slips, state::slips];
    let count: usize = tables.iter().map(|table| table().len()).sum();
    assert!(count >= 40, "only {count}");
}
