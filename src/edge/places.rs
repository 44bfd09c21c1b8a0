//! Who may hold a connection, and for how long one that takes no bytes is kept.
//!
//! Laws: one address never holds more than its share of the connections, so that a stranger with one machine cannot shut
//! everybody else out; a stranger with many machines cannot either, because where places are short the oldest connection that
//! has sent no request yet gives way to the newest; and a peer that stops reading loses its connection, because hyper bounds
//! the time of reading a head but waits for ever to write an answer. Addresses are counted while they hold a place and
//! forgotten with the last one, so the table is bounded by the number of connections, however many addresses a stranger has.
//!
//! Why the oldest gives way and the newest is not refused: an honest client sends its request within a round trip or two, so
//! that among many silent connections it is never the oldest; refusing the newest would refuse the honest.

use super::closed::{Verdict, Why};
use super::pace::Pace;
use hyper::rt::{Read, ReadBufCursor, Write};
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

/// Bits of an IPv6 address that name a site: whoever has one address has the 2^64 of its network.
const SITE_MASK: u128 = !0 << 64;
/// Youngest connection without a request that has to give way while there are places left: a burst of honest ones is over
/// their handshakes by then.
const HALF_OPEN_GRACE: Duration = Duration::from_secs(1);

/// Which connections are held, and which of them have sent no request yet.
#[derive(Debug, Default)]
pub(super) struct Places {
    held: Mutex<Held>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Held {
    /// All of them, but those that were told to give way.
    count: usize,
    sites: HashMap<IpAddr, usize>,
    /// Those that have sent no request yet, the oldest first.
    half_open: BTreeMap<u64, (Instant, Arc<Yield>)>,
    next: u64,
}

#[derive(Debug, Default)]
struct Yield {
    told: AtomicBool,
    tell: Notify,
}

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Most {
    pub(super) connections: usize,
    pub(super) per_address: usize,
}

impl Most {
    /// Connections without a request that are not disturbed: an eighth, so that strangers who say nothing never fill the
    /// places of those who do.
    fn half_open(self) -> usize {
        (self.connections / 8).max(1)
    }
}

/// One connection's place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    site: IpAddr,
    id: u64,
    proven: AtomicBool,
    gives_way: Arc<Yield>,
}

/// What connections are counted by: an IPv4 address, or the /64 of an IPv6 address.
fn site(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V6(addr) => IpAddr::V6(Ipv6Addr::from(u128::from(addr) & SITE_MASK)),
        addr => addr,
    }
}

impl Held {
    /// Tells the oldest connection without a request to give way, if it is older than `age`.
    fn oldest_gives_way(&mut self, age: Duration, now: Instant) {
        if let Some(oldest) = self.half_open.first_entry()
            && now.saturating_duration_since(oldest.get().0) >= age
        {
            let (_, gives_way) = oldest.remove();
            gives_way.told.store(true, Ordering::Relaxed);
            gives_way.tell.notify_one();
            self.count -= 1;
        }
    }
}

impl Places {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is a place, or a connection without a request that can give way to another.
    pub(super) async fn room(&self, connections: impl Fn() -> usize) {
        loop {
            let freed = self.freed.notified();
            {
                let held = self.held();
                if held.count < connections() || !held.half_open.is_empty() {
                    return;
                }
            }
            freed.await;
        }
    }

    /// A place for a connection from this address, unless the address holds its share already.
    pub(super) fn take(self: &Arc<Self>, addr: IpAddr, most: Most, now: Instant) -> Option<Place> {
        let site = site(addr);
        let mut held = self.held();
        let count = held.sites.get(&site).copied().unwrap_or(0);
        if count >= most.per_address {
            return None;
        }
        if held.count >= most.connections {
            held.oldest_gives_way(Duration::ZERO, now);
        } else if held.half_open.len() >= most.half_open() {
            held.oldest_gives_way(HALF_OPEN_GRACE, now);
        }
        held.sites.insert(site, count + 1);
        held.count += 1;
        held.next += 1;
        let (id, gives_way) = (held.next, Arc::<Yield>::default());
        held.half_open.insert(id, (now, gives_way.clone()));
        Some(Place { places: self.clone(), site, id, proven: AtomicBool::new(false), gives_way })
    }
}

impl Place {
    /// A whole request has come over it.
    pub(super) fn prove(&self) {
        if !self.is_proven() && !self.proven.swap(true, Ordering::Relaxed) {
            self.places.held().half_open.remove(&self.id);
        }
    }

    /// Whether a whole request has come over it.
    pub(super) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    /// Comes back when the connection has to give way to another.
    pub(super) async fn gives_way(&self) {
        self.gives_way.tell.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.held();
        held.half_open.remove(&self.id);
        if !self.gives_way.told.load(Ordering::Relaxed) {
            held.count -= 1;
        }
        if let Some(count) = held.sites.get_mut(&self.site) {
            *count -= 1;
            if *count == 0 {
                held.sites.remove(&self.site);
            }
        }
        drop(held);
        self.places.freed.notify_one();
    }
}

/// A stream whose peer has to take bytes: a write that gets nowhere for `patience` fails, and so does one of many that get
/// somewhere too slowly.
pub struct Impatient<S> {
    stream: S,
    patience: Duration,
    pace: Pace,
    verdict: Verdict,
    /// Runs while a write waits; since when.
    stalled: Option<(Pin<Box<Sleep>>, Instant)>,
}

