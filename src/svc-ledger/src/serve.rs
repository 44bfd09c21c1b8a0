//! Listening, limits, and the end.

use crate::protocol::Protocol;
use clap::Args;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use rewarder_emit::EmbeddedLedger;
use std::convert::Infallible;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use svc_rewarder::edge::Impatient;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

/// Time for answers under way when it is told to stop: a settlement waits for the disk only.
const DRAIN: Duration = Duration::from_secs(10);
/// What one connection buffers of requests that are not read yet, their heads included: a few intents.
const BUFFER_BYTES_MAX: usize = 16 * 1024;
/// Between two tries to accept when there are no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Bounds of what strangers may take.
#[derive(Args, Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once; more wait in the system's listen queue
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    connections_max: u32,
    /// Seconds in which a request's head, and then its body, has to arrive; also how long an idle connection is kept
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    read_timeout_s: u64,
    /// Seconds in which a peer has to take some part of an answer that waits to be written
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    write_timeout_s: u64,
}

/// Serves until SIGTERM or SIGINT, then finishes what is under way.
pub async fn run(ledger: EmbeddedLedger, listen: SocketAddr, limits: Limits) -> Result<(), String> {
    let heard = |kind| signal(kind).map_err(|e| format!("signals cannot be listened for: {e}"));
    let (mut terminate, mut interrupt) = (heard(SignalKind::terminate())?, heard(SignalKind::interrupt())?);
    let no = |e| format!("{listen} cannot be listened on: {e}; is another ledger there?");
    let listener = TcpListener::bind(listen).await.map_err(no)?;
    let address = listener.local_addr().map_err(no)?;
    let standing = {
        let ledger = ledger.clone();
        tokio::task::spawn_blocking(move || ledger.count()).await.map_err(|e| e.to_string())?
    };
    let settlements = standing.map_err(|e| e.to_string())?;
    // For whoever has started it and wants to know where it is.
    println!("listening on http://{address}");
    let _ = std::io::stdout().flush();
    tracing::info!(%address, settlements, "svc-ledger is serving");

    let read_timeout = Duration::from_secs(limits.read_timeout_s);
    let protocol = Protocol::new(ledger, read_timeout);
    let (graceful, places) =
        (GracefulShutdown::new(), Arc::new(Semaphore::new(limits.connections_max as usize)));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(read_timeout).max_buf_size(BUFFER_BYTES_MAX);
    loop {
        let accepted = tokio::select! {
            accepted = async {
                let place = places.clone().acquire_owned().await;
                (listener.accept().await, place)
            } => accepted,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        };
        let (Ok((stream, _)), Ok(place)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Answers are small and awaited.
        let _ = stream.set_nodelay(true);
        let protocol = protocol.clone();
        let service = service_fn(move |request| {
            let protocol = protocol.clone();
            async move { Ok::<_, Infallible>(protocol.answer(request).await) }
        });
        let stream = Impatient::new(TokioIo::new(stream), Duration::from_secs(limits.write_timeout_s));
        let connection = graceful.watch(builder.serve_connection(stream, service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(place);
        });
    }
    drop(listener);
    tracing::info!("stopping");
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        return Err(format!("requests were still under way after {} s and are cut off", DRAIN.as_secs()));
    }
    tracing::info!("stopped: every request is answered");
    Ok(())
}
