//! A broker with listeners of every kind, users, rights and certificates of the test's own; one for all tests of a binary.
//!
//! It lives as long as the pipe to `scripts/kafka/secured.sh` is open, so it ends with the test process, however that ends.

use std::fmt::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use kylo::adapters::kafka::client::{KafkaSettings, SaslSettings};
use kylo::config::Secret;
use secrecy::SecretString;

use super::certificates::Certificates;
use super::relay::Relay;

/// On a busy machine a JVM takes its time.
const READY: Duration = Duration::from_secs(120);

/// Every listener: its name, its protocol, and what is special about it.
const LISTENERS: [(&str, &str); 9] = [
    ("PLAIN", "PLAINTEXT"),
    ("TLS", "SSL"),
    ("EXPIRED", "SSL"),
    ("ELSEWHERE", "SSL"),
    ("MUTUAL", "SSL"),
    // Without the mechanism PLAIN.
    ("SASL", "SASL_PLAINTEXT"),
    ("SASLTLS", "SASL_SSL"),
    // Advertised as the port of a relay whose connections a test can cut.
    ("CUTTABLE", "SASL_PLAINTEXT"),
    // The same, for a broker that is away for a while.
    ("LEAVING", "PLAINTEXT"),
];

/// Everybody with their rights: `alice` and the rotating users may do everything, `reader` may read every topic as every group, `loner` may read
/// every topic and no group, `writer` may write every topic and read none, as every group, `nobody` may do nothing.
const USERS: [&str; 7] = ["alice", "rotating-consumer", "rotating-producer", "reader", "loner", "writer", "nobody"];

pub struct Broker {
    ports: Vec<(&'static str, u16)>,
    pub certificates: Certificates,
    pub relay: Relay,
    pub leaving: Relay,
    _script: Mutex<Child>,
}

/// The broker, started by whoever asks first.
pub fn broker() -> &'static Broker {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    BROKER.get_or_init(Broker::start)
}

fn script(arguments: &[&str]) -> Command {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka/secured.sh"));
    command.args(arguments);
    command
}

impl Broker {
    /// Somebody else may take a port between our letting it go and the broker's bind: other ports, then.
    fn start() -> Self {
        let again = |_| Self::try_start();
        Self::try_start().or_else(again).or_else(again).unwrap_or_else(|log| panic!("the broker did not start three times: {log}"))
    }

