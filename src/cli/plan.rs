//! `kylo plan`: what a post would change in the live tabs, cell by cell. Reads only; works in shadow mode.

use std::sync::Arc;

use serde::Serialize;

use super::company::company_id;
use super::connect::{control, failed};
use super::failure::Failed;
use super::{Outcome, output};
use crate::config::Settings;
use crate::domain::company::{self, Route};
use crate::domain::ids::CompanyId;
use crate::domain::sheet::{CellWrite, ObservedTab, Request, Value};
use crate::domain::tab::Role;
use crate::flow::post::{Preview, PreviewError};
use crate::runtime::tools;
use crate::store::control::company_config;

/// Show what a post would change in a company's live tabs, cell by cell
///
/// Reads the spreadsheet and Postgres, changes neither, and works in shadow mode too. Needs GOOGLE_APPLICATION_CREDENTIALS.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kylo plan --company 710\n  kylo plan --company 710 --json\n\n\
    Exit codes: 0 ok (also when there is nothing to change), 1 a tab or database cannot be used, 2 usage or configuration.")]
pub struct Args {
    /// Whose tabs
    #[arg(long)]
    company: String,
    /// Print JSON (schemas/cli/plan.json)
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    company_id: String,
    spreadsheet_id: String,
    /// Whether the workers would send it: `post` or `shadow`.
    mode: &'static str,
    tabs: Vec<Tab>,
}

#[derive(Debug, Serialize)]
struct Tab {
    role: &'static str,
    title: String,
    exists: bool,
    /// Why the tab cannot be used.
    problem: Option<String>,
    appended: usize,
    changed: usize,
    removed: usize,
    changes: Vec<Change>,
}

/// One change, in the order in which it would be made. Rows count from 1, as the spreadsheet shows them at that moment.
#[derive(Debug, PartialEq, Serialize)]
struct Change {
    /// setup, add, change or remove.
    kind: &'static str,
    row: Option<usize>,
    column: Option<String>,
    before: Option<String>,
    after: Option<String>,
}

pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Outcome> {
    let id = company_id(&args.company)?;
    settings.sheets.key_file()?;
    let control = control(settings).await?;
    let route = route(&control, &id).await?;
    let previews = tools::preview(settings, &control, &route).await?.map_err(|error| explain(&route, &error))?;
    let report = Report {
        company_id: id.to_string(),
        spreadsheet_id: route.spreadsheet.to_string(),
        mode: if settings.sheets.posts(id.as_str()) { "post" } else { "shadow" },
        tabs: previews.iter().map(tab).collect(),
    };
    if args.json {
        output::json(&report)?;
    } else {
        report.print()?;
    }
    Ok(if report.tabs.iter().all(|tab| tab.problem.is_none()) { Outcome::Done } else { Outcome::No })
}

/// A company's route; why there is none is an error.
pub async fn route(control: &sqlx::PgPool, id: &CompanyId) -> anyhow::Result<Arc<Route>> {
    let rows = company_config::load(control).await.map_err(|error| failed("read control.company_config", &error))?;
    let bound = company_config::bound(control).await.map_err(|error| failed("read control.sheet_tabs", &error))?;
    match company::routes(&rows, &bound).remove(id) {
        Some(Ok(route)) => Ok(route),
        Some(Err(refused)) => Err(Failed::new(format!("company {id} cannot be served: {}", refused.reason)).into()),
        None => Err(Failed::new(format!("there is no company {id}")).hint("`kylo company list` shows all").into()),
    }
}

/// A company in shadow is not written for.
pub fn refuse_shadow(settings: &Settings, id: &CompanyId, because: &str) -> anyhow::Result<()> {
    if settings.sheets.posts(id.as_str()) {
        return Ok(());
    }
    let hint = if settings.sheets.post { "KYLO_SHEETS_POST_COMPANIES does not name it" } else { "set KYLO_SHEETS_POST=1 for this command" };
    Err(Failed::new(format!("company {id} is in shadow, and {because}")).hint(hint).into())
}

/// Why a spreadsheet could not be looked at.
pub fn explain(route: &Route, error: &PreviewError) -> anyhow::Error {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    let failed = Failed::new(format!("cannot look at spreadsheet {} of company {}: {error}{cause}", route.spreadsheet, route.company));
    failed.hint("share the spreadsheet with the service account (client_email in the key file) as editor").into()
}

