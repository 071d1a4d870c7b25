//! Puts a header row right again, on a person's request: what is missing is written where its column stands, what is there twice is renamed.
//!
//! Called by `flow::post` for `kylo sheets repair --headers`, before the tab is planned as usual. Pure. Where a column stands is taken from a header that
//! is only spelled differently, else from its neighbours in the layout's order. What must never happen here: a column of a person's own taken for
//! one of Kylo's (its cells would be overwritten), so whatever is not certain is refused and said.

use super::TabPlan;
use crate::domain::sheet::{CellWrite, ObservedTab, Request, Value};
use crate::domain::tab::{Role, is_blank, pending};
use crate::domain::text::normalise;

/// So many letters of a header that people wrote are shown.
const MOST_SHOWN: usize = 40;

/// The requests that mend row 1, as a plan that leaves the tab due: its rows are planned when the header has been read again.
///
/// # Errors
/// It is not certain which column is which. The text says what to do by hand.
pub fn plan_header(role: Role, tab: &ObservedTab) -> Result<TabPlan, String> {
    let sheet = Row::of(role, tab);
    let setup = if sheet.columns_of.iter().all(Vec::is_empty) { sheet.whole()? } else { sheet.single()? };
    let mut plan = TabPlan::new(role, tab.sheet_id);
    let widest = setup.iter().filter_map(|request| if let Request::WriteCells { column, .. } = request { Some(column + 1) } else { None }).max();
    plan.span = widest.unwrap_or_default().max(sheet.width).max(count(role.headers().len()));
    plan.setup = setup;
    plan.mends_header = true;
    plan.complete = false;
    Ok(plan)
}

/// Row 1 as it is.
struct Row<'a> {
    role: Role,
    tab: &'a ObservedTab,
    /// Columns that exist or hold something.
    width: u32,
    /// By layout position: the columns that say its header.
    columns_of: Vec<Vec<u32>>,
}

impl<'a> Row<'a> {
    fn of(role: Role, tab: &'a ObservedTab) -> Self {
        let widest = tab.rows.iter().map(Vec::len).max().unwrap_or_default();
        let mut row = Self { role, tab, width: tab.column_count.max(count(widest)), columns_of: Vec::new() };
        row.columns_of = role.headers().iter().map(|header| (0..row.width).filter(|column| row.text(*column) == *header).collect()).collect();
        row
    }

    /// What a column's cell in row 1 says.
    fn text(&self, column: u32) -> &str {
        match self.tab.rows.first().and_then(|row| row.get(column as usize)) {
            Some(Value::Text(text)) => text.trim(),
            _ => "",
        }
    }

    fn below(&self, column: u32) -> impl Iterator<Item = &Value> {
        self.tab.rows.iter().skip(1).filter_map(move |row| row.get(column as usize)).filter(|cell| !is_blank(cell))
    }

    /// Row 1 has no header at all: it was cleared, or deleted and a data row has taken its place. Only rows that stand in Kylo's own order tell.
    fn whole(&self) -> Result<Vec<Request>, String> {
        let rows = &self.tab.rows;
        let is_cleared = rows.first().is_none_or(|row| row.iter().all(is_blank));
        let data = if is_cleared { rows.iter().skip(1).find(|row| !row.iter().all(is_blank)) } else { rows.first() };
        if !data.is_some_and(|row| in_own_order(self.role, row)) {
            return Err("row 1 has none of the headers, and the columns are not in Kylo's order: write the headers by hand".to_owned());
        }
        let sheet_id = self.tab.sheet_id;
        let mut requests = Vec::new();
        if !is_cleared {
            requests.push(Request::InsertRows { sheet_id, start: 0, count: 1, inherit_from_before: false });
            requests.push(Request::FreezeRows { sheet_id, rows: 1 });
        }
        requests.extend((0..).zip(self.role.headers()).map(|(column, header)| self.write(column, header)));
        Ok(requests)
    }

