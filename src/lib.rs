//! Assembly: the only place that knows every floor. See `docs/ARCHITECTURE.md` for the map.

pub mod epoch;
pub mod refusal;
