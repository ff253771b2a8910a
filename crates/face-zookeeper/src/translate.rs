//! Requests to minitransactions; outcomes to replies. Reads are answered by `reads.rs`.

use bytes::BytesMut;
use proteus_kernel_api::tree::{self, Credentials, NewNode, NodeKind, SessionId, Zxid};
use proteus_kernel_api::{Minitransaction, Op, Outcome, Reply};

use crate::auth::Access;
use crate::codec::kinds::{CREATE, CREATE_CONTAINER, CREATE_IF_NOT_EXISTS, CREATE_TTL, CREATE2};
use crate::codec::{
    CheckStat, CreateRequest, DeleteRequest, MultiOp, Output, ReconfigRequest, Request, reply,
};
use crate::errors::{self, ErrorCode};

/// What to do about a request.
#[derive(Debug)]
pub(crate) enum Plan {
    /// Commit this, and shape the reply like that.
    Write(Minitransaction, WriteShape),
    /// Read when all earlier writes of the session have been answered.
    Read(Request),
    /// Change the cluster's members when all earlier requests have been answered.
    Reconfig(ReconfigRequest),
    /// Nothing: the answer is an error.
    Refuse(ErrorCode),
    /// Nothing: the answer is a step of SASL.
    Sasl(Vec<u8>),
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
    /// No reply: the session is stored on behalf of the write after it.
    Upgrade,
}

/// Who asks, and for which session.
#[derive(Clone, Copy)]
pub(crate) struct Client<'a> {
    pub(crate) session: SessionId,
    /// A local session is not in the state, so that its writes are held against nothing there.
    pub(crate) is_local: bool,
    pub(crate) access: &'a Access,
}

/// Decides what to do about `request` of `client`.
pub(crate) fn plan(request: Request, client: Client<'_>) -> Plan {
    let by = || client.access.credentials().clone();
    let write = |op: tree::Op, shape| Plan::Write(fenced(client).op(op), shape);
    match request {
        Request::Create(create) => {
            let shape = WriteShape::Create { with_stat: has_stat(create.code) };
            match create_op(create, client) {
                Ok(op) => write(op, shape),
                Err(code) => Plan::Refuse(code),
            }
        }
        Request::Delete(delete) => write(delete_op(delete, by()), WriteShape::Empty),
        Request::DeleteSubtree { path, count_max } => {
            write(tree::Op::DeleteSubtree { path, count_max, by: by() }, WriteShape::Empty)
        }
        Request::SetData { path, data, version } => {
            let op = tree::Op::SetData { path, data, version: expected(version), by: by() };
            write(op, WriteShape::Stat)
        }
        Request::SetAcl { path, acl, version } => match client.access.fix_up(acl) {
            Ok(acl) => {
                let op = tree::Op::SetAcl { path, acl, version: expected(version), by: by() };
                write(op, WriteShape::Stat)
            }
            Err(code) => Plan::Refuse(code),
        },
        Request::CheckStat(check) => write(check_stat_op(check, by()), WriteShape::Empty),
        Request::Check { path, version } => write(check_op(path, version, by()), WriteShape::Empty),
        Request::CheckAbsent { path, version } => {
            let op = tree::Op::CheckAbsent { path, version: expected(version), by: by() };
            write(op, WriteShape::Empty)
        }
        Request::Multi(ops) => plan_multi(ops, client),
        Request::Reconfig(request) => Plan::Reconfig(request),
        Request::CloseSession => {
            let op = tree::Op::CloseSession { session: client.session };
            Plan::Write(Minitransaction::of(op), WriteShape::Close)
        }
        Request::Read(_)
        | Request::GetAcl { .. }
        | Request::ListRecursive { .. }
        | Request::GetAllChildrenNumber { .. }
        | Request::Sync { .. }
        | Request::Ping
        | Request::MultiRead(_)
        | Request::Auth { .. }
        | Request::Sasl { .. }
        | Request::WhoAmI
        | Request::GetEphemerals { .. }
        | Request::AddWatch { .. }
        | Request::CheckWatches { .. }
        | Request::RemoveWatches { .. }
        | Request::SetWatches(_) => Plan::Read(request),
    }
}

/// Whether a server that serves readers only must refuse `plan`.
pub(crate) fn changes_something(plan: &Plan) -> bool {
    match plan {
        Plan::Write(..) | Plan::Reconfig(_) | Plan::RefuseMulti { .. } => true,
        Plan::Read(request) => matches!(request, Request::Sync { .. }),
        Plan::Refuse(_) | Plan::Sasl(_) => false,
    }
}

