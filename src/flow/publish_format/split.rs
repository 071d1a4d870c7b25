//! Cutting a batch that is too large for one message, without changing what its rows mean.

use std::collections::HashMap;

use super::MAX_ROWS_PER_MESSAGE;
use super::input::{InputRow, join};
use crate::domain::ids::CompanyId;
use crate::domain::message::{Candidate, identities};
use crate::flow::decode::{json, row};

/// The rows' texts by message, none above `budget` bytes, and the places of the rows that fit into none.
pub(super) fn chunks(company: &CompanyId, rows: &[InputRow<'_>], budget: usize) -> (Vec<Vec<String>>, Vec<usize>) {
    let bytes: usize = rows.iter().map(|row| row.text.len() + 1).sum();
    if bytes <= budget && rows.len() <= MAX_ROWS_PER_MESSAGE {
        return (vec![rows.iter().map(|row| row.text.clone().into_owned()).collect()], Vec::new());
    }
    let (mut chunks, mut too_large): (Vec<Vec<String>>, _) = (Vec::new(), Vec::new());
    let (mut chunk, mut used) = (Vec::new(), 0);
    for unit in units(company, rows) {
        let size: usize = unit.iter().map(|(_, text)| text.len() + 1).sum();
        if size > budget || unit.len() > MAX_ROWS_PER_MESSAGE {
            too_large.extend(unit.into_iter().map(|(index, _)| index));
            continue;
        }
        if used + size > budget || chunk.len() + unit.len() > MAX_ROWS_PER_MESSAGE {
            chunks.push(std::mem::take(&mut chunk));
            used = 0;
        }
        used += size;
        chunk.extend(unit.into_iter().map(|(_, text)| text));
    }
    chunks.push(chunk);
    chunks.retain(|chunk| !chunk.is_empty());
    (chunks, too_large)
}

/// Rows that must stay in one message, with their places: those that are the same transaction. Whether such rows agree
/// is for the batch to say, and only a batch that holds them all can.
fn units(company: &CompanyId, rows: &[InputRow<'_>]) -> Vec<Vec<(usize, String)>> {
    let candidates = rows.iter().enumerate().map(|(at, input)| candidate(at, &input.text, company)).collect();
    let mut units: Vec<Vec<(usize, String)>> = Vec::with_capacity(rows.len());
    let mut places = HashMap::new();
    for (input, (occurrence, uid)) in rows.iter().zip(identities(company, candidates)) {
        let text = match occurrence {
            Some(n) => with_occurrence(&input.text, n),
            None => input.text.clone().into_owned(),
        };
        let next = units.len();
        let place = uid.map_or(next, |uid| *places.entry(uid).or_insert(next));
        if place == next {
            units.push(Vec::new());
        }
        units[place].push((input.index, text));
    }
    units
}

fn candidate(at: usize, text: &str, company: &CompanyId) -> Candidate {
    row::read(at, text, company).0
}

/// See [`super::with_occurrence`].
pub(super) fn with_occurrence(row: &str, occurrence: u32) -> String {
    let Some(mut entries) = json::entries(row) else { return row.to_owned() };
    let is_set = |name: &str| entries.iter().any(|(known, value)| known == name && value.get() != "null");
    if is_set("id") || is_set("occurrence") {
        return row.to_owned();
    }
    entries.retain(|(name, _)| name != "occurrence");
    let number = occurrence.to_string();
    match serde_json::from_str(&number) {
        Ok(value) => entries.push(("occurrence".to_owned(), value)),
        Err(_) => return row.to_owned(),
    }
    join(&entries)
}
