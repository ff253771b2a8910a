//! A small Kafka client over the codec crate: for what administrators do, against any broker.
//!
//! One connection to each broker that is needed, one request at a time. Versions are those that
//! Kafka has served since 2.1, so that an old cluster can be asked, too.

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    ApiKey, FindCoordinatorRequest, MetadataRequest, MetadataResponse, RequestHeader, RequestKind,
    ResponseHeader, ResponseKind, SaslAuthenticateRequest, SaslHandshakeRequest, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use proteus_env::net::{self, TcpStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longest response, in bytes; fetches ask for less.
const RESPONSE_BYTES_MAX: usize = 256 * 1024 * 1024;
const CLIENT_ID: &str = "proteus-topic";

/// Where the cluster is, and who asks.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// `HOST:PORT` of any broker.
    pub bootstrap: String,
    /// User and password for SASL PLAIN.
    pub account: Option<(String, String)>,
}

/// A cluster.
pub(super) struct Cluster {
    target: Target,
    /// Addresses of brokers, by node id.
    brokers: HashMap<i32, String>,
    connections: HashMap<String, Connection>,
}

struct Connection {
    stream: TcpStream,
    next_correlation_id: i32,
}

/// A string of the protocol.
pub(super) fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

/// What an error code means; `Ok` for none.
pub(super) fn check(code: i16, what: &str) -> Result<(), String> {
    match ResponseError::try_from_code(code) {
        None => Ok(()),
        Some(error) => Err(format!("{what}: {error:?}: {error}")),
    }
}

/// The answer as the kind that was asked for.
macro_rules! call {
    ($cluster:expr, $node:expr, $kind:ident, $version:expr, $request:expr) => {{
        use kafka_protocol::messages::{ApiKey, RequestKind, ResponseKind};
        match $cluster.call($node, ApiKey::$kind, $version, &RequestKind::$kind($request)).await {
            Ok(ResponseKind::$kind(response)) => Ok(response),
            Ok(_) => Err("the broker gave an answer of another kind".to_owned()),
            Err(error) => Err(error),
        }
    }};
}
pub(super) use call;

impl Cluster {
    pub(super) fn new(target: Target) -> Cluster {
        Cluster { target, brokers: HashMap::new(), connections: HashMap::new() }
    }

    /// Sends a request to a broker, any for `None`, and waits for its answer.
    pub(super) async fn call(
        &mut self,
        node: Option<i32>,
        api_key: ApiKey,
        version: i16,
        body: &RequestKind,
    ) -> Result<ResponseKind, String> {
        let address = match node {
            None => self.target.bootstrap.clone(),
            Some(node) => {
                let known = self.brokers.get(&node).cloned();
                known.ok_or_else(|| format!("broker {node} is not part of the cluster"))?
            }
        };
        if !self.connections.contains_key(&address) {
            let connection = Connection::open(&address, &self.target).await?;
            self.connections.insert(address.clone(), connection);
        }
        let Some(connection) = self.connections.get_mut(&address) else {
            return Err(format!("not connected to {address}"));
        };
        let answered = connection.call(api_key, version, body).await;
        if answered.is_err() {
            self.connections.remove(&address);
        }
        answered.map_err(|error| format!("{address}: {error}"))
    }

    /// What there is; of all topics, or of one.
    pub(super) async fn metadata(
        &mut self,
        topic: Option<&str>,
    ) -> Result<MetadataResponse, String> {
        let topics = topic.map(|name| {
            vec![MetadataRequestTopic::default().with_name(Some(TopicName(text(name))))]
        });
        let request =
            MetadataRequest::default().with_topics(topics).with_allow_auto_topic_creation(false);
        let response = call!(self, None, Metadata, 5, request)?;
        for broker in &response.brokers {
            self.brokers.insert(broker.node_id.0, format!("{}:{}", &*broker.host, broker.port));
        }
        Ok(response)
    }

