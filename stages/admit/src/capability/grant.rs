//! What a verified capability allows. A [`Grant`] comes only out of a check of signature and time, and its
//! questions are answered by all caveats together: the narrowest wins.

use super::caveat::{Caveat, EpochPrefix, Scope};
use super::client_cert::{CertFingerprint, ClientCert};
use super::timestamp::Timestamp;
use crate::error::Denied;
use rewarder_model::{Amount, EpochId, Reason, TenantId};
use std::ops::Range;
use std::time::Duration;

/// A verified capability, reduced to what it allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    tenant: TenantId,
    scopes: Scopes,
    epoch_prefixes: Vec<EpochPrefix>,
    pool_max: Option<Amount>,
    client_certs: Vec<CertFingerprint>,
    is_dry_run_only: bool,
    /// When all caveats of time hold (Unix time), the end not included.
    times: Range<Duration>,
}

/// A set of the scopes that are known here, a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scopes(u8);

impl Scopes {
    fn of<'a>(words: impl Iterator<Item = &'a str>) -> Self {
        Self(
            words
                .filter_map(|w| Scope::ALL.into_iter().find(|s| s.as_str() == w))
                .fold(0, |set, s| set | 1 << s as u8),
        )
    }

    fn holds(self, scope: Scope) -> bool {
        self.0 & 1 << scope as u8 != 0
    }
}

impl Grant {
    /// Reads caveats whose signature holds. Fails if one is not known, does not hold at `now`, or no one
    /// tenant is named.
    ///
    /// Missing scopes are no failure here: the grant then allows none, and [`Self::allows`] says which one
    /// was needed.
    pub(crate) fn of<'a>(caveats: impl Iterator<Item = &'a [u8]>, now: Duration) -> Result<Self, Denied> {
        let mut tenants: Option<Result<TenantId, ()>> = None;
        let mut scopes: Option<Scopes> = None;
        let mut client_certs = Vec::new();
        let (mut epoch_prefixes, mut pool_max, mut is_dry_run_only) = (Vec::new(), None::<Amount>, false);
        let mut times = Duration::ZERO..Duration::MAX;
        for (index, text) in caveats.enumerate() {
            let caveat = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
            match caveat.ok_or_else(|| unknown(index))? {
                Caveat::Tenant(tenant) => {
                    tenants = Some(match tenants {
                        None => Ok(tenant),
                        Some(Ok(other)) if other == tenant => Ok(tenant),
                        Some(_) => Err(()),
                    });
                }
                Caveat::Scope(words) => {
                    let these = Scopes::of(words.words());
                    scopes = Some(scopes.map_or(these, |so_far| Scopes(so_far.0 & these.0)));
                }
                Caveat::EpochPrefix(prefix) => epoch_prefixes.push(prefix),
                Caveat::NotBefore(from) if now < from.unix() => {
                    return Err(Denied::new(
                        Reason::Caveat,
                        "the caveat not_before does not hold: it is too early",
                    ));
                }
                Caveat::Expires(end) if now >= end.unix() => {
                    let detail =
                        "the caveat expires does not hold: the capability has expired; ask for a new one";
                    return Err(Denied::new(Reason::Caveat, detail));
                }
                Caveat::NotBefore(from) => times.start = times.start.max(from.unix()),
                Caveat::Expires(end) => times.end = times.end.min(end.unix()),
                Caveat::MaxPool(most) => pool_max = Some(pool_max.map_or(most, |so_far| so_far.min(most))),
                Caveat::ClientCert(cert) => client_certs.push(cert),
                Caveat::DryRun => is_dry_run_only = true,
            }
        }
        let tenant = match tenants {
            Some(Ok(tenant)) => tenant,
            Some(Err(())) => {
                return Err(Denied::new(
                    Reason::Tenant,
                    "the capability's tenant caveats name several tenants",
                ));
            }
            None => return Err(Denied::new(Reason::Tenant, "the capability names no tenant")),
        };
        let scopes = scopes.unwrap_or(Scopes(0));
        Ok(Self { tenant, scopes, epoch_prefixes, pool_max, client_certs, is_dry_run_only, times })
    }

    /// Whether what was found at one time holds at `now` (Unix time) too.
    pub(crate) fn holds_at(&self, now: Duration) -> bool {
        self.times.contains(&now)
    }

    /// The same grant, which holds no longer than the key that signed it.
    pub(super) fn until(mut self, end: Option<Timestamp>) -> Self {
        if let Some(end) = end {
            self.times.end = self.times.end.min(end.unix());
        }
        self
    }

    /// On whose behalf.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Whether it grants `scope`.
    pub fn allows(&self, scope: Scope) -> Result<(), Denied> {
        check(self.scopes.holds(scope), Reason::Scope, || format!("the capability lacks the scope {scope}"))
    }

    /// Whether it is for `tenant`'s things.
    pub fn allows_tenant(&self, tenant: &TenantId) -> Result<(), Denied> {
        check(self.tenant == *tenant, Reason::Tenant, || "the capability is for another tenant".into())
    }

    /// Whether it is for that epoch.
    pub fn allows_epoch(&self, epoch: &EpochId) -> Result<(), Denied> {
        let begins = self.epoch_prefixes.iter().all(|prefix| epoch.as_str().starts_with(prefix.as_str()));
        check(begins, Reason::Caveat, || {
            "the caveat epoch_prefix does not hold: the capability is for other epochs".into()
        })
    }

    /// The largest pool that it is for, if there is one.
    pub fn pool_max(&self) -> Option<Amount> {
        self.pool_max
    }

    /// Whether it is for pools of that size.
    pub fn allows_pool(&self, pool: Amount) -> Result<(), Denied> {
        check(self.pool_max.is_none_or(|most| pool <= most), Reason::Caveat, || {
            "the caveat max_pool_minor_units does not hold: the pool is larger than the capability allows"
                .into()
        })
    }

    /// Whether it may come over a connection with this client certificate, or with none.
    pub fn allows_client_cert(&self, cert: Option<&ClientCert>) -> Result<(), Denied> {
        let is_theirs = self.client_certs.iter().all(|named| cert.is_some_and(|cert| named.is_of(cert)));
        check(is_theirs, Reason::Caveat, || {
            "the caveat client_cert does not hold: connect over TLS with the certificate that the capability names".into()
        })
    }

    /// Whether it is for runs that pay, if this is one.
    pub fn allows_dry_run(&self, is_dry_run: bool) -> Result<(), Denied> {
        check(is_dry_run || !self.is_dry_run_only, Reason::Caveat, || {
            "the caveat dry_run does not hold: the capability allows dry runs only; set dry_run to true"
                .into()
        })
    }
}

