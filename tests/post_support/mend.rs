//! Passes that a person asks for, and Kylo's own tab when people rename it.

use kylo::domain::sheet::Value;
use kylo::flow::post::{Mend, Owner, Poster};

use crate::post_support::gateway::Fault;
use crate::post_support::world::{SHEET, World};

const HEADERS: Mend = Mend { headers: true, take_over: false };
const TAKE_OVER: Mend = Mend { headers: false, take_over: true };

async fn world_of_two_rows() -> World {
    let world = World::new(&["710"]).await;
    world.add("710", "a", "A", 1).await;
    world.add("710", "b", "B", 2).await;
    world.settle().await;
    world
}

fn poster_of(world: &World, environment: &str) -> Poster {
    let mut options = world.options();
    options.environment = environment.to_owned();
    Poster::new(options)
}

#[tokio::test]
async fn a_renamed_control_tab_is_known_by_its_sheet_id_and_no_second_one_is_made() {
    let world = world_of_two_rows().await;
    let before = world.book().grid("_kylo").sheet_id;
    world.service.edit(SHEET, |book| book.grid_mut("_kylo").title = "do not touch".to_owned());
    for row in ["c", "d"] {
        world.add("710", row, row, 3).await;
        world.settle().await;
    }
    assert!(!world.book().has("_kylo"));
    assert_eq!(world.book().grid("do not touch").sheet_id, before);
    let (reads, calls) = (world.service.n_calls("read"), world.service.n_calls("directory"));
    world.add("710", "e", "E", 3).await;
    world.post().await;
    assert_eq!((world.service.n_calls("read") - reads, world.service.n_calls("directory") - calls), (1, 0), "its new title is remembered");
    world.assert_equal("710").await;
}

#[tokio::test]
async fn a_take_over_is_one_post_after_which_the_other_environment_leaves_the_spreadsheet_alone() {
    let world = world_of_two_rows().await;
    let (old, staging) = (world.book().grid("_kylo").sheet_id, poster_of(&world, "staging"));
    let route = world.route("710").await;
    let owner = staging.owner(&route.spreadsheet).await.unwrap();
    assert!(matches!(&owner, Owner { environment: Some(theirs), last_post: Some(_), generation: 1.. } if theirs == "default"), "{owner:?}");
    let before = world.service.n_calls("apply");
    assert_eq!(staging.mend(std::slice::from_ref(&route), Mend::default()).await.unwrap().parked, 1, "not without being asked to");
    assert_eq!(world.service.n_calls("apply"), before);

    let round = staging.mend(std::slice::from_ref(&route), TAKE_OVER).await.unwrap();
    assert_eq!((round.posted, round.parked), (1, 0), "{round:?}");
    assert_eq!(staging.owner(&route.spreadsheet).await.unwrap().environment.as_deref(), Some("staging"));
    assert_ne!(world.book().grid("_kylo").sheet_id, old, "what the other one has under way is refused");
    world.add("710", "c", "C", 3).await;
    assert_eq!(world.post().await.parked, 1, "the other environment's poster");
    world.clock.advance(std::time::Duration::from_secs(901));
    assert_eq!(staging.post_once().await.unwrap().posted, 1);
    assert_eq!(world.pending("710").texts("Source"), ["A", "B", "C"]);
}

#[tokio::test]
async fn deleting_the_control_tab_takes_nothing_over_because_the_fence_names_the_environment_too() {
    let world = world_of_two_rows().await;
    world.add("710", "c", "C", 3).await;
    world.service.edit(SHEET, |book| book.grids.retain(|grid| grid.title != "_kylo"));
    assert_eq!(poster_of(&world, "staging").post_once().await.unwrap().parked, 1);
    world.clock.advance(std::time::Duration::from_secs(901));
    world.assert_equal("710").await;
}

#[tokio::test]
async fn a_missing_header_parks_until_it_is_mended_on_request_and_nothing_typed_is_lost() {
    let world = world_of_two_rows().await;
    world.edit("710", |tab| {
        tab.type_in("A", "Target_Sheet", "KEEP");
        let column = tab.column("Amount");
        tab.rows[0][column] = Value::Empty;
        // Machine cells that a person has changed while nobody looked.
        tab.rows[1][column] = Value::Number(99.0);
    });
    world.add("710", "c", "C", 3).await;
    assert_eq!(world.post().await.parked, 1);
    let route = [world.route("710").await];
    assert_eq!(world.poster().mend(&route, Mend::default()).await.unwrap().parked, 1, "not without being asked to");
    let round = world.poster().mend(&route, HEADERS).await.unwrap();
    assert_eq!((round.posted, round.parked), (2, 0), "the header, then the rows: {round:?}");
    assert_eq!(world.count("SELECT count(*) FROM control.company_trouble").await, 0);
    world.assert_equal("710").await;
    let tab = world.pending("710");
    assert_eq!(tab.text(tab.row_of("A"), "Target_Sheet"), "KEEP");
}

#[tokio::test]
async fn a_mended_header_whose_answer_never_came_is_settled_by_the_next_pass() {
    let world = world_of_two_rows().await;
    world.edit("710", |tab| {
        tab.type_in("A", "Target_Sheet", "KEEP");
        tab.rows[0][2] = Value::Empty;
    });
    world.service.fault(Fault::AppliedAnswerLost);
    let route = [world.route("710").await];
    assert_eq!(world.poster().mend(&route, HEADERS).await.unwrap().in_doubt, 1);
    world.clock.advance(std::time::Duration::from_secs(40));
    world.assert_equal("710").await;
    let tab = world.pending("710");
    assert_eq!(tab.text(tab.row_of("A"), "Target_Sheet"), "KEEP");
}

#[tokio::test]
async fn a_request_of_a_person_makes_no_call_for_a_company_in_shadow() {
    let world = world_of_two_rows().await;
    let mut options = world.options();
    options.canary = [kylo::domain::ids::CompanyId::parse("999").unwrap()].into();
    world.edit("710", |tab| tab.rows[1][2] = Value::Text("changed".to_owned()));
    let before = world.service.lock().calls.len();
    Poster::new(options).mend(&[world.route("710").await], Mend { headers: true, take_over: true }).await.unwrap();
    assert_eq!(world.service.lock().calls.len(), before);
}
