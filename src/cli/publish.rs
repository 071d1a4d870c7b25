//! `kylo publish`: what n8n would publish, for tests, for life without n8n, and to try things.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::company::company_id;
use super::connect::{control, failed};
use super::failure::Failed;
use super::{Outcome, output, usage};
use crate::config::Settings;
use crate::domain::clock::{Clock, SystemClock};
use crate::domain::ids::CompanyId;
use crate::flow::publish_format::{self, Options, OutMessage, Published};
use crate::runtime::tools::{self, OutRecord};
use crate::store::control::company_config;

/// The default `max.message.bytes` of a topic, with room for headers.
const MAX_BYTES: usize = 1_000_000;
/// An input that is larger is read by mistake.
const MAX_INPUT: u64 = 1 << 30;

/// Publish what n8n would: batches of transactions, or promote requests
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 everything was published, 1 something was not, 2 usage or configuration.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Txns(TxnsArgs),
    Promote(PromoteArgs),
}

/// Publish batches of transactions
///
/// FILE is the webhook's payload ({"batch_id", "transactions": [{"company_id", ...}]}, split by company), or one TXNS_BATCH, or several of
/// either, one after the other. Publishing the same again changes nothing: a batch is applied once.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kylo publish txns payload.json\n  cat batches.jsonl | kylo publish txns - --company 710\n\n\
    Exit codes: 0 everything was published, 1 a row or message was not, 2 usage, configuration, or an input that is not of that shape.")]
struct TxnsArgs {
    /// The input, `-` for stdin
    file: PathBuf,
    /// Only this company's rows
    #[arg(long)]
    company: Option<String>,
    /// Name of the batch where the input has none; without it one is made from the content
    #[arg(long)]
    batch_id: Option<String>,
    /// Print JSON (schemas/cli/publish.json)
    #[arg(long)]
    json: bool,
}

/// Ask for approved rows to become rules
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("whose").required(true).args(["company", "all"]))]
#[command(after_help = "Examples:\n  kylo publish promote --company 710\n  kylo publish promote --all\n\n\
    Exit codes: 0 published, 1 failed, 2 usage or configuration.")]
struct PromoteArgs {
    /// This company's
    #[arg(long)]
    company: Option<String>,
    /// Every configured company's (reads the control database)
    #[arg(long)]
    all: bool,
    /// A name for the request: the same name again does nothing
    #[arg(long)]
    request_id: Option<String>,
    /// Print JSON (schemas/cli/publish.json)
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    published: Vec<Line>,
    /// Rows that could not be put into a message.
    rejected: Vec<Rejected>,
    failed: Vec<Unsent>,
}

#[derive(Debug, Serialize)]
struct Line {
    company_id: String,
    name: String,
    rows: usize,
    topic: String,
    partition: i32,
    offset: i64,
}

#[derive(Debug, Serialize)]
struct Rejected {
    document: usize,
    row: usize,
    reason: String,
}

#[derive(Debug, Serialize)]
struct Unsent {
    company_id: String,
    name: String,
    reason: String,
}

pub async fn run(args: Args, settings: &Settings) -> anyhow::Result<Outcome> {
    match args.command {
        Command::Txns(args) => txns(&args, settings).await,
        Command::Promote(args) => promote(&args, settings).await,
    }
}

async fn txns(args: &TxnsArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let company = args.company.as_deref().map(company_id).transpose()?;
    let input = read(&args.file)?;
    let options =
        Options { company: company.as_ref(), default_batch_id: args.batch_id.as_deref(), created_at: SystemClock.now(), max_bytes: MAX_BYTES };
    let published = publish_format::messages(&input, &options).map_err(|error| {
        usage(
            format!("{} cannot be published: {error}", args.file.display()),
            "`kylo publish txns --help` says what it may be; schemas/ has it in full",
        )
    })?;
    if published.messages.is_empty() && published.rejects.is_empty() {
        return Err(
            Failed::new(format!("{} has nothing to publish ({} row(s) of other companies)", args.file.display(), published.n_filtered)).into()
        );
    }
    send(published, &settings.kafka.topic_txns, settings, args.json).await
}

