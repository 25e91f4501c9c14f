//! Readings that wait until the native frequency of their series is known.

use meterline_schemas::Micros;

use super::super::frequency::{may_settle, settle};
use super::super::outcome::Outcome;
use super::super::pending::Put;
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
        let put = self.state.extra_mut().pending.put(reading);
        let outcome = if put == Put::Known { Outcome::Duplicate } else { Outcome::Waits };
        context.out.tally.count(&reading, outcome, false);
        if let Put::Instead(older) = &put {
            context.out.tally.released(older);
            context.out.tally.count(older, Outcome::Duplicate, false);
        }
        put == Put::New
    }

    fn settle(&mut self, context: &mut Context<'_>) {
        match context.rules.frequency {
            Some(frequency) => self.state.declare(frequency),
            None => {
                let pending = &self.state.extra().pending;
                if !may_settle(pending.len(), pending.span()) {
                    return;
                }
                let stamps: Vec<Micros> = pending.iter().map(|reading| reading.at).collect();
                let Some(found) = settle(&stamps, &context.rules.zone) else { return };
                self.state.detected(found);
            }
        }
        let waiting = self.state.extra_mut().pending.take();
        self.state.tidy();
        for reading in waiting {
            context.out.tally.released(&reading);
            if let Some(frequency) = self.state.frequency {
                self.read(frequency, reading, context);
            }
        }
    }
}
