//! The two sizes of a stage: how many jobs it works on at once, and how many may wait before it.

use crate::error::ConfigError;
use std::num::NonZeroUsize;

/// Most handlers of one stage at once. A handler is a tokio task of a few KiB; past this a typing error is
/// likelier than a wish, and CPU work is bounded by the pool anyway.
pub const WIDTH_MAX: usize = 4096;

/// Most jobs that may wait before one stage: at about 1 KiB a job, a gigabyte.
pub const QUEUE_MAX: usize = 1 << 20;

/// A stage's sizes. One that exists is possible: neither is 0, neither beyond its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageConfig {
    width: NonZeroUsize,
    queue: NonZeroUsize,
}

impl StageConfig {
    /// Sizes, if they are possible.
    pub fn new(width: usize, queue: usize) -> Result<Self, ConfigError> {
        Ok(Self { width: within("width", width, WIDTH_MAX)?, queue: within("queue", queue, QUEUE_MAX)? })
    }

    /// How many handlers run at once.
    pub fn width(self) -> NonZeroUsize {
        self.width
    }

    /// How many jobs may wait.
    pub fn queue(self) -> NonZeroUsize {
        self.queue
    }

    /// These sizes with what the settings file says in `[stages.<name>]` in their place.
    pub fn with(self, over: &StageOverride) -> Result<Self, ConfigError> {
        Self::new(over.width.unwrap_or(self.width.get()), over.queue.unwrap_or(self.queue.get()))
    }
}

fn within(key: &'static str, value: usize, most: usize) -> Result<NonZeroUsize, ConfigError> {
    NonZeroUsize::new(value).filter(|v| v.get() <= most).ok_or(ConfigError { key, value, most })
}

/// The table `[stages.<name>]` of the settings file; what it leaves out keeps its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StageOverride {
    /// Handlers at once.
    pub width: Option<usize>,
    /// Jobs that may wait.
    pub queue: Option<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_sizes_name_key_value_and_fix() {
        let text = |width, queue| StageConfig::new(width, queue).unwrap_err().to_string();
        assert_eq!(text(0, 1), "width = 0: must be 1 to 4096; raise it to 1 or lower it to 4096");
        assert!(text(1, 0).starts_with("queue = 0"));
        assert!(text(1, QUEUE_MAX + 1).starts_with("queue = 1048577"));
    }

    #[test]
    fn the_file_overrides_what_it_names() {
        let base = StageConfig::new(2, 8).unwrap();
        let over = StageOverride { width: Some(3), queue: None };
        assert_eq!(base.with(&over), StageConfig::new(3, 8));
    }
}
