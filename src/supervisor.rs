//! What is told to whoever started the process, by the protocol of sd_notify(3): datagrams of `NAME=value` lines to the socket
//! that `NOTIFY_SOCKET` names.
//!
//! ```text
//! READY=1                            both ports are served, or a reload is over
//! RELOADING=1 + MONOTONIC_USEC=…     a reload begins (systemd's Type=notify-reload wants both, then READY=1)
//! STOPPING=1                         it was told to stop
//! STATUS=…                           one line for `systemctl status`
//! WATCHDOG=1                         the loop that looks at everything has come round, if WATCHDOG_USEC asks for it
//! ```
//!
//! A page of code and not a crate: the protocol is one `sendto`. What cannot be told is logged once and never stops the service.

use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The process that started us, if it wants to be told.
#[derive(Debug, Default)]
pub struct Supervisor {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
    /// When it was last told that all is well, in milliseconds of the monotonic clock.
    fed_ms: AtomicU64,
}

impl Supervisor {
    /// As the environment says. A socket that cannot be had is logged: the service is worth more than the telling.
    pub fn of(environment: &BTreeMap<String, String>) -> Self {
        let Some(name) = environment.get("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(name),
        };
        let opened = address.and_then(|address| Ok((UnixDatagram::unbound()?, address)));
        let socket = match opened.and_then(|(socket, address)| {
            // A supervisor that does not read must not hold us up.
            socket.set_nonblocking(true)?;
            Ok((socket, address))
        }) {
            Ok(opened) => Some(opened),
            Err(error) => {
                tracing::warn!(%error, "NOTIFY_SOCKET names no socket; whoever started the service is told nothing");
                None
            }
        };
        Self { socket, watchdog: watchdog(environment), fed_ms: AtomicU64::new(0) }
    }

    fn tell(&self, lines: &str) {
        let Some((socket, address)) = &self.socket else { return };
        if let Err(error) = socket.send_to_addr(lines.as_bytes(), address) {
            tracing::warn!(%error, "whoever started the service could not be told of its state");
        }
    }

    /// It serves.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// A reload begins.
    pub fn reloading(&self) {
        self.tell(&format!(
            "RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=reading the settings again",
            monotonic_usec()
        ));
    }

    /// It was told to stop.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=draining");
    }

    /// All is well; sent twice in the time after which it would be taken for hung. To be called often.
    pub fn well(&self, now: Duration) {
        let Some(every) = self.watchdog else { return };
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let fed_ms = self.fed_ms.load(Ordering::Relaxed);
        if fed_ms == 0 || u128::from(now_ms.saturating_sub(fed_ms)) >= every.as_millis() / 2 {
            self.fed_ms.store(now_ms.max(1), Ordering::Relaxed);
            self.tell("WATCHDOG=1");
        }
    }
}

/// The interval of the watchdog, if it is meant for this process.
fn watchdog(environment: &BTreeMap<String, String>) -> Option<Duration> {
    let number = |name: &str| environment.get(name)?.parse::<u64>().ok();
    let ours = environment
        .get("WATCHDOG_PID")
        .is_none_or(|_| number("WATCHDOG_PID") == Some(std::process::id().into()));
    number("WATCHDOG_USEC").filter(|usec| ours && *usec > 0).map(Duration::from_micros)
}

/// CLOCK_MONOTONIC in microseconds, the clock that systemd compares with.
fn monotonic_usec() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Seconds since the machine started.
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 4096];
        let len = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    }

    #[test]
    fn tells_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("rewarder-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&abstract_name).unwrap();
        for (socket, named) in [(by_path, path.display().to_string()), (by_name, format!("@{name}"))] {
            let supervisor = Supervisor::of(&environment(&[("NOTIFY_SOCKET", &named)]));
            supervisor.ready("serving");
            assert_eq!(heard(&socket), "READY=1\nSTATUS=serving");
            let before = monotonic_usec();
            supervisor.reloading();
            let told = heard(&socket);
            let usec: u64 =
                told.lines().nth(1).unwrap().strip_prefix("MONOTONIC_USEC=").unwrap().parse().unwrap();
            assert!(told.starts_with("RELOADING=1\n") && (before..=monotonic_usec()).contains(&usec));
            supervisor.stopping();
            assert_eq!(heard(&socket), "STOPPING=1\nSTATUS=draining");
        }
    }

    #[test]
    fn nobody_listening_is_no_trouble() {
        Supervisor::of(&environment(&[])).ready("x");
        Supervisor::of(&environment(&[("NOTIFY_SOCKET", "/nonexistent/socket")])).ready("x");
        Supervisor::of(&environment(&[("NOTIFY_SOCKET", &"x".repeat(500))])).ready("x");
    }

    #[test]
    fn the_watchdog_is_fed_twice_an_interval_if_it_is_ours() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let named = path.display().to_string();
        let own = std::process::id().to_string();
        for (pid, expect) in [(own.as_str(), 4), ("1", 0)] {
            let supervisor = Supervisor::of(&environment(&[
                ("NOTIFY_SOCKET", &named),
                ("WATCHDOG_USEC", "1000000"),
                ("WATCHDOG_PID", pid),
            ]));
            (0..=15).for_each(|n| supervisor.well(Duration::from_millis(1000 + 100 * n)));
            let mut fed = 0;
            while socket.recv(&mut [0; 64]).is_ok() {
                fed += 1;
            }
            assert_eq!(fed, expect, "{pid}");
        }
    }
}
