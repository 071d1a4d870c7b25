//! A pass that a person asks for: now, whatever is due, and with what the poster never does by itself.
//!
//! Called by `kylo sheets repair` and `kylo company take-over`, through the poster's own steps: lease, read, intent, fence, ledger. So it excludes running
//! workers as they exclude each other, and what a crash leaves is settled by the next poster.
//!
//! | asked for | on top of a usual pass |
//! |---|---|
//! | headers | a tab whose row 1 lacks a header gets a batch that mends row 1 alone; the next round plans its rows |
//! | take over | another environment's name does not park; the batch replaces `_kylo`, so whatever that environment has under way is refused |
//!
//! What must never happen here: a call for a company in shadow; a header written where it is not certain.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::read::look;
use super::wake::config_version;
use super::{CompanyWork, PostRound, Poster, PreviewError, Session, Work};
use crate::domain::company::{Route, SpreadsheetId};
use crate::domain::fence;
use crate::domain::plan::{self, Found, TabPlan};
use crate::domain::sheet::{Batch, Request};
use crate::domain::tab::Role;
use crate::ports::CallError;

/// Passes of one spreadsheet: while another process is posting to it, or more is left.
const MOST_PASSES: usize = 60;
const PAUSE: Duration = Duration::from_secs(1);

/// What a person asks for on top of a usual pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mend {
    /// Put missing and doubled headers right.
    pub headers: bool,
    /// Accept a spreadsheet in which another environment's Kylo has worked.
    pub take_over: bool,
}

/// Whose spreadsheet it is, as it says itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// `None`: no Kylo has posted to it yet.
    pub environment: Option<String>,
    /// When it was last posted to, as `_kylo` has it.
    pub last_post: Option<String>,
    /// Posts so far.
    pub generation: i64,
}

/// What kind of thing keeps a spreadsheet from being looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallFault {
    /// Nothing could be sent, or the key was not accepted.
    Credentials,
    NotShared,
    NotFound,
    Quota,
    Other,
}

impl PreviewError {
    pub fn fault(&self) -> CallFault {
        match self {
            Self::Call(CallError::NotSent(_) | CallError::Unauthorised(_)) => CallFault::Credentials,
            Self::Call(CallError::Forbidden(_)) => CallFault::NotShared,
            Self::Call(CallError::NotFound(_)) => CallFault::NotFound,
            Self::Call(CallError::Throttled { .. }) => CallFault::Quota,
            _ => CallFault::Other,
        }
    }
}

impl Poster {
    /// Whether the account may write into the spreadsheet: asked with a request that cannot be valid, and would change nothing if it were.
    ///
    /// # Errors
    /// [`PreviewError`]
    pub async fn may_write(&self, spreadsheet: &SpreadsheetId) -> Result<bool, PreviewError> {
        let gateway = self.options.gateway.as_deref().ok_or(PreviewError::NoGateway)?;
        let nothing = Batch { requests: vec![Request::FreezeRows { sheet_id: i32::MAX, rows: 0 }], echo: Vec::new() };
        match gateway.apply(spreadsheet, &nothing).await {
            Ok(_) | Err(CallError::Refused(_)) => Ok(true),
            Err(CallError::Forbidden(_)) => Ok(false),
            Err(error) => Err(PreviewError::Call(error)),
        }
    }

    /// Compares every tab of these companies and posts what differs, at once. Companies in shadow are left out.
    ///
    /// # Errors
    /// The control database's. Everything else is recorded and told in the answer, as for every pass.
    pub async fn mend(&self, routes: &[Arc<Route>], mend: Mend) -> Result<PostRound, sqlx::Error> {
        let mut round = PostRound::default();
        let Some(gateway) = self.options.gateway.clone() else { return Ok(round) };
        let known = self.options.store.routes().await?;
        let mut asked: BTreeMap<SpreadsheetId, Vec<Arc<Route>>> = BTreeMap::new();
        for route in routes.iter().filter(|route| self.is_posted(&route.company)) {
            asked.entry(route.spreadsheet.clone()).or_default().push(Arc::clone(route));
        }
        for (spreadsheet, routes) in asked {
            let shares = |route: &&Arc<Route>| route.spreadsheet == spreadsheet && self.is_posted(&route.company);
            let all: Vec<_> = known.values().flatten().filter(shares).cloned().collect();
            let due: BTreeSet<Role> = Role::ALL.into_iter().collect();
            let companies = routes.into_iter().map(|route| CompanyWork { route, due: due.clone(), state: None, has_trouble: true }).collect();
            let work = Work { config_version: config_version(&all), spreadsheet, companies, is_sweep: false };
            let mut mend = mend;
            for _ in 0..MOST_PASSES {
                let pass = self.post_spreadsheet(Arc::clone(&gateway), work.clone(), mend).await?;
                let (is_busy, is_left) = (pass.held_elsewhere > 0, pass.again);
                if !is_busy {
                    round.merge(&pass);
                }
                if !is_busy && !is_left {
                    break;
                }
                mend.take_over &= pass.posted == 0;
                tokio::time::sleep(if is_busy { PAUSE } else { Duration::ZERO }).await;
            }
        }
        Ok(round)
    }

    /// Whose spreadsheet it is. Reads only.
    ///
    /// # Errors
    /// [`PreviewError`]
    pub async fn owner(&self, spreadsheet: &SpreadsheetId) -> Result<Owner, PreviewError> {
        let gateway = self.options.gateway.as_deref().ok_or(PreviewError::NoGateway)?;
        let known = self.options.store.control_tab(spreadsheet.as_str()).await?;
        let look = look(gateway, spreadsheet, &[], &[], &known, true).await.map_err(PreviewError::Call)?;
        Ok(Owner {
            environment: look.environment(),
            last_post: look.control().and_then(fence::last_post).map(str::to_owned),
            generation: fence::highest(&look.observed.metadata),
        })
    }
}

impl Session<'_> {
    /// The plan that mends a tab's header, if that is asked for; or why it cannot be mended.
    pub(super) fn mend_header(&self, role: Role, found: Found<'_>) -> Option<Result<TabPlan, String>> {
        match found {
            Found::There(tab) if self.mend.headers => Some(plan::plan_header(role, tab)),
            _ => None,
        }
    }
}
