//! Kylo: Kafka consumer workers that keep Postgres and Google Sheets in step, exactly once.
//!
//! ```text
//!  n8n / kylo publish
//!     |  txns.company.batches (key = company)          rules.promote.requests (key = company)
//!     v                                                    v
//!  adapters::kafka -> flow::consume -> flow::decode     (the same edge, another handler)
//!     |                 lanes, pause, committable head      |
//!     v                                                    v
//!  flow::ingest: ONE transaction per company database   flow::promote: approvals -> version -> replay
//!     ledger, transactions, triage, pending | matched,      one transaction, company locked
//!     outbox                                                |
//!     +------------------------+---------------------------+
//!                              v   company_state.pending_seq / active_seq
//!                    flow::post: lease -> read -> plan -> intent -> send -> confirm
//!                              |   one atomic batchUpdate per spreadsheet, guarded by fence and epoch
//!                              v
//!                    Pending and Active tabs in Google Sheets
//! ```
//!
//! Every effect writes its event into the outbox of the same transaction; flow::relay publishes the outboxes to kylo.events, at least once and in
//! order for each company. Its promises, and why no fence is needed for them, stand in [`flow::relay`].
//!
//! # Modules, in the order of the flow
//! - [`domain`]: what things are and what is decided. Pure: no I/O, no clock, cannot fail for outside reasons.
//! - [`ports`]: what a test must be able to replace: the message source, the spreadsheet service, the publisher of events. There is no port over Postgres:
//!   transactions are the design, and a double would hide exactly the races that matter. One exception, for the sake of just those races:
//!   the poster's transactions (`flow::post`, `PostStore`), each of which is one method, so that their orders can be played through by the thousand.
//! - [`flow`]: the story. All control flow lives here; leaves are pure functions or SQL.
//! - [`store`]: every SQL statement.
//! - [`adapters`]: the edge: librdkafka, google-sheets4, HTTP. They own foreign types and know no rule.
//! - [`audit`]: what every company must hold, computed again from the topics by the contract alone, and compared with what is there.
//! - [`config`], [`telemetry`], [`runtime`], [`cli`]: settings, logs and metrics, wiring, commands.
//!
//! Who may import whom is checked by `tests/architecture.rs`.
//!
//! # What must never happen
//! The invariants I1..I11 are named in the README beside the tests that hold them. The mechanisms:
//!
//! **Offsets** (I5). An offset is stored only when everything up to it on its partition is durable: applied, held, or a dead letter. Order of
//! writing: dead letter or held message, then the company's transaction, then the offset. A crash between any two of them leads to
//! a redelivery, which the dead letter's unique position, the held message's unique position, and the ledger each turn into nothing.
//!
//! **Ingest** (I1, I11). Each transaction locks `company_state` of its companies in id order, takes the next `seq`, and under that lock reads
//! ledger, rules and the present rows, decides in memory, and writes with one statement per table. What a crash leaves: before COMMIT nothing;
//! after COMMIT the ledger entry, so the redelivery is dismissed. Nothing outside Postgres happens in between.
//!
//! **Order** (I6). Messages of one company go through one lane in offset order. A lane that cannot proceed is moved to `held_messages`
//! (durable, in order), so it delays nobody; while anything is held for a company, its new messages join the queue behind it.
//!
//! **Posting** (I3, I4, I7). A tab is a projection of Postgres. A post of a spreadsheet is a compare-and-swap on its fence generation:
//!
//! | step | what a crash right after it leaves | who settles it |
//! |---|---|---|
//! | lease taken | a lease that runs out within 60 s | the next poster |
//! | spreadsheet read | nothing | - |
//! | answers written to Postgres | Status cells still to be posted: the tab stays due | the next post |
//! | intent written (`planned`) | an intent that was never sent | the next poster finds its fence id free and takes it |
//! | sent (`sent`) | in doubt | the next poster reads the fence: entry with our intent id = confirmed; absent = its next batch carries the SAME id, so at most one of the two can ever land |
//! | answer read, ledger and `posted_seq` written in one transaction (`confirmed`) | nothing | - |
//!
//! Every batch creates metadata entry 1263000000 + n + 1 (n = the highest found in the spreadsheet) and writes into the hidden tab `_kylo` by its
//! random sheetId. The first makes any two batches planned from the same state exclude each other; the second makes a batch of any age from
//! a thawed process fail once old entries have been pruned, because pruning happens only in a batch that replaces that tab.
//! People edit between our read and our write: so no batch addresses people's cells of existing rows by position except to set Approved FALSE,
//! new rows go only into rows inserted by the same batch, and each answer echoes the keys, so damage is seen and healed by the next post at once.

pub mod adapters;
pub mod audit;
pub mod cli;
pub mod config;
pub mod domain;
pub mod faults;
pub mod flow;
pub mod ports;
pub mod runtime;
pub mod store;
pub mod telemetry;
