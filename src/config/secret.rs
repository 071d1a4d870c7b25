//! A secret: a value, or the file that holds it. A file is read again each time, so a rotated password is used by the next connection.
//!
//! What must never happen here: the value in `Debug`, `Display` or an error.

use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

use super::ConfigError;

/// Where a secret comes from.
#[derive(Clone, Debug)]
pub enum Secret {
    /// Given by the variable itself.
    Value { name: &'static str, value: SecretString },
    /// Given by `NAME_FILE`.
    File { name: &'static str, path: PathBuf },
}

impl Secret {
    /// The secret as it is now. One newline at the end of a file is ignored.
    ///
    /// # Errors
    /// The file cannot be read, is not text, or is empty.
    pub fn current(&self) -> Result<SecretString, ConfigError> {
        match self {
            Self::Value { value, .. } => Ok(value.clone()),
            Self::File { name, path } => read(name, path),
        }
    }

    /// How it was given, for the printed configuration.
    pub fn origin(&self) -> String {
        match self {
            Self::Value { .. } => "***".to_owned(),
            Self::File { path, .. } => format!("*** (from {})", path.display()),
        }
    }
}

fn read(name: &str, path: &Path) -> Result<SecretString, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        ConfigError::one(
            format!("cannot read {}, which {name}_FILE names: {error}", path.display()),
            "give the path of a file that this user may read",
        )
    })?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(ConfigError::one(format!("{}, which {name}_FILE names, is empty", path.display()), format!("write the value of {name} into it")));
    }
    Ok(SecretString::from(text.to_owned()))
}

/// A connection string as text for people: user, host, port and database, never the password nor the query.
pub fn masked_dsn(secret: &SecretString) -> String {
    let Ok(url) = url::Url::parse(secret.expose_secret()) else { return "***".to_owned() };
    let user = if url.username().is_empty() { String::new() } else { format!("{}:***@", url.username()) };
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{user}{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_file_is_read_again_each_time_and_its_last_newline_is_ignored() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let secret = Secret::File { name: "PG_DSN_RW", path: file.path().to_owned() };
        std::fs::write(file.path(), "one\n").unwrap();
        assert_eq!(secret.current().unwrap().expose_secret(), "one");
        std::fs::write(file.path(), "two").unwrap();
        assert_eq!(secret.current().unwrap().expose_secret(), "two");
        std::fs::write(file.path(), "\n").unwrap();
        assert!(secret.current().unwrap_err().to_string().contains("is empty"));
    }

    #[test]
    fn a_masked_dsn_shows_where_it_leads_and_no_password() {
        let masked = masked_dsn(&SecretString::from("postgres://kylo:hunter2@db.example:5433/books?password=hunter3".to_owned()));
        assert_eq!(masked, "postgres://kylo:***@db.example:5433/books");
        assert_eq!(masked_dsn(&SecretString::from("host=db password=hunter2".to_owned())), "***");
    }
}
