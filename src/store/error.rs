//! What a database error means. One function decides, on SQLSTATE alone.
//!
//! What must never happen here: an outage taken for poison (that would empty a topic into the dead letters), or a secret in a text.

use sqlx::Error;

/// What to do about a failed statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The database rejects the data (SQLSTATE 22, 23, 54): split until the bad row is found.
    Data,
    /// The schema or the rights are not what they must be (3D, 3F, 42, 28-with-a-wrong-login is `Down`): park the company.
    Schema,
    /// Anything that passes by itself or by an operator's hand: connection, standby, disk, locks, timeouts, shutdown.
    Down,
}

/// Decides by SQLSTATE class; everything unknown is `Down`, because waiting loses nothing.
pub fn classify(error: &Error) -> Fault {
    let Error::Database(database) = error else {
        return match error {
            // A row that does not have the column or type the code expects is a wrong schema.
            Error::ColumnNotFound(_) | Error::ColumnDecode { .. } | Error::TypeNotFound { .. } => Fault::Schema,
            _ => Fault::Down,
        };
    };
    match database.code().as_deref().unwrap_or_default() {
        // 40001/40P01 and 55P03 pass by themselves; 57xxx is an operator; 53xxx is resources; 25006 is a standby; 28xxx a rotated password.
        // P0xxx is RAISE EXCEPTION, ASSERT and the like in a company's own trigger: it speaks about the data.
        code if code.starts_with("22") || code.starts_with("23") || code.starts_with("54") || code.starts_with("P0") => Fault::Data,
        code if code.starts_with("3D") || code.starts_with("3F") || code.starts_with("42") => Fault::Schema,
        _ => Fault::Down,
    }
}

/// The error as text for people: the server's message, or the kind of connection fault. Never contains the DSN, and never the DETAIL line,
/// which quotes row contents.
pub fn describe(error: &Error) -> String {
    match error {
        Error::Database(database) => match database.code() {
            Some(code) => format!("{} (SQLSTATE {code})", first_line(database.message())),
            None => first_line(database.message()).to_owned(),
        },
        Error::Io(io) => format!("connection failed: {io}"),
        Error::Tls(_) => "the TLS handshake failed".to_owned(),
        Error::PoolTimedOut => "no connection in time: the server refuses connections, does not answer, or all connections are in use".to_owned(),
        Error::PoolClosed => "the connection pool is closed".to_owned(),
        Error::ColumnDecode { index, source } => format!("column {index} cannot be read: {}", unreadable(source.as_ref())),
        Error::Decode(source) => unreadable(source.as_ref()),
        Error::Protocol(_) if is_cut(error) => {
            "the connection was closed before the login: no PostgreSQL server, one that is starting or stopping, or a proxy without one behind it"
                .to_owned()
        }
        Error::Configuration(_) => "the connection string cannot be used: check its form, postgres://user:password@host:port/database".to_owned(),
        other => first_line(&other.to_string()).to_owned(),
    }
}

/// A connection that was cut: a proxy or a server that is changing over, or one that found the login slow. The next one may well be let in.
pub fn is_cut(error: &Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    match error {
        Error::Io(io) => matches!(io.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof),
        // sqlx 0.9 takes the end of the connection for the byte 0 as the answer to whether the server speaks TLS (sqlx_postgres::connection::tls).
        Error::Protocol(said) => said.contains("response from SSLRequest: 0x00"),
        _ => false,
    }
}

/// What is wrong with a value. serde_json quotes the value itself, which may be what a row says.
fn unreadable(source: &(dyn std::error::Error + 'static)) -> String {
    match source.downcast_ref::<serde_json::Error>() {
        Some(json) => format!("not the JSON that it must be, at line {} column {}", json.line(), json.column()),
        None => first_line(&source.to_string()).to_owned(),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
