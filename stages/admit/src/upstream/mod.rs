//! A verifier that is another service, such as `ron-auth`: it has the keys, we have none.
//!
//! What it is believed, and what not:
//!
//! - It says whether a token, with its discharges, *verifies*. What the token *allows* we read from the token ourselves; the
//!   verifier may add caveats and take none away. So a verifier that lies can shut the door or let a forged token in, but
//!   cannot widen a good one, and times (`expires`) are held against our clock at every request, cached or not.
//! - Before it is believed, and every two seconds or more often after, it is asked about a token that nobody has issued. One that affirms that
//!   affirms anything: nothing it says counts until it has refused such a token.
//! - Silence, an error, an answer of another form: no verdict. The request is refused with `cap_timeout` and nothing is
//!   remembered.
//!
//! A verdict is kept for a while, under the hash of the token ([`cache`]). Requests with the same token share one question,
//! which goes on when they lose patience: a verifier that is slower than the budget of a request is late once and not for
//! ever. A good verdict that is about to run out is asked for again in the background, with places of its own among the
//! questions under way, so that a flood of made-up tokens delays new tokens and not those in use.

pub mod cache;
pub mod http;
pub mod url;

pub use self::http::HttpUpstream;
pub use url::VerifierUrl;

use crate::capability::{Grant, Presented, Timestamp, nobodys};
use crate::check::Verifier;
use crate::error::Denied;
use crate::lock;
use crate::metrics::{CAP_CACHE_ENTRIES, CAP_CACHE_LOOKUPS_TOTAL, CAP_VERIFIER_QUESTIONS_TOTAL};
use crate::single_flight::SingleFlight;
use cache::{Cache, Found, Known, TokenHash};
use metrics::{Counter, Gauge};
use rewarder_model::Reason;
use rewarder_model::world::{BoxFuture, Clock, Entropy, Spawn};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// Most questions under way at once; what a small verifier serves without a queue.
pub const QUESTIONS_MAX: usize = 64;
/// Of these, for verdicts that are about to run out.
const RENEWALS_MAX: usize = 16;
/// Most tokens that are asked about or wait for their turn; beyond, the answer is `cap_timeout` at once. At 50 ms a
/// question the last of them waits a second, which no budget allows.
const WAITING_MAX: usize = 1024;
/// Longest that a question is waited for, whoever still waits: then the verifier is taken for dead.
pub const QUESTION_MAX: Duration = Duration::from_secs(5);

/// Asks a verifier. Futures may be dropped at any time.
pub trait Upstream: Send + Sync + 'static {
    /// Whether this token, with its discharges, verifies.
    fn ask<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Verdict, Trouble>>;
}

/// What a verifier says of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It verifies.
    Active {
        /// Caveats that have to hold beside the token's own.
        caveats: Vec<String>,
        /// Unix time from which it does not, in seconds.
        exp: Option<u64>,
    },
    /// It does not, or was revoked.
    Inactive,
}

