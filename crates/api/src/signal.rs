//! Signals by the names that images and pods use.
//!
//! Numbers are those of Linux on x86-64 and arm64.

/// Every name a pod may use, as upstream lists them.
///
/// Source: Pod API reference, `lifecycle.stopSignal`; upstream
/// `supportedStopSignalsLinux`.
const NAMES: [(&str, i32); 36] = [
    ("SIGABRT", 6),
    ("SIGALRM", 14),
    ("SIGBUS", 7),
    ("SIGCHLD", 17),
    ("SIGCLD", 17),
    ("SIGCONT", 18),
    ("SIGFPE", 8),
    ("SIGHUP", 1),
    ("SIGILL", 4),
    ("SIGINT", 2),
    ("SIGIO", 29),
    ("SIGIOT", 6),
    ("SIGKILL", 9),
    ("SIGPIPE", 13),
    ("SIGPOLL", 29),
    ("SIGPROF", 27),
    ("SIGPWR", 30),
    ("SIGQUIT", 3),
    ("SIGRTMAX", MAX),
    ("SIGRTMIN", REAL_TIME_MIN),
    ("SIGSEGV", 11),
    ("SIGSTKFLT", 16),
    ("SIGSTOP", 19),
    ("SIGSYS", 31),
    ("SIGTERM", TERM),
    ("SIGTRAP", 5),
    ("SIGTSTP", 20),
    ("SIGTTIN", 21),
    ("SIGTTOU", 22),
    ("SIGURG", 23),
    ("SIGUSR1", 10),
    ("SIGUSR2", 12),
    ("SIGVTALRM", 26),
    ("SIGWINCH", 28),
    ("SIGXCPU", 24),
    ("SIGXFSZ", 25),
];
/// Names of one number, of which the other one is told.
const ALIASES: [&str; 3] = ["SIGCLD", "SIGIOT", "SIGPOLL"];
/// What stops a program unless something else is asked for.
pub const TERM: i32 = 15;
const REAL_TIME_MIN: i32 = 34;
const MAX: i32 = 64;

/// Every name a pod may use, sorted.
#[must_use]
pub fn names() -> Vec<String> {
    let mut names: Vec<String> = NAMES.iter().map(|(name, _)| (*name).to_owned()).collect();
    names.extend((REAL_TIME_MIN + 1..MAX).filter_map(name));
    names.sort();
    names
}

/// The number of a name such as `SIGUSR1` or `SIGRTMIN+3`.
#[must_use]
pub fn number(name: &str) -> Option<i32> {
    let counted = |prefix: &str, up: bool| {
        let steps: i32 = name.strip_prefix(prefix)?.parse().ok()?;
        let number = if up { REAL_TIME_MIN + steps } else { MAX - steps };
        (steps > 0 && (REAL_TIME_MIN..=MAX).contains(&number)).then_some(number)
    };
    let plain = NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    plain.or_else(|| counted("SIGRTMIN+", true)).or_else(|| counted("SIGRTMAX-", false))
}

/// The number of a word as images have it: any case, `SIG` left out, a number.
#[must_use]
pub fn of_image(word: &str) -> Option<i32> {
    let upper = word.trim().to_ascii_uppercase();
    let by_number = upper.parse().ok().filter(|n| (1..=MAX).contains(n));
    by_number.or_else(|| number(&upper)).or_else(|| number(&format!("SIG{upper}")))
}

/// The name of a number, as statuses tell it.
#[must_use]
pub fn name(number: i32) -> Option<String> {
    let plain = NAMES.iter().find(|(name, known)| *known == number && !ALIASES.contains(name));
    match number {
        _ if plain.is_some() => plain.map(|(name, _)| (*name).to_owned()),
        // Names count from the lower end, then down from the upper.
        REAL_TIME_MIN..=49 => Some(format!("SIGRTMIN+{}", number - REAL_TIME_MIN)),
        50..=MAX => Some(format!("SIGRTMAX-{}", MAX - number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_go_back_and_forth() {
        for (given, expected) in [
            ("SIGUSR1", 10),
            ("SIGRTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("SIGRTMAX-14", 50),
            ("SIGRTMAX", 64),
        ] {
            assert_eq!(number(given), Some(expected));
            assert_eq!(name(expected).as_deref(), Some(given));
        }
        for bad in [
            "TERM",
            "sigterm",
            "SIGRTMIN+0",
            "SIGRTMIN+31",
            "SIGRTMAX-31",
            "SIGRTMAX--1",
            "15",
            "",
        ] {
            assert_eq!(number(bad), None, "{bad}");
        }
        assert!(
            (1..=MAX)
                .filter(|n| !matches!(n, 32 | 33))
                .all(|n| name(n).as_deref().and_then(number) == Some(n))
        );
        assert_eq!(names().len(), NAMES.len() + 29);
    }

    #[test]
    fn images_write_signals_as_they_like() {
        for (word, expected) in [("term", 15), (" SIGQUIT ", 3), ("9", 9), ("RTMIN+3", 37), ("sigrtmin+3", 37)] {
            assert_eq!(of_image(word), Some(expected), "{word}");
        }
        for bad in ["0", "65", "TERMINATE", "SIG"] {
            assert_eq!(of_image(bad), None, "{bad}");
        }
    }
}
