//! Assembly: the only place where the floors meet. See `docs/ARCHITECTURE.md` for the map.

pub mod bus;
pub mod config;
pub mod control;
pub mod descriptors;
pub mod dumps;
pub mod edge;
pub mod epoch;
pub mod explained;
pub mod health;
pub mod jobs;
pub mod late;
pub mod opened;
pub mod out;
pub mod pipeline;
pub mod proof;
pub mod recent;
pub mod refusal;
pub mod run;
pub mod service;
pub mod source;
pub mod supervisor;
pub mod table;
pub mod telemetry;
pub mod verifier;
pub mod why;
pub mod world;
