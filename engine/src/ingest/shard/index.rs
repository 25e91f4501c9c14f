//! Where a shard has a series: numbers by route.
//!
//! Of a million series hardly one is in the caches of the processor, so a lookup costs what it costs to wait for a line
//! of memory. Here that is one: a place has the number of the series and half of its route, and where those are that
//! would be in the same place follows from neither but lies behind it (linear probing).

/// A table of numbers, at most three quarters full.
#[derive(Debug, Default)]
pub(super) struct Index {
    // The upper half of a route above the number plus one; 0 where nobody is. A power of two of them, or none.
    places: Vec<u64>,
    count: usize,
}

/// Places of the smallest table.
const PLACES_MIN: usize = 64;
/// Upper halves of routes have as many bits.
const TAG_BITS: u32 = 32;

fn tag(route: u64) -> u64 {
    route >> TAG_BITS
}

fn number(place: u64) -> u32 {
    (place as u32).wrapping_sub(1)
}

impl Index {
    // Where a series with this tag would be if nobody else were there: routes that follow each other are neighbours.
    fn home(&self, tag: u64) -> usize {
        (tag << TAG_BITS >> (u64::BITS - self.places.len().trailing_zeros())) as usize
    }

    fn after(&self, place: usize) -> usize {
        (place + 1) & (self.places.len() - 1)
    }

    // The place of the first of those with this route that is the one.
    fn place(&self, route: u64, is_it: impl Fn(u32) -> bool) -> Option<usize> {
        if self.count == 0 {
            return None;
        }
        let tag = tag(route);
        let mut place = self.home(tag);
        loop {
            match self.places[place] {
                0 => return None,
                taken if taken >> TAG_BITS == tag && is_it(number(taken)) => return Some(place),
                _ => place = self.after(place),
            }
        }
    }

    /// The number under a route of which `is_it` is true; among those that it is asked about may be numbers with other
    /// routes.
    pub(super) fn find(&self, route: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        self.place(route, is_it).map(|place| number(self.places[place]))
    }

    /// What the caches need before a number is looked up under this route. The result means nothing; it keeps the
    /// compiler from leaving this out.
    pub(super) fn head(&self, route: u64) -> u64 {
        if self.count == 0 { 0 } else { self.places[self.home(tag(route))] }
    }

    /// Adds a number that is not there yet, below `u32::MAX`.
    pub(super) fn insert(&mut self, route: u64, number: u32) {
        if (self.count + 1) * 4 > self.places.len() * 3 {
            self.grow();
        }
        self.put(tag(route) << TAG_BITS | u64::from(number.wrapping_add(1)));
        self.count += 1;
    }

    fn put(&mut self, taken: u64) {
        let mut place = self.home(taken >> TAG_BITS);
        while self.places[place] != 0 {
            place = self.after(place);
        }
        self.places[place] = taken;
    }

    fn grow(&mut self) {
        let places = (self.places.len() * 2).max(PLACES_MIN);
        let before = std::mem::replace(&mut self.places, vec![0; places]);
        before.into_iter().filter(|taken| *taken != 0).for_each(|taken| self.put(taken));
    }

    /// Takes a number away that was added under this route, if it is there.
    pub(super) fn remove(&mut self, route: u64, number: u32) {
        let Some(mut hole) = self.place(route, |one| one == number) else { return };
        self.count -= 1;
        // Who lies behind it only because it was there moves up, so that nobody is looked for in vain.
        let mask = self.places.len() - 1;
        let distance = |from: usize, to: usize| to.wrapping_sub(from) & mask;
        let mut place = self.after(hole);
        while self.places[place] != 0 {
            let home = self.home(self.places[place] >> TAG_BITS);
            if distance(home, place) >= distance(hole, place) {
                self.places[hole] = self.places[place];
                hole = place;
            }
            place = self.after(place);
        }
        self.places[hole] = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nobody_is_in_an_empty_one() {
        let mut index = Index::default();
        assert_eq!((index.find(0, |_| true), index.head(7)), (None, 0));
        index.remove(0, 0);
        index.insert(u64::MAX, 0);
        index.remove(u64::MAX, 1);
        assert_eq!(index.find(u64::MAX, |_| true), Some(0));
        index.remove(u64::MAX, 0);
        assert_eq!(index.find(u64::MAX, |_| true), None);
    }

    proptest! {
        // Routes of few tags, at both ends of the table, so that places are fought for and go round its end.
        #[test]
        fn it_has_what_was_added_and_not_taken_away(
            steps in proptest::collection::vec((0..40u64, any::<bool>(), any::<bool>()), 1..400),
        ) {
            let mut index = Index::default();
            let mut known: BTreeMap<u32, u64> = BTreeMap::new();
            let mut next = 0;
            for (tag, at_the_end, adds) in steps {
                let tag = if at_the_end { u64::from(u32::MAX) - tag % 7 } else { tag << 24 };
                let route = tag << TAG_BITS | u64::from(next % 3);
                if adds || known.is_empty() {
                    index.insert(route, next);
                    known.insert(next, route);
                    next += 1;
                } else {
                    let nth = tag as usize % known.len();
                    let (number, route) = known.iter().nth(nth).map(|(number, route)| (*number, *route)).unwrap();
                    index.remove(route, number);
                    known.remove(&number);
                    prop_assert_eq!(index.find(route, |one| one == number), None);
                }
                for (number, route) in &known {
                    prop_assert_eq!(index.find(*route, |one| one == *number), Some(*number));
                }
                prop_assert_eq!(index.count, known.len());
                prop_assert_eq!(index.places.iter().filter(|place| **place != 0).count(), known.len());
            }
        }
    }
}
