//! Everything the server remembers, and the access tests have to it in-process: spreadsheets, who may see them, faults,
//! quotas, the call log. `execute.rs` runs API calls against it. A write works on a clone of its spreadsheet, one write
//! at a time for each, so reads never wait for a write and never see half of one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::api::Call;
use crate::apply::{Behaviour, Editor, Who};
use crate::auth::Accounts;
use crate::calls::{CallLog, CallRecord, Counts};
use crate::clock::Clock;
use crate::edits::{self, Edit};
use crate::error::ApiError;
use crate::faults::{Commit, Fault, Faults};
use crate::json::Json;
use crate::model::book::Book;
use crate::quota::{Limits, Quota};

/// Who owns what tests and the page make, unless they say otherwise.
pub const HOUSE_ACCOUNT: &str = "owner@fake-sheets.local";

/// What an account may do with a spreadsheet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything; protection does not hold them up.
    Owner,
    /// Read and write.
    Writer,
    /// Read.
    Reader,
}

/// Who may open a spreadsheet.
#[derive(Debug, Clone, Default)]
pub struct Access {
    owners: BTreeSet<String>,
    writers: BTreeSet<String>,
    readers: BTreeSet<String>,
    open: bool,
}

impl Access {
    /// What the account may do; `None` is nothing.
    #[must_use]
    pub fn role(&self, account: &str) -> Option<Role> {
        if self.owners.contains(account) {
            Some(Role::Owner)
        } else if self.open || self.writers.contains(account) {
            Some(Role::Writer)
        } else {
            self.readers.contains(account).then_some(Role::Reader)
        }
    }
}

#[derive(Debug)]
pub(crate) struct Slot {
    pub book: Arc<Book>,
    pub access: Access,
    /// Held by the one write that is being applied.
    pub gate: Arc<Mutex<()>>,
}

/// A request whose caller has lost the connection and which may still be applied.
#[derive(Debug)]
pub(crate) struct Late {
    pub call: Call,
    pub account: String,
    pub record: CallRecord,
    pub commit: Commit,
}

/// A spreadsheet as it was; to be put back by `restore`.
#[derive(Debug, Clone)]
pub struct Snapshot(pub(crate) Arc<Book>);

#[derive(Debug, Default)]
pub(crate) struct State {
    pub books: BTreeMap<String, Slot>,
    pub accounts: Accounts,
    pub quota: Quota,
    pub faults: Faults,
    pub calls: CallLog,
    pub late: Vec<Late>,
    pub snapshots: HashMap<(String, String), Arc<Book>>,
    pub open: bool,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub state: Mutex<State>,
    pub behaviour: Behaviour,
    pub clock: Clock,
    /// Counts changes; the page waits on it.
    pub changes: watch::Sender<u64>,
    /// False while the server refuses connections.
    pub online: watch::Sender<bool>,
}

/// The state of an emulator, shared with its server.
#[derive(Debug, Clone)]
pub struct Model {
    pub(crate) inner: Arc<Inner>,
}

