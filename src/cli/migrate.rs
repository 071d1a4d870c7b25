//! `kylo migrate`: the schema of the control database and of every company that can be reached.

use std::collections::BTreeMap;

use serde::Serialize;

use super::connect::{company_pools, control_unchecked, failed};
use super::{Outcome, output};
use crate::config::Settings;
use crate::domain::company::{CompanyRow, Dsn, SchemaName};
use crate::store::control::{company_config, trouble};
use crate::store::error::describe;
use crate::store::migrate::{self, MigrateError, Scope, Version, VersionState};
use crate::store::pools::Pools;

/// Bring the schema of the control database and of every company's database up to date
///
/// Applies the numbered files of ddl/, each in a transaction of its own. Tables that the original's runbook made are adopted as they are.
/// A company whose database cannot be reached is reported and does not stop the others. Two runs at the same time are safe.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kylo migrate\n  kylo migrate --status && kylo run\n\n\
    Exit codes: 0 nothing is missing (any more), 1 something is missing or cannot be reached, 2 usage or configuration.")]
pub struct Args {
    /// Change nothing: exit with 0 if nothing is missing, else with 1
    #[arg(long)]
    status: bool,
    /// Print JSON (schemas/cli/migrate.json)
    #[arg(long)]
    json: bool,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Line {
    scope: &'static str,
    schema: String,
    /// The companies that live in this schema.
    companies: Vec<String>,
    version: Option<i32>,
    name: Option<&'static str>,
    /// missing, applied, present, changed, or unreachable.
    state: &'static str,
    detail: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    up_to_date: bool,
    lines: Vec<Line>,
}

pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Outcome> {
    let control = control_unchecked(settings).await?;
    let mut report = Report { up_to_date: true, lines: Vec::new() };
    let found = one(&control, &Scope::Control, args.status).await;
    let control_is_there = found.as_ref().is_ok_and(|versions| versions.iter().all(|version| version.state.is_fine()));
    report.add("control", &Scope::Control, &[], found);
    if control_is_there {
        let rows = company_config::load(&control).await.map_err(|error| failed("read control.company_config", &error))?;
        let pools = company_pools();
        for ((dsn, schema), companies) in homes(&rows, &mut report) {
            let scope = Scope::Company(schema);
            let found = company(&pools, &dsn, &scope, args.status).await;
            if found.as_ref().is_ok_and(|versions| versions.iter().any(|version| version.state == VersionState::Applied)) {
                // Whoever was parked for the missing schema is tried again now, not at the end of its quarter of an hour.
                for company in &companies {
                    trouble::request_retry(&control, Some(company)).await.map_err(|error| failed("ask for another try", &error))?;
                }
            }
            report.add("company", &scope, &companies, found);
        }
    }
    report.print(args.json)?;
    Ok(if report.up_to_date { Outcome::Done } else { Outcome::No })
}

async fn one(pool: &sqlx::PgPool, scope: &Scope, only_look: bool) -> Result<Vec<Version>, MigrateError> {
    if only_look { migrate::status(pool, scope).await } else { migrate::apply(pool, scope).await }
}

async fn company(pools: &Pools, dsn: &Dsn, scope: &Scope, only_look: bool) -> Result<Vec<Version>, MigrateError> {
    let pool = pools.pool(dsn).map_err(|source| MigrateError::Database {
        attempt: "use db_dsn_rw".to_owned(),
        schema: scope.schema().to_owned(),
        source,
    })?;
    one(&pool, scope, only_look).await
}

/// Each company schema once, with who lives in it. A row without a usable DSN or schema is reported; its tabs do not matter here.
fn homes(rows: &[CompanyRow], report: &mut Report) -> BTreeMap<(Dsn, SchemaName), Vec<String>> {
    let mut homes: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for row in rows {
        let dsn = row.db_dsn_rw.as_deref().filter(|dsn| !dsn.trim().is_empty()).map(Dsn::new).ok_or_else(|| "db_dsn_rw is empty".to_owned());
        let schema = SchemaName::parse(row.db_schema.as_deref().unwrap_or_default());
        match (dsn, schema) {
            (Ok(dsn), Ok(schema)) => homes.entry((dsn, schema)).or_default().push(row.company_id.clone()),
            (Err(reason), _) | (_, Err(reason)) => report.unreachable(row, format!("{reason}: run `kylo company set {}`", row.company_id)),
        }
    }
    homes
}

impl Report {
    fn add(&mut self, kind: &'static str, scope: &Scope, companies: &[String], found: Result<Vec<Version>, MigrateError>) {
        let line = |version: Option<&Version>, state, detail| Line {
            scope: kind,
            schema: scope.schema().to_owned(),
            companies: companies.to_vec(),
            version: version.map(|version| version.version),
            name: version.map(|version| version.name),
            state,
            detail,
        };
        match found {
            Ok(versions) => {
                self.up_to_date &= versions.iter().all(|version| version.state.is_fine());
                self.lines.extend(versions.iter().map(|version| line(Some(version), version.state.as_str(), None)));
            }
            Err(error) => {
                self.up_to_date = false;
                let (state, detail) = match &error {
                    MigrateError::Changed { .. } => (VersionState::Changed.as_str(), error.to_string()),
                    MigrateError::Database { attempt, source, .. } => ("unreachable", format!("cannot {attempt}: {}", describe(source))),
                };
                self.lines.push(line(None, state, Some(detail)));
            }
        }
    }

    fn unreachable(&mut self, row: &CompanyRow, reason: String) {
        self.up_to_date = false;
        self.lines.push(Line {
            scope: "company",
            schema: row.db_schema.clone().unwrap_or_default(),
            companies: vec![row.company_id.clone()],
            version: None,
            name: None,
            state: "unreachable",
            detail: Some(reason),
        });
    }

    fn print(&self, json: bool) -> std::io::Result<()> {
        if json {
            return output::json(self);
        }
        let rows = self.lines.iter().map(|line| {
            let who = if line.scope == "control" { "control".to_owned() } else { format!("company {}", line.companies.join(", ")) };
            [who, line.schema.clone(), line.name.unwrap_or("-").to_owned(), line.state.to_owned(), line.detail.clone().unwrap_or_default()]
        });
        output::table(["SCOPE", "SCHEMA", "VERSION", "STATE", "DETAIL"], &rows.collect::<Vec<_>>())?;
        if !self.up_to_date {
            output::note("something is missing or cannot be reached; `kylo migrate` applies what is missing");
        }
        Ok(())
    }
}
