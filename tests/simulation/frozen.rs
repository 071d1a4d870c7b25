//! One poster is frozen at each step of its pass in turn, wakes after others have posted, and must do no harm: the histories that random ones meet
//! once in thousands (goal R3).

use kylo::domain::sheet::Value;

use super::interleavings::Process;
use super::sheets::{Fate, When};
use super::store::Broken;
use super::world::{SHEET, Setup, World};
use crate::post_support::book::Grid;

const TAB: &str = "700 Pending";

/// What people do before the frozen one's read, while it sleeps, and right after it woke.
struct Story {
    before: fn(&mut Grid),
    meanwhile: fn(&mut Grid),
    after: fn(&mut Grid),
    /// What nobody need keep.
    typed_over: Option<&'static str>,
    /// People have spoilt the tab: it is compared at the end, as by the sweep. Otherwise only what the reconciler finds to be due is posted.
    is_swept: bool,
}

/// A machine cell is edited, and put back by hand: the frozen one has seen it, nobody else ever does.
const PUT_BACK: Story = Story {
    before: |tab| tab.type_in("COFFEE", "Amount", "edited"),
    meanwhile: |tab| tab.set(tab.row_of("COFFEE"), "Amount", Value::Number(1.0)),
    after: |_| {},
    typed_over: None,
    is_swept: false,
};

/// A person types over what the frozen one has read, others read that, and the row is deleted before anybody reads it again.
const TYPED_OVER: Story = Story {
    before: |tab| tab.type_in("COFFEE", "Match_Notes", "older"),
    meanwhile: |tab| tab.type_in("COFFEE", "Match_Notes", "newer"),
    after: |tab| tab.delete(tab.row_of("COFFEE"), 1).unwrap(),
    typed_over: Some("older"),
    is_swept: true,
};

fn edit(world: &World, how: fn(&mut Grid)) {
    how(world.sheets.lock().books.get_mut(SHEET).unwrap().grid_mut(TAB));
}

/// One row on its tab. `turns`: how long each transaction and call may take.
async fn posted(turns: usize, broken: Broken) -> World {
    let world = World::new(1, Setup { n_companies: 1, turns, broken, ..Setup::default() });
    world.tables.lock().unwrap().add("700", "a", "COFFEE", 100);
    world.settle().await.unwrap();
    world
}

/// One poster frozen after so many steps. `None` = its pass was over before.
async fn woken_after(steps: usize, story: &Story, broken: Broken) -> Option<Result<(), String>> {
    let mut world = posted(1, broken).await;
    edit(&world, story.before);
    world.tables.lock().unwrap().add("700", "b", "TEA", 200);
    world.fair();
    let mut frozen = Process::start(&world).after(steps)?;
    edit(&world, story.meanwhile);
    world.sheets.lock().people.taken_back.extend(story.typed_over.map(str::to_owned));
    world.fair();
    world.settle().await.unwrap();
    world.holds().unwrap();
    frozen.finish().unwrap();
    edit(&world, story.after);
    let rested = if story.is_swept { world.settle().await } else { world.rest().await };
    Some(rested.and_then(|()| world.holds()))
}

/// A post lands after its successor has read what people typed since, and is found by its fence; after so many steps of the successor's pass the
/// row is deleted. `None` = the pass was over before.
async fn deleted_after(steps: usize, broken: Broken) -> Option<Result<(), String>> {
    let mut world = posted(1, broken).await;
    edit(&world, TYPED_OVER.before);
    world.tables.lock().unwrap().add("700", "b", "TEA", 200);
    world.fair();
    world.sheets.lock().next_fate = Some(Fate::Late(When::BeforeNextWrite));
    let mut first = Process::start(&world);
    first.step();
    first.finish().unwrap();
    edit(&world, TYPED_OVER.meanwhile);
    world.sheets.lock().people.taken_back.insert("older".to_owned());
    world.fair();
    let mut successor = Process::start(&world).after(steps)?;
    edit(&world, TYPED_OVER.after);
    let is_read = world.tables.lock().unwrap().ever_typed.iter().any(|(_, text)| text == "newer");
    if !is_read {
        world.sheets.lock().people.taken_back.insert("newer".to_owned());
    }
    successor.finish().unwrap();
    world.fair();
    Some(world.settle().await.and_then(|()| world.holds()))
}

/// A post that removes a row is in doubt, a person types over what it has read, promote reads that, and after so many steps of the next post the row
/// is deleted. `None` = the pass was over before.
async fn deleted_in_doubt(steps: usize, fate: Fate, broken: Broken) -> Option<Result<(), String>> {
    let mut world = posted(1, broken).await;
    let tea = world.tables.lock().unwrap().add("700", "b", "TEA", 200);
    edit(&world, TYPED_OVER.before);
    world.settle().await.unwrap();
    world.tables.lock().unwrap().resolve("700", tea);
    world.fair();
    world.sheets.lock().next_fate = Some(fate);
    let mut first = Process::start(&world);
    first.step();
    first.finish().unwrap();
    edit(&world, TYPED_OVER.meanwhile);
    world.promote_reads(&world.poster()).await;
    world.fair();
    let mut successor = Process::start(&world).after(steps)?;
    edit(&world, TYPED_OVER.after);
    successor.finish().unwrap();
    world.fair();
    Some(world.settle().await.and_then(|()| world.holds()))
}

