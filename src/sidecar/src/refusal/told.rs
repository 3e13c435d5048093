//! What strangers can make the diagnostics say is bounded: whoever is refused writes a line, and comes
//! again as often as it likes.

use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Instant;

use crate::limits::Limits;

/// Tells of a refusal, unless a hundred were told in this second; then only how many more there were.
pub(crate) fn tell(line: impl FnOnce()) {
    let second = BEGUN.elapsed().as_secs();
    let untold = TOLD.lock().unwrap_or_else(PoisonError::into_inner).take(second);
    let Some(untold) = untold else {
        metrics::counter!("countersign_refusals_untold_total").increment(1);
        return;
    };
    if untold > 0 {
        tracing::warn!(untold, "peers refused, too many in a second to tell all");
    }
    line();
}

/// What was told in a second.
#[derive(Debug, Default)]
struct Told {
    second: u64,
    lines: u32,
    untold: u64,
}

impl Told {
    /// How many were not told since the last that was, if this one is to be.
    fn take(&mut self, second: u64) -> Option<u64> {
        if self.second != second {
            *self = Self { second, lines: 0, untold: self.untold };
        }
        if self.lines == LINES_A_SECOND {
            self.untold += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.untold))
    }
}

static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
static TOLD: Mutex<Told> = Mutex::new(Told { second: 0, lines: 0, untold: 0 });
/// More than anybody reads.
const LINES_A_SECOND: u32 = Limits::TOLD_A_SECOND;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_a_second_are_told_and_then_how_many_were_not() {
        let mut told = Told::default();
        assert!((0..100).all(|_| told.take(7) == Some(0)));
        assert!((0..2857).all(|_| told.take(7).is_none()));
        assert_eq!(told.take(8), Some(2857));
        assert_eq!(told.take(8), Some(0));
    }
}
