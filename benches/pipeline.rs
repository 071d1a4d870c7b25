//! The whole intake: rows per second from Kafka to committed Postgres, beside the same statements driven from memory over the same kind of
//! connections (goals P1, P5); and the Sheets calls that a backlog of 1,000 batches needs (goal P9).
//!
//! `PG_DSN_RW` and `KAFKA_BROKERS` name the servers. Rounds are interleaved and medians count: only ratios of one run mean anything.

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Result;
use support::{ROWS, World, median};

const ROUNDS: usize = 3;
const ROWS_PER_MESSAGE: [usize; 2] = [500, 5];

#[tokio::main]
async fn main() -> Result<()> {
    let mut out = std::io::stdout();
    let world = World::create().await?;
    let result = run(&world, &mut out).await;
    world.remove().await?;
    result
}

async fn run(world: &World, out: &mut impl Write) -> Result<()> {
    writeln!(out, "{ROWS} rows a case and round; {}", world.settings().await?)?;
    let mut figures: BTreeMap<(usize, &str), Vec<f64>> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for rows in ROWS_PER_MESSAGE {
            figures.entry((rows, "kafka")).or_default().push(world.kafka_speed(rows).await?);
            figures.entry((rows, "memory")).or_default().push(world.memory_speed(rows).await?);
        }
    }
    for ((rows, from), speeds) in &figures {
        writeln!(
            out,
            "{:>9.0} rows/s  {rows} rows a message, from {from}  {:?}",
            median(speeds),
            speeds.iter().map(|speed| speed.round()).collect::<Vec<_>>()
        )?;
    }
    let of = |rows, from| median(&figures[&(rows, from)]);
    writeln!(
        out,
        "{:>9.2}  P1: Kafka to committed Postgres as a share of memory, 500 rows a message (goal 0.90)",
        of(500, "kafka") / of(500, "memory")
    )?;
    writeln!(out, "{:>9.2}  P5: 5 rows a message as a share of 500 (goal 0.70)", of(5, "kafka") / of(500, "kafka"))?;
    let calls = world.sheets_calls().await?;
    writeln!(
        out,
        "{:>9}  P9: writes for 1,000 batches of 20 rows, 40 companies, 10 spreadsheets (goal about 10); reads {}",
        calls.writes, calls.reads
    )?;
    Ok(())
}
