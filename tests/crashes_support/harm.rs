//! What goes wrong in a soak: workers that are killed, frozen and stopped, faults of the Sheets service, people, sessions and services that are cut.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use fake_sheets::faults::{Answer, Commit};
use fake_sheets::{Fault, FaultKind};
use rand::Rng;
use rand::seq::IndexedRandom;

use super::{FROZEN, KILLS, MOST_WORKERS, PATIENCE, Process, Soak, moving, signal, spawn, tail};

impl Soak {
    pub(super) async fn harm(&mut self) {
        if self.rng.random_ratio(self.more_kills, 100) {
            return self.kill().await;
        }
        match self.rng.random_range(0..100) {
            0..22 => self.kill().await,
            22..30 => self.freeze().await,
            30..38 => self.start_or_stop().await,
            38..60 => self.break_sheets(),
            60..82 => {
                let company = self.company();
                self.count("edits by people");
                self.people.act(&self.world, &mut self.rng, company);
            }
            82..90 => {
                let company = self.company();
                let edits = moving(&self.world, &mut self.rng, company);
                if !edits.is_empty() {
                    self.count("edits between read and write");
                    let fault = Fault::once("batchUpdate", FaultKind::Edit { edits });
                    self.world.model().push_fault(fault.for_spreadsheet(&self.world.place(company).spreadsheet));
                }
            }
            90..96 => self.cut_connections().await,
            _ => self.restart_a_service().await,
        }
    }

    pub(super) fn start_worker(&mut self) {
        self.count("workers started");
        self.workers.push(spawn(&self.world, None));
    }

    pub(super) fn replace_the_dead(&mut self) {
        let mut n = 0;
        while n < self.workers.len() {
            if self.workers[n].child.try_wait().unwrap().is_some() {
                self.count("workers that ended by themselves");
                let dead = self.workers.remove(n);
                self.logs.push(dead.said());
            } else {
                n += 1;
            }
        }
        if self.workers.is_empty() {
            self.start_worker();
        }
    }

    fn some_worker(&mut self) -> Process {
        let n = self.rng.random_range(0..self.workers.len());
        self.workers.swap_remove(n)
    }

    async fn kill(&mut self) {
        self.count(KILLS);
        let worker = self.some_worker();
        self.logs.push(worker.said());
        worker.kill().await;
        self.start_worker();
    }

