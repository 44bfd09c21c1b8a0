//! Listening, serving, and coming to an end: from `run` everything else is called.

use super::admin::{self, Admin};
use super::places::{Impatient, Places};
use super::{Body, answer};
use crate::config::Settings;
use crate::health::Cause;
use crate::pipeline::Answer;
use crate::service::{Service, StartError};
use crate::telemetry::Process;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use metrics_exporter_prometheus::PrometheusHandle;
use rewarder_flow::{Drained, Pipeline};
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, watch};

/// Most connections of each port; the next one waits in the listen queue of the system. Twice the largest sensible
/// `MAX_INFLIGHT`: idle keep-alive connections count too.
const CONNECTIONS_MAX: usize = 8192;
/// Longest head of a request: the longest capability with its discharges (16 KiB), the longest path, and as much again. Without
/// it a head may fill the read buffer, 400 KiB a connection.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// How often readiness is looked at.
const HEALTH_EVERY: Duration = Duration::from_millis(250);
/// How often the ledger is probed while nothing is emitted.
const PROBE_EVERY: Duration = Duration::from_secs(2);
/// Time for responses under way once the pipeline is empty.
const LINGER: Duration = Duration::from_secs(2);

/// The two listening sockets, and where they are.
pub struct Bound {
    http: TcpListener,
    metrics: TcpListener,
    /// Where the service listens.
    pub http_addr: SocketAddr,
    /// Where the operators' port is.
    pub metrics_addr: SocketAddr,
}

impl Bound {
    /// Binds both.
    ///
    /// # Errors
    /// Which address cannot be had.
    pub async fn bind(settings: &Settings) -> Result<Self, StartError> {
        let bind = async |name: &str, addr: SocketAddr| {
            let failed = |e| {
                StartError(format!("{name} = {addr} cannot be listened on: {e}; is another service there?"))
            };
            let listener = TcpListener::bind(addr).await.map_err(failed)?;
            let addr = listener.local_addr().map_err(failed)?;
            Ok::<_, StartError>((listener, addr))
        };
        let (http, http_addr) = bind("http_addr", settings.http_addr).await?;
        let (metrics, metrics_addr) = bind("metrics_addr", settings.metrics_addr).await?;
        Ok(Self { http, metrics, http_addr, metrics_addr })
    }
}

/// Serves until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// When signals cannot be listened for.
pub async fn run(
    service: Arc<Service>,
    pipeline: Pipeline<Answer>,
    bound: Bound,
    metrics: PrometheusHandle,
) -> Result<Drained, StartError> {
    let listen = |kind| signal(kind).map_err(|e| StartError(format!("signals cannot be listened for: {e}")));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let (hangup, user) = (listen(SignalKind::hangup())?, listen(SignalKind::user_defined1())?);
    let (stop, stopped) = watch::channel(false);

    // Subscribed here and not in the task: a first `Health` event that comes before the task runs would never be heard.
    let (it, subscription) = (service.clone(), service.bus().subscribe());
    let listener = tokio::spawn(async move { it.health.listen(subscription).await });
    let health = tokio::spawn(watch_health(service.clone()));
    let reload = tokio::spawn(reload_on(service.clone(), hangup, user));
    let reemit = {
        let (it, mut stopped) = (service.clone(), stopped.clone());
        tokio::spawn(async move {
            let mut ends = stopped.clone();
            // Beside each other: what a crash has left may wait for room that only re-emission makes.
            let recover = async {
                tokio::select! {
                    () = it.recover() => {}
                    _ = ends.wait_for(|stopped| *stopped) => {}
                }
            };
            let stop = Box::pin(async move {
                let _ = stopped.wait_for(|stopped| *stopped).await;
            });
            tokio::join!(recover, it.reemit(stop));
        })
    };
    let control = {
        let it = service.clone();
        tokio::spawn(async move { it.operators().await })
    };
    let admin = Admin { service: service.clone(), metrics, process: Process::new() };
    let operators = tokio::spawn(accept(bound.metrics, stopped.clone(), service.clone(), move |request| {
        admin::answer(admin.clone(), request)
    }));
    let it = service.clone();
    let tenants = tokio::spawn(accept(bound.http, stopped, service.clone(), move |request| {
        answer(it.clone(), request)
    }));

    let settings = service.settings();
    let sizes: Vec<String> = settings
        .stages
        .each()
        .iter()
        .map(|(name, stage)| format!("{name}={}x{}", stage.width(), stage.queue()))
        .collect();
    tracing::info!(
        ready = 1,
        http_addr = %bound.http_addr,
        metrics_addr = %bound.metrics_addr,
        workers = settings.concurrency_compute_workers.0,
        stages = sizes.join(" "),
        max_inflight = settings.max_inflight.0,
        profile = format!("{:?}", settings.profile).to_lowercase(),
        amnesia = settings.amnesia_mode,
        "svc-rewarder is serving"
    );

    tokio::select! {
        _ = terminate.recv() => tracing::info!(signal = "SIGTERM", "stopping"),
        _ = interrupt.recv() => tracing::info!(signal = "SIGINT", "stopping"),
    }
    // New jobs are refused with `draining`, and `readyz` says so, while those inside are finished.
    service.close();
    let drained = pipeline.drain(settings.drain_deadline_ms.into()).await;
    match drained {
        Drained::Clean => tracing::info!("drained: every accepted job is answered"),
        Drained::CutOff { inside } => {
            tracing::warn!(inside, "the drain deadline passed; what was inside is cut off")
        }
    }
    let _ = stop.send(true);
    let _ = tokio::time::timeout(LINGER, async { tokio::join!(tenants, operators, reemit) }).await;
    for task in [listener, health, reload, control] {
        task.abort();
    }
    if let Ok(deliverer) = service.deliverer()
        && deliverer.spool().is_volatile()
    {
        deliverer.spool().wipe();
    }
    Ok(drained)
}

