//! What must hold of offsets, letters and queues.

use crate::desk::{Desk, batch, eventually, record};

pub async fn i5_an_offset_is_stored_once_its_message_is_durable() {
    let desk = Desk::new().await;
    let owner = desk.owner();
    desk.set(|script| script.shut = true);
    owner.send(&[batch(0, 5, "a", "a1"), batch(0, 6, "a", "a2")]);
    eventually("the messages to be taken", async || desk.get(|script| script.came) > 0).await;
    assert_eq!(owner.stored(0), None, "nothing is durable yet");
    desk.set(|script| script.shut = false);
    desk.applied_are("a", &["a1", "a2"]).await;
    owner.stored_up_to(0, 7).await;
}

pub async fn i5_an_outage_stops_its_company_and_no_offset_passes_its_messages() {
    let desk = Desk::new().await;
    let owner = desk.owner();
    desk.set(|script| script.down.extend(["a".to_owned()]));
    owner.send(&[batch(0, 0, "a", "a1"), batch(0, 1, "b", "b1")]);
    desk.applied_are("b", &["b1"]).await;
    owner.send(&[batch(0, 2, "a", "a2"), batch(0, 3, "b", "b2")]);
    // The second of a company is applied only when the engine has heard of the first.
    desk.applied_are("b", &["b1", "b2"]).await;
    assert_eq!(owner.stored(0), None, "a1 is not durable");
    desk.set(|script| script.down.clear());
    desk.applied_are("a", &["a1", "a2"]).await;
    owner.stored_up_to(0, 4).await;
    assert_eq!(desk.control("SELECT count(*) FROM control.dead_letters").await, 0, "an outage is no poison");
}

pub async fn i5_what_was_taken_before_a_revoke_moves_nothing_after_it() {
    let desk = Desk::new().await;
    let owner = desk.owner();
    desk.set(|script| script.shut = true);
    owner.send(&[batch(0, 10, "a", "a1")]);
    eventually("the message to be taken", async || desk.get(|script| script.came) == 1).await;
    owner.lose(&[0]);
    owner.assign(&[0]);
    // Of the same company on another partition: it is applied after the engine has heard of the first.
    owner.send(&[batch(1, 0, "a", "a2")]);
    desk.set(|script| script.shut = false);
    owner.stored_up_to(1, 1).await;
    desk.applied_are("a", &["a1", "a2"]).await;
    assert_eq!(owner.stored(0), None, "the position belongs to the new assignment");
}

pub async fn i5_a_poison_message_is_a_dead_letter_before_its_offset_moves() {
    let desk = Desk::new().await;
    let owner = desk.owner();
    owner.send(&[record(0, 3, "a", "not json")]);
    owner.stored_up_to(0, 4).await;
    assert_eq!(desk.control("SELECT count(*) FROM control.dead_letters WHERE original = 'not json'").await, 1);
}

pub async fn i6_held_messages_are_all_applied_before_newer_ones() {
    const HELD: &str = "SELECT count(*) FROM control.held_messages";
    let desk = Desk::new().await;
    let owner = desk.owner();
    desk.set(|script| script.parked.extend(["a".to_owned()]));
    owner.send(&[batch(0, 0, "a", "a1"), batch(0, 1, "a", "a2")]);
    owner.stored_up_to(0, 2).await;
    assert_eq!(desk.control(HELD).await, 2, "what is stored is durable");
    let refused = desk.get(|script| script.refused);
    desk.retry_now().await;
    eventually("another try", async || desk.get(|script| script.refused) > refused).await;
    eventually("the drain to be over", async || {
        desk.control("SELECT count(*) FROM control.company_trouble WHERE drain_holder IS NULL AND retry_at > now()").await == 1
    })
    .await;
    assert_eq!(desk.control(HELD).await, 2, "what is stuck stays in the queue");
    desk.set(|script| script.parked.clear());
    owner.send(&[batch(0, 2, "a", "a3")]);
    owner.stored_up_to(0, 3).await;
    desk.retry_now().await;
    desk.applied_are("a", &["a1", "a2", "a3"]).await;
}
