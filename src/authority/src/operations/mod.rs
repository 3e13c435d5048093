//! What operators, owners and auditors do beside issuing: each call asks the same policy.

mod hastened;
mod inventory;
mod lost_rows;
mod operators;
mod policies;
mod review;
mod revocations;
mod tokens;
mod turns;
mod way_back;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use policies::explain_query;
pub(crate) use policies::policy_change;

use self::hastened::Hastened;
use self::lost_rows::LostRows;
use self::review::Listed;
use self::turns::Turns;
use crate::budgets::Budgets;
use crate::error::Error;
use crate::view::View;
use crate::writer::Writer;

/// What is done beside issuing.
#[derive(Debug)]
pub struct Operations {
    view: Arc<View>,
    writer: Arc<Writer>,
    pub(crate) budgets: Budgets,
    turns: Turns,
    listed: Listed,
    lost_rows: LostRows,
    hastened: Mutex<Hastened>,
}

impl Operations {
    pub(crate) fn new(view: Arc<View>, writer: Arc<Writer>) -> Self {
        Self {
            view,
            writer,
            budgets: Budgets::default(),
            turns: Turns::default(),
            listed: Listed::default(),
            lost_rows: LostRows::default(),
            hastened: Mutex::default(),
        }
    }

    fn hastened(&self) -> MutexGuard<'_, Hastened> {
        self.hastened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of the log after which a page begins: the `next` of the one before.
fn place_after(after: Option<&str>) -> Result<Option<u64>, Error> {
    let parsed = after.map(str::parse).transpose();
    parsed.map_err(|_| Error::Invalid {
        why: "`after` is not the `next` of a page".to_owned(),
        next_step: None,
    })
}

/// Records read at a time.
const PAGE: u32 = 500;
