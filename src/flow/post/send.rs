//! Intent, one atomic batch, what the answer says, the ledger.
//!
//! What must never happen here: a batch sent without its intent in state `sent`, a second batch while one is in doubt unless it carries the same
//! fence id, or a post counted as landed on anything but a 2xx answer or its own fence entry.

use std::collections::{BTreeMap, HashMap};

use tracing::{info, warn};
use uuid::Uuid;

use super::project::{CompanyPlan, DATABASE_WITHIN, bounded, fresh_sheet_id};
use super::read::Look;
use super::{Halt, Session, Step};
use crate::domain::company::CONTROL_TAB;
use crate::domain::fence::{self, Epoch, Frame, Mark, Verdict};
use crate::domain::ids::TxnUid;
use crate::domain::plan::{self, Answer, Budget, Found, Left, TypedCells};
use crate::domain::sheet::{Applied, Batch, EchoRange, Request};
use crate::domain::tab::{Approved, EARLY_TICK, Role, Typed};
use crate::faults::{Bug, CrashPoint, planted};
use crate::ports::CallError;
use crate::store::control::intents::{IntentTab, NewIntent, OpenIntent, TypedByCompany};
use crate::store::control::posts::Landed;
use crate::store::error::describe;

/// A batch on its way.
struct Post {
    intent_id: Uuid,
    generation: i64,
    new_epoch: bool,
    /// The `_kylo` it writes into.
    control_tab: (i32, String),
    tabs: Vec<IntentTab>,
    typed: TypedByCompany,
    batch: Batch,
}

impl Post {
    /// See [`Bug::RetriedBlindly`].
    fn advance_fence(&mut self) {
        for request in &mut self.batch.requests {
            if let Request::CreateMetadata { id, .. } = request {
                *id += 1;
            }
        }
    }
}

/// A frame that does not protect, if a bug is planted.
fn sabotaged(frame: &Frame<'_>) -> Option<Vec<Request>> {
    match frame.epoch {
        _ if planted(Bug::NoFence) => {
            let cleared = Request::DeleteMetadata { id: fence::id(frame.generation)? };
            Some(std::iter::once(cleared).chain(frame.requests()?).collect())
        }
        Epoch::Keep { .. } if planted(Bug::EpochNotChecked) => frame.requests().map(|requests| requests.into_iter().take(1).collect()),
        Epoch::Replace { old, .. } if planted(Bug::PrunedInTheSameEpoch) => {
            let deleted = frame.requests()?.into_iter().filter(|request| matches!(request, Request::DeleteMetadata { .. }));
            let kept = Frame { epoch: Epoch::Keep { sheet_id: old }, ..frame.clone() }.requests()?;
            Some(kept.into_iter().chain(deleted).collect())
        }
        _ => None,
    }
}