/// Why there is no verdict. Never holds a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// It did not answer.
    #[error("{0}")]
    Failed(&'static str),
    /// It answered something that is no answer.
    #[error("{0}")]
    Garbled(&'static str),
    /// It took too long.
    #[error("it took longer than five seconds")]
    Late,
}

/// How a question ended, for those who wait for it.
type Asked = Result<Known, Trouble>;

/// Verifies by asking another service.
#[derive(Clone)]
pub struct UpstreamVerifier(Arc<Inner>);

/// Counts how often everything was forgotten.
type Generation = u64;

struct Inner {
    upstream: Box<dyn Upstream>,
    clock: Arc<dyn Clock>,
    spawn: Arc<dyn Spawn>,
    entropy: Arc<dyn Entropy>,
    cache: Mutex<Cache>,
    flights: SingleFlight<(TokenHash, Generation), Asked>,
    questions: Arc<Semaphore>,
    renewals: Arc<Semaphore>,
    /// Life of a verdict, in milliseconds.
    ttl_ms: AtomicU64,
    /// What was asked before everything was forgotten is neither kept nor heard by who asks after it.
    generation: AtomicU64,
    /// The last token that nobody has issued was refused.
    is_proven: AtomicBool,
    /// It has affirmed one, and that was logged.
    affirmed: AtomicBool,
    /// It gave no answer when it was last looked at.
    troubled: AtomicBool,
    /// When it last gave an answer that counts.
    answered: Mutex<Option<Duration>>,
    counts: Counts,
}

struct Counts {
    active: Counter,
    inactive: Counter,
    failed: Counter,
    garbled: Counter,
    late: Counter,
    hit: Counter,
    miss: Counter,
    joined: Counter,
    entries: Gauge,
}

impl Counts {
    fn new() -> Self {
        let question = |result| metrics::counter!(CAP_VERIFIER_QUESTIONS_TOTAL, "result" => result);
        let lookup = |result| metrics::counter!(CAP_CACHE_LOOKUPS_TOTAL, "result" => result);
        Self {
            active: question("active"),
            inactive: question("inactive"),
            failed: question("failed"),
            garbled: question("garbled"),
            late: question("late"),
            hit: lookup("hit"),
            miss: lookup("miss"),
            joined: lookup("joined"),
            entries: metrics::gauge!(CAP_CACHE_ENTRIES),
        }
    }
}

/// Where questions run and what time and chance are.
pub struct Around {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Runs questions beside the requests that wait for them.
    pub spawn: Arc<dyn Spawn>,
    /// Makes tokens that nobody has issued.
    pub entropy: Arc<dyn Entropy>,
}

impl UpstreamVerifier {
    /// Asks `upstream` and keeps verdicts for `ttl`.
    pub fn new(upstream: impl Upstream, ttl: Duration, around: Around) -> Self {
        let Around { clock, spawn, entropy } = around;
        let this = Self(Arc::new(Inner {
            upstream: Box::new(upstream),
            clock,
            spawn,
            entropy,
            cache: Mutex::default(),
            flights: SingleFlight::new(WAITING_MAX),
            questions: Arc::new(Semaphore::new(QUESTIONS_MAX - RENEWALS_MAX)),
            renewals: Arc::new(Semaphore::new(RENEWALS_MAX)),
            ttl_ms: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            is_proven: AtomicBool::new(false),
            affirmed: AtomicBool::new(false),
            troubled: AtomicBool::new(false),
            answered: Mutex::new(None),
            counts: Counts::new(),
        }));
        this.reload(ttl);
        this
    }

    /// Keeps verdicts for `ttl` from now on, and forgets those that there are: a reload is how an operator makes a
    /// revocation count at once.
    pub fn reload(&self, ttl: Duration) {
        self.0.ttl_ms.store(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.0.forget_all();
    }

    /// Whether no verdict in the cache can be good: it never answered, or not for as long as verdicts live, or what it
    /// says does not count.
    pub fn is_cold(&self) -> bool {
        let inner = &self.0;
        let answered = *lock(&inner.answered);
        !inner.is_proven.load(Ordering::Relaxed)
            || answered.is_none_or(|at| inner.clock.monotonic().saturating_sub(at) > inner.ttl())
    }

    /// How long a verdict holds.
    pub fn ttl(&self) -> Duration {
        self.0.ttl()
    }

    /// How many verdicts are kept.
    pub fn cached(&self) -> usize {
        lock(&self.0.cache).count()
    }

    /// Asks about a token that nobody has issued. To be called again and again, and waited for.
    pub async fn look(&self) {
        let inner = &self.0;
        let token = nobodys(&*inner.entropy);
        match inner.question(&token).await {
            Ok(Verdict::Inactive) => {
                inner.heard();
                inner.is_proven.store(true, Ordering::Relaxed);
                if inner.affirmed.swap(false, Ordering::Relaxed) {
                    tracing::info!("the verifier refuses what nobody has issued again; what it says counts");
                }
            }
            Ok(Verdict::Active { .. }) => {
                inner.is_proven.store(false, Ordering::Relaxed);
                if !inner.affirmed.swap(true, Ordering::Relaxed) {
                    tracing::error!(
                        "the verifier affirms a capability that nobody has issued; nothing it says counts until it refuses one"
                    );
                }
                inner.forget_all();
            }
            Err(trouble) => {
                if !inner.troubled.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%trouble, "the verifier of capabilities gives no verdict");
                }
                return;
            }
        }
        if inner.troubled.swap(false, Ordering::Relaxed) {
            tracing::info!("the verifier of capabilities answers again");
        }
    }
}

