//! Thresholds as upstream's flags write them.
//!
//! Source: upstream `pkg/kubelet/eviction/helpers.go`, `ParseThresholdConfig`;
//! `pkg/kubelet/eviction/defaults_linux.go`.

use std::time::Duration;

use api::Quantity;

use crate::evict::Signal;

/// Upstream's default for memory. For disks upstream has 10% of the node's and
/// 15% of the images': fit for a machine that is nothing but a node. A Lifepod
/// is often a guest on a large disk, of which a tenth says nothing.
const HARD: &str = "imagefs.available<1Gi,imagefs.inodesFree<1%,memory.available<100Mi,nodefs.available<1Gi,nodefs.inodesFree<1%";
/// Upstream's default of `--eviction-pressure-transition-period`.
const TRANSITION: Duration = Duration::from_secs(300);

/// 100%.
const WHOLE_MILLI_PERCENT: u32 = 100_000;

/// How much of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So much: bytes, or a number.
    Units(u64),
    /// Such a share of the capacity, in thousandths of a percent.
    MilliPercent(u32),
}

impl Amount {
    /// In units of something of which there is so much in all.
    #[must_use]
    pub fn of(self, capacity: u64) -> u64 {
        match self {
            Self::Units(units) => units,
            Self::MilliPercent(share) => {
                let part = u128::from(capacity) * u128::from(share) / u128::from(WHOLE_MILLI_PERCENT);
                u64::try_from(part).unwrap_or(u64::MAX)
            }
        }
    }
}

/// A line below which the node is short of something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Threshold {
    /// Of what.
    pub signal: Signal,
    /// Less than this is short.
    pub amount: Amount,
    /// Of a soft threshold: pods are evicted after so long below it.
    pub grace: Option<Duration>,
    /// Once it was met, so much more must be there again.
    pub min_reclaim: Option<Amount>,
}

/// What the flags come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Hard ones and soft ones.
    pub thresholds: Vec<Threshold>,
    /// Longest grace of a pod evicted for a soft threshold.
    pub max_pod_grace: Duration,
    /// How long a condition stays after it last held.
    pub transition: Duration,
}

/// The flags, as given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--eviction-hard`; `None` for the default.
    pub hard: Option<String>,
    /// `--eviction-soft`.
    pub soft: String,
    /// `--eviction-soft-grace-period`.
    pub soft_grace: String,
    /// `--eviction-minimum-reclaim`.
    pub min_reclaim: String,
    /// `--eviction-max-pod-grace-period`.
    pub max_pod_grace_s: u64,
    /// `--eviction-pressure-transition-period`; empty for upstream's default.
    pub transition: String,
}

/// A flag that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidThreshold {
    /// Not `<signal><operator><quantity>`, or a signal that is not watched.
    #[error("--{flag}: {entry:?} is not <signal>{sign}<value>; signals are {}", Signal::ALL.map(Signal::as_str).join(", "))]
    Syntax {
        /// Which flag.
        flag: &'static str,
        /// What was there.
        entry: String,
        /// `<` or `=`.
        sign: char,
    },
    /// A value that is neither a quantity nor a percentage.
    #[error("--{flag}: {entry:?}: the value must be a quantity of at least zero or a percentage from 0% to 100%")]
    Value {
        /// Which flag.
        flag: &'static str,
        /// What was there.
        entry: String,
    },
    /// A grace period that is none.
    #[error("--eviction-soft-grace-period: {0:?}: the value must be a positive duration such as 1m30s")]
    Grace(String),
    /// A transition period that is none.
    #[error("--eviction-pressure-transition-period: {0:?}: the value must be a duration such as 5m0s")]
    Transition(String),
    /// A soft threshold without a grace period.
    #[error("grace period must be specified for the soft eviction threshold {0}")]
    NoGrace(&'static str),
}

