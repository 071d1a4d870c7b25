//! The rules of the house, checked over the sources: who may import whom, how long a file may be, what is forbidden outside tests, and that
//! every setting is documented. A violation prints the rule.

#![expect(clippy::unwrap_used, reason = "a test that cannot read the sources must fail")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kylo::config::env;

/// Folder of `src/` -> what its files may import of ours. An entry with `::` allows that module alone.
///
/// Beyond the obvious: `flow::work` and `flow::source` are vocabulary (a message's place, what came of it) that the consumer's adapter and the
/// tables of letters and held messages speak too; the budget of calls is taken in Postgres by the gateway, because no caller may forget it;
/// adapters count into `telemetry`. The auditor judges the workers, so their logic and their SQL are closed to it: of `flow` it has the decoder of
/// messages alone, which is the contract's vocabulary, and its own SQL is beside it.
const MAY_IMPORT: [(&str, &[&str]); 12] = [
    ("domain", &["domain"]),
    ("ports", &["domain"]),
    ("faults", &[]),
    ("config", &["config", "domain"]),
    ("telemetry", &["telemetry", "config", "domain"]),
    ("store", &["store", "domain", "flow::work", "faults"]),
    ("flow", &["flow", "domain", "ports", "store", "faults"]),
    (
        "audit",
        &[
            "audit",
            "domain::company",
            "domain::ids",
            "domain::message",
            "domain::money",
            "domain::sheet",
            "domain::tab::Role",
            "domain::text",
            "flow::decode",
        ],
    ),
    ("adapters", &["adapters", "domain", "ports", "config", "telemetry", "flow::work", "flow::source", "store::control::budget", "store::error"]),
    ("runtime", &["runtime", "adapters", "audit", "flow", "store", "telemetry", "config", "domain", "ports", "faults"]),
    ("cli", &["cli", "audit", "config", "runtime", "flow", "store", "domain", "telemetry"]),
    ("main", &["cli"]),
];

/// Lines that are not blank.
const MOST_LINES: usize = 400;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file under a folder of the repository, with its text.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root()).unwrap().to_owned(), text));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} has sources");
    found
}

/// Files that hold tests alone.
fn is_test_file(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests")
        || path.file_stem().is_some_and(|stem| stem == "tests" || stem.to_string_lossy().ends_with("_tests"))
}

/// The lines of a file before its test module, without comments.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(number, line)| (number + 1, line));
    lines.take_while(|(_, line)| !line.starts_with("#[cfg(test)]")).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// The folder (or file) of `src/` that a path belongs to.
fn layer(path: &Path) -> String {
    let name = path.components().nth(1).unwrap().as_os_str().to_string_lossy().into_owned();
    name.strip_suffix(".rs").map_or(name.clone(), str::to_owned)
}

/// `crate::a::b` at each place of a line, as `a::b...`.
fn imports(line: &str) -> impl Iterator<Item = &str> {
    line.split("crate::").skip(1).map(|rest| rest.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).next().unwrap_or_default())
}

