#![no_main]

#[path = "../../tests/fuzz_smoke/token.rs"]
mod token;

libfuzzer_sys::fuzz_target!(|data: &[u8]| token::token(data));
