use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn row(id: &str, spreadsheet: &str, pending: &str, active: &str) -> CompanyRow {
    CompanyRow {
        company_id: id.to_owned(),
        db_dsn_rw: Some("postgres://u:s3cr3t@h/x".to_owned()),
        db_schema: Some("app_1".to_owned()),
        spreadsheet_id: Some(spreadsheet.to_owned()),
        tab_pending: Some(pending.to_owned()),
        tab_active: Some(active.to_owned()),
        version: 1,
    }
}

fn some_row() -> impl Strategy<Value = CompanyRow> {
    let title = prop::sample::select(vec!["A", "a", "B", "Ü", "ü", "C", " ", "_Kylo"]);
    (0..6_u8, prop::sample::select(vec!["s1", "s2", "s/3"]), title.clone(), title)
        .prop_map(|(id, spreadsheet, pending, active)| row(&format!("c{id}"), spreadsheet, pending, active))
}

proptest! {
    #[test]
    fn no_two_routes_share_a_tab_and_no_reason_tells_a_secret(rows in prop::collection::vec(some_row(), 0..8), owner in 0..6_u8) {
        let bound = Bound::from([(("s1".to_owned(), "a".to_owned()), format!("c{owner}"))]);
        let found = routes(&rows, &bound);
        let mut tabs = BTreeSet::new();
        for (company, route) in &found {
            match route {
                Ok(route) => {
                    prop_assert!(rows.iter().any(|row| row.company_id == company.as_str() && row.tab_pending.as_deref() == Some(&*route.tab_pending)));
                    for title in [&route.tab_pending, &route.tab_active] {
                        prop_assert!(tabs.insert((route.spreadsheet.clone(), title.to_lowercase())), "{title} is shared");
                    }
                }
                Err(refused) => prop_assert!(!refused.reason.is_empty()),
            }
        }
        let told = format!("{found:?}");
        prop_assert!(!told.contains("s3cr3t"));
        let ids: BTreeSet<_> = rows.iter().map(|row| row.company_id.as_str()).collect();
        prop_assert_eq!(found.keys().map(CompanyId::as_str).collect::<BTreeSet<_>>(), ids, "every company is told about");
    }

    #[test]
    fn a_company_whose_row_is_good_and_whose_tabs_are_its_own_is_served_whatever_the_other_rows_are(rows in prop::collection::vec(some_row(), 0..8)) {
        let mut all = rows.clone();
        all.push(row("own", "s1", "own Pending", "own Active"));
        let own = CompanyId::parse("own").unwrap();
        prop_assert!(routes(&all, &Bound::new())[&own].is_ok());
    }

    #[test]
    fn of_a_clash_the_company_that_is_bound_goes_on_and_without_one_nobody_does(first in 0..3_usize, n in 2..4_usize) {
        let rows: Vec<_> = (0..n).map(|at| row(&format!("c{at}"), "s1", "Shared", &format!("own {at}"))).collect();
        let served = |bound: &Bound| routes(&rows, bound).into_values().filter(Result::is_ok).count();
        prop_assert_eq!(served(&Bound::new()), 0);
        let bound = Bound::from([(("s1".to_owned(), "shared".to_owned()), format!("c{}", first % n))]);
        prop_assert_eq!(served(&bound), 1);
        let owner = CompanyId::parse(&format!("c{}", first % n)).unwrap();
        prop_assert!(routes(&rows, &bound)[&owner].is_ok());
    }

    #[test]
    fn a_schema_name_needs_no_quoting(text in "[a-z_A-Z0-9;\" .-]{0,52}") {
        let fits = text.len() <= 50
            && text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            && !text.starts_with("pg_");
        prop_assert_eq!(SchemaName::parse(&text).is_ok(), fits && !["control", "public", "information_schema"].contains(&text.as_str()));
    }
}
