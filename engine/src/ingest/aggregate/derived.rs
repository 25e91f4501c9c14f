//! Intervals that are made of several readings: the mean of a gauge's samples, the difference of a counter's registers.
//! They are computed once an epoch, when all of its readings are there.

use meterline_schemas::reading::{Position, Quality, ValueKind};
use meterline_schemas::{Frequency, Micros};

use super::super::outcome::Outcome;
use super::super::rows::{Content, Layer};
use super::super::samples::Sum;
use super::super::series::PendingReading;
use super::super::written::surely_unwritten;
use super::{Context, Known, Output, Rules, Series, above, revise, same_content};

/// Samples of one interval of a gauge at most.
const SAMPLES_MAX: usize = 100_000;

/// An interval that is to be computed anew from its samples or registers: number of its series, start, and whether
/// everything of it is known.
pub type Stale = (u32, Micros, bool);

/// Reason of a sample of an interval that has too many.
pub const TOO_MANY_SAMPLES: &str = "too_many_samples";

impl Output {
    /// The series whose intervals are to be computed anew before the epoch ends, with the intervals and whether
    /// everything of them is known; in order.
    pub fn take_stale(&mut self) -> Vec<Stale> {
        self.take_stale_of(|_| true)
    }

    /// Those of some series.
    pub fn take_stale_of(&mut self, of: impl Fn(u32) -> bool) -> Vec<Stale> {
        let (mut stale, rest) = std::mem::take(&mut self.stale).into_iter().partition::<Vec<_>, _>(|one| of(one.0));
        self.stale = rest;
        stale.sort_unstable();
        // Of two about one interval the one that knows more comes last.
        stale.reverse();
        stale.dedup_by_key(|(series, start, _)| (*series, *start));
        stale.reverse();
        stale
    }
}

impl Context<'_> {
    fn stale(&mut self, start: Micros) {
        let one = (self.number, start, self.known == Known::Everything);
        // Neighbours are often alike.
        if self.out.stale.last() != Some(&one) {
            self.out.stale.push(one);
        }
    }
}

impl Series {
    pub(super) fn read_sample(&mut self, frequency: Frequency, reading: PendingReading, context: &mut Context<'_>) {
        let rules = context.rules;
        let start = rules.slot(frequency, reading.at);
        let end = frequency.advance(start, 1, &rules.zone);
        let new = surely_unwritten(&self.state, start, frequency, &rules.zone);
        let first = rules.first_of(start);
        let looked_up = context.known == Known::Everything;
        if looked_up {
            self.samples.unfold(start);
        }
        let is_kept = || self.samples.complete_from(first) || self.samples.goes_on(start, reading.at);
        if !(new || context.known != Known::Remembered || is_kept()) {
            return context.park(reading, start, end);
        }
        if (new || looked_up) && self.state.last_start.is_none_or(|last| last <= start) {
            self.samples.extend_to(first);
        }
        let others = {
            let (folded, kept) = self.inside(rules, start, |at| rules.begins_by(at, end));
            folded.count as usize + kept.len()
        };
        if others >= SAMPLES_MAX && self.samples.at(reading.at).is_none() {
            let detail = format!("an interval of series `{}` has {SAMPLES_MAX} samples already", self.state.id);
            return context.bury(&reading, TOO_MANY_SAMPLES, detail);
        }
        let outcome = context.keep(self.samples.take(reading), reading);
        if matches!(outcome, Outcome::Accepted | Outcome::Corrected) {
            context.stale(start);
        }
        self.count(&reading, outcome, end, context);
    }

    pub(super) fn read_register(&mut self, frequency: Frequency, reading: PendingReading, context: &mut Context<'_>) {
        let zone = &context.rules.zone;
        let boundary = frequency.round(reading.at, zone);
        let (left, right) = (frequency.advance(boundary, -1, zone), frequency.advance(boundary, 1, zone));
        let register = PendingReading { at: boundary, ..reading };
        if context.known == Known::Remembered && !self.samples.complete_from(left) {
            // A repetition of the last register, the most frequent one, needs no more than that.
            let repeated = self.samples.at(boundary).is_some_and(|known| known.position >= register.position);
            match repeated {
                true => self.count(&reading, Outcome::Duplicate, boundary, context),
                false => context.park(reading, left, right),
            }
            return;
        }
        let last = self.state.extra().last_register.as_ref().map(|last| last.at);
        if context.known == Known::Everything && last.is_none_or(|last| last <= right) {
            self.samples.extend_to(left);
        }
        let outcome = context.keep(self.samples.take(register), register);
        if matches!(outcome, Outcome::Accepted | Outcome::Corrected) {
            context.stale(left);
            context.stale(boundary);
        }
        if outcome != Outcome::Duplicate || self.samples.last().is_some_and(|last| last.at == boundary) {
            let (extra, last) = (self.state.extra_mut(), self.samples.last().copied());
            match (extra.last_register.as_deref_mut(), last) {
                (Some(known), Some(last)) => *known = last,
                (_, last) => extra.last_register = last.map(Box::new),
            }
        }
        self.count(&reading, outcome, boundary, context);
    }

