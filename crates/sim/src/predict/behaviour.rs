//! How a container behaves, as a user writes it.

use std::str::FromStr;
use std::time::Duration;

/// `[CONTAINER:]BEHAVIOUR`; without a container it is meant of every one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// The container.
    pub container: Option<String>,
    /// What it does.
    pub what: What,
}

/// What a container does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// `starts-in=20s`: it answers probes from then on.
    StartsIn(Duration),
    /// `crashes-after=5s` with code 1, `crashes-after=5s/3` with code 3,
    /// `finishes-after=5s` with code 0.
    EndsAfter(Duration, i32),
    /// `ignores-sigterm`.
    IgnoresSigterm,
    /// `answers=404`, or `answers=404@30s` from 30 s on: its probes fail.
    Answers {
        /// The status code.
        status: u16,
        /// Since its start.
        from: Duration,
    },
    /// `hooks-hang`: hooks that are no sleep do not end.
    HooksHang,
    /// `image-missing`: the registry does not have it.
    ImageMissing,
    /// `pull-takes=30s`: the image is not on the node.
    PullTakes(Duration),
}

/// Text that is no behaviour.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is not a behaviour; write [CONTAINER:]starts-in=20s, crashes-after=5s[/CODE], finishes-after=5s, ignores-sigterm, answers=404[@30s], hooks-hang, image-missing or pull-takes=30s"
)]
pub struct BehaviourError(String);

impl FromStr for Behaviour {
    type Err = BehaviourError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (container, rest) = match text.split_once(':') {
            Some((container, rest)) => (Some(container.to_owned()), rest),
            None => (None, text),
        };
        let what = what(rest).ok_or_else(|| BehaviourError(text.to_owned()))?;
        Ok(Self { container, what })
    }
}

fn what(text: &str) -> Option<What> {
    let (word, value) = text.split_once('=').map_or((text, None), |(word, value)| (word, Some(value)));
    Some(match (word, value) {
        ("starts-in", Some(value)) => What::StartsIn(time(value)?),
        ("crashes-after", Some(value)) => {
            let (after, code) = value.split_once('/').unwrap_or((value, "1"));
            What::EndsAfter(time(after)?, code.parse().ok().filter(|code| (1..=255).contains(code))?)
        }
        ("finishes-after", Some(value)) => What::EndsAfter(time(value)?, 0),
        ("ignores-sigterm", None) => What::IgnoresSigterm,
        ("answers", Some(value)) => {
            let (status, from) = value.split_once('@').unwrap_or((value, "0s"));
            let status = status.parse().ok().filter(|status| (400..=599).contains(status))?;
            What::Answers { status, from: time(from)? }
        }
        ("hooks-hang", None) => What::HooksHang,
        ("image-missing", None) => What::ImageMissing,
        ("pull-takes", Some(value)) => What::PullTakes(time(value)?),
        _ => return None,
    })
}

/// `1h`, `5m`, `20s`, `1.5s`, `300ms`; at most a year.
#[must_use]
pub fn time(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: f64 = digits.parse().ok()?;
    let unit_s = match &text[digits.len()..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * unit_s)
        .ok()
        .filter(|time| time.as_secs() <= 366 * 86_400)
}
