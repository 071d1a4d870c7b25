//! What is fuzzed: each function takes any bytes and panics if a property of the parser does not hold. Run as ordinary tests over the corpora
//! and mutations of them (`tests/fuzz_smoke.rs`), and without end by cargo-fuzz (`fuzz/`).

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Datelike, Utc};
use kylo::adapters::sheets::answers;
use kylo::domain::company::{CompanyRow, routes};
use kylo::domain::date::{business_date, instant};
use kylo::domain::fence;
use kylo::domain::money::{Cents, parse_number, parse_text};
use kylo::domain::plan::{ActiveInput, Budget, Found, PendingInput, TypedCells, plan_active, plan_pending};
use kylo::domain::sheet::{CellWrite, Observed, ObservedTab, Request, Value};
use kylo::domain::tab;
use kylo::domain::text::normalise;
use kylo::flow::decode::{Decoded, DecodedPromote, RawMessage, decode_promote, decode_txns};
use kylo::ports::CallError;
use uuid::Uuid;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_756_209_600, 0).unwrap()
}

/// A Kafka value as both topics read it: never a panic, the same answer twice, no row twice, every row of the message accounted for.
pub fn message(data: &[u8]) {
    let raw = RawMessage { payload: Some(data), key: None, topic: "t", partition: 0, offset: 7 };
    let decoded = decode_txns(&raw, now());
    assert_eq!(decoded, decode_txns(&raw, now()));
    match &decoded {
        Ok(Decoded::Batch { batch, bad, .. }) => {
            assert!(!batch.company_id.as_str().is_empty() && batch.rows.len() + bad.len() > 0);
            let uids: BTreeSet<_> = batch.rows.iter().map(|row| row.uid).collect();
            assert_eq!(uids.len(), batch.rows.len(), "one transaction twice in a batch");
            let indexes: BTreeSet<_> = batch.rows.iter().map(|row| row.index).collect();
            assert!(bad.iter().all(|row| !indexes.contains(&row.index)), "a row is both good and bad");
            for row in &batch.rows {
                let texts = [Some(&row.description), row.id.as_ref(), row.memo.as_ref(), row.counterparty.as_ref()];
                assert!(texts.into_iter().flatten().all(|text| !text.contains('\0')));
                assert_eq!(row.description_norm, normalise(&row.description));
            }
        }
        Ok(Decoded::Tombstone) => panic!("a value is no tombstone"),
        Err(poison) => assert!(!poison.to_string().is_empty()),
    }
    match decode_promote(&raw, now()) {
        Ok(DecodedPromote::Request { request, .. }) => assert!(!request.request_key.is_empty()),
        Ok(DecodedPromote::Tombstone) => panic!("a value is no tombstone"),
        Err(poison) => assert!(!poison.to_string().is_empty()),
    }
    if std::str::from_utf8(data).is_err() {
        assert!(decoded.is_err(), "what is not UTF-8 is not JSON");
    }
}

/// Cents written as the contract writes them.
fn written(Cents(cents): Cents) -> String {
    let (sign, size) = (if cents < 0 { "-" } else { "" }, cents.unsigned_abs());
    format!("{sign}{}.{:02}", size / 100, size % 100)
}

/// An amount as text and as a JSON number: what is taken means what it says.
pub fn amount(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(cents) = parse_text(text) {
        assert_eq!(parse_text(&written(cents)), Ok(cents), "{text:?}");
        let digits: String = text.chars().filter(char::is_ascii_digit).collect();
        assert!(
            !digits.is_empty()
                && written(cents)
                    .chars()
                    .filter(char::is_ascii_digit)
                    .collect::<String>()
                    .trim_start_matches('0')
                    .starts_with(digits.trim_start_matches('0')),
            "{text:?}"
        );
        let is_negative = text.starts_with(['-', '\u{2212}', '(']);
        assert!(if is_negative { cents.0 <= 0 } else { cents.0 >= 0 }, "{text:?}");
    }
    let is_number =
        serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok_and(|raw| raw.get().starts_with(|c: char| c == '-' || c.is_ascii_digit()));
    if is_number
        && let Ok(cents) = parse_number(text.trim())
        && let Ok(float) = text.trim().parse::<f64>()
        && float.abs() < 1e9
    {
        #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
        let difference = (float * 100.0 - cents.0 as f64).abs();
        assert!(difference < 0.01, "{text:?} is not {cents:?}");
        assert_eq!(parse_number(&written(cents)), Ok(cents));
    }
}

/// A business date and an instant: what is taken is in the calendar and says the same when it is written again.
pub fn date(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(day) = business_date(text) {
        assert_eq!(Some(day.to_string().as_str()), text.get(..10));
        assert_eq!(business_date(&day.to_string()), Ok(day));
    }
    if let Ok(at) = instant(text) {
        // In UTC it can lie a few hours outside of the calendar that can be written.
        assert!(!(1..=9_999).contains(&at.year()) || instant(&at.to_rfc3339()) == Ok(at), "{text:?}");
        assert!(business_date(text).is_ok(), "{text:?} is an instant and no date");
        assert_eq!(at.timestamp_subsec_nanos() % 1_000, 0);
    }
}

