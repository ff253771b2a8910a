//! Telling every task that the node stops.

use tokio::sync::watch;

/// Held by those who must stop when asked.
#[derive(Debug, Clone)]
pub struct Shutdown {
    requested: watch::Receiver<bool>,
}

/// Held by whoever decides to stop. Dropping it asks too.
#[derive(Debug)]
pub struct ShutdownHandle {
    requested: watch::Sender<bool>,
}

impl ShutdownHandle {
    /// A handle and the first of any number of receivers.
    pub fn new() -> (ShutdownHandle, Shutdown) {
        let (sender, receiver) = watch::channel(false);
        (ShutdownHandle { requested: sender }, Shutdown { requested: receiver })
    }

    /// Asks all to stop.
    pub fn request(&self) {
        self.requested.send_replace(true);
    }
}

impl Shutdown {
    /// Whether stopping was asked for.
    pub fn is_requested(&self) -> bool {
        *self.requested.borrow() || self.requested.has_changed().is_err()
    }

    /// Resolves once stopping is asked for.
    pub async fn requested(&mut self) {
        // An error means that the handle is gone, which asks as well.
        let _ = self.requested.wait_for(|requested| *requested).await;
    }
}
