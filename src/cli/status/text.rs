//! The report of `kylo status` as tables for people. A section without rows is left out, but for workers and companies.

use chrono::{DateTime, SecondsFormat, Utc};

use super::Report;
use crate::cli::output;

impl Report {
    pub(super) fn print(&self) -> std::io::Result<()> {
        for warning in &self.warnings {
            output::note(&format!("warning: {warning}"));
        }
        self.print_workers()?;
        self.print_companies()?;
        let lag: Vec<_> = self.lag.iter().map(|l| [l.group.clone(), l.topic.clone(), l.partition.to_string(), l.behind.to_string()]).collect();
        section(["GROUP", "TOPIC", "PARTITION", "BEHIND"], &lag)?;
        let troubles: Vec<_> = self
            .troubles
            .iter()
            .map(|t| [t.subject.clone(), t.work.clone(), t.state.clone(), at(Some(t.since)), at(t.retry_at), t.reason.clone()])
            .collect();
        section(["WHO", "WORK", "STATE", "SINCE", "RETRY AT", "WHY"], &troubles)?;
        let doubts: Vec<_> =
            self.in_doubt_posts.iter().map(|d| [d.spreadsheet_id.clone(), d.state.clone(), d.companies.join(", "), at(d.sent_at)]).collect();
        section(["SPREADSHEET", "POST", "COMPANIES", "SENT AT"], &doubts)?;
        let stopped: Vec<_> = self
            .stopped_partitions
            .iter()
            .map(|s| [s.consumer_group.clone(), s.topic.clone(), s.partition.to_string(), s.in_a_row.to_string(), at(s.stopped_at)])
            .collect();
        self.print_relay()?;
        section(["GROUP", "STOPPED TOPIC", "PARTITION", "DEAD LETTERS IN A ROW", "STOPPED AT"], &stopped)?;
        let letters: Vec<_> = self.dead_letters.iter().map(|count| [count.class.clone(), count.count.to_string()]).collect();
        section(["DEAD LETTERS", "OPEN"], &letters)
    }

    fn print_workers(&self) -> std::io::Result<()> {
        let rows: Vec<_> = self
            .workers
            .iter()
            .map(|w| {
                let mode = if w.canary.is_empty() { w.mode.clone() } else { format!("{} ({})", w.mode, w.canary.join(", ")) };
                [
                    w.command.clone(),
                    format!("{}/{}", w.host, w.pid),
                    w.version.clone(),
                    mode,
                    w.partitions.to_string(),
                    format!("{} s ago", w.heartbeat_seconds_ago),
                ]
            })
            .collect();
        output::table(["WORKER", "PROCESS", "VERSION", "MODE", "PARTITIONS", "HEARD"], &rows)?;
        let troubled = self.workers.iter().filter_map(|w| Some([w.command.clone(), format!("{}/{}", w.host, w.pid), w.trouble.clone()?]));
        section(["NOT READY", "PROCESS", "WHY"], &troubled.collect::<Vec<_>>())
    }

    fn print_relay(&self) -> std::io::Result<()> {
        let rows: Vec<_> = self
            .relay
            .iter()
            .map(|outbox| {
                let state = if outbox.leased { outbox.state.clone() } else { "no relay".to_owned() };
                [
                    outbox.source.clone(),
                    state,
                    outbox.total_events_published.to_string(),
                    at(outbox.last_publish_time),
                    outbox.retrying.to_string(),
                    outbox.given_up.to_string(),
                    outbox.reason.clone().unwrap_or_else(|| "-".to_owned()),
                ]
            })
            .collect();
        section(["OUTBOX", "STATE", "PUBLISHED", "LAST", "RETRYING", "GIVEN UP", "WHY"], &rows)
    }

    fn print_companies(&self) -> std::io::Result<()> {
        let count = |value: Option<i64>| value.map_or_else(|| "?".to_owned(), |value| value.to_string());
        let rows: Vec<_> = self
            .companies
            .iter()
            .map(|c| {
                let unposted = c.oldest_unposted_seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds} s"));
                [
                    c.company_id.clone(),
                    count(c.open_pending),
                    count(c.active_rules),
                    unposted,
                    at(c.last_post_at),
                    c.held_messages.to_string(),
                    c.dead_letters.to_string(),
                    c.problem.clone().unwrap_or_else(|| "ok".to_owned()),
                ]
            })
            .collect();
        output::line("")?;
        output::table(["COMPANY", "PENDING", "RULES", "OLDEST UNPOSTED", "LAST POST", "HELD", "DEAD", "STATE"], &rows)
    }
}

fn section<const N: usize>(headers: [&str; N], rows: &[[String; N]]) -> std::io::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    output::line("")?;
    output::table(headers, rows)
}

fn at(instant: Option<DateTime<Utc>>) -> String {
    instant.map_or_else(|| "-".to_owned(), |instant| instant.to_rfc3339_opts(SecondsFormat::Secs, true))
}
