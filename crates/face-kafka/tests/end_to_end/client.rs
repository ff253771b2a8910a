//! A bare client: the codec crate's client side over a socket.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, RequestHeader, RequestKind, ResponseHeader, ResponseKind};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use proteus_env::net::{self, TcpStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub struct Client {
    pub stream: TcpStream,
    next_correlation_id: i32,
}

pub fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Client {
        let stream = net::connect(address).await.expect("a listening face");
        Client { stream, next_correlation_id: 0 }
    }

    pub fn frame(&mut self, api_key: ApiKey, version: i16, body: &RequestKind) -> (i32, Bytes) {
        let correlation_id = self.next_correlation_id;
        self.next_correlation_id += 1;
        let mut bytes = BytesMut::new();
        bytes.put_i32(0);
        RequestHeader::default()
            .with_request_api_key(api_key as i16)
            .with_request_api_version(version)
            .with_correlation_id(correlation_id)
            .with_client_id(Some(text("test")))
            .encode(&mut bytes, api_key.request_header_version(version))
            .expect("a header");
        body.encode(&mut bytes, version).expect("a request of this version");
        let length = bytes.len() as i32 - 4;
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        (correlation_id, bytes.freeze())
    }

    pub async fn send(&mut self, api_key: ApiKey, version: i16, body: RequestKind) -> i32 {
        let (correlation_id, frame) = self.frame(api_key, version, &body);
        self.stream.write_all(&frame).await.expect("a connection that is open");
        correlation_id
    }

    /// The next response, whose correlation id must be this.
    pub async fn receive(&mut self, api_key: ApiKey, version: i16, expected: i32) -> ResponseKind {
        let length = self.stream.read_i32().await.expect("a response");
        let mut bytes = vec![0; length as usize];
        self.stream.read_exact(&mut bytes).await.expect("a whole response");
        let mut bytes = Bytes::from(bytes);
        let header =
            ResponseHeader::decode(&mut bytes, api_key.response_header_version(version)).unwrap();
        assert_eq!(header.correlation_id, expected);
        let body = ResponseKind::decode(api_key, &mut bytes, version).expect("a response body");
        assert!(bytes.is_empty(), "{api_key:?} v{version}: {} bytes left over", bytes.len());
        body
    }

    pub async fn call(&mut self, api_key: ApiKey, version: i16, body: RequestKind) -> ResponseKind {
        let correlation_id = self.send(api_key, version, body).await;
        self.receive(api_key, version, correlation_id).await
    }

    /// Whether the face has closed the connection without a word.
    pub async fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        // A reset is a close, too: the face had not read all that was sent.
        matches!(self.stream.read(&mut byte).await, Ok(0) | Err(_))
    }
}

/// The answer as the kind it must be.
#[macro_export]
macro_rules! call {
    ($client:expr, $kind:ident, $version:expr, $request:expr) => {
        match $client
            .call(
                kafka_protocol::messages::ApiKey::$kind,
                $version,
                kafka_protocol::messages::RequestKind::$kind($request),
            )
            .await
        {
            kafka_protocol::messages::ResponseKind::$kind(response) => response,
            other => panic!("another response: {other:?}"),
        }
    };
}
