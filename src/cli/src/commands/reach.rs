//! How far a revocation has come: who has it, and who has not answered.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use api::{HeldBack, RevocationReach, WaitingInstance};
use countersign::AuthorityClient;

use super::Session;
use crate::error::Error;
use crate::exit::Exit;

/// Waits so long for every live workload to have what an entry of the log revokes; none where the CA
/// does not say. It is revoked whatever comes of asking.
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

/// Asks until every live workload has it, the time is over, or Ctrl-C says that it is.
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
        if reach.reached >= reach.live || left.is_zero() {
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
    let RevocationReach { live, reached, silent, unreporting, connections_closed, waiting, .. } =
        reach;
    let mut text =
        format!("{reached} of {live} workloads have it, connections closed: {connections_closed}");
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
    for WaitingInstance { spiffe_id, serial_number, held_back } in waiting {
        text.push_str(&match held_back {
            None => format!("\nno answer from {spiffe_id} (certificate {serial_number})"),
            Some(HeldBack { peers, seconds, .. }) => format!(
                "\nheld back by {spiffe_id} (certificate {serial_number}): as its owner chose, {peers} \
                 peers go on there for {seconds} s yet, or until it is restarted or releases them"
            ),
        });
    }
    text
}

/// Workloads answer within a second.
const ASK_AGAIN: Duration = Duration::from_millis(200);
const TELL_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reach_names_who_has_not_answered() {
        let mut reach = RevocationReach {
            silent: 0,
            unreporting: 0,
            log_index: 7,
            live: 2,
            reached: 1,
            connections_closed: 3,
            waiting: vec![WaitingInstance {
                spiffe_id: identity::SpiffeId::parse("spiffe://pay.example/reports").unwrap(),
                serial_number: "8f2c".parse().unwrap(),
                held_back: None,
            }],
        };
        assert_eq!(
            to_text(&reach),
            "1 of 2 workloads have it, connections closed: 3\n\
             no answer from spiffe://pay.example/reports (certificate 8f2c)"
        );
        reach.waiting[0].held_back = Some(HeldBack { first: 7, last: 9, peers: 4, seconds: 60 });
        assert_eq!(
            to_text(&reach),
            "1 of 2 workloads have it, connections closed: 3\n\
             held back by spiffe://pay.example/reports (certificate 8f2c): as its owner chose, 4 peers \
             go on there for 60 s yet, or until it is restarted or releases them"
        );
        reach.live = 0;
        assert!(to_text(&reach).contains("nobody was told"));
    }

    #[test]
    fn silence_is_no_answer_and_listening_no_silence() {
        let mut reach = RevocationReach {
            log_index: 7,
            live: 1,
            reached: 1,
            silent: 0,
            unreporting: 500,
            connections_closed: 0,
            waiting: vec![],
        };
        assert_eq!(exit(Some(&reach)), Exit::Done);
        assert!(to_text(&reach).contains("500 more never report"));
        reach.silent = 1;
        assert_eq!(exit(Some(&reach)), Exit::Failed);
    }
}