impl Inner {
    fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms.load(Ordering::Relaxed))
    }

    fn heard(&self) {
        *lock(&self.answered) = Some(self.clock.monotonic());
    }

    fn forget_all(&self) {
        let mut cache = lock(&self.cache);
        self.generation.fetch_add(1, Ordering::Relaxed);
        cache.clear();
        self.counts.entries.set(0.0);
    }

    /// One question, bounded in time and counted.
    async fn question(&self, token: &str) -> Result<Verdict, Trouble> {
        let late = self.clock.sleep(QUESTION_MAX);
        let answer = tokio::select! {
            biased;
            answer = self.upstream.ask(token) => answer,
            () = late => Err(Trouble::Late),
        };
        match &answer {
            Ok(Verdict::Active { .. }) => &self.counts.active,
            Ok(Verdict::Inactive) => &self.counts.inactive,
            Err(Trouble::Failed(_)) => &self.counts.failed,
            Err(Trouble::Garbled(_)) => &self.counts.garbled,
            Err(Trouble::Late) => &self.counts.late,
        }
        .increment(1);
        answer
    }

    /// Asks about a token that a request has shown, and remembers the verdict.
    async fn settle(&self, token: &str, hash: TokenHash, generation: Generation) -> Asked {
        let verdict = self.question(token).await.inspect_err(|trouble| {
            // At this level: with a verifier that is down it is as many lines as requests. `look` tells of that once.
            tracing::debug!(%trouble, "the verifier gave no verdict on a capability");
        })?;
        if !self.is_proven.load(Ordering::Relaxed) {
            return Err(Trouble::Garbled("it has not refused yet what nobody has issued"));
        }
        self.heard();
        let ttl = self.ttl();
        let (known, life) = match verdict {
            Verdict::Inactive => (Known::Refused, ttl),
            Verdict::Active { mut caveats, exp } => {
                let mut life = ttl;
                if let Some(exp) = exp {
                    let end = Duration::from_secs(exp);
                    life = life.min(end.saturating_sub(self.clock.unix()));
                    // As a caveat, so that it is held against the clock and not against the cache alone.
                    let end = Timestamp::new(end).ok_or(Trouble::Garbled("its `exp` is no time"))?;
                    caveats.push(format!("expires = {end}"));
                }
                (Known::Good(caveats.into()), life)
            }
        };
        let mut cache = lock(&self.cache);
        if self.generation.load(Ordering::Relaxed) == generation {
            cache.put(hash, &known, life, self.clock.monotonic());
            self.counts.entries.set(cache.count() as f64);
        }
        drop(cache);
        Ok(known)
    }

    /// Asks again about a good token in the background, if there is a place for it.
    fn renew(self: &Arc<Self>, token: &str, hash: TokenHash) {
        let Ok(place) = Arc::clone(&self.renewals).try_acquire_owned() else { return };
        let generation = self.generation.load(Ordering::Relaxed);
        let Ok(joined) = self.flights.join((hash, generation)) else { return };
        let Some(lead) = joined.lead else { return };
        let (it, token) = (Arc::clone(self), Zeroizing::new(token.to_owned()));
        self.spawn.spawn(Box::pin(async move {
            lead.land(it.settle(&token, hash, generation).await);
            drop(place);
        }));
    }

    /// Asks, or waits for the twin that asks already.
    async fn ask(self: &Arc<Self>, token: &str, hash: TokenHash) -> Result<Known, Denied> {
        let generation = self.generation.load(Ordering::Relaxed);
        let joined = self.flights.join((hash, generation)).map_err(|_| no_verdict())?;
        if let Some(lead) = joined.lead {
            self.counts.miss.increment(1);
            let (it, token) = (Arc::clone(self), Zeroizing::new(token.to_owned()));
            self.spawn.spawn(Box::pin(async move {
                let late = it.clock.sleep(QUESTION_MAX);
                let place = tokio::select! {
                    biased;
                    place = it.questions.acquire() => place.ok(),
                    () = late => None,
                };
                // Without a place it was not asked: the answer is the same as if it had been late.
                lead.land(match place {
                    Some(_) => it.settle(&token, hash, generation).await,
                    None => Err(Trouble::Late),
                });
            }));
        } else {
            self.counts.joined.increment(1);
        }
        match joined.answer.answer().await {
            Ok(Ok(known)) => Ok(known),
            Ok(Err(_)) | Err(_) => Err(no_verdict()),
        }
    }
}

