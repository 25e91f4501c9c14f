//! Readings that wait until the native frequency of their series is known.

use super::super::frequency::settle;
use super::super::outcome::Outcome;
use super::super::series::PendingReading;
use super::{Context, Series};

impl Series {
    // The native frequency is not known yet.
    pub(super) fn wait(&mut self, reading: PendingReading, context: &mut Context<'_>) {
        if self.put_aside(reading, context) {
            self.settle(context);
        }
    }

    // Keeps a reading for later; whether its stamp is a new one.
    pub(super) fn put_aside(&mut self, reading: PendingReading, context: &mut Context<'_>) -> bool {
        let pending = &mut self.state.extra_mut().pending;
        match pending.binary_search_by_key(&reading.at, |known| known.at) {
            Ok(index) if pending[index].position >= reading.position => {
                context.out.tally.count(&reading, Outcome::Duplicate, false);
                false
            }
            Ok(index) => {
                context.out.tally.count(&reading, Outcome::Waits, false);
                let older = std::mem::replace(&mut pending[index], reading);
                context.out.tally.released(&older);
                context.out.tally.count(&older, Outcome::Duplicate, false);
                false
            }
            Err(index) => {
                context.out.tally.count(&reading, Outcome::Waits, false);
                if pending.len() == pending.capacity() {
                    // Of millions of series each waits for a few: what is reserved for nothing adds up.
                    pending.reserve_exact(4 + pending.len() / 8);
                }
                pending.insert(index, reading);
                true
            }
        }
    }

    fn settle(&mut self, context: &mut Context<'_>) {
        match context.rules.frequency {
            Some(frequency) => self.state.declare(frequency),
            None => {
                let stamps = self.state.extra().pending.iter().map(|reading| reading.at);
                let Some(found) = settle(stamps, &context.rules.zone) else { return };
                self.state.detected(found);
            }
        }
        let waiting = std::mem::take(&mut self.state.extra_mut().pending);
        self.state.tidy();
        for reading in waiting {
            context.out.tally.released(&reading);
            if let Some(frequency) = self.state.frequency {
                self.read(frequency, reading, context);
            }
        }
    }
}
