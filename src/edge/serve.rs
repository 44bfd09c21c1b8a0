//! Listening, serving, and coming to an end: from `run` everything else is called.

use super::admin::{self, Admin};
use super::closed::Why;
use super::connection::{self, Spoken};
use super::places::{Most, Places};
use super::tls::Tls;
use super::{Body, Upload, answer};
use crate::config::Settings;
use crate::health::Cause;
use crate::opened::StartError;
use crate::pipeline::Answer;
use crate::service::Service;
use crate::supervisor::Supervisor;
use crate::telemetry::Process;
use http::{Request, Response};
use metrics_exporter_prometheus::PrometheusHandle;
use rewarder_flow::{Drained, Pipeline};
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// How often readiness is looked at.
const HEALTH_EVERY: Duration = Duration::from_millis(250);
/// How often the ledger is probed while nothing is emitted.
const PROBE_EVERY: Duration = Duration::from_secs(2);
/// Time for responses under way once the pipeline is empty.
const LINGER: Duration = Duration::from_secs(2);
/// How often it is logged that no connection can be taken.
const DEAF_TOLD_EVERY: Duration = Duration::from_secs(60);

/// The two listening sockets, and where they are.
pub struct Bound {
    http: TcpListener,
    metrics: TcpListener,
    tls: Option<Arc<Tls>>,
    signals: Signals,
    /// Where the service listens.
    pub http_addr: SocketAddr,
    /// Where the operators' port is.
    pub metrics_addr: SocketAddr,
}

/// What the service is told from outside.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user: Signal,
}

impl Signals {
    fn listen() -> Result<Self, StartError> {
        let listen =
            |kind| signal(kind).map_err(|e| StartError::of(format!("signals cannot be listened for: {e}")));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
            user: listen(SignalKind::user_defined1())?,
        })
    }
}

impl Bound {
    /// Binds both, and reads the certificates. From here on signals are heard: whoever can connect can also be told of an end.
    ///
    /// # Errors
    /// Which address cannot be had, which file cannot be used, or that signals cannot be listened for.
    pub async fn bind(settings: &Settings) -> Result<Self, StartError> {
        let signals = Signals::listen()?;
        let tls = Tls::open(settings)?.map(Arc::new);
        let bind = async |name: &str, addr: SocketAddr| {
            let failed = |e| {
                StartError::passing(format!(
                    "{name} = {addr} cannot be listened on: {e}; is another service there?"
                ))
            };
            let listener = TcpListener::bind(addr).await.map_err(failed)?;
            let addr = listener.local_addr().map_err(failed)?;
            Ok::<_, StartError>((listener, addr))
        };
        let (http, http_addr) = bind("http_addr", settings.http_addr).await?;
        let (metrics, metrics_addr) = bind("metrics_addr", settings.metrics_addr).await?;
        Ok(Self { http, metrics, tls, signals, http_addr, metrics_addr })
    }
}

