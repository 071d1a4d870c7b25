//! The fence and the epoch: what makes a batch land at most once, and what an answer or a read-back says about it.
//!
//! Every batch creates the metadata entry of generation n + 1, where n is the highest generation found in the spreadsheet, and writes into the
//! hidden tab `_kylo` by its random sheet id. Called by `flow::post` alone. What must never happen here: a generation taken from what Postgres
//! remembers instead of from the spreadsheet, or old entries deleted by a batch that does not also replace `_kylo` (a thawed process could then
//! land a batch whose id has become free).

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::company::CONTROL_TAB;
use super::sheet::{CellWrite, MetadataEntry, ObservedTab, Request, Value};

/// Key of every fence entry.
pub const KEY: &str = "kylo.fence";
/// Metadata id of generation 0, which never exists.
const BASE: i32 = 1_263_000_000;
/// With this many entries the next batch replaces `_kylo` and deletes them. Google allows 30,000 characters of metadata; an entry has about 200.
const PRUNE_AT: usize = 100;
/// Where `_kylo` names the environment: row and column from 0.
const ENVIRONMENT_CELL: (usize, usize) = (1, 1);
const LAST_POST_CELL: (usize, usize) = (2, 1);

/// The metadata id of a generation. `None` beyond Google's 31 bits (884 million posts of one spreadsheet).
pub fn id(generation: i64) -> Option<i32> {
    i32::try_from(generation).ok().filter(|generation| *generation > 0).and_then(|generation| BASE.checked_add(generation))
}

/// What an entry says: whose batch landed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub intent: Uuid,
    pub spreadsheet: String,
    pub environment: String,
}

/// The highest generation in the spreadsheet, 0 if there is none.
pub fn highest(metadata: &[MetadataEntry]) -> i64 {
    metadata.iter().filter(|entry| entry.key == KEY && entry.id > BASE).map(|entry| i64::from(entry.id) - i64::from(BASE)).max().unwrap_or(0)
}

/// Whether an older version of the spreadsheet was restored: its fence is lower than one we saw land.
pub fn is_restored(metadata: &[MetadataEntry], confirmed_generation: i64) -> bool {
    highest(metadata) < confirmed_generation
}

/// The environment whose batch was the last to land, as its entry names it.
pub fn last_environment(metadata: &[MetadataEntry]) -> Option<String> {
    let last = metadata.iter().filter(|entry| entry.key == KEY && entry.id > BASE).max_by_key(|entry| entry.id)?;
    Some(serde_json::from_str::<Mark>(&last.value).ok()?.environment)
}

/// What the spreadsheet says about an intent whose outcome is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The entry is there and names the intent: it landed, once.
    Landed,
    /// No entry: it has not landed, but may yet. The next batch carries the same id, so at most one of the two ever does.
    OursAbsent,
    /// Another intent's batch took the id: this one can never land.
    TakenBy(Uuid),
    /// The id stands under a key (or with a value) that is not Kylo's.
    ForeignKey(String),
    /// An older version of the spreadsheet is back: whatever landed is undone.
    Restored,
    /// Later generations landed and the entry is gone: pruned with its epoch, so this one can never land.
    Overtaken,
}

/// Judges an intent by the spreadsheet's metadata.
pub fn judge(metadata: &[MetadataEntry], confirmed_generation: i64, generation: i64, intent: Uuid) -> Verdict {
    if let Some(entry) = id(generation).and_then(|id| metadata.iter().find(|entry| entry.id == id)) {
        return judge_entry(entry, intent);
    }
    if is_restored(metadata, confirmed_generation) {
        return Verdict::Restored;
    }
    if highest(metadata) >= generation { Verdict::Overtaken } else { Verdict::OursAbsent }
}

/// Judges an intent by the entry that has its id.
pub fn judge_entry(entry: &MetadataEntry, intent: Uuid) -> Verdict {
    if entry.key != KEY {
        return Verdict::ForeignKey(entry.key.clone());
    }
    match serde_json::from_str::<Mark>(&entry.value) {
        Ok(mark) if mark.intent == intent => Verdict::Landed,
        Ok(mark) => Verdict::TakenBy(mark.intent),
        Err(_) => Verdict::ForeignKey(entry.key.clone()),
    }
}

/// What the batch does about `_kylo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epoch {
    /// It is there: write into it.
    Keep { sheet_id: i32 },
    /// It is not there: make it.
    Make { sheet_id: i32 },
    /// Put another one in its place, so that every batch planned until now is refused.
    Replace { old: i32, new: i32 },
}

/// Chooses what the next batch does about `_kylo`. `fresh_id` is a random sheet id nobody uses.
pub fn epoch(control: Option<&ObservedTab>, metadata: &[MetadataEntry], confirmed_generation: i64, fresh_id: i32) -> Epoch {
    let Some(control) = control else { return Epoch::Make { sheet_id: fresh_id } };
    if must_prune(metadata) || is_restored(metadata, confirmed_generation) {
        Epoch::Replace { old: control.sheet_id, new: fresh_id }
    } else {
        Epoch::Keep { sheet_id: control.sheet_id }
    }
}

