//! Stages joined to a line, from the last to the first, so that each is given the door of the one behind it:
//!
//! ```ignore
//! let mut pipeline = Pipeline::new(clock, on_panic);
//! let emit   = pipeline.last("emit", sizes.emit, move |computed, _| emit(computed));
//! let reward = pipeline.stage("reward", sizes.reward, emit, move |decoded, _| reward(decoded));
//! let door   = pipeline.stage("admit", sizes.admit, reward, move |job, _| admit(job));
//! ```
//!
//! Drain is the dropping of senders: whoever holds the door drops it (or calls [`Sender::close`]), the first
//! stage finishes what it has and drops its own sender, and so on to the last. [`Pipeline::drain`] waits for
//! that, but not for ever.

use crate::config::StageConfig;
use crate::error::UnknownStage;
use crate::metrics::StageMetrics;
use crate::queue::{Sender, Shared, queue};
use crate::slots::Slots;
use crate::stage::{Context, OnPanic, Stage, Step};
use crate::ticket::{Door, Envelope};
use futures::future::{Either, join_all, select};
use rewarder_model::world::Clock;
use std::convert::Infallible;
use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Stages that run, whose jobs are all answered with an `A`.
pub struct Pipeline<A> {
    clock: Arc<dyn Clock>,
    on_panic: OnPanic,
    controls: Vec<Control>,
    runners: Vec<JoinHandle<()>>,
    answers: std::marker::PhantomData<fn() -> A>,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every accepted job was answered by a stage.
    Clean,
    /// The deadline passed first. About this many jobs were inside; each that no stage answered meanwhile was
    /// answered `Lost`.
    CutOff {
        /// Jobs in queues and slots when the deadline passed.
        inside: usize,
    },
}

