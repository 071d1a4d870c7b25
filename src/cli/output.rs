//! stdout is data, stderr is for people. The only file that prints.
//!
//! What must never happen here: a panic because the reader of a pipe went away, or a control character from outside reaching a terminal.

use std::io::{self, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// A line of data on stdout.
///
/// # Errors
/// stdout cannot be written to. A closed pipe is none: whoever read it had enough.
pub fn line(text: &str) -> io::Result<()> {
    write(io::stdout().lock(), &clean(text))
}

/// A value as one JSON document on stdout.
///
/// # Errors
/// As [`line()`].
pub fn json<T: Serialize>(value: &T) -> io::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    write(io::stdout().lock(), &text)
}

/// Bytes as they are, on stdout.
///
/// # Errors
/// As [`line()`].
pub fn bytes(data: &[u8]) -> io::Result<()> {
    closed_is_fine(io::stdout().lock().write_all(data))
}

/// Rows under headers on stdout. Nothing but the header when there are no rows.
///
/// # Errors
/// As [`line()`].
pub fn table<const N: usize>(headers: [&str; N], rows: &[[String; N]]) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(headers);
    for row in rows {
        table.add_row(row.iter().map(|cell| clean(cell)));
    }
    for text in table.lines() {
        write(io::stdout().lock(), text.trim_end())?;
    }
    Ok(())
}

/// A line for people, on stderr.
pub fn note(text: &str) {
    // Nobody can be told that stderr is closed.
    let _ = write(io::stderr().lock(), &clean(text));
}

/// A bar for people, on stderr, where that is a terminal.
pub fn progress(done: i64, total: i64, text: &str) {
    const WIDTH: i64 = 40;
    let mut out = io::stderr().lock();
    if !out.is_terminal() {
        return;
    }
    let total = total.max(1);
    let filled = usize::try_from(done.clamp(0, total) * WIDTH / total).unwrap_or(0);
    let empty = usize::try_from(WIDTH).unwrap_or(0).saturating_sub(filled);
    // Nobody can be told that stderr is closed.
    let _ = write!(out, "\r[{}{}] {:>3} % {}", "#".repeat(filled), " ".repeat(empty), done.clamp(0, total) * 100 / total, clean(text));
    let _ = out.flush();
}

/// What is written next begins on a line of its own.
pub fn end_progress() {
    let mut out = io::stderr().lock();
    if out.is_terminal() {
        let _ = writeln!(out);
    }
}

fn write(mut out: impl Write, text: &str) -> io::Result<()> {
    closed_is_fine(writeln!(out, "{text}"))
}

fn closed_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Text from outside may hold escape sequences that rewrite a terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escape_sequence_from_outside_does_not_reach_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\nc"), "a\u{fffd}[2Jb\nc");
    }
}
