//! What is checked while a run goes on: laws about single events, seen from the ledger's door and from the disk, by rules
//! written here a second time so that a fault in the house does not hide itself.

use crate::world::World;
use rewarder_emit::{BreakerConfig, Deliverer, DeliveryConfig, Mode, QuarantineConfig, ReemitConfig, State};
use rewarder_model::{Cid, Intent};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Good probes after which something else may be sent.
const GOOD_PROBES: u32 = 3;

/// The settings of one boot.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings {
    /// Bounds of one emission.
    pub delivery: DeliveryConfig,
    /// Sending again.
    pub reemit: ReemitConfig,
    /// When a brownout begins and ends.
    pub breaker: BreakerConfig,
    /// Bounds of the quarantine.
    pub quarantine: QuarantineConfig,
}

/// The first law that was broken in a run.
#[derive(Clone, Default)]
pub struct Verdict(Arc<(AtomicBool, Mutex<Option<String>>)>);

impl Verdict {
    /// Notes a broken law; the first one stays.
    pub fn broken(&self, law: impl FnOnce() -> String) {
        self.0.1.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(law);
        self.0.0.store(true, Ordering::Relaxed);
    }

    /// What was broken. Asked at each step.
    pub fn get(&self) -> Option<String> {
        if !self.0.0.load(Ordering::Relaxed) {
            return None;
        }
        self.0.1.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How a brownout looks from outside, by failures alone: the breaker may stop earlier, never later.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Silence {
    None,
    /// Nothing but probes, of which so many in a row were good.
    Whole(u32),
    /// One at a time, since then.
    Half(Duration),
}

/// One emission of a job, from its first attempt.
struct Emission {
    began: Duration,
    submits: u32,
}

struct Seen {
    deliverer: Option<Arc<Deliverer>>,
    settings: Settings,
    /// Runs whose outcome this host cannot know until it asks; a restart changes nothing about that.
    open: BTreeSet<Cid>,
    /// The ledger has shown it a foreign commitment, and no operator has released it since.
    foreign: bool,
    failures: u32,
    silence: Silence,
    /// Silences so far, and attempts under way that began in the last one.
    silences: u64,
    under_way: u32,
    emissions: BTreeMap<(Cid, u64), Emission>,
    /// When the ledger wanted to be left alone about these, and until when.
    patience: BTreeMap<Cid, (Duration, Duration)>,
    /// Runs that somebody is handing over right now.
    delivering: BTreeMap<Cid, u32>,
    /// What a crash has left is being handed over.
    recovering: bool,
    /// Runs that an operator has dropped, and nobody has handed over since.
    dropped: BTreeSet<Cid>,
    /// How often somebody has handed a run over.
    handed: BTreeMap<Cid, u64>,
    /// Entries of the quarantine that were sent again since the start.
    again: BTreeSet<u64>,
    /// The last of those: run, when its attempt ended.
    last_again: Option<(Cid, Duration)>,
    /// When an entry of the quarantine was last tried, by anybody.
    pending_tried: BTreeMap<u64, Duration>,
    /// Most entries that were there at the start, before the present limit.
    entries_at_start: u64,
}

/// What is watched of one host.
#[derive(Clone)]
pub struct Watch {
    world: World,
    verdict: Verdict,
    seen: Arc<Mutex<Seen>>,
}

/// An attempt under way; dropped without an end, it has failed.
pub struct Attempt {
    watch: Watch,
    what: &'static str,
    run_key: Option<Cid>,
    began: Duration,
    silence: u64,
    /// How it ended: whether the ledger answered.
    ok: bool,
    /// Whether the quarantine made it.
    again: bool,
}

impl Watch {
    /// Watches a host.
    pub fn new(world: World, verdict: Verdict) -> Self {
        let seen = Seen {
            deliverer: None,
            settings: Settings::default(),
            open: BTreeSet::new(),
            foreign: false,
            failures: 0,
            silence: Silence::None,
            silences: 0,
            under_way: 0,
            emissions: BTreeMap::new(),
            patience: BTreeMap::new(),
            delivering: BTreeMap::new(),
            recovering: false,
            dropped: BTreeSet::new(),
            handed: BTreeMap::new(),
            again: BTreeSet::new(),
            last_again: None,
            pending_tried: BTreeMap::new(),
            entries_at_start: 0,
        };
        Self { world, verdict, seen: Arc::new(Mutex::new(seen)) }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The service runs, with these settings; `latched` if its audit log says so.
    pub fn booted(&self, deliverer: Arc<Deliverer>, settings: Settings, latched: bool) {
        let mut seen = self.seen();
        seen.entries_at_start = deliverer.spool().usage().0;
        seen.deliverer = Some(deliverer);
        seen.settings = settings;
        seen.foreign = latched;
    }

    /// The service is dead.
    pub fn died(&self) {
        let mut seen = self.seen();
        let deliverer = seen.deliverer.take();
        seen.foreign = false;
        (seen.failures, seen.silence, seen.under_way) = (0, Silence::None, 0);
        seen.silences += 1;
        seen.emissions.clear();
        seen.delivering.clear();
        seen.again.clear();
        seen.patience.clear();
        seen.last_again = None;
        seen.pending_tried.clear();
        drop(seen);
        drop(deliverer);
    }

    /// The settings in force.
    pub fn settings(&self) -> Settings {
        self.seen().settings
    }

    /// Other limits of the breaker.
    pub fn reloaded(&self, breaker: BreakerConfig) {
        let now = self.world.now();
        let mut seen = self.seen();
        // A brownout that was over by the old limits does not come back by the new ones.
        if let Silence::Half(since) = seen.silence
            && now.saturating_sub(since) >= seen.settings.breaker.exit_after
        {
            (seen.silence, seen.failures) = (Silence::None, 0);
        }
        seen.settings.breaker = breaker;
    }

    /// Somebody begins or ends handing a run over.
    pub fn delivering(&self, run_key: &Cid, begins: bool) {
        let mut seen = self.seen();
        seen.dropped.remove(run_key);
        *seen.handed.entry(*run_key).or_default() += u64::from(begins);
        let count = seen.delivering.entry(*run_key).or_default();
        *count = if begins { *count + 1 } else { count.saturating_sub(1) };
    }

    /// Whether somebody is handing a run over.
    pub fn is_delivering(&self, run_key: &Cid) -> bool {
        self.seen().delivering.get(run_key).is_some_and(|count| *count > 0)
    }

    /// How often a run was handed over.
    pub fn handed(&self, run_key: &Cid) -> u64 {
        self.seen().handed.get(run_key).copied().unwrap_or(0)
    }

    /// An operator was told that a run is dropped, which had been handed over so often before.
    pub fn dropped(&self, run_key: &Cid, handed: u64) {
        let mut seen = self.seen();
        let again = seen.delivering.get(run_key).is_some_and(|count| *count > 0);
        if !again && seen.handed.get(run_key).copied().unwrap_or(0) == handed {
            seen.dropped.insert(*run_key);
        }
    }

    /// The start begins or ends handing over what a crash has left.
    pub fn recovering(&self, begins: bool) {
        self.seen().recovering = begins;
    }

    /// An operator hands an entry back to be sent again: the ledger is to be asked first. True if that is news.
    pub fn released_entry(&self, run_key: &Cid) -> bool {
        self.seen().open.insert(*run_key)
    }

    /// It was not handed back after all.
    pub fn not_released(&self, run_key: &Cid) {
        self.seen().open.remove(run_key);
    }

    /// An operator releases the latch, or has tried to.
    pub fn latch(&self, foreign: bool) {
        self.seen().foreign = foreign;
    }

    /// Whether the ledger has shown it a foreign commitment since the last release.
    pub fn is_foreign(&self) -> bool {
        self.seen().foreign
    }

    /// Whether a record under one of our run keys is not what our spool would have settled.
    pub fn foreign(&self, record: &rewarder_emit::Record) -> bool {
        let deliverer = self.seen().deliverer.clone();
        let entry = deliverer.and_then(|deliverer| deliverer.spool().find(&record.run_key));
        entry.is_some_and(|entry| entry.intent.commitment != record.commitment)
    }

    /// The spool's bounds, at any moment.
    pub fn look(&self) {
        let seen = self.seen();
        let Some(deliverer) = &seen.deliverer else { return };
        let (entries, bytes) = deliverer.spool().usage();
        let limits = seen.settings.quarantine;
        if entries > limits.entries_max.max(seen.entries_at_start) {
            self.verdict.broken(|| format!("the spool holds {entries} of {} entries", limits.entries_max));
        }
        if entries == 0 && bytes != 0 {
            self.verdict.broken(|| format!("an empty spool counts {bytes} bytes as taken"));
        }
    }

    /// A submission begins.
    pub fn submits(&self, intent: &Intent) -> Attempt {
        let deliverer = self.seen().deliverer.clone();
        let latched = deliverer.is_some_and(|deliverer| deliverer.latch().is_set());
        let mut seen = self.seen();
        if latched || seen.foreign {
            self.verdict.broken(|| format!("{} was sent under the latch", intent.epoch_id));
        }
        if !seen.open.insert(intent.run_key) {
            self.verdict.broken(|| format!("{} was sent again before the ledger was asked", intent.epoch_id));
        }
        drop(seen);
        self.begins("submit", &intent.run_key)
    }

    /// A question begins.
    pub fn asks(&self, run_key: &Cid) -> Attempt {
        self.begins("question", run_key)
    }

    /// A probe begins.
    pub fn probes(&self) -> Attempt {
        let (began, silence) = (self.world.now(), self.seen().silences);
        Attempt { watch: self.clone(), what: "probe", run_key: None, began, silence, ok: false, again: false }
    }

    fn begins(&self, what: &'static str, run_key: &Cid) -> Attempt {
        let now = self.world.now();
        let deliverer = self.seen().deliverer.clone();
        let (mut entry, mut pending, mut mode) = (None, Vec::new(), Mode::Closed);
        if let Some(deliverer) = &deliverer {
            entry = deliverer.spool().state(run_key);
            pending = deliverer.spool().pending();
            mode = deliverer.breaker().mode();
        }
        drop(deliverer);
        self.world.note(what, || format!("{run_key}: {entry:?} of {pending:?}, {mode:?}"));
        let mut guard = self.seen();
        let seen = &mut *guard;
        let broken = |law: &str| self.verdict.broken(|| format!("a {what} {law}"));
        if seen.dropped.contains(run_key) {
            broken("began for a run that an operator had dropped");
        }
        if mode == Mode::Open {
            broken("began during a brownout");
        }
        match seen.silence {
            Silence::Whole(_) => broken("began although the ledger had failed too often"),
            Silence::Half(since) if now.saturating_sub(since) >= seen.settings.breaker.exit_after => {
                (seen.silence, seen.failures) = (Silence::None, 0);
            }
            Silence::Half(_) if seen.under_way > 0 => broken("began beside another one after a brownout"),
            _ => {}
        }
        if mode == Mode::HalfOpen && matches!(entry, Some((_, State::Sending))) {
            broken("of a new job began before the brownout was over");
        }
        seen.under_way += 1;
        let handed = seen.recovering || seen.delivering.get(run_key).is_some_and(|count| *count > 0);
        let mut again = false;
        match entry {
            None => broken("began for a run that the spool does not hold"),
            Some((_, State::Operator)) => broken("began for a run that waits for an operator"),
            Some((seq, State::Sending)) => {
                let limits = seen.settings.delivery;
                let emission =
                    seen.emissions.entry((*run_key, seq)).or_insert(Emission { began: now, submits: 0 });
                emission.submits += u32::from(what == "submit");
                if now >= emission.began + limits.deadline {
                    broken("began after the deadline");
                }
                if emission.submits > limits.retries_max + 1 {
                    broken("was one more than there may be");
                }
                let asked = seen.patience.get(run_key).filter(|(when, _)| *when >= emission.began);
                if asked.is_some_and(|(_, until)| now < *until) {
                    broken("began before the ledger's Retry-After");
                }
            }
            Some((seq, State::Pending)) => {
                let before = seen.pending_tried.insert(seq, now);
                let goes_on = before.is_some_and(|before| now < before + seen.settings.delivery.deadline);
                if !handed {
                    again = true;
                    // An emission under way goes on.
                    if !goes_on && pending.iter().any(|older| *older < seq && !seen.again.contains(older)) {
                        broken("began before an older one's turn");
                    }
                    let pause = seen.settings.reemit.gap.min(seen.settings.reemit.backoff_first / 2);
                    if let Some((last, ended)) = seen.last_again
                        && last != *run_key
                        && now < ended + pause
                    {
                        broken("of the quarantine began without a pause");
                    }
                    if seen.patience.get(run_key).is_some_and(|(_, until)| now < *until) {
                        broken("of the quarantine began before the ledger's Retry-After");
                    }
                }
                seen.again.insert(seq);
            }
        }
        let silence = seen.silences;
        Attempt { watch: self.clone(), what, run_key: Some(*run_key), began: now, silence, ok: false, again }
    }
}

impl Attempt {
    /// The ledger answered; with a foreign commitment or not.
    pub fn answered(&mut self, foreign: bool) {
        self.ok = true;
        let mut seen = self.watch.seen();
        seen.foreign |= foreign;
        if let Some(run_key) = &self.run_key {
            seen.open.remove(run_key);
        }
    }

    /// Nothing came of it, for certain; the ledger may want patience.
    pub fn nothing(&mut self, refused: bool, patience: Option<Duration>) {
        self.ok = refused;
        let Some(run_key) = self.run_key else { return };
        let mut seen = self.watch.seen();
        if self.what == "submit" {
            seen.open.remove(&run_key);
        }
        if let Some(patience) = patience {
            let now = self.watch.world.now();
            seen.patience.insert(run_key, (now, now + patience));
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let now = self.watch.world.now();
        let deliverer = self.watch.seen().deliverer.clone();
        let Some(deliverer) = deliverer else { return };
        let open = deliverer.breaker().mode() == Mode::Open;
        let mut guard = self.watch.seen();
        let seen = &mut *guard;
        if self.run_key.is_some() && self.silence == seen.silences {
            seen.under_way = seen.under_way.saturating_sub(1);
        }
        if let (true, Some(run_key)) = (self.again, self.run_key) {
            seen.last_again = Some((run_key, now));
        }
        let took = now.saturating_sub(self.began);
        if took > seen.settings.delivery.attempt {
            self.watch.verdict.broken(|| format!("a {} took {took:?}", self.what));
        }
        let good_probe = self.ok && took < seen.settings.breaker.exit_p95;
        match (seen.silence, self.ok, self.run_key) {
            (Silence::None, true, _) => seen.failures = 0,
            (Silence::None, false, _) if open => {}
            (Silence::None, false, _) => {
                seen.failures += 1;
                if seen.failures >= seen.settings.breaker.health.failures_max {
                    (seen.silence, seen.under_way) = (Silence::Whole(0), 0);
                    seen.silences += 1;
                }
            }
            (Silence::Whole(good), _, None) if good_probe && good + 1 >= GOOD_PROBES => {
                seen.silence = Silence::Half(now)
            }
            (Silence::Whole(good), _, None) => {
                seen.silence = Silence::Whole(if good_probe { good + 1 } else { 0 });
            }
            (Silence::Half(since), false, _)
                // A drill keeps the breaker open for longer than is seen from here.
                if !open && now.saturating_sub(since) < seen.settings.breaker.exit_after =>
            {
                (seen.silence, seen.under_way) = (Silence::Whole(0), 0);
                seen.silences += 1;
            }
            _ => {}
        }
    }
}
