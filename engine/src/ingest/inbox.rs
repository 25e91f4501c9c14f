//! What workers tell the coordinator, in the order in which it comes; but of requests for series all that are there are
//! taken together.

use std::collections::VecDeque;

use compact_str::CompactString;
use tokio::sync::mpsc::UnboundedReceiver;

use super::dataflow::Event;

/// The coordinator's end of the channel.
pub(super) struct Inbox {
    events: UnboundedReceiver<Event>,
    // What came before all that is still in the channel.
    ahead: VecDeque<Event>,
}

impl Inbox {
    /// Begins with what comes first.
    pub(super) fn new(events: UnboundedReceiver<Event>) -> Inbox {
        Inbox { events, ahead: VecDeque::new() }
    }

    /// What comes next; `None` once all workers have ended. Nothing is lost where this is given up.
    pub(super) async fn recv(&mut self) -> Option<Event> {
        match self.ahead.pop_front() {
            Some(event) => Some(event),
            None => self.events.recv().await,
        }
    }

    /// The series that workers want, of those requests that are there already, up to so many; all else stays in its
    /// order.
    pub(super) fn take_series_wanted(&mut self, most: usize) -> Vec<(usize, Vec<CompactString>)> {
        let (mut taken, mut stay) = (Vec::new(), VecDeque::new());
        let ahead = std::mem::take(&mut self.ahead);
        for event in ahead.into_iter().chain(std::iter::from_fn(|| self.events.try_recv().ok())) {
            match event {
                Event::Wanted { worker, wanted } if taken.len() < most && !wanted.series.is_empty() => {
                    taken.push((worker, wanted.series));
                }
                other => stay.push_back(other),
            }
        }
        self.ahead = stay;
        taken
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;

    use super::super::dataflow::CensusPart;
    use super::super::recall::Wanted;
    use super::*;

    fn request(worker: usize, ids: &[&str]) -> (usize, Vec<CompactString>) {
        (worker, ids.iter().map(|id| CompactString::from(*id)).collect())
    }

    fn wants(worker: usize, ids: &[&str]) -> Event {
        let (worker, series) = request(worker, ids);
        Event::Wanted { worker, wanted: Wanted { series, ..Wanted::default() } }
    }

    fn census(epoch: u64) -> Event {
        Event::Census(CensusPart { epoch, counts: Vec::new() })
    }

    async fn next(inbox: &mut Inbox) -> String {
        match inbox.recv().await {
            Some(Event::Census(part)) => format!("census {}", part.epoch),
            Some(Event::Wanted { worker, wanted }) => format!("{worker} wants {}", wanted.series.join(" ")),
            Some(_) => "something else".into(),
            None => "the end".into(),
        }
    }

    #[tokio::test]
    async fn requests_for_series_are_taken_together_and_all_else_stays_in_its_order() {
        let (workers, events) = unbounded_channel();
        let mut inbox = Inbox::new(events);
        // What wants no series wants rows.
        let sent = [census(1), wants(3, &["d"]), census(2), wants(0, &[]), wants(1, &["b", "c"]), wants(2, &["a"])];
        sent.into_iter().for_each(|event| assert!(workers.send(event).is_ok()));
        assert_eq!(next(&mut inbox).await, "census 1");
        assert_eq!(inbox.take_series_wanted(2), [request(3, &["d"]), request(1, &["b", "c"])]);
        assert!(workers.send(census(3)).is_ok() && workers.send(wants(1, &["e"])).is_ok());
        drop(workers);
        assert!(inbox.take_series_wanted(0).is_empty());
        assert_eq!(inbox.take_series_wanted(9), [request(2, &["a"]), request(1, &["e"])]);
        for expected in ["census 2", "0 wants ", "census 3", "the end"] {
            assert_eq!(next(&mut inbox).await, expected);
        }
    }
}
