//! `FilesystemService`: requests into the words of `interface::filesystem`, entries out of them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use tonic::{Request, Response, Status, Streaming};

use super::caller;
use super::convert::time::timestamp;
use super::page::Page;
use crate::engine::{Caller, Engine, Opened};
use crate::error::{Error, Reason, Result};
use crate::host::files::{Entry, EntryType};
use crate::interface::command::{Payload, bytes_of};
use crate::interface::filesystem::{
    Begun, Filesystem, Finish, MAX_PIECE, Upload, WriteStart, lease_ended, list, make_directory, path, read, remove,
    rename, stat, unless_ended,
};
use crate::interface::text::escaped;
use crate::proto::v1;
use crate::proto::v1::filesystem_service_server::FilesystemService;

const INTERFACE: &str = "filesystem";

/// `drydock.v1.FilesystemService`.
pub struct FilesystemRpc {
    engine: Arc<Engine>,
    files: Filesystem,
}

impl FilesystemRpc {
    /// One for a daemon: it knows the uploads that are under way.
    #[must_use]
    pub fn new(engine: Arc<Engine>) -> Self {
        Self { engine, files: Filesystem::default() }
    }

    async fn open(&self, caller: &Caller, lease_id: &str) -> Result<Opened> {
        self.engine.open(caller, lease_id, INTERFACE).await
    }
}

#[tonic::async_trait]
impl FilesystemService for FilesystemRpc {
    type ReadFileStream = Pin<Box<dyn Stream<Item = Result<v1::ReadFileResponse, Status>> + Send>>;

    async fn stat_file(&self, request: Request<v1::StatFileRequest>) -> Result<Response<v1::StatFileResponse>, Status> {
        let (caller, request) = (caller(&request)?, request.into_inner());
        let path = path(&request.path, &request.raw_path)?;
        let opened = self.open(&caller, &request.lease_id).await?;
        let found = unless_ended(&opened.ended, stat(&opened.place, &path, request.follow)).await?;
        Ok(Response::new(v1::StatFileResponse { entry: Some(entry(found)) }))
    }

    async fn list_directory(
        &self,
        request: Request<v1::ListDirectoryRequest>,
    ) -> Result<Response<v1::ListDirectoryResponse>, Status> {
        let (caller, mut request) = (caller(&request)?, request.into_inner());
        let path = path(&request.path, &request.raw_path)?;
        let depth = u32::try_from(request.depth).map_err(|_| Error::invalid("depth must not be negative"))?;
        let (size, token) = (std::mem::take(&mut request.page_size), std::mem::take(&mut request.page_token));
        let page = Page::open("ListDirectory", size, &token, &request)?;
        let after = page.after.as_deref().map(key_to_path).transpose()?;
        let opened = self.open(&caller, &request.lease_id).await?;
        let after = after.as_deref().map(OsStr::from_bytes);
        let listing = list(&opened.place, &path, depth, after, page.size as usize + 1);
        let mut found = unless_ended(&opened.ended, listing).await?;
        let next_page_token = page.cut(&mut found, |entry| URL_SAFE_NO_PAD.encode(entry.path.as_bytes()));
        let entries = found.into_iter().map(entry).collect();
        Ok(Response::new(v1::ListDirectoryResponse { entries, next_page_token }))
    }

    async fn read_file(&self, request: Request<v1::ReadFileRequest>) -> Result<Response<Self::ReadFileStream>, Status> {
        let (caller, request) = (caller(&request)?, request.into_inner());
        let path = required("path", path(&request.path, &request.raw_path)?)?;
        let [from, length] = [("offset", request.offset), ("length", request.length)].map(|(field, value)| {
            u64::try_from(value).map_err(|_| Error::invalid(format!("{field} is {value}; it must not be negative")))
        });
        let (from, length) = (from?, length?);
        let opened = self.open(&caller, &request.lease_id).await?;
        let ended = opened.ended.clone();
        let reading = read(&opened.place, &path, from, length, request.text, ended);
        let (found, parts) = unless_ended(&opened.ended, reading).await?;
        let first =
            v1::ReadFileResponse { entry: Some(entry(found)), offset: wire(from), ..v1::ReadFileResponse::default() };
        let parts = parts.map(|part| {
            let part = part?;
            let (data, text) = match part.payload {
                Payload::Data(data) => (data, String::new()),
                Payload::Text(text) => (Bytes::new(), text),
            };
            Ok(v1::ReadFileResponse { entry: None, offset: wire(part.offset), data, text })
        });
        Ok(Response::new(Box::pin(stream::iter([Ok(first)]).chain(parts))))
    }

    async fn write_file(
        &self,
        request: Request<Streaming<v1::WriteFileRequest>>,
    ) -> Result<Response<v1::WriteFileResponse>, Status> {
        let caller = caller(&request)?;
        let mut messages = request.into_inner();
        let mut message = messages.message().await?.unwrap_or_default();
        let start = message.start.take().ok_or_else(|| Error::invalid("the first message must have start"))?;
        let start = write_start(start)?;
        let opened = self.open(&caller, &start.lease_id).await?;
        let mut upload = match unless_ended(&opened.ended, self.files.begin(&opened.place, start)).await? {
            Begun::Open(upload) => upload,
            Begun::Complete(found) => return Ok(Response::new(written(found))),
        };
        let newer = upload.newer();
        loop {
            let finish = unless_ended(&opened.ended, take(&mut upload, message)).await?;
            if let Some(finish) = finish {
                let found = unless_ended(&opened.ended, self.files.finish(upload, &finish)).await?;
                return Ok(Response::new(written(found)));
            }
            let next = tokio::select! {
                next = messages.message() => next?,
                () = opened.ended.cancelled() => return Err(lease_ended().into()),
                () = newer.cancelled() => {
                    let message = "another call goes on with this upload";
                    return Err(Error::new(Reason::Cancelled, message).into());
                }
            };
            let Some(next) = next else {
                let committed = upload.suspend().await?;
                let answer = v1::WriteFileResponse { entry: None, committed_size: wire(committed), complete: false };
                return Ok(Response::new(answer));
            };
            message = next;
            if message.start.is_some() {
                return Err(Error::invalid("a second start; one call writes one file").into());
            }
        }
    }

