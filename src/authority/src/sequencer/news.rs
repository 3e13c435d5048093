//! What the log came to say of renewals while others were on their way into it.
//!
//! A renewal is decided from what the log says up to a place. Whatever is logged from there on, by this
//! process or another, is read under the head lock: where it concerns the same line, the renewal is
//! decided anew. So no two certificates are renewed from one, however many write to the log.

use std::collections::HashMap;

use identity::SerialNumber;
use serde::Deserialize;

use super::member::{Consumes, Renewed};
use crate::event::{RENEW, SEEN, is_of};

/// What was logged, each with the place of the newest entry that says it.
#[derive(Debug, Clone, Default)]
pub struct News {
    /// By lines of renewals.
    renewed: HashMap<SerialNumber, u64>,
    /// By certificates' places.
    shown: HashMap<u64, u64>,
}

impl News {
    /// Reads the entry at a place of the log.
    pub fn read(&mut self, place: u64, entry: &[u8]) {
        let told = if is_of(entry, RENEW) || is_of(entry, SEEN) {
            serde_json::from_slice(entry).unwrap_or_default()
        } else {
            Told::default()
        };
        self.renewed.extend(told.detail.lineage.map(|line| (line, place)));
        self.shown.extend(told.detail.indexes.into_iter().map(|shown| (shown, place)));
    }

    /// A certificate of this line is about to be logged at a place.
    pub(super) fn renew(&mut self, lineage: SerialNumber, place: u64) {
        self.renewed.insert(lineage, place);
    }

    /// Whether something else is decided from now on.
    pub(super) fn concerns(&self, consumes: &Consumes) -> bool {
        let Consumes::Renewal { lineage, before, read_to, .. } = consumes else { return false };
        let is_new = |place: Option<&u64>| place.is_some_and(|place| place >= read_to);
        let is_shown = |Renewed { leaf_index, seen, .. }: &Renewed| {
            !seen && is_new(self.shown.get(leaf_index))
        };
        is_new(self.renewed.get(lineage)) || before.as_ref().is_some_and(is_shown)
    }
}

/// Of a `renew` or a `seen` event; the rest is passed over.
#[derive(Debug, Default, Deserialize)]
struct Told {
    detail: ToldDetail,
}

#[derive(Debug, Default, Deserialize)]
struct ToldDetail {
    #[serde(default)]
    indexes: Vec<u64>,
    lineage: Option<SerialNumber>,
}
