//! What the databases say about waiting work, as gauges, as the readiness check of companies, and as `/health/deep`.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt;
use sqlx::PgPool;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::adapters::http::DeepProbe;
use crate::config::Settings;
use crate::domain::company::Route;
use crate::flow::routing::RoutingCache;
use crate::store::company::status::figures;
use crate::store::control::dead_letters;
use crate::store::control::status::{self, CompanyFigures, Waiting};
use crate::store::error::describe;
use crate::store::pools::{PATIENCE, Pools, within};
use crate::telemetry::health::{Check, HealthBoard};
use crate::telemetry::metrics::{Backlog, Metrics};

/// Companies whose databases are asked at the same time.
const AT_ONCE: usize = 4;
/// How long a company's database is waited for, and in a probe, whose own time is 5 s in all, how long.
const COMPANY_PATIENCE: Duration = Duration::from_secs(5);
const PROBE_PATIENCE: Duration = Duration::from_secs(3);

/// The databases, and who is where.
#[derive(Clone, Debug)]
pub struct Sources {
    pub control: PgPool,
    pub pools: Arc<Pools>,
    pub routing: Arc<RoutingCache>,
}

/// What a refresh reads from and writes to.
#[derive(Debug)]
pub struct Gauges {
    pub sources: Sources,
    pub metrics: Arc<Metrics>,
    pub board: Arc<HealthBoard>,
    pub settings: Arc<Settings>,
}

impl Gauges {
    /// Reads once and shows it.
    ///
    /// # Errors
    /// The control database's; a company's database that does not answer only leaves its age out.
    pub async fn refresh(&self) -> Result<(), sqlx::Error> {
        let waiting = within(PATIENCE, status::waiting(&self.sources.control)).await?;
        let backlog = Backlog {
            dead_letters: within(PATIENCE, dead_letters::open_by_class(&self.sources.control, None)).await?,
            held_messages: waiting.held_messages,
            oldest_unposted_seconds: self.oldest_unposted().await?,
            in_doubt_posts: waiting.in_doubt_posts,
            stopped_partitions: waiting.stopped_partitions,
            trouble: vec![("down".to_owned(), waiting.companies_down), ("parked".to_owned(), waiting.companies_parked)],
            budget_used: vec![("read".to_owned(), waiting.reads_used), ("write".to_owned(), waiting.writes_used)],
        };
        let sheets = &self.settings.sheets;
        self.metrics.set_backlog(&backlog, (sheets.reads_per_minute, sheets.writes_per_minute));
        let unusable = self.sources.routing.all().await?.values().filter(|route| route.is_err()).count();
        self.board.set("companies", companies_check(&waiting, unusable));
        Ok(())
    }

    /// Over the companies that post; what shadow mode holds back is no delay.
    async fn oldest_unposted(&self) -> Result<i64, sqlx::Error> {
        if !self.settings.sheets.post {
            return Ok(0);
        }
        let routes = self.sources.routing.all().await?;
        let known = within(PATIENCE, status::companies(&self.sources.control)).await?;
        let posting = routes.values().flatten().filter(|route| self.settings.sheets.posts(route.company.as_str()));
        let mut ages = JoinSet::new();
        let at_once = Arc::new(Semaphore::new(AT_ONCE));
        for route in posting {
            let known = known.iter().find(|known| known.company_id == route.company.as_str()).cloned();
            ages.spawn(age(Arc::clone(&self.sources.pools), Arc::clone(route), known, Arc::clone(&at_once)));
        }
        Ok(ages.join_all().await.into_iter().max().unwrap_or(0))
    }
}

async fn age(pools: Arc<Pools>, route: Arc<Route>, known: Option<CompanyFigures>, at_once: Arc<Semaphore>) -> i64 {
    let Ok(_place) = at_once.acquire().await else { return 0 };
    let (pending, active) = known.map_or((None, None), |known| (known.pending_posted, known.active_posted));
    let read = async {
        let mut tx = pools.begin(&route.dsn, &route.schema).await?;
        figures(&mut tx, route.company.as_str(), pending, active).await
    };
    // A database that does not answer is told by the trouble gauge.
    within(COMPANY_PATIENCE, read).await.ok().and_then(|figures| figures.oldest_unposted_seconds).unwrap_or(0)
}

/// `unusable`: rows of `control.company_config` that give no route.
fn companies_check(waiting: &Waiting, unusable: usize) -> Check {
    let Waiting { companies_down, companies_parked, spreadsheets_parked, .. } = waiting;
    if (*companies_down, *companies_parked, *spreadsheets_parked, unusable) == (0, 0, 0, 0) {
        return Check::ok("all are served");
    }
    Check::degraded(format!(
        "companies: {companies_down} down, {companies_parked} parked, {unusable} with an unusable row; {spreadsheets_parked} spreadsheets parked: `kylo status` says why"
    ))
}

/// Asks every database now, for `/health/deep`. Before the control database has answered there is nothing to ask.
pub fn deep_probe(sources: Arc<OnceLock<Sources>>) -> DeepProbe {
    Arc::new(move || {
        let sources = sources.get().cloned();
        async move {
            match sources {
                Some(sources) => probe(&sources).await,
                None => BTreeMap::new(),
            }
        }
        .boxed()
    })
}

async fn probe(sources: &Sources) -> BTreeMap<String, Check> {
    let answer = match status::waiting(&sources.control).await {
        Ok(waiting) => Check::ok(format!("answers; {} held, {} in doubt", waiting.held_messages, waiting.in_doubt_posts)),
        Err(error) => Check::failed(describe(&error)),
    };
    let mut checks = BTreeMap::from([(super::control::CHECK.to_owned(), answer)]);
    let Ok(routes) = sources.routing.all().await else { return checks };
    // All at once: one that is down takes its whole time, and is a company's trouble, not the process'.
    let companies = routes.iter().map(async |(id, route)| {
        let check = match route {
            Ok(route) => match within(PROBE_PATIENCE, sources.pools.begin(&route.dsn, &route.schema)).await {
                Ok(_) => Check::ok("its database answers"),
                Err(error) => Check::degraded(describe(&error)),
            },
            Err(refused) => Check::degraded(refused.reason.clone()),
        };
        (format!("company_{id}"), check)
    });
    checks.extend(futures::future::join_all(companies).await);
    checks
}
