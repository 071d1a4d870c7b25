//! What must hold of posts.

use std::time::Duration;

use kylo::domain::fence;
use kylo::domain::sheet::MetadataEntry;
use kylo::flow::post::Poster;

use crate::post_support::gateway::Fault;
use crate::post_support::world::{SHEET, World};

pub async fn world_of_three() -> World {
    let world = World::new(&["710"]).await;
    for (id, description) in [("t1", "STARBUCKS"), ("t2", "WALMART"), ("t3", "UBER")] {
        world.add("710", id, description, 100).await;
    }
    world.settle().await;
    world
}

/// Nothing twice, nothing missing; every fence entry belongs to a confirmed post, and each of those is in the ledger once.
async fn assert_exactly_once(world: &World) {
    world.assert_equal("710").await;
    let confirmed = world.count("SELECT count(*) FROM control.sheet_intents WHERE state = 'confirmed'").await;
    assert_eq!(world.book().metadata.len() as i64, confirmed, "what landed is not what is confirmed");
    let rows = "SELECT count(*) FROM control.sheet_intents, jsonb_array_elements(tabs) t WHERE state = 'confirmed' AND (t->>'row_count')::int > 0";
    assert_eq!(world.count("SELECT count(*) FROM control.sheet_posts").await, world.count(rows).await);
}

pub async fn i4_a_batch_that_arrives_after_its_successor_is_refused() {
    let world = world_of_three().await;
    world.service.fault(Fault::LandsLater);
    world.add("710", "t4", "AMAZON", 5).await;
    assert_eq!(world.post().await.in_doubt, 1, "a batch is in the air");
    world.settle().await;
    assert_eq!(world.service.land_late(), 0, "it landed beside its successor");
    world.assert_equal("710").await;
}

pub async fn i4_post_after_post_lands() {
    let world = world_of_three().await;
    world.add("710", "t4", "AMAZON", 5).await;
    assert_exactly_once(&world).await;
}

/// As if a hundred more posts had landed: the next one must prune, and so change the epoch.
pub fn fill_the_fence(world: &World) {
    world.service.edit(SHEET, |book| {
        let highest = fence::highest(&book.metadata);
        let mark = format!(r#"{{"intent":"{}","spreadsheet":"{SHEET}","environment":"default"}}"#, uuid::Uuid::new_v4());
        let entry = |n: i64| MetadataEntry { id: fence::id(highest + n).unwrap(), key: fence::KEY.to_owned(), value: mark.clone() };
        book.metadata.extend((1..=100).map(entry));
    });
}

pub async fn i4_a_batch_that_arrives_after_its_fence_was_pruned_is_refused() {
    let world = world_of_three().await;
    world.service.fault(Fault::LandsLater);
    world.add("710", "t4", "AMAZON", 5).await;
    assert_eq!(world.post().await.in_doubt, 1, "a batch is in the air");
    fill_the_fence(&world);
    world.settle().await;
    world.add("710", "t5", "EBAY", 5).await;
    world.settle().await;
    assert!(world.book().metadata.len() < 100, "the fence was pruned");
    assert_eq!(world.service.land_late(), 0, "it landed although its epoch is over");
    world.assert_equal("710").await;
}

pub async fn i4_whatever_becomes_of_an_answer_what_landed_is_what_is_confirmed() {
    for (n, fault) in [Fault::AppliedAnswerLost, Fault::Lost].into_iter().enumerate() {
        let world = world_of_three().await;
        world.service.fault(fault);
        world.add("710", &format!("n{n}"), "AMAZON", 5).await;
        world.post().await;
        world.clock.advance(Duration::from_secs(5));
        assert_exactly_once(&world).await;
    }
}

pub async fn i7_what_people_do_between_read_and_write_is_healed() {
    let world = world_of_three().await;
    world.resolve("710", "WALMART").await;
    world.service.fault(Fault::PeopleFirst(Box::new(|book| book.grid_mut("710 Pending").insert(1, 1, false).unwrap())));
    assert_exactly_once(&world).await;
}

pub async fn i7_a_row_that_was_deleted_comes_back_with_what_was_typed() {
    let world = world_of_three().await;
    world.edit("710", |tab| tab.type_in("STARBUCKS", "Target_Sheet", "KEEP"));
    world.add("710", "t4", "AMAZON", 5).await;
    world.settle().await;
    world.edit("710", |tab| {
        let row = tab.row_of("STARBUCKS");
        tab.delete(row, 1).unwrap();
    });
    world.add("710", "t5", "EBAY", 5).await;
    world.assert_equal("710").await;
    let tab = world.pending("710");
    assert_eq!(tab.text(tab.row_of("STARBUCKS"), "Target_Sheet"), "KEEP");
}

pub async fn i3_a_company_outside_the_canary_list_is_left_alone() {
    let world = World::new(&["710", "711"]).await;
    for company in ["710", "711"] {
        world.add(company, "t1", "STARBUCKS", 1).await;
    }
    let mut options = world.options();
    options.canary = ["710"].into_iter().map(|id| kylo::domain::ids::CompanyId::parse(id).unwrap()).collect();
    Poster::new(options).post_once().await.unwrap();
    assert!(world.book().has("710 Pending"));
    assert!(!world.book().has("711 Pending"), "it was posted");
}
