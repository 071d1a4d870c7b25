//! Text to value, one function per kind. Each pushes what is wrong and goes on with a harmless value, so that all problems are told at once.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use super::Problem;
use super::env::{Typed, Var};
use crate::domain::company::SpreadsheetId;

/// Reads typed texts and gathers what is wrong with them.
#[derive(Debug)]
pub struct Reader<'a> {
    pub typed: &'a Typed,
    pub problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub fn new(typed: &'a Typed) -> Self {
        Self { typed, problems: Vec::new() }
    }

    pub fn wrong(&mut self, message: impl Into<String>, hint: impl Into<String>) {
        self.problems.push(Problem::new(message, hint));
    }

    pub fn text(&mut self, var: &Var) -> String {
        self.typed.get(var).unwrap_or_default().to_owned()
    }

    pub fn optional(&mut self, var: &Var) -> Option<String> {
        self.typed.get(var).map(str::to_owned)
    }

    pub fn number(&mut self, var: &Var, allowed: std::ops::RangeInclusive<u32>) -> u32 {
        let text = self.text(var);
        match text.parse() {
            Ok(number) if allowed.contains(&number) => number,
            _ => {
                let hint = format!("give a whole number from {} to {}", allowed.start(), allowed.end());
                self.wrong(format!("{} is {text:?}", var.name), hint);
                *allowed.start()
            }
        }
    }

    /// Seconds, or a number with the unit `ms`, `s` or `m`, as the variables of other programs have it.
    pub fn duration(&mut self, var: &Var, allowed: std::ops::RangeInclusive<Duration>) -> Duration {
        let text = self.text(var);
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let per_unit = match &text[digits.len()..] {
            "ms" => Some(1),
            "" | "s" => Some(1_000),
            "m" => Some(60_000),
            _ => None,
        };
        let parsed = per_unit.and_then(|unit| Some(Duration::from_millis(digits.parse::<u32>().ok()?.checked_mul(unit)?.into())));
        match parsed {
            Some(duration) if allowed.contains(&duration) => duration,
            _ => {
                let hint = format!("give seconds, or 500ms or 2s, from {:?} to {:?}", allowed.start(), allowed.end());
                self.wrong(format!("{} is {text:?}", var.name), hint);
                *allowed.start()
            }
        }
    }

    /// `0` or `1`, nothing else: "true" in one place and "yes" in another is how a shadow run starts to post.
    pub fn switch(&mut self, var: &Var) -> bool {
        let text = self.text(var);
        match text.as_str() {
            "0" => false,
            "1" => true,
            _ => {
                self.wrong(format!("{} is {text:?}", var.name), "it must be 0 or 1");
                false
            }
        }
    }

    pub fn choice<T: Copy>(&mut self, var: &Var, choices: &[(&str, T)]) -> Option<T> {
        let text = self.optional(var)?;
        let found = choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(&text));
        if found.is_none() {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            self.wrong(format!("{} is {text:?}", var.name), format!("it must be one of {}", names.join(", ")));
        }
        found.map(|(_, value)| *value)
    }

    /// A Kafka topic or group.
    pub fn kafka_name(&mut self, var: &Var) -> String {
        let text = self.text(var);
        let ok = text.len() <= 249 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
        if !ok || matches!(text.as_str(), "" | "." | "..") {
            self.wrong(format!("{} is {text:?}", var.name), "it must have 1 to 249 of the characters A-Z a-z 0-9 . _ -");
        }
        text
    }

    /// `host:port` separated by commas.
    pub fn brokers(&mut self, var: &Var) -> String {
        let text = self.text(var);
        let brokers: Vec<_> = text.split(',').map(str::trim).filter(|broker| !broker.is_empty()).collect();
        let ok = |broker: &&str| match broker.rsplit_once(':') {
            Some((host, port)) => !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok_and(|port| port > 0),
            None => false,
        };
        if brokers.is_empty() || !brokers.iter().all(ok) {
            self.wrong(format!("{} is {text:?}", var.name), "give host:port, several separated by commas, without a scheme");
        }
        brokers.join(",")
    }

    pub fn readable_file(&mut self, var: &Var) -> Option<PathBuf> {
        let path = PathBuf::from(self.optional(var)?);
        if let Err(error) = std::fs::File::open(&path) {
            self.wrong(
                format!("cannot read {}, which {} names: {error}", path.display(), var.name),
                "give the path of a file that this user may read",
            );
        }
        Some(path)
    }

    /// A base URL, always with one slash at its end. Plain http could be read on the way, and carries tokens: loopback only.
    pub fn endpoint(&mut self, var: &Var) -> String {
        let text = self.text(var);
        let parsed = Url::parse(text.trim_end_matches('/')).ok();
        let usable = parsed.filter(|url| url.query().is_none() && url.fragment().is_none() && url.username().is_empty() && url.host().is_some());
        match usable {
            Some(url) if url.scheme() == "https" || (url.scheme() == "http" && on_loopback(&url)) => {
                format!("{}/", url.as_str().trim_end_matches('/'))
            }
            Some(url) if url.scheme() == "http" => {
                self.wrong(
                    format!("{} is an http:// address on {}", var.name, url.host_str().unwrap_or_default()),
                    "use https://; http:// is allowed on 127.0.0.1, ::1 and localhost only, because tokens travel over it",
                );
                text
            }
            _ => {
                // The text may carry a password: it is not repeated.
                self.wrong(
                    format!("{} is not the base URL of a server", var.name),
                    "give for example https://sheets.googleapis.com/ or http://127.0.0.1:9099/",
                );
                text
            }
        }
    }

    /// `IP:PORT`, `IP` (the port is then the command's default), or the same with `localhost`.
    pub fn address(&mut self, var: &Var) -> Option<(IpAddr, Option<u16>)> {
        let text = self.optional(var)?;
        let plain = text.replacen("localhost", "127.0.0.1", 1);
        if let Ok(address) = plain.parse::<SocketAddr>() {
            return Some((address.ip(), Some(address.port())));
        }
        if let Ok(ip) = plain.parse::<IpAddr>() {
            return Some((ip, None));
        }
        self.wrong(format!("{} is {text:?}", var.name), "give an address and a port, such as 127.0.0.1:8088 or [::1]:8088");
        None
    }
}

