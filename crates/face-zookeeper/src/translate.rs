//! Requests to minitransactions and reads; outcomes and state to replies.

use bytes::BytesMut;
use proteus_kernel_api::tree::{self, NodeKind, SessionId, Stat, Zxid};
use proteus_kernel_api::{KernelError, Minitransaction, Op, Outcome, Reply, View};

use crate::codec::Output;
use crate::codec::reply::{self, EventType};
use crate::codec::request::{self, Acl, CREATE, CreateRequest, MultiOp, Request, WatchSets};
use crate::errors::{self, ErrorCode};
use crate::watches::WatchKind;

/// What to do about a request.
#[derive(Debug)]
pub(crate) enum Plan {
    /// Commit this, and shape the reply like that.
    Write(Minitransaction, WriteShape),
    /// Read when all earlier writes of the session have been answered.
    Read(Request),
    /// Nothing: the answer is an error.
    Refuse(ErrorCode),
    /// Nothing: one op of a `multi` is refused, by index, out of so many.
    RefuseMulti {
        /// Which op.
        op_index: usize,
        /// How many there are.
        op_count: usize,
        /// Why.
        code: ErrorCode,
    },
}

/// How a write's reply looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WriteShape {
    /// The path, and the stat unless the request was `create`.
    Create {
        /// With the stat.
        with_stat: bool,
    },
    /// Nothing but the header.
    Empty,
    /// The stat.
    Stat,
    /// One result for each op, by its type.
    Multi(Vec<i32>),
    /// Nothing but the header, and then the connection ends.
    Close,
}

/// Decides what to do about `request` of `session`.
pub(crate) fn plan(request: Request, session: SessionId) -> Plan {
    let write = |op: Result<tree::Op, ErrorCode>, shape| match op {
        Ok(op) => Plan::Write(fenced(session).op(op), shape),
        Err(code) => Plan::Refuse(code),
    };
    match request {
        Request::Create(create) => {
            let shape = WriteShape::Create { with_stat: create.code != CREATE };
            write(create_op(create, session), shape)
        }
        Request::Delete { path, version } => {
            let op = tree::Op::Delete { path, version: expected(version) };
            write(Ok(op), WriteShape::Empty)
        }
        Request::SetData { path, data, version } => {
            let op = tree::Op::SetData { path, data, version: expected(version) };
            write(Ok(op), WriteShape::Stat)
        }
        Request::SetAcl { path, acl, version } => {
            let op = || tree::Op::SetOpenAcl { path, version: expected(version) };
            write(only_open(&acl).map(|()| op()), WriteShape::Stat)
        }
        Request::Check { path, version } => {
            let op = tree::Op::CheckVersion { path, version: expected(version) };
            write(Ok(op), WriteShape::Empty)
        }
        Request::Multi(ops) => plan_multi(ops, session),
        Request::CloseSession => {
            let op = tree::Op::CloseSession { session };
            Plan::Write(Minitransaction::of(Op::Tree(op)), WriteShape::Close)
        }
        Request::SetWatches(WatchSets { persistent: Some((all, recursive)), .. })
            if !all.is_empty() || !recursive.is_empty() =>
        {
            Plan::Refuse(ErrorCode::UNIMPLEMENTED)
        }
        Request::Exists { .. }
        | Request::GetData { .. }
        | Request::GetAcl { .. }
        | Request::GetChildren { .. }
        | Request::Sync { .. }
        | Request::Ping
        | Request::Auth { .. }
        | Request::SetWatches(_) => Plan::Read(request),
    }
}

fn plan_multi(ops: Vec<MultiOp>, session: SessionId) -> Plan {
    let op_count = ops.len();
    let mut minitransaction = fenced(session);
    let mut codes = Vec::with_capacity(op_count);
    for (op_index, op) in ops.into_iter().enumerate() {
        let (code, op) = match op {
            MultiOp::Create(create) => (create.code, create_op(create, session)),
            MultiOp::Delete { path, version } => {
                (request::DELETE, Ok(tree::Op::Delete { path, version: expected(version) }))
            }
            MultiOp::SetData { path, data, version } => (
                request::SET_DATA,
                Ok(tree::Op::SetData { path, data, version: expected(version) }),
            ),
            MultiOp::Check { path, version } => {
                (request::CHECK, Ok(tree::Op::CheckVersion { path, version: expected(version) }))
            }
        };
        match op {
            Ok(op) => minitransaction = minitransaction.op(op),
            Err(code) => return Plan::RefuseMulti { op_index, op_count, code },
        }
        codes.push(code);
    }
    Plan::Write(minitransaction, WriteShape::Multi(codes))
}

