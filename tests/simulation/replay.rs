//! Many seeds on all cores; one that fails is printed with the command that plays it again.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// `KYLO_SIM_SEED`: only that seed. `KYLO_SIM_SEEDS`: so many, instead of what CI plays; from `KYLO_SIM_FIRST` on.
#[expect(clippy::disallowed_methods, reason = "a test's own setting, not the program's")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Not the run whose counts are promised.
pub fn is_replay() -> bool {
    number("KYLO_SIM_SEED").is_some() || number("KYLO_SIM_SEEDS").is_some()
}

/// Plays all seeds; panics with the smallest that fails.
pub fn seeds<T: Send, F: Future<Output = Result<T, String>>>(test: &str, n: u64, play: impl Fn(u64) -> F + Sync) -> Vec<T> {
    let many = || (number("KYLO_SIM_FIRST").unwrap_or(0), number("KYLO_SIM_SEEDS").unwrap_or(n));
    let (first, n) = number("KYLO_SIM_SEED").map_or_else(many, |seed| (seed, 1));
    let (held, failed) = run(first, n, play, usize::MAX);
    if let Some((seed, reason)) = failed.iter().min() {
        panic!(
            "seed {seed} of {test} fails (of {n}: {:?}): {reason}\nreplay: KYLO_SIM_SEED={seed} cargo test --all-features --test simulation {test}",
            failed.iter().map(|(seed, _)| seed).collect::<Vec<_>>()
        );
    }
    held
}

/// Counts the seeds that fail, for positive controls.
pub struct Tried;

impl Tried {
    /// Of `n` seeds, as soon as `enough` have failed.
    pub fn count<T: Send, F: Future<Output = Result<T, String>>>(n: u64, enough: usize, play: impl Fn(u64) -> F + Sync) -> usize {
        run(0, n, play, enough).1.len()
    }
}

/// Stops early once so many have failed. A panic inside a history counts as a failure.
fn run<T: Send, F: Future<Output = Result<T, String>>>(
    first: u64,
    n: u64,
    play: impl Fn(u64) -> F + Sync,
    enough: usize,
) -> (Vec<T>, Vec<(u64, String)>) {
    let next = AtomicU64::new(0);
    let (held, failed) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= n || failed.lock().unwrap().len() >= enough {
                break;
            }
            let seed = first + at;
            let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(play(seed))));
            match played {
                Ok(Ok(met)) => held.lock().unwrap().push(met),
                Ok(Err(reason)) => failed.lock().unwrap().push((seed, reason)),
                Err(panic) => {
                    let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                    failed.lock().unwrap().push((seed, format!("panic: {}", text.unwrap_or_default())));
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    (held.into_inner().unwrap(), failed.into_inner().unwrap())
}
