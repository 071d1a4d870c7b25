//! The methods of the REST API: which path and verb is which, what each needs, and running one against a spreadsheet.
//! Called by `http.rs` (and by late deliveries). Who may call, quotas and faults are judged before anything here runs.

pub mod filters;
pub mod render;
pub mod spreadsheets;
pub mod values;
mod values_append;
mod values_write;

use crate::apply::{Editor, Who};
use crate::error::ApiError;
use crate::fields::Mask;
use crate::json::Json;
use crate::model::book::Book;

/// A method of the API.
#[derive(Debug)]
pub struct Method {
    /// As in the discovery document, without `spreadsheets.`: what faults and the call log name.
    pub name: &'static str,
    /// Counts as a write; needs a scope that may write.
    pub write: bool,
    /// Needs a scope that may write although it only reads.
    pub guarded: bool,
    /// Message of the body.
    pub request: Option<&'static str>,
    /// Message of the answer.
    pub response: &'static str,
    /// Its name in a scope refusal.
    pub rpc: &'static str,
    /// Query parameters of its own.
    pub params: &'static [&'static str],
}

const fn read(
    name: &'static str,
    request: Option<&'static str>,
    response: &'static str,
    rpc: &'static str,
    params: &'static [&'static str],
) -> Method {
    Method { name, write: false, guarded: false, request, response, rpc, params }
}

const fn write(name: &'static str, request: &'static str, response: &'static str, rpc: &'static str, params: &'static [&'static str]) -> Method {
    Method { name, write: true, guarded: true, request: Some(request), response, rpc, params }
}

const RENDER: &[&str] = &["ranges", "majorDimension", "valueRenderOption", "dateTimeRenderOption"];
const GET: &[&str] = &["ranges", "includeGridData", "commentsViewMode", "excludeTablesInBandedRanges"];
const ENTER: &[&str] =
    &["valueInputOption", "insertDataOption", "includeValuesInResponse", "responseValueRenderOption", "responseDateTimeRenderOption"];
/// Parameters that every method takes.
const COMMON: &[&str] = &[
    "$.xgafv",
    "access_token",
    "alt",
    "$alt",
    "callback",
    "fields",
    "$fields",
    "key",
    "oauth_token",
    "prettyPrint",
    "$prettyPrint",
    "quotaUser",
    "uploadType",
    "upload_protocol",
];

static METHODS: [Method; 18] = [
    write("create", "Spreadsheet", "Spreadsheet", "SpreadsheetsService.CreateSpreadsheet", &[]),
    read("get", None, "Spreadsheet", "SpreadsheetsService.GetSpreadsheet", GET),
    Method {
        guarded: true,
        ..read("getByDataFilter", Some("GetSpreadsheetByDataFilterRequest"), "Spreadsheet", "SpreadsheetsService.GetSpreadsheetByDataFilter", &[])
    },
    write("batchUpdate", "BatchUpdateSpreadsheetRequest", "BatchUpdateSpreadsheetResponse", "SpreadsheetsService.BatchUpdateSpreadsheet", &[]),
    read("values.get", None, "ValueRange", "SpreadsheetsService.GetValues", RENDER),
    read("values.batchGet", None, "BatchGetValuesResponse", "SpreadsheetsService.BatchGetValues", RENDER),
    Method {
        guarded: true,
        ..read(
            "values.batchGetByDataFilter",
            Some("BatchGetValuesByDataFilterRequest"),
            "BatchGetValuesByDataFilterResponse",
            "SpreadsheetsService.BatchGetValuesByDataFilter",
            &[],
        )
    },
    write("values.update", "ValueRange", "UpdateValuesResponse", "SpreadsheetsService.UpdateValues", ENTER),
    write("values.append", "ValueRange", "AppendValuesResponse", "SpreadsheetsService.AppendValues", ENTER),
    write("values.clear", "ClearValuesRequest", "ClearValuesResponse", "SpreadsheetsService.ClearValues", &[]),
    write("values.batchUpdate", "BatchUpdateValuesRequest", "BatchUpdateValuesResponse", "SpreadsheetsService.BatchUpdateValues", &[]),
    write(
        "values.batchUpdateByDataFilter",
        "BatchUpdateValuesByDataFilterRequest",
        "BatchUpdateValuesByDataFilterResponse",
        "SpreadsheetsService.BatchUpdateValuesByDataFilter",
        &[],
    ),
    write("values.batchClear", "BatchClearValuesRequest", "BatchClearValuesResponse", "SpreadsheetsService.BatchClearValues", &[]),
    write(
        "values.batchClearByDataFilter",
        "BatchClearValuesByDataFilterRequest",
        "BatchClearValuesByDataFilterResponse",
        "SpreadsheetsService.BatchClearValuesByDataFilter",
        &[],
    ),
    Method { guarded: true, ..read("developerMetadata.get", None, "DeveloperMetadata", "DeveloperMetadataService.GetDeveloperMetadata", &[]) },
    Method {
        guarded: true,
        ..read(
            "developerMetadata.search",
            Some("SearchDeveloperMetadataRequest"),
            "SearchDeveloperMetadataResponse",
            "DeveloperMetadataService.SearchDeveloperMetadata",
            &[],
        )
    },
    write("sheets.copyTo", "CopySheetToAnotherSpreadsheetRequest", "SheetProperties", "SpreadsheetsService.CopySheetToAnotherSpreadsheet", &[]),
    // Drive's way to share a file, at the same address; not a Sheets method, so without a message of its own.
    Method {
        name: "drive.permissions.create",
        write: true,
        guarded: true,
        request: None,
        response: "any",
        rpc: "DrivePermissions.Create",
        params: &["sendNotificationEmail", "supportsAllDrives"],
    },
];

