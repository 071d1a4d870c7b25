//! A Pending tab as a person has left it, for promotions without a spreadsheet.

use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use kylo::domain::clock::TestClock;
use kylo::domain::company::Route;
use kylo::domain::message::PromoteRequest;
use kylo::domain::sheet::{ObservedTab, Value};
use kylo::domain::tab::{Role, TabView, read_pending};
use kylo::faults::Faults;
use kylo::flow::promote::{PendingTabReader, Promote, PromoteOptions, TabUnread};
use kylo::flow::work::PromoteWork;
use serde_json::json;

use crate::company_world::{World, day};

/// What a read of the tab gives.
#[derive(Debug)]
pub struct TypedTab(pub Mutex<Result<TabView, TabUnread>>);

impl PendingTabReader for TypedTab {
    fn read_pending<'a>(&'a self, _route: &'a Route) -> BoxFuture<'a, Result<Option<TabView>, TabUnread>> {
        let found = self.0.lock().unwrap().clone().map(Some);
        Box::pin(async move { found })
    }
}

impl TypedTab {
    /// The company's open rows; those named are approved for a sheet and a column.
    pub async fn of(world: &World, company: &str, approved: &[(&str, &str, &str)]) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Ok(view(world, company, approved).await))))
    }
}

pub async fn view(world: &World, company: &str, approved: &[(&str, &str, &str)]) -> TabView {
    let mut rows = vec![Role::Pending.headers().iter().map(|text| text_of(text)).collect::<Vec<_>>()];
    let mut conn = world.conn(company).await;
    let open: Vec<(uuid::Uuid, String, String, i64)> = sqlx::query_as(
        "SELECT txn_uid, occurred_on::text, description, amount_cents FROM pending_txns WHERE company_id = $1 AND status = 'open' ORDER BY seq, txn_uid",
    )
    .bind(company)
    .fetch_all(&mut conn)
    .await
    .unwrap();
    for (uid, date, description, cents) in open {
        let typed = approved.iter().find(|typed| typed.0 == description);
        let (sheet, header) = typed.map_or(("", ""), |typed| (typed.1, typed.2));
        #[expect(clippy::cast_precision_loss, reason = "small amounts")]
        let amount = Value::Number(cents as f64 / 100.0);
        let machine = [text_of(&uid.to_string()), text_of(&date), text_of(&description), text_of(company), amount];
        let people = [text_of(sheet), text_of(header), Value::Empty, Value::Bool(typed.is_some()), Value::Empty];
        rows.push(machine.into_iter().chain(people).collect());
    }
    let tab = ObservedTab { sheet_id: 1, title: "Pending".to_owned(), hidden: false, row_count: 1000, column_count: 10, frozen_rows: 1, rows };
    read_pending(&tab).unwrap()
}

fn text_of(text: &str) -> Value {
    if text.is_empty() { Value::Empty } else { Value::Text(text.to_owned()) }
}

/// A process that promotes, reading this tab.
pub fn promoter(world: &World, tab: &Arc<TypedTab>, faults: Faults) -> Promote {
    let (control, pools, clock) = (world.control.clone(), Arc::clone(&world.pools), Arc::new(TestClock::at(day())));
    Promote::new(PromoteOptions { control, pools, clock, tab: Some(Arc::clone(tab) as _), canary: Default::default() }).with_faults(faults)
}

pub fn request(world: &World, company: &str, key: &str) -> PromoteWork {
    let record = world.record(company, &json!({}));
    let route = world.route(company);
    let request = PromoteRequest::new(route.company.clone(), day(), key, None);
    PromoteWork { record, route, request }
}
