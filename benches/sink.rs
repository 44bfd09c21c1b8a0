//! The fastest that hyper takes an upload here: a server that reads bodies and throws them away. Prints its address. What the
//! service's uploads are measured against (`testing/attack/rate`).

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use tokio::net::TcpListener;

async fn sink(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (mut body, mut count) = (request.into_body(), 0);
    while let Some(Ok(frame)) = body.frame().await {
        count += frame.data_ref().map_or(0, Bytes::len);
    }
    Ok(Response::new(Full::new(Bytes::from(format!("{{\"bytes\":{count}}}")))))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(sink)));
    }
}
