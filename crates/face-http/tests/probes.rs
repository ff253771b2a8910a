//! Plain HTTP over a real socket.

use std::sync::Arc;

use proteus_face::Metrics;
use proteus_face_http::HttpFace;
use proteus_testkit::{memory_kernel, serve_face};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn get(address: std::net::SocketAddr, path: &str) -> String {
    let mut stream = proteus_env::net::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply
}

#[tokio::test]
async fn probes_and_metrics_answer() {
    let metrics = Metrics::default();
    metrics.meter("redis", "get").count(3, false);
    let face = HttpFace::new(memory_kernel(), metrics, Arc::new(|| {}));
    let served = serve_face(Arc::new(face));
    assert!(get(served.address, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get(served.address, "/readyz").await.contains("ready"));
    let page = get(served.address, "/metrics").await;
    assert!(page.contains("proteus_requests_total{face=\"redis\",request=\"get\"} 3"), "{page}");
    assert!(get(served.address, "/nothing").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn garbage_closes_its_connection_and_disturbs_no_other() {
    let face = HttpFace::new(memory_kernel(), Metrics::default(), Arc::new(|| {}));
    let served = serve_face(Arc::new(face));
    let mut stream = proteus_env::net::connect(served.address).await.unwrap();
    stream.write_all(b"\x16\x03\x01\x00garbage\r\n\r\n").await.unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await.unwrap();
    assert!(get(served.address, "/healthz").await.starts_with("HTTP/1.1 200"));
}