/// A write happens only while its session lives.
fn fenced(session: SessionId) -> Minitransaction {
    Minitransaction::default().check(tree::Check::SessionAlive { session })
}

fn expected(version: i32) -> Option<i32> {
    (version != -1).then_some(version)
}

fn create_op(create: CreateRequest, session: SessionId) -> Result<tree::Op, ErrorCode> {
    // `CreateMode` of the Java client.
    let (kind, sequential) = match create.flags {
        0 => (NodeKind::Persistent, false),
        1 => (NodeKind::Ephemeral(session), false),
        2 => (NodeKind::Persistent, true),
        3 => (NodeKind::Ephemeral(session), true),
        4 => (NodeKind::Container, false),
        5 | 6 => return Err(ErrorCode::UNIMPLEMENTED),
        _ => return Err(ErrorCode::BAD_ARGUMENTS),
    };
    only_open(&create.acl)?;
    Ok(tree::Op::Create { path: create.path, data: create.data, kind, sequential })
}

/// Accepts the ACL that everyone may do everything, the only one that is enforced here.
fn only_open(acl: &[Acl]) -> Result<(), ErrorCode> {
    if !acl.is_empty() && acl.iter().all(Acl::is_open) {
        Ok(())
    } else {
        Err(ErrorCode::INVALID_ACL)
    }
}

/// Appends the reply to a write. Returns the error it tells, or `OK`, and updates `last_zxid`.
pub(crate) fn answer_write(
    into: &mut BytesMut,
    xid: i32,
    shape: &WriteShape,
    outcome: &Outcome,
    last_zxid: &mut i64,
) -> ErrorCode {
    match outcome {
        Outcome::Committed { commit_ts, replies } => {
            *last_zxid = (*last_zxid).max(Zxid::from_commit(*commit_ts).0);
            reply::ok(into, xid, *last_zxid, |into| match shape {
                WriteShape::Multi(codes) => {
                    for (code, result) in codes.iter().zip(replies) {
                        reply::multi_header(into, *code, ErrorCode::OK);
                        write_result(into, result, *code != CREATE);
                    }
                    reply::multi_end(into);
                }
                WriteShape::Create { with_stat } => {
                    replies.iter().for_each(|result| write_result(into, result, *with_stat));
                }
                WriteShape::Stat | WriteShape::Empty | WriteShape::Close => {
                    replies.iter().for_each(|result| write_result(into, result, true));
                }
            });
            ErrorCode::OK
        }
        Outcome::CheckFailed { refusal, .. } => {
            let code = errors::of_refusal(refusal);
            reply::error(into, xid, *last_zxid, code);
            code
        }
        Outcome::Refused { op_index, refusal } => {
            let code = errors::of_refusal(refusal);
            match shape {
                WriteShape::Multi(codes) => {
                    answer_failed_multi(into, xid, *last_zxid, (*op_index, codes.len()), code);
                }
                _ => reply::error(into, xid, *last_zxid, code),
            }
            code
        }
    }
}

/// Appends the reply to a `multi` whose op failed, given as index and count: the reply itself is no
/// error, its results are.
pub(crate) fn answer_failed_multi(
    into: &mut BytesMut,
    xid: i32,
    zxid: i64,
    (failed_index, op_count): (usize, usize),
    code: ErrorCode,
) {
    reply::ok(into, xid, zxid, |into| {
        for op_index in 0..op_count {
            reply::multi_error(
                into,
                match op_index.cmp(&failed_index) {
                    std::cmp::Ordering::Less => ErrorCode::OK,
                    std::cmp::Ordering::Equal => code,
                    std::cmp::Ordering::Greater => ErrorCode::RUNTIME_INCONSISTENCY,
                },
            );
        }
        reply::multi_end(into);
    });
}

