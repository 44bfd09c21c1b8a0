//! The check of a capability at the door: asynchronous, and with a budget of its own.
//!
//! The local keyring answers at once; an upstream verifier will not, and a door that waits for it without end
//! would be shut by its silence. Past the budget the answer is `cap_timeout`, which is no verdict on the
//! capability: come again.

use crate::capability::{ClientCert, Grant, Keyring, Scope};
use crate::error::Denied;
use crate::metrics::AUTH_FAILURES_TOTAL;
use crate::remembered::Remembered;
use arc_swap::ArcSwap;
use metrics::Counter;
use rewarder_model::world::{BoxFuture, Clock};
use rewarder_model::{Amount, EpochId, Reason, TenantId};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// Who can tell what a token allows.
pub trait Verifier: Send + Sync + 'static {
    /// What the token allows at `now` (Unix time).
    fn verify<'a>(&'a self, token: &'a str, now: Duration) -> BoxFuture<'a, Result<Grant, Denied>>;
}

/// Verifies with the keys of the key file. What they found good is remembered for as long as they are in force.
pub struct LocalVerifier(ArcSwap<(Keyring, Remembered)>);

impl LocalVerifier {
    /// Verifies with these keys.
    pub fn new(keyring: Keyring) -> Self {
        Self(ArcSwap::from_pointee((keyring, Remembered::default())))
    }

    /// Verifies with these from now on.
    pub fn reload(&self, keyring: Keyring) {
        self.0.store(Arc::new((keyring, Remembered::default())));
    }
}

impl Verifier for LocalVerifier {
    fn verify<'a>(&'a self, token: &'a str, now: Duration) -> BoxFuture<'a, Result<Grant, Denied>> {
        Box::pin(async move {
            let in_force = self.0.load();
            let (keyring, remembered) = &**in_force;
            remembered.or_verify(token, now, || keyring.verify(token, now))
        })
    }
}

/// Checks the capabilities of requests.
pub struct Checker {
    verifier: Arc<dyn Verifier>,
    clock: Arc<dyn Clock>,
    budget: ArcSwap<Duration>,
    /// In the order of `Scope::ALL`.
    failures: [Counter; Scope::ALL.len()],
}

impl Checker {
    /// A check that takes at most `budget`.
    pub fn new(verifier: Arc<dyn Verifier>, clock: Arc<dyn Clock>, budget: Duration) -> Self {
        let failures =
            Scope::ALL.map(|scope| metrics::counter!(AUTH_FAILURES_TOTAL, "scope" => scope.as_str()));
        Self { verifier, clock, budget: ArcSwap::from_pointee(budget), failures }
    }

    /// Changes the budget.
    pub fn reload(&self, budget: Duration) {
        self.budget.store(Arc::new(budget));
    }

    /// Whether the bearer of `token` (what follows `Bearer `, if anything does) may do what `scope` stands
    /// for, over a connection with that client certificate.
    pub async fn check(
        &self,
        token: Option<&str>,
        scope: Scope,
        cert: Option<&ClientCert>,
    ) -> Result<Pass, Denied> {
        let failures = &self.failures[scope as usize];
        let result = self.verify(token).await.and_then(|grant| {
            grant.allows_client_cert(cert)?;
            grant.allows(scope)?;
            Ok(Pass { grant, failures: failures.clone() })
        });
        result.inspect_err(|_| failures.increment(1))
    }

    async fn verify(&self, token: Option<&str>) -> Result<Grant, Denied> {
        let Some(token) = token else {
            return Err(Denied::new(
                Reason::Unauth,
                "no capability was sent: send it as `Authorization: Bearer TOKEN`",
            ));
        };
        let mut answer = self.verifier.verify(token, self.clock.unix());
        // The local keyring answers at once, and needs no timer.
        let at_once = poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await;
        if let Poll::Ready(answer) = at_once {
            return answer;
        }
        let late = self.clock.sleep(**self.budget.load());
        tokio::select! {
            // In this order, so that an answer that is there is never thrown away for a clock.
            biased;
            answer = answer => answer,
            () = late => Err(Denied::new(Reason::CapTimeout, "the capability could not be checked in time; try again")),
        }
    }
}

/// A grant that was presented for one scope and has it. What the request turns out to be is asked here, and
/// each no counts as one failure of that scope.
#[derive(Debug, Clone)]
pub struct Pass {
    grant: Grant,
    failures: Counter,
}

impl Pass {
    /// On whose behalf the request is made.
    pub fn tenant(&self) -> &TenantId {
        self.grant.tenant()
    }

    /// Whether it is for `tenant`'s things.
    pub fn tenant_is(&self, tenant: &TenantId) -> Result<(), Denied> {
        self.count(self.grant.allows_tenant(tenant))
    }

