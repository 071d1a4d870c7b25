//! Every parser of what comes from outside, over the committed corpora (`fuzz/corpus`) and thousands of mutations of them: the targets of `fuzz/` as
//! ordinary tests. A failure prints the bytes; put them into the corpus under a name that says what they are.
#![expect(clippy::unwrap_used, reason = "a failing helper fails its test")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

#[path = "fuzz_smoke/targets.rs"]
mod targets;
#[path = "fuzz_smoke/token.rs"]
mod token;

/// The corpus of a target, by file name.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap())
        })
        .collect();
    files.sort();
    assert!(files.len() >= 4, "{} has hardly a corpus", folder.display());
    files
}

/// What parsers stumble over.
const PIECES: [&[u8]; 24] = [
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"null",
    b"true",
    b"-",
    b"0",
    b"9",
    b".",
    b"e400",
    b",",
    b"\0",
    b"\xff",
    b"\xe2\x88\x92",
    b"\xef\xbb\xbf",
    b"\t",
    b"\n",
    b"99999999999999999999",
    b"\xf0\x9f\x98\x80",
];

/// One to four changes: a bit, a byte, a piece put in or in place, a part taken out, doubled or taken from another file.
fn mutate(bytes: &mut Vec<u8>, others: &[(String, Vec<u8>)], random: &mut StdRng) {
    for _ in 0..random.random_range(1..=4) {
        let at = random.random_range(0..=bytes.len());
        let end = random.random_range(at..=bytes.len().min(at + 40));
        let piece = PIECES[random.random_range(0..PIECES.len())];
        match random.random_range(0..7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = random.random(),
            2 => drop(bytes.splice(at..at, piece.iter().copied())),
            3 => drop(bytes.splice(at..end, piece.iter().copied())),
            4 => drop(bytes.drain(at..end)),
            5 => {
                let part = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, part));
            }
            _ => {
                let other = &others[random.random_range(0..others.len())].1;
                let from = random.random_range(0..=other.len());
                drop(bytes.splice(at..end, other[from..other.len().min(from + 60)].iter().copied()));
            }
        }
    }
}

fn holds(target: &str, name: &str, bytes: &[u8], play: fn(&[u8])) {
    if catch_unwind(AssertUnwindSafe(|| play(bytes))).is_err() {
        panic!("{target} fails on {name}: {:?}\nbytes: {bytes:?}", String::from_utf8_lossy(bytes));
    }
}

fn fuzz(target: &str, n: usize, play: fn(&[u8])) {
    let files = corpus(target);
    for (name, bytes) in &files {
        holds(target, name, bytes, play);
    }
    let mut random = StdRng::seed_from_u64(1);
    for n in 0..n {
        let (name, bytes) = &files[random.random_range(0..files.len())];
        let mut bytes = bytes.clone();
        mutate(&mut bytes, &files, &mut random);
        holds(target, &format!("mutation {n} of {name}"), &bytes, play);
    }
}

#[test]
fn any_bytes_are_a_message_with_its_rows_accounted_for_or_poison() {
    fuzz("message", 20_000, targets::message);
}

#[test]
fn an_amount_that_is_taken_means_what_it_says() {
    fuzz("amount", 100_000, targets::amount);
}

#[test]
fn a_date_that_is_taken_is_in_the_calendar() {
    fuzz("date", 100_000, targets::date);
}

#[test]
fn normal_forms_are_stable() {
    fuzz("normalise", 30_000, targets::normalised);
}

#[test]
fn any_company_rows_give_routes_that_share_nothing_or_reasons_that_tell_no_secret() {
    fuzz("company", 20_000, targets::company);
}

#[test]
fn any_answer_of_the_sheets_api_is_read_or_unknown() {
    fuzz("answer", 30_000, targets::answer);
}

#[test]
fn any_answer_of_the_token_endpoint_is_a_token_or_none() {
    fuzz("token", 60, token::token);
}
