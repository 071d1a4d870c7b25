//! A1 notation: read as Google reads it, written as Google writes it (titles quoted exactly where Google quotes them).

use crate::model::book::Book;
use crate::model::grid::{GridRange, Rect};
use crate::model::sheet::Sheet;

const MAX_COLUMN: usize = 18_278;

/// Column letters: 0 is A.
#[must_use]
pub fn letters(column: usize) -> String {
    let (mut n, mut out) = (column + 1, String::new());
    while n > 0 {
        let digit = u8::try_from((n - 1) % 26).unwrap_or(0);
        out.insert(0, char::from(b'A' + digit));
        n = (n - 1) / 26;
    }
    out
}

/// Column and row of one corner (`B3`, `B`, `3`, with `$` anywhere Google allows it).
fn corner(text: &str) -> Option<(Option<usize>, Option<usize>)> {
    let text = text.strip_prefix('$').unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (name, digits) = text.split_at(end);
    let digits = digits.strip_prefix('$').unwrap_or(digits);
    if name.len() > 3 || !digits.chars().all(|c| c.is_ascii_digit()) || (name.is_empty() && digits.is_empty()) {
        return None;
    }
    let column = name.bytes().fold(0, |n, b| n * 26 + usize::from(b.to_ascii_uppercase() - b'A') + 1);
    let row = if digits.is_empty() { None } else { Some(digits.parse::<usize>().ok()?.checked_sub(1)?) };
    (column <= MAX_COLUMN).then(|| (column.checked_sub(1), row))
}

/// The part after the tab: `A1`, `A1:B2`, `A:B`, `2:3`, `A2:B`.
fn cells(text: &str, sheet: i64) -> Option<GridRange> {
    let all = GridRange::all(sheet);
    let Some((first, second)) = text.split_once(':') else {
        let (Some(c), Some(r)) = corner(text)? else { return None };
        return Some(Rect { r0: r, r1: r + 1, c0: c, c1: c + 1 }.on(sheet));
    };
    let ((c0, r0), (c1, r1)) = (corner(first)?, corner(second)?);
    if (c0.is_none() && c1.is_some()) || (r0.is_none() && c0.is_none()) {
        return None;
    }
    let order = |a: Option<usize>, b: Option<usize>| match (a, b) {
        (Some(a), Some(b)) => (Some(a.min(b)), Some(a.max(b) + 1)),
        (a, b) => (a, b.map(|b| b + 1)),
    };
    let ((r0, r1), (c0, c1)) = (order(r0, r1), order(c0, c1));
    Some(GridRange { r0, r1, c0, c1, ..all })
}

/// Whether a word is a cell in A1 or R1C1 notation, and so cannot be a name.
#[must_use]
pub fn looks_like_cell(word: &str) -> bool {
    let digits = |s: &str| s.chars().all(|c| c.is_ascii_digit());
    if matches!(corner(word), Some((Some(_), Some(_)))) && !word.contains('$') {
        return true;
    }
    let upper = word.to_ascii_uppercase();
    upper.strip_prefix('R').and_then(|rest| rest.split_once('C')).is_some_and(|(r, c)| digits(r) && digits(c))
}

/// Reads a range of a spreadsheet.
///
/// # Errors
/// Google's words where it is no range, or its tab is not there.
pub fn parse(book: &Book, text: &str) -> Result<GridRange, String> {
    let wrong = || format!("Unable to parse range: {text}");
    if let Some(rest) = text.strip_prefix('\'') {
        let (title, rest) = quoted(rest).ok_or_else(wrong)?;
        let sheet = book.titled(&title).ok_or_else(wrong)?;
        return match rest.strip_prefix('!') {
            Some(part) => cells(part, sheet.id).ok_or_else(wrong),
            None if rest.is_empty() => Ok(GridRange::all(sheet.id)),
            None => Err(wrong()),
        };
    }
    if let Some((title, part)) = text.rsplit_once('!') {
        let sheet = book.titled(title).ok_or_else(wrong)?;
        return cells(part, sheet.id).ok_or_else(wrong);
    }
    if let Some(named) = book.named.iter().find(|n| n.name.eq_ignore_ascii_case(text)) {
        return Ok(named.range);
    }
    if let Some(range) = book.first_visible().and_then(|sheet| cells(text, sheet.id)) {
        return Ok(range);
    }
    book.titled(text).map(|sheet| GridRange::all(sheet.id)).ok_or_else(wrong)
}