impl<A: Send + 'static> Pipeline<A> {
    /// A line without stages. `on_panic` is told the stage and the message of every panic that a stage
    /// caught.
    pub fn new(clock: Arc<dyn Clock>, on_panic: impl Fn(&'static str, &str) + Send + Sync + 'static) -> Self {
        let answers = std::marker::PhantomData;
        Self { clock, on_panic: Arc::new(on_panic), controls: Vec::new(), runners: Vec::new(), answers }
    }

    /// Starts the last stage, which answers every job. Needs a tokio runtime, like [`Self::stage`].
    pub fn last<T, H, F>(&mut self, name: &'static str, config: StageConfig, handler: H) -> Door<T, A>
    where
        T: Send + 'static,
        H: Fn(T, Context) -> F + Send + Sync + 'static,
        F: Future<Output = Step<Infallible, A>> + Send + 'static,
    {
        self.start(name, config, None, handler)
    }

    /// Starts a stage that hands its jobs on to `next`, and returns its door.
    pub fn stage<T, U, H, F>(
        &mut self,
        name: &'static str,
        config: StageConfig,
        next: Door<U, A>,
        handler: H,
    ) -> Door<T, A>
    where
        T: Send + 'static,
        U: Send + 'static,
        H: Fn(T, Context) -> F + Send + Sync + 'static,
        F: Future<Output = Step<U, A>> + Send + 'static,
    {
        self.start(name, config, Some(next), handler)
    }

    fn start<T, U, H, F>(
        &mut self,
        name: &'static str,
        config: StageConfig,
        next: Option<Door<U, A>>,
        handler: H,
    ) -> Door<T, A>
    where
        T: Send + 'static,
        U: Send + 'static,
        H: Fn(T, Context) -> F + Send + Sync + 'static,
        F: Future<Output = Step<U, A>> + Send + 'static,
    {
        let (door, jobs): (Sender<Envelope<T, A>>, _) = queue(name, config.queue(), Arc::clone(&self.clock));
        let slots = Slots::new(config.width(), StageMetrics::of(name));
        self.controls.push(Control { name, slots: Arc::clone(&slots), queue: door.shared() });
        let (clock, on_panic) = (Arc::clone(&self.clock), Arc::clone(&self.on_panic));
        let stage = Arc::new(Stage { name, handler, next, slots, clock, on_panic });
        self.runners.push(tokio::spawn(stage.run(jobs)));
        door
    }

    /// What a reload and the readiness check hold.
    pub fn controls(&self) -> Controls {
        Controls(self.controls.as_slice().into())
    }

    /// Waits until every stage has come to its end, for at most `deadline`; then cuts off what is left. The
    /// door must be closed first, or the first stage has no reason to end. Work on a compute thread runs to
    /// its end even after a cut, unseen: a thread cannot be stopped.
    pub async fn drain(mut self, deadline: Duration) -> Drained {
        let late = self.clock.sleep(deadline);
        if let Either::Left(_) = select(pin!(join_all(&mut self.runners)), late).await {
            return Drained::Clean;
        }
        let inside = self.controls().states().iter().map(|state| state.depth + state.inflight).sum();
        self.runners.iter().for_each(JoinHandle::abort);
        // A handle that ended before must not be asked again.
        join_all(self.runners.iter_mut().filter(|runner| !runner.is_finished())).await;
        Drained::CutOff { inside }
    }
}

/// One stage's knobs and dials, whatever its payload.
#[derive(Clone)]
struct Control {
    name: &'static str,
    slots: Arc<Slots>,
    queue: Arc<dyn QueueControl>,
}

trait QueueControl: Send + Sync {
    fn set_bound(&self, bound: NonZeroUsize);
    fn bound(&self) -> usize;
    fn depth(&self) -> usize;
}

impl<T: Send> QueueControl for Shared<T> {
    fn set_bound(&self, bound: NonZeroUsize) {
        Shared::set_bound(self, bound);
    }

    fn bound(&self) -> usize {
        Shared::bound(self)
    }

    fn depth(&self) -> usize {
        Shared::depth(self)
    }
}

/// Changes the sizes of the stages while they run, and shows their state. Holding it keeps no stage from
/// ending.
#[derive(Clone)]
pub struct Controls(Arc<[Control]>);

/// A stage at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageState {
    /// Its name.
    pub name: &'static str,
    /// Jobs that may run.
    pub width: usize,
    /// Jobs that may wait.
    pub queue: usize,
    /// Jobs that run.
    pub inflight: usize,
    /// Jobs that wait.
    pub depth: usize,
}

impl Controls {
    /// Gives the stage called `name` other sizes. No job is lost: see [`queue`](mod@crate::queue) for what
    /// waits; what runs beyond a smaller width finishes.
    pub fn resize(&self, name: &str, config: StageConfig) -> Result<(), UnknownStage> {
        let control = self.0.iter().find(|c| c.name == name).ok_or_else(|| UnknownStage(name.to_owned()))?;
        control.queue.set_bound(config.queue());
        control.slots.resize(config.width());
        Ok(())
    }

