//! The broker, the companies' databases and the control database's queues, as consumers know them: all in memory, each call done at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use kylo::domain::ids::{CompanyId, TxnKey, txn_uid};
use tokio::time::Instant;

use super::tables::Tables;

pub const PARTITIONS: usize = 2;
pub const COMPANIES: usize = 3;

/// A protection that is switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// The position moves with every finished message, not with the finished head.
    CommitsPastUnfinished,
    /// A message that failed goes behind its successors.
    PutsBackLast,
    /// The ledger does not dismiss a batch it knows.
    NoLedger,
}

/// One batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub company: usize,
    pub n: usize,
    pub partition: i32,
    pub offset: i64,
}

/// The broker and all databases.
pub struct Outside {
    pub logs: Vec<Vec<Message>>,
    pub committed: Vec<usize>,
    pub owner: Vec<Option<u64>>,
    /// Batches in the order in which each company's database has them.
    pub applied: Vec<Vec<usize>>,
    pub down: BTreeSet<usize>,
    pub held: Vec<Vec<Message>>,
    pub drains: BTreeMap<usize, (u64, Instant)>,
    pub tables: Arc<Mutex<Tables>>,
    pub names: Vec<String>,
    pub fault: Fault,
    pub wrong: Option<String>,
}

impl Outside {
    pub fn publish(&mut self, company: usize) {
        let partition = company % PARTITIONS;
        let n = self.logs[partition].iter().filter(|message| message.company == company).count();
        let offset = self.logs[partition].len() as i64;
        self.logs[partition].push(Message { company, n, partition: i32::try_from(partition).unwrap(), offset });
    }

    /// One company's part of an ingest transaction. False = its database is down.
    pub fn apply(&mut self, message: &Message) -> bool {
        if self.down.contains(&message.company) {
            return false;
        }
        let known = &mut self.applied[message.company];
        if known.contains(&message.n) && self.fault != Fault::NoLedger {
            return true;
        }
        if message.n != known.len() {
            self.wrong.get_or_insert(format!("batch {} of company {} is applied after {known:?}", message.n, message.company));
        }
        known.push(message.n);
        let name = &self.names[message.company];
        let mut tables = self.tables.lock().unwrap();
        tables.add(name, &format!("t{}", message.n), &format!("BATCH {}", message.n), 100);
        // A transaction that every batch sets anew: its last content tells an order that was broken.
        let uid = txn_uid(&CompanyId::parse(name).unwrap(), TxnKey::Id("last"));
        if tables.companies[name].txns.contains_key(&uid) {
            tables.correct(name, uid, &format!("LAST {}", message.n));
        } else {
            tables.add(name, "last", &format!("LAST {}", message.n), 1);
        }
        true
    }

    /// Into the company's queue, each position once.
    pub fn hold(&mut self, company: usize, messages: Vec<Message>) {
        for message in messages {
            if !self.held[company].contains(&message) {
                self.held[company].push(message);
            }
        }
    }
}

/// A company by its number.
pub fn name(outside: &Outside, company: usize) -> CompanyId {
    CompanyId::parse(&outside.names[company]).unwrap()
}
