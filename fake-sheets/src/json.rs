//! Reading protobuf-style JSON: every getter answers `None` for what is absent, and accepts what Google's JSON reader
//! accepts (numbers as text). Used by everything that takes a request apart; the schema has checked the types before.

use serde_json::{Map, Value};

/// A JSON value; the emulator's own cell values have a type of their own.
pub type Json = Value;

/// The number under `key`, also where it came as text.
#[must_use]
pub fn int(v: &Json, key: &str) -> Option<i64> {
    as_int(v.get(key)?)
}

/// A whole number, also where it came as text or as `5.0`.
#[must_use]
pub fn as_int(v: &Json) -> Option<i64> {
    match v {
        Json::Number(n) => n.as_i64().or_else(|| n.as_f64().and_then(whole)),
        Json::String(s) => s.parse().ok(),
        _ => None,
    }
}

/// The whole number a float stands for, if it is one that fits.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "checked to be whole and within 2^53")]
#[expect(clippy::float_cmp, reason = "a whole number equals its own truncation exactly")]
pub fn whole(x: f64) -> Option<i64> {
    (x.trunc() == x && x.abs() <= 9_007_199_254_740_992.0).then_some(x as i64)
}

/// The index (not negative) under `key`.
#[must_use]
pub fn index(v: &Json, key: &str) -> Option<usize> {
    int(v, key).and_then(|n| usize::try_from(n).ok())
}

/// The text under `key`.
#[must_use]
pub fn text<'a>(v: &'a Json, key: &str) -> Option<&'a str> {
    v.get(key)?.as_str()
}

/// The flag under `key`; absent is false, as in proto3.
#[must_use]
pub fn flag(v: &Json, key: &str) -> bool {
    v.get(key).and_then(Json::as_bool).unwrap_or(false)
}

/// The list under `key`; absent is empty.
#[must_use]
pub fn list<'a>(v: &'a Json, key: &str) -> &'a [Json] {
    v.get(key).and_then(Json::as_array).map_or(&[], Vec::as_slice)
}

/// A number as JSON: whole numbers without a fraction.
#[must_use]
pub fn number(x: f64) -> Json {
    whole(x).map_or_else(|| Json::from(x), Json::from)
}

/// Sets `key` unless the value is zero, false, empty or null: what proto3 JSON leaves out.
pub fn put(map: &mut Map<String, Json>, key: &str, value: impl Into<Json>) {
    let value = value.into();
    let empty = match &value {
        Json::Null | Json::Bool(false) => true,
        Json::Number(n) => n.as_i64() == Some(0),
        Json::String(s) => s.is_empty(),
        Json::Array(a) => a.is_empty(),
        _ => false,
    };
    if !empty {
        map.insert(key.to_owned(), value);
    }
}
