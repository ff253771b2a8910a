//! ApiVersions: what is served. Always answered, also in version 0 to a version from the future.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiVersionsResponse;
use kafka_protocol::messages::api_versions_response::{
    ApiVersion, FinalizedFeatureKey, SupportedFeatureKey,
};

use super::text;
use crate::api::SERVED;

/// What the cluster as a whole has agreed on, with its level. Clients look at the first: level 2 is
/// a new epoch with every transaction (KIP-890).
const FEATURES: [(&str, i16); 3] =
    [("transaction.version", 2), ("group.version", 1), ("share.version", 1)];

pub(crate) fn answer() -> ApiVersionsResponse {
    let api_keys = SERVED.iter().map(|served| {
        ApiVersion::default()
            .with_api_key(served.api_key as i16)
            .with_min_version(served.version_min)
            .with_max_version(served.version_max)
    });
    let supported = FEATURES.map(|(name, level)| {
        SupportedFeatureKey::default().with_name(text(name)).with_max_version(level)
    });
    let finalized = FEATURES.map(|(name, level)| {
        FinalizedFeatureKey::default()
            .with_name(text(name))
            .with_min_version_level(level)
            .with_max_version_level(level)
    });
    ApiVersionsResponse::default()
        .with_api_keys(api_keys.collect())
        .with_supported_features(supported.into())
        .with_finalized_features(finalized.into())
        .with_finalized_features_epoch(0)
}

/// The answer to a version that is not known, itself of version 0: the client reads from it which
/// version to try.
pub(crate) fn unsupported_version() -> ApiVersionsResponse {
    answer().with_error_code(ResponseError::UnsupportedVersion.code())
}
