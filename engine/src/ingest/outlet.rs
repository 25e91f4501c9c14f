//! Where something goes that is meant for one taker: a channel of this process, or the link to another one.

use std::sync::{Arc, mpsc};

use tokio::sync::mpsc::UnboundedSender;

/// The sending end. Cheap to clone.
pub struct Outlet<T>(Arc<dyn Fn(T) + Send + Sync>);

impl<T> Outlet<T> {
    /// One that hands everything to `send`.
    pub fn new(send: impl Fn(T) + Send + Sync + 'static) -> Outlet<T> {
        Outlet(Arc::new(send))
    }

    /// Sends something. What is meant for a taker that has ended is lost: its end is told by other means.
    pub fn send(&self, item: T) {
        (self.0)(item);
    }
}

impl<T> Clone for Outlet<T> {
    fn clone(&self) -> Outlet<T> {
        Outlet(Arc::clone(&self.0))
    }
}

impl<T> std::fmt::Debug for Outlet<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Outlet")
    }
}

impl<T: Send + 'static> From<mpsc::Sender<T>> for Outlet<T> {
    fn from(sender: mpsc::Sender<T>) -> Outlet<T> {
        Outlet::new(move |item| _ = sender.send(item))
    }
}

impl<T: Send + 'static> From<UnboundedSender<T>> for Outlet<T> {
    fn from(sender: UnboundedSender<T>) -> Outlet<T> {
        Outlet::new(move |item| _ = sender.send(item))
    }
}
