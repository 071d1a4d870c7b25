//! Business dates and instants from text.
//!
//! Called by decoding and by whatever reads a date typed by a person. A business date is a plain day: it is never
//! turned into an instant or shifted to another zone. An instant without an offset is refused, never guessed.

use chrono::{DateTime, NaiveDate, Utc};

/// Why a text is not a date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DateError {
    /// Neither `YYYY-MM-DD` nor RFC 3339.
    #[error("a date must be an ISO day like 2025-08-26 or RFC 3339 like 2025-08-26T12:00:00Z")]
    Shape,
    /// The right shape, but no such day or time: 2025-02-30, year 0000.
    #[error("no such day or time in the calendar (years 0001 to 9999)")]
    Impossible,
}

/// The business date of a text: an ISO day, or RFC 3339, of which it is the day in the text's own offset.
///
/// # Errors
/// [`DateError`] for another shape, an impossible day or time, and years outside 0001..=9999.
pub fn business_date(text: &str) -> Result<NaiveDate, DateError> {
    let (day, rest) = text.split_at_checked(10).ok_or(DateError::Shape)?;
    let date = iso_day(day)?;
    if !rest.is_empty() {
        instant(text)?;
    }
    Ok(date)
}

/// The instant of an RFC 3339 text with offset, whole microseconds (finer digits are cut).
///
/// # Errors
/// [`DateError`] for another shape (also one without offset), an impossible day or time, and years outside 0001..=9999.
pub fn instant(text: &str) -> Result<DateTime<Utc>, DateError> {
    let (day, rest) = text.split_at_checked(10).ok_or(DateError::Shape)?;
    iso_day(day)?;
    if !rest.starts_with(['T', 't']) {
        return Err(DateError::Shape);
    }
    let parsed = DateTime::parse_from_rfc3339(text).map_err(|e| match e.kind() {
        chrono::format::ParseErrorKind::OutOfRange | chrono::format::ParseErrorKind::Impossible => DateError::Impossible,
        _ => DateError::Shape,
    })?;
    DateTime::from_timestamp_micros(parsed.timestamp_micros()).ok_or(DateError::Impossible)
}

fn iso_day(day: &str) -> Result<NaiveDate, DateError> {
    let bytes: &[u8; 10] = day.as_bytes().try_into().map_err(|_| DateError::Shape)?;
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = *bytes else { return Err(DateError::Shape) };
    let digits = [y1, y2, y3, y4, m1, m2, d1, d2];
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(DateError::Shape);
    }
    let [y1, y2, y3, y4, m1, m2, d1, d2] = digits.map(|b| u32::from(b - b'0'));
    let year = y1 * 1000 + y2 * 100 + y3 * 10 + y4;
    if year == 0 {
        return Err(DateError::Impossible);
    }
    let year = i32::try_from(year).map_err(|_| DateError::Impossible)?;
    NaiveDate::from_ymd_opt(year, m1 * 10 + m2, d1 * 10 + d2).ok_or(DateError::Impossible)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_day_of_the_calendar_is_read_back_as_it_is_written(days in 0..3_652_059_i32, seconds in 0..86_400_u32, minutes in -1_439..=1_439_i32) {
            let date = NaiveDate::from_num_days_from_ce_opt(days + 1).unwrap();
            prop_assert_eq!(business_date(&date.to_string()), Ok(date));
            let (sign, offset) = (if minutes < 0 { '-' } else { '+' }, minutes.abs());
            let text = format!("{date}T{:02}:{:02}:{:02}{sign}{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60, offset / 60, offset % 60);
            prop_assert_eq!(business_date(&text), Ok(date), "the day in its own offset");
            let utc = date.and_hms_opt(0, 0, 0).unwrap().and_utc().timestamp() + i64::from(seconds) - i64::from(minutes) * 60;
            prop_assert_eq!(instant(&text).unwrap().timestamp(), utc);
        }

        #[test]
        fn no_text_but_a_date_is_taken_for_one(text in "[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9T:Z+. -]{0,30}") {
            if let Ok(date) = business_date(&text) {
                prop_assert_eq!(date.to_string(), &text[..10]);
            }
        }
    }

    fn day(text: &str) -> Result<String, DateError> {
        business_date(text).map(|d| d.to_string())
    }

    #[test]
    fn a_business_date_is_the_day_in_its_own_offset() {
        assert_eq!(day("2025-08-26").unwrap(), "2025-08-26");
        assert_eq!(day("2025-08-26T23:59:59-11:00").unwrap(), "2025-08-26");
        assert_eq!(day("2025-08-26T00:00:00+14:00").unwrap(), "2025-08-26");
        assert_eq!(day("2024-02-29T12:00:00.123456789Z").unwrap(), "2024-02-29");
        assert_eq!(day("0001-01-01").unwrap(), "0001-01-01");
        assert_eq!(day("9999-12-31").unwrap(), "9999-12-31");
    }

    #[test]
    fn impossible_days_and_other_shapes_are_refused() {
        for text in ["2025-02-29", "2025-13-01", "2025-00-10", "2025-04-31", "0000-01-01", "2025-08-26T25:00:00Z"] {
            assert_eq!(day(text), Err(DateError::Impossible), "{text}");
        }
        for text in [
            "",
            "2025",
            "2025-8-26",
            "26.08.2025",
            "08/26/2025",
            "2025-08-26T12:00:00",
            "2025-08-26 12:00:00Z",
            "2025-08-26Z",
            " 2025-08-26",
            "2025-08-26 ",
            "20250826",
            "+2025-08-26",
            "12025-08-26",
            "٢٠٢٥-08-26",
            "2025-08-26T12:00",
            "2025-08-26T12:00:00+0200 ",
        ] {
            assert_eq!(day(text), Err(DateError::Shape), "{text}");
        }
    }

    #[test]
    fn an_instant_needs_an_offset_and_keeps_microseconds() {
        assert_eq!(instant("2025-08-26T14:00:00.1234567+02:00").unwrap().to_rfc3339(), "2025-08-26T12:00:00.123456+00:00");
        assert_eq!(instant("2025-08-26t12:00:00z").unwrap().to_rfc3339(), "2025-08-26T12:00:00+00:00");
        assert_eq!(instant("2025-08-26"), Err(DateError::Shape));
        assert_eq!(instant("2025-08-26T12:00:00"), Err(DateError::Shape));
    }
}
