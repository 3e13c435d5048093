//! Durations as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A duration such as `15m`, `24h` or `7d`; whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ttl(pub Duration);

impl FromStr for Ttl {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match humantime::parse_duration(text) {
            Ok(duration) if duration.subsec_nanos() == 0 => Ok(Self(duration)),
            _ => Err(format!("{text:?} is no duration in whole seconds, such as 15m, 24h or 7d")),
        }
    }
}

impl TryFrom<String> for Ttl {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Ttl> for String {
    fn from(ttl: Ttl) -> Self {
        ttl.to_string()
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let units = [
            (seconds / 86_400, "d"),
            (seconds / 3_600 % 24, "h"),
            (seconds / 60 % 60, "m"),
            (seconds % 60, "s"),
        ];
        if seconds == 0 {
            return f.write_str("0s");
        }
        // As one word: it is typed again behind an option.
        units
            .iter()
            .filter(|(count, _)| *count > 0)
            .try_for_each(|(count, unit)| write!(f, "{count}{unit}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_they_are_read() {
        for (text, written) in [
            ("90d", "90d"),
            ("36h", "1d12h"),
            ("15m", "15m"),
            ("1d 2h 3m 4s", "1d2h3m4s"),
            ("0s", "0s"),
        ] {
            let ttl: Ttl = text.parse().unwrap();
            assert_eq!(ttl.to_string(), written);
            assert_eq!(written.parse::<Ttl>().unwrap(), ttl);
        }
        for refused in ["", "d", "100ms", "1.5s", "-1h"] {
            assert!(refused.parse::<Ttl>().is_err(), "{refused}");
        }
    }
}
