//! One connection, from the accepted socket to its end: TLS, which HTTP, and who may end it.
//!
//! HTTP/2 is spoken where ALPN says so, and in the clear with a client that begins with its preface (RFC 9113 §3.3): behind a
//! proxy that is how many speak. An `Upgrade` to it is not taken. Why not hyper-util's `auto`: it waits without end for the
//! first bytes, and its HTTP/2 has no time-outs.
//!
//! The law: until its first whole request a connection has one deadline, whatever it does; after it [`Impatient`], hyper's
//! time for heads and [`Frames`] see to it that whatever waits, waits for us.

use super::Body;
use super::closed::{Verdict, Why};
use super::frames::{self, Frames, PREFACE};
use super::places::{Impatient, Place};
use super::tls::Tls;
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
use tokio::sync::{Notify, watch};
use tokio_rustls::server::TlsStream;

/// Longest head of a request: the longest capability with its discharges (16 KiB), the longest path, and as much again. Without
/// it a head may fill the read buffer, 400 KiB a connection.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Streams of an HTTP/2 connection at once: what RFC 9113 §6.5.2 calls the least that does not hold clients back.
const STREAMS_MAX: u32 = 100;
/// Bytes of one body that wait for us on an HTTP/2 connection: a part of an upload (1 MiB) comes in two halves.
const STREAM_WINDOW: u32 = 512 * 1024;
/// … and of all bodies of the connection together, which is what a peer can make us hold.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of an answer that wait for the peer, and of a request that are read at once. hyper's own, 400 KiB, is what each peer
/// that takes nothing would make us hold.
const BUFFER: usize = 32 * 1024;
/// Streams that the peer has reset before the service saw them: more are an attack (CVE-2023-44487).
const RESET_UNSEEN_MAX: usize = 20;
/// Streams that we have reset for the peer's faults: more are an attack.
const RESET_FOR_FAULTS_MAX: usize = 64;

/// Bytes of an answer that the system holds unsent. With its own choice, megabytes, a peer that reads steadily but slowly is
/// told apart from one that does not read only after minutes; with this, one at the least rate moves something every 8 s.
const UNSENT_MAX: u32 = 128 * 1024;

/// Refusals of a body that is not read to its end. hyper closes the connection after them; a client that is not told sends its
/// next request into the closed connection.
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

/// The first bytes of a connection in the clear.
#[derive(Default)]
struct Head {
    bytes: [u8; PREFACE.len()],
    given: usize,
    have: usize,
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(_, head) if head.given < head.have => {
                let rest = &head.bytes[head.given..head.have];
                let count = rest.len().min(buffer.remaining());
                buffer.put_slice(&rest[..count]);
                head.given += count;
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

/// Reads until the bytes are HTTP/2's preface or cannot become it. No request of HTTP/1 begins as it does.
async fn first_bytes(stream: &mut TcpStream) -> io::Result<(Head, bool)> {
    let mut head = Head::default();
    while head.bytes[..head.have] == PREFACE[..head.have] {
        if head.have == PREFACE.len() {
            return Ok((head, true));
        }
        match stream.read(&mut head.bytes[head.have..]).await? {
            0 => break,
            count => head.have += count,
        }
    }
    Ok((head, false))
}

/// The bytes of a connection, whether they are HTTP/2, and what certificate the client has proven.
async fn opened(
    mut stream: TcpStream,
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
    let (head, is_h2) = first_bytes(&mut stream).await.map_err(|_| None)?;
    Ok((Socket::Plain(stream, head), is_h2, None))
}

/// Serves a connection to its end, and counts why if the end is ours.
pub(super) async fn serve<F>(
    stream: TcpStream,
    place: Place,
    spoken: Spoken,
    settings: Arc<Settings>,
    stopped: watch::Receiver<bool>,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
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
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) -> Result<(), Option<Why>>
where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let (socket, is_h2, cert) = opened(stream, spoken, settings).await?;
    let (read_timeout, write_timeout) = (settings.read_timeout_ms.into(), settings.write_timeout_ms.into());
    let rate_min = settings.transfer_rate_min_bytes;
    let verdict = Verdict::default();
    let farewell = Arc::new(Notify::new());
    let handler = {
        let (place, farewell) = (place.clone(), farewell.clone());
        service_fn(move |mut request: Request<Incoming>| {
            place.prove();
            if let Some(cert) = cert {
                request.extensions_mut().insert(cert);
            }
            // In a box from its first request on: hyper keeps room for it in every connection, also in one that asks nothing.
            let (response, farewell) = (Box::pin(answer(request)), farewell.clone());
            async move {
                let mut response = response.await;
                // In HTTP/2 that is no header but a GOAWAY.
                if is_h2 && response.headers_mut().remove(CONNECTION).is_some() {
                    farewell.notify_one();
                } else if !is_h2 && LEAVES_A_BODY.contains(&response.status()) {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response)
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
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX as u32)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(BUFFER)
            .max_pending_accept_reset_streams(RESET_UNSEEN_MAX)
            .max_local_error_reset_streams(RESET_FOR_FAULTS_MAX);
        until.drive(Box::pin(builder.serve_connection(stream, handler))).await
    } else {
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
                ended = connection.as_mut() => return ended,
                () = self.farewell.notified(), if !leaving => {
                    leaving = true;
                    connection.as_mut().graceful_shutdown();
                }
                _ = self.stopped.wait_for(|stopped| *stopped), if !leaving => {
                    leaving = true;
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}
