//! No core dumps: the process holds capability keys, the attestation key and tenants' data, and a core file would have them all.
//!
//! Two locks, since either can be opened by somebody else: the limit of a core file is 0, and the process is not dumpable, so
//! that a core collector that is a pipe (`|` in `core_pattern`, which knows no limit) gets nothing, and neither does another
//! process of the same user through ptrace or `/proc/PID/mem`. Root still can.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

/// Turns them off, for good. What the system does not allow is logged: it may be what a sandbox already sees to.
pub fn forbid() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if getrlimit(Resource::Core) != none
        && let Err(error) = setrlimit(Resource::Core, none)
    {
        tracing::warn!(%error, "the limit of core dumps cannot be lowered");
    }
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "the process stays dumpable; its memory holds keys");
    }
}