    /// Every stage, first to last.
    pub fn states(&self) -> Vec<StageState> {
        let state = |c: &Control| StageState {
            name: c.name,
            width: c.slots.width(),
            queue: c.queue.bound(),
            inflight: c.slots.running(),
            depth: c.queue.depth(),
        };
        self.0.iter().rev().map(state).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{PushError, Unanswered};
    use crate::panicked::Panicked;
    use crate::pool::Pool;
    use crate::testing::{Gate, Scrape, settle};
    use crate::ticket::{Answer, ticket};
    use futures::FutureExt;
    use rewarder_model::world::testing::HandClock;
    use std::sync::Mutex;

    fn sizes(width: usize, queue: usize) -> StageConfig {
        StageConfig::new(width, queue).unwrap()
    }

    fn job<T, A>(key: &str, payload: T) -> (Envelope<T, A>, Answer<A>) {
        let (ticket, answer) = ticket(key.into(), Duration::ZERO, None);
        (Envelope { ticket, payload }, answer)
    }

    /// Pushes jobs numbered from `first` until the door refuses or `most` are in.
    fn fill(door: &Door<usize, usize>, first: usize, most: usize) -> Vec<Answer<usize>> {
        let mut answers = Vec::new();
        for n in first..first + most {
            let (envelope, answer) = job("k", n);
            match door.try_push(envelope) {
                Ok(()) => answers.push(answer),
                Err(PushError::Full(_)) => break,
                Err(PushError::Closed(_)) => panic!("the door is closed"),
            }
        }
        answers
    }

    /// Fills, letting the stages take what they can in between, until nothing more goes in.
    async fn fill_up(door: &Door<usize, usize>) -> Vec<Answer<usize>> {
        let mut answers = Vec::new();
        loop {
            let more = fill(door, answers.len(), usize::MAX / 2);
            if more.is_empty() {
                return answers;
            }
            answers.extend(more);
            settle().await;
        }
    }

    struct Rig {
        pipeline: Pipeline<usize>,
        clock: HandClock,
        panics: Arc<Mutex<Vec<String>>>,
    }

    fn rig() -> Rig {
        let (clock, panics) = (HandClock::default(), Arc::<Mutex<Vec<String>>>::default());
        let seen = Arc::clone(&panics);
        let pipeline = Pipeline::new(Arc::new(clock.clone()), move |stage, message| {
            seen.lock().unwrap().push(format!("{stage}: {message}"));
        });
        Rig { pipeline, clock, panics }
    }

    /// A last stage that holds every job at `gate`.
    fn gated(rig: &mut Rig, config: StageConfig, gate: &Arc<Gate>) -> Door<usize, usize> {
        let gate = Arc::clone(gate);
        rig.pipeline.last("s", config, move |n: usize, _| {
            let gate = Arc::clone(&gate);
            async move {
                gate.pass().await;
                Step::Done(n)
            }
        })
    }

    #[tokio::test]
    async fn admits_exactly_the_sum_of_queues_and_widths() {
        let (mut rig, gate) = (rig(), Gate::new());
        let last = gated(&mut rig, sizes(2, 3), &gate);
        let middle = rig.pipeline.stage("m", sizes(3, 4), last, |n: usize, _| async move { Step::Next(n) });
        let door = rig.pipeline.stage("f", sizes(1, 5), middle, |n: usize, _| async move { Step::Next(n) });

        let answers = fill_up(&door).await;
        assert_eq!(answers.len(), (2 + 3) + (3 + 4) + (1 + 5));
        let full: Vec<_> = rig.pipeline.controls().states().iter().map(|s| (s.inflight, s.depth)).collect();
        assert_eq!(full, [(1, 5), (3, 4), (2, 3)]);

        gate.open(1);
        settle().await;
        assert_eq!(fill(&door, 0, 9).len(), 1, "one out, one in");

        gate.open(1000);
        drop(door);
        assert_eq!(rig.pipeline.drain(Duration::MAX / 2).await, Drained::Clean);
        let mut answered: Vec<_> = join_all(answers).await.into_iter().map(Result::unwrap).collect();
        answered.sort_unstable();
        assert_eq!(answered, (0..18).collect::<Vec<_>>(), "every accepted job, each once");
    }

    #[tokio::test]
    async fn width_changes_under_load() {
        let (mut rig, gate, scrape) = (rig(), Gate::new(), Scrape::default());
        let door = scrape.during(|| gated(&mut rig, sizes(1, 100), &gate));
        let controls = rig.pipeline.controls();
        let dials = || {
            let dial = |name: &str| scrape.value(&format!("{name}{{stage=\"s\"}}")) as usize;
            (dial("stage_width"), dial("stage_inflight"), dial("queue_depth"))
        };

        let answers = fill(&door, 0, 20);
        settle().await;
        assert_eq!((gate.inside(), dials()), (1, (1, 1, 19)));

        controls.resize("s", sizes(2, 100)).unwrap();
        settle().await;
        assert_eq!((gate.inside(), dials()), (2, (2, 2, 18)), "one more starts at once");

        gate.open(4);
        settle().await;
        assert_eq!((gate.inside(), dials()), (2, (2, 2, 14)));

        controls.resize("s", sizes(1, 100)).unwrap();
        settle().await;
        assert_eq!((gate.inside(), dials()), (2, (1, 2, 14)), "those that run are let be");

        gate.open(1);
        settle().await;
        assert_eq!((gate.inside(), dials()), (1, (1, 1, 14)), "no new one until below the width");

        gate.open(1);
        settle().await;
        assert_eq!((gate.inside(), dials()), (1, (1, 1, 13)));

        gate.open(100);
        for (n, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.await, Ok(n));
        }
        assert_eq!((gate.most_inside(), dials()), (2, (1, 0, 0)));
        assert_eq!(controls.resize("t", sizes(1, 1)), Err(UnknownStage("t".into())));
    }

