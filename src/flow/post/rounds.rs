//! The rounds of one spreadsheet's pass: read, settle, plan, send, until nothing is left; and what to do when it goes wrong again and again.
//!
//! Called by `Poster`. What must never happen here: one company's part of a batch holding up the others for good, or a company parked for what is the
//! service's trouble.

use tracing::warn;

use super::wake::is_due;
use super::{CompanyWork, Halt, PARKED_RETRY, Session, Step, project};
use crate::domain::company::Route;
use crate::faults::CrashPoint;

/// Rounds of one spreadsheet in one pass: batches that were too large for one call, and damage healed.
const MAX_ROUNDS: usize = 12;
/// Plans made afresh after a refusal, before the companies are tried one by one.
const MAX_REFUSALS: usize = 3;
/// Unknown outcomes one after the other, before it is found out whether one company's part is to blame.
const MAX_IN_DOUBT: usize = 8;

impl Session<'_> {
    /// All rounds, over what is still due.
    pub(super) async fn pass(&mut self, is_sweep: bool) -> Result<(), Halt> {
        if !is_sweep {
            self.forget_done().await?;
        }
        self.rounds().await
    }

    /// Another process may have posted what was found due while this pass waited for its turn: that takes no second read.
    async fn forget_done(&mut self) -> Result<(), Halt> {
        let bindings = self.options.store.bindings().await?;
        for work in self.todo.iter_mut().filter(|work| !work.has_trouble) {
            let CompanyWork { route, state, due, .. } = work;
            due.retain(|role| state.as_ref().is_none_or(|state| is_due(&bindings, route, *role, state)));
        }
        self.todo.retain(|work| !work.due.is_empty());
        Ok(())
    }

    async fn rounds(&mut self) -> Result<(), Halt> {
        if self.options.store.open_intents(self.spreadsheet.as_str()).await?.len() >= MAX_IN_DOUBT {
            return self.after_doubts().await;
        }
        let mut refusals = 0;
        // A sweep of many companies takes more than one read.
        for _ in 0..MAX_ROUNDS + self.todo.len() / 8 {
            match self.one_round().await? {
                Step::Done => return Ok(()),
                Step::Again => {}
                Step::Refused(reason) => {
                    self.round.refused += 1;
                    self.distrust_titles = true;
                    refusals += 1;
                    if refusals >= MAX_REFUSALS {
                        return self.one_by_one(Some(&reason)).await;
                    }
                }
            }
        }
        self.round.again = true;
        Ok(())
    }

    /// Post after post stays in doubt. The fence alone tells whose trouble it is: if even that gets no answer, the service is down and everything
    /// waits; if it lands, it closes the posts in doubt, and each company's part is tried by itself.
    async fn after_doubts(&mut self) -> Result<(), Halt> {
        let companies = std::mem::take(&mut self.todo);
        for _ in 0..MAX_REFUSALS {
            if self.one_round().await? == Step::Done {
                self.todo = companies;
                return self.one_by_one(None).await;
            }
        }
        self.round.again = true;
        Ok(())
    }

    /// Which company's part of the batch is it that fails? Without a refusal, posts that stayed in doubt are the reason to ask.
    async fn one_by_one(&mut self, refused: Option<&str>) -> Result<(), Halt> {
        let companies = std::mem::take(&mut self.todo);
        if let (Some(reason), true) = (refused, companies.is_empty()) {
            // Nothing but the fence was in the batch: no company is to blame.
            return Err(Halt::Parked(format!("the spreadsheet service refuses Kylo's own marks in spreadsheet {}: {reason}", self.spreadsheet)));
        }
        let alone = companies.len() == 1;
        let says_no = |reason: &str| format!("the spreadsheet service refuses this company's post: {reason}");
        for company in companies {
            self.todo = vec![company.clone()];
            let mut failed = refused.filter(|_| alone).map(says_no);
            for _ in 0..MAX_ROUNDS {
                if failed.is_some() {
                    break;
                }
                match self.one_round().await {
                    Ok(Step::Done) => break,
                    Ok(Step::Again) => {}
                    Ok(Step::Refused(reason)) => failed = Some(says_no(&reason)),
                    // The next company's post carries the same fence id, so at most one of them lands.
                    Err(Halt::InDoubt(reason)) if refused.is_none() => {
                        failed = Some(format!("the spreadsheet service takes Kylo's marks but never answers this company's post: {reason}"));
                    }
                    Err(halt) => return Err(halt),
                }
            }
            if let Some(reason) = failed {
                self.park(&company.route, &reason).await?;
            }
        }
        self.todo = Vec::new();
        Ok(())
    }

    /// Read, settle, plan, send.
    async fn one_round(&mut self) -> Result<Step, Halt> {
        if self.todo.is_empty() && self.options.store.open_intents(self.spreadsheet.as_str()).await?.is_empty() {
            return Ok(Step::Done);
        }
        let look = self.look().await?;
        self.options.faults.reached(CrashPoint::PostLooked).await;
        let settled = self.settle(&look.observed.metadata).await?;
        if settled.landed > 0 {
            // Bindings and what is due have changed.
            self.round.again = true;
            return Ok(Step::Again);
        }
        let plans = self.plan_all(&look, &settled.in_doubt).await?;
        self.options.faults.reached(CrashPoint::PostRead).await;
        let plans = self.store_answers(plans).await?;
        self.options.faults.reached(CrashPoint::PostAnswered).await;
        if !self.is_current(&plans).await? {
            // Another pass begins with the new configuration.
            self.todo.clear();
            self.round.again = true;
            return Ok(Step::Done);
        }
        let must_send = settled.is_lingering || settled.is_restored || self.mend.take_over;
        if !must_send && plans.iter().all(project::CompanyPlan::is_empty) {
            return self.record_equal(plans).await;
        }
        self.send(&look, plans, settled.is_restored).await
    }

    /// Whether these companies are still configured as when this pass began: it may have waited for the quota meanwhile.
    async fn is_current(&self, plans: &[project::CompanyPlan]) -> Result<bool, Halt> {
        let routes = self.options.store.routes().await?;
        let is_same = |route: &Route| matches!(routes.get(&route.company), Some(Ok(now)) if now.version == route.version);
        Ok(plans.iter().all(|plan| is_same(&plan.route)))
    }

    /// Takes a company out of this pass and says why.
    pub(super) async fn park(&mut self, route: &Route, reason: &str) -> Result<(), Halt> {
        let retry_at = self.options.clock.now() + PARKED_RETRY;
        warn!(company = %route.company, reason, "company parked");
        self.options.store.set_trouble(route.company.as_str(), "parked", reason, route.version, retry_at).await?;
        self.round.parked += 1;
        self.todo.retain(|work| work.route.company != route.company);
        Ok(())
    }
}
