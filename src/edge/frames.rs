//! What a peer does with an HTTP/2 connection, read off the frames that pass in both directions.
//!
//! h2 keeps to the protocol and bounds its memory, but it has no sense of time, and hyper's time-outs are HTTP/1's. Without
//! this a peer may send half a head and wait for ever, open windows of no bytes and hold every answer in memory, send a
//! million PINGs, or open and reset streams as fast as it can. The laws:
//!
//! - a head (HEADERS and its CONTINUATIONs) is whole within `read_timeout`; so is the first request of a connection;
//! - a connection without a stream is asked to leave after `read_timeout` (GOAWAY), as an idle one of HTTP/1 is closed;
//! - an answer that has begun moves within `write_timeout`, and all of a connection's at the least rate ([`Pace`]);
//! - frames that carry no work (RST_STREAM, PING, SETTINGS, PRIORITY, CONTINUATION, empty DATA, unknown ones) are paid out of
//!   a bucket, and window updates out of what was sent.
//!
//! Why read frames and not count calls of hyper: a reset stream, a ping and a closed window never reach the service. Only
//! the nine bytes before each frame are looked at; payloads are skipped, and nothing is kept of them.

use super::closed::{Verdict, Why};
use super::pace::Pace;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

/// What a client of HTTP/2 says first (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frames without work that a client may send at once: a browser that leaves a page cancels a hundred streams.
const CALM_BURST: u32 = 512;
/// … and for good, a second: keep-alive and bandwidth probes send a few.
const CALM_PER_SECOND: u32 = 64;
/// Window updates that each request and each DATA frame of ours entitles to: one of the stream, one of the connection, and
/// one for clients that give back a frame's bytes in parts.
const UPDATES_EACH: u32 = 3;
/// Window updates that need no reason: clients enlarge the connection's window when it begins.
const UPDATES_FREE: u32 = 64;
/// Most window updates that are saved up.
const UPDATES_MAX: u32 = 4096;
/// Time that a peer has to leave once it was asked to.
const GOODBYE: Duration = Duration::from_secs(2);

/// "I have taken your SETTINGS."
pub(super) const ACKNOWLEDGEMENT: &[u8; HEAD_LEN] = &[0, 0, 0, SETTINGS, ACK, 0, 0, 0, 0];

/// Bytes before a frame's payload (RFC 9113 §4.1).
pub(super) const HEAD_LEN: usize = 9;
/// Longest payload that is taken: we announce no other than the least (RFC 9113 §4.2).
const PAYLOAD_MAX: u32 = 1 << 14;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// The bounds of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) read_timeout: Duration,
    pub(super) write_timeout: Duration,
    /// Bytes a second.
    pub(super) rate_min: u64,
    /// Streams at once, as the SETTINGS say.
    pub(super) streams_max: usize,
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Frame {
    len: u32,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Frame {
    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn of([a, b, c, kind, flags, s @ ..]: [u8; HEAD_LEN]) -> Self {
        let stream = u32::from_be_bytes(s) & (u32::MAX >> 1);
        Self { len: u32::from_be_bytes([0, a, b, c]), kind, flags, stream }
    }
}

/// Where the frame ends whose head these bytes begin with.
pub(super) fn end_of_first(bytes: &[u8]) -> usize {
    bytes.first_chunk().map_or(HEAD_LEN, |head| HEAD_LEN + Frame::of(*head).len as usize)
}

/// How far a client has come that has not asked for anything yet.
#[derive(Debug)]
pub(super) struct Opening {
    /// Where the first frame begins that was not looked at.
    from: usize,
    settings: bool,
}

impl Opening {
    pub(super) fn new() -> Self {
        Self { from: PREFACE.len(), settings: false }
    }

    /// Whether a client that has said `bytes` wants something: a whole head, or whatever else is not only its SETTINGS, a word
    /// about windows or half a head. Also what HTTP/2 refuses is something.
    pub(super) fn asks(&mut self, bytes: &[u8]) -> bool {
        while let Some(head) = bytes.get(self.from..).and_then(|rest| rest.first_chunk()) {
            let frame = Frame::of(*head);
            let end = self.from + HEAD_LEN + frame.len as usize;
            let first = !self.settings;
            let waits = match frame.kind {
                SETTINGS if first => !frame.has(ACK) && frame.stream == 0 && frame.len.is_multiple_of(6),
                SETTINGS => frame.has(ACK),
                WINDOW_UPDATE | PRIORITY => !first,
                HEADERS | CONTINUATION => !first && (!frame.has(END_HEADERS) || end > bytes.len()),
                _ => false,
            };
            if !waits || frame.len > PAYLOAD_MAX {
                return true;
            }
            if end > bytes.len() {
                return false;
            }
            (self.from, self.settings) = (end, true);
        }
        false
    }

    /// Whether its SETTINGS are there, which want to be acknowledged.
    pub(super) fn has_settings(&self) -> bool {
        self.settings
    }
}

/// What a peer was told before HTTP/2 was begun with it, and is not to be told again.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) settings: bool,
    pub(super) acknowledged: bool,
    /// Bytes of the frame under way that are still to come, and whether they go to nobody.
    left: usize,
    passed_over: bool,
}

