//! Commands that wait.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proteus_env::task;
use proteus_kernel_api::cache::commands::{Command, Flags, Group};
use proteus_kernel_api::cache::{
    Answer, Call, Kind, Op, Question, Reply, answer, parse_float, parse_integer, resolve_read,
};
use proteus_kernel_api::{KernelError, Minitransaction};
use tokio::io::AsyncReadExt;

use super::{READ_BYTES, Session};
use crate::blocked::reply_of;
use crate::client::Unblock;
use crate::errors::of_kernel;

/// Bytes that a client may send ahead while its command waits.
const AHEAD_BYTES_MAX: usize = 1024 * 1024;

/// What a command answers that finds nothing where nothing may wait.
pub(super) fn nothing_for(name: &str) -> Reply {
    if matches!(name, "blmove" | "brpoplpush") { Reply::Nil } else { Reply::NilArray }
}

/// How long a command wants to wait; `None` for ever.
fn timeout_of(name: &str, arguments: &[Bytes]) -> Option<Duration> {
    let seconds = |at: usize| {
        let seconds = arguments.get(at).and_then(|text| parse_float(text)).unwrap_or(0.0);
        Duration::try_from_secs_f64(seconds).ok().filter(|timeout| !timeout.is_zero())
    };
    match name {
        "blmpop" | "bzmpop" => seconds(1),
        "xread" | "xreadgroup" => {
            let at = arguments.iter().position(|word| word.eq_ignore_ascii_case(b"BLOCK"))?;
            let ms = arguments.get(at + 1).and_then(|text| parse_integer(text))?;
            u64::try_from(ms).ok().filter(|ms| *ms > 0).map(Duration::from_millis)
        }
        _ => seconds(arguments.len().saturating_sub(1)),
    }
}

impl Session {
    pub(super) async fn blocking(
        &mut self,
        command: &'static Command,
        arguments: Vec<Bytes>,
        input: &mut BytesMut,
    ) -> Reply {
        let is_reader = command.flags.has(Flags::READ);
        let mut call = self.call(command.flags, arguments);
        self.before_data(command, &call.arguments);
        let mut keys: Vec<Bytes> = command
            .key_places(&call.arguments)
            .into_iter()
            .filter_map(|at| call.arguments.get(at).cloned())
            .collect();
        if matches!(command.name, "blmove" | "brpoplpush") {
            keys.truncate(1);
        }
        // Whoever waits for these keys already was first.
        if is_reader || !self.face.hub.blocked.has_queue(call.db, &keys) {
            match self.attempt(&mut call, is_reader).await {
                Reply::Blocked => {}
                reply => return reply,
            }
        } else if let Some(error) = self.mistake(&call) {
            return error;
        }
        let timeout = timeout_of(command.name, &call.arguments);
        let kind = match command.group {
            Group::SortedSet => Kind::SortedSet,
            Group::Stream => Kind::Stream,
            _ => Kind::List,
        };
        self.client.about.lock().is_blocked = true;
        command.name.clone_into(&mut self.client.about.lock().last_command);
        let reply = self.wait(call, kind, is_reader, keys, timeout, input).await;
        self.client.about.lock().is_blocked = false;
        reply.unwrap_or(Reply::NilArray)
    }

    /// Carries the command out if it need not wait. One that reads has its `$` replaced in the same view.
    async fn attempt(&mut self, call: &mut Call, is_reader: bool) -> Reply {
        if is_reader && !self.face.kernel.has_all() {
            return match self.face.kernel.ask(Question::Waiting(call.clone())).await {
                Ok(Answer::Reply(reply)) => reply,
                Ok(Answer::Resolved(arguments)) => {
                    call.arguments = arguments;
                    Reply::Blocked
                }
                Ok(_) => of_kernel(&KernelError::unknown_answer()),
                Err(error) => of_kernel(&error),
            };
        }
        if is_reader {
            let read = self.face.kernel.read(|view| {
                let reply = answer(view, call)?;
                if reply == Reply::Blocked {
                    call.arguments = resolve_read(view, call)?;
                }
                Ok(reply)
            });
            return read.unwrap_or_else(|error| of_kernel(&error));
        }
        match self.face.kernel.commit(Minitransaction::of(Op::Command(call.clone()))).await {
            Ok(outcome) => reply_of(outcome),
            Err(error) => of_kernel(&error),
        }
    }

    /// The error that a command would answer whatever its keys hold; it must not wait to learn of it.
    fn mistake(&self, call: &Call) -> Option<Reply> {
        let found = crate::table::find(call.arguments.first()?)?;
        let mut nowhere = call.clone();
        for at in found.key_places(&call.arguments) {
            // No key is that long, so the command finds nothing.
            *nowhere.arguments.get_mut(at)? =
                Bytes::from(vec![0xFF; proteus_kernel_api::cache::KEY_BYTES_MAX]);
        }
        let reply =
            self.face.kernel.read_first(|view| proteus_kernel_api::cache::rehearse(view, &nowhere));
        match reply {
            Ok(reply @ Reply::Error(_)) if found.group() != Group::Stream => Some(reply),
            _ => None,
        }
    }

    /// Waits until the command is served, its time is over (`None`), or the client has gone.
    async fn wait(
        &mut self,
        call: Call,
        kind: Kind,
        is_reader: bool,
        keys: Vec<Bytes>,
        timeout: Option<Duration>,
        input: &mut BytesMut,
    ) -> Option<Reply> {
        // What was answered before must not wait with us.
        self.take_pushes();
        if self.write_output().await.is_err() {
            self.is_closing = true;
            return None;
        }
        let face = self.face.clone();
        let (waiter, mut served) = face.hub.blocked.wait(call, kind, is_reader, keys);
        let deadline = async {
            match timeout {
                Some(timeout) => task::sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(deadline);
        let client = self.client.clone();
        let mut answer = None;
        loop {
            input.reserve(READ_BYTES);
            let may_read = input.len() < AHEAD_BYTES_MAX;
            tokio::select! {
                reply = &mut served => return reply.ok().filter(|reply| *reply != Reply::Blocked),
                () = &mut deadline => break,
                read = self.connection.stream.read_buf(input), if may_read => {
                    if !matches!(read, Ok(bytes) if bytes > 0) {
                        self.is_closing = true;
                        break;
                    }
                }
                () = client.wake.notified() => {
                    self.renew_user();
                    if client.is_killed() || self.is_closing {
                        self.is_closing = true;
                        break;
                    }
                    match client.take_unblock() {
                        Some(Unblock::Timeout) => break,
                        Some(Unblock::Error) => {
                            answer = Some(Reply::error(
                                "UNBLOCKED client unblocked via CLIENT UNBLOCK",
                            ));
                            break;
                        }
                        None => {}
                    }
                    self.take_pushes();
                    if self.write_output().await.is_err() {
                        self.is_closing = true;
                        break;
                    }
                }
                () = self.connection.shutdown.requested() => {
                    self.is_closing = true;
                    break;
                }
            }
        }
        if face.hub.blocked.leave(&waiter) {
            return answer;
        }
        // It is being tried right now: what it takes must not be lost.
        served.await.ok().filter(|reply| *reply != Reply::Blocked).or(answer)
    }
}
