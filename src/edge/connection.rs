//! One connection, from the accepted socket to its end: TLS, which HTTP, and who may end it.
//!
//! HTTP/2 is spoken where ALPN says so, and in the clear with a client that begins with its preface (RFC 9113 §3.3): behind a
//! proxy that is how many speak. An `Upgrade` to it is not taken. Why not hyper-util's `auto`: it waits without end for the
//! first bytes, and its HTTP/2 has no time-outs.
//!
//! The laws: until its first whole request a connection has one deadline, whatever it does; after it [`Impatient`], hyper's
//! time for heads and [`Frames`] see to it that whatever waits, waits for us. In the clear, a connection that has asked nothing yet
//! costs what it has said: hyper and its buffers come with the first head.

use super::Body;
use super::closed::{Verdict, Why};
use super::frames::{self, Frames, Opening, PREFACE, Told};
use super::garbled::{Answer, Garbled, Talk};
use super::places::{Impatient, Place};
use super::tls::Tls;
use super::upload::Upload;
use crate::config::Settings;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use rewarder_admit::ClientCert;
use socket2::SockRef;
use std::convert::Infallible;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OnceCell, watch};
use tokio_rustls::server::TlsStream;

/// Longest head of a request: the longest capability with its discharges (16 KiB), the longest path, and as much again. Without
/// it a head may fill the read buffer, 400 KiB a connection.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Headers of a request: hyper's own bound.
const HEADERS_MAX: usize = 100;
/// Bytes of a first head that are read at once.
const FIRST_PART: usize = 2048;
/// Streams of an HTTP/2 connection at once: what RFC 9113 §6.5.2 calls the least that does not hold clients back.
const STREAMS_MAX: u32 = 100;
/// Bytes of one body that wait for us on an HTTP/2 connection: a part of an upload (1 MiB) comes in two halves.
const STREAM_WINDOW: u32 = 512 * 1024;
/// … and of all bodies of the connection together, which is what a peer can make us hold.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of a connection of HTTP/1 that are read at once, and of an answer that wait for its peer. hyper's own, 400 KiB, is what each
/// peer that sends much and takes nothing would make us hold; with half of this an upload is a quarter slower.
const BUFFER: usize = 64 * 1024;
/// Bytes of an answer that wait for the peer, on a stream of HTTP/2.
const STREAM_BUFFER: usize = 32 * 1024;
/// Streams that the peer has reset before the service saw them: more are an attack (CVE-2023-44487).
const RESET_UNSEEN_MAX: usize = 20;
/// Streams that we have reset for the peer's faults: more are an attack.
const RESET_FOR_FAULTS_MAX: usize = 64;

/// Bytes of an answer that the system holds unsent. With its own choice, megabytes, a peer that reads steadily but slowly is
/// told apart from one that does not read only after minutes; with this, one at the least rate moves something every 4 s. It is
/// also what each reader that takes nothing makes us fill.
const UNSENT_MAX: u32 = 64 * 1024;

/// Refusals after which a connection ends: such a body may go on for longer than it is taken ([`Upload`]), and a client that is not
/// told sends its next request into the closed connection.
const LEAVES_A_BODY: [StatusCode; 3] =
    [StatusCode::REQUEST_TIMEOUT, StatusCode::PAYLOAD_TOO_LARGE, StatusCode::UNSUPPORTED_MEDIA_TYPE];

/// What a port speaks.
#[derive(Clone)]
pub(super) struct Spoken {
    /// With certificates, TLS and nothing else.
    pub(super) tls: Option<Arc<Tls>>,
    /// Whether HTTP/2 is spoken beside HTTP/1.1.
    pub(super) h2: bool,
}

/// The bytes of a connection, with or without TLS, and those that were read to see what is spoken.
enum Socket {
    Plain(TcpStream, Head),
    Tls(Box<TlsStream<TcpStream>>),
}

