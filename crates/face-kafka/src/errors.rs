//! The kernel's errors and the machine's refusals in Kafka's words.

use kafka_protocol::error::ResponseError;
use proteus_kernel_api::topic::Refusal as TopicRefusal;
use proteus_kernel_api::topic::batch::BatchError;
use proteus_kernel_api::{KernelError, Outcome, Refusal, Reply, topic};

/// An error as a client learns of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub error: ResponseError,
    /// For clients whose response has a place for it.
    pub message: String,
}

impl Failure {
    pub(crate) fn new(error: ResponseError, message: impl Into<String>) -> Failure {
        Failure { error, message: message.into() }
    }

    pub(crate) fn code(&self) -> i16 {
        self.error.code()
    }

    /// In the words of a group's coordinator, whose clients know other errors as temporary.
    pub(crate) fn of_coordinator(self) -> Failure {
        let error = match self.error {
            ResponseError::NotLeaderOrFollower => ResponseError::NotCoordinator,
            ResponseError::KafkaStorageError | ResponseError::NotEnoughReplicas => {
                ResponseError::CoordinatorNotAvailable
            }
            other => other,
        };
        Failure { error, ..self }
    }
}

impl From<KernelError> for Failure {
    fn from(error: KernelError) -> Failure {
        let kind = match &error {
            KernelError::DiskFull(_) | KernelError::Stopped(_) => ResponseError::KafkaStorageError,
            KernelError::TooLarge { .. } => ResponseError::MessageTooLarge,
            // Nothing was written, try again: that is what a producer reads from it.
            KernelError::Overloaded(_) => ResponseError::NotEnoughReplicas,
            KernelError::Unavailable(_) => ResponseError::NotLeaderOrFollower,
        };
        Failure::new(kind, error.to_string())
    }
}

impl From<&Refusal> for Failure {
    fn from(refusal: &Refusal) -> Failure {
        let kind = match refusal {
            Refusal::Topic(refusal) => of_topic(refusal),
            // This face proposes to no other machine.
            Refusal::Tree(_) | Refusal::Cache(_) | Refusal::Table(_) => {
                ResponseError::UnknownServerError
            }
        };
        Failure::new(kind, refusal.to_string())
    }
}

fn of_topic(refusal: &TopicRefusal) -> ResponseError {
    match refusal {
        TopicRefusal::TopicExists(_) => ResponseError::TopicAlreadyExists,
        TopicRefusal::InvalidName(_) => ResponseError::InvalidTopicException,
        TopicRefusal::UnknownTopic(_) | TopicRefusal::UnknownPartition { .. } => {
            ResponseError::UnknownTopicOrPartition
        }
        TopicRefusal::InvalidPartitions(_) => ResponseError::InvalidPartitions,
        TopicRefusal::InvalidConfig(_) => ResponseError::InvalidConfig,
        TopicRefusal::InvalidBatch(error) => of_batch(error),
        TopicRefusal::BatchTooLarge { .. } => ResponseError::MessageTooLarge,
        TopicRefusal::OutOfOrderSequence { .. } => ResponseError::OutOfOrderSequenceNumber,
        TopicRefusal::StaleProducerEpoch { .. } => ResponseError::InvalidProducerEpoch,
        TopicRefusal::UnknownTransactionalProducer { .. } => {
            ResponseError::InvalidProducerIdMapping
        }
        TopicRefusal::ProducerFenced { .. } => ResponseError::ProducerFenced,
        TopicRefusal::NotInTransaction { .. } => ResponseError::InvalidTxnState,
        TopicRefusal::TooManyAcls => ResponseError::InvalidRequest,
        // What a member holds is no longer what the node knows of: it fetches anew.
        TopicRefusal::UnknownShare { .. } | TopicRefusal::TooManyShareRanges => {
            ResponseError::InvalidRecordState
        }
        TopicRefusal::NotNextInMirror { .. } => ResponseError::InvalidRecord,
        TopicRefusal::NoCredential { .. } => ResponseError::ResourceNotFound,
        // Ops that only this face's own upkeep proposes.
        TopicRefusal::NotMovable => ResponseError::UnknownServerError,
        TopicRefusal::OffsetOutOfRange { .. } => ResponseError::OffsetOutOfRange,
        TopicRefusal::MetadataTooLarge { .. } => ResponseError::OffsetMetadataTooLarge,
        // A check that this face does not make.
        TopicRefusal::CommittedOffsetDiffers { .. } => ResponseError::UnknownServerError,
    }
}

fn of_batch(error: &BatchError) -> ResponseError {
    match error {
        BatchError::Magic(_) => ResponseError::UnsupportedForMessageFormat,
        BatchError::Length { .. } | BatchError::Checksum { .. } | BatchError::Compression(_) => {
            ResponseError::CorruptMessage
        }
        BatchError::Timestamp { .. } => ResponseError::InvalidTimestamp,
        BatchError::Invalid(_) => ResponseError::InvalidRecord,
    }
}

impl From<BatchError> for Failure {
    fn from(error: BatchError) -> Failure {
        Failure::new(of_batch(&error), error.to_string())
    }
}

/// The topic machine's reply to the only op of a minitransaction.
pub(crate) fn topic_reply(outcome: Outcome) -> Result<topic::Reply, Failure> {
    match outcome {
        Outcome::Committed { replies, .. } => match replies.into_iter().next() {
            Some(Reply::Topic(reply)) => Ok(reply),
            _ => Err(unexpected_reply()),
        },
        Outcome::CheckFailed { refusal, .. } | Outcome::Refused { refusal, .. } => {
            Err(Failure::from(&refusal))
        }
    }
}

/// The machine answered something else than its op promises.
pub(crate) fn unexpected_reply() -> Failure {
    Failure::new(ResponseError::UnknownServerError, "the node gave an answer of another kind")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_happen_is_retriable_and_what_cannot_is_not() {
        let retriable = |error: KernelError| Failure::from(error).error.is_retriable();
        assert!(retriable(KernelError::Overloaded(String::new())));
        assert!(retriable(KernelError::Unavailable(String::new())));
        assert!(retriable(KernelError::DiskFull(String::new())));
        assert!(!retriable(KernelError::TooLarge { bytes: 2, bytes_max: 1 }));
    }

    #[test]
    fn damage_in_transit_is_told_from_nonsense() {
        let of = |error| Failure::from(&Refusal::Topic(TopicRefusal::InvalidBatch(error))).error;
        assert_eq!(of(BatchError::Magic(1)), ResponseError::UnsupportedForMessageFormat);
        assert_eq!(of(BatchError::Length { said: 1, found: 2 }), ResponseError::CorruptMessage);
        assert_eq!(of(BatchError::Invalid(String::new())), ResponseError::InvalidRecord);
    }
}
