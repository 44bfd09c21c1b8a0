//! Who may hold a connection, and for how long one that takes no bytes is kept.
//!
//! Laws: one address never holds more than its share of the connections, so that a stranger with one machine cannot shut
//! everybody else out; and a peer that stops reading loses its connection, because hyper bounds the time of reading a head
//! but waits for ever to write an answer. Addresses are counted while they hold a place and forgotten with the last one, so
//! the table is bounded by the number of connections, however many addresses a stranger has.

use hyper::rt::{Read, ReadBufCursor, Write};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Sleep;

/// Bits of an IPv6 address that name a site: whoever has one address has the 2^64 of its network.
const SITE_MASK: u128 = !0 << 64;

/// How many connections each address holds.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<HashMap<IpAddr, usize>>);

/// One connection's place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    site: IpAddr,
}

/// What connections are counted by: an IPv4 address, or the /64 of an IPv6 address.
fn site(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V6(addr) => IpAddr::V6(Ipv6Addr::from(u128::from(addr) & SITE_MASK)),
        addr => addr,
    }
}

impl Places {
    /// A place for a connection from this address, unless the address holds `most` of them already.
    pub(super) fn take(self: &Arc<Self>, addr: IpAddr, most: usize) -> Option<Place> {
        let site = site(addr);
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.get(&site).copied().unwrap_or(0);
        if count >= most {
            return None;
        }
        held.insert(site, count + 1);
        Some(Place { places: self.clone(), site })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.site) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.site);
            }
        }
    }
}

/// A stream whose peer has to take bytes: a write that gets nowhere for `patience` fails with `TimedOut`.
pub struct Impatient<S> {
    stream: S,
    patience: Duration,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    /// Bounds the waiting of writes.
    pub fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, stalled: None }
    }

    fn bounded<T>(&mut self, context: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        match stalled.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the peer took no byte of the answer in time",
            ))),
            Poll::Pending => Poll::Pending,
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
        self.bounded(context, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.bounded(context, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        self.bounded(context, polled)
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
        self.bounded(context, polled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper_util::rt::TokioIo;
    use tokio::net::{TcpListener, TcpStream};

    #[test]
    fn an_address_holds_its_share_and_gives_it_back() {
        let places = Arc::new(Places::default());
        let addr = |text: &str| text.parse::<IpAddr>().unwrap();
        let held: Vec<_> = (0..2).map(|_| places.take(addr("192.0.2.1"), 2).unwrap()).collect();
        assert!(places.take(addr("192.0.2.1"), 2).is_none());
        assert!(places.take(addr("::ffff:192.0.2.1"), 2).is_none(), "the same address in its IPv6 form");
        assert!(places.take(addr("192.0.2.2"), 2).is_some());
        let _neighbour = places.take(addr("2001:db8::1"), 1).unwrap();
        assert!(places.take(addr("2001:db8::ffff"), 1).is_none(), "one /64 is one peer");
        assert!(places.take(addr("2001:db8:0:1::1"), 1).is_some());
        drop(held);
        assert!(places.take(addr("192.0.2.1"), 2).is_some());
        assert_eq!(places.0.lock().unwrap().len(), 1, "who holds nothing is forgotten");
    }

    #[tokio::test]
    async fn a_peer_that_stops_reading_loses_its_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let stream = TokioIo::new(listener.accept().await.unwrap().0);
        let mut stream = Impatient::new(stream, Duration::from_millis(50));
        let block = vec![0; 1 << 20];
        let (mut sent, mut error) = (0, None);
        // No socket's buffers hold a gibibyte.
        while sent < 1 << 30 && error.is_none() {
            match std::future::poll_fn(|context| Pin::new(&mut stream).poll_write(context, &block)).await {
                Ok(count) => sent += count,
                Err(e) => error = Some(e.kind()),
            }
        }
        assert_eq!(error, Some(io::ErrorKind::TimedOut));
    }
}
