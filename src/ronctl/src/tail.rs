//! `ronctl tail`: the service's events, one line each (server-sent events, WHATWG HTML §9.2). With `--json` each line is the
//! event's object.

use crate::failure::{Done, Failure};
use crate::http::{Service, full, read, runtime};
use crate::say;
use crate::tls::TlsArgs;
use clap::{Args, ValueEnum};
use http_body_util::BodyExt;
use rewarder_admit::Timestamp;
use serde_json::Value;
use std::time::Duration;
use svc_rewarder::run::exit;

/// How often in a row a lost connection is opened again; an event starts the count anew.
const RECONNECTS_MAX: u32 = 10;
/// Time between two attempts.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest line that is collected. Events have some hundred bytes.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// Follows events.
#[derive(Args)]
pub struct TailArgs {
    /// The service's metrics_addr
    #[arg(long, default_value = "http://127.0.0.1:9909")]
    url: String,
    #[command(flatten)]
    tls: TlsArgs,
    /// Only these events
    #[arg(long)]
    topic: Option<Topic>,
    /// End after so many events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// Which events.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Topic {
    /// Life of the process: health, settings, crashes, shutdown
    Kernel,
    /// Jobs
    SvcRewarder,
}

impl TailArgs {
    fn path(&self) -> &'static str {
        match self.topic {
            None => "/events",
            Some(Topic::Kernel) => "/events?topic=kernel",
            Some(Topic::SvcRewarder) => "/events?topic=svc-rewarder",
        }
    }
}

/// Follows until the count is reached, or the service stays away.
pub fn tail(args: &TailArgs, json: bool) -> Done {
    let runtime = runtime()?;
    let service = Service::new(&args.url, None, &args.tls)?;
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut lost = 0;
    runtime.block_on(async {
        while left > 0 {
            let before = left;
            let ended = listen(args, &service, &mut left, json).await;
            if left == 0 {
                break;
            }
            lost = if left < before { 1 } else { lost + 1 };
            match ended {
                Err(failure) if lost > RECONNECTS_MAX => return Err(failure),
                Ok(()) if lost > RECONNECTS_MAX => {
                    return Err(Failure::new("the service keeps ending the stream"));
                }
                Err(_) | Ok(()) => eprintln!(
                    "ronctl: no stream of events; again in {} s ({lost} of {RECONNECTS_MAX})",
                    PAUSE.as_secs()
                ),
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(exit::OK)
    })
}

/// One connection, until it ends.
async fn listen(args: &TailArgs, service: &Service, left: &mut u64, json: bool) -> Result<(), Failure> {
    let request = service.request("GET", args.path()).body(full(""));
    let request = request.map_err(|e| Failure::new(format!("no request can be made of this: {e}")))?;
    let response = service.open(request).await?;
    if response.status() != http::StatusCode::OK {
        let answer = read(response).await?;
        return Err(Failure::new(format!(
            "{} answered {}: is it the metrics_addr?",
            args.url, answer.status
        )));
    }
    let mut body = response.into_body();
    let mut buffer = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Some(data) = frame.data_ref() else { continue };
        for byte in data {
            if *byte != b'\n' {
                buffer.push(*byte);
                if buffer.len() > LINE_BYTES_MAX {
                    return Err(Failure::new("the service sent a line that is no event"));
                }
                continue;
            }
            if told(&String::from_utf8_lossy(&buffer), json) {
                *left -= 1;
            }
            buffer.clear();
            if *left == 0 {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Prints what a line says; whether it was an event.
fn told(line: &str, json: bool) -> bool {
    if let Some(comment) = line.strip_prefix(": ").filter(|comment| *comment != "listening") {
        eprintln!("ronctl: {}", comment.escape_debug());
    }
    let Some(event) = line.strip_prefix("data: ").and_then(|data| serde_json::from_str::<Value>(data).ok())
    else {
        return false;
    };
    if json {
        say::json(&event);
    } else {
        say::line(words(&event));
    }
    true
}

/// `2026-11-23T23:14:05.123Z kernel Health ready=true missing=[]`
fn words(event: &Value) -> String {
    let millis = event["unix_ms"].as_u64().unwrap_or(0);
    let when =
        Timestamp::new(Duration::from_millis(millis)).map_or_else(|| millis.to_string(), |at| at.to_string());
    let word = |name: &str| event[name].as_str().unwrap_or("?").escape_debug().to_string();
    let mut text = format!("{when} {} {}", word("topic"), word("event"));
    for (name, value) in event.as_object().into_iter().flatten() {
        if !["unix_ms", "topic", "event"].contains(&name.as_str()) {
            // What is no text is JSON, in which nothing moves the cursor but is escaped already.
            let value =
                value.as_str().map_or_else(|| value.to_string(), |text| text.escape_debug().to_string());
            text.push_str(&format!(" {}={value}", name.escape_debug()));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_is_a_line() {
        let event = json!({ "unix_ms": 1_795_475_645_120u64, "topic": "kernel", "event": "Health", "ready": true, "missing": ["a\u{1b}"], "why": "b\u{1b}" });
        assert_eq!(
            words(&event),
            r#"2026-11-23T23:14:05.12Z kernel Health missing=["a\u001b"] ready=true why=b\u{1b}"#
        );
        assert!(!told(": listening", false) && !told("event: kernel", false) && !told("", false));
    }
}
