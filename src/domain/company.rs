//! A row of `control.company_config` -> a [`Route`], or the reason why that company cannot be served.
//!
//! Called by the routing cache with all rows at once, because a clash is between rows. Never trusts a row: it may have been typed by hand.
//! What must never happen here: one bad row making another company unroutable, or a secret ending up in a reason.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use super::ids::CompanyId;

/// A row as it stands in the table. The DSN is a secret: `Debug` masks it.
#[derive(Clone, PartialEq, Eq)]
pub struct CompanyRow {
    pub company_id: String,
    pub db_dsn_rw: Option<String>,
    pub db_schema: Option<String>,
    pub spreadsheet_id: Option<String>,
    pub tab_pending: Option<String>,
    pub tab_active: Option<String>,
    /// Changes with every UPDATE of the row (its xmin): what was parked is tried again when it changes.
    pub version: i64,
}

impl fmt::Debug for CompanyRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompanyRow")
            .field("company_id", &self.company_id)
            .field("db_dsn_rw", &self.db_dsn_rw.as_ref().map(|_| "***"))
            .field("db_schema", &self.db_schema)
            .field("spreadsheet_id", &self.spreadsheet_id)
            .field("tab_pending", &self.tab_pending)
            .field("tab_active", &self.tab_active)
            .field("version", &self.version)
            .finish()
    }
}

/// A connection string. Equal strings are the same database for pooling and coalescing. Never printed.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dsn(Arc<str>);

impl Dsn {
    pub fn new(text: &str) -> Self {
        Self(Arc::from(text))
    }

    /// The secret itself, for connecting only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dsn(***)")
    }
}

/// A schema name that is safe to use in `SET search_path`: `^[a-z_][a-z0-9_]{0,49}$` and not one of Postgres' or Kylo's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SchemaName(Arc<str>);

impl SchemaName {
    /// # Errors
    /// Says what a schema name must look like.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut bytes = text.bytes();
        let head_ok = bytes.next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
        let tail_ok = bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !head_ok || !tail_ok || text.len() > 50 {
            return Err(format!("db_schema {text:?} must match ^[a-z_][a-z0-9_]{{0,49}}$"));
        }
        if matches!(text, "control" | "public" | "information_schema") || text.starts_with("pg_") {
            return Err(format!("db_schema {text:?} is reserved: give the company a schema of its own, such as app_710"));
        }
        Ok(Self(Arc::from(text)))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SchemaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Google's id of a spreadsheet (the long text in its URL). Only `[A-Za-z0-9_-]`, so it is safe in a URL path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpreadsheetId(Arc<str>);

impl SpreadsheetId {
    /// # Errors
    /// Says what an id looks like.
    pub fn parse(text: &str) -> Result<Self, String> {
        let ok = !text.is_empty() && text.len() <= 100 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if ok {
            Ok(Self(Arc::from(text)))
        } else {
            Err(format!("spreadsheet_id {text:?} is not an id: take the part between /d/ and /edit of the spreadsheet's URL"))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SpreadsheetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where one company's data goes. Made from `control.company_config` alone (invariant I2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub company: CompanyId,
    pub dsn: Dsn,
    pub schema: SchemaName,
    pub spreadsheet: SpreadsheetId,
    pub tab_pending: Arc<str>,
    pub tab_active: Arc<str>,
    /// See [`CompanyRow::version`].
    pub version: i64,
}

/// A company that is configured but cannot be served. The text says what to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unroutable {
    pub reason: String,
    pub cause: Cause,
    pub version: i64,
}

/// What kind of thing keeps a company from being served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A column of its row is empty.
    Incomplete,
    Schema,
    Spreadsheet,
    /// A tab's title cannot be one, or both are the same.
    Title,
    /// Another company has the tab.
    Clash,
    /// It has two rows.
    Twice,
}

impl Cause {
    /// What an operator who runs `kylo company set` does about it.
    pub fn hint(self) -> &'static str {
        match self {
            Self::Incomplete => {
                "a new company needs --schema, --spreadsheet, --tab-pending, --tab-active and --dsn-file; `kylo company set --help` has an example"
            }
            Self::Schema => "give another --schema: lower-case letters, digits and _, such as app_710",
            Self::Spreadsheet => "--spreadsheet takes the spreadsheet's id or its whole URL",
            Self::Title => "give other titles with --tab-pending and --tab-active",
            Self::Clash => "`kylo company list` shows who uses which tab",
            Self::Twice => "delete the row that is not right from control.company_config",
        }
    }
}

/// Why a row makes no route.
type Refusal = (Cause, String);

/// Every configured company's route, or why it has none.
pub type Routes = BTreeMap<CompanyId, Result<Arc<Route>, Unroutable>>;

/// Which company has been using a tab: (spreadsheet id, lower-case title) -> company id. From `control.sheet_tabs`.
pub type Bound = HashMap<(String, String), String>;

