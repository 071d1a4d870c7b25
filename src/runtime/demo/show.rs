//! Tables and headings of the demo.

use std::io::{Result, Write};

use comfy_table::{ContentArrangement, Table, presets};

pub fn heading(out: &mut (dyn Write + Send), number: usize, text: &str) -> Result<()> {
    writeln!(out, "\n{number}. {text}\n")
}

pub fn line(out: &mut (dyn Write + Send), text: &str) -> Result<()> {
    writeln!(out, "   {text}")
}

/// A table with the first row as its header.
pub fn table(out: &mut (dyn Write + Send), header: &[&str], rows: &[Vec<String>]) -> Result<()> {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for text in table.lines() {
        writeln!(out, "   {text}")?;
    }
    Ok(())
}

/// A tab as a person sees it: without the hidden key column.
pub fn tab(out: &mut (dyn Write + Send), title: &str, rows: &[Vec<String>]) -> Result<()> {
    writeln!(out, "   {title}")?;
    let Some((header, body)) = rows.split_first() else { return writeln!(out, "   (no such tab)") };
    let hidden = usize::from(header.first().is_some_and(|name| name == "Txn_UID"));
    let width = header.len();
    let header: Vec<&str> = header.iter().skip(hidden).map(String::as_str).collect();
    let cells = |row: &Vec<String>| (hidden..width).map(|at| row.get(at).cloned().unwrap_or_default()).collect();
    let body: Vec<Vec<String>> = body.iter().filter(|row| row.iter().any(|cell| !cell.is_empty())).map(cells).collect();
    table(out, &header, &body)
}
