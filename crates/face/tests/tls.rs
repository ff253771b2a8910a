//! Encryption through a third party's client.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use proteus_env::net::TcpStream;
use proteus_env::{net, task};
use proteus_face::{
    ClientCertificate, Connection, Face, Listening, Metrics, Security, ServeOptions, Serving,
    Shutdown, ShutdownHandle, Tls, serve,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes that no buffer on the way holds at once.
const MANY_BYTES: usize = 8 * 1024 * 1024;

/// First says who is there, then says again what it hears.
struct Echo;

impl Face for Echo {
    fn name(&self) -> &'static str {
        "echo"
    }

    fn standard_port(&self) -> u16 {
        7
    }

    fn tls_port(&self) -> Option<u16> {
        None
    }

    fn try_it(&self, _address: SocketAddr) -> String {
        String::new()
    }

    fn authenticates(&self) -> bool {
        true
    }

    fn serve(self: Arc<Self>, connection: Connection) -> Serving {
        Box::pin(async move {
            let mut connection = connection;
            if connection.upgrade.is_some() {
                // A protocol that answers "S" to whoever asks.
                connection.stream.read_u8().await?;
                connection.stream.write_all(b"S").await?;
                connection = connection.encrypt().await?;
            }
            let subject = connection.stream.client_subject().unwrap_or_default();
            let mut stream = connection.stream;
            stream.write_all(format!("{subject}\n").as_bytes()).await?;
            let (mut reader, mut writer) = stream.into_split();
            let mut buffer = vec![0; 16 * 1024];
            loop {
                match reader.read(&mut buffer).await? {
                    0 => return Ok(()),
                    count => writer.write_all(&buffer[..count]).await?,
                }
            }
        })
    }
}

struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
struct Shown {
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn sign(&self, common_name: &str) -> Shown {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CountryName, "NZ");
        params.distinguished_name.push(DnType::OrganizationName, "Example");
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Shown { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// A client's configuration that believes this authority.
    fn client(&self, shown: Option<&Shown>) -> Arc<ClientConfig> {
        use tokio_rustls::rustls::pki_types::pem::PemObject;
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(match shown {
            None => builder.with_no_client_auth(),
            Some(shown) => {
                let chain = CertificateDer::from_pem_slice(shown.certificate.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![chain], key).unwrap()
            }
        })
    }
}

fn tls(authority: &Authority, clients: Option<ClientCertificate>) -> Tls {
    let shown = authority.sign("node");
    let pem = authority.pem();
    let clients = clients.map(|clients| (pem.as_bytes(), clients));
    Tls::new(shown.certificate.as_bytes(), shown.key.as_bytes(), clients).unwrap()
}

fn start(security: Security) -> (SocketAddr, ShutdownHandle) {
    let (handle, shutdown): (ShutdownHandle, Shutdown) = ShutdownHandle::new();
    let listener = net::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let options = ServeOptions { connections_max: 10, metrics: Metrics::default() };
    let listening = vec![Listening { listener, security }];
    (serve(Arc::new(Echo), listening, options, shutdown).unwrap().address, handle)
}

async fn encrypt(
    stream: TcpStream,
    config: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(config).connect(name, stream).await
}

async fn greeting(stream: &mut (impl AsyncReadExt + Unpin)) -> std::io::Result<String> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => return Ok(String::from_utf8(line).unwrap()),
            byte => line.push(byte),
        }
    }
}

#[tokio::test]
async fn many_bytes_come_back_encrypted() {
    let authority = Authority::new();
    let (address, _handle) = start(Security::Encrypted(tls(&authority, None)));
    let stream = net::connect(address).await.unwrap();
    let mut stream = encrypt(stream, authority.client(None)).await.unwrap();
    assert_eq!(greeting(&mut stream).await.unwrap(), "");
    let sent: Vec<u8> = (0..MANY_BYTES).map(|n| (n % 251) as u8).collect();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let expected = sent.clone();
    let writing = task::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer.flush().await.unwrap();
        writer
    });
    let mut received = vec![0; MANY_BYTES];
    task::timeout(PATIENCE, reader.read_exact(&mut received)).await.expect("an echo").unwrap();
    assert!(received == expected, "not the bytes that were sent");
    drop(writing.await);
}

#[tokio::test]
async fn clients_are_who_their_certificate_says() {
    let authority = Authority::new();
    let ann = authority.sign("ann");
    let required = tls(&authority, Some(ClientCertificate::Required));
    let (address, _handle) = start(Security::Encrypted(required));
    let stream = net::connect(address).await.unwrap();
    let mut stream = encrypt(stream, authority.client(Some(&ann))).await.unwrap();
    assert_eq!(greeting(&mut stream).await.unwrap(), "CN=ann,O=Example,C=NZ");

    let stranger = Authority::new();
    for shown in [None, Some(stranger.sign("ann"))] {
        let stream = net::connect(address).await.unwrap();
        let refused = async {
            let mut stream = encrypt(stream, authority.client(shown.as_ref())).await?;
            greeting(&mut stream).await
        };
        assert!(task::timeout(PATIENCE, refused).await.expect("an end").is_err());
    }

    let optional = tls(&authority, Some(ClientCertificate::Optional));
    let (address, _handle) = start(Security::Encrypted(optional));
    let stream = net::connect(address).await.unwrap();
    let mut stream = encrypt(stream, authority.client(None)).await.unwrap();
    assert_eq!(greeting(&mut stream).await.unwrap(), "");
}

#[tokio::test]
async fn a_protocol_may_encrypt_when_it_is_asked() {
    let authority = Authority::new();
    let tls = tls(&authority, None);
    let (address, _handle) = start(Security::Negotiated { tls, is_required: false });
    let mut stream = net::connect(address).await.unwrap();
    stream.write_all(b"?").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'S');
    let mut stream = encrypt(stream, authority.client(None)).await.unwrap();
    assert_eq!(greeting(&mut stream).await.unwrap(), "");
}

#[tokio::test]
async fn a_client_without_encryption_is_no_client_of_an_encrypted_port() {
    let authority = Authority::new();
    let (address, _handle) = start(Security::Encrypted(tls(&authority, None)));
    let mut stream = net::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let read = task::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an end");
    assert!(read.is_err() || !answer.windows(4).any(|part| part == b"HTTP"));
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let authority = Authority::new();
    let (one, other) = (authority.sign("one"), authority.sign("other"));
    for (certificate, key, expected) in [
        ("", one.key.as_str(), "certificate"),
        (one.certificate.as_str(), "", "private key"),
        ("nonsense", "nonsense", "certificate"),
        (one.certificate.as_str(), other.key.as_str(), "together"),
    ] {
        match Tls::new(certificate.as_bytes(), key.as_bytes(), None) {
            Ok(_) => panic!("{expected} is usable"),
            Err(error) => assert!(error.to_string().contains(expected), "{error}"),
        }
    }
}
