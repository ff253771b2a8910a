//! A served face, and clients of it.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeMap;
use std::sync::Arc;

use proteus_env::SystemClock;
use proteus_face::{Accounts, Metrics};
use proteus_face_postgres::{PostgresFace, PostgresOptions};
use proteus_kernel_api::Kernel;
use proteus_testkit::{ServedFace, memory_kernel, serve_face};
use tokio_postgres::{Client, NoTls};

pub struct Served {
    pub face: ServedFace,
    pub kernel: Arc<dyn Kernel>,
}

/// Serves the face over a fresh kernel that admits everyone.
pub fn serve_postgres() -> Served {
    serve_with(Accounts::default())
}

/// Serves the face with one account.
pub fn serve_with_account(user: &str, password: &str) -> Served {
    serve_with(Accounts::new(BTreeMap::from([(user.to_owned(), password.to_owned())])))
}

fn serve_with(accounts: Accounts) -> Served {
    let kernel = memory_kernel();
    let clock = Arc::new(SystemClock::new());
    let options = PostgresOptions::default();
    let face =
        PostgresFace::new(kernel.clone(), clock, &Metrics::default(), accounts, &options).unwrap();
    Served { face: serve_face(Arc::new(face)), kernel }
}

impl Served {
    pub async fn connect(&self) -> Client {
        self.connect_as("proteus", None).await.unwrap()
    }

    pub async fn connect_as(
        &self,
        user: &str,
        password: Option<&str>,
    ) -> Result<Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.face.address.port()).user(user).dbname("proteus");
        if let Some(password) = password {
            config.password(password);
        }
        let (client, connection) = config.connect(NoTls).await?;
        proteus_env::task::spawn(async move {
            // The end of a connection is what each test looks at itself.
            let _ = connection.await;
        });
        Ok(client)
    }
}

/// The SQLSTATE of a failure.
#[track_caller]
pub fn code<T: std::fmt::Debug>(result: Result<T, tokio_postgres::Error>) -> String {
    let error = result.expect_err("an error");
    error.code().map_or_else(|| panic!("{error:?}"), |code| code.code().to_owned())
}
