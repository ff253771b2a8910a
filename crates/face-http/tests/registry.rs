//! The registry of schemas, over a real socket.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use proteus_face::Accounts;
use proteus_face_http::RegistryFace;
use proteus_kernel_api::Kernel;
use proteus_testkit::{ServedFace, memory_kernel, serve_face};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn serve(kernel: Arc<dyn Kernel>, accounts: Accounts) -> ServedFace {
    serve_face(Arc::new(RegistryFace::new(kernel, accounts)))
}

async fn request(address: SocketAddr, head: &str, body: &str) -> (u16, Value) {
    let mut stream = proteus_env::net::connect(address).await.unwrap();
    let length = body.len();
    let request = format!(
        "{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    let status = reply.split(' ').nth(1).unwrap().parse().unwrap();
    let (_, body) = reply.split_once("\r\n\r\n").unwrap();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

async fn call(face: &ServedFace, head: &str, body: Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    request(face.address, head, &body).await
}

fn avro(fields: &[&str]) -> Value {
    let fields = fields.iter().map(|name| json!({"name": name, "type": "int", "default": 0}));
    let schema = json!({"type": "record", "name": "R", "fields": fields.collect::<Vec<_>>()});
    json!({"schema": schema.to_string()})
}

const REGISTER: &str = "POST /subjects/orders-value/versions";

#[tokio::test]
async fn schemas_are_registered_found_and_deleted() {
    let kernel = memory_kernel();
    let face = serve(kernel.clone(), Accounts::default());
    assert_eq!(call(&face, "GET /subjects", Value::Null).await, (200, json!([])));
    assert_eq!(call(&face, REGISTER, avro(&["a"])).await, (200, json!({"id": 1})));
    assert_eq!(
        call(&face, REGISTER, avro(&["a"])).await,
        (200, json!({"id": 1})),
        "the same again"
    );
    assert_eq!(call(&face, REGISTER, avro(&["a", "b"])).await, (200, json!({"id": 2})));
    let other = call(&face, "POST /subjects/other/versions", avro(&["a"])).await;
    assert_eq!(other, (200, json!({"id": 1})), "the same schema has the same id");
    // Another node knows all of it.
    let face = serve(kernel, Accounts::default());
    let found = call(&face, "GET /subjects/orders-value/versions", Value::Null).await;
    assert_eq!(found, (200, json!([1, 2])));
    let (_, latest) = call(&face, "GET /subjects/orders-value/versions/latest", Value::Null).await;
    assert_eq!((&latest["id"], &latest["version"]), (&json!(2), &json!(2)));
    let (_, by_id) = call(&face, "GET /schemas/ids/2", Value::Null).await;
    assert_eq!(by_id["schema"], avro(&["a", "b"])["schema"]);
    let (_, looked_up) = call(&face, "POST /subjects/orders-value", avro(&["a"])).await;
    assert_eq!(looked_up["version"], json!(1));
    let (status, none) = call(&face, "POST /subjects/orders-value", avro(&["x"])).await;
    assert_eq!((status, &none["error_code"]), (404, &json!(40403)));
    let uses = call(&face, "GET /schemas/ids/1/subjects", Value::Null).await;
    assert_eq!(uses, (200, json!(["orders-value", "other"])));

    let delete = "DELETE /subjects/orders-value/versions/1";
    assert_eq!(call(&face, delete, Value::Null).await, (200, json!(1)));
    let found = call(&face, "GET /subjects/orders-value/versions", Value::Null).await;
    assert_eq!(found, (200, json!([2])));
    let early = "DELETE /subjects/orders-value?permanent=true";
    assert_eq!(call(&face, early, Value::Null).await.1["error_code"], json!(40405));
    assert_eq!(call(&face, "DELETE /subjects/orders-value", Value::Null).await, (200, json!([2])));
    assert_eq!(call(&face, early, Value::Null).await, (200, json!([1, 2])));
    let gone = call(&face, "GET /subjects/orders-value/versions", Value::Null).await;
    assert_eq!((gone.0, &gone.1["error_code"]), (404, &json!(40401)));
    assert_eq!(call(&face, "GET /subjects", Value::Null).await, (200, json!(["other"])));
}

#[tokio::test]
async fn what_does_not_go_with_earlier_versions_is_refused() {
    let face = serve(memory_kernel(), Accounts::default());
    call(&face, REGISTER, avro(&["a"])).await;
    let text = json!({"schema": "\"string\""});
    let (status, refused) = call(&face, REGISTER, text.clone()).await;
    assert_eq!((status, &refused["error_code"]), (409, &json!(409)));
    let ask = "POST /compatibility/subjects/orders-value/versions/latest?verbose=true";
    let (_, verdict) = call(&face, ask, text.clone()).await;
    assert_eq!(verdict["is_compatible"], json!(false));
    assert_eq!(verdict["messages"].as_array().unwrap().len(), 1);
    let (_, verdict) = call(&face, ask, avro(&["a", "b"])).await;
    assert_eq!(verdict["is_compatible"], json!(true));
    let set = call(&face, "PUT /config/orders-value", json!({"compatibility": "NONE"})).await;
    assert_eq!(set, (200, json!({"compatibility": "NONE"})));
    assert_eq!(call(&face, REGISTER, text).await.0, 200);
    let told = call(&face, "GET /config", Value::Null).await;
    assert_eq!(told, (200, json!({"compatibilityLevel": "BACKWARD"})));
    assert_eq!(call(&face, "GET /config/other", Value::Null).await.1["error_code"], json!(40408));
    let wrong = call(&face, "PUT /config", json!({"compatibility": "SOME"})).await;
    assert_eq!((wrong.0, &wrong.1["error_code"]), (422, &json!(42203)));
    call(&face, "PUT /mode", json!({"mode": "READONLY"})).await;
    assert_eq!(call(&face, REGISTER, avro(&["z"])).await.1["error_code"], json!(42205));
    let nonsense = json!({"schema": "{\"type\":\"record\"}"});
    call(&face, "PUT /mode", json!({"mode": "READWRITE"})).await;
    assert_eq!(call(&face, REGISTER, nonsense).await.1["error_code"], json!(42201));
    assert_eq!(request(face.address, REGISTER, "{").await.0, 422);
    assert_eq!(call(&face, "GET /nothing", Value::Null).await.0, 404);
    assert_eq!(call(&face, "GET /schemas/ids/x", Value::Null).await.1["error_code"], json!(404));
    let pythons = "GET /subjects/orders-value/versions?deleted=False&normalize=False";
    assert_eq!(call(&face, pythons, Value::Null).await, (200, json!([1, 2])));
}

#[tokio::test]
async fn with_accounts_a_password_is_asked_for() {
    let accounts = Accounts::new(BTreeMap::from([("ann".to_owned(), "secret".to_owned())]));
    let face = serve(memory_kernel(), accounts);
    assert_eq!(call(&face, "GET /subjects", Value::Null).await.0, 401);
    let said =
        |encoded: &str| format!("GET /subjects HTTP/1.1\r\nauthorization: Basic {encoded}\r\nx: ");
    // "ann:secret" and "ann:wrong".
    assert_eq!(request(face.address, &said("YW5uOnNlY3JldA=="), "").await.0, 200);
    assert_eq!(request(face.address, &said("YW5uOndyb25n"), "").await.0, 401);
}
