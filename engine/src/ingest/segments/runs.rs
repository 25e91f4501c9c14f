//! A column of values, most of which are often the same as the one before: how many new ones come, and how often the
//! last of them comes again, and so on. So a column that never changes takes a few bytes, and one that always does
//! hardly more than its values.

use super::super::numbers::{Damage, Rest, put_number, put_part};

const EMPTY: Damage = "a frame has a run of no values";

/// What a column can have. Before its first value is the default.
pub(super) trait Value: Copy + Default + PartialEq {
    /// Writes one.
    fn put(self, bytes: &mut Vec<u8>);

    /// Reads one.
    fn take(rest: &mut Rest<'_>) -> Result<Self, Damage>;
}

impl Value for u64 {
    fn put(self, bytes: &mut Vec<u8>) {
        put_number(bytes, self);
    }

    fn take(rest: &mut Rest<'_>) -> Result<u64, Damage> {
        rest.number()
    }
}

/// Bits rather than a number: all of them, always.
impl Value for u128 {
    fn put(self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.to_le_bytes());
    }

    fn take(rest: &mut Rest<'_>) -> Result<u128, Damage> {
        rest.array().map(u128::from_le_bytes)
    }
}

/// A column that is being written.
#[derive(Debug, Default)]
pub(super) struct Written<T> {
    // Pairs: new values, and how often the last of them comes again.
    lengths: Vec<u8>,
    values: Vec<u8>,
    // The pair that is not written yet.
    new: u64,
    again: u64,
    last: T,
}

impl<T: Value> Written<T> {
    /// One more value.
    pub(super) fn push(&mut self, value: T) {
        if value == self.last {
            self.again += 1;
            return;
        }
        if self.again > 0 {
            self.end_run();
        }
        value.put(&mut self.values);
        self.new += 1;
        self.last = value;
    }

    fn end_run(&mut self) {
        put_number(&mut self.lengths, self.new);
        put_number(&mut self.lengths, self.again);
        (self.new, self.again) = (0, 0);
    }

    /// The column, after what is there.
    pub(super) fn finish(mut self, bytes: &mut Vec<u8>) {
        if self.new > 0 || self.again > 0 {
            self.end_run();
        }
        put_part(bytes, &self.lengths);
        put_part(bytes, &self.values);
    }
}

/// A column that is being read.
#[derive(Debug, Default)]
pub(super) struct Column<'b, T> {
    lengths: Rest<'b>,
    values: Rest<'b>,
    new: u64,
    again: u64,
    last: T,
}

impl<'b, T: Value> Column<'b, T> {
    /// The next one of what [`Written::finish`] wrote.
    pub(super) fn of(rest: &mut Rest<'b>) -> Result<Column<'b, T>, Damage> {
        Ok(Column { lengths: rest.part()?, values: rest.part()?, ..Column::default() })
    }

    /// The next value.
    pub(super) fn value(&mut self) -> Result<T, Damage> {
        if self.new == 0 && self.again == 0 {
            (self.new, self.again) = (self.lengths.number()?, self.lengths.number()?);
        }
        if self.new > 0 {
            self.new -= 1;
            self.last = T::take(&mut self.values)?;
        } else if self.again > 0 {
            self.again -= 1;
        } else {
            return Err(EMPTY);
        }
        Ok(self.last)
    }

    /// There is nothing more.
    pub(super) fn end(self) -> Result<(), Damage> {
        if self.new > 0 || self.again > 0 {
            return Err("a frame has a longer run than it has series");
        }
        self.lengths.end()?;
        self.values.end()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written<T: Value>(values: &[T]) -> Vec<u8> {
        let mut column = Written::<T>::default();
        values.iter().for_each(|value| column.push(*value));
        let mut bytes = Vec::new();
        column.finish(&mut bytes);
        bytes
    }

    fn read<T: Value>(bytes: &[u8], count: usize) -> Result<Vec<T>, Damage> {
        let mut rest = Rest::of(bytes);
        let mut column = Column::<T>::of(&mut rest)?;
        let values: Result<Vec<T>, Damage> = (0..count).map(|_| column.value()).collect();
        column.end()?;
        rest.end()?;
        values
    }

    #[test]
    fn a_column_takes_what_changes_in_it() {
        let length = |values: &[u64]| written(values).len();
        assert_eq!(length(&[]), 2);
        assert_eq!(length(&[0; 100]), 4);
        assert_eq!(length(&[7; 100]), 5);
        // Two lengths of parts, and one run.
        assert_eq!(length(&(1..=100).collect::<Vec<u64>>()), 2 + 2 + 100);
        assert_eq!(written(&[3u128, 3, 3, 9]).len(), 2 + 4 + 32);
    }

    #[test]
    fn what_does_not_fit_the_number_of_values_is_damage() {
        let bytes = written(&[1u64, 1, 1, 2]);
        assert_eq!(read::<u64>(&bytes, 4), Ok(vec![1, 1, 1, 2]));
        for count in [0, 1, 2, 3, 5, 6] {
            assert!(read::<u64>(&bytes, count).is_err(), "{count}");
        }
        // A run of nothing, of which there could be any number.
        assert_eq!(read::<u64>(&[2, 0, 0, 0], 1), Err(EMPTY));
        // Both lengths are the greatest there are.
        let endless: Vec<u8> = [&[18u8][..], &[u8::MAX; 18], &[1, 5]].concat();
        assert!(read::<u64>(&endless, 3).is_err());
    }

    proptest! {
        #[test]
        fn values_come_back(runs in proptest::collection::vec((0..4u64, 1..5usize), 0..40), wide in any::<u128>()) {
            let values: Vec<u64> = runs.iter().flat_map(|(value, times)| std::iter::repeat_n(*value, *times)).collect();
            prop_assert_eq!(read::<u64>(&written(&values), values.len()), Ok(values.clone()));
            let values: Vec<u128> = values.iter().map(|value| wide.wrapping_mul(u128::from(*value))).collect();
            prop_assert_eq!(read::<u128>(&written(&values), values.len()), Ok(values));
        }
    }
}
