//! A look at the wire, for `kylo doctor`: which step towards the brokers works, and which does not, and why; and what the user may do there, as the
//! broker itself says it. Reads only, joins no group, and leaves nothing behind.
//!
//! For each broker: DNS, TCP, TLS, login. Through the first that can be asked: topics, rights on them and on the groups, and whether the brokers can
//! be reached under the names that they tell clients.
//!
//! Not by librdkafka, which tells one error for several causes and has no question for rights. What must never happen here: a password in a finding.

mod link;
mod scram;
mod wire;

use std::time::Duration;

use rand::Rng;
use secrecy::ExposeSecret;

use super::client::KafkaSettings;
use link::{Link, Unanswered};
use wire::{Answer, Request, Rights};

/// Why a step does not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Stable snake_case name.
    pub class: &'static str,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub fix: String,
}

impl Fault {
    pub(self) fn new(class: &'static str, what: String, fix: &str) -> Self {
        Self { class, what, fix: fix.to_owned() }
    }
}

/// One step's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `kafka dns`, `kafka tcp`, `kafka tls`, `kafka login`, `kafka protocol`, `kafka advertised`, `kafka topic`, `kafka group`.
    pub name: &'static str,
    /// Which broker, topic or group.
    pub target: String,
    /// What was found.
    pub verdict: Result<String, Fault>,
}

/// What a topic must allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicNeed {
    pub name: String,
    pub read: bool,
    pub write: bool,
    /// At least.
    pub partitions: usize,
}

/// What is to be found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    pub topics: Vec<TopicNeed>,
    /// Groups that are joined: Read.
    pub groups: Vec<String>,
}

/// Bound of the whole look.
const WHOLE: Duration = Duration::from_secs(60);
const COORDINATOR_TRIES: u32 = 40;
const COORDINATOR_PAUSE: Duration = Duration::from_millis(250);

/// Looks at everything, one step after the other. Never fails: what cannot be found out is a finding.
pub async fn examine(settings: &KafkaSettings, needs: &Needs) -> Vec<Finding> {
    let mut look = Look { settings, findings: Vec::new() };
    if tokio::time::timeout(WHOLE, look.all(needs)).await.is_err() {
        let fault =
            Fault::new("slow", format!("not everything was answered within {} s", WHOLE.as_secs()), "try again when the brokers are less busy");
        look.tell("kafka protocol", &settings.brokers, Err(fault));
    }
    look.findings
}

struct Look<'a> {
    settings: &'a KafkaSettings,
    findings: Vec<Finding>,
}

