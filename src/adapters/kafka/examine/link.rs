//! One connection to one broker, step by step, each bounded and with its own way to fail.
//!
//! librdkafka reports a wrong authority, a wrong host name and an expired certificate as one error, so the handshake is made here by rustls.
//! What must never happen here: a step without a time limit.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper_rustls::ConfigBuilderExt;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, Error as TlsError, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Fault;
use super::wire::{Answer, Garbled, Request};

/// For each step.
const STEP: Duration = Duration::from_secs(8);
/// More than any answer here: thousands of partitions.
const MOST_BYTES: usize = 16 << 20;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// An open connection.
pub struct Link {
    stream: Box<dyn Stream>,
    correlation: i32,
    client_id: String,
}

async fn bounded<T>(step: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    tokio::time::timeout(STEP, step).await.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut)))
}

/// The addresses of a host.
pub async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, Fault> {
    let fix = "check the host names in KAFKA_BROKERS, and this machine's name server";
    match bounded(tokio::net::lookup_host((host, port))).await {
        Ok(found) => {
            let found: Vec<_> = found.collect();
            if found.is_empty() { Err(Fault::new("dns", format!("{host} has no address"), fix)) } else { Ok(found) }
        }
        Err(error) => Err(Fault::new("dns", format!("{host} cannot be resolved: {error}"), fix)),
    }
}

/// The first address that takes a connection.
pub async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, Fault> {
    let mut refusals = Vec::new();
    for address in addresses {
        match bounded(TcpStream::connect(address)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => refusals.push(format!("{address}: {error}")),
        }
    }
    let fix = "check KAFKA_BROKERS, whether the broker runs, and firewalls between";
    Err(Fault::new("connection", format!("no connection ({})", refusals.join("; ")), fix))
}

/// What certificates are judged by: the file's authorities, or the system's.
pub fn trust(ca: Option<&str>) -> Result<Arc<ClientConfig>, Fault> {
    let fix = "KAFKA_SSL_CA_LOCATION must be a PEM file with the certificates of the authorities to trust";
    let wrong = |what: String| Fault::new("tls_ca_file", what, fix);
    let builder = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?;
    let Some(path) = ca else {
        let config = builder.with_native_roots().map_err(|error| wrong(format!("this machine has no certificate authorities: {error}")))?;
        return Ok(Arc::new(config.with_no_client_auth()));
    };
    let read = CertificateDer::pem_file_iter(Path::new(path)).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| wrong(format!("{path} cannot be read as PEM: {error}")))?;
    let mut roots = RootCertStore::empty();
    let (good, _bad) = roots.add_parsable_certificates(certificates);
    if good == 0 {
        return Err(wrong(format!("{path} holds no certificate")));
    }
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// The TLS handshake. Says the protocol's version.
pub async fn handshake(stream: TcpStream, host: &str, trust: Arc<ClientConfig>, client_id: &str) -> Result<(Link, String), Fault> {
    let name = ServerName::try_from(host.to_owned());
    let name = name.map_err(|_| Fault::new("tls_host", format!("{host} is no name that a certificate could have"), "use the broker's host name"))?;
    let stream = bounded(TlsConnector::from(trust).connect(name, stream)).await.map_err(|error| tls_fault(&error, host))?;
    let version = stream.get_ref().1.protocol_version().map_or_else(|| "TLS".to_owned(), |version| format!("{version:?}").replace('_', "."));
    Ok((Link { stream: Box::new(stream), correlation: 0, client_id: client_id.to_owned() }, version))
}

/// A connection without TLS.
pub fn plain(stream: TcpStream, client_id: &str) -> Link {
    Link { stream: Box::new(stream), correlation: 0, client_id: client_id.to_owned() }
}

fn tls_fault(error: &std::io::Error, host: &str) -> Fault {
    use std::io::ErrorKind as Kind;
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>());
    match cause {
        Some(TlsError::InvalidCertificate(certificate)) => certificate_fault(certificate, host),
        Some(TlsError::InvalidMessage(_)) => no_tls(),
        Some(TlsError::AlertReceived(alert)) => alert_fault(*alert),
        _ if error.kind() == Kind::TimedOut => {
            let fix = "check the port, and whether it speaks TLS";
            Fault::new("tls_timeout", format!("the TLS handshake was not answered within {} s", STEP.as_secs()), fix)
        }
        _ if matches!(error.kind(), Kind::UnexpectedEof | Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe) => no_tls(),
        _ => Fault::new("tls", format!("the TLS handshake failed: {error}"), "look at the broker's log"),
    }
}