    fn try_start() -> Result<Self, String> {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("secured-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir_all(&folder).unwrap();
        let certificates = Certificates::make(&folder);
        // Held until the relays have theirs: a free port that is let go is soon given to somebody else.
        let held: Vec<TcpListener> = (0..=LISTENERS.len()).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let mut free = held.iter().map(|listener| listener.local_addr().unwrap().port());
        let controller = free.next().unwrap();
        let ports: Vec<_> = LISTENERS.iter().map(|(name, _)| *name).zip(free).collect();
        let before = |listener: &str| Relay::start(ports.iter().find(|(name, _)| *name == listener).unwrap().1);
        let (relay, leaving) = (before("CUTTABLE"), before("LEAVING"));
        let advertised = [("CUTTABLE", relay.port()), ("LEAVING", leaving.port())];
        std::fs::write(folder.join("server.properties"), properties(&folder, controller, &ports, &advertised)).unwrap();
        drop(held);
        let users: Vec<String> = USERS
            .iter()
            .flat_map(|user| ["SCRAM-SHA-256", "SCRAM-SHA-512"].map(|mechanism| format!("{mechanism}=[name={user},password={user}-secret]")))
            .collect();
        let mut arguments = vec!["run", folder.to_str().unwrap()];
        arguments.extend(users.iter().map(String::as_str));
        let mut child = script(&arguments).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let plain = ports[0].1;
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", plain)).is_err() {
            let log = || std::fs::read_to_string(folder.join("log")).unwrap_or_default();
            if let Some(status) = child.try_wait().unwrap() {
                return Err(format!("{status}\n{}", log()));
            }
            assert!(began.elapsed() < READY, "{}", log());
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let broker = Self { ports, certificates, relay, leaving, _script: Mutex::new(child) };
        broker.grant();
        Ok(broker)
    }

    fn grant(&self) {
        let rights: [&[&str]; 4] = [
            &["--allow-principal", "User:reader", "--operation", "Read", "--topic", "*", "--group", "*"],
            &["--allow-principal", "User:loner", "--operation", "Read", "--topic", "*"],
            &["--allow-principal", "User:writer", "--operation", "Write", "--topic", "*"],
            &["--allow-principal", "User:writer", "--operation", "Read", "--group", "*"],
        ];
        std::thread::scope(|scope| {
            for rights in rights {
                scope.spawn(move || self.tool("org.apache.kafka.tools.AclCommand", &[&["--add"], rights].concat()));
            }
        });
    }

    fn tool(&self, class: &str, arguments: &[&str]) {
        let server = format!("127.0.0.1:{}", self.port("PLAIN"));
        let mut said = String::new();
        // The tools give up after a minute in which a crowded machine has not let the broker answer; asking for the same again does no harm.
        for _ in 0..3 {
            let output = script(&["tool", class, "--bootstrap-server", &server]).args(arguments).output().unwrap();
            if output.status.success() {
                return;
            }
            said = format!("{output:?}");
        }
        panic!("{class} {arguments:?}: {said}");
    }

    /// Gives a user another SCRAM-SHA-256 password.
    pub fn change_password(&self, user: &str, password: &str) {
        let config = format!("SCRAM-SHA-256=[password={password}]");
        self.tool("kafka.admin.ConfigCommand", &["--alter", "--add-config", &config, "--entity-type", "users", "--entity-name", user]);
    }

    pub fn port(&self, listener: &str) -> u16 {
        self.ports.iter().find(|(name, _)| *name == listener).unwrap().1
    }

    /// Settings for a listener as it wants to be spoken to, without login.
    pub fn settings(&self, listener: &str) -> KafkaSettings {
        let protocol = LISTENERS.iter().find(|(name, _)| *name == listener).unwrap().1;
        KafkaSettings {
            security_protocol: protocol.to_owned(),
            ca_location: protocol.ends_with("SSL").then(|| self.certificates.ca.display().to_string()),
            ..KafkaSettings::plaintext(&format!("127.0.0.1:{}", self.port(listener)))
        }
    }

    /// Settings for a listener with a user's login.
    pub fn login(&self, listener: &str, mechanism: &str, user: &str) -> KafkaSettings {
        let value = SecretString::from(format!("{user}-secret"));
        let password = Secret::Value { name: "KAFKA_SASL_PASSWORD", value };
        self.login_with(listener, mechanism, user, password)
    }

    pub fn login_with(&self, listener: &str, mechanism: &str, user: &str, password: Secret) -> KafkaSettings {
        let sasl = SaslSettings { mechanism: mechanism.to_owned(), username: user.to_owned(), password };
        KafkaSettings { sasl: Some(sasl), ..self.settings(listener) }
    }
}

fn properties(folder: &Path, controller: u16, ports: &[(&str, u16)], advertised: &[(&str, u16)]) -> String {
    let path = |name: &str| folder.join(name).display().to_string();
    let list = |of: &dyn Fn(&str, u16) -> String| ports.iter().map(|(name, port)| of(name, *port)).collect::<Vec<_>>().join(",");
    let listeners = list(&|name, port| format!("{name}://127.0.0.1:{port}"));
    let told = list(&|name, port| format!("{name}://127.0.0.1:{}", advertised.iter().find(|(of, _)| *of == name).map_or(port, |(_, relay)| *relay)));
    let protocols = LISTENERS.map(|(name, protocol)| format!("{name}:{protocol}")).join(",");
    let mut text = format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.listener.names=CONTROLLER\n\
         listeners={listeners},CONTROLLER://127.0.0.1:{controller}\nadvertised.listeners={told}\n\
         listener.security.protocol.map={protocols},CONTROLLER:PLAINTEXT\ninter.broker.listener.name=PLAIN\n\
         controller.quorum.bootstrap.servers=127.0.0.1:{controller}\nlog.dirs={}\nauto.create.topics.enable=false\n\
         offsets.topic.num.partitions=1\noffsets.topic.replication.factor=1\n\
         transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
         group.initial.rebalance.delay.ms=0\ngroup.min.session.timeout.ms=1000\n\
         num.network.threads=1\nnum.io.threads=2\nlog.cleaner.dedupe.buffer.size=2097152\nlog.index.size.max.bytes=1048576\n\
         ssl.keystore.type=PEM\nssl.keystore.location={}\nssl.truststore.type=PEM\nssl.truststore.location={}\n\
         listener.name.expired.ssl.keystore.location={}\nlistener.name.elsewhere.ssl.keystore.location={}\n\
         listener.name.mutual.ssl.client.auth=required\n\
         sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
         listener.name.sasl.sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512\n\
         authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
         super.users=User:ANONYMOUS;User:alice;User:rotating-consumer;User:rotating-producer\n",
        path("data"),
        path("broker.pem"),
        path("ca.pem"),
        path("expired.pem"),
        path("elsewhere.pem"),
    );
    let plain = USERS.map(|user| format!("user_{user}=\"{user}-secret\"")).join(" ");
    for (name, _) in LISTENERS.iter().filter(|(_, protocol)| protocol.starts_with("SASL")) {
        let name = name.to_lowercase();
        for mechanism in ["scram-sha-256", "scram-sha-512"] {
            let module = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
            writeln!(text, "listener.name.{name}.{mechanism}.sasl.jaas.config={module}").unwrap();
        }
        let module = "org.apache.kafka.common.security.plain.PlainLoginModule required";
        writeln!(text, "listener.name.{name}.plain.sasl.jaas.config={module} {plain};").unwrap();
    }
    text
}
