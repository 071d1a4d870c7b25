//! What is typed on the command line. Every setting of [`crate::config::env::ALL`] that is not a secret is a flag of every command.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};

use super::{
    audit, backfill, company, consume, demo, dlq, doctor, fake_sheets, migrate, plan, publish, relay, run, selftest, sheets, status, topics,
};
use crate::config::env;

#[derive(Debug, Parser)]
#[command(
    name = "kylo",
    version = version(),
    about = "Keeps companies' Postgres tables and Google Sheets tabs in step with what n8n publishes to Kafka, exactly once",
    after_help = "Exit codes: 0 ok, 1 failed, 2 usage or configuration. stdout is data, stderr is for people.\n\n\
                  To begin:  kylo migrate && kylo topics ensure && kylo company set ... && kylo run",
    arg_required_else_help = true,
    subcommand_required = true,
    max_term_width = 120
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Run(run::Args),
    Consume(consume::Args),
    Relay(relay::Args),
    Migrate(migrate::Args),
    Topics(topics::Args),
    Company(company::Args),
    Publish(publish::Args),
    Dlq(dlq::Args),
    Doctor(doctor::Args),
    Status(status::Args),
    Selftest(selftest::Args),
    Backfill(backfill::Args),
    Plan(plan::Args),
    Sheets(sheets::Args),
    Audit(audit::Args),
    Demo(demo::Args),
    FakeSheets(fake_sheets::Args),
}

impl Command {
    /// Whether it runs until it is stopped, and is followed by its log.
    pub fn is_worker(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Consume(_) | Self::Relay(_))
    }
}

fn version() -> &'static str {
    static VERSION: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    VERSION.get_or_init(crate::telemetry::version)
}

/// Every command with the settings' flags.
pub fn command() -> clap::Command {
    let mut command = Cli::command();
    for var in &env::ALL {
        let Some(flag) = var.flag else { continue };
        let aliases = var.aliases.iter().map(|alias| format!(", {alias}")).collect::<String>();
        let default = var.default.map(|default| format!(" [default: {default}]")).unwrap_or_default();
        let arg = Arg::new(var.name)
            .long(flag)
            .value_name(var.name)
            .help(format!("{} [env: {}{aliases}]{default}", var.help, var.name))
            .help_heading("Settings (flag or environment variable; --help lists them)")
            .hide_short_help(true)
            .global(true);
        command = command.arg(arg);
    }
    command
}

/// Parses argv into the command and the settings that were given as flags.
///
/// # Errors
/// clap's: help, version, or a wrong use with its explanation.
pub fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<(Command, BTreeMap<&'static str, String>), clap::Error> {
    let matches = command().try_get_matches_from(argv)?;
    let cli = Cli::from_arg_matches(&matches)?;
    let flags = env::ALL.iter().filter(|var| var.flag.is_some());
    let given = flags.filter_map(|var| Some((var.name, matches.get_one::<String>(var.name)?.clone())));
    Ok((cli.command, given.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<(Command, BTreeMap<&'static str, String>), clap::Error> {
        parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn the_definition_of_the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn a_setting_is_a_flag_before_and_after_the_command() {
        for line in ["kylo --kafka-brokers a:1 consume txns", "kylo consume txns --kafka-brokers a:1", "kylo consume --kafka-brokers a:1 txns"] {
            assert_eq!(parsed(line).unwrap().1, BTreeMap::from([("KAFKA_BROKERS", "a:1".to_owned())]), "{line}");
        }
    }

    #[test]
    fn no_secret_has_a_flag() {
        assert!(env::ALL.iter().all(|var| !var.secret || var.flag.is_none()));
    }

    #[test]
    fn help_of_every_command_has_an_example_and_the_exit_codes() {
        fn check(command: &mut clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            let help = command.render_long_help().to_string();
            assert!(help.contains("Exit codes"), "{path}: {help}");
            let leaf = command.get_subcommands().all(|sub| sub.get_name() == "help");
            assert!(!leaf || help.contains("Example"), "{path}: {help}");
            for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
                check(sub, &path);
            }
        }
        let mut command = command();
        command.build();
        check(&mut command, "");
    }
}
