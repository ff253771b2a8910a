//! The Kafka protocol.
