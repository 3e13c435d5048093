//! This process' memory: it holds keys and passphrases.
//!
//! Not dumpable: no core file, and nobody of the same user reads it by ptrace or `/proc/PID/mem`; root
//! still does. Not swapped where the limit of locked memory is lifted (`LimitMEMLOCK=infinity` in
//! systemd, `ulimits: memlock: -1` in Compose); with a limit, an allocation beyond it would fail one
//! day, so nothing is locked, and swap has to be encrypted or off.

/// Whether it may be swapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Swap {
    /// It is locked, page by page as it is used.
    Never,
    /// The limit of locked memory allows no more, or the system has no such thing.
    Possible,
}

/// Protects it, as far as the system allows. It is no reason not to start.
#[cfg(target_os = "linux")]
pub(crate) fn protect() -> Swap {
    use rustix::mm::{MlockAllFlags, mlockall};
    use rustix::process::{DumpableBehavior, Resource, getrlimit, set_dumpable_behavior};

    // It fails for no value that there is.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let is_unlimited = getrlimit(Resource::Memlock).current.is_none();
    // On fault: stacks and arenas that are never touched cost nothing.
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    if is_unlimited && mlockall(flags).is_ok() { Swap::Never } else { Swap::Possible }
}

/// Protects it, as far as the system allows.
#[cfg(not(target_os = "linux"))]
pub(crate) fn protect() -> Swap {
    Swap::Possible
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_this_process_is_dumped() {
        protect();
        let behavior = rustix::process::dumpable_behavior().unwrap();
        assert_eq!(behavior, rustix::process::DumpableBehavior::NotDumpable);
    }
}
