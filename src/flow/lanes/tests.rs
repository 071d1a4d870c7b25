use std::collections::{HashMap, HashSet};

use proptest::prelude::{Just, Strategy, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::*;
use crate::flow::offsets::Offsets;
use crate::flow::work::Position;

type TestLanes = Lanes<u64>;

fn company(n: u8) -> CompanyId {
    CompanyId::parse(&format!("c{n}")).unwrap()
}

/// Two companies share a database.
fn key(n: u8) -> LaneKey {
    LaneKey::Database(Dsn::new(&format!("db{}", n / 2)))
}

fn entry(offsets: &mut Offsets, n: u8, offset: i64, rows: usize) -> Entry<u64> {
    if !offsets.is_assigned(i32::from(n)) {
        offsets.assign(i32::from(n));
    }
    let ticket = offsets.begin(i32::from(n), offset).unwrap();
    let position = Position { topic: Arc::from("t"), partition: i32::from(n), offset };
    let record = Record { position, key: None, payload: Some(vec![0; 10]), headers: std::collections::BTreeMap::new(), timestamp: None };
    Entry { ticket, company: company(n), record: Arc::new(record), key: key(n), work: Some(0), rows }
}

fn lanes(limits: LaneLimits) -> TestLanes {
    Lanes::new(limits, WorkKind::Ingest)
}

fn offsets_of(call: &Call<u64>) -> Vec<(String, i64)> {
    call.entries.iter().map(|entry| (entry.company.to_string(), entry.ticket.offset())).collect()
}

#[test]
fn what_waits_of_one_database_goes_in_one_call() {
    let (mut all, mut offsets) = (lanes(LaneLimits::txns()), Offsets::default());
    for (n, offset) in [(0, 0), (1, 0), (0, 1), (2, 0)] {
        all.push(entry(&mut offsets, n, offset, 5));
    }
    let call = all.take(Instant::now()).unwrap();
    assert_eq!(offsets_of(&call), [("c0".to_owned(), 0), ("c0".to_owned(), 1), ("c1".to_owned(), 0)]);
    assert_eq!(offsets_of(&all.take(Instant::now()).unwrap()), [("c2".to_owned(), 0)]);
    assert!(all.take(Instant::now()).is_none());
}

#[test]
fn a_message_larger_than_a_call_goes_alone() {
    let (mut all, mut offsets) = (lanes(LaneLimits { rows: 100, ..LaneLimits::txns() }), Offsets::default());
    all.push(entry(&mut offsets, 0, 0, 1_000));
    all.push(entry(&mut offsets, 1, 0, 1));
    assert_eq!(offsets_of(&all.take(Instant::now()).unwrap()), [("c0".to_owned(), 0)]);
}

#[test]
fn i6_a_company_that_is_down_keeps_its_order_and_stops_nobody() {
    let (mut all, mut offsets) = (lanes(LaneLimits { messages: 1, ..LaneLimits::txns() }), Offsets::default());
    let now = Instant::now();
    for (n, offset) in [(0, 0), (0, 1), (1, 0)] {
        all.push(entry(&mut offsets, n, offset, 1));
    }
    let first = all.take(now).unwrap();
    all.down(&company(0), "refused".to_owned(), now, 0.5);
    all.put_back(first.entries);
    all.end_call(&first.key, &[company(0)], now);
    let other = all.take(now).unwrap();
    assert_eq!(offsets_of(&other), [("c1".to_owned(), 0)]);
    all.end_call(&other.key, &[company(1)], now);
    assert!(all.take(now).is_none());
    let wake = all.next_wake(now).unwrap();
    assert_eq!(offsets_of(&all.take(wake).unwrap()), [("c0".to_owned(), 0)]);
}

#[test]
fn a_company_down_for_thirty_seconds_is_held_from_its_first_message_on() {
    let (mut all, mut offsets) = (lanes(LaneLimits::txns()), Offsets::default());
    let start = Instant::now();
    all.push(entry(&mut offsets, 0, 0, 1));
    let call = all.take(start).unwrap();
    all.push(entry(&mut offsets, 0, 1, 1));
    all.down(&company(0), "refused".to_owned(), start, 0.5);
    all.put_back(call.entries);
    all.end_call(&call.key, &[company(0)], start);
    assert!(all.take_holding(start + Duration::from_secs(29), false).is_none());
    let holding = all.take_holding(start + Duration::from_secs(30), false).unwrap();
    assert_eq!(holding.cause.as_ref().map(|cause| cause.state), Some(TroubleState::Down));
    assert_eq!(holding.entries.iter().map(|entry| entry.ticket.offset()).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn a_company_with_a_thousand_messages_waiting_is_held_only_when_it_is_down() {
    let (mut all, mut offsets) = (lanes(LaneLimits::txns()), Offsets::default());
    let now = Instant::now();
    for offset in 0..1_200 {
        all.push(entry(&mut offsets, 0, offset, 1));
    }
    assert!(all.take_holding(now, true).is_none());
    let call = all.take(now).unwrap();
    all.down(&company(0), "refused".to_owned(), now, 0.5);
    all.put_back(call.entries);
    all.end_call(&call.key, &[company(0)], now);
    assert!(all.take_holding(now, false).is_some());
}

#[test]
fn messages_of_a_held_company_join_its_queue_until_it_is_empty() {
    let (mut all, mut offsets) = (lanes(LaneLimits::txns()), Offsets::default());
    let now = Instant::now();
    all.set_held(&company(0));
    all.push(entry(&mut offsets, 0, 0, 1));
    assert!(all.take(now).is_none());
    let joining = all.take_holding(now, false).unwrap();
    assert!(joining.cause.is_none());
    // Another came while the first was on its way; the queue turned out to be empty.
    all.push(entry(&mut offsets, 0, 1, 1));
    all.set_open(&company(0));
    all.put_back(joining.entries);
    all.end_holding(&company(0), now);
    assert_eq!(offsets_of(&all.take(now).unwrap()), [("c0".to_owned(), 0), ("c0".to_owned(), 1)]);
}

#[test]
fn a_revoked_partition_leaves_nothing_behind() {
    let (mut all, mut offsets) = (lanes(LaneLimits::txns()), Offsets::default());
    all.push(entry(&mut offsets, 0, 0, 1));
    all.push(entry(&mut offsets, 1, 0, 1));
    assert_eq!(all.forget(&[0], false).len(), 1);
    assert_eq!(offsets_of(&all.take(Instant::now()).unwrap()), [("c1".to_owned(), 0)]);
}

#[derive(Clone, Debug)]
enum Step {
    Push(u8, usize),
    Take,
    /// Ends the oldest call; from this entry on it is stuck.
    End(usize),
    Hold,
    Later(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => ((0..6u8), (1..3_000usize)).prop_map(|(n, rows)| Step::Push(n, rows)),
        4 => Just(Step::Take),
        4 => (0..6usize).prop_map(Step::End),
        1 => Just(Step::Hold),
        2 => (0..2_000u64).prop_map(Step::Later),
    ]
}

proptest! {
    #[test]
    fn i6_messages_of_a_company_are_finished_in_order_and_never_in_two_calls_at_once(steps in prop::collection::vec(step(), 1..150)) {
        let limits = LaneLimits { messages: 4, ..LaneLimits::txns() };
        let (most, most_per_key) = (limits.writers, limits.writers_per_key);
        let (mut all, mut offsets) = (lanes(limits), Offsets::default());
        let mut now = Instant::now();
        let mut pushed: HashMap<CompanyId, i64> = HashMap::new();
        let mut finished: HashMap<CompanyId, i64> = HashMap::new();
        let mut calls: VecDeque<Call<u64>> = VecDeque::new();
        for step in steps {
            match step {
                Step::Push(n, rows) => {
                    let next = pushed.entry(company(n)).or_insert(-1);
                    *next += 1;
                    all.push(entry(&mut offsets, n, *next, rows));
                }
                Step::Take => {
                    if let Some(call) = all.take(now) {
                        let busy: HashSet<_> = calls.iter().flat_map(|call| call.entries.iter().map(|entry| entry.company.clone())).collect();
                        prop_assert!(call.entries.iter().all(|entry| !busy.contains(&entry.company)));
                        prop_assert!(call.entries.len() <= 4);
                        prop_assert!(call.entries.iter().all(|entry| entry.key == call.key));
                        let key = call.key.clone();
                        calls.push_back(call);
                        prop_assert!(calls.len() <= most);
                        prop_assert!(calls.iter().filter(|call| call.key == key).count() <= most_per_key);
                    }
                }
                Step::End(stuck_from) => {
                    let Some(call) = calls.pop_front() else { continue };
                    let companies: Vec<_> = call.entries.iter().map(|entry| entry.company.clone()).collect();
                    let mut back = Vec::new();
                    for (n, entry) in call.entries.into_iter().enumerate() {
                        if n >= stuck_from {
                            all.down(&entry.company, "down".to_owned(), now, 0.5);
                            back.push(entry);
                        } else {
                            let last = finished.entry(entry.company.clone()).or_insert(-1);
                            prop_assert_eq!(entry.ticket.offset(), *last + 1);
                            *last += 1;
                        }
                    }
                    all.put_back(back);
                    all.end_call(&call.key, &companies, now);
                }
                Step::Hold => {
                    if let Some(holding) = all.take_holding(now, true) {
                        prop_assert!(calls.iter().all(|call| call.entries.iter().all(|entry| entry.company != holding.company)));
                        for entry in holding.entries {
                            let last = finished.entry(entry.company.clone()).or_insert(-1);
                            prop_assert_eq!(entry.ticket.offset(), *last + 1);
                            *last += 1;
                        }
                        all.set_held(&holding.company);
                        all.set_open(&holding.company);
                        all.end_holding(&holding.company, now);
                    }
                }
                Step::Later(ms) => now += Duration::from_millis(ms),
            }
        }
        // Everything gets through once nothing is in the way any more.
        while let Some(call) = calls.pop_front().or_else(|| { now += Duration::from_secs(5); all.take(now) }) {
            let companies: Vec<_> = call.entries.iter().map(|entry| entry.company.clone()).collect();
            for entry in call.entries {
                let last = finished.entry(entry.company.clone()).or_insert(-1);
                prop_assert_eq!(entry.ticket.offset(), *last + 1);
                *last += 1;
                all.up(&entry.company);
            }
            all.end_call(&call.key, &companies, now);
        }
        prop_assert_eq!(finished, pushed);
    }
}
