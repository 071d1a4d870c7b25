//! Reads what an audit looks at, in the order that keeps running workers from causing false findings, and has it judged.
//!
//! Called by `kylo audit`, and by tests as their judge. What must never happen here: a write, or an end that looks complete although something
//! could not be read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{ExponentialBuilder, Retryable};
use secrecy::ExposeSecret;
use sqlx::PgPool;
use sqlx::postgres::PgConnection;

use super::wire;
use crate::adapters::kafka::client::KafkaSettings;
use crate::adapters::kafka::snapshot::{self, StoredRecord};
use crate::audit::inputs::book::Book;
use crate::audit::inputs::control::{Control, TabMark};
use crate::audit::inputs::topic::{Kind, Raw, Span, Told, Topic, told};
use crate::audit::inputs::{Inputs, LiveTab, NEVER_POSTED, postgres};
use crate::audit::report::Report;
use crate::config::Settings;
use crate::domain::company::{self, CompanyRow, Route, SpreadsheetId};
use crate::domain::sheet::Observed;
use crate::domain::tab::Role;
use crate::ports::{CallError, SheetGateway};
use crate::store::error::{describe, is_cut};
use crate::store::pools::{PoolOptions, lazy_pool};
use crate::telemetry::metrics::Metrics;

/// For a connection while the live tabs are read. Nobody waits for an audit, and one that gives up on a crowded machine says nothing.
const CONNECT: Duration = Duration::from_secs(60);

/// A question to a spreadsheet that may be answered a moment later is put this many times more, after 0.5, 1, 2 and 4 s: nobody can do anything with
/// an audit that says incomplete because one connection was cut.
const ASK_AGAIN: usize = 4;
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// One that has taken this long is not put again: a service that does not answer at all takes its whole time at each.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether the live tabs are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tabs {
    /// If there are credentials.
    #[default]
    IfConfigured,
    Read,
    Skip,
}

/// What to audit.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Judge only this company; everything is read all the same.
    pub company: Option<String>,
    pub tabs: Tabs,
}

/// Reads everything and judges it.
///
/// # Errors
/// The control database or the broker cannot be read, or a configuration that cannot be used. A company's database or a spreadsheet that
/// cannot be read is named in the report.
pub async fn audit(settings: &Settings, options: &Options) -> anyhow::Result<Report> {
    let inputs = read(settings, options).await?;
    // Replaying takes as long as it takes.
    Ok(tokio::task::spawn_blocking(move || crate::audit::judge(&inputs)).await?)
}

async fn read(settings: &Settings, options: &Options) -> anyhow::Result<Inputs> {
    let kafka = KafkaSettings::from_config(&settings.kafka)?;
    let names = &settings.kafka;
    let committed_txns = snapshot::committed(&kafka, &names.group_txns, &names.topic_txns).await?;
    let committed_promote = snapshot::committed(&kafka, &names.group_promote, &names.topic_promote).await?;
    let dsn = settings.control()?.current()?;
    let mut control = connect(dsn.expose_secret()).await.map_err(|error| failed("connect to the control database", &error))?;
    let mut inputs = Inputs::default();
    before(&mut control, &mut inputs).await.map_err(|error| failed("read the control database", &error))?;
    inputs.control.companies.retain(|row| options.company.as_ref().is_none_or(|only| *only == row.company_id));
    inputs.control.companies.retain(|row| company::is_real(&row.company_id));
    let marks = inputs.control.tabs.clone();
    books(&mut inputs).await;
    let tabs = match options.tabs {
        Tabs::Skip => false,
        Tabs::Read => true,
        Tabs::IfConfigured => settings.sheets.credentials.is_some(),
    };
    if tabs {
        let options = PoolOptions { acquire_timeout: CONNECT, ..PoolOptions::default() };
        let pool = lazy_pool(dsn.expose_secret(), &options).map_err(|error| failed("use PG_DSN_RW", &error))?;
        let gateway = gateway(settings, &pool)?;
        live(&mut inputs, &marks, gateway.as_ref()).await;
        pool.close().await;
    }
    after(&mut control, &mut inputs, &marks).await.map_err(|error| failed("read the control database", &error))?;
    inputs.txns = topic(&kafka, &names.topic_txns, Kind::Txns, &committed_txns).await?;
    inputs.promote = topic(&kafka, &names.topic_promote, Kind::Promote, &committed_promote).await?;
    for topic in [&inputs.txns, &inputs.promote].into_iter().filter(|topic| topic.spans.is_empty()) {
        inputs.unreadable.push(format!("there is no topic {}", topic.name));
    }
    if let Some(only) = &options.company {
        narrow(&mut inputs, only);
    }
    Ok(inputs)
}

