//! Messages that hyper refuses by itself: it answers with a bare status, from which nobody learns anything. Here they get what every
//! refusal gets (contract §6): a problem that says what was wrong, and a correlation id; and they are counted.
//!
//! The law: nothing is replaced but what hyper says by itself. That is what begins while no request has come since all that was said
//! before was sent; so an answer of ours, whose bytes may be a stranger's, is never taken for it.

use super::corr::CorrId;
use super::problem::Problem;
use super::{Body, CORR_ID};
use crate::refusal::Refusal;
use bytes::Bytes;
use http::StatusCode;
use hyper::body::{Frame, SizeHint};
use rewarder_model::Reason;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Where the talk of a connection stands. One task reads, answers and writes.
#[derive(Clone, Default)]
pub(super) struct Talk(Arc<State>);

#[derive(Default)]
struct State {
    /// Requests from their arrival until hyper has all of the answer.
    answering: AtomicUsize,
    /// A request has come, or something has been said, and not all that there is to say has been sent.
    busy: AtomicBool,
}

/// A request that is being answered, until it is dropped.
pub(super) struct Answering(Talk);

impl Talk {
    /// A request has come.
    pub(super) fn begin(&self) -> Answering {
        self.0.answering.fetch_add(1, Ordering::Relaxed);
        self.speak();
        Answering(self.clone())
    }

    fn speak(&self) {
        self.0.busy.store(true, Ordering::Relaxed);
    }

    fn is_quiet(&self) -> bool {
        !self.0.busy.load(Ordering::Relaxed)
    }

