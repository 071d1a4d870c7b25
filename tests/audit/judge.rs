//! The auditor as a judge, and what a test does to the broker's side.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kylo::audit::report::{Class, Report};
use kylo::runtime::audit::{Options, Tabs, audit};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::world::{Mode, PATIENCE, World, brokers};

impl World {
    pub async fn audit(&self) -> Report {
        audit(&self.settings(&Mode::Post), &Options::default()).await.unwrap()
    }

    /// Audits, and expects nothing to be found and everything recomputed.
    pub async fn audit_is_clean(&self, when: &str) -> Report {
        let report = self.audit().await;
        assert!(report.is_clean(), "{when}: {}\n{}", report.summary(), lines(&report));
        assert_eq!((report.books_partly, report.taken_from_postgres.len()), (0, 0), "{when}: {:?}", report.taken_from_postgres);
        report
    }

    /// The end of a test whose story ends well: nothing lost, doubled, misrouted, reordered or altered, and everything was recomputed.
    pub async fn end_with_zero(mut self, when: &str) {
        self.stop().await;
        self.audit_is_clean(when).await;
        self.end().await;
    }

    /// Audits without the tabs, and expects a finding of this class about this subject.
    pub async fn audit_finds(&self, what: &str, class: Class, subject: &str) -> Report {
        self.found(what, class, subject, Tabs::Skip).await
    }

    /// Audits with the tabs, and expects a finding of this class about this subject.
    pub async fn audit_finds_on_a_tab(&self, what: &str, class: Class, subject: &str) -> Report {
        self.found(what, class, subject, Tabs::Read).await
    }

    async fn found(&self, what: &str, class: Class, subject: &str, tabs: Tabs) -> Report {
        let report = audit(&self.settings(&Mode::Post), &Options { tabs, ..Options::default() }).await.unwrap();
        let found = report.of(class).any(|finding| finding.subject.contains(subject));
        assert!(found, "{what}: no finding {class:?} about {subject:?}: {}\n{}", report.summary(), lines(&report));
        report
    }

    /// Commits positions for the group of the transactions workers, which must not be running.
    pub async fn commit(&self, positions: BTreeMap<i32, i64>) {
        let (group, topic) = (self.group_txns(), self.topic_txns());
        let commit = move || {
            let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", brokers()).set("group.id", &group).create().unwrap();
            let mut list = TopicPartitionList::new();
            for (partition, offset) in positions {
                list.add_partition_offset(&topic, partition, Offset::Offset(offset)).unwrap();
            }
            // The last member's session may not be over yet.
            let began = Instant::now();
            while let Err(error) = client.commit(&list, CommitMode::Sync) {
                assert!(began.elapsed() < PATIENCE, "the group takes no commit: {error}");
                client.poll(Duration::from_millis(100));
            }
        };
        tokio::task::spawn_blocking(commit).await.unwrap();
    }
}

pub fn lines(report: &Report) -> String {
    report.findings.iter().map(ToString::to_string).chain(report.incomplete.iter().cloned()).collect::<Vec<_>>().join("\n")
}