    /// Beyond its session, then it goes on beside whoever has its partitions now.
    async fn freeze(&mut self) {
        self.count("SIGSTOP beyond the session");
        let worker = self.some_worker();
        signal(&worker, "STOP").await;
        if self.workers.is_empty() {
            self.start_worker();
        }
        let until = Instant::now() + FROZEN;
        while Instant::now() < until {
            self.publish().await;
            let company = self.company();
            self.people.act(&self.world, &mut self.rng, company);
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        signal(&worker, "CONT").await;
        self.workers.push(worker);
    }

    async fn start_or_stop(&mut self) {
        if self.workers.len() < MOST_WORKERS && self.rng.random() {
            self.start_worker();
        } else if self.workers.len() > 1 {
            self.count("SIGTERM");
            let mut worker = self.some_worker();
            signal(&worker, "TERM").await;
            let ended = tokio::time::timeout(PATIENCE, worker.child.wait()).await.expect("SIGTERM ends a worker").unwrap();
            // One that has only just begun does not listen yet, and ends by the signal.
            assert!(ended.success() || ended.signal() == Some(15), "{ended}: {}", tail(&worker.said()));
            self.logs.push(worker.said());
        }
    }

    fn break_sheets(&mut self) {
        self.count("faults of the Sheets service");
        let (on, kind) = sheets_faults().choose(&mut self.rng).cloned().unwrap();
        let company = self.company();
        let fault = Fault::once(on, kind);
        let fault = if on == "token" { fault } else { fault.for_spreadsheet(&self.world.place(company).spreadsheet) };
        self.world.model().push_fault(fault);
        if self.rng.random_ratio(1, 6) {
            self.count("hanging calls let go");
            self.world.model().release();
        }
        if self.rng.random_ratio(1, 10) {
            self.world.model().revoke_tokens();
        }
    }

    /// As a failover or a network does: every session of the workers ends in the middle of what it does.
    async fn cut_connections(&mut self) {
        self.count("database sessions cut");
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'kylo%'";
        for pool in [&self.world.control.pool, &self.world.books.pool] {
            // A database that is away just now has no sessions.
            let _ = sqlx::query(cut).execute(pool).await;
        }
    }

    async fn restart_a_service(&mut self) {
        if !self.may_restart_services {
            return self.cut_connections().await;
        }
        let (service, what) =
            *[("postgres", "PostgreSQL killed and restarted"), ("kafka", "broker killed and restarted")].choose(&mut self.rng).unwrap();
        self.count(what);
        let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/");
        let mut done = tokio::process::Command::new(format!("{scripts}chaos.sh")).args(["--restart", service]).output().await.unwrap();
        // A busy machine may take longer to start it than the script waits: then it is waited for again.
        for _ in 0..4 {
            if done.status.success() {
                return;
            }
            let mut up = tokio::process::Command::new(format!("{scripts}up.sh"));
            up.args(["--only", service]).env_remove("PG_DSN_RW").env_remove("KAFKA_BROKERS");
            done = up.output().await.unwrap();
        }
        panic!("{service} does not come back after {:?}: {}", self.counts, String::from_utf8_lossy(&done.stderr));
    }
}

/// Every fault of the Sheets service that passes by itself.
fn sheets_faults() -> Vec<(&'static str, FaultKind)> {
    let mut faults: Vec<(&'static str, FaultKind)> = vec![
        ("batchUpdate", FaultKind::Refuse),
        ("batchUpdate", FaultKind::DropBefore),
        ("batchUpdate", FaultKind::ApplyThenDrop),
        ("batchUpdate", FaultKind::CutBody { keep: 40, looks_whole: true }),
        ("batchUpdate", FaultKind::CutBody { keep: 40, looks_whole: false }),
        ("batchUpdate", FaultKind::DeliverTwice { answer_second: false }),
        ("batchUpdate", FaultKind::DeliverTwice { answer_second: true }),
        ("batchUpdate", FaultKind::Hang { hang_ms: 300, commit: Commit::Never }),
        ("batchUpdate", FaultKind::Hang { hang_ms: 300, commit: Commit::After { ms: 1_000 } }),
        ("batchUpdate", FaultKind::Hang { hang_ms: 300, commit: Commit::AfterWrites { writes: 2 } }),
        ("batchUpdate", FaultKind::Hang { hang_ms: 300, commit: Commit::OnRelease }),
        ("batchUpdate", FaultKind::Answer { answer: Answer::Invalid }),
        ("batchUpdate", FaultKind::Delay { ms: 1_000 }),
        ("read", FaultKind::DropBefore),
        ("read", FaultKind::CutBody { keep: 40, looks_whole: false }),
        ("token", FaultKind::Answer { answer: Answer::Unavailable }),
        ("token", FaultKind::Answer { answer: Answer::TokenErrorObject }),
        ("token", FaultKind::ShortToken { expires_in: 2 }),
    ];
    let answers = [Answer::Internal, Answer::Unavailable, Answer::BadGatewayHtml, Answer::TimeoutHtml, Answer::Aborted, Answer::OkHtml];
    faults.extend(answers.into_iter().flat_map(|answer| {
        [
            ("batchUpdate", FaultKind::Answer { answer }),
            ("batchUpdate", FaultKind::ApplyThenAnswer { answer }),
            ("read", FaultKind::Answer { answer }),
        ]
    }));
    faults.extend([Answer::TooMany, Answer::TooManyHtml, Answer::Unauthorized].map(|answer| ("batchUpdate", FaultKind::Answer { answer })));
    faults
}
