//! `kylo company`: the rows of `control.company_config`.
//!
//! What must never happen here: a DSN on argv or in a message.

mod take_over;

use std::collections::BTreeSet;
use std::io::Read;
use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use sqlx::PgPool;
use uuid::Uuid;

use super::connect::{company_pools, control, failed};
use super::failure::Failed;
use super::{Outcome, output, usage};
use crate::config::settings::spreadsheet;
use crate::config::{Secret, Settings};
use crate::domain::company::{self, Bound, Dsn, Route, Unroutable};
use crate::domain::ids::CompanyId;
use crate::flow::relay::own_outboxes;
use crate::flow::routing::RoutingCache;
use crate::store::control::admin::{self, Change, Set};
use crate::store::control::{company_config, relay, trouble};
use crate::store::error::describe;
use crate::store::migrate::{self, MigrateError, Scope};
use crate::store::outbox::database_name;
use crate::store::pools::{PATIENCE, Pools, within};

/// See and change which companies there are, and where their data goes
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 ok, 1 refused, missing or not reachable, 2 usage or configuration.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Set(SetArgs),
    List(ListArgs),
    Remove(RemoveArgs),
    Check(CheckArgs),
    TakeOver(take_over::Args),
}

/// Create a company, or change what is given of one
///
/// The company's database is tried first: its schema is made and brought up to date. A tab that another company uses is refused.
/// The DSN comes from a file, from stdin, or from KYLO_COMPANY_DSN, never from an argument. Workers see the change within 5 s.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    printf %s \"$DSN\" | kylo company set 710 --schema app_710 --spreadsheet 1AbC --tab-pending '710 Pending' --tab-active '710 Active' --dsn-file -\n  \
    kylo company set 710 --tab-pending 'Waiting'\n\n\
    Exit codes: 0 done (or nothing to change), 1 refused or the database does not answer, 2 usage or configuration.")]
struct SetArgs {
    /// The company's id, as messages carry it
    id: String,
    /// Schema of the company's tables: lower-case letters, digits and _, at most 50, not beginning with a digit
    #[arg(long)]
    schema: Option<String>,
    /// Id (or URL) of the spreadsheet
    #[arg(long)]
    spreadsheet: Option<String>,
    /// Title of the tab in which people decide
    #[arg(long)]
    tab_pending: Option<String>,
    /// Title of the tab that shows the rules in force
    #[arg(long)]
    tab_active: Option<String>,
    /// File with the company's DSN, `-` for stdin [env: KYLO_COMPANY_DSN, KYLO_COMPANY_DSN_FILE]
    #[arg(long, value_name = "FILE")]
    dsn_file: Option<PathBuf>,
}

/// List the companies, and why one cannot be served
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kylo company list\n  kylo company list --json\n\nExit codes: 0 ok, 1 failed, 2 usage or configuration.")]
struct ListArgs {
    /// Print JSON (schemas/cli/company-list.json)
    #[arg(long)]
    json: bool,
}

/// Forget a company: its messages become dead letters from then on; its database and tabs stay as they are
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kylo company remove 710\n\nExit codes: 0 removed, 1 there is no such company, 2 usage or configuration.")]
struct RemoveArgs {
    /// The company's id
    id: String,
}

/// Connect to each company's database and compare its schema
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kylo company check\n  kylo company check 710\n\n\
    Exit codes: 0 all is well, 1 something is wrong with a company, 2 usage or configuration.")]