impl Look<'_> {
    fn tell(&mut self, name: &'static str, target: &str, verdict: Result<String, Fault>) {
        self.findings.push(Finding { name, target: target.to_owned(), verdict });
    }

    /// The value, if there is one; either way it is told.
    fn told<T>(&mut self, name: &'static str, target: &str, result: Result<T, Fault>, say: impl FnOnce(&T) -> String) -> Option<T> {
        match result {
            Ok(value) => {
                self.tell(name, target, Ok(say(&value)));
                Some(value)
            }
            Err(fault) => {
                self.tell(name, target, Err(fault));
                None
            }
        }
    }

    async fn all(&mut self, needs: &Needs) {
        let mut asked: Option<Link> = None;
        for broker in self.settings.brokers.clone().split(',') {
            let link = self.open(broker).await;
            asked = asked.or(link);
        }
        let Some(mut link) = asked else { return };
        let names: Vec<String> = needs.topics.iter().map(|topic| topic.name.clone()).collect();
        let api = (wire::METADATA, wire::METADATA_VERSION);
        let answer = link.ask(api, |request| wire::ask_metadata(request, &names), wire::metadata).await;
        let answer = answer.map_err(|unanswered| self.without_login(unanswered));
        let brokers = self.settings.brokers.clone();
        let Some(metadata) = self.told("kafka protocol", &brokers, answer, |found| format!("answers, {} broker(s)", found.brokers.len())) else {
            return;
        };
        for (host, port) in &metadata.brokers {
            self.advertised(host, *port).await;
        }
        for need in &needs.topics {
            let found = metadata.topics.iter().find(|topic| topic.name == need.name);
            self.tell("kafka topic", &need.name, topic(need, found));
        }
        for group in &needs.groups {
            let verdict = self.group(&mut link, group).await;
            self.tell("kafka group", group, verdict);
        }
    }

    /// Name, connection, TLS and login of one broker. `None`: one of them does not work, and is told.
    async fn open(&mut self, broker: &str) -> Option<Link> {
        let (host, port) = place(broker)?;
        let addresses = self.told("kafka dns", broker, link::resolve(&host, port).await, |found| {
            found.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>().join(", ")
        })?;
        let stream = self.told("kafka tcp", broker, link::connect(&addresses).await, |_| "takes connections".to_owned())?;
        let client_id = &self.settings.client_id;
        let mut link = if self.settings.is_tls() {
            let made = match link::trust(self.settings.ca_location.as_deref()) {
                Ok(trust) => link::handshake(stream, &host, trust, client_id).await,
                Err(fault) => Err(fault),
            };
            self.told("kafka tls", broker, made, |(_, version)| format!("{version}, the certificate is for {host} and trusted"))?.0
        } else {
            link::plain(stream, client_id)
        };
        if self.settings.login().is_some() {
            let settings = self.settings;
            let login = log_in(settings, &mut link).await;
            self.told("kafka login", broker, login, String::clone)?;
        } else if let Err(unanswered) = link.ask((wire::API_VERSIONS, 0), |request| request, wire::versions).await {
            let fault = plaintext_fault(unanswered);
            self.tell("kafka protocol", broker, Err(fault));
            return None;
        }
        Some(link)
    }

    /// Why a listener that answers does not answer a question: it wants a login first.
    fn without_login(&self, unanswered: Unanswered) -> Fault {
        match unanswered {
            Unanswered::Told(fault) => fault,
            Unanswered::Cut | Unanswered::Tls if self.settings.login().is_none() => Fault::new(
                "sasl_expected",
                "the broker cuts a connection without login".to_owned(),
                if self.settings.is_tls() {
                    "set KAFKA_SECURITY_PROTOCOL to SASL_SSL, and the login"
                } else {
                    "set KAFKA_SECURITY_PROTOCOL to SASL_PLAINTEXT, and the login"
                },
            ),
            Unanswered::Cut | Unanswered::Tls => Fault::new("connection", "the broker cuts the connection".to_owned(), "look at the broker's log"),
        }
    }

    /// Clients are sent on to these names: one that cannot be reached from here stops them.
    async fn advertised(&mut self, host: &str, port: i32) {
        let target = format!("{host}:{port}");
        let verdict = match u16::try_from(port) {
            Ok(port) => match link::resolve(host, port).await {
                Ok(addresses) => link::connect(&addresses).await.map(|_| "can be reached".to_owned()),
                Err(fault) => Err(fault),
            },
            Err(_) => Err(Fault::new("connection", format!("{port} is no port"), "")),
        };
        let fix = "set advertised.listeners of the broker to a name that can be reached from here";
        self.tell("kafka advertised", &target, verdict.map_err(|fault| Fault { fix: fix.to_owned(), ..fault }));
    }

    /// Whether the group may be joined, asked of its coordinator.
    async fn group(&mut self, link: &mut Link, group: &str) -> Result<String, Fault> {
        let settings = self.settings;
        let user = who(settings);
        let denied = || {
            let fix = format!("give {user} Read on the group: kafka-acls --add --allow-principal {user} --operation Read --group {group}");
            Fault::new("group_not_allowed", format!("{user} may not read the group"), &fix)
        };
        let mut tries = 0;
        let (error, host, port) = loop {
            let found = link.ask((wire::FIND_COORDINATOR, 1), |request| wire::ask_coordinator(request, group), wire::coordinator).await;
            match found.map_err(|unanswered| self.without_login(unanswered))? {
                // The first question of all about a group makes the broker's own topic for groups.
                (14 | 15, _, _) if tries < COORDINATOR_TRIES => {
                    tries += 1;
                    tokio::time::sleep(COORDINATOR_PAUSE).await;
                }
                found => break found,
            }
        };
        match error {
            0 => {}
            30 => return Err(denied()),
            code => {
                return Err(Fault::new(
                    "group",
                    format!("its coordinator is not known ({})", name(code)),
                    "wait until the brokers are up, and try again",
                ));
            }
        }
        let ask = |request: Request| wire::ask_group(request, group);
        let answer = match link.ask((wire::DESCRIBE_GROUPS, 3), ask, wire::group).await {
            // Another broker looks after it.
            Ok((16, _)) => {
                let mut aside = Look { settings, findings: Vec::new() };
                match aside.open(&format!("{host}:{port}")).await {
                    Some(mut other) => other.ask((wire::DESCRIBE_GROUPS, 3), ask, wire::group).await,
                    None => {
                        return Err(Fault::new("group", format!("its coordinator {host}:{port} cannot be asked"), "see that broker's line above"));
                    }
                }
            }
            answer => answer,
        };
        match answer.map_err(|unanswered| self.without_login(unanswered))? {
            (30, _) => Err(denied()),
            (0 | 69, rights) if rights.may(Rights::READ) == Some(false) => Err(denied()),
            (0 | 69, rights) => Ok(if rights.may(Rights::READ).is_some() {
                format!("{user} may read it")
            } else {
                "known; the broker does not tell rights".to_owned()
            }),
            (code, _) => Err(Fault::new("group", format!("it cannot be described ({})", name(code)), "try again")),
        }
    }
}

