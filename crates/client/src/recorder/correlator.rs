//! Decides what becomes of an event: new, a repeat, folded, or spam. Pure.
//!
//! Source: upstream `client-go/tools/record/events_cache.go`; its defaults are
//! kept: a bucket of 25 events refilled one per 300 s for each object, folding
//! after 10 different messages within 600 s, 4,096 remembered keys.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::Time;
use api::typed::{Event, ObjectReference};

use super::{RecordedEvent, Reporter, first_event};

const SPAM_BURST: f64 = 25.0;
const SPAM_REFILL: Duration = Duration::from_secs(300);
const FOLD_AFTER_MESSAGES: usize = 10;
const FOLD_WINDOW: Duration = Duration::from_secs(600);
const REMEMBERED_KEYS: usize = 4_096;

/// Reasons whose newest message says all that those before it did: each object,
/// or container of it, has one such event, and its message is replaced. How far
/// the download of an image is, is told so. It costs no token, since whoever
/// reports it does so at a pace of his own.
const NEWEST_ALONE: [&str; 1] = ["PullProgress"];

/// What to do with an event.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Create this object.
    New(Box<Event>),
    /// Raise the count of an existing object.
    Repeat {
        /// Namespace of the Event.
        namespace: String,
        /// Name of the Event.
        name: String,
        /// Its new count.
        count: i32,
        /// Its message.
        message: String,
        /// When it happened last.
        last: Time,
    },
    /// Drop it: the object has caused too many events.
    Spam,
}

/// The object an event is about, without the field path.
type ObjectKey = (String, String, String, String, String);
/// An object, a type and a reason: what is folded together.
type GroupKey = (ObjectKey, &'static str, String);

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled_at: Time,
}

#[derive(Debug)]
struct Group {
    messages: BTreeSet<String>,
    last: Time,
}

#[derive(Debug)]
struct Seen {
    namespace: String,
    name: String,
    count: i32,
    last: Time,
}

/// Remembers what was recorded lately. Its memory is bounded.
#[derive(Debug)]
pub struct Correlator {
    reporter: Reporter,
    buckets: BTreeMap<ObjectKey, Bucket>,
    groups: BTreeMap<GroupKey, Group>,
    seen: BTreeMap<(GroupKey, String, String), Seen>,
}

fn object_key(object: &ObjectReference) -> ObjectKey {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    (
        text(&object.kind),
        text(&object.namespace),
        text(&object.name),
        text(&object.uid),
        text(&object.api_version),
    )
}

impl Correlator {
    /// An empty memory.
    #[must_use]
    pub const fn new(reporter: Reporter) -> Self {
        Self {
            reporter,
            buckets: BTreeMap::new(),
            groups: BTreeMap::new(),
            seen: BTreeMap::new(),
        }
    }

    /// Decides what becomes of `event`.
    pub fn correlate(&mut self, event: &RecordedEvent) -> Verdict {
        let object = object_key(&event.involved);
        let newest_alone = NEWEST_ALONE.contains(&event.reason.as_str());
        if !newest_alone && !self.take_token(&object, event.at) {
            return Verdict::Spam;
        }
        let group = (object, event.kind, event.reason.clone());
        let field = event.involved.field_path.clone().unwrap_or_default();
        let (message, key) = if newest_alone {
            (event.message.clone(), (group, field, String::new()))
        } else {
            let message = self.fold(&group, event);
            (message.clone(), (group, field, message))
        };
        if let Some(seen) = self.seen.get_mut(&key) {
            seen.count = seen.count.saturating_add(1);
            seen.last = event.at;
            return Verdict::Repeat {
                namespace: seen.namespace.clone(),
                name: seen.name.clone(),
                count: seen.count,
                message,
                last: event.at,
            };
        }
        let first = first_event(&self.reporter, event, &message);
        let remembered = Seen {
            namespace: first.metadata.namespace.clone().unwrap_or_default(),
            name: first.metadata.name.clone().unwrap_or_default(),
            count: 1,
            last: event.at,
        };
        self.seen.insert(key, remembered);
        evict_oldest(&mut self.seen, |seen| seen.last);
        Verdict::New(Box::new(first))
    }

    /// For an event whose Event object is gone: forgets it and starts anew.
    pub fn anew(&mut self, event: &RecordedEvent) -> Verdict {
        let object = object_key(&event.involved);
        self.seen.retain(|((known, ..), ..), _| *known != object);
        self.correlate(event)
    }

    fn take_token(&mut self, object: &ObjectKey, now: Time) -> bool {
        let bucket = self.buckets.entry(object.clone()).or_insert(Bucket {
            tokens: SPAM_BURST,
            filled_at: now,
        });
        let earned = now.since(bucket.filled_at).as_secs_f64() / SPAM_REFILL.as_secs_f64();
        bucket.tokens = (bucket.tokens + earned).min(SPAM_BURST);
        bucket.filled_at = now;
        let pass = bucket.tokens >= 1.0;
        if pass {
            bucket.tokens -= 1.0;
        }
        evict_oldest(&mut self.buckets, |bucket| bucket.filled_at);
        pass
    }

