//! Names that people write, and those that they may have meant.

/// Likeness (Jaro-Winkler, 0 to 1) from which on a name is worth being suggested.
const LIKE: f64 = 0.75;

/// The known name that is most like `name`, if one is.
pub fn nearest<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let scored = known.into_iter().map(|known| (strsim::jaro_winkler(name, known), known));
    let (score, known) = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (score > LIKE).then_some(known)
}

/// The question whether the name was meant that [`nearest`] found, and a space; nothing where it found none.
pub fn question(nearest: Option<&str>) -> String {
    nearest.map(|known| format!("did you mean `{known}`? ")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_like_none_is_nobodys() {
        let known = ["timestamp", "temperature", "tariff"];
        for (name, meant) in [("temprature", Some("temperature")), ("tarif", Some("tariff")), ("xyz", None)] {
            assert_eq!(nearest(name, known), meant, "{name}");
        }
        assert_eq!(nearest("a", []), None);
        assert_eq!(format!("{}{}", question(Some("tariff")), question(None)), "did you mean `tariff`? ");
    }
}
