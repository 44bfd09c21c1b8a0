//! Who may come in, and how many at once. Everything here answers before a job enters the first queue.
//!
//! | question | file | says no with |
//! |---|---|---|
//! | is this capability ours, and does it grant this? | [`capability`], [`check`] | `unauth`, `scope`, `caveat`, `tenant`, `cap_timeout` |
//! | the same, if another service has the keys | [`upstream`] | the same |
//! | does this tenant, or do all together, send too fast? | [`limiter`] | `tenant_rate`, `over_capacity` |
//! | when may it come again? | [`limiter`] exactly, [`departures`] by what left lately | |
//! | are too many requests under way? | [`inflight`] | `over_capacity` |
//! | is the same computation under way already? | [`single_flight`] | nothing: twins wait together |
//!
//! The laws: a refusal names what was missing and nothing that helps a forger; memory is bounded whatever
//! strangers send; every limit changes by a reload without losing who is inside; time and chance are passed
//! in. `rejected_total` is counted where a refusal is answered, at the edge, so that none is counted twice.

pub mod capability;
pub mod check;
pub mod config;
pub mod departures;
pub mod error;
pub mod inflight;
pub mod limiter;
pub mod metrics;
mod remembered;
pub mod single_flight;
pub mod upstream;

pub use capability::{Caveat, ClientCert, Grant, Inspection, Keyring, Scope, Timestamp};
pub use check::{Checker, LocalVerifier, Pass, Verifier};
pub use config::Limits;
pub use departures::Departures;
pub use error::{Denied, KeyringError, Refused, TokenError};
pub use inflight::{Inflight, Inside};
pub use limiter::{Limiter, Standing, Wish};
pub use single_flight::{Follow, Joined, Lead, SingleFlight};
pub use upstream::{UpstreamVerifier, VerifierUrl};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, poisoned or not: nothing here leaves a half-made change behind, and one panic must not shut the
/// door for all.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod scrape {
    //! A metrics recorder of its own for one test.

    pub struct Scrape(metrics_exporter_prometheus::PrometheusRecorder);

    impl Default for Scrape {
        fn default() -> Self {
            Self(metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder())
        }
    }

    impl Scrape {
        /// Handles made during `make` write here.
        pub fn during<T>(&self, make: impl FnOnce() -> T) -> T {
            metrics::with_local_recorder(&self.0, make)
        }

        /// The value of one series.
        pub fn value(&self, series: &str) -> f64 {
            let text = self.0.handle().render();
            let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
        }
    }
}