/// The first bytes of a connection in the clear, and what was answered to them.
#[derive(Default)]
struct Head {
    bytes: Vec<u8>,
    given: usize,
    told: Told,
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(_, head) if head.given < head.bytes.len() => {
                let rest = &head.bytes[head.given..];
                let count = rest.len().min(buffer.remaining());
                buffer.put_slice(&rest[..count]);
                head.given += count;
                if head.given == head.bytes.len() {
                    (head.bytes, head.given) = (Vec::new(), 0);
                }
                Poll::Ready(Ok(()))
            }
            Self::Plain(stream, _) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream, head) if head.told.is_pending() => {
                let (count, passed_over) = head.told.next(bytes)?;
                let polled = match passed_over {
                    true => Poll::Ready(Ok(count)),
                    false => Pin::new(stream).poll_write(context, &bytes[..count]),
                };
                if let Poll::Ready(Ok(count)) = polled {
                    head.told.done(count);
                }
                polled
            }
            Self::Plain(stream, _) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(_, head) if head.told.is_pending() => {
                let first = parts.iter().find(|part| !part.is_empty());
                first.map_or(Poll::Ready(Ok(0)), |part| self.poll_write(context, part))
            }
            Self::Plain(stream, _) => Pin::new(stream).poll_write_vectored(context, parts),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream, _) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream, _) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream, _) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// Tells the system how to treat the connection. Nothing of it is needed, so nothing of it can fail.
fn tune(stream: &TcpStream, settings: &Settings) {
    let socket = SockRef::from(stream);
    // Answers are small and awaited.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_notsent_lowat(UNSENT_MAX);
    // What a peer has not taken when its connection is closed would be kept for it for minutes.
    let _ = socket.set_tcp_user_timeout(Some(Duration::from(settings.write_timeout_ms)));
}