fn tab(preview: &Preview) -> Tab {
    let role = preview.role.as_str();
    let (title, exists) = (preview.title.clone(), preview.seen.is_some());
    match &preview.plan {
        Err(problem) => Tab { role, title, exists, problem: Some(problem.clone()), appended: 0, changed: 0, removed: 0, changes: Vec::new() },
        Ok(plan) => {
            let mut sheet = Sheet::seen(preview.role, preview.seen.as_ref());
            let mut changes = Vec::new();
            plan.setup.iter().chain(&plan.rows).for_each(|request| sheet.apply(request, &mut changes));
            Tab { role, title, exists, problem: None, appended: plan.appended, changed: plan.changed, removed: plan.removed, changes }
        }
    }
}

/// The tab as the requests find it one after the other, so that each change can be shown with what it replaces.
struct Sheet {
    role: Role,
    rows: Vec<Vec<String>>,
    /// Rows that this plan inserted.
    fresh: Vec<bool>,
}

impl Sheet {
    fn seen(role: Role, tab: Option<&ObservedTab>) -> Self {
        let rows: Vec<Vec<_>> = tab.map(|tab| tab.rows.iter().map(|row| row.iter().map(shown).collect()).collect()).unwrap_or_default();
        let fresh = vec![false; rows.len()];
        Self { role, rows, fresh }
    }

    fn apply(&mut self, request: &Request, changes: &mut Vec<Change>) {
        match request {
            Request::InsertRows { start, count, .. } => {
                self.reach(index(*start));
                let at = index(*start);
                self.rows.splice(at..at, (0..*count).map(|_| Vec::new()));
                self.fresh.splice(at..at, (0..*count).map(|_| true));
            }
            Request::DeleteRows { start, count, .. } => {
                self.reach(index(start + count));
                for (offset, row) in self.rows.drain(index(*start)..index(start + count)).enumerate() {
                    let row_number = index(*start) + offset + 1;
                    changes.push(Change { kind: "remove", row: Some(row_number), column: None, before: Some(row.join(" | ")), after: None });
                }
                self.fresh.drain(index(*start)..index(start + count));
            }
            Request::WriteCells { row, column, cells, .. } => {
                for (down, cells) in cells.iter().enumerate() {
                    for (right, cell) in cells.iter().enumerate() {
                        self.write(index(*row) + down, index(*column) + right, cell, changes);
                    }
                }
            }
            other => changes.push(Change { kind: "setup", row: None, column: None, before: None, after: Some(setup(other)) }),
        }
    }

    fn write(&mut self, row: usize, column: usize, cell: &CellWrite, changes: &mut Vec<Change>) {
        self.reach(row + 1);
        let fresh = self.fresh[row];
        let header = if row == 0 { None } else { self.rows.first().and_then(|header| header.get(column)).filter(|name| !name.is_empty()).cloned() };
        let cells = &mut self.rows[row];
        if cells.len() <= column {
            cells.resize(column + 1, String::new());
        }
        let after = written(cell);
        let before = std::mem::replace(&mut cells[column], after.clone());
        if before == after {
            return;
        }
        let name =
            header.or_else(|| self.role.headers().get(column).map(|name| (*name).to_owned())).unwrap_or_else(|| format!("column {}", column + 1));
        let kind = if row == 0 {
            "setup"
        } else if fresh {
            "add"
        } else {
            "change"
        };
        changes.push(Change { kind, row: Some(row + 1), column: Some(name), before: Some(before), after: Some(after) });
    }

    /// Trailing empty rows are not in what was read.
    fn reach(&mut self, rows: usize) {
        if self.rows.len() < rows {
            self.rows.resize(rows, Vec::new());
            self.fresh.resize(rows, false);
        }
    }
}

fn index(position: u32) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}

fn shown(value: &Value) -> String {
    match value {
        Value::Empty => String::new(),
        Value::Text(text) | Value::Formula(text) | Value::Error(text) => text.clone(),
        Value::Number(number) => format!("{number:.2}"),
        Value::Bool(ticked) => checkbox(*ticked),
    }
}