struct CheckArgs {
    /// Only this one
    id: Option<String>,
    /// Print JSON (schemas/cli/company-check.json)
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Outcome> {
    match args.command {
        Command::Set(args) => set(args, settings).await,
        Command::List(args) => list(&args, settings).await,
        Command::Remove(args) => remove(&args, settings).await,
        Command::Check(args) => check(&args, settings).await,
        Command::TakeOver(args) => take_over::run(&args, settings).await,
    }
}

/// An id from the command line.
pub fn company_id(text: &str) -> anyhow::Result<CompanyId> {
    CompanyId::parse(text).map_err(|error| usage(format!("company id {text:?} {error}"), "give the id as messages carry it"))
}

/// The id of a company that a command may be asked about whose answer makes no sense for the reserved one.
pub fn real_company_id(text: &str) -> anyhow::Result<CompanyId> {
    let id = company_id(text)?;
    if company::is_real(id.as_str()) {
        return Ok(id);
    }
    Err(usage(
        format!("{id} is the company of `kylo selftest`, which has no spreadsheet and whose books are emptied again: there is nothing to look at"),
        "leave --company out, or give a company of your own",
    ))
}

async fn set(args: SetArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let id = company_id(&args.id)?;
    let sheet = args.spreadsheet.as_deref().map(spreadsheet).transpose();
    let sheet = sheet.map_err(|reason| usage(reason, "`kylo company set --help` shows an example"))?;
    let dsn = dsn(&args, settings)?.map(|secret| Dsn::new(secret.expose_secret()));
    let change =
        Change { dsn, schema: args.schema, spreadsheet: sheet.map(|id| id.to_string()), tab_pending: args.tab_pending, tab_active: args.tab_active };
    let control = control(settings).await?;
    let route = match admin::preview(&control, &id, &change).await.map_err(|error| failed("read control.company_config", &error))? {
        Ok(route) => route,
        Err(why) => return Err(refused(&id, &why)),
    };
    let pool = company_pools().pool(&route.dsn).map_err(|error| usage(describe(&error), "give postgres://user:password@host:5432/database"))?;
    let scope = Scope::Company(route.schema.clone());
    migrate::apply(&pool, &scope).await.map_err(|error| Failed::new(format!("company {id} was not changed: {error}")).hint(hint(&error)))?;
    let text = match admin::set(&control, &id, &change).await.map_err(|error| failed("write control.company_config", &error))? {
        Set::Created => format!("company {id} is created: schema {}, tabs {:?} and {:?}", route.schema, &*route.tab_pending, &*route.tab_active),
        Set::Changed => format!("company {id} is changed; workers see it within 5 s"),
        Set::Unchanged => format!("company {id} is as it was"),
        Set::Refused(why) => return Err(refused(&id, &why)),
    };
    // Also when the row is as it was: whoever sets it again wants it tried again.
    trouble::request_retry(&control, Some(id.as_str())).await.map_err(|error| failed("ask for another try", &error))?;
    output::line(&text)?;
    Ok(Outcome::Done)
}

fn refused(id: &CompanyId, why: &Unroutable) -> anyhow::Error {
    Failed::new(format!("company {id} was not changed: {}", why.reason)).hint(why.cause.hint()).into()
}

/// What to do about a company database that does not take the schema.
fn hint(error: &MigrateError) -> &'static str {
    let MigrateError::Database { source, .. } = error else { return "the schema was made by another version of kylo" };
    let code = source.as_database_error().and_then(sqlx::error::DatabaseError::code);
    match code.as_deref() {
        Some(code) if code.starts_with("28") => "check user and password in the DSN",
        Some("3D000") => "make the database first, or correct its name in the DSN",
        Some("42501") => "give the DSN's user CREATE on the database, or make the schema yourself with that user as its owner",
        Some("25006") => "this server is a standby: give the DSN of the primary",
        Some(_) => "the server's message says what it does not take",
        None => "check that the server runs, and host and port in the DSN",
    }
}

/// The DSN from `--dsn-file`, or from the environment.
fn dsn(args: &SetArgs, settings: &Settings) -> anyhow::Result<Option<SecretString>> {
    let Some(path) = &args.dsn_file else {
        return Ok(settings.company_dsn.as_ref().map(Secret::current).transpose()?);
    };
    if path.as_os_str() != "-" {
        return Ok(Some(Secret::File { name: "--dsn-file", path: path.clone() }.current()?));
    }
    let mut text = String::new();
    std::io::stdin()
        .take(64 * 1024)
        .read_to_string(&mut text)
        .map_err(|error| usage(format!("cannot read the DSN from stdin: {error}"), "pipe it in, as text"))?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() {
        return Err(usage("stdin is empty, and --dsn-file - reads the DSN from it", "printf %s \"$DSN\" | kylo company set ... --dsn-file -"));
    }
    Ok(Some(SecretString::from(text.to_owned())))
}

/// A company as `list` shows it. No DSN.
#[derive(Debug, Serialize)]
struct Listed {
    company_id: String,
    db_schema: Option<String>,
    spreadsheet_id: Option<String>,
    tab_pending: Option<String>,
    tab_active: Option<String>,
    dsn_set: bool,
    usable: bool,
    reason: Option<String>,
}

async fn list(args: &ListArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let control = control(settings).await?;
    let mut rows = company_config::load(&control).await.map_err(|error| failed("read control.company_config", &error))?;
    let bound = company_config::bound(&control).await.map_err(|error| failed("read control.sheet_tabs", &error))?;
    rows.sort_by(|a, b| a.company_id.cmp(&b.company_id));
    let routes = company::routes(&rows, &bound);
    let listed = rows.into_iter().map(|row| {
        let route = CompanyId::parse(&row.company_id).ok().and_then(|id| routes.get(&id));
        let reason = match route {
            Some(Ok(_)) => None,
            Some(Err(refused)) => Some(refused.reason.clone()),
            None => Some("the company id is not usable".to_owned()),
        };
        Listed {
            company_id: row.company_id,
            db_schema: row.db_schema,
            spreadsheet_id: row.spreadsheet_id,
            tab_pending: row.tab_pending,
            tab_active: row.tab_active,
            dsn_set: row.db_dsn_rw.is_some_and(|dsn| !dsn.is_empty()),
            usable: reason.is_none(),
            reason,
        }
    });
    let listed: Vec<_> = listed.collect();
    if args.json {
        output::json(&listed)?;
        return Ok(Outcome::Done);
    }
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let table = listed.iter().map(|c| {
        let state = c.reason.as_deref().map_or_else(|| "ok".to_owned(), |reason| format!("not usable: {reason}"));
        [c.company_id.clone(), or_dash(&c.db_schema), or_dash(&c.spreadsheet_id), or_dash(&c.tab_pending), or_dash(&c.tab_active), state]
    });
    output::table(["COMPANY", "SCHEMA", "SPREADSHEET", "PENDING TAB", "ACTIVE TAB", "STATE"], &table.collect::<Vec<_>>())?;
    Ok(Outcome::Done)
}

