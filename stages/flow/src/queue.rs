//! A bounded queue, fair between keys, that keeps its own books.
//!
//! The door uses [`Sender::try_push`] and tells the caller that the queue is full; a stage uses
//! [`Sender::push`] and waits, still occupying its slot. The bound may change at any time: shrinking drops
//! nothing, it refuses new jobs until enough of the old have left. The queue ends as channels do: it is
//! closed when the last sender is gone (or [`Sender::close`] says so), and over when it is closed and empty.
//!
//! Who waits for room takes turns by key as well ([`Waiter`]): room goes to the waiting sender whose key's turn it is, and not to
//! the one that came first. In the order of arrival a job of one key would stand behind as many of another as the stage before
//! has slots, at each stage again, whatever the turns within the queues.
//!
//! Depth and waiting time are written in the same critical section as the change that they tell of. A counter
//! beside the queue would be right on average and wrong after the first cancelled future.

use crate::error::PushError;
use crate::lanes::Lanes;
use crate::lock;
use crate::metrics::QueueMetrics;
use rewarder_model::world::Clock;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

/// What a queue is fair between.
pub trait Keyed {
    /// The fairness key.
    fn key(&self) -> &Arc<str>;

    /// How many jobs of this key are served for one of a key of weight 1.
    fn weight(&self) -> NonZeroU32 {
        NonZeroU32::MIN
    }
}

/// Makes the queue before `stage`, with room for `bound` items.
pub fn queue<T: Keyed>(
    stage: &'static str,
    bound: NonZeroUsize,
    clock: Arc<dyn Clock>,
) -> (Sender<T>, Receiver<T>) {
    let metrics = QueueMetrics::of(stage);
    metrics.depth.set(0.0);
    let state = State {
        lanes: Lanes::default(),
        waiting: Lanes::default(),
        granted: 0,
        bound: bound.get(),
        senders: 1,
        closed: false,
    };
    let shared = Arc::new(Shared { state: Mutex::new(state), arrived: Notify::new(), clock, metrics });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

pub(crate) struct Shared<T> {
    state: Mutex<State<T>>,
    /// Wakes the one receiver.
    arrived: Notify,
    clock: Arc<dyn Clock>,
    metrics: QueueMetrics,
}

struct State<T> {
    /// Each item with the time at which it came.
    lanes: Lanes<(Duration, T)>,
    /// Senders that wait for room. While one does there is none: whoever makes room grants it at once.
    waiting: Lanes<Arc<Waiter>>,
    /// Room that was granted and is not taken yet.
    granted: usize,
    bound: usize,
    senders: usize,
    closed: bool,
}

impl<T> State<T> {
    fn has_room(&self) -> bool {
        self.lanes.len() + self.granted < self.bound
    }

    /// Gives what room there is to those who wait, in their turns.
    fn grant(&mut self) {
        while self.has_room()
            && let Some(waiter) = self.waiting.pop()
        {
            if !waiter.is_gone.load(Ordering::Relaxed) {
                waiter.is_granted.store(true, Ordering::Relaxed);
                self.granted += 1;
                waiter.woken.notify_one();
            }
        }
    }
}

/// A sender that waits for room. Its flags change under the queue's lock only.
#[derive(Default)]
struct Waiter {
    woken: Notify,
    /// Room is kept for it.
    is_granted: AtomicBool,
    /// It does not wait any more, with its item in the queue or without.
    is_gone: AtomicBool,
}

/// Keeps a waiter's place for as long as its sender waits; room that it does not take goes to the next.
struct Waiting<'a, T> {
    shared: &'a Shared<T>,
    waiter: Arc<Waiter>,
}

impl<T> Drop for Waiting<'_, T> {
    fn drop(&mut self) {
        let mut state = lock(&self.shared.state);
        if !self.waiter.is_gone.swap(true, Ordering::Relaxed)
            && self.waiter.is_granted.load(Ordering::Relaxed)
        {
            state.granted -= 1;
            state.grant();
        }
    }
}

impl<T> Shared<T> {
    pub fn set_bound(&self, bound: NonZeroUsize) {
        let mut state = lock(&self.state);
        state.bound = bound.get();
        state.grant();
    }

    pub fn bound(&self) -> usize {
        lock(&self.state).bound
    }

