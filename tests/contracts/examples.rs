//! What the decoder makes of every example.

use serde_json::{Value, json};

use kylo::domain::ids::{BatchId, CompanyId};
use kylo::domain::message::{BadRow, Row};
use kylo::flow::decode::{Counts, Decoded, DecodedPromote, Poison, V1Routing, decode_promote, decode_txns};

use crate::{examples, files, now, repository};

fn row(row: &Row) -> Value {
    let mut facts = vec![row.uid.to_string(), row.date.to_string(), row.cents.to_string(), row.currency.to_string()];
    if let Some(id) = &row.id {
        facts.push(format!("id {id:?}"));
    }
    if let Some(n) = row.occurrence {
        facts.push(format!("occurrence {n}"));
    }
    facts.push(format!("{:?} -> {:?}", row.description, row.description_norm));
    for (name, text) in [("memo", &row.memo), ("counterparty", &row.counterparty)] {
        if let Some(text) = text {
            facts.push(format!("{name} {text:?}"));
        }
    }
    if row.void {
        facts.push("void".to_owned());
    }
    Value::from(format!("{}: {}", row.index, facts.join(" | ")))
}

fn bad(bad: &BadRow) -> Value {
    let occurrence = bad.occurrence.map(|n| format!(" (replay as occurrence {n})")).unwrap_or_default();
    Value::from(format!("{} {}: {}{occurrence} <- {}", bad.pointer, bad.reason.class, bad.reason.text, bad.raw))
}

fn counts(counts: Counts) -> Value {
    let Counts { unknown_fields, collapsed_in_batch, null_key, enveloped } = counts;
    json!({ "unknown_fields": unknown_fields, "collapsed_in_batch": collapsed_in_batch, "null_key": null_key, "enveloped": enveloped })
}

fn routing(routing: Option<&V1Routing>) -> Value {
    routing.map_or(Value::Null, |routing| Value::from(format!("{routing:?}")))
}

fn poison(poison: &Poison) -> Value {
    json!({ "poison": {
        "class": poison.class.as_str(),
        "pointer": poison.pointer,
        "reason": poison.reason,
        "company_id": poison.company_id.as_ref().map(CompanyId::as_str),
    }})
}

fn txns(decoded: &Result<Decoded, Poison>) -> Value {
    match decoded {
        Ok(Decoded::Tombstone) => Value::from("tombstone"),
        Ok(Decoded::Batch { batch, bad: set_aside, counts: counted, v1_routing }) => json!({
            "batch": {
                "batch_id": batch.batch_id.as_str(),
                "company_id": batch.company_id.as_str(),
                "created_at": batch.created_at.to_rfc3339(),
                "version": batch.version,
                "producer": batch.producer,
                "signature": batch.signature.to_string(),
                "rows": batch.rows.iter().map(row).collect::<Vec<_>>(),
            },
            "bad": set_aside.iter().map(bad).collect::<Vec<_>>(),
            "counts": counts(*counted),
            "v1_routing": routing(v1_routing.as_ref()),
        }),
        Err(e) => poison(e),
    }
}

fn promote(decoded: &Result<DecodedPromote, Poison>) -> Value {
    match decoded {
        Ok(DecodedPromote::Tombstone) => Value::from("tombstone"),
        Ok(DecodedPromote::Request { request, counts: counted, v1_routing }) => json!({
            "request": {
                "company_id": request.company_id.as_str(),
                "request_key": request.request_key,
                "created_at": request.created_at.to_rfc3339(),
                "request_id": request.request_id.as_ref().map(BatchId::as_str),
            },
            "counts": counts(*counted),
            "v1_routing": routing(v1_routing.as_ref()),
        }),
        Err(e) => poison(e),
    }
}

fn compare(folder: &str, decoded: impl Fn(&crate::Example) -> Value) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(repository().join("tests/contracts/snapshots").join(folder));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let mut names = Vec::new();
    settings.bind(|| {
        for example in examples(folder) {
            insta::assert_json_snapshot!(example.name.clone(), decoded(&example));
            names.push(example.name);
        }
    });
    let mut snapshots = files(&repository().join("tests/contracts/snapshots").join(folder), "snap");
    snapshots.sort();
    assert_eq!(snapshots, names, "a snapshot without an example is left over");
}

#[test]
fn every_txns_example_decodes_as_its_snapshot_says() {
    compare("txns", |example| txns(&decode_txns(&example.message(), now())));
}

#[test]
fn every_promote_example_decodes_as_its_snapshot_says() {
    compare("promote", |example| promote(&decode_promote(&example.message(), now())));
}
