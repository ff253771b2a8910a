//! Stream sockets.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};

pub use tokio::net::{TcpListener, TcpStream};

/// Connections the operating system may hold before they are accepted. A storm of reconnecting
/// clients after a restart is in the thousands.
const BACKLOG: i32 = 4096;

/// Listens on `address`; port 0 lets the operating system choose.
///
/// # Errors
/// If the address is taken or not of this machine.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Connects to `address`, with Nagle's delay switched off.
///
/// # Errors
/// If nobody listens there.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects to `host:port`, with Nagle's delay switched off.
///
/// # Errors
/// If the host is not known or nobody listens there.
pub async fn connect_to_host(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What this machine calls itself, if it says so.
pub fn host_name() -> Option<String> {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    (!name.is_empty() && name != "(none)").then_some(name)
}

/// Has what was received so far acknowledged now rather than with the next data sent.
///
/// A client that sends a request in pieces without switching Nagle's delay off waits for this
/// acknowledgement before it sends the rest: 40 ms, if nobody asks for it. It is a hint; where the
/// operating system has no such option nothing happens.
pub fn acknowledge_at_once(stream: &TcpStream) {
    #[cfg(target_os = "linux")]
    {
        // A socket that refuses is about to report its failure to its reader.
        let _ = rustix::net::sockopt::set_tcp_quickack(stream, true);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = stream;
}
