//! How far a revocation has come: who has it, and who has not answered.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use api::{ClosedBy, HeldBack, RevocationReach, WaitingInstance, WaitingState};
use countersign::AuthorityClient;

use crate::error::Error;
use crate::exit::Exit;
use crate::session::Session;

/// Waits so long for every live workload to have what an entry of the log revokes, but for those of whom
/// it is known that they will not say so in that time; none where the CA does not say. It is revoked whatever comes of asking.
pub(crate) async fn wait(
    client: &AuthorityClient,
    log_index: u64,
    time: Duration,
    session: &Session,
) -> Option<RevocationReach> {
    let followed = follow(client, log_index, time, session).await;
    followed.map(Some).unwrap_or_else(|error| {
        session.output.warn(format!("it is done, but who was told is unknown: {error}"));
        None
    })
}

/// Asks until nobody is left to wait for, the time is over, or Ctrl-C says that it is.
async fn follow(
    client: &AuthorityClient,
    log_index: u64,
    time: Duration,
    session: &Session,
) -> Result<RevocationReach, Error> {
    let begun = Instant::now();
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let mut told = begun;
    loop {
        let reach = client.revocation_reach(log_index).await?;
        let left = time.saturating_sub(begun.elapsed());
        if awaited(&reach, left) == 0 || left.is_zero() {
            return Ok(reach);
        }
        if told.elapsed() >= TELL_EVERY && io::stderr().is_terminal() {
            told = Instant::now();
            let (reached, live, left) = (reach.reached, reach.live, left.as_secs());
            session.output.note(format!("{reached} of {live} workloads have it; {left} s left"));
        }
        tokio::select! {
            () = tokio::time::sleep(left.min(ASK_AGAIN)) => {}
            _ = &mut interrupted => {
                session.output.warn("no longer waiting; it is done, and those who have it are told below");
                return Ok(reach);
            }
        }
    }
}

/// How many can be expected to have it within this time. Who is stuck is not, nor who holds it back for
/// longer: one of them would hold up every revocation.
fn awaited(reach: &RevocationReach, left: Duration) -> u64 {
    let holds_longer = |waiting: &&WaitingInstance| {
        let held = waiting.held_back.map(|held| held.seconds);
        let since = waiting.report_seconds_ago.unwrap_or_default();
        waiting.state == Some(WaitingState::HeldBack)
            && held.is_some_and(|held| held.saturating_sub(since) > left.as_secs())
    };
    let holding = reach.waiting.iter().filter(holds_longer).count() as u64;
    reach.live.saturating_sub(reach.reached + reach.stuck + holding)
}

/// Done only where everybody who reports has it, and who reported before: silence is no answer. Whoever
/// never did could else make each command fail by listening.
pub(crate) fn exit(reach: Option<&RevocationReach>) -> Exit {
    match reach {
        Some(reach) if reach.live > 0 && reach.reached >= reach.live && reach.silent == 0 => {
            Exit::Done
        }
        _ => Exit::Failed,
    }
}

/// In words.
pub(crate) fn to_text(reach: &RevocationReach) -> String {
    if reach.live == 0 {
        return "no workload reports to the CA: nobody was told".to_owned();
    }
    let RevocationReach { live, reached, silent, unreporting, connections_closed, .. } = reach;
    let mut text =
        format!("{reached} of {live} workloads have it, connections closed: {connections_closed}");
    reach
        .closed_by
        .iter()
        .filter_map(|by| told_of_closing(by, reach))
        .for_each(|told| text += &told);
    if *silent > 0 {
        text.push_str(&format!(
            "\n{silent} more have ceased to report: they have ended, or are cut off"
        ));
    }
    if *unreporting > 0 {
        text.push_str(&format!(
            "\n{unreporting} more never report, and only they know what they have: they listen, or \
             read files"
        ));
    }
    let unanswered = live.saturating_sub(*reached) + silent;
    if unanswered > 0 {
        text.push_str(&format!("\nacknowledged by all who report but these {unanswered}:"));
    }
    let shown = reach.waiting.iter().take(SHOWN);
    shown.for_each(|waiting| text.push_str(&told_of_waiting(waiting)));
    let more = reach.waiting.len().saturating_sub(SHOWN) as u64 + reach.waiting_more;
    if more > 0 {
        text.push_str(&format!("\nand {more} more: --json names a thousand"));
    }
    // What is held back has its own end.
    let mut to_see_to = reach.waiting.iter().filter(|waiting| waiting.held_back.is_none());
    if let Some(first) = to_see_to.next().filter(|_| unanswered > 0) {
        text.push_str(&format!(
            "\nsee to them, or restart them; who is revoked is waited for no more:\n  countersign \
             revoke {} \\\n    --reason privilege-withdrawn",
            first.serial_number
        ));
    }
    text
}

/// Whose word the count rests on, where that is one of several, and who claims more than counts.
fn told_of_closing(by: &ClosedBy, reach: &RevocationReach) -> Option<String> {
    let ClosedBy { spiffe_id, serial_number, connections, claimed } = by;
    let who = format!("{spiffe_id} (certificate {serial_number})");
    if let Some(claimed) = claimed {
        return Some(format!(
            "\n{who} claims {claimed}, and never said that it had so many open: {connections} count"
        ));
    }
    let is_most = reach.closed_by.len() > 1 && connections * 2 > reach.connections_closed;
    is_most.then(|| format!("\n{connections} of them by the word of {who}"))
}