/// Accepts and serves connections until told to stop; those under way are finished.
async fn accept<F>(
    listener: TcpListener,
    mut stopped: watch::Receiver<bool>,
    service: Arc<Service>,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let (graceful, places) = (GracefulShutdown::new(), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
    let addresses = Arc::new(Places::default());
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).max_header_size(HEAD_BYTES_MAX);
    loop {
        let accepted = tokio::select! {
            accepted = async {
                let place = places.clone().acquire_owned().await;
                (listener.accept().await, place)
            } => accepted,
            _ = stopped.wait_for(|stopped| *stopped) => break,
        };
        let (Ok((stream, peer)), Ok(place)) = accepted else {
            // Out of descriptors, most likely: let some connections end.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        // Read for each connection: a reload holds for the next one.
        let settings = service.settings();
        let share = settings.connections_per_address_max.0;
        let Some(held) = addresses.take(peer.ip(), share) else {
            // Closed without a word: an answer would cost what the limit is there to save.
            tracing::debug!(share, "an address holds as many connections as it may; the next one was closed");
            continue;
        };
        builder.header_read_timeout(Duration::from(settings.read_timeout_ms));
        // Answers are small and awaited.
        let _ = stream.set_nodelay(true);
        let answer = answer.clone();
        let handler = service_fn(move |request| {
            let response = answer(request);
            async move { Ok::<_, Infallible>(response.await) }
        });
        let stream = Impatient::new(TokioIo::new(stream), settings.write_timeout_ms.into());
        let connection = graceful.watch(builder.serve_connection(stream, handler));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop((place, held));
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

async fn reload_on(service: Arc<Service>, mut hangup: Signal, mut user: Signal) {
    loop {
        tokio::select! {
            _ = hangup.recv() => {}
            _ = user.recv() => {}
        }
        // Reading a file blocks for a moment only.
        match service.reload() {
            Ok(()) => tracing::info!("settings reloaded"),
            Err(error) => {
                tracing::error!(%error, "the settings were not reloaded; the old ones stay in force")
            }
        }
    }
}

/// Looks at everything that readiness stands on, again and again.
async fn watch_health(service: Arc<Service>) {
    let clock = service.clock().clone();
    let (mut probed, mut ledger_down) = (None::<Duration>, false);
    loop {
        let now = clock.monotonic();
        if let Ok(deliverer) = service.deliverer() {
            let every =
                if deliverer.degraded() { service.settings().brownout_probe_ms.into() } else { PROBE_EVERY };
            if probed.is_none_or(|probed| now.saturating_sub(probed) >= every) {
                ledger_down = deliverer.probe().await.is_err();
                probed = Some(now);
            }
            deliverer.look(!missing(&service, false).contains(&Cause::QueueSoftLimit));
        }
        service.health.set(missing(&service, ledger_down), clock.unix());
        clock.sleep(HEALTH_EVERY).await;
    }
}

fn missing(service: &Service, ledger_down: bool) -> Vec<Cause> {
    let mut missing = Vec::new();
    if let Ok(deliverer) = service.deliverer() {
        if ledger_down || deliverer.degraded() {
            missing.push(Cause::LedgerDegraded);
        }
        if deliverer.latch().is_set() {
            missing.push(Cause::EmissionLatched);
        }
        // Soft limits are four fifths (runbook §10).
        if deliverer.spool().depth() * 5 > service.settings().quarantine_max_entries.0 as u64 * 4 {
            missing.push(Cause::QuarantineSoftLimit);
        }
    }
    if service
        .controls()
        .states()
        .iter()
        .any(|stage| stage.name == "admit" && stage.depth * 5 > stage.queue * 4)
    {
        missing.push(Cause::QueueSoftLimit);
    }
    if service.is_draining() {
        missing.push(Cause::Draining);
    }
    missing
}
