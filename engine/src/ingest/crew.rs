//! The workers of a stream: so many threads in each of its processes. Pure.

/// All workers, as one of the processes sees them. They are numbered process by process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crew {
    /// Number of this process; the coordinator is in process 0.
    pub process: usize,
    /// Number of processes.
    pub processes: usize,
    /// Workers of each process.
    pub threads: usize,
}

impl Crew {
    /// All workers in one process.
    pub fn alone(threads: usize) -> Crew {
        Crew { process: 0, processes: 1, threads }
    }

    /// Number of workers in all processes.
    pub fn workers(self) -> usize {
        self.processes * self.threads
    }

    /// The process of a worker, and its number there.
    pub fn seat(self, worker: usize) -> (usize, usize) {
        (worker / self.threads.max(1), worker % self.threads.max(1))
    }

    /// The number that a worker has in this process; `None` for those of others.
    pub fn local(self, worker: usize) -> Option<usize> {
        let (process, local) = self.seat(worker);
        (process == self.process).then_some(local)
    }

    /// The place of a worker among those that read: neighbours are in different processes, so that few partitions are
    /// read by all of them.
    pub fn place(self, worker: usize) -> usize {
        let (process, local) = self.seat(worker);
        local * self.processes + process
    }

    /// The worker that has the shard of a series with this route.
    pub fn shard_of(self, route: u64) -> usize {
        shard_of(route, self.workers())
    }
}

/// Of so many workers the one that timely's exchange gives this route to.
pub fn shard_of(route: u64, workers: usize) -> usize {
    (route % workers.max(1) as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_worker_has_one_seat_and_one_place() {
        let crew = Crew { process: 1, processes: 3, threads: 2 };
        let seats: Vec<(usize, usize)> = (0..crew.workers()).map(|worker| crew.seat(worker)).collect();
        assert_eq!(seats, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]);
        let mine: Vec<Option<usize>> = (0..crew.workers()).map(|worker| crew.local(worker)).collect();
        assert_eq!(mine, [None, None, Some(0), Some(1), None, None]);
        let places: Vec<usize> = (0..crew.workers()).map(|worker| crew.place(worker)).collect();
        assert_eq!(places, [0, 3, 1, 4, 2, 5]);
        let alone = Crew::alone(4);
        assert!((0..4).all(|worker| alone.place(worker) == worker && alone.local(worker) == Some(worker)));
    }
}
