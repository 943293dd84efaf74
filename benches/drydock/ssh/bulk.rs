//! Much at once: a flood of output, a large file, and readers that stop.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use drydock::cli::connect::Daemon;
use drydock::proto::v1;
use tokio::io::AsyncReadExt as _;

use super::machine::{Options, Remote, Stock};
use crate::daemon;
use crate::figures::{median, mib, pause, timed};
use crate::stdout::Watch;
use crate::table::Table;

const GIB: u64 = 1 << 30;
const ROUNDS: usize = 3;
const LEAST_SHARE: f64 = 0.8;
const FILE: usize = 256 << 20;
const CHUNK: usize = 256 << 10;
const STALLED: usize = 4;
const MOST_GROWTH_MIB: f64 = 16.0;

pub(crate) async fn measure(table: &mut Table) -> Result<()> {
    let remote = Remote::start(Options::default()).await?;
    let lease = remote.lease().await?;
    daemon::exec(&remote.up.client, &lease, &["true"]).await?;
    floods(table, &remote, &lease).await?;
    stalled(table, &remote, &lease).await?;
    files(table, &remote, &lease).await
}

async fn floods(table: &mut Table, remote: &Remote, lease: &str) -> Result<()> {
    let (mut ours, mut stock) = (Vec::new(), Vec::new());
    let argv = ["head", "-c", &GIB.to_string(), "/dev/zero"];
    for round in 0..=ROUNDS {
        let (served, came) = timed(daemon::exec(&remote.up.client, lease, &argv)).await?;
        ensure!(came == GIB, "{came} bytes came of {GIB}");
        let (rival, ()) = timed(flood(&remote.stock)).await?;
        if round > 0 {
            ours.push(mib(GIB) / served.as_secs_f64());
            stock.push(mib(GIB) / rival.as_secs_f64());
        }
    }
    let (ours, stock) = (median(ours), median(stock));
    table.line(
        "1 GiB of stdout over ssh",
        ">= 0.8 x ssh -S master",
        &format!("{ours:.0} MiB/s; ssh -S {stock:.0} MiB/s: {:.2} x", ours / stock),
        ours >= LEAST_SHARE * stock,
    );
    Ok(())
}

async fn flood(stock: &Stock) -> Result<()> {
    let mut child = stock.ssh(&format!("head -c {GIB} /dev/zero")).stdout(Stdio::piped()).spawn()?;
    let mut stdout = child.stdout.take().context("no stdout")?;
    let (mut buffer, mut came) = (vec![0; 64 << 10], 0);
    while let length @ 1.. = stdout.read(&mut buffer).await? {
        came += length as u64;
    }
    ensure!(came == GIB && child.wait().await?.success(), "{came} bytes came of {GIB}");
    Ok(())
}

async fn stalled(table: &mut Table, remote: &Remote, lease: &str) -> Result<()> {
    let before = remote.up.resident()?;
    let watch = Watch::start(remote.up.pid());
    let mut held = Vec::new();
    for _ in 0..STALLED {
        let request = daemon::exec_request(lease, &["head", "-c", &GIB.to_string(), "/dev/zero"]);
        // Each on a connection of its own: what nobody reads fills the window of its connection.
        let mut frames = remote.up.connect().await?.commands().exec(request).await?.into_inner();
        frames.message().await?.context("no first frame")?;
        held.push(frames);
    }
    pause(Duration::from_secs(2)).await;
    let (beside, _) = timed(daemon::exec(&remote.up.client, lease, &["true"])).await?;
    let growth = mib(watch.end().saturating_sub(before));
    table.line(
        "resident memory with 4 stalled readers over ssh",
        "grows < 16 MiB",
        &format!("+ {growth:.1} MiB; Exec true beside them {:.1} ms", beside.as_secs_f64() * 1000.0),
        growth < MOST_GROWTH_MIB,
    );
    Ok(())
}

async fn files(table: &mut Table, remote: &Remote, lease: &str) -> Result<()> {
    let content: Vec<u8> =
        (0..FILE / 8).flat_map(|word| (word as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()).collect();
    let source = remote.machine.folder().join("source");
    std::fs::write(&source, &content)?;
    let content = bytes::Bytes::from(content);
    let (mut ours, mut stock) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let (served, ()) = timed(write(&remote.up.client, lease, &content)).await?;
        let (rival, ()) = timed(async {
            remote.stock.copy(&source, "rival").await?;
            remote.stock.run("sync rival").await
        })
        .await?;
        if round > 0 {
            ours.push(mib(FILE as u64) / served.as_secs_f64());
            stock.push(mib(FILE as u64) / rival.as_secs_f64());
        }
    }
    let (ours, stock) = (median(ours), median(stock));
    table.line(
        "WriteFile of 256 MiB over ssh, atomic and synced",
        ">= 0.8 x scp, then sync",
        &format!("{ours:.0} MiB/s; scp {stock:.0} MiB/s: {:.2} x", ours / stock),
        ours >= LEAST_SHARE * stock,
    );
    Ok(())
}

async fn write(client: &Daemon, lease: &str, content: &bytes::Bytes) -> Result<()> {
    let start = v1::WriteStart { lease_id: lease.to_owned(), path: "file".to_owned(), ..v1::WriteStart::default() };
    let first = v1::WriteFileRequest { start: Some(start), ..v1::WriteFileRequest::default() };
    let content = content.clone();
    let pieces = (0..FILE).step_by(CHUNK).map(move |offset| v1::WriteFileRequest {
        offset: i64::try_from(offset).unwrap_or_default(),
        data: content.slice(offset..offset + CHUNK),
        ..v1::WriteFileRequest::default()
    });
    let finish = v1::WriteFinish { size: i64::try_from(FILE).ok(), ..v1::WriteFinish::default() };
    let last = v1::WriteFileRequest { finish: Some(finish), ..v1::WriteFileRequest::default() };
    let frames = std::iter::once(first).chain(pieces).chain([last]);
    let answer = client.files().write_file(futures::stream::iter(frames)).await?.into_inner();
    ensure!(answer.complete, "the file is not complete");
    Ok(())
}