async fn promote(args: &PromoteArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let companies = match &args.company {
        Some(id) => vec![company_id(id)?],
        None => all_companies(settings).await?,
    };
    let now = SystemClock.now();
    let messages = companies.iter().map(|id| publish_format::promote(id, now, args.request_id.as_deref())).collect();
    send(Published { messages, ..Published::default() }, &settings.kafka.topic_promote, settings, args.json).await
}

async fn all_companies(settings: &Settings) -> anyhow::Result<Vec<CompanyId>> {
    let rows = company_config::load_real(&control(settings).await?).await.map_err(|error| failed("read control.company_config", &error))?;
    let mut ids: Vec<_> = rows.iter().filter_map(|row| CompanyId::parse(&row.company_id).ok()).collect();
    ids.sort();
    if ids.is_empty() {
        return Err(Failed::new("no company is configured").hint("`kylo company set --help`").into());
    }
    Ok(ids)
}

fn read(path: &Path) -> anyhow::Result<String> {
    let wrong = |error: std::io::Error| usage(format!("cannot read {}: {error}", path.display()), "give the path of a text file, or - for stdin");
    let mut text = String::new();
    if path.as_os_str() == "-" {
        std::io::stdin().take(MAX_INPUT).read_to_string(&mut text).map_err(wrong)?;
    } else {
        std::fs::File::open(path).map_err(wrong)?.take(MAX_INPUT).read_to_string(&mut text).map_err(wrong)?;
    }
    Ok(text)
}

async fn send(published: Published, topic: &str, settings: &Settings, json: bool) -> anyhow::Result<Outcome> {
    let producer = tools::producer(settings)?;
    let records: Vec<_> = published.messages.iter().map(|message| record(message, topic)).collect();
    let answers = producer.publish_all(&records).await;
    let rejected =
        published.rejects.into_iter().map(|reject| Rejected { document: reject.document, row: reject.index, reason: reject.reason }).collect();
    let mut report = Report { published: Vec::new(), rejected, failed: Vec::new() };
    for (message, answer) in published.messages.into_iter().zip(answers) {
        let (company_id, name) = (message.company_id.to_string(), message.name);
        match answer {
            Ok(at) => {
                report.published.push(Line {
                    company_id,
                    name,
                    rows: message.n_rows,
                    topic: topic.to_owned(),
                    partition: at.partition,
                    offset: at.offset,
                });
            }
            Err(error) => report.failed.push(Unsent { company_id, name, reason: error.to_string() }),
        }
    }
    report.print(json)?;
    Ok(if report.failed.is_empty() && report.rejected.is_empty() { Outcome::Done } else { Outcome::No })
}

fn record(message: &OutMessage, topic: &str) -> OutRecord {
    OutRecord {
        topic: topic.to_owned(),
        key: Some(message.key().as_bytes().to_vec()),
        payload: Some(message.payload.clone().into_bytes()),
        headers: Vec::new(),
    }
}

impl Report {
    fn print(&self, json: bool) -> std::io::Result<()> {
        if json {
            return output::json(self);
        }
        let rows: Vec<_> = self
            .published
            .iter()
            .map(|line| {
                [line.company_id.clone(), line.name.clone(), line.rows.to_string(), format!("{}/{}/{}", line.topic, line.partition, line.offset)]
            })
            .collect();
        output::table(["COMPANY", "NAME", "ROWS", "WHERE"], &rows)?;
        for reject in &self.rejected {
            output::note(&format!("not published: document {}, row {}: {}", reject.document + 1, reject.row + 1, reject.reason));
        }
        for unsent in &self.failed {
            output::note(&format!("not published: company {}, {}: {}", unsent.company_id, unsent.name, unsent.reason));
        }
        Ok(())
    }
}
