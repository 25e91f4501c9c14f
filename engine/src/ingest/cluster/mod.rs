//! One stream in several processes.
//!
//! Each process has so many workers of one timely cluster. Process 0 also has the coordinator, discovery and all that
//! is not the stream itself; the others have workers alone. Readings go from worker to worker by timely's own
//! connections (one between any two processes). Beside them each process has a `link` to process 0, which carries what
//! in one process is a channel or shared memory: parts of epochs and questions up; epochs, watermarks, partitions and
//! answers down.
//!
//! Only process 0 commits, so what keeps two engines apart (the fence) keeps two clusters apart, and a process that was
//! paused while the others started again can harm nobody: the connections that it knows are closed, and new ones are
//! refused, because they carry the number of the start. A process that is lost ends all of them: each says why, and
//! when they are started again the stream goes on from the last commit.
//!
//! `membership` is what the configuration says. `assemble` connects the processes, in any order of their starts; each
//! connection begins with a `handshake`. `frame` is what goes over a link, `message` what it means, `leader` the side
//! of process 0, `member` that of the others, which look first whether they are on the `same_lake`. `socket` stands
//! between timely and its connections.

mod assemble;
mod frame;
mod handshake;
mod leader;
mod link;
mod member;
mod membership;
mod message;
mod same_lake;
mod socket;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) use tests::free_addresses;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use meterline_schemas::config::Config;

pub(super) use leader::{Cluster, Links, Taken};
pub use member::{Member, follow};
pub(super) use membership::Membership;
pub(super) use message::Down;
pub use socket::Socket;

/// Why the processes do not come together, or not stay together.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClusterError {
    /// There is no such process.
    #[error("there is no process {process}: cluster.addresses names {processes}, which are numbered from 0")]
    NoSuchProcess {
        /// Its number.
        process: usize,
        /// How many there are.
        processes: usize,
    },
    /// The secret cannot be read.
    #[error("cluster.secret_file `{path}` cannot be used: {reason}")]
    Secret {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// Addresses that other machines can reach, and no secret.
    #[error(
        "`{address}` of cluster.addresses can be reached from other machines, without a secret; set \
         cluster.secret_file or {} in all processes, or use addresses of this machine",
        membership::SECRET_VARIABLE
    )]
    NoSecret {
        /// The address.
        address: String,
    },
    /// This process cannot listen.
    #[error("process {process} cannot listen at `{address}` (cluster.addresses): {reason}")]
    Listen {
        /// This process.
        process: usize,
        /// Its address.
        address: String,
        /// What the operating system says.
        reason: String,
    },
    /// Another process does not want this one.
    #[error("process {process} at {address} refuses this one: {reason}")]
    Refused {
        /// The other one.
        process: usize,
        /// Its address.
        address: String,
        /// What differs, and what to do.
        reason: String,
    },
    /// This process has another lake than process 0.
    #[error(
        "the lake of this process, `{ours}`, is not that of process 0, `{theirs}`: {reason}; give all processes \
         the same lake.url, and where that is a directory, one that all of them see"
    )]
    OtherLake {
        /// The lake of this process.
        ours: String,
        /// That of process 0, as it calls it.
        theirs: String,
        /// What differs.
        reason: String,
    },
    /// A process did not come in time.
    #[error("the workers of process {process} at {address} did not connect within {} s: {reason}", limit.as_secs())]
    Missing {
        /// The other one.
        process: usize,
        /// Its address.
        address: String,
        /// How long it was waited for.
        limit: Duration,
        /// What was tried last.
        reason: String,
    },
    /// A process is gone.
    #[error(
        "the connection to process {process} at {address} was lost: {reason}; all processes end, and go on after the \
         last commit when they are started again"
    )]
    Lost {
        /// The other one.
        process: usize,
        /// Its address.
        address: String,
        /// What the connection says.
        reason: String,
    },
    /// Something went wrong in another process.
    #[error("process {process}: {reason}")]
    Elsewhere {
        /// The other one.
        process: usize,
        /// Its error.
        reason: String,
        /// Whether its configuration is at fault.
        usage: bool,
    },
    /// The start was given up.
    #[error("the start was given up")]
    GivenUp,
}

impl ClusterError {
    /// Whether the configuration or an argument is at fault.
    pub const fn is_usage(&self) -> bool {
        matches!(
            self,
            ClusterError::NoSuchProcess { .. }
                | ClusterError::Secret { .. }
                | ClusterError::NoSecret { .. }
                | ClusterError::Refused { .. }
                | ClusterError::OtherLake { .. }
                | ClusterError::Elsewhere { usage: true, .. }
        )
    }
}

/// Whether the processes of a configuration can come together, as far as its secret says; how many there are.
///
/// # Errors
/// The secret cannot be read, or is missing.
pub fn check(config: &Config, directory: &Path) -> Result<usize, ClusterError> {
    let member = Membership::of(config, directory, 0, config.ingest.workers)?;
    Ok(member.map_or(1, |member| member.addresses.len()))
}

/// Does blocking work on a thread of its own. If nobody waits for it any more it is told to give up.
///
/// # Errors
/// Those of the work; and [`ClusterError::GivenUp`] where its thread cannot be started or dies.
pub(super) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce(&AtomicBool) -> Result<T, ClusterError> + Send + 'static,
) -> Result<T, ClusterError> {
    struct GiveUp(Arc<AtomicBool>);
    impl Drop for GiveUp {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let given_up = Arc::new(AtomicBool::new(false));
    let _guard = GiveUp(Arc::clone(&given_up));
    let (done, result) = tokio::sync::oneshot::channel();
    let spawned = std::thread::Builder::new().name("cluster-start".into()).spawn(move || {
        // Without a receiver it was given up.
        let _ = done.send(work(&given_up));
    });
    match spawned {
        Ok(_) => result.await.unwrap_or(Err(ClusterError::GivenUp)),
        Err(_) => Err(ClusterError::GivenUp),
    }
}

/// Waits until all threads have ended, but not for ever; whether they have.
pub(super) fn ended_within<T>(threads: &[std::thread::JoinHandle<T>], limit: Duration) -> bool {
    let began = Instant::now();
    while threads.iter().any(|thread| !thread.is_finished()) {
        if began.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}
