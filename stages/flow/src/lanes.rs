//! The order within a queue: a lane for each key that has jobs waiting, and the lanes take turns.
//!
//! Round robin is deficit round robin with a quantum and a cost of 1; weights between tenants and jobs that
//! cost more than one turn would put a deficit beside each lane, here and nowhere else. A lane lives only
//! while it has jobs, so memory follows the jobs that wait, whatever names they come under. Every operation
//! is O(1).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

pub(crate) struct Lanes<T> {
    /// No lane is empty.
    lanes: HashMap<Arc<str>, VecDeque<T>>,
    /// The keys of all lanes, each once, the next to be served first.
    turns: VecDeque<Arc<str>>,
    len: usize,
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

    pub fn push(&mut self, key: &Arc<str>, item: T) {
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.push_back(item);
        } else {
            self.lanes.insert(Arc::clone(key), VecDeque::from([item]));
            self.turns.push_back(Arc::clone(key));
        }
        self.len += 1;
    }

    pub fn pop(&mut self) -> Option<T> {
        let key = self.turns.pop_front()?;
        let lane = self.lanes.get_mut(&key)?;
        let item = lane.pop_front();
        if lane.is_empty() {
            self.lanes.remove(&key);
        } else {
            self.turns.push_back(key);
        }
        self.len -= 1;
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pushed: &str, popped: &str) {
        let mut lanes = Lanes::default();
        for (at, key) in pushed.split_whitespace().enumerate() {
            lanes.push(&key.into(), format!("{key}{at}"));
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
    fn a_single_job_is_served_second_behind_a_thousand() {
        let mut lanes = Lanes::default();
        (0..1000).for_each(|n| lanes.push(&"greedy".into(), n));
        lanes.push(&"modest".into(), 5000);
        assert_eq!((lanes.pop(), lanes.pop()), (Some(0), Some(5000)));
    }
}
