//! The tabs as people see them, and what people do to them.

use std::collections::BTreeMap;

use fake_sheets::{CallRecord, CellView, Edit, Tab};

use super::world::World;

/// One row of a tab, by header.
#[derive(Clone, Debug)]
pub struct Row {
    /// From 0.
    pub at: usize,
    pub cells: BTreeMap<String, CellView>,
}

impl Row {
    /// As on the screen.
    pub fn shown(&self, header: &str) -> &str {
        self.cells.get(header).map_or("", |cell| cell.shown.as_str())
    }
}

impl World {
    /// The rows of a tab under its header, without empty ones; nothing where the tab is not there yet.
    pub fn tab(&self, spreadsheet: &str, title: &str) -> Vec<Row> {
        let Some(tab) = self.model().tab(spreadsheet, title) else { return Vec::new() };
        let Some(header) = tab.cells.first() else { return Vec::new() };
        let names: Vec<String> = header.iter().map(|cell| cell.shown.clone()).collect();
        let row = |(at, cells): (usize, &Vec<CellView>)| Row { at, cells: names.iter().cloned().zip(cells.iter().cloned()).collect() };
        // An unticked checkbox alone is no content.
        let filled = |row: &Row| row.cells.values().any(|cell| cell.kind != "empty" && cell.kind != "bool");
        tab.cells.iter().enumerate().skip(1).map(row).filter(filled).collect()
    }

    pub fn pending(&self, company: &str) -> Vec<Row> {
        let place = self.place(company);
        self.tab(&place.spreadsheet, &place.pending)
    }

    pub fn active(&self, company: &str) -> Vec<Row> {
        let place = self.place(company);
        self.tab(&place.spreadsheet, &place.active)
    }

    /// The Source column of the Pending tab, from top to bottom.
    pub fn sources(&self, company: &str) -> Vec<String> {
        self.pending(company).iter().map(|row| row.shown("Source").to_owned()).collect()
    }

    /// The only row of the Pending tab with this source.
    pub fn pending_row(&self, company: &str, source: &str) -> Result<Row, String> {
        let mut rows: Vec<Row> = self.pending(company).into_iter().filter(|row| row.shown("Source") == source).collect();
        match rows.len() {
            1 => Ok(rows.remove(0)),
            n => Err(format!("{n} rows of {source:?} in {company} Pending")),
        }
    }

    /// Waits until the Pending tab shows these sources, in any order, each exactly once.
    pub async fn pending_shows(&self, company: &str, sources: &[&str]) {
        let mut wanted: Vec<&str> = sources.to_vec();
        wanted.sort_unstable();
        self.eventually(&format!("{company} Pending shows {wanted:?}"), async || {
            let mut now = self.sources(company);
            now.sort_unstable();
            if now == wanted { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await;
    }

    /// Waits until the poster has nothing left to do: every tab is as new as Postgres, and no call is in doubt.
    pub async fn settled(&self, companies: &[&str]) {
        self.eventually(&format!("the tabs of {companies:?} are up to date"), async || {
            for company in companies {
                let sql = "SELECT (pending_seq::text || '/' || active_seq::text) FROM company_state WHERE company_id = ";
                let wanted = self.texts(company, &format!("{sql}'{company}'")).await;
                let posted = format!(
                    "SELECT (SELECT posted_seq::text FROM control.sheet_tabs WHERE company_id = '{company}' AND role = 'pending') || '/' ||
                            (SELECT posted_seq::text FROM control.sheet_tabs WHERE company_id = '{company}' AND role = 'active')"
                );
                let posted: Option<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(posted)).fetch_one(&self.control.pool).await.unwrap();
                if wanted.first() != posted.as_ref() {
                    return Err(format!("{company}: {posted:?} instead of {wanted:?}"));
                }
            }
            let open = self.control_number("SELECT count(*) FROM control.sheet_intents WHERE state IN ('planned', 'sent', 'in_doubt')").await;
            if open == 0 { Ok(()) } else { Err(format!("{open} intents are not settled")) }
        })
        .await;
    }

    /// Types into a person's cell of the row with this source.
    pub fn type_in(&self, company: &str, source: &str, header: &str, text: &str) {
        let place = self.place(company);
        let row = self.pending_row(company, source).unwrap();
        self.edit(
            company,
            &[Edit::SetCell { tab: Tab::from(place.pending.as_str()), cell: self.cell(company, row.at, header), typed: text.to_owned() }],
        );
    }

    /// Fills in the target and ticks Approved.
    pub fn approve(&self, company: &str, source: &str, sheet: &str, header: &str) {
        for (column, text) in [("Target_Sheet", sheet), ("Target_Header", header), ("Approved", "TRUE")] {
            self.type_in(company, source, column, text);
        }
    }

    /// The A1 name of a cell of the Pending tab.
    pub fn cell(&self, company: &str, row: usize, header: &str) -> String {
        let place = self.place(company);
        let tab = self.model().tab(&place.spreadsheet, &place.pending).unwrap();
        let column = tab.cells[0].iter().position(|cell| cell.shown == header).unwrap();
        let letter = char::from(b'A' + u8::try_from(column).unwrap());
        format!("{letter}{}", row + 1)
    }

    /// What people do to a company's spreadsheet: all of it at once.
    pub fn edit(&self, company: &str, edits: &[Edit]) {
        self.model().edit(&self.place(company).spreadsheet, edits).unwrap();
    }

    /// Calls of the API, without those for tokens.
    pub fn calls(&self) -> Vec<CallRecord> {
        self.model().calls(0).into_iter().filter(|call| call.op != "token").collect()
    }

    /// `batchUpdate`s that were applied to a company's spreadsheet.
    pub fn applied(&self, company: &str) -> usize {
        let spreadsheet = &self.place(company).spreadsheet;
        self.calls().iter().filter(|call| call.op == "batchUpdate" && call.applied && call.spreadsheet == *spreadsheet).count()
    }

    /// The ledger: one line per confirmed post, `tab rows`.
    pub async fn posts(&self, company: &str) -> Vec<String> {
        self.control_texts(&format!("SELECT tab_name || ' ' || row_count FROM control.sheet_posts WHERE company_id = '{company}' ORDER BY id")).await
    }

    /// Each open row of Postgres is on the Pending tab exactly once, with its content, and nothing else is (I4).
    pub async fn assert_tab_equals_postgres(&self, company: &str) {
        let sql = "SELECT txn_uid::text || '|' || occurred_on::text || '|' || description || '|' || amount_cents::text
                   FROM pending_txns WHERE status = 'open' AND company_id = '";
        let mut wanted = self.texts(company, &format!("{sql}{company}'")).await;
        let line = |row: &Row| {
            let cents = row.cells["Amount"].value.as_f64().map_or_else(String::new, |units| format!("{:.0}", units * 100.0));
            format!("{}|{}|{}|{cents}", row.shown("Txn_UID"), row.shown("Date"), row.shown("Source"))
        };
        let mut shown: Vec<String> = self.pending(company).iter().map(line).collect();
        wanted.sort_unstable();
        shown.sort_unstable();
        assert_eq!(shown, wanted, "I4: {company} Pending is not what Postgres says");
    }
}
