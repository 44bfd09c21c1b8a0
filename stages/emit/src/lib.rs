//! Emit: tell the ledger about a payout at most once, and never lose one. *Emit* means send to the ledger,
//! nothing else.
//!
//! The laws:
//!
//! 1. **Never twice.** A ledger settles (tenant, epoch) at most once, and each intent goes under its run key,
//!    the same for ever. After an outcome that is *unknown* (time-out, reset, 5xx) the ledger is asked before
//!    anything is sent again.
//! 2. **Never lost.** An intent is in the spool, durably, before the first byte goes to a ledger, and stays
//!    there until it is settled; what cannot be delivered is sent again later under the same run key.
//! 3. **A foreign duplicate stops everything.** If the ledger says that our run key stands there with another
//!    commitment, one of us is wrong about money: emission latches off until an operator releases it with a
//!    reason, in an audit log whose entries chain by hash.
//! 4. **Decisions are pure.** [`delivery::machine`] decides everything; it has no I/O, no clock and no
//!    randomness. What surrounds it gets time and random bits from `model::world`.
//!
//! ```text
//! Intent -> Deliverer -> Spool (durable) -> machine <-> Ledger
//!              |             |               |    |
//!              |             |               |    `- latency, failures -> Breaker: closed, open, half-open
//!              |             |               `- foreign dup: Latch + Audit
//!              `- settled: gone from the spool; else it is in quarantine: re-emission, oldest first
//! ```

pub mod attest;
pub mod audit;
pub mod breaker;
mod budget;
pub mod config;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod delivery;
mod error;
mod files;
pub mod handover;
pub mod health;
pub mod latch;
pub mod ledger;
pub mod metrics;
#[cfg(feature = "plant")]
pub mod plant;
#[cfg(not(feature = "plant"))]
mod plant;
mod redb_file;
pub mod reemit;
pub mod spool;
mod turns;

#[cfg(test)]
mod tests;

pub use attest::{Algorithm, AttestError, AttestKey, Holds, verify};
pub use audit::{Audit, AuditError};
pub use breaker::{Breaker, BreakerConfig, Change, Mode};
pub use config::{DeliveryConfig, EmitConfig, HealthConfig, QuarantineConfig, ReemitConfig};
pub use delivery::{Delivered, Deliverer, Notice, Outcome, Surroundings};
pub use error::EmitError;
pub use handover::{Handover, HandoverError, is_settled};
pub use health::{Estimate, Health};
pub use latch::{Latch, Latched};
pub use ledger::{
    Answer, EmbeddedLedger, HttpLedger, Ledger, LedgerError, LedgerUrl, PostgresLedger, Record, Verdict,
};
pub use redb_file::DbError;
pub use reemit::Schedule;
pub use spool::{Entry, Found, Hold, Spool, SpoolError, State};
