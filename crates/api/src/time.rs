//! Points in time as plain values.
//!
//! Pure code is handed a [`Time`] and never reads a clock.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::typed::{MicroTime, WireTime};

/// Nanoseconds since the Unix epoch, UTC. Arithmetic saturates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(pub i64);

impl Time {
    /// Later than any deadline: never.
    pub const FAR_FUTURE: Self = Self(i64::MAX);

    /// From whole seconds since the epoch.
    #[must_use]
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1_000_000_000))
    }

    /// Time passed since `earlier`; zero if it is later than `self`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0).max(0).unsigned_abs())
    }

    /// Cut to whole seconds, as `metav1.Time` prints.
    #[must_use]
    pub const fn whole_seconds(self) -> Self {
        Self(self.0 - self.0.rem_euclid(1_000_000_000))
    }

    /// As a `jiff` timestamp, clamped to what that can express.
    #[must_use]
    pub fn timestamp(self) -> Timestamp {
        Timestamp::from_nanosecond(i128::from(self.0)).unwrap_or(Timestamp::MAX)
    }

    /// As `metav1.Time`: whole seconds.
    #[must_use]
    pub fn wire(self) -> WireTime {
        WireTime(self.whole_seconds().timestamp())
    }

    /// As `metav1.MicroTime`: six digits.
    #[must_use]
    pub fn wire_micro(self) -> MicroTime {
        MicroTime(Self(self.0 - self.0.rem_euclid(1_000)).timestamp())
    }

    /// RFC 3339 with nanoseconds, as in CRI logs and `--timestamps`.
    #[must_use]
    pub fn rfc3339_nano(self) -> String {
        let timestamp = self.timestamp();
        format!("{timestamp:.9}")
    }
}

impl From<Timestamp> for Time {
    fn from(timestamp: Timestamp) -> Self {
        Self(i64::try_from(timestamp.as_nanosecond()).unwrap_or(i64::MAX))
    }
}

impl From<&WireTime> for Time {
    fn from(wire: &WireTime) -> Self {
        wire.0.into()
    }
}

impl Add<Duration> for Time {
    type Output = Self;
    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(rhs.as_nanos()).unwrap_or(i64::MAX)))
    }
}

impl Sub<Duration> for Time {
    type Output = Self;
    fn sub(self, rhs: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(rhs.as_nanos()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Time {
    /// RFC 3339, whole seconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0}", self.whole_seconds().timestamp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_the_wire_wants_it() {
        let time = Time(1_700_000_000_123_456_789);
        assert_eq!(time.to_string(), "2023-11-14T22:13:20Z");
        assert_eq!(time.rfc3339_nano(), "2023-11-14T22:13:20.123456789Z");
        assert_eq!(serde_json::to_string(&time.wire()).unwrap(), "\"2023-11-14T22:13:20Z\"");
    }
}