fn failed(attempt: &str, error: &sqlx::Error) -> anyhow::Error {
    anyhow::anyhow!("cannot {attempt}: {}", describe(error))
}

fn gateway(settings: &Settings, pool: &PgPool) -> anyhow::Result<Arc<dyn SheetGateway>> {
    wire::gateway(settings, pool, &Metrics::new(settings.sheets.post)?)
}

/// A connection that can only read. A login that was cut is tried once more.
///
/// # Errors
/// The DSN cannot be parsed, or the server does not answer.
pub async fn connect(dsn: &str) -> Result<PgConnection, sqlx::Error> {
    match postgres::connect(dsn).await {
        Err(error) if is_cut(&error) => postgres::connect(dsn).await,
        connected => connected,
    }
}

/// What must be read before the companies: what is held, and how far the tabs had come.
async fn before(connection: &mut PgConnection, inputs: &mut Inputs) -> Result<(), sqlx::Error> {
    postgres::freeze(connection).await?;
    inputs.at = postgres::now(connection).await?;
    inputs.control = Control {
        companies: postgres::companies(connection).await?,
        held: postgres::held(connection).await?,
        tabs: postgres::tab_marks(connection).await?,
        ..Control::default()
    };
    postgres::thaw(connection).await
}

/// What must be read after them: letters, which are written before the transaction they belong to, and posts. A tab that a post has moved
/// meanwhile is in motion.
async fn after(connection: &mut PgConnection, inputs: &mut Inputs, before: &[TabMark]) -> Result<(), sqlx::Error> {
    postgres::freeze(connection).await?;
    inputs.control.letters = postgres::letters(connection).await?;
    inputs.control.intents = postgres::intents(connection).await?;
    inputs.control.posts = postgres::posts(connection).await?;
    inputs.control.backfills = postgres::backfills(connection).await?;
    let now = postgres::tab_marks(connection).await?;
    for live in &mut inputs.tabs {
        let find =
            |marks: &[TabMark]| marks.iter().find(|mark| mark.company_id == live.company && Role::parse(&mark.role) == Some(live.role)).cloned();
        if find(before) != find(&now) {
            live.posted_seq = Err("it was posted to while it was read");
        }
    }
    postgres::thaw(connection).await
}

