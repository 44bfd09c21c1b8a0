//! Results on stdout. A reader that went away (`| head`) ends the program quietly, not by a panic.

use serde::Serialize;
use std::fmt::Display;
use std::io::{self, Write};

/// Prints text as it is.
pub fn text(text: impl Display) {
    print(|to| write!(to, "{text}"));
}

/// Prints a line.
pub fn line(text: impl Display) {
    print(|to| writeln!(to, "{text}"));
}

/// Prints an object as a line of JSON.
pub fn json(value: &impl Serialize) {
    // Our objects have string keys and no map that could fail.
    line(serde_json::to_string(value).unwrap_or_default());
}

fn print(write: impl FnOnce(&mut io::StdoutLock<'_>) -> io::Result<()>) {
    let mut stdout = io::stdout().lock();
    if let Err(e) = write(&mut stdout).and_then(|()| stdout.flush()) {
        if e.kind() != io::ErrorKind::BrokenPipe {
            eprintln!("ronctl: stdout cannot be written: {e}");
        }
        std::process::exit(i32::from(svc_rewarder::run::exit::FAILED));
    }
}
