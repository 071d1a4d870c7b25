//! `kylo sheets`: whether the tabs show what Postgres says, and making them so at once.
//!
//! Compares by the poster's own plan: a tab is equal when there is nothing to send. What must never happen here: a write by `verify`, or by `repair` for a
//! company in shadow.

use std::sync::Arc;

use serde::Serialize;
use sqlx::PgPool;

use super::company::real_company_id;
use super::connect::{control, failed};
use super::failure::Failed;
use super::{Outcome, output, plan};
use crate::config::Settings;
use crate::domain::company::{self, Route};
use crate::domain::plan::plan_header;
use crate::domain::tab::Role;
use crate::flow::post::{Mend, Poster, Preview};
use crate::runtime::tools;
use crate::store::control::company_config;

/// Compare the tabs with Postgres, and post the difference
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 every tab is equal, 1 one is not or cannot be used, 2 usage or configuration.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Verify(VerifyArgs),
    Repair(RepairArgs),
}

/// Say for each tab whether it shows what Postgres says; changes nothing
///
/// Works in shadow mode too, because you ask for it. `kylo plan --company ID` shows the difference cell by cell.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kylo sheets verify\n  kylo sheets verify --company 710 --json\n\n\
    Exit codes: 0 every tab is equal, 1 one differs or cannot be used, 2 usage or configuration.")]
struct VerifyArgs {
    /// Only this one's tabs
    #[arg(long)]
    company: Option<String>,
    /// Print JSON (schemas/cli/sheets.json)
    #[arg(long)]
    json: bool,
}

/// Post what differs now, as a worker would, and compare again
///
/// Refused in shadow mode. Never touches what people have typed, but for the cases in which every post does.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  KYLO_SHEETS_POST=1 kylo sheets repair\n  KYLO_SHEETS_POST=1 kylo sheets repair --company 710 --headers\n\n\
    Exit codes: 0 every tab is equal now, 1 one is not, or the company is in shadow, 2 usage or configuration.")]
struct RepairArgs {
    /// Only this one's tabs
    #[arg(long)]
    company: Option<String>,
    /// Put missing headers back into row 1, and rename the extra ones of those that are there twice, where it is certain which column is meant
    #[arg(long)]
    headers: bool,
    /// Print JSON (schemas/cli/sheets.json): the tabs after the repair
    #[arg(long)]
    json: bool,
}

/// How a tab stands to Postgres.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Equal,
    /// There is no tab, and nothing to show in it.
    NotMade,
    Differs,
    /// Its header, or somebody else's claim, stands in the way.
    Unusable,
    /// The spreadsheet or a database could not be read.
    Unreadable,
}

/// One tab.
#[derive(Debug, Serialize)]
struct Tab {
    company_id: String,
    role: &'static str,
    spreadsheet_id: String,
    title: String,
    state: State,
    /// Rows that a post would append, change and remove.
    append: usize,
    change: usize,
    remove: usize,
    detail: Option<String>,
    /// Why its headers cannot be put back, if they cannot.
    #[serde(skip)]
    unmended: Option<String>,
}

impl Tab {
    fn is_good(&self) -> bool {
        matches!(self.state, State::Equal | State::NotMade)
    }
}

#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    tabs: Vec<Tab>,
}

impl Report {
    /// After a repair of headers, what is unusable still could not be repaired.
    fn say_why_headers_are_missing(&mut self) {
        for tab in &mut self.tabs {
            if let (Some(detail), Some(why)) = (&mut tab.detail, tab.unmended.take()) {
                *detail = format!("{detail}. It was not mended: {why}");
            }
        }
    }
}

pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Outcome> {
    settings.sheets.key_file()?;
    match args.command {
        Command::Verify(args) => {
            let control = control(settings).await?;
            let routes = routes(&control, args.company.as_deref()).await?;
            let report = compare(tools::poster(settings, &control)?.as_ref(), &routes).await;
            finish(&report, args.json)
        }
        Command::Repair(args) => repair(&args, settings).await,
    }
}

async fn repair(args: &RepairArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let control = control(settings).await?;
    let mut routes = routes(&control, args.company.as_deref()).await?;
    if let (Some(_), Some(Ok(route))) = (&args.company, routes.first()) {
        plan::refuse_shadow(settings, &route.company, "a repair writes into its spreadsheet")?;
    }
    if !settings.sheets.post {
        return Err(Failed::new("every company is in shadow: a repair writes into spreadsheets")
            .hint("KYLO_SHEETS_POST=1 kylo sheets repair")
            .into());
    }
    routes.retain(|route| route.as_ref().map_or_else(|(id, _)| settings.sheets.posts(id), |route| settings.sheets.posts(route.company.as_str())));
    let poster = tools::poster(settings, &control)?;
    let known: Vec<_> = routes.iter().flatten().cloned().collect();
    let round = poster.mend(&known, Mend { headers: args.headers, take_over: false }).await.map_err(|error| failed("repair the tabs", &error))?;
    let mut report = compare(poster.as_ref(), &routes).await;
    if args.headers {
        report.say_why_headers_are_missing();
    }
    if !args.json {
        let unusable = report.tabs.iter().filter(|tab| tab.state == State::Unusable).count();
        let more = if unusable > 0 { format!(", {unusable} tab(s) cannot be used") } else { String::new() };
        output::note(&format!("{} post(s) made, {} spreadsheet(s) were equal already{more}", round.posted, round.unchanged));
        if !args.headers && report.tabs.iter().any(|tab| tab.state == State::Unusable) {
            output::note("`kylo sheets repair --headers` puts headers back");
        }
    }
    finish(&report, args.json)
}