fn write_result(into: &mut BytesMut, result: &Reply, with_stat: bool) {
    match result {
        Reply::Tree(tree::Reply::Created { path, stat }) => {
            into.string(path);
            if with_stat {
                reply::stat(into, stat);
            }
        }
        Reply::Tree(tree::Reply::Changed { stat }) => reply::stat(into, stat),
        _ => {}
    }
}

/// Where a read registers its watches and fires those that are due.
pub(crate) trait WatchSink {
    /// Sets a watch.
    fn watch(&mut self, kind: WatchKind, path: &str);
    /// Tells of what a watch would have told.
    fn fire(&mut self, event: EventType, path: &str);
}

/// Appends the reply to a read from `view`. Returns the error it tells, or `OK`.
///
/// # Errors
/// If the store fails.
pub(crate) fn answer_read(
    into: &mut BytesMut,
    xid: i32,
    request: &Request,
    view: View<'_>,
    watches: &mut dyn WatchSink,
) -> Result<ErrorCode, KernelError> {
    let zxid = Zxid::from_commit(view.applied_ts).0;
    let found = match request {
        Request::Exists { path, watch } => {
            let stat = tree::stat(view.state, path)?;
            if *watch {
                watches.watch(WatchKind::Data, path);
            }
            stat.map(|stat| reply::ok(into, xid, zxid, |into| reply::stat(into, &stat)))
        }
        Request::GetData { path, watch } => {
            let found = tree::data(view.state, path)?;
            found.map(|(data, stat)| {
                if *watch {
                    watches.watch(WatchKind::Data, path);
                }
                reply::ok(into, xid, zxid, |into| {
                    into.buffer(data.as_deref());
                    reply::stat(into, &stat);
                });
            })
        }
        Request::GetChildren { path, watch, with_stat } => {
            let found = tree::children(view.state, path)?;
            found.map(|(names, stat)| {
                if *watch {
                    watches.watch(WatchKind::Child, path);
                }
                reply::ok(into, xid, zxid, |into| {
                    reply::strings(into, &names);
                    if *with_stat {
                        reply::stat(into, &stat);
                    }
                });
            })
        }
        Request::GetAcl { path } => tree::stat(view.state, path)?.map(|stat| {
            reply::ok(into, xid, zxid, |into| {
                reply::open_acl(into);
                reply::stat(into, &stat);
            });
        }),
        Request::Sync { path } => {
            reply::ok(into, xid, zxid, |into| into.string(path));
            Some(())
        }
        Request::SetWatches(sets) => {
            set_watches(sets, view, watches)?;
            reply::ok(into, xid, zxid, |_| {});
            Some(())
        }
        _ => {
            reply::ok(into, xid, zxid, |_| {});
            Some(())
        }
    };
    if found.is_some() {
        return Ok(ErrorCode::OK);
    }
    reply::error(into, xid, zxid, ErrorCode::NO_NODE);
    Ok(ErrorCode::NO_NODE)
}

/// Sets again what a client watched before its connection was lost; what has changed since the zxid
/// it has seen fires at once. Source: `DataTree.setWatches`.
fn set_watches(
    sets: &WatchSets,
    view: View<'_>,
    watches: &mut dyn WatchSink,
) -> Result<(), KernelError> {
    let seen = Zxid(sets.relative_zxid);
    let mut set_or_fire = |paths: &[String], kind, judge: &dyn Fn(Option<Stat>) -> _| {
        for path in paths {
            match judge(tree::stat(view.state, path)?) {
                Some(event) => watches.fire(event, path),
                None => watches.watch(kind, path),
            }
        }
        Ok::<(), KernelError>(())
    };
    set_or_fire(&sets.data, WatchKind::Data, &|stat| match stat {
        None => Some(EventType::NodeDeleted),
        Some(stat) if stat.mzxid > seen => Some(EventType::NodeDataChanged),
        Some(_) => None,
    })?;
    set_or_fire(&sets.exist, WatchKind::Data, &|stat| stat.map(|_| EventType::NodeCreated))?;
    set_or_fire(&sets.child, WatchKind::Child, &|stat| match stat {
        None => Some(EventType::NodeDeleted),
        Some(stat) if stat.pzxid > seen => Some(EventType::NodeChildrenChanged),
        Some(_) => None,
    })
}