impl Told {
    /// Whether there may be something to pass over.
    pub(super) fn is_pending(&self) -> bool {
        self.settings || self.acknowledged || self.left > 0
    }

    /// How many of these bytes, which begin a frame or go on with one, are to be treated alike, and whether they are passed over.
    pub(super) fn next(&mut self, bytes: &[u8]) -> io::Result<(usize, bool)> {
        if self.left == 0 {
            let head = bytes.first_chunk().ok_or_else(|| io::Error::other("half the head of a frame"))?;
            let frame = Frame::of(*head);
            let told = if frame.has(ACK) { &mut self.acknowledged } else { &mut self.settings };
            self.passed_over = frame.kind == SETTINGS && std::mem::take(told);
            self.left = HEAD_LEN + frame.len as usize;
        }
        Ok((self.left.min(bytes.len()), self.passed_over))
    }

    /// So many of them are done with.
    pub(super) fn done(&mut self, count: usize) {
        self.left -= count;
    }
}

/// Where one direction is.
#[derive(Debug, Default)]
struct Parser {
    /// Bytes to pass over: the preface, or what is left of a payload.
    skip: usize,
    head: [u8; HEAD_LEN],
    have: usize,
    /// The frame whose payload is passing.
    frame: Option<Frame>,
}

impl Parser {
    fn new(skip: usize) -> Self {
        Self { skip, ..Self::default() }
    }

    /// Takes bytes as they come; tells each frame when its head is there and again when all of it is.
    fn feed<E>(
        &mut self,
        mut bytes: &[u8],
        mut tell: impl FnMut(Frame, bool) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            let skipped = self.skip.min(bytes.len());
            (self.skip, bytes) = (self.skip - skipped, &bytes[skipped..]);
            if self.skip > 0 {
                return Ok(());
            }
            if let Some(frame) = self.frame.take() {
                tell(frame, true)?;
            }
            if bytes.is_empty() {
                return Ok(());
            }
            let taken = (self.head.len() - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            (self.have, bytes) = (self.have + taken, &bytes[taken..]);
            if self.have < self.head.len() {
                return Ok(());
            }
            let frame = Frame::of(self.head);
            (self.have, self.skip, self.frame) = (0, frame.len as usize, Some(frame));
            tell(frame, false)?;
        }
    }
}

/// A bucket of frames without work.
#[derive(Debug)]
struct Calm {
    left: u32,
    filled: Instant,
}

impl Calm {
    fn take(&mut self, now: Instant) -> Result<(), Why> {
        let since = now.saturating_duration_since(self.filled).as_millis();
        let due = u32::try_from(since * u128::from(CALM_PER_SECOND) / 1000).unwrap_or(u32::MAX);
        if due > 0 {
            self.left = self.left.saturating_add(due).min(CALM_BURST);
            self.filled = now;
        }
        self.left = self.left.checked_sub(1).ok_or(Why::Flood)?;
        Ok(())
    }
}

/// A stream that we have not ended yet.
#[derive(Debug)]
struct Open {
    id: u32,
    /// Since its answer has begun: when DATA last passed.
    moved: Option<Instant>,
}

/// What is known of a connection.
#[derive(Debug)]
struct Watch {
    limits: Limits,
    open: Vec<Open>,
    last_id: u32,
    /// Since when a head is under way.
    head: Option<Instant>,
    /// Since when there is no stream.
    idle: Instant,
    /// A whole request has come.
    worked: bool,
    /// When it was asked to leave.
    leaving: Option<Instant>,
    calm: Calm,
    updates: u32,
    pace: Pace,
    /// Up to when the time of answers under way was counted.
    counted: Option<Instant>,
}

