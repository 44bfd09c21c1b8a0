//! The order within a queue: a lane for each key that has jobs waiting, and the lanes take turns.
//!
//! Deficit round robin (Shreedhar and Varghese, 1995) with a cost of 1 a job: a lane of weight `w` is served `w` jobs a
//! turn, so that over any time in which all lanes have jobs, shares are as weights, and no lane waits longer than one
//! turn of the others. A new weight counts from the lane's next turn. A lane lives only while it has jobs, so memory
//! follows the jobs that wait, whatever names they come under, and credit cannot be saved up by staying away. Every
//! operation is O(1), in integers.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;

pub(crate) struct Lanes<T> {
    /// No lane is empty.
    lanes: HashMap<Arc<str>, Lane<T>>,
    /// The keys of all lanes, each once, the one whose turn it is first.
    turns: VecDeque<Arc<str>>,
    len: usize,
}

struct Lane<T> {
    jobs: VecDeque<T>,
    /// That of the latest job.
    weight: NonZeroU32,
    /// Jobs that are left of this turn; zero before it begins.
    left: u32,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { lanes: HashMap::new(), turns: VecDeque::new(), len: 0 }
    }
}

impl<T> Lanes<T> {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn push(&mut self, key: &Arc<str>, weight: NonZeroU32, item: T) {
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.jobs.push_back(item);
            lane.weight = weight;
        } else {
            self.lanes.insert(Arc::clone(key), Lane { jobs: VecDeque::from([item]), weight, left: 0 });
            self.turns.push_back(Arc::clone(key));
        }
        self.len += 1;
    }

    pub fn pop(&mut self) -> Option<T> {
        let key = self.turns.pop_front()?;
        let lane = self.lanes.get_mut(&key)?;
        if lane.left == 0 {
            lane.left = lane.weight.get();
        }
        lane.left -= 1;
        let item = lane.jobs.pop_front();
        if lane.jobs.is_empty() {
            self.lanes.remove(&key);
        } else if lane.left == 0 {
            self.turns.push_back(key);
        } else {
            self.turns.push_front(key);
        }
        self.len -= 1;
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    /// Keys in capitals have weight 3.
    fn check(pushed: &str, popped: &str) {
        let mut lanes = Lanes::default();
        for (at, key) in pushed.split_whitespace().enumerate() {
            let heavy = key.starts_with(char::is_uppercase);
            lanes.push(&key.into(), weight(if heavy { 3 } else { 1 }), format!("{key}{at}"));
        }
        let order: Vec<_> = std::iter::from_fn(|| lanes.pop()).collect();
        assert_eq!(order.join(" "), popped);
        assert!(lanes.len() == 0 && lanes.lanes.is_empty() && lanes.turns.is_empty());
    }

    #[test]
    fn lanes_take_turns_and_keep_their_own_order() {
        check("a a a", "a0 a1 a2");
        check("a a a b", "a0 b3 a1 a2");
        check("a a b b c", "a0 b2 c4 a1 b3");
        check("", "");
    }

    #[test]
    fn a_lane_has_as_many_jobs_a_turn_as_it_weighs() {
        check("a a a A A A A A", "a0 A3 A4 A5 a1 A6 A7 a2");
        check("A a a", "A0 a1 a2");
        check("A A A A b c", "A0 A1 A2 b4 c5 A3");
    }

    #[test]
    fn shares_are_as_weights_while_all_have_jobs() {
        let mut lanes = Lanes::default();
        for n in 0..1000 {
            for w in [1, 2, 5] {
                lanes.push(&w.to_string().into(), weight(w), (w, n));
            }
        }
        let mut served = [0; 6];
        for _ in 0..800 {
            served[lanes.pop().unwrap().0 as usize] += 1;
        }
        assert_eq!((served[1], served[2], served[5]), (100, 200, 500));
    }

    #[test]
    fn a_single_job_is_served_second_behind_a_thousand() {
        let mut lanes = Lanes::default();
        (0..1000).for_each(|n| lanes.push(&"greedy".into(), weight(1), n));
        lanes.push(&"modest".into(), weight(1), 5000);
        assert_eq!((lanes.pop(), lanes.pop()), (Some(0), Some(5000)));
    }
}
