//! The relay's drain rate beside its two limits (goal P8), in one run: claim + delete of the same rows without Kafka, and an idempotent acks=all producer
//! of the same records without Postgres. And the time from an event's commit to its acknowledgement.
//!
//! `PG_DSN_RW` and `KAFKA_BROKERS` name the servers. Rounds are interleaved and medians count: only ratios of one run mean anything.

#[path = "support/relay.rs"]
mod support;

use std::io::Write;

use anyhow::Result;
use kylo::flow::relay::Limits;
use support::{ROWS, World, median, p99};

const ROUNDS: usize = 3;

#[tokio::main]
async fn main() -> Result<()> {
    let mut out = std::io::stdout();
    let world = World::create().await?;
    let result = run(&world, &mut out).await;
    world.remove().await?;
    result
}

async fn run(world: &World, out: &mut impl Write) -> Result<()> {
    writeln!(out, "{ROWS} events a case and round, {} a claim, 40 keys, 8 partitions", Limits::default().batch)?;
    let (mut drain, mut claim, mut claim_more, mut produce) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        drain.push(world.drain_speed().await?);
        claim.push(world.claim_and_delete_speed(1_000).await?);
        claim_more.push(world.claim_and_delete_speed(Limits::default().batch.into()).await?);
        produce.push(world.producer_speed().await?);
    }
    for (name, speeds) in [
        ("relay drain", &drain),
        ("claim + delete, 1,000 a claim", &claim),
        ("claim + delete, as the relay claims", &claim_more),
        ("producer", &produce),
    ] {
        let rounded: Vec<_> = speeds.iter().map(|speed| speed.round()).collect();
        writeln!(out, "{:>9.0} events/s  {name}  {rounded:?}", median(speeds))?;
    }
    let limit = median(&claim).min(median(&produce));
    writeln!(out, "{:>9.2}  P8: drain as a share of the slower of claim + delete, 1,000 a claim, and producer (goal 0.80)", median(&drain) / limit)?;
    let latencies = world.latencies().await?;
    writeln!(
        out,
        "{:>9.1}  P8: commit to acknowledgement, p99 in ms over {} events one at a time (goal 20); median {:.1}",
        p99(&latencies),
        latencies.len(),
        median(&latencies)
    )?;
    Ok(())
}
