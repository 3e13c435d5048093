//! Which line of renewals a certificate belongs to: what one caller can make of itself counts once.
//!
//! Asked at each connection, so it is remembered: of what was issued here, and of what was looked up.
//! Few look at once: a burst of connections opens no burst of readers.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use identity::{SerialNumber, VerifiedSvid};
use tokio::sync::Semaphore;

use super::View;
use crate::error::Error;
use crate::facts::Facts;
use crate::store::RecordKey;

/// What is remembered.
#[derive(Debug)]
pub(crate) struct Lines {
    known: Mutex<HashMap<SerialNumber, SerialNumber>>,
    looking: Semaphore,
}

impl Default for Lines {
    fn default() -> Self {
        Self { known: Mutex::default(), looking: Semaphore::new(LOOKING) }
    }
}

impl Lines {
    /// A certificate was issued, or found, in a line.
    pub(crate) fn learn(&self, serial_number: SerialNumber, line: SerialNumber) {
        let mut known = self.known();
        if known.len() >= REMEMBERED {
            // Whoever is still here is looked up once more.
            known.clear();
        }
        known.insert(serial_number, line);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<SerialNumber, SerialNumber>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl View {
    /// The first certificate of the line that this one was renewed in; where the store does not
    /// say, the certificate's own.
    pub async fn line(&self, svid: &VerifiedSvid) -> SerialNumber {
        let serial_number = svid.serial_number();
        self.line_of(serial_number).await.unwrap_or(*serial_number)
    }

    /// The first certificate of the line that this one was renewed in.
    pub(crate) async fn line_of(
        &self,
        serial_number: &SerialNumber,
    ) -> Result<SerialNumber, Error> {
        if let Some(line) = self.lines.known().get(serial_number) {
            return Ok(*line);
        }
        let looking = self.lines.looking.acquire().await;
        let key = RecordKey::SerialNumber(*serial_number);
        let record = self.store().records_of(vec![key]).await?.pop().flatten();
        drop(looking);
        let facts = record.and_then(|record| serde_json::from_str::<Facts>(&record.facts).ok());
        let line = facts.map_or(*serial_number, |facts| facts.lineage);
        self.lines.learn(*serial_number, line);
        Ok(line)
    }
}

/// Two readers of the store.
const LOOKING: usize = 2;
/// Some 3 MiB.
const REMEMBERED: usize = 50_000;