/// The companies asked for; those that cannot be served with the reason.
async fn routes(control: &PgPool, only: Option<&str>) -> anyhow::Result<Vec<Result<Arc<Route>, (String, String)>>> {
    let only = only.map(real_company_id).transpose()?;
    let rows = company_config::load_real(control).await.map_err(|error| failed("read control.company_config", &error))?;
    let bound = company_config::bound(control).await.map_err(|error| failed("read control.sheet_tabs", &error))?;
    let all = company::routes(&rows, &bound).into_iter().filter(|(id, _)| only.as_ref().is_none_or(|only| only == id));
    let found: Vec<_> = all.map(|(id, route)| route.map_err(|refused| (id.to_string(), refused.reason))).collect();
    match only {
        Some(id) if found.is_empty() => Err(Failed::new(format!("there is no company {id}")).hint("`kylo company list` shows all").into()),
        _ => Ok(found),
    }
}

/// One company after the other: the budget of calls is what takes the time.
async fn compare(poster: &Poster, routes: &[Result<Arc<Route>, (String, String)>]) -> Report {
    let mut tabs = Vec::new();
    for route in routes {
        match route {
            Err((id, reason)) => tabs.extend(Role::ALL.map(|role| unread(id, "", role, "", State::Unusable, reason))),
            Ok(route) => match poster.preview(route).await {
                Ok(previews) => tabs.extend(previews.iter().map(|preview| tab(route, preview))),
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                    let reason = format!("{error}{cause}");
                    tabs.extend(Role::ALL.map(|role| {
                        let title = if role == Role::Pending { &route.tab_pending } else { &route.tab_active };
                        unread(route.company.as_str(), route.spreadsheet.as_str(), role, title, State::Unreadable, &reason)
                    }));
                }
            },
        }
    }
    Report { ok: tabs.iter().all(Tab::is_good), tabs }
}

fn unread(company: &str, spreadsheet: &str, role: Role, title: &str, state: State, reason: &str) -> Tab {
    let (company_id, spreadsheet_id, title) = (company.to_owned(), spreadsheet.to_owned(), title.to_owned());
    Tab {
        company_id,
        role: role.as_str(),
        spreadsheet_id,
        title,
        state,
        append: 0,
        change: 0,
        remove: 0,
        detail: Some(reason.to_owned()),
        unmended: None,
    }
}

fn tab(route: &Route, preview: &Preview) -> Tab {
    let (company, spreadsheet, role) = (route.company.as_str(), route.spreadsheet.as_str(), preview.role);
    let plan = match &preview.plan {
        Ok(plan) => plan,
        Err(reason) => {
            let unmended = preview.seen.as_ref().and_then(|seen| plan_header(role, seen).err());
            return Tab { unmended, ..unread(company, spreadsheet, role, &preview.title, State::Unusable, reason) };
        }
    };
    let state = match &preview.seen {
        _ if plan.is_empty() => State::Equal,
        None if plan.row_count() == 0 => State::NotMade,
        _ => State::Differs,
    };
    let detail = match (&preview.seen, state) {
        (None, State::Differs) => Some("there is no such tab yet".to_owned()),
        (Some(_), State::Differs) if plan.row_count() == 0 => Some("the tab is empty: it lacks its header".to_owned()),
        _ => None,
    };
    Tab {
        company_id: company.to_owned(),
        role: role.as_str(),
        spreadsheet_id: spreadsheet.to_owned(),
        title: preview.title.clone(),
        state,
        append: plan.appended,
        change: plan.changed,
        remove: plan.removed,
        detail,
        unmended: None,
    }
}

fn finish(report: &Report, json: bool) -> anyhow::Result<Outcome> {
    if json {
        output::json(report)?;
    } else {
        let rows: Vec<_> = report.tabs.iter().map(row).collect();
        output::table(["COMPANY", "TAB", "STATE", "APPEND", "CHANGE", "REMOVE", "DETAIL"], &rows)?;
    }
    Ok(if report.ok { Outcome::Done } else { Outcome::No })
}

fn row(tab: &Tab) -> [String; 7] {
    let state = match tab.state {
        State::Equal => "equal",
        State::NotMade => "not made",
        State::Differs => "DIFFERS",
        State::Unusable => "UNUSABLE",
        State::Unreadable => "UNREADABLE",
    };
    let count = |n: usize| n.to_string();
    let detail = tab.detail.clone().unwrap_or_default();
    [tab.company_id.clone(), tab.title.clone(), state.to_owned(), count(tab.append), count(tab.change), count(tab.remove), detail]
}
