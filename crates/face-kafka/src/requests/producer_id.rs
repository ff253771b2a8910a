//! InitProducerId: idempotent producers. Transactional ones are refused.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};
use proteus_kernel_api::{Minitransaction, topic};

use crate::errors::{Failure, topic_reply, unexpected_reply};
use crate::session::Session;

pub(crate) async fn answer(
    session: &Arc<Session>,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    let response = InitProducerIdResponse::default();
    match producer(session, &request).await {
        Ok((producer_id, epoch)) => {
            response.with_producer_id(ProducerId(producer_id)).with_producer_epoch(epoch)
        }
        Err(failure) => response
            .with_error_code(failure.code())
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1),
    }
}

async fn producer(
    session: &Arc<Session>,
    request: &InitProducerIdRequest,
) -> Result<(i64, i16), Failure> {
    if request.transactional_id.is_some() {
        return Err(no_transactions());
    }
    // A producer that lost track of its sequences asks for its next epoch (KIP-360).
    let current = (request.producer_id.0, request.producer_epoch);
    if current.0 >= 0 && (0..i16::MAX - 1).contains(&current.1) {
        return Ok((current.0, current.1 + 1));
    }
    let op = topic::Op::AllocateProducerId;
    let outcome =
        session.shared.kernel.commit(Minitransaction::of(op)).await.map_err(Failure::from)?;
    match topic_reply(outcome)? {
        topic::Reply::ProducerId(producer_id) => Ok((producer_id, 0)),
        _ => Err(unexpected_reply()),
    }
}

/// The refusal of everything transactional. Clients take it as final and show its message.
pub(crate) fn no_transactions() -> Failure {
    Failure::new(
        ResponseError::TransactionalIdAuthorizationFailed,
        "Kafka transactions are not supported; use an idempotent producer, or a cross-face commit",
    )
}
