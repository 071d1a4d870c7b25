//! The ingest transaction: its order of statements, once to commit, or many times to find out which rows Postgres rejects.
//!
//! Called by [`super::settle`] alone. What must never happen here: a read that folding relies on before the companies are locked.

use std::sync::Arc;

use sqlx::{Acquire, PgConnection, PgTransaction};

use super::fold::{Company, Fold, Folded, Piece, Writes};
use super::problem::code;
use super::schemas::Unusable;
use super::settle::patience;
use super::{Counts, Ingest};
use crate::domain::rules::RuleSet;
use crate::faults::{Bug, CrashPoint, planted};
use crate::flow::work::Handled;
use crate::store::company::books::{self, Books, LedgerRow};
use crate::store::company::state::{self, StateRow};
use crate::store::company::transactions::{self, StoredTxn};
use crate::store::company::{matched, pending};
use crate::store::error::{Fault, classify};
use crate::store::pools::{PATIENCE, within};

/// What was committed.
#[derive(Debug)]
pub(super) struct Done {
    /// One per piece, in order.
    pub(super) outcomes: Vec<Handled>,
    pub(super) counts: Counts,
}

/// Everything folding needs, read under the companies' locks.
struct Known {
    states: Vec<StateRow>,
    rules: Vec<Arc<RuleSet>>,
    ledger: Vec<LedgerRow>,
}

impl Known {
    fn companies(&self) -> Vec<Company<'_>> {
        self.states.iter().zip(&self.rules).map(|(state, rules)| Company { state, rules }).collect()
    }
}

impl Ingest {
    /// Applies pieces of one schema in one transaction.
    pub(super) async fn commit(&self, pieces: &[Piece<'_>]) -> Result<Done, Unusable> {
        let Some(first) = pieces.first() else { return Ok(Done { outcomes: Vec::new(), counts: Counts::default() }) };
        let (mut tx, known) = self.open(first, pieces).await?;
        self.faults.reached(CrashPoint::IngestOpened).await;
        let companies = known.companies();
        let mut fold = Fold::new(&companies, pieces, &known.ledger);
        let stored = load(&mut tx, &fold, pieces).await?;
        fold.take_stored(&stored);
        let Folded { mut writes, outcomes, counts, due } = fold.run(pieces);
        if planted(Bug::NoLedger) {
            writes.books.ledger.clear();
        }
        if planted(Bug::LedgerBeforeRows) {
            let mut alone = self.pools.begin(&first.work.route.dsn, &first.work.route.schema).await?;
            books::write(&mut alone, &Books { ledger: std::mem::take(&mut writes.books.ledger), ..Books::default() }).await?;
            alone.commit().await?;
        }
        write(&mut tx, &writes).await?;
        self.faults.reached(CrashPoint::IngestWritten).await;
        tx.commit().await?;
        self.faults.reached(CrashPoint::IngestCommitted).await;
        self.due.ring(due);
        Ok(Done { outcomes, counts })
    }

    /// Which rows of a message Postgres rejects, with the SQLSTATE. Found by halving, under savepoints of one transaction that is rolled back.
    pub(super) async fn rejected_rows(&self, piece: &Piece<'_>) -> Result<Vec<(usize, String)>, Unusable> {
        let all = std::slice::from_ref(piece);
        let (mut tx, known) = within(PATIENCE, self.open(piece, all)).await?;
        let companies = known.companies();
        let stored = within(patience(all), load(&mut tx, &Fold::new(&companies, all, &known.ledger), all)).await?;
        let mut rejected = Vec::new();
        // Halves still to be tried, the first on top: at most about two per halving.
        let mut halves: Vec<_> = std::iter::once(0..piece.rows.len()).collect();
        while let Some(half) = halves.pop() {
            let part = [piece.part(half.clone())];
            let mut fold = Fold::new(&companies, &part, &known.ledger);
            fold.take_stored(&stored);
            match within(patience(&part), try_out(&mut tx, &fold.run(&part).writes)).await {
                Ok(()) => {}
                Err(error) if classify(&error) != Fault::Data => return Err(error.into()),
                Err(error) if half.len() <= 1 => rejected.extend(half.map(|row| (row, code(&error)))),
                Err(_) => {
                    let middle = half.start + half.len() / 2;
                    halves.push(middle..half.end);
                    halves.push(half.start..middle);
                }
            }
        }
        tx.rollback().await?;
        Ok(rejected)
    }

    async fn open(&self, first: &Piece<'_>, pieces: &[Piece<'_>]) -> Result<(PgTransaction<'static>, Known), Unusable> {
        let route = &first.work.route;
        let mut tx = self.pools.begin(&route.dsn, &route.schema).await?;
        self.schemas.check(&mut tx, route).await?;
        let mut names: Vec<_> = pieces.iter().map(Piece::company).collect();
        names.sort_unstable();
        names.dedup();
        let states = if planted(Bug::SeqNotLocked) {
            let mut unlocked = tx.begin().await?;
            let states = state::lock(&mut unlocked, &names).await?;
            unlocked.rollback().await?;
            states
        } else {
            state::lock(&mut tx, &names).await?
        };
        let rules = self.rules.current(&mut tx, route, &states).await?;
        let mut contents: Vec<_> = pieces.iter().map(|piece| (piece.company(), piece.hex.as_str())).collect();
        contents.sort_unstable();
        contents.dedup();
        let (owners, signatures): (Vec<_>, Vec<_>) = contents.into_iter().unzip();
        let ledger = books::look_up(&mut tx, &owners, &signatures).await?;
        Ok((tx, Known { states, rules, ledger }))
    }
}

async fn load<'a>(conn: &mut PgConnection, fold: &Fold<'a>, pieces: &'a [Piece<'a>]) -> Result<Vec<StoredTxn>, sqlx::Error> {
    let wanted = fold.wanted(pieces);
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let (owners, uids): (Vec<_>, Vec<_>) = wanted.into_iter().map(|(company, uid)| (company, uid.0)).unzip();
    transactions::load(conn, &owners, &uids).await
}

async fn write(conn: &mut PgConnection, writes: &Writes<'_>) -> Result<(), sqlx::Error> {
    if !writes.txns.is_empty() {
        transactions::upsert(conn, &writes.txns).await?;
    }
    if !writes.pending.is_empty() {
        pending::upsert(conn, &writes.pending).await?;
    }
    if !writes.matched.is_empty() {
        matched::upsert(conn, &writes.matched).await?;
    }
    books::write(conn, &writes.books).await
}

async fn try_out(tx: &mut PgTransaction<'static>, writes: &Writes<'_>) -> Result<(), sqlx::Error> {
    let mut savepoint = tx.begin().await?;
    let mut tried = write(&mut savepoint, writes).await;
    if tried.is_ok() {
        // What a deferred constraint would say at COMMIT, it says now.
        tried = crate::store::company::check_deferred(&mut savepoint).await;
    }
    savepoint.rollback().await?;
    tried
}
