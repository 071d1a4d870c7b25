//! Named and protected ranges.

use serde_json::json;

use super::{Editor, PROTECTED, Reply, nothing, required, required_mask};
use crate::a1;
use crate::error::Refusal;
use crate::json::{Json, int, text};
use crate::model::book::NamedRange;
use crate::model::grid::GridRange;
use crate::model::sheet::Protection;

/// Nobody has published what Google says for a named range that is not there; this text is kept in one place.
fn no_named(id: &str) -> Refusal {
    format!("No named range with id: {id}").into()
}

fn check_name(ed: &Editor<'_>, name: &str, own: Option<&str>) -> Result<(), Refusal> {
    let word = name.chars().all(|c| c.is_alphanumeric() || c == '_') && !name.starts_with(|c: char| c.is_ascii_digit());
    let taken_word = name.eq_ignore_ascii_case("true") || name.eq_ignore_ascii_case("false");
    if name.is_empty() || name.chars().count() > 250 || !word || taken_word || a1::looks_like_cell(name) {
        return Err("The name given to this range is invalid".into());
    }
    if ed.book.named.iter().any(|n| n.name.eq_ignore_ascii_case(name) && Some(n.id.as_str()) != own) {
        let text = format!("Cannot add named range with name {name}, a named range with that name already exists.");
        return Err(text.into());
    }
    Ok(())
}

fn read_range(ed: &Editor<'_>, v: &Json) -> Result<GridRange, Refusal> {
    let range = GridRange::read(required(v, "range")?)?;
    a1::check_start(ed.grid(range.sheet)?, &range)?;
    Ok(range)
}

pub(super) fn add_named(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let given = required(body, "namedRange")?;
    let name = text(given, "name").unwrap_or("");
    let id = text(given, "namedRangeId").filter(|id| !id.is_empty());
    if let Some(id) = id.filter(|id| ed.book.named.iter().any(|n| n.id == *id)) {
        let text = format!("Cannot add named range with ID {id}, a named range with that ID already exists.");
        return Err(text.into());
    }
    check_name(ed, name, None)?;
    let id = id.map_or_else(|| format!("{:016x}", rand::random::<u64>()), str::to_owned);
    let named = NamedRange { id, name: name.to_owned(), range: read_range(ed, given)? };
    let reply = named.to_json();
    ed.book.named.push(named);
    Ok(reply)
}

pub(super) fn update_named(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let mask = required_mask(body, "NamedRange")?;
    let given = required(body, "namedRange")?;
    let id = text(given, "namedRangeId").unwrap_or("");
    let at = ed.book.named.iter().position(|n| n.id == id).ok_or_else(|| no_named(id))?;
    let mut merged = ed.book.named[at].to_json();
    mask.merge(&mut merged, given);
    let name = text(&merged, "name").unwrap_or("").to_owned();
    check_name(ed, &name, Some(id))?;
    let range = read_range(ed, &merged)?;
    ed.book.named[at] = NamedRange { id: id.to_owned(), name, range };
    Ok(nothing())
}

pub(super) fn delete_named(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let id = text(body, "namedRangeId").unwrap_or("");
    let at = ed.book.named.iter().position(|n| n.id == id).ok_or_else(|| no_named(id))?;
    ed.book.named.remove(at);
    Ok(nothing())
}

fn protection_of(ed: &Editor<'_>, id: i64) -> Option<Protection> {
    ed.book.sheets.iter().flat_map(|s| &s.protections).find(|p| p.id == id).cloned()
}

/// The protection with an id, if the caller may change it.
fn own_protection(ed: &Editor<'_>, id: i64) -> Result<Protection, Refusal> {
    let found = protection_of(ed, id).ok_or_else(|| format!("No protected range with id: {id}"))?;
    if ed.who.owner || found.lets(&ed.who.account) { Ok(found) } else { Err(PROTECTED.into()) }
}

/// A protected range may name its cells through a named range.
fn resolved(ed: &Editor<'_>, given: &Json) -> Result<Json, Refusal> {
    let mut given = given.clone();
    if let Some(id) = text(&given, "namedRangeId") {
        let named = ed.book.named.iter().find(|n| n.id == id).ok_or_else(|| no_named(id))?;
        given["range"] = named.range.to_json();
    }
    Ok(given)
}

pub(super) fn protect(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let given = resolved(ed, required(body, "protectedRange")?)?;
    let id = match int(&given, "protectedRangeId") {
        Some(id) if protection_of(ed, id).is_some() => {
            return Err(format!("Protected range with id {id} already exists.").into());
        }
        Some(id) => id,
        None => i64::from(rand::random::<u32>() >> 1).max(1),
    };
    let mut protection = Protection::read(id, &given)?;
    ed.grid(protection.range.sheet)?;
    let me = ed.who.account.clone();
    if !protection.warns && !protection.users.contains(&me) && (given.get("editors").is_none() || !ed.who.owner) {
        protection.users.push(me);
    }
    let reply = protection.to_json(true);
    ed.grid_mut(protection.range.sheet)?.protections.push(protection);
    Ok(reply)
}

pub(super) fn update_protection(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let mask = required_mask(body, "ProtectedRange")?;
    let given = required(body, "protectedRange")?;
    let id = int(given, "protectedRangeId").unwrap_or(0);
    let old = own_protection(ed, id)?;
    let mut merged = old.to_json(true);
    mask.merge(&mut merged, given);
    let new = Protection::read(id, &resolved(ed, &merged)?)?;
    ed.grid(new.range.sheet)?;
    ed.grid_mut(old.range.sheet)?.protections.retain(|p| p.id != id);
    ed.grid_mut(new.range.sheet)?.protections.push(new);
    Ok(nothing())
}

pub(super) fn unprotect(ed: &mut Editor<'_>, body: &Json) -> Reply {
    let id = int(body, "protectedRangeId").unwrap_or(0);
    let old = own_protection(ed, id)?;
    ed.grid_mut(old.range.sheet)?.protections.retain(|p| p.id != id);
    Ok(json!({}))
}
