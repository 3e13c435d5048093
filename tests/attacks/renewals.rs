//! One workload that makes the log and the fleet carry what it does: renew, revoke the old, again.

use std::time::Duration;

use system_tests::{Client, post};

use crate::attacker::{Attacker, STANDING};

pub(crate) async fn renew_and_revoke(attacker: Attacker) -> anyhow::Result<()> {
    println!("{STANDING}");
    let (mut serial_number, mut door) = (attacker.serial_number()?, attacker.known()?);
    let mut client = Client::connect(&door).await?;
    loop {
        let Ok((next, next_door)) = attacker.certified(&mut client).await else {
            // Its budget is spent: it goes on asking.
            tokio::time::sleep(REFUSED).await;
            client = Client::connect(&door).await?;
            continue;
        };
        client = Client::connect(&next_door).await?;
        let body = serde_json::json!({ "target": serial_number, "reason": "superseded" });
        let request = post("/v1/revocations", &body.to_string(), &attacker.api.to_string());
        let status = client.exchange(&request).await?;
        attacker.tally.sent(1);
        attacker.tally.answered(status);
        (serial_number, door) = (next, next_door);
    }
}

const REFUSED: Duration = Duration::from_millis(5);
