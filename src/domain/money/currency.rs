//! Currencies whose amounts are hundredths, which is what [`Cents`](super::Cents) can hold.

use std::fmt;

/// An ISO 4217 code whose minor unit is a hundredth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency(&'static str);

/// The text is no such code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a currency must be a three-letter ISO 4217 code in capitals with two decimals, like USD or EUR")]
pub struct CurrencyError;

impl Currency {
    /// What a row without currency is in.
    pub const USD: Self = Self("USD");

    /// Reads a code, capitals only.
    ///
    /// # Errors
    /// [`CurrencyError`] for anything else, also for codes with none or three decimals (JPY, KWD).
    pub fn parse(text: &str) -> Result<Self, CurrencyError> {
        if text == Self::USD.0 {
            return Ok(Self::USD);
        }
        let at = TWO_DECIMALS.binary_search(&text).map_err(|_| CurrencyError)?;
        Ok(Self(TWO_DECIMALS[at]))
    }

    /// The code.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.0
    }

    /// Every code that is accepted, in order: for the published schema.
    #[must_use]
    pub fn all() -> &'static [&'static str] {
        &TWO_DECIMALS
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// ISO 4217 codes whose minor unit is a hundredth, in order.
const TWO_DECIMALS: [&str; 144] = [
    "AED", "AFN", "ALL", "AMD", "ANG", "AOA", "ARS", "AUD", "AWG", "AZN", "BAM", "BBD", "BDT", "BGN", "BMD", "BND", "BOB", "BOV", "BRL", "BSD",
    "BTN", "BWP", "BYN", "BZD", "CAD", "CDF", "CHE", "CHF", "CHW", "CNY", "COP", "COU", "CRC", "CUC", "CUP", "CVE", "CZK", "DKK", "DOP", "DZD",
    "EGP", "ERN", "ETB", "EUR", "FJD", "FKP", "GBP", "GEL", "GHS", "GIP", "GMD", "GTQ", "GYD", "HKD", "HNL", "HTG", "HUF", "IDR", "ILS", "INR",
    "IRR", "JMD", "KES", "KGS", "KHR", "KPW", "KYD", "KZT", "LAK", "LBP", "LKR", "LRD", "LSL", "MAD", "MDL", "MGA", "MKD", "MMK", "MNT", "MOP",
    "MRU", "MUR", "MVR", "MWK", "MXN", "MXV", "MYR", "MZN", "NAD", "NGN", "NIO", "NOK", "NPR", "NZD", "PAB", "PEN", "PGK", "PHP", "PKR", "PLN",
    "QAR", "RON", "RSD", "RUB", "SAR", "SBD", "SCR", "SDG", "SEK", "SGD", "SHP", "SLE", "SLL", "SOS", "SRD", "SSP", "STN", "SVC", "SYP", "SZL",
    "THB", "TJS", "TMT", "TOP", "TRY", "TTD", "TWD", "TZS", "UAH", "USD", "USN", "UYU", "UZS", "VED", "VES", "WST", "XAD", "XCD", "XCG", "YER",
    "ZAR", "ZMW", "ZWG", "ZWL",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_codes_with_two_decimals_are_currencies() {
        assert!(TWO_DECIMALS.is_sorted());
        for code in TWO_DECIMALS {
            assert_eq!(Currency::parse(code).unwrap().as_str(), code);
        }
        for code in ["JPY", "KRW", "KWD", "BHD", "CLF", "XAU", "XXX", "usd", "US", "USDT", "", "$", "€", "USD "] {
            assert_eq!(Currency::parse(code), Err(CurrencyError), "{code}");
        }
    }
}
