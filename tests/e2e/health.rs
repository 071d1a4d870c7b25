//! Health and metrics as a probe sees them.

use std::time::Duration;

use super::world::World;

/// Where the workers that are started from now on serve HTTP.
pub struct Health {
    pub base: String,
    client: reqwest::Client,
}

impl World {
    pub fn serve_http(&mut self) -> Health {
        // Free a moment ago; nobody else on this machine asks for ports by number.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        self.variables.insert("KYLO_HTTP_ADDR", address.to_string());
        Health { base: format!("http://{address}"), client: reqwest::Client::new() }
    }
}

impl Health {
    /// Status and body; `None` while nobody listens.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        let answer = self.client.get(format!("{}{path}", self.base)).timeout(Duration::from_secs(30)).send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    pub async fn is_ready(&self, world: &World) {
        world
            .eventually("ready", async || match self.get("/health/ready").await {
                Some((200, _)) => Ok(()),
                other => Err(format!("{other:?}")),
            })
            .await;
    }

    /// Waits until it is not ready and says this.
    pub async fn is_not_ready(&self, world: &World, reason: &str) {
        world
            .eventually(&format!("not ready: {reason}"), async || match self.get("/health/ready").await {
                Some((503, body)) if body.contains(reason) => Ok(()),
                other => Err(format!("{other:?}")),
            })
            .await;
    }
}
