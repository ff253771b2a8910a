//! SASL: the mechanism PLAIN, after a handshake of version 1.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{
    RequestKind, SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest,
    SaslHandshakeResponse,
};

use super::text;
use crate::session::Session;

const PLAIN: &str = "PLAIN";

/// Whether a client may send this before it has authenticated.
pub(crate) fn precedes_authentication(body: &RequestKind) -> bool {
    matches!(
        body,
        RequestKind::ApiVersions(_)
            | RequestKind::SaslHandshake(_)
            | RequestKind::SaslAuthenticate(_)
    )
}

pub(crate) fn handshake(version: i16, request: &SaslHandshakeRequest) -> SaslHandshakeResponse {
    let error_code = if version == 0 {
        // After a handshake of version 0 tokens travel outside of requests; Kafka 1.0 ended that.
        ResponseError::UnsupportedVersion.code()
    } else if &*request.mechanism == PLAIN {
        0
    } else {
        ResponseError::UnsupportedSaslMechanism.code()
    };
    SaslHandshakeResponse::default().with_error_code(error_code).with_mechanisms(vec![text(PLAIN)])
}

pub(crate) fn authenticate(
    session: &Arc<Session>,
    request: &SaslAuthenticateRequest,
) -> SaslAuthenticateResponse {
    // RFC 4616: authorization identity, user and password, separated by NUL.
    let mut parts = request.auth_bytes.split(|byte| *byte == 0);
    let verified = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(user), Some(password), None) => std::str::from_utf8(user)
            .map_err(|_| "the user name is not UTF-8".to_owned())
            .and_then(|user| {
                session.shared.accounts.verify(user, password).map_err(|error| error.to_string())
            }),
        _ => Err("not a PLAIN message: identity, user and password separated by NUL".to_owned()),
    };
    match verified {
        Ok(()) => {
            session.set_authenticated();
            SaslAuthenticateResponse::default()
        }
        Err(message) => SaslAuthenticateResponse::default()
            .with_error_code(ResponseError::SaslAuthenticationFailed.code())
            .with_error_message(Some(text(message))),
    }
}
