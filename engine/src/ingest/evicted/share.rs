//! What was found for several who asked at once: to each the series that he asked for. Pure.

use compact_str::CompactString;
use hashbrown::HashMap;

use super::super::segments::Frames;
use super::super::series::SeriesState;

/// The states of the series that each `asked` for, as far as they were `found`.
///
/// # Errors
/// A fault of ours, in words.
pub(super) fn pack(found: &[SeriesState], asked: &[Vec<CompactString>]) -> Result<Vec<Frames>, String> {
    share_out(found, asked).into_iter().map(|share| Frames::of(share.into_iter())).collect()
}

// A series belongs to one worker: no two ask for the same one.
fn share_out<'f>(found: &'f [SeriesState], asked: &[Vec<CompactString>]) -> Vec<Vec<&'f SeriesState>> {
    let ids = asked.iter().enumerate();
    let who: HashMap<&str, usize> =
        ids.flat_map(|(number, ids)| ids.iter().map(move |id| (id.as_str(), number))).collect();
    let mut shares = vec![Vec::new(); asked.len()];
    for state in found {
        if let Some(number) = who.get(state.id.as_str()) {
            shares[*number].push(state);
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use meterline_schemas::unit::Unit;

    use super::*;

    #[test]
    fn each_gets_what_he_asked_for_in_the_order_in_which_it_was_found() {
        let found = ["e", "a", "d", "b"].map(|id| SeriesState::new("meters", id, Unit::KWH));
        let asked = [vec!["a", "b", "c"], vec![], vec!["d", "e"], vec!["x"]];
        let asked = asked.map(|ids| ids.into_iter().map(CompactString::from).collect::<Vec<_>>());
        let [e, a, d, b] = &found;
        assert_eq!(share_out(&found, &asked), [vec![a, b], vec![], vec![e, d], vec![]]);
        let packed = pack(&found, &asked).unwrap();
        let counts: Vec<u64> = packed.iter().map(|frames| frames.series).collect();
        assert_eq!(counts, [2, 0, 2, 0]);
        assert_eq!(packed[2], Frames::of([e, d].into_iter()).unwrap());
        assert_eq!(pack(&[], &asked).unwrap(), vec![Frames::default(); 4]);
        assert!(pack(&[], &[]).unwrap().is_empty());
    }
}
