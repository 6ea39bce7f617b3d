//! Suggestions for misspelt words.

/// The one of `known` that `word` is most likely meant to be, if any is near enough. Case does not
/// matter.
pub fn closest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A third of the letters may be wrong, as rustc has it.
    let most = word.chars().count().max(3) / 3;
    let word = word.to_lowercase();
    known
        .into_iter()
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(&word, &candidate.to_lowercase());
            (distance, candidate)
        })
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        assert_eq!(closest("sslmod", ["sslmode", "sslcert"]), Some("sslmode"));
        assert_eq!(closest("Postgers", ["postgres", "redis"]), Some("postgres"));
        assert_eq!(closest("banana", ["sslmode", "sslcert"]), None);
    }
}
