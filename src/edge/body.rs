//! Reading request bodies: bounded in size, in time, and in what compression may make of them.

use super::pace::Pace;
use super::{Context, Result, Upload};
use crate::refusal::Refusal;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http_body_util::BodyExt;
use hyper::body::Body;
use rewarder_model::Reason;
use std::future::poll_fn;
use std::io::Read;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;

/// A body that is compressed in one layer, or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    /// The zlib format, as HTTP means the word (RFC 9110 §8.4.1.2); raw deflate is refused.
    Deflate,
    Zstd,
}

/// Largest window of a zstd frame, 2^23 bytes: what every encoder uses below its long modes.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Refuses a media type other than these; a request that names none is taken at its word.
pub(super) fn media_type(headers: &HeaderMap, known: &[&str]) -> Result<()> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let essence = value.to_str().unwrap_or("").split(';').next().unwrap_or("").trim();
    if known.iter().any(|known| known.eq_ignore_ascii_case(essence)) {
        return Ok(());
    }
    Err(Refusal::new(Reason::MediaType, format!("this route reads {}", known.join(" or "))))
}

pub(super) fn encoding(headers: &HeaderMap) -> Result<Encoding> {
    // A second field is a second layer (RFC 9110 §5.3): to read the first alone would be to read another body.
    let mut values = headers.get_all(CONTENT_ENCODING).into_iter();
    let Some(value) = values.next() else { return Ok(Encoding::Identity) };
    if values.next().is_some() {
        return Err(Refusal::new(Reason::MediaType, "a body is compressed in one layer at most"));
    }
    match value.to_str().unwrap_or("").trim().to_ascii_lowercase().as_str() {
        "" | "identity" => Ok(Encoding::Identity),
        "gzip" | "x-gzip" => Ok(Encoding::Gzip),
        "deflate" => Ok(Encoding::Deflate),
        "zstd" => Ok(Encoding::Zstd),
        _ => Err(Refusal::new(
            Reason::MediaType,
            "a body is sent as it is, or with one Content-Encoding: gzip, deflate or zstd",
        )),
    }
}

impl Context {
    pub(super) fn media_type(&self, known: &[&str]) -> Result<()> {
        media_type(self.request.headers(), known)
    }

    fn encoding(&self) -> Result<Encoding> {
        encoding(self.request.headers())
    }

    /// Refuses any encoding, for bodies that are verified as they are.
    pub(super) fn identity_only(&self) -> Result<()> {
        match self.encoding()? {
            Encoding::Identity => Ok(()),
            _ => {
                Err(Refusal::new(Reason::MediaType, "a snapshot is sent as it is, without Content-Encoding"))
            }
        }
    }

    /// The declared length, if there is one; refused at once if it is above the limit.
    pub(super) fn declared_len(&self, limit: u64) -> Result<Option<u64>> {
        let declared = self
            .request
            .headers()
            .get(CONTENT_LENGTH)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.parse().ok());
        match declared {
            Some(len) if len > limit => Err(too_big(limit)),
            declared => Ok(declared),
        }
    }

    /// Reads a small body whole: at most `REQ_BODY_MAX_BYTES`, before and after decompression.
    pub(super) async fn small_body(&mut self) -> Result<Bytes> {
        let (limit, ratio, timeout) = self.service.with_settings(|settings| {
            (settings.req_body_max_bytes, settings.decomp_ratio_max.0 as u64, settings.read_timeout_ms.into())
        });
        let encoding = self.encoding()?;
        self.declared_len(limit)?;
        let mut pace = Pace::new(self.service.with_settings(|settings| settings.transfer_rate_min_bytes));
        // Most bodies come in one part, which is the body then.
        let (mut first, mut all) = (Bytes::new(), BytesMut::new());
        while let Some(chunk) = next_chunk(self.request.body_mut(), timeout, &mut pace).await? {
            if (first.len() + all.len()) as u64 + chunk.len() as u64 > limit {
                return Err(too_big(limit));
            }
            if first.is_empty() && all.is_empty() {
                first = chunk;
            } else {
                all.extend_from_slice(&std::mem::take(&mut first));
                all.extend_from_slice(&chunk);
            }
        }
        let bytes = if all.is_empty() { first } else { all.freeze() };
        match encoding {
            Encoding::Identity => Ok(bytes),
            _ => decompress(bytes.into(), encoding, limit, ratio).map(Bytes::from),
        }
    }
}