    /// Some headers are there: the others are found between them.
    fn single(&self) -> Result<Vec<Request>, String> {
        let mut requests = Vec::new();
        let mut at: Vec<Option<u32>> = Vec::with_capacity(self.columns_of.len());
        for (header, columns) in self.role.headers().iter().zip(&self.columns_of) {
            // The fullest is the one in use; of equals the first.
            let kept = columns.iter().copied().max_by_key(|column| (self.below(*column).count(), u32::MAX - column));
            for (number, extra) in (2..).zip(columns.iter().filter(|column| Some(**column) != kept)) {
                requests.push(self.write(*extra, &format!("{header} ({number})")));
            }
            at.push(kept);
        }
        self.respelled(&mut at);
        let mut next_new =
            (0..self.width).rev().find(|column| !self.text(*column).is_empty() || self.below(*column).next().is_some()).map_or(0, |last| last + 1);
        for position in 0..at.len() {
            if at.get(position).is_some_and(Option::is_some) {
                continue;
            }
            let column = match self.between(&at, position)? {
                Some(column) => column,
                None if self.is_key(position) => {
                    return Err(format!(
                        "the column {} is gone, and with it which row is which: restore it from the version history",
                        self.name(position)
                    ));
                }
                None => {
                    next_new += 1;
                    next_new - 1
                }
            };
            if let Some(place) = at.get_mut(position) {
                *place = Some(column);
            }
        }
        let lacking = next_new.saturating_sub(self.tab.column_count);
        if lacking > 0 {
            requests.insert(0, Request::AppendColumns { sheet_id: self.tab.sheet_id, count: lacking });
        }
        let missing = at.iter().enumerate().filter(|(position, _)| self.columns_of.get(*position).is_some_and(Vec::is_empty));
        requests.extend(missing.filter_map(|(position, column)| Some(self.write((*column)?, self.name(position)))));
        Ok(requests)
    }

    /// A header that is only spelled differently ("target sheet") is where it stands.
    fn respelled(&self, at: &mut [Option<u32>]) {
        for (position, place) in at.iter_mut().enumerate().filter(|(_, place)| place.is_none()) {
            let wanted = normalise(self.name(position));
            let mut alike = (0..self.width).filter(|column| normalise(self.text(*column)) == wanted);
            if let (Some(column), None) = (alike.next(), alike.next()) {
                *place = Some(column);
            }
        }
    }

    /// The column of a missing header by its neighbours. `None`: there is no column between them, it was deleted.
    fn between(&self, at: &[Option<u32>], position: usize) -> Result<Option<u32>, String> {
        let known = |mut positions: Box<dyn Iterator<Item = usize>>| positions.find_map(|other| Some((other, at.get(other).copied().flatten()?)));
        let left = known(Box::new((0..position).rev()));
        let right = known(Box::new(position + 1..at.len()));
        let from = left.map_or(0, |(_, column)| column + 1);
        let first_missing = left.map_or(0, |(other, _)| other + 1);
        let last_missing = right.map_or(at.len(), |(other, _)| other);
        let n_missing = count(last_missing - first_missing);
        // Behind the last known header as many columns as are missing; what stands further right is a person's own.
        let to = right.map_or_else(|| (from + n_missing).min(self.width), |(_, column)| column);
        if to < from {
            return Err(format!(
                "row 1 lacks {}, and where it stood cannot be told, because its neighbours {} and {} have changed places: write {0} by hand over its column",
                self.name(position),
                self.place(left),
                self.place(right)
            ));
        }
        let free: Vec<u32> = (from..to).filter(|column| self.text(*column).is_empty()).collect();
        if free.is_empty() && (right.is_none() || from == to) {
            return Ok(None);
        }
        if count(free.len()) != n_missing {
            let stand: Vec<_> = (from..to.max(from + 1)).map(|column| self.column(column)).collect();
            return Err(format!(
                "row 1 lacks {0}; where it belongs stands {1}, which may be its column or somebody's own: write {0} by hand over the header of its \
                 column, or insert an empty column there if its own is gone",
                self.name(position),
                stand.join(", ")
            ));
        }
        Ok(free.get(position - first_missing).copied())
    }

    /// A column and what its cell in row 1 says.
    fn column(&self, column: u32) -> String {
        match self.text(column) {
            "" => format!("column {} without a header", letter(column)),
            text => format!("column {} with {:?}", letter(column), text.chars().take(MOST_SHOWN).collect::<String>()),
        }
    }

    /// A known header and where it stands.
    fn place(&self, known: Option<(usize, u32)>) -> String {
        known.map_or_else(|| "the edge".to_owned(), |(position, column)| format!("{} (column {})", self.name(position), letter(column)))
    }

    fn is_key(&self, position: usize) -> bool {
        self.role == Role::Pending && position == pending::TXN_UID
    }

    fn name(&self, position: usize) -> &'static str {
        self.role.headers().get(position).copied().unwrap_or_default()
    }

    fn write(&self, column: u32, text: &str) -> Request {
        Request::WriteCells { sheet_id: self.tab.sheet_id, row: 0, column, cells: vec![vec![CellWrite::Text(text.to_owned())]] }
    }
}

/// Whether a row reads like one that Kylo wrote in the layout's order.
fn in_own_order(role: Role, row: &[Value]) -> bool {
    let text = |column: usize| if let Some(Value::Text(text)) = row.get(column) { text.trim() } else { "" };
    match role {
        Role::Pending => text(pending::TXN_UID).parse::<uuid::Uuid>().is_ok(),
        Role::Active => chrono::DateTime::parse_from_rfc3339(text(1)).is_ok() && chrono::DateTime::parse_from_rfc3339(text(7)).is_ok(),
    }
}