impl Settings {
    /// Understands the flags.
    ///
    /// # Errors
    /// The first thing that cannot be understood.
    pub fn parse(flags: &Flags) -> Result<Self, InvalidThreshold> {
        let reclaim = entries("eviction-minimum-reclaim", &flags.min_reclaim, '=')?;
        let mut graces = Vec::new();
        for entry in flags.soft_grace.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let (signal, value) = split("eviction-soft-grace-period", entry, '=')?;
            let grace = duration(value).filter(|grace| !grace.is_zero());
            graces.push((signal, grace.ok_or_else(|| InvalidThreshold::Grace(entry.to_owned()))?));
        }
        let min_reclaim = |signal: Signal| reclaim.iter().find(|(of, _)| *of == signal).map(|(_, amount)| *amount);
        let mut thresholds = Vec::new();
        for (signal, amount) in entries("eviction-hard", flags.hard.as_deref().unwrap_or(HARD), '<')? {
            thresholds.push((signal, amount, None));
        }
        for (signal, amount) in entries("eviction-soft", &flags.soft, '<')? {
            let grace = graces.iter().find(|(of, _)| *of == signal).map(|(_, grace)| *grace);
            thresholds.push((signal, amount, Some(grace.ok_or(InvalidThreshold::NoGrace(signal.as_str()))?)));
        }
        let thresholds = thresholds
            .into_iter()
            // As upstream: neither end of the scale says anything.
            .filter(|(_, amount, _)| !matches!(amount, Amount::MilliPercent(0 | WHOLE_MILLI_PERCENT)))
            .map(|(signal, amount, grace)| Threshold {
                signal,
                amount,
                grace,
                min_reclaim: min_reclaim(signal),
            });
        Ok(Self {
            thresholds: thresholds.collect(),
            max_pod_grace: Duration::from_secs(flags.max_pod_grace_s),
            transition: match flags.transition.as_str() {
                "" => TRANSITION,
                text => duration(text).ok_or_else(|| InvalidThreshold::Transition(text.to_owned()))?,
            },
        })
    }

    /// What of the node is kept from pods: its hard threshold.
    ///
    /// Source: upstream `hardEvictionReservation`.
    #[must_use]
    pub fn reserved(&self, signal: Signal, capacity: u64) -> u64 {
        let hard = self.thresholds.iter().filter(|t| t.signal == signal && t.grace.is_none());
        hard.map(|t| t.amount.of(capacity)).max().unwrap_or(0)
    }
}

fn split<'a>(flag: &'static str, entry: &'a str, sign: char) -> Result<(Signal, &'a str), InvalidThreshold> {
    let parts = entry.split_once(sign).and_then(|(name, value)| {
        let signal = Signal::ALL.into_iter().find(|signal| signal.as_str() == name.trim())?;
        Some((signal, value.trim()))
    });
    parts.ok_or_else(|| InvalidThreshold::Syntax {
        flag,
        entry: entry.to_owned(),
        sign,
    })
}

fn entries(flag: &'static str, list: &str, sign: char) -> Result<Vec<(Signal, Amount)>, InvalidThreshold> {
    let mut found = Vec::new();
    for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let (signal, value) = split(flag, entry, sign)?;
        let amount = amount(value).ok_or_else(|| InvalidThreshold::Value {
            flag,
            entry: entry.to_owned(),
        })?;
        found.push((signal, amount));
    }
    Ok(found)
}

fn amount(text: &str) -> Option<Amount> {
    if let Some(percent) = text.strip_suffix('%') {
        let percent: Quantity = percent.parse().ok()?;
        let share = u32::try_from(percent.milli()).ok().filter(|share| *share <= WHOLE_MILLI_PERCENT);
        return share.map(Amount::MilliPercent);
    }
    let quantity: Quantity = text.parse().ok()?;
    u64::try_from(quantity.bytes()).ok().map(Amount::Units)
}

/// A duration as Go writes it: `90s`, `1m30s`, `500ms`.
pub fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut total) = (text.trim(), Duration::ZERO);
    if rest.is_empty() {
        return None;
    }
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..]
            .find(|c: char| c.is_ascii_digit())
            .map_or(rest.len(), |at| digits + at);
        let seconds = match &rest[digits..unit_end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            _ => return None,
        };
        total += Duration::try_from_secs_f64(number * seconds).ok()?;
        rest = &rest[unit_end..];
    }
    Some(total)
}
