//! From the kernel's words to ZooKeeper's: one exhaustive match for each.

use proteus_kernel_api::{KernelError, Refusal, tree};

/// An error of the protocol, numbered as on the wire.
///
/// Source: ZooKeeper 3.9, `KeeperException.Code`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorCode(pub i32);

impl ErrorCode {
    /// No error.
    pub const OK: ErrorCode = ErrorCode(0);
    /// The server failed in a way that has no word of its own.
    pub const SYSTEM_ERROR: ErrorCode = ErrorCode(-1);
    /// An op of a `multi` that was not tried, because one before it failed.
    pub const RUNTIME_INCONSISTENCY: ErrorCode = ErrorCode(-2);
    /// The request's body is not what its type says.
    pub const MARSHALLING_ERROR: ErrorCode = ErrorCode(-5);
    /// Nodes of the configuration asked for are not there.
    pub const NEW_CONFIG_NO_QUORUM: ErrorCode = ErrorCode(-13);
    /// The request is not supported.
    pub const UNIMPLEMENTED: ErrorCode = ErrorCode(-6);
    /// The request makes no sense.
    pub const BAD_ARGUMENTS: ErrorCode = ErrorCode(-8);
    /// The znode does not exist.
    pub const NO_NODE: ErrorCode = ErrorCode(-101);
    /// The ACL does not permit it, or the client has not authenticated.
    pub const NO_AUTH: ErrorCode = ErrorCode(-102);
    /// The version is another.
    pub const BAD_VERSION: ErrorCode = ErrorCode(-103);
    /// Ephemerals have no children.
    pub const NO_CHILDREN_FOR_EPHEMERALS: ErrorCode = ErrorCode(-108);
    /// The znode exists.
    pub const NODE_EXISTS: ErrorCode = ErrorCode(-110);
    /// The znode has children.
    pub const NOT_EMPTY: ErrorCode = ErrorCode(-111);
    /// The session has ended.
    pub const SESSION_EXPIRED: ErrorCode = ErrorCode(-112);
    /// The ACL is none that could be enforced.
    pub const INVALID_ACL: ErrorCode = ErrorCode(-114);
    /// The password is wrong.
    pub const AUTH_FAILED: ErrorCode = ErrorCode(-115);
    /// The server serves readers only.
    pub const NOT_READ_ONLY: ErrorCode = ErrorCode(-119);
    /// There is no such watch.
    pub const NO_WATCHER: ErrorCode = ErrorCode(-121);
    /// The members of the ensemble cannot be changed this way.
    pub const RECONFIG_DISABLED: ErrorCode = ErrorCode(-123);
    /// The hard limit of a quota would be exceeded.
    pub const QUOTA_EXCEEDED: ErrorCode = ErrorCode(-125);
    /// Not carried out because the server is overloaded.
    pub const THROTTLED: ErrorCode = ErrorCode(-127);
}

/// How a client learns of a kernel's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// As a reply: nothing happened, for certain.
    Reply(ErrorCode),
    /// By losing the connection: ZooKeeper's way to say that nothing is known of the request.
    Disconnect,
}

/// What a client is told of `error`.
pub fn of_kernel(error: &KernelError) -> Answer {
    match error {
        KernelError::DiskFull(_) => Answer::Reply(ErrorCode::SYSTEM_ERROR),
        KernelError::TooLarge { .. } => Answer::Reply(ErrorCode::BAD_ARGUMENTS),
        KernelError::Overloaded(_) => Answer::Reply(ErrorCode::THROTTLED),
        KernelError::Unavailable(_) | KernelError::Stopped(_) => Answer::Disconnect,
    }
}

/// What a client is told of `refusal`.
pub fn of_refusal(refusal: &Refusal) -> ErrorCode {
    match refusal {
        Refusal::Tree(refusal) => of_tree(refusal),
        // This face asks nothing of the other machines.
        Refusal::Topic(_) | Refusal::Cache(_) | Refusal::Table(_) => ErrorCode::SYSTEM_ERROR,
    }
}

fn of_tree(refusal: &tree::Refusal) -> ErrorCode {
    match refusal {
        tree::Refusal::NoNode { .. } => ErrorCode::NO_NODE,
        tree::Refusal::NodeExists { .. } => ErrorCode::NODE_EXISTS,
        tree::Refusal::NotEmpty { .. } => ErrorCode::NOT_EMPTY,
        tree::Refusal::BadVersion { .. }
        | tree::Refusal::NodeReplaced { .. }
        | tree::Refusal::StatDiffers { .. } => ErrorCode::BAD_VERSION,
        tree::Refusal::NoChildrenForEphemerals { .. } => ErrorCode::NO_CHILDREN_FOR_EPHEMERALS,
        tree::Refusal::NotPermitted { .. } => ErrorCode::NO_AUTH,
        tree::Refusal::QuotaExceeded { .. } => ErrorCode::QUOTA_EXCEEDED,
        tree::Refusal::SessionExpired { .. } => ErrorCode::SESSION_EXPIRED,
        tree::Refusal::SessionExists { .. } => ErrorCode::SYSTEM_ERROR,
        tree::Refusal::BadArguments { .. } => ErrorCode::BAD_ARGUMENTS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_zookeepers_numbers() {
        let path = || "/a".to_owned();
        let session = tree::SessionId(1);
        for (refusal, expected) in [
            (tree::Refusal::NoNode { path: path() }, -101),
            (tree::Refusal::BadVersion { path: path(), expected: 1, actual: 0 }, -103),
            (tree::Refusal::NodeReplaced { path: path() }, -103),
            (tree::Refusal::StatDiffers { path: path() }, -103),
            (tree::Refusal::NoChildrenForEphemerals { path: path() }, -108),
            (tree::Refusal::NodeExists { path: path() }, -110),
            (tree::Refusal::NotEmpty { path: path() }, -111),
            (tree::Refusal::NotPermitted { path: path() }, -102),
            (tree::Refusal::QuotaExceeded { path: path() }, -125),
            (tree::Refusal::SessionExpired { session }, -112),
            (tree::Refusal::SessionExists { session }, -1),
            (tree::Refusal::BadArguments { why: path() }, -8),
        ] {
            assert_eq!(of_refusal(&Refusal::Tree(refusal.clone())).0, expected, "{refusal:?}");
        }
    }

    #[test]
    fn only_what_surely_did_not_happen_is_answered() {
        let why = || "why".to_owned();
        let reply = |code| Answer::Reply(ErrorCode(code));
        for (error, expected) in [
            (KernelError::DiskFull(why()), reply(-1)),
            (KernelError::TooLarge { bytes: 2, bytes_max: 1 }, reply(-8)),
            (KernelError::Overloaded(why()), reply(-127)),
            (KernelError::Unavailable(why()), Answer::Disconnect),
            (KernelError::Stopped(why()), Answer::Disconnect),
        ] {
            assert_eq!(of_kernel(&error), expected, "{error}");
        }
    }
}
