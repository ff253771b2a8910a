//! ApiVersions: what is served. Always answered, also in version 0 to a version from the future.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiVersionsResponse;
use kafka_protocol::messages::api_versions_response::ApiVersion;

use crate::api::SERVED;

pub(crate) fn answer() -> ApiVersionsResponse {
    let api_keys = SERVED.iter().map(|served| {
        ApiVersion::default()
            .with_api_key(served.api_key as i16)
            .with_min_version(served.version_min)
            .with_max_version(served.version_max)
    });
    // No features are finalized, which an epoch of -1 says.
    ApiVersionsResponse::default()
        .with_api_keys(api_keys.collect())
        .with_finalized_features_epoch(-1)
}

/// The answer to a version that is not known, itself of version 0: the client reads from it which
/// version to try.
pub(crate) fn unsupported_version() -> ApiVersionsResponse {
    answer().with_error_code(ResponseError::UnsupportedVersion.code())
}
