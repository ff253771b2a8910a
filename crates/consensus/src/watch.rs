//! A value that is watched: tokio's, whose watchers are woken in the order in which they began to wait.
//!
//! Tokio spreads them over several lists at random, so that many threads seldom meet; the few watchers of
//! a group need no such thing, and a simulated run must not depend on it.

use std::sync::Arc;

use openraft::async_runtime::watch::{self, RecvError, SendError};
use tokio::sync::Notify;
use tokio::sync::watch as tokio_watch;

/// See the module.
#[derive(Debug)]
pub struct Watch;

/// Changes the value. When the last one is gone, watchers learn it.
pub struct Sender<T>(Arc<Shared<T>>);

struct Shared<T> {
    /// `None` while it is dropped.
    value: Option<tokio_watch::Sender<T>>,
    changed: Arc<Notify>,
}

/// Watches the value.
pub struct Receiver<T> {
    value: tokio_watch::Receiver<T>,
    changed: Arc<Notify>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        Sender(self.0.clone())
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Receiver<T> {
        Receiver { value: self.value.clone(), changed: self.changed.clone() }
    }
}

impl<T> Shared<T> {
    fn value(&self) -> &tokio_watch::Sender<T> {
        self.value.as_ref().expect("it is there until the drop")
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        self.value = None;
        self.changed.notify_waiters();
    }
}

impl watch::Watch for Watch {
    type Sender<T: Send + Sync> = Sender<T>;
    type Receiver<T: Send + Sync> = Receiver<T>;
    type Ref<'a, T: Send + 'a> = tokio_watch::Ref<'a, T>;

    fn channel<T: Send + Sync>(initial: T) -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = tokio_watch::channel(initial);
        let changed = Arc::new(Notify::new());
        let shared = Shared { value: Some(sender), changed: changed.clone() };
        (Sender(Arc::new(shared)), Receiver { value: receiver, changed })
    }
}

impl<T: Send + Sync> watch::WatchSender<Watch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        self.0.value().send(value).map_err(|error| SendError(error.0))?;
        self.0.changed.notify_waiters();
        Ok(())
    }

    fn send_if_modified<F: FnOnce(&mut T) -> bool>(&self, modify: F) -> bool {
        let is_modified = self.0.value().send_if_modified(modify);
        if is_modified {
            self.0.changed.notify_waiters();
        }
        is_modified
    }

    fn borrow_watched(&self) -> tokio_watch::Ref<'_, T> {
        self.0.value().borrow()
    }

    fn subscribe(&self) -> Receiver<T> {
        Receiver { value: self.0.value().subscribe(), changed: self.0.changed.clone() }
    }
}

impl<T: Send + Sync> watch::WatchReceiver<Watch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        let changed = self.changed.clone();
        loop {
            // Counts as waiting from here on: no change after the look below is missed.
            let notified = changed.notified();
            // Asked first: who closes it may have changed it before.
            let is_closed = self.value.has_changed().is_err();
            if self.value.borrow_and_update().has_changed() {
                return Ok(());
            }
            if is_closed {
                return Err(RecvError(()));
            }
            notified.await;
        }
    }

    fn borrow_watched(&self) -> tokio_watch::Ref<'_, T> {
        self.value.borrow()
    }

    fn borrow_and_update(&mut self) -> tokio_watch::Ref<'_, T> {
        self.value.borrow_and_update()
    }
}

#[cfg(test)]
mod tests {
    use openraft_rt::testing::Suite;

    use crate::runtime::Runtime;

    #[test]
    fn the_runtime_is_what_the_library_expects() {
        Suite::<Runtime>::test_all();
    }
}
