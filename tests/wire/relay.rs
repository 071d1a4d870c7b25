//! A port in front of a listener whose connections a test can cut, as a broker's restart would. Threads of its own: it outlives any test.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

pub struct Relay {
    port: u16,
    /// Nobody gets through.
    down: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Relay {
    pub fn start(behind: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let open: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let (all, down) = (Arc::clone(&open), Arc::<AtomicBool>::default());
        let is_down = Arc::clone(&down);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if is_down.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", behind)) else { continue };
                all.lock().unwrap().extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
                copy(client.try_clone().unwrap(), server.try_clone().unwrap());
                copy(server, client);
            }
        });
        Self { port, down, open }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// As if the broker behind it were stopped, until it is started again.
    pub fn stop(&self) {
        self.down.store(true, Ordering::SeqCst);
        self.cut();
    }

    pub fn start_again(&self) {
        self.down.store(false, Ordering::SeqCst);
    }

    /// Every connection ends now; new ones are taken as before.
    pub fn cut(&self) {
        for connection in std::mem::take(&mut *self.open.lock().unwrap()) {
            // Ended by itself already: just as well.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    });
}
