//! The body of a request, and what becomes of it when we answer before its end.
//!
//! The law: a client that sends its whole body before it listens still hears why it was refused. A socket that is closed with
//! bytes unread is reset, and the reset throws away the answer under way: Python's clients then report a broken pipe, not the 401.
//! So what is left is taken and thrown away, for [`LINGER`] at most (RFC 9112 §9.6). The connection can be used again if the
//! body ended in that time.

use bytes::Bytes;
use http::header::EXPECT;
use http::{Request, Version};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// How long what nobody wants is taken: a loopback or a data centre's network moves gigabytes in it, and a peer that stops in the
/// middle holds its connection less long than one that says nothing.
const LINGER: Duration = Duration::from_secs(5);

/// A request's body.
pub struct Upload {
    /// Nothing once it is dropped.
    incoming: Option<Incoming>,
    lingers: bool,
}

impl Upload {
    /// Takes the body of a request over. Over HTTP/2 a stream is ended without harm to its answer, and a client that asks before it
    /// sends (`Expect: 100-continue`) has sent nothing yet.
    pub fn of(request: Request<Incoming>) -> Request<Self> {
        let lingers = request.version() < Version::HTTP_2 && !request.headers().contains_key(EXPECT);
        request.map(|incoming| Self { incoming: Some(incoming), lingers })
    }

    /// Gives the rest up: it has not come in the time that it had.
    pub fn give_up(&mut self) {
        self.lingers = false;
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        Pin::new(incoming).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(SizeHint::default, Incoming::size_hint)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(mut rest) = self.incoming.take().filter(|rest| self.lingers && !rest.is_end_stream()) else {
            return;
        };
        // There is one wherever a connection is served.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        // One for each connection at most: hyper reads no further request before this one's body has ended.
        runtime.spawn(tokio::time::timeout(
            LINGER,
            async move { while let Some(Ok(_)) = rest.frame().await {} },
        ));
    }
}