impl Session<'_> {
    /// Sends what was planned, with the next fence, and records what came of it.
    pub(super) async fn send(&mut self, look: &Look, plans: Vec<CompanyPlan>, is_restored: bool) -> Result<Step, Halt> {
        let generation = self.next_generation(look).await?;
        let mut post = self.prepare(look, &plans, generation, is_restored)?;
        if !self.write_intent(&post, &plans).await? {
            return Err(Halt::LeaseLost);
        }
        self.options.faults.reached(CrashPoint::PostPlanned).await;
        let store = &self.options.store;
        let is_ours = store.renew(self.spreadsheet.as_str(), self.options.holder).await?;
        if !is_ours || !store.mark_sent(post.intent_id).await? {
            store.abandon_intent(post.intent_id).await?;
            return Err(Halt::LeaseLost);
        }
        let points = if post.new_epoch {
            [CrashPoint::EpochChanging, CrashPoint::EpochChanged]
        } else {
            [CrashPoint::PostSending, CrashPoint::PostAnswerRead]
        };
        self.options.faults.reached(points[0]).await;
        let mut answer = self.gateway.apply(self.spreadsheet, &post.batch).await;
        self.options.faults.reached(points[1]).await;
        if matches!(answer, Err(CallError::Unknown(_))) && planted(Bug::RetriedBlindly) {
            post.advance_fence();
            answer = self.gateway.apply(self.spreadsheet, &post.batch).await;
        }
        match answer {
            Err(CallError::Unknown(_)) if planted(Bug::DoubtTakenForLanded) => self.landed(&post, plans, &Applied::default()).await,
            Ok(applied) => self.landed(&post, plans, &applied).await,
            Err(CallError::Refused(reason)) => self.refused(&post, reason).await,
            Err(CallError::Unknown(reason)) => {
                self.options.store.mark_in_doubt(post.intent_id, &reason).await?;
                self.round.in_doubt += 1;
                Err(Halt::InDoubt(reason))
            }
            Err(error) => {
                self.close(post.intent_id, "abandoned", &error.to_string()).await?;
                Err(Halt::Call(error))
            }
        }
    }

    /// The one after the highest in the spreadsheet, whatever Postgres remembers: also after an unknown outcome, so that at most one lands.
    async fn next_generation(&self, look: &Look) -> Result<i64, Halt> {
        let highest = fence::highest(&look.observed.metadata);
        if planted(Bug::FenceNotAdvanced) {
            return Ok(highest.max(1));
        }
        if planted(Bug::FenceIdSkipped) {
            let open = self.options.store.open_intents(self.spreadsheet.as_str()).await?;
            return Ok(open.iter().map(|intent| intent.generation).max().unwrap_or(highest).max(highest) + 1);
        }
        Ok(highest + 1)
    }

    fn prepare(&self, look: &Look, plans: &[CompanyPlan], generation: i64, is_restored: bool) -> Result<Post, Halt> {
        let metadata = &look.observed.metadata;
        let intent_id = (self.options.ids)();
        let fresh_id = fresh_sheet_id(self.options);
        let epoch = match look.control() {
            // Whatever the other environment has under way is refused from here on.
            Some(control) if self.mend.take_over => Epoch::Replace { old: control.sheet_id, new: fresh_id },
            control => fence::epoch(control, metadata, self.row.confirmed_generation, fresh_id),
        };
        let control_tab = match (epoch, look.control()) {
            (Epoch::Keep { sheet_id }, Some(control)) => (sheet_id, control.title.clone()),
            (Epoch::Keep { sheet_id } | Epoch::Make { sheet_id } | Epoch::Replace { new: sheet_id, .. }, _) => (sheet_id, CONTROL_TAB.to_owned()),
        };
        let spreadsheet = self.spreadsheet.to_string();
        let mark = Mark { intent: intent_id, spreadsheet, environment: self.options.environment.clone() };
        let frame = Frame { mark, generation, epoch, at: self.options.clock.now(), metadata };
        let used_up = || Halt::Parked("the fence has used up its generations: use a new spreadsheet".to_owned());
        let mut requests = sabotaged(&frame).or_else(|| frame.requests()).ok_or_else(used_up)?;
        let mut post = Post {
            intent_id,
            generation,
            new_epoch: is_restored || matches!(epoch, Epoch::Replace { .. }),
            control_tab,
            tabs: Vec::new(),
            typed: BTreeMap::new(),
            batch: Batch { requests: Vec::new(), echo: Vec::new() },
        };
        for plan in plans {
            for tab in &plan.tabs {
                post.tabs.push(self.intent_tab(plan, tab, intent_id));
                if tab.plan.role == Role::Pending && !tab.plan.mends_header {
                    post.typed.insert(plan.route.company.to_string(), tab.plan.typed.clone());
                }
                if !tab.plan.is_empty() {
                    requests.extend(tab.plan.setup.iter().chain(&tab.plan.rows).cloned());
                    post.batch.echo.push(EchoRange { title: tab.located.title.clone(), columns: tab.plan.span });
                }
            }
        }
        post.batch.requests = requests;
        Ok(post)
    }

    fn intent_tab(&self, plan: &CompanyPlan, tab: &super::project::Planned, intent: Uuid) -> IntentTab {
        let row = plan.row(tab);
        let signature = plan::signature(&row.company_id, self.spreadsheet.as_str(), &row.title, intent, &tab.plan.rows);
        IntentTab {
            company: row.company_id,
            role: tab.plan.role,
            configured_title: row.configured_title,
            title: row.title,
            sheet_id: row.sheet_id,
            seq: row.posted_seq,
            answer_seq: row.answer_seq,
            signature,
            row_count: tab.plan.row_count(),
        }
    }

    /// The intent, and what people had typed when it was planned. False = the lease has passed on: who was frozen since the read
    /// would put what people typed then in the place of what they have typed since.
    async fn write_intent(&self, post: &Post, plans: &[CompanyPlan]) -> Result<bool, Halt> {
        let intent = NewIntent {
            intent_id: post.intent_id,
            spreadsheet_id: self.spreadsheet.as_str(),
            generation: post.generation,
            holder: self.options.holder,
            tabs: &post.tabs,
            operations: &post.batch.requests,
            typed: &post.typed,
            known: plans.iter().map(|plan| (plan.route.company.as_str(), &plan.wanted.typed)).collect(),
        };
        Ok(self.options.store.write_intent(&intent).await?)
    }

    /// A 2xx answer: it landed, once. What the answer shows is compared by planning again: an empty plan means that nobody was in the way.
    async fn landed(&mut self, post: &Post, plans: Vec<CompanyPlan>, applied: &Applied) -> Result<Step, Halt> {
        let mut tabs = post.tabs.clone();
        let mut typed = post.typed.clone();
        let mut damaged = Vec::new();
        for plan in &plans {
            // What was in doubt before can land no more. Where rows were changed, the answer is read anew.
            let is_changed = plan.tabs.iter().any(|tab| tab.plan.role == Role::Pending && !tab.plan.is_empty());
            let marked = typed.get_mut(plan.route.company.as_str()).filter(|_| !is_changed);
            marked.into_iter().flat_map(|typed| typed.values_mut()).for_each(Typed::put_out_of_risk);
            for tab in plan.tabs.iter().filter(|tab| !tab.plan.is_empty() && !tab.plan.mends_header) {
                let Shown { mut healthy, left } = verify(plan, &tab.plan, applied, &mut typed);
                if !self.keep_left(plan, &left).await {
                    // The next round finds it missing once more.
                    let cells = typed.entry(plan.route.company.to_string()).or_default();
                    cells.extend(left.iter().filter_map(|left| Some((left.uid, tab.plan.typed.get(&left.uid)?.clone()))));
                    healthy = false;
                }
                let early = early_ticks(plan, &tab.plan, &typed);
                if !early.is_empty() {
                    healthy = false;
                    self.answer_ticks(plan, &early).await;
                }
                if !healthy {
                    self.answer_ticks(plan, &lost_ticks(plan, &tab.plan, &typed)).await;
                }
                if !healthy && tab.plan.complete && !planted(Bug::AnswerNotCompared) {
                    damaged.push(tab.plan.sheet_id);
                }
            }
        }
        for tab in tabs.iter_mut().filter(|tab| damaged.contains(&tab.sheet_id)) {
            tab.seq = -1;
        }
        let none = TypedByCompany::new();
        let landed = Landed {
            intent_id: post.intent_id,
            spreadsheet_id: self.spreadsheet.as_str(),
            generation: post.generation,
            tabs: &tabs,
            planned: Some(&post.typed),
            seen: Some(if planted(Bug::TypedForgotten) { &none } else { &typed }),
            new_epoch: post.new_epoch,
            control_tab: Some((post.control_tab.0, &post.control_tab.1)),
            at: self.options.clock.now(),
        };
        self.options.store.confirm(&landed).await?;
        self.row.confirmed_generation = post.generation;
        (self.row.control_sheet_id, self.row.control_title) = (Some(post.control_tab.0), Some(post.control_tab.1.clone()));
        self.distrust_titles = false;
        self.mend.take_over = false;
        self.round.posted += 1;
        let n_rows: usize = tabs.iter().map(|tab| tab.row_count).sum();
        info!(spreadsheet = %self.spreadsheet, intent = %post.intent_id, generation = post.generation, tabs = tabs.len(), rows = n_rows, "posted");
        self.options.faults.reached(CrashPoint::PostConfirmed).await;
        if !damaged.is_empty() {
            self.round.damaged += 1;
            warn!(spreadsheet = %self.spreadsheet, intent = %post.intent_id, "people edited between read and write: posting again at once");
        }
        self.finish(&plans, &damaged).await
    }

    /// Stores what Status is to say of ticks that came or went while this post was on its way.
    async fn answer_ticks(&self, company: &CompanyPlan, answers: &[Answer]) {
        if answers.is_empty() {
            return;
        }
        if let Err(error) = bounded(DATABASE_WITHIN, self.options.store.store_answers(&company.route, answers, &[])).await {
            warn!(company = %company.route.company, reason = describe(&error), "ticks that came or went during a post could not be answered");
        }
    }

    /// Keeps what went with rows while this post was on its way. False = the company's database did not take it.
    async fn keep_left(&self, company: &CompanyPlan, left: &[Left]) -> bool {
        if left.is_empty() {
            return true;
        }
        let kept = bounded(DATABASE_WITHIN, self.options.store.store_answers(&company.route, &[], left)).await;
        if let Err(error) = &kept {
            warn!(company = %company.route.company, reason = describe(error), "what went with rows during a post could not be kept yet");
        }
        kept.is_ok()
    }

    /// 400: this attempt applied nothing, but an attempt below us may have. The fence entry says.
    async fn refused(&mut self, post: &Post, reason: String) -> Result<Step, Halt> {
        let id = fence::id(post.generation).unwrap_or_default();
        let entry = match self.gateway.metadata(self.spreadsheet, id).await {
            Ok(entry) => entry,
            Err(error) => {
                self.options.store.mark_in_doubt(post.intent_id, &reason).await?;
                self.round.in_doubt += 1;
                return Err(Halt::Call(error));
            }
        };
        match entry.map(|entry| fence::judge_entry(&entry, post.intent_id)) {
            Some(Verdict::Landed) => {
                let intent = OpenIntent {
                    intent_id: post.intent_id,
                    generation: post.generation,
                    state: "sent".to_owned(),
                    tabs: sqlx::types::Json(post.tabs.clone()),
                    typed: Some(sqlx::types::Json(post.typed.clone())),
                };
                self.confirm_found(&intent).await?;
                Ok(Step::Again)
            }
            Some(Verdict::ForeignKey(key)) => {
                self.close(post.intent_id, "refused", "its fence id is taken by a foreign key").await?;
                Err(self.foreign_key(post.generation, &key))
            }
            Some(_) => {
                self.close(post.intent_id, "superseded", "another post took its generation").await?;
                Ok(Step::Again)
            }
            None => {
                self.close(post.intent_id, "refused", &reason).await?;
                Ok(Step::Refused(reason))
            }
        }
    }

    pub(super) async fn close(&self, intent: Uuid, state: &str, reason: &str) -> Result<(), Halt> {
        Ok(self.options.store.settle_intent(intent, state, reason).await?)
    }
}

