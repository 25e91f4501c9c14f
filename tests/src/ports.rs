//! Ports on which nobody listens.

use std::net::{SocketAddr, TcpListener};

/// So many addresses of loopback, which differ. Somebody else may take one before it is used.
pub fn free_addresses(count: usize) -> Vec<SocketAddr> {
    // All are held until all are known.
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind(("127.0.0.1", 0)).expect("find a free port")).collect();
    listeners.iter().map(|listener| listener.local_addr().expect("the address of a listener")).collect()
}
