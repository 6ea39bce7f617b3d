//! A histogram of durations with the buckets of `OPERATION`'s page: from a millisecond to ten
//! seconds.

use std::time::Duration;

/// The upper bounds of the buckets, in seconds; the last bucket has none.
pub const BOUNDS: [f64; 13] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// How many observations fell into each bucket, and their sum.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    counts: [u64; BOUNDS.len() + 1],
    sum: f64,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BOUNDS.partition_point(|bound| *bound < seconds);
        self.counts[bucket] += 1;
        self.sum += seconds;
    }

    /// The sum of all observations, in seconds.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// The number of observations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Each bucket's upper bound and the observations in it alone, the one without bound last.
    pub fn buckets(&self) -> [(f64, u64); BOUNDS.len() + 1] {
        std::array::from_fn(|i| {
            let bound = BOUNDS.get(i).copied().unwrap_or(f64::INFINITY);
            (bound, self.counts[i])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let mut histogram = Histogram::default();
        for millis in [1, 2, 10_000, 10_001] {
            histogram.observe(Duration::from_millis(millis));
        }
        let buckets = histogram.buckets();
        assert_eq!(buckets[0], (0.001, 1));
        assert_eq!(buckets[1], (0.0025, 1));
        assert_eq!(buckets[12], (10.0, 1));
        assert_eq!(buckets[13], (f64::INFINITY, 1));
        assert_eq!(histogram.count(), 4);
        assert!((histogram.sum() - 20.004).abs() < 1e-9);
    }
}