/// A tick that was read, and that the answer does not show any more although this post did not take it back on purpose: rows had moved, and
/// it went with a row that was removed or fell to an Approved FALSE meant for another. Its row says so.
fn lost_ticks(company: &CompanyPlan, sent: &plan::TabPlan, typed: &TypedByCompany) -> Vec<Answer> {
    let shown = typed.get(company.route.company.as_str());
    let is_lost = |uid: &TxnUid| shown.and_then(|shown| shown.get(uid)).is_none_or(|now| now.approved != Approved::Yes);
    let read = sent.typed.iter().filter(|(_, read)| read.approved == Approved::Yes).map(|(uid, _)| *uid);
    let text = "changed: rows were moved while this tab was posted and the tick was lost; check the row and tick Approved again";
    answers_to(company, sent, typed, read.filter(is_lost), text)
}

/// A person was at work in a row while this very post replaced its content: a tick that was set then was one of the old content. The post has taken it
/// back, unless something else stood in the cell when it was read; then the next round does, and it counts for nothing until then. A tick that came
/// alone, with nothing else typed, is not seen.
fn early_ticks(company: &CompanyPlan, sent: &plan::TabPlan, typed: &TypedByCompany) -> Vec<Answer> {
    let of = |cells: Option<&TypedCells>, uid: &TxnUid| cells.and_then(|cells| cells.get(uid)).map(Typed::plain).unwrap_or_default();
    let shown = typed.get(company.route.company.as_str());
    let is_touched = |uid: &&TxnUid| {
        let (read, now) = (of(Some(&sent.typed), uid), of(shown, uid));
        (now.approved == Approved::Yes && read.approved != Approved::Yes) || now.unapproved() != read.unapproved()
    };
    answers_to(company, sent, typed, sent.rewritten.iter().filter(is_touched).copied(), EARLY_TICK)
}

