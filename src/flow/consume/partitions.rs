//! The assigned partitions: whether their messages may be taken, what waits for that, and their poison count.
//!
//! Called by the engine. Pure. What must never happen here: a message lost from a stash, or a redelivered poison message counted twice.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::flow::work::Record;
use crate::store::control::poison::Count;

/// Whether a partition's messages are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Newly assigned: its poison count and the queues of its companies are not known yet.
    Preparing,
    Open,
    /// The poison cap was reached. `saved`: Postgres knows, so an operator's answer can be read back.
    Stopped {
        saved: bool,
    },
}

/// One assigned partition.
#[derive(Debug)]
pub struct Partition {
    pub phase: Phase,
    /// Messages that came while they could not be taken.
    pub stash: VecDeque<Arc<Record>>,
    in_a_row: i32,
    last_offset: i64,
    dirty: bool,
}

impl Partition {
    fn new() -> Self {
        Self { phase: Phase::Preparing, stash: VecDeque::new(), in_a_row: 0, last_offset: -1, dirty: false }
    }

    /// What Postgres knows about it.
    pub fn prepared(&mut self, count: Option<Count>) {
        if let Some(count) = count {
            (self.in_a_row, self.last_offset) = (count.in_a_row, count.last_offset);
        }
        self.phase = if count.is_some_and(|count| count.stopped) { Phase::Stopped { saved: true } } else { Phase::Open };
    }

    /// A poison message; `true` = the cap is reached, so it was the last that is taken. A cap of 0 or less never stops.
    pub fn poison(&mut self, offset: i64, cap: i32) -> bool {
        if offset > self.last_offset {
            (self.in_a_row, self.last_offset, self.dirty) = (self.in_a_row.saturating_add(1), offset, true);
        }
        let stop = cap > 0 && self.in_a_row >= cap;
        if stop {
            self.phase = Phase::Stopped { saved: false };
            self.dirty = true;
        }
        stop
    }

    /// A message that could be read and routed.
    pub fn good(&mut self, offset: i64) {
        if offset > self.last_offset && self.in_a_row > 0 {
            (self.in_a_row, self.last_offset, self.dirty) = (0, offset, true);
        }
    }

    /// An operator lets it go on.
    pub fn resumed(&mut self) {
        (self.phase, self.in_a_row, self.dirty) = (Phase::Open, 0, false);
    }
}

/// All assigned partitions.
#[derive(Debug, Default)]
pub struct Partitions {
    all: BTreeMap<i32, Partition>,
}

impl Partitions {
    pub fn assign(&mut self, partition: i32) {
        self.all.insert(partition, Partition::new());
    }

    /// Forgets a partition; gives back what waited.
    pub fn forget(&mut self, partition: i32) -> VecDeque<Arc<Record>> {
        self.all.remove(&partition).map(|state| state.stash).unwrap_or_default()
    }

    pub fn get_mut(&mut self, partition: i32) -> Option<&mut Partition> {
        self.all.get_mut(&partition)
    }

    pub fn in_phase(&self, wanted: impl Fn(Phase) -> bool) -> Vec<i32> {
        self.all.iter().filter(|(_, state)| wanted(state.phase)).map(|(partition, _)| *partition).collect()
    }

    /// Messages and payload bytes that wait in stopped partitions: perhaps for days, so nothing else may wait for them.
    pub fn at_a_stop(&self) -> (usize, usize) {
        let stopped = self.all.values().filter(|state| matches!(state.phase, Phase::Stopped { .. }));
        let waiting = stopped.flat_map(|state| &state.stash);
        waiting.fold((0, 0), |(n, bytes), record| (n + 1, bytes + record.payload.as_ref().map_or(0, Vec::len)))
    }

    /// Counts that Postgres does not know yet; they are taken as written.
    pub fn take_dirty(&mut self) -> Vec<Count> {
        let dirty = self.all.iter_mut().filter(|(_, state)| state.dirty);
        dirty
            .map(|(partition, state)| {
                state.dirty = false;
                let stopped = matches!(state.phase, Phase::Stopped { .. });
                Count { partition: *partition, in_a_row: state.in_a_row, last_offset: state.last_offset, stopped }
            })
            .collect()
    }

    /// These counts could not be written after all.
    pub fn mark_dirty(&mut self, counts: &[Count]) {
        for count in counts {
            if let Some(state) = self.all.get_mut(&count.partition) {
                state.dirty = true;
            }
        }
    }

    /// These counts are written: a stop among them can be answered now.
    pub fn saved(&mut self, counts: &[Count]) {
        for count in counts.iter().filter(|count| count.stopped) {
            if let Some(state) = self.all.get_mut(&count.partition)
                && state.phase == (Phase::Stopped { saved: false })
            {
                state.phase = Phase::Stopped { saved: true };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Partition {
        let mut partition = Partition::new();
        partition.prepared(None);
        partition
    }

    #[test]
    fn the_cap_stops_a_partition_and_a_good_message_in_between_does_not_let_it() {
        let mut partition = open();
        assert!(!partition.poison(0, 3));
        assert!(!partition.poison(1, 3));
        partition.good(2);
        assert!(!partition.poison(3, 3));
        assert!(!partition.poison(4, 3));
        assert!(partition.poison(5, 3));
        assert_eq!(partition.phase, Phase::Stopped { saved: false });
    }

    #[test]
    fn a_redelivered_poison_message_is_not_counted_again() {
        let mut partition = open();
        for _ in 0..10 {
            assert!(!partition.poison(7, 3));
        }
        assert!(!partition.poison(8, 3));
    }

    #[test]
    fn the_count_is_kept_over_restarts() {
        let mut all = Partitions::default();
        all.assign(4);
        let partition = all.get_mut(4).unwrap();
        partition.prepared(Some(Count { partition: 4, in_a_row: 2, last_offset: 10, stopped: false }));
        assert!(partition.poison(11, 3));
        let written = all.take_dirty();
        assert_eq!(written, [Count { partition: 4, in_a_row: 3, last_offset: 11, stopped: true }]);
        let mut after = Partition::new();
        after.prepared(written.first().copied());
        assert_eq!(after.phase, Phase::Stopped { saved: true });
    }
}
