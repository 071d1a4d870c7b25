//! Google: credentials, each spreadsheet, each tab, the quota.

use std::collections::BTreeMap;
use std::sync::Arc;

use sqlx::PgPool;

use super::{Check, Fault};
use crate::config::Settings;
use crate::domain::company::{Route, SpreadsheetId};
use crate::flow::post::{CallFault, Poster, PreviewError};
use crate::runtime::tools;
use crate::store::control::status;
use crate::store::error::describe;

pub async fn look(settings: &Settings, control: Option<&PgPool>, routes: &[Arc<Route>]) -> Vec<Check> {
    let name = "google credentials";
    if settings.sheets.credentials.is_none() && !settings.sheets.post {
        return vec![Check::skipped(name, "GOOGLE_APPLICATION_CREDENTIALS", "not set, and not needed in shadow mode")];
    }
    let account = match tools::account(settings) {
        Ok(account) => account,
        Err(error) => {
            let (what, fix) = error.0.into_iter().next().map(|problem| (problem.message, problem.hint)).unwrap_or_default();
            return vec![Check::failed(name, "GOOGLE_APPLICATION_CREDENTIALS", ("credentials", what, fix))];
        }
    };
    let Some(control) = control else {
        return vec![Check::skipped(name, &account, "every call is counted in the control database, which cannot be used")];
    };
    let poster = match tools::poster(settings, control) {
        Ok(poster) => poster,
        Err(error) => return vec![Check::failed(name, &account, ("credentials", error.to_string(), "mend the setting that it names".to_owned()))],
    };
    let mut look = Look { settings, poster, account, checks: Vec::new(), has_answered: false };
    look.all(routes).await;
    look.quota(control).await;
    look.checks
}

struct Look<'a> {
    settings: &'a Settings,
    poster: Arc<Poster>,
    account: String,
    checks: Vec<Check>,
    /// Google has taken the credentials.
    has_answered: bool,
}

