//! What an audit could not judge is named: silence means that it was looked at.

use fake_sheets::faults::Answer;
use fake_sheets::{Fault, FaultKind};
use kylo::runtime::audit::connect;
use kylo::store::error::describe;
use sqlx::Connection;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use super::database::Database;
use super::messages::{batch, row};
use super::world::{Mode, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spreadsheet_that_was_never_posted_to_is_named_and_one_that_cannot_be_read_too() {
    let mut world = World::with_partitions(1).await;
    world.add(&["750"]).await;
    let mut gone = world.usual_place("751");
    gone.spreadsheet = "sheet-751-gone".to_owned();
    world.configure(&gone).await;
    world.start(&Mode::Shadow);
    let at = world.publish(&batch("750", "b-1", 0, &[row("t1", "-1.00", "SHADOW")])).await;
    world.consumed(&[at]).await;
    world.stop().await;
    let report = world.audit().await;
    assert_eq!(report.findings, [], "{}", report.summary());
    let never = |line: &String| line.contains("the pending tab of company 750 in spreadsheet sheet-750") && line.contains("nothing was posted");
    assert!(report.not_judged.iter().any(never), "{:?}", report.not_judged);
    assert_eq!((report.tabs_judged, report.tabs_not_judged), (0, u64::try_from(report.not_judged.len()).unwrap()));
    assert!(report.incomplete.iter().any(|line| line.contains("sheet-751-gone cannot be read")), "{:?}", report.incomplete);

    // Once it is posted, it is judged.
    sqlx::query("DELETE FROM control.company_config WHERE company_id = '751'").execute(&world.control.pool).await.unwrap();
    world.start(&Mode::Post);
    world.settled(&["750"]).await;
    world.stop().await;
    let report = world.audit_is_clean("when it is posted").await;
    assert_eq!((report.tabs_judged, report.not_judged), (2, Vec::new()));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_stay_away_for_a_moment_do_not_leave_an_audit_incomplete() {
    let mut world = World::with_partitions(1).await;
    world.add(&["752"]).await;
    world.start(&Mode::Post);
    let at = world.publish(&batch("752", "b-1", 0, &[row("t1", "-1.00", "ASKED AGAIN")])).await;
    world.consumed(&[at]).await;
    world.settled(&["752"]).await;
    world.stop().await;
    // Of the directory and of a tab: an error of the service, a cut, and a connection that is refused.
    for skip in [0, 1] {
        for kind in [FaultKind::Answer { answer: Answer::Unavailable }, FaultKind::DropBefore, FaultKind::Refuse] {
            world.model().push_fault(Fault::once("read", kind).after(skip).for_spreadsheet("sheet-752"));
        }
    }
    let report = world.audit_is_clean("although answers stayed away").await;
    assert_eq!(report.tabs_judged, 2);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_is_cut_is_tried_once_more() {
    for ssl in ["disable", "prefer"] {
        is_tried_once_more(ssl).await;
    }
}

async fn is_tried_once_more(ssl: &str) {
    let database = Database::create().await;
    let mut url = url::Url::parse(&database.dsn).unwrap();
    let server = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
    url.set_port(Some(door.local_addr().unwrap().port())).unwrap();
    url.set_query(Some(&format!("sslmode={ssl}")));
    let keeper = tokio::spawn(async move {
        for is_let_in in [false, true, false, false] {
            let (mut client, _) = door.accept().await.unwrap();
            if is_let_in {
                let mut server = TcpStream::connect(&server).await.unwrap();
                // Ends with the client, however that ends.
                let _ = copy_bidirectional(&mut client, &mut server).await;
            }
        }
    });
    connect(url.as_str()).await.unwrap().close().await.unwrap();
    let error = connect(url.as_str()).await.unwrap_err();
    let said = describe(&error);
    assert!(said.starts_with("connection failed") || said.starts_with("the connection was closed"), "{ssl}: {said}");
    keeper.await.unwrap();
}