    pub fn depth(&self) -> usize {
        lock(&self.state).lanes.len()
    }

    fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        // They have nothing to wait for any more.
        while let Some(waiter) = state.waiting.pop() {
            waiter.woken.notify_one();
        }
        drop(state);
        self.arrived.notify_one();
    }
}

/// The end of a queue where items enter. The queue closes when its last sender is dropped.
pub struct Sender<T>(Arc<Shared<T>>);

impl<T: Keyed> Sender<T> {
    /// Takes the item at once or hands it back.
    pub fn try_push(&self, item: T) -> Result<(), PushError<T>> {
        let mut state = lock(&self.0.state);
        if state.closed {
            return Err(PushError::Closed(item));
        }
        if !state.has_room() {
            return Err(PushError::Full(item));
        }
        self.put(&mut state, item);
        drop(state);
        self.0.arrived.notify_one();
        Ok(())
    }

    /// Waits until there is room. `Err` hands the item back if the queue closes first. If this future is
    /// dropped, the item is dropped with it and was never in the queue.
    pub async fn push(&self, item: T) -> Result<(), T> {
        let item = match self.try_push(item) {
            Ok(()) => return Ok(()),
            Err(PushError::Closed(back)) => return Err(back),
            Err(PushError::Full(back)) => back,
        };
        let waiting = {
            let mut state = lock(&self.0.state);
            let waiter = Arc::new(Waiter::default());
            state.waiting.push(item.key(), item.weight(), Arc::clone(&waiter));
            // Room may have come, or the end, since the refusal above.
            state.grant();
            if state.closed {
                waiter.woken.notify_one();
            }
            Waiting { shared: &self.0, waiter }
        };
        waiting.waiter.woken.notified().await;
        let mut state = lock(&self.0.state);
        if state.closed {
            // What was granted is of no use to anybody; `waiting` gives it back once the lock is free.
            drop(state);
            return Err(item);
        }
        waiting.waiter.is_gone.store(true, Ordering::Relaxed);
        state.granted -= 1;
        self.put(&mut state, item);
        drop(state);
        self.0.arrived.notify_one();
        Ok(())
    }

    fn put(&self, state: &mut State<T>, item: T) {
        let key = Arc::clone(item.key());
        let weight = item.weight();
        state.lanes.push(&key, weight, (self.0.clock.monotonic(), item));
        self.0.metrics.depth.set(state.lanes.len() as f64);
    }
}

impl<T> Sender<T> {
    /// Closes the queue for every sender. What waits in it is still served.
    pub fn close(&self) {
        self.0.close();
    }

    /// How many items wait.
    pub fn depth(&self) -> usize {
        self.0.depth()
    }

    pub(crate) fn shared(&self) -> Arc<Shared<T>> {
        Arc::clone(&self.0)
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        lock(&self.0.state).senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.senders -= 1;
        let last = state.senders == 0;
        drop(state);
        if last {
            self.0.close();
        }
    }
}

/// The end of a queue where items leave; there is one. Dropping it closes the queue and drops what waits.
pub struct Receiver<T>(Arc<Shared<T>>);

impl<T> Receiver<T> {
    /// Waits for an item; `None` when the queue is closed and empty.
    pub async fn pop(&mut self) -> Option<T> {
        if self.ready().await { self.try_pop() } else { None }
    }

    /// Waits until an item is there to be taken; false when the queue is closed and empty.
    ///
    /// Apart from [`Self::try_pop`], because a stage must not take a job out before it has a slot for it.
    pub async fn ready(&mut self) -> bool {
        loop {
            let (empty, closed) = {
                let state = lock(&self.0.state);
                (state.lanes.len() == 0, state.closed)
            };
            if !empty || closed {
                return !empty;
            }
            self.0.arrived.notified().await;
        }
    }