impl Watch {
    fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            open: Vec::new(),
            last_id: 0,
            head: None,
            idle: now,
            worked: false,
            leaving: None,
            calm: Calm { left: CALM_BURST, filled: now },
            updates: UPDATES_FREE,
            pace: Pace::new(limits.rate_min),
            counted: None,
        }
    }

    fn entitle(&mut self) {
        self.updates = (self.updates + UPDATES_EACH).min(UPDATES_MAX);
    }

    fn end(&mut self, stream: u32, now: Instant) {
        self.open.retain(|open| open.id != stream);
        if self.open.is_empty() {
            self.idle = now;
        }
        if self.open.iter().all(|open| open.moved.is_none()) {
            self.counted = None;
        }
    }

    fn moved(&mut self, stream: u32, now: Instant) {
        if let Some(moved) = self.open.iter_mut().find(|o| o.id == stream).and_then(|o| o.moved.as_mut()) {
            *moved = now;
        }
    }

    /// A frame of the peer's: its head, or all of it.
    fn came(&mut self, frame: Frame, whole: bool, now: Instant) -> Result<(), Why> {
        if whole {
            if matches!(frame.kind, HEADERS | CONTINUATION) && frame.has(END_HEADERS) {
                self.head = None;
                self.worked = true;
                self.entitle();
            }
            return Ok(());
        }
        match frame.kind {
            DATA if frame.len == 0 && !frame.has(END_STREAM) => self.calm.take(now)?,
            DATA => self.moved(frame.stream, now),
            HEADERS => {
                self.head.get_or_insert(now);
                // Trailers come on a stream that was there before.
                if frame.stream > self.last_id {
                    self.last_id = frame.stream;
                    self.open.push(Open { id: frame.stream, moved: None });
                }
                // h2 refuses each above the limit with a reset, which passes here; a peer that does not read them …
                if self.open.len() > 4 * self.limits.streams_max {
                    return Err(Why::Flood);
                }
            }
            WINDOW_UPDATE => self.updates = self.updates.checked_sub(1).ok_or(Why::Flood)?,
            kind => {
                self.calm.take(now)?;
                if kind == RST_STREAM {
                    self.end(frame.stream, now);
                }
            }
        }
        Ok(())
    }

    /// The head of a frame of ours.
    fn went(&mut self, frame: Frame, now: Instant) -> Result<(), Why> {
        match frame.kind {
            HEADERS | DATA => {
                if let Some(open) = self.open.iter_mut().find(|open| open.id == frame.stream) {
                    open.moved = Some(now);
                    let since = self.counted.replace(now).unwrap_or(now);
                    let bytes = if frame.kind == DATA { u64::from(frame.len) } else { 0 };
                    self.pace.note(now.saturating_duration_since(since), bytes).map_err(|_| Why::Slow)?;
                }
                if frame.kind == DATA {
                    self.entitle();
                }
                if frame.has(END_STREAM) {
                    self.end(frame.stream, now);
                }
            }
            RST_STREAM => self.end(frame.stream, now),
            _ => {}
        }
        Ok(())
    }

    /// When patience ends next, and what it is then.
    fn patience(&self) -> Option<(Instant, Why)> {
        let Limits { read_timeout, write_timeout, .. } = self.limits;
        let head = self.head.map(|since| (since + read_timeout, Why::Head));
        let quiet = self.open.is_empty().then(|| match self.leaving {
            Some(asked) => (self.idle.max(asked) + GOODBYE, Why::NoRequest),
            None => (self.idle + read_timeout, Why::NoRequest),
        });
        let stalled = self.open.iter().filter_map(|open| open.moved).min();
        let stalled = stalled.map(|since| (since + write_timeout, Why::Stalled));
        [head, quiet, stalled].into_iter().flatten().min_by_key(|(when, _)| *when)
    }

    /// Whether something took too long by now. A peer that worked and has nothing more to ask is asked to leave first.
    fn overdue(&mut self, now: Instant, farewell: &Notify) -> Result<Option<Instant>, Why> {
        match self.patience() {
            Some((when, Why::NoRequest)) if when <= now && self.worked && self.leaving.is_none() => {
                self.leaving = Some(now);
                farewell.notify_one();
                Ok(Some(now + GOODBYE))
            }
            Some((when, why)) if when <= now => Err(why),
            next => Ok(next.map(|(when, _)| when)),
        }
    }
}

