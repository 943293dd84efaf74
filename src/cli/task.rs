//! `drydock task` and `drydock daemon`: the queue and who works on it, for operators.

use super::Globals;
use super::acquire::present;
use super::connect::soon;
use super::exit::{OK, Result};
use super::output;
use crate::proto::v1;

const PAGE: i32 = 500;

/// What to do with tasks.
#[derive(Debug, clap::Subcommand)]
pub enum Task {
    /// List tasks, oldest first.
    List {
        /// For example: state = DEAD.
        #[arg(long, value_name = "F", default_value = "", hide_default_value = true)]
        filter: String,
        /// At most so many; 0 is all.
        #[arg(long, value_name = "N", default_value_t = 500)]
        limit: usize,
    },
    /// Let a task run now; a dead one again.
    Retry {
        /// The task.
        task: String,
    },
}

/// What to do with daemons.
#[derive(Debug, clap::Subcommand)]
pub enum Daemons {
    /// List the daemons on this database.
    List,
}

/// Runs a task command.
///
/// # Errors
/// Those of the daemon.
pub async fn run(globals: &Globals, command: Task) -> Result<u8> {
    let daemon = globals.connect().await?;
    match command {
        Task::List { filter, limit } => {
            let mut all = v1::ListTasksResponse::default();
            loop {
                let page_token = std::mem::take(&mut all.next_page_token);
                let request = v1::ListTasksRequest { page_size: PAGE, page_token, filter: filter.clone() };
                let page = daemon.tasks().list_tasks(soon(request)).await?.into_inner();
                all.tasks.extend(page.tasks);
                all.next_page_token = page.next_page_token;
                if output::enough(&mut all.tasks, limit, &mut all.next_page_token) {
                    break;
                }
            }
            output::list(globals.output, &all)?;
        }
        Task::Retry { task } => {
            let request = v1::RetryTaskRequest { task_id: task, request_id: String::new() };
            let answer = daemon.tasks().retry_task(soon(request)).await?.into_inner();
            output::object(globals.output, &present(answer.task)?)?;
        }
    }
    Ok(OK)
}

/// Runs a daemon command.
///
/// # Errors
/// Those of the daemon.
pub async fn daemons(globals: &Globals, command: Daemons) -> Result<u8> {
    match command {
        Daemons::List => {
            let daemon = globals.connect().await?;
            let answer = daemon.system().list_daemons(soon(v1::ListDaemonsRequest {})).await?.into_inner();
            output::list(globals.output, &answer)?;
        }
    }
    Ok(OK)
}