    /// Whether it is for that epoch.
    pub fn epoch(&self, epoch: &EpochId) -> Result<(), Denied> {
        self.count(self.grant.allows_epoch(epoch))
    }

    /// The largest pool that it is for, if there is one.
    pub fn pool_max(&self) -> Option<Amount> {
        self.grant.pool_max()
    }

    /// Whether it is for pools of that size.
    pub fn pool(&self, pool: Amount) -> Result<(), Denied> {
        self.count(self.grant.allows_pool(pool))
    }

    /// Whether it is for runs that pay, if this is one.
    pub fn dry_run(&self, is_dry_run: bool) -> Result<(), Denied> {
        self.count(self.grant.allows_dry_run(is_dry_run))
    }

    fn count(&self, answer: Result<(), Denied>) -> Result<(), Denied> {
        answer.inspect_err(|_| self.failures.increment(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::{Caveat, keygen};
    use crate::scrape::Scrape;
    use futures::FutureExt;
    use rewarder_model::world::testing::{HandClock, SeededEntropy};

    const BUDGET: Duration = Duration::from_millis(250);

    fn keyring(seed: u64) -> Keyring {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        keygen(&path, None, &SeededEntropy::new(seed)).unwrap();
        Keyring::load(&path).unwrap()
    }

    fn mint(keyring: &Keyring, text: &str) -> String {
        let caveats: Vec<Caveat> = text.lines().map(|line| line.parse().unwrap()).collect();
        keyring.mint(&caveats, &SeededEntropy::new(9)).unwrap()
    }

    #[test]
    fn denials_name_what_failed_and_are_counted_by_scope() {
        let scrape = Scrape::default();
        let keys = keyring(1);
        let token = mint(
            &keys,
            "tenant = acme\nscope = rewarder.run\nepoch_prefix = 2026-\nmax_pool_minor_units = 5\ndry_run = true",
        );
        let clock = Arc::new(HandClock::default());
        let local = Arc::new(LocalVerifier::new(keys));
        let checker = scrape.during(|| Checker::new(Arc::clone(&local) as _, clock, BUDGET));
        let check = |token, scope| checker.check(token, scope, None).now_or_never().unwrap();
        let reason = |result: Result<(), Denied>| result.map_err(|denied| denied.reason);

        assert_eq!(check(None, Scope::Run).err().map(|d| d.reason), Some(Reason::Unauth));
        assert_eq!(check(Some("x"), Scope::Run).err(), Some(Denied::unverified()));
        let denied = check(Some(&token), Scope::Seal).err().unwrap();
        assert_eq!(denied.to_string(), "scope: the capability lacks the scope rewarder.seal");

        let pass = check(Some(&token), Scope::Run).ok().unwrap();
        assert_eq!(pass.tenant().as_str(), "acme");
        assert_eq!(reason(pass.tenant_is(&"acme".parse().unwrap())), Ok(()));
        assert_eq!(reason(pass.epoch(&"2026-11".parse().unwrap())), Ok(()));
        assert_eq!(reason(pass.pool(5.into())), Ok(()));
        assert_eq!(reason(pass.dry_run(true)), Ok(()));
        assert_eq!(reason(pass.tenant_is(&"other".parse().unwrap())), Err(Reason::Tenant));
        assert_eq!(reason(pass.epoch(&"2025-11".parse().unwrap())), Err(Reason::Caveat));
        assert_eq!(reason(pass.pool(6.into())), Err(Reason::Caveat));
        assert_eq!(reason(pass.dry_run(false)), Err(Reason::Caveat));

        assert_eq!(scrape.value("auth_failures_total{scope=\"rewarder.run\"}"), 6.0);
        assert_eq!(scrape.value("auth_failures_total{scope=\"rewarder.seal\"}"), 1.0);
        assert_eq!(scrape.value("auth_failures_total{scope=\"rewarder.inspect\"}"), 0.0);

        local.reload(keyring(2));
        assert_eq!(check(Some(&token), Scope::Run).err(), Some(Denied::unverified()), "other keys");
    }

    struct Silent;

    impl Verifier for Silent {
        fn verify<'a>(&'a self, _: &'a str, _: Duration) -> BoxFuture<'a, Result<Grant, Denied>> {
            Box::pin(std::future::pending())
        }
    }

    #[tokio::test]
    async fn past_its_budget_the_check_gives_up() {
        let clock = HandClock::default();
        let checker = Arc::new(Checker::new(Arc::new(Silent), Arc::new(clock.clone()), BUDGET));
        let mut check = Box::pin(checker.check(Some("token"), Scope::Run, None));
        assert!((&mut check).now_or_never().is_none());
        clock.advance(BUDGET - Duration::from_nanos(1));
        assert!((&mut check).now_or_never().is_none());
        clock.advance(Duration::from_nanos(1));
        assert_eq!(check.await.err().map(|d| d.reason), Some(Reason::CapTimeout));
    }
}
