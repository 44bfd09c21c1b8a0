//! Rates: a bucket for each tenant, and one for all together.
//!
//! A bucket is one number, the time at which it is full again (GCRA, ITU-T I.371):
//!
//! ```text
//! spent(now)  = max(full_at - now, 0)              in time: a token takes 1 s / rate to come back
//! pass        if spent + cost <= 1 s               a bucket holds a second's worth
//! wait        = spent + cost - 1 s                 exact; this is what Retry-After says
//! ```
//!
//! **Cost.** A request takes one token at the door. What it turns out to move is charged when it is known, a token for each
//! whole [`COST_BYTES`]: bytes of a snapshot as they arrive, and again when they are decoded, which a run that is in the
//! store already is not; and when a question about one actor has to read them. Such a charge is never refused, the work being done; it puts the bucket into debt, at most
//! [`DEBT_MAX`], and the next requests of that tenant wait. So an epoch of 1 GiB costs 257 tokens to store and 257 to compute
//! instead of one each, and with 100 a second its tenant sends the next request 1.6 s later.
//!
//! ```text
//! tokens(bytes) = 1 + floor(bytes / 4 MiB)
//! ```
//!
//! **Inspection goes before new work.** An eighth of the common bucket is there for reading results alone: when new work has
//! used up the rest, tenants can still ask what became of theirs.
//!
//! **Memory** is bounded whatever names a stranger makes up. A bucket that is full is the same as a new one: forgetting it
//! forgets nothing. When [`TENANTS_MAX`] buckets exist those are forgotten, at most once a second since that looks at all of
//! them; a tenant who still finds no bucket shares one with all others in that case.
//!
//! **A reload** changes rates and gives nothing back: what was spent stays spent, in tokens. `governor`, which this floor had
//! before, fixes a quota for good, cannot go into debt and costs a limiter a tenant; a bucket here is 20 bytes.

use crate::config::Limits;
use crate::error::Refused;
use crate::lock;
use arc_swap::ArcSwap;
use rewarder_model::world::Clock;
use rewarder_model::{Reason, TenantId};
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Most tenants with a bucket of their own: about 150 bytes each, so 2.5 MiB.
pub const TENANTS_MAX: usize = 16_384;

/// What one token pays for beside its request: a window of decode, whose cost on one core is that of some hundred small
/// requests.
pub const COST_BYTES: u64 = 4 << 20;

/// Longest debt: with it a tenant is never shut out for longer than people wait, whatever it has sent.
pub const DEBT_MAX: Duration = Duration::from_secs(60);

/// The time in which an empty bucket is full again; the window that `RateLimit-Policy` tells.
pub const WINDOW: Duration = Duration::from_secs(1);

/// The share of the common bucket that only inspection may use.
const INSPECTION_SHARE: u32 = 8;

/// What a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// To bring new work: uploads, policies, runs.
    Work,
    /// To look at what there is.
    Inspection,
}

/// Where a tenant stands, for the `RateLimit` headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Tokens that a full bucket holds.
    pub quota: u32,
    /// Whole tokens that are left.
    pub remaining: u32,
    /// Time until it is full again.
    pub reset: Duration,
}

/// Limits the rate of each tenant and of all.
pub struct Limiter {
    clock: Arc<dyn Clock>,
    limits: ArcSwap<Limits>,
    buckets: Mutex<Buckets>,
}

struct Buckets {
    whole: Bucket,
    /// For tenants beyond `TENANTS_MAX`.
    strangers: Bucket,
    known: HashMap<TenantId, Bucket>,
    swept: Option<Duration>,
}

/// When it is full again, and by which rate that was reckoned.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    full_at: Duration,
    rate: NonZeroU32,
}