    // Computes an interval that is made of several readings anew, and writes it if it changed.
    fn derive(&mut self, frequency: Frequency, start: Micros, context: &mut Context<'_>) {
        let rules = context.rules;
        let end = frequency.advance(start, 1, &rules.zone);
        let found = match rules.kind {
            ValueKind::Counter => match (self.samples.at(start), self.samples.at(end)) {
                (Some(from), Some(to)) => difference(from, to, end - start),
                _ => return,
            },
            _ => {
                let (folded, kept) = self.inside(rules, start, |at| rules.begins_by(at, end));
                mean(kept.fold(folded, |sum, sample| sum.with(sample, end - start)))
            }
        };
        let known = self.memory.find(start);
        let new = known.is_none()
            && (context.known == Known::Everything || surely_unwritten(&self.state, start, frequency, &rules.zone));
        let mut content = match found {
            Some(content) => content,
            // Nothing was there, and nothing is to be taken away.
            None if new || known.as_ref().is_some_and(|known| known.content().count == 0) => return,
            None => Content { value: 0.0, count: 0, quality: Quality::Measured, position: Position::LEAST },
        };
        let same = |known: &Content| same_content(known, &content) && known.count == content.count;
        if known.as_ref().is_some_and(|known| same(&known.content())) {
            return;
        }
        // A part that arrives late has a smaller position than the others; its row must win all the same.
        if let Some(last) = self.state.extra().last_position.filter(|last| content.position <= *last) {
            content.position = above(last);
        }
        self.state.extra_mut().last_position = Some(content.position);
        match self.memory.find(start) {
            Some(known) => revise(known, end, content, context),
            None => {
                let layer = if new { Layer::Base } else { Layer::Revision };
                self.write(frequency, start, end, layer, content, context);
            }
        }
    }

    // The samples of a gauge in the interval that starts at `start`, up to the first for which `to` is true: what the
    // older ones come to, and the others. One that was looked up with a neighbour may be among both.
    fn inside(
        &self,
        rules: &Rules,
        start: Micros,
        to: impl Fn(Micros) -> bool,
    ) -> (Sum, impl ExactSizeIterator<Item = &PendingReading>) {
        let (folded, from) = self.samples.folded(start).unwrap_or((Sum::NONE, Micros::MIN));
        (folded, self.samples.between(move |at| at >= from && rules.begins_by(at, start), to))
    }

    /// Takes a sample or register that was looked up.
    pub fn recall_sample(&mut self, sample: PendingReading) {
        self.samples.take(sample);
    }

    // Forgets all but so many samples or registers, and those of intervals that are not remembered.
    pub(super) fn trim_samples(&mut self, rules: &Rules, remembered: usize, samples: usize) {
        // The sample at an interval's start belongs to the one before; the register there to both.
        let first_of = |start: Micros| if rules.kind == ValueKind::Gauge { rules.first_of(start) } else { start };
        if let Some(oldest) = self.memory.oldest() {
            self.samples.forget_before(first_of(oldest));
        }
        // However many there are of an interval, and also where they make none.
        let most = if rules.kind == ValueKind::Gauge { samples } else { samples.min(remembered + 1) };
        let (Some(surplus), Some(last), Some(frequency)) = (
            self.samples.len().checked_sub(most).filter(|surplus| *surplus > 0),
            self.samples.last(),
            self.state.frequency,
        ) else {
            return;
        };
        let first_kept = self.samples.nth(surplus).map_or(last.at, |first| first.at);
        if rules.kind != ValueKind::Gauge {
            return self.samples.forget_before(first_kept);
        }
        // Whole intervals, and what there is too much of the running one.
        let running = rules.slot(frequency, last.at);
        let next = frequency.advance(rules.slot(frequency, first_kept), 1, &rules.zone);
        self.samples.forget_before(rules.first_of(next.min(running)));
        if self.samples.len() > most {
            // Half of the room is for those that are a little out of order.
            self.fold(rules, frequency, running, (most / 2).max(1));
        }
    }

    // Of the interval of a gauge that starts at `start`, its last one, only what the older samples come to stays beside so
    // many new ones.
    fn fold(&mut self, rules: &Rules, frequency: Frequency, start: Micros, newest: usize) {
        let surplus = self.samples.len().saturating_sub(newest);
        let Some(from) = self.samples.nth(surplus).map(|first| first.at) else { return };
        if !self.samples.complete_from(rules.first_of(start)) && self.samples.folded(start).is_none() {
            return self.samples.forget_before(from);
        }
        let end = frequency.advance(start, 1, &rules.zone);
        let (folded, older) = self.inside(rules, start, |at| at >= from);
        let sum = older.fold(folded, |sum, sample| sum.with(sample, end - start));
        self.samples.fold_before(from, start, sum);
    }

    /// Computes an interval of [`Output::take_stale`].
    pub fn refresh(&mut self, rules: &Rules, (number, start, everything): Stale, out: &mut Output) {
        let known = if everything { Known::Everything } else { Known::Remembered };
        let mut context = Context { rules, number, watermark: Micros::MIN, known, out };
        if let Some(frequency) = self.state.frequency {
            self.derive(frequency, start, &mut context);
        }
    }
}

// A negative difference is none.
fn difference(from: &PendingReading, to: &PendingReading, length: Micros) -> Option<Content> {
    let value = to.scale.store(to.value, length) - from.scale.store(from.value, length);
    let (quality, position) = (from.quality.max(to.quality), from.position.max(to.position));
    (value >= 0.0).then_some(Content { value, count: 2, quality, position })
}

fn mean(Sum { sum, count, quality, position }: Sum) -> Option<Content> {
    (count > 0).then(|| Content { value: sum / f64::from(count), count, quality, position })
}