#[test]
fn nobody_imports_what_lies_above() {
    let rules: BTreeMap<_, _> = MAY_IMPORT.into_iter().collect();
    let mut violations = Vec::new();
    for (path, text) in sources("src") {
        let layer = layer(&path);
        if layer == "lib" || is_test_file(&path) {
            continue;
        }
        let allowed = rules.get(layer.as_str()).unwrap_or_else(|| panic!("{layer} has no rule in tests/architecture.rs: say what it may import"));
        for (number, line) in code(&text) {
            for import in imports(line) {
                let fits = |allowed: &&str| import == *allowed || import.starts_with(&format!("{allowed}::"));
                if !allowed.iter().any(fits) {
                    violations.push(format!("{}:{number} imports crate::{import}; {layer} may import only {}", path.display(), allowed.join(", ")));
                }
            }
        }
    }
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn foreign_types_stay_in_their_adapter() {
    let homes = [
        ("rdkafka", "src/adapters/kafka"),
        ("google_sheets4", "src/adapters/sheets"),
        ("yup_oauth2", "src/adapters/sheets"),
        ("axum", "src/adapters/http"),
    ];
    let mut violations = Vec::new();
    for (path, text) in sources("src").into_iter().filter(|(path, _)| !is_test_file(path)) {
        for (number, line) in code(&text) {
            for (name, home) in homes {
                if line.contains(&format!("{name}::")) && !path.starts_with(home) {
                    violations.push(format!("{}:{number} names {name}, which only {home} may", path.display()));
                }
            }
        }
    }
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn sql_stays_in_the_store() {
    // The demonstration plays an operator, who looks with SQL of their own.
    // The auditor shares no statement with what it judges.
    let homes = ["src/store", "src/runtime/demo", "src/audit/inputs/postgres.rs"];
    let mut violations = Vec::new();
    for (path, text) in sources("src").into_iter().filter(|(path, _)| !is_test_file(path) && !homes.iter().any(|home| path.starts_with(home))) {
        for (number, line) in code(&text) {
            if ["sqlx::query", "query!(", "query_as!(", "query_scalar!(", "raw_sql("].iter().any(|statement| line.contains(statement)) {
                violations.push(format!("{}:{number} has SQL: every statement is in src/store", path.display()));
            }
        }
    }
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn files_are_short_enough_to_be_read_at_once() {
    let mut violations = Vec::new();
    for (path, text) in sources("src").into_iter().chain(sources("fake-sheets/src")) {
        let lines = text.lines().filter(|line| !line.trim().is_empty()).count();
        if lines > MOST_LINES {
            violations.push(format!("{} has {lines} lines that are not blank, more than {MOST_LINES}: which two things is it?", path.display()));
        }
    }
    let main = std::fs::read_to_string(root().join("src/main.rs")).unwrap().lines().count();
    assert!(main <= 60, "src/main.rs has {main} lines: it parses, dispatches and picks the exit code, no more");
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn nothing_panics_or_prints_outside_tests() {
    let mut violations = Vec::new();
    for (path, text) in sources("src").into_iter().filter(|(path, _)| !is_test_file(path)) {
        for (number, line) in code(&text) {
            for forbidden in [".unwrap()", "println!(", "eprintln!(", "print!(", "dbg!(", "todo!(", "unimplemented!(", "#[allow("] {
                if line.contains(forbidden) {
                    violations.push(format!("{}:{number} has {forbidden}", path.display()));
                }
            }
        }
    }
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn only_one_file_reads_the_environment() {
    // PATH is no setting: the demonstration looks for PostgreSQL's programs on it.
    let readers: Vec<_> = sources("src")
        .into_iter()
        .filter(|(path, _)| !is_test_file(path))
        .filter(|(_, text)| {
            code(text)
                .any(|(_, line)| ["env::vars", "env::var(", "env::var_os("].iter().any(|call| line.contains(call) && !line.contains("\"PATH\"")))
        })
        .map(|(path, _)| path.display().to_string())
        .collect();
    assert_eq!(readers, ["src/config/env.rs"], "config::env reads every variable once, so that misspelt ones are found");
}

#[test]
fn every_file_says_what_it_is() {
    let files = sources("src").into_iter().filter(|(path, _)| !is_test_file(path));
    let silent: Vec<_> = files.filter(|(_, text)| !text.starts_with("//!")).map(|(path, _)| path.display().to_string()).collect();
    assert!(silent.is_empty(), "no module doc: {}", silent.join(", "));
}

#[test]
fn every_variable_is_in_the_example_environment_with_its_default() {
    let example = std::fs::read_to_string(root().join(".env.example")).unwrap();
    for var in env::ALL {
        let line = example.lines().find_map(|line| line.trim_start_matches('#').strip_prefix(&format!("{}=", var.name)));
        let value = line.unwrap_or_else(|| panic!(".env.example lacks {}", var.name));
        if let Some(default) = var.default {
            assert_eq!(value, default, "{} in .env.example", var.name);
        }
        for alias in var.aliases {
            assert!(example.contains(alias), ".env.example does not name {alias}");
        }
    }
    for name in example
        .lines()
        .filter_map(|line| line.trim_start_matches('#').split_once('='))
        .map(|(name, _)| name)
        .filter(|name| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
    {
        assert!(env::ALL.iter().any(|var| var.name == name), ".env.example has {name}, which kylo does not read");
    }
}

/// The table of settings in the README.
fn table() -> String {
    let mut table = String::from("| variable | flag | default | meaning |\n|---|---|---|---|\n");
    for var in env::ALL {
        let aliases: String = var.aliases.iter().map(|alias| format!(", `{alias}`")).collect();
        let flag = var.flag.map_or_else(|| format!("secret: `{}_FILE`", var.name), |flag| format!("`--{flag}`"));
        let default = var.default.map_or_else(String::new, |default| format!("`{default}`"));
        table.push_str(&format!("| `{}`{aliases} | {flag} | {default} | {} |\n", var.name, var.help));
    }
    table
}

#[test]
fn the_readme_has_the_table_of_settings() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    assert!(readme.contains(&table()), "README.md must have:\n{}", table());
}

#[test]
fn the_retention_of_every_table_is_named() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/retention.md")).unwrap();
    let (control, company) = page.split_once("## Company schemas").expect("the page has a section for each scope");
    for (folder, section) in [("control", control), ("company", company)] {
        let mut tables = 0;
        for file in std::fs::read_dir(root.join("ddl").join(folder)).unwrap() {
            let sql = std::fs::read_to_string(file.unwrap().path()).unwrap();
            for rest in sql.split("CREATE TABLE IF NOT EXISTS ").skip(1) {
                let name = rest.split([' ', '(']).next().unwrap_or_default().trim_start_matches("control.");
                assert!(section.contains(&format!("| `{name}` |")), "docs/retention.md does not say how long {folder} table {name} keeps its rows");
                tables += 1;
            }
        }
        assert!(tables > 8, "{folder}: {tables}");
    }
}