/// Serves until SIGTERM or SIGINT, then drains.
pub async fn run(
    service: Arc<Service>,
    pipeline: Pipeline<Answer>,
    bound: Bound,
    metrics: PrometheusHandle,
    supervisor: Supervisor,
) -> Drained {
    let Signals { mut terminate, mut interrupt, hangup, user } = bound.signals;
    let (stop, stopped) = watch::channel(false);
    let supervisor = Arc::new(supervisor);

    // Subscribed here and not in the task: a first `Health` event that comes before the task runs would never be heard.
    let (it, subscription) = (service.clone(), service.bus().subscribe());
    let listener = tokio::spawn(async move { it.health.listen(subscription).await });
    let health = tokio::spawn(watch_health(service.clone(), supervisor.clone()));
    let reload =
        tokio::spawn(reload_on(service.clone(), bound.tls.clone(), supervisor.clone(), hangup, user));
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
    let verifier = {
        let it = service.clone();
        tokio::spawn(async move { it.verifier.watch(&**it.clock()).await })
    };
    let control = {
        let it = service.clone();
        tokio::spawn(async move { it.operators().await })
    };
    let admin = Admin { service: service.clone(), metrics, process: Process::new() };
    // Operators and their monitoring are on the inside network, and speak HTTP/1.1.
    let spoken = Spoken { tls: None, h2: false };
    let operators =
        tokio::spawn(accept(bound.metrics, spoken, stopped.clone(), service.clone(), move |request| {
            admin::answer(admin.clone(), request)
        }));
    let (it, spoken) = (service.clone(), Spoken { tls: bound.tls.clone(), h2: true });
    let tenants = tokio::spawn(accept(bound.http, spoken, stopped, service.clone(), move |request| {
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
        http_addr = %bound.http_addr,
        metrics_addr = %bound.metrics_addr,
        tls = bound.tls.is_some(),
        pq = settings.require_pq_on,
        workers = settings.concurrency_compute_workers.0,
        stages = sizes.join(" "),
        max_inflight = settings.max_inflight.0,
        profile = format!("{:?}", settings.profile).to_lowercase(),
        amnesia = settings.amnesia_mode,
        attest_keys = service.attest_keys().join(" "),
        "svc-rewarder is serving"
    );
    supervisor.ready(&format!("serving on {}, operators on {}", bound.http_addr, bound.metrics_addr));

    let mut told_to_stop = async || {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    // Not within the macro: its fields are not even evaluated where nobody listens to that level.
    let signal = told_to_stop().await;
    tracing::info!(signal, "stopping");
    supervisor.stopping();
    // First `readyz` drops and every answer asks its client to connect anew, while all is served as before: a load balancer
    // has the time of the notice to look and to send its clients elsewhere. Who is told twice does not wait.
    service.leave();
    let notice = service.settings().drain_notice_ms.0;
    if notice > 0 {
        tokio::select! {
            () = service.clock().sleep(Duration::from_millis(notice)) => {}
            signal = told_to_stop() => tracing::info!(signal, "told to stop again: the notice is cut short"),
        }
    }
    // Then new jobs are refused with `draining`, while those inside are finished.
    service.close();
    let drained = pipeline.drain(service.settings().drain_deadline_ms.into()).await;
    match drained {
        Drained::Clean => tracing::info!("drained: every accepted job is answered"),
        Drained::CutOff { inside } => {
            tracing::warn!(inside, "the drain deadline passed; what was inside is cut off")
        }
    }
    let _ = stop.send(true);
    let _ = tokio::time::timeout(LINGER, async { tokio::join!(tenants, operators, reemit) }).await;
    for task in [listener, health, reload, verifier, control] {
        task.abort();
    }
    if let Ok(deliverer) = service.deliverer()
        && deliverer.spool().is_volatile()
    {
        match deliverer.spool().depth() {
            0 => {}
            held => tracing::error!(
                held,
                "payouts that were promised with 202 and `volatile` are given up: amnesia"
            ),
        }
        deliverer.spool().wipe();
    }
    drained
}

/// Accepts and serves connections until told to stop; those under way are finished.
async fn accept<F>(
    listener: TcpListener,
    spoken: Spoken,
    mut stopped: watch::Receiver<bool>,
    service: Arc<Service>,
    answer: impl Fn(Request<Upload>) -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let places = Arc::new(Places::default());
    // Each connection holds a sender; when all are dropped, all have ended.
    let (under_way, mut all_ended) = mpsc::channel::<Infallible>(1);
    let connections_max = || service.settings().connections_max.0;
    let mut deaf = None::<Instant>;
    loop {
        let accepted = tokio::select! {
            accepted = async {
                places.room(connections_max).await;
                listener.accept().await
            } => accepted,
            _ = stopped.wait_for(|stopped| *stopped) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            // Out of descriptors, most likely: let some connections end.
            Err(error) => {
                if deaf.is_none_or(|since| since.elapsed() > DEAF_TOLD_EVERY) {
                    tracing::error!(%error, "no connection can be taken");
                    deaf = Some(Instant::now());
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Read for each connection: a reload holds for the next one.
        let settings = service.settings();
        let most = Most {
            connections: settings.connections_max.0,
            per_address: settings.connections_per_address_max.0,
        };
        let Some(place) = places.take(peer.ip(), most, Instant::now()) else {
            // Closed without a word: an answer would cost what the limit is there to save.
            Why::AddressShare.count();
            continue;
        };
        let served =
            connection::serve(stream, place, spoken.clone(), settings, stopped.clone(), answer.clone());
        let under_way = under_way.clone();
        tokio::spawn(async move {
            served.await;
            drop(under_way);
        });
    }
    drop((listener, under_way));
    all_ended.recv().await;
}

async fn reload_on(
    service: Arc<Service>,
    tls: Option<Arc<Tls>>,
    supervisor: Arc<Supervisor>,
    mut hangup: Signal,
    mut user: Signal,
) {
    loop {
        tokio::select! {
            _ = hangup.recv() => {}
            _ = user.recv() => {}
        }
        supervisor.reloading();
        // A fault of ours in here must not take away the next reload, by which keys are revoked.
        let reloaded = catch_unwind(AssertUnwindSafe(|| reload(&service, tls.as_deref())))
            .unwrap_or_else(|_| Err(StartError::of("the service failed on them; its log says how".into())));
        match reloaded {
            Ok(()) => {
                tracing::info!("settings reloaded");
                supervisor.ready("serving; the settings were reloaded");
            }
            Err(error) => {
                tracing::error!(%error, "the settings were not reloaded; the old ones stay in force");
                supervisor.ready("serving; the settings were NOT reloaded, the log says why");
            }
        }
    }
}

/// Reading a file blocks for a moment only. Certificates are taken after the settings were, so that both are or neither.
fn reload(service: &Service, tls: Option<&Tls>) -> Result<(), StartError> {
    let read = tls.map(|tls| tls.read_again(&service.settings())).transpose()?;
    service.reload().map_err(|error| StartError::of(error.to_string()))?;
    if let (Some(tls), Some(read)) = (tls, read) {
        tls.take(read);
    }
    Ok(())
}

/// Looks at everything that readiness stands on, again and again.
async fn watch_health(service: Arc<Service>, supervisor: Arc<Supervisor>) {
    let clock = service.clock().clone();
    let (mut probed, mut ledger_down) = (None::<Duration>, false);
    loop {
        let now = clock.monotonic();
        if let Ok(deliverer) = service.deliverer() {
            let every =
                if deliverer.degraded() { service.settings().brownout_probe_ms.into() } else { PROBE_EVERY };
            if probed.is_none_or(|probed| now.saturating_sub(probed) >= every) {
                let probe = deliverer.probe().await;
                if let Err(error) = &probe
                    && !ledger_down
                {
                    tracing::warn!(%error, "the ledger does not answer");
                }
                ledger_down = probe.is_err();
                probed = Some(now);
            }
            deliverer.look(!missing(&service, false).contains(&Cause::QueueSoftLimit));
        }
        service.health.set(missing(&service, ledger_down), clock.unix());
        supervisor.well(clock.monotonic());
        tokio::select! {
            () = clock.sleep(HEALTH_EVERY) => {}
            () = service.health.hurried() => {}
        }
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
    if service.verifier.is_cold() {
        missing.push(Cause::CapCacheCold);
    }
    if service
        .controls()
        .states()
        .iter()
        .any(|stage| stage.name == "admit" && stage.depth * 5 > stage.queue * 4)
    {
        missing.push(Cause::QueueSoftLimit);
    }
    if service.is_leaving() {
        missing.push(Cause::Draining);
    }
    missing
}
