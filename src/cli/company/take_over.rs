//! `kylo company take-over`: accepts a spreadsheet in which another environment's Kylo has worked.
//!
//! What must never happen here: a take-over that nobody has confirmed, or one in shadow mode, which writes nothing to Google.

use std::sync::Arc;

use super::company_id;
use crate::cli::connect::{control, failed};
use crate::cli::failure::Failed;
use crate::cli::{Outcome, output, plan};
use crate::config::Settings;
use crate::flow::post::Mend;
use crate::runtime::tools;

/// Take over the spreadsheet of a company from another environment's Kylo
///
/// Shows whose it is; with --yes puts this environment's mark into it and brings the company's tabs up to date. What the other environment has under way
/// is refused by Google from then on, and its workers leave the spreadsheet alone. Stop them first: two that post to one spreadsheet take turns in vain.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kylo company take-over 710\n  KYLO_SHEETS_POST=1 kylo company take-over 710 --yes\n\n\
    Exit codes: 0 done (or shown, or nothing to take over), 1 the spreadsheet cannot be read or written, or the company is in shadow, 2 usage or configuration.")]
pub struct Args {
    /// A company whose tabs are in the spreadsheet
    id: String,
    /// Do it
    #[arg(long)]
    yes: bool,
}

pub async fn run(args: &Args, settings: &Settings) -> anyhow::Result<Outcome> {
    let id = company_id(&args.id)?;
    settings.sheets.key_file()?;
    let control = control(settings).await?;
    let route = plan::route(&control, &id).await?;
    let poster = tools::poster(settings, &control)?;
    let owner = poster.owner(&route.spreadsheet).await.map_err(|error| plan::explain(&route, &error))?;
    let (spreadsheet, ours) = (&route.spreadsheet, &settings.environment);
    let theirs = match owner.environment {
        None => {
            output::line(&format!("spreadsheet {spreadsheet} belongs to nobody: the first post makes it that of environment {ours:?}"))?;
            return Ok(Outcome::Done);
        }
        Some(theirs) if theirs == *ours => {
            output::line(&format!("spreadsheet {spreadsheet} belongs to this environment ({ours:?}) already"))?;
            return Ok(Outcome::Done);
        }
        Some(theirs) => theirs,
    };
    let last = owner.last_post.map_or_else(String::new, |at| format!(", last posted to at {at}"));
    output::line(&format!("spreadsheet {spreadsheet} belongs to environment {theirs:?}{last} ({} posts); this one is {ours:?}", owner.generation))?;
    if !args.yes {
        output::note("nothing was changed; stop the workers of that environment, then take it over with --yes");
        return Ok(Outcome::Done);
    }
    plan::refuse_shadow(settings, &id, "a take-over writes into the spreadsheet")?;
    poster.mend(&[Arc::clone(&route)], Mend { take_over: true, headers: false }).await.map_err(|error| failed("take it over", &error))?;
    let now = poster.owner(&route.spreadsheet).await.map_err(|error| plan::explain(&route, &error))?;
    if now.environment.as_deref() != Some(ours.as_str()) {
        return Err(Failed::new(format!("spreadsheet {spreadsheet} was not taken over")).hint("`kylo status` says what its post waits for").into());
    }
    output::line(&format!("spreadsheet {spreadsheet} belongs to environment {ours:?} now"))?;
    Ok(Outcome::Done)
}
