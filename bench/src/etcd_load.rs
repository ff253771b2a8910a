//! Requests to etcd from many connections, message by message.
//!
//! etcd speaks gRPC: HTTP/2 requests whose body is a length and a protobuf message. A put and a range need two
//! fields each, so they are written here; a client library would measure itself as well.
//!
//! Source: etcd's API v3, `api/etcdserverpb/rpc.proto`.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::net::TcpStream;

use crate::Result;

/// A connection with one request at a time.
pub(crate) struct Connection {
    requests: SendRequest<Bytes>,
    address: SocketAddr,
}

fn failed(error: &dyn std::fmt::Display) -> String {
    format!("etcd: {error}")
}

/// A message of two fields of bytes, none longer than 127, behind gRPC's head.
fn message(key: &[u8], value: Option<&[u8]>) -> Bytes {
    let mut body = vec![0x0A, key.len() as u8];
    body.extend(key);
    if let Some(value) = value {
        body.extend([0x12, value.len() as u8]);
        body.extend(value);
    }
    let mut framed = vec![0];
    framed.extend((body.len() as u32).to_be_bytes());
    framed.extend(body);
    Bytes::from(framed)
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Connection> {
        let stream = TcpStream::connect(address).await.map_err(|error| failed(&error))?;
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        let (requests, connection) =
            h2::client::handshake(stream).await.map_err(|error| failed(&error))?;
        // Ends with the last handle to it.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Connection { requests, address })
    }

    pub(crate) async fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.call("Put", message(key, Some(value))).await.map(drop)
    }

    /// A linearizable read, which is what a range is unless it says otherwise.
    pub(crate) async fn get(&mut self, key: &[u8]) -> Result<()> {
        self.call("Range", message(key, None)).await.map(drop)
    }

    async fn call(&mut self, method: &str, message: Bytes) -> Result<Vec<u8>> {
        let uri = format!("http://{}/etcdserverpb.KV/{method}", self.address);
        let request = http::Request::post(uri)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .map_err(|error| failed(&error))?;
        let mut ready = self.requests.clone().ready().await.map_err(|error| failed(&error))?;
        let (response, mut body) =
            ready.send_request(request, false).map_err(|error| failed(&error))?;
        body.send_data(message, true).map_err(|error| failed(&error))?;
        let mut response = response.await.map_err(|error| failed(&error))?.into_body();
        let mut answer = Vec::new();
        while let Some(data) = response.data().await {
            let data = data.map_err(|error| failed(&error))?;
            // Room for the next answers on this connection.
            response.flow_control().release_capacity(data.len()).map_err(|error| failed(&error))?;
            answer.extend(data);
        }
        let trailers = response.trailers().await.map_err(|error| failed(&error))?;
        let status = trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
        match status.map(http::HeaderValue::as_bytes) {
            Some(b"0") => Ok(answer),
            _ => Err(format!("etcd refused a {method}: {trailers:?}")),
        }
    }
}
