//! Why a connection was closed before its peer was done with it: one word each, the label of a metric.

use std::io;
use std::sync::{Arc, OnceLock};

/// Connections that we closed, by `why`.
pub const CLOSED_TOTAL: &str = "connections_closed_total";

/// The reasons. A connection that ends well, or that its peer breaks off, has none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// Its address holds as many as it may.
    AddressShare,
    /// It had sent no request yet, and newer ones needed the place.
    GaveWay,
    /// The TLS handshake failed or took too long.
    Handshake,
    /// No whole request came in time.
    NoRequest,
    /// A head began and did not end in time.
    Head,
    /// The peer took nothing of an answer for too long.
    Stalled,
    /// The peer took or sent less than `transfer_rate_min_bytes`.
    Slow,
    /// More frames that carry no work than a client has use for.
    Flood,
}

impl Why {
    /// All of them.
    pub(super) const ALL: [Self; 8] = [
        Self::AddressShare,
        Self::GaveWay,
        Self::Handshake,
        Self::NoRequest,
        Self::Head,
        Self::Stalled,
        Self::Slow,
        Self::Flood,
    ];

    /// The value of the label.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::AddressShare => "address_share",
            Self::GaveWay => "gave_way",
            Self::Handshake => "handshake",
            Self::NoRequest => "no_request",
            Self::Head => "head",
            Self::Stalled => "stalled",
            Self::Slow => "slow",
            Self::Flood => "flood",
        }
    }

    /// Counts it.
    pub(super) fn count(self) {
        metrics::counter!(CLOSED_TOTAL, "why" => self.as_str()).increment(1);
    }
}

/// Shows every reason from the start, so that an alert is never without data.
pub fn count_nothing_closed() {
    for why in Why::ALL {
        metrics::counter!(CLOSED_TOTAL, "why" => why.as_str()).absolute(0);
    }
}

/// Where a stream under hyper leaves why it failed: h2 keeps of an error only its text.
#[derive(Debug, Clone, Default)]
pub(super) struct Verdict(Arc<OnceLock<Why>>);

impl Verdict {
    /// Decides, unless it was decided, and gives the error that ends the connection.
    pub(super) fn because(&self, why: Why) -> io::Error {
        let _ = self.0.set(why);
        io::Error::new(io::ErrorKind::TimedOut, why.as_str())
    }

    /// What was decided.
    pub(super) fn why(&self) -> Option<Why> {
        self.0.get().copied()
    }
}