fn must_prune(metadata: &[MetadataEntry]) -> bool {
    metadata.iter().filter(|entry| entry.key == KEY).count() >= PRUNE_AT
}

/// Everything a batch's frame says.
#[derive(Clone, Debug)]
pub struct Frame<'a> {
    pub mark: Mark,
    pub generation: i64,
    pub epoch: Epoch,
    pub at: DateTime<Utc>,
    /// As read: tells which entries to prune.
    pub metadata: &'a [MetadataEntry],
}

impl Frame<'_> {
    /// The requests every batch begins with: the fence, then the epoch. `None` if the generations are used up.
    pub fn requests(&self) -> Option<Vec<Request>> {
        let value = serde_json::to_string(&self.mark).ok()?;
        let mut requests = vec![Request::CreateMetadata { id: id(self.generation)?, key: KEY.to_owned(), value }];
        let made = |sheet_id| Request::AddSheet {
            sheet_id,
            title: CONTROL_TAB.to_owned(),
            rows: 10,
            columns: 2,
            frozen_rows: 0,
            hidden: true,
            tab_color: None,
        };
        let sheet_id = match self.epoch {
            Epoch::Keep { sheet_id } => sheet_id,
            Epoch::Make { sheet_id } => {
                requests.push(made(sheet_id));
                sheet_id
            }
            Epoch::Replace { old, new } => {
                requests.extend([Request::DeleteSheet { sheet_id: old }, made(new)]);
                if must_prune(self.metadata) {
                    let old_entries = self.metadata.iter().filter(|entry| entry.key == KEY);
                    requests.extend(old_entries.map(|entry| Request::DeleteMetadata { id: entry.id }));
                }
                new
            }
        };
        requests.push(Request::WriteCells { sheet_id, row: 0, column: 0, cells: self.cells() });
        Some(requests)
    }

    fn cells(&self) -> Vec<Vec<CellWrite>> {
        let line = |name: &str, value: String| vec![CellWrite::Text(name.to_owned()), CellWrite::Text(value)];
        vec![
            line("Kylo", "This hidden tab belongs to Kylo, which keeps the Pending and Active tabs up to date. Do not edit or copy it.".to_owned()),
            line("Environment", self.mark.environment.clone()),
            line("Last post", self.at.to_rfc3339_opts(SecondsFormat::Secs, true)),
            line("Intent", self.mark.intent.to_string()),
            line("Generation", self.generation.to_string()),
        ]
    }
}

/// The environment that `_kylo` names, if it names one.
pub fn environment(control: &ObservedTab) -> Option<&str> {
    match control.rows.get(ENVIRONMENT_CELL.0)?.get(ENVIRONMENT_CELL.1)? {
        Value::Text(text) if !text.trim().is_empty() => Some(text.trim()),
        _ => None,
    }
}

