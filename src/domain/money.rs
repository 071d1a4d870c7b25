//! Money as whole cents.
//!
//! Called by decoding and by whatever reads an amount typed by a person. Amounts come as text and stay text until they
//! are an `i64` of cents: no float touches them on the way, and nothing is rounded silently.

use std::fmt;

pub use currency::{Currency, CurrencyError};

mod currency;

/// A tolerance of one number: 1e-9 currency units are 1e-7 cents, so the first seven digits after the cent decide.
const TOLERANCE_DIGITS: i64 = 7;

/// An amount in hundredths of its currency. Debits are negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Cents(pub i64);

/// Why a text or number is not an amount. The texts never repeat the amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Not in the grammar of amounts.
    #[error("an amount must look like -12.34, 1,234.50, $1,234.50 or (25.00)")]
    Shape,
    /// More precise than a cent.
    #[error("an amount must have at most two decimals")]
    Precision,
    /// Beyond what an i64 of cents can hold.
    #[error("an amount must lie between -92233720368547758.08 and 92233720368547758.07")]
    Range,
}

/// Reads an amount written as text: optional sign (`+`, `-`, U+2212) or parentheses, optional `$`, digits in groups of
/// three or ungrouped, at most two decimals. `-0.00` is 0.
///
/// # Errors
/// [`MoneyError`]; nothing outside the grammar is guessed at.
pub fn parse_text(text: &str) -> Result<Cents, MoneyError> {
    let (negative, rest) = if let Some(inner) = text.strip_prefix('(') {
        (true, inner.strip_suffix(')').ok_or(MoneyError::Shape)?)
    } else if let Some(rest) = text.strip_prefix(['-', '\u{2212}']) {
        (true, rest)
    } else {
        (false, text.strip_prefix('+').unwrap_or(text))
    };
    let rest = rest.strip_prefix('$').unwrap_or(rest);
    let (whole, fraction) = match rest.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (rest, None),
    };
    if !is_whole(whole) || fraction.is_some_and(|f| f.is_empty() || !f.bytes().all(|b| b.is_ascii_digit())) {
        return Err(MoneyError::Shape);
    }
    let fraction = fraction.unwrap_or_default();
    if fraction.len() > 2 {
        return Err(MoneyError::Precision);
    }
    let padding = &b"00"[fraction.len()..];
    let digits = whole.bytes().filter(|b| *b != b',').chain(fraction.bytes()).chain(padding.iter().copied());
    signed(negative, sum(digits)?)
}

/// Digits, either without separators or as one to three digits followed by groups of three.
fn is_whole(whole: &str) -> bool {
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !whole.contains(',') {
        return all_digits(whole);
    }
    let mut groups = whole.split(',');
    groups.next().is_some_and(|first| first.len() <= 3 && all_digits(first)) && groups.all(|group| group.len() == 3 && all_digits(group))
}

/// Reads an amount from the text of a JSON number, exactly: exponents count, any number of digits does. One within
/// 1e-9 currency units of a cent is that cent (a producer's float arithmetic), any other fraction of a cent is refused.
///
/// # Errors
/// [`MoneyError`]; also when the text is not a JSON number.
pub fn parse_number(text: &str) -> Result<Cents, MoneyError> {
    if let Some(cents) = plain_number(text) {
        return Ok(cents);
    }
    let number = Number::split(text).ok_or(MoneyError::Shape)?;
    let Some(point) = number.cents_point() else { return Ok(Cents(0)) };
    if point > 19 {
        return Err(MoneyError::Range);
    }
    let whole = sum((0..point.max(0)).map(|i| number.digit(i)))?;
    let round_up = number.settle_fraction(point)?;
    signed(number.negative, whole + u128::from(round_up))
}

/// The usual number, at once: no exponent, at most two decimals, at most 15 digits before them. `None` = look closer.
fn plain_number(text: &str) -> Option<Cents> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits.as_bytes()),
        None => (false, text.as_bytes()),
    };
    let (mut size, mut decimals) = (0_i64, None);
    if digits.len() > 18 || !digits.first()?.is_ascii_digit() || (digits.len() > 1 && digits[0] == b'0' && digits[1] != b'.') {
        return None;
    }
    for digit in digits {
        match (digit, decimals) {
            (b'0'..=b'9', Some(2)) | (b'.', Some(_)) => return None,
            (b'0'..=b'9', _) => {
                size = size * 10 + i64::from(digit - b'0');
                decimals = decimals.map(|n: u8| n + 1);
            }
            (b'.', None) => decimals = Some(0),
            _ => return None,
        }
    }
    let size = match decimals {
        None => size.checked_mul(100)?,
        Some(0) => return None,
        Some(1) => size * 10,
        Some(_) => size,
    };
    Some(Cents(if negative { -size } else { size }))
}

