//! Medians and percentiles.

use serde_json::{Value, json};

/// The middle value; 0 of none.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    percentile(values, 0.5)
}

/// The value below which `share` of the sorted values lie.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    if sorted.is_empty() {
        return 0.0;
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // a share of an index
    let index = ((sorted.len() - 1) as f64 * share).round() as usize;
    sorted[index]
}

/// Count, p50, p99 and extremes, rounded to a hundredth.
pub(crate) fn summary(mut values: Vec<f64>) -> Value {
    values.sort_by(f64::total_cmp);
    let rounded = |value: f64| (value * 100.0).round() / 100.0;
    json!({
        "n": values.len(),
        "min": rounded(values.first().copied().unwrap_or_default()),
        "p50": rounded(percentile(&values, 0.5)),
        "p99": rounded(percentile(&values, 0.99)),
        "max": rounded(values.last().copied().unwrap_or_default()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_values() {
        assert!((median(&mut [3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert_eq!(summary((0..=100).map(f64::from).collect())["p99"], 99.0);
        assert_eq!(summary(Vec::new())["n"], 0);
    }
}
