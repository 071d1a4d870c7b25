//! What a soak has published, and what must hold in the end by the contract alone: an auditor of its own for the soak, which shares nothing with
//! the workers but the shapes of messages.

use std::collections::{BTreeMap, BTreeSet};

use super::world::World;

/// What a transaction must be in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fact {
    /// Minute of the batch that last said it.
    as_of: i64,
    cents: i64,
    description: String,
    void: bool,
}

/// A row as it is published.
#[derive(Clone, Debug)]
pub struct Row {
    pub id: String,
    pub cents: i64,
    pub description: String,
    pub void: bool,
}

/// Everything that was published, in order.
#[derive(Debug, Default)]
pub struct Inputs {
    facts: BTreeMap<(String, String), Fact>,
    /// Batches whose content was published once, in order, by company.
    once: BTreeMap<String, Vec<String>>,
    pub poison: i64,
    pub bad_rows: i64,
    pub batches: usize,
    pub rows: usize,
    pub requests: BTreeSet<(String, String)>,
}

impl Inputs {
    /// A batch of good rows made at this minute.
    pub fn publish(&mut self, company: &str, batch: Option<&str>, as_of: i64, rows: &[Row]) {
        self.batches += 1;
        self.rows += rows.len();
        if let Some(batch) = batch {
            self.once.entry(company.to_owned()).or_default().push(batch.to_owned());
        }
        for row in rows {
            let fact = Fact { as_of, cents: row.cents, description: row.description.clone(), void: row.void };
            match self.facts.get_mut(&(company.to_owned(), row.id.clone())) {
                Some(known) if known.as_of > as_of => {}
                Some(known) => *known = fact,
                None => {
                    self.facts.insert((company.to_owned(), row.id.clone()), fact);
                }
            }
        }
    }

    /// What is wrong, in words.
    pub async fn audit(&self, world: &World, companies: &[&str]) -> Vec<String> {
        let mut wrong = Vec::new();
        for company in companies {
            let mut differs = |what: &str, now: Vec<String>, wanted: Vec<String>| {
                let (now_set, wanted_set): (BTreeSet<_>, BTreeSet<_>) = (now.iter().collect(), wanted.iter().collect());
                if now != wanted {
                    let lost: Vec<_> = wanted_set.difference(&now_set).take(5).collect();
                    let more: Vec<_> = now_set.difference(&wanted_set).take(5).collect();
                    wrong.push(format!("{company}: {what}: {} instead of {}; missing {lost:?}, not wanted {more:?}", now.len(), wanted.len()));
                }
            };
            let sql =
                "SELECT external_id || ' ' || amount_cents || ' ' || description || ' ' || void FROM transactions ORDER BY external_id COLLATE \"C\"";
            let facts = self.facts.iter().filter(|((owner, _), _)| owner == company);
            let wanted = facts.map(|((_, id), fact)| format!("{id} {} {} {}", fact.cents, fact.description, fact.void)).collect();
            differs("transactions", world.texts(company, sql).await, wanted);

            // The counter moves on when a batch is compared again; the first event of each tells when it was applied.
            let first_told = "SELECT payload->>'batch_id' FROM outbox_events WHERE event_type = 'batch.ingested' GROUP BY 1 ORDER BY min(seq)";
            let published = self.once.get(*company).cloned().unwrap_or_default();
            let applied = world.texts(company, first_told).await;
            let applied: Vec<String> = applied.into_iter().filter(|batch| published.contains(batch)).collect();
            differs("order of batches (I6)", applied, published);

            let requests = self.requests.iter().filter(|(owner, _)| owner == company).map(|(_, key)| key.clone()).collect();
            differs(
                "promote requests",
                world.texts(company, "SELECT request_id FROM promote_requests ORDER BY request_id COLLATE \"C\"").await,
                requests,
            );

            let strangers = format!("SELECT txn_uid::text FROM transactions WHERE company_id <> '{company}' OR external_id NOT LIKE '{company}-%'");
            differs("rows of other companies (I2)", world.texts(company, &strangers).await, Vec::new());
        }
        let letters = [("message", self.poison), ("row", self.bad_rows)];
        for (kind, wanted) in letters {
            let now = world.control_number(&format!("SELECT count(*) FROM control.dead_letters WHERE kind = '{kind}'")).await;
            if now != wanted {
                wrong.push(format!("{now} dead letters of kind {kind} instead of {wanted}"));
            }
        }
        wrong
    }
}
