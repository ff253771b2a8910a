//! Requests from bytes.

use bytes::Bytes;
use proteus_kernel_api::tree::{AclEntry, Stat, Zxid};

use super::kinds::*;
use super::{
    CheckStat, CreateRequest, DeleteRequest, Input, Malformed, MultiOp, ReadKind, ReadRequest,
    ReconfigRequest, Request, RequestHeader, WatchSets, WatcherType,
};

/// A frame after the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// Number and type.
    pub header: RequestHeader,
    /// The request; `None` if its type is not supported, or what is wrong with its body.
    pub request: Result<Option<Request>, Malformed>,
}

impl Decoded {
    /// Reads the body of a frame. Bytes after the request are ignored, as by ZooKeeper: newer clients
    /// may say more than is known here.
    ///
    /// # Errors
    /// If it does not begin with a header.
    pub fn decode(frame: Bytes) -> Result<Decoded, Malformed> {
        let mut input = Input::new(frame);
        let header = RequestHeader { xid: input.int("xid")?, code: input.int("type")? };
        let request = Request::decode(header.code, &mut input);
        Ok(Decoded { header, request })
    }
}

impl Request {
    fn decode(code: i32, input: &mut Input) -> Result<Option<Request>, Malformed> {
        let request = match code {
            CREATE | CREATE2 | CREATE_CONTAINER | CREATE_TTL | CREATE_IF_NOT_EXISTS => {
                Request::Create(CreateRequest::decode(code, input)?)
            }
            DELETE | TRY_REMOVE => Request::Delete(DeleteRequest::decode(code, input)?),
            REMOVE_RECURSIVE => Request::DeleteSubtree {
                path: input.string("path")?,
                count_max: input.int("remove_nodes_limit")?.cast_unsigned(),
            },
            EXISTS
            | GET_DATA
            | GET_CHILDREN
            | GET_CHILDREN2
            | FILTERED_LIST
            | FILTERED_LIST_WITH_STATS_AND_DATA => match ReadRequest::decode(code, input)? {
                Some(read) => Request::Read(read),
                None => return Ok(None),
            },
            LIST_RECURSIVE => Request::ListRecursive {
                path: input.string("path")?,
                count_max: input.int("children_nodes_limit")?.cast_unsigned(),
            },
            SET_DATA => Request::SetData {
                path: input.string("path")?,
                data: input.buffer("data")?,
                version: input.int("version")?,
            },
            GET_ACL => Request::GetAcl { path: input.string("path")? },
            SET_ACL => Request::SetAcl {
                path: input.string("path")?,
                acl: decode_acl(input)?,
                version: input.int("version")?,
            },
            GET_ALL_CHILDREN_NUMBER => {
                Request::GetAllChildrenNumber { path: input.string("path")? }
            }
            SYNC => Request::Sync { path: input.string("path")? },
            PING => Request::Ping,
            CHECK => Request::Check { path: input.string("path")?, version: input.int("version")? },
            CHECK_STAT => Request::CheckStat(CheckStat::decode(input)?),
            CHECK_NOT_EXISTS => {
                Request::CheckAbsent { path: input.string("path")?, version: input.int("version")? }
            }
            MULTI => Request::Multi(decode_multi(input)?),
            MULTI_READ => Request::MultiRead(decode_multi_read(input)?),
            RECONFIG => Request::Reconfig(ReconfigRequest {
                joining: input.optional_string("joiningServers")?,
                leaving: input.optional_string("leavingServers")?,
                new_members: input.optional_string("newMembers")?,
                config_id: input.long("curConfigId")?,
            }),
            _ => return Request::decode_session_request(code, input),
        };
        Ok(Some(request))
    }

    /// Requests that are about the session and its watches, not about znodes.
    fn decode_session_request(code: i32, input: &mut Input) -> Result<Option<Request>, Malformed> {
        let request = match code {
            WHO_AM_I => Request::WhoAmI,
            GET_EPHEMERALS => Request::GetEphemerals {
                prefix: input.optional_string("prefixPath")?.unwrap_or_default(),
            },
            ADD_WATCH => {
                let path = input.string("path")?;
                match input.int("mode")? {
                    0 => Request::AddWatch { path, is_recursive: false },
                    1 => Request::AddWatch { path, is_recursive: true },
                    value => return Err(Malformed::Unknown { what: "mode of a watch", value }),
                }
            }
            CHECK_WATCHES => Request::CheckWatches {
                path: input.string("path")?,
                watcher_type: WatcherType::decode(input)?,
            },
            REMOVE_WATCHES => Request::RemoveWatches {
                path: input.string("path")?,
                watcher_type: WatcherType::decode(input)?,
            },
            AUTH => {
                input.int("type")?;
                Request::Auth {
                    scheme: input.string("scheme")?,
                    secret: input.buffer("auth")?.unwrap_or_default(),
                }
            }
            SASL => Request::Sasl { token: input.buffer("token")?.unwrap_or_default() },
            SET_WATCHES | SET_WATCHES2 => {
                Request::SetWatches(WatchSets::decode(code == SET_WATCHES2, input)?)
            }
            CLOSE_SESSION => Request::CloseSession,
            _ => return Ok(None),
        };
        Ok(Some(request))
    }
}

