//! Field masks (`sheets(properties.title,data.rowData)`), of answers and of updates.
//! Parsed once per call; `api/render.rs` asks a mask before it builds what is large, and `filter` makes the rest exact.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::schema;

/// What is selected of a message: all of it, or the named fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mask {
    /// Everything.
    All,
    /// These fields, each with a mask of its own.
    Some(BTreeMap<String, Mask>),
}

impl Mask {
    /// Parses a mask; `None` where it is malformed.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut mask = Self::Some(BTreeMap::new());
        let mut rest = text.trim();
        parse_list(&mut rest, &mut |path| mask.add(path))?;
        rest.is_empty().then_some(mask)
    }

    fn add(&mut self, path: &[String]) {
        let Self::Some(fields) = self else { return };
        match path.split_first() {
            None => *self = Self::All,
            Some((name, _)) if name == "*" => *self = Self::All,
            Some((name, rest)) => fields.entry(name.clone()).or_insert_with(|| Self::Some(BTreeMap::new())).add(rest),
        }
    }

    /// The mask below a field; `None` where the field is not selected.
    #[must_use]
    pub fn below(&self, field: &str) -> Option<&Self> {
        match self {
            Self::All => Some(self),
            Self::Some(fields) => fields.get(field),
        }
    }

    /// Whether the field, or something in it, is selected.
    #[must_use]
    pub fn wants(&self, field: &str) -> bool {
        self.below(field).is_some()
    }

    /// Whether the path is named, rather than selected by being part of everything.
    #[must_use]
    pub fn names(&self, path: &[&str]) -> bool {
        match (self, path.split_first()) {
            (_, None) => true,
            (Self::All, Some(_)) => false,
            (Self::Some(fields), Some((first, rest))) => fields.get(*first).is_some_and(|m| *m == Self::All || m.names(rest)),
        }
    }

    /// The value with only what the mask selects.
    #[must_use]
    pub fn filter(&self, value: Value) -> Value {
        match (self, value) {
            (Self::All, value) => value,
            (_, Value::Array(items)) => items.into_iter().map(|item| self.filter(item)).collect(),
            (Self::Some(fields), Value::Object(map)) => Value::Object(
                map.into_iter()
                    .filter_map(|(key, value)| {
                        let kept = fields.get(&key)?.filter(value);
                        Some((key, kept))
                    })
                    .collect(),
            ),
            (_, value) => value,
        }
    }

    /// Sets on `target` what the mask selects: from `source` where it has it, removed where it has not.
    pub fn merge(&self, target: &mut Value, source: &Value) {
        let Self::Some(fields) = self else {
            *target = source.clone();
            return;
        };
        if !target.is_object() {
            *target = Value::Object(Map::new());
        }
        let Some(map) = target.as_object_mut() else { return };
        for (name, below) in fields {
            match (below, source.get(name)) {
                (Self::All, Some(value)) => {
                    map.insert(name.clone(), value.clone());
                }
                (Self::All, None) => {
                    map.remove(name);
                }
                (_, value) => {
                    let mut inner = map.remove(name).unwrap_or(Value::Null);
                    below.merge(&mut inner, value.unwrap_or(&Value::Null));
                    if inner.as_object().is_some_and(|o| !o.is_empty()) {
                        map.insert(name.clone(), inner);
                    }
                }
            }
        }
    }

    /// The first path that the message has no field for.
    #[must_use]
    pub fn unknown(&self, message: &str) -> Option<String> {
        let Self::Some(fields) = self else { return None };
        for (name, below) in fields {
            match schema::field(message, name) {
                None if schema::is_message(message) => return Some(name.clone()),
                None => {}
                Some(kind) => {
                    if let Some(rest) = below.unknown(kind.trim_start_matches('[')) {
                        return Some(format!("{name}.{rest}"));
                    }
                }
            }
        }
        None
    }
}

/// Reads `path,path,...` and hands each full path to `add`; stops before an unmatched `)`.
fn parse_list(rest: &mut &str, add: &mut dyn FnMut(&[String])) -> Option<()> {
    loop {
        let mut path = Vec::new();
        loop {
            *rest = rest.trim_start();
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '*')).unwrap_or(rest.len());
            if end == 0 {
                return None;
            }
            path.push(camel(&rest[..end]));
            *rest = rest[end..].trim_start();
            match rest.chars().next() {
                Some('.' | '/') => *rest = &rest[1..],
                _ => break,
            }
        }
        if let Some(inner) = rest.strip_prefix('(') {
            *rest = inner;
            parse_list(rest, &mut |below| {
                let mut full = path.clone();
                full.extend_from_slice(below);
                add(&full);
            })?;
            *rest = rest.strip_prefix(')')?.trim_start();
        } else {
            add(&path);
        }
        match rest.strip_prefix(',') {
            Some(more) => *rest = more,
            None => return Some(()),
        }
    }
}

/// `row_count` as `rowCount`: masks and JSON may use either.
#[must_use]
pub fn camel(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut upper = false;
    for c in name.chars() {
        if c == '_' && !out.is_empty() {
            upper = true;
        } else if upper {
            out.push(c.to_ascii_uppercase());
            upper = false;
        } else {
            out.push(c);
        }
    }
    out
}

/// `rowCount` as `row_count`: how Google's JSON errors write deeper paths.
#[must_use]
pub fn snake(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn dots_commas_and_parentheses_select_the_same() {
        let a = Mask::parse("sheets.properties(sheetId,title)").unwrap();
        let b = Mask::parse("sheets(properties(sheetId,title))").unwrap();
        let c = Mask::parse("sheets.properties.sheet_id, sheets/properties/title").unwrap();
        assert_eq!(a, b);
        assert_eq!(a, c);
        assert!(Mask::parse("sheets(properties").is_none() && Mask::parse("a,,b").is_none() && Mask::parse("").is_none());
    }

    #[test]
    fn a_filter_keeps_the_places_of_list_entries() {
        let mask = Mask::parse("rows.name").unwrap();
        let kept = mask.filter(json!({"rows": [{"name": "a", "x": 1}, {"x": 2}], "other": 3}));
        assert_eq!(kept, json!({"rows": [{"name": "a"}, {}]}));
    }

    #[test]
    fn a_merge_sets_what_is_given_and_unsets_what_is_only_named() {
        let mask = Mask::parse("title,grid(rows,frozen)").unwrap();
        let mut target = json!({"title": "old", "grid": {"rows": 3, "frozen": 1, "columns": 2}, "id": 7});
        mask.merge(&mut target, &json!({"id": 8, "grid": {"rows": 5}}));
        assert_eq!(target, json!({"grid": {"rows": 5, "columns": 2}, "id": 7}));
    }
}
