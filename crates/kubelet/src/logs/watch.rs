//! News of a log from whoever writes it: the kernel tells of every write.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use tokio::io::unix::AsyncFd;

/// How often a log is looked at when the system has no more watches to give;
/// `fs.inotify.max_user_instances` says how many it has.
const WITHOUT_WATCH: Duration = Duration::from_millis(200);

/// Watches the directory of one log.
#[derive(Debug)]
pub struct LogWatch(Option<AsyncFd<OwnedFd>>);

impl LogWatch {
    /// Watches `dir` from now on. Needs a runtime.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        let watch = || {
            let events = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            add_watch(&events, dir, WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO)?;
            // Its successor is unsafe, for descriptors that may change their
            // number; an owned one does not.
            #[allow(deprecated)]
            AsyncFd::new(events)
        };
        match watch() {
            Ok(watch) => Self(Some(watch)),
            Err(error) => {
                let error: std::io::Error = error;
                tracing::debug!(dir = %dir.display(), error = %error, "a log cannot be watched and is looked at instead");
                Self(None)
            }
        }
    }

    /// Resolves after the next change, or one since the last call. Dropped, it
    /// has lost nothing.
    pub async fn changed(&mut self) {
        let Some(watch) = &mut self.0 else {
            return tokio::time::sleep(WITHOUT_WATCH).await;
        };
        let Ok(mut ready) = watch.readable().await else {
            return tokio::time::sleep(WITHOUT_WATCH).await;
        };
        // What the events say does not matter: the log is read in any case.
        let mut events = [0; 4096];
        while let Ok(Ok(1..)) = ready.try_io(|events_of| Ok(rustix::io::read(events_of.get_ref(), &mut events)?)) {}
    }
}
