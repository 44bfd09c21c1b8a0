//! Where bytes of strangers meet the edge's own readers, without a socket: for the fuzzing of `testing/fuzz`.
//!
//! These are the readers that a request goes through, in its order, and nothing beside them.

use super::{Result, allocations, body, compute, corr, decoded, epochs, one_host};
use crate::refusal::Refusal;
use http::Request;
use http::header::AUTHORIZATION;
use rewarder_model::{Cid, EpochId, PolicyId};

/// Takes a body out of its encoding: 0 none, 1 gzip, 2 deflate, 3 zstd.
///
/// # Errors
/// As a request's body is refused.
pub fn decompress(
    bytes: Vec<u8>,
    encoding: u8,
    limit: u64,
    ratio: u64,
) -> std::result::Result<Vec<u8>, Refusal> {
    let encoding = match encoding % 4 {
        0 => body::Encoding::Identity,
        1 => body::Encoding::Gzip,
        2 => body::Encoding::Deflate,
        _ => body::Encoding::Zstd,
    };
    body::decompress(bytes, encoding, limit, ratio)
}

/// Reads a compute request's body.
///
/// # Errors
/// As a request is refused.
pub fn compute_body(bytes: &[u8]) -> std::result::Result<(), Refusal> {
    compute::parse(bytes).map(|_| ())
}

/// Reads all of a request but its body: host, correlation id, path, query, and the headers that mean something here. The
/// correlation id that would be answered.
///
/// # Errors
/// The first refusal.
pub fn request_head(request: &Request<()>) -> std::result::Result<String, Refusal> {
    let corr_id = corr::CorrId::of(request).to_string();
    let read = || -> Result<()> {
        one_host(request)?;
        for segment in request.uri().path().split('/') {
            let text = decoded(segment)?;
            let _ = (text.parse::<Cid>(), text.parse::<EpochId>(), text.parse::<PolicyId>());
            let _ = rewarder_model::name::check_actor(text.as_bytes());
        }
        let headers = request.headers();
        let accept = allocations::accept_of(headers);
        let _ = (
            allocations::accepted(&accept),
            epochs::knows(request, "\"tag\""),
            compute::prefers_async(request),
        );
        let _ = headers.get(AUTHORIZATION);
        body::media_type(headers, &["application/json"])?;
        body::encoding(headers)?;
        compute::dry_run_by_query(request).map(|_| ())
    };
    read().map(|()| corr_id)
}
