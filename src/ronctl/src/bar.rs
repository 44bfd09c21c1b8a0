//! A progress bar on a terminal: bytes, rows, phase, time left. In a pipe nothing at all.
//!
//! The work only stores numbers; a thread of its own draws them a few times a second, so that no call costs more than an
//! atomic store however often it comes.

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;
use svc_rewarder::why::grouped;

/// How often it is drawn.
const TICK: Duration = Duration::from_millis(80);

/// What there is to draw.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    /// What is being done.
    pub phase: &'static str,
    /// Work done and to do, in bytes if the phase has bytes, else in rows.
    pub done: u64,
    /// None if nobody knows.
    pub total: Option<u64>,
    /// Whether `done` counts bytes.
    pub bytes: bool,
    /// Rows; 0 shows none.
    pub rows: u64,
}

/// A bar that is there until it is dropped.
pub struct Bar(Option<(Arc<AtomicBool>, JoinHandle<()>)>);

impl Bar {
    /// Shows what `sample` says, unless stderr is no terminal or `quiet`.
    pub fn show(quiet: bool, sample: impl Fn() -> Sample + Send + 'static) -> Self {
        if quiet || !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        Self(Some((stop, std::thread::spawn(move || draw(&stopped, &sample)))))
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.0.take() {
            stop.store(true, Relaxed);
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

fn draw(stop: &AtomicBool, sample: &impl Fn() -> Sample) {
    let bar = ProgressBar::no_length();
    let style = ProgressStyle::with_template("{msg:8} {wide_bar} {prefix} ETA {eta}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut phase = "";
    while !stop.load(Relaxed) {
        let now = sample();
        bar.set_prefix(numbers(&now));
        if now.phase != phase {
            phase = now.phase;
            bar.set_message(phase);
            bar.reset();
        }
        if let Some(total) = now.total {
            bar.set_length(total);
        }
        bar.set_position(now.done);
        std::thread::park_timeout(TICK);
    }
    bar.finish_and_clear();
}

fn numbers(now: &Sample) -> String {
    let rows = |n: u64| format!("{} rows", grouped(&n.to_string()));
    if !now.bytes {
        return rows(now.done);
    }
    let mut text = HumanBytes(now.done).to_string();
    if let Some(total) = now.total {
        text.push_str(&format!("/{}", HumanBytes(total)));
    }
    if now.rows > 0 {
        text.push_str(&format!(" {}", rows(now.rows)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_bytes_and_rows() {
        let reading = Sample { phase: "read", done: 1 << 20, total: Some(4 << 20), bytes: true, rows: 1234 };
        assert_eq!(numbers(&reading), "1.00 MiB/4.00 MiB 1,234 rows");
        assert_eq!(numbers(&Sample { bytes: false, done: 5000, ..reading }), "5,000 rows");
    }
}
