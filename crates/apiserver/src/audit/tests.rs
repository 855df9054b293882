use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::testing::Rig;

fn lines(path: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Waits until the log has written so many records.
fn wait(log: &Log, count: u64) {
    let started = Instant::now();
    while log.counts().written.load(Ordering::Relaxed) < count {
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", log.counts());
        std::thread::yield_now();
    }
}

fn seen(uri: &str) -> Seen {
    Seen {
        uri: uri.to_owned(),
        ..Seen::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_leave_a_line_each_and_their_bodies_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit/audit.log");
    let log = Log::open(path.clone(), &Limits::default()).unwrap();
    let rig = Rig::audited(log.clone()).await;
    let before = log.counts().written.load(Ordering::Relaxed);
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "hunter2"}});
    rig.post("/api/v1/namespaces/default/secrets", &secret).await;
    rig.get("/readyz").await;
    let nobody = Request::get("/api/v1/pods")
        .header("user-agent", "thief")
        .body(crate::body::empty())
        .unwrap();
    rig.request(None, nobody).await;
    let as_jane = Request::get("/api/v1/namespaces/default/secrets/s?pretty=1")
        .header("impersonate-user", "jane")
        .header("audit-id", "mine")
        .body(crate::body::empty())
        .unwrap();
    let answer = rig.request(Some(Rig::admin()), as_jane).await;
    assert_eq!((answer.code, answer.headers["audit-id"].to_str().unwrap()), (403, "mine"));
    let watch = Request::get("/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=1000")
        .body(crate::body::empty())
        .unwrap();
    drop(rig.server.handle(Some(Rig::admin()), watch).await);
    wait(&log, before + 5);
    let started = Instant::now();
    let mut own = Vec::new();
    // Written is not yet flushed.
    while own.len() < 5 {
        assert!(started.elapsed() < Duration::from_secs(20));
        own = lines(&path)
            .into_iter()
            .filter(|event| event["user"]["username"] != "system:apiserver")
            .collect();
        own.retain(|event| event["objectRef"]["resource"] != "serviceaccounts");
    }
    let brief: Vec<String> = own
        .iter()
        .map(|event| {
            format!(
                "{} {} {} {} {}",
                event["stage"].as_str().unwrap(),
                event["user"]["username"].as_str().unwrap_or("-"),
                event["verb"].as_str().unwrap(),
                event["requestURI"].as_str().unwrap(),
                event["responseStatus"]["code"]
            )
        })
        .collect();
    assert_eq!(
        brief,
        [
            "ResponseComplete admin create /api/v1/namespaces/default/secrets 201",
            "ResponseComplete - list /api/v1/pods 401",
            "ResponseComplete admin get /api/v1/namespaces/default/secrets/s?pretty=1 403",
            "ResponseStarted admin watch /api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=1000 200",
            "ResponseComplete admin watch /api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=1000 200",
        ]
    );
    assert_eq!(own[1]["userAgent"], "thief");
    let refused = &own[2];
    assert_eq!(refused["auditID"], "mine");
    assert_eq!(refused["impersonatedUser"]["username"], "jane");
    assert_eq!(
        refused["objectRef"],
        json!({"resource": "secrets", "namespace": "default", "name": "s", "apiVersion": "v1"})
    );
    assert_eq!(refused["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(refused["responseStatus"]["reason"], "Forbidden");
    assert_eq!(
        (&refused["level"], &refused["apiVersion"]),
        (&json!("Metadata"), &json!("audit.k8s.io/v1"))
    );
    assert!(!std::fs::read_to_string(&path).unwrap().contains("hunter2"));
}

#[test]
fn files_are_bounded_in_size_and_number() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let limits = Limits {
        queue: 16,
        file_bytes: 2_000,
        files: 2,
    };
    let log = Log::open(path.clone(), &limits).unwrap();
    let mut handed: u64 = 0;
    while log.counts().written.load(Ordering::Relaxed) < 60 {
        log.record(seen(&format!("/{handed}")), Stage::ResponseComplete, Time(0));
        handed += 1;
        assert!(handed < 10_000_000);
    }
    let counts = Arc::clone(&log.counts);
    drop(log);
    let started = Instant::now();
    // The thread writes what waits, and ends.
    while Arc::strong_count(&counts) > 1 {
        assert!(started.elapsed() < Duration::from_secs(20));
        std::thread::yield_now();
    }
    assert_eq!(
        counts.written.load(Ordering::Relaxed) + counts.dropped.load(Ordering::Relaxed),
        handed
    );
    let names: Vec<String> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len(), 3, "{names:?}");
    for name in ["audit.log", "audit.log.1", "audit.log.2"] {
        assert!(std::fs::metadata(dir.path().join(name)).unwrap().len() <= 2_000, "{name}");
    }
}

#[test]
fn a_full_queue_drops_and_counts_and_never_waits() {
    let (queue, records) = sync_channel(2);
    let counts = Arc::new(Counts::default());
    let log = Log {
        queue,
        counts: Arc::clone(&counts),
    };
    for n in 0..5 {
        log.record(seen(&n.to_string()), Stage::ResponseComplete, Time(0));
    }
    assert_eq!(counts.dropped.load(Ordering::Relaxed), 3);
    assert_eq!(records.try_iter().map(|record| record.seen.uri).collect::<Vec<_>>(), ["0", "1"]);
}