fn delete_row(world: &World) {
    edit(world, TYPED_OVER.after);
}

fn delete_tab(world: &World) {
    world.sheets.lock().books.get_mut(SHEET).unwrap().grids.retain(|grid| grid.title != TAB);
}

/// After so many steps of a post, a person types over what it has read, promote reads that, and `delete` is done. `None` = the pass was over before.
async fn read_beside(steps: usize, removes: bool, fate: Option<Fate>, delete: fn(&World), broken: Broken) -> Option<Result<(), String>> {
    let mut world = posted(1, broken).await;
    let tea = world.tables.lock().unwrap().add("700", "b", "TEA", 200);
    edit(&world, TYPED_OVER.before);
    world.sheets.lock().people.taken_back.insert("older".to_owned());
    world.settle().await.unwrap();
    if removes {
        world.tables.lock().unwrap().resolve("700", tea);
    } else {
        world.tables.lock().unwrap().add("700", "c", "MILK", 300);
    }
    world.fair();
    world.sheets.lock().next_fate = fate;
    let mut poster = Process::start(&world).after(steps)?;
    edit(&world, TYPED_OVER.meanwhile);
    world.promote_reads(&world.poster()).await;
    delete(&world);
    poster.finish().unwrap();
    world.fair();
    Some(world.settle().await.and_then(|()| world.holds()))
}

/// Promote is frozen after so many steps of its read; meanwhile a person types over what it may have seen, and a post reads that. It stores what it has
/// seen when it wakes, and the row is deleted. `None` = its read was over before.
async fn promote_woken_after(steps: usize, broken: Broken) -> Option<Result<(), String>> {
    let mut world = posted(8, broken).await;
    edit(&world, TYPED_OVER.before);
    world.sheets.lock().people.taken_back.insert("older".to_owned());
    world.fair();
    let mut promote = Process::promote(&world).after(steps)?;
    edit(&world, TYPED_OVER.meanwhile);
    world.fair();
    world.settle().await.unwrap();
    promote.finish().unwrap();
    edit(&world, TYPED_OVER.after);
    Some(world.settle().await.and_then(|()| world.holds()))
}

/// The steps at which `play` does harm, of how many.
fn harmful<F: Future<Output = Option<Result<(), String>>>>(play: impl Fn(usize) -> F) -> (Vec<(usize, String)>, usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let (mut harm, mut steps) = (Vec::new(), 0);
        while let Some(held) = play(steps).await {
            harm.extend(held.err().map(|reason| (steps, reason)));
            steps += 1;
        }
        (harm, steps)
    })
}

/// No step does harm; with the protection `broken`, one does, and this is said of it.
fn assert_harmless<F: Future<Output = Option<Result<(), String>>>>(play: impl Fn(usize, Broken) -> F, broken: Broken, says: &str) {
    let (harm, steps) = harmful(|at| play(at, Broken::Nothing));
    assert!(harm.is_empty() && steps >= 20, "of {steps}: {harm:?}");
    let (harm, _) = harmful(|at| play(at, broken));
    assert!(harm.iter().any(|(_, reason)| reason.contains(says)), "{broken:?} was not seen: {harm:?}");
}

#[test]
fn r3_a_poster_frozen_at_any_step_leaves_no_answer_that_its_tab_does_not_show() {
    assert_harmless(|at, broken| woken_after(at, &PUT_BACK, broken), Broken::AnswersUnnoticed, "Status");
}

#[test]
fn r3_a_poster_frozen_at_any_step_puts_back_nothing_older_than_what_others_have_read() {
    assert_harmless(|at, broken| woken_after(at, &TYPED_OVER, broken), Broken::IntentWithoutLease, "newer");
}

#[test]
fn i7_a_post_found_late_puts_back_nothing_older_than_what_was_read_since() {
    assert_harmless(deleted_after, Broken::OldTypedWhenFound, "newer");
}

#[test]
fn i7_a_row_deleted_while_a_removing_post_is_in_doubt_comes_back_with_what_promote_read_and_nothing_that_was_read_is_lost() {
    for fate in [Fate::NotApplied, Fate::AnswerLost, Fate::Late(When::BeforeNextWrite), Fate::Late(When::AtTheEnd)] {
        assert_harmless(|at, broken| deleted_in_doubt(at, fate, broken), Broken::OldTypedInDoubt, "newer");
    }
}

#[test]
fn i7_what_promote_reads_at_any_step_of_a_post_is_not_lost() {
    for (removes, delete) in [(false, delete_row as fn(&World)), (true, delete_row), (false, delete_tab)] {
        for fate in [None, Some(Fate::NotApplied), Some(Fate::AnswerLost), Some(Fate::Late(When::BeforeNextWrite)), Some(Fate::Late(When::AtTheEnd))]
        {
            assert_harmless(|at, broken| read_beside(at, removes, fate, delete, broken), Broken::BlindPosts, "newer");
        }
    }
}

#[test]
fn i7_promote_frozen_at_any_step_of_its_read_puts_back_nothing_older_than_what_posts_have_read() {
    assert_harmless(promote_woken_after, Broken::BlindPromote, "newer");
}
