//! Commands of the built binary, which end by themselves.

use std::process::Stdio;

use tokio::process::Command;

use super::world::{Mode, PATIENCE, World};

/// What one run of a command gave.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
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
}