fn written(cell: &CellWrite) -> String {
    match cell {
        CellWrite::Empty => String::new(),
        CellWrite::Text(text) => text.clone(),
        CellWrite::Money(amount) => format!("{amount:.2}"),
        CellWrite::Checkbox(ticked) => checkbox(*ticked),
    }
}

fn checkbox(ticked: bool) -> String {
    if ticked { "TRUE" } else { "FALSE" }.to_owned()
}

/// What making or dressing a tab does, in words.
fn setup(request: &Request) -> String {
    match request {
        Request::AddSheet { title, .. } => format!("make the tab {title:?}"),
        Request::AppendColumns { count, .. } => format!("append {count} column(s)"),
        Request::StyleHeader { .. } => "style the header row".to_owned(),
        Request::FreezeRows { rows, .. } => format!("freeze {rows} row(s)"),
        Request::HideColumn { column, .. } => format!("hide column {}", column + 1),
        Request::ColumnWidth { column, .. } => format!("set the width of column {}", column + 1),
        Request::WarnOnEdit { rows, .. } => if rows.is_some() { "warn on edits of the header row" } else { "warn on edits of the tab" }.to_owned(),
        Request::RenameSheet { title, .. } => format!("rename the tab to {title:?}"),
        Request::DeleteSheet { .. } => "delete a tab".to_owned(),
        Request::CreateMetadata { .. } | Request::DeleteMetadata { .. } => "write the fence".to_owned(),
        Request::InsertRows { .. } | Request::DeleteRows { .. } | Request::WriteCells { .. } => "change rows".to_owned(),
    }
}

impl Report {
    fn print(&self) -> std::io::Result<()> {
        for tab in &self.tabs {
            let state = match (&tab.problem, tab.exists) {
                (Some(problem), _) => format!("cannot be used: {problem}"),
                (None, false) => "would be made".to_owned(),
                (None, true) => "exists".to_owned(),
            };
            output::line(&format!(
                "{} tab {:?} ({state}): {} row(s) added, {} changed, {} removed",
                tab.role, tab.title, tab.appended, tab.changed, tab.removed
            ))?;
            let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
            let rows = tab.changes.iter().map(|c| {
                [c.kind.to_owned(), dash(c.row.map(|row| row.to_string())), dash(c.column.clone()), dash(c.before.clone()), dash(c.after.clone())]
            });
            let rows: Vec<_> = rows.collect();
            if !rows.is_empty() {
                output::table(["WHAT", "ROW", "COLUMN", "BEFORE", "AFTER"], &rows)?;
            }
            output::line("")?;
        }
        if self.mode == "shadow" {
            output::note("this company is in shadow mode: the workers do not send this");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> Value {
        Value::Text(value.to_owned())
    }

    #[test]
    fn each_change_is_shown_with_what_it_replaces_at_that_moment() {
        let rows = vec![vec![text("Txn_UID"), text("Date")], vec![text("a"), text("1")], vec![text("b"), text("2")]];
        let tab = ObservedTab { sheet_id: 1, title: "P".to_owned(), hidden: false, row_count: 3, column_count: 2, frozen_rows: 1, rows };
        let mut sheet = Sheet::seen(Role::Pending, Some(&tab));
        let mut changes = Vec::new();
        let cells = |value: &str| vec![vec![CellWrite::Text(value.to_owned())]];
        for request in [
            Request::DeleteRows { sheet_id: 1, start: 1, count: 1 },
            Request::WriteCells { sheet_id: 1, row: 1, column: 1, cells: cells("3") },
            Request::InsertRows { sheet_id: 1, start: 2, count: 1, inherit_from_before: true },
            Request::WriteCells { sheet_id: 1, row: 2, column: 0, cells: cells("c") },
        ] {
            sheet.apply(&request, &mut changes);
        }
        let told: Vec<_> = changes.iter().map(|c| (c.kind, c.row, c.column.as_deref(), c.before.as_deref(), c.after.as_deref())).collect();
        assert_eq!(
            told,
            [
                ("remove", Some(2), None, Some("a | 1"), None),
                ("change", Some(2), Some("Date"), Some("2"), Some("3")),
                ("add", Some(3), Some("Txn_UID"), Some(""), Some("c")),
            ]
        );
    }
}