fn no_tls() -> Fault {
    Fault::new(
        "tls_to_plaintext",
        "the port does not speak TLS".to_owned(),
        "set KAFKA_SECURITY_PROTOCOL to PLAINTEXT or SASL_PLAINTEXT, or use the TLS listener's port",
    )
}

fn certificate_fault(error: &CertificateError, host: &str) -> Fault {
    use CertificateError as Bad;
    match error {
        Bad::UnknownIssuer | Bad::BadSignature => Fault::new(
            "tls_ca",
            "the broker's certificate is not signed by an authority that is trusted here".to_owned(),
            "set KAFKA_SSL_CA_LOCATION to the certificate of the authority that signed it",
        ),
        Bad::NotValidForName | Bad::NotValidForNameContext { .. } => Fault::new(
            "tls_host",
            format!("the broker's certificate is not for {host}"),
            "name the broker in KAFKA_BROKERS as its certificate does, or give it a certificate with this name (subject alternative name)",
        ),
        Bad::Expired | Bad::ExpiredContext { .. } => Fault::new(
            "tls_expired",
            "the broker's certificate has expired".to_owned(),
            "renew the broker's certificate; if it was, look at this machine's clock",
        ),
        Bad::NotValidYet | Bad::NotValidYetContext { .. } => Fault::new(
            "tls_not_yet",
            "the broker's certificate is not valid yet".to_owned(),
            "look at this machine's clock, and at the certificate's dates",
        ),
        other => Fault::new("tls", format!("the broker's certificate is not accepted: {other:?}"), "give the broker a proper server certificate"),
    }
}

fn alert_fault(alert: AlertDescription) -> Fault {
    match alert {
        AlertDescription::CertificateRequired | AlertDescription::BadCertificate => Fault::new(
            "tls_client_certificate",
            "the broker asks for a client certificate, which kylo does not send".to_owned(),
            "use a listener without ssl.client.auth=required, with SASL for the login",
        ),
        other => Fault::new("tls", format!("the broker refused the TLS handshake: {other:?}"), "compare the TLS versions and ciphers of both sides"),
    }
}

/// Why a request was not answered.
#[derive(Debug)]
pub enum Unanswered {
    /// The broker closed the connection instead.
    Cut,
    /// What came is TLS, and nothing of Kafka's.
    Tls,
    Told(Fault),
}

impl Link {
    /// Sends a request and gives what follows the answer's header.
    pub async fn ask<T>(
        &mut self,
        (api, version): (i16, i16),
        build: impl FnOnce(Request) -> Request,
        read: impl FnOnce(&mut Answer<'_>) -> Result<T, Garbled>,
    ) -> Result<T, Unanswered> {
        self.correlation += 1;
        let frame = build(Request::new(api, version, self.correlation, &self.client_id)).frame();
        let body = bounded(self.exchange(&frame)).await.map_err(|error| unanswered(&error))?;
        let mut answer = Answer(&body);
        let read = answer.int32().and_then(|_correlation| read(&mut answer));
        read.map_err(|Garbled| match body.first() {
            Some(0x15 | 0x16) => Unanswered::Tls,
            _ => Unanswered::Told(Fault::new("protocol", "its answer is not Kafka's".to_owned(), "check the port in KAFKA_BROKERS")),
        })
    }

    async fn exchange(&mut self, frame: &[u8]) -> std::io::Result<Vec<u8>> {
        self.stream.write_all(frame).await?;
        self.stream.flush().await?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).await?;
        match usize::try_from(i32::from_be_bytes(length)) {
            Ok(length) if length <= MOST_BYTES => {
                let mut body = vec![0; length];
                self.stream.read_exact(&mut body).await?;
                Ok(body)
            }
            // The length of a frame as large as this is something else's first bytes.
            _ => Ok(length.to_vec()),
        }
    }
}

fn unanswered(error: &std::io::Error) -> Unanswered {
    use std::io::ErrorKind as Kind;
    if let Some(TlsError::AlertReceived(alert)) = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()) {
        return Unanswered::Told(alert_fault(*alert));
    }
    match error.kind() {
        Kind::UnexpectedEof | Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe => Unanswered::Cut,
        Kind::TimedOut => {
            let fix = "check the port in KAFKA_BROKERS, and whether the broker is overloaded";
            Unanswered::Told(Fault::new("silent", format!("there is no answer within {} s", STEP.as_secs()), fix))
        }
        _ => Unanswered::Told(Fault::new("connection", format!("the connection failed: {error}"), "look at the broker's log")),
    }
}