/// A JSON number taken apart; significant digits are those of `whole` then `fraction`, leading zeros skipped.
struct Number<'a> {
    negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
    exponent: i64,
    leading_zeros: usize,
}

impl<'a> Number<'a> {
    fn split(text: &'a str) -> Option<Self> {
        let (negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, read_exponent(exponent)?),
            None => (rest, 0),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
            Some(_) => return None,
            None => (mantissa, ""),
        };
        let leading_zero = whole.len() > 1 && whole.starts_with('0');
        let all_digits = whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit());
        if whole.is_empty() || leading_zero || !all_digits {
            return None;
        }
        let leading_zeros = whole.bytes().chain(fraction.bytes()).take_while(|b| *b == b'0').count();
        Some(Self { negative, whole: whole.as_bytes(), fraction: fraction.as_bytes(), exponent, leading_zeros })
    }

    /// How many significant digits stand before the point once the number is in cents; `None` = the number is zero.
    fn cents_point(&self) -> Option<i64> {
        if self.leading_zeros == self.whole.len() + self.fraction.len() {
            return None;
        }
        let before_point = i64::try_from(self.whole.len()).unwrap_or(i64::MAX);
        let skipped = i64::try_from(self.leading_zeros).unwrap_or(i64::MAX);
        Some(before_point.saturating_sub(skipped).saturating_add(self.exponent).saturating_add(2))
    }

    /// Significant digit `index` as ASCII; zero before the first and after the last.
    fn digit(&self, index: i64) -> u8 {
        let Some(at) = usize::try_from(index).ok().and_then(|i| i.checked_add(self.leading_zeros)) else { return b'0' };
        let digit = match at.checked_sub(self.whole.len()) {
            None => self.whole.get(at),
            Some(at) => self.fraction.get(at),
        };
        digit.copied().unwrap_or(b'0')
    }

    /// What follows the cents: 0 = as good as nothing, 1 = as good as one more cent.
    fn settle_fraction(&self, point: i64) -> Result<u8, MoneyError> {
        let head = sum((0..TOLERANCE_DIGITS).map(|i| self.digit(point.saturating_add(i))))?;
        match head {
            0 => Ok(0),
            1 if self.zero_from(point.saturating_add(TOLERANCE_DIGITS)) => Ok(0),
            9_999_999 => Ok(1),
            _ => Err(MoneyError::Precision),
        }
    }

    fn zero_from(&self, index: i64) -> bool {
        let n_digits = i64::try_from(self.whole.len() + self.fraction.len() - self.leading_zeros).unwrap_or(i64::MAX);
        (index.max(0)..n_digits).all(|i| self.digit(i) == b'0')
    }
}

/// An exponent beyond i64 saturates: the answer (zero or out of range) is the same.
fn read_exponent(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let size = digits.bytes().fold(0_i64, |n, b| n.saturating_mul(10).saturating_add(i64::from(b - b'0')));
    Some(if negative { -size } else { size })
}

/// The number that ASCII digits make; out of range as soon as it cannot fit an i64 any more.
fn sum(digits: impl Iterator<Item = u8>) -> Result<u128, MoneyError> {
    let mut total = 0_u128;
    for digit in digits {
        total = total * 10 + u128::from(digit - b'0');
        if total > 1 << 63 {
            return Err(MoneyError::Range);
        }
    }
    Ok(total)
}

fn signed(negative: bool, size: u128) -> Result<Cents, MoneyError> {
    let size = i128::try_from(size).map_err(|_| MoneyError::Range)?;
    i64::try_from(if negative { -size } else { size }).map(Cents).map_err(|_| MoneyError::Range)
}

impl fmt::Display for Cents {
    /// Currency units with two decimals: `-12.34`. [`parse_text`] reads it back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let size = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:02}", size / 100, size % 100)
    }
}

#[cfg(test)]
mod tests;
