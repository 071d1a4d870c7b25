//! Taking an object apart whose text is known to be JSON, because the message around it was parsed.
//!
//! Rows are read by this and not by the parser: the parser has been over them once already, and a second pass is a third
//! of the cost of a message. On text that is not JSON the answer is meaningless, but it is an answer: nothing here panics.

use super::{Json, Object, note};

/// The object's known fields; `None` = not an object, or a field name that is no valid Unicode.
pub(super) fn object<'a, const N: usize>(text: &'a str, names: &'static [&'static str; N]) -> Option<Object<'a, N>> {
    let mut scanner = Scanner { text, at: 0 };
    let mut object = Object { values: [None; N], list: None, unknown: 0, duplicate: None };
    scanner.skip_space();
    scanner.eat(b'{')?;
    scanner.skip_space();
    if scanner.eat(b'}').is_none() {
        loop {
            let place = place(scanner.value()?, names)?;
            scanner.skip_space();
            scanner.eat(b':')?;
            scanner.skip_space();
            let value = scanner.value()?;
            match place {
                Some(place) => note(&mut object, names, place, value),
                None => object.unknown = object.unknown.saturating_add(1),
            }
            scanner.skip_space();
            if scanner.eat(b'}').is_some() {
                break;
            }
            scanner.eat(b',')?;
            scanner.skip_space();
        }
    }
    scanner.skip_space();
    scanner.peek().is_none().then_some(object)
}

/// Where the name stands among the known ones.
fn place(name: Json<'_>, names: &[&str]) -> Option<Option<usize>> {
    let name = super::text(name).ok()?;
    Some(names.iter().position(|known| *known == name))
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, wanted: u8) -> Option<()> {
        let found = self.peek()? == wanted;
        self.at += usize::from(found);
        found.then_some(())
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn value(&mut self) -> Option<Json<'a>> {
        let start = self.at;
        match self.peek()? {
            b'"' => self.skip_string()?,
            b'{' | b'[' => self.skip_nested()?,
            _ => {
                while !matches!(self.peek(), None | Some(b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t')) {
                    self.at += 1;
                }
            }
        }
        self.text.get(start..self.at).map(Json)
    }

    fn skip_string(&mut self) -> Option<()> {
        self.at += 1;
        loop {
            let rest = self.text.as_bytes().get(self.at..)?;
            let next = rest.iter().position(|b| matches!(b, b'"' | b'\\'))?;
            self.at += next + 1;
            if rest[next] == b'"' {
                return Some(());
            }
            self.at += 1;
        }
    }

    /// Counts brackets instead of descending, so nesting costs no stack.
    fn skip_nested(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.peek()? {
                b'"' => {
                    self.skip_string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth = depth.checked_sub(1)?,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Some(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;

    const NAMES: [&str; 4] = ["a", "b", "id", "\"\\é"];

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[ab\"\\\\{}:,]{0,3}", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_scanner_finds_what_the_parser_finds(
            fields in prop::collection::vec((prop_oneof![prop::sample::select(NAMES.to_vec()).prop_map(str::to_owned), any::<String>()], any_json()), 0..6),
            pretty in any::<bool>(),
        ) {
            let value = Value::Object(fields.into_iter().collect::<Map<_, _>>());
            let text = if pretty { format!(" {value:#}\n") } else { value.to_string() };
            let scanned = object(&text, &NAMES).unwrap();
            let parsed = super::super::object(&text, &NAMES, None).unwrap();
            prop_assert_eq!(scanned.unknown, parsed.unknown);
            for place in 0..NAMES.len() {
                prop_assert_eq!(scanned.get(place).map(Json::get), parsed.get(place).map(Json::get));
                prop_assert_eq!(scanned.has(place), parsed.has(place));
            }
        }

        #[test]
        fn no_text_makes_the_scanner_panic(text in "[{}\\[\\]\":,\\\\ a1é]{0,24}", other in any::<String>()) {
            let _ = object(&text, &NAMES);
            let _ = object(&format!("{{{text}"), &NAMES);
            let _ = object(&format!("{{\"a\":{other}"), &NAMES);
        }
    }

    #[test]
    fn a_known_field_that_stands_there_twice_is_found_however_it_is_spelt() {
        assert_eq!(object(r#"{"a":1,"\u0061":2}"#, &NAMES).unwrap().duplicate, Some("a"));
        assert_eq!(object(r#"{"x":1,"x":2}"#, &NAMES).unwrap().duplicate, None);
        assert!(object(r#"{"\ud800":1}"#, &NAMES).is_none());
    }
}
