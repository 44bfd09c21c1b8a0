//! A panic as a value, so that it can cross from a rayon thread to the stage whose job it was.

use std::any::Any;

/// Longest message that is kept, in characters. A panic may quote what it tripped over; logs need the
/// beginning.
pub const MESSAGE_CHARS_MAX: usize = 500;

/// Some code panicked with this message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("panicked: {message}")]
pub struct Panicked {
    /// What the panic said; for logs and events, never for a tenant.
    pub message: String,
}

impl Panicked {
    /// Reads what `catch_unwind` caught.
    pub fn of(payload: Box<dyn Any + Send>) -> Self {
        let text = match payload.downcast::<Self>() {
            Ok(panicked) => return *panicked,
            Err(payload) => match payload.downcast::<String>() {
                Ok(text) => *text,
                Err(payload) => payload.downcast_ref::<&str>().map_or("no message", |text| text).to_owned(),
            },
        };
        Self { message: text.chars().take(MESSAGE_CHARS_MAX).collect() }
    }

    /// Panics again, here. A handler ends `pool.run(..).await.unwrap_or_else(Panicked::resume)`, and the
    /// stage treats a panic on a compute thread like one of its own. The panic hook does not run a second
    /// time.
    pub fn resume<T>(self) -> T {
        std::panic::resume_unwind(Box::new(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::catch_unwind;

    fn check(code: fn(), message: &str) {
        assert_eq!(Panicked::of(catch_unwind(code).unwrap_err()).message, message);
    }

    #[test]
    fn messages_survive() {
        check(|| panic!("plain"), "plain");
        check(|| panic!("row {}", 7), "row 7");
        check(|| Panicked { message: "far away".into() }.resume(), "far away");
        check(|| std::panic::panic_any(7), "no message");
        check(|| panic!("{}", "é".repeat(900)), &"é".repeat(MESSAGE_CHARS_MAX));
    }
}
