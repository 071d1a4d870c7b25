//! Finds the tabs of a spreadsheet and reads them, `_kylo` and the fence in one call; also for promote, which reads without posting.
//!
//! A tab is found by the sheet id it was bound under, so a person's rename is kept; without a valid binding by its configured title. What must
//! never happen here: a tab bound to another company being taken for this one's.

use std::collections::HashMap;
use std::sync::Arc;

use super::{CompanyWork, Halt, Poster, Session};
use crate::domain::company::{CONTROL_TAB, Route, SpreadsheetId, same_title};
use crate::domain::fence;
use crate::domain::ids::CompanyId;
use crate::domain::plan::TypedCells;
use crate::domain::sheet::{Observed, ObservedTab};
use crate::domain::tab::{self, HeaderError, Role, RowKey, TabView};
use crate::ports::{CallError, SheetGateway};
use crate::store::control::tabs::{self, TabRow};
use crate::store::error::describe;

/// Titles in one read. They travel in its URL, whose length Google limits.
const TITLE_BYTES: usize = 6_000;

/// Where a company's tab is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Located {
    /// As it is called now; as it is configured if it is to be made.
    pub title: String,
    /// `None` = it is to be made.
    pub sheet_id: Option<i32>,
    /// The seq that it was last known to show; -1 if none.
    pub posted_seq: i64,
}

/// A spreadsheet as it was read for certain tabs.
#[derive(Debug)]
pub(super) struct Look {
    pub observed: Observed,
    pub tabs: HashMap<(CompanyId, Role), Located>,
    /// Companies whose tab cannot be used, and why.
    pub refused: Vec<(Arc<Route>, String)>,
    /// Kylo's own tab, if it is there.
    control: Option<i32>,
}

/// Kylo's own tab as it was last seen: sheet id and title. A person may have renamed it.
pub(super) type KnownControl = Option<(i32, String)>;

/// Kylo's own tab: by the sheet id it had, else by its title.
fn control_in<'a>(tabs: &'a [ObservedTab], known: &KnownControl) -> Option<&'a ObservedTab> {
    let by_id = known.as_ref().and_then(|(sheet_id, _)| tabs.iter().find(|tab| tab.sheet_id == *sheet_id));
    by_id.or_else(|| tabs.iter().find(|tab| same_title(&tab.title, CONTROL_TAB)))
}

impl Look {
    pub fn tab(&self, sheet_id: i32) -> Option<&ObservedTab> {
        self.observed.tabs.iter().find(|tab| tab.sheet_id == sheet_id)
    }

    pub fn control(&self) -> Option<&ObservedTab> {
        self.tab(self.control?)
    }

    /// Whose Kylo works in the spreadsheet: `_kylo` says it, and where that is gone, the last fence.
    pub fn environment(&self) -> Option<String> {
        self.control().and_then(fence::environment).map(str::to_owned).or_else(|| fence::last_environment(&self.observed.metadata))
    }

    /// The reason to leave the spreadsheet alone if another environment's Kylo works in it.
    pub fn foreign_environment(&self, ours: &str, spreadsheet: &SpreadsheetId) -> Option<String> {
        let theirs = self.environment()?;
        (theirs != ours).then(|| {
            format!(
                "spreadsheet {spreadsheet} belongs to environment {theirs:?} (this one is {ours:?}): start with KYLO_ENVIRONMENT={theirs}, configure another \
                 spreadsheet, or, once no worker of {theirs:?} posts to it any more, run `kylo company take-over` for a company of it"
            )
        })
    }
}

/// The configured title of a company's tab.
pub(super) fn configured(route: &Route, role: Role) -> &str {
    match role {
        Role::Pending => &route.tab_pending,
        Role::Active => &route.tab_active,
    }
}