    /// The message to record: the event's own, or the folded form once the
    /// group has shown more different messages than it may.
    fn fold(&mut self, key: &GroupKey, event: &RecordedEvent) -> String {
        let group = self.groups.entry(key.clone()).or_insert(Group {
            messages: BTreeSet::new(),
            last: event.at,
        });
        if event.at.since(group.last) > FOLD_WINDOW {
            group.messages.clear();
        }
        group.last = event.at;
        group.messages.insert(event.message.clone());
        let folded = group.messages.len() > FOLD_AFTER_MESSAGES;
        // One more than the limit is enough to know that it was passed.
        if group.messages.len() > FOLD_AFTER_MESSAGES + 1 {
            group.messages.pop_first();
        }
        evict_oldest(&mut self.groups, |group| group.last);
        if folded {
            format!("(combined from similar events): {}", event.message)
        } else {
            event.message.clone()
        }
    }
}

/// Keeps a memory within [`REMEMBERED_KEYS`] by dropping what is oldest.
fn evict_oldest<K: Ord + Clone, V>(map: &mut BTreeMap<K, V>, age: impl Fn(&V) -> Time) {
    if map.len() > REMEMBERED_KEYS
        && let Some(oldest) = map.iter().min_by_key(|(_, value)| age(value)).map(|(key, _)| key.clone())
    {
        map.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(message: &str, at_s: i64) -> RecordedEvent {
        let involved = ObjectReference {
            kind: Some("Pod".into()),
            namespace: Some("dev".into()),
            name: Some("a".into()),
            ..ObjectReference::default()
        };
        RecordedEvent {
            involved,
            kind: "Warning",
            reason: "BackOff".into(),
            message: message.into(),
            at: Time::from_secs(at_s),
        }
    }

    fn correlator() -> Correlator {
        Correlator::new(Reporter {
            component: "kubelet".into(),
            host: "node1".into(),
        })
    }

    #[test]
    fn a_repeat_raises_the_count_of_the_first() {
        let mut correlator = correlator();
        let Verdict::New(first) = correlator.correlate(&event("x", 10)) else {
            panic!("the first is new")
        };
        let name = first.metadata.name.unwrap();
        assert_eq!(name, format!("a.{:x}", 10_000_000_000_i64));
        let expected = Verdict::Repeat {
            namespace: "dev".into(),
            name,
            count: 2,
            message: "x".into(),
            last: Time::from_secs(20),
        };
        assert_eq!(correlator.correlate(&event("x", 20)), expected);
    }

    #[test]
    fn the_eleventh_different_message_is_folded() {
        let mut correlator = correlator();
        for n in 0..10 {
            assert!(matches!(correlator.correlate(&event(&format!("m{n}"), n)), Verdict::New(_)));
        }
        let Verdict::New(folded) = correlator.correlate(&event("m10", 10)) else {
            panic!("the first folded one is new")
        };
        assert_eq!(folded.message.as_deref(), Some("(combined from similar events): m10"));
    }

    #[test]
    fn of_progress_the_newest_message_stands_alone_and_drowns_nothing() {
        let mut correlator = correlator();
        let progress = |done: i64| RecordedEvent {
            reason: "PullProgress".into(),
            ..event(&format!("{done} of 100 bytes"), done)
        };
        let Verdict::New(first) = correlator.correlate(&progress(1)) else {
            panic!("the first is new")
        };
        for done in 2..60 {
            let expected = Verdict::Repeat {
                namespace: "dev".into(),
                name: first.metadata.name.clone().unwrap(),
                count: i32::try_from(done).unwrap(),
                message: format!("{done} of 100 bytes"),
                last: Time::from_secs(done),
            };
            assert_eq!(correlator.correlate(&progress(done)), expected);
        }
        assert!(
            matches!(correlator.correlate(&event("x", 60)), Verdict::New(_)),
            "no token was taken"
        );
    }

    #[test]
    fn the_twenty_sixth_event_in_a_row_is_spam_until_the_bucket_refills() {
        let mut correlator = correlator();
        for _ in 0..25 {
            assert_ne!(correlator.correlate(&event("x", 0)), Verdict::Spam);
        }
        assert_eq!(correlator.correlate(&event("x", 1)), Verdict::Spam);
        assert_ne!(correlator.correlate(&event("x", 302)), Verdict::Spam);
    }

    #[test]
    fn memory_is_bounded() {
        let mut correlator = correlator();
        for n in 0..(REMEMBERED_KEYS + 50) {
            let mut event = event("x", n as i64);
            event.involved.name = Some(format!("pod-{n}"));
            correlator.correlate(&event);
        }
        assert!(
            correlator.seen.len() <= REMEMBERED_KEYS
                && correlator.buckets.len() <= REMEMBERED_KEYS
                && correlator.groups.len() <= REMEMBERED_KEYS
        );
    }
}
