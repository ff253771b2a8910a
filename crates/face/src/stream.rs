//! A connection's bytes, encrypted or not.
//!
//! A face reads and writes a [`Stream`] as it would a socket. What is written is sent without a flush,
//! also where encryption buffers: whoever reads next drives out what is left.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use proteus_env::net::TcpStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use crate::tls;

/// A connection to a client.
pub struct Stream {
    inner: Inner,
}

enum Inner {
    Plain(TcpStream),
    Encrypted(Box<Encrypted>),
}

struct Encrypted {
    stream: TlsStream<TcpStream>,
    /// Whether bytes were taken from the face that the socket has not taken.
    is_unflushed: bool,
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Stream {
        Stream { inner: Inner::Plain(stream) }
    }
}

impl Stream {
    pub(crate) fn encrypted(stream: TlsStream<TcpStream>) -> Stream {
        Stream { inner: Inner::Encrypted(Box::new(Encrypted { stream, is_unflushed: false })) }
    }

    /// The socket below: for hints to the operating system and its signs of life, not for bytes.
    pub fn socket(&self) -> &TcpStream {
        match &self.inner {
            Inner::Plain(stream) => stream,
            Inner::Encrypted(encrypted) => encrypted.stream.get_ref().0,
        }
    }

    /// Whether nobody on the way can read it.
    pub fn is_encrypted(&self) -> bool {
        matches!(self.inner, Inner::Encrypted(_))
    }

    /// Whom the client proved to be by a certificate: its subject as RFC 4514 writes it.
    pub fn client_subject(&self) -> Option<String> {
        let Inner::Encrypted(encrypted) = &self.inner else {
            return None;
        };
        tls::subject(encrypted.stream.get_ref().1.peer_certificates()?.first()?)
    }

    /// The socket, if it is not encrypted.
    pub(crate) fn into_plain(self) -> Option<TcpStream> {
        match self.inner {
            Inner::Plain(stream) => Some(stream),
            Inner::Encrypted(_) => None,
        }
    }

    /// Halves that two tasks may own.
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self.inner {
            Inner::Plain(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf(Half::Plain(read)), WriteHalf(Half::Plain(write)))
            }
            Inner::Encrypted(encrypted) => {
                let (read, write) = tokio::io::split(*encrypted);
                (ReadHalf(Half::Encrypted(read)), WriteHalf(Half::Encrypted(write)))
            }
        }
    }

    /// Halves that one task uses at once.
    pub fn split(&mut self) -> (BorrowedReadHalf<'_>, BorrowedWriteHalf<'_>) {
        match &mut self.inner {
            Inner::Plain(stream) => {
                let (read, write) = stream.split();
                (BorrowedReadHalf(Half::Plain(read)), BorrowedWriteHalf(Half::Plain(write)))
            }
            Inner::Encrypted(encrypted) => {
                let (read, write) = tokio::io::split(&mut **encrypted);
                (BorrowedReadHalf(Half::Encrypted(read)), BorrowedWriteHalf(Half::Encrypted(write)))
            }
        }
    }
}

/// The half of a connection that reads.
pub struct ReadHalf(Half<tokio::net::tcp::OwnedReadHalf, tokio::io::ReadHalf<Encrypted>>);

/// The half of a connection that writes.
pub struct WriteHalf(Half<tokio::net::tcp::OwnedWriteHalf, tokio::io::WriteHalf<Encrypted>>);

/// The half of a connection that reads, borrowed.
pub struct BorrowedReadHalf<'a>(
    Half<tokio::net::tcp::ReadHalf<'a>, tokio::io::ReadHalf<&'a mut Encrypted>>,
);

/// The half of a connection that writes, borrowed.
pub struct BorrowedWriteHalf<'a>(
    Half<tokio::net::tcp::WriteHalf<'a>, tokio::io::WriteHalf<&'a mut Encrypted>>,
);

enum Half<P, E> {
    Plain(P),
    Encrypted(E),
}

impl ReadHalf {
    /// The socket below, for hints to the operating system; an encrypted connection takes none.
    pub fn socket(&self) -> Option<&TcpStream> {
        match &self.0 {
            Half::Plain(read) => Some(read.as_ref()),
            Half::Encrypted(_) => None,
        }
    }
}

impl Encrypted {
    fn poll_drive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_unflushed {
            return Poll::Ready(Ok(()));
        }
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if let Poll::Ready(Ok(())) = flushed {
            self.is_unflushed = false;
        }
        flushed
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let encrypted = self.get_mut();
        // Who reads waits for the client, which may wait for what is left to be sent.
        if let Poll::Ready(Err(error)) = encrypted.poll_drive(context) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut encrypted.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let encrypted = self.get_mut();
        let written = Pin::new(&mut encrypted.stream).poll_write(context, bytes);
        if let Poll::Ready(Ok(count)) = written {
            encrypted.is_unflushed |= count > 0;
            if let Poll::Ready(Err(error)) = encrypted.poll_drive(context) {
                return Poll::Ready(Err(error));
            }
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_drive(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

macro_rules! delegate_read {
    ($type:ty, $kind:ident, $field:tt) => {
        impl AsyncRead for $type {
            fn poll_read(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                into: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                match &mut self.get_mut().$field {
                    $kind::Plain(stream) => Pin::new(stream).poll_read(context, into),
                    $kind::Encrypted(stream) => Pin::new(stream).poll_read(context, into),
                }
            }
        }
    };
}

macro_rules! delegate_write {
    ($type:ty, $kind:ident, $field:tt) => {
        impl AsyncWrite for $type {
            fn poll_write(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                match &mut self.get_mut().$field {
                    $kind::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
                    $kind::Encrypted(stream) => Pin::new(stream).poll_write(context, bytes),
                }
            }

            fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
                match &mut self.get_mut().$field {
                    $kind::Plain(stream) => Pin::new(stream).poll_flush(context),
                    $kind::Encrypted(stream) => Pin::new(stream).poll_flush(context),
                }
            }

            fn poll_shutdown(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                match &mut self.get_mut().$field {
                    $kind::Plain(stream) => Pin::new(stream).poll_shutdown(context),
                    $kind::Encrypted(stream) => Pin::new(stream).poll_shutdown(context),
                }
            }
        }
    };
}

delegate_read!(Stream, Inner, inner);
delegate_write!(Stream, Inner, inner);
delegate_read!(ReadHalf, Half, 0);
delegate_write!(WriteHalf, Half, 0);
delegate_read!(BorrowedReadHalf<'_>, Half, 0);
delegate_write!(BorrowedWriteHalf<'_>, Half, 0);
