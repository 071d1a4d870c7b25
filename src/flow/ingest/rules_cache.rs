//! Rules by version, so that triage needs no SQL. What must never happen here: a version trusted that was not read under the company's lock.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::PgConnection;

use crate::domain::company::{Dsn, Route, SchemaName};
use crate::domain::rules::{Rule, RuleSet};
use crate::faults::{Bug, planted};
use crate::store::company::rules;
use crate::store::company::state::StateRow;

type Key = (Dsn, SchemaName, String);

/// A rule set, and the stamp of the version it was read under.
type Stamped = (Option<String>, Arc<RuleSet>);

/// The last rule set seen of each company.
#[derive(Debug, Default)]
pub(crate) struct RulesCache {
    sets: Mutex<HashMap<Key, Stamped>>,
}

impl RulesCache {
    /// The rule sets of locked companies, in the order of `states`. Those whose version or stamp differs from the cached one are read, by one
    /// statement. The number alone does not do: after a restore it is given out a second time.
    pub(crate) async fn current(&self, conn: &mut PgConnection, route: &Route, states: &[StateRow]) -> Result<Vec<Arc<RuleSet>>, sqlx::Error> {
        let key = |state: &StateRow| (route.dsn.clone(), route.schema.clone(), state.company_id.clone());
        let mut sets: Vec<_> = {
            let cached = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
            states.iter().map(|state| cached.get(&key(state)).filter(|cached| is_of(cached, state)).map(|(_, set)| Arc::clone(set))).collect()
        };
        let missing: Vec<_> = states.iter().zip(&sets).filter(|(_, set)| set.is_none()).map(|(state, _)| state.company_id.as_str()).collect();
        if !missing.is_empty() {
            let mut read: HashMap<String, Vec<Rule>> = HashMap::new();
            for (company, rule) in rules::active(conn, &missing).await? {
                read.entry(company).or_default().push(rule);
            }
            let mut cached = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
            for (state, set) in states.iter().zip(&mut sets).filter(|(_, set)| set.is_none()) {
                let fresh = Arc::new(RuleSet::new(state.ruleset_version, read.remove(&state.company_id).unwrap_or_default()));
                cached.insert(key(state), (state.ruleset_stamp.clone(), Arc::clone(&fresh)));
                *set = Some(fresh);
            }
        }
        Ok(sets.into_iter().flatten().collect())
    }
}

/// Whether the cached set is the one in force. A version without a stamp cannot be told from another one of its number; 0 means no rules.
fn is_of((stamp, set): &Stamped, state: &StateRow) -> bool {
    let known = state.ruleset_stamp.is_some() || state.ruleset_version == 0;
    known && set.version == state.ruleset_version && *stamp == state.ruleset_stamp || planted(Bug::OldRulesTrusted)
}
