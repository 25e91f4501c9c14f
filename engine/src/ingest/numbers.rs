//! Numbers and runs of bytes, one after the other. A number takes one byte for each seven bits that it needs, the first
//! ones first, and nine at most.

/// What is wrong with bytes, in words.
pub(super) type Damage = &'static str;

const ENDS_EARLY: Damage = "a frame ends too early";
const TOO_LONG: Damage = "a frame has more than its series need";
// After so many bytes that say that another one comes, the last one is taken as it is.
const CONTINUED_MAX: usize = 8;

/// A number.
pub(super) fn put_number(bytes: &mut Vec<u8>, number: u64) {
    let mut rest = number;
    for _ in 0..CONTINUED_MAX {
        if rest < 0x80 {
            break;
        }
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
}

/// Bytes, with their number before them.
pub(super) fn put_part(bytes: &mut Vec<u8>, part: &[u8]) {
    put_number(bytes, part.len() as u64);
    bytes.extend_from_slice(part);
}

/// A small number for one that is near 0 on either side.
pub(super) fn folded(number: i64) -> u64 {
    (number << 1 ^ number >> 63) as u64
}

/// What was [`folded`].
pub(super) fn unfolded(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

/// A number as the step from the one before: those of meters that move alike are 0.
#[derive(Debug, Default)]
pub(super) struct Steps(i64);

impl Steps {
    /// The step to the next number.
    pub(super) fn to(&mut self, number: i64) -> u64 {
        let step = number.wrapping_sub(self.0);
        self.0 = number;
        folded(step)
    }

    /// The next number.
    pub(super) fn by(&mut self, step: u64) -> i64 {
        self.0 = self.0.wrapping_add(unfolded(step));
        self.0
    }
}

/// Bytes that are yet to be read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rest<'b>(&'b [u8]);

impl<'b> Rest<'b> {
    /// All of these.
    pub(super) fn of(bytes: &'b [u8]) -> Rest<'b> {
        Rest(bytes)
    }

    /// Whether there is nothing more.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> Result<u8, Damage> {
        let (byte, rest) = self.0.split_first().ok_or(ENDS_EARLY)?;
        self.0 = rest;
        Ok(*byte)
    }

    /// A number of [`put_number`].
    pub(super) fn number(&mut self) -> Result<u64, Damage> {
        let mut number = 0u64;
        for place in 0..CONTINUED_MAX {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << (7 * place);
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Ok(number | u64::from(self.byte()?) << (7 * CONTINUED_MAX))
    }

    /// As many bytes as an array has.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        let (array, rest) = self.0.split_first_chunk::<N>().ok_or(ENDS_EARLY)?;
        self.0 = rest;
        Ok(*array)
    }

    /// The next bytes.
    pub(super) fn bytes(&mut self, length: u64) -> Result<&'b [u8], Damage> {
        let length = usize::try_from(length).map_err(|_| ENDS_EARLY)?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(ENDS_EARLY)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// Bytes of [`put_part`].
    pub(super) fn part(&mut self) -> Result<Rest<'b>, Damage> {
        let length = self.number()?;
        self.bytes(length).map(Rest)
    }

    /// There is nothing more.
    pub(super) fn end(self) -> Result<(), Damage> {
        if self.0.is_empty() { Ok(()) } else { Err(TOO_LONG) }
    }

    /// All that is yet to be read.
    pub(super) fn all(self) -> &'b [u8] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small_numbers_are_short_and_the_greatest_takes_nine_bytes() {
        for (number, length) in [(0, 1), (127, 1), (128, 2), ((1 << 56) - 1, 8), (1 << 56, 9), (u64::MAX, 9)] {
            let mut bytes = Vec::new();
            put_number(&mut bytes, number);
            assert_eq!(bytes.len(), length, "{number}");
            let mut rest = Rest::of(&bytes);
            assert_eq!(rest.number(), Ok(number));
            assert_eq!(rest.end(), Ok(()));
            assert_eq!(Rest::of(&bytes[..length - 1]).number(), Err(ENDS_EARLY));
        }
        assert_eq!([0, -1, 1, i64::MIN, i64::MAX].map(folded), [0, 1, 2, u64::MAX, u64::MAX - 1]);
    }

    #[test]
    fn a_length_beyond_the_end_is_damage() {
        for length in [4, u64::MAX] {
            let mut bytes = Vec::new();
            put_number(&mut bytes, length);
            bytes.extend_from_slice(b"abc");
            assert!(Rest::of(&bytes).part().is_err());
        }
    }

    proptest! {
        #[test]
        fn numbers_come_back(
            small in proptest::collection::vec((any::<u64>(), 0..64u32), 0..20),
            signed in proptest::collection::vec(any::<i64>(), 0..20),
        ) {
            let numbers: Vec<u64> = small.into_iter().map(|(number, shift)| number >> shift).collect();
            let mut bytes = Vec::new();
            let mut steps = Steps::default();
            numbers.iter().for_each(|number| put_number(&mut bytes, *number));
            signed.iter().for_each(|number| put_number(&mut bytes, steps.to(*number)));
            let (mut rest, mut steps) = (Rest::of(&bytes), Steps::default());
            for number in numbers {
                prop_assert_eq!(rest.number(), Ok(number));
            }
            for number in signed {
                prop_assert_eq!(rest.number().map(|step| steps.by(step)), Ok(number));
            }
            prop_assert_eq!(rest.end(), Ok(()));
        }
    }
}
