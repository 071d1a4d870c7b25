//! createDeveloperMetadata, updateDeveloperMetadata, deleteDeveloperMetadata.

use std::sync::Arc;

use super::{Editor, Reply, required, required_mask};
use crate::api::filters::Filter;
use crate::error::Refusal;
use crate::json::{Json, int, list};
use crate::model::grid::Dim;
use crate::model::metadata::{Entry, Place, check_budget};

/// Refuses a place that is not there.
fn check_place(ed: &Editor<'_>, place: Place) -> Result<(), Refusal> {
    match place {
        Place::Spreadsheet => Ok(()),
        Place::Sheet(id) => ed.book.sheet(id).map(|_| ()).ok_or_else(|| format!("No sheet with id: {id}").into()),
        Place::Line(id, dim, at) => {
            let sheet = ed.grid(id)?;
            let count = sheet.count(dim);
            let word = if dim == Dim::Rows { "row" } else { "column" };
            if at < count { Ok(()) } else { Err(format!("The {word} {at} is outside the grid of {count} {word}s.").into()) }
        }
    }
}

pub(super) fn create(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let given = required(body, "developerMetadata")?;
    let id = match int(given, "metadataId") {
        Some(id) if id < 1 => return Err("Developer metadata ID must be positive.".into()),
        Some(id) if ed.book.metadata.contains_key(&id) => {
            return Err(format!("Cannot add developer metadata with ID [{id}] because developer metadata with that ID already exists.").into());
        }
        Some(id) => id,
        None => free_id(ed),
    };
    let entry = Entry::read(id, given)?;
    check_place(ed, entry.place)?;
    let (place, reply) = (entry.place, entry.to_json());
    Arc::make_mut(&mut ed.book.metadata).insert(id, entry);
    check_budget(&ed.book, place)?;
    Ok(reply)
}

fn free_id(ed: &Editor<'_>) -> i64 {
    loop {
        let id = i64::from(rand::random::<u32>() >> 1);
        if id > 0 && !ed.book.metadata.contains_key(&id) {
            return id;
        }
    }
}

fn matching(ed: &Editor<'_>, filters: &[Json]) -> Result<Vec<i64>, Refusal> {
    let filters = filters.iter().map(|f| Filter::read(&ed.book, f)).collect::<Result<Vec<_>, _>>()?;
    let found = ed.book.metadata.values().filter(|e| filters.iter().any(|f| f.finds(&ed.book, e)));
    Ok(found.map(|e| e.id).collect())
}

/// Changes every match. No match is no error: nobody has measured it, and a guard must not rest on it.
pub(super) fn update(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let mask = required_mask(body, "DeveloperMetadata")?;
    let given = body.get("developerMetadata").unwrap_or(&Json::Null);
    if list(body, "dataFilters").is_empty() {
        return Err("At least one data filter must be specified.".into());
    }
    let mut changed = Vec::new();
    for id in matching(ed, list(body, "dataFilters"))? {
        let mut merged = ed.book.metadata[&id].to_json();
        mask.merge(&mut merged, given);
        let entry = Entry::read(id, &merged)?;
        check_place(ed, entry.place)?;
        let place = entry.place;
        changed.push(entry.to_json());
        Arc::make_mut(&mut ed.book.metadata).insert(id, entry);
        check_budget(&ed.book, place)?;
    }
    Ok(changed.into())
}

pub(super) fn delete(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let filter = required(body, "dataFilter")?;
    let mut gone = Vec::new();
    for id in matching(ed, std::slice::from_ref(filter))? {
        gone.extend(Arc::make_mut(&mut ed.book.metadata).remove(&id).map(|e| e.to_json()));
    }
    Ok(gone.into())
}
