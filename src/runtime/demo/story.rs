//! The runbook, step by step, each step looked at before it is called done.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use fake_sheets::{Edit, Tab};
use sqlx::{AssertSqlSafe, Row};

use super::parts::{COMPANIES, Parts, Running, SPREADSHEET, eventually};
use super::show;
use crate::domain::clock::{Clock, SystemClock};
use crate::domain::ids::CompanyId;
use crate::flow::publish_format::{self, DEFAULT_MAX_BYTES, Options};

/// What the runbook posts to the webhook.
const PAYLOAD: &str = r#"{"batch_id":"rb-1","transactions":[
    {"id":"t1","company_id":"710","date":"2025-08-26","amount":-12.34,"description":"STARBUCKS"},
    {"id":"t2","company_id":"711","date":"2025-08-26","amount":45.67,"description":"WALMART"},
    {"id":"t3","company_id":"710","date":"2025-08-26","amount":10.00,"description":"UNKNOWN"}]}"#;

type Out<'a> = &'a mut (dyn Write + Send);

/// Plays all steps.
pub async fn play(parts: &Parts, out: Out<'_>, keep: bool) -> Result<()> {
    show::heading(out, 1, "The parts, the schema, two companies")?;
    let rows: Vec<_> = parts.table().into_iter().map(Vec::from).collect();
    show::table(out, &["part", "where"], &rows)?;
    show::line(out, "Companies 710 and 711 share one database (schemas app_710, app_711) and one spreadsheet (two tabs each).")?;
    let running = parts.run(false)?;
    shadow(parts, out, &running).await?;
    running.stop().await?;
    let running = parts.run(true)?;
    posting(parts, out, &running).await?;
    again(parts, out, &running).await?;
    promote(parts, out, &running).await?;
    writeln!(out, "\nAll six steps did what the runbook says.")?;
    if keep {
        writeln!(
            out,
            "\nThe spreadsheet is at {} - edit it like a person would; the workers keep it in step. Ctrl-C ends the demo.",
            parts.sheets.url()
        )?;
        out.flush()?;
        std::future::pending::<()>().await;
    }
    running.stop().await
}

async fn shadow(parts: &Parts, out: Out<'_>, running: &Running) -> Result<()> {
    show::heading(out, 2, "Shadow mode: three transactions of two companies are ingested; Google is never called")?;
    publish_payload(parts, SystemClock.now()).await?;
    let pending = eventually("three open pending rows in PostgreSQL", running, || async {
        let rows = pending(parts).await?;
        Ok((rows.len() == 3).then_some(rows))
    })
    .await?;
    show::table(out, &["company", "date", "description", "amount", "status"], &pending)?;
    let (posts, calls) = (posts(parts).await?, parts.sheets.model().calls(0).len());
    ensure!(posts.is_empty() && calls == 0, "shadow mode made {calls} Sheets calls and {} posts; it must make none", posts.len());
    show::line(out, "control.sheet_posts has 0 rows, and the Sheets server was called 0 times.")?;
    Ok(())
}

async fn posting(parts: &Parts, out: Out<'_>, running: &Running) -> Result<()> {
    show::heading(out, 3, "Posting on: what shadow mode held back arrives, without anything being sent again")?;
    let posts = eventually("one ledger row for each Pending tab", running, || async {
        let rows = posts(parts).await?;
        Ok((rows.len() >= 2).then_some(rows))
    })
    .await?;
    let (first, second) = (body(parts, "710 Pending"), body(parts, "711 Pending"));
    show_tabs(parts, out, &["710 Pending", "711 Pending"])?;
    show::line(out, "control.sheet_posts:")?;
    show::table(out, &["company", "tab", "rows", "signature"], &posts)?;
    ensure!(
        first == 2 && second == 1 && posts.len() == 2,
        "expected 2 and 1 rows and 2 posts, saw {first} and {second} rows and {} posts",
        posts.len()
    );
    Ok(())
}

async fn again(parts: &Parts, out: Out<'_>, running: &Running) -> Result<()> {
    show::heading(out, 4, "The same payload again: nothing changes")?;
    let (before, ledger) = (tabs(parts), posts(parts).await?);
    publish_payload(parts, SystemClock.now()).await?;
    eventually("the second delivery of both batches in the ledger", running, || async {
        let seen = sum(parts, "SELECT sum(deliveries) FROM {schema}.ingest_batches").await?;
        Ok((seen == 4).then_some(()))
    })
    .await?;
    let settled = sum(parts, "SELECT count(*) FROM {schema}.pending_txns WHERE status = 'open'").await?;
    ensure!(settled == 3 && tabs(parts) == before && posts(parts).await? == ledger, "the second delivery changed something");
    show::line(out, "Both batches were recognised by their content: 3 open rows, the same tabs, the same 2 rows in control.sheet_posts.")?;
    Ok(())
}

