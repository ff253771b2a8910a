//! The request types of the protocol.

/// A request type of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestType {
    /// Its number on the wire.
    pub code: i32,
    /// Its name in `ZooDefs.OpCode`, or in ClickHouse Keeper's `OpNum` from 500 on.
    pub name: &'static str,
    /// Whether it is answered with anything but "unimplemented".
    pub is_supported: bool,
}

const fn yes(code: i32, name: &'static str) -> RequestType {
    RequestType { code, name, is_supported: true }
}

const fn no(code: i32, name: &'static str) -> RequestType {
    RequestType { code, name, is_supported: false }
}

/// Every request type of ZooKeeper 3.9 and of ClickHouse Keeper, in the order of
/// docs/faces/zookeeper.md.
pub const REQUEST_TYPES: &[RequestType] = &[
    yes(CREATE, "create"),
    yes(DELETE, "delete"),
    yes(EXISTS, "exists"),
    yes(GET_DATA, "getData"),
    yes(SET_DATA, "setData"),
    yes(GET_ACL, "getACL"),
    yes(SET_ACL, "setACL"),
    yes(GET_CHILDREN, "getChildren"),
    yes(SYNC, "sync"),
    yes(PING, "ping"),
    yes(GET_CHILDREN2, "getChildren2"),
    yes(CHECK, "check"),
    yes(MULTI, "multi"),
    yes(CREATE2, "create2"),
    yes(RECONFIG, "reconfig"),
    yes(CHECK_WATCHES, "checkWatches"),
    yes(REMOVE_WATCHES, "removeWatches"),
    yes(CREATE_CONTAINER, "createContainer"),
    no(20, "deleteContainer"),
    yes(CREATE_TTL, "createTTL"),
    yes(MULTI_READ, "multiRead"),
    yes(AUTH, "auth"),
    yes(SET_WATCHES, "setWatches"),
    yes(SASL, "sasl"),
    yes(GET_EPHEMERALS, "getEphemerals"),
    yes(GET_ALL_CHILDREN_NUMBER, "getAllChildrenNumber"),
    yes(SET_WATCHES2, "setWatches2"),
    yes(ADD_WATCH, "addWatch"),
    yes(WHO_AM_I, "whoAmI"),
    no(-10, "createSession"),
    yes(CLOSE_SESSION, "closeSession"),
    yes(FILTERED_LIST, "FilteredList"),
    yes(CHECK_NOT_EXISTS, "CheckNotExists"),
    yes(CREATE_IF_NOT_EXISTS, "CreateIfNotExists"),
    yes(REMOVE_RECURSIVE, "RemoveRecursive"),
    yes(CHECK_STAT, "CheckStat"),
    yes(TRY_REMOVE, "TryRemove"),
    yes(FILTERED_LIST_WITH_STATS_AND_DATA, "FilteredListWithStatsAndData"),
    yes(LIST_RECURSIVE, "ListRecursive"),
];

/// Where a type stands in [`REQUEST_TYPES`].
pub fn place(code: i32) -> Option<usize> {
    // Those that are asked most stand first, in the order of their codes.
    let guess = usize::try_from(code).ok().and_then(|code| code.checked_sub(1));
    match guess.and_then(|place| REQUEST_TYPES.get(place)) {
        Some(request_type) if request_type.code == code => guess,
        _ => REQUEST_TYPES.iter().position(|request_type| request_type.code == code),
    }
}

pub(crate) const CREATE: i32 = 1;
pub(crate) const DELETE: i32 = 2;
pub(crate) const EXISTS: i32 = 3;
pub(crate) const GET_DATA: i32 = 4;
pub(crate) const SET_DATA: i32 = 5;
pub(crate) const GET_ACL: i32 = 6;
pub(crate) const SET_ACL: i32 = 7;
pub(crate) const GET_CHILDREN: i32 = 8;
pub(crate) const SYNC: i32 = 9;
pub(crate) const PING: i32 = 11;
pub(crate) const GET_CHILDREN2: i32 = 12;
pub(crate) const CHECK: i32 = 13;
pub(crate) const MULTI: i32 = 14;
pub(crate) const CREATE2: i32 = 15;
pub(crate) const RECONFIG: i32 = 16;
pub(crate) const CHECK_WATCHES: i32 = 17;
pub(crate) const REMOVE_WATCHES: i32 = 18;
pub(crate) const CREATE_CONTAINER: i32 = 19;
pub(crate) const CREATE_TTL: i32 = 21;
pub(crate) const MULTI_READ: i32 = 22;
pub(crate) const AUTH: i32 = 100;
pub(crate) const SET_WATCHES: i32 = 101;
pub(crate) const SASL: i32 = 102;
pub(crate) const GET_EPHEMERALS: i32 = 103;
pub(crate) const GET_ALL_CHILDREN_NUMBER: i32 = 104;
pub(crate) const SET_WATCHES2: i32 = 105;
pub(crate) const ADD_WATCH: i32 = 106;
pub(crate) const WHO_AM_I: i32 = 107;
pub(crate) const CLOSE_SESSION: i32 = -11;
pub(crate) const FILTERED_LIST: i32 = 500;
pub(crate) const CHECK_NOT_EXISTS: i32 = 501;
pub(crate) const CREATE_IF_NOT_EXISTS: i32 = 502;
pub(crate) const REMOVE_RECURSIVE: i32 = 503;
pub(crate) const CHECK_STAT: i32 = 504;
pub(crate) const TRY_REMOVE: i32 = 505;
pub(crate) const FILTERED_LIST_WITH_STATS_AND_DATA: i32 = 506;
pub(crate) const LIST_RECURSIVE: i32 = 507;
