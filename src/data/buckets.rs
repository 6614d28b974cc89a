//! The few row lengths that batches are padded to. Each length is a plan to compile, each padded token is work for nothing.

/// Lengths are multiples of this, except the context itself.
const STEP: usize = 32;

/// At most this many lengths are weighed against each other.
const MAX_CANDIDATES: usize = 256;

/// At most `max` row lengths (tokens, ascending) that cover `lengths` with the least padding in all: multiples of 32, and
/// `context` for what is longer than the last multiple below it. Longer lengths than `context` count as `context`.
///
/// Empty for no lengths. The sum of padded lengths is minimal among all such choices (dynamic programming).
pub fn fit_buckets(lengths: impl IntoIterator<Item = usize>, context: usize, max: usize) -> Vec<usize> {
    let step = STEP * context.div_ceil(STEP * MAX_CANDIDATES).max(1);
    let mut candidates: Vec<usize> = (1..).map(|i| i * step).take_while(|&length| length < context).collect();
    candidates.push(context);
    let mut counts = vec![0u64; candidates.len()];
    for length in lengths {
        let at = candidates.partition_point(|&candidate| candidate < length).min(candidates.len() - 1);
        counts[at] += 1;
    }
    let Some(last) = counts.iter().rposition(|&count| count > 0) else { return Vec::new() };
    // below[i]: rows no longer than candidate i - 1
    let mut below = vec![0u64];
    counts.iter().for_each(|count| below.push(below[below.len() - 1] + count));
    // cost[i]: the least padded sum of rows that fit candidates ..= i, candidate i being a bucket; from[k][i]: the one before
    let single = |i: usize| below[i + 1] * candidates[i] as u64;
    let mut cost: Vec<u64> = (0..=last).map(single).collect();
    let mut best = (cost[last], 0);
    let mut from: Vec<Vec<usize>> = vec![vec![usize::MAX; last + 1]];
    for k in 1..max.max(1) {
        let mut next = cost.clone();
        let mut chosen = vec![usize::MAX; last + 1];
        for i in 1..=last {
            let with = |j: usize| cost[j] + (below[i + 1] - below[j + 1]) * candidates[i] as u64;
            if let Some(j) = (0..i).min_by_key(|&j| with(j)).filter(|&j| with(j) < next[i]) {
                (next[i], chosen[i]) = (with(j), j);
            }
        }
        from.push(chosen);
        cost = next;
        if cost[last] < best.0 {
            best = (cost[last], k);
        }
    }
    let (mut k, mut i) = (best.1, last);
    let mut buckets = vec![candidates[last]];
    while k > 0 {
        if from[k][i] != usize::MAX {
            i = from[k][i];
            buckets.push(candidates[i]);
        }
        k -= 1;
    }
    buckets.reverse();
    buckets
}

/// The smallest of `buckets` (ascending, not empty) that holds `length` tokens, else the largest.
pub(super) fn bucket_of(buckets: &[usize], length: usize) -> usize {
    let at = buckets.partition_point(|&bucket| bucket < length);
    buckets.get(at).or(buckets.last()).copied().unwrap_or(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn few_lengths_are_covered_exactly() {
        assert_eq!(fit_buckets([64, 64], 64, 4), [64]);
        assert_eq!(fit_buckets([10, 33, 500], 512, 4), [32, 64, 512]);
        assert_eq!(fit_buckets([100], 100, 4), [100]);
        assert_eq!(fit_buckets([20], 100, 4), [32]);
        assert_eq!(fit_buckets([7], 16, 4), [16]);
        assert_eq!(fit_buckets([], 16, 4), [0; 0]);
        assert_eq!(fit_buckets([1000; 3], 300, 1), [300]);
    }

    fn padded(lengths: &[usize], buckets: &[usize]) -> usize {
        lengths.iter().map(|&length| bucket_of(buckets, length)).sum()
    }

    proptest! {
        #[test]
        fn no_other_choice_pads_less(lengths in prop::collection::vec(1usize..=200, 1..20), max in 1usize..=3) {
            let buckets = fit_buckets(lengths.iter().copied(), 200, max);
            prop_assert!(buckets.len() <= max && buckets.is_sorted());
            prop_assert!(lengths.iter().all(|&length| bucket_of(&buckets, length) >= length));
            let all: Vec<usize> = (1..=6).map(|i| i * 32).chain([200]).collect();
            let longest = *lengths.iter().max().unwrap();
            for choice in 0u32..1 << all.len() {
                let other: Vec<usize> = (0..all.len()).filter(|i| choice >> i & 1 == 1).map(|i| all[i]).collect();
                if other.len() <= max && other.last().is_some_and(|&last| last >= longest) {
                    prop_assert!(padded(&lengths, &buckets) <= padded(&lengths, &other), "{:?} {:?}", buckets, other);
                }
            }
        }
    }
}
