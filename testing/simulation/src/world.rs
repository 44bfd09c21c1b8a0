//! Virtual time, seeded dice and a scheduler of one thread: which of the ready tasks runs next is a throw of the dice,
//! and time moves only when none is ready.

use rewarder_model::world::{BoxFuture, Clock, Entropy, Spawn};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// 2027-01-15, when every run begins.
const EPOCH: Duration = Duration::from_secs(1_800_000_000);

/// What blocks takes up to so long.
const DISK_MILLIS: u64 = 12;

/// Who a task belongs to: it ends with its host; the network and the people have none.
pub type Owner = Option<usize>;

#[derive(Default)]
struct State {
    now: Duration,
    /// By host: seconds that its people's clock is off.
    off: BTreeMap<usize, i64>,
    dice: u64,
    hash: u64,
    next: u64,
    tasks: BTreeMap<u64, (BoxFuture<'static, ()>, Owner, Waker)>,
    /// Sorted: tokio wakes several waiters of one thing in an order of its own random bits.
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
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut state = self.0.state();
        if let Err(at) = state.ready.binary_search(&self.1) {
            state.ready.insert(at, self.1);
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

    /// Notes what happened: the hash of all notes is the identity of the run. `more` is for people.
    pub fn note(&self, what: &str, more: impl FnOnce() -> String) {
        let mut state = self.state();
        let time = state.now;
        for byte in what.bytes().chain(time.as_nanos().to_le_bytes()) {
            state.hash = (state.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if let Some(trace) = &mut state.trace {
            trace.push(format!("{:>12} us  {what} {}", time.as_micros(), more()));
        }
    }

    /// The hash and the notes so far.
    pub fn trace(&self) -> (u64, Vec<String>) {
        let mut state = self.state();
        // How often the dice were thrown tells runs apart that look the same.
        (state.hash ^ state.dice, state.trace.take().unwrap_or_default())
    }

    /// A number below `limit`; 0 if `limit` is 0.
    pub fn below(&self, limit: u64) -> u64 {
        let mut state = self.state();
        throw(&mut state.dice).checked_rem(limit).unwrap_or(0)
    }

    /// Whether one in `n` comes up.
    pub fn one_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of these.
    pub fn pick<T: Copy>(&self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).unwrap_or(0)]
    }

    /// A time below so many milliseconds.
    pub fn millis(&self, below: u64) -> Duration {
        Duration::from_micros(self.below(below * 1000))
    }

    /// Time since the run began.
    pub fn now(&self) -> Duration {
        self.state().now
    }

    /// Moves a host's people's clock ahead or back.
    pub fn jump(&self, host: usize, seconds: i64) {
        *self.state().off.entry(host).or_default() += seconds;
    }

    /// Completes when time has moved on by `duration`.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        let then = self.now().saturating_add(duration);
        Sleep { world: self.clone(), then, key: None }
    }

    /// Adds a task.
    pub fn start(&self, owner: Owner, future: impl Future<Output = ()> + Send + 'static) {
        self.start_boxed(owner, Box::pin(future));
    }

    fn start_boxed(&self, owner: Owner, future: BoxFuture<'static, ()>) {
        let mut state = self.state();
        state.next += 1;
        let id = state.next;
        let waker = Waker::from(Arc::new(TaskWaker(self.clone(), id)));
        state.tasks.insert(id, (future, owner, waker));
        state.ready.push(id);
    }

    /// Runs one ready task, or moves time to the next timer; false if nothing is left to do.
    pub fn step(&self) -> bool {
        let mut state = self.state();
        if state.ready.is_empty() {
            let Some(((then, _), waker)) = state.timers.pop_first() else { return false };
            state.now = state.now.max(then);
            drop(state);
            waker.wake();
            return true;
        }
        let ready = state.ready.len() as u64;
        let pick = throw(&mut state.dice) % ready;
        let id = state.ready.remove(usize::try_from(pick).unwrap_or(0));
        let Some((mut future, owner, waker)) = state.tasks.remove(&id) else { return true };
        drop(state);
        if future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            self.state().tasks.insert(id, (future, owner, waker));
        }
        true
    }

    /// Drops all tasks and timers: they hold the world, which holds them.
    pub fn end(&self) {
        let mut state = self.state();
        let (tasks, timers) = (std::mem::take(&mut state.tasks), std::mem::take(&mut state.timers));
        drop(state);
        drop((tasks, timers));
        // Whatever their destructors have started.
        let left = std::mem::take(&mut *self.state());
        drop(left);
    }

    /// Ends every task of a host where it stands.
    pub fn kill(&self, host: usize) {
        let mut dead = Vec::new();
        let mut state = self.state();
        for (id, task) in std::mem::take(&mut state.tasks) {
            if task.1 == Some(host) {
                dead.push(task);
            } else {
                state.tasks.insert(id, task);
            }
        }
        // Their destructors take the lock of the world.
        drop(state);
        drop(dead);
    }
}

/// splitmix64.
fn throw(dice: &mut u64) -> u64 {
    *dice = dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *dice;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A wait; it leaves no timer behind.
pub struct Sleep {
    world: World,
    then: Duration,
    key: Option<(Duration, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let it = &mut *self;
        let mut state = it.world.state();
        if state.now >= it.then {
            return Poll::Ready(());
        }
        let key = *it.key.get_or_insert_with(|| {
            state.next += 1;
            (it.then, state.next)
        });
        state.timers.insert(key, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let waker = self.world.state().timers.remove(&key);
            drop(waker);
        }
    }
}

/// The world as a host sees it: its tasks end with it, and its clock is its own.
#[derive(Clone)]
pub struct Host {
    /// The world.
    pub world: World,
    /// Which one.
    pub id: usize,
}

impl Clock for Host {
    fn monotonic(&self) -> Duration {
        self.world.now()
    }

    fn unix(&self) -> Duration {
        let state = self.world.state();
        let off = state.off.get(&self.id).copied().unwrap_or(0);
        let time = EPOCH + state.now;
        if off < 0 {
            time.saturating_sub(Duration::from_secs(off.unsigned_abs()))
        } else {
            time + Duration::from_secs(off.unsigned_abs())
        }
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(self.world.sleep(duration))
    }
}

impl Entropy for Host {
    fn fill(&self, bytes: &mut [u8]) {
        let mut state = self.world.state();
        for chunk in bytes.chunks_mut(8) {
            let drawn = throw(&mut state.dice);
            chunk.copy_from_slice(&drawn.to_le_bytes()[..chunk.len()]);
        }
    }
}

impl Spawn for Host {
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        self.world.start_boxed(Some(self.id), future);
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, bool> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let world = self.world.clone();
        self.world.start(Some(self.id), async move {
            // What blocks takes its time, before the deed and behind it.
            if world.one_in(2) {
                world.sleep(world.millis(DISK_MILLIS)).await;
            }
            work();
            if world.one_in(4) {
                world.sleep(world.millis(DISK_MILLIS)).await;
            }
            let _ = sender.send(());
        });
        Box::pin(async move { receiver.await.is_ok() })
    }
}
