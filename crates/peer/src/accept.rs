//! Answering other nodes.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proteus_env::net::{TcpListener, TcpStream};
use proteus_env::task;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc, watch};
use tracing::{debug, warn};

use crate::frame::{Frame, Kind};
use crate::handshake::{self, VERSIONS};
use crate::tls::Credentials;

/// How long a node may take to say who it is.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections open at once; there are a few from each node.
const CONNECTIONS_MAX: usize = 1024;

/// Questions of one connection that are being answered; reading pauses beyond.
const UNANSWERED_MAX: usize = 1024;

/// How long to wait when the operating system has no socket for us.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Written at once.
const WRITE_BYTES: usize = 256 * 1024;

/// An answer to come, or why there is none.
pub type Answering = Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send>>;

/// Answers messages.
pub trait Handler: Send + Sync + 'static {
    /// Takes a message. What must happen in the order of arrival happens before this returns; the rest
    /// when the future is awaited. It must not block.
    fn handle(&self, message: Bytes) -> Answering;
}

/// Answers nodes that connect to `listener` and have these credentials, until `stop` holds true.
pub async fn serve(
    listener: TcpListener,
    credentials: Credentials,
    handler: Arc<dyn Handler>,
    mut stop: watch::Receiver<bool>,
) {
    let budget = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept a node's connection");
                task::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let Ok(permit) = budget.clone().try_acquire_owned() else {
            warn!(%peer, "a connection between nodes was refused: there are {CONNECTIONS_MAX}");
            continue;
        };
        let (credentials, handler, mut stop) = (credentials.clone(), handler.clone(), stop.clone());
        task::spawn(async move {
            tokio::select! {
                ended = answer(stream, &credentials, handler) => match ended {
                    Ok(()) => {}
                    Err(reason) => warn!(%peer, reason, "a connection between nodes was closed"),
                },
                _ = stop.wait_for(|stop| *stop) => {}
            }
            drop(permit);
        });
    }
}

