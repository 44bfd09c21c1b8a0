//! Rates: a bucket for each tenant, and one for all together (GCRA, by `governor`).
//!
//! governor's quotas are fixed, and moving state between limiters is what its users got wrong (governor
//! #273): a reload with other limits swaps in fresh, full buckets, and one with the same limits changes
//! nothing, so that reloading is no way to refill them.
//!
//! Memory is bounded whatever names a stranger makes up. A bucket holds a second's worth, so one that was
//! left alone for a second is full again and the same as a new one: forgetting it forgets nothing. When
//! [`TENANTS_MAX`] buckets exist those are forgotten, at most once a second since that looks at all of them;
//! a tenant who still finds no bucket shares one with all others in that case. We keep the map and not
//! governor's keyed limiter, which cannot tell a new key from an old one.

use crate::config::Limits;
use crate::error::Refused;
use crate::lock;
use arc_swap::ArcSwap;
use governor::clock::{Clock as GovernorClock, Reference};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use rewarder_model::world::Clock;
use rewarder_model::{Reason, TenantId};
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Most tenants with a bucket of their own: about 200 bytes each, so 3 MiB.
pub const TENANTS_MAX: usize = 16_384;

/// The time in which an empty bucket is full again: `Quota::per_second(n)` has a burst of `n`.
const REFILL: Duration = Duration::from_secs(1);

type Bucket = RateLimiter<NotKeyed, InMemoryState, Ticks, NoOpMiddleware<Duration>>;

/// Our clock as governor's.
#[derive(Clone)]
struct Ticks(Arc<dyn Clock>);

impl GovernorClock for Ticks {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.monotonic()
    }
}

/// Limits the rate of each tenant and of all.
pub struct Limiter {
    ticks: Ticks,
    buckets: ArcSwap<Buckets>,
}

struct Buckets {
    limits: Limits,
    whole: Bucket,
    /// For tenants beyond `TENANTS_MAX`.
    strangers: Bucket,
    tenants: Mutex<Tenants>,
}

#[derive(Default)]
struct Tenants {
    known: HashMap<TenantId, Known>,
    swept: Option<Duration>,
}

struct Known {
    bucket: Bucket,
    used: Duration,
}

impl Limiter {
    /// Full buckets.
    pub fn new(limits: Limits, clock: Arc<dyn Clock>) -> Self {
        let ticks = Ticks(clock);
        let buckets = ArcSwap::from_pointee(Buckets::new(limits, &ticks));
        Self { ticks, buckets }
    }

    /// Puts other limits in force.
    pub fn reload(&self, limits: Limits) {
        if self.buckets.load().limits != limits {
            self.buckets.store(Arc::new(Buckets::new(limits, &self.ticks)));
        }
    }

    /// Takes `cost` from the tenant's bucket, then from that of all. In this order a greedy tenant that is
    /// refused takes nothing from the others. A cost above a whole bucket counts as a whole bucket, or it
    /// could never be paid.
    pub fn take(&self, tenant: &TenantId, cost: NonZeroU32) -> Result<(), Refused> {
        let buckets = self.buckets.load();
        buckets.take_from_tenant(tenant, cost, &self.ticks)?;
        spend(&buckets.whole, cost.min(buckets.limits.rps_max), Reason::OverCapacity, &self.ticks)
    }

    /// How many tenants have a bucket.
    pub fn tenants(&self) -> usize {
        lock(&self.buckets.load().tenants).known.len()
    }
}

impl Buckets {
    fn new(limits: Limits, ticks: &Ticks) -> Self {
        let whole = bucket(limits.rps_max, ticks);
        let strangers = bucket(limits.tenant_rps_max, ticks);
        Self { limits, whole, strangers, tenants: Mutex::default() }
    }

    fn take_from_tenant(&self, tenant: &TenantId, cost: NonZeroU32, ticks: &Ticks) -> Result<(), Refused> {
        let named = self.limits.named.get(tenant).copied();
        let rate = named.unwrap_or(self.limits.tenant_rps_max);
        let now = ticks.now();
        let mut tenants = lock(&self.tenants);
        if !tenants.known.contains_key(tenant) {
            tenants.make_room(now);
            // The named are as many as the settings file says, and no stranger may crowd them out.
            if named.is_some() || tenants.known.len() < TENANTS_MAX {
                tenants.known.insert(tenant.clone(), Known { bucket: bucket(rate, ticks), used: now });
            }
        }
        let bucket = match tenants.known.get_mut(tenant) {
            Some(known) => {
                known.used = now;
                &known.bucket
            }
            None => &self.strangers,
        };
        spend(bucket, cost.min(rate), Reason::TenantRate, ticks)
    }
}

impl Tenants {
    fn make_room(&mut self, now: Duration) {
        let due = self.swept.is_none_or(|swept| now.saturating_sub(swept) >= REFILL);
        if self.known.len() >= TENANTS_MAX && due {
            self.known.retain(|_, known| Reference::duration_since(&now, known.used) < REFILL.into());
            self.swept = Some(now);
        }
    }
}

fn bucket(rate: NonZeroU32, ticks: &Ticks) -> Bucket {
    RateLimiter::direct_with_clock(Quota::per_second(rate), ticks.clone())
}