fn unknown(index: usize) -> Denied {
    Denied::new(
        Reason::Caveat,
        format!("caveat number {} is not known here, so that it cannot hold", index + 1),
    )
}

fn check(holds: bool, reason: Reason, detail: impl FnOnce() -> String) -> Result<(), Denied> {
    if holds { Ok(()) } else { Err(Denied::new(reason, detail())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_795_475_645); // 2026-11-23T23:14:05Z

    fn grant(caveats: &str) -> Result<Grant, Denied> {
        Grant::of(caveats.lines().map(|line| line.trim().as_bytes()), NOW)
    }

    fn check(caveats: &str, ask: impl FnOnce(&Grant) -> Result<(), Denied>, expect: Result<(), Reason>) {
        let got = grant(caveats).and_then(|g| ask(&g)).map_err(|denied| denied.reason);
        assert_eq!(got, expect, "{caveats}");
    }

    fn run(grant: &Grant) -> Result<(), Denied> {
        grant.allows(Scope::Run)
    }

    fn epoch(id: &str) -> impl Fn(&Grant) -> Result<(), Denied> {
        move |grant| grant.allows_epoch(&id.parse().unwrap())
    }

    #[test]
    fn tenant_and_scope_are_needed() {
        check("", run, Err(Reason::Tenant));
        check("scope = rewarder.run", run, Err(Reason::Tenant));
        check("tenant = acme", run, Err(Reason::Scope));
        check("tenant = acme\nscope = rewarder.run", run, Ok(()));
        check("tenant = acme\nscope = rewarder.seal other.run", run, Err(Reason::Scope));
        check("tenant = acme", |g| g.allows_tenant(&"acme".parse().unwrap()), Ok(()));
        check("tenant = acme", |g| g.allows_tenant(&"acm".parse().unwrap()), Err(Reason::Tenant));
    }

    #[test]
    fn several_of_a_kind_must_all_hold() {
        check("tenant = a\ntenant = a\nscope = rewarder.run", run, Ok(()));
        check("tenant = a\ntenant = b\nscope = rewarder.run", run, Err(Reason::Tenant));
        check("tenant = a\ntenant = b\ntenant = b\nscope = rewarder.run", run, Err(Reason::Tenant));
        check(
            "tenant = a\nscope = rewarder.run rewarder.seal\nscope = rewarder.inspect rewarder.run",
            run,
            Ok(()),
        );
        check("tenant = a\nscope = rewarder.run\nscope = rewarder.inspect", run, Err(Reason::Scope));
        check("tenant = a\nepoch_prefix = 2026-\nepoch_prefix = 2026-1", epoch("2026-11"), Ok(()));
        check(
            "tenant = a\nepoch_prefix = 2026-\nepoch_prefix = 2026-1",
            epoch("2026-07"),
            Err(Reason::Caveat),
        );
        check(
            "tenant = a\nepoch_prefix = 2026-\nepoch_prefix = 2025-",
            epoch("2026-07"),
            Err(Reason::Caveat),
        );
        let pool = |n: u64| move |g: &Grant| g.allows_pool(n.into());
        check("tenant = a\nmax_pool_minor_units = 9\nmax_pool_minor_units = 7", pool(7), Ok(()));
        check("tenant = a\nmax_pool_minor_units = 7\nmax_pool_minor_units = 9", pool(8), Err(Reason::Caveat));
        check("tenant = a", pool(u64::MAX), Ok(()));
    }

    #[test]
    fn time_is_from_and_before() {
        let ok = |_: &Grant| Ok(());
        check("tenant = a\nnot_before = 2026-11-23T23:14:05Z", ok, Ok(()));
        check("tenant = a\nnot_before = 2026-11-23T23:14:06Z", ok, Err(Reason::Caveat));
        check("tenant = a\nexpires = 2026-11-23T23:14:06Z", ok, Ok(()));
        check("tenant = a\nexpires = 2026-11-23T23:14:05Z", ok, Err(Reason::Caveat));
        check(
            "tenant = a\nexpires = 2099-01-01T00:00:00Z\nexpires = 2020-01-01T00:00:00Z",
            ok,
            Err(Reason::Caveat),
        );
    }

    #[test]
    fn client_certificates() {
        let (mine, other) = (ClientCert::of_der(b"mine"), ClientCert::of_der(b"other"));
        for named in [mine.sha256(), mine.b3()] {
            let caveats = format!("tenant = a\nclient_cert = {named}");
            check(&caveats, |g| g.allows_client_cert(Some(&mine)), Ok(()));
            check(&caveats, |g| g.allows_client_cert(Some(&other)), Err(Reason::Caveat));
            check(&caveats, |g| g.allows_client_cert(None), Err(Reason::Caveat));
        }
        check("tenant = a", |g| g.allows_client_cert(None), Ok(()));
        let both = format!("tenant = a\nclient_cert = {}\nclient_cert = {}", mine.b3(), other.b3());
        check(&both, |g| g.allows_client_cert(Some(&mine)), Err(Reason::Caveat));
    }

    #[test]
    fn dry_run_only() {
        check("tenant = a\ndry_run = true", |g| g.allows_dry_run(true), Ok(()));
        check("tenant = a\ndry_run = true", |g| g.allows_dry_run(false), Err(Reason::Caveat));
        check("tenant = a", |g| g.allows_dry_run(false), Ok(()));
    }

    #[test]
    fn the_unknown_refuses_and_every_denial_names_its_caveat_without_the_payload() {
        let denied = grant("tenant = acme\nfavourite_colour = secret-blue").unwrap_err();
        assert_eq!(denied.reason, Reason::Caveat);
        assert_eq!(denied.detail, "caveat number 2 is not known here, so that it cannot hold");
        assert!(Grant::of([&b"tenant = \xff"[..]].into_iter(), NOW).is_err());
        let expired = grant("tenant = acme\nexpires = 2020-01-01T00:00:00Z").unwrap_err();
        assert!(expired.detail.contains("expires") && !expired.detail.contains("2020"));
    }
}