/// Which method a request calls, on what.
#[derive(Debug, Clone)]
pub struct Route {
    /// The method.
    pub method: &'static Method,
    /// The spreadsheet; empty for create.
    pub spreadsheet: String,
    /// The range, metadata id or sheet id of the path.
    pub part: String,
}

/// A request that has been read.
#[derive(Debug, Clone)]
pub struct Call {
    /// Its method.
    pub route: Route,
    /// Query parameters in order, decoded.
    pub query: Vec<(String, String)>,
    /// The body, checked against its message.
    pub body: Json,
}

impl Call {
    /// The first query parameter of a name.
    #[must_use]
    pub fn query(&self, key: &str) -> Option<&str> {
        self.query.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// All query parameters of a name.
    pub fn queries<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.query.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// The range of the path.
    #[must_use]
    pub fn range(&self) -> &str {
        &self.route.part
    }

    fn fields(&self) -> Option<&str> {
        self.query("fields").or(self.query("$fields")).filter(|text| !text.is_empty())
    }

    /// Whether the caller chose the fields of the answer. The flags for grid data are then ignored: what the mask selects
    /// comes, `*` included.
    #[must_use]
    pub fn is_masked(&self) -> bool {
        self.fields().is_some()
    }

    /// The mask of the answer.
    ///
    /// # Errors
    /// 400 for a mask that is none, or names a field that the answer does not have.
    pub fn mask(&self) -> Result<Mask, ApiError> {
        let Some(text) = self.fields() else { return Ok(Mask::All) };
        let bad = |path: &str| {
            let description = format!("Error expanding 'fields' parameter. Cannot find matching fields for path '{path}'.");
            let mut error = ApiError::bad_payload(text, description);
            "Request contains an invalid argument.".clone_into(&mut error.message);
            error
        };
        let mask = Mask::parse(text).ok_or_else(|| bad(text))?;
        mask.unknown(self.route.method.response).map_or(Ok(mask), |path| Err(bad(&path)))
    }

    /// Refuses query parameters that the method does not have.
    ///
    /// # Errors
    /// 400 naming the first.
    pub fn check_query(&self) -> Result<(), ApiError> {
        let known = |key: &str| COMMON.contains(&key) || self.route.method.params.contains(&key);
        match self.query.iter().find(|(key, _)| !known(key)) {
            None => Ok(()),
            Some((key, _)) => Err(ApiError::bad_payload(
                "",
                format!(
                    "Invalid JSON payload received. Unknown name \"{key}\": Cannot bind query parameter. Field '{key}' could \
                 not be found in request message."
                ),
            )),
        }
    }
}

fn method(name: &str) -> Option<&'static Method> {
    METHODS.iter().find(|m| m.name == name)
}