    /// Takes the item whose turn it is, if any waits.
    pub fn try_pop(&mut self) -> Option<T> {
        let mut state = lock(&self.0.state);
        let (since, item) = state.lanes.pop()?;
        self.0.metrics.depth.set(state.lanes.len() as f64);
        self.0.metrics.wait.record(self.0.clock.monotonic().saturating_sub(since).as_secs_f64());
        state.grant();
        Some(item)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.close();
        let mut state = lock(&self.0.state);
        let rest = std::mem::take(&mut state.lanes);
        self.0.metrics.depth.set(0.0);
        drop(state);
        // Outside the lock: dropping a job answers its ticket, which may wake anybody.
        drop(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Scrape, settle};
    use proptest::prelude::*;
    use rewarder_model::world::testing::HandClock;

    #[derive(Debug, Clone, PartialEq)]
    struct Item(Arc<str>, usize);

    impl Keyed for Item {
        fn key(&self) -> &Arc<str> {
            &self.0
        }
    }

    fn item(key: &str, n: usize) -> Item {
        Item(key.into(), n)
    }

    fn make(bound: usize) -> (Sender<Item>, Receiver<Item>, Scrape, HandClock) {
        let (scrape, clock) = (Scrape::default(), HandClock::default());
        let (tx, rx) = scrape.during(|| {
            queue("s", NonZeroUsize::new(bound).unwrap(), Arc::new(clock.clone()) as Arc<dyn Clock>)
        });
        (tx, rx, scrape, clock)
    }

    #[test]
    fn shrinking_drops_nothing_and_refuses_until_below() {
        let (tx, mut rx, _, _) = make(3);
        (0..3).for_each(|n| tx.try_push(item("k", n)).unwrap());
        tx.shared().set_bound(NonZeroUsize::MIN);
        for n in 0..3 {
            assert_eq!(tx.try_push(item("k", 9)), Err(PushError::Full(item("k", 9))));
            assert_eq!(rx.try_pop(), Some(item("k", n)));
        }
        assert_eq!(tx.try_push(item("k", 9)), Ok(()));
    }

    #[tokio::test]
    async fn ends_when_closed_and_empty() {
        let (tx, mut rx, _, _) = make(3);
        let other = tx.clone();
        tx.try_push(item("k", 0)).unwrap();
        drop(tx);
        other.try_push(item("k", 1)).unwrap();
        drop(other);
        assert_eq!(rx.pop().await, Some(item("k", 0)));
        assert_eq!(rx.pop().await, Some(item("k", 1)));
        assert_eq!(rx.pop().await, None);
    }

    #[tokio::test]
    async fn a_closed_queue_hands_back_what_it_is_given() {
        let (tx, rx, _, _) = make(1);
        tx.try_push(item("k", 0)).unwrap();
        let waiting = tokio::spawn({
            let tx = tx.clone();
            async move { tx.push(item("k", 1)).await }
        });
        settle().await;
        drop(rx);
        assert_eq!(waiting.await.unwrap(), Err(item("k", 1)));
        assert_eq!(tx.try_push(item("k", 2)), Err(PushError::Closed(item("k", 2))));
        assert_eq!(tx.depth(), 0);
    }

    #[tokio::test]
    async fn pushes_wait_for_room_and_pass_in_order() {
        let (tx, mut rx, _, _) = make(1);
        let waiting: Vec<_> = (0..4)
            .map(|n| {
                let tx = tx.clone();
                tokio::spawn(async move { tx.push(item("k", n)).await })
            })
            .collect();
        settle().await;
        assert_eq!(waiting.iter().filter(|w| w.is_finished()).count(), 1, "one is in, the others wait");
        waiting[1].abort(); // a cancelled push leaves nothing behind and blocks nobody
        settle().await;
        for n in [0, 2, 3] {
            assert_eq!(rx.pop().await, Some(item("k", n)));
            settle().await;
        }
        assert_eq!(tx.depth(), 0);
    }

    #[tokio::test]
    async fn who_waits_for_room_takes_turns_by_key() {
        let (tx, mut rx, _, _) = make(1);
        tx.try_push(item("greedy", 0)).unwrap();
        let push = |key: &'static str, n| {
            let tx = tx.clone();
            tokio::spawn(async move { tx.push(item(key, n)).await })
        };
        let mut waiting: Vec<_> = (1..9).map(|n| push("greedy", n)).collect();
        settle().await;
        waiting.push(push("modest", 9));
        settle().await;
        assert_eq!(
            tx.try_push(item("other", 10)),
            Err(PushError::Full(item("other", 10))),
            "nobody overtakes"
        );
        let mut order = Vec::new();
        for _ in 0..10 {
            order.extend(rx.try_pop().map(|item| item.1));
            settle().await;
        }
        assert_eq!(order, [0, 1, 9, 2, 3, 4, 5, 6, 7, 8], "behind one turn of the other, not behind all");
        let state = lock(&tx.0.state);
        assert_eq!((state.granted, state.waiting.len()), (0, 0));
    }

