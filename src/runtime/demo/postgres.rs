//! A throwaway PostgreSQL cluster from the local install, for `kylo demo`: made in a folder of its own, on a free loopback port, with a random
//! password, stopped and removed at the end. PostgreSQL refuses to run as root, so then it runs as the unprivileged `postgres` or `nobody`.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rand::Rng;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// How long a cluster may take to answer its first connection.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running cluster. Call [`Cluster::stop`]; a dropped one is killed.
#[derive(Debug)]
pub struct Cluster {
    folder: PathBuf,
    binaries: PathBuf,
    user: Option<(u32, u32)>,
    server: Child,
    dsn: String,
}

impl Cluster {
    /// Makes and starts a cluster with an empty database `kylo`.
    ///
    /// # Errors
    /// If PostgreSQL is not installed or does not start; the message says where its log is.
    pub async fn start() -> Result<Self> {
        let binaries = find_binaries()?;
        let user = unprivileged_user()?;
        let folder = std::env::temp_dir().join(format!("kylo-demo-{:016x}", rand::rng().random::<u64>()));
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        let password = format!("{:032x}", rand::rng().random::<u128>());
        let password_file = folder.join("password");
        fs::write(&password_file, &password)?;
        for path in [&folder, &password_file] {
            if let Some((uid, gid)) = user {
                chown(path, Some(uid), Some(gid))?;
            }
        }
        let port = free_port()?;
        init(&binaries, user, &folder, &password_file).await?;
        let server = serve(&binaries, user, &folder, port)?;
        let dsn = format!("postgres://postgres:{password}@127.0.0.1:{port}/kylo");
        let mut cluster = Self { folder, binaries, user, server, dsn };
        cluster.make_database().await?;
        Ok(cluster)
    }

    /// Connection string of the database `kylo`, password included.
    pub fn dsn(&self) -> &str {
        &self.dsn
    }

    /// Where the cluster lives; removed with it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    async fn make_database(&mut self) -> Result<()> {
        let admin = self.dsn.trim_end_matches("kylo").to_owned() + "postgres";
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let problem = match create(&admin).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let log = self.folder.join("log");
            if let Some(status) = self.server.try_wait()? {
                bail!("postgres ended with {status}: {}", last_lines(&log));
            }
            if Instant::now() > deadline {
                return Err(problem).with_context(|| format!("postgres did not answer within {START_LIMIT:?}: {}", last_lines(&log)));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops the cluster and removes its folder.
    ///
    /// # Errors
    /// If it does not stop.
    pub async fn stop(mut self) -> Result<()> {
        let data = self.folder.join("data");
        let mut stop = command(&self.binaries.join("pg_ctl"), self.user, &self.folder);
        stop.arg("-D").arg(&data).args(["stop", "-m", "immediate", "-w", "-t", "10"]);
        let stopped = stop.status().await.is_ok_and(|status| status.success());
        if !stopped {
            self.server.kill().await.context("cannot stop the demo's postgres")?;
        }
        self.server.wait().await?;
        fs::remove_dir_all(&self.folder).with_context(|| format!("cannot remove {}", self.folder.display()))
    }
}

async fn create(admin: &str) -> Result<()> {
    let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect(admin).await?;
    sqlx::Executor::execute(&mut connection, "CREATE DATABASE kylo").await?;
    Ok(())
}

async fn init(binaries: &Path, user: Option<(u32, u32)>, folder: &Path, password_file: &Path) -> Result<()> {
    let mut initdb = command(&binaries.join("initdb"), user, folder);
    initdb.arg("-D").arg(folder.join("data")).arg("--pwfile").arg(password_file);
    initdb.args(["-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]);
    let output = initdb.output().await.context("cannot run initdb")?;
    if !output.status.success() {
        bail!("initdb failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn serve(binaries: &Path, user: Option<(u32, u32)>, folder: &Path, port: u16) -> Result<Child> {
    let log = fs::File::create(folder.join("log"))?;
    let mut server = command(&binaries.join("postgres"), user, folder);
    server.arg("-D").arg(folder.join("data")).arg("-p").arg(port.to_string());
    // Durability is not what a demo shows, and the folder is removed at its end.
    server.args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "max_connections=50"]);
    server.stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
    server.spawn().context("cannot start postgres")
}

fn command(program: &Path, user: Option<(u32, u32)>, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command
}

/// Newest version under `/usr/lib/postgresql`, else what PATH has.
fn find_binaries() -> Result<PathBuf> {
    let packaged = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().filter_map(|entry| {
        let version: u32 = entry.file_name().to_str()?.parse().ok()?;
        let folder = entry.path().join("bin");
        folder.join("initdb").exists().then_some((version, folder))
    });
    if let Some((_, folder)) = packaged.max() {
        return Ok(folder);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .find(|folder| folder.join("initdb").exists())
        .context("PostgreSQL is not installed: run scripts/setup.sh, or install the server package of your system")
}

/// The user and group to run as when we are root.
fn unprivileged_user() -> Result<Option<(u32, u32)>> {
    if fs::metadata("/proc/self")?.uid() != 0 {
        return Ok(None);
    }
    let accounts = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    let ids = |name: &str| {
        let fields: Vec<_> = accounts.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields.first() == Some(&name))?;
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    };
    let found = ids("postgres").or_else(|| ids("nobody"));
    found.map(Some).context("PostgreSQL refuses to run as root, and there is no user postgres or nobody to run it as")
}

/// A port nobody listens on now.
///
/// # Errors
/// If loopback has none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}
