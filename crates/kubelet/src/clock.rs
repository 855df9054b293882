//! The one place that reads a clock.

use api::Time;
use async_trait::async_trait;

/// Only drivers hold one. Pure code is handed [`Time`] values instead.
#[async_trait]
pub trait Clock: Send + Sync {
    /// The current time. Never goes back.
    fn now(&self) -> Time;
    /// Returns at `at`, or at once if that has passed.
    async fn sleep_until(&self, at: Time);
}

/// The operating system's clock: wall time at start, carried on by the
/// monotonic clock, so that setting the wall clock moves no deadline.
#[derive(Debug)]
pub struct SystemClock {
    started: std::time::Instant,
    started_at: Time,
}

impl SystemClock {
    /// A clock that agrees with the wall clock now.
    #[must_use]
    pub fn new() -> Self {
        Self {
            started: std::time::Instant::now(),
            started_at: jiff::Timestamp::now().into(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Time {
        self.started_at + self.started.elapsed()
    }

    async fn sleep_until(&self, at: Time) {
        let until = at.since(self.started_at);
        // `FAR_FUTURE` lies beyond what the timer can express.
        match self.started.checked_add(until).filter(|_| at != Time::FAR_FUTURE) {
            Some(instant) => tokio::time::sleep_until(instant.into()).await,
            None => std::future::pending().await,
        }
    }
}
