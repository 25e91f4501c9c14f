//! What housekeeping asks of the running stream: it alone commits to its tables, between two epochs.

use meterline_connectors::lake::{CommitError, Rewrite, Rewritten};
use tokio::sync::{mpsc, oneshot};

/// Requests that wait at most; one is asked at a time.
const WAITING: usize = 4;

/// One request, with where the answer goes.
pub(super) enum Request {
    /// Put files in the place of others.
    Rewrite { table: &'static str, rewrite: Rewrite, reply: oneshot::Sender<Result<Rewritten, CommitError>> },
    /// Say when no commit is being made, and whether the stream is still the one writer.
    Settle(oneshot::Sender<Result<(), CommitError>>),
}

/// Where requests are sent; cheap to clone.
#[derive(Debug, Clone)]
pub struct Requests(mpsc::Sender<Request>);

/// The stream has ended, or did before it answered.
#[derive(Debug, thiserror::Error)]
#[error("the stream has ended; its log says why")]
pub struct StreamEnded;

pub(super) fn channel() -> (Requests, mpsc::Receiver<Request>) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (Requests(sender), receiver)
}

impl Requests {
    /// Has files of `table` put in the place of others, between two epochs.
    ///
    /// # Errors
    /// [`StreamEnded`]; whether it was done is then to be looked up.
    pub async fn rewrite(
        &self,
        table: &'static str,
        rewrite: Rewrite,
    ) -> Result<Result<Rewritten, CommitError>, StreamEnded> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Request::Rewrite { table, rewrite, reply }).await.map_err(|_| StreamEnded)?;
        answer.await.map_err(|_| StreamEnded)
    }

    /// Returns once every commit is made, or given up, whose files were written before this was called, by whatever
    /// writer: a newer one is an error.
    ///
    /// # Errors
    /// [`StreamEnded`]; inside, a newer writer or a store that fails.
    pub async fn settle(&self) -> Result<Result<(), CommitError>, StreamEnded> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Request::Settle(reply)).await.map_err(|_| StreamEnded)?;
        answer.await.map_err(|_| StreamEnded)
    }
}