fn on_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// Whether the file is a service account's key.
///
/// # Errors
/// What is wrong with it, without any of its contents.
pub fn check_key_file(path: &Path) -> Result<(), Problem> {
    let hint = "create a key for the service account in Google Cloud (JSON), share each spreadsheet with its client_email, and give the file's path";
    let wrong = |what: String| Problem::new(format!("{} names {}, {what}", super::vars::GOOGLE_APPLICATION_CREDENTIALS.name, path.display()), hint);
    let text = std::fs::read_to_string(path).map_err(|error| wrong(format!("which cannot be read: {error}")))?;
    let key: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| wrong(format!("which is not JSON (line {}, column {})", error.line(), error.column())))?;
    let missing: Vec<_> = ["client_email", "private_key", "token_uri"].into_iter().filter(|name| !key[name].is_string()).collect();
    if missing.is_empty() { Ok(()) } else { Err(wrong(format!("which is no service account key: {} missing", missing.join(", ")))) }
}

/// Kept here because the canary list is checked against what a company id may be.
pub fn company_ids(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|id| !id.is_empty()).map(str::to_owned).collect()
}

/// A spreadsheet id as typed on a command line: the id, or the whole URL that people copy.
///
/// # Errors
/// Says what an id looks like.
pub fn spreadsheet(text: &str) -> Result<SpreadsheetId, String> {
    let id = text.split("/d/").nth(1).map_or(text, |rest| rest.split('/').next().unwrap_or(rest));
    SpreadsheetId::parse(id)
}
