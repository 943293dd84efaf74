//! A page over plain HTTP/1.1, as any client in the world would fetch it.

use std::time::Duration;

use http::Uri;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::cli::exit::{FAILURE, Failure, Result};

const PATIENCE: Duration = Duration::from_secs(10);
/// Nobody wants to read more in a terminal.
const LIMIT: u64 = 64 * 1024;

/// The body of a page.
///
/// # Errors
/// When it is not answered with 200.
pub(super) async fn get(uri: &str) -> Result<String> {
    let wrong = |what: &str| Failure::new(FAILURE, "INTERNAL", format!("GET {uri}: {what}"));
    let parsed: Uri = uri.parse().map_err(|_| wrong("is not a URI"))?;
    let authority = parsed.authority().ok_or_else(|| wrong("names no host"))?;
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let path = parsed.path_and_query().map_or("/", |path| path.as_str());
    let request = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");

    let exchange = async {
        let mut stream = TcpStream::connect((host, authority.port_u16().unwrap_or(80))).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(LIMIT).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(PATIENCE, exchange)
        .await
        .map_err(|_| wrong("no answer in 10 s"))?
        .map_err(|error| wrong(&error.to_string()))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| wrong("the answer is not HTTP"))?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) == Some("200") { Ok(body.to_owned()) } else { Err(wrong(status)) }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn serve(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /a?b HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        format!("http://{address}/a?b")
    }

    #[tokio::test]
    async fn the_body_of_a_200_and_the_status_of_anything_else() {
        let page = serve("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
        assert_eq!(get(&page).await.unwrap(), "hello");
        let missing = serve("HTTP/1.1 404 Not Found\r\n\r\nno").await;
        assert!(get(&missing).await.unwrap_err().message.contains("404 Not Found"));
    }
}
