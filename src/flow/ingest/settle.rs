//! What to do when an ingest transaction fails: who is to blame, and what goes on without them.
//!
//! A coalesced transaction is tried company by company before anyone is blamed, then message by message, then row by row. What must never
//! happen here: a later message of a company applied when an earlier one is stuck, or an outage taken for bad data.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fold::Piece;
use super::problem::{self, MAX_TRIES, Problem, lost_to_another};
use super::schemas::Unusable;
use super::transaction::Done;
use super::{Ingest, letters};
use crate::domain::ids::batch_signature;
use crate::flow::work::{Handled, NewLetter, Stuck};
use crate::store::control::dead_letters;
use crate::store::error::describe;
use crate::store::pools::{PATIENCE, within};

/// What came of some works.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// A work's index among the works handed in, and what came of it.
    pub(super) results: Vec<(usize, Result<Handled, Stuck>)>,
    /// Why the database as a whole does not answer: nothing else needs to be tried there now.
    pub(super) down: Option<String>,
}

impl Ingest {
    /// Applies the pieces of one schema, as far as it goes.
    pub(super) async fn settle(&self, pieces: &[Piece<'_>]) -> Settled {
        let problem = match self.try_commit(pieces).await {
            Ok(done) => return settled(pieces, done),
            Err(Problem::Down(reason)) => return all_down(pieces, &reason),
            Err(problem) => problem,
        };
        let mut companies: BTreeMap<&str, Vec<Piece<'_>>> = BTreeMap::new();
        for piece in pieces {
            companies.entry(piece.company()).or_default().push(piece.clone());
        }
        if companies.len() == 1 {
            return self.settle_company(pieces, Some(problem)).await;
        }
        tracing::debug!(companies = companies.len(), "a coalesced transaction failed; trying its companies one by one");
        let mut all = Settled::default();
        for pieces in companies.values() {
            let settled = match &all.down {
                Some(reason) => all_down(pieces, reason),
                None => self.settle_company(pieces, None).await,
            };
            all.results.extend(settled.results);
            all.down = all.down.or(settled.down);
        }
        all
    }

    /// `problem`: why just these pieces failed, if that is known.
    async fn settle_company(&self, pieces: &[Piece<'_>], problem: Option<Problem>) -> Settled {
        let problem = match problem {
            Some(problem) => problem,
            None => match self.try_commit(pieces).await {
                Ok(done) => return settled(pieces, done),
                Err(problem) => problem,
            },
        };
        if let Problem::Down(reason) = &problem {
            return all_down(pieces, reason);
        }
        if let Some(stuck) = pieces.first().and_then(|first| stuck(first, &problem)) {
            return Settled { results: pieces.iter().map(|piece| (piece.index, Err(again(&stuck)))).collect(), down: None };
        }
        let mut all = Settled::default();
        let mut blocked: Option<Stuck> = None;
        for piece in pieces {
            let result = match &blocked {
                Some(stuck) => Err(again(stuck)),
                None => self.settle_message(piece).await,
            };
            if let (None, Err(stuck)) = (&blocked, &result) {
                blocked = Some(again(stuck));
            }
            all.results.push((piece.index, result));
        }
        all
    }

    async fn settle_message(&self, piece: &Piece<'_>) -> Result<Handled, Stuck> {
        let alone = std::slice::from_ref(piece);
        match self.try_commit(alone).await {
            Ok(done) => return first_outcome(done),
            Err(Problem::Data(_)) => {}
            Err(problem) => return Err(stuck_or_bug(piece, &problem)),
        }
        let rejected = self.rejected_rows(piece).await.map_err(|error| stuck_or_bug(piece, &self.judge(std::slice::from_ref(piece), error)))?;
        let blamed = rejected.iter().filter_map(|(row, code)| Some(letters::of_rejected_row(piece.work, piece.rows.get(*row)?, code)));
        self.keep(blamed.collect()).await?;
        self.metrics.rows("rejected", u64::try_from(rejected.len()).unwrap_or(u64::MAX));
        let rest = piece.without(&rejected);
        match self.try_commit(std::slice::from_ref(&rest)).await {
            Ok(done) => first_outcome(done),
            // Not any single row: a rule over several rows, or over the ledger itself.
            Err(Problem::Data(code)) => {
                self.keep(vec![letters::of_message(piece.work, &code)]).await?;
                Ok(Handled::DeadLettered)
            }
            Err(problem) => Err(stuck_or_bug(piece, &problem)),
        }
    }

    async fn keep(&self, letters: Vec<NewLetter>) -> Result<(), Stuck> {
        dead_letters::insert(&self.control, &letters).await.map(|_| ()).map_err(|error| Stuck::Control(describe(&error)))
    }

    async fn try_commit(&self, pieces: &[Piece<'_>]) -> Result<Done, Problem> {
        let mut tries = 1;
        loop {
            let error = match within(patience(pieces), self.commit(pieces)).await {
                Ok(done) => {
                    done.counts.report(&*self.metrics);
                    return Ok(done);
                }
                Err(error) => error,
            };
            if !lost_to_another(&error) || tries == MAX_TRIES {
                return Err(self.judge(pieces, error));
            }
            problem::pause(tries).await;
            tries += 1;
        }
    }

    fn judge(&self, pieces: &[Piece<'_>], error: Unusable) -> Problem {
        let problem = problem::judge(error, pieces.first().map_or("", |piece| piece.work.route.schema.as_str()));
        if let Problem::Parked(_) = &problem {
            pieces.iter().for_each(|piece| self.schemas.doubt(&piece.work.route));
        }
        problem
    }
}

/// How long the database is waited for: longer for many rows, so that a large message on a slow machine is not given up again and again.
pub(super) fn patience(pieces: &[Piece<'_>]) -> Duration {
    let rows: usize = pieces.iter().map(|piece| piece.rows.len()).sum();
    PATIENCE + Duration::from_millis(u64::try_from(rows).unwrap_or(u64::MAX).saturating_mul(2))
}

fn settled(pieces: &[Piece<'_>], done: Done) -> Settled {
    Settled { results: pieces.iter().zip(done.outcomes).map(|(piece, outcome)| (piece.index, Ok(outcome))).collect(), down: None }
}

pub(super) fn all_down(pieces: &[Piece<'_>], reason: &str) -> Settled {
    let stuck = |piece: &Piece<'_>| Stuck::Down { company: piece.company().to_owned(), reason: reason.to_owned() };
    Settled { results: pieces.iter().map(|piece| (piece.index, Err(stuck(piece)))).collect(), down: Some(reason.to_owned()) }
}

fn first_outcome(done: Done) -> Result<Handled, Stuck> {
    Ok(done.outcomes.into_iter().next().unwrap_or(Handled::Duplicate))
}

/// `None` for what splitting can help.
fn stuck(piece: &Piece<'_>, problem: &Problem) -> Option<Stuck> {
    let company = piece.company().to_owned();
    match problem {
        Problem::Data(_) => None,
        Problem::Parked(reason) => Some(Stuck::Parked { company, reason: reason.clone() }),
        Problem::Slow(reason) | Problem::Down(reason) => Some(Stuck::Down { company, reason: reason.clone() }),
    }
}

/// Data that is rejected one moment and not the next waits like an outage: nothing is lost by it.
fn stuck_or_bug(piece: &Piece<'_>, problem: &Problem) -> Stuck {
    let reason = || format!("the database is of two minds about batch {}: {problem:?}", piece.work.batch.batch_id);
    stuck(piece, problem).unwrap_or_else(|| Stuck::Down { company: piece.company().to_owned(), reason: reason() })
}

fn again(stuck: &Stuck) -> Stuck {
    match stuck {
        Stuck::Down { company, reason } => Stuck::Down { company: company.clone(), reason: reason.clone() },
        Stuck::Parked { company, reason } => Stuck::Parked { company: company.clone(), reason: reason.clone() },
        Stuck::Control(reason) => Stuck::Control(reason.clone()),
    }
}

impl<'a> Piece<'a> {
    /// All of a message.
    pub(super) fn whole(index: usize, work: &'a crate::flow::work::TxnsWork) -> Self {
        let signature = work.batch.signature;
        Self { index, work, rows: work.batch.rows.iter().collect(), signature, hex: signature.to_string(), n_bad: work.bad.len() }
    }

    /// Some of its rows, under its own signature: for trying out.
    pub(super) fn part(&self, rows: std::ops::Range<usize>) -> Self {
        Self { rows: self.rows.get(rows).unwrap_or_default().to_vec(), hex: self.hex.clone(), ..*self }
    }

    /// What is left when rows are set aside: a batch of its own content, so that replaying the set-aside rows later is not taken for a repetition.
    fn without(&self, rejected: &[(usize, String)]) -> Self {
        let is_rejected = |at: usize| rejected.iter().any(|(row, _)| *row == at);
        let rows: Vec<_> = self.rows.iter().enumerate().filter(|(at, _)| !is_rejected(*at)).map(|(_, row)| *row).collect();
        let signature = batch_signature(&self.work.batch.company_id, rows.iter().map(|row| row.facts()));
        Self { signature, hex: signature.to_string(), n_bad: self.n_bad + rejected.len(), rows, ..*self }
    }
}
