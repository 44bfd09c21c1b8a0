//! The bridge to rayon: CPU work runs on threads of its own, so that it never holds up the threads that move
//! bytes.
//!
//! There are two lanes of as many threads each. A piece of work on a rayon thread runs to its end, however long that is, so that
//! on one lane the work of milliseconds would wait for that of seconds. With a lane of its own it is the system's scheduler
//! that shares the processors between them, as it does between any threads: short work takes at most twice as long beside
//! long work, and an idle lane costs nothing.

use crate::error::PoolError;
use crate::panicked::Panicked;
use arc_swap::ArcSwap;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Work on at most so many bytes is short: a window of decode, some milliseconds on one thread.
pub const SHORT_BYTES_MAX: u64 = 4 << 20;

/// Rayon pools whose size a reload may change.
pub struct Pool {
    long: ArcSwap<rayon::ThreadPool>,
    short: ArcSwap<rayon::ThreadPool>,
}

impl Pool {
    /// Starts `threads` compute threads for each lane.
    pub fn new(threads: NonZeroUsize) -> Result<Self, PoolError> {
        let lane = |name| Ok(ArcSwap::from_pointee(start(name, threads)?));
        Ok(Self { long: lane("compute")?, short: lane("compute-short")? })
    }

    /// Starts `threads` compute threads that both lanes share: for one job alone.
    pub fn of_one_lane(threads: NonZeroUsize) -> Result<Self, PoolError> {
        let lane = Arc::new(start("compute", threads)?);
        Ok(Self { long: ArcSwap::new(Arc::clone(&lane)), short: ArcSwap::new(lane) })
    }

    /// Puts new threads in place of the old ones, which finish the work that they have and end. For that
    /// while there are more threads than the setting says; rayon pools cannot change their size, and waiting
    /// would stall the jobs instead.
    pub fn resize(&self, threads: NonZeroUsize) -> Result<(), PoolError> {
        if threads.get() != self.threads() {
            let (long, short) = (start("compute", threads)?, start("compute-short", threads)?);
            self.long.store(long.into());
            self.short.store(short.into());
        }
        Ok(())
    }

    /// How many threads new work finds.
    pub fn threads(&self) -> usize {
        self.long.load().current_num_threads()
    }

    /// The lane for work on so many bytes.
    pub fn lane(&self, bytes: u64) -> Lane {
        let lane = if bytes <= SHORT_BYTES_MAX { &self.short } else { &self.long };
        Lane(lane.load_full())
    }

    /// Runs `work` on the lane of long work: see [`Lane::run`].
    pub async fn run<T, F>(&self, work: F) -> Result<T, Panicked>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        self.lane(u64::MAX).run(work).await
    }
}

/// Threads for work of one length. A reload does not change those that work was given to.
#[derive(Clone)]
pub struct Lane(Arc<rayon::ThreadPool>);

impl Lane {
    /// How many threads it has.
    pub fn threads(&self) -> usize {
        self.0.current_num_threads()
    }

    /// Runs `work` on the pool and waits for it: from a thread that may block. A panic goes on in that thread.
    pub fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.0.install(work)
    }

    /// Runs `work` on the pool; what it does in parallel with rayon stays there too. A panic comes back as an
    /// error. If the returned future is dropped before the work begins, the work is skipped; once it has
    /// begun, it runs to its end and its result is thrown away.
    pub async fn run<T, F>(&self, work: F) -> Result<T, Panicked>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (tx, rx) = oneshot::channel();
        // rayon keeps a pool alive until what was spawned on it is done, so a swap right after this line
        // loses nothing.
        self.0.spawn(move || {
            if tx.is_closed() {
                return;
            }
            // Unwind safe: `work` and all it owns are gone after a panic, and nobody else sees them.
            let result = catch_unwind(AssertUnwindSafe(work)).map_err(Panicked::of);
            let _ = tx.send(result);
        });
        rx.await.unwrap_or_else(|_| Err(Panicked { message: "the compute thread went away".into() }))
    }
}

