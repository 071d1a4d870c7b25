//! What was typed: the process environment, read once, and the flags that override it.
//!
//! Called by `cli` at the start of every command, and nowhere else. What must never happen here: a misspelt `KYLO_*` variable that is
//! silently ignored (somebody believes to be in shadow mode), or a value printed that may be a secret.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use secrecy::SecretString;

use super::{ConfigError, Problem, Secret};

pub use super::vars::*;

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    Environment,
    Flag,
}

/// What was typed, by the variable's proper name. Aliases and files are resolved; nothing is parsed yet.
#[derive(Clone, Debug, Default)]
pub struct Typed {
    values: BTreeMap<&'static str, (String, Origin)>,
    secrets: BTreeMap<&'static str, Secret>,
    /// For people, at start.
    pub warnings: Vec<String>,
}

impl Typed {
    /// Reads the process environment. The only place that does.
    ///
    /// # Errors
    /// Every unknown `KYLO_*` variable, every contradiction between aliases or with `NAME_FILE`.
    pub fn from_process(flags: &BTreeMap<&'static str, String>) -> Result<Self, ConfigError> {
        Self::read(std::env::vars_os(), flags)
    }

    /// The same from any list, for tests and for the demonstration.
    ///
    /// # Errors
    /// As [`Typed::from_process`].
    pub fn read(variables: impl IntoIterator<Item = (OsString, OsString)>, flags: &BTreeMap<&'static str, String>) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let environment = texts(variables, &mut problems);
        let mut typed = Self::default();
        for var in &ALL {
            if let Some(text) = flags.get(var.name) {
                typed.values.insert(var.name, (text.clone(), Origin::Flag));
            } else if var.secret {
                typed.take_secret(var, &environment, &mut problems);
            } else if let Some(text) = one_of(var, "", &environment, &mut problems) {
                typed.values.insert(var.name, (text, Origin::Environment));
            }
        }
        let allowed = typed.get(&KYLO_ALLOW_UNKNOWN).is_some_and(|text| text == "1");
        for problem in unknown(&environment) {
            if allowed {
                typed.warnings.push(format!("{} ({})", problem.message, problem.hint));
            } else {
                problems.push(problem);
            }
        }
        if problems.is_empty() { Ok(typed) } else { Err(ConfigError(problems)) }
    }

    /// The text given, or the default.
    pub fn get(&self, var: &Var) -> Option<&str> {
        self.values.get(var.name).map(|(text, _)| text.as_str()).or(var.default)
    }

    pub fn origin(&self, var: &Var) -> Origin {
        self.values.get(var.name).map_or(Origin::Default, |(_, origin)| *origin)
    }

    pub fn secret(&self, var: &Var) -> Option<&Secret> {
        self.secrets.get(var.name)
    }

    fn take_secret(&mut self, var: &Var, environment: &BTreeMap<String, String>, problems: &mut Vec<Problem>) {
        let value = one_of(var, "", environment, problems);
        let file = one_of(var, "_FILE", environment, problems);
        let secret = match (value, file) {
            (Some(_), Some(_)) => {
                problems.push(Problem::new(format!("both {0} and {0}_FILE are set", var.name), "unset one of them"));
                return;
            }
            (Some(value), None) => Secret::Value { name: var.name, value: SecretString::from(value) },
            (None, Some(path)) => Secret::File { name: var.name, path: PathBuf::from(path) },
            (None, None) => return,
        };
        if let Err(ConfigError(found)) = secret.current() {
            problems.extend(found);
        }
        self.secrets.insert(var.name, secret);
    }
}

/// What tests want to go wrong in this process.
#[cfg(feature = "faults")]
pub fn faults() -> BTreeMap<String, String> {
    std::env::vars().filter(|(name, _)| name.starts_with("FAULTS_")).collect()
}

/// The variables that are ours by name, as text.
fn texts(variables: impl IntoIterator<Item = (OsString, OsString)>, problems: &mut Vec<Problem>) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    for (name, value) in variables {
        let Some(name) = name.to_str().map(str::to_owned) else { continue };
        if !name.starts_with("KYLO_") && !is_known(&name) {
            continue;
        }
        match value.into_string() {
            Ok(value) => {
                texts.insert(name, value);
            }
            Err(_) => problems.push(Problem::new(format!("{name} is not UTF-8 text"), "set it again, as UTF-8")),
        }
    }
    texts
}

/// The value under the variable's name or an alias of it. Set to two different values = a problem, because one would win by chance.
fn one_of(var: &Var, suffix: &str, environment: &BTreeMap<String, String>, problems: &mut Vec<Problem>) -> Option<String> {
    let mut found: Option<(String, &String)> = None;
    for name in std::iter::once(&var.name).chain(var.aliases) {
        let name = format!("{name}{suffix}");
        let Some(value) = environment.get(&name).filter(|value| var.empty_counts || !value.is_empty()) else { continue };
        match &found {
            Some((first, other)) if *other != value => {
                problems.push(Problem::new(format!("{first} and {name} mean the same and are set differently"), format!("unset {name}")));
            }
            Some(_) => {}
            None => found = Some((name, value)),
        }
    }
    found.map(|(_, value)| value.clone())
}

