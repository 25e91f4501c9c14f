//! The beginning of a new era: what was written of it at the old frequency is taken away, and read again at the new
//! one.

use std::collections::BTreeMap;

use meterline_schemas::Micros;
use meterline_schemas::time::HOUR;
use meterline_schemas::unit::Scale;

use super::super::eras::{self, Slot};
use super::super::memory::Remembered;
use super::super::outcome::Outcome;
use super::super::rows::{Content, Layer, Row};
use super::doubts::{Opening, Reached};
use super::{Context, Known, Output, Rules, Series, above, content_of, same_content};

/// A row that the table or the running epoch has of an interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Existing {
    /// Start of the interval.
    pub start: Micros,
    /// Its end.
    pub end: Micros,
    /// What was written last.
    pub content: Content,
    /// The number of the row, if it is one of the running epoch.
    pub row: Option<u32>,
}

/// An interval of the new era as it comes together.
struct Made {
    slot: Slot,
    content: Content,
}

impl Series {
    /// Opens an era for which `rows` were looked up: of all intervals that start in its span, those of the table and
    /// those of the running epoch. `scale` is that of readings from which nothing but the row is left.
    pub fn reopen(
        &mut self,
        rules: &Rules,
        number: u32,
        (opening, scale, reached): (&Opening, Scale, Reached),
        rows: Vec<Existing>,
        out: &mut Output,
    ) {
        // A reading that turns out to be of an earlier era is parked, and looked up after this.
        let Reached { watermark, .. } = reached;
        let mut context = Context { rules, number, watermark, known: Known::Remembered, out };
        self.open(opening, rows, scale, &mut context);
    }

    pub(super) fn remembered_rows(&self, opening: &Opening, context: &Context<'_>) -> Vec<Existing> {
        let Some(frequency) = self.state.frequency else { return Vec::new() };
        let existing = |known: &Remembered| Existing {
            start: known.start,
            end: frequency.advance(known.start, 1, &context.rules.zone),
            content: known.content(),
            row: known.row_in(context.out.epoch),
        };
        self.memory.from(opening.from).map(existing).collect()
    }

    pub(super) fn open(&mut self, opening: &Opening, rows: Vec<Existing>, scale: Scale, context: &mut Context<'_>) {
        let rules = context.rules;
        let mut rows = newest(rows);
        let old: Vec<Existing> = rows.values().filter(|row| row.content.count > 0).copied().collect();
        for row in rows.values_mut().filter(|row| row.content.count > 0) {
            take_away(row, context);
        }
        let stamps: Vec<Micros> = old.iter().map(|row| self.stamp_of(row.start, row.end, rules)).collect();
        self.memory.forget_from(opening.from);
        let held = self.state.extra_mut().pending.take();
        eras::end(&mut self.state, opening.start, old.len() as u64);
        let extra = self.state.extra_mut();
        extra.undisturbed = 0;
        extra.rewritten_to = extra.rewritten_to.max((!old.is_empty()).then_some(opening.to));
        self.state.detected(opening.found);
        let slot = |series: &Series, at| Slot::at(&series.state, opening.found.frequency, rules.label, &rules.zone, at);

        let mut made: BTreeMap<Micros, Made> = BTreeMap::new();
        for (row, at) in old.into_iter().zip(stamps) {
            let slot = slot(self, at);
            let value = match scale {
                Scale::Power(_) => row.content.value / hours(row.end - row.start) * hours(slot.end - slot.start),
                Scale::Energy(_) | Scale::AsIs => row.content.value,
            };
            put(&mut made, slot, Content { value, ..row.content });
        }
        for reading in held {
            context.out.tally.released(&reading);
            let slot = slot(self, reading.at);
            if !slot.is_present {
                self.take_interval(&slot, reading, context);
                continue;
            }
            let outcome = put(&mut made, slot, content_of(&reading, &slot));
            self.count(&reading, outcome, slot.end, context);
        }
        for Made { slot, content } in made.into_values() {
            self.write_again(slot, content, rows.get(&(slot.start, slot.end)), context);
        }
        self.state.tidy();
    }

    // Writes an interval of the new era; the table or the epoch may have a row of it from before, that was taken away.
    fn write_again(
        &mut self,
        slot: Slot,
        mut content: Content,
        existing: Option<&Existing>,
        context: &mut Context<'_>,
    ) {
        let out = &mut *context.out;
        let (series, Slot { start, end, .. }) = (context.number, slot);
        let layer = if existing.is_some() { Layer::Revision } else { Layer::Base };
        if let Some(existing) = existing {
            content.position = content.position.max(above(existing.content.position));
        }
        let row = match existing.and_then(|existing| existing.row) {
            Some(row) => {
                out.rows.revise(row, content);
                row
            }
            None => out.rows.push(Row { series, start, end, layer, content }),
        };
        if slot.is_present {
            eras::mark(&mut self.state, start, slot.frequency, &context.rules.zone);
        }
        let (epoch, remembered) = (context.out.epoch, context.out.remembered);
        self.memory.insert(Remembered::new(start, &content, epoch, row), remembered);
    }
}

/// Of the rows of one interval the one that counts.
fn newest(rows: Vec<Existing>) -> BTreeMap<(Micros, Micros), Existing> {
    let mut newest: BTreeMap<(Micros, Micros), Existing> = BTreeMap::new();
    for row in rows {
        let known = newest.entry((row.start, row.end)).or_insert(row);
        // The running epoch may have written again what the table has.
        if row.content.position >= known.content.position {
            *known = row;
        }
    }
    newest
}

fn hours(length: Micros) -> f64 {
    length as f64 / HOUR as f64
}

/// Of two readings of one interval the one with the greater position counts.
fn put(made: &mut BTreeMap<Micros, Made>, slot: Slot, content: Content) -> Outcome {
    match made.get_mut(&slot.start) {
        None => {
            made.insert(slot.start, Made { slot, content });
            Outcome::Accepted
        }
        Some(known) if known.content.position >= content.position => Outcome::Duplicate,
        Some(known) => {
            let same = same_content(&known.content, &content);
            known.content = content;
            if same { Outcome::Duplicate } else { Outcome::Corrected }
        }
    }
}

// No reading of the old frequency can come for it any more, so that the next position is above all. Of the rows that
// the epoch has of it this is the one with the greatest position: the others lose to it as they are.
fn take_away(existing: &mut Existing, context: &mut Context<'_>) {
    let (was, out) = (existing.content, &mut *context.out);
    let mut content = Content { value: 0.0, count: 0, ..was };
    match existing.row {
        Some(row) => out.rows.revise(row, content),
        None => {
            content.position = above(was.position);
            let Existing { start, end, .. } = *existing;
            let layer = Layer::Revision;
            let row = out.rows.push(Row { series: context.number, start, end, layer, content });
            if out.keeps_before {
                out.before.push((row, was));
            }
            existing.row = Some(row);
        }
    }
    existing.content = content;
}