/// When the last post was, as `_kylo` has it.
pub fn last_post(control: &ObservedTab) -> Option<&str> {
    match control.rows.get(LAST_POST_CELL.0)?.get(LAST_POST_CELL.1)? {
        Value::Text(text) if !text.trim().is_empty() => Some(text.trim()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_batch_takes_an_id_that_is_free_and_any_two_planned_upon_one_state_exclude_each_other(
            generations in prop::collection::btree_set(1..300_i64, 0..150),
            confirmed in 0..300_i64,
        ) {
            let metadata: Vec<_> = generations.iter().map(|n| entry(*n, 1)).collect();
            let requests = frame(&metadata, confirmed);
            let Request::CreateMetadata { id: taken, .. } = &requests[0] else { panic!("no fence") };
            prop_assert!(metadata.iter().all(|entry| entry.id != *taken));
            prop_assert_eq!(&frame(&metadata, confirmed)[0], &requests[0]);
            let deletes = requests.iter().any(|request| matches!(request, Request::DeleteMetadata { .. }));
            let replaces = requests.iter().any(|request| matches!(request, Request::DeleteSheet { .. }));
            prop_assert!(replaces || !deletes, "entries are deleted without a new epoch");
            let own = Request::DeleteMetadata { id: *taken };
            prop_assert!(!requests.contains(&own));
        }

        #[test]
        fn a_batch_has_landed_exactly_if_its_own_entry_is_there(
            entries in prop::collection::btree_map(1..12_i64, 1..4_u128, 0..8),
            generation in 1..12_i64,
            confirmed in 0..12_i64,
        ) {
            let metadata: Vec<_> = entries.iter().map(|(n, intent)| entry(*n, *intent)).collect();
            let verdict = judge(&metadata, confirmed, generation, Uuid::from_u128(1));
            prop_assert_eq!(verdict == Verdict::Landed, entries.get(&generation) == Some(&1));
            let may_land = matches!(verdict, Verdict::OursAbsent | Verdict::Restored);
            prop_assert_eq!(may_land, !entries.contains_key(&generation) && (highest(&metadata) < generation || highest(&metadata) < confirmed));
        }
    }

    fn mark(intent: u128) -> Mark {
        Mark { intent: Uuid::from_u128(intent), spreadsheet: "s1".to_owned(), environment: "default".to_owned() }
    }

    fn entry(generation: i64, intent: u128) -> MetadataEntry {
        MetadataEntry { id: id(generation).unwrap(), key: KEY.to_owned(), value: serde_json::to_string(&mark(intent)).unwrap() }
    }

    fn control() -> ObservedTab {
        ObservedTab { sheet_id: 5, title: CONTROL_TAB.to_owned(), hidden: true, row_count: 10, column_count: 2, frozen_rows: 0, rows: vec![] }
    }

    fn frame(metadata: &[MetadataEntry], confirmed: i64) -> Vec<Request> {
        let epoch = epoch(Some(&control()), metadata, confirmed, 99);
        let generation = highest(metadata) + 1;
        Frame { mark: mark(7), generation, epoch, at: DateTime::UNIX_EPOCH, metadata }.requests().unwrap()
    }

    #[test]
    fn the_id_is_1263000000_plus_the_generation() {
        assert_eq!(id(1), Some(1_263_000_001));
        assert_eq!(id(0), None);
        assert_eq!(id(i64::from(i32::MAX)), None);
        assert_eq!(id(884_483_647), Some(i32::MAX));
    }

    #[test]
    fn the_highest_generation_is_read_from_the_spreadsheet_and_ignores_other_keys() {
        let other = MetadataEntry { id: id(50).unwrap(), key: "someone.else".to_owned(), value: String::new() };
        assert_eq!(highest(&[entry(3, 1), other, entry(2, 1)]), 3);
        assert_eq!(highest(&[]), 0);
    }

    #[test]
    fn every_outcome_of_an_unknown_call_is_told_from_the_metadata() {
        let us = Uuid::from_u128(1);
        let foreign = MetadataEntry { id: id(4).unwrap(), key: "someone.else".to_owned(), value: String::new() };
        let garbled = MetadataEntry { value: "x".to_owned(), ..entry(4, 1) };
        assert_eq!(judge(&[entry(4, 1)], 3, 4, us), Verdict::Landed);
        assert_eq!(judge(&[entry(4, 2)], 3, 4, us), Verdict::TakenBy(Uuid::from_u128(2)));
        assert_eq!(judge(&[entry(3, 2)], 3, 4, us), Verdict::OursAbsent);
        assert_eq!(judge(&[foreign], 0, 4, us), Verdict::ForeignKey("someone.else".to_owned()));
        assert_eq!(judge(&[garbled], 0, 4, us), Verdict::ForeignKey(KEY.to_owned()));
        assert_eq!(judge(&[entry(2, 2)], 3, 4, us), Verdict::Restored);
        assert_eq!(judge(&[entry(9, 2)], 3, 4, us), Verdict::Overtaken);
    }

    #[test]
    fn the_last_entry_names_the_environment_that_posted_last() {
        let by = |generation: i64, environment: &str| {
            let value = serde_json::to_string(&Mark { environment: environment.to_owned(), ..mark(1) }).unwrap();
            MetadataEntry { value, ..entry(generation, 1) }
        };
        assert_eq!(last_environment(&[by(3, "staging"), by(2, "default")]).as_deref(), Some("staging"));
        assert_eq!(last_environment(&[]), None);
    }

    #[test]
    fn old_entries_are_deleted_only_by_a_batch_that_replaces_the_control_tab() {
        let few: Vec<_> = (1..=99).map(|n| entry(n, 1)).collect();
        let many: Vec<_> = (1..=100).map(|n| entry(n, 1)).collect();
        let deletes = |requests: &[Request]| requests.iter().filter(|request| matches!(request, Request::DeleteMetadata { .. })).count();
        assert_eq!(deletes(&frame(&few, 0)), 0);
        let pruning = frame(&many, 0);
        assert_eq!(deletes(&pruning), 100);
        assert!(pruning.contains(&Request::DeleteSheet { sheet_id: 5 }));
        assert!(matches!(&pruning[0], Request::CreateMetadata { id, .. } if *id == 1_263_000_101), "the new entry stays");
        assert!(pruning.iter().any(|request| matches!(request, Request::AddSheet { sheet_id: 99, hidden: true, .. })));
    }

    #[test]
    fn a_restored_older_version_gets_a_new_epoch_and_keeps_its_entries() {
        let requests = frame(&[entry(1, 1)], 5);
        assert!(requests.contains(&Request::DeleteSheet { sheet_id: 5 }));
        assert!(!requests.iter().any(|request| matches!(request, Request::DeleteMetadata { .. })));
    }

    #[test]
    fn the_control_tab_names_the_environment_where_it_is_read() {
        let Some(Request::WriteCells { cells, .. }) = frame(&[], 0).pop() else { panic!("no cells") };
        let rows = cells
            .into_iter()
            .map(|row| row.into_iter().map(|cell| if let CellWrite::Text(text) = cell { Value::Text(text) } else { Value::Empty }).collect());
        assert_eq!(environment(&ObservedTab { rows: rows.collect(), ..control() }), Some("default"));
        assert_eq!(environment(&control()), None);
    }
}
