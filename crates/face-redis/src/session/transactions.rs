//! MULTI, EXEC, WATCH.

use std::time::Duration;

use bytes::Bytes;
use proteus_kernel_api::cache::commands::{Flags, Group};
use proteus_kernel_api::cache::{Answer, Check, INVALIDATED_MS, Question, Reply, Revision};
use proteus_kernel_api::{Minitransaction, Outcome};

use super::waiting::nothing_for;
use super::{Session, Slot};
use crate::errors::{
    DISCARD_WITHOUT_MULTI, EXEC_WITHOUT_MULTI, EXECABORT, NESTED_MULTI, of_kernel,
};
use crate::table::{Found, OwnCommand};

/// Commands that a MULTI may queue.
const QUEUE_COMMANDS_MAX: usize = 1 << 20;

/// What MULTI has queued.
#[derive(Default)]
pub(super) struct Queue {
    requests: Vec<(Found, Vec<Bytes>)>,
    /// A command was refused while queueing, so EXEC will be too.
    is_spoilt: bool,
}

/// A key and its revision when it was watched.
pub(super) struct Watched {
    db: u8,
    key: Bytes,
    revision: Revision,
    /// When it was watched, by the node's steady clock.
    since: Duration,
}

/// How long the absence of a key may be watched: it must still be remembered then that a declaration has
/// taken an entry away meanwhile.
const WATCH_ABSENT_MAX: Duration = Duration::from_millis(INVALIDATED_MS / 2);

/// An element of EXEC's array.
pub(super) enum Element {
    /// The reply of the next op.
    Op(Found),
    /// A message: its reply is how many received it.
    Published {
        channel: Bytes,
        is_sharded: bool,
    },
    /// A command of the face's own, carried out once the others have happened.
    Own(OwnCommand, Vec<Bytes>),
    Ready(Reply),
}

impl Queue {
    pub(super) fn requests(&self) -> &[(Found, Vec<Bytes>)] {
        &self.requests
    }
}

impl Session {
    pub(super) fn spoil(&mut self) {
        if let Some(queue) = &mut self.transaction {
            queue.is_spoilt = true;
        }
    }

    pub(super) fn queue(&mut self, found: Found, arguments: Vec<Bytes>) {
        let Some(queue) = &mut self.transaction else { return };
        let reply = if queue.requests.len() >= QUEUE_COMMANDS_MAX {
            queue.is_spoilt = true;
            Reply::error("ERR MULTI has queued as many commands as it may")
        } else if found.flags().has(Flags::NO_MULTI) {
            queue.is_spoilt = true;
            Reply::error("ERR Command not allowed inside a transaction")
        } else {
            queue.requests.push((found, arguments));
            Reply::status("QUEUED")
        };
        self.client.about.lock().queued += 1;
        self.answer(Some(found), reply);
    }

    pub(super) fn about_transaction(&mut self, own: OwnCommand) -> Reply {
        match own {
            OwnCommand::Multi if self.transaction.is_some() => NESTED_MULTI,
            OwnCommand::Multi => {
                self.transaction = Some(Queue::default());
                self.client.about.lock().queued = 0;
                Reply::OK
            }
            OwnCommand::Discard if self.transaction.is_none() => DISCARD_WITHOUT_MULTI,
            own => {
                if own == OwnCommand::Discard {
                    self.transaction = None;
                }
                self.forget_watched();
                Reply::OK
            }
        }
    }

    pub(super) fn forget_watched(&mut self) {
        self.watched.clear();
        let mut about = self.client.about.lock();
        about.watched = 0;
        about.queued = -1;
    }

    pub(super) async fn watch(&mut self, arguments: &[Bytes]) -> Reply {
        let (db, since) = (self.db, self.face.clock.elapsed());
        let keys = arguments.get(1..).unwrap_or_default();
        let question = Question::Revisions { db, keys: keys.to_vec() };
        let all = |answer: Answer| answer.into_revisions(keys.len());
        match self.face.kernel.read_or_ask(question, all).await {
            Ok(revisions) => {
                for (key, revision) in keys.iter().zip(revisions) {
                    let new = Watched { db, key: key.clone(), revision, since };
                    // The first time counts: what changed since then must be noticed.
                    let is_known =
                        self.watched.iter().any(|old| old.db == new.db && old.key == new.key);
                    if !is_known {
                        self.watched.push(new);
                    }
                }
                self.client.about.lock().watched = self.watched.len();
                Reply::OK
            }
            Err(error) => of_kernel(&error),
        }
    }

