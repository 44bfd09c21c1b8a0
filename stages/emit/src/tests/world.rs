//! Time by hand, dice with a seed, and intents.

use rewarder_model::world::disk::{Disk, Entry, Guard, MemoryDisk, ReadAt, WriteFile};
use rewarder_model::world::{BoxFuture, Clock, Entropy, Spawn};
use rewarder_model::{Cid, Intent};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

/// The `n`th intent: one epoch each, of one tenant.
pub(crate) fn intent(n: u64) -> Intent {
    let cid = |what: &str| Cid::of(format!("{what} {n}").as_bytes());
    Intent {
        run_key: cid("run"),
        tenant: "acme".parse().unwrap(),
        epoch_id: format!("2026-{n}").parse().unwrap(),
        commitment: cid("manifest"),
        allocations_root: cid("table"),
        asset: "roc".parse().unwrap(),
        payout_minor_units: (n + 1).into(),
        recipients: 1,
        policy_hash: cid("policy"),
        inputs_cid: cid("inputs"),
    }
}

/// A clock that stands still until it is moved.
#[derive(Default, Clone)]
pub(crate) struct HandClock(Arc<Mutex<(Duration, Vec<Waker>)>>);

impl HandClock {
    pub(crate) fn new() -> Self {
        Self::default()
    }
}

impl HandClock {
    pub(crate) fn advance(&self, by: Duration) {
        let mut state = self.0.lock().unwrap();
        state.0 += by;
        state.1.drain(..).for_each(Waker::wake);
    }
}

impl Clock for HandClock {
    fn monotonic(&self) -> Duration {
        self.0.lock().unwrap().0
    }

    fn unix(&self) -> Duration {
        Duration::from_secs(1_800_000_000) + self.monotonic()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let state = self.0.clone();
        let then = self.monotonic() + duration;
        Box::pin(std::future::poll_fn(move |context| {
            let mut state = state.lock().unwrap();
            if state.0 >= then {
                return Poll::Ready(());
            }
            state.1.push(context.waker().clone());
            Poll::Pending
        }))
    }
}

/// A clock on which every sleep ends at once, after that time: for ledgers that answer at once or never.
#[derive(Default, Clone)]
pub(crate) struct HastyClock(HandClock);

impl Clock for HastyClock {
    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    fn unix(&self) -> Duration {
        self.0.unix()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let clock = self.0.clone();
        let then = clock.monotonic() + duration;
        Box::pin(async move {
            tokio::task::yield_now().await;
            clock.advance(then.saturating_sub(clock.monotonic()));
        })
    }
}

/// Random bits from a seed (splitmix64).
pub(crate) struct Dice(Mutex<u64>);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.into())
    }
}

impl Entropy for Dice {
    fn fill(&self, bytes: &mut [u8]) {
        let mut state = self.0.lock().unwrap();
        for chunk in bytes.chunks_mut(8) {
            *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = *state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
        }
    }
}

/// A clock for real sockets without real time: short sleeps (waits between attempts) end at once, long ones
/// (time-outs) when the hand moves.
#[derive(Default, Clone)]
pub(crate) struct PatientClock(pub(crate) HandClock);

/// What counts as long.
pub(crate) const LONG: Duration = Duration::from_millis(100);

impl Clock for PatientClock {
    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    fn unix(&self) -> Duration {
        self.0.unix()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        if duration < LONG { HastyClock(self.0.clone()).sleep(duration) } else { self.0.sleep(duration) }
    }
}

/// The runtime of the test.
pub(crate) struct Tokio;

impl Spawn for Tokio {
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        tokio::spawn(future);
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, bool> {
        let task = tokio::task::spawn_blocking(work);
        Box::pin(async move { task.await.is_ok() })
    }
}

/// A disk in memory of which some operations fail: pairs of an operation and the beginning of a path.
#[derive(Default, Clone)]
pub(crate) struct FailingDisk {
    disk: Arc<MemoryDisk>,
    fails: Arc<Mutex<Vec<(&'static str, &'static str)>>>,
    /// Writes wait at a gate while this is set.
    pub(crate) shut: Arc<AtomicBool>,
    /// Writes that have come to the gate.
    pub(crate) came: Arc<AtomicU32>,
}

impl FailingDisk {
    pub(crate) fn fail(&self, fails: &[(&'static str, &'static str)]) {
        *self.fails.lock().unwrap() = fails.to_vec();
    }

    fn enter(&self, what: &str, path: &Path) -> io::Result<()> {
        let fails = self.fails.lock().unwrap();
        match fails.iter().any(|(fails, below)| *fails == what && path.starts_with(below)) {
            true => Err(io::Error::other("an I/O error")),
            false => Ok(()),
        }
    }
}

struct FailingFile(FailingDisk, PathBuf, Box<dyn WriteFile>);

impl WriteFile for FailingFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.came.fetch_add(1, Ordering::SeqCst);
        while self.0.shut.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.0.enter("write", &self.1)?;
        self.2.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.enter("sync", &self.1)?;
        self.2.sync()
    }
}

impl Disk for FailingDisk {
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.make_dir(path)
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        Ok(Box::new(FailingFile(self.clone(), path.into(), self.disk.create_new(path)?)))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn WriteFile>> {
        Ok(Box::new(FailingFile(self.clone(), path.into(), self.disk.append(path)?)))
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        self.enter("truncate", path)?;
        self.disk.truncate(path, len)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>> {
        self.disk.open(path)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.enter("rename", to)?;
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.disk.list(path)
    }

    fn file_len(&self, path: &Path) -> io::Result<Option<u64>> {
        self.disk.file_len(path)
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<Guard>> {
        self.disk.try_lock(path)
    }
}
