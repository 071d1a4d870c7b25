//! The built binary with an environment of the test's own: commands that end, and a worker that runs.

use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};

const PATIENCE: Duration = Duration::from_secs(180);

fn command(environment: &[(&str, String)], args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kylo"));
    command.args(args).env_clear().envs(environment.iter().map(|(name, value)| (*name, value.as_str()))).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A command that ends by itself.
#[derive(Debug)]
pub struct Run(Output);

pub async fn run(environment: &[(&str, String)], args: &[&str]) -> Run {
    let ended = tokio::time::timeout(PATIENCE, command(environment, args).output()).await;
    Run(ended.unwrap_or_else(|_| panic!("kylo {args:?} did not end")).unwrap())
}

impl Run {
    pub fn success(&self) -> bool {
        self.0.status.success()
    }
}

/// Everything a command has said.
pub fn text(run: &Run) -> String {
    format!("{}{}", String::from_utf8_lossy(&run.0.stdout), String::from_utf8_lossy(&run.0.stderr))
}

/// Waits until this is there.
pub async fn eventually<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            match look().await {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    });
    waited.await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// A running worker; killed when this is dropped.
pub struct Worker {
    child: Child,
    output: tempfile::NamedTempFile,
}

impl Worker {
    pub fn start(environment: &[(&str, String)], args: &[&str]) -> Self {
        let output = tempfile::NamedTempFile::new().unwrap();
        let append = || std::fs::OpenOptions::new().append(true).open(output.path()).unwrap();
        let child = command(environment, args).stdout(append()).stderr(append()).spawn().unwrap();
        Self { child, output }
    }

    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.output.path()).unwrap()).into_owned()
    }

    /// Waits until readiness answers with this status and text.
    pub async fn until_ready(&mut self, part: &str, status: u16) {
        let client = reqwest::Client::new();
        eventually(&format!("readiness {status} with {part}"), async || {
            let said = self.said();
            let address = said.split("served over HTTP address=").nth(1)?.split_whitespace().next()?;
            let answer = client.get(format!("http://{address}/health/ready")).send().await.ok()?;
            let fits = answer.status().as_u16() == status && answer.text().await.ok()?.contains(part);
            fits.then_some(())
        })
        .await;
    }

    /// SIGTERM; everything it has said.
    pub async fn end(mut self) -> String {
        let id = self.child.id().expect("it still runs").to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("SIGTERM ends a worker").unwrap();
        self.said()
    }
}