impl CreateRequest {
    fn decode(code: i32, input: &mut Input) -> Result<CreateRequest, Malformed> {
        Ok(CreateRequest {
            code,
            path: input.string("path")?,
            data: input.buffer("data")?,
            acl: decode_acl(input)?,
            flags: input.int("flags")?,
            ttl_ms: if code == CREATE_TTL { Some(input.long("ttl")?) } else { None },
        })
    }
}

impl ReadRequest {
    /// `None` if this type reads something else.
    fn decode(code: i32, input: &mut Input) -> Result<Option<ReadRequest>, Malformed> {
        let (path, watch) = (input.string("path")?, input.boolean("watch")?);
        Ok(ReadKind::decode(code, input)?.map(|kind| ReadRequest { kind, path, watch }))
    }
}

impl CheckStat {
    fn decode(input: &mut Input) -> Result<CheckStat, Malformed> {
        Ok(CheckStat {
            path: input.string("path")?,
            version: input.int("version")?,
            stat: Stat {
                czxid: Zxid(input.long("czxid")?),
                mzxid: Zxid(input.long("mzxid")?),
                ctime_ms: input.long("ctime")?,
                mtime_ms: input.long("mtime")?,
                version: input.int("version")?,
                cversion: input.int("cversion")?,
                aversion: input.int("aversion")?,
                ephemeral_owner: input.long("ephemeralOwner")?,
                data_length: input.int("dataLength")?,
                num_children: input.int("numChildren")?,
                pzxid: Zxid(input.long("pzxid")?),
            },
        })
    }
}

impl DeleteRequest {
    fn decode(code: i32, input: &mut Input) -> Result<DeleteRequest, Malformed> {
        Ok(DeleteRequest {
            path: input.string("path")?,
            version: input.int("version")?,
            is_tolerant: code == TRY_REMOVE,
        })
    }
}

fn decode_acl(input: &mut Input) -> Result<Vec<AclEntry>, Malformed> {
    input.vector("acl", 12, |input| {
        Ok(AclEntry {
            permissions: input.int("perms")?,
            // Some clients write empty strings as null, such as the id of scheme `auth`.
            scheme: input.optional_string("scheme")?.unwrap_or_default(),
            id: input.optional_string("id")?.unwrap_or_default(),
        })
    })
}

fn decode_multi(input: &mut Input) -> Result<Vec<MultiOp>, Malformed> {
    let mut ops = Vec::new();
    loop {
        let code = input.int("multi type")?;
        let is_done = input.boolean("multi done")?;
        input.int("multi err")?;
        if is_done {
            return Ok(ops);
        }
        ops.push(match code {
            CREATE | CREATE2 | CREATE_CONTAINER | CREATE_TTL | CREATE_IF_NOT_EXISTS => {
                MultiOp::Create(CreateRequest::decode(code, input)?)
            }
            DELETE | TRY_REMOVE => MultiOp::Delete(DeleteRequest::decode(code, input)?),
            REMOVE_RECURSIVE => MultiOp::DeleteSubtree {
                path: input.string("path")?,
                count_max: input.int("remove_nodes_limit")?.cast_unsigned(),
            },
            SET_DATA => MultiOp::SetData {
                path: input.string("path")?,
                data: input.buffer("data")?,
                version: input.int("version")?,
            },
            CHECK => MultiOp::Check { path: input.string("path")?, version: input.int("version")? },
            CHECK_STAT => MultiOp::CheckStat(CheckStat::decode(input)?),
            CHECK_NOT_EXISTS => {
                MultiOp::CheckAbsent { path: input.string("path")?, version: input.int("version")? }
            }
            _ => return Err(Malformed::Unknown { what: "type of an op in multi", value: code }),
        });
    }
}

fn decode_multi_read(input: &mut Input) -> Result<Vec<ReadRequest>, Malformed> {
    let mut ops = Vec::new();
    loop {
        let code = input.int("multiRead type")?;
        let is_done = input.boolean("multiRead done")?;
        input.int("multiRead err")?;
        if is_done {
            return Ok(ops);
        }
        match ReadRequest::decode(code, input)? {
            Some(read) => ops.push(read),
            None => {
                return Err(Malformed::Unknown { what: "type of an op in multiRead", value: code });
            }
        }
    }
}

impl WatchSets {
    fn decode(with_persistent: bool, input: &mut Input) -> Result<WatchSets, Malformed> {
        let paths = |input: &mut Input, what| input.vector(what, 4, |input| input.string(what));
        Ok(WatchSets {
            relative_zxid: input.long("relativeZxid")?,
            data: paths(input, "dataWatches")?,
            exist: paths(input, "existWatches")?,
            child: paths(input, "childWatches")?,
            persistent: if with_persistent {
                let persistent = paths(input, "persistentWatches")?;
                Some((persistent, paths(input, "persistentRecursiveWatches")?))
            } else {
                None
            },
        })
    }
}