/// A text's normal form is stable and has no gap at an end or twice in a row.
pub fn normalised(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let normal = normalise(&text);
    assert_eq!(normalise(&normal), normal);
    assert!(!normal.starts_with(' ') && !normal.ends_with(' ') && !normal.contains("  "), "{normal:?}");
    assert!(normal.chars().all(|c| c == ' ' || !c.is_ascii() || c.is_ascii_lowercase() || c.is_ascii_digit()), "{normal:?}");
    assert_eq!(normalise(&format!(" {text}\t")), normal);
}

/// Rows of company_config, a line each, fields parted by tabs: a route is what its own row says, two never share a tab, no DSN is told.
pub fn company(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let secret = "s3cr3t-dsn";
    let rows: Vec<CompanyRow> = text.lines().take(50).map(|line| row(line, secret)).collect();
    let bound: HashMap<_, _> = rows
        .first()
        .map(|row| ((text_of(&row.spreadsheet_id), text_of(&row.tab_pending).to_lowercase()), row.company_id.clone()))
        .into_iter()
        .collect();
    let found = routes(&rows, &bound);
    let mut tabs = BTreeSet::new();
    for (company, route) in &found {
        let own: Vec<_> = rows.iter().filter(|row| row.company_id == company.as_str()).collect();
        assert!(!own.is_empty());
        match route {
            Ok(route) => {
                assert_eq!(own.len(), 1, "two rows of one company and a route");
                assert_eq!(
                    (Some(route.schema.as_str()), Some(route.spreadsheet.as_str())),
                    (own[0].db_schema.as_deref(), own[0].spreadsheet_id.as_deref())
                );
                for title in [&route.tab_pending, &route.tab_active] {
                    assert!(tabs.insert((route.spreadsheet.to_string(), title.to_lowercase())), "one tab for two");
                    assert_ne!(title.to_lowercase(), "_kylo");
                }
                let schema = route.schema.as_str();
                assert!(schema.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_') && schema != "control");
            }
            Err(refused) => assert!(!refused.reason.is_empty()),
        }
    }
    assert!(!format!("{found:?}{rows:?}").contains(secret), "a DSN was told");
}

fn text_of(field: &Option<String>) -> String {
    field.clone().unwrap_or_default()
}

fn row(line: &str, secret: &str) -> CompanyRow {
    let mut fields = line.split('\t').map(|field| (field != "\\N").then(|| field.to_owned()));
    let mut next = || fields.next().flatten();
    CompanyRow {
        company_id: next().unwrap_or_default(),
        db_schema: next(),
        spreadsheet_id: next(),
        tab_pending: next(),
        tab_active: next(),
        db_dsn_rw: next().map(|dsn| format!("{secret}{dsn}")),
        version: 1,
    }
}

/// An answer of the Sheets API, first byte = its kind: never a panic, never more cells than Google has, and what a planner makes of it never
/// writes a formula or into a row that is not there.
pub fn answer(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    match kind % 3 {
        0 => {
            let Ok(observed) = answers::read(body, &["Pending".to_owned()]) else { return };
            check_observed(&observed);
        }
        1 => {
            if let Ok(applied) = answers::applied(body, &[]) {
                applied.tabs.values().for_each(check_tab);
            }
        }
        _ => {
            let status = 300 + u16::from(*kind);
            let error = answers::failure(status, body);
            let is_unknown = matches!(error, CallError::Unknown(_));
            assert!(is_unknown || status < 500, "a 5xx may have been applied: {error:?}");
            assert!(!is_unknown || status >= 500 || !(400..500).contains(&status) || [408, 409].contains(&status), "{status} {error:?}");
        }
    }
}

fn check_observed(observed: &Observed) {
    let highest = fence::highest(&observed.metadata);
    assert!(highest >= 0);
    let verdict = fence::judge(&observed.metadata, highest, highest + 1, Uuid::nil());
    assert!(matches!(verdict, fence::Verdict::OursAbsent | fence::Verdict::ForeignKey(_)), "{verdict:?}");
    for tab in &observed.tabs {
        let _environment = fence::environment(tab);
        check_tab(tab);
    }
}

fn check_tab(tab: &ObservedTab) {
    assert!(tab.rows.iter().map(Vec::len).sum::<usize>() + tab.rows.len() <= answers::MOST_CELLS * 2);
    let (gone, typed) = (HashMap::new(), TypedCells::new());
    let pending = PendingInput {
        company: "710",
        title: "Pending",
        tab: Found::There(tab),
        open: &[],
        gone: &gone,
        typed: &typed,
        posted_seq: 0,
        in_doubt: tab.sheet_id % 2 == 1,
    };
    let active = ActiveInput { company: "710", title: "Active", tab: Found::There(tab), rules: &[] };
    let plans = [plan_pending(&pending, &mut Budget::new(2_000_000)), plan_active(&active, &mut Budget::new(2_000_000))];
    for plan in plans.into_iter().flatten() {
        for request in &plan.rows {
            if let Request::WriteCells { cells, row, .. } = request {
                assert!(*row as usize <= tab.rows.len() + 2);
                assert!(cells.iter().flatten().all(|cell| !matches!(cell, CellWrite::Money(money) if !money.is_finite())));
            }
        }
    }
    if let Ok(view) = tab::read_pending(tab) {
        for row in &view.rows {
            let formulas = tab.rows[row.row as usize].iter().filter(|cell| matches!(cell, Value::Formula(_))).count();
            assert!(row.typed.formula_in.len() <= formulas, "what is no formula is named as one");
        }
    }
}
