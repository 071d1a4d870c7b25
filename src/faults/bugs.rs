//! The planted bugs: switches that break the protocol in one place each. `tests/planted.rs` names the check that catches each of them.

super::named! {
    /// A place where the protocol can be broken on purpose.
    pub enum Bug {
        // Offsets and letters (flow::consume).
        OffsetBeforeWork = "offset_before_work": "An offset is stored when its message is taken, before anything of it is durable.",
        OffsetOfTheMessage = "offset_of_the_message": "The offset of the last finished message is stored instead of the next one.",
        OffsetPastTheHead = "offset_past_the_head": "An offset is stored although an earlier message of its partition is unfinished.",
        OffsetOfAnOldAssignment = "offset_of_an_old_assignment": "A message that was taken before a revoke moves the position of the new assignment.",
        LetterNotWritten = "letter_not_written": "A poison message is finished without its dead letter.",
        LetterOnOutage = "letter_on_outage": "A batch becomes a dead letter because its company's database is down.",
        LaneSkipsFailed = "lane_skips_failed": "A message that could not be applied is stepped over.",
        HeldNotWritten = "held_not_written": "Held messages are finished without being stored.",
        QueueOvertaken = "queue_overtaken": "New messages of a held company go past its queue.",
        QueueEmptiedUnapplied = "queue_emptied_unapplied": "What is stuck is removed from the queue with what was applied.",
        // Ingest.
        NoLedger = "no_ledger": "Batches are applied without a ledger entry.",
        LedgerBeforeRows = "ledger_before_rows": "The ledger entry is committed before the rows, in a transaction of its own.",
        SeqNotLocked = "seq_not_locked": "The company's counters are read without keeping their lock.",
        SearchPathLeaks = "search_path_leaks": "A connection goes back to its pool with the company's schema still set.",
        StaleRowWins = "stale_row_wins": "A row of an older batch overwrites a newer one.",
        SupersededDismissed = "superseded_dismissed": "A known batch is dismissed although its rows have been changed since.",
        OldRulesTrusted = "old_rules_trusted": "Cached rules are used without asking whether they are still in force.",
        BadRowDropped = "bad_row_dropped": "A bad row is left out without its dead letter.",
        // Promote.
        RequestNotRecorded = "request_not_recorded": "A promotion does not record its request.",
        ApprovalsByPosition = "approvals_by_position": "Approvals are paired with transactions by their place in the tab.",
        OpenRowsNotReplayed = "open_rows_not_replayed": "A promotion does not decide again what was waiting.",
        PromotedUnread = "promoted_unread": "A promotion goes on without the approvals when the tab cannot be read.",
        // Post.
        NoFence = "no_fence": "Each batch first removes what stands under its fence id, so none excludes another.",
        FenceNotAdvanced = "fence_not_advanced": "A batch carries the generation that is there already.",
        FenceIdSkipped = "fence_id_skipped": "After an unknown outcome the next batch takes another fence id.",
        EpochNotChecked = "epoch_not_checked": "Batches do not write into `_kylo`, so an old one is not refused after a change of the epoch.",
        PrunedInTheSameEpoch = "pruned_in_the_same_epoch": "Old fence entries are deleted without replacing `_kylo`.",
        RetriedBlindly = "retried_blindly": "A batch whose outcome is unknown is sent again at once, under the next fence id.",
        DoubtTakenForLanded = "doubt_taken_for_landed": "A batch whose outcome is unknown counts as landed.",
        AnswerNotCompared = "answer_not_compared": "What an answer shows is not compared with what was planned.",
        TypedForgotten = "typed_forgotten": "What people had typed is not stored with the intent.",
        CanaryIgnored = "canary_ignored": "Companies outside the canary list are posted.",
    }
}