/// Percent-decoding of a path (`+` stays) or of a query (`+` is a blank).
#[must_use]
pub fn decode(text: &str, query: bool) -> String {
    let (bytes, mut out, mut i) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while i < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        match (bytes[i], hex(i + 1), hex(i + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(high * 16 + low);
                i += 3;
                continue;
            }
            (b'+', ..) if query => out.push(b' '),
            (byte, ..) => out.push(byte),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The parameters of a query or of a form.
#[must_use]
pub fn pairs(text: &str) -> Vec<(String, String)> {
    let parts = text.split('&').filter(|part| !part.is_empty());
    parts.map(|part| part.split_once('=').unwrap_or((part, ""))).map(|(k, v)| (decode(k, true), decode(v, true))).collect()
}

/// Finds the method of a path that is still encoded.
#[must_use]
pub fn route(verb: &str, path: &str) -> Option<Route> {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let made = |name: &str, spreadsheet: &str, part: &str| {
        let (spreadsheet, part) = (decode(spreadsheet, false), decode(part, false));
        Some(Route { method: method(name)?, spreadsheet, part })
    };
    match (verb, &segments[..]) {
        ("POST", ["v4", "spreadsheets"]) => made("create", "", ""),
        ("POST", ["drive", "v3", "files", id, "permissions"]) => made("drive.permissions.create", id, ""),
        ("GET", ["v4", "spreadsheets", id]) => made("get", id, ""),
        ("POST", ["v4", "spreadsheets", last]) => {
            let last = last.replace("%3A", ":");
            let (id, name) = last.rsplit_once(':')?;
            if matches!(name, "batchUpdate" | "getByDataFilter") { made(name, id, "") } else { None }
        }
        ("GET", ["v4", "spreadsheets", id, "values:batchGet"]) => made("values.batchGet", id, ""),
        ("POST", ["v4", "spreadsheets", id, "developerMetadata:search"]) => made("developerMetadata.search", id, ""),
        ("POST", ["v4", "spreadsheets", id, last]) => {
            let name = last.strip_prefix("values:").filter(|name| name.starts_with("batch") && *name != "batchGet")?;
            made(&format!("values.{name}"), id, "")
        }
        ("GET", ["v4", "spreadsheets", id, "developerMetadata", entry]) => made("developerMetadata.get", id, entry),
        ("POST", ["v4", "spreadsheets", id, "sheets", last]) => made("sheets.copyTo", id, last.strip_suffix(":copyTo")?),
        (_, ["v4", "spreadsheets", id, "values", range @ ..]) if !range.is_empty() => {
            let range = range.join("/");
            match verb {
                "GET" => made("values.get", id, &range),
                "PUT" => made("values.update", id, &range),
                "POST" => match range.rsplit_once(':')? {
                    (range, "append") => made("values.append", id, range),
                    (range, "clear") => made("values.clear", id, range),
                    _ => None,
                },
                _ => None,
            }
        }
        _ => None,
    }
}

/// Runs a method that only reads.
///
/// # Errors
/// What the method refuses.
pub fn run_read(book: &Book, call: &Call, who: &Who) -> Result<Json, ApiError> {
    let mask = call.mask()?;
    let answer = match call.route.method.name {
        // These two apply the mask themselves, before they build what is large.
        "get" => return spreadsheets::get(book, call, &mask, who),
        "getByDataFilter" => return spreadsheets::get_by_filter(book, call, &mask, who),
        "values.get" => values::get(book, call)?,
        "values.batchGet" => values::batch_get(book, call)?,
        "values.batchGetByDataFilter" => values::batch_get_by_filter(book, call)?,
        "developerMetadata.get" => spreadsheets::metadata_get(book, call)?,
        "developerMetadata.search" => spreadsheets::metadata_search(book, call)?,
        other => return Err(ApiError::unimplemented(other)),
    };
    Ok(mask.filter(answer))
}

/// Runs a method that writes, on a clone of the spreadsheet.
///
/// # Errors
/// What the method refuses; the clone must then be dropped.
pub fn run_write(ed: &mut Editor<'_>, call: &Call) -> Result<Json, ApiError> {
    let mask = call.mask()?;
    let answer = match call.route.method.name {
        "batchUpdate" => spreadsheets::batch_update(ed, call, &mask)?,
        "values.update" => values_write::update(ed, call)?,
        "values.append" => values_append::append(ed, call)?,
        "values.clear" => values_write::clear(ed, call)?,
        "values.batchUpdate" | "values.batchUpdateByDataFilter" => values_write::batch_update(ed, call)?,
        "values.batchClear" | "values.batchClearByDataFilter" => values_write::batch_clear(ed, call)?,
        other => return Err(ApiError::unimplemented(other)),
    };
    Ok(mask.filter(answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verb_is_what_follows_the_last_colon_however_the_range_is_encoded() {
        for (verb, path, name, part) in [
            ("POST", "/v4/spreadsheets/X/values/Data!A1:B1:append", "values.append", "Data!A1:B1"),
            ("POST", "/v4/spreadsheets/X/values/%27My%20tab%27%21A1%3AB1:append", "values.append", "'My tab'!A1:B1"),
            ("GET", "/v4/spreadsheets/X/values/Data!A1:B2", "values.get", "Data!A1:B2"),
            ("GET", "/v4/spreadsheets/X/values/%27a%2Fb+c%27", "values.get", "'a/b+c'"),
            ("POST", "/v4/spreadsheets/X:batchUpdate", "batchUpdate", ""),
            ("GET", "/v4/spreadsheets/X/developerMetadata/7", "developerMetadata.get", "7"),
        ] {
            let route = route(verb, path).unwrap();
            assert_eq!((route.method.name, route.part.as_str(), route.spreadsheet.as_str()), (name, part, "X"), "{path}");
        }
        assert!(route("POST", "/v4/spreadsheets/X:explode").is_none() && route("DELETE", "/v4/spreadsheets/X").is_none());
    }
}