    async fn get_write_status(
        &self,
        request: Request<v1::GetWriteStatusRequest>,
    ) -> Result<Response<v1::GetWriteStatusResponse>, Status> {
        let (caller, request) = (caller(&request)?, request.into_inner());
        let opened = self.open(&caller, &request.lease_id).await?;
        let progress = self.files.progress(&opened.place, &request.lease_id, &request.upload_id);
        let progress = unless_ended(&opened.ended, progress).await?;
        Ok(Response::new(v1::GetWriteStatusResponse {
            committed_size: wire(progress.committed_size),
            complete: progress.complete,
        }))
    }

    async fn make_directory(
        &self,
        request: Request<v1::MakeDirectoryRequest>,
    ) -> Result<Response<v1::MakeDirectoryResponse>, Status> {
        let (caller, request) = (caller(&request)?, request.into_inner());
        let path = required("path", request.path.into())?;
        let opened = self.open(&caller, &request.lease_id).await?;
        let made = make_directory(&opened.place, &path, request.mode, request.parents);
        let made = unless_ended(&opened.ended, made).await?;
        Ok(Response::new(v1::MakeDirectoryResponse { entry: Some(entry(made)) }))
    }

    async fn remove_file(
        &self,
        request: Request<v1::RemoveFileRequest>,
    ) -> Result<Response<v1::RemoveFileResponse>, Status> {
        let (caller, request) = (caller(&request)?, request.into_inner());
        let path = required("path", request.path.into())?;
        let opened = self.open(&caller, &request.lease_id).await?;
        let removed = remove(&opened.place, &path, request.recursive, request.ignore_missing);
        unless_ended(&opened.ended, removed).await?;
        Ok(Response::new(v1::RemoveFileResponse {}))
    }

    async fn rename_file(
        &self,
        request: Request<v1::RenameFileRequest>,
    ) -> Result<Response<v1::RenameFileResponse>, Status> {
        let (caller, request) = (caller(&request)?, request.into_inner());
        let from = required("source_path", request.source_path.into())?;
        let to = required("target_path", request.target_path.into())?;
        let opened = self.open(&caller, &request.lease_id).await?;
        let moved = rename(&opened.place, &from, &to, !request.no_replace);
        let moved = unless_ended(&opened.ended, moved).await?;
        Ok(Response::new(v1::RenameFileResponse { entry: Some(entry(moved)) }))
    }
}

fn write_start(start: v1::WriteStart) -> Result<WriteStart> {
    Ok(WriteStart {
        path: required("path", path(&start.path, &start.raw_path)?)?,
        lease_id: start.lease_id,
        upload_id: start.upload_id,
        mode: start.mode,
        make_parents: start.make_parents,
        create_only: start.create_only,
        if_etag: start.if_etag,
    })
}

/// Writes a message's data; what it says of the end, if it is the last.
async fn take(upload: &mut Upload, message: v1::WriteFileRequest) -> Result<Option<Finish>> {
    let data = match (message.data.is_empty(), message.text.is_empty()) {
        (false, false) => return Err(Error::invalid("both data and text are set; set one")),
        (true, _) => bytes_of(message.text),
        (false, true) => message.data,
    };
    if data.len() > MAX_PIECE {
        return Err(Error::invalid(format!("a message has {} bytes of data; at most {MAX_PIECE}", data.len())));
    }
    if !data.is_empty() {
        let offset = u64::try_from(message.offset).map_err(|_| Error::invalid("offset must not be negative"))?;
        upload.write(offset, &data).await?;
    }
    Ok(message.finish.map(|finish| Finish {
        // Below zero is not checked, as unset.
        size: finish.size.and_then(|size| u64::try_from(size).ok()),
        sha256: finish.sha256.to_vec(),
    }))
}

fn written(found: Entry) -> v1::WriteFileResponse {
    let committed_size = wire(found.size);
    v1::WriteFileResponse { entry: Some(entry(found)), committed_size, complete: true }
}

fn required(field: &str, path: PathBuf) -> Result<PathBuf> {
    if path.as_os_str().is_empty() {
        return Err(Error::invalid(format!("{field} is missing")));
    }
    Ok(path)
}

fn key_to_path(key: &str) -> Result<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(key).map_err(|_| Error::new(Reason::InvalidPageToken, "page_token is not one of ours"))
}

fn entry(found: Entry) -> v1::FileEntry {
    use v1::file_entry::Type;
    let kind = match found.kind {
        EntryType::File => Type::File,
        EntryType::Directory => Type::Directory,
        EntryType::Symlink => Type::Symlink,
        EntryType::Other => Type::Other,
    };
    let bytes = found.path.as_bytes();
    let raw_path = if found.path.to_str().is_some() { Bytes::new() } else { Bytes::copy_from_slice(bytes) };
    v1::FileEntry {
        path: escaped(bytes),
        raw_path,
        r#type: kind.into(),
        size: wire(found.size),
        mode: found.mode,
        modify_time: Some(timestamp(found.modify_time)),
        symlink_target: found.symlink_target.map(|target| escaped(target.as_bytes())).unwrap_or_default(),
        etag: found.etag,
    }
}

fn wire(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