    #[tokio::test]
    async fn queue_shrinks_under_load_without_dropping() {
        let (mut rig, gate) = (rig(), Gate::new());
        let door = gated(&mut rig, sizes(1, 8), &gate);
        let answers = fill_up(&door).await;
        assert_eq!(answers.len(), 9);
        rig.pipeline.controls().resize("s", sizes(1, 2)).unwrap();
        for _ in 0..6 {
            gate.open(1);
            settle().await;
            assert!(fill(&door, 0, 1).is_empty(), "refused while at or above the new length");
        }
        gate.open(1);
        settle().await;
        assert_eq!(fill(&door, 0, 9).len(), 1);
        gate.open(100);
        assert!(join_all(answers).await.iter().all(Result::is_ok));
    }

    #[tokio::test]
    async fn one_job_is_served_second_behind_a_thousand_of_another_key() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut rig = rig();
        let seen = Arc::clone(&order);
        let door = rig.pipeline.last("s", sizes(1, 2000), move |n: usize, context| {
            seen.lock().unwrap().push((context.key, n));
            async move { Step::Done(n) }
        });
        let mut answers = Vec::new();
        for n in 0..1000 {
            let (envelope, answer) = job("greedy", n);
            door.try_push(envelope).ok().unwrap();
            answers.push(answer);
        }
        let (envelope, answer) = job("modest", 5000);
        door.try_push(envelope).ok().unwrap();
        assert_eq!(answer.await, Ok(5000));
        join_all(answers).await;
        let order = order.lock().unwrap();
        assert_eq!(order[1], ("modest".into(), 5000));
        let greedy: Vec<_> = order.iter().filter(|(key, _)| &**key == "greedy").map(|(_, n)| *n).collect();
        assert_eq!(greedy, (0..1000).collect::<Vec<_>>(), "first in, first out within a key");
    }

    #[tokio::test]
    async fn a_panic_fails_its_own_job_only() {
        let (mut rig, scrape) = (rig(), Scrape::default());
        let pool = Arc::new(Pool::new(NonZeroUsize::MIN).unwrap());
        let door = scrape.during(|| {
            rig.pipeline.last("s", sizes(1, 9), move |n: usize, _| {
                assert_ne!(n, 1, "before the future");
                let pool = Arc::clone(&pool);
                async move {
                    assert_ne!(n, 2, "in the future");
                    let n = pool.run(move || if n == 3 { panic!("on a compute thread") } else { n }).await;
                    Step::Done(n.unwrap_or_else(Panicked::resume))
                }
            })
        });
        let answers = join_all(fill(&door, 0, 5)).await;
        let panicked = Err(Unanswered::Panicked { stage: "s" });
        assert_eq!(answers, [Ok(0), panicked, panicked, panicked, Ok(4)]);
        let panics = rig.panics.lock().unwrap().clone();
        assert_eq!(panics.len(), 3);
        assert!(panics[0].contains("before the future") && panics[1].contains("in the future"), "{panics:?}");
        assert_eq!(panics[2], "s: on a compute thread");
        assert_eq!(scrape.value("stage_inflight{stage=\"s\"}"), 0.0);
        assert_eq!(scrape.value("stage_service_seconds_count{stage=\"s\"}"), 5.0);
    }

    #[tokio::test]
    async fn a_refusal_ends_the_way_early() {
        let mut rig = rig();
        let last = rig.pipeline.last("l", sizes(1, 1), |n: usize, _| async move { Step::Done(n) });
        let door = rig.pipeline.stage("f", sizes(1, 9), last, |n: usize, _| async move {
            if n.is_multiple_of(2) { Step::Next(n * 10) } else { Step::Done(n) }
        });
        assert_eq!(join_all(fill(&door, 0, 4)).await, [Ok(0), Ok(1), Ok(20), Ok(3)]);
    }

    #[tokio::test]
    async fn drain_past_its_deadline_answers_lost() {
        let (mut rig, gate, scrape) = (rig(), Gate::new(), Scrape::default());
        let door = scrape.during(|| {
            let last = gated(&mut rig, sizes(1, 2), &gate);
            rig.pipeline.stage("f", sizes(1, 3), last, |n: usize, _| async move { Step::Next(n) })
        });
        let answers = fill_up(&door).await;
        assert_eq!(answers.len(), 7);
        door.close();
        let (envelope, _) = job("k", 9);
        assert!(matches!(door.try_push(envelope), Err(PushError::Closed(_))), "the door stays shut");

        let drain = tokio::spawn(rig.pipeline.drain(Duration::from_secs(5)));
        gate.open(2);
        settle().await;
        rig.clock.advance(Duration::from_millis(4999));
        settle().await;
        assert!(!drain.is_finished());
        rig.clock.advance(Duration::from_millis(1));
        assert_eq!(drain.await.unwrap(), Drained::CutOff { inside: 5 });

        let answers = join_all(answers).await;
        assert_eq!(answers[..2], [Ok(0), Ok(1)]);
        assert!(answers[2..].iter().all(|a| *a == Err(Unanswered::Lost)));
        for dial in ["queue_depth", "stage_inflight"] {
            for stage in ["f", "s"] {
                assert_eq!(scrape.value(&format!("{dial}{{stage=\"{stage}\"}}")), 0.0, "{dial} {stage}");
            }
        }
    }

    #[tokio::test]
    async fn a_client_that_leaves_does_not_stop_its_job() {
        let (mut rig, gate) = (rig(), Gate::new());
        let door = gated(&mut rig, sizes(1, 9), &gate);
        drop(fill(&door, 0, 3));
        gate.open(9);
        drop(door);
        assert_eq!(
            rig.pipeline.drain(Duration::MAX / 2).now_or_never(),
            None,
            "not done before the stages ran"
        );
        settle().await;
        assert_eq!(gate.passed(), 3);
    }

    /// The same laws with threads: nothing lost, nothing answered twice, never wider than the widest.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_job_is_lost_among_threads_and_resizes() {
        let (mut rig, gate, scrape) = (rig(), Gate::new(), Scrape::default());
        gate.open(100_000);
        let door = scrape.during(|| {
            let last = gated(&mut rig, sizes(2, 2), &gate);
            rig.pipeline.stage("f", sizes(3, 4), last, |n: usize, _| async move { Step::Next(n) })
        });
        let controls = rig.pipeline.controls();
        let mut answers = Vec::new();
        for n in 0..2000 {
            let (envelope, answer) = job(["a", "b", "c"][n % 3], n);
            door.push(envelope).await.ok().unwrap();
            answers.push(answer);
            controls.resize(["f", "s"][n % 2], sizes(1 + n % 4, 1 + n % 5)).unwrap();
        }
        drop(door);
        assert_eq!(rig.pipeline.drain(Duration::MAX / 2).await, Drained::Clean);
        for (n, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.await, Ok(n));
        }
        assert!(gate.most_inside() <= 4);
        assert_eq!(scrape.value("stage_inflight{stage=\"s\"}"), 0.0);
        assert_eq!(scrape.value("queue_depth{stage=\"s\"}"), 0.0);
    }
}
