//! What HTTP itself costs: hyper with nothing on it, which answers `hello` to whatever is asked. The other side of
//! `benches/service`: the same library, runtime and threads as the service, and no door, no limits, no time-outs, no logs.
//!
//! `hello` listens on a free loopback port and prints its address.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use tokio::net::TcpListener;

fn main() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            let _ = stream.set_nodelay(true);
            tokio::spawn(async move {
                let hello = service_fn(|_: Request<Incoming>| async {
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello\n"))))
                });
                // A connection that breaks off is the load generator's business.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), hello).await;
            });
        }
    })
}
