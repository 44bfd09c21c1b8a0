//! Virtual time, seeded dice and a scheduler of one thread: which of the ready tasks runs next is a throw of the dice,
//! and time moves only when none is ready.

use rewarder_model::world::{BoxFuture, Clock, Entropy, Spawn};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// 2027-01-15, when every run begins.
const EPOCH: Duration = Duration::from_secs(1_800_000_000);

#[derive(Default)]
struct State {
    now: Duration,
    unix_ahead: Duration,
    dice: u64,
    hash: u64,
    next: u64,
    /// A task of the network outlives the service.
    tasks: BTreeMap<u64, (BoxFuture<'static, ()>, bool)>,
    ready: Vec<u64>,
    timers: BTreeMap<(Duration, u64), Waker>,
    trace: Option<Vec<String>>,
}

/// The world of one run.
#[derive(Clone, Default)]
pub struct World(Arc<Mutex<State>>);

struct TaskWaker(World, u64);

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let mut state = self.0.state();
        if !state.ready.contains(&self.1) {
            state.ready.push(self.1);
        }
    }
}

impl World {
    /// A world for `seed`; `trace` keeps what happens for people.
    pub fn new(seed: u64, trace: bool) -> Self {
        let world = Self::default();
        world.state().dice = seed.wrapping_mul(0xd134_2543_de82_ef95);
        world.state().trace = trace.then(Vec::new);
        world
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what happened: the hash of all notes is the identity of the run.
    pub fn note(&self, what: &str) {
        let mut state = self.state();
        let time = state.now;
        for byte in what.bytes().chain(time.as_nanos().to_le_bytes()) {
            state.hash = (state.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if let Some(trace) = &mut state.trace {
            trace.push(format!("{:>12} us  {what}", time.as_micros()));
        }
    }

    /// The hash and the notes so far.
    pub fn trace(&self) -> (u64, Vec<String>) {
        let state = self.state();
        (state.hash, state.trace.clone().unwrap_or_default())
    }

    /// Whether one in `n` comes up.
    pub fn one_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Moves people's time ahead.
    pub fn jump(&self, by: Duration) {
        self.state().unix_ahead += by;
    }

    /// Adds a task; `network` ones survive a crash of the service.
    pub fn start(&self, network: bool, future: BoxFuture<'static, ()>) {
        let mut state = self.state();
        state.next += 1;
        let id = state.next;
        state.tasks.insert(id, (future, network));
        state.ready.push(id);
    }

    /// Runs one ready task, or moves time to the next timer; false if nothing is left to do.
    pub fn step(&self) -> bool {
        if self.state().ready.is_empty() {
            let mut state = self.state();
            let Some(((then, _), waker)) = state.timers.pop_first() else { return false };
            state.now = state.now.max(then);
            drop(state);
            waker.wake();
            return true;
        }
        let ready = self.state().ready.len() as u64;
        let pick = self.below(ready);
        let id = self.state().ready.swap_remove(usize::try_from(pick).unwrap_or(0));
        let Some((mut future, network)) = self.state().tasks.remove(&id) else { return true };
        let waker = Waker::from(Arc::new(TaskWaker(self.clone(), id)));
        if future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            self.state().tasks.insert(id, (future, network));
        }
        true
    }

    /// Drops all tasks and timers: they hold the world, which holds them.
    pub fn end(&self) {
        let state = std::mem::take(&mut *self.state());
        drop(state);
    }

    /// Ends every task of the service where it stands.
    pub fn kill_service(&self) {
        let mut dead = Vec::new();
        let mut state = self.state();
        for (id, (future, network)) in std::mem::take(&mut state.tasks) {
            if network {
                state.tasks.insert(id, (future, network));
            } else {
                dead.push(future);
            }
        }
        // Their destructors take the lock of the world.
        drop(state);
        drop(dead);
    }
}

impl Clock for World {
    fn monotonic(&self) -> Duration {
        self.state().now
    }

    fn unix(&self) -> Duration {
        let state = self.state();
        EPOCH + state.now + state.unix_ahead
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let world = self.clone();
        let then = world.monotonic().saturating_add(duration);
        Box::pin(std::future::poll_fn(move |context| {
            let mut state = world.state();
            if state.now >= then {
                return Poll::Ready(());
            }
            state.next += 1;
            let key = (then, state.next);
            state.timers.insert(key, context.waker().clone());
            Poll::Pending
        }))
    }
}

impl Entropy for World {
    fn fill(&self, bytes: &mut [u8]) {
        let mut state = self.state();
        for chunk in bytes.chunks_mut(8) {
            state.dice = state.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state.dice;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
        }
    }
}

impl Spawn for World {
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        self.start(false, future);
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, bool> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.start(
            false,
            Box::pin(async move {
                work();
                let _ = sender.send(());
            }),
        );
        Box::pin(async move { receiver.await.is_ok() })
    }
}
