//! `kylo dlq`: dead letters, and the partitions that the poison cap stopped.
//!
//! What must never happen here: original bytes shown with a secret in them, or anything changed without `--yes`.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::PgPool;

use super::connect::{control, failed};
use super::failure::Failed;
use super::{Outcome, mask, output, usage};
use crate::config::Settings;
use crate::flow::dead_letter::{self, Replay};
use crate::runtime::tools::{self, OutRecord};
use crate::store::control::dead_letters::{self, Filter, LetterRow};
use crate::store::control::poison;

/// Dead letters: messages and rows that could not be processed, with their original bytes
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without --yes, what changes something only says what it would do.\n\nExit codes: 0 ok, 1 failed or nothing found, 2 usage or configuration."
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(ListArgs),
    Show(ShowArgs),
    Replay(ReplayArgs),
    Discard(ChangeArgs),
    Resume(ResumeArgs),
}

/// Which letters.
#[derive(Debug, clap::Args)]
struct Which {
    /// Only this company's
    #[arg(long)]
    company: Option<String>,
    /// Only this class, as `list` shows it
    #[arg(long)]
    class: Option<String>,
    /// Only from this topic
    #[arg(long)]
    topic: Option<String>,
    /// new, replaying, resolved, discarded, open (new or replaying), or all
    #[arg(long, default_value = "open", value_parser = ["new", "replaying", "resolved", "discarded", "open", "all"])]
    state: String,
    /// At most this many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    limit: u16,
}

/// List dead letters, oldest first
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kylo dlq list\n  kylo dlq list --company 710 --class bad_amount\n  kylo dlq list --state all --json\n\n\
    Exit codes: 0 ok (also when there are none), 1 failed, 2 usage or configuration.")]
struct ListArgs {
    #[command(flatten)]
    which: Which,
    /// Print JSON (schemas/cli/dlq-list.json)
    #[arg(long)]
    json: bool,
}

/// Show one dead letter with its original bytes; secrets in them are masked
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  kylo dlq show 12\n  kylo dlq show 12 --json\n\nExit codes: 0 ok, 1 there is no such letter, 2 usage or configuration."
)]
struct ShowArgs {
    /// The letter's id, as `kylo dlq list` shows it
    id: i64,
    /// Print JSON (schemas/cli/dlq-show.json)
    #[arg(long)]
    json: bool,
}

/// Publish the original bytes again, to the original topic
///
/// The worker then closes the letter, or counts one more attempt. A row goes out as a batch of its own with the original created_at, so it
/// changes nothing that is newer.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  kylo dlq replay 12            # says what it would do\n  kylo dlq replay 12 13 --yes\n  kylo dlq replay --company 710 --yes\n\n\
    Exit codes: 0 done (or would be), 1 nothing found or not published, 2 usage or configuration."
)]
struct ReplayArgs {
    #[command(flatten)]
    change: ChangeForm,
}

/// Close letters that must never be applied; they are pruned later
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  kylo dlq discard 12           # says what it would do\n  kylo dlq discard 12 13 --yes\n  kylo dlq discard --class not_json --yes\n\n\
    Exit codes: 0 done (or would be), 1 nothing found, 2 usage or configuration."
)]
struct ChangeArgs {
    #[command(flatten)]
    change: ChangeForm,
}

/// Which letters to change, and whether to.
#[derive(Debug, clap::Args)]
struct ChangeForm {
    /// Ids; without them the filters choose
    ids: Vec<i64>,
    #[command(flatten)]
    which: Which,
    /// Do it
    #[arg(long)]
    yes: bool,
}

/// Let partitions go on that the poison cap stopped
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kylo dlq resume                                   # says what is stopped\n  kylo dlq resume --yes\n  \
    kylo dlq resume --topic txns.company.batches --partition 3 --yes\n\nExit codes: 0 done (or would be, or nothing is stopped), 1 failed, 2 usage or configuration.")]
struct ResumeArgs {
    /// Only this topic's
    #[arg(long)]
    topic: Option<String>,
    /// Only this partition
    #[arg(long)]
    partition: Option<i32>,
    /// Do it
    #[arg(long)]
    yes: bool,
}

pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Outcome> {
    let control = control(settings).await?;
    match args.command {
        Command::List(args) => list(&args, &control).await,
        Command::Show(args) => show(&args, &control).await,
        Command::Replay(args) => replay(&args.change, &control, settings).await,
        Command::Discard(args) => discard(&args.change, &control).await,
        Command::Resume(args) => resume(&args, &control).await,
    }
}