impl Session<'_> {
    /// Reads what is left to do. Companies whose tab cannot be used are parked.
    pub(super) async fn look(&mut self) -> Result<Look, Halt> {
        let bindings = self.options.store.bindings().await?;
        let mut wanted = wanted(&self.todo, &bindings);
        for (route, _) in wanted.clone().into_iter().filter(|(_, role)| *role == Role::Pending) {
            match self.options.store.known(route.company.as_str()).await {
                Ok(known) => drop(self.known.insert(route.company.clone(), known.typed)),
                Err(error @ sqlx::Error::Decode(_)) => {
                    self.park(&route, &describe(&error)).await?;
                    wanted.retain(|(other, _)| other.company != route.company);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let has_posted = self.row.confirmed_generation > 0;
        let known = self.row.control_sheet_id.zip(self.row.control_title.clone());
        let look = look(self.gateway, self.spreadsheet, &wanted, &bindings, &known, self.distrust_titles || !has_posted).await.map_err(Halt::Call)?;
        if let Some(reason) = look.foreign_environment(&self.options.environment, self.spreadsheet).filter(|_| !self.mend.take_over) {
            return Err(Halt::Parked(reason));
        }
        for (route, reason) in &look.refused {
            self.park(route, reason).await?;
        }
        Ok(look)
    }
}

/// As many companies, from the front, as one read takes. The others stay to be done.
fn wanted(todo: &[CompanyWork], bindings: &[TabRow]) -> Vec<(Arc<Route>, Role)> {
    let mut left = TITLE_BYTES;
    let mut wanted = Vec::new();
    for work in todo {
        let title = |role: &Role| binding(bindings, &work.route, *role).map_or_else(|| configured(&work.route, *role), |bound| bound.title.as_str());
        let bytes: usize = work.due.iter().map(|role| url_bytes(title(role))).sum();
        if bytes > left && !wanted.is_empty() {
            break;
        }
        left = left.saturating_sub(bytes);
        wanted.extend(work.due.iter().map(|role| (Arc::clone(&work.route), *role)));
    }
    wanted
}

/// About how long a title is in a URL, with its parameter's name.
fn url_bytes(title: &str) -> usize {
    20 + title.bytes().map(|byte| if byte.is_ascii_alphanumeric() { 1 } else { 3 }).sum::<usize>()
}

/// One read, preceded by the directory if a title is not known or turns out to be wrong.
pub(super) async fn look(
    gateway: &dyn SheetGateway,
    spreadsheet: &SpreadsheetId,
    wanted: &[(Arc<Route>, Role)],
    bindings: &[TabRow],
    known: &KnownControl,
    distrust_titles: bool,
) -> Result<Look, CallError> {
    let is_bound = |(route, role): &(Arc<Route>, Role)| binding(bindings, route, *role).is_some();
    let mut directory = None;
    if distrust_titles || !wanted.iter().all(is_bound) {
        directory = Some(gateway.directory(spreadsheet).await?);
    }
    loop {
        let mut located = locate_all(wanted, bindings, directory.as_ref());
        let mut titles: Vec<String> = located.tabs.values().filter(|tab| tab.sheet_id.is_some()).map(|tab| tab.title.clone()).collect();
        match &directory {
            None => titles.push(known.as_ref().map_or_else(|| CONTROL_TAB.to_owned(), |(_, title)| title.clone())),
            Some(directory) => titles.extend(control_in(&directory.tabs, known).map(|tab| tab.title.clone())),
        }
        titles.sort_unstable();
        if titles.is_empty()
            && let Some(Observed { title, metadata, .. }) = directory
        {
            located.observed = Observed { title, tabs: Vec::new(), metadata };
            return Ok(located);
        }
        match gateway.read(spreadsheet, &titles).await {
            Ok(observed) => {
                located.observed = observed;
                located.control = control_in(&located.observed.tabs, known).map(|tab| tab.sheet_id);
                let is_there = |tab: &Located| tab.sheet_id.is_none_or(|id| located.tab(id).is_some());
                let has_control = located.control.is_some() || directory.is_some();
                if has_control && located.tabs.values().all(is_there) {
                    return Ok(located);
                }
                if directory.is_some() {
                    return Err(CallError::Unknown("tabs were renamed while they were read".to_owned()));
                }
            }
            Err(CallError::Refused(_)) if directory.is_none() => {}
            Err(error) => return Err(error),
        }
        directory = Some(gateway.directory(spreadsheet).await?);
    }
}

fn locate_all(wanted: &[(Arc<Route>, Role)], bindings: &[TabRow], directory: Option<&Observed>) -> Look {
    let mut look = Look { observed: Observed::default(), tabs: HashMap::new(), refused: Vec::new(), control: None };
    for (route, role) in wanted {
        match locate(route, *role, bindings, directory) {
            Ok(located) => {
                look.tabs.insert((route.company.clone(), *role), located);
            }
            Err(reason) => look.refused.push((Arc::clone(route), reason)),
        }
    }
    for (route, _) in look.refused.clone() {
        look.tabs.retain(|(company, _), _| *company != route.company);
    }
    look
}

fn locate(route: &Route, role: Role, bindings: &[TabRow], directory: Option<&Observed>) -> Result<Located, String> {
    let title = configured(route, role);
    let bound = binding(bindings, route, role);
    let Some(directory) = directory else {
        return Ok(bound.map_or_else(
            || Located { title: title.to_owned(), sheet_id: None, posted_seq: -1 },
            |bound| Located { title: bound.title.clone(), sheet_id: Some(bound.sheet_id), posted_seq: tabs::shown_seq(bound.posted_seq) },
        ));
    };
    if let Some((bound, tab)) = bound.and_then(|bound| Some((bound, directory.tabs.iter().find(|tab| tab.sheet_id == bound.sheet_id)?))) {
        return Ok(Located { title: tab.title.clone(), sheet_id: Some(tab.sheet_id), posted_seq: tabs::shown_seq(bound.posted_seq) });
    }
    let Some(tab) = directory.tabs.iter().find(|tab| same_title(&tab.title, title)) else {
        return Ok(Located { title: title.to_owned(), sheet_id: None, posted_seq: -1 });
    };
    let others = bindings.iter().filter(|row| row.spreadsheet_id == route.spreadsheet.as_str() && row.sheet_id == tab.sheet_id);
    for other in others {
        let is_own = other.company_id == route.company.as_str();
        // A company's own stale binding gives way; its other tab does not, nor does anything of another company.
        if !is_own || Role::parse(&other.role).is_some_and(|other_role| other_role != role && binding(bindings, route, other_role).is_some()) {
            return Err(format!(
                "tab {title:?} of spreadsheet {} is the {} tab of company {}: rename it, or configure another title with `kylo company set`",
                route.spreadsheet, other.role, other.company_id
            ));
        }
    }
    Ok(Located { title: tab.title.clone(), sheet_id: Some(tab.sheet_id), posted_seq: -1 })
}

/// A binding holds only while company_config names the same spreadsheet and title.
pub(super) fn binding<'a>(bindings: &'a [TabRow], route: &Route, role: Role) -> Option<&'a TabRow> {
    bindings.iter().find(|row| {
        row.company_id == route.company.as_str()
            && row.role == role.as_str()
            && row.spreadsheet_id == route.spreadsheet.as_str()
            && row.configured_title == configured(route, role)
    })
}