    /// All that hyper had has been sent; of an answer under way there is more to come.
    fn sent(&self) {
        self.0.busy.store(self.0.answering.load(Ordering::Relaxed) > 0, Ordering::Relaxed);
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.0.answering.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer, which is over when hyper has all of it.
pub(super) struct Answer {
    body: Body,
    _until: Option<Answering>,
}

impl Answer {
    pub(super) fn new(body: Body, until: Option<Answering>) -> Self {
        Self { body, _until: until }
    }
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The bytes of a connection of HTTP/1 under hyper.
pub(super) struct Garbled<S> {
    inner: S,
    talk: Talk,
    ours: Option<Ours>,
}

/// What is said in place of hyper's words.
struct Ours {
    bytes: Vec<u8>,
    sent: usize,
    /// How long hyper's are.
    stands_for: usize,
}

impl<S> Garbled<S> {
    pub(super) fn new(inner: S, talk: Talk) -> Self {
        Self { inner, talk, ours: None }
    }
}

/// The problem in place of a bare refusal, which is a whole head and nothing else; none for anything else.
fn instead(said: &[u8]) -> Option<Vec<u8>> {
    let head = std::str::from_utf8(said.strip_suffix(b"\r\n\r\n")?).ok()?;
    let status = head.strip_prefix("HTTP/1.")?.get(2..5)?;
    let status = StatusCode::from_bytes(status.as_bytes()).ok().filter(StatusCode::is_client_error)?;
    let detail = match status {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            "the head of the request is longer, or has more headers, than is read here"
        }
        StatusCode::URI_TOO_LONG => "the target of the request is longer than is read here",
        _ => {
            "the message is not one of HTTP/1.1 (RFC 9112): its request line, a header, its length or its framing"
        }
    };
    let corr_id = CorrId::fresh();
    let refusal = Refusal::new(Reason::Schema, detail);
    let problem = Problem::of(&refusal, corr_id.as_str()).with_status(status);
    problem.count();
    let body = problem.to_json();
    let kept = head.split("\r\n").filter(|line| {
        let name = line.split(':').next().unwrap_or_default();
        !["content-length", "connection"].iter().any(|ours| name.eq_ignore_ascii_case(ours))
    });
    let mut bytes = Vec::new();
    for line in kept.map(str::to_owned).chain([
        "content-type: application/problem+json".to_owned(),
        format!("{}: {}", CORR_ID, corr_id.as_str()),
        "connection: close".to_owned(),
        format!("content-length: {}\r\n", body.len()),
    ]) {
        bytes.extend_from_slice(line.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(&body);
    Some(bytes)
}

impl<S: AsyncWrite + Unpin> Garbled<S> {
    /// Whether hyper speaks by itself; then what is said instead is under way.
    fn replaces(&mut self, said: &[u8]) -> bool {
        if self.ours.is_none() && self.talk.is_quiet() {
            self.ours = instead(said).map(|bytes| Ours { bytes, sent: 0, stands_for: said.len() });
        }
        self.ours.is_some()
    }

    fn poll_ours(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.talk.speak();
        while let Some(ours) = &mut self.ours {
            let rest = &ours.bytes[ours.sent..];
            if rest.is_empty() {
                let stands_for = ours.stands_for;
                self.ours = None;
                return Poll::Ready(Ok(stands_for));
            }
            match ready!(Pin::new(&mut self.inner).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => ours.sent += count,
            }
        }
        Poll::Ready(Ok(0))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Garbled<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Garbled<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.replaces(bytes) {
            return self.poll_ours(context);
        }
        self.talk.speak();
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A head alone comes in one part.
        let mut said = parts.iter().filter(|part| !part.is_empty());
        if let (Some(part), None) = (said.next(), said.next())
            && self.replaces(part)
        {
            return self.poll_ours(context);
        }
        self.talk.speak();
        Pin::new(&mut self.inner).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_flush(context))?;
        self.talk.sent();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Request, Response};
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use std::convert::Infallible;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// What a client hears that says this, through a pipe that holds so many bytes.
    async fn heard(said: &'static [u8], pipe: usize, status: u16, body: &'static str) -> String {
        let (client, server) = tokio::io::duplex(pipe);
        let (mut ears, mut mouth) = tokio::io::split(client);
        let talk = Talk::default();
        let service = {
            let talk = talk.clone();
            service_fn(move |_: Request<Incoming>| {
                let answering = talk.begin();
                async move {
                    let body = Answer::new(Body::whole(body), Some(answering));
                    Ok::<_, Infallible>(Response::builder().status(status).body(body).unwrap())
                }
            })
        };
        let served = tokio::spawn(
            http1::Builder::new().serve_connection(TokioIo::new(Garbled::new(server, talk)), service),
        );
        let mut all = Vec::new();
        // Who is refused need not be listened to.
        let speak = async { drop(mouth.write_all(said).await) };
        let both = async { tokio::join!(speak, ears.read_to_end(&mut all)).1 };
        tokio::time::timeout(std::time::Duration::from_secs(20), both).await.expect("an end").unwrap();
        let _ = served.await;
        String::from_utf8(all).unwrap()
    }

    const GOOD: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    #[tokio::test]
    async fn a_garbled_message_hears_why_first_or_later() {
        for (said, status) in [
            (&b"GET / HTTP/1.1\r\nx: \x01\r\n\r\n"[..], "400 Bad Request"),
            (b"GET / HTTP/1.1\r\nhost x\r\n\r\n", "400 Bad Request"),
            (b"PUT / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", "400 Bad Request"),
            (b"GET /a b HTTP/1.1\r\n\r\n", "400 Bad Request"),
        ] {
            for pipe in [7, 64, 4096] {
                let alone = heard(said, pipe, 200, "").await;
                let later = heard([GOOD.as_bytes(), said].concat().leak(), pipe, 200, "fine").await;
                assert!(later.starts_with("HTTP/1.1 200 OK\r\n"), "{later}");
                for all in [&alone, later.split_once("fine").unwrap().1] {
                    assert!(all.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{all}");
                    let (head, body) = all.split_once("\r\n\r\n").unwrap();
                    assert!(
                        head.contains("\r\nx-corr-id: ") && head.contains("\r\nconnection: close"),
                        "{head}"
                    );
                    assert!(head.contains(&format!("\r\ncontent-length: {}", body.len())), "{head}");
                    let problem: serde_json::Value = serde_json::from_str(body).unwrap();
                    assert_eq!((&problem["reason"], &problem["status"]), (&"schema".into(), &400.into()));
                }
            }
        }
    }

    #[tokio::test]
    async fn an_answer_that_looks_like_a_refusal_is_sent_as_it_is() {
        const BODY: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
        for pipe in 1..200 {
            let all = heard(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", pipe, 200, BODY).await;
            assert!(
                all.starts_with("HTTP/1.1 200 OK\r\n") && all.ends_with(&format!("\r\n\r\n{BODY}")),
                "{all}"
            );
        }
    }

    /// An answer that is a head alone looks just like hyper's own.
    #[tokio::test]
    async fn a_refusal_of_ours_without_a_body_is_ours() {
        const HEADS: &[u8] =
            b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\nHEAD / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        for (said, answers, body) in [(HEADS, 2, "not said to a HEAD"), (HEADS, 2, ""), (GET, 1, "")] {
            for pipe in [1, 7, 64, 4096] {
                let all = heard(said, pipe, 404, body).await;
                assert_eq!(all.matches("HTTP/1.1 404 Not Found\r\n").count(), answers, "{all}");
                assert!(all.ends_with("\r\n\r\n") && !all.contains("x-corr-id"), "{all}");
            }
        }
    }
}
