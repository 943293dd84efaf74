//! `TaskService`.

use std::mem::take;
use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert::task as convert;
use super::page::Page;
use super::{caller, check, fields};
use crate::engine::Engine;
use crate::error::Result;
use crate::model::filter::{Filter, Value};
use crate::proto::v1::task_service_server::TaskService;
use crate::proto::v1::{
    GetTaskRequest, GetTaskResponse, ListTasksRequest, ListTasksResponse, RetryTaskRequest, RetryTaskResponse,
};

/// `drydock.v1.TaskService`.
pub(crate) struct TaskRpc {
    engine: Arc<Engine>,
}

impl TaskRpc {
    pub(crate) fn new(engine: &Arc<Engine>) -> Self {
        Self { engine: Arc::clone(engine) }
    }
}

/// Inside, a claim is `daemon/worker`; who asks for a daemon means all of its workers.
fn claims_of_daemons(filter: Filter) -> Filter {
    match filter {
        Filter::And(filters) => Filter::And(filters.into_iter().map(claims_of_daemons).collect()),
        Filter::Compare(mut compare) => {
            if let ("claimed_by", Value::Text(daemon)) = (compare.field.name, &compare.value)
                && !daemon.is_empty()
            {
                compare.value = Value::Prefix(format!("{daemon}/"));
            }
            Filter::Compare(compare)
        }
    }
}

#[tonic::async_trait]
impl TaskService for TaskRpc {
    async fn list_tasks(&self, request: Request<ListTasksRequest>) -> Result<Response<ListTasksResponse>, Status> {
        let caller = caller(&request)?;
        let mut sent = request.into_inner();
        let (size, token) = (take(&mut sent.page_size), take(&mut sent.page_token));
        let page = Page::open("ListTasks", size, &token, &sent)?;
        let mut query = fields::query(&page, &sent.filter, fields::TASK)?;
        query.filter = query.filter.map(claims_of_daemons);
        let mut found = self.engine.list_tasks(&caller, query).await?;
        let next_page_token = page.cut(&mut found, |task| task.id.to_string());
        let tasks = found.into_iter().map(convert::task).collect();
        Ok(Response::new(ListTasksResponse { tasks, next_page_token }))
    }

    async fn get_task(&self, request: Request<GetTaskRequest>) -> Result<Response<GetTaskResponse>, Status> {
        let caller = caller(&request)?;
        let sent = request.into_inner();
        let task = self.engine.get_task(&caller, check::required("task_id", &sent.task_id)?).await?;
        Ok(Response::new(GetTaskResponse { task: Some(convert::task(task)) }))
    }

    async fn retry_task(&self, request: Request<RetryTaskRequest>) -> Result<Response<RetryTaskResponse>, Status> {
        let caller = caller(&request)?;
        let mut sent = request.into_inner();
        let request_id = take(&mut sent.request_id);
        let key = check::request_key("RetryTask", &request_id, &sent)?;
        let task = self.engine.retry_task(&caller, check::required("task_id", &sent.task_id)?, key).await?;
        Ok(Response::new(RetryTaskResponse { task: Some(convert::task(task)) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_stands_for_its_workers() {
        let filter = Filter::parse("state = RUNNING AND claimed_by = d1", fields::TASK).unwrap().unwrap();
        let filter = claims_of_daemons(filter);
        let values: Vec<&Value> = filter.comparisons().into_iter().map(|compare| &compare.value).collect();
        assert_eq!(values, [&Value::Text("RUNNING".to_owned()), &Value::Prefix("d1/".to_owned())]);
    }
}
