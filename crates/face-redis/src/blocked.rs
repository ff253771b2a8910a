//! Commands that wait for a key to hold something: BLPOP and its relatives.
//!
//! Those who wait for a key stand in the order in which they came. When a commit touches the key, as many
//! of them are tried, in that order and in one proposal, as the key has elements; so the longest waiting
//! is served first, and a push wakes nobody in vain.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use proteus_kernel_api::cache::{Answer, Call, Kind, Op, Question, Reply};
use proteus_kernel_api::{Kernel, Minitransaction, Outcome};
use tokio::sync::{Notify, oneshot};

use crate::errors::of_kernel;

/// Most waiting commands tried at once.
const ATTEMPTS_MAX: usize = 256;

/// A database and a key.
type Place = (u8, Bytes);

enum Standing {
    Waiting(oneshot::Sender<Reply>),
    /// Being tried; whoever waits must see how that ends.
    Tried(oneshot::Sender<Reply>),
    /// Being tried for the last time: nobody waits any longer than that.
    Leaving(oneshot::Sender<Reply>),
    Gone,
}

/// A command that waits.
pub(crate) struct Waiter {
    call: Call,
    kind: Kind,
    /// Only looks, and takes nothing from others.
    is_reader: bool,
    places: Vec<Place>,
    standing: Mutex<Standing>,
}

/// All commands that wait.
#[derive(Default)]
pub(crate) struct Blocked {
    waiting: Mutex<HashMap<Place, Vec<Arc<Waiter>>>>,
    has_waiters: AtomicBool,
    ready: Mutex<BTreeSet<Place>>,
    grown: Notify,
}

impl Blocked {
    /// How many keys somebody waits for.
    pub(crate) fn key_count(&self) -> usize {
        self.waiting.lock().len()
    }

    /// A commit touched the key.
    pub(crate) fn note(&self, db: u8, key: &Bytes) {
        if !self.has_waiters.load(Ordering::Acquire) {
            return;
        }
        let place = (db, key.clone());
        if self.waiting.lock().contains_key(&place) {
            self.ready.lock().insert(place);
            self.grown.notify_one();
        }
    }

    /// Any key may have been touched.
    pub(crate) fn note_all(&self) {
        let places: Vec<Place> = self.waiting.lock().keys().cloned().collect();
        self.ready.lock().extend(places);
        self.grown.notify_one();
    }

    /// Whether somebody waits for one of the keys already.
    pub(crate) fn has_queue(&self, db: u8, keys: &[Bytes]) -> bool {
        if !self.has_waiters.load(Ordering::Acquire) {
            return false;
        }
        let waiting = self.waiting.lock();
        keys.iter().any(|key| waiting.contains_key(&(db, key.clone())))
    }

    /// Stands in line for the keys. The keys are looked at at once: what happened since the caller
    /// looked is not missed.
    pub(crate) fn wait(
        &self,
        call: Call,
        kind: Kind,
        is_reader: bool,
        keys: Vec<Bytes>,
    ) -> (Arc<Waiter>, oneshot::Receiver<Reply>) {
        let (sender, receiver) = oneshot::channel();
        let mut places: Vec<Place> = keys.into_iter().map(|key| (call.db, key)).collect();
        places.sort();
        places.dedup();
        let standing = Mutex::new(Standing::Waiting(sender));
        let waiter = Arc::new(Waiter { call, kind, is_reader, places, standing });
        let mut waiting = self.waiting.lock();
        for place in &waiter.places {
            waiting.entry(place.clone()).or_default().push(waiter.clone());
        }
        self.has_waiters.store(true, Ordering::Release);
        drop(waiting);
        self.ready.lock().extend(waiter.places.iter().cloned());
        self.grown.notify_one();
        (waiter, receiver)
    }

    /// Leaves the line. False if the command is being tried right now: its reply must be awaited.
    pub(crate) fn leave(&self, waiter: &Arc<Waiter>) -> bool {
        let mut standing = waiter.standing.lock();
        let is_free = match std::mem::replace(&mut *standing, Standing::Gone) {
            Standing::Tried(sender) | Standing::Leaving(sender) => {
                *standing = Standing::Leaving(sender);
                false
            }
            Standing::Waiting(_) | Standing::Gone => true,
        };
        drop(standing);
        if is_free {
            self.remove(waiter);
        }
        is_free
    }

