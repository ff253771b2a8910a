//! Letting reads through behind read barriers, for a session that waits for several things at once.

use std::future::poll_fn;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::{Kernel, KernelError, ReadBarrier};

/// The way of one session's reads, in their order, to the state.
///
/// A barrier serves the reads that waited when it was asked for and none that came later, whose client
/// may have learnt meanwhile of commits that the barrier does not cover.
#[derive(Default)]
pub struct ReadGate {
    barrier: Option<ReadBarrier>,
    /// Reads that the barrier serves.
    covered_count: usize,
    /// What became of it.
    passed: Option<Result<(), KernelError>>,
}

impl ReadGate {
    /// How many of `waiting_count` reads may be carried out now: all, as on a leader most of the time;
    /// or those that a barrier serves that has been passed; or none yet.
    ///
    /// # Errors
    /// If this node cannot tell whether it is up to date.
    pub fn admit(
        &mut self,
        kernel: &dyn Kernel,
        waiting_count: usize,
    ) -> Result<usize, KernelError> {
        self.admit_behind(|| kernel.read_barrier(), waiting_count)
    }

    /// As [`ReadGate::admit`], for reads to which [`Kernel::read_barrier_within`] is enough.
    ///
    /// # Errors
    /// As [`ReadGate::admit`].
    pub fn admit_within(
        &mut self,
        kernel: &dyn Kernel,
        staleness_max: Duration,
        waiting_count: usize,
    ) -> Result<usize, KernelError> {
        self.admit_behind(|| kernel.read_barrier_within(staleness_max), waiting_count)
    }

    fn admit_behind(
        &mut self,
        barrier: impl FnOnce() -> Option<ReadBarrier>,
        waiting_count: usize,
    ) -> Result<usize, KernelError> {
        if self.barrier.is_none() && self.passed.is_none() {
            match barrier() {
                None => return Ok(waiting_count),
                Some(barrier) => {
                    self.barrier = Some(barrier);
                    self.covered_count = waiting_count;
                }
            }
        }
        let mut context = Context::from_waker(Waker::noop());
        if self.poll(&mut context).is_pending() {
            return Ok(0);
        }
        match self.passed.take() {
            Some(Err(error)) => Err(error),
            _ => Ok(self.covered_count.min(waiting_count)),
        }
    }

    /// Resolves when [`ReadGate::admit`] has something new to say; never while no barrier is asked for.
    pub async fn opened(&mut self) {
        poll_fn(|context| self.poll(context)).await;
    }

    /// Whether somebody waits at a barrier.
    pub fn is_closed(&self) -> bool {
        self.barrier.is_some()
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(barrier) = &mut self.barrier {
            let Poll::Ready(result) = barrier.as_mut().poll(context) else { return Poll::Pending };
            self.barrier = None;
            self.passed = Some(result);
        }
        if self.passed.is_some() { Poll::Ready(()) } else { Poll::Pending }
    }
}