/// Host and port; IPv6 addresses stand in brackets.
fn place(broker: &str) -> Option<(String, u16)> {
    let (host, port) = broker.rsplit_once(':')?;
    Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?))
}

/// The principal, as rights name it.
fn who(settings: &KafkaSettings) -> String {
    settings.login().map_or_else(|| "User:ANONYMOUS".to_owned(), |sasl| format!("User:{}", sasl.username))
}

fn topic(need: &TopicNeed, found: Option<&wire::TopicAnswer>) -> Result<String, Fault> {
    let missing = || Fault::new("topic_missing", "there is no such topic".to_owned(), "make it with `kylo topics ensure`");
    let hidden = || {
        let operations = [(need.read, " --operation Read"), (need.write, " --operation Write")];
        let operations: String = operations.into_iter().filter(|(needed, _)| *needed).map(|(_, text)| text).collect();
        let fix = format!("kafka-acls --add --allow-principal User:...{operations} --topic {}", need.name);
        (Fault::new("topic_not_allowed", "the user may not see the topic (or there is none)".to_owned(), &fix), fix)
    };
    let topic = found.ok_or_else(missing)?;
    match topic.error {
        // Its leaders are just being chosen.
        0 | 5 => {}
        3 => return Err(missing()),
        29 => return Err(hidden().0),
        code => return Err(Fault::new("topic", format!("the broker says {}", name(code)), "look at the broker's log")),
    }
    let lacking: Vec<_> = [("Read", need.read, Rights::READ), ("Write", need.write, Rights::WRITE)]
        .into_iter()
        .filter(|(_, needed, operation)| *needed && topic.rights.may(*operation) == Some(false))
        .map(|(name, _, _)| name)
        .collect();
    if !lacking.is_empty() {
        let what = format!("the user has no {} right on the topic", lacking.join(" and no "));
        return Err(Fault::new("topic_not_allowed", what, &hidden().1));
    }
    if topic.partitions < need.partitions {
        let what = format!("{} partitions instead of {}", topic.partitions, need.partitions);
        return Err(Fault::new("topic_partitions", what, "`kylo topics verify` says what to do; RUNBOOK: More partitions"));
    }
    let rights = if topic.rights.may(Rights::READ).is_some() { "the rights suffice" } else { "the broker does not tell rights" };
    Ok(format!("{} partitions, {rights}", topic.partitions))
}

fn plaintext_fault(unanswered: Unanswered) -> Fault {
    match unanswered {
        Unanswered::Told(fault) => fault,
        Unanswered::Cut | Unanswered::Tls => Fault::new(
            "tls_expected",
            "the broker cuts a connection at the first request: its port probably speaks TLS".to_owned(),
            "set KAFKA_SECURITY_PROTOCOL to SSL or SASL_SSL, or use the plaintext listener's port",
        ),
    }
}