/// Every book in every schema of every database that a company is routed to.
async fn books(inputs: &mut Inputs) {
    let bound = company::Bound::new();
    let routes = company::routes(&inputs.control.companies, &bound);
    let dsns: BTreeMap<String, BTreeSet<String>> = by_dsn(&inputs.control.companies);
    let mut read: BTreeMap<String, Vec<Book>> = BTreeMap::new();
    for (dsn, companies) in dsns {
        match database(&dsn, &read).await {
            Ok((identity, books, failed)) => {
                let books = read.entry(identity).or_insert(books);
                for (schema, reason) in failed {
                    let is_there = |route: &Arc<Route>| route.dsn.expose() == dsn && route.schema.as_str() == schema;
                    let served = routes.iter().filter(|(_, route)| route.as_ref().is_ok_and(is_there));
                    let before = inputs.unread.len();
                    inputs.unread.extend(served.map(|(id, _)| (id.to_string(), format!("schema {schema} of company {id} cannot be read: {reason}"))));
                    if inputs.unread.len() == before && schema != company::SELFTEST_SCHEMA {
                        inputs.unreadable.push(format!("schema {schema}, which no company is routed to, cannot be read: {reason}"));
                    }
                }
                for book in books.iter_mut() {
                    let schema = book.place.rsplit_once('.').map(|(_, schema)| schema);
                    let route = routes.iter().find(|(id, _)| id.as_str() == book.company).and_then(|(_, route)| route.as_ref().ok());
                    book.is_routed |= route.is_some_and(|route| route.dsn.expose() == dsn && Some(route.schema.as_str()) == schema);
                }
            }
            Err(error) => {
                for company in companies {
                    let reason = format!("the database of company {company} cannot be read: {}", describe(&error));
                    inputs.unread.insert(company, reason);
                }
            }
        }
    }
    // What a selftest writes into its own books is taken out of them again: there is nothing to compare. Anywhere else its rows are judged.
    let own = format!(".{}", company::SELFTEST_SCHEMA);
    let is_judged = |book: &Book| company::is_real(&book.company) || !book.place.ends_with(&own);
    inputs.books = read.into_values().flatten().filter(is_judged).collect();
}

fn by_dsn(companies: &[CompanyRow]) -> BTreeMap<String, BTreeSet<String>> {
    let mut dsns: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in companies {
        if let Some(dsn) = row.db_dsn_rw.as_ref().filter(|dsn| !dsn.trim().is_empty()) {
            dsns.entry(dsn.clone()).or_default().insert(row.company_id.clone());
        }
    }
    dsns
}

/// Schemas that could not be read, with the reason.
type FailedSchemas = Vec<(String, String)>;

/// A database's name, and its books unless they have been read under another DSN.
async fn database(dsn: &str, read: &BTreeMap<String, Vec<Book>>) -> Result<(String, Vec<Book>, FailedSchemas), sqlx::Error> {
    let mut connection = connect(dsn).await?;
    let identity = postgres::identity(&mut connection).await?;
    if read.contains_key(&identity) {
        return Ok((identity, Vec::new(), Vec::new()));
    }
    let name = identity.split(" up since ").next().unwrap_or_default().to_owned();
    let (mut books, mut failed) = (Vec::new(), Vec::new());
    for schema in postgres::schemas(&mut connection).await? {
        // One snapshot for each schema: one that cannot be read (an old version, no rights) does not hide the others.
        postgres::freeze(&mut connection).await?;
        match postgres::books(&mut connection, &schema, &format!("{name}.{schema}")).await {
            Ok(found) => books.extend(found),
            Err(error) => failed.push((schema, describe(&error))),
        }
        postgres::thaw(&mut connection).await?;
    }
    Ok((identity, books, failed))
}

/// The tabs of all companies, as they are now: for each spreadsheet one call, and one for each tab that was made equal to a seq. From the shared budget.
async fn live(inputs: &mut Inputs, marks: &[TabMark], gateway: &dyn SheetGateway) {
    let routes = company::routes(&inputs.control.companies, &company::Bound::new());
    let mut books: BTreeMap<SpreadsheetId, Vec<Wanted<'_>>> = BTreeMap::new();
    for route in routes.values().flatten() {
        for role in Role::ALL {
            // A mark of the spreadsheet that the company had before says nothing about this one.
            let is_its = |mark: &&TabMark| mark.company_id == route.company.as_str() && Role::parse(&mark.role) == Some(role);
            let mark = marks.iter().filter(is_its).find(|mark| mark.spreadsheet_id == route.spreadsheet.as_str());
            books.entry(route.spreadsheet.clone()).or_default().push(Wanted { company: route.company.as_str(), role, mark });
        }
    }
    for (spreadsheet, tabs) in books {
        match look(gateway, &spreadsheet, &tabs).await {
            Ok(tabs) => inputs.tabs.extend(tabs),
            Err(reason) => inputs.unreadable.push(format!("spreadsheet {spreadsheet} cannot be read: {reason}")),
        }
    }
}

