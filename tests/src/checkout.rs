//! The checkout whose scripts and data tests and benchmarks use.

use std::env;
use std::path::{Path, PathBuf};

/// A file that only the root of a checkout has.
const MARK: &str = "tests/kafka/fetch";

/// Root of the checkout: that of the package that cargo runs, else that which the program was built from, else the one
/// around the current folder. Cargo does not build anew where clones at different paths share a target folder, so the
/// path from the build may be one of another clone, or of one that is gone.
pub fn root() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR"));
    let run = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let candidates = [run, Some(built.to_owned()), env::current_dir().ok()];
    let found = candidates.iter().flatten().find_map(|folder| folder.ancestors().find(|root| root.join(MARK).exists()));
    found.or(built.parent()).unwrap_or(built).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_has_the_scripts() {
        assert!(root().join(MARK).exists() && root().join("Cargo.toml").exists());
    }
}