/// Turns all rows into routes. On a clash (one tab for two companies) the company that is already bound to the tab goes on and the others
/// are refused; if none is bound, all of them are: guessing would show one company's rows to another.
pub fn routes(rows: &[CompanyRow], bound: &Bound) -> Routes {
    let mut parsed: Routes = BTreeMap::new();
    for row in rows {
        let Ok(company) = CompanyId::parse(&row.company_id) else { continue };
        let mut route = route(&company, row).map(Arc::new).map_err(|(cause, reason)| Unroutable { reason, cause, version: row.version });
        // Only an adopted table, keyed otherwise, can have this.
        if parsed.contains_key(&company) {
            let reason = format!("control.company_config has two rows of company {company}: delete all but the right one");
            route = Err(Unroutable { reason, cause: Cause::Twice, version: row.version });
        }
        parsed.insert(company, route);
    }
    refuse_clashes(&mut parsed, bound);
    parsed
}

fn route(company: &CompanyId, row: &CompanyRow) -> Result<Route, Refusal> {
    let given = |value: &Option<String>, name: &str| match value.as_deref() {
        Some(text) if !text.trim().is_empty() => Ok(text.to_owned()),
        _ => Err((Cause::Incomplete, format!("{name} is empty in control.company_config: run `kylo company set {company} ...`"))),
    };
    let because = |cause: Cause| move |reason: String| (cause, reason);
    let dsn = given(&row.db_dsn_rw, "db_dsn_rw")?;
    let schema = SchemaName::parse(&given(&row.db_schema, "db_schema")?).map_err(because(Cause::Schema))?;
    let spreadsheet = SpreadsheetId::parse(&given(&row.spreadsheet_id, "spreadsheet_id")?).map_err(because(Cause::Spreadsheet))?;
    let tab_pending = title(&given(&row.tab_pending, "tab_pending")?, "tab_pending").map_err(because(Cause::Title))?;
    let tab_active = title(&given(&row.tab_active, "tab_active")?, "tab_active").map_err(because(Cause::Title))?;
    if same_title(&tab_pending, &tab_active) {
        return Err((Cause::Title, format!("tab_pending and tab_active are both {tab_pending:?}: they must be two tabs")));
    }
    Ok(Route { company: company.clone(), dsn: Dsn::new(&dsn), schema, spreadsheet, tab_pending, tab_active, version: row.version })
}

/// The company of `kylo selftest`. Its messages go through the workers like any other's; it is never posted, whatever the canary list says, and it is
/// left out wherever what real companies have is counted, compared or asked for: its transactions are taken out of its books again, and it has no
/// spreadsheet. The view `control.companies` leaves out the same id.
pub const SELFTEST_COMPANY: &str = "__kylo_selftest";

/// Where it lives, in the control database.
pub const SELFTEST_SCHEMA: &str = "kylo_selftest";

/// Whether a company id is not the reserved one.
pub fn is_real(company: &str) -> bool {
    company != SELFTEST_COMPANY
}

/// Title of Kylo's own hidden tab; no company may use it.
pub const CONTROL_TAB: &str = "_kylo";

fn title(text: &str, name: &str) -> Result<Arc<str>, String> {
    if text.chars().count() > 100 || text.contains('\0') {
        return Err(format!("{name} must be a tab title of at most 100 characters"));
    }
    if same_title(text, CONTROL_TAB) {
        return Err(format!("{name} must not be {CONTROL_TAB:?}: that tab is Kylo's own"));
    }
    Ok(Arc::from(text))
}

/// Google compares titles ignoring case.
pub fn same_title(a: &str, b: &str) -> bool {
    a.to_lowercase() == b.to_lowercase()
}

fn refuse_clashes(routes: &mut Routes, bound: &Bound) {
    let mut users: BTreeMap<(String, String), Vec<CompanyId>> = BTreeMap::new();
    for route in routes.values().flatten() {
        for tab in [&route.tab_pending, &route.tab_active] {
            users.entry((route.spreadsheet.to_string(), tab.to_lowercase())).or_default().push(route.company.clone());
        }
    }
    for (tab, companies) in users.into_iter().filter(|(_, companies)| companies.len() > 1) {
        let owner = bound.get(&tab);
        for company in companies.iter().filter(|company| owner.is_none_or(|owner| owner != company.as_str())) {
            let others: Vec<_> = companies.iter().filter(|other| *other != company).map(CompanyId::as_str).collect();
            let reason = format!(
                "tab {:?} of spreadsheet {} is configured for {} too: give each company its own tab with `kylo company set`",
                tab.1,
                tab.0,
                others.join(", ")
            );
            if let Some(entry) = routes.get_mut(company) {
                let version = entry.as_ref().map_or_else(|refused| refused.version, |route| route.version);
                *entry = Err(Unroutable { reason, cause: Cause::Clash, version });
            }
        }
    }
}

#[cfg(test)]
mod tests;