impl Which {
    fn filter(&self, ids: &[i64]) -> Filter {
        Filter {
            ids: ids.to_vec(),
            company: self.company.clone(),
            class: self.class.clone(),
            topic: self.topic.clone(),
            state: (self.state != "all").then(|| self.state.clone()),
            limit: self.limit.into(),
            ..Filter::default()
        }
    }

    fn narrows(&self) -> bool {
        self.company.is_some() || self.class.is_some() || self.topic.is_some()
    }
}

/// A letter in a list. No bytes.
#[derive(Debug, Serialize)]
struct Listed {
    id: i64,
    state: String,
    kind: String,
    class: String,
    reason: String,
    company_id: Option<String>,
    batch_id: Option<String>,
    topic: String,
    partition: i32,
    offset: i64,
    pointer: String,
    attempts: i32,
    first_seen_at: DateTime<Utc>,
    last_seen_at: DateTime<Utc>,
}

impl From<LetterRow> for Listed {
    fn from(row: LetterRow) -> Self {
        Self {
            id: row.id,
            state: row.state,
            kind: row.kind,
            class: row.class,
            reason: mask::bytes(row.reason.as_bytes()),
            company_id: row.company_id,
            batch_id: row.batch_id,
            topic: row.topic,
            partition: row.partition,
            offset: row.offset,
            pointer: row.pointer,
            attempts: row.attempts,
            first_seen_at: row.first_seen_at,
            last_seen_at: row.last_seen_at,
        }
    }
}

impl Listed {
    fn place(&self) -> String {
        format!("{}/{}/{}{}", self.topic, self.partition, self.offset, self.pointer)
    }
}

async fn list(args: &ListArgs, control: &PgPool) -> anyhow::Result<Outcome> {
    let rows = dead_letters::list(control, &args.which.filter(&[])).await.map_err(|error| failed("list the dead letters", &error))?;
    let full = rows.len() == usize::from(args.which.limit);
    let listed: Vec<Listed> = rows.into_iter().map(Listed::from).collect();
    if args.json {
        output::json(&listed)?;
    } else {
        print(&listed)?;
    }
    if full {
        output::note(&format!("the first {}; --limit shows more", args.which.limit));
    }
    Ok(Outcome::Done)
}

fn print(listed: &[Listed]) -> std::io::Result<()> {
    let rows = listed.iter().map(|letter| {
        let company = letter.company_id.clone().unwrap_or_else(|| "-".to_owned());
        [
            letter.id.to_string(),
            letter.state.clone(),
            letter.class.clone(),
            company,
            letter.attempts.to_string(),
            letter.place(),
            letter.reason.clone(),
        ]
    });
    output::table(["ID", "STATE", "CLASS", "COMPANY", "ATTEMPTS", "WHERE", "REASON"], &rows.collect::<Vec<_>>())
}

/// A whole letter, masked.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    letter: Listed,
    record_key: Option<String>,
    headers: Value,
    record_timestamp: Option<DateTime<Utc>>,
    envelope: Option<Value>,
    /// The original bytes as text, secrets masked; null = the message had no value.
    original: Option<String>,
    original_bytes: usize,
}

async fn show(args: &ShowArgs, control: &PgPool) -> anyhow::Result<Outcome> {
    let found = dead_letters::show(control, args.id).await.map_err(|error| failed("read the dead letter", &error))?;
    let Some(letter) = found else {
        return Err(Failed::new(format!("there is no dead letter {}", args.id)).hint("`kylo dlq list --state all` shows all").into());
    };
    let shown = Shown {
        record_key: letter.record_key.as_deref().map(mask::bytes),
        headers: mask::json(&letter.headers),
        record_timestamp: letter.record_timestamp,
        envelope: letter.envelope.as_ref().map(mask::json),
        original: letter.original.as_deref().map(mask::bytes),
        original_bytes: letter.original.as_ref().map_or(0, Vec::len),
        letter: letter.row.into(),
    };
    if args.json {
        output::json(&shown)?;
        return Ok(Outcome::Done);
    }
    let letter = &shown.letter;
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let rows = [
        ["letter".to_owned(), format!("{} ({}, {})", letter.id, letter.kind, letter.state)],
        ["class".to_owned(), letter.class.clone()],
        ["reason".to_owned(), letter.reason.clone()],
        ["where".to_owned(), letter.place()],
        ["company".to_owned(), or_dash(&letter.company_id)],
        ["batch".to_owned(), or_dash(&letter.batch_id)],
        ["key".to_owned(), or_dash(&shown.record_key)],
        ["headers".to_owned(), shown.headers.to_string()],
        ["seen".to_owned(), format!("{} to {}, {} attempt(s)", letter.first_seen_at, letter.last_seen_at, letter.attempts)],
    ];
    for [name, value] in rows {
        output::line(&format!("{name:<9}{value}"))?;
    }
    output::line(&format!("original ({} bytes):", shown.original_bytes))?;
    output::line(shown.original.as_deref().unwrap_or("(no value: a tombstone)"))?;
    output::note(mask::NOTE);
    Ok(Outcome::Done)
}

