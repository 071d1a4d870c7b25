//! Workers of the built binary, which run until they are stopped or killed.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};

use super::process::command;
use super::world::{Mode, PATIENCE, World};

/// A worker process. It is killed when this is dropped.
pub struct Process {
    pub child: Child,
    /// Where its stdout and stderr go.
    output: tempfile::NamedTempFile,
}

impl World {
    /// Starts a worker of the built binary in this world.
    pub fn spawn(&self, mode: &Mode, args: &[&str]) -> Process {
        let environment: Vec<_> = self.environment(mode).into_iter().collect();
        Process::spawn(&environment, args)
    }
}

impl Process {
    pub fn spawn(environment: &[(&str, String)], args: &[&str]) -> Self {
        let output = tempfile::NamedTempFile::new().unwrap();
        let append = || std::fs::OpenOptions::new().append(true).open(output.path()).unwrap();
        let child = command(environment, args).stdout(append()).stderr(append()).spawn().unwrap();
        Self { child, output }
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("the process still runs")
    }

    /// Everything it has said.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.output.path()).unwrap()).into_owned()
    }

    /// SIGKILL.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// SIGTERM; exit code and how long it took.
    pub async fn terminate(&mut self) -> (Option<i32>, Duration) {
        let began = Instant::now();
        let sent = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status().await.unwrap();
        assert!(sent.success());
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("SIGTERM ends a worker").unwrap();
        assert_eq!(ended.signal(), None, "a worker that is told to stop ends by itself: {}", self.said());
        (ended.code(), began.elapsed())
    }
}
