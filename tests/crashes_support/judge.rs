//! What is left in the end: the databases and the tabs as lines of text that two runs can be compared by, and what must hold in any run.
//!
//! Times, ids made by chance, counts of deliveries and the counter `seq` are left out: those a crash may change. (A redelivered batch whose rows have been
//! corrected since is compared with them again, takes a seq, and tells that it changed nothing.) An auditor that knows from the topics alone what
//! must hold can take the place of [`state`] and [`State::differs_from`].

use std::collections::BTreeSet;

use sqlx::AssertSqlSafe;

use super::sheets::Row;
use super::story::landed;
use super::world::World;

/// Everything that must be equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    lines: Vec<String>,
}

/// Of a company's schema. Each query gives one row of JSON per line.
const COMPANY: [&str; 11] = [
    "SELECT txn_uid, external_id, occurred_on, amount_cents, currency, description, occurrence, void, as_of, batch_signature FROM transactions",
    "SELECT txn_uid, first_seen_batch, last_seen_batch, amount_cents, status, answer FROM pending_txns",
    "SELECT txn_uid, target_sheet, target_header, amount_cents, revision, state, ruleset_version FROM matched_txns",
    "SELECT batch_signature, batch_id, as_of, row_count, bad_count, partition, \"offset\" FROM ingest_batches",
    "SELECT batch_id, batch_signature FROM ingest_batch_ids",
    "SELECT source, target_sheet, target_header, match_notes, ruleset_version FROM rules_active",
    "SELECT version, request_key FROM ruleset_versions",
    "SELECT request_key, version, outcome FROM promote_requests",
    "SELECT source, target_sheet, target_header, match_notes, approved, origin, txn_uid, answer, promoted_in FROM rules_pending",
    "SELECT event_type, payload - 'checksum' - 'seq' - 'topic' AS payload FROM outbox_events_that_tell_something",
    "SELECT ruleset_version FROM company_state",
];

/// Events of batches that changed something, and all others.
const EVENTS: &str = "(SELECT * FROM outbox_events WHERE event_type <> 'batch.ingested'
    OR 0 < (payload->>'new')::int + (payload->>'corrected')::int + (payload->>'voided')::int) AS outbox_events";

/// Of the control database.
const CONTROL: [&str; 4] = [
    "SELECT partition, \"offset\", pointer, kind, class, company_id, batch_id, state FROM control.dead_letters",
    "SELECT company_id, partition, \"offset\" FROM control.held_messages",
    "SELECT company_id, work FROM control.company_trouble",
    "SELECT event_type, company_id, payload->>'class' AS class, payload->>'offset' AS at, payload->>'pointer' AS pointer FROM control.outbox_events WHERE event_type <> 'sheet.posted'",
];

/// Columns that tell when something was done.
const TIMES: [&str; 2] = ["Effective_At", "Created_At"];

/// The state of a world in which nothing is left to do.
///
/// # Panics
/// What must hold in any run does not: an undecided transaction, a tab that is not what Postgres says, a post that is not in the ledger once.
pub async fn state(world: &World, companies: &[&str]) -> State {
    let mut lines = Vec::new();
    for company in companies {
        world.assert_decided_once(company).await;
        world.assert_tab_equals_postgres(company).await;
        assert_each_post_is_in_the_ledger_once(world, company).await;
        for sql in COMPANY {
            let sql = sql.replace("outbox_events_that_tell_something", EVENTS);
            let sql = format!("SELECT to_jsonb(q)::text FROM ({sql} WHERE company_id = '{company}') q ORDER BY 1");
            let rows = world.texts(company, &sql).await;
            lines.extend(rows.into_iter().map(|row| format!("{company}: {}: {row}", table(&sql))));
        }
        let line = |tab: &str, row: &Row| {
            let cells: Vec<_> = row
                .cells
                .iter()
                .filter(|(header, _)| !TIMES.contains(&header.as_str()))
                .map(|(header, cell)| format!("{header}={}", cell.shown))
                .collect();
            format!("{company}: tab {tab}: row {}: {}", row.at, cells.join(" | "))
        };
        lines.extend(world.pending(company).iter().map(|row| line("Pending", row)));
        lines.extend(world.active(company).iter().map(|row| line("Active", row)));
    }
    for sql in CONTROL {
        let ordered = format!("SELECT to_jsonb(q)::text FROM ({sql}) q ORDER BY 1");
        let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(ordered)).fetch_all(&world.control.pool).await.unwrap();
        lines.extend(rows.into_iter().map(|row| format!("{}: {row}", table(sql))));
    }
    State { lines }
}

fn table(sql: &str) -> &str {
    sql.rsplit_once(" FROM ").map_or(sql, |(_, rest)| rest).split([' ', ')']).next().unwrap_or_default()
}

/// What landed is what was confirmed, and each confirmed post and tab with rows is in the ledger once, with its event.
pub async fn assert_each_post_is_in_the_ledger_once(world: &World, company: &str) {
    let sql = format!("SELECT count(*) FROM control.sheet_intents WHERE '{company}' = ANY(companies) AND state = 'confirmed'");
    // A last post that mends may be between landing and its confirmation.
    world
        .eventually(&format!("{company}: what landed is what was confirmed"), async || {
            let (landed, confirmed) = (landed(world, company).len(), world.control_number(&sql).await);
            if i64::try_from(landed).unwrap() == confirmed { Ok(()) } else { Err(format!("{landed} landed, {confirmed} confirmed")) }
        })
        .await;
    let with_rows = world
        .control_number(&format!(
            "SELECT count(*) FROM control.sheet_intents, jsonb_array_elements(tabs) t
             WHERE state = 'confirmed' AND t->>'company' = '{company}' AND (t->>'row_count')::int > 0"
        ))
        .await;
    let posts = world.control_number(&format!("SELECT count(*) FROM control.sheet_posts WHERE company_id = '{company}'")).await;
    assert_eq!(posts, with_rows, "{company}: the ledger of posts");
    let events = world
        .control_number(&format!("SELECT count(*) FROM control.outbox_events WHERE event_type = 'sheet.posted' AND company_id = '{company}'"))
        .await;
    assert_eq!(events, posts, "{company}: an event for each post");
}

impl State {
    /// What was there before and is not any more.
    pub fn lost_of(&self, before: &Self) -> Vec<String> {
        // Counters move on with further work.
        let stays = |line: &&String| !line.contains(": company_state: ") && !self.lines.contains(line);
        before.lines.iter().filter(stays).cloned().collect()
    }

    /// What is different, if anything is.
    pub fn differs_from(&self, other: &Self) -> Option<String> {
        let (ours, theirs): (BTreeSet<_>, BTreeSet<_>) = (self.lines.iter().collect(), other.lines.iter().collect());
        let more: Vec<_> = ours.difference(&theirs).map(|line| format!("  + {line}")).collect();
        let less: Vec<_> = theirs.difference(&ours).map(|line| format!("  - {line}")).collect();
        if self.lines == other.lines {
            return None;
        }
        Some(format!(
            "differs from the undisturbed run ({} lines against {})\n{}\n{}",
            self.lines.len(),
            other.lines.len(),
            more.join("\n"),
            less.join("\n")
        ))
    }
}