fn names() -> impl Iterator<Item = String> {
    ALL.iter().flat_map(|var| {
        let plain = std::iter::once(&var.name).chain(var.aliases);
        plain.flat_map(|name| if var.secret { vec![(*name).to_owned(), format!("{name}_FILE")] } else { vec![(*name).to_owned()] })
    })
}

fn is_known(name: &str) -> bool {
    names().any(|known| known == name) || SCRIPTS_ONLY.contains(&name)
}

/// Kubernetes sets these for every service of the namespace, so a service called `kylo` makes `KYLO_PORT` and the like.
fn injected_by_kubernetes(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT") || name.ends_with("_PORT") || name.contains("_PORT_")
}

fn unknown(environment: &BTreeMap<String, String>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for name in environment.keys().filter(|name| !is_known(name) && !injected_by_kubernetes(name)) {
        let nearest = names().map(|known| (strsim::damerau_levenshtein(name, &known), known)).min();
        let hint = match nearest {
            Some((distance, known)) if distance <= 1 + known.len() / 4 => format!("did you mean {known}?"),
            _ => "unset it, or set KYLO_ALLOW_UNKNOWN=1; `kylo run --help` lists all variables".to_owned(),
        };
        problems.push(Problem::new(format!("{name} is not a variable that kylo knows"), hint));
    }
    problems
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Typed, ConfigError> {
        Typed::read(pairs.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))), &BTreeMap::new())
    }

    fn refusal(pairs: &[(&str, &str)]) -> String {
        read(pairs).unwrap_err().to_string()
    }

    #[test]
    fn a_misspelt_variable_is_an_error_that_names_the_right_one() {
        let text = refusal(&[("KYLO_SHEET_POST", "1")]);
        assert_eq!(text, "KYLO_SHEET_POST is not a variable that kylo knows\n  hint: did you mean KYLO_SHEETS_POST?");
        assert!(refusal(&[("KYLO_COMPLETELY_ELSE", "1")]).contains("unset it"));
    }

    #[test]
    fn an_unknown_variable_is_a_warning_when_allowed() {
        let typed = read(&[("KYLO_SHEET_POST", "1"), ("KYLO_ALLOW_UNKNOWN", "1")]).unwrap();
        assert_eq!(typed.warnings.len(), 1);
    }

    #[test]
    fn what_kubernetes_injects_is_no_mistake() {
        for name in ["KYLO_SERVICE_HOST", "KYLO_SERVICE_PORT", "KYLO_SERVICE_PORT_HTTP", "KYLO_PORT", "KYLO_PORT_8088_TCP_ADDR", "KYLO_TEST_FAST"] {
            assert!(read(&[(name, "x")]).is_ok(), "{name}");
        }
    }

    #[test]
    fn an_alias_counts_and_two_different_values_are_an_error() {
        let typed = read(&[("KAFKA_BOOTSTRAP_SERVERS", "a:1")]).unwrap();
        assert_eq!(typed.get(&KAFKA_BROKERS), Some("a:1"));
        assert!(read(&[("KAFKA_BOOTSTRAP_SERVERS", "a:1"), ("KAFKA_BROKERS", "a:1")]).is_ok());
        let text = refusal(&[("KAFKA_PASSWORD", "hunter2"), ("KAFKA_SASL_PASSWORD", "hunter3")]);
        assert!(text.contains("KAFKA_SASL_PASSWORD and KAFKA_PASSWORD mean the same"), "{text}");
        assert!(!text.contains("hunter"), "{text}");
    }

    #[test]
    fn a_secret_comes_from_a_file_or_a_variable_never_both() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "postgres://x\n").unwrap();
        let path = file.path().to_str().unwrap();
        let typed = read(&[("PG_DSN_RW_FILE", path)]).unwrap();
        assert_eq!(typed.secret(&PG_DSN_RW).unwrap().current().unwrap().expose_secret(), "postgres://x");
        assert!(refusal(&[("PG_DSN_RW_FILE", path), ("PG_DSN_RW", "postgres://y")]).contains("both PG_DSN_RW and PG_DSN_RW_FILE are set"));
        assert!(refusal(&[("PG_DSN_RW_FILE", "/nowhere/at/all")]).contains("/nowhere/at/all"));
    }

    #[test]
    fn a_flag_wins_over_the_environment() {
        let flags = BTreeMap::from([("KAFKA_CLIENT_ID", "flag".to_owned())]);
        let typed = Typed::read([(OsString::from("KAFKA_CLIENT_ID"), OsString::from("env"))], &flags).unwrap();
        assert_eq!((typed.get(&KAFKA_CLIENT_ID), typed.origin(&KAFKA_CLIENT_ID)), (Some("flag"), Origin::Flag));
    }

    #[test]
    fn every_name_is_there_once() {
        let mut all: Vec<_> = names().chain(ALL.iter().filter_map(|var| var.flag.map(str::to_owned))).collect();
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