impl<S> Impatient<S> {
    /// One that waits so long for a peer that takes nothing.
    pub fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, pace: Pace::new(0), verdict: Verdict::default(), stalled: None }
    }

    /// The same for a peer that has to take `rate_min` bytes a second; `verdict` says why it failed.
    pub(super) fn paced(self, rate_min: u64, verdict: Verdict) -> Self {
        Self { pace: Pace::new(rate_min), verdict, ..self }
    }

    fn bounded<T>(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
        moved: impl Fn(&T) -> u64,
    ) -> Poll<io::Result<T>> {
        match polled {
            Poll::Ready(Ok(done)) => {
                let waited = self.stalled.take().map_or(Duration::ZERO, |(_, since)| since.elapsed());
                match self.pace.note(waited, moved(&done)) {
                    Ok(()) => Poll::Ready(Ok(done)),
                    Err(_) => Poll::Ready(Err(self.verdict.because(Why::Slow))),
                }
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                let patience = self.patience;
                let (stalled, _) = self
                    .stalled
                    .get_or_insert_with(|| (Box::pin(tokio::time::sleep(patience)), Instant::now()));
                match stalled.as_mut().poll(context) {
                    Poll::Ready(()) => Poll::Ready(Err(self.verdict.because(Why::Stalled))),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }
}

impl<S: Read + Unpin> Read for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: Write + Unpin> Write for Impatient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bounded(context, polled, |count| *count as u64)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.bounded(context, polled, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        self.bounded(context, polled, |()| 0)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.bounded(context, polled, |count| *count as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use hyper_util::rt::TokioIo;
    use tokio::net::{TcpListener, TcpStream};

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn an_address_holds_its_share_and_gives_it_back() {
        let places = Arc::new(Places::default());
        let take = |text, per_address| {
            places.take(addr(text), Most { connections: 100, per_address }, Instant::now())
        };
        let held: Vec<_> = (0..2).map(|_| take("192.0.2.1", 2).unwrap()).collect();
        assert!(take("192.0.2.1", 2).is_none());
        assert!(take("::ffff:192.0.2.1", 2).is_none(), "the same address in its IPv6 form");
        assert!(take("192.0.2.2", 2).is_some());
        let _neighbour = take("2001:db8::1", 1).unwrap();
        assert!(take("2001:db8::ffff", 1).is_none(), "one /64 is one peer");
        assert!(take("2001:db8:0:1::1", 1).is_some());
        drop(held);
        assert!(take("192.0.2.1", 2).is_some());
        let held = places.held();
        assert_eq!(
            (held.sites.len(), held.count, held.half_open.len()),
            (1, 1, 1),
            "the others are forgotten"
        );
    }

    #[tokio::test]
    async fn the_oldest_without_a_request_gives_way() {
        let places = Arc::new(Places::default());
        let most = Most { connections: 16, per_address: 100 };
        let begun = Instant::now();
        let take = |after| places.take(addr("192.0.2.1"), most, begun + after).unwrap();
        let told = |place: &Place| place.gives_way.told.load(Ordering::Relaxed);
        let now = Duration::ZERO;
        let (first, second, third) = (take(now), take(now), take(now));
        assert!(!told(&first), "a burst is left alone");
        first.prove();
        let _fourth = take(HALF_OPEN_GRACE);
        assert!(!told(&first) && told(&second) && !told(&third));
        assert!(second.gives_way().now_or_never().is_some() && third.gives_way().now_or_never().is_none());
        // Full: the oldest gives way however young it is, and those that work never.
        let working: Vec<_> = (0..13)
            .map(|_| {
                let place = take(now);
                place.prove();
                place
            })
            .collect();
        let _newest = (take(now), take(now));
        assert!(told(&third) && !told(&first) && working.iter().all(|place| !told(place)));
        assert!(places.held().count <= most.connections);
        assert!(places.room(|| 0).now_or_never().is_some(), "one can give way");
    }

    #[tokio::test]
    async fn where_all_work_the_next_one_waits() {
        let places = Arc::new(Places::default());
        let most = Most { connections: 1, per_address: 1 };
        let held = places.take(addr("192.0.2.1"), most, Instant::now()).unwrap();
        held.prove();
        assert!(places.room(|| 1).now_or_never().is_none());
        drop(held);
        assert!(places.room(|| 1).now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_peer_that_stops_reading_loses_its_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let stream = TokioIo::new(listener.accept().await.unwrap().0);
        let verdict = Verdict::default();
        let mut stream = Impatient::new(stream, Duration::from_millis(50)).paced(1, verdict.clone());
        let block = vec![0; 1 << 20];
        let (mut sent, mut error) = (0, None);
        // No socket's buffers hold a gibibyte.
        while sent < 1 << 30 && error.is_none() {
            match std::future::poll_fn(|context| Pin::new(&mut stream).poll_write(context, &block)).await {
                Ok(count) => sent += count,
                Err(e) => error = Some(e.kind()),
            }
        }
        assert_eq!((error, verdict.why()), (Some(io::ErrorKind::TimedOut), Some(Why::Stalled)));
    }
}
