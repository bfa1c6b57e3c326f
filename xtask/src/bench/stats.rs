//! Numbers of rounds -> medians, spreads, and comparisons within a round. Pure.
//!
//! Two contenders are compared round by round and the median of that is taken, not the other way round: a slow minute of
//! the machine meets both sides of each comparison.

use std::collections::BTreeMap;

/// What one contender took, by round.
#[derive(Debug, Default, Clone)]
pub struct Samples(BTreeMap<u32, f64>);

impl Samples {
    /// Keeps the seconds of `round`.
    pub fn push(&mut self, round: u32, seconds: f64) {
        self.0.insert(round, seconds);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Median; none without samples.
    pub fn median(&self) -> Option<f64> {
        median(self.0.values().copied())
    }

    /// Least and most; none without samples.
    pub fn range(&self) -> Option<(f64, f64)> {
        let least = self.0.values().copied().min_by(f64::total_cmp)?;
        let most = self.0.values().copied().max_by(f64::total_cmp)?;
        Some((least, most))
    }

    /// How many times `base` this took; none when they share no round.
    pub fn ratio_to(&self, base: &Samples) -> Option<f64> {
        self.against(base, |mine, other| mine / other)
    }

    /// How much more than `base` this took, in seconds; none when they share no round.
    pub fn above(&self, base: &Samples) -> Option<f64> {
        self.against(base, |mine, other| mine - other)
    }

    fn against(&self, base: &Samples, compare: impl Fn(f64, f64) -> f64) -> Option<f64> {
        let shared = self.0.iter().filter_map(|(round, mine)| Some(compare(*mine, *base.0.get(round)?)));
        median(shared)
    }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 { Some(upper) } else { Some((upper + sorted[middle - 1]) / 2.0) }
}

/// The order of `count` contenders in `round`: looks random, is the same in every run.
pub fn order(count: usize, round: u32) -> Vec<usize> {
    let mut state = u64::from(round).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d;
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        order.swap(last, (state % (last as u64 + 1)) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[(u32, f64)]) -> Samples {
        let mut samples = Samples::default();
        values.iter().for_each(|&(round, value)| samples.push(round, value));
        samples
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        assert_eq!(median([4.0, 1.0, 3.0, 2.0].into_iter()), Some(2.5));
        assert_eq!(median([9.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median(std::iter::empty()), None);
    }

    #[test]
    fn comparisons_are_made_within_rounds_that_both_had() {
        let base = samples(&[(1, 1.0), (2, 10.0), (3, 2.0)]);
        let other = samples(&[(1, 2.0), (2, 20.0), (4, 900.0)]);
        assert_eq!(other.ratio_to(&base), Some(2.0));
        assert_eq!(other.above(&base), Some(5.5));
        assert_eq!(samples(&[(9, 1.0)]).ratio_to(&base), None);
    }

    #[test]
    fn each_round_has_everybody_once_and_not_always_in_the_same_order() {
        for round in 0..50 {
            let mut sorted = order(17, round);
            sorted.sort_unstable();
            assert_eq!(sorted, (0..17).collect::<Vec<_>>());
        }
        assert_ne!(order(17, 1), order(17, 2));
    }
}