/// A column as people call it.
fn letter(column: u32) -> String {
    let last = char::from(b'A' + u8::try_from(column % 26).unwrap_or_default());
    if column < 26 { last.to_string() } else { format!("{}{last}", letter(column / 26 - 1)) }
}

fn count(n: usize) -> u32 {
    super::writes::count(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "67e315f9-7fc3-5460-8e04-f020465bab6a";

    fn tab(header: &[&str], rows: &[&[&str]]) -> ObservedTab {
        let cell = |text: &&str| if text.is_empty() { Value::Empty } else { Value::Text((*text).to_owned()) };
        let rows: Vec<Vec<Value>> = std::iter::once(header).chain(rows.iter().copied()).map(|row| row.iter().map(cell).collect()).collect();
        let column_count = count(header.len());
        ObservedTab { sheet_id: 1, title: "P".to_owned(), hidden: false, row_count: 100, column_count, frozen_rows: 1, rows }
    }

    /// What is written into row 1: column and text.
    fn mended(header: &[&str], rows: &[&[&str]]) -> Result<Vec<(u32, String)>, String> {
        let plan = plan_header(Role::Pending, &tab(header, rows))?;
        assert!(!plan.complete && plan.rows.is_empty());
        let written = plan.setup.into_iter().filter_map(|request| match request {
            Request::WriteCells { row: 0, column, mut cells, .. } => match cells.pop()?.pop()? {
                CellWrite::Text(text) => Some((column, text)),
                _ => None,
            },
            _ => None,
        });
        Ok(written.collect())
    }

    fn without(position: usize, instead: &'static str) -> Vec<&'static str> {
        let mut header = Role::Pending.headers().to_vec();
        header[position] = instead;
        header
    }

    #[test]
    fn a_header_that_was_cleared_is_written_where_its_column_stands() {
        for (position, header) in Role::Pending.headers().iter().enumerate() {
            assert_eq!(mended(&without(position, ""), &[&[UID]]), Ok(vec![(count(position), (*header).to_owned())]), "{header}");
        }
        let two = mended(&["Txn_UID", "Date", "", "", "Amount", "Target_Sheet", "Target_Header", "Match_Notes", "Approved", "Status"], &[&[UID]]);
        assert_eq!(two, Ok(vec![(2, "Source".to_owned()), (3, "Company_ID".to_owned())]));
    }

    #[test]
    fn a_header_that_is_only_spelled_differently_is_put_right_wherever_it_stands() {
        assert_eq!(mended(&without(5, "target sheet"), &[&[UID]]), Ok(vec![(5, "Target_Sheet".to_owned())]));
        let mut moved = Role::Pending.headers().to_vec();
        moved.rotate_left(3);
        moved[0] = "COMPANY ID";
        assert_eq!(mended(&moved, &[]), Ok(vec![(0, "Company_ID".to_owned())]));
    }

    #[test]
    fn a_column_of_a_persons_own_is_never_taken() {
        let refused = mended(&without(3, "Notes"), &[&[UID]]).unwrap_err();
        assert!(refused.contains("Company_ID") && refused.contains("column"), "{refused}");
        let mut header = Role::Pending.headers().to_vec();
        header[9] = "My notes";
        assert_eq!(mended(&header, &[]), Ok(vec![(10, "Status".to_owned())]), "a new column behind it");
    }

    #[test]
    fn a_column_that_was_deleted_is_made_again_at_the_right_edge_but_for_the_key() {
        let header: Vec<_> = Role::Pending.headers().iter().copied().filter(|header| *header != "Amount").collect();
        assert_eq!(mended(&header, &[]), Ok(vec![(9, "Amount".to_owned())]));
        assert!(mended(&Role::Pending.headers()[1..], &[]).unwrap_err().contains("version history"));
    }

    #[test]
    fn of_a_doubled_header_the_fuller_column_stays() {
        let mut header = Role::Pending.headers().to_vec();
        header.push("Source");
        assert_eq!(mended(&header, &[&[UID, "", "STARBUCKS"]]), Ok(vec![(10, "Source (2)".to_owned())]));
        let full = [UID, "", "", "", "", "", "", "", "", "", "STARBUCKS"];
        assert_eq!(mended(&header, &[&full]), Ok(vec![(2, "Source (2)".to_owned())]));
    }

    #[test]
    fn a_header_row_that_is_gone_comes_back_above_rows_in_kylos_order_only() {
        let row = [UID, "2025-08-26", "STARBUCKS"];
        let plan = plan_header(Role::Pending, &tab(&row, &[])).unwrap();
        assert!(matches!(plan.setup[0], Request::InsertRows { start: 0, count: 1, .. }), "{:?}", plan.setup);
        assert_eq!(mended(&[], &[&row]).unwrap().len(), 10);
        assert!(mended(&["STARBUCKS", UID], &[]).is_err());
    }
}