/// Reads the first head before hyper has to do with it, and whether it is HTTP/2's: hyper's buffers are 16 KiB, those of its HTTP/2
/// 30, and a peer that has said little is to cost little. Whole or faulty is what hyper will find so, at the same read: it too
/// judges the first part of a head of HTTP/1 at once, and what follows it when a blank line has come.
///
/// A client of HTTP/2 that asks for nothing yet may wait for our SETTINGS, and its own have to be acknowledged at once: both are
/// done here, and passed over when hyper does them.
async fn first_bytes(stream: &TcpStream) -> io::Result<(Head, bool)> {
    let (mut bytes, mut told, mut opening) = (Vec::new(), Told::default(), Opening::new());
    loop {
        stream.readable().await?;
        let before = bytes.len();
        {
            // Not kept while we wait, and so in no connection's memory.
            let mut part = [0; FIRST_PART];
            match stream.try_read(&mut part) {
                Ok(0) => break,
                Ok(count) => bytes.extend_from_slice(&part[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            }
        }
        let goes_on = if bytes.starts_with(PREFACE) {
            opening.asks(&bytes)
        } else {
            // No request of HTTP/1 begins as the preface does.
            !PREFACE.starts_with(&bytes)
                && if before == 0 { !is_partial(&bytes) } else { ends(&bytes, before) }
        };
        if goes_on || bytes.len() > HEAD_BYTES_MAX {
            break;
        }
        let mut words = Vec::new();
        if bytes.starts_with(PREFACE) && !std::mem::replace(&mut told.settings, true) {
            words.extend_from_slice(greeting().await?);
        }
        if opening.has_settings() && !std::mem::replace(&mut told.acknowledged, true) {
            words.extend_from_slice(frames::ACKNOWLEDGEMENT);
        }
        if !words.is_empty() {
            stream.writable().await?;
            // A new connection has room for them.
            if stream.try_write(&words)? < words.len() {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
    }
    let is_h2 = bytes.starts_with(PREFACE);
    Ok((Head { bytes, given: 0, told }, is_h2))
}

/// The SETTINGS with which [`h2_server`] begins every connection: what it says to a peer that says nothing.
async fn greeting() -> io::Result<&'static [u8]> {
    static GREETING: OnceCell<Vec<u8>> = OnceCell::const_new();
    // In a box: all that hyper needs for a connection would have its room in every other one.
    GREETING.get_or_try_init(|| Box::pin(first_words())).await.map(Vec::as_slice)
}

/// The first frame of a connection of hyper's to nobody.
async fn first_words() -> io::Result<Vec<u8>> {
    let (mut peer, ours) = tokio::io::duplex(1024);
    let nobody = service_fn(async |_| Ok::<_, Infallible>(Response::new(Body::whole(""))));
    let connection = h2_server().serve_connection(TokioIo::new(ours), nobody);
    let heard = async {
        let mut frame = vec![0; frames::HEAD_LEN];
        peer.read_exact(&mut frame).await?;
        frame.resize(frames::end_of_first(&frame), 0);
        peer.read_exact(&mut frame[frames::HEAD_LEN..]).await?;
        Ok(frame)
    };
    tokio::select! {
        frame = heard => frame,
        _ = connection => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// HTTP/2 as it is spoken here.
fn h2_server() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(STREAM_BUFFER)
        .max_pending_accept_reset_streams(RESET_UNSEEN_MAX)
        .max_local_error_reset_streams(RESET_FOR_FAULTS_MAX);
    builder
}

/// Whether this begins a head of HTTP/1, and more has to come.
fn is_partial(bytes: &[u8]) -> bool {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    httparse::Request::new(&mut headers).parse(bytes).is_ok_and(|status| status.is_partial())
}

/// Whether there is a blank line that ends behind `from`.
fn ends(bytes: &[u8], from: usize) -> bool {
    let tail = &bytes[from.saturating_sub(3)..];
    (0..tail.len()).any(|at| matches!(tail[at..], [b'\n', b'\n', ..] | [b'\n', b'\r', b'\n', ..]))
}

/// The bytes of a connection, whether they are HTTP/2, and what certificate the client has proven.
async fn opened(
    stream: TcpStream,
    spoken: &Spoken,
    settings: &Settings,
) -> Result<(Socket, bool, Option<ClientCert>), Option<Why>> {
    if let Some(tls) = &spoken.tls {
        let secured = Box::pin(tls.handshake(stream, settings.tls_handshake_timeout_ms.into())).await;
        let secured = secured.map_err(|error| {
            tracing::debug!(%error, "a TLS handshake failed");
            Some(Why::Handshake)
        })?;
        return Ok((Socket::Tls(Box::new(secured.stream)), secured.is_h2 && spoken.h2, secured.cert));
    }
    if !spoken.h2 {
        return Ok((Socket::Plain(stream, Head::default()), false, None));
    }
    // A peer that breaks off here is nobody's fault.
    let (head, is_h2) = first_bytes(&stream).await.map_err(|_| None)?;
    Ok((Socket::Plain(stream, head), is_h2, None))
}

/// Serves a connection to its end, and counts why if the end is ours.
pub(super) async fn serve<F>(
    stream: TcpStream,
    place: Place,
    spoken: Spoken,
    settings: Arc<Settings>,
    stopped: watch::Receiver<bool>,
    answer: impl Fn(Request<Upload>) -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let place = Arc::new(place);
    tune(&stream, &settings);
    let ended = {
        let mut served = pin!(speak(stream, &place, &spoken, &settings, stopped, answer));
        let head_time: Duration = settings.read_timeout_ms.into();
        let handshake_time: Duration = settings.tls_handshake_timeout_ms.into();
        let time = if spoken.tls.is_some() { head_time + handshake_time } else { head_time };
        let first = tokio::time::sleep(time);
        tokio::select! {
            ended = &mut served => ended,
            () = place.gives_way() => Err(Some(Why::GaveWay)),
            () = first => if place.is_proven() { served.await } else { Err(Some(Why::NoRequest)) },
        }
    };
    if let Err(Some(why)) = ended {
        why.count();
        tracing::debug!(why = why.as_str(), "a connection was closed");
    }
}

async fn speak<F>(
    stream: TcpStream,
    place: &Arc<Place>,
    spoken: &Spoken,
    settings: &Settings,
    stopped: watch::Receiver<bool>,
    answer: impl Fn(Request<Upload>) -> F + Clone + Send + Sync + 'static,
) -> Result<(), Option<Why>>
where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let (socket, is_h2, cert) = opened(stream, spoken, settings).await?;
    let (read_timeout, write_timeout) = (settings.read_timeout_ms.into(), settings.write_timeout_ms.into());
    let rate_min = settings.transfer_rate_min_bytes;
    let verdict = Verdict::default();
    let farewell = Arc::new(Notify::new());
    let talk = (!is_h2).then(Talk::default);
    let handler = {
        let (place, farewell, talk) = (place.clone(), farewell.clone(), talk.clone());
        service_fn(move |mut request: Request<Incoming>| {
            place.prove();
            let answering = talk.as_ref().map(Talk::begin);
            if let Some(cert) = cert {
                request.extensions_mut().insert(cert);
            }
            // In a box from its first request on: hyper keeps room for it in every connection, also in one that asks nothing.
            let (response, farewell) = (Box::pin(answer(Upload::of(request))), farewell.clone());
            async move {
                let mut response = response.await;
                // In HTTP/2 that is no header but a GOAWAY.
                if is_h2 && response.headers_mut().remove(CONNECTION).is_some() {
                    farewell.notify_one();
                } else if !is_h2 && LEAVES_A_BODY.contains(&response.status()) {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response.map(|body| Answer::new(body, answering)))
            }
        })
    };
    let until = Until { farewell: &farewell, stopped };
    // In boxes, so that a connection that has said nothing yet is small: a task is as large as the largest of its states. A future
    // that takes a connection by value has room for it twice, as its argument and as what it drives.
    let ended = if is_h2 {
        let limits =
            frames::Limits { read_timeout, write_timeout, rate_min, streams_max: STREAMS_MAX as usize };
        let stream = Frames::new(socket, limits, farewell.clone(), verdict.clone());
        let stream = Impatient::new(TokioIo::new(stream), write_timeout).paced(rate_min, verdict.clone());
        until.drive(Box::pin(h2_server().serve_connection(stream, handler))).await
    } else {
        let socket = Garbled::new(socket, talk.unwrap_or_default());
        let stream = Impatient::new(TokioIo::new(socket), write_timeout).paced(rate_min, verdict.clone());
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .max_header_size(HEAD_BYTES_MAX)
            .max_buf_size(BUFFER)
            .header_read_timeout(Some(read_timeout));
        until.drive(Box::pin(builder.serve_connection(stream, handler))).await
    };
    ended.map_err(|error| {
        tracing::debug!(%error, "a connection ended early");
        verdict.why().or_else(|| error.is_timeout().then_some(Why::Head))
    })
}

/// What a connection under way may be told.
struct Until<'a> {
    /// It is idle and should leave.
    farewell: &'a Notify,
    /// The service stops.
    stopped: watch::Receiver<bool>,
}

impl Until<'_> {
    /// Runs it to its end; it is asked to leave (GOAWAY, or `Connection: close`) when the time has come.
    async fn drive<C: GracefulConnection<Error = hyper::Error>>(
        mut self,
        mut connection: Pin<Box<C>>,
    ) -> hyper::Result<()> {
        let mut leaving = false;
        loop {
            tokio::select! {
                // The farewell first, so that it goes out with the answer that it belongs to: a client that reads the one without
                // the other sends its next request over a connection that is about to end.
                biased;
                () = self.farewell.notified(), if !leaving => {
                    leaving = true;
                    connection.as_mut().graceful_shutdown();
                }
                _ = self.stopped.wait_for(|stopped| *stopped), if !leaving => {
                    leaving = true;
                    connection.as_mut().graceful_shutdown();
                }
                ended = connection.as_mut() => return ended,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    /// What is held back of bytes that come in these parts, each read before the next one is sent; the last one ends it.
    async fn held(parts: &[&[u8]]) -> (Vec<u8>, bool) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let (last, first) = parts.split_last().unwrap();
        let mut reading = pin!(first_bytes(&stream));
        for part in first {
            peer.write_all(part).await.unwrap();
            let read = tokio::time::timeout(Duration::from_millis(20), &mut reading).await;
            assert!(read.is_err(), "{:?} is no whole head", String::from_utf8_lossy(part));
        }
        peer.write_all(last).await.unwrap();
        let read = tokio::time::timeout(Duration::from_secs(20), reading).await;
        let (head, is_h2) = read.expect("whole").unwrap();
        (head.bytes, is_h2)
    }

    #[tokio::test]
    async fn a_first_head_is_held_until_it_is_whole_wherever_it_is_cut() {
        for head in [
            "GET / HTTP/1.1\r\nhost: x\r\n\r\n",
            "GET / HTTP/1.1\nhost: x\n\n",
            "PUT / HTTP/1.1\r\nhost: x\r\n\n",
        ] {
            let (head, end) = (head.as_bytes(), head.len());
            assert_eq!(held(&[head]).await, (head.to_vec(), false));
            for cut in [1, 3, end - 3, end - 2, end - 1] {
                assert_eq!(held(&[&head[..cut], &head[cut..]]).await, (head.to_vec(), false), "{cut}");
            }
        }
    }

    #[tokio::test]
    async fn http2_is_greeted_and_held_until_it_asks() {
        // Its SETTINGS, a window, half a head and the other half of it.
        let settings = b"\0\0\0\x04\0\0\0\0\0\0\0\x04\x08\0\0\0\0\0\0\0\x01\0";
        let head = b"\0\0\x02\x01\x01\0\0\0\x01\x82\x84\0\0\x01\x09\x04\0\0\0\x01\x86";
        let all = [&PREFACE[..], &settings[..], &head[..]].concat();
        let ask = all.len();
        for cuts in [[3, 20, 24], [24, 33, 46], [30, 46, 50], [46, 57, ask - 1], [10, 47, ask - 1]] {
            let [a, b, c] = cuts;
            let parts = [&all[..a], &all[a..b], &all[b..c], &all[c..]];
            assert_eq!(held(&parts).await, (all.clone(), true), "{cuts:?}");
        }
        // A ping wants an answer, which is not ours to give.
        let ping = [&PREFACE[..], b"\0\0\x08\x06\0\0\0\0\0"].concat();
        assert_eq!(held(&[&ping[..24], &ping[24..]]).await, (ping.clone(), true));
    }

    /// The frames that a client of HTTP/2 hears, kinds and flags: it says some parts, hears so many bytes, and says the rest.
    async fn frames_heard(parts: &[&[u8]], heard: usize, rest: &[u8]) -> Vec<(u8, u8)> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let served = tokio::spawn(async move {
            let (head, is_h2) = first_bytes(&stream).await.unwrap();
            assert!(is_h2);
            let answer = service_fn(async |_| Ok::<_, Infallible>(Response::new(Body::whole("hello"))));
            let _ = h2_server().serve_connection(TokioIo::new(Socket::Plain(stream, head)), answer).await;
        });
        let mut all = vec![0; heard];
        let talk = async {
            for part in parts {
                peer.write_all(part).await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            peer.read_exact(&mut all).await.unwrap();
            peer.write_all(rest).await.unwrap();
            let holds = |all: &[u8], what: &[u8]| all.windows(what.len()).any(|part| part == what);
            let mut part = [0; 1024];
            while !(holds(&all, b"hello") && holds(&all, frames::ACKNOWLEDGEMENT)) {
                let count = peer.read(&mut part).await.unwrap();
                assert!(count > 0, "{all:?}");
                all.extend_from_slice(&part[..count]);
            }
        };
        tokio::time::timeout(Duration::from_secs(20), talk).await.expect("an answer");
        served.abort();
        assert!(all.starts_with(greeting().await.unwrap()));
        let (mut kinds, mut rest) = (Vec::new(), &all[..]);
        while !rest.is_empty() {
            kinds.push((rest[3], rest[4]));
            rest = &rest[frames::end_of_first(rest)..];
        }
        kinds
    }

    #[tokio::test]
    async fn settings_are_said_and_acknowledged_once_however_slow_a_client_is() {
        let ours = greeting().await.unwrap().len();
        assert_eq!(frames::end_of_first(greeting().await.unwrap()), ours, "one frame");
        let (both, taken) = (ours + frames::ACKNOWLEDGEMENT.len(), frames::ACKNOWLEDGEMENT);
        let settings: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
        let window: &[u8] = b"\0\0\x04\x08\0\0\0\0\0\0\0\x01\0";
        let ask: &[u8] = b"\0\0\x03\x01\x05\0\0\0\x01\x82\x84\x86";
        // What is said at first, how much is heard then, and the rest.
        type Talk<'a> = (&'a [&'a [u8]], usize, &'a [&'a [u8]]);
        let cases: [Talk<'_>; 5] = [
            (&[], 0, &[PREFACE, settings, ask]),
            (&[PREFACE], ours, &[settings, ask]),
            (&[PREFACE, settings], both, &[ask]),
            (&[&PREFACE[..10], &PREFACE[10..], &settings[..4], &settings[4..]], both, &[ask]),
            (&[PREFACE, settings, taken, window], both, &[ask]),
        ];
        for (at, (parts, heard, rest)) in cases.into_iter().enumerate() {
            let kinds = frames_heard(parts, heard, &rest.concat()).await;
            let count = |flags| kinds.iter().filter(|kind| **kind == (4, flags)).count();
            assert_eq!((count(0), count(1)), (1, 1), "{at}: {kinds:?}");
        }
    }

    #[tokio::test]
    async fn what_hyper_refuses_at_once_is_not_held() {
        let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
        assert_eq!(held(&[hello]).await, (hello.to_vec(), false));
        // More of a head than any request may have.
        let long = [&b"GET / HTTP/1.1\r\nx: "[..], &vec![b'x'; HEAD_BYTES_MAX]].concat();
        let (first, more) = long.split_at(30);
        let (bytes, is_h2) = held(&[first, more]).await;
        assert!(bytes.len() > HEAD_BYTES_MAX && long.starts_with(&bytes) && !is_h2);
    }
}
