//! `kylo status`: what runs, what waits and why.

mod text;

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::Value;
use sqlx::PgPool;

use super::connect::{company_pools, control, failed};
use super::{Outcome, output};
use crate::config::Settings;
use crate::domain::company::{self, Routes};
use crate::domain::ids::CompanyId;
use crate::flow::relay::own_outboxes;
use crate::runtime::tools::{self, GroupLag};
use crate::store::company::status::{Figures, figures};
use crate::store::control::relay::{self, OutboxState};
use crate::store::control::status::{self, CompanyFigures, OpenIntent, Trouble};
use crate::store::control::workers::{self, WorkerRow};
use crate::store::control::{company_config, dead_letters, poison};
use crate::store::error::describe;
use crate::store::outbox::database_name;
use crate::store::pools::{PATIENCE, Pools, within};

/// A worker that was not heard of for this long is not running.
const RECENT_SECONDS: i32 = 60;
/// How long one company's database is waited for; less than all the rest together may take.
const COMPANY_PATIENCE: Duration = Duration::from_secs(15);

/// What runs, in which mode, what waits and why
///
/// Shows the workers' modes, the consumers' lag, and for each company: open pending rows, the oldest change that its tabs do not show, the last
/// post, held messages, dead letters, and what is down or parked and why.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kylo status\n  kylo status --company 710\n  kylo status --json | jq .companies\n\n\
    Exit codes: 0 ok (also when something waits), 1 failed, 2 usage or configuration.")]
pub struct Args {
    /// Only this company
    #[arg(long)]
    company: Option<String>,
    /// Print JSON (schemas/cli/status.json)
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    workers: Vec<Worker>,
    warnings: Vec<String>,
    lag: Vec<Lag>,
    companies: Vec<Company>,
    troubles: Vec<Reason>,
    in_doubt_posts: Vec<Doubt>,
    stopped_partitions: Vec<poison::Stopped>,
    dead_letters: Vec<ClassCount>,
    relay: Vec<Outbox>,
}

/// An outbox and its relay.
#[derive(Debug, Serialize)]
struct Outbox {
    source: String,
    schema_name: String,
    table_name: String,
    /// Some relay holds it now.
    leased: bool,
    state: String,
    reason: Option<String>,
    last_poll_time: Option<DateTime<Utc>>,
    last_publish_time: Option<DateTime<Utc>>,
    total_events_published: i64,
    retrying: i64,
    given_up: i64,
}

#[derive(Debug, Serialize)]
struct Worker {
    command: String,
    host: String,
    pid: i32,
    version: String,
    mode: String,
    canary: Vec<String>,
    partitions: Value,
    /// Why it is not ready, as it said with its last heartbeat.
    trouble: Option<String>,
    started_at: DateTime<Utc>,
    heartbeat_seconds_ago: i64,
}

#[derive(Debug, Serialize)]
struct Lag {
    group: String,
    topic: String,
    partition: i32,
    behind: i64,
}

#[derive(Debug, Serialize)]
struct Company {
    company_id: String,
    configured: bool,
    open_pending: Option<i64>,
    active_rules: Option<i64>,
    ruleset_version: Option<i32>,
    matched_queued: Option<i64>,
    oldest_unposted_at: Option<DateTime<Utc>>,
    oldest_unposted_seconds: Option<i64>,
    last_post_at: Option<DateTime<Utc>>,
    last_post_tab: Option<String>,
    held_messages: i64,
    dead_letters: i64,
    /// Why its own figures are not known, or why it is not served.
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct Reason {
    subject: String,
    work: String,
    state: String,
    reason: String,
    since: DateTime<Utc>,
    retry_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Serialize)]
struct Doubt {
    spreadsheet_id: String,
    state: String,
    companies: Vec<String>,
    sent_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Serialize)]
struct ClassCount {
    class: String,
    count: i64,
}

pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Outcome> {
    let only = args.company.as_deref().map(super::company::company_id).transpose()?;
    let control = control(settings).await?;
    let gathered = within(PATIENCE, gather(&control, settings, only.as_ref())).await;
    let mut report = gathered.map_err(|error| failed("read the control database", &error))?;
    match tools::lags(settings).await {
        Ok(lags) => report.lag = lags.into_iter().filter(|lag| args.json || lag.behind > 0).map(Lag::from).collect(),
        Err(error) => report.warnings.push(format!("the lag is not known: {error}")),
    }
    if args.json {
        output::json(&report)?;
    } else {
        report.print()?;
    }
    Ok(Outcome::Done)
}

/// The outboxes that events of this company leave by: its own, and the control database's.
fn outboxes_of(settings: &Settings, routes: &Routes, only: &CompanyId) -> Result<BTreeSet<String>, sqlx::Error> {
    // Without a DSN there would be no connection to ask on.
    let Some(dsn) = settings.control().ok().and_then(|secret| secret.current().ok()) else { return Ok(BTreeSet::new()) };
    let its: Routes = routes.iter().filter(|(id, _)| *id == only).map(|(id, route)| (id.clone(), route.clone())).collect();
    Ok(own_outboxes(&database_name(dsn.expose_secret())?, &its, &settings.kafka.topic_events).into_keys().collect())
}

async fn gather(control: &PgPool, settings: &Settings, only: Option<&CompanyId>) -> Result<Report, sqlx::Error> {
    let workers = workers::recent(control, RECENT_SECONDS).await?;
    let rows = company_config::load(control).await?;
    let routes = company::routes(&rows, &company_config::bound(control).await?);
    // The reserved company has nothing that waits; it is shown to whom asks for it by name.
    let wanted = |id: &str| only.map_or(company::is_real(id), |only| only.as_str() == id);
    let pools = company_pools();
    let known = status::companies(control).await?;
    let asked = known.into_iter().filter(|figures| wanted(&figures.company_id)).map(|figures| company(&pools, &routes, figures));
    let companies = futures::future::join_all(asked).await;
    let troubles = status::troubles(control).await?;
    let spreadsheets: BTreeSet<String> =
        routes.iter().filter(|(id, _)| wanted(id.as_str())).filter_map(|(_, route)| Some(route.as_ref().ok()?.spreadsheet.to_string())).collect();
    let intents = status::open_intents(control).await?;
    let outboxes = only.map(|only| outboxes_of(settings, &routes, only)).transpose()?;
    Ok(Report {
        warnings: warnings(&workers, &routes),
        workers: workers.into_iter().map(Worker::from).collect(),
        lag: Vec::new(),
        companies,
        troubles: troubles
            .into_iter()
            .filter(|trouble| wanted(&trouble.subject) || spreadsheets.contains(&trouble.subject))
            .map(Reason::from)
            .collect(),
        in_doubt_posts: intents.into_iter().filter(|intent| intent.companies.iter().any(|id| wanted(id))).map(Doubt::from).collect(),
        stopped_partitions: poison::stopped(control).await?,
        dead_letters: dead_letters::open_by_class(control, only.map(CompanyId::as_str))
            .await?
            .into_iter()
            .map(|(class, count)| ClassCount { class, count })
            .collect(),
        relay: relay::states(control)
            .await?
            .into_iter()
            .filter(|outbox| outboxes.as_ref().is_none_or(|its| its.contains(&outbox.source)))
            .map(Outbox::from)
            .collect(),
    })
}

/// The company's own figures; what cannot be read is said and stops nobody else.
async fn company(pools: &Pools, routes: &Routes, known: CompanyFigures) -> Company {
    let route = CompanyId::parse(&known.company_id).ok().and_then(|id| routes.get(&id));
    let (own, problem) = match route {
        Some(Ok(route)) => match read(pools, route, &known).await {
            Ok(own) => (Some(own), None),
            Err(error) => (None, Some(format!("its database cannot be read: {}", describe(&error)))),
        },
        Some(Err(refused)) => (None, Some(refused.reason.clone())),
        None => (None, Some("it is not in control.company_config".to_owned())),
    };
    Company {
        company_id: known.company_id,
        configured: route.is_some(),
        open_pending: own.as_ref().map(|own| own.open_pending),
        active_rules: own.as_ref().map(|own| own.active_rules),
        ruleset_version: own.as_ref().map(|own| own.ruleset_version),
        matched_queued: own.as_ref().map(|own| own.matched_queued),
        oldest_unposted_at: own.as_ref().and_then(|own| own.oldest_unposted_at),
        oldest_unposted_seconds: own.as_ref().and_then(|own| own.oldest_unposted_seconds),
        last_post_at: known.last_post_at,
        last_post_tab: known.last_post_tab,
        held_messages: known.held,
        dead_letters: known.dead_letters,
        problem,
    }
}

