//! How much of its life a certificate of the CA's has left.

use std::fmt;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// What is left of a life, once that is little enough to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum LifeLeft {
    /// A half or less: time to replace it, since what it certifies shall end before it.
    Half,
    /// A quarter or less.
    Quarter,
    /// A twelfth or less, or nothing: it may have ended.
    Twelfth,
}

impl LifeLeft {
    /// How much of a certificate's life is left; none where that is more than a half.
    pub fn of(
        not_before: OffsetDateTime,
        not_after: OffsetDateTime,
        now: OffsetDateTime,
    ) -> Option<Self> {
        let (life, left) = (not_after - not_before, not_after - now);
        let at_most = |part: i32| left.saturating_mul(part) <= life;
        match () {
            () if at_most(12) => Some(Self::Twelfth),
            () if at_most(4) => Some(Self::Quarter),
            () if at_most(2) => Some(Self::Half),
            () => None,
        }
    }
}

impl fmt::Display for LifeLeft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Half => "half",
            Self::Quarter => "a quarter",
            Self::Twelfth => "a twelfth",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::Duration;

    #[test]
    fn it_is_told_from_the_very_second_at_which_so_much_is_left() {
        let begin = OffsetDateTime::UNIX_EPOCH;
        let end = begin + Duration::days(1200);
        let left = |left: Duration| LifeLeft::of(begin, end, end - left);
        for (part, name, more) in [
            (600, LifeLeft::Half, None),
            (300, LifeLeft::Quarter, Some(LifeLeft::Half)),
            (100, LifeLeft::Twelfth, Some(LifeLeft::Quarter)),
        ] {
            assert_eq!(left(Duration::days(part)), Some(name));
            assert_eq!(left(Duration::days(part) + Duration::SECOND), more);
        }
        assert_eq!(left(Duration::days(-1)), Some(LifeLeft::Twelfth), "it has ended");
        assert_eq!(left(Duration::days(2000)), None, "its life has not begun");
        assert_eq!(LifeLeft::of(begin, begin, begin), Some(LifeLeft::Twelfth));
    }
}