/// The open letters that a change is about. Neither ids nor a filter = all of them, which is asked for too easily by mistake.
async fn chosen(args: &ChangeForm, control: &PgPool) -> anyhow::Result<Vec<LetterRow>> {
    if args.ids.is_empty() && !args.which.narrows() {
        return Err(usage("which letters is not said", "give ids, or --company, --class or --topic"));
    }
    let mut filter = args.which.filter(&args.ids);
    if !args.ids.is_empty() {
        filter.limit = i64::try_from(args.ids.len()).unwrap_or(i64::MAX);
    }
    let rows = dead_letters::list(control, &filter).await.map_err(|error| failed("list the dead letters", &error))?;
    if args.ids.is_empty() && rows.len() == usize::from(args.which.limit) {
        output::note(&format!("only the first {}: there may be more; --limit raises it", args.which.limit));
    }
    let open: Vec<_> = rows.into_iter().filter(|row| matches!(row.state.as_str(), "new" | "replaying")).collect();
    if open.is_empty() {
        return Err(Failed::new("no open dead letter is like that").hint("`kylo dlq list` shows the open ones, `--state all` all").into());
    }
    Ok(open)
}

async fn replay(args: &ChangeForm, control: &PgPool, settings: &Settings) -> anyhow::Result<Outcome> {
    let letters = chosen(args, control).await?;
    if !args.yes {
        let count = letters.len();
        print(&letters.into_iter().map(Listed::from).collect::<Vec<_>>())?;
        output::note(&format!("would publish {count} letter(s) again, each to its topic. Do it with --yes"));
        return Ok(Outcome::Done);
    }
    let producer = tools::producer(settings)?;
    let mut outcome = Outcome::Done;
    for letter in letters {
        let publish = async |replay: Replay| {
            let Replay { topic, key, payload, headers } = replay;
            producer.publish(OutRecord { topic, key, payload, headers }).await.map(drop).map_err(|error| error.to_string())
        };
        match dead_letter::replay(control, letter.id, None, publish).await {
            Ok(()) if letter.kind == "event" => {
                output::line(&format!("letter {} is published by the relay within seconds, which closes it or counts one more attempt", letter.id))?;
            }
            Ok(()) => {
                output::line(&format!("published letter {} again to {}; the worker closes it or counts one more attempt", letter.id, letter.topic))?;
            }
            Err(error) => {
                output::note(&error.to_string());
                outcome = Outcome::No;
            }
        }
    }
    Ok(outcome)
}

async fn discard(args: &ChangeForm, control: &PgPool) -> anyhow::Result<Outcome> {
    let letters = chosen(args, control).await?;
    let ids: Vec<_> = letters.iter().map(|letter| letter.id).collect();
    if !args.yes {
        print(&letters.into_iter().map(Listed::from).collect::<Vec<_>>())?;
        output::note(&format!("would discard {} letter(s): they can no longer be replayed. Do it with --yes", ids.len()));
        return Ok(Outcome::Done);
    }
    let done = dead_letters::discard(control, &ids).await.map_err(|error| failed("discard the letters", &error))?;
    output::line(&format!("discarded {} letter(s)", done.len()))?;
    Ok(Outcome::Done)
}

async fn resume(args: &ResumeArgs, control: &PgPool) -> anyhow::Result<Outcome> {
    let wanted =
        |topic: &str, partition: i32| args.topic.as_deref().is_none_or(|only| only == topic) && args.partition.is_none_or(|only| only == partition);
    let stopped = poison::stopped(control).await.map_err(|error| failed("read the stopped partitions", &error))?;
    let chosen: Vec<_> = stopped.into_iter().filter(|stop| wanted(&stop.topic, stop.partition)).collect();
    if chosen.is_empty() {
        output::line("no such partition is stopped")?;
        return Ok(Outcome::Done);
    }
    if args.yes {
        poison::resume(control, args.topic.as_deref(), args.partition).await.map_err(|error| failed("resume", &error))?;
    }
    for stop in &chosen {
        let word = if args.yes { "resumed" } else { "would resume" };
        output::line(&format!(
            "{word} {}/{} of group {} ({} dead letters in a row)",
            stop.topic, stop.partition, stop.consumer_group, stop.in_a_row
        ))?;
    }
    if !args.yes {
        output::note("mend the producer or upgrade kylo first, then do it with --yes");
    }
    Ok(Outcome::Done)
}
