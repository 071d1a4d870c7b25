//! Stale workers: one is frozen at every stage of its work, a successor finishes that work and more, the frozen one goes on: nothing changes.
//!
//! In process, where every stage can be met exactly; the same with SIGSTOP and a real broker is in tests/crashes.rs. Posters meet over a
//! stateful double of the spreadsheet service, everything else over a real PostgreSQL.

#![cfg(feature = "faults")]
#![expect(clippy::cast_possible_truncation, reason = "grids of tests are small")]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a failing helper fails its test")]
#![expect(dead_code, reason = "the harnesses are those of other tests, which use all of them")]

mod company_world;
mod post_support;

#[path = "faults_support/desk.rs"]
mod desk;
#[path = "faults_support/checks_of_ingest.rs"]
mod of_ingest;
#[path = "faults_support/checks_of_post.rs"]
mod of_post;
#[path = "faults_support/stale_consumer.rs"]
mod stale_consumer;
#[path = "faults_support/stale_ingest.rs"]
mod stale_ingest;
#[path = "faults_support/stale_poster.rs"]
mod stale_poster;
#[path = "faults_support/typed_tab.rs"]
mod typed_tab;

use company_world::database;
use kylo::faults::CrashPoint;

#[test]
fn every_crash_point_is_one_at_which_somebody_freezes() {
    // Nobody can be frozen between two statements that do not wait; tests/crashes.rs kills there, at each run.
    let elsewhere = [CrashPoint::OffsetStoring, CrashPoint::OffsetStored];
    let here = stale_consumer::POINTS.into_iter().chain(stale_ingest::INGEST).chain(stale_ingest::PROMOTE).chain(stale_poster::points());
    let met: std::collections::BTreeSet<CrashPoint> = here.chain(elsewhere).collect();
    let missing: Vec<_> = CrashPoint::of_workers().filter(|point| !met.contains(point)).collect();
    assert!(missing.is_empty(), "nobody is frozen at {missing:?}");
}