    /// Partitions of a topic with the broker that leads each, in order.
    pub(super) async fn leaders(&mut self, topic: &str) -> Result<Vec<(i32, i32)>, String> {
        let response = self.metadata(Some(topic)).await?;
        let found = response.topics.first().ok_or_else(|| format!("no topic '{topic}'"))?;
        check(found.error_code, &format!("topic '{topic}'"))?;
        let mut leaders: Vec<(i32, i32)> = found
            .partitions
            .iter()
            .map(|partition| (partition.partition_index, partition.leader_id.0))
            .collect();
        leaders.sort_unstable();
        Ok(leaders)
    }

    /// The broker that coordinates a group.
    pub(super) async fn coordinator(&mut self, group: &str) -> Result<i32, String> {
        let request = FindCoordinatorRequest::default().with_key(text(group));
        let response = call!(self, None, FindCoordinator, 1, request)?;
        check(response.error_code, &format!("coordinator of '{group}'"))?;
        let node = response.node_id.0;
        self.brokers.insert(node, format!("{}:{}", &*response.host, response.port));
        Ok(node)
    }
}

impl Connection {
    async fn open(address: &str, target: &Target) -> Result<Connection, String> {
        let failed = |error: std::io::Error| format!("cannot reach {address}: {error}");
        let resolved = tokio::net::lookup_host(address).await.map_err(failed)?;
        let mut last = Err(format!("{address} has no address"));
        for candidate in resolved {
            last = net::connect(candidate).await.map_err(failed);
            if last.is_ok() {
                break;
            }
        }
        let mut connection = Connection { stream: last?, next_correlation_id: 0 };
        if let Some((user, password)) = &target.account {
            connection.authenticate(user, password).await?;
        }
        Ok(connection)
    }

    async fn authenticate(&mut self, user: &str, password: &str) -> Result<(), String> {
        let request = SaslHandshakeRequest::default().with_mechanism(text("PLAIN"));
        let request = RequestKind::SaslHandshake(request);
        if let ResponseKind::SaslHandshake(response) =
            self.call(ApiKey::SaslHandshake, 1, &request).await?
        {
            check(response.error_code, "SASL PLAIN")?;
        }
        let token = Bytes::from(format!("\0{user}\0{password}"));
        let request = SaslAuthenticateRequest::default().with_auth_bytes(token);
        let request = RequestKind::SaslAuthenticate(request);
        if let ResponseKind::SaslAuthenticate(response) =
            self.call(ApiKey::SaslAuthenticate, 1, &request).await?
        {
            check(response.error_code, &format!("authentication of '{user}'"))?;
        }
        Ok(())
    }

    async fn call(
        &mut self,
        api_key: ApiKey,
        version: i16,
        body: &RequestKind,
    ) -> Result<ResponseKind, String> {
        let correlation_id = self.next_correlation_id;
        self.next_correlation_id = correlation_id.wrapping_add(1);
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        let header = RequestHeader::default()
            .with_request_api_key(api_key as i16)
            .with_request_api_version(version)
            .with_correlation_id(correlation_id)
            .with_client_id(Some(text(CLIENT_ID)));
        let encoded = header
            .encode(&mut frame, api_key.request_header_version(version))
            .and_then(|()| body.encode(&mut frame, version));
        encoded.map_err(|error| format!("{api_key:?}: {error}"))?;
        let length = i32::try_from(frame.len() - 4).map_err(|_| "a request too long".to_owned())?;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        let lost = |error: std::io::Error| format!("{api_key:?}: the connection was lost: {error}");
        self.stream.write_all(&frame).await.map_err(lost)?;
        let length = usize::try_from(self.stream.read_i32().await.map_err(lost)?).unwrap_or(0);
        if !(4..=RESPONSE_BYTES_MAX).contains(&length) {
            return Err(format!("{api_key:?}: a response of {length} bytes"));
        }
        let mut response = vec![0; length];
        self.stream.read_exact(&mut response).await.map_err(lost)?;
        let mut response = Bytes::from(response);
        let malformed = |error: &dyn std::fmt::Display| format!("{api_key:?}: {error}");
        let header =
            ResponseHeader::decode(&mut response, api_key.response_header_version(version))
                .map_err(|error| malformed(&error))?;
        if header.correlation_id != correlation_id {
            return Err(format!("{api_key:?}: the answer to another request"));
        }
        ResponseKind::decode(api_key, &mut response, version).map_err(|error| malformed(&error))
    }
}