fn spend(bucket: &Bucket, cost: NonZeroU32, reason: Reason, ticks: &Ticks) -> Result<(), Refused> {
    let retry_after = match bucket.check_n(cost) {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(not_until)) => not_until.wait_time_from(ticks.now()),
        // Cannot be, since no cost is above the burst; a full refill is the honest answer if it could.
        Err(_) => REFILL,
    };
    Err(Refused { reason, retry_after })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rewarder_model::world::testing::HandClock;

    const ONE: NonZeroU32 = NonZeroU32::MIN;

    fn n(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    fn make(tenant_rps: u32, rps: u32) -> (Limiter, HandClock) {
        let clock = HandClock::default();
        clock.advance(Duration::from_secs(1000));
        let limits = Limits { tenant_rps_max: n(tenant_rps), rps_max: n(rps), ..Limits::default() };
        (Limiter::new(limits, Arc::new(clock.clone())), clock)
    }

    fn tenant(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    fn passed(limiter: &Limiter, name: &str, tries: usize) -> usize {
        (0..tries).filter(|_| limiter.take(&tenant(name), ONE).is_ok()).count()
    }

    #[test]
    fn a_tenant_has_its_own_bucket_and_is_told_when_to_come_again() {
        let (limiter, clock) = make(10, 1000);
        assert_eq!((passed(&limiter, "a", 50), passed(&limiter, "b", 50)), (10, 10));
        let refused = limiter.take(&tenant("a"), ONE).unwrap_err();
        assert_eq!((refused.reason, refused.retry_after), (Reason::TenantRate, Duration::from_millis(100)));
        clock.advance(refused.retry_after - Duration::from_nanos(1));
        assert_eq!(passed(&limiter, "a", 1), 0);
        clock.advance(Duration::from_nanos(1));
        assert_eq!(passed(&limiter, "a", 2), 1, "the wait was honest");
    }

    #[test]
    fn all_together_have_one_too() {
        let (limiter, _) = make(10, 25);
        let passes = ["a", "b", "c", "d"].map(|name| passed(&limiter, name, 10));
        assert_eq!(passes, [10, 10, 5, 0]);
        assert_eq!(limiter.take(&tenant("e"), ONE).unwrap_err().reason, Reason::OverCapacity);
        let (limiter, _) = make(10, 25);
        assert_eq!(
            (passed(&limiter, "greedy", 1000), passed(&limiter, "b", 10)),
            (10, 10),
            "refusals cost nobody"
        );
    }

    #[test]
    fn cost_counts_and_never_exceeds_a_bucket() {
        let (limiter, clock) = make(10, 1000);
        limiter.take(&tenant("a"), n(7)).unwrap();
        assert_eq!(limiter.take(&tenant("a"), n(4)).unwrap_err().retry_after, Duration::from_millis(100));
        clock.advance(REFILL);
        limiter.take(&tenant("a"), n(5000)).unwrap();
        assert_eq!(passed(&limiter, "a", 1), 0);
    }

    #[test]
    fn named_tenants_have_their_own_rate_and_are_never_crowded_out() {
        let (limiter, _) = make(10, 1_000_000);
        let named = [("big".parse().unwrap(), n(40)), ("small".parse().unwrap(), n(2))];
        limiter.reload(Limits {
            tenant_rps_max: n(10),
            rps_max: n(1_000_000),
            named: Arc::new(named.into()),
        });
        for stranger in 0..TENANTS_MAX + 50 {
            passed(&limiter, &format!("t{stranger}"), 1);
        }
        assert_eq!(limiter.tenants(), TENANTS_MAX);
        assert_eq!((passed(&limiter, "big", 99), passed(&limiter, "small", 99)), (40, 2));
    }

    #[test]
    fn a_reload_changes_limits_and_refills_only_then() {
        let (limiter, _) = make(10, 1000);
        assert_eq!(passed(&limiter, "a", 50), 10);
        limiter.reload(Limits { tenant_rps_max: n(10), rps_max: n(1000), ..Limits::default() });
        assert_eq!(passed(&limiter, "a", 50), 0);
        limiter.reload(Limits { tenant_rps_max: n(3), rps_max: n(1000), ..Limits::default() });
        assert_eq!(passed(&limiter, "a", 50), 3);
    }

    #[test]
    fn made_up_names_do_not_fill_the_memory() {
        let (limiter, clock) = make(10, 1_000_000);
        let name = |i: usize| format!("made-up-{i}");
        for i in 0..TENANTS_MAX {
            assert_eq!(passed(&limiter, &name(i), 1), 1);
        }
        assert_eq!(passed(&limiter, "late", 50), 10, "strangers share one bucket");
        assert_eq!((passed(&limiter, "later", 50), limiter.tenants()), (0, TENANTS_MAX));
        assert_eq!(passed(&limiter, &name(0), 50), 9, "who was there first keeps its own");

        clock.advance(REFILL / 2);
        assert_eq!(passed(&limiter, &name(7), 50), 10);
        clock.advance(REFILL / 2);
        assert_eq!(passed(&limiter, "late", 50), 10);
        assert_eq!(limiter.tenants(), 2, "the idle are forgotten, the others not");
        assert_eq!(passed(&limiter, &name(7), 50), 5, "nor is what they spent");
    }
}
