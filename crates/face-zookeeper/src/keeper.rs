//! How a ClickHouse server learns what of ClickHouse Keeper's protocol there is.
//!
//! It reads two znodes that Keeper makes up. They are made up here too, where no client has created
//! such znodes, and are not listed. A server that finds a feature's bit unset does without it.
//!
//! Source: ClickHouse, `KeeperFeatureFlags.h`, `KeeperConstants.h`.

use bytes::Bytes;

/// Bits of the features that are supported, most significant first, which is all there are:
/// `FILTERED_LIST`, `MULTI_READ`, `CHECK_NOT_EXISTS`, `CREATE_IF_NOT_EXISTS`, `REMOVE_RECURSIVE`,
/// `MULTI_WATCHES`, `CHECK_STAT`, `PERSISTENT_WATCHES`; `CREATE_WITH_STATS`, `TRY_REMOVE`,
/// `LIST_WITH_STAT_AND_DATA`.
const FEATURE_FLAGS: [u8; 2] = [0b1111_1111, 0b1110_0000];

/// `WITH_REMOVE_RECURSIVE`, the last version before flags took its place.
const API_VERSION: &[u8] = b"4";

/// The data of a znode that is made up.
pub(crate) fn data(path: &str) -> Option<Bytes> {
    match path {
        "/keeper/feature_flags" => Some(Bytes::from_static(&FEATURE_FLAGS)),
        "/keeper/api_version" => Some(Bytes::from_static(API_VERSION)),
        _ => None,
    }
}
