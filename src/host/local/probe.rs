//! Whether a web server answers.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// One try.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether something there speaks HTTP.
pub(super) async fn answers(address: &str, port: u16) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect((address, port)).await.ok()?;
        let request = format!("HEAD / HTTP/1.1\r\nHost: {address}:{port}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut begin = [0; 5];
        stream.read_exact(&mut begin).await.ok()?;
        Some(begin == *b"HTTP/")
    };
    timeout(PATIENCE, ask).await.ok().flatten().unwrap_or(false)
}