fn plan_multi(ops: Vec<MultiOp>, client: Client<'_>) -> Plan {
    let by = || client.access.credentials().clone();
    let op_count = ops.len();
    let mut minitransaction = fenced(client);
    let mut codes = Vec::with_capacity(op_count);
    let mut refused = None;
    for (op_index, op) in ops.into_iter().enumerate() {
        codes.push(op.code());
        let op = match op {
            MultiOp::Create(create) => create_op(create, client),
            MultiOp::Delete(delete) => Ok(delete_op(delete, by())),
            MultiOp::DeleteSubtree { path, count_max } => {
                Ok(tree::Op::DeleteSubtree { path, count_max, by: by() })
            }
            MultiOp::SetData { path, data, version } => {
                Ok(tree::Op::SetData { path, data, version: expected(version), by: by() })
            }
            MultiOp::CheckStat(check) => Ok(check_stat_op(check, by())),
            MultiOp::Check { path, version } => Ok(check_op(path, version, by())),
            MultiOp::CheckAbsent { path, version } => {
                Ok(tree::Op::CheckAbsent { path, version: expected(version), by: by() })
            }
        };
        match op {
            Ok(op) => minitransaction = minitransaction.op(op),
            Err(code) => {
                refused = Some((op_index, code));
                break;
            }
        }
    }
    match refused {
        None => Plan::Write(minitransaction, WriteShape::Multi(codes)),
        Some((op_index, code)) => Plan::RefuseMulti { op_index, op_count, code },
    }
}

/// A write happens only while its session lives.
fn fenced(client: Client<'_>) -> Minitransaction {
    match client {
        Client { is_local: true, .. } => Minitransaction::default(),
        Client { session, .. } => {
            Minitransaction::default().check(tree::Check::SessionAlive { session })
        }
    }
}

/// Whether a session must be stored for this: it would own what is created.
pub(crate) fn creates_ephemerals(minitransaction: &Minitransaction) -> bool {
    minitransaction.ops.iter().any(|op| {
        matches!(op, Op::Tree(tree::Op::Create(new_node))
            if matches!(new_node.kind, NodeKind::Ephemeral(_)))
    })
}

fn expected(version: i32) -> Option<i32> {
    (version != -1).then_some(version)
}

/// The type of an op's result in a `multi`: a creation with its stat is a `create2`, whatever it was.
fn result_code(code: i32) -> i32 {
    match code {
        CREATE_CONTAINER | CREATE_TTL => CREATE2,
        code => code,
    }
}

/// Whether the reply to a creation has the stat.
fn has_stat(code: i32) -> bool {
    !matches!(code, CREATE | CREATE_IF_NOT_EXISTS)
}

fn create_op(create: CreateRequest, client: Client<'_>) -> Result<tree::Op, ErrorCode> {
    // `CreateMode` of the Java client.
    let (kind, sequential) = match (create.flags, create.ttl_ms) {
        (0, None) if create.code == CREATE_CONTAINER => (NodeKind::Container, false),
        (0, None) => (NodeKind::Persistent, false),
        (1, None) => (NodeKind::Ephemeral(client.session), false),
        (2, None) => (NodeKind::Persistent, true),
        (3, None) => (NodeKind::Ephemeral(client.session), true),
        (4, None) => (NodeKind::Container, false),
        (5 | 6, Some(ttl_ms)) => {
            let ttl_ms = u64::try_from(ttl_ms).map_err(|_| ErrorCode::BAD_ARGUMENTS)?;
            (NodeKind::TimeToLive(ttl_ms), create.flags == 6)
        }
        _ => return Err(ErrorCode::BAD_ARGUMENTS),
    };
    if !create.path.contains('/') || create.path.contains('\0') {
        return Err(ErrorCode::BAD_ARGUMENTS);
    }
    Ok(tree::Op::Create(NewNode {
        path: create.path,
        data: create.data,
        acl: client.access.fix_up(create.acl)?,
        kind,
        sequential,
        keep_existing: create.code == CREATE_IF_NOT_EXISTS,
        by: client.access.credentials().clone(),
    }))
}

fn delete_op(delete: DeleteRequest, by: Credentials) -> tree::Op {
    let DeleteRequest { path, version, is_tolerant } = delete;
    let version = expected(version);
    if is_tolerant {
        tree::Op::DeleteIfPresent { path, version, by }
    } else {
        tree::Op::Delete { path, version, by }
    }
}

fn check_op(path: String, version: i32, by: Credentials) -> tree::Op {
    let expected = tree::Expected { version: expected(version), ..tree::Expected::default() };
    tree::Op::CheckNode { path, expected, by }
}

fn check_stat_op(check: CheckStat, by: Credentials) -> tree::Op {
    let CheckStat { path, version, stat } = check;
    let long = |number: i64| (number != -1).then_some(number);
    let expected = tree::Expected {
        version: expected(version),
        stat: Some(Box::new(tree::ExpectedStat {
            czxid: long(stat.czxid.0).map(Zxid),
            mzxid: long(stat.mzxid.0).map(Zxid),
            pzxid: long(stat.pzxid.0).map(Zxid),
            ctime_ms: long(stat.ctime_ms),
            mtime_ms: long(stat.mtime_ms),
            version: expected(stat.version),
            cversion: expected(stat.cversion),
            aversion: expected(stat.aversion),
            ephemeral_owner: long(stat.ephemeral_owner),
            data_length: expected(stat.data_length),
            num_children: expected(stat.num_children),
        })),
    };
    tree::Op::CheckNode { path, expected, by }
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
                        reply::multi_header(into, result_code(*code), ErrorCode::OK);
                        write_result(into, result, has_stat(*code));
                    }
                    reply::multi_end(into);
                }
                WriteShape::Create { with_stat } => {
                    replies.iter().for_each(|result| write_result(into, result, *with_stat));
                }
                WriteShape::Stat | WriteShape::Empty | WriteShape::Close | WriteShape::Upgrade => {
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
