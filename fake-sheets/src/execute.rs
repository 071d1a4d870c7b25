//! One API call against the model: may this account, is there quota left, and then the call itself. Late deliveries of
//! requests whose callers were cut off come through the same door, so they meet the same refusals.

use serde_json::json;

use crate::api::{self, Call};
use crate::apply::Who;
use crate::auth::Token;
use crate::calls::CallRecord;
use crate::error::ApiError;
use crate::faults::Commit;
use crate::json::{Json, text};
use crate::state::{Late, Model, Role};

const MAY_WRITE: [&str; 3] = ["spreadsheets", "drive", "drive.file"];
const MAY_READ: [&str; 5] = ["spreadsheets", "drive", "drive.file", "spreadsheets.readonly", "drive.readonly"];
const MAY_SHARE: [&str; 2] = ["drive", "drive.file"];

impl Model {
    /// Refuses a token whose scopes do not allow the method, and an account that has used up its minute.
    ///
    /// # Errors
    /// 403 or 429.
    pub(crate) fn admit(&self, call: &Call, token: &Token) -> Result<(), ApiError> {
        let method = call.route.method;
        let drive = method.name.starts_with("drive.");
        let scopes: &[&str] = match (drive, method.write || method.guarded) {
            (true, _) => &MAY_SHARE,
            (_, true) => &MAY_WRITE,
            (_, false) => &MAY_READ,
        };
        if !token.has(scopes) {
            return Err(ApiError::scope(method.rpc));
        }
        if drive {
            return Ok(());
        }
        let now = self.clock().now_ms();
        self.state().quota.take(&token.account, method.write, now)
    }

    /// The account's part in a spreadsheet.
    ///
    /// # Errors
    /// 404 for an unknown spreadsheet, 403 for one that is not shared (enough) with the account.
    fn who(&self, id: &str, account: &str, write: bool) -> Result<Who, ApiError> {
        match self.state().slot(id)?.access.role(account) {
            None => Err(ApiError::forbidden()),
            Some(Role::Reader) if write => Err(ApiError::forbidden()),
            Some(role) => Ok(Who { account: account.to_owned(), owner: role == Role::Owner }),
        }
    }

    /// Runs a call that has been admitted. A write that succeeds counts for those that wait for writes.
    ///
    /// # Errors
    /// Whatever the API refuses.
    pub(crate) fn run(&self, call: &Call, account: &str) -> Result<Json, ApiError> {
        let method = call.route.method;
        let id = call.route.spreadsheet.as_str();
        match method.name {
            "create" => {
                let mask = call.mask()?;
                let id = self.create(None, &call.body, account)?;
                let who = Who { account: account.to_owned(), owner: true };
                let book = self.book(&id).ok_or_else(ApiError::not_found)?;
                let view = api::render::View { mask: &mask, grid: false, ranges: None };
                Ok(api::render::spreadsheet(&book, &view, &who))
            }
            "drive.permissions.create" => self.permit(call, account),
            "sheets.copyTo" => {
                self.who(id, account, false)?;
                let from = self.book(id).ok_or_else(ApiError::not_found)?;
                let to = text(&call.body, "destinationSpreadsheetId").unwrap_or("").to_owned();
                let who = self.who(&to, account, true)?;
                self.write(&to, &who, |ed| api::spreadsheets::copy_to(ed, &from, call))
            }
            _ if method.write => {
                let who = self.who(id, account, true)?;
                self.write(id, &who, |ed| api::run_write(ed, call))
            }
            _ => {
                let who = self.who(id, account, false)?;
                let book = self.book(id).ok_or_else(ApiError::not_found)?;
                api::run_read(&book, call, &who)
            }
        }
    }

    /// Drive's permissions.create: only the owner shares.
    fn permit(&self, call: &Call, account: &str) -> Result<Json, ApiError> {
        let id = &call.route.spreadsheet;
        if !self.who(id, account, true)?.owner {
            return Err(ApiError::forbidden());
        }
        let kind = text(&call.body, "type").unwrap_or("user");
        let role = match text(&call.body, "role") {
            Some("owner") => Role::Owner,
            Some("writer" | "fileOrganizer" | "organizer") => Role::Writer,
            Some("reader" | "commenter") => Role::Reader,
            _ => return Err(ApiError::invalid("The permission role field is required.")),
        };
        match (kind, text(&call.body, "emailAddress")) {
            ("anyone", _) if role == Role::Writer => self.open_to_all(id)?,
            ("user" | "group", Some(email)) => self.share(id, email, role)?,
            _ => return Err(ApiError::invalid("The specified emailAddress is invalid or not applicable for the given permission type.")),
        }
        let role = text(&call.body, "role").unwrap_or("");
        Ok(json!({"kind": "drive#permission", "id": format!("{:020}", rand::random::<u64>()), "type": kind, "role": role}))
    }

    /// Keeps a request whose caller will lose the connection.
    pub(crate) fn keep_late(&self, call: Call, account: &str, record: CallRecord, commit: Commit) {
        if commit != Commit::Never {
            self.state().late.push(Late { call, account: account.to_owned(), record, commit });
        }
    }

    /// Applies what waited for a write to this spreadsheet.
    pub(crate) fn written(&self, spreadsheet: &str) {
        let mut due = Vec::new();
        {
            let mut state = self.state();
            let mut rest = Vec::new();
            for mut late in std::mem::take(&mut state.late) {
                match &mut late.commit {
                    Commit::AfterWrites { writes } if late.call.route.spreadsheet == spreadsheet => {
                        *writes = writes.saturating_sub(1);
                        if *writes == 0 { due.push(late) } else { rest.push(late) }
                    }
                    _ => rest.push(late),
                }
            }
            state.late = rest;
        }
        due.into_iter().for_each(|late| self.deliver(late));
    }

    /// How many requests of cut-off callers wait to be applied.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.state().late.len()
    }

    /// Applies all requests whose callers were cut off and that wait, whatever they wait for, in the order they came.
    /// Answers each one's status, 200 if it was applied.
    pub fn release(&self) -> Vec<u16> {
        let late = std::mem::take(&mut self.state().late);
        let first = self.calls(0).last().map_or(0, |call| call.n);
        late.into_iter().for_each(|late| self.deliver(late));
        self.calls(first).iter().filter(|call| call.late).map(|call| call.status).collect()
    }

    /// Applies the requests that wait for a time, once it has come.
    pub(crate) fn release_timed(&self, ms: u64) {
        let mut due = Vec::new();
        {
            let mut state = self.state();
            while let Some(at) = state.late.iter().position(|late| late.commit == (Commit::After { ms })) {
                due.push(state.late.remove(at));
            }
        }
        due.into_iter().for_each(|late| self.deliver(late));
    }

    fn deliver(&self, late: Late) {
        let outcome = self.again(&late.call, &late.account, late.record);
        tracing::debug!(applied = outcome.is_ok(), "delivered late");
    }

    /// Delivers a request outside of its exchange and logs what came of it.
    pub(crate) fn again(&self, call: &Call, account: &str, mut record: CallRecord) -> Result<Json, ApiError> {
        let outcome = self.run(call, account);
        record.late = true;
        record.at_ms = self.clock().now_ms();
        record.status = outcome.as_ref().map_or_else(|error| error.code, |_| 200);
        record.applied = record.write && outcome.is_ok();
        record.error = outcome.as_ref().err().map(|error| error.message.clone());
        self.state().calls.add(record);
        self.changed();
        outcome
    }
}
