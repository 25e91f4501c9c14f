//! Ctrl-C and SIGTERM: the first asks for a clean end, a second one ends the process at once.

use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Signals within this time are one request: supervisors signal a process and its group.
const ONE_REQUEST: Duration = Duration::from_millis(500);

/// Tells whether the process was asked to end. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Listens for Ctrl-C and SIGTERM from now on.
    ///
    /// # Errors
    /// The operating system refuses the signal handlers.
    pub fn install() -> std::io::Result<Shutdown> {
        let (sender, receiver) = watch::channel(false);
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::spawn(async move {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            // Without receivers there is nobody left to tell.
            let _ = sender.send(true);
            let asked = Instant::now();
            loop {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
                if asked.elapsed() >= ONE_REQUEST {
                    break;
                }
            }
            eprintln!("error: asked to end a second time: ending at once");
            std::process::exit(1);
        });
        Ok(Shutdown(receiver))
    }

    /// Resolves when the end was asked for.
    pub async fn requested(&self) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|asked| *asked).await.is_err() {
            // The listener is gone with its runtime: nothing can ask any more.
            std::future::pending::<()>().await;
        }
    }

    /// What `work` gives; `None` where the end is asked for first. What is dropped then must leave nothing half done.
    pub async fn unless_requested<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.requested() => None,
        }
    }

    /// The underlying channel: true once the end was asked for.
    pub fn receiver(&self) -> watch::Receiver<bool> {
        self.0.clone()
    }
}
