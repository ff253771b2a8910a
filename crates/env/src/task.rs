//! Tasks, threads and waiting.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::runtime::{self, Runtime};
pub use tokio::task::JoinHandle;

use crate::simulation;

/// Runs `future` concurrently on the current runtime.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(future)
}

/// Runs a blocking function on a thread kept for such; on a [simulated](crate::simulation) thread, there, in
/// its turn.
pub fn spawn_blocking<F, R>(function: F) -> JoinHandle<R>
where
    F: FnOnce() -> R + Send + 'static,
    R: Send + 'static,
{
    if simulation::is_on() {
        return tokio::spawn(async move { function() });
    }
    tokio::task::spawn_blocking(function)
}

/// Starts a named operating-system thread.
///
/// # Errors
/// If the operating system refuses one.
pub fn spawn_thread<F>(name: &str, function: F) -> io::Result<std::thread::JoinHandle<()>>
where
    F: FnOnce() + Send + 'static,
{
    std::thread::Builder::new().name(name.to_owned()).spawn(function)
}

/// Lets everything else that is ready on this thread go first, sockets included.
pub async fn yield_now() {
    tokio::task::yield_now().await;
}

/// Waits for `duration`.
pub async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// The future's output, or `None` once `duration` has passed.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Option<F::Output> {
    tokio::time::timeout(duration, future).await.ok()
}

/// Threads for work that may keep a processor busy, beside those that serve everybody.
pub struct Pool(Option<Runtime>);

impl Pool {
    /// A pool of as many threads as there are processors.
    ///
    /// # Errors
    /// If the operating system refuses them.
    pub fn new(name: &str) -> io::Result<Pool> {
        let runtime =
            runtime::Builder::new_multi_thread().thread_name(name).enable_all().build()?;
        Ok(Pool(Some(runtime)))
    }

    /// Calls `begin`: what it spawns, listens on and connects to belongs to the pool's threads.
    pub fn enter<R>(&self, begin: impl FnOnce() -> R) -> R {
        let _inside = self.0.as_ref().map(Runtime::enter);
        begin()
    }
}

impl Drop for Pool {
    /// Ends without waiting, so that it may be dropped by a task.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
