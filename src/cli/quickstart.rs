//! stub
use super::exit::{OK, Result};
/// Shows it.
#[derive(Debug, clap::Args)]
pub struct Quickstart {
    /// Go on serving.
    #[arg(long)]
    keep: bool,
}
/// Runs.
pub async fn run(_args: Quickstart) -> Result<u8> {
    Ok(OK)
}
