//! What became of posts whose answer never came. The fence that was just read decides; nothing else does.

use std::collections::BTreeSet;

use tracing::{info, warn};

use super::{Halt, Session};
use crate::domain::fence::{self, Verdict};
use crate::domain::sheet::MetadataEntry;
use crate::store::control::intents::OpenIntent;
use crate::store::control::posts::Landed;

/// What settling left.
#[derive(Debug, Default)]
pub struct Settled {
    /// Posts found to have landed; they are in the ledger now.
    pub landed: usize,
    /// A batch may still land: the next one must carry its id, even if there is nothing else to send.
    pub is_lingering: bool,
    /// The companies whose rows it may remove.
    pub in_doubt: BTreeSet<String>,
    /// An older version of the spreadsheet is back.
    pub is_restored: bool,
}

impl Session<'_> {
    /// Settles every open intent of the spreadsheet by its metadata.
    pub(super) async fn settle(&mut self, metadata: &[MetadataEntry]) -> Result<Settled, Halt> {
        let store = &self.options.store;
        let mut settled = Settled::default();
        let open = store.open_intents(self.spreadsheet.as_str()).await?;
        // Every open intent was planned upon the generation before its own. If the spreadsheet shows less, it is an older version, and the next batch
        // cannot carry the intent's id: only another epoch stops it.
        let planned_upon = open.iter().map(|intent| intent.generation - 1).max().unwrap_or_default();
        self.row.confirmed_generation = self.row.confirmed_generation.max(planned_upon);
        for intent in open {
            if intent.state == "planned" && store.abandon_intent(intent.intent_id).await? {
                continue;
            }
            match fence::judge(metadata, self.row.confirmed_generation, intent.generation, intent.intent_id) {
                Verdict::Landed => {
                    self.confirm_found(&intent).await?;
                    settled.landed += 1;
                }
                Verdict::TakenBy(other) => self.supersede(&intent, &format!("intent {other} took its generation")).await?,
                Verdict::Overtaken => self.supersede(&intent, "later generations have landed").await?,
                Verdict::ForeignKey(key) => return Err(self.foreign_key(intent.generation, &key)),
                Verdict::OursAbsent | Verdict::Restored => {
                    settled.is_lingering = true;
                    settled.in_doubt.extend(intent.tabs.iter().map(|tab| tab.company.clone()));
                }
            }
        }
        if settled.landed == 0 && fence::is_restored(metadata, self.row.confirmed_generation) {
            warn!(spreadsheet = %self.spreadsheet, "an older version of the spreadsheet was restored: going on from what it shows");
            store.set_all_due(self.spreadsheet.as_str()).await?;
            self.round.again = true;
            settled.is_restored = true;
        }
        Ok(settled)
    }

    /// Confirms a post that was not seen landing. Nobody has seen the tabs after it, so they stay due and are compared.
    pub(super) async fn confirm_found(&mut self, intent: &OpenIntent) -> Result<(), Halt> {
        let landed = Landed {
            intent_id: intent.intent_id,
            spreadsheet_id: self.spreadsheet.as_str(),
            generation: intent.generation,
            tabs: &intent.tabs,
            planned: intent.typed.as_deref(),
            seen: None,
            new_epoch: false,
            control_tab: None,
            at: self.options.clock.now(),
        };
        self.options.store.confirm(&landed).await?;
        self.row.confirmed_generation = self.row.confirmed_generation.max(intent.generation);
        self.round.posted += 1;
        info!(spreadsheet = %self.spreadsheet, intent = %intent.intent_id, "a post in doubt has landed");
        Ok(())
    }

    pub(super) async fn supersede(&self, intent: &OpenIntent, reason: &str) -> Result<(), Halt> {
        self.close(intent.intent_id, "superseded", reason).await
    }

    pub(super) fn foreign_key(&self, generation: i64, key: &str) -> Halt {
        let id = fence::id(generation).unwrap_or_default();
        Halt::Parked(format!(
            "developer metadata {id} of spreadsheet {} stands under the key {key:?}, which is not Kylo's: remove that entry, or use another spreadsheet",
            self.spreadsheet
        ))
    }
}
