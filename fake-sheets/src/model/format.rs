//! Numbers as text, and text as typed: the little of Google's formatting that programs and people meet. Called for
//! `formattedValue` and for `USER_ENTERED` input. Must never change a stored value.

use chrono::{Days, NaiveDate, NaiveDateTime, TimeDelta};
use serde_json::json;

use super::cell::CellValue;
use crate::json::{Json, number, text, whole};

/// A number as its format shows it.
#[must_use]
pub fn shown(x: f64, format: Option<&Json>) -> String {
    let kind = format.and_then(|f| text(f, "type")).unwrap_or("");
    let pattern = format.and_then(|f| text(f, "pattern")).unwrap_or("");
    match (kind, pattern) {
        ("DATE", "") => date(x, "yyyy-mm-dd"),
        ("DATE_TIME", "") => date(x, "yyyy-mm-dd hh:mm:ss"),
        ("TIME", "") => date(x, "hh:mm:ss"),
        ("DATE" | "DATE_TIME" | "TIME", pattern) => date(x, pattern),
        ("PERCENT", "") => decimal(x * 100.0, 2, false) + "%",
        ("CURRENCY", "") => format!("${}", decimal(x, 2, true)),
        ("NUMBER", "") => decimal(x, 2, true),
        ("TEXT", _) | (_, "") => general(x),
        (_, pattern) => by_pattern(x, pattern),
    }
}

/// A number without a format.
#[must_use]
pub fn general(x: f64) -> String {
    number(x).to_string()
}

fn decimal(x: f64, places: usize, grouped: bool) -> String {
    let plain = format!("{:.places$}", x.abs());
    let (whole, fraction) = plain.split_once('.').map_or((plain.as_str(), None), |(w, f)| (w, Some(f)));
    let mut out = String::new();
    if x < 0.0 && plain.bytes().any(|b| b.is_ascii_digit() && b != b'0') {
        out.push('-');
    }
    for (i, digit) in whole.chars().enumerate() {
        if grouped && i > 0 && (whole.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(fraction) = fraction {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

/// Patterns such as `#,##0.00`, `0%`, `"$"#,##0`; the part for positive numbers serves all.
fn by_pattern(x: f64, pattern: &str) -> String {
    let first = pattern.split(';').next().unwrap_or(pattern);
    let digit = |c: char| matches!(c, '0' | '#' | '?');
    let (Some(start), Some(end)) = (first.find(digit), first.rfind(digit)) else { return general(x) };
    let core = &first[start..=end];
    let percent = first[end..].contains('%');
    let places = core.split_once('.').map_or(0, |(_, fraction)| fraction.chars().filter(|c| digit(*c)).count());
    let literal = |s: &str| s.replace(['"', '\\'], "");
    let value = if percent { x * 100.0 } else { x };
    format!("{}{}{}", literal(&first[..start]), decimal(value, places, core.contains(',')), literal(&first[end + 1..]))
}

fn epoch() -> Option<NaiveDateTime> {
    NaiveDate::from_ymd_opt(1899, 12, 30)?.and_hms_opt(0, 0, 0)
}

#[expect(clippy::cast_possible_truncation, reason = "rounded seconds of a day, and days within chrono's range")]
fn date(serial: f64, pattern: &str) -> String {
    let days = serial.floor();
    let seconds = ((serial - days) * 86_400.0).round() as i64;
    let moment = epoch()
        .and_then(|e| e.checked_add_signed(TimeDelta::try_days(days as i64)?))
        .and_then(|d| d.checked_add_signed(TimeDelta::try_seconds(seconds)?));
    let Some(moment) = moment else { return general(serial) };
    let mut out = String::new();
    let mut after_hour = false;
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        let run = rest.len() - rest.trim_start_matches(c).len();
        let spec = match (c.to_ascii_lowercase(), run / c.len_utf8()) {
            ('y', 1 | 2) => "%y",
            ('y', _) => "%Y",
            ('m', 1) if !after_hour => "%-m",
            ('m', 2) if !after_hour => "%m",
            ('m', 3) => "%b",
            ('m', _) if !after_hour => "%B",
            ('m', _) => "%M",
            ('d', 1) => "%-d",
            ('d', 2) => "%d",
            ('d', 3) => "%a",
            ('d', _) => "%A",
            ('h', _) => "%H",
            ('s', _) => "%S",
            _ => "",
        };
        if spec.is_empty() {
            out.push_str(&rest[..run]);
        } else {
            out.push_str(&moment.format(spec).to_string());
            after_hour = c.eq_ignore_ascii_case(&'h');
        }
        rest = &rest[run..];
    }
    out.replace('"', "")
}

/// Text as if typed into a cell: the value, and a number format where typing sets one.
#[must_use]
pub fn typed(input: &str) -> (Option<CellValue>, Option<Json>) {
    if input.is_empty() {
        return (None, None);
    }
    if let Some(literal) = input.strip_prefix('\'') {
        return (Some(CellValue::Text(literal.to_owned())), None);
    }
    if input.len() > 1 && input.starts_with('=') {
        return (Some(CellValue::Formula(input.to_owned())), None);
    }
    let trimmed = input.trim();
    if trimmed.eq_ignore_ascii_case("true") || trimmed.eq_ignore_ascii_case("false") {
        return (Some(CellValue::Bool(trimmed.eq_ignore_ascii_case("true"))), None);
    }
    if let Some(x) = typed_number(trimmed) {
        return (Some(CellValue::Number(x)), None);
    }
    if let Some(x) = trimmed.strip_suffix('%').and_then(typed_number) {
        return (Some(CellValue::Number(x / 100.0)), Some(json!({"type": "PERCENT", "pattern": "0.00%"})));
    }
    if let Some(x) = trimmed.strip_prefix('$').and_then(typed_number) {
        return (Some(CellValue::Number(x)), Some(json!({"type": "CURRENCY", "pattern": "\"$\"#,##0.00"})));
    }
    if let Some((serial, pattern)) = typed_date(trimmed) {
        return (Some(CellValue::Number(serial)), Some(json!({"type": "DATE", "pattern": pattern})));
    }
    (Some(CellValue::Text(input.to_owned())), None)
}

fn typed_number(input: &str) -> Option<f64> {
    let digits = input.strip_prefix(['+', '-']).unwrap_or(input);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        || !digits.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | ',' | 'e' | 'E' | '+' | '-'))
    {
        return None;
    }
    let (plain, rest) = digits.split_once('.').unwrap_or((digits, ""));
    if rest.contains(',') {
        return None;
    }
    let groups: Vec<&str> = plain.split(',').collect();
    if groups.len() > 1 && (groups[0].len() > 3 || groups[1..].iter().any(|g| g.len() != 3)) {
        return None;
    }
    input.replace(',', "").parse::<f64>().ok().filter(|x| x.is_finite())
}

fn typed_date(input: &str) -> Option<(f64, &'static str)> {
    let separator = if input.contains('-') { '-' } else { '/' };
    let parts: Vec<u32> = input.split(separator).map(|p| p.parse().ok()).collect::<Option<_>>()?;
    let [a, b, c] = parts[..] else { return None };
    let (year, month, day, pattern) = if input.find(separator) == Some(4) { (a, b, c, "yyyy-mm-dd") } else { (c, a, b, "m/d/yyyy") };
    let date = NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, month, day).filter(|_| year >= 1900)?;
    let days = date.signed_duration_since(epoch()?.date()).num_days();
    Some((f64::from(i32::try_from(days).ok()?), pattern))
}

