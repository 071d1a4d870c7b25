//! The crash points: before and after every effect outside this process. Each says what a crash there leaves, and who goes on from it.

super::named! {
    /// Where a worker can be stopped.
    pub enum CrashPoint {
        // Ingest (flow::consume, flow::ingest).
        MessageLettersWriting = "message_letters_writing": "Poison is read, its dead letters are not written: nothing; the messages are delivered again.",
        MessageLettersWritten = "message_letters_written": "Dead letters of poison are written, the offset is not stored: a redelivery, which the letter's unique position only counts.",
        RowLettersWriting = "row_letters_writing": "Bad rows are known, their letters are not written: nothing; the batch is delivered again.",
        RowLettersWritten = "row_letters_written": "Letters of bad rows are written, the good rows are not: a redelivery, which counts the letters and applies the rows.",
        IngestOpened = "ingest_opened": "The companies are locked and read, nothing is written: the server rolls back and frees the locks.",
        IngestWritten = "ingest_written": "All rows and the ledger are written, not committed: the server rolls back all of it.",
        IngestCommitted = "ingest_committed": "The transaction is committed, nobody has heard of it: the ledger entry dismisses the redelivery, and posters find the tab due by themselves.",
        OffsetStoring = "offset_storing": "Effects are durable, the offset is not stored: a redelivery, dismissed by ledger, letter or queue.",
        OffsetStored = "offset_stored": "The offset is stored in the client, perhaps not committed: a redelivery, dismissed likewise.",
        // Hold and release (flow::consume, flow::hold).
        HoldWriting = "hold_writing": "A stuck company's messages are in memory only: nothing; they are delivered again.",
        HoldWritten = "hold_written": "They are in the queue, the offsets are not stored: a redelivery, which the queue's unique position turns into nothing.",
        DrainLeased = "drain_leased": "The lease to drain a queue is taken: it runs out within 60 s, then another process drains.",
        DrainRead = "drain_read": "The head of the queue is read: nothing, but for the lease.",
        DrainApplied = "drain_applied": "Messages of the queue are applied and still in it: they are drained again, and dismissed by the ledger.",
        DrainRemoved = "drain_removed": "They are removed, the rest of the queue stays: the next drainer goes on with it, and declares an empty queue empty.",
        DrainFinished = "drain_finished": "The queue is declared empty: nothing; live messages go the ordinary way.",
        // Promote (flow::promote).
        PromoteTabRead = "promote_tab_read": "The approvals are read: what was typed is remembered; the request is delivered again and reads them again.",
        PromoteOpened = "promote_opened": "The company is locked, nothing is written: the server rolls back.",
        PromoteRecorded = "promote_recorded": "Version, replay and request are written, not committed: the server rolls back all of it.",
        PromoteCommitted = "promote_committed": "The promotion is committed, nobody has heard of it: the recorded request dismisses the redelivery, and posters find the tabs due.",
        // Post (flow::post).
        PostLeased = "post_leased": "The lease is taken, nothing is read: it runs out within 60 s.",
        PostLooked = "post_looked": "The spreadsheet is read, posts in doubt are not settled: nothing, but for the lease.",
        PostRead = "post_read": "The spreadsheet is read and a post is planned: nothing, but for the lease.",
        PostAnswered = "post_answered": "Answers are in the company's database, no intent is written: the tab stays due.",
        PostPlanned = "post_planned": "The intent is `planned`: the next poster abandons it, its fence id is free.",
        PostSending = "post_sending": "The intent is `sent`, the call has not begun: in doubt; the fence entry is absent, so the next batch carries the same id.",
        PostAnswerRead = "post_answer_read": "The call has returned, nothing is recorded: in doubt; the fence entry names the intent, so the next poster confirms it.",
        PostConfirmed = "post_confirmed": "The ledger has it: nothing, but for the lease.",
        // The change of the epoch (flow::post): a batch that replaces `_kylo` and deletes old fence entries.
        EpochChanging = "epoch_changing": "The batch that changes the epoch is `sent`, the call has not begun: in doubt; it is planned again with the same id.",
        EpochChanged = "epoch_changed": "That batch has landed, nothing is recorded: in doubt; its own fence entry is among those that were kept.",
        // The relay (flow::relay).
        RelayClaimed = "relay_claimed": "Outbox rows are claimed, nothing is sent: the lease of the source runs out, another relay publishes them.",
        RelayAcknowledged = "relay_acknowledged": "The broker has acknowledged them, nothing is marked: they are published again with the same `event_id`.",
        RelayMarked = "relay_marked": "They are marked: nothing, but for the lease of the source.",
    }
}

impl CrashPoint {
    /// Those of the relay; tests/relay.rs runs through them.
    pub const RELAY: [Self; 3] = [Self::RelayClaimed, Self::RelayAcknowledged, Self::RelayMarked];

    /// Those of the workers that consume and post.
    pub fn of_workers() -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(|point| !Self::RELAY.contains(point))
    }

    /// The steps of one post.
    pub const POST: [Self; 8] = [
        Self::PostLeased,
        Self::PostLooked,
        Self::PostRead,
        Self::PostAnswered,
        Self::PostPlanned,
        Self::PostSending,
        Self::PostAnswerRead,
        Self::PostConfirmed,
    ];
}
