//! The message types of the API, from `schema.txt`: what a request may hold. Asked by `http.rs` for every body before
//! anything else looks at it, so that a misspelt field is refused as Google refuses it and never silently ignored.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::error::ApiError;
use crate::fields::{Mask, camel, snake};
use crate::json::{Json, as_int};

type Fields = HashMap<&'static str, &'static str>;

static MESSAGES: LazyLock<HashMap<&'static str, Fields>> = LazyLock::new(|| {
    let lines = include_str!("schema.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let mut words = line.split(' ');
            let name = words.next()?;
            Some((name, words.filter_map(|word| word.split_once(':')).collect()))
        })
        .collect()
});

/// The type of a message's field.
#[must_use]
pub fn field(message: &str, name: &str) -> Option<&'static str> {
    MESSAGES.get(message)?.get(name).copied()
}

/// Whether the API has a message of this name.
#[must_use]
pub fn is_message(name: &str) -> bool {
    MESSAGES.contains_key(name)
}

/// Checks a body against its message and brings it into one form: camelCase names, nothing null.
///
/// # Errors
/// 400 naming the first field that the message does not have, or whose value is of another type.
pub fn check(message: &'static str, body: &mut Json) -> Result<(), ApiError> {
    let mut path = Path::default();
    check_message(message, body, &mut path)
}

/// The place in the body, as it is printed in refusals.
#[derive(Default)]
struct Path(Vec<Step>);

enum Step {
    Name(String),
    Index(usize),
}

impl Path {
    fn render(&self, style: fn(&str) -> String) -> String {
        let mut out = String::new();
        for step in &self.0 {
            match step {
                Step::Name(name) => {
                    if !out.is_empty() {
                        out.push('.');
                    }
                    out.push_str(&style(name));
                }
                Step::Index(i) => out.push_str(&format!("[{i}]")),
            }
        }
        out
    }
}

fn check_message(message: &'static str, value: &mut Json, path: &mut Path) -> Result<(), ApiError> {
    let Some(fields) = MESSAGES.get(message) else { return Ok(()) };
    let Json::Object(map) = value else { return Err(bad_value(message, value, path)) };
    if map.keys().any(|key| !fields.contains_key(key.as_str())) {
        rename_snake(map, fields, path)?;
    }
    map.retain(|_, value| !value.is_null());
    for (key, value) in map.iter_mut() {
        let Some(kind) = fields.get(key.as_str()) else { continue };
        path.0.push(Step::Name(key.clone()));
        check_type(kind, value, path)?;
        path.0.pop();
    }
    Ok(())
}

fn rename_snake(map: &mut serde_json::Map<String, Json>, fields: &Fields, path: &Path) -> Result<(), ApiError> {
    let strange: Vec<String> = map.keys().filter(|key| !fields.contains_key(key.as_str())).cloned().collect();
    for key in strange {
        let proper = camel(&key);
        if !fields.contains_key(proper.as_str()) {
            let place = path.render(snake);
            let at = if place.is_empty() { String::new() } else { format!(" at '{place}'") };
            let text = format!("Invalid JSON payload received. Unknown name \"{key}\"{at}: Cannot find field.");
            return Err(ApiError::bad_payload(&place, text));
        }
        if let Some(value) = map.remove(&key) {
            map.insert(proper, value);
        }
    }
    Ok(())
}

fn check_type(kind: &'static str, value: &mut Json, path: &mut Path) -> Result<(), ApiError> {
    if let Some(item) = kind.strip_prefix('[') {
        let Json::Array(items) = value else { return Err(bad_value(kind, value, path)) };
        for (i, entry) in items.iter_mut().enumerate() {
            path.0.push(Step::Index(i));
            check_type(item, entry, path)?;
            path.0.pop();
        }
        return Ok(());
    }
    let fits = match kind {
        "any" => true,
        "{" => value.is_object(),
        "string" => value.is_string(),
        "mask" => value.as_str().is_some_and(|text| text.is_empty() || Mask::parse(text).is_some()),
        "bool" => value.is_boolean(),
        "int32" => as_int(value).is_some_and(|n| i32::try_from(n).is_ok()),
        "int64" => as_int(value).is_some(),
        "double" | "float" => value.is_number() || value.as_str().is_some_and(|s| s.parse::<f64>().is_ok()),
        _ if kind.contains('|') => value.as_str().is_some_and(|name| kind.split('|').any(|one| one == name)),
        _ => return check_message(kind, value, path),
    };
    if fits { Ok(()) } else { Err(bad_value(kind, value, path)) }
}

fn bad_value(kind: &str, value: &Json, path: &Path) -> ApiError {
    let place = path.render(snake);
    let shown: String = value.to_string().chars().take(200).collect();
    let kind = match kind {
        "int32" | "int64" | "bool" | "string" | "double" | "float" => format!("TYPE_{}", kind.to_uppercase()),
        other => format!("type.googleapis.com/google.apps.sheets.v4.{}", other.split('|').next().unwrap_or(other)),
    };
    ApiError::bad_payload(&place, format!("Invalid value at '{place}' ({kind}), {shown}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_unknown_name_is_refused_with_its_place() {
        let mut body = json!({"requests": [{"updateCells": {"start": {"sheetId": 1, "rowIdx": 3}}}]});
        let error = check("BatchUpdateSpreadsheetRequest", &mut body).unwrap_err();
        let text = "Unknown name \"rowIdx\" at 'requests[0].update_cells.start': Cannot find field.";
        assert!(error.message.ends_with(text), "{}", error.message);
    }

    #[test]
    fn snake_case_names_and_nulls_are_brought_into_one_form() {
        let mut body = json!({"requests": [{"delete_sheet": {"sheet_id": "7"}}], "response_ranges": null});
        check("BatchUpdateSpreadsheetRequest", &mut body).unwrap();
        assert_eq!(body, json!({"requests": [{"deleteSheet": {"sheetId": "7"}}]}));
    }

    #[test]
    fn a_value_of_another_type_is_refused() {
        for bad in [json!({"sheetId": "x"}), json!({"sheetId": 2_147_483_648_i64}), json!([])] {
            let mut body = json!({"requests": [{"deleteSheet": bad}]});
            assert_eq!(check("BatchUpdateSpreadsheetRequest", &mut body).unwrap_err().code, 400);
        }
    }
}