fn time_of(tokens: u64, rate: NonZeroU32) -> Duration {
    // Below 2^64 ns for everything that is charged: debts end at a minute.
    let nanos = u128::from(tokens) * WINDOW.as_nanos() / u128::from(rate.get());
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

impl Bucket {
    const fn full(rate: NonZeroU32) -> Self {
        Self { full_at: Duration::ZERO, rate }
    }

    /// Spent time, reckoned by the rate that is in force. A lower rate makes no wait longer than it was: the wait was told.
    fn spent(&mut self, rate: NonZeroU32, now: Duration) -> Duration {
        let spent = self.full_at.saturating_sub(now);
        if rate == self.rate {
            return spent;
        }
        let scaled = spent.as_nanos() * u128::from(self.rate.get()) / u128::from(rate.get());
        let scaled = Duration::from_nanos(u64::try_from(scaled).unwrap_or(u64::MAX)).min(spent);
        *self = Self { full_at: now + scaled, rate };
        scaled
    }

    /// How long to wait for one token, beyond `spare`; zero if it is there.
    fn wait(&mut self, rate: NonZeroU32, spare: Duration, now: Duration) -> Duration {
        (self.spent(rate, now) + time_of(1, rate)).saturating_sub(WINDOW + spare)
    }

    fn spend(&mut self, tokens: u64, rate: NonZeroU32, now: Duration) {
        let spent = self.spent(rate, now).saturating_add(time_of(tokens, rate));
        self.full_at = now + spent.min(WINDOW + DEBT_MAX);
    }

    fn standing(&mut self, rate: NonZeroU32, now: Duration) -> Standing {
        let reset = self.spent(rate, now);
        let left = WINDOW.saturating_sub(reset).as_nanos() * u128::from(rate.get()) / WINDOW.as_nanos();
        // At most the rate.
        Standing { quota: rate.get(), remaining: left as u32, reset }
    }
}

impl Limiter {
    /// Full buckets.
    pub fn new(limits: Limits, clock: Arc<dyn Clock>) -> Self {
        let (whole, strangers) = (Bucket::full(limits.rps_max), Bucket::full(limits.tenant_rps_max));
        let buckets = Buckets { whole, strangers, known: HashMap::new(), swept: None };
        Self { clock, limits: ArcSwap::from_pointee(limits), buckets: Mutex::new(buckets) }
    }

    /// Puts other limits in force.
    pub fn reload(&self, limits: Limits) {
        self.limits.store(Arc::new(limits));
    }

    /// Takes a token from the tenant's bucket and from that of all, or from neither: a greedy tenant that is refused takes
    /// nothing from the others, and who finds the common bucket empty loses nothing of its own.
    pub fn take(&self, tenant: &TenantId, wish: Wish) -> (Standing, Result<(), Refused>) {
        let limits = self.limits.load();
        let now = self.clock.monotonic();
        let mut buckets = lock(&self.buckets);
        let Buckets { whole, .. } = &mut *buckets;
        let spare = match wish {
            Wish::Work => Duration::ZERO,
            Wish::Inspection => time_of(u64::from(limits.rps_max.get() / INSPECTION_SHARE), limits.rps_max),
        };
        let common = whole.wait(limits.rps_max, spare, now);
        let (own, rate) = buckets.of(tenant, &limits, now);
        let wait = own.wait(rate, Duration::ZERO, now);
        let refused = if !wait.is_zero() {
            Some(Refused { reason: Reason::TenantRate, retry_after: wait })
        } else if !common.is_zero() {
            Some(Refused { reason: Reason::OverCapacity, retry_after: common })
        } else {
            own.spend(1, rate, now);
            None
        };
        let standing = own.standing(rate, now);
        match refused {
            Some(refused) => (standing, Err(refused)),
            None => {
                buckets.whole.spend(1, limits.rps_max, now);
                (standing, Ok(()))
            }
        }
    }

    /// Whether a tenant has paid for what it was charged, for a request that has taken its token and waited since. It takes none.
    pub fn is_solvent(&self, tenant: &TenantId) -> Result<(), Refused> {
        let limits = self.limits.load();
        let now = self.clock.monotonic();
        let mut buckets = lock(&self.buckets);
        let (own, rate) = buckets.of(tenant, &limits, now);
        let debt = own.spent(rate, now).saturating_sub(WINDOW);
        if debt.is_zero() { Ok(()) } else { Err(Refused { reason: Reason::TenantRate, retry_after: debt }) }
    }

    /// Charges a tenant for what its request turned out to be. The common bucket counts requests and is not charged: the
    /// debt of one is not that of all.
    pub fn charge(&self, tenant: &TenantId, tokens: u64) {
        let limits = self.limits.load();
        let now = self.clock.monotonic();
        let mut buckets = lock(&self.buckets);
        let (own, rate) = buckets.of(tenant, &limits, now);
        own.spend(tokens, rate, now);
    }

    /// How many tenants have a bucket.
    pub fn tenants(&self) -> usize {
        lock(&self.buckets).known.len()
    }
}

impl Buckets {
    fn of(&mut self, tenant: &TenantId, limits: &Limits, now: Duration) -> (&mut Bucket, NonZeroU32) {
        let named = limits.named.get(tenant).copied();
        let rate = named.unwrap_or(limits.tenant_rps_max);
        if !self.known.contains_key(tenant) {
            self.make_room(now);
            // The named are as many as the settings file says, and no stranger may crowd them out.
            if named.is_some() || self.known.len() < TENANTS_MAX {
                self.known.insert(tenant.clone(), Bucket::full(rate));
            }
        }
        (self.known.get_mut(tenant).unwrap_or(&mut self.strangers), rate)
    }

    fn make_room(&mut self, now: Duration) {
        let due = self.swept.is_none_or(|swept| now.saturating_sub(swept) >= WINDOW);
        if self.known.len() >= TENANTS_MAX && due {
            self.known.retain(|_, bucket| bucket.full_at > now);
            self.swept = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rewarder_model::world::testing::HandClock;

    fn n(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    fn limits(tenant_rps: u32, rps: u32) -> Limits {
        Limits { tenant_rps_max: n(tenant_rps), rps_max: n(rps), ..Limits::default() }
    }

    fn make(tenant_rps: u32, rps: u32) -> (Limiter, HandClock) {
        let clock = HandClock::default();
        clock.advance(Duration::from_secs(1000));
        (Limiter::new(limits(tenant_rps, rps), Arc::new(clock.clone())), clock)
    }

    fn tenant(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    fn passed_as(limiter: &Limiter, name: &str, tries: usize, wish: Wish) -> usize {
        (0..tries).filter(|_| limiter.take(&tenant(name), wish).1.is_ok()).count()
    }

    fn passed(limiter: &Limiter, name: &str, tries: usize) -> usize {
        passed_as(limiter, name, tries, Wish::Work)
    }

    fn refusal(limiter: &Limiter, name: &str) -> Refused {
        limiter.take(&tenant(name), Wish::Work).1.unwrap_err()
    }

    #[test]
    fn a_tenant_has_its_own_bucket_and_is_told_when_to_come_again() {
        let (limiter, clock) = make(10, 1000);
        assert_eq!((passed(&limiter, "a", 50), passed(&limiter, "b", 50)), (10, 10));
        let refused = refusal(&limiter, "a");
        assert_eq!((refused.reason, refused.retry_after), (Reason::TenantRate, Duration::from_millis(100)));
        clock.advance(refused.retry_after - Duration::from_nanos(1));
        assert_eq!(passed(&limiter, "a", 1), 0);
        clock.advance(Duration::from_nanos(1));
        assert_eq!(passed(&limiter, "a", 2), 1, "the wait was honest");
    }

    #[test]
    fn a_standing_tells_what_is_left_and_when_all_is_back() {
        let (limiter, clock) = make(10, 1000);
        let ms = Duration::from_millis;
        let told = |remaining, reset| Standing { quota: 10, remaining, reset };
        assert_eq!(limiter.take(&tenant("a"), Wish::Work).0, told(9, ms(100)));
        assert_eq!(limiter.take(&tenant("a"), Wish::Work).0, told(8, ms(200)));
        passed(&limiter, "a", 50);
        assert_eq!(limiter.take(&tenant("a"), Wish::Work).0, told(0, ms(1000)));
        clock.advance(ms(150));
        assert_eq!(limiter.take(&tenant("a"), Wish::Work).0, told(0, ms(950)));
    }

    #[test]
    fn all_together_have_one_too_and_whom_it_refuses_loses_nothing() {
        let (limiter, clock) = make(10, 25);
        let passes = ["a", "b", "c", "d"].map(|name| passed(&limiter, name, 10));
        assert_eq!(passes, [10, 10, 5, 0]);
        let refused = refusal(&limiter, "e");
        assert_eq!((refused.reason, refused.retry_after), (Reason::OverCapacity, Duration::from_millis(40)));
        clock.advance(Duration::from_millis(400));
        assert_eq!(passed(&limiter, "d", 10), 10, "its own bucket was still full");
        let (limiter, _) = make(10, 25);
        assert_eq!(
            (passed(&limiter, "greedy", 1000), passed(&limiter, "b", 10)),
            (10, 10),
            "refusals cost nobody"
        );
    }

    #[test]
    fn inspection_has_an_eighth_of_the_common_bucket_for_itself() {
        let (limiter, _) = make(1000, 40);
        assert_eq!(passed(&limiter, "a", 100), 40);
        assert_eq!(passed_as(&limiter, "b", 100, Wish::Inspection), 5);
        assert_eq!(passed(&limiter, "c", 100), 0);
    }

    #[test]
    fn what_was_moved_is_charged_afterwards_and_paid_off_in_time() {
        let (limiter, clock) = make(100, 10_000);
        assert_eq!(passed(&limiter, "a", 1), 1);
        limiter.charge(&tenant("a"), (1 << 30) / COST_BYTES);
        // 257 tokens, of which the bucket had 100: 157 of debt and one for the next request.
        assert_eq!(refusal(&limiter, "a").retry_after, Duration::from_millis(1580));
        assert_eq!(passed(&limiter, "b", 200), 100, "it is nobody else's");
        clock.advance(Duration::from_millis(1580));
        assert_eq!(passed(&limiter, "a", 2), 1);
        limiter.charge(&tenant("a"), u64::MAX);
        let most = DEBT_MAX + time_of(1, n(100));
        assert_eq!(refusal(&limiter, "a").retry_after, most, "debt has an end");
    }

    #[test]
    fn an_empty_bucket_is_no_debt() {
        let (limiter, clock) = make(1, 10_000);
        let a = tenant("a");
        assert_eq!(passed(&limiter, "a", 2), 1);
        assert_eq!(limiter.is_solvent(&a), Ok(()), "its only token was this request's");
        limiter.charge(&a, 3);
        let refused = limiter.is_solvent(&a).unwrap_err();
        assert_eq!((refused.reason, refused.retry_after), (Reason::TenantRate, Duration::from_secs(3)));
        clock.advance(refused.retry_after);
        assert_eq!(limiter.is_solvent(&a), Ok(()));
    }

    #[test]
    fn named_tenants_have_their_own_rate_and_are_never_crowded_out() {
        let (limiter, _) = make(10, 1_000_000);
        let named = [("big".parse().unwrap(), n(40)), ("small".parse().unwrap(), n(2))];
        limiter.reload(Limits { named: Arc::new(named.into()), ..limits(10, 1_000_000) });
        for stranger in 0..TENANTS_MAX + 50 {
            passed(&limiter, &format!("t{stranger}"), 1);
        }
        assert_eq!(limiter.tenants(), TENANTS_MAX);
        assert_eq!((passed(&limiter, "big", 99), passed(&limiter, "small", 99)), (40, 2));
    }

    #[test]
    fn a_reload_changes_rates_and_gives_nothing_back() {
        let (limiter, clock) = make(10, 1000);
        assert_eq!(passed(&limiter, "a", 50), 10);
        limiter.reload(limits(10, 1000));
        assert_eq!(passed(&limiter, "a", 50), 0);
        limiter.reload(limits(100, 1000));
        assert_eq!(passed(&limiter, "a", 500), 90, "ten were spent");
        limiter.reload(limits(10, 1000));
        assert_eq!(refusal(&limiter, "a").retry_after, Duration::from_millis(100), "no wait becomes longer");
        clock.advance(WINDOW);
        limiter.reload(limits(3, 1000));
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
        limiter.charge(&tenant(&name(1)), 10);

        clock.advance(WINDOW);
        assert_eq!(passed(&limiter, "late", 50), 10);
        assert_eq!(limiter.tenants(), 2, "who is full again is forgotten, who is in debt is not");
        assert_eq!(passed(&limiter, &name(1), 50), 9);
    }

    proptest! {
        /// Over any time a tenant gets at most its rate and one bucket; and whoever waits as told gets in.
        #[test]
        fn never_above_its_rate_and_every_wait_is_honest(
            rate in 1u32..50,
            steps in prop::collection::vec((0u64..300, 0u64..4), 1..200),
        ) {
            let (limiter, clock) = make(rate, 1_000_000);
            let begun = clock.monotonic();
            let mut taken = 0u64;
            for (ms, charged) in steps {
                clock.advance(Duration::from_millis(ms));
                match limiter.take(&tenant("a"), Wish::Work).1 {
                    Ok(()) => taken += 1,
                    Err(refused) => {
                        clock.advance(refused.retry_after);
                        prop_assert!(limiter.take(&tenant("a"), Wish::Work).1.is_ok());
                        taken += 1;
                    }
                }
                limiter.charge(&tenant("a"), charged);
                taken += charged;
                let most = u128::from(rate) * (clock.monotonic() - begun + WINDOW).as_nanos() / WINDOW.as_nanos();
                // The last charge may be debt still.
                prop_assert!(u128::from(taken) <= most + 1 + u128::from(charged), "{taken} of {most}");
            }
        }
    }
}