/// A stream of bytes whose frames are watched.
pub(super) struct Frames<S> {
    stream: S,
    coming: Parser,
    going: Parser,
    watch: Watch,
    farewell: Arc<Notify>,
    verdict: Verdict,
    timer: Pin<Box<Sleep>>,
}

impl<S> Frames<S> {
    /// Watches from the first byte, the preface included. `farewell` is told when the peer should be asked to leave.
    pub(super) fn new(stream: S, limits: Limits, farewell: Arc<Notify>, verdict: Verdict) -> Self {
        let now = Instant::now();
        Self {
            stream,
            coming: Parser::new(PREFACE.len()),
            going: Parser::new(0),
            watch: Watch::new(limits, now),
            farewell,
            verdict,
            timer: Box::pin(tokio::time::sleep_until(now + limits.read_timeout)),
        }
    }

    /// Fails if something took too long, and wakes the task when it will have.
    fn look(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        loop {
            let next = self.watch.overdue(Instant::now(), &self.farewell);
            let Some(next) = next.map_err(|why| self.verdict.because(why))? else { return Ok(()) };
            // A later end of patience is found out when the timer that is set runs out: it need not be moved each time.
            if next < self.timer.deadline() || self.timer.is_elapsed() {
                self.timer.as_mut().reset(next);
            }
            if self.timer.as_mut().poll(context).is_pending() {
                return Ok(());
            }
        }
    }