async fn promote(parts: &Parts, out: Out<'_>, running: &Running) -> Result<()> {
    show::heading(out, 5, "A person fills in the target of STARBUCKS and ticks Approved")?;
    let rows = parts.sheets.model().texts(SPREADSHEET, "710 Pending");
    let row = rows.iter().position(|row| row.iter().any(|cell| cell == "STARBUCKS")).context("STARBUCKS is not in 710 Pending")? + 1;
    let typed = [("F", "OPEX"), ("G", "COFFEE"), ("I", "TRUE")];
    let edits = typed.map(|(column, text)| Edit::SetCell { tab: Tab::from("710 Pending"), cell: format!("{column}{row}"), typed: text.to_owned() });
    parts.sheets.model().edit(SPREADSHEET, &edits).map_err(|error| anyhow::anyhow!("{error:?}"))?;
    show_tabs(parts, out, &["710 Pending"])?;
    show::heading(out, 6, "Promote: the approval becomes a rule, what was waiting is decided, both tabs follow")?;
    let company = CompanyId::parse("710").map_err(anyhow::Error::msg)?;
    parts.publish(&parts.promote(), vec![publish_format::promote(&company, SystemClock.now(), None)]).await?;
    eventually("the rule in 710 Active and its row gone from 710 Pending", running, || async {
        Ok((body(parts, "710 Active") == 1 && body(parts, "710 Pending") == 1).then_some(()))
    })
    .await?;
    show_tabs(parts, out, &["710 Pending", "710 Active"])?;
    let matched = sum(parts, "SELECT count(*) FROM {schema}.matched_txns WHERE state = 'queued'").await?;
    ensure!(matched == 1, "expected one matched transaction, saw {matched}");
    show::line(out, "The STARBUCKS transaction is in app_710.matched_txns, queued for whoever posts the money.")?;
    Ok(())
}

async fn publish_payload(parts: &Parts, created_at: DateTime<Utc>) -> Result<()> {
    let options = Options { company: None, default_batch_id: None, created_at, max_bytes: DEFAULT_MAX_BYTES };
    let published = publish_format::messages(PAYLOAD, &options)?;
    ensure!(published.messages.len() == 2, "the payload makes one message per company");
    parts.publish(&parts.txns(), published.messages).await
}

fn show_tabs(parts: &Parts, out: Out<'_>, titles: &[&str]) -> Result<()> {
    for title in titles {
        show::tab(out, title, &parts.sheets.model().texts(SPREADSHEET, title))?;
    }
    Ok(())
}

/// Rows with anything in them below the header.
fn body(parts: &Parts, title: &str) -> usize {
    let rows = parts.sheets.model().texts(SPREADSHEET, title);
    rows.iter().skip(1).filter(|row| row.iter().any(|cell| !cell.is_empty())).count()
}

fn tabs(parts: &Parts) -> Vec<Vec<Vec<String>>> {
    let titles = COMPANIES.iter().flat_map(|id| [format!("{id} Pending"), format!("{id} Active")]);
    titles.map(|title| parts.sheets.model().texts(SPREADSHEET, &title)).collect()
}

async fn pending(parts: &Parts) -> Result<Vec<Vec<String>>> {
    let mut all = Vec::new();
    for id in COMPANIES {
        let sql = format!(
            "SELECT company_id, occurred_on::text, description, (amount_cents / 100.0)::numeric(20, 2)::text, status FROM app_{id}.pending_txns ORDER BY seq, txn_uid"
        );
        all.extend(texts(parts, &sql).await?);
    }
    Ok(all)
}

async fn posts(parts: &Parts) -> Result<Vec<Vec<String>>> {
    texts(parts, "SELECT company_id, tab_name, row_count::text, left(batch_signature, 16) FROM control.sheet_posts ORDER BY id").await
}

/// The sum of one number over both companies' schemas.
async fn sum(parts: &Parts, template: &str) -> Result<i64> {
    let mut total = 0;
    for id in COMPANIES {
        let sql = template.replace("{schema}", &format!("app_{id}"));
        total += sqlx::query_scalar::<_, Option<i64>>(AssertSqlSafe(sql)).fetch_one(&parts.pool).await?.unwrap_or(0);
    }
    Ok(total)
}

async fn texts(parts: &Parts, sql: &str) -> Result<Vec<Vec<String>>> {
    // The schema names are the demo's own constants.
    let rows = sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_all(&parts.pool).await?;
    Ok(rows.iter().map(|row| (0..row.len()).map(|at| row.try_get::<String, _>(at).unwrap_or_default()).collect()).collect())
}