    pub(super) fn exec(&mut self, found: Found) {
        let Some(queue) = self.transaction.take() else {
            return self.answer(Some(found), EXEC_WITHOUT_MULTI);
        };
        let watched = std::mem::take(&mut self.watched);
        self.forget_watched();
        if queue.is_spoilt {
            return self.answer(Some(found), EXECABORT);
        }
        let mut minitransaction = Minitransaction::default();
        let now = self.face.clock.elapsed();
        let is_too_old = |watched: &Watched| {
            watched.revision == Revision::ABSENT
                && now.saturating_sub(watched.since) > WATCH_ABSENT_MAX
        };
        if watched.iter().any(is_too_old) {
            return self.answer(Some(found), Reply::NilArray);
        }
        for Watched { db, key, revision, .. } in watched {
            minitransaction = minitransaction.check(Check::Unchanged { db, key, revision });
        }
        let mut elements = Vec::with_capacity(queue.requests.len());
        for (found, arguments) in queue.requests {
            match found {
                // What follows goes to the other database.
                Found::Own(own) if own.command == OwnCommand::Select => {
                    elements.push(Element::Ready(self.select(&arguments)));
                }
                // Rights may have changed since it was queued.
                found
                    if !self.user.is_unrestricted
                        && let Some(denied) = self.forbidden(&arguments) =>
                {
                    let text = format!(
                        "NOPERM ACLs rules changed between the moment the transaction was accumulated and the EXEC call. This command is no longer allowed for the following reason: {}",
                        denied.text(&self.user.name)
                    );
                    self.face.slow.reject(found.index());
                    elements.push(Element::Ready(Reply::Error(text.into())));
                }
                Found::Own(own) => elements.push(Element::Own(own.command, arguments)),
                Found::Data(command) => {
                    let call = self.call(command.flags, arguments);
                    self.before_data(command, &call.arguments);
                    elements.push(if command.group == Group::PubSub {
                        let channel = call.arguments.get(1).cloned().unwrap_or_default();
                        Element::Published { channel, is_sharded: command.name == "spublish" }
                    } else {
                        Element::Op(found)
                    });
                    minitransaction = minitransaction.op(self.op(found, call));
                }
            }
        }
        let is_silent = self.is_silent();
        self.batch.minitransactions.push(minitransaction);
        self.batch.slots.push((Some(found), is_silent, Slot::Exec(elements)));
    }

    pub(super) async fn exec_reply(&mut self, outcome: Outcome, elements: Vec<Element>) -> Reply {
        let replies = match outcome {
            Outcome::Committed { replies, .. } => replies,
            // A watched key has changed.
            Outcome::CheckFailed { .. } => return Reply::NilArray,
            Outcome::Refused { refusal, .. } => {
                return Reply::Error(format!("ERR {refusal}").into());
            }
        };
        let mut replies = replies.into_iter();
        let mut next = || match replies.next() {
            Some(proteus_kernel_api::Reply::Cache(reply)) => reply,
            _ => Reply::Nil,
        };
        let mut answers = Vec::with_capacity(elements.len());
        for element in elements {
            answers.push(match element {
                Element::Ready(reply) => reply,
                Element::Op(found) => match next() {
                    // Inside a transaction nothing waits.
                    Reply::Blocked => nothing_for(found.name()),
                    reply => reply,
                },
                Element::Published { channel, is_sharded } => {
                    next();
                    Reply::Integer(self.face.hub.receivers(&channel, is_sharded))
                }
                Element::Own(own, arguments) => {
                    // Boxed, since carrying out a command may carry out an EXEC.
                    match Box::pin(self.alone_in_exec(own, &arguments)).await {
                        Some(reply) => reply,
                        None => Reply::Nil,
                    }
                }
            });
        }
        Reply::Array(answers)
    }

    async fn alone_in_exec(&mut self, own: OwnCommand, arguments: &[Bytes]) -> Option<Reply> {
        match own {
            OwnCommand::Unwatch => Some(Reply::OK),
            OwnCommand::Ping => Some(super::server::ping(arguments)),
            own => self.alone(own, arguments).await,
        }
    }
}
