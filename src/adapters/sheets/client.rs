//! The HTTP client under both the hub and the token requests: HTTP/1.1, TLS by rustls, and which addresses may be called at all.
//!
//! Called by [`super::gateway`] and [`super::auth`]. What must never happen here: a token sent in clear text over a network.

use std::time::Duration;

use google_sheets4::hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use google_sheets4::hyper_util::client::legacy::Client;
use google_sheets4::hyper_util::client::legacy::connect::HttpConnector;
use google_sheets4::hyper_util::rt::TokioExecutor;
use url::{Host, Url};

pub(super) type Connector = HttpsConnector<HttpConnector>;

/// Says why `url` must not be called: it has no host, carries a password, or would be unencrypted beyond this machine.
pub(super) fn check_url(url: &Url) -> Result<(), String> {
    let loopback = match url.host() {
        None => return Err("it has no host".to_owned()),
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it carries a user name".to_owned());
    }
    match url.scheme() {
        "https" => Ok(()),
        "http" if loopback => Ok(()),
        "http" => Err("http is allowed on loopback only; use https".to_owned()),
        other => Err(format!("its scheme is {other}; use https")),
    }
}

/// The connector. `tls_needed` false = every address is on loopback and plain, so a machine without CA certificates will do.
pub(super) fn connector(connect_timeout: Duration, tls_needed: bool) -> std::io::Result<Connector> {
    let builder = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?;
    let config = match builder.clone().with_native_roots() {
        Ok(config) => config.with_no_client_auth(),
        Err(error) if tls_needed => return Err(error),
        Err(_) => builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth(),
    };
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_connect_timeout(Some(connect_timeout));
    http.set_nodelay(true);
    http.set_keepalive(Some(Duration::from_secs(30)));
    Ok(HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().wrap_connector(http))
}

/// A client for one kind of body.
pub(super) fn client<B>(connector: Connector) -> Client<Connector, B>
where
    B: google_sheets4::hyper::body::Body + Send,
    B::Data: Send,
{
    Client::builder(TokioExecutor::new()).pool_idle_timeout(Duration::from_secs(60)).pool_max_idle_per_host(4).build(connector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_and_nothing_else() {
        let allowed = |text: &str| check_url(&Url::parse(text).unwrap()).is_ok();
        for good in ["https://sheets.googleapis.com/", "http://127.0.0.1:9/", "http://127.9.9.9/", "http://[::1]:9/", "http://localhost:9"] {
            assert!(allowed(good), "{good}");
        }
        for bad in [
            "http://sheets.googleapis.com/",
            "http://0.0.0.0/",
            "http://localhost.example/",
            "ftp://127.0.0.1/",
            "https://u:p@example.test/",
            "data:x",
        ] {
            assert!(!allowed(bad), "{bad}");
        }
    }
}
