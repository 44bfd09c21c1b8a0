//! One emission: from an intent to what became of it.
//!
//! [`machine`] decides, the driver carries out. The law is in the machine; the driver adds time, random bits,
//! the ledger, the spool, the breaker and the latch, and decides nothing. What people decide is in `operator`.

mod driver;
pub mod machine;
mod operator;
mod record;
pub mod table;

pub(crate) use driver::Permit;
pub use driver::{Deliverer, Notice, Surroundings};
pub use machine::{Action, Delivery, Event, Outcome, step};
pub use record::Delivered;
