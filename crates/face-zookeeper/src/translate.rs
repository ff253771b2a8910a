//! Requests to minitransactions; outcomes to replies. Reads are answered by `reads.rs`.

use bytes::BytesMut;
use proteus_kernel_api::tree::{self, NodeKind, SessionId, Zxid};
use proteus_kernel_api::{Minitransaction, Outcome, Reply};

use crate::codec::Output;
use crate::codec::reply;
use crate::codec::request::{self, Acl, CREATE, CreateRequest, MultiOp, Request};
use crate::errors::{self, ErrorCode};

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
            Plan::Write(Minitransaction::of(op), WriteShape::Close)
        }
        Request::Exists { .. }
        | Request::GetData { .. }
        | Request::GetAcl { .. }
        | Request::GetChildren { .. }
        | Request::Sync { .. }
        | Request::Ping
        | Request::MultiRead(_)
        | Request::Auth { .. }
        | Request::GetEphemerals { .. }
        | Request::AddWatch { .. }
        | Request::CheckWatches { .. }
        | Request::RemoveWatches { .. }
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
        // TTL nodes, by request or by mode.
        _ if create.ttl_ms.is_some() => return Err(ErrorCode::UNIMPLEMENTED),
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
