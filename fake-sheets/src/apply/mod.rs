//! Requests of a batchUpdate, one family per file. Called with a clone of the spreadsheet (see `Book`), so a refusal
//! half-way leaves nothing behind: the clone is dropped. Nothing here knows of HTTP or of other spreadsheets.

pub mod cells;
mod copy;
pub mod dimensions;
mod find;
mod layout;
mod metadata;
mod ranges;
pub mod sheets;
mod sort;

use serde_json::json;

use crate::error::{ApiError, Refusal};
use crate::fields::Mask;
use crate::json::{Json, text};
use crate::model::book::Book;
use crate::model::grid::GridRange;
use crate::model::sheet::Sheet;

/// The most requests of one batch.
pub const MAX_REQUESTS: usize = 100_000;
/// The most columns of a tab.
pub const MAX_COLUMNS: usize = 18_278;

/// Limits and choices that Google leaves open; see `Options`.
#[derive(Debug, Clone)]
pub struct Behaviour {
    /// Cells of a spreadsheet, empty ones included.
    pub max_cells: usize,
    /// Whether a checkbox without a stored value is data for appendCells (nobody has measured it).
    pub blank_checkboxes_are_data: bool,
    /// Refusals in another language than English: programs must not match on texts.
    pub localized: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self { max_cells: 10_000_000, blank_checkboxes_are_data: false, localized: false }
    }
}

/// On whose behalf a request is applied.
#[derive(Debug, Clone)]
pub struct Who {
    /// E-mail address in lower case.
    pub account: String,
    /// Owns the spreadsheet, so protection does not hold them up.
    pub owner: bool,
}

/// A spreadsheet being changed.
#[derive(Debug)]
pub struct Editor<'a> {
    /// The clone.
    pub book: Book,
    /// The caller.
    pub who: &'a Who,
    /// The limits.
    pub behaviour: &'a Behaviour,
}

type Reply = Result<Json, Refusal>;

impl Editor<'_> {
    /// The tab, or Google's words for its absence from a grid.
    fn grid(&self, id: i64) -> Result<&Sheet, Refusal> {
        self.book.sheet(id).ok_or_else(|| no_grid(id))
    }

    fn grid_mut(&mut self, id: i64) -> Result<&mut Sheet, Refusal> {
        self.book.sheet_mut(id).ok_or_else(|| no_grid(id))
    }

    /// Refuses a write to cells that are protected from the caller.
    pub fn guard(&self, range: &GridRange) -> Result<(), Refusal> {
        let Some(sheet) = self.book.sheet(range.sheet) else { return Ok(()) };
        if self.who.owner {
            return Ok(());
        }
        let target = sheet.rect(range);
        for protection in sheet.protections.iter().filter(|p| !p.lets(&self.who.account)) {
            let area = sheet.rect(&protection.range);
            if !area.meets(&target) {
                continue;
            }
            let touched = crate::model::grid::Rect {
                r0: area.r0.max(target.r0),
                r1: area.r1.min(target.r1),
                c0: area.c0.max(target.c0),
                c1: area.c1.min(target.c1),
            };
            if !protection.holes.iter().any(|hole| sheet.rect(hole).holds(&touched)) {
                return Err(PROTECTED.into());
            }
        }
        Ok(())
    }

    /// Refuses a tab of this many columns, or growth by this many cells.
    fn check_size(&self, columns: usize, more_cells: usize) -> Result<(), Refusal> {
        if columns > MAX_COLUMNS {
            let text = "This action would increase the number of columns in the sheet above the limit of 18278 columns";
            return Err(text.into());
        }
        let limit = self.behaviour.max_cells;
        if more_cells > 0 && self.book.cells().saturating_add(more_cells) > limit {
            let text = "This action would increase the number of cells in the workbook above the limit of";
            return Err(format!("{text} {limit} cells.").into());
        }
        Ok(())
    }
}

const PROTECTED: &str = "You are trying to edit a protected cell or object. Please contact the spreadsheet owner to \
                         remove protection if you need to edit.";

fn no_grid(id: i64) -> Refusal {
    format!("No grid with id: {id}").into()
}

/// The mask of an update; it must name something, and only what the message has.
fn required_mask(body: &Json, message: &str) -> Result<Mask, Refusal> {
    let missing = "At least one field must be listed in 'fields'. (Use '*' to indicate all fields.)";
    let given = text(body, "fields").filter(|f| !f.is_empty()).ok_or(missing)?;
    let mask = Mask::parse(given).ok_or(missing)?;
    match mask.unknown(message) {
        Some(path) => Err(format!("Invalid field: {path}").into()),
        None => Ok(mask),
    }
}