    #[tokio::test]
    async fn granted_room_that_is_not_taken_goes_to_the_next() {
        let (tx, mut rx, _, _) = make(1);
        tx.try_push(item("k", 0)).unwrap();
        let push = |n| {
            let tx = tx.clone();
            tokio::spawn(async move { tx.push(item("k", n)).await })
        };
        let (first, second) = (push(1), push(2));
        settle().await;
        rx.try_pop().unwrap();
        // Granted, and cancelled before it could take it.
        first.abort();
        settle().await;
        let next = rx.try_pop().unwrap();
        assert!(next == item("k", 1) || next == item("k", 2));
        settle().await;
        if next == item("k", 1) {
            assert_eq!(rx.try_pop(), Some(item("k", 2)));
        }
        second.await.unwrap().unwrap();
        assert_eq!(lock(&tx.0.state).granted, 0);
        tx.try_push(item("k", 3)).unwrap();
    }

    #[tokio::test]
    async fn growing_lets_a_waiting_push_in() {
        let (tx, _rx, _, _) = make(1);
        tx.try_push(item("k", 0)).unwrap();
        let pushes: Vec<_> = (1..3)
            .map(|n| {
                let tx = tx.clone();
                tokio::spawn(async move { tx.push(item("k", n)).await })
            })
            .collect();
        settle().await;
        tx.shared().set_bound(NonZeroUsize::new(3).unwrap());
        for push in pushes {
            push.await.unwrap().unwrap();
        }
        assert_eq!(tx.depth(), 3);
    }

    #[test]
    fn waiting_time_is_that_of_the_clock() {
        let (tx, mut rx, scrape, clock) = make(2);
        tx.try_push(item("k", 0)).unwrap();
        clock.advance(Duration::from_millis(1500));
        rx.try_pop().unwrap();
        assert_eq!(scrape.value("stage_wait_seconds_sum{stage=\"s\"}"), 1.5);
        assert_eq!(scrape.value("stage_wait_seconds_count{stage=\"s\"}"), 1.0);
    }

    /// The same queue written without a thought for speed: a list of lists.
    #[derive(Default)]
    struct Naive(Vec<(Arc<str>, Vec<Item>)>);

    impl Naive {
        fn len(&self) -> usize {
            self.0.iter().map(|(_, items)| items.len()).sum()
        }

        fn push(&mut self, item: Item) {
            match self.0.iter_mut().find(|(key, _)| *key == item.0) {
                Some((_, items)) => items.push(item),
                None => self.0.push((Arc::clone(&item.0), vec![item])),
            }
        }

        fn pop(&mut self) -> Option<Item> {
            if self.0.is_empty() {
                return None;
            }
            let (key, mut items) = self.0.remove(0);
            let item = items.remove(0);
            if !items.is_empty() {
                self.0.push((key, items));
            }
            Some(item)
        }
    }

    #[derive(Debug, Clone)]
    enum Op {
        Push(u8),
        Pop,
        Bound(usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![5 => (0u8..5).prop_map(Op::Push), 4 => Just(Op::Pop), 1 => (1usize..12).prop_map(Op::Bound)]
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_queue(ops in prop::collection::vec(op(), 0..200)) {
            let (tx, mut rx, scrape, _) = make(4);
            let (mut naive, mut bound) = (Naive::default(), 4);
            for (n, op) in ops.into_iter().enumerate() {
                match op {
                    Op::Push(key) => {
                        let item = item(&key.to_string(), n);
                        let expect = if naive.len() < bound {
                            naive.push(item.clone());
                            Ok(())
                        } else {
                            Err(PushError::Full(item.clone()))
                        };
                        prop_assert_eq!(tx.try_push(item), expect);
                    }
                    Op::Pop => prop_assert_eq!(rx.try_pop(), naive.pop()),
                    Op::Bound(new) => {
                        bound = new;
                        tx.shared().set_bound(NonZeroUsize::new(new).unwrap());
                    }
                }
                prop_assert_eq!(tx.depth(), naive.len());
            }
            prop_assert_eq!(scrape.value("queue_depth{stage=\"s\"}"), naive.len() as f64);
        }
    }
}