    fn remove(&self, waiter: &Arc<Waiter>) {
        let mut waiting = self.waiting.lock();
        for place in &waiter.places {
            if let Some(line) = waiting.get_mut(place) {
                line.retain(|other| !Arc::ptr_eq(other, waiter));
                if line.is_empty() {
                    waiting.remove(place);
                }
            }
        }
        self.has_waiters.store(!waiting.is_empty(), Ordering::Release);
    }

    /// Serves those who wait, for as long as the face lives.
    pub(crate) async fn serve(&self, kernel: &dyn Kernel) {
        loop {
            let place = self.ready.lock().pop_first();
            match place {
                Some(place) => self.serve_place(kernel, &place).await,
                None => self.grown.notified().await,
            }
        }
    }

    async fn serve_place(&self, kernel: &dyn Kernel, place: &Place) {
        loop {
            let question = Question::KindAndCount { db: place.0, key: place.1.clone() };
            let count = |answer| match answer {
                Answer::KindAndCount(found) => Some(found),
                _ => None,
            };
            let found = kernel.read_or_ask(question, count).await;
            // Without the kernel nobody can be served; those who wait have their timeouts.
            let Ok(found) = found else { return };
            let chosen = self.choose(place, found);
            if chosen.is_empty() {
                return;
            }
            let mut has_served = false;
            let (readers, takers): (Vec<_>, Vec<_>) =
                chosen.into_iter().partition(|waiter| waiter.is_reader);
            for waiter in readers {
                let question = Question::Command(waiter.call.clone());
                let reply = kernel.read_or_ask(question, Answer::into_reply).await;
                let reply = reply.unwrap_or_else(|error| of_kernel(&error));
                self.settle(&waiter, reply);
            }
            if takers.is_empty() {
                return;
            }
            let ops =
                takers.iter().map(|waiter| Minitransaction::of(Op::Command(waiter.call.clone())));
            match kernel.propose(ops.collect()).await {
                Err(error) => {
                    for waiter in &takers {
                        self.settle(waiter, of_kernel(&error));
                    }
                    return;
                }
                Ok(outcomes) => {
                    for (waiter, outcome) in takers.iter().zip(outcomes) {
                        has_served |= self.settle(waiter, reply_of(outcome));
                    }
                }
            }
            if !has_served {
                return;
            }
        }
    }

    /// Those first in line whom the key may serve.
    fn choose(&self, place: &Place, found: Option<(Kind, u64)>) -> Vec<Arc<Waiter>> {
        let waiting = self.waiting.lock();
        let Some(line) = waiting.get(place) else { return Vec::new() };
        let mut room = found.map_or(0, |(_, count)| count).min(ATTEMPTS_MAX as u64);
        let mut chosen = Vec::new();
        for waiter in line {
            let fits = found.is_some_and(|(kind, _)| kind == waiter.kind);
            // One that reads for a group must learn that its stream is gone.
            let must_look = waiter.kind == Kind::Stream;
            if !(must_look || (fits && room > 0)) {
                continue;
            }
            let mut standing = waiter.standing.lock();
            match std::mem::replace(&mut *standing, Standing::Gone) {
                Standing::Waiting(sender) => *standing = Standing::Tried(sender),
                other => {
                    *standing = other;
                    continue;
                }
            }
            room = room.saturating_sub(1);
            chosen.push(waiter.clone());
            if chosen.len() >= ATTEMPTS_MAX {
                break;
            }
        }
        chosen
    }

    /// Ends an attempt; says whether the command was served.
    fn settle(&self, waiter: &Arc<Waiter>, reply: Reply) -> bool {
        let is_served = reply != Reply::Blocked;
        let mut standing = waiter.standing.lock();
        let sender = match std::mem::replace(&mut *standing, Standing::Gone) {
            Standing::Tried(sender) if !is_served => {
                *standing = Standing::Waiting(sender);
                return false;
            }
            Standing::Tried(sender) | Standing::Leaving(sender) => sender,
            Standing::Waiting(_) | Standing::Gone => return false,
        };
        drop(standing);
        self.remove(waiter);
        // A connection that is gone hears nothing: as when it closes while a reply is on its way.
        let _ = sender.send(reply);
        is_served
    }
}

/// The reply of a minitransaction's only op.
pub(crate) fn reply_of(outcome: Outcome) -> Reply {
    match outcome {
        Outcome::Committed { replies, .. } => match replies.into_iter().next() {
            Some(proteus_kernel_api::Reply::Cache(reply)) => reply,
            _ => Reply::Nil,
        },
        Outcome::CheckFailed { refusal, .. } | Outcome::Refused { refusal, .. } => {
            Reply::Error(format!("ERR {refusal}").into())
        }
    }
}
