//! File descriptors: each connection is one, and where they end the service goes deaf.

use crate::config::Settings;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors beside those of connections: stored objects that are read, the spool, the ledger, the runtime's own.
const BESIDE: u64 = 512;

/// Takes as many as the system allows, and warns if the settings let in more than that.
pub fn raise(settings: &Settings) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
    {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
    // On both ports.
    let wanted = 2 * settings.connections_max.0 as u64 + BESIDE;
    let Some(most) = getrlimit(Resource::Nofile).current else { return };
    if most < wanted {
        tracing::warn!(
            most,
            wanted,
            "fewer files may be open than connections_max asks for; raise the limit (LimitNOFILE, ulimit -n) or lower connections_max"
        );
    }
}
