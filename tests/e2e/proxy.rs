//! A database server that goes away and comes back: a port in front of the real one.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Up,
    /// Connections stay and carry nothing; whoever connects gets no word. They end when this is over.
    Frozen,
    Down,
}

pub struct Proxy {
    address: SocketAddr,
    line: watch::Sender<Line>,
}

impl Proxy {
    /// Up at first.
    pub async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (line, seen) = watch::channel(Line::Up);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (target, mut seen) = (target.clone(), seen.clone());
                tokio::spawn(async move {
                    // Down: the connection ends at once, as a server that has just died ends it.
                    let Ok(_) = seen.wait_for(|line| *line != Line::Frozen).await else { return };
                    if *seen.borrow() == Line::Down {
                        return;
                    }
                    let Ok(mut server) = TcpStream::connect(&target).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        _ = seen.wait_for(|line| *line != Line::Up) => {}
                    }
                    let _over = seen.wait_for(|line| *line != Line::Frozen).await;
                });
            }
        });
        Self { address, line }
    }

    /// In front of the server that this DSN names.
    pub async fn before(dsn: &str) -> (Self, String) {
        let mut url = url::Url::parse(dsn).unwrap();
        let target = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(5432));
        let proxy = Self::start(target).await;
        url.set_host(Some(&proxy.address.ip().to_string())).unwrap();
        url.set_port(Some(proxy.address.port())).unwrap();
        (proxy, url.to_string())
    }

    /// All connections end, and new ones at once.
    pub fn cut(&self) {
        self.line.send_replace(Line::Down);
    }

    /// As a server that is stopped and not dead: nothing ends, and nothing is answered.
    pub fn freeze(&self) {
        self.line.send_replace(Line::Frozen);
    }

    pub fn mend(&self) {
        self.line.send_replace(Line::Up);
    }
}
