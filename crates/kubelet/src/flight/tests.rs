use super::*;
use crate::clock::SystemClock;

fn subject(name: &str) -> Subject {
    Subject {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-{name}").parse().unwrap(),
    }
}

fn at(second: i64, change: Change) -> Transition {
    Transition {
        at: Time::from_secs(second),
        container: Some("c".to_owned()),
        attempt: Some(0),
        change,
        because: None,
    }
}

fn unready(second: i64, failures: u32) -> Transition {
    let change = Change::ProbeFailed {
        probe: "readiness".to_owned(),
        output: "no".to_owned(),
        failures,
        threshold: 3,
    };
    at(second, change)
}

fn recorder() -> FlightRecorder {
    FlightRecorder {
        inner: Arc::default(),
        news: Arc::default(),
    }
}

fn begin(recorder: &FlightRecorder, name: &str) -> Uid {
    let (asks, _) = mpsc::channel(1);
    recorder.begin(subject(name), asks);
    subject(name).uid
}

#[tokio::test]
async fn what_repeats_is_counted_and_the_oldest_make_room() {
    let recorder = recorder();
    let uid = begin(&recorder, "a");
    for second in 1..=1_000 {
        recorder.record(&uid, vec![unready(second, u32::try_from(second).unwrap())]);
    }
    let list = recorder.find("default", "a").await;
    let [entry] = &list.items[0].transitions[..] else {
        panic!("{list:?}")
    };
    assert_eq!((entry.count, entry.transition.at), (1_000, Time::from_secs(1)));
    assert_eq!(entry.last_at, Some(Time::from_secs(1_000).wire_micro()));
    for second in 0..1_000 {
        recorder.record(&uid, vec![at(second, Change::Created), at(second, Change::Running)]);
    }
    let list = recorder.find("default", "a").await;
    assert_eq!(list.items[0].transitions.len(), POD_ENTRIES);
    assert_eq!(list.items[0].dropped + POD_ENTRIES as u64, 2_001);
    let long = "x".repeat(1_000);
    for second in 0..200 {
        let change = Change::Waiting {
            reason: format!("r{second}"),
            message: long.clone(),
        };
        recorder.record(&uid, vec![at(second, change)]);
    }
    assert!(recorder.lock().flights[&uid].bytes <= POD_BYTES);
    assert!(recorder.find("default", "b").await.items.is_empty());
}

#[tokio::test]
async fn pods_that_are_gone_are_kept_for_a_while() {
    let recorder = recorder();
    for pod in 0..GONE_PODS + 20 {
        let uid = begin(&recorder, &format!("p{pod}"));
        recorder.record(&uid, vec![at(1, Change::Created)]);
        recorder.gone(&uid, Time::from_secs(100 + i64::try_from(pod).unwrap()));
    }
    assert_eq!(recorder.lock().flights.len(), GONE_PODS);
    assert!(recorder.find("default", "p19").await.items.is_empty());
    assert_eq!(recorder.find("default", "p20").await.items.len(), 1);
    let stays = begin(&recorder, "stays");
    recorder.lock().make_room(Time::from_secs(100_000));
    assert_eq!(recorder.lock().flights.keys().collect::<Vec<_>>(), [&stays]);
}

#[tokio::test]
async fn the_log_outlives_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let now = clock.now().whole_seconds();
    let shutdown = CancellationToken::new();
    let (first, writing) = FlightRecorder::open(dir.path().to_owned(), Arc::clone(&clock), shutdown.clone());
    let task = tokio::spawn(writing);
    let uid = begin(&first, "a");
    let moment = |change| Transition { at: now, ..at(0, change) };
    first.record(&uid, vec![moment(Change::Created), moment(Change::Running)]);
    first.record(&uid, vec![Transition { at: now, ..unready(0, 1) }]);
    let file = dir.path().join("uid-a.jsonl");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while std::fs::read_to_string(&file).unwrap_or_default().lines().count() < 4 {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", std::fs::read_to_string(&file));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    first.record(&uid, vec![Transition { at: now, ..unready(0, 2) }]);
    let gone = begin(&first, "gone");
    first.record(&gone, vec![moment(Change::Created)]);
    first.gone(&gone, now);
    let before = (first.find("default", "a").await, first.find("default", "gone").await);
    shutdown.cancel();
    task.await.unwrap();
    // As if killed in the middle of a line.
    let mut text = std::fs::read_to_string(&file).unwrap();
    text.push_str("{\"number\":9,\"at\"");
    std::fs::write(&file, text).unwrap();

    let ended = CancellationToken::new();
    let (second, _writing) = FlightRecorder::open(dir.path().to_owned(), clock, ended);
    begin(&second, "a");
    assert_eq!(second.find("default", "a").await, before.0);
    assert_eq!(second.find("default", "gone").await, before.1);
    assert_eq!(before.0.items[0].transitions.last().unwrap().count, 2);
    let fresh = moment(Change::Running);
    second.record(&uid, vec![fresh]);
    assert_eq!(second.find("default", "a").await.items[0].transitions.last().unwrap().number, 4);
}