/// The part of a request that it cannot do without.
fn required<'a>(body: &'a Json, key: &str) -> Result<&'a Json, Refusal> {
    body.get(key).ok_or_else(|| format!("No {key} specified.").into())
}

/// Applies the requests of a batch in order; the first that is refused is named.
///
/// # Errors
/// 400 for a refusal, 501 for a kind this emulator does not have. The editor's spreadsheet is then half-changed and
/// must be dropped.
pub fn batch(editor: &mut Editor<'_>, requests: &[Json]) -> Result<Vec<Json>, ApiError> {
    if requests.is_empty() {
        return Err(ApiError::invalid("Must specify at least one request."));
    }
    if requests.len() > MAX_REQUESTS {
        return Err(ApiError::invalid(format!("Cannot exceed {MAX_REQUESTS} requests in a single batch.")));
    }
    let mut replies = Vec::with_capacity(requests.len());
    for (i, request) in requests.iter().enumerate() {
        let kinds = request.as_object().filter(|kinds| kinds.len() == 1);
        let Some((kind, body)) = kinds.and_then(|kinds| kinds.iter().next()) else {
            return Err(ApiError::invalid(format!("Invalid requests[{i}]: Must specify exactly one kind of request.")));
        };
        replies.push(one(editor, kind, body).map_err(|refusal| refusal.at(&format!("Invalid requests[{i}].{kind}")))?);
    }
    Ok(replies)
}

/// Applies one request; answers its reply, an empty object where its kind has none.
fn one(ed: &mut Editor<'_>, kind: &str, body: &Json) -> Reply {
    let reply = match kind {
        "addSheet" => json!({kind: {"properties": sheets::add(ed, body)?}}),
        "duplicateSheet" => json!({kind: {"properties": sheets::duplicate(ed, body)?}}),
        "deleteSheet" => sheets::delete(ed, body)?,
        "updateSheetProperties" => sheets::update(ed, body)?,
        "updateSpreadsheetProperties" => sheets::update_spreadsheet(ed, body)?,
        "updateCells" => cells::update(ed, body)?,
        "appendCells" => cells::append(ed, body)?,
        "repeatCell" => cells::repeat(ed, body)?,
        "setDataValidation" => cells::validate(ed, body)?,
        "insertDimension" => dimensions::insert(ed, body)?,
        "deleteDimension" => dimensions::delete(ed, body)?,
        "appendDimension" => dimensions::append(ed, body)?,
        "moveDimension" => dimensions::shove(ed, body)?,
        "updateDimensionProperties" => dimensions::update(ed, body)?,
        "autoResizeDimensions" => dimensions::auto_resize(ed, body)?,
        "sortRange" => sort::sort_range(ed, body)?,
        "addNamedRange" => json!({kind: {"namedRange": ranges::add_named(ed, body)?}}),
        "updateNamedRange" => ranges::update_named(ed, body)?,
        "deleteNamedRange" => ranges::delete_named(ed, body)?,
        "addProtectedRange" => json!({kind: {"protectedRange": ranges::protect(ed, body)?}}),
        "updateProtectedRange" => ranges::update_protection(ed, body)?,
        "deleteProtectedRange" => ranges::unprotect(ed, body)?,
        "createDeveloperMetadata" => json!({kind: {"developerMetadata": metadata::create(ed, body)?}}),
        "updateDeveloperMetadata" => json!({kind: {"developerMetadata": metadata::update(ed, body)?}}),
        "deleteDeveloperMetadata" => json!({kind: {"deletedDeveloperMetadata": metadata::delete(ed, body)?}}),
        "setBasicFilter" => layout::set_filter(ed, body)?,
        "clearBasicFilter" => layout::clear_filter(ed, body)?,
        "addBanding" => json!({kind: {"bandedRange": layout::add_band(ed, body)?}}),
        "deleteBanding" => layout::delete_band(ed, body)?,
        "addConditionalFormatRule" => layout::add_conditional(ed, body)?,
        "deleteConditionalFormatRule" => json!({kind: {"rule": layout::delete_conditional(ed, body)?}}),
        "mergeCells" => layout::merge(ed, body)?,
        "unmergeCells" => layout::unmerge(ed, body)?,
        "findReplace" => json!({kind: find::find_replace(ed, body)?}),
        "copyPaste" => copy::copy_paste(ed, body)?,
        other => return Err(Refusal::Missing(format!("the request kind {other}"))),
    };
    Ok(reply)
}

/// The reply of kinds that have none.
fn nothing() -> Json {
    json!({})
}