    fn sent(&mut self, parts: &[IoSlice<'_>], mut count: usize) -> io::Result<()> {
        let (now, watch) = (Instant::now(), &mut self.watch);
        for part in parts {
            let passed = &part[..count.min(part.len())];
            count -= passed.len();
            let tell = |frame, whole| if whole { Ok(()) } else { watch.went(frame, now) };
            self.going.feed(passed, tell).map_err(|why| self.verdict.because(why))?;
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Frames<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(context, buffer);
        if polled.is_ready() {
            let (now, watch) = (Instant::now(), &mut this.watch);
            let came =
                this.coming.feed(&buffer.filled()[before..], |frame, whole| watch.came(frame, whole, now));
            came.map_err(|why| this.verdict.because(why))?;
        }
        this.look(context)?;
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Frames<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.sent(&[IoSlice::new(bytes)], count)?;
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, parts))?;
        self.sent(parts, count)?;
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        // What was written may have begun an answer: its end of patience is set here, for nothing may come to read.
        self.look(context)?;
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const LIMITS: Limits =
        Limits { read_timeout: SECOND, write_timeout: SECOND, rate_min: 1000, streams_max: 8 };

    fn bytes(len: u32, kind: u8, flags: u8, stream: u32) -> Vec<u8> {
        let mut out = len.to_be_bytes()[1..].to_vec();
        out.extend([kind, flags]);
        out.extend(stream.to_be_bytes());
        out.extend(vec![0; len as usize]);
        out
    }

    fn head(len: u32, kind: u8, flags: u8, stream: u32) -> Frame {
        Frame { len, kind, flags, stream }
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let mut all = PREFACE.to_vec();
        all.extend(bytes(0, 4, 0, 0));
        all.extend(bytes(70_000, HEADERS, END_HEADERS, 1));
        // The reserved bit of a stream's number means nothing.
        all.extend(bytes(5, DATA, END_STREAM, 1 | 1 << 31));
        let expected =
            [head(0, 4, 0, 0), head(70_000, HEADERS, END_HEADERS, 1), head(5, DATA, END_STREAM, 1)];
        for cut in [1, 2, 9, 10, 23, 4096, usize::MAX] {
            let (mut parser, mut begun, mut ended) = (Parser::new(PREFACE.len()), vec![], vec![]);
            for part in all.chunks(cut.min(all.len())) {
                let tell = |frame, whole: bool| -> Result<(), ()> {
                    if whole {
                        ended.push(frame)
                    } else {
                        begun.push(frame)
                    }
                    Ok(())
                };
                parser.feed(part, tell).unwrap();
            }
            assert_eq!((&begun[..], &ended[..]), (&expected[..], &expected[..]), "{cut}");
        }
    }

    /// A connection and its clock.
    struct Play(Watch, Instant, Notify);

    impl Play {
        fn new() -> Self {
            let now = Instant::now();
            Self(Watch::new(LIMITS, now), now, Notify::new())
        }

        fn came(&mut self, kind: u8, flags: u8, stream: u32, len: u32) -> Result<(), Why> {
            let frame = head(len, kind, flags, stream);
            self.0.came(frame, false, self.1)?;
            self.0.came(frame, true, self.1)
        }

        fn request(&mut self, stream: u32) -> Result<(), Why> {
            self.came(HEADERS, END_HEADERS | END_STREAM, stream, 10)
        }

        fn went(&mut self, kind: u8, flags: u8, stream: u32, len: u32) -> Result<(), Why> {
            self.0.went(head(len, kind, flags, stream), self.1)
        }

        fn later(&mut self, millis: u64) -> Result<(), Why> {
            self.1 += Duration::from_millis(millis);
            self.0.overdue(self.1, &self.2).map(|_| ())
        }
    }

    #[test]
    fn silence_half_a_head_and_idleness_end() {
        let mut silent = Play::new();
        assert_eq!((silent.later(999), silent.later(1)), (Ok(()), Err(Why::NoRequest)));

        let mut half = Play::new();
        half.request(1).unwrap();
        half.came(HEADERS, 0, 3, 10).unwrap();
        half.later(500).unwrap();
        half.came(CONTINUATION, 0, 3, 10).unwrap();
        assert_eq!(half.later(500), Err(Why::Head), "a head that goes on is no new one");

        let mut idle = Play::new();
        idle.request(1).unwrap();
        idle.later(5000).unwrap();
        idle.went(HEADERS, END_STREAM, 1, 10).unwrap();
        assert_eq!((idle.later(999), idle.0.leaving), (Ok(()), None));
        idle.later(1).unwrap();
        assert!(idle.0.leaving.is_some(), "asked to leave, and given time for it");
        assert_eq!(idle.later(GOODBYE.as_millis() as u64), Err(Why::NoRequest));
    }

    #[test]
    fn an_answer_that_does_not_move_ends_and_a_job_that_runs_does_not() {
        let mut play = Play::new();
        play.request(1).unwrap();
        play.request(3).unwrap();
        play.later(60_000).unwrap();
        play.went(HEADERS, END_HEADERS, 1, 10).unwrap();
        for _ in 0..20 {
            play.later(900).unwrap();
            play.went(DATA, 0, 1, 1000).unwrap();
        }
        assert_eq!(play.later(1000), Err(Why::Stalled));
    }

    #[test]
    fn a_trickle_is_not_enough() {
        let mut play = Play::new();
        play.request(1).unwrap();
        play.went(HEADERS, END_HEADERS, 1, 10).unwrap();
        let trickle = (0..30).try_for_each(|_| {
            play.later(900)?;
            play.went(DATA, 0, 1, 1)
        });
        assert_eq!(trickle, Err(Why::Slow));
    }

    #[test]
    fn floods_end_and_what_clients_do_does_not() {
        let flood = |kind: u8, len: u32| {
            let mut play = Play::new();
            play.request(1).unwrap();
            (0..10_000).try_for_each(|_| play.came(kind, 0, 1, len))
        };
        for (kind, len) in [(RST_STREAM, 4), (4, 0), (6, 8), (2, 5), (CONTINUATION, 0), (DATA, 0), (99, 0)] {
            assert_eq!(flood(kind, len), Err(Why::Flood), "{kind}");
        }
        assert_eq!(flood(WINDOW_UPDATE, 4), Err(Why::Flood));

        let mut reset = Play::new();
        let rapid = (0..10_000).try_for_each(|n| {
            reset.request(2 * n + 1)?;
            reset.came(RST_STREAM, 0, 2 * n + 1, 4)
        });
        assert_eq!(rapid, Err(Why::Flood));
        assert!(reset.0.open.len() <= 1);

        let mut opened = Play::new();
        assert_eq!((0..100).try_for_each(|n| opened.request(2 * n + 1)), Err(Why::Flood));

        // A client that reads much, gives back each frame twice, and pings now and then.
        let mut busy = Play::new();
        for n in 0..10_000u32 {
            busy.request(2 * n + 1).unwrap();
            busy.went(HEADERS, END_HEADERS, 2 * n + 1, 10).unwrap();
            for _ in 0..4 {
                busy.went(DATA, 0, 2 * n + 1, 16_384).unwrap();
                busy.came(WINDOW_UPDATE, 0, 0, 4).unwrap();
                busy.came(WINDOW_UPDATE, 0, 2 * n + 1, 4).unwrap();
            }
            busy.went(DATA, END_STREAM, 2 * n + 1, 0).unwrap();
            if n % 10 == 0 {
                busy.came(6, 0, 0, 8).unwrap();
                busy.later(200).unwrap();
            }
        }
    }
}
