//! `kylo backfill`: history sent again.

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::connect::{control, failed};
use super::failure::Failed;
use super::{Outcome, output, usage};
use crate::config::Settings;
use crate::runtime::backfill::{Backfill, From, Plan, Progress};
use crate::store::control::backfills;
use crate::store::outbox::history::Which;

/// Send history again: published events, or a company's messages
///
/// From events: what Kylo's outboxes have published and still keep (30 days), to the events topic or another one. From topic: the messages of one
/// company on the transactions topic, published there once more, for a company database that was restored from a backup; the ledger makes what
/// is known harmless. Everything that is sent again has the header replay=backfill, and events keep their event_id. Without --yes it only counts.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kylo backfill --company 710 --since 2025-08-01T00:00:00Z        # counts\n  \
    kylo backfill --aggregate-type rules --topic rules.rebuild --yes\n  kylo backfill --source topic --company 710 --yes\n  \
    kylo backfill --resume 0b6f9c1e-2f0d-4b7e-9c53-8f2f4b9a1d11 --yes\n\n\
    Exit codes: 0 done (or counted), 1 failed or interrupted, 2 usage or configuration.")]
pub struct Args {
    /// events: Kylo's outboxes; topic: the transactions topic
    #[arg(long, default_value = "events", value_parser = ["events", "topic"])]
    source: String,
    /// Only this company's
    #[arg(long)]
    company: Option<String>,
    /// Only events of this type, such as rules.updated
    #[arg(long)]
    event_type: Option<String>,
    /// Only events whose type begins so, up to its first dot: batch, pending, rules, sheet, dead_letter
    #[arg(long)]
    aggregate_type: Option<String>,
    /// Only what is from this instant on (RFC 3339)
    #[arg(long)]
    since: Option<DateTime<Utc>>,
    /// Only what is from before this instant (RFC 3339)
    #[arg(long)]
    until: Option<DateTime<Utc>>,
    /// Send to this topic instead of where it came from
    #[arg(long)]
    topic: Option<String>,
    /// At most so many
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
    limit: Option<i64>,
    /// At most so many a second
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// Go on with one that was interrupted
    #[arg(long, conflicts_with_all = ["company", "event_type", "aggregate_type", "since", "until", "topic", "limit"])]
    resume: Option<Uuid>,
    /// Only count, as without --yes
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Do it
    #[arg(long)]
    yes: bool,
    /// Print JSON (schemas/cli/backfill.json)
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    /// `None` = only counted.
    backfill_id: Option<Uuid>,
    from: From,
    to: String,
    /// Per outbox or partition, the last seq or the end offset that is meant.
    ranges: Vec<Range>,
    /// Events, or records to look through.
    total: i64,
    bytes: i64,
    estimated_seconds: i64,
    published: i64,
}

#[derive(Debug, Serialize)]
struct Range {
    name: String,
    first: i64,
    last: i64,
}

pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Outcome> {
    let control = control(settings).await?;
    let backfill = Backfill::open(settings, &control).await?;
    let (id, plan) = match args.resume {
        Some(id) => (id, resumed(&control, id).await?),
        None => (Uuid::new_v4(), plan(&args, &backfill, settings).await?),
    };
    let mut report = report(&plan, args.rate);
    if !args.yes {
        report.print(args.json)?;
        output::note("nothing was sent. Do it with --yes");
        return Ok(Outcome::Done);
    }
    if args.resume.is_none() {
        let value = serde_json::to_value(&plan)?;
        backfills::begin(&control, id, &value).await.map_err(|error| failed("begin the backfill", &error))?;
    }
    let row = backfills::find(&control, id).await.map_err(|error| failed("read the backfill", &error))?;
    let row = row.ok_or_else(|| Failed::new(format!("there is no backfill {id}")))?;
    if row.state == "done" {
        return Err(Failed::new(format!("backfill {id} is done: {} records", row.published)).into());
    }
    report.backfill_id = Some(id);
    output::note(&format!("backfill {id}; if it is interrupted: kylo backfill --resume {id} --yes"));
    let done = backfill.run(id, row, args.rate, tell).await;
    output::end_progress();
    match done {
        Ok(published) => {
            report.published = published;
            report.print(args.json)?;
            Ok(Outcome::Done)
        }
        Err(error) => Err(error.context(format!("backfill {id} is not complete; go on with: kylo backfill --resume {id} --yes"))),
    }
}

async fn resumed(control: &sqlx::PgPool, id: Uuid) -> anyhow::Result<Plan> {
    let found = backfills::find(control, id).await.map_err(|error| failed("read the backfill", &error))?;
    let row = found.ok_or_else(|| Failed::new(format!("there is no backfill {id}")).hint("`kylo backfill` says its id when it begins"))?;
    Ok(serde_json::from_value(row.plan)?)
}

async fn plan(args: &Args, backfill: &Backfill, settings: &Settings) -> anyhow::Result<Plan> {
    let from = if args.source == "topic" { From::Topic } else { From::Events };
    if from == From::Topic && args.company.is_none() {
        return Err(usage("whose messages is not said", "give --company: the database that was restored is one company's"));
    }
    if from == From::Topic && (args.event_type.is_some() || args.aggregate_type.is_some()) {
        return Err(usage("--event-type and --aggregate-type are about events", "leave them out with --source topic"));
    }
    let which = Which {
        company: args.company.clone(),
        event_type: args.event_type.clone(),
        aggregate_type: args.aggregate_type.clone(),
        since: args.since,
        until: args.until,
    };
    let home = if from == From::Topic { &settings.kafka.topic_txns } else { &settings.kafka.topic_events };
    let to = args.topic.as_ref().unwrap_or(home);
    if !crate::domain::outbox::is_topic(to) {
        return Err(usage(format!("{to:?} cannot be a topic's name"), "it must have 1 to 249 of the characters A-Z a-z 0-9 . _ -"));
    }
    backfill.plan(from, which, home, to, args.limit).await
}

fn report(plan: &Plan, rate: u32) -> Report {
    let ranges = plan.ranges.iter().map(|(name, (first, last))| Range { name: name.clone(), first: *first, last: *last }).collect();
    let n = plan.limit.unwrap_or(i64::MAX).min(plan.total);
    Report {
        backfill_id: None,
        from: plan.from,
        to: plan.to.clone(),
        ranges,
        total: plan.total,
        bytes: plan.bytes,
        estimated_seconds: n / i64::from(rate.max(1)) + i64::from(n > 0),
        published: 0,
    }
}

impl Report {
    fn print(&self, json: bool) -> std::io::Result<()> {
        if json {
            return output::json(self);
        }
        let mut ranges: Vec<&Range> = self.ranges.iter().filter(|range| range.first < range.last).collect();
        // Partitions are numbers.
        ranges.sort_by_key(|range| (range.name.parse::<u32>().unwrap_or(u32::MAX), &range.name));
        let rows: Vec<_> = ranges.iter().map(|range| [range.name.clone(), range.first.to_string(), range.last.to_string()]).collect();
        output::table(["FROM", "FIRST", "LAST"], &rows)?;
        // How large the records of a topic are is known when they are read.
        let what = match self.from {
            From::Events => format!("{} events, {} bytes as stored", self.total, self.bytes),
            From::Topic => format!("{} records to look through", self.total),
        };
        output::line(&format!("{what}, about {} s, to topic {}", self.estimated_seconds, self.to))?;
        if self.backfill_id.is_some() {
            output::line(&format!("published {}", self.published))?;
        }
        Ok(())
    }
}

fn tell(progress: Progress) {
    let Progress { done, total, published } = progress;
    output::progress(done, total, &format!("{published} sent"));
}
