//! Which messages of each partition are in hand, and up to where everything is finished.
//!
//! Called by [`super::consume`]. Pure. What must never happen here: an offset reported as committable while an earlier message of its
//! partition is unfinished (invariant I5), or a message finished under an old assignment moving the head of a new one.

use std::collections::{HashMap, VecDeque};

use super::source::NextOffset;

/// A message in hand. Belongs to one assignment of its partition: after a revoke it is stale and finishing it does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    partition: i32,
    generation: u64,
    offset: i64,
}

impl Ticket {
    pub fn partition(self) -> i32 {
        self.partition
    }

    pub fn offset(self) -> i64 {
        self.offset
    }
}

#[derive(Debug)]
struct Partition {
    generation: u64,
    /// Offset and what became of it; ascending; the front is never finished.
    in_hand: VecDeque<(i64, State)>,
    /// How many are open.
    open: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Will not be finished under this assignment: the position cannot pass it, and nothing waits for it.
    Abandoned,
    Finished,
}

/// The messages in hand of all assigned partitions.
#[derive(Debug, Default)]
pub struct Offsets {
    partitions: HashMap<i32, Partition>,
    generations: u64,
}

impl Offsets {
    /// Starts a partition afresh. Tickets of an earlier assignment become stale.
    pub fn assign(&mut self, partition: i32) {
        self.generations += 1;
        self.partitions.insert(partition, Partition { generation: self.generations, in_hand: VecDeque::new(), open: 0 });
    }

    /// Forgets a partition. Its tickets become stale.
    pub fn forget(&mut self, partition: i32) {
        self.partitions.remove(&partition);
    }

    /// Takes a message in hand. `None` if its partition is not assigned. Offsets may have gaps. One that is not above the last (the topic was
    /// made anew, or the position was set back) starts the partition afresh, because the old positions mean nothing any more.
    pub fn begin(&mut self, partition: i32, offset: i64) -> Option<Ticket> {
        let set_back = self.partitions.get(&partition)?.in_hand.back().is_some_and(|(last, _)| *last >= offset);
        if set_back {
            self.assign(partition);
        }
        let state = self.partitions.get_mut(&partition)?;
        state.in_hand.push_back((offset, State::Open));
        state.open += 1;
        Some(Ticket { partition, generation: state.generation, offset })
    }

    /// Marks a message as finished; gives the new committable position if the head moved. Stale tickets do nothing.
    pub fn finish(&mut self, ticket: Ticket) -> Option<NextOffset> {
        let state = self.settle(ticket, State::Finished)?;
        let mut head = None;
        while let Some((offset, State::Finished)) = state.in_hand.front().copied() {
            head = Some(NextOffset::after(offset));
            state.in_hand.pop_front();
        }
        head
    }

    /// Gives a message up under this assignment: whoever gets the partition next gets it again.
    pub fn abandon(&mut self, ticket: Ticket) {
        self.settle(ticket, State::Abandoned);
    }

    fn settle(&mut self, ticket: Ticket, to: State) -> Option<&mut Partition> {
        let state = self.partitions.get_mut(&ticket.partition).filter(|state| state.generation == ticket.generation)?;
        let place = state.in_hand.binary_search_by_key(&ticket.offset, |(offset, _)| *offset).ok()?;
        let message = state.in_hand.get_mut(place)?;
        if message.1 == State::Open {
            state.open -= 1;
        }
        message.1 = to;
        Some(state)
    }

    pub fn is_current(&self, ticket: Ticket) -> bool {
        self.partitions.get(&ticket.partition).is_some_and(|state| state.generation == ticket.generation)
    }

    /// Messages of a partition that are neither finished nor abandoned.
    pub fn in_hand(&self, partition: i32) -> usize {
        self.partitions.get(&partition).map_or(0, |state| state.open)
    }

    pub fn is_assigned(&self, partition: i32) -> bool {
        self.partitions.contains_key(&partition)
    }