impl Model {
    pub(crate) fn new(behaviour: Behaviour, limits: Limits, open: bool, only_known: bool) -> Self {
        let mut state = State { open, ..State::default() };
        state.quota.limits = limits;
        state.accounts.only_known = only_known;
        let (changes, online) = (watch::Sender::new(0), watch::Sender::new(true));
        Self { inner: Arc::new(Inner { state: Mutex::new(state), behaviour, clock: Clock::default(), changes, online }) }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn changed(&self) {
        self.inner.changes.send_modify(|n| *n += 1);
    }

    /// Waits until something has changed since change `n`; answers the number of the last change.
    pub async fn change_after(&self, n: u64) -> u64 {
        let mut changes = self.inner.changes.subscribe();
        changes.wait_for(|now| *now != n).await.map_or(n, |now| *now)
    }

    /// The clock by which quotas and tokens are counted.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// Makes a spreadsheet from the body of spreadsheets.create, under a chosen id or a new one; answers the id.
    ///
    /// # Errors
    /// 400 for a body that the API would refuse, 409 for an id that is taken.
    pub fn create(&self, id: Option<&str>, body: &Json, owner: &str) -> Result<String, ApiError> {
        let mut body = body.clone();
        crate::schema::check("Spreadsheet", &mut body)?;
        let who = Who { account: owner.to_lowercase(), owner: true };
        let mut state = self.state();
        let id = id.map_or_else(new_id, str::to_owned);
        if state.books.contains_key(&id) {
            return Err(ApiError::new(409, "ALREADY_EXISTS", format!("spreadsheet {id} exists; choose another id")));
        }
        let book = crate::api::spreadsheets::create(&id, &body, &who, &self.inner.behaviour)?;
        state.insert(book, &who.account);
        drop(state);
        self.changed();
        Ok(id)
    }

    /// Makes a spreadsheet with tabs of the default size, owned by the house account; answers its id.
    ///
    /// # Errors
    /// As `create`.
    pub fn create_spreadsheet(&self, id: Option<&str>, title: &str, tabs: &[&str]) -> Result<String, ApiError> {
        let sheets: Vec<Json> = tabs.iter().map(|tab| serde_json::json!({"properties": {"title": tab}})).collect();
        self.create(id, &serde_json::json!({"properties": {"title": title}, "sheets": sheets}), HOUSE_ACCOUNT)
    }

    /// Deletes a spreadsheet; false where there was none.
    pub fn delete_spreadsheet(&self, id: &str) -> bool {
        let gone = self.state().books.remove(id).is_some();
        self.changed();
        gone
    }

    /// Copies a spreadsheet with everything in it; the copy belongs to the house account and is shared with nobody.
    ///
    /// # Errors
    /// 404 for an unknown spreadsheet, 409 for an id that is taken.
    pub fn copy_spreadsheet(&self, id: &str, new: Option<&str>) -> Result<String, ApiError> {
        let mut state = self.state();
        let mut book = (*state.slot(id)?.book).clone();
        book.id = new.map_or_else(new_id, str::to_owned);
        if state.books.contains_key(&book.id) {
            return Err(ApiError::new(409, "ALREADY_EXISTS", format!("spreadsheet {} exists; choose another id", book.id)));
        }
        book.properties["title"] = format!("Copy of {}", book.title()).into();
        let new = book.id.clone();
        state.insert(book, HOUSE_ACCOUNT);
        drop(state);
        self.changed();
        Ok(new)
    }

    /// Shares a spreadsheet.
    ///
    /// # Errors
    /// 404 for an unknown spreadsheet.
    pub fn share(&self, id: &str, account: &str, role: Role) -> Result<(), ApiError> {
        let account = account.to_lowercase();
        let mut state = self.state();
        let access = &mut state.slot_mut(id)?.access;
        for set in [&mut access.owners, &mut access.writers, &mut access.readers] {
            set.remove(&account);
        }
        match role {
            Role::Owner => &mut access.owners,
            Role::Writer => &mut access.writers,
            Role::Reader => &mut access.readers,
        }
        .insert(account);
        Ok(())
    }

    /// Takes an account's access away.
    ///
    /// # Errors
    /// 404 for an unknown spreadsheet.
    pub fn unshare(&self, id: &str, account: &str) -> Result<(), ApiError> {
        let account = account.to_lowercase();
        let mut state = self.state();
        let access = &mut state.slot_mut(id)?.access;
        for set in [&mut access.owners, &mut access.writers, &mut access.readers] {
            set.remove(&account);
        }
        access.open = false;
        Ok(())
    }

    /// Lets every account read and write a spreadsheet.
    ///
    /// # Errors
    /// 404 for an unknown spreadsheet.
    pub fn open_to_all(&self, id: &str) -> Result<(), ApiError> {
        self.state().slot_mut(id)?.access.open = true;
        Ok(())
    }

    /// The spreadsheet as it is now. It does not change; ask again for a later state.
    #[must_use]
    pub fn book(&self, id: &str) -> Option<Arc<Book>> {
        self.state().books.get(id).map(|slot| Arc::clone(&slot.book))
    }

    /// Ids of all spreadsheets.
    #[must_use]
    pub fn spreadsheets(&self) -> Vec<String> {
        self.state().books.keys().cloned().collect()
    }

    /// Does to a spreadsheet what people do: all of the edits, or none.
    ///
    /// # Errors
    /// 404 for an unknown spreadsheet, 400 for what it refuses.
    pub fn edit(&self, id: &str, edits: &[Edit]) -> Result<(), ApiError> {
        let who = Who { account: HOUSE_ACCOUNT.to_owned(), owner: true };
        let find = |name: &str| {
            let state = self.state();
            state.snapshots.get(&(id.to_owned(), name.to_owned())).map(|book| (**book).clone())
        };
        self.write(id, &who, |ed| edits::run(ed, edits, &find))
    }

    /// Runs a change on a clone of a spreadsheet and puts it in place if it succeeds.
    pub(crate) fn write<T>(&self, id: &str, who: &Who, change: impl FnOnce(&mut Editor<'_>) -> Result<T, ApiError>) -> Result<T, ApiError> {
        let gate = Arc::clone(&self.state().slot(id)?.gate);
        let _one = gate.lock().unwrap_or_else(PoisonError::into_inner);
        let book = (*self.state().slot(id)?.book).clone();
        let mut editor = Editor { book, who, behaviour: &self.inner.behaviour };
        let answer = change(&mut editor)?;
        self.state().slot_mut(id)?.book = Arc::new(editor.book);
        self.changed();
        Ok(answer)
    }

    /// Takes a snapshot, to be put back later as the version history does.
    ///
    /// # Errors
    /// 404 for an unknown spreadsheet.
    pub fn snapshot(&self, id: &str) -> Result<Snapshot, ApiError> {
        Ok(Snapshot(Arc::clone(&self.state().slot(id)?.book)))
    }

    /// Takes a snapshot under a name, for `Edit::Restore`.
    ///
    /// # Errors
    /// 404 for an unknown spreadsheet.
    pub fn name_snapshot(&self, id: &str, name: &str) -> Result<(), ApiError> {
        let mut state = self.state();
        let book = Arc::clone(&state.slot(id)?.book);
        state.snapshots.insert((id.to_owned(), name.to_owned()), book);
        Ok(())
    }

    /// Puts a snapshot back: cells, tabs, names and developer metadata; sharing stays as it is.
    ///
    /// # Errors
    /// 404 for an unknown spreadsheet.
    pub fn restore(&self, id: &str, snapshot: &Snapshot) -> Result<(), ApiError> {
        let who = Who { account: HOUSE_ACCOUNT.to_owned(), owner: true };
        self.write(id, &who, |ed| {
            ed.book = Book { id: id.to_owned(), ..(*snapshot.0).clone() };
            Ok(())
        })
    }

    /// Adds a fault; answers its number.
    pub fn push_fault(&self, fault: Fault) -> u64 {
        self.state().faults.push(fault)
    }

    /// Takes all faults away. Requests that already hang stay.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Takes one fault away; false where it is gone already.
    pub fn remove_fault(&self, number: u64) -> bool {
        self.state().faults.remove(number)
    }

    /// The faults that still wait, with their numbers.
    #[must_use]
    pub fn faults(&self) -> Vec<(u64, Fault)> {
        self.state().faults.waiting().to_vec()
    }

    /// Sets what is allowed per minute and account.
    pub fn set_quota(&self, limits: Limits) {
        self.state().quota.limits = limits;
    }

    /// The calls after number `n` (0 for all that are kept), oldest first.
    #[must_use]
    pub fn calls(&self, n: u64) -> Vec<CallRecord> {
        self.state().calls.since(n)
    }

    /// Totals since the start or the last clearing.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.state().calls.counts
    }

    /// Forgets calls and totals.
    pub fn clear_calls(&self) {
        self.state().calls.clear();
    }

    /// Makes a service account whose assertions must carry the right signature; answers its key file's content.
    ///
    /// # Errors
    /// 500 where no key can be made.
    pub fn add_account(&self, email: &str, token_uri: &str) -> Result<Json, ApiError> {
        let made = self.state().accounts.make(email, token_uri);
        made.map_err(|error| ApiError::new(500, "INTERNAL", error.to_string()))
    }

    /// Ends all tokens: the next call with one gets 401.
    pub fn revoke_tokens(&self) {
        self.state().accounts.revoke_all();
    }

    /// Refuses connections (the port is closed, and open ones end), or accepts them again.
    pub fn set_online(&self, online: bool) {
        self.inner.online.send_replace(online);
    }
}

impl State {
    pub(crate) fn slot(&self, id: &str) -> Result<&Slot, ApiError> {
        self.books.get(id).ok_or_else(ApiError::not_found)
    }

    pub(crate) fn slot_mut(&mut self, id: &str) -> Result<&mut Slot, ApiError> {
        self.books.get_mut(id).ok_or_else(ApiError::not_found)
    }

    pub(crate) fn insert(&mut self, book: Book, owner: &str) {
        let access = Access { owners: BTreeSet::from([owner.to_lowercase()]), open: self.open, ..Access::default() };
        self.books.insert(book.id.clone(), Slot { book: Arc::new(book), access, gate: Arc::default() });
    }
}

/// An id that looks like Google's.
#[must_use]
pub fn new_id() -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let letter = |_| char::from(LETTERS[usize::from(rand::random::<u8>() % 64)]);
    std::iter::once('1').chain((0..43).map(letter)).collect()
}
