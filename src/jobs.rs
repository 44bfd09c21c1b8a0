//! What is told of an epoch that has left no run, or none yet: that it is being computed, or why it was refused.
//!
//! The laws: an epoch runs as long as one of its jobs does, a dry one or another policy's beside it; the last refusal is told until a
//! job of the epoch ends well. Jobs that run are as many as the stages hold; refusals are [`REFUSED_MAX`], the oldest go first.

use crate::refusal::Refusal;
use rewarder_model::{EpochId, TenantId};
use std::collections::{HashMap, VecDeque};

/// Refusals that are kept for who asks later: about half a kilobyte each.
const REFUSED_MAX: usize = 4096;

/// Whose epoch.
pub type Job = (TenantId, EpochId);

/// What is known of an epoch without a run.
#[derive(Debug, Clone)]
pub enum JobState {
    /// It runs.
    Running,
    /// It was refused.
    Refused(Refusal),
}

/// Epochs without a run.
#[derive(Default)]
pub struct Jobs {
    running: HashMap<Job, usize>,
    refused: HashMap<Job, Refusal>,
    /// The oldest first; each refused one once.
    order: VecDeque<Job>,
}

impl Jobs {
    /// A job of an epoch begins.
    pub fn begin(&mut self, job: Job) {
        *self.running.entry(job).or_default() += 1;
    }

    /// A job that began has ended.
    pub fn end(&mut self, job: &Job, refused: Option<&Refusal>) {
        if let Some(count) = self.running.get_mut(job) {
            *count -= 1;
            if *count == 0 {
                self.running.remove(job);
            }
        }
        match refused {
            None => {
                if self.refused.remove(job).is_some() {
                    self.order.retain(|other| other != job);
                }
            }
            Some(refusal) => {
                if self.refused.insert(job.clone(), refusal.clone()).is_none() {
                    self.order.push_back(job.clone());
                }
                if self.order.len() > REFUSED_MAX
                    && let Some(oldest) = self.order.pop_front()
                {
                    self.refused.remove(&oldest);
                }
            }
        }
    }

    /// What is known of an epoch.
    pub fn state(&self, job: &Job) -> Option<JobState> {
        if self.running.contains_key(job) {
            return Some(JobState::Running);
        }
        self.refused.get(job).cloned().map(JobState::Refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rewarder_model::Reason;

    fn job(epoch: usize) -> Job {
        ("acme".parse().unwrap(), format!("e-{epoch}").parse().unwrap())
    }

    fn word(jobs: &Jobs, job: &Job) -> Option<&'static str> {
        jobs.state(job).map(|state| match state {
            JobState::Running => "running",
            JobState::Refused(refusal) => refusal.reason.as_str(),
        })
    }

    #[test]
    fn an_epoch_runs_until_its_last_job_has_ended() {
        let (mut jobs, one) = (Jobs::default(), job(1));
        let refusal = Refusal::new(Reason::UnknownCategory, "");
        jobs.begin(one.clone());
        jobs.begin(one.clone());
        jobs.end(&one, Some(&refusal));
        assert_eq!(word(&jobs, &one), Some("running"));
        jobs.end(&one, None);
        assert_eq!(word(&jobs, &one), None);
        jobs.begin(one.clone());
        jobs.end(&one, Some(&refusal));
        assert_eq!(word(&jobs, &one), Some("unknown_category"));
        assert!(jobs.running.is_empty());
    }

    #[test]
    fn refusals_are_bounded_and_drive_out_nothing_that_runs() {
        let mut jobs = Jobs::default();
        jobs.begin(job(0));
        let refusal = Refusal::new(Reason::UnknownCategory, "");
        for epoch in [1..=REFUSED_MAX + 1, 2..=2].into_iter().flatten() {
            jobs.begin(job(epoch));
            jobs.end(&job(epoch), Some(&refusal));
        }
        assert_eq!((jobs.refused.len(), jobs.order.len()), (REFUSED_MAX, REFUSED_MAX));
        assert_eq!(word(&jobs, &job(0)), Some("running"));
        assert_eq!((word(&jobs, &job(1)), word(&jobs, &job(2))), (None, Some("unknown_category")));
    }
}
