//! The clamps of the door. All may change by a reload; zero is impossible by type, for a door that nobody
//! passes is a mistake in the settings and not a wish.

use rewarder_model::TenantId;
use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

/// Default of `TENANT_RPS_MAX` (runbook §2).
pub const TENANT_RPS_MAX: NonZeroU32 = NonZeroU32::new(100).unwrap();

/// Default rate of all tenants together: a hundred tenants at their full rate, about a third of what one core
/// parses.
pub const RPS_MAX: NonZeroU32 = NonZeroU32::new(10_000).unwrap();

/// Default of `MAX_INFLIGHT` (runbook §2).
pub const MAX_INFLIGHT: NonZeroUsize = NonZeroUsize::new(512).unwrap();

/// Default budget of a capability check. A local one takes microseconds; an upstream within the same cluster
/// that takes longer than this is down for our purposes.
pub const CAPABILITY_BUDGET: Duration = Duration::from_millis(250);

/// Requests per second, with a second's worth as burst.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// For each tenant.
    pub tenant_rps_max: NonZeroU32,
    /// For these instead. They always have a bucket of their own.
    pub named: Arc<BTreeMap<TenantId, NonZeroU32>>,
    /// For all tenants together.
    pub rps_max: NonZeroU32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { tenant_rps_max: TENANT_RPS_MAX, named: Arc::default(), rps_max: RPS_MAX }
    }
}