fn no_verdict() -> Denied {
    Denied::new(Reason::CapTimeout, "the verifier of capabilities gave no verdict in time; try again")
}

impl Verifier for UpstreamVerifier {
    fn verify<'a>(&'a self, token: &'a str, now: Duration) -> BoxFuture<'a, Result<Grant, Denied>> {
        Box::pin(async move {
            let inner = &self.0;
            // What is no macaroon costs the verifier nothing.
            let presented = Presented::decode(token).map_err(|_| Denied::unverified())?;
            let macaroons = presented.parse().map_err(|_| Denied::unverified())?;
            let hash = *blake3::hash(token.as_bytes()).as_bytes();
            let found = lock(&inner.cache).get(&hash, inner.clock.monotonic());
            let known = match found {
                Found::Known { known, old } => {
                    inner.counts.hit.increment(1);
                    if old {
                        inner.renew(token, hash);
                    }
                    known
                }
                Found::Nothing => inner.ask(token, hash).await?,
            };
            match known {
                Known::Refused => Err(Denied::unverified()),
                Known::Good(added) => {
                    let own = macaroons.iter().flat_map(|macaroon| {
                        macaroon
                            .caveats
                            .iter()
                            .filter(|caveat| !caveat.is_third_party())
                            .map(|caveat| caveat.text)
                    });
                    Grant::of(own.chain(added.iter().map(String::as_bytes)), now)
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::{Caveat, Keyring, Scope, attenuate, keygen};
    use crate::scrape::Scrape;
    use futures::FutureExt;
    use rewarder_model::world::testing::{HandClock, SeededEntropy};
    use std::collections::HashMap;
    use tokio::sync::oneshot;

    const TTL: Duration = Duration::from_secs(30);

    /// A verifier whose answers a test gives, one by one.
    #[derive(Clone, Default)]
    struct ByHand(Arc<Mutex<Hand>>);

    #[derive(Default)]
    struct Hand {
        asked: Vec<String>,
        open: HashMap<String, oneshot::Sender<Result<Verdict, Trouble>>>,
        /// For whatever nobody has issued.
        nobodys: Option<Result<Verdict, Trouble>>,
    }

    impl Upstream for ByHand {
        fn ask<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Verdict, Trouble>> {
            let mut hand = lock(&self.0);
            if let Some(answer) = hand.nobodys.clone()
                && Presented::decode(token).unwrap().parse().unwrap()[0].identifier.starts_with(b"nobody")
            {
                return Box::pin(async { answer });
            }
            let (answer, waits) = oneshot::channel();
            hand.asked.push(token.to_owned());
            hand.open.insert(token.to_owned(), answer);
            Box::pin(async move { waits.await.unwrap_or(Err(Trouble::Failed("gone"))) })
        }
    }

    impl ByHand {
        fn answer(&self, token: &str, answer: Result<Verdict, Trouble>) {
            let _ = lock(&self.0).open.remove(token).unwrap().send(answer);
        }

        fn asked(&self) -> usize {
            lock(&self.0).asked.len()
        }
    }

    struct Tokio;

    impl Spawn for Tokio {
        fn spawn(&self, future: BoxFuture<'static, ()>) {
            tokio::spawn(future);
        }

        fn blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, bool> {
            work();
            Box::pin(async { true })
        }
    }

    struct Rig {
        verifier: UpstreamVerifier,
        hand: ByHand,
        clock: HandClock,
        scrape: Scrape,
        ring: Keyring,
    }

    fn rig() -> Rig {
        let (hand, clock, scrape) =
            (ByHand::default(), HandClock::at(Duration::from_secs(1_795_475_645)), Scrape::default());
        let around = Around {
            clock: Arc::new(clock.clone()),
            spawn: Arc::new(Tokio),
            entropy: Arc::new(SeededEntropy::new(5)),
        };
        let verifier = scrape.during(|| UpstreamVerifier::new(hand.clone(), TTL, around));
        verifier.0.is_proven.store(true, Ordering::Relaxed);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        keygen(&path, None, &SeededEntropy::new(1)).unwrap();
        Rig { verifier, hand, clock, scrape, ring: Keyring::load(&path).unwrap() }
    }

    impl Rig {
        fn mint(&self, text: &str) -> String {
            let caveats: Vec<Caveat> = text.lines().map(|line| line.trim().parse().unwrap()).collect();
            self.ring.mint(&caveats, &SeededEntropy::new(9)).unwrap()
        }

        /// Asks in a task of its own.
        fn ask(&self, token: &str) -> tokio::task::JoinHandle<Result<Grant, Denied>> {
            let (verifier, token, now) = (self.verifier.clone(), token.to_owned(), self.clock.unix());
            tokio::spawn(async move { verifier.verify(&token, now).await })
        }

        /// Asks for what has to be known already.
        fn known(&self, token: &str) -> Option<Result<Grant, Denied>> {
            self.verifier.verify(token, self.clock.unix()).now_or_never()
        }
    }

    async fn settle() {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }

    fn active(caveats: &[&str]) -> Result<Verdict, Trouble> {
        Ok(Verdict::Active { caveats: caveats.iter().map(|c| (*c).to_owned()).collect(), exp: None })
    }

    const ACME: &str = "tenant = acme\nscope = rewarder.run rewarder.seal";

    fn reason(answer: &Result<Grant, Denied>) -> Option<Reason> {
        answer.as_ref().err().map(|denied| denied.reason)
    }

    #[tokio::test]
    async fn twins_share_one_question_and_the_verdict_is_kept_for_its_time() {
        let rig = rig();
        let token = rig.mint(ACME);
        let asking: Vec<_> = (0..5).map(|_| rig.ask(&token)).collect();
        settle().await;
        assert_eq!(rig.hand.asked(), 1);
        rig.hand.answer(&token, active(&[]));
        for one in asking {
            assert_eq!(one.await.unwrap().unwrap().tenant().as_str(), "acme");
        }
        rig.clock.advance(TTL * 3 / 4);
        assert!(rig.known(&token).unwrap().is_ok());
        assert_eq!((rig.hand.asked(), rig.verifier.cached()), (1, 1));
        assert_eq!(rig.scrape.value("cap_cache_lookups_total{result=\"miss\"}"), 1.0);
        assert_eq!(rig.scrape.value("cap_cache_lookups_total{result=\"joined\"}"), 4.0);
        assert_eq!(rig.scrape.value("cap_cache_lookups_total{result=\"hit\"}"), 1.0);
        // In the last fifth it answers from the cache and asks again beside that.
        rig.clock.advance(TTL / 5);
        assert!(rig.known(&token).unwrap().is_ok() && rig.known(&token).unwrap().is_ok());
        settle().await;
        assert_eq!(rig.hand.asked(), 2);
        rig.hand.answer(&token, active(&[]));
        settle().await;
        rig.clock.advance(TTL * 3 / 4);
        assert!(rig.known(&token).unwrap().is_ok(), "renewed before it ran out");
        rig.clock.advance(TTL);
        let again = rig.ask(&token);
        settle().await;
        assert_eq!(rig.hand.asked(), 3, "and gone when nobody renewed it");
        rig.hand.answer(&token, Ok(Verdict::Inactive));
        assert_eq!(again.await.unwrap(), Err(Denied::unverified()));
    }

    #[tokio::test]
    async fn what_a_token_allows_stands_in_the_token_and_a_verifier_can_only_narrow() {
        let rig = rig();
        let narrow = attenuate(&rig.mint(ACME), &"expires = 2026-11-23T23:14:25Z".parse().unwrap()).unwrap();
        let asking = rig.ask(&narrow);
        settle().await;
        // It says another tenant, more scopes: the narrowest of both holds, and two tenants are none.
        rig.hand.answer(&narrow, active(&["scope = rewarder.run rewarder.policy"]));
        let grant = asking.await.unwrap().unwrap();
        assert!(grant.allows(Scope::Run).is_ok());
        assert!(grant.allows(Scope::Seal).is_err() && grant.allows(Scope::Policy).is_err());
        rig.clock.advance(Duration::from_secs(20));
        assert_eq!(reason(&rig.known(&narrow).unwrap()), Some(Reason::Caveat), "expired while it was cached");

        for (added, expect) in [("tenant = other", Reason::Tenant), ("no caveat of ours", Reason::Caveat)] {
            let token = rig.mint(&format!("{ACME}\nmax_pool_minor_units = {}", added.len()));
            let asking = rig.ask(&token);
            settle().await;
            rig.hand.answer(&token, active(&[added]));
            assert_eq!(reason(&asking.await.unwrap()), Some(expect), "{added}");
        }
        let token = rig.mint(&format!("{ACME}\ndry_run = true"));
        let asking = rig.ask(&token);
        settle().await;
        let exp = Some(rig.clock.unix().as_secs() + 10);
        rig.hand.answer(&token, Ok(Verdict::Active { caveats: vec![], exp }));
        assert!(asking.await.unwrap().is_ok());
        rig.clock.advance(Duration::from_secs(9));
        assert!(rig.known(&token).unwrap().is_ok());
        rig.clock.advance(Duration::from_secs(1));
        assert!(rig.known(&token).is_none(), "the verifier's end is the verdict's");
    }

    #[tokio::test]
    async fn trouble_is_no_verdict_and_is_not_remembered() {
        let rig = rig();
        let token = rig.mint(ACME);
        for trouble in [Trouble::Failed("x"), Trouble::Garbled("x")] {
            let asking = rig.ask(&token);
            settle().await;
            rig.hand.answer(&token, Err(trouble));
            assert_eq!(reason(&asking.await.unwrap()), Some(Reason::CapTimeout));
            assert_eq!(rig.verifier.cached(), 0);
        }
        let asking = rig.ask(&token);
        settle().await;
        rig.clock.advance(QUESTION_MAX);
        assert_eq!(reason(&asking.await.unwrap()), Some(Reason::CapTimeout));
        assert!(rig.verifier.is_cold());
        assert_eq!(rig.scrape.value("cap_verifier_questions_total{result=\"late\"}"), 1.0);
        // What is no macaroon is not asked about at all.
        let asked = rig.hand.asked();
        for text in ["", "x", "AgEA", &"A".repeat(9000)] {
            assert_eq!(rig.known(text), Some(Err(Denied::unverified())));
        }
        assert_eq!(rig.hand.asked(), asked);
    }

    #[tokio::test]
    async fn a_question_outlives_who_asked_it() {
        let rig = rig();
        let token = rig.mint(ACME);
        let asking = rig.ask(&token);
        settle().await;
        asking.abort();
        settle().await;
        rig.hand.answer(&token, active(&[]));
        settle().await;
        assert!(rig.known(&token).unwrap().is_ok(), "late for the one who left, in time for the next");
    }

    #[tokio::test]
    async fn warm_means_that_it_answered_within_the_life_of_a_verdict() {
        let rig = rig();
        rig.verifier.0.is_proven.store(false, Ordering::Relaxed);
        let token = rig.mint(ACME);
        let asking = rig.ask(&token);
        settle().await;
        rig.hand.answer(&token, active(&[]));
        assert_eq!(
            reason(&asking.await.unwrap()),
            Some(Reason::CapTimeout),
            "not believed before it has refused"
        );
        assert!(rig.verifier.is_cold());
        lock(&rig.hand.0).nobodys = Some(Err(Trouble::Failed("x")));
        rig.verifier.look().await;
        assert!(rig.verifier.is_cold());
        lock(&rig.hand.0).nobodys = Some(Ok(Verdict::Inactive));
        rig.verifier.look().await;
        assert!(!rig.verifier.is_cold());
        rig.clock.advance(TTL);
        assert!(!rig.verifier.is_cold());
        rig.clock.advance(Duration::from_nanos(1));
        assert!(rig.verifier.is_cold());
    }

    #[tokio::test]
    async fn one_that_affirms_anything_is_not_believed_until_it_refuses_again() {
        let rig = rig();
        let token = rig.mint(ACME);
        let asking = rig.ask(&token);
        settle().await;
        rig.hand.answer(&token, active(&[]));
        assert!(asking.await.unwrap().is_ok() && !rig.verifier.is_cold());

        lock(&rig.hand.0).nobodys = Some(active(&[]));
        rig.verifier.look().await;
        assert!(rig.verifier.is_cold());
        assert_eq!(rig.verifier.cached(), 0, "what it said before is forgotten");
        let asking = rig.ask(&token);
        settle().await;
        rig.hand.answer(&token, active(&[]));
        assert_eq!(reason(&asking.await.unwrap()), Some(Reason::CapTimeout));

        lock(&rig.hand.0).nobodys = Some(Ok(Verdict::Inactive));
        rig.verifier.look().await;
        let asking = rig.ask(&token);
        settle().await;
        rig.hand.answer(&token, active(&[]));
        assert!(asking.await.unwrap().is_ok() && !rig.verifier.is_cold());
    }

    #[tokio::test]
    async fn a_reload_forgets_also_what_was_asked_before_it() {
        let rig = rig();
        let (kept, asked) = (rig.mint(ACME), rig.mint(&format!("{ACME}\ndry_run = true")));
        let first = rig.ask(&kept);
        settle().await;
        rig.hand.answer(&kept, active(&[]));
        first.await.unwrap().unwrap();
        let second = rig.ask(&asked);
        settle().await;
        rig.verifier.reload(TTL);
        rig.hand.answer(&asked, active(&[]));
        assert!(second.await.unwrap().is_ok(), "who asked has an answer");
        assert_eq!(rig.verifier.cached(), 0);
    }

    #[tokio::test]
    async fn who_asks_after_a_reload_hears_nothing_that_was_asked_before_it() {
        let rig = rig();
        let token = rig.mint(ACME);
        let before = rig.ask(&token);
        settle().await;
        rig.verifier.reload(TTL);
        let after = rig.ask(&token);
        settle().await;
        assert_eq!(rig.hand.asked(), 2);
        rig.hand.answer(&token, Ok(Verdict::Inactive));
        assert_eq!(after.await.unwrap(), Err(Denied::unverified()));
        drop(before);
        // Nor does a good verdict come back that was under way when the verifier turned out to affirm anything.
        let other = rig.mint(&format!("{ACME}\ndry_run = true"));
        let asked = rig.ask(&other);
        settle().await;
        rig.verifier.0.forget_all();
        rig.hand.answer(&other, active(&[]));
        assert!(asked.await.unwrap().is_ok());
        assert_eq!(rig.verifier.cached(), 0);
    }

    #[tokio::test]
    async fn questions_under_way_are_bounded_and_so_are_those_who_wait() {
        let rig = rig();
        let tokens: Vec<String> =
            (0..WAITING_MAX + 5).map(|n| rig.mint(&format!("{ACME}\nmax_pool_minor_units = {n}"))).collect();
        let mut asking: Vec<_> = tokens.iter().map(|token| rig.ask(token)).collect();
        settle().await;
        assert_eq!(rig.hand.asked(), QUESTIONS_MAX - RENEWALS_MAX);
        for one in asking.split_off(WAITING_MAX) {
            assert_eq!(reason(&one.await.unwrap()), Some(Reason::CapTimeout));
        }
        while rig.hand.asked() < WAITING_MAX {
            let open: Vec<String> = lock(&rig.hand.0).open.keys().cloned().collect();
            open.iter().for_each(|token| rig.hand.answer(token, Ok(Verdict::Inactive)));
            settle().await;
        }
        let open: Vec<String> = lock(&rig.hand.0).open.keys().cloned().collect();
        open.iter().for_each(|token| rig.hand.answer(token, Ok(Verdict::Inactive)));
        for one in asking {
            assert_eq!(one.await.unwrap(), Err(Denied::unverified()));
        }
    }
}
