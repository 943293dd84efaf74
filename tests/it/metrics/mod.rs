//! What a daemon counts: the page, where it is served, and that each number moves when it should.

mod counted;
mod names;
mod page;

use std::collections::BTreeMap;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::LONG;

/// The answer to a GET: its head, and its body.
pub(crate) async fn get(address: &str, path: &str, accept: &str) -> (String, String) {
    let asked = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: {address}\r\naccept: {accept}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = timeout(LONG, asked).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// The lines of a page in the older format: series and value.
pub(crate) fn samples(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let sample = |line: &str| {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        (series.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line:?}")))
    };
    lines.map(sample).collect()
}

/// A count.
#[expect(clippy::cast_possible_truncation, reason = "counts of a test are small")]
pub(crate) fn whole(value: f64) -> i64 {
    value as i64
}