impl Look<'_> {
    async fn all(&mut self, routes: &[Arc<Route>]) {
        let mut by_spreadsheet: BTreeMap<SpreadsheetId, Vec<&Arc<Route>>> = BTreeMap::new();
        for route in routes {
            by_spreadsheet.entry(route.spreadsheet.clone()).or_default().push(route);
        }
        if by_spreadsheet.is_empty() {
            self.checks.push(Check::ok("google credentials", &self.account, "a usable key; no spreadsheet is configured to try it on"));
        }
        for (spreadsheet, routes) in by_spreadsheet {
            match self.spreadsheet(&spreadsheet, &routes).await {
                Ok(()) => {
                    for route in routes {
                        self.tabs(route).await;
                    }
                }
                Err(CallFault::Credentials) => return,
                Err(_) => {}
            }
        }
    }

    async fn spreadsheet(&mut self, spreadsheet: &SpreadsheetId, routes: &[&Arc<Route>]) -> Result<(), CallFault> {
        let name = "spreadsheet shared";
        let owner = match self.poster.owner(spreadsheet).await {
            Ok(owner) => owner,
            Err(error) => return Err(self.told(name, spreadsheet.as_str(), &error)),
        };
        self.answered();
        let theirs = owner.environment.filter(|theirs| *theirs != self.settings.environment);
        let posts = routes.iter().any(|route| self.settings.sheets.posts(route.company.as_str()));
        if posts && theirs.is_none() {
            match self.poster.may_write(spreadsheet).await {
                Ok(true) => self.checks.push(Check::ok(name, spreadsheet.as_str(), format!("{} may edit it", self.account))),
                Ok(false) => {
                    let what = format!("{} may read it and not edit it", self.account);
                    self.checks.push(Check::failed(name, spreadsheet.as_str(), ("not_shared", what, format!("make {} an editor", self.account))));
                }
                Err(error) => return Err(self.told(name, spreadsheet.as_str(), &error)),
            }
        } else {
            self.checks.push(Check::ok(name, spreadsheet.as_str(), format!("{} may read it", self.account)));
        }
        if let Some(theirs) = theirs {
            let what = format!("it belongs to environment {theirs:?}; this one is {:?}", self.settings.environment);
            let company = routes.first().map(|route| route.company.to_string()).unwrap_or_default();
            let fix = format!("start with KYLO_ENVIRONMENT={theirs}, configure another spreadsheet, or `kylo company take-over {company}`");
            self.checks.push(Check::failed("spreadsheet owner", spreadsheet.as_str(), ("other_environment", what, fix)));
        }
        Ok(())
    }

    async fn tabs(&mut self, route: &Arc<Route>) {
        let previews = match self.poster.preview(route).await {
            Ok(previews) => previews,
            Err(error @ PreviewError::Call(_)) => {
                self.told("tabs", route.company.as_str(), &error);
                return;
            }
            Err(_) => return self.checks.push(Check::skipped("tabs", route.company.as_str(), "its database cannot be read")),
        };
        for preview in previews {
            let target = format!("{} {:?}", route.company, preview.title);
            let check = match (&preview.plan, &preview.seen) {
                (Ok(_), Some(_)) => Check::ok("tab and headers", &target, "is there, with all its headers"),
                (Ok(_), None) => Check::ok("tab and headers", &target, "will be made by the first post"),
                (Err(what), seen) => {
                    let (class, fix) = match seen {
                        Some(_) => ("header", format!("put it back, or `kylo sheets repair --company {} --headers`", route.company)),
                        None => ("tab", "`kylo company list` shows who uses which tab".to_owned()),
                    };
                    Check::failed("tab and headers", &target, (class, what.clone(), fix))
                }
            };
            self.checks.push(check);
        }
    }

    /// The first answer shows that the credentials work.
    fn answered(&mut self) {
        if !std::mem::replace(&mut self.has_answered, true) {
            self.checks.push(Check::ok("google credentials", &self.account, "Google takes them"));
        }
    }

    fn told(&mut self, name: &'static str, target: &str, error: &PreviewError) -> CallFault {
        let kind = error.fault();
        let cause = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
        let account = &self.account;
        let fault = |class: &'static str, fix: String| -> Fault { (class, cause, fix) };
        let check = match kind {
            CallFault::Credentials => {
                let fix = "make a new JSON key for the service account; check this machine's clock, network and name server";
                Check::failed("google credentials", account, fault("credentials", fix.to_owned()))
            }
            CallFault::NotShared => Check::failed(
                name,
                target,
                fault("not_shared", format!("share the spreadsheet with {account} as editor; switch the Sheets API on in its project")),
            ),
            CallFault::NotFound => Check::failed(
                name,
                target,
                fault("not_found", format!("correct the id with `kylo company set`, or share the spreadsheet with {account}")),
            ),
            CallFault::Quota => Check::failed(
                "quota",
                target,
                fault("quota", "wait a minute; lower KYLO_SHEETS_READS_PER_MINUTE, or raise Google's quota".to_owned()),
            ),
            CallFault::Other => Check::failed(name, target, fault("google", "try again; see Google's status page".to_owned())),
        };
        if !matches!(kind, CallFault::Credentials) {
            self.answered();
        }
        self.checks.push(check);
        kind
    }

    async fn quota(&mut self, control: &PgPool) {
        let sheets = &self.settings.sheets;
        match status::waiting(control).await {
            Ok(used) => {
                let detail = format!(
                    "in the last minute {} of {} reads and {} of {} writes",
                    used.reads_used, sheets.reads_per_minute, used.writes_used, sheets.writes_per_minute
                );
                self.checks.push(Check::ok("quota", &self.account, detail));
            }
            Err(error) => self.checks.push(Check::failed("quota", &self.account, ("database", describe(&error), "kylo migrate".to_owned()))),
        }
    }
}
