//! A1 notation for whole tabs and columns.
//!
//! Called by [`super::gateway`]. What must never happen here: a title that is not quoted, because a bare one is taken for a named range or a cell.

/// All cells of a tab.
pub(super) fn tab(title: &str) -> String {
    format!("'{}'", title.replace('\'', "''"))
}

/// The first `columns` columns of a tab; 0 = all of them.
pub(super) fn columns(title: &str, columns: u32) -> String {
    match columns {
        0 => tab(title),
        _ => format!("{}!A:{}", tab(title), letters(columns)),
    }
}

/// The name of the `number`th column, counted from 1.
fn letters(mut number: u32) -> String {
    let mut name = Vec::new();
    while number > 0 {
        number -= 1;
        name.push(char::from(b'A' + u8::try_from(number % 26).unwrap_or_default()));
        number /= 26;
    }
    name.iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_is_quoted_with_its_quotes_doubled() {
        assert_eq!(tab("710 Pending"), "'710 Pending'");
        assert_eq!(tab("It's 'A1'!B"), "'It''s ''A1''!B'");
        assert_eq!(columns("x", 10), "'x'!A:J");
        assert_eq!(columns("x", 0), "'x'");
    }

    #[test]
    fn columns_are_named_as_google_names_them() {
        let names = [(1, "A"), (26, "Z"), (27, "AA"), (52, "AZ"), (53, "BA"), (702, "ZZ"), (703, "AAA"), (18_278, "ZZZ")];
        for (number, name) in names {
            assert_eq!(letters(number), name);
        }
    }
}