/// A tab that a company is configured to have.
struct Wanted<'a> {
    company: &'a str,
    role: Role,
    mark: Option<&'a TabMark>,
}

async fn look(gateway: &dyn SheetGateway, spreadsheet: &SpreadsheetId, tabs: &[Wanted<'_>]) -> Result<Vec<LiveTab>, String> {
    let directory = patiently(|| gateway.directory(spreadsheet)).await?;
    let mut live = Vec::new();
    for Wanted { company, role, mark } in tabs {
        let title = mark.and_then(|mark| directory.tabs.iter().find(|tab| tab.sheet_id == mark.sheet_id)).map(|tab| tab.title.clone());
        let seen = match (mark, title) {
            // One tab at a time: a URL has room for few titles.
            (Some(mark), Some(title)) => {
                let titles = [title];
                patiently(|| gateway.read(spreadsheet, &titles)).await?.tabs.into_iter().find(|tab| tab.sheet_id == mark.sheet_id)
            }
            _ => None,
        };
        let posted_seq = match mark {
            None => Err(NEVER_POSTED),
            Some(mark) if mark.in_doubt => Err("a post of its spreadsheet is under way or in doubt"),
            Some(mark) if mark.posted_seq < 0 => Err("a post of it is due"),
            Some(mark) => Ok(mark.posted_seq),
        };
        live.push(LiveTab {
            company: (*company).to_owned(),
            role: *role,
            spreadsheet: spreadsheet.to_string(),
            seen,
            posted_seq,
            answer_seq: mark.map_or(0, |mark| mark.answer_seq),
        });
    }
    Ok(live)
}

/// Reads, and asks again what passes by itself: a read that is repeated does no harm.
async fn patiently<F: Future<Output = Result<Observed, CallError>>>(read: impl FnMut() -> F) -> Result<Observed, String> {
    let began = Instant::now();
    let passes = |error: &CallError| {
        began.elapsed() < PATIENCE && matches!(error, CallError::NotSent(_) | CallError::Throttled { .. } | CallError::Unknown(_))
    };
    let waits = ExponentialBuilder::default().with_min_delay(FIRST_WAIT).with_max_times(ASK_AGAIN);
    read.retry(waits).when(passes).await.map_err(|error| error.to_string())
}

async fn topic(kafka: &KafkaSettings, name: &str, kind: Kind, committed: &BTreeMap<i32, i64>) -> anyhow::Result<Topic> {
    let topic: Arc<str> = name.into();
    let of = Arc::clone(&topic);
    let each = move |record: &StoredRecord<'_>| -> Told {
        let StoredRecord { partition, offset, key, value, dead_letter_id, timestamp } = *record;
        told(&of, kind, &Raw { partition, offset, key, value, written_at: timestamp, dead_letter_id })
    };
    let read = snapshot::read(kafka, name, each).await?;
    let span = |(partition, (low, high)): (i32, (i64, i64))| (partition, Span { low, high, committed: committed.get(&partition).copied() });
    Ok(Topic { name: topic, spans: read.extent.into_iter().map(span).collect(), told: read.records })
}

/// Leaves what concerns one company. Letters of messages that name no company are nobody's, and not judged then.
fn narrow(inputs: &mut Inputs, only: &str) {
    inputs.books.retain(|book| book.company == only);
    inputs.tabs.retain(|tab| tab.company == only);
    inputs.control.held.retain(|held| held.company_id == only);
    inputs.control.posts.retain(|post| post.company_id == only);
    for intent in &mut inputs.control.intents {
        intent.tabs.retain(|tab| tab.company == only);
    }
    for letters in inputs.control.letters.values_mut() {
        letters.retain(|letter| letter.company_id.as_deref() == Some(only));
    }
    for topic in [&mut inputs.txns, &mut inputs.promote] {
        topic.told.retain(|told| told.company().is_some_and(|company| company.as_str() == only));
    }
}
