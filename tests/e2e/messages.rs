//! Messages, as n8n's workflows would publish them, through the production client.

use chrono::{DateTime, TimeDelta, Utc};
use kylo::adapters::kafka::producer::{Delivered, OutRecord};
use serde_json::{Value, json};

use super::world::World;

impl World {
    pub async fn publish_raw(&self, topic: &str, key: Option<&str>, payload: Option<&[u8]>, headers: &[(&str, &str)]) -> Delivered {
        let record = OutRecord {
            topic: topic.to_owned(),
            key: key.map(|key| key.as_bytes().to_vec()),
            payload: payload.map(<[u8]>::to_vec),
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        };
        self.producer.publish(record).await.unwrap()
    }

    pub async fn publish(&self, message: &Value) -> Delivered {
        let company = message["company_id"].as_str().unwrap();
        self.publish_raw(&self.topic_txns(), Some(company), Some(message.to_string().as_bytes()), &[]).await
    }

    /// All at once, in order.
    pub async fn publish_all(&self, messages: &[Value]) -> Vec<Delivered> {
        let keyed: Vec<_> = messages.iter().map(|message| (message["company_id"].as_str().unwrap(), message)).collect();
        self.publish_keyed(&keyed).await
    }

    pub async fn publish_keyed(&self, messages: &[(&str, &Value)]) -> Vec<Delivered> {
        let record = |(key, message): &(&str, &Value)| OutRecord {
            topic: self.topic_txns(),
            key: Some(key.as_bytes().to_vec()),
            payload: Some(message.to_string().into_bytes()),
            headers: Vec::new(),
        };
        let records: Vec<OutRecord> = messages.iter().map(record).collect();
        self.producer.publish_all(&records).await.into_iter().map(Result::unwrap).collect()
    }

    pub async fn promote(&self, company: &str, request: &str) {
        let message = json!({"event_type": "PROMOTE_RULES", "version": 1, "company_id": company, "created_at": minute(0), "request_id": request});
        self.publish_raw(&self.topic_promote(), Some(company), Some(message.to_string().as_bytes()), &[]).await;
    }

    /// Waits until a promote request has been applied.
    pub async fn promoted(&self, company: &str, request: &str) {
        self.company_counts(company, &format!("SELECT count(*) FROM promote_requests WHERE request_id = '{request}'"), 1).await;
    }
}

/// A moment of the test's day.
pub fn minute(minutes: i64) -> DateTime<Utc> {
    "2025-08-26T12:00:00Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::minutes(minutes)
}

/// A batch made `at` minutes into the test's day.
pub fn batch(company: &str, batch_id: &str, at: i64, transactions: &[Value]) -> Value {
    json!({"event_type": "TXNS_BATCH", "version": 2, "batch_id": batch_id, "company_id": company, "created_at": minute(at), "transactions": transactions})
}

/// A row with an id.
pub fn row(id: &str, amount: &str, description: &str) -> Value {
    json!({"id": id, "date": "2025-08-26", "amount": amount, "description": description})
}
