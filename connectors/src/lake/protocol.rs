//! What the owner of a table decides: from what was seen of the log, what is done next. Nothing is done here and
//! nothing waited for, so that the tests can try whatever writers and stores do to each other.
//!
//! The log is a row of entries. One is created only where there is none, and only right after the version that its
//! writer knows: so whatever is there was decided by somebody who knew all that comes before it. A claim is an entry
//! like any other. An owner that looks for newer claims in the version after which it puts cannot miss one, however
//! long it sleeps in between.
//!
//! An answer other than *done* says nothing. The entry may be there, may come yet, or may be another one; even that
//! there is one already may be said of our own, if the client sent it twice. So the log is read, and the entry looked
//! up, before anything is put again. A put that is still under way does no harm: once the log has grown, its place is
//! taken, and until then the next one wants the same place.

/// Puts of one attempt. If there was somebody else's entry each time, it is given up.
pub(super) const PUTS_MAX: u32 = 64;

/// What an owner wants to be in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Goal {
    /// The newest claim of a job.
    Claim,
    /// A commit. It is known by the number of its first transaction, and without one by nothing.
    Commit {
        /// The claim that must still be the newest.
        fence: Option<i64>,
        /// That of its first transaction.
        number: Option<i64>,
    },
    /// Files in the place of others. It is known by the files.
    Rewrite {
        /// The claim that must still be the newest.
        fence: Option<i64>,
    },
}

/// What one version of the log says of a goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Seen {
    /// The version.
    pub(super) version: i64,
    /// The newest claim of the job, if that matters; 0 before the first.
    pub(super) claim: i64,
    /// The newest number of a commit's first transaction.
    pub(super) number: Option<i64>,
    /// Where the files of a rewrite stand.
    pub(super) files: Standing,
}

/// Where the files of a rewrite stand in one version of the table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Standing {
    // What it is known by is there.
    came: bool,
    // The first of the files that it takes away and that are not there.
    gone: Option<usize>,
}

impl Standing {
    /// Of a rewrite that takes `removes` away for `adds`.
    pub(super) fn of<F>(removes: &[F], adds: &[F], active: impl Fn(&F) -> bool) -> Standing {
        let came = match adds.first() {
            // Names of files are unique: the new ones can be there only by this rewrite.
            Some(file) => active(file),
            // Where files only go, it does not matter who took them away.
            None => !removes.iter().any(&active),
        };
        Standing { came, gone: removes.iter().position(|file| !active(file)) }
    }
}

/// What is done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// [`Attempt::told`] what the version says that the owner knows.
    Look,
    /// The newest version is read, and the attempt told what it says. If it cannot be read, the attempt has failed.
    Read,
    /// The entry right after the version that was told last is created, if there is none: then [`Attempt::done`], and
    /// else [`Attempt::refused`].
    Put {
        /// That of a claim.
        number: i64,
    },
    /// Nothing.
    End(End),
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum End {
    /// The claim with this number is in the log.
    Claimed(i64),
    /// It is in this version of the log, by this attempt or an earlier one.
    Done(i64),
    /// It is not, because there is a newer claim.
    Fenced {
        /// The newest one.
        theirs: i64,
    },
    /// It is not, or no longer, because this one of the files that it takes away is gone.
    Overtaken(usize),
    /// A put was refused, and the log has not grown: the store fails. What was put may come yet; the next attempt at
    /// the same goal finds it then. Of a commit without a number: a put was refused, and nobody can tell whether it is
    /// what the log has grown by.
    Failed,
    /// Somebody else was always first.
    GivenUp,
}

impl End {
    /// The number of the claim that was made.
    pub(super) fn claim(self) -> Option<i64> {
        match self {
            End::Claimed(number) => Some(number),
            _ => None,
        }
    }

    /// The version that has what was wanted.
    pub(super) fn version(self) -> Option<i64> {
        match self {
            End::Done(version) => Some(version),
            _ => None,
        }
    }
}

/// Whether a claim is no longer the newest of its job.
pub(super) fn is_fenced(ours: i64, newest: i64) -> bool {
    ours != newest
}

/// One attempt at a goal. An attempt that failed is followed by another one at the same goal, from the version that the
/// owner knows then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Attempt {
    goal: Goal,
    // The version that was told last.
    at: i64,
    // Whether that was read for this attempt.
    read: bool,
    // The number that a claim would have there.
    number: i64,
    puts: u32,
    // Whether the last put was refused and nothing was told since.
    refused: bool,
}

impl Attempt {
    /// Begins one, with its first step.
    pub(super) fn begin(goal: Goal) -> (Attempt, Step) {
        let mut attempt = Attempt { goal, at: -1, read: false, number: 0, puts: 0, refused: false };
        let first = match goal {
            // Most often the owner has opened the table long ago.
            Goal::Claim => attempt.read(),
            Goal::Commit { .. } | Goal::Rewrite { .. } => Step::Look,
        };
        (attempt, first)
    }

    /// This is what a version says.
    pub(super) fn told(&mut self, seen: &Seen) -> Step {
        let refused = std::mem::take(&mut self.refused);
        if refused && seen.version <= self.at {
            return Step::End(End::Failed);
        }
        (self.at, self.number) = (seen.version, seen.claim + 1);
        let fenced = |fence: Option<i64>| fence.is_some_and(|ours| is_fenced(ours, seen.claim));
        match self.goal {
            // Had ours come behind an error, the next number is as good.
            Goal::Claim => self.put(),
            // The fence first: a newer writer may have used the same number for other data.
            Goal::Commit { fence, .. } if fenced(fence) => Step::End(End::Fenced { theirs: seen.claim }),
            Goal::Commit { number: Some(number), .. } if seen.number >= Some(number) => {
                Step::End(End::Done(seen.version))
            }
            Goal::Commit { number: None, .. } if refused => Step::End(End::Failed),
            Goal::Commit { .. } => self.put(),
            Goal::Rewrite { .. } if self.puts > 0 && seen.files.came => Step::End(End::Done(seen.version)),
            Goal::Rewrite { fence } => match seen.files.gone {
                // The owner may not know yet that the file came.
                Some(_) if !self.read => self.read(),
                Some(file) => Step::End(End::Overtaken(file)),
                None if fenced(fence) => Step::End(End::Fenced { theirs: seen.claim }),
                None => self.put(),
            },
        }
    }

    /// The put was done.
    pub(super) fn done(&mut self) -> Step {
        Step::End(match self.goal {
            Goal::Claim => End::Claimed(self.number),
            Goal::Commit { .. } | Goal::Rewrite { .. } => End::Done(self.at + 1),
        })
    }

    /// The put was answered otherwise, or not at all.
    pub(super) fn refused(&mut self) -> Step {
        self.refused = true;
        self.read()
    }

    fn read(&mut self) -> Step {
        self.read = true;
        Step::Read
    }

    fn put(&mut self) -> Step {
        if self.puts == PUTS_MAX {
            return Step::End(End::GivenUp);
        }
        self.puts += 1;
        Step::Put { number: self.number }
    }
}
