//! Encryption between nodes, and the certificates by which they know each other.

use std::fmt;
use std::sync::Arc;

use proteus_env::net::TcpStream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::handshake::Secret;

/// By what nodes know each other.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// What all nodes of the cluster know.
    pub secret: Secret,
    /// With it nodes encrypt what they say, and each shows a certificate.
    pub tls: Option<PeerTls>,
}

impl From<Secret> for Credentials {
    fn from(secret: Secret) -> Credentials {
        Credentials { secret, tls: None }
    }
}

/// A node's certificate, and the authorities that it believes. Clones share it.
#[derive(Clone)]
pub struct PeerTls {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
}

impl fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerTls(…)")
    }
}

impl PeerTls {
    /// TLS 1.3 with a certificate chain and its key, PEM. The other side, whichever it is, must show a
    /// certificate that one of `authorities_pem` signed. Host names are not compared: nodes move, and
    /// who has such a certificate is a node.
    ///
    /// # Errors
    /// If any of it cannot be used.
    pub fn new(
        certificate_pem: &[u8],
        key_pem: &[u8],
        authorities_pem: &[u8],
    ) -> Result<PeerTls, String> {
        let key = || {
            PrivateKeyDer::from_pem_slice(key_pem)
                .map_err(|error| format!("the private key cannot be used: {error}"))
        };
        let chain = certificates("the certificate", certificate_pem)?;
        let mut roots = RootCertStore::empty();
        for authority in certificates("the authorities' certificate", authorities_pem)? {
            roots.add(authority).map_err(|error| error.to_string())?;
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(ring::default_provider());
        let text = |error: Error| error.to_string();
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| error.to_string())?;
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&tokio_rustls::rustls::version::TLS13])
            .map_err(text)?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain.clone(), key()?)
            .map_err(text)?;
        let servers = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|error| error.to_string())?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&tokio_rustls::rustls::version::TLS13])
            .map_err(text)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyName(servers)))
            .with_client_auth_cert(chain, key()?)
            .map_err(text)?;
        Ok(PeerTls {
            acceptor: TlsAcceptor::from(Arc::new(server)),
            connector: TlsConnector::from(Arc::new(client)),
        })
    }
}

fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{what} cannot be used: {error}; it must be PEM"))?;
    if found.is_empty() { Err(format!("{what} is missing in its file")) } else { Ok(found) }
}

/// Believes who shows a certificate of the authorities, whatever name it is for.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The name is compared last, once everything else has held.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// The two directions of a connection.
pub(crate) type Halves = (Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>);

/// A connection between nodes, perhaps encrypted.
pub(crate) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {
    /// Its two directions.
    fn halves(self: Box<Self>) -> Halves;
}

impl Connection for TcpStream {
    fn halves(self: Box<Self>) -> Halves {
        let (reading, writing) = self.into_split();
        (Box::new(reading), Box::new(writing))
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Connection for tokio_rustls::TlsStream<S> {
    fn halves(self: Box<Self>) -> Halves {
        let (reading, writing) = tokio::io::split(*self);
        (Box::new(reading), Box::new(writing))
    }
}

impl Credentials {
    /// Agrees on keys with the node that was dialled, if nodes encrypt.
    pub(crate) async fn connect(&self, stream: TcpStream) -> Result<Box<dyn Connection>, String> {
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        // A name must be given, and is not compared.
        let name = ServerName::try_from("node").map_err(|error| error.to_string())?;
        let encrypted = tls.connector.connect(name, stream).await;
        let encrypted = encrypted.map_err(|error| format!("TLS between nodes: {error}"))?;
        Ok(Box::new(tokio_rustls::TlsStream::from(encrypted)))
    }

    /// Agrees on keys with the node that dials, if nodes encrypt.
    pub(crate) async fn accept(&self, stream: TcpStream) -> Result<Box<dyn Connection>, String> {
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let encrypted = tls.acceptor.accept(stream).await;
        let encrypted = encrypted.map_err(|error| format!("TLS between nodes: {error}"))?;
        Ok(Box::new(tokio_rustls::TlsStream::from(encrypted)))
    }
}