async fn read(pools: &Pools, route: &company::Route, known: &CompanyFigures) -> Result<Figures, sqlx::Error> {
    let ask = async {
        let mut tx = pools.begin(&route.dsn, &route.schema).await?;
        figures(&mut tx, route.company.as_str(), known.pending_posted, known.active_posted).await
    };
    within(COMPANY_PATIENCE, ask).await
}

/// What an operator should not overlook.
fn warnings(workers: &[WorkerRow], routes: &Routes) -> Vec<String> {
    let mut warnings = Vec::new();
    let modes: BTreeSet<_> = workers
        .iter()
        .map(|worker| {
            (worker.mode.as_str(), {
                let mut canary: Vec<_> = worker.canary.iter().map(String::as_str).collect();
                canary.sort_unstable();
                canary.join(",")
            })
        })
        .collect();
    if modes.len() > 1 {
        let list: Vec<_> =
            modes.iter().map(|(mode, canary)| if canary.is_empty() { (*mode).to_owned() } else { format!("{mode} for {canary}") }).collect();
        warnings.push(format!("workers run in different modes ({}): what is posted depends on which of them is at work", list.join("; ")));
    }
    let versions: BTreeSet<_> = workers.iter().map(|worker| worker.version.as_str()).collect();
    if versions.len() > 1 {
        warnings.push(format!("workers run different versions: {}", versions.into_iter().collect::<Vec<_>>().join(", ")));
    }
    if workers.is_empty() {
        warnings.push(format!("no worker was heard of in the last {RECENT_SECONDS} s: start `kylo run`"));
    }
    let unknown: BTreeSet<_> =
        workers.iter().flat_map(|worker| &worker.canary).filter(|id| !routes.keys().any(|known| known.as_str() == *id)).collect();
    for id in unknown {
        warnings.push(format!("the canary list has {id:?}, which is no configured company"));
    }
    warnings
}

impl From<WorkerRow> for Worker {
    fn from(row: WorkerRow) -> Self {
        Self {
            command: row.command,
            host: row.host,
            pid: row.pid,
            version: row.version,
            mode: row.mode,
            canary: row.canary,
            partitions: row.partitions,
            trouble: row.trouble,
            started_at: row.started_at,
            heartbeat_seconds_ago: row.age_seconds,
        }
    }
}

impl From<OutboxState> for Outbox {
    fn from(row: OutboxState) -> Self {
        let OutboxState { source, schema_name, table_name, leased, last_poll_time, last_publish_time, total_events_published, .. } = row;
        let OutboxState { state, reason, retrying, given_up, .. } = row;
        Self { source, schema_name, table_name, leased, state, reason, last_poll_time, last_publish_time, total_events_published, retrying, given_up }
    }
}

impl From<GroupLag> for Lag {
    fn from(lag: GroupLag) -> Self {
        let GroupLag { group, topic, partition, behind } = lag;
        Self { group, topic, partition, behind }
    }
}

impl From<Trouble> for Reason {
    fn from(trouble: Trouble) -> Self {
        let Trouble { subject, work, state, reason, since, retry_at } = trouble;
        Self { subject, work, state, reason, since, retry_at }
    }
}

impl From<OpenIntent> for Doubt {
    fn from(intent: OpenIntent) -> Self {
        let OpenIntent { spreadsheet_id, state, companies, sent_at } = intent;
        Self { spreadsheet_id, state, companies, sent_at }
    }
}
