//! The retry budget of the process: retries are paid for with answers.
//!
//! The law: over any stretch of time, `retries ≤ CAPACITY + answers / ANSWERS_A_RETRY`. A ledger that answers
//! earns the retries that bridge its hiccups; one that is down gets the budget once and then only first
//! attempts, so that a ledger in trouble sees less traffic than a healthy one, not a multiple of it.
//!
//! Why not a rate: what a ledger can bear is not known here, but how often it has just answered is.

/// Retries that a process may make before anything was answered: a burst of full stages.
const CAPACITY: u32 = 128;
/// Answers that pay for one retry.
const ANSWERS_A_RETRY: u32 = 5;

/// The budget, counted in answers.
#[derive(Debug, Clone)]
pub struct Budget {
    answers: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self { answers: CAPACITY * ANSWERS_A_RETRY }
    }
}

impl Budget {
    /// The ledger has answered.
    pub fn earn(&mut self) {
        self.answers = (self.answers + 1).min(CAPACITY * ANSWERS_A_RETRY);
    }

    /// Takes one retry; false if there is none.
    pub fn spend(&mut self) -> bool {
        match self.answers.checked_sub(ANSWERS_A_RETRY) {
            Some(left) => {
                self.answers = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn retries_never_outrun_answers(history in proptest::collection::vec(any::<bool>(), 0..3000)) {
            let mut budget = Budget::default();
            let (mut answers, mut retries) = (0, 0);
            for answered in history {
                if answered { budget.earn(); answers += 1 } else if budget.spend() { retries += 1 }
                prop_assert!(retries <= CAPACITY + answers / ANSWERS_A_RETRY);
            }
        }
    }

    #[test]
    fn a_dead_ledger_gets_the_budget_once() {
        let mut budget = Budget::default();
        assert_eq!((0..1000).filter(|_| budget.spend()).count(), CAPACITY as usize);
        (0..ANSWERS_A_RETRY).for_each(|_| budget.earn());
        assert!(budget.spend() && !budget.spend());
    }
}
