//! The registry of schemas: Confluent's REST API over [`proteus_schemas`].
//!
//! Source: Confluent's documentation, "Schema Registry API Reference".

mod answers;
mod changes;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proteus_face::{Accounts, Connection, Face, Serving};
use proteus_kernel_api::Kernel;
use proteus_schemas::state::State as Schemas;
use proteus_schemas::{Problem, Registry};

/// The content type of Confluent's API.
const CONTENT_TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// The registry's server side.
pub struct RegistryFace {
    router: Router,
}

#[derive(Clone)]
struct Shared {
    kernel: Arc<dyn Kernel>,
    registry: Arc<Registry>,
    accounts: Accounts,
}

impl Shared {
    /// What `look` makes of all that was registered before the request came.
    async fn read<T>(
        &self,
        look: impl FnOnce(&Schemas) -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        self.kernel.pass_read_barrier().await?;
        self.registry.read(look)?
    }
}

/// JSON of Confluent's API, or why there is none.
type Answer = Result<Json, Problem>;

struct Json(serde_json::Value);

impl IntoResponse for Json {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, CONTENT_TYPE)], self.0.to_string()).into_response()
    }
}

fn answer(result: Answer) -> Response {
    match result {
        Ok(json) => json.into_response(),
        Err(problem) => {
            let status = StatusCode::from_u16(problem.status());
            let body = serde_json::json!({"error_code": problem.code, "message": problem.message});
            (status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), Json(body)).into_response()
        }
    }
}

impl RegistryFace {
    /// A face over `kernel`; whoever has an account may do everything.
    pub fn new(kernel: Arc<dyn Kernel>, accounts: Accounts) -> RegistryFace {
        let registry = Arc::new(Registry::new(kernel.clone()));
        let shared = Shared { kernel, registry, accounts };
        let router = Router::new()
            .route("/", get(answers::root))
            .route("/contexts", get(answers::contexts))
            .route("/schemas", get(answers::schemas))
            .route("/schemas/types", get(answers::types))
            .route("/schemas/ids/{id}", get(answers::schema))
            .route("/schemas/ids/{id}/schema", get(answers::schema_text))
            .route("/schemas/ids/{id}/subjects", get(answers::subjects_of_schema))
            .route("/schemas/ids/{id}/versions", get(answers::versions_of_schema))
            .route("/subjects", get(answers::subjects))
            .route("/subjects/{subject}", post(answers::look_up).delete(changes::delete_subject))
            .route("/subjects/{subject}/versions", get(answers::versions).post(changes::register))
            .route(
                "/subjects/{subject}/versions/{version}",
                get(answers::version).delete(changes::delete_version),
            )
            .route("/subjects/{subject}/versions/{version}/schema", get(answers::version_text))
            .route("/subjects/{subject}/versions/{version}/referencedby", get(answers::referring))
            .route("/compatibility/subjects/{subject}/versions", post(answers::goes_with_all))
            .route("/compatibility/subjects/{subject}/versions/{version}", post(answers::goes_with))
            .route(
                "/config",
                get(answers::level).put(changes::set_level).delete(changes::delete_level),
            )
            .route(
                "/config/{subject}",
                get(answers::level_of).put(changes::set_level_of).delete(changes::delete_level_of),
            )
            .route("/mode", get(answers::mode).put(changes::set_mode))
            .route(
                "/mode/{subject}",
                get(answers::mode_of).put(changes::set_mode_of).delete(changes::delete_mode_of),
            )
            .fallback(not_found)
            .method_not_allowed_fallback(not_allowed)
            .layer(middleware::from_fn_with_state(shared.clone(), admit))
            .with_state(shared);
        RegistryFace { router }
    }
}

async fn not_found() -> Response {
    answer(Err(Problem::new(404, "HTTP 404 Not Found")))
}

async fn not_allowed() -> Response {
    answer(Err(Problem::new(405, "HTTP 405 Method Not Allowed")))
}

/// Lets those pass who say the right password, where there are accounts.
async fn admit(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    if shared.accounts.is_open() || is_admitted(&shared.accounts, &request) {
        return next.run(request).await;
    }
    let mut response = answer(Err(Problem::new(401, "Unauthorized")));
    let challenge = header::HeaderValue::from_static("Basic realm=\"proteus\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}

fn is_admitted(accounts: &Accounts, request: &Request) -> bool {
    let admitted = || {
        let said = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, encoded) = said.split_once(' ')?;
        let decoded = STANDARD.decode(encoded.trim()).ok()?;
        let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
        let is_basic = scheme.eq_ignore_ascii_case("basic");
        Some(is_basic && accounts.verify(user, password.as_bytes()).is_ok())
    };
    admitted().unwrap_or(false)
}

impl Face for RegistryFace {
    fn name(&self) -> &'static str {
        "registry"
    }

    fn standard_port(&self) -> u16 {
        8081
    }

    fn tls_port(&self) -> Option<u16> {
        Some(8444)
    }

    fn try_it(&self, address: SocketAddr) -> String {
        format!("curl http://{address}/subjects")
    }

    fn authenticates(&self) -> bool {
        true
    }

    fn budget_refusal(&self) -> &'static [u8] {
        crate::BUDGET_REFUSAL
    }

    fn serve(self: Arc<Self>, connection: Connection) -> Serving {
        crate::serve_router(self.router.clone(), connection)
    }
}
