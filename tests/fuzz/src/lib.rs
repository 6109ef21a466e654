//! One binary for all targets of a crate: `PLEXUS_FUZZ` names the one to run.

pub use libfuzzer_sys;

/// Finds the target that `PLEXUS_FUZZ` names.
pub fn chosen(targets: &[(&str, fn(&[u8]))]) -> fn(&[u8]) {
    let names: Vec<&str> = targets.iter().map(|(name, _)| *name).collect();
    let name = std::env::var("PLEXUS_FUZZ").unwrap_or_default();
    let target = targets.iter().find(|(known, _)| *known == name);
    target.unwrap_or_else(|| panic!("PLEXUS_FUZZ must be one of {}", names.join(", "))).1
}

/// Makes the binary.
#[macro_export]
macro_rules! targets {
    ($targets:expr) => {
        static TARGET: std::sync::LazyLock<fn(&[u8])> =
            std::sync::LazyLock::new(|| $crate::chosen(&$targets));

        $crate::libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));
    };
}
