//! The body of a response: bytes that are there, or a stream. Nearly all are bytes, and an answer from memory costs so little
//! that two boxes and their virtual calls would show; a stream keeps its box.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Frame, SizeHint};
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

/// The body of every response.
pub enum Body {
    /// It is here.
    Whole(Full<Bytes>),
    /// It is made while it is sent.
    Stream(BoxBody<Bytes, io::Error>),
}

impl Body {
    /// A body of these bytes.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(Full::new(bytes.into()))
    }

    /// A body that is made while it is sent.
    pub fn stream(
        body: impl hyper::body::Body<Data = Bytes, Error = io::Error> + Send + Sync + 'static,
    ) -> Self {
        Self::Stream(BodyExt::boxed(body))
    }
}

/// The answer to a HEAD: the head of what a GET would be answered, its length included (RFC 9110 §9.3.2). hyper leaves the body
/// out in HTTP/1 and sends it in HTTP/2.
pub fn without_body(mut response: Response<Body>) -> Response<Body> {
    if let Some(len) = response.body().size_hint().exact()
        && response.status() != StatusCode::NOT_MODIFIED
    {
        response.headers_mut().entry(CONTENT_LENGTH).or_insert(HeaderValue::from(len));
    }
    response.map(|_| Body::whole(""))
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let never = |error: Infallible| match error {};
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(context).map_err(never),
            Self::Stream(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Stream(body) => body.size_hint(),
        }
    }
}