async fn answer(
    stream: TcpStream,
    credentials: &Credentials,
    handler: Arc<dyn Handler>,
) -> Result<(), String> {
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let shaken = task::timeout(HANDSHAKE_TIMEOUT, async {
        let mut stream = credentials.accept(stream).await?;
        let shaken = handshake::accept(&mut stream, &credentials.secret, VERSIONS).await;
        shaken.map(|_| stream).map_err(|error| error.to_string())
    });
    let stream = shaken.await.ok_or("it did not say who it is in time")??;
    let (mut reading, mut writing) = stream.halves();
    let (answers, mut answered) = mpsc::channel::<Frame>(UNANSWERED_MAX);
    let read = async {
        let unanswered = Arc::new(Semaphore::new(UNANSWERED_MAX));
        let mut buffer = BytesMut::new();
        loop {
            while let Some(frame) = Frame::decode(&mut buffer).map_err(|e| e.to_string())? {
                let permit = unanswered.clone().acquire_owned().await.map_err(|e| e.to_string())?;
                let answering = handler.handle(frame.body);
                let answers = answers.clone();
                task::spawn(async move {
                    let (kind, body) = match answering.await {
                        Ok(body) => (Kind::Answer, body),
                        Err(reason) => (Kind::Refusal, Bytes::from(reason)),
                    };
                    // A node that is gone asks again, if it comes back.
                    let _ = answers.send(Frame { kind, id: frame.id, body }).await;
                    drop(permit);
                });
            }
            match reading.read_buf(&mut buffer).await {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(error.to_string()),
            }
        }
    };
    let write = async {
        let mut buffer = BytesMut::new();
        while let Some(frame) = answered.recv().await {
            frame.encode(&mut buffer);
            while buffer.len() < WRITE_BYTES
                && let Ok(frame) = answered.try_recv()
            {
                frame.encode(&mut buffer);
            }
            if let Err(error) = writing.write_all_buf(&mut buffer).await {
                debug!(%error, "a node left before it was answered");
                return Ok(());
            }
        }
        Ok(())
    };
    tokio::select! {
        ended = read => ended,
        ended = write => ended,
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use proteus_env::net;

    use super::*;
    use crate::{CallError, Dialer, PeerTls, Secret};

    /// Remembers the order of arrival, and answers in reverse.
    #[derive(Default)]
    struct Echo(Mutex<Vec<Bytes>>);

    impl Handler for Echo {
        fn handle(&self, message: Bytes) -> Answering {
            let place = {
                let mut seen = self.0.lock();
                seen.push(message.clone());
                seen.len()
            };
            Box::pin(async move {
                if message.as_ref() == b"refuse" {
                    return Err("as asked".to_owned());
                }
                task::sleep(Duration::from_millis(20 - place.min(19) as u64)).await;
                Ok(message)
            })
        }
    }

    fn start(secret: &str) -> (String, Arc<Echo>, watch::Sender<bool>) {
        start_with(Secret::new(secret).into())
    }

    fn start_with(credentials: Credentials) -> (String, Arc<Echo>, watch::Sender<bool>) {
        let listener = net::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let echo = Arc::new(Echo::default());
        let (stop, stopping) = watch::channel(false);
        task::spawn(serve(listener, credentials, echo.clone(), stopping));
        (address, echo, stop)
    }

    #[tokio::test]
    async fn messages_arrive_in_order_and_each_gets_its_answer() {
        let (address, echo, _stop) = start("s");
        let dialer = Dialer::new(Secret::new("s").into());
        let calls: Vec<_> =
            (0..50u8).map(|number| dialer.call(&address, Bytes::from(vec![number]))).collect();
        for (number, call) in calls.into_iter().enumerate() {
            assert_eq!(call.await.unwrap(), vec![number as u8]);
        }
        let seen: Vec<u8> = echo.0.lock().iter().map(|message| message[0]).collect();
        assert_eq!(seen, (0..50).collect::<Vec<u8>>());
        let refused = dialer.call(&address, Bytes::from_static(b"refuse")).await;
        assert!(matches!(refused, Err(CallError::Refused(reason)) if reason == "as asked"));
    }

    #[tokio::test]
    async fn without_the_secret_nothing_is_handled() {
        let (address, echo, _stop) = start("s");
        let dialer = Dialer::new(Secret::new("other").into());
        let refused = dialer.call(&address, Bytes::from_static(b"hello")).await;
        assert!(
            matches!(refused, Err(CallError::NotAdmitted(reason)) if reason.contains("secret"))
        );
        assert!(echo.0.lock().is_empty());
    }

    #[tokio::test]
    async fn a_node_that_comes_back_is_found_again() {
        let (address, _echo, stop) = start("s");
        let dialer = Dialer::new(Secret::new("s").into());
        dialer.call(&address, Bytes::from_static(b"1")).await.unwrap();
        stop.send_replace(true);
        while dialer.call(&address, Bytes::from_static(b"2")).await.is_ok() {}
        let listener = loop {
            match net::listen(address.parse().unwrap()) {
                Ok(listener) => break listener,
                Err(_) => task::sleep(Duration::from_millis(10)).await,
            }
        };
        let (_stop, stopping) = watch::channel(false);
        task::spawn(serve(listener, Secret::new("s").into(), Arc::new(Echo::default()), stopping));
        while dialer.call(&address, Bytes::from_static(b"3")).await.is_err() {
            task::sleep(Duration::from_millis(10)).await;
        }
    }

    /// An authority, and what makes certificates of it.
    struct Authority(rcgen::CertifiedIssuer<'static, rcgen::KeyPair>);

    impl Authority {
        fn new() -> Authority {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
            parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            Authority(rcgen::CertifiedIssuer::self_signed(parameters, key).unwrap())
        }

        /// Of a node that has a certificate of this authority and believes `other`.
        fn node(&self, other: &Authority) -> Credentials {
            let key = rcgen::KeyPair::generate().unwrap();
            let parameters = rcgen::CertificateParams::new(vec!["n1".to_owned()]).unwrap();
            let certificate = parameters.signed_by(&key, &self.0).unwrap();
            let tls = PeerTls::new(
                certificate.pem().as_bytes(),
                key.serialize_pem().as_bytes(),
                other.0.pem().as_bytes(),
            );
            Credentials { secret: Secret::new("s"), tls: Some(tls.unwrap()) }
        }
    }

    #[tokio::test]
    async fn nodes_with_certificates_of_one_authority_speak_encrypted_and_to_no_others() {
        let (own, foreign) = (Authority::new(), Authority::new());
        let (address, _, _stop) = start_with(own.node(&own));
        let ask = |credentials: Credentials| {
            let dialer = Dialer::new(credentials);
            let address = address.clone();
            async move { dialer.call(&address, Bytes::from(vec![7; 300_000])).await }
        };
        assert_eq!(ask(own.node(&own)).await.unwrap().len(), 300_000);
        // One that believes us and is not believed, one that does not believe us, one without TLS, and
        // one of ours that does not know the secret.
        assert!(ask(foreign.node(&own)).await.is_err());
        assert!(ask(own.node(&foreign)).await.is_err());
        assert!(ask(Secret::new("s").into()).await.is_err());
        let ignorant = Credentials { secret: Secret::new("other"), ..own.node(&own) };
        assert!(ask(ignorant).await.is_err());
    }
}