fn told_of_waiting(waiting: &WaitingInstance) -> String {
    let WaitingInstance { spiffe_id, serial_number, held_back, state, .. } = waiting;
    let who = format!("{spiffe_id} (certificate {serial_number})");
    if let Some(HeldBack { peers, seconds, .. }) = held_back {
        return format!(
            "\nheld back by {who}: as its owner chose, {peers} peers go on there for {seconds} s yet, or \
             until it is restarted or releases them"
        );
    }
    let since = waiting.report_seconds_ago.unwrap_or_default();
    match state {
        Some(WaitingState::Stuck) => {
            let has = waiting.feed_sequence.unwrap_or_default();
            format!(
                "\nno answer from {who}: stuck, it reports and applies nothing after log index {has}"
            )
        }
        Some(WaitingState::Silent) => {
            format!("\nno answer from {who}: its last report is {since} s old")
        }
        Some(WaitingState::Unreporting) => format!("\nno answer from {who}: it never reports"),
        _ => format!("\nno answer from {who}"),
    }
}

/// Instances named to people.
const SHOWN: usize = 20;
/// Workloads answer within a second.
const ASK_AGAIN: Duration = Duration::from_millis(200);
const TELL_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(live: u64, reached: u64) -> RevocationReach {
        RevocationReach {
            log_index: 7,
            live,
            reached,
            stuck: 0,
            silent: 0,
            unreporting: 0,
            connections_closed: 3,
            closed_by: vec![],
            waiting: vec![],
            waiting_more: 0,
        }
    }

    fn waiting(state: WaitingState) -> WaitingInstance {
        WaitingInstance {
            spiffe_id: identity::SpiffeId::parse("spiffe://pay.example/reports").unwrap(),
            serial_number: "8f2c".parse().unwrap(),
            held_back: None,
            state: Some(state),
            feed_sequence: Some(4),
            report_seconds_ago: Some(2),
        }
    }

    const STEP: &str = "\nsee to them, or restart them; who is revoked is waited for no more:\n  \
                        countersign revoke 8f2c \\\n    --reason privilege-withdrawn";

    #[test]
    fn the_reach_names_who_has_not_answered_and_what_to_do() {
        let mut reach =
            RevocationReach { waiting: vec![waiting(WaitingState::Late)], ..reach(2, 1) };
        let begins = "1 of 2 workloads have it, connections closed: 3\n\
                      acknowledged by all who report but these 1:\n";
        let told = "no answer from spiffe://pay.example/reports (certificate 8f2c)";
        assert_eq!(to_text(&reach), format!("{begins}{told}{STEP}"));
        reach.waiting[0].state = Some(WaitingState::HeldBack);
        reach.waiting[0].held_back = Some(HeldBack { first: 7, last: 9, peers: 4, seconds: 60 });
        let told = "held back by spiffe://pay.example/reports (certificate 8f2c): as its owner chose, 4 \
                    peers go on there for 60 s yet, or until it is restarted or releases them";
        assert_eq!(to_text(&reach), format!("{begins}{told}"));
        reach.live = 0;
        assert!(to_text(&reach).contains("nobody was told"));
    }

    #[test]
    fn silence_is_no_answer_and_listening_no_silence() {
        let mut reach = RevocationReach { unreporting: 500, ..reach(1, 1) };
        reach.waiting = vec![waiting(WaitingState::Unreporting); 500];
        assert_eq!(exit(Some(&reach)), Exit::Done);
        let text = to_text(&reach);
        assert!(text.contains("500 more never report"), "{text}");
        assert!(text.ends_with("and 480 more: --json names a thousand"), "{text}");
        assert!(!text.contains("acknowledged by all"), "{text}");
        reach.silent = 1;
        assert_eq!(exit(Some(&reach)), Exit::Failed);
    }

    #[test]
    fn nobody_waits_for_who_is_stuck_or_holds_it_back_and_neither_counts_as_told() {
        let second = Duration::from_secs(5);
        let mut reach = RevocationReach { stuck: 1, ..reach(3, 2) };
        reach.waiting = vec![waiting(WaitingState::Stuck)];
        assert_eq!((awaited(&reach, second), exit(Some(&reach))), (0, Exit::Failed));
        assert!(
            to_text(&reach).contains("stuck, it reports and applies nothing after log index 4")
        );
        reach.live = 4;
        assert_eq!(awaited(&reach, second), 1, "somebody else may answer yet");
        let held = |seconds| WaitingInstance {
            held_back: Some(HeldBack { first: 7, last: 7, peers: 1, seconds }),
            ..waiting(WaitingState::HeldBack)
        };
        reach.waiting.push(held(8));
        assert_eq!((awaited(&reach, second), exit(Some(&reach))), (0, Exit::Failed));
        reach.waiting[1] = held(7);
        assert_eq!(awaited(&reach, second), 1, "it ends in time: two seconds of it are over");
    }

    #[test]
    fn whoever_claims_what_cannot_be_is_named_and_so_is_whose_word_most_of_it_is() {
        let by = |path: &str, connections, claimed| ClosedBy {
            spiffe_id: identity::SpiffeId::parse(&format!("spiffe://pay.example/{path}")).unwrap(),
            serial_number: "8f2c".parse().unwrap(),
            connections,
            claimed,
        };
        let closed_by = vec![by("liar", 1024, Some(1 << 20)), by("honest", 3, None)];
        let mut reach = RevocationReach { connections_closed: 1027, closed_by, ..reach(2, 2) };
        let text = to_text(&reach);
        assert!(text.contains("liar (certificate 8f2c) claims 1048576, and never said"), "{text}");
        assert!(!text.contains("honest"), "{text}");
        reach.closed_by = vec![by("gateway", 90, None), by("honest", 10, None)];
        reach.connections_closed = 100;
        assert!(to_text(&reach).contains("90 of them by the word of spiffe://pay.example/gateway"));
        reach.closed_by.pop();
        assert!(!to_text(&reach).contains("word of"));
    }
}
