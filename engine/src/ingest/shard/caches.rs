//! Series are fetched into the processor's caches before they are needed.

use super::Member;

/// Readings whose series are fetched into the processor's caches at a time.
pub(super) const WARMED: usize = 64;
/// Series that the caches hold anyway.
const WARM_ANYWAY: usize = 1_000;

/// Looks at up to [`WARMED`] series that are needed next, and, where readings come, at the ends of their memories. Of
/// millions hardly one is in the caches of the processor: here it waits for all of them at once, instead of for one after
/// the other.
pub(super) fn warm(members: &[Member], for_readings: bool, numbers: impl Iterator<Item = u32>) {
    if members.len() < WARM_ANYWAY {
        return;
    }
    let mut wanted = [0; WARMED];
    let mut count = 0;
    for (slot, number) in wanted.iter_mut().zip(numbers) {
        *slot = number;
        count += 1;
    }
    let wanted = || wanted[..count].iter().filter_map(|number| members.get(*number as usize));
    let head = |member: &Member| member.route ^ member.series.head() ^ u64::from(member.bytes);
    std::hint::black_box(wanted().fold(0, |seen, member| seen ^ head(member)));
    if for_readings {
        std::hint::black_box(wanted().fold(0, |seen, member| seen ^ member.series.last_remembered()));
    }
}

/// Series one by one, each fetched in time.
pub(super) fn warmed<'m>(members: &'m [Member], numbers: &'m [u32]) -> impl Iterator<Item = (u32, &'m Member)> {
    numbers.chunks(WARMED).flat_map(|some| {
        warm(members, false, some.iter().copied());
        some.iter().map(|number| (*number, &members[*number as usize]))
    })
}
