//! What tests share. Only ever a dev-dependency.

pub mod fuzz;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use proteus_env::{SystemClock, net};
use proteus_face::{
    Face, Listening, Metrics, Security, ServeOptions, ServingFace, Shutdown, ShutdownHandle, serve,
};
use proteus_kernel_api::{Kernel, MemoryKernel};

/// A face on a loopback port of its own, until dropped.
pub struct ServedFace {
    /// Where real clients may connect.
    pub address: SocketAddr,
    /// Ask it to stop, or drop it.
    pub shutdown_handle: ShutdownHandle,
    /// To wait for the end of all connections.
    pub serving: ServingFace,
}

/// A kernel in memory that keeps real time.
pub fn memory_kernel() -> Arc<dyn Kernel> {
    Arc::new(MemoryKernel::new(Arc::new(SystemClock::new())))
}

/// Serves `face` on a free loopback port.
///
/// # Panics
/// If the machine has no free port.
pub fn serve_face(face: Arc<dyn Face>) -> ServedFace {
    serve_face_with(face, Security::Plain)
}

/// Serves `face` on a free loopback port, protected by `security`.
///
/// # Panics
/// If the machine has no free port.
pub fn serve_face_with(face: Arc<dyn Face>, security: Security) -> ServedFace {
    let (shutdown_handle, shutdown): (ShutdownHandle, Shutdown) = ShutdownHandle::new();
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = net::listen(any_port).expect("a free loopback port");
    let options = ServeOptions { connections_max: 4096, metrics: Metrics::default() };
    let listening = vec![Listening { listener, security }];
    let serving = serve(face, listening, options, shutdown).expect("a bound listener");
    ServedFace { address: serving.address, shutdown_handle, serving }
}
