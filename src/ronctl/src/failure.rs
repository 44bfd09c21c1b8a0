//! How a verb says no: a sentence for stderr, an object for `--json`, an exit code.

use serde_json::{Value, json};
use std::fmt;
use svc_rewarder::edge::Problem;
use svc_rewarder::refusal::Refusal;
use svc_rewarder::run::exit;

/// What every verb returns: its exit code, or why it failed.
pub type Done = Result<u8, Failure>;

/// Why a verb did not do what it was asked to.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
    json: Value,
}

impl Failure {
    /// A failure of the machine, the network or the service: exit 1.
    pub fn new(message: impl fmt::Display) -> Self {
        Self::with(exit::FAILED, message)
    }

    /// A failure that ends with this exit code.
    pub fn with(code: u8, message: impl fmt::Display) -> Self {
        let message = message.to_string();
        Self { code, json: json!({ "error": message }), message }
    }

    /// What was given cannot be used: exit 2.
    pub fn refused(message: impl fmt::Display) -> Self {
        Self::with(exit::REFUSED, message)
    }

    /// The service's own problem, as it stands on the wire.
    pub fn problem(code: u8, message: impl fmt::Display, problem: Value) -> Self {
        Self { code, message: message.to_string(), json: problem }
    }

    /// The same, ending with another exit code.
    pub fn code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// The same, with what the service answered before it came to this: `answer` of the object.
    pub fn beside(mut self, answer: Value) -> Self {
        self.json["answer"] = answer;
        self
    }

    /// Says it beside something that matters more.
    pub fn note(&self) {
        eprintln!("ronctl: {}", self.message);
    }

    /// Says it, and gives the exit code.
    pub fn report(&self, json: bool) -> u8 {
        if json {
            crate::say::line(&self.json);
        } else {
            eprintln!("ronctl: {}", self.message);
        }
        self.code
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let problem = serde_json::from_slice(&Problem::of(&refusal, "ronctl").to_json()).unwrap_or_default();
        Self::problem(exit::of(refusal.reason), refusal.in_words(), problem)
    }
}