/// What promote finds.
#[derive(Clone, Debug, PartialEq)]
pub enum PendingRead {
    /// This process does not post this company (shadow mode, or outside the canary list): no call was made.
    Shadow,
    /// There is no tab yet, or it is empty: nobody can have approved anything.
    NoTab,
    Tab(TabView),
}

/// Why a tab could not be read. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the Pending tab of company {company} could not be read")]
    Call { company: CompanyId, source: CallError },
    /// Somebody must act. The text says what to do.
    #[error("the Pending tab of company {company} cannot be used: {reason}")]
    Parked { company: CompanyId, reason: String },
    #[error("the control database could not be read")]
    Control(#[from] sqlx::Error),
}

impl Poster {
    /// Reads a company's Pending tab for promote: keys, machine cells and what people typed, which is also remembered. Takes no lease.
    ///
    /// # Errors
    /// [`ReadError`]
    pub async fn read_pending(&self, route: &Arc<Route>) -> Result<PendingRead, ReadError> {
        let Some(gateway) = self.options.gateway.as_deref().filter(|_| self.is_posted(&route.company)) else { return Ok(PendingRead::Shadow) };
        let company = || route.company.clone();
        let bindings = self.options.store.bindings().await?;
        let wanted = [(Arc::clone(route), Role::Pending)];
        let call = |source| ReadError::Call { company: company(), source };
        let control = self.options.store.control_tab(route.spreadsheet.as_str()).await?;
        let known = self.options.store.known(route.company.as_str()).await.map_err(|error| match error {
            sqlx::Error::Decode(_) => ReadError::Parked { company: company(), reason: describe(&error) },
            error => error.into(),
        })?;
        let look = look(gateway, &route.spreadsheet, &wanted, &bindings, &control, false).await.map_err(call)?;
        let reason = look.foreign_environment(&self.options.environment, &route.spreadsheet);
        if let Some(reason) = reason.or_else(|| look.refused.first().map(|(_, reason)| reason.clone())) {
            return Err(ReadError::Parked { company: company(), reason });
        }
        let located = look.tabs.get(&(company(), Role::Pending)).and_then(|located| located.sheet_id);
        let Some(tab) = located.and_then(|id| look.tab(id)) else { return Ok(PendingRead::NoTab) };
        match tab::read_pending(tab) {
            Ok(view) => {
                let typed = typed_cells(&view);
                self.options.store.add_typed(route.company.as_str(), tab.sheet_id, &known, &typed).await?;
                Ok(PendingRead::Tab(view))
            }
            Err(HeaderError::Empty) => Ok(PendingRead::NoTab),
            Err(error) => Err(ReadError::Parked { company: company(), reason: format!("tab {:?}: {error}", tab.title) }),
        }
    }
}

