//! A bounded queue, fair between keys, that keeps its own books.
//!
//! The door uses [`Sender::try_push`] and tells the caller that the queue is full; a stage uses
//! [`Sender::push`] and waits, still occupying its slot. The bound may change at any time: shrinking drops
//! nothing, it refuses new jobs until enough of the old have left. The queue ends as channels do: it is
//! closed when the last sender is gone (or [`Sender::close`] says so), and over when it is closed and empty.
//!
//! Depth and waiting time are written in the same critical section as the change that they tell of. A counter
//! beside the queue would be right on average and wrong after the first cancelled future.

use crate::error::PushError;
use crate::lanes::Lanes;
use crate::lock;
use crate::metrics::QueueMetrics;
use rewarder_model::world::Clock;
use std::num::{NonZeroU32, NonZeroUsize};
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
    let state = State { lanes: Lanes::default(), bound: bound.get(), senders: 1, closed: false };
    let shared = Arc::new(Shared {
        state: Mutex::new(state),
        arrived: Notify::new(),
        left: Notify::new(),
        turnstile: tokio::sync::Mutex::new(()),
        clock,
        metrics,
    });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

pub(crate) struct Shared<T> {
    state: Mutex<State<T>>,
    /// Wakes the one receiver.
    arrived: Notify,
    /// Wakes the one sender at the head of the turnstile.
    left: Notify,
    /// Waiting senders pass one by one in the order in which they came, so that none overtakes another.
    turnstile: tokio::sync::Mutex<()>,
    clock: Arc<dyn Clock>,
    metrics: QueueMetrics,
}

struct State<T> {
    /// Each item with the time at which it came.
    lanes: Lanes<(Duration, T)>,
    bound: usize,
    senders: usize,
    closed: bool,
}

impl<T> Shared<T> {
    pub fn set_bound(&self, bound: NonZeroUsize) {
        lock(&self.state).bound = bound.get();
        self.left.notify_one();
    }

    pub fn bound(&self) -> usize {
        lock(&self.state).bound
    }

    pub fn depth(&self) -> usize {
        lock(&self.state).lanes.len()
    }

    fn close(&self) {
        lock(&self.state).closed = true;
        self.arrived.notify_one();
        self.left.notify_one();
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
        if state.lanes.len() >= state.bound {
            return Err(PushError::Full(item));
        }
        let key = Arc::clone(item.key());
        let weight = item.weight();
        state.lanes.push(&key, weight, (self.0.clock.monotonic(), item));
        self.0.metrics.depth.set(state.lanes.len() as f64);
        drop(state);
        self.0.arrived.notify_one();
        Ok(())
    }

    /// Waits until there is room. `Err` hands the item back if the queue closes first. If this future is
    /// dropped, the item is dropped with it and was never in the queue.
    pub async fn push(&self, mut item: T) -> Result<(), T> {
        let _turn = self.0.turnstile.lock().await;
        loop {
            match self.try_push(item) {
                Ok(()) => return Ok(()),
                Err(PushError::Closed(back)) => return Err(back),
                Err(PushError::Full(back)) => item = back,
            }
            // A `notify_one` between the refusal above and this line is kept for it.
            self.0.left.notified().await;
        }
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
        drop(state);
        self.0.left.notify_one();
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