/// The title before a closing quote (two quotes are one), and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut title = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('\'')?;
        title.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('\'') {
            Some(more) => {
                title.push('\'');
                rest = more;
            }
            None => return Some((title, rest)),
        }
    }
}

/// The tab and the cells of a range, its open sides filled in and its ends cut at the grid.
///
/// # Errors
/// Google's words where it does not parse or lies outside the grid.
pub fn resolve<'a>(book: &'a Book, text: &str) -> Result<(&'a Sheet, Rect), String> {
    let range = parse(book, text)?;
    on_grid(book, &range)
}

/// The same for a range that is already read.
///
/// # Errors
/// Google's words where it lies outside the grid.
pub fn on_grid<'a>(book: &'a Book, range: &GridRange) -> Result<(&'a Sheet, Rect), String> {
    let sheet = book.sheet(range.sheet).ok_or_else(|| format!("No grid with id: {}", range.sheet))?;
    check_start(sheet, range)?;
    Ok((sheet, sheet.rect(range)))
}

/// Refuses a range that begins outside the grid.
///
/// # Errors
/// Google's words.
pub fn check_start(sheet: &Sheet, range: &GridRange) -> Result<(), String> {
    let (rows, columns) = (sheet.row_count, sheet.column_count);
    if range.r0.unwrap_or(0) >= rows || range.c0.unwrap_or(0) >= columns {
        let shown = show(&sheet.title, range);
        return Err(format!("Range ({shown}) exceeds grid limits. Max rows: {rows}, max columns: {columns}"));
    }
    Ok(())
}

/// A tab's title as it stands in a range.
#[must_use]
pub fn title(title: &str) -> String {
    let word =
        title.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && title.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
    if word && !looks_like_cell(title) { title.to_owned() } else { format!("'{}'", title.replace('\'', "''")) }
}

/// A range with its tab, open sides left open.
#[must_use]
pub fn show(tab: &str, range: &GridRange) -> String {
    let tab = title(tab);
    let (r0, c0) = (range.r0.unwrap_or(0), range.c0.unwrap_or(0));
    if range.c0.is_none() && range.c1.is_none() {
        return match (range.r0, range.r1) {
            (None, None) => tab,
            (_, Some(r1)) => format!("{tab}!{}:{r1}", r0 + 1),
            (Some(_), None) => format!("{tab}!A{}", r0 + 1),
        };
    }
    if range.r1 == Some(r0 + 1) && range.c1 == Some(c0 + 1) {
        return format!("{tab}!{}{}", letters(c0), r0 + 1);
    }
    let rows = range.r0.is_some() || range.r1.is_some();
    let first = if rows { (r0 + 1).to_string() } else { String::new() };
    let end_column = range.c1.map_or_else(String::new, |c1| letters(c1 - 1));
    let end_row = range.r1.map_or_else(String::new, |r1| r1.to_string());
    format!("{tab}!{}{first}:{end_column}{end_row}", letters(c0))
}

/// A rectangle with its tab.
#[must_use]
pub fn show_rect(sheet: &Sheet, rect: Rect) -> String {
    show(&sheet.title, &rect.on(sheet.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_and_corners_agree() {
        for (column, name) in [(0, "A"), (25, "Z"), (26, "AA"), (701, "ZZ"), (702, "AAA"), (18_277, "ZZZ")] {
            assert_eq!(letters(column), name);
            assert_eq!(corner(&format!("${name}$7")), Some((Some(column), Some(6))));
        }
        assert!(corner("AAAA1").is_none() && corner("A0").is_none() && corner("A1B").is_none());
    }

    #[test]
    fn titles_are_quoted_where_google_quotes_them() {
        for bare in ["Sales", "Sheet_1", "TRUE", "x.y", "Sales2"] {
            assert_eq!(title(bare), bare);
        }
        for quoted in ["Probe Tab", "A1", "ABC1234", "R1C1", "2026", "Ünï", "a-b"] {
            assert_eq!(title(quoted), format!("'{quoted}'"));
        }
        assert_eq!(title("It's"), "'It''s'");
    }
}