/// People's non-empty cells by transaction, topmost row first.
fn typed_cells(view: &TabView) -> TypedCells {
    let mut typed = TypedCells::new();
    for row in &view.rows {
        if let RowKey::Uid(uid) = row.key
            && !row.typed.is_empty()
        {
            typed.entry(uid).or_insert_with(|| row.typed.clone());
        }
    }
    typed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::company::{Bound, CompanyRow, routes};

    #[test]
    fn one_read_names_no_more_tabs_than_its_url_takes_and_always_those_of_one_company() {
        let row = |n: usize, title: &str| CompanyRow {
            company_id: format!("c{n:03}"),
            db_dsn_rw: Some("postgres://localhost/x".to_owned()),
            db_schema: Some(format!("app_{n}")),
            spreadsheet_id: Some("sheet-1".to_owned()),
            tab_pending: Some(format!("{title}{n} Pending")),
            tab_active: Some(format!("{title}{n} Active")),
            version: 1,
        };
        let todo = |title: &str| -> Vec<CompanyWork> {
            let rows: Vec<_> = (0..200).map(|n| row(n, title)).collect();
            let known = routes(&rows, &Bound::new()).into_values().map(Result::unwrap);
            known.map(|route| CompanyWork { state: None, route, due: Role::ALL.into_iter().collect(), has_trouble: false }).collect()
        };
        let plain = wanted(&todo("Company "), &[]);
        assert!((50..200).contains(&(plain.len() / 2)), "{}", plain.len());
        let titles: usize = plain.iter().map(|(route, role)| url_bytes(configured(route, *role))).sum();
        assert!(titles <= TITLE_BYTES, "{titles}");
        let long = wanted(&todo(&"ü".repeat(80)), &[]);
        assert!(long.len() >= 2 && long.len().is_multiple_of(2) && long.len() < plain.len(), "{}", long.len());
    }
}
