//! The broker itself: what a consumer group has committed, and the end of a test's topics.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};

use super::world::brokers;
use crate::patience::patiently;

/// Committed positions by partition; partitions without one are left out.
pub async fn committed(group: &str, topic: &str, partitions: Vec<i32>) -> BTreeMap<i32, i64> {
    let (group, topic) = (group.to_owned(), topic.to_owned());
    let asked = move || {
        let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", brokers()).set("group.id", &group).create().unwrap();
        let mut wanted = TopicPartitionList::new();
        for partition in partitions {
            wanted.add_partition(&topic, partition);
        }
        let answer = patiently("committed offsets", || {
            let answer = client.committed_offsets(wanted.clone(), Duration::from_secs(10))?;
            answer.elements().iter().try_for_each(TopicPartitionListElem::error).map(|()| answer)
        });
        let offset = |at: Offset| if let Offset::Offset(offset) = at { Some(offset) } else { None };
        answer.elements().iter().filter_map(|part| Some((part.partition(), offset(part.offset())?))).collect()
    };
    tokio::task::spawn_blocking(asked).await.unwrap()
}

/// Deletes topics, so that a broker that is used by many runs does not fill up. One that stays behind harms no other test.
pub async fn delete(topics: &[&str]) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", brokers()).create().unwrap();
    let _ = admin.delete_topics(topics, &AdminOptions::new()).await;
}
