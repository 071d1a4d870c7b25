//! Normalising text for matching.
//!
//! Called wherever a description or a rule's source becomes a key. Two texts match only if their normal forms are
//! equal; what normalises to nothing never matches (the caller must check for empty).

use caseless::Caseless;
use unicode_general_category::{GeneralCategory, get_general_category};
use unicode_normalization::UnicodeNormalization;

/// NFKC, casefold, NFKC; then letters, marks and decimal digits of any script are kept, every other run becomes one
/// space, and the ends are trimmed. Idempotent. Linear in the length of the text.
#[must_use]
pub fn normalise(text: &str) -> String {
    if text.is_ascii() {
        return ascii(text);
    }
    let mut out = String::with_capacity(text.len());
    keep(&mut out, text.nfkc().default_case_fold().nfkc(), is_kept);
    out
}

/// Bank text is nearly always ASCII, where all three Unicode steps together are lower-casing.
fn ascii(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    out.make_ascii_lowercase();
    out
}

fn keep(out: &mut String, chars: impl Iterator<Item = char>, kept: impl Fn(char) -> bool) {
    let mut gap = false;
    for c in chars {
        if kept(c) {
            if gap && !out.is_empty() {
                out.push(' ');
            }
            gap = false;
            out.push(c);
        } else {
            gap = true;
        }
    }
}

fn is_kept(c: char) -> bool {
    use GeneralCategory as G;
    if c.is_ascii() {
        return c.is_ascii_alphanumeric();
    }
    matches!(
        get_general_category(c),
        G::UppercaseLetter
            | G::LowercaseLetter
            | G::TitlecaseLetter
            | G::ModifierLetter
            | G::OtherLetter
            | G::NonspacingMark
            | G::SpacingMark
            | G::EnclosingMark
            | G::DecimalNumber
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn letters_marks_and_digits_of_any_script_are_kept() {
        for (text, normal) in [
            ("STARBUCKS", "starbucks"),
            ("  Starbucks #1234 — NYC ", "starbucks 1234 nyc"),
            ("CAFÉ & BISTRO", "café bistro"),
            ("CAFE\u{301} & BISTRO", "café bistro"),
            ("ПЯТЁРОЧКА №7", "пятёрочка no7"),
            ("Straße", "strasse"),
            ("ﬁlm", "film"),
            ("ＡＢＣ１２３", "abc123"),
            ("セブン－イレブン", "セブン イレブン"),
            ("हिन्दी", "हिन्दी"),
            ("١٢٣", "١٢٣"),
            ("x²", "x2"),
            ("Ⅷ", "viii"),
            ("½", "1 2"),
            ("☕🚀", ""),
            ("***", ""),
            ("", ""),
            ("a\u{200d}b\tc\u{a0}d_e", "a b c d e"),
            ("ΣΊΣΥΦΟΣ", "σίσυφοσ"),
        ] {
            assert_eq!(normalise(text), normal, "{text:?}");
        }
    }

    #[test]
    fn a_text_of_sixty_thousand_characters_is_fast() {
        let started = std::time::Instant::now();
        for text in ["é&".repeat(30_000), "\u{301}\u{323}".repeat(30_000), "ﷺ".repeat(3_000), "a ".repeat(30_000)] {
            let normal = normalise(&text);
            assert!(!normal.is_empty());
        }
        assert!(started.elapsed() < std::time::Duration::from_secs(60), "took {:?}", started.elapsed());
    }

    proptest! {
        #[test]
        fn normalising_twice_is_normalising_once(text in any::<String>()) {
            let once = normalise(&text);
            prop_assert_eq!(normalise(&once), once);
        }

        #[test]
        fn the_ascii_path_agrees_with_the_unicode_path(text in "[ -~\t\n]{0,40}") {
            let with_mark = format!("{text}é");
            let without_mark = normalise(&with_mark);
            let ascii = normalise(&text);
            let joined = if ascii.is_empty() { "é".to_owned() }
                else if text.ends_with(|c: char| c.is_ascii_alphanumeric()) { format!("{ascii}é") }
                else { format!("{ascii} é") };
            prop_assert_eq!(without_mark, joined);
        }

        #[test]
        fn case_and_spacing_never_matter(text in "[a-zA-Zé0-9]{1,12}") {
            prop_assert_eq!(normalise(&format!("  {}!! ", text.to_uppercase())), normalise(&text.to_lowercase()));
        }
    }
}
