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

/// Another's words on a terminal: what would move its cursor or hide letters is escaped.
pub fn words(text: &str) -> String {
    let escape = |c: char| match c {
        '\'' | '"' | '\\' => c.to_string(),
        c => c.escape_debug().to_string(),
    };
    text.chars().map(escape).collect()
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

#[cfg(test)]
mod tests {
    #[test]
    fn words_are_told_as_they_are_and_commands_to_a_terminal_are_not() {
        assert_eq!(super::words("the capability's \"é\" \\"), "the capability's \"é\" \\");
        assert_eq!(super::words("\u{1b}[2J\n\u{202e}"), "\\u{1b}[2J\\n\\u{202e}");
    }
}
