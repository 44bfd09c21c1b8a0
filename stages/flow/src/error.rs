//! What can go wrong on the way, and what each case means to the one who waits.

/// Why no stage answered a job. The answer of last resort: the one who waits always gets a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// The job was cut off by the end of a drain. It may be sent again, to another replica or after the
    /// restart.
    #[error("the job was cut off by a shutdown")]
    Lost,
    /// A stage panicked over this job. Sending it again is likely to do the same.
    #[error("stage {stage} failed on this job")]
    Panicked {
        /// The stage that panicked.
        stage: &'static str,
    },
}

/// A queue did not take an item, and hands it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PushError<T> {
    /// As many wait as may.
    #[error("the queue is full")]
    Full(T),
    /// The queue takes nothing any more: it was closed, or its stage has ended.
    #[error("the queue is closed")]
    Closed(T),
}

/// No stage of this name was built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no stage is called {0:?}")]
pub struct UnknownStage(pub String);

/// A setting of a stage that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value}: must be 1 to {most}; raise it to 1 or lower it to {most}")]
pub struct ConfigError {
    /// The setting's name within the stage's table.
    pub key: &'static str,
    /// What it was set to.
    pub value: usize,
    /// The largest value that it may have.
    pub most: usize,
}

/// The threads of a pool could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {threads} compute threads: {source}")]
pub struct PoolError {
    /// How many were asked for.
    pub threads: usize,
    /// What the system said.
    pub source: rayon::ThreadPoolBuildError,
}
