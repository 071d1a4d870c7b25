//! Reading JSON objects of known fields without copying: every value stays the text it is in the message.
//!
//! Called by the rest of decoding. A field's name may be escaped, a known field may not stand there twice, unknown ones
//! are counted. Nothing here recurses, so nesting costs no stack.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

mod scan;

/// The text of one JSON value, as it stands in the message.
#[derive(Debug, Clone, Copy)]
pub(in crate::flow) struct Json<'a>(&'a str);

impl<'a> Json<'a> {
    /// The text.
    pub fn get(self) -> &'a str {
        self.0
    }
}

/// The values of an object's known fields, by the place of their name.
pub(in crate::flow) struct Object<'a, const N: usize> {
    values: [Option<Json<'a>>; N],
    /// The elements of the field that was to be read as a list.
    pub list: Option<List<'a>>,
    /// Fields whose name is not known.
    pub unknown: u32,
    /// The first known field that stands there twice.
    pub duplicate: Option<&'static str>,
}

/// A field that should hold a list.
pub(in crate::flow) enum List<'a> {
    /// Its elements, of which no more than the limit are kept, and their number.
    Elements(Vec<&'a RawValue>, usize),
    /// It holds something else.
    Other,
}

impl<'a, const N: usize> Object<'a, N> {
    /// The value of a field, by its place among the names; null is as good as absent.
    pub fn get(&self, place: usize) -> Option<Json<'a>> {
        self.values[place].filter(|raw| raw.get() != "null")
    }

    /// Whether the field is there, be it null.
    pub fn has(&self, place: usize) -> bool {
        self.values[place].is_some()
    }
}

/// Reads an object. `list` is the place of a field whose elements are wanted one by one, and the most to keep.
pub(in crate::flow) fn object<'a, const N: usize>(
    text: &'a str,
    names: &'static [&'static str; N],
    list: Option<(usize, usize)>,
) -> Result<Object<'a, N>, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let object = ObjectSeed { names, list }.deserialize(&mut reader)?;
    reader.end()?;
    Ok(object)
}

/// Reads an object inside a message that has been parsed: faster, and only right for what is JSON. `None` = not an
/// object, or a field name that is no valid Unicode.
pub(in crate::flow) fn inner_object<'a, const N: usize>(text: &'a str, names: &'static [&'static str; N]) -> Option<Object<'a, N>> {
    scan::object(text, names)
}

/// Takes the value of a known field.
fn note<'a, const N: usize>(object: &mut Object<'a, N>, names: &'static [&'static str; N], place: usize, value: Json<'a>) {
    if object.values[place].replace(value).is_some() && object.duplicate.is_none() {
        object.duplicate = Some(names[place]);
    }
}

/// An object's fields as they stand there, in order, names unescaped; `None` = not an object of valid names.
pub(in crate::flow) fn entries(text: &str) -> Option<Vec<(String, &RawValue)>> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let entries = reader.deserialize_map(Entries).ok()?;
    reader.end().ok().map(|()| entries)
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(entries)
    }
}

/// Whether the text is one JSON value, whatever it says.
pub(in crate::flow) fn is_json(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}

/// Why a value is not a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::flow) enum NotText {
    /// It is a number, list, ...
    OtherType,
    /// It holds half of a surrogate pair.
    Broken,
}

/// The text of a JSON string.
pub(in crate::flow) fn text(raw: Json<'_>) -> Result<Cow<'_, str>, NotText> {
    let inner = raw.get().strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or(NotText::OtherType)?;
    if inner.contains('\\') {
        return serde_json::from_str(raw.get()).map(Cow::Owned).map_err(|_| NotText::Broken);
    }
    Ok(Cow::Borrowed(inner))
}

/// The text of a JSON number.
pub(in crate::flow) fn number(raw: Json<'_>) -> Option<&str> {
    Some(raw.get()).filter(|text| text.starts_with(|c: char| c == '-' || c.is_ascii_digit()))
}

/// The digits (and sign) of a JSON number that is whole; `2.0` is, as JSON Schema has it.
pub(in crate::flow) fn whole(raw: Json<'_>) -> Option<&str> {
    let text = number(raw)?;
    let (digits, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_whole = fraction.bytes().all(|b| b == b'0') && digits.bytes().skip(1).all(|b| b.is_ascii_digit());
    is_whole.then_some(digits)
}

struct ObjectSeed<const N: usize> {
    names: &'static [&'static str; N],
    list: Option<(usize, usize)>,
}

impl<'de, const N: usize> DeserializeSeed<'de> for ObjectSeed<N> {
    type Value = Object<'de, N>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for ObjectSeed<N> {
    type Value = Object<'de, N>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut object = Object { values: [None; N], list: None, unknown: 0, duplicate: None };
        while let Some(place) = map.next_key_seed(Name(self.names))? {
            let Some(place) = place else {
                object.unknown = object.unknown.saturating_add(1);
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            match self.list {
                Some((list, limit)) if list == place => {
                    let earlier = object.list.replace(map.next_value_seed(ListSeed(limit))?);
                    object.duplicate = object.duplicate.or(earlier.map(|_| self.names[place]));
                }
                _ => note(&mut object, self.names, place, Json(map.next_value::<&RawValue>()?.get())),
            }
        }
        Ok(object)
    }
}

/// A field's name, as its place among the known ones.
struct Name(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|known| *known == name))
    }
}

struct ListSeed(usize);

impl<'de> DeserializeSeed<'de> for ListSeed {
    type Value = List<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ListSeed {
    type Value = List<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let (mut kept, mut total) = (Vec::new(), 0);
        while let Some(element) = seq.next_element::<&RawValue>()? {
            total += 1;
            if kept.len() < self.0 {
                kept.push(element);
            }
        }
        Ok(List::Elements(kept, total))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        IgnoredAny.visit_map(map).map(|_| List::Other)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(List::Other)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(List::Other)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
        Ok(List::Other)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(List::Other)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
        Ok(List::Other)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(List::Other)
    }
}
