//! TLS for every face: certificates from PEM, a handshake with a bound, who the client proved to be.

use std::sync::Arc;
use std::time::Duration;

use proteus_env::net::TcpStream;
use proteus_env::task;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use x509_cert::der::Decode;

use crate::ConnectionError;
use crate::stream::Stream;

/// How long a client may take to agree on keys.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a node shows its clients, and whom it believes. Clones share it.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
}

/// Which clients must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificate {
    /// All.
    Required,
    /// None must; one that is shown is judged.
    Optional,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file holds no usable certificate or key.
    #[error("{what} cannot be used: {message}; it must be PEM")]
    Pem {
        /// Which.
        what: &'static str,
        /// Why not.
        message: String,
    },
    /// Certificate and key are not usable together.
    #[error("certificate and key cannot be used together: {0}")]
    Pair(String),
    /// Nobody could prove anything with these authorities.
    #[error("the client authorities cannot be used: {0}")]
    Authorities(String),
}

impl Tls {
    /// TLS 1.2 and 1.3 with a certificate chain and its key. With `client_authorities` clients may,
    /// or must, show a certificate that one of them has signed.
    ///
    /// # Errors
    /// If any of it cannot be used.
    pub fn new(
        certificate_pem: &[u8],
        key_pem: &[u8],
        client_authorities: Option<(&[u8], ClientCertificate)>,
    ) -> Result<Tls, TlsError> {
        let chain = certificates("the certificate", certificate_pem)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| TlsError::Pem {
            what: "the private key",
            message: error.to_string(),
        })?;
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Pair(error.to_string()))?;
        let builder = match client_authorities {
            None => builder.with_no_client_auth(),
            Some((pem, client_certificate)) => {
                let refused =
                    |error: &dyn std::fmt::Display| TlsError::Authorities(error.to_string());
                let mut roots = RootCertStore::empty();
                for authority in certificates("the client authorities' certificate", pem)? {
                    roots.add(authority).map_err(|error| refused(&error))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = match client_certificate {
                    ClientCertificate::Required => verifier,
                    ClientCertificate::Optional => verifier.allow_unauthenticated(),
                };
                builder
                    .with_client_cert_verifier(verifier.build().map_err(|error| refused(&error))?)
            }
        };
        let config = builder
            .with_single_cert(chain, key)
            .map_err(|error| TlsError::Pair(error.to_string()))?;
        Ok(Tls { acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    /// Agrees on keys with a client that has connected and sent nothing else yet.
    pub(crate) async fn accept(&self, stream: TcpStream) -> Result<Stream, ConnectionError> {
        match task::timeout(HANDSHAKE_TIMEOUT, self.acceptor.accept(stream)).await {
            Some(Ok(stream)) => Ok(Stream::encrypted(stream)),
            // Often a client that does not trust our certificate, or speaks without TLS.
            Some(Err(error)) => Err(ConnectionError::Malformed(format!("TLS handshake: {error}"))),
            None => Err(ConnectionError::Limit(format!("no TLS within {HANDSHAKE_TIMEOUT:?}"))),
        }
    }
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |message: String| TlsError::Pem { what, message };
    let found: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| failed(error.to_string()))?;
    if found.is_empty() { Err(failed("there is none in the file".to_owned())) } else { Ok(found) }
}

/// The subject of a certificate as RFC 4514 writes it: `CN=ann,O=Example,C=NZ`.
pub(crate) fn subject(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = x509_cert::Certificate::from_der(certificate).ok()?;
    Some(certificate.tbs_certificate.subject.to_string())
}