fn start(name: &'static str, threads: NonZeroUsize) -> Result<rayon::ThreadPool, PoolError> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.get())
        .thread_name(move |index| format!("{name}-{index}"))
        // Only a result whose own drop panics can get here. Without a handler rayon would abort the process.
        .panic_handler(|_| {})
        .build()
        .map_err(|source| PoolError { threads: threads.get(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;

    fn pool(threads: usize) -> Pool {
        Pool::new(NonZeroUsize::new(threads).unwrap()).unwrap()
    }

    fn thread() -> String {
        std::thread::current().name().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn runs_on_threads_of_its_own() {
        let (name, inner) = pool(2).run(|| (thread(), rayon::join(thread, thread))).await.unwrap();
        for name in [name, inner.0, inner.1] {
            assert!(name.starts_with("compute-"), "{name:?}");
        }
    }

    #[tokio::test]
    async fn short_work_does_not_wait_for_long_work() {
        let pool = pool(1);
        let (go, wait) = mpsc::channel();
        let mut long = Box::pin(pool.run(move || wait.recv().unwrap()));
        assert_eq!((&mut long).now_or_never(), None);
        assert_eq!(pool.lane(SHORT_BYTES_MAX).run(|| 7).await, Ok(7));
        assert_eq!(pool.lane(1).install(thread), "compute-short-0");
        go.send(8).unwrap();
        assert_eq!(long.await, Ok(8));
        assert_eq!(pool.lane(SHORT_BYTES_MAX + 1).install(thread), "compute-0");
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_the_pool_goes_on() {
        let pool = pool(1);
        assert_eq!(pool.run(|| -> u8 { panic!("row 7") }).await, Err(Panicked { message: "row 7".into() }));
        assert_eq!(pool.run(|| 7).await, Ok(7));
    }

    #[tokio::test]
    async fn a_result_that_cannot_be_dropped_does_not_take_the_process_along() {
        struct Bad;
        impl Drop for Bad {
            fn drop(&mut self) {
                panic!("in drop");
            }
        }
        let pool = Arc::new(pool(1));
        let (started, has_started) = oneshot::channel();
        let (go, wait) = mpsc::channel::<()>();
        let task = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move {
                pool.run(move || {
                    let _ = started.send(());
                    let _ = wait.recv();
                    Bad
                })
                .await
                .map(std::mem::forget)
            }
        });
        has_started.await.unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        drop(go);
        assert_eq!(pool.run(|| 7).await, Ok(7));
    }

    #[tokio::test]
    async fn a_swap_lets_the_old_threads_finish() {
        let pool = pool(1);
        let (go, wait) = mpsc::channel();
        let mut old = Box::pin(pool.run(move || wait.recv().unwrap()));
        assert_eq!((&mut old).now_or_never(), None);
        pool.resize(NonZeroUsize::new(3).unwrap()).unwrap();
        assert_eq!(pool.threads(), 3);
        assert_eq!(pool.run(rayon::current_num_threads).await, Ok(3), "new work finds the new threads");
        go.send(7).unwrap();
        assert_eq!(old.await, Ok(7));
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_is_not_begun() {
        let pool = pool(1);
        let (go, wait) = mpsc::channel::<()>();
        let mut busy = Box::pin(pool.run(move || wait.recv()));
        assert!((&mut busy).now_or_never().is_none());
        let ran = Arc::new(AtomicBool::new(false));
        let mark = Arc::clone(&ran);
        let mut dropped = Box::pin(pool.run(move || mark.store(true, Ordering::SeqCst)));
        assert!((&mut dropped).now_or_never().is_none());
        drop(dropped);
        drop(go);
        busy.await.unwrap().unwrap_err();
        assert_eq!(pool.run(|| 7).await, Ok(7), "comes after it on the one thread");
        assert!(!ran.load(Ordering::SeqCst));
    }
}
