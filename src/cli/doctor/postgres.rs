//! The control database, its schema, and each company's database.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use secrecy::ExposeSecret;
use sqlx::{Connection, PgConnection, PgPool};

use super::{Check, Fault};
use crate::cli::company::check_one;
use crate::cli::connect::{company_pools, control_unchecked};
use crate::config::secret::masked_dsn;
use crate::config::{Secret, Settings};
use crate::domain::company::{self, Route};
use crate::domain::ids::CompanyId;
use crate::store::control::company_config;
use crate::store::error::describe;
use crate::store::migrate::{self, ControlSchema};
use crate::store::pools::{PoolOptions, connect_options};

const WITHIN: Duration = Duration::from_secs(10);
/// Company databases asked at the same time.
const AT_ONCE: usize = 8;

/// What was found, and what the later checks need of it.
pub struct Databases {
    pub checks: Vec<Check>,
    /// `None`: it cannot be used.
    pub control: Option<PgPool>,
    pub routes: Vec<Arc<Route>>,
}

pub async fn look(settings: &Settings, only: Option<&CompanyId>) -> Databases {
    let mut found = Databases { checks: Vec::new(), control: None, routes: Vec::new() };
    let Some(control) = control(settings, &mut found.checks).await else { return found };
    let rows = company_config::load_real(&control).await;
    let bound = company_config::bound(&control).await;
    let routes = match (rows, bound) {
        (Ok(rows), Ok(bound)) => company::routes(&rows, &bound),
        (Err(error), _) | (_, Err(error)) => {
            let fault = ("database", describe(&error), "give its user the rights of the schema's owner".to_owned());
            found.checks.push(Check::failed("companies", "control.company_config", fault));
            return found;
        }
    };
    found.control = Some(control);
    let routes: Vec<_> = routes.into_iter().filter(|(id, _)| only.is_none_or(|only| only == id)).collect();
    if routes.is_empty() {
        let whom = only.map_or_else(String::new, |id| format!(" {id}"));
        found.checks.push(Check::skipped("companies", "control.company_config", format!("there is no company{whom} yet: `kylo company set`")));
    }
    let pools = company_pools();
    let asked = routes.into_iter().map(|(id, route)| {
        let pools = &pools;
        async move {
            match route {
                Err(refused) => (vec![Check::failed("company row", id.as_str(), ("company", refused.reason, refused.cause.hint().to_owned()))], None),
                Ok(route) => (company_database(pools, &route).await, Some(route)),
            }
        }
    });
    let answers: Vec<_> = futures::stream::iter(asked).buffered(AT_ONCE).collect().await;
    for (checks, route) in answers {
        found.checks.extend(checks);
        found.routes.extend(route);
    }
    found
}

async fn control(settings: &Settings, checks: &mut Vec<Check>) -> Option<PgPool> {
    let name = "control database";
    let dsn = match settings.control().and_then(Secret::current) {
        Ok(dsn) => dsn,
        Err(error) => {
            let (what, fix) = error.0.into_iter().next().map(|problem| (problem.message, problem.hint)).unwrap_or_default();
            checks.push(Check::failed(name, "PG_DSN_RW", ("dsn", what, fix)));
            return None;
        }
    };
    let target = masked_dsn(&dsn);
    match connect(dsn.expose_secret()).await {
        Ok(()) => checks.push(Check::ok(name, &target, "answers")),
        Err(fault) => {
            checks.push(Check::failed(name, &target, fault));
            return None;
        }
    }
    let name = "control schema";
    let fault = |what: String, fix: &str| Check::failed(name, "control", ("schema", what, fix.to_owned()));
    let pool = match control_unchecked(settings).await {
        Ok(pool) => pool,
        Err(error) => {
            checks.push(fault(error.to_string(), "try again"));
            return None;
        }
    };
    match migrate::check_control(&pool).await {
        Ok(ControlSchema::UpToDate) => {
            checks.push(Check::ok(name, "control", "is what this kylo needs"));
            Some(pool)
        }
        Ok(ControlSchema::Wrong(text)) => {
            checks.push(fault(text, "kylo migrate"));
            None
        }
        Err(error) => {
            checks.push(fault(error.to_string(), "give its user the rights of the schema's owner"));
            None
        }
    }
}

async fn company_database(pools: &crate::store::pools::Pools, route: &Route) -> Vec<Check> {
    let id = route.company.as_str();
    if let Err(fault) = connect(route.dsn.expose()).await {
        return vec![Check::failed("company database", id, fault), Check::skipped("company schema", id, "its database does not answer")];
    }
    let schema = match check_one(pools, route).await {
        Ok(detail) => Check::ok("company schema", id, detail),
        Err(what) => {
            let fix = format!("kylo migrate, then `kylo company check {id}`; for rights: make its user the owner of schema {}", route.schema);
            Check::failed("company schema", id, ("schema", what, fix))
        }
    };
    vec![Check::ok("company database", id, "answers"), schema]
}

/// One connection, not of a pool: a pool tries until its time is over and cannot say why.
async fn connect(dsn: &str) -> Result<(), Fault> {
    let options = connect_options(dsn, &PoolOptions::default()).map_err(|error| fault(&error))?;
    let connecting = async {
        let connection = PgConnection::connect_with(&options).await?;
        connection.close().await
    };
    match tokio::time::timeout(WITHIN, connecting).await {
        Ok(answer) => answer.map_err(|error| fault(&error)),
        Err(_) => {
            let fix = "check host and port in the DSN, and firewalls between";
            Err(("timeout", format!("no answer within {} s", WITHIN.as_secs()), fix.to_owned()))
        }
    }
}

fn fault(error: &sqlx::Error) -> Fault {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    let (class, fix) = match (error, code.as_deref()) {
        (_, Some(code)) if code.starts_with("28") => ("authentication", "check user and password in the DSN (or its file), and pg_hba.conf"),
        (_, Some("3D000")) => ("database_missing", "make the database, or correct its name in the DSN"),
        (_, Some("42501")) => ("rights", "give the user CONNECT on the database"),
        (_, Some("53300")) => ("full", "raise max_connections, or stop what holds connections"),
        (_, Some("57P03")) => ("starting", "wait: the server is starting or stopping"),
        (_, Some(_)) => ("database", "see the server's log"),
        (sqlx::Error::Io(io), _) if io.to_string().contains("lookup") => ("dns", "check the host in the DSN"),
        (sqlx::Error::Io(_), _) => ("connection", "start the server; check host and port in the DSN"),
        (sqlx::Error::Tls(_), _) => ("tls", "check sslmode and sslrootcert in the DSN"),
        (sqlx::Error::Configuration(_), _) => ("dsn", "give postgres://user:password@host:5432/database"),
        _ => ("connection", "check the DSN"),
    };
    (class, describe(error), fix.to_owned())
}