fn answers_to(company: &CompanyPlan, sent: &plan::TabPlan, typed: &TypedByCompany, uids: impl Iterator<Item = TxnUid>, answer: &str) -> Vec<Answer> {
    let shown = typed.get(company.route.company.as_str());
    uids.filter_map(|uid| {
        let now = shown.and_then(|shown| shown.get(&uid)).cloned().unwrap_or_default();
        let row = company.wanted.open.iter().find(|row| row.uid == uid)?;
        let given = sent.answers.iter().find(|answer| answer.uid == uid);
        let before = given.map_or_else(|| row.answer.clone(), |given| given.answer.clone());
        Some(Answer { uid, before, answer: answer.to_owned(), answer_input: Some(now.fingerprint()) })
    })
    .collect()
}

/// What an answer shows of a tab.
struct Shown {
    /// As it was to become.
    healthy: bool,
    /// What was read in people's cells before, and went with rows that the post removed.
    left: Vec<Left>,
}

/// Compares the answer with what was planned. What people typed meanwhile is taken into `typed`.
fn verify(company: &CompanyPlan, sent: &plan::TabPlan, applied: &Applied, typed: &mut TypedByCompany) -> Shown {
    let unseen = Shown { healthy: false, left: Vec::new() };
    let Some(echo) = applied.tabs.get(&sent.sheet_id) else { return unseen };
    let mut wanted = company.wanted.clone();
    let answers: HashMap<TxnUid, &Answer> = sent.answers.iter().map(|answer| (answer.uid, answer)).collect();
    for row in &mut wanted.open {
        if let Some(answer) = answers.get(&row.uid) {
            row.answer.clone_from(&answer.answer);
            row.answer_input.clone_from(&answer.answer_input);
        }
    }
    wanted.typed.clone_from(&sent.typed);
    // What was in doubt before can land no more.
    wanted.in_doubt = false;
    let posted_seq = company.seq(sent);
    match wanted.plan(&company.route, sent.role, Found::There(echo), posted_seq, &mut Budget::new(usize::MAX)) {
        Ok(rest) => {
            if sent.role == Role::Pending {
                typed.insert(company.route.company.to_string(), rest.typed.clone());
            }
            Shown { healthy: rest.is_empty(), left: rest.left }
        }
        Err(_) => unseen,
    }
}