/// The next part of a body, which has to come in time and fast enough.
pub(super) async fn next_chunk(
    body: &mut Upload,
    timeout: Duration,
    pace: &mut Pace,
) -> Result<Option<Bytes>> {
    if body.is_end_stream() {
        return Ok(None);
    }
    loop {
        let asked = Instant::now();
        // A part that is there needs no timer.
        let frame = match poll_fn(|context| Poll::Ready(Pin::new(&mut *body).poll_frame(context))).await {
            Poll::Ready(frame) => frame,
            Poll::Pending => match tokio::time::timeout(timeout, body.frame()).await {
                Ok(frame) => frame,
                Err(_) => {
                    body.give_up();
                    return Err(Refusal::new(Reason::RequestTimeout, "the body stopped arriving"));
                }
            },
        };
        match frame {
            None => return Ok(None),
            Some(Err(_)) => {
                return Err(Refusal::new(Reason::Schema, "the body ended before its declared length"));
            }
            // Trailers are of no use here, and no progress either.
            Some(Ok(frame)) => {
                let data = frame.into_data();
                let bytes = data.as_ref().map_or(0, Bytes::len) as u64;
                pace.note(asked.elapsed(), bytes).map_err(|_| {
                    body.give_up();
                    Refusal::new(
                        Reason::RequestTimeout,
                        "the body arrives more slowly than TRANSFER_RATE_MIN_BYTES a second; send it over a faster connection",
                    )
                })?;
                if let Ok(data) = data {
                    return Ok(Some(data));
                }
            }
        }
    }
}

pub(super) fn too_big(limit: u64) -> Refusal {
    Refusal::new(Reason::BodyTooBig, format!("the body is larger than {limit} bytes"))
}

pub(super) fn decompress(bytes: Vec<u8>, encoding: Encoding, limit: u64, ratio: u64) -> Result<Vec<u8>> {
    let most = limit.min(ratio.saturating_mul(bytes.len() as u64));
    let bad = |_| Refusal::new(Reason::Schema, "the body is not what its Content-Encoding says");
    let (mut out, mut rest) = (Vec::new(), &bytes[..]);
    // One byte more than is allowed tells that there is more, and costs no more than that.
    match encoding {
        Encoding::Identity => return Ok(bytes),
        Encoding::Gzip => {
            flate2::bufread::GzDecoder::new(&mut rest).take(most + 1).read_to_end(&mut out).map_err(bad)?
        }
        Encoding::Deflate => {
            flate2::bufread::ZlibDecoder::new(&mut rest).take(most + 1).read_to_end(&mut out).map_err(bad)?
        }
        Encoding::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(&mut rest).map_err(bad)?.single_frame();
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(bad)?;
            decoder.take(most + 1).read_to_end(&mut out).map_err(bad)?
        }
    };
    // Whoever reads on after the first member or frame reads another body than we do.
    if out.len() as u64 <= most && !rest.is_empty() {
        return Err(Refusal::new(Reason::Schema, "the body goes on after the end of its compressed part"));
    }
    if out.len() as u64 <= most {
        return Ok(out);
    }
    if most == limit {
        return Err(too_big(limit));
    }
    Err(Refusal::new(Reason::DecompressRatio, format!("the body grows to more than {ratio} times its size")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn every(bytes: &[u8]) -> [(Vec<u8>, Encoding); 3] {
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        zlib.write_all(bytes).unwrap();
        [
            (gzip(bytes), Encoding::Gzip),
            (zlib.finish().unwrap(), Encoding::Deflate),
            (zstd::encode_all(bytes, 19).unwrap(), Encoding::Zstd),
        ]
    }

    #[test]
    fn bombs_cost_their_limit_at_most() {
        let text = br#"{"inputs_cid":"x"}"#;
        for (bytes, encoding) in every(text) {
            assert_eq!(decompress(bytes.clone(), encoding, 1000, 10).unwrap(), text);
            let twice = [&bytes[..], &bytes].concat();
            assert_eq!(
                decompress(twice, encoding, 1000, 10).unwrap_err().reason,
                Reason::Schema,
                "{encoding:?}"
            );
            let cut = bytes[..bytes.len() - 1].to_vec();
            assert_eq!(
                decompress(cut, encoding, 1000, 10).unwrap_err().reason,
                Reason::Schema,
                "{encoding:?}"
            );
        }
        let bomb = vec![b' '; 10 << 20];
        for (bytes, encoding) in every(&bomb) {
            assert_eq!(
                decompress(bytes.clone(), encoding, 1 << 20, 10).unwrap_err().reason,
                Reason::DecompressRatio
            );
            assert_eq!(decompress(bytes, encoding, 1 << 20, 100_000).unwrap_err().reason, Reason::BodyTooBig);
        }
        assert_eq!(
            decompress(b"no gzip".to_vec(), Encoding::Gzip, 1000, 10).unwrap_err().reason,
            Reason::Schema
        );
    }
}