/// The date of a serial number, for tests and the page.
#[must_use]
pub fn serial_date(serial: f64) -> Option<NaiveDate> {
    epoch()?.date().checked_add_days(Days::new(u64::try_from(whole(serial.floor())?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_reads_numbers_booleans_dates_and_formulas() {
        for (input, value) in [
            ("007", CellValue::Number(7.0)),
            ("1,234.5", CellValue::Number(1234.5)),
            ("1e3", CellValue::Number(1000.0)),
            ("true", CellValue::Bool(true)),
            ("'0123", CellValue::Text("0123".into())),
            ("=1+2", CellValue::Formula("=1+2".into())),
            ("2026-09-05", CellValue::Number(46270.0)),
            ("9/5/2026", CellValue::Number(46270.0)),
            ("1,23", CellValue::Text("1,23".into())),
            ("e5", CellValue::Text("e5".into())),
            ("1-2", CellValue::Text("1-2".into())),
        ] {
            assert_eq!(typed(input).0, Some(value), "{input}");
        }
        assert_eq!(serial_date(46270.0), NaiveDate::from_ymd_opt(2026, 9, 5));
    }

    #[test]
    fn numbers_are_shown_by_their_format() {
        let shown = |x, kind: &str, pattern: &str| shown(x, Some(&json!({"type": kind, "pattern": pattern})));
        assert_eq!(shown(1234.5, "NUMBER", "#,##0.00"), "1,234.50");
        assert_eq!(shown(-1234.5, "NUMBER", "0.00"), "-1234.50");
        assert_eq!(shown(0.256, "PERCENT", "0%"), "26%");
        assert_eq!(shown(46270.5, "DATE", "yyyy-mm-dd"), "2026-09-05");
        assert_eq!(shown(46270.5, "DATE_TIME", "d/m/yy hh:mm"), "5/9/26 12:00");
        assert_eq!(general(5.0), "5");
        assert_eq!(general(0.1), "0.1");
    }
}