async fn remove(args: &RemoveArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let id = company_id(&args.id)?;
    let control = control(settings).await?;
    let before = outboxes(&control, settings).await?;
    if !admin::remove(&control, &id).await.map_err(|error| failed("remove the company", &error))? {
        return Err(Failed::new(format!("there is no company {id}")).hint("`kylo company list` shows all").into());
    }
    output::line(&format!("company {id} is removed; its database and tabs are as they were"))?;
    // Those that it shared with another company stay; a relay that holds one finds out by itself.
    if let (Some(before), Some(left)) = (before, outboxes(&control, settings).await?) {
        let gone: Vec<String> = before.difference(&left).cloned().collect();
        relay::forget_outboxes(&control, Uuid::nil(), &gone).await.map_err(|error| failed("forget the company's outbox", &error))?;
    }
    Ok(Outcome::Done)
}

/// Names of Kylo's own outboxes; `None` if a company cannot be routed, whose outbox may be another's too.
async fn outboxes(control: &PgPool, settings: &Settings) -> anyhow::Result<Option<BTreeSet<String>>> {
    let routes = RoutingCache::new(control.clone()).all().await.map_err(|error| failed("read the companies", &error))?;
    if routes.values().any(Result::is_err) {
        return Ok(None);
    }
    let dsn = settings.control()?.current()?;
    Ok(Some(own_outboxes(&database_name(dsn.expose_secret())?, &routes, &settings.kafka.topic_events).into_keys().collect()))
}

#[derive(Debug, Serialize)]
struct Checked {
    company_id: String,
    ok: bool,
    detail: String,
}

async fn check(args: &CheckArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let only = args.id.as_deref().map(company_id).transpose()?;
    let control = control(settings).await?;
    let rows = company_config::load(&control).await.map_err(|error| failed("read control.company_config", &error))?;
    let bound: Bound = company_config::bound(&control).await.map_err(|error| failed("read control.sheet_tabs", &error))?;
    let pools = company_pools();
    let mut checked = Vec::new();
    for (id, route) in company::routes(&rows, &bound).into_iter().filter(|(id, _)| only.as_ref().is_none_or(|only| only == id)) {
        let verdict = match route {
            Ok(route) => check_one(&pools, &route).await,
            Err(refused) => Err(refused.reason),
        };
        let ok = verdict.is_ok();
        let detail = verdict.unwrap_or_else(|reason| reason);
        checked.push(Checked { company_id: id.to_string(), ok, detail });
    }
    if let (Some(only), true) = (&only, checked.is_empty()) {
        return Err(Failed::new(format!("there is no company {only}")).hint("`kylo company list` shows all").into());
    }
    if args.json {
        output::json(&checked)?;
    } else {
        let table: Vec<_> = checked.iter().map(|c| [c.company_id.clone(), if c.ok { "ok" } else { "FAILED" }.to_owned(), c.detail.clone()]).collect();
        output::table(["COMPANY", "STATE", "DETAIL"], &table)?;
    }
    Ok(if checked.iter().all(|c| c.ok) { Outcome::Done } else { Outcome::No })
}

/// Whether the company's schema is there, up to date and can be written; what it says otherwise.
pub async fn check_one(pools: &Pools, route: &Route) -> Result<String, String> {
    let pool = pools.pool(&route.dsn).map_err(|error| describe(&error))?;
    let versions = migrate::status(&pool, &Scope::Company(route.schema.clone())).await.map_err(|error| error.to_string())?;
    let bad: Vec<_> =
        versions.iter().filter(|version| !version.state.is_fine()).map(|version| format!("{} is {}", version.name, version.state.as_str())).collect();
    if !bad.is_empty() {
        return Err(format!("schema {}: {}: run `kylo migrate`", route.schema, bad.join(", ")));
    }
    // Readable is not enough: a standby, or a user without rights, answers as well.
    let written = async {
        let mut tx = pools.begin(&route.dsn, &route.schema).await?;
        crate::store::company::status::can_write(&mut tx).await
    };
    within(PATIENCE, written).await.map_err(|error| describe(&error))?;
    Ok(format!("schema {} answers and is up to date", route.schema))
}
