//! A consumer group's committed offsets, over the Kafka protocol.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::{
    ApiKey, GroupId, OffsetFetchRequest, OffsetFetchResponse, RequestHeader, ResponseHeader,
    TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The version of the request spoken here, the newest with one group a request.
const VERSION: i16 = 7;

/// Largest answer that is taken.
const RESPONSE_BYTES_MAX: usize = 1024 * 1024;

/// The committed offset of each partition of `topic`, -1 where there is none.
pub(crate) async fn committed(
    broker: SocketAddr,
    group: &str,
    topic: &str,
    partition_count: i32,
) -> Result<Vec<i64>, String> {
    fetch(broker, group, topic, partition_count)
        .await
        .map_err(|error| format!("cannot fetch committed offsets: {error}"))
}

async fn fetch(
    broker: SocketAddr,
    group: &str,
    topic: &str,
    partition_count: i32,
) -> Result<Vec<i64>, Box<dyn std::error::Error + Send + Sync>> {
    let wanted = OffsetFetchRequestTopic::default()
        .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
        .with_partition_indexes((0..partition_count).collect());
    let request = OffsetFetchRequest::default()
        .with_group_id(GroupId(StrBytes::from_string(group.to_owned())))
        .with_topics(Some(vec![wanted]));
    let header = RequestHeader::default()
        .with_request_api_key(ApiKey::OffsetFetch as i16)
        .with_request_api_version(VERSION)
        .with_client_id(Some(StrBytes::from_static_str("proteus-demo")));
    let mut body = BytesMut::new();
    header.encode(&mut body, ApiKey::OffsetFetch.request_header_version(VERSION))?;
    request.encode(&mut body, VERSION)?;

    let mut stream = proteus_env::net::connect(broker).await?;
    stream.write_u32(u32::try_from(body.len())?).await?;
    stream.write_all(&body).await?;
    let length = stream.read_u32().await? as usize;
    if length > RESPONSE_BYTES_MAX {
        return Err(format!("an answer of {length} bytes").into());
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await?;
    let mut answer = Bytes::from(answer);
    ResponseHeader::decode(&mut answer, ApiKey::OffsetFetch.response_header_version(VERSION))?;
    let response = OffsetFetchResponse::decode(&mut answer, VERSION)?;

    let mut offsets = vec![-1; usize::try_from(partition_count)?];
    for partition in response.topics.iter().flat_map(|topic| &topic.partitions) {
        let place = usize::try_from(partition.partition_index)?;
        if let Some(offset) = offsets.get_mut(place) {
            *offset = partition.committed_offset;
        }
    }
    Ok(offsets)
}
