//! The address rule: a default port that is taken gives way to the next free one with a warning; an explicit one that is taken is an error.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;

/// How many ports after the default one are tried.
const PORTS_TRIED: u16 = 50;

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} (KYLO_HTTP_ADDR)")]
pub struct BindError {
    pub address: SocketAddr,
    #[source]
    pub source: io::Error,
}

/// Listens. `explicit` = the operator named this port. The second value is a warning for people.
///
/// # Errors
/// The explicit address, or every default one that was tried, is taken or not allowed.
pub async fn bind(address: SocketAddr, explicit: bool) -> Result<(TcpListener, Option<String>), BindError> {
    let first = match TcpListener::bind(address).await {
        Ok(listener) => return Ok((listener, None)),
        Err(source) if explicit || source.kind() != io::ErrorKind::AddrInUse => return Err(BindError { address, source }),
        Err(source) => source,
    };
    for port in (1..=PORTS_TRIED).filter_map(|step| address.port().checked_add(step)) {
        let next = SocketAddr::new(address.ip(), port);
        if let Ok(listener) = TcpListener::bind(next).await {
            return Ok((
                listener,
                Some(format!("port {} is taken, so health and metrics are served on {next}; set KYLO_HTTP_ADDR to choose", address.port())),
            ));
        }
    }
    Err(BindError { address, source: first })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_default_port_gives_way_with_a_warning_and_a_taken_explicit_one_is_an_error() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let (listener, warning) = bind(address, false).await.unwrap();
        assert!(listener.local_addr().unwrap().port() > address.port());
        assert!(warning.unwrap().contains(&format!("port {} is taken", address.port())));
        let error = bind(address, true).await.unwrap_err();
        assert_eq!(error.to_string(), format!("cannot listen on {address} (KYLO_HTTP_ADDR)"));
    }
}
