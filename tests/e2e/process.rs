//! The built binary: commands that end, and workers that run until they are stopped or killed.

use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};

use super::world::{Mode, PATIENCE, World};

/// What one run of a command gave.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A worker process. It is killed when this is dropped.
pub struct Process {
    pub child: Child,
    /// Where its stdout and stderr go.
    output: tempfile::NamedTempFile,
}

/// `kylo` with this environment and nothing else of ours in it.
pub fn command(environment: &[(&str, String)], args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kylo"));
    command.args(args).env_clear().envs(environment.iter().map(|(name, value)| (*name, value.as_str()))).stdin(Stdio::null()).kill_on_drop(true);
    command
}

pub async fn run(environment: &[(&str, String)], args: &[&str]) -> Run {
    let ended = tokio::time::timeout(PATIENCE, command(environment, args).output()).await;
    let output = ended.unwrap_or_else(|_| panic!("kylo {args:?} did not end within {PATIENCE:?}")).unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Run { code: output.status.code().expect("not killed"), stdout: text(output.stdout), stderr: text(output.stderr) }
}

impl World {
    /// Runs a command of the built binary in this world.
    pub async fn kylo(&self, args: &[&str]) -> Run {
        let environment: Vec<_> = self.environment(&Mode::Shadow).into_iter().collect();
        run(&environment, args).await
    }

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
        (ended.code(), began.elapsed())
    }
}
