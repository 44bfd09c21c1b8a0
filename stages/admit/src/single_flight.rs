//! Concurrent twins share one computation.
//!
//! Who asks first gets, beside the right to the answer that everyone gets, the *lead*: the duty to start the
//! computation and to land its answer. The lead goes with the job and not with the request, so a first caller
//! that hangs up or passes its deadline disturbs nobody; its job goes on and the twins get their answer.
//!
//! If the lead is dropped without an answer, the twins are told [`Lost`] and none of them takes over. Since
//! the lead travels with the job, that happens only when the job itself was cut off by a shutdown, where a
//! second attempt would be cut off too, or refused at the door. The way that lost is promotion: it suits
//! leads that live in a request, and would have every twin carry all that is needed to start the job. Who
//! wants to try again asks again: the first to do so leads.
//!
//! A flight is forgotten when it lands. Answers are remembered elsewhere, by the store of results.

use crate::lock;
use rewarder_model::Reason;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

use crate::error::Refused;
use crate::inflight::RETRY_AFTER;

/// The computation was given up before it had an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the computation was cut off before it had an answer")]
pub struct Lost;

/// Computations under way, by key.
pub struct SingleFlight<K, A>(Arc<Flights<K, A>>);

struct Flights<K, A> {
    most: usize,
    flying: Mutex<HashMap<K, watch::Receiver<Option<A>>>>,
}

/// What one who asks gets.
pub struct Joined<K: Eq + Hash, A> {
    /// For the first alone: the duty to compute.
    pub lead: Option<Lead<K, A>>,
    /// For everyone: the answer when it is there.
    pub answer: Follow<A>,
}

/// The duty to land an answer. Dropping it says [`Lost`] to all who wait.
#[must_use = "the twins wait for it to land"]
pub struct Lead<K: Eq + Hash, A> {
    flights: Arc<Flights<K, A>>,
    key: K,
    answer: watch::Sender<Option<A>>,
}

/// The right to the answer. Dropping it disturbs nobody.
#[derive(Clone)]
pub struct Follow<A>(watch::Receiver<Option<A>>);

impl<K: Eq + Hash + Clone, A: Clone> SingleFlight<K, A> {
    /// At most `most` computations at once; more than the stages hold can never be wanted.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Flights { most, flying: Mutex::default() }))
    }

    /// Joins the computation of `key`, or begins it.
    pub fn join(&self, key: K) -> Result<Joined<K, A>, Refused> {
        let mut flying = lock(&self.0.flying);
        let room = flying.len() < self.0.most;
        match flying.entry(key) {
            Entry::Occupied(flight) => Ok(Joined { lead: None, answer: Follow(flight.get().clone()) }),
            Entry::Vacant(free) if room => {
                let (answer, follow) = watch::channel(None);
                let key = free.key().clone();
                free.insert(follow.clone());
                Ok(Joined {
                    lead: Some(Lead { flights: Arc::clone(&self.0), key, answer }),
                    answer: Follow(follow),
                })
            }
            Entry::Vacant(_) => Err(Refused { reason: Reason::OverCapacity, retry_after: RETRY_AFTER }),
        }
    }

    /// How many are under way.
    pub fn flying(&self) -> usize {
        lock(&self.0.flying).len()
    }
}

impl<K: Eq + Hash, A> Lead<K, A> {
    /// Gives everyone the answer. Who asks from now on begins anew, so the result must be where they look
    /// first by now.
    pub fn land(self, answer: A) {
        self.answer.send_replace(Some(answer));
    }
}

impl<K: Eq + Hash, A> Drop for Lead<K, A> {
    fn drop(&mut self) {
        // Only this lead's entry can stand under the key: a new one begins only once this one is gone.
        lock(&self.flights.flying).remove(&self.key);
    }
}

impl<A: Clone> Follow<A> {
    /// Waits for the answer.
    pub async fn answer(mut self) -> Result<A, Lost> {
        let answer = self.0.wait_for(Option::is_some).await.map_err(|_| Lost)?;
        answer.clone().ok_or(Lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use rewarder_model::Cid;

    fn key(text: &str) -> Cid {
        Cid::of(text.as_bytes())
    }

    #[test]
    fn twins_share_one_computation() {
        let flights = SingleFlight::new(9);
        let mut joined: Vec<_> = (0..5).map(|_| flights.join(key("a")).unwrap()).collect();
        let leads: Vec<_> = joined.iter_mut().filter_map(|j| j.lead.take()).collect();
        assert_eq!(leads.len(), 1);
        assert!(flights.join(key("b")).unwrap().lead.is_some(), "another key is another computation");

        drop(joined.remove(0)); // the first caller leaves, and so does one in the middle
        drop(joined.remove(2));
        let waiting: Vec<_> = joined.into_iter().map(|j| j.answer).collect();
        assert_eq!(waiting[0].clone().answer().now_or_never(), None);
        leads.into_iter().for_each(|lead| lead.land(7));
        for follow in waiting {
            assert_eq!(follow.answer().now_or_never(), Some(Ok(7)));
        }
        assert_eq!(flights.flying(), 0);
        assert!(flights.join(key("a")).unwrap().lead.is_some(), "after the landing a new one begins");
    }

    #[test]
    fn a_lost_lead_is_told_to_all_and_frees_the_key() {
        let flights = SingleFlight::<_, u8>::new(9);
        let first = flights.join(key("a")).unwrap();
        let second = flights.join(key("a")).unwrap();
        drop(first.lead);
        assert_eq!(first.answer.answer().now_or_never(), Some(Err(Lost)));
        assert_eq!(second.answer.answer().now_or_never(), Some(Err(Lost)));
        assert!(flights.join(key("a")).unwrap().lead.is_some());
    }

    #[test]
    fn bounded() {
        let flights = SingleFlight::<_, u8>::new(1);
        let held = flights.join(key("a")).unwrap();
        assert_eq!(flights.join(key("b")).err().map(|r| r.reason), Some(Reason::OverCapacity));
        assert!(flights.join(key("a")).is_ok(), "joining one that flies takes no room");
        drop(held);
        assert!(flights.join(key("b")).is_ok());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_lead_at_a_time_among_threads() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let flights = Arc::new(SingleFlight::new(9));
        let flying = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..200)
            .map(|_| {
                let (flights, flying) = (Arc::clone(&flights), Arc::clone(&flying));
                tokio::spawn(async move {
                    let joined = flights.join(key("a")).unwrap();
                    if let Some(lead) = joined.lead {
                        assert_eq!(flying.fetch_add(1, Ordering::SeqCst), 0);
                        tokio::task::yield_now().await;
                        flying.fetch_sub(1, Ordering::SeqCst);
                        lead.land(7);
                    }
                    joined.answer.answer().await
                })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await.unwrap(), Ok(7));
        }
    }
}
