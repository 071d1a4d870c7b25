//! A tab's look: header, frozen row, widths, hidden key column, warnings. Only for tabs that Kylo makes or that hold nothing yet.

use super::Found;
use crate::domain::sheet::{CellWrite, ObservedTab, Request};
use crate::domain::tab::{Columns, HeaderError, Role, pending};

/// Rows of a tab that Kylo makes. New rows are inserted, so this is only what people see below them.
const NEW_TAB_ROWS: u32 = 100;

/// The tab's columns and size, and the requests that make it usable if it is not yet.
pub struct Prepared {
    pub columns: Columns,
    pub requests: Vec<Request>,
    /// Rows of the grid once `requests` are applied.
    pub row_count: u32,
    pub frozen_rows: u32,
}

/// # Errors
/// [`HeaderError::Missing`] or [`HeaderError::Doubled`]; an empty tab gets its header.
pub fn prepare(role: Role, title: &str, tab: Found<'_>) -> Result<Prepared, HeaderError> {
    match tab {
        Found::Missing { sheet_id } => {
            let (rows, columns) = (NEW_TAB_ROWS, width(role));
            let mut requests = vec![Request::AddSheet {
                sheet_id,
                title: title.to_owned(),
                rows,
                columns,
                frozen_rows: 1,
                hidden: false,
                tab_color: Some(color(role)),
            }];
            requests.extend(dress(role, sheet_id));
            Ok(Prepared { columns: Columns::fresh(role), requests, row_count: rows, frozen_rows: 1 })
        }
        Found::There(tab) => match Columns::find(role, tab) {
            Ok(columns) => Ok(Prepared { columns, requests: Vec::new(), row_count: tab.row_count, frozen_rows: tab.frozen_rows }),
            Err(HeaderError::Empty) => Ok(furnish(role, tab)),
            Err(error) => Err(error),
        },
    }
}

/// A tab that exists and holds nothing: it may be too small, and one row alone cannot be frozen.
fn furnish(role: Role, tab: &ObservedTab) -> Prepared {
    let sheet_id = tab.sheet_id;
    let mut requests = Vec::new();
    let lacking = width(role).saturating_sub(tab.column_count);
    if lacking > 0 {
        requests.push(Request::AppendColumns { sheet_id, count: lacking });
    }
    let mut row_count = tab.row_count;
    if row_count < 2 {
        requests.push(Request::InsertRows { sheet_id, start: row_count, count: 1, inherit_from_before: true });
        row_count += 1;
    }
    if tab.frozen_rows != 1 {
        requests.push(Request::FreezeRows { sheet_id, rows: 1 });
    }
    requests.extend(dress(role, sheet_id));
    Prepared { columns: Columns::fresh(role), requests, row_count, frozen_rows: 1 }
}

fn dress(role: Role, sheet_id: i32) -> Vec<Request> {
    let header = role.headers().iter().map(|text| CellWrite::Text((*text).to_owned())).collect();
    let mut requests =
        vec![Request::WriteCells { sheet_id, row: 0, column: 0, cells: vec![header] }, Request::StyleHeader { sheet_id, columns: width(role) }];
    requests.extend((0..).zip(widths(role)).map(|(column, pixels)| Request::ColumnWidth { sheet_id, column, pixels: *pixels }));
    let (rows, description) = match role {
        // Hard protection would forbid people to sort and to delete rows.
        Role::Pending => (Some(1), "Kylo finds its columns by these headers"),
        Role::Active => (None, "Kylo rewrites this tab: change rules by approving rows in the Pending tab"),
    };
    if role == Role::Pending {
        let column = Columns::fresh(role).of(pending::TXN_UID);
        requests.push(Request::HideColumn { sheet_id, column });
    }
    requests.push(Request::WarnOnEdit { sheet_id, rows, description: description.to_owned() });
    requests
}

fn width(role: Role) -> u32 {
    Columns::fresh(role).span()
}

fn widths(role: Role) -> &'static [u32] {
    match role {
        Role::Pending => &[280, 95, 320, 100, 100, 130, 130, 180, 90, 320],
        Role::Active => &[120, 170, 100, 320, 130, 130, 180, 170],
    }
}

fn color(role: Role) -> [f32; 3] {
    match role {
        Role::Pending => [0.69, 0.0, 0.125],
        Role::Active => [0.415, 0.051, 0.678],
    }
}
