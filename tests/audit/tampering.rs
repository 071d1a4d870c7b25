//! The auditor bites: after a history that is right, each single tampering is found, by its class.

use std::collections::BTreeMap;

use fake_sheets::{Edit, Tab};
use kylo::audit::report::Class;

use super::history;
use super::messages::{batch, row};
use super::world::{Mode, World};

/// What is done to a company's schema, how it is undone, and what must be found.
struct Tampering {
    what: &'static str,
    company: &'static str,
    done: &'static str,
    undone: &'static str,
    class: Class,
    subject: &'static str,
}

const TAMPERINGS: [Tampering; 15] = [
    Tampering {
        what: "a pending row is deleted",
        company: "710",
        done: "CREATE TABLE kept AS SELECT * FROM pending_txns WHERE company_id = '710' AND description = 'NEWER'; DELETE FROM pending_txns p USING kept k WHERE p.txn_uid = k.txn_uid",
        undone: "INSERT INTO pending_txns SELECT * FROM kept; DROP TABLE kept",
        class: Class::Lost,
        subject: "pending_txns",
    },
    Tampering {
        what: "a transaction that waits is matched as well",
        company: "710",
        done: "INSERT INTO matched_txns (company_id, txn_uid, rule_id, ruleset_version, target_sheet, target_header, amount_cents, seq)
               SELECT company_id, txn_uid, gen_random_uuid(), 1, 'OPEX', 'COFFEE', amount_cents, seq FROM pending_txns WHERE description = 'NEWER'",
        undone: "DELETE FROM matched_txns m USING pending_txns p WHERE m.txn_uid = p.txn_uid AND p.description = 'NEWER'",
        class: Class::Doubled,
        subject: "matched_txns",
    },
    Tampering {
        what: "a match is withdrawn",
        company: "710",
        done: "UPDATE matched_txns m SET state = 'withdrawn' FROM transactions t WHERE t.txn_uid = m.txn_uid AND t.external_id = 't1'",
        undone: "UPDATE matched_txns m SET state = 'queued' FROM transactions t WHERE t.txn_uid = m.txn_uid AND t.external_id = 't1'",
        class: Class::Altered,
        subject: "matched_txns",
    },
    Tampering {
        what: "cents are changed",
        company: "711",
        done: "UPDATE transactions SET amount_cents = amount_cents + 1 WHERE company_id = '711' AND external_id = 't2'",
        undone: "UPDATE transactions SET amount_cents = amount_cents - 1 WHERE company_id = '711' AND external_id = 't2'",
        class: Class::Altered,
        subject: "transactions",
    },
    Tampering {
        what: "two rules change places",
        company: "710",
        done: "UPDATE rules_active r SET target_header = o.target_header FROM rules_active o WHERE o.rule_id <> r.rule_id",
        undone: "UPDATE rules_active r SET target_header = o.target_header FROM rules_active o WHERE o.rule_id <> r.rule_id",
        class: Class::Altered,
        subject: "rules_active",
    },
    Tampering {
        what: "a version's history is rewritten",
        company: "710",
        done: "CREATE TABLE kept AS SELECT * FROM ruleset_versions WHERE version = 2; UPDATE ruleset_versions SET snapshot = replace(snapshot::text, 'CAFE', 'CAVE')::jsonb WHERE version = 2",
        undone: "UPDATE ruleset_versions v SET snapshot = k.snapshot FROM kept k WHERE v.version = 2; DROP TABLE kept",
        class: Class::Altered,
        subject: "ruleset version 2",
    },
    Tampering {
        what: "as_of is changed",
        company: "710",
        done: "UPDATE transactions SET as_of = as_of + interval '1 second' WHERE external_id = 's'",
        undone: "UPDATE transactions SET as_of = as_of - interval '1 second' WHERE external_id = 's'",
        class: Class::Altered,
        subject: "transactions",
    },
    Tampering {
        what: "a ledger row is dropped",
        company: "710",
        done: "CREATE TABLE kept AS SELECT * FROM ingest_batches WHERE batch_id = 's-1'; DELETE FROM ingest_batches WHERE batch_id = 's-1'",
        undone: "INSERT INTO ingest_batches SELECT * FROM kept; DROP TABLE kept",
        class: Class::Lost,
        subject: "ingest_batches",
    },
    Tampering {
        what: "a name of a batch is dropped",
        company: "710",
        done: "CREATE TABLE kept AS SELECT * FROM ingest_batch_ids WHERE batch_id = 'b-1-again'; DELETE FROM ingest_batch_ids WHERE batch_id = 'b-1-again'",
        undone: "INSERT INTO ingest_batch_ids SELECT * FROM kept; DROP TABLE kept",
        class: Class::Lost,
        subject: "ingest_batch_ids b-1-again",
    },
    Tampering {
        what: "a row is moved to another company",
        company: "711",
        done: "UPDATE transactions SET company_id = '712' WHERE company_id = '711' AND external_id = 's'",
        undone: "UPDATE transactions SET company_id = '711' WHERE txn_uid IN (SELECT txn_uid FROM pending_txns WHERE company_id = '711' AND description = 'NEWER')",
        class: Class::Misrouted,
        subject: "transactions",
    },
    Tampering {
        what: "two batches change their places in the ledger",
        company: "710",
        done: "UPDATE ingest_batches b SET seq = o.seq FROM ingest_batches o WHERE (b.batch_id, o.batch_id) IN (('s-1', 's-2'), ('s-2', 's-1'))",
        undone: "UPDATE ingest_batches b SET seq = o.seq FROM ingest_batches o WHERE (b.batch_id, o.batch_id) IN (('s-1', 's-2'), ('s-2', 's-1'))",
        class: Class::Reordered,
        subject: "ingest_batches",
    },
    Tampering {
        what: "an event of the record is gone",
        company: "710",
        done: "CREATE TABLE kept AS SELECT * FROM outbox_events WHERE payload ->> 'batch_id' = 's-1' AND event_type = 'batch.ingested';
               DELETE FROM outbox_events o USING kept k WHERE o.seq = k.seq",
        undone: "INSERT INTO outbox_events OVERRIDING SYSTEM VALUE SELECT * FROM kept; DROP TABLE kept",
        class: Class::Lost,
        subject: "seq ",
    },
    Tampering {
        what: "two requests change places",
        company: "710",
        done: "UPDATE promote_requests p SET seq = o.seq, version = o.version FROM promote_requests o WHERE (p.request_id, o.request_id) IN (('r-2', 'r-3'), ('r-3', 'r-2'))",
        undone: "UPDATE promote_requests p SET seq = o.seq, version = o.version FROM promote_requests o WHERE (p.request_id, o.request_id) IN (('r-2', 'r-3'), ('r-3', 'r-2'))",
        class: Class::Reordered,
        subject: "promote request",
    },
    Tampering {
        what: "a request is forgotten",
        company: "711",
        done: "CREATE TABLE kept AS SELECT * FROM promote_requests WHERE company_id = '711'; DELETE FROM promote_requests WHERE company_id = '711'",
        undone: "INSERT INTO promote_requests SELECT * FROM kept; DROP TABLE kept",
        class: Class::Lost,
        subject: "promote request r-1",
    },
    Tampering {
        what: "an approval is given to another target than the rule",
        company: "711",
        done: "UPDATE rules_pending SET target_header = 'TEA' WHERE company_id = '711' AND promoted_in = 1",
        undone: "UPDATE rules_pending SET target_header = 'COFFEE' WHERE company_id = '711' AND promoted_in = 1",
        class: Class::Altered,
        subject: "ruleset version 1",
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_with_everything_in_it_is_found_right_and_each_single_tampering_is_found() {
    let mut world = World::with_partitions(2).await;
    let all = history::live(&mut world).await;
    let report = world.audit_is_clean("after the history").await;
    assert!(report.tabs_judged == 6 && report.books_recomputed == 3 && report.transactions > 50, "{}", report.summary());

    // Every message is delivered a second time: some take a seq again, none changes what must hold. One row is no longer rejected.
    for company in ["710", "711"] {
        world.execute(company, "ALTER TABLE transactions DROP CONSTRAINT no_777").await;
    }
    world.commit(BTreeMap::from([(0, 0), (1, 0)])).await;
    world.start(&Mode::Post);
    world.consumed(&all).await;
    world.settled(&["710", "711", "712"]).await;
    world.stop().await;
    world.audit_is_clean("after every message was delivered again").await;

    for Tampering { what, company, done, undone, class, subject } in TAMPERINGS {
        world.execute(company, done).await;
        world.audit_finds(what, class, subject).await;
        world.execute(company, undone).await;
    }
    world.audit_is_clean("after every tampering was undone").await;
    letters_and_posts(&world).await;
    world.audit_is_clean("after letters and posts were mended").await;
    the_command(&world).await;
    tabs(&world).await;
    an_offset_is_skipped(&world).await;
    world.end().await;
}

async fn letters_and_posts(world: &World) {
    let control = [
        ("control.dead_letters", "class = 'not_json'", "DELETE", Class::Lost, "dead letter"),
        ("control.dead_letters", "class = 'bad_amount'", "DELETE", Class::Lost, "/transactions/"),
        ("control.dead_letters", "class = 'not_json'", "UPDATE", Class::Altered, "dead letter"),
        ("control.sheet_posts", "company_id = '712'", "DELETE", Class::Lost, "sheet_posts"),
        ("control.sheet_intents", "'712' = ANY(companies)", "DELETE", Class::Doubled, "sheet_posts"),
    ];
    for (table, which, how, class, subject) in control {
        world.control_execute(&format!("CREATE TABLE kept AS SELECT * FROM {table} WHERE {which}")).await;
        let done =
            if how == "DELETE" { format!("DELETE FROM {table} WHERE {which}") } else { format!("UPDATE {table} SET original = 'x' WHERE {which}") };
        world.control_execute(&done).await;
        world.audit_finds(&format!("{how} of {table} where {which}"), class, subject).await;
        world.control_execute(&format!("DELETE FROM {table} WHERE {which}; INSERT INTO {table} SELECT * FROM kept; DROP TABLE kept")).await;
    }
}

/// The binary says the same: exit code, summary, and the shape of its JSON.
async fn the_command(world: &World) {
    let environment: Vec<_> = world.environment(&Mode::Post).into_iter().collect();
    let run = super::process::run(&environment, &["audit"]).await;
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    assert!(run.stdout.contains("lost 0, doubled 0, misrouted 0, reordered 0, altered 0"), "{run:?}");
    world.execute("710", "UPDATE transactions SET amount_cents = amount_cents + 1 WHERE external_id = 's'").await;
    let run = world.kylo(&["audit", "--company", "710", "--no-tabs", "--json"]).await;
    assert_eq!(run.code, 1, "{run:?}");
    let said: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let schema: serde_json::Value = serde_json::from_str(include_str!("../../schemas/cli/audit.json")).unwrap();
    let errors: Vec<_> = jsonschema::validator_for(&schema).unwrap().iter_errors(&said).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}\n{said:#}");
    assert_eq!((&said["counts"]["altered"], &said["findings"][0]["invariant"], &said["tabs_judged"]), (&1.into(), &"I1".into(), &0.into()));
    assert!(!run.stdout.contains("NEWER"), "I10: a description is in a finding");
    world.execute("710", "UPDATE transactions SET amount_cents = amount_cents - 1 WHERE external_id = 's'").await;
}

/// What people or a fault may do to the tabs. Nobody posts meanwhile, so it stays.
async fn tabs(world: &World) {
    let pending = || Tab::from("710 Pending");
    let at = world.pending_row("710", "NEWER").unwrap().at;
    world.edit("710", &[Edit::CopyRow { tab: pending(), at, to: at + 1 }]);
    world.audit_finds_on_a_tab("a row stands twice", Class::Doubled, "pending tab").await;
    world.edit("710", &[Edit::DeleteRows { tab: pending(), at, count: 2 }]);
    world.audit_finds_on_a_tab("a row is gone", Class::Lost, "pending tab").await;
    world.type_in("710", "LAST", "Amount", "123.45");
    world.audit_finds_on_a_tab("a machine cell is edited", Class::Altered, "pending tab").await;
    world.edit("710", &[Edit::SetCell { tab: Tab::from("710 Active"), cell: "E2".to_owned(), typed: "ELSEWHERE".to_owned() }]);
    world.audit_finds_on_a_tab("a rule's cell is edited", Class::Altered, "active tab").await;
    let foreign = world.pending_row("711", "NEWER").unwrap().shown("Txn_UID").to_owned();
    let cell = world.cell("712", world.pending_row("712", "NEWER").unwrap().at, "Txn_UID");
    world.edit("712", &[Edit::SetCell { tab: Tab::from("712 Pending"), cell, typed: foreign }]);
    world.audit_finds_on_a_tab("a row has another company's key", Class::Misrouted, "pending tab").await;
}

/// A message that nobody has processed lies below the committed offset.
async fn an_offset_is_skipped(world: &World) {
    let at = world.publish(&batch("710", "skipped", 40, &[row("never", "1.00", "NEVER SEEN")])).await;
    let report = world.audit().await;
    assert_eq!((report.on_their_way, report.of(Class::Lost).any(|finding| finding.subject.contains("skipped"))), (1, false), "{}", report.summary());
    world.commit(BTreeMap::from([(at.partition, at.offset + 1)])).await;
    let report = world.audit_finds("an offset is skipped", Class::Lost, "batch skipped").await;
    let found = report.of(Class::Lost).find(|finding| finding.subject == "batch skipped").unwrap();
    assert_eq!((found.invariant, found.origin.as_str()), ("I5", format!("{}/{}/{}", world.topic_txns(), at.partition, at.offset).as_str()));
}