    /// The assigned partitions, ascending.
    pub fn assigned(&self) -> Vec<i32> {
        let mut all: Vec<_> = self.partitions.keys().copied().collect();
        all.sort_unstable();
        all
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::{Just, Strategy, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::*;

    #[test]
    fn the_head_waits_for_the_first_unfinished_message() {
        let mut offsets = Offsets::default();
        offsets.assign(0);
        let [a, b, c] = [10, 11, 13].map(|offset| offsets.begin(0, offset).unwrap());
        assert_eq!(offsets.finish(b), None);
        assert_eq!(offsets.finish(c), None);
        assert_eq!(offsets.finish(a), Some(NextOffset::after(13)));
        assert_eq!(offsets.in_hand(0), 0);
    }

    #[test]
    fn a_message_of_an_earlier_assignment_never_moves_the_head_of_a_later_one() {
        let mut offsets = Offsets::default();
        offsets.assign(0);
        let old = offsets.begin(0, 5).unwrap();
        offsets.forget(0);
        assert_eq!(offsets.finish(old), None);
        offsets.assign(0);
        let new = offsets.begin(0, 5).unwrap();
        assert_eq!(offsets.finish(old), None);
        assert!(!offsets.is_current(old));
        assert_eq!(offsets.finish(new), Some(NextOffset::after(5)));
    }

    #[test]
    fn an_abandoned_message_is_waited_for_by_nobody_and_passed_by_nothing() {
        let mut offsets = Offsets::default();
        offsets.assign(0);
        let [a, b] = [1, 2].map(|offset| offsets.begin(0, offset).unwrap());
        offsets.abandon(a);
        assert_eq!(offsets.in_hand(0), 1);
        assert_eq!(offsets.finish(b), None);
        assert_eq!(offsets.in_hand(0), 0);
    }

    #[test]
    fn a_partition_that_is_not_assigned_takes_nothing() {
        assert_eq!(Offsets::default().begin(3, 0), None);
    }

    #[test]
    fn a_topic_that_was_made_anew_starts_the_partition_afresh_and_loses_nothing() {
        let mut offsets = Offsets::default();
        offsets.assign(0);
        let old = offsets.begin(0, 100).unwrap();
        let new = offsets.begin(0, 0).unwrap();
        assert_eq!(offsets.finish(old), None);
        assert_eq!(offsets.finish(new), Some(NextOffset::after(0)));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Assign(i32),
        Forget(i32),
        /// Gap before the next message.
        Begin(i32, i64),
        /// Which of the tickets given so far, old ones included.
        Finish(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            1 => (0..3).prop_map(Step::Assign),
            1 => (0..3).prop_map(Step::Forget),
            8 => ((0..3), prop_oneof![Just(1i64), 2..5i64]).prop_map(|(partition, gap)| Step::Begin(partition, gap)),
            8 => proptest::arbitrary::any::<prop::sample::Index>().prop_map(Step::Finish),
        ]
    }

    proptest! {
        #[test]
        fn i5_a_position_is_committable_only_when_all_before_it_is_finished(steps in prop::collection::vec(step(), 1..200)) {
            let mut offsets = Offsets::default();
            // The model: per assigned partition, every message begun under this assignment and whether it is finished.
            let mut model: BTreeMap<i32, BTreeMap<i64, bool>> = BTreeMap::new();
            let mut last: BTreeMap<i32, i64> = BTreeMap::new();
            let mut tickets: Vec<Ticket> = Vec::new();
            for step in steps {
                match step {
                    Step::Assign(partition) => { offsets.assign(partition); model.insert(partition, BTreeMap::new()); }
                    Step::Forget(partition) => { offsets.forget(partition); model.remove(&partition); }
                    Step::Begin(partition, gap) => {
                        let offset = last.get(&partition).copied().unwrap_or(-1) + gap;
                        let ticket = offsets.begin(partition, offset);
                        prop_assert_eq!(ticket.is_some(), model.contains_key(&partition));
                        if let Some(ticket) = ticket {
                            last.insert(partition, offset);
                            model.get_mut(&partition).unwrap().insert(offset, false);
                            tickets.push(ticket);
                        }
                    }
                    Step::Finish(index) => {
                        if tickets.is_empty() { continue; }
                        let ticket = *index.get(&tickets);
                        let current = offsets.is_current(ticket);
                        let head = offsets.finish(ticket);
                        if !current { prop_assert_eq!(head, None); continue; }
                        let messages = model.get_mut(&ticket.partition()).unwrap();
                        messages.insert(ticket.offset(), true);
                        if let Some(head) = head {
                            prop_assert!(messages.range(..head.get()).all(|(_, finished)| *finished));
                            // And as far as possible: the next message in hand is unfinished.
                            prop_assert!(messages.range(head.get()..).next().is_none_or(|(_, finished)| !*finished));
                        }
                    }
                }
            }
        }
    }
}