/// Handshake and login by the configured mechanism.
async fn log_in(settings: &KafkaSettings, link: &mut Link) -> Result<String, Fault> {
    let Some(sasl) = settings.login() else { return Ok(String::new()) };
    let password = sasl
        .password
        .current()
        .map_err(|error| Fault::new("password_file", error.to_string(), "KAFKA_SASL_PASSWORD_FILE must name a file with the password"))?;
    let handshake = link.ask((wire::SASL_HANDSHAKE, 1), |request| request.text(&sasl.mechanism), wire::handshake).await;
    match handshake.map_err(plaintext_fault)? {
        (0, _) => {}
        (33, mechanisms) => {
            let what = format!("the listener does not take {}, but {}", sasl.mechanism, mechanisms.join(", "));
            return Err(Fault::new("sasl_mechanism", what, "set KAFKA_SASL_MECHANISM to one of these"));
        }
        (34, _) => {
            let fix = if settings.is_tls() { "set KAFKA_SECURITY_PROTOCOL to SSL" } else { "set KAFKA_SECURITY_PROTOCOL to PLAINTEXT" };
            return Err(Fault::new("sasl_not_expected", "the listener takes no login".to_owned(), fix));
        }
        (code, _) => return Err(Fault::new("authentication", format!("the login was refused ({})", name(code)), "look at the broker's log")),
    }
    let nonce: String = rand::rng().sample_iter(rand::distr::Alphanumeric).take(24).map(char::from).collect();
    let signed = match scram::Scram::new(&sasl.mechanism, &sasl.username, &nonce) {
        None => {
            let token = format!("\0{}\0{}", sasl.username, password.expose_secret());
            step(settings, link, token.as_bytes()).await?;
            None
        }
        Some(scram) => {
            let first = step(settings, link, &scram.first()).await?;
            let answer = scram.answer(&first, &password);
            let (answer, signature) = answer
                .map_err(|what| Fault::new("authentication", format!("the broker's login makes no sense: {what}"), "look at the broker's log"))?;
            Some((step(settings, link, &answer).await?, signature))
        }
    };
    if let Some((last, signature)) = signed
        && last != signature.as_bytes()
    {
        let fix = "somebody else may be answering in the broker's place: use SASL_SSL";
        return Err(Fault::new("authentication", "the broker could not prove that it knows the password".to_owned(), fix));
    }
    Ok(format!("Authenticated as {} via {}", sasl.username, sasl.mechanism))
}

/// One step of a login: what the server says to this.
async fn step(settings: &KafkaSettings, link: &mut Link, token: &[u8]) -> Result<Vec<u8>, Fault> {
    let user = settings.login().map(|sasl| sasl.username.clone()).unwrap_or_default();
    let read = |answer: &mut Answer<'_>| wire::authenticated(answer);
    let fix = "check KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD (or its file), and that the broker knows the user for this mechanism";
    match link.ask((wire::SASL_AUTHENTICATE, 0), |request| request.bytes(token), read).await {
        Ok((0, _, said)) => Ok(said),
        Ok((_, text, _)) => {
            let text = text.lines().next().unwrap_or_default().to_owned();
            Err(Fault::new("authentication", format!("the broker does not accept user {user}: {text}"), fix))
        }
        Err(Unanswered::Cut | Unanswered::Tls) => {
            Err(Fault::new("authentication", format!("the broker cuts the connection when {user} logs in"), fix))
        }
        Err(Unanswered::Told(fault)) => Err(fault),
    }
}

/// Kafka's error codes that an operator may meet here.
fn name(code: i16) -> String {
    match code {
        3 => "UNKNOWN_TOPIC_OR_PARTITION".to_owned(),
        5 => "LEADER_NOT_AVAILABLE".to_owned(),
        14 => "COORDINATOR_LOAD_IN_PROGRESS".to_owned(),
        15 => "COORDINATOR_NOT_AVAILABLE".to_owned(),
        16 => "NOT_COORDINATOR".to_owned(),
        29 => "TOPIC_AUTHORIZATION_FAILED".to_owned(),
        30 => "GROUP_AUTHORIZATION_FAILED".to_owned(),
        31 => "CLUSTER_AUTHORIZATION_FAILED".to_owned(),
        35 => "UNSUPPORTED_VERSION".to_owned(),
        58 => "SASL_AUTHENTICATION_FAILED".to_owned(),
        code => format!("error {code}"),
    }
}
