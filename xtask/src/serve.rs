//! `cargo xtask serve`: the page on localhost, with the headers that a browser wants to see, and SmolLM2 beside it.

use crate::process::{root, say};
use crate::{page, smollm2};
use anyhow::{Context, Result};
use axum::Router;
use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::{self, Next};
use axum::response::Response;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tower_http::services::{ServeDir, ServeFile};

/// Where the page finds SmolLM2-135M-Instruct.
const MODEL: &str = "/models/SmolLM2-135M-Instruct.Q4_1.gguf";

#[derive(clap::Args)]
pub struct Options {
    /// The port on localhost; where it is taken, the next one that is free
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Serve what an earlier build left
    #[arg(long)]
    no_build: bool,
    /// Where the page is written, and served from
    #[arg(long, value_name = "DIR", default_value = "target/page")]
    dist: PathBuf,
    /// Open the page in the browser
    #[arg(long)]
    open: bool,
}

/// Serves until it is interrupted.
pub fn run(options: &Options) -> Result<bool> {
    if !options.no_build {
        page::build(&options.dist)?;
    }
    // The page works without it: with its own model, a hub's, or a file.
    let model = smollm2::gguf().map_err(|error| say(format_args!("{error:#}"))).ok();
    let server = Server::start(options.port, router(&root().join(&options.dist), model.as_deref())?)?;
    say(format_args!("The page is at {}  (Ctrl-C ends it)", server.address()));
    if options.open {
        open(&server.address());
    }
    server.wait()
}

/// A server that runs in the background for as long as this lives.
pub struct Server {
    runtime: Runtime,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
    port: u16,
}

impl Server {
    /// Serves `router` on localhost at `port` (0: any) or one of the ports after it.
    pub fn start(port: u16, router: Router) -> Result<Server> {
        let runtime = Runtime::new().context("cannot start a server")?;
        let listener = runtime.block_on(listen(port))?;
        let port = listener.local_addr().context("cannot start a server")?.port();
        let task = runtime.spawn(async move { axum::serve(listener, router).await });
        Ok(Server { runtime, task, port })
    }

    /// `http://localhost:8000`
    pub fn address(&self) -> String {
        format!("http://localhost:{}", self.port)
    }

    /// Waits for the server to end, which it does by itself only where it fails.
    fn wait(self) -> Result<bool> {
        self.runtime.block_on(self.task).context("the server broke down")?.context("the server broke down")?;
        Ok(true)
    }
}

async fn listen(port: u16) -> Result<TcpListener> {
    let mut last = None;
    for port in port..=port.saturating_add(if port == 0 { 0 } else { 50 }) {
        match TcpListener::bind(("localhost", port)).await {
            Ok(listener) => return Ok(listener),
            Err(error) => last = Some(error),
        }
    }
    Err(last.expect("one port was tried")).with_context(|| format!("cannot listen on localhost, port {port}"))
}

/// The page in `dist`, and the model where there is one. Ranges, HEAD, content types and questions whether a file has changed
/// are answered by tower-http.
pub fn router(dist: &Path, model: Option<&Path>) -> Result<Router> {
    let index = dist.join("index.html");
    let html = fs::read_to_string(&index)
        .with_context(|| format!("there is no page at {}: build it with `cargo xtask page`", index.display()))?;
    let policy = content_security_policy(&html).context("index.html has no Content-Security-Policy")?;
    // What a page may not say of itself.
    let policy = HeaderValue::from_str(&format!("{policy}; frame-ancestors 'none'"))?;
    let mut router = Router::new();
    if let Some(model) = model {
        router = router.route_service(MODEL, ServeFile::new(model));
    }
    let headers = middleware::from_fn(move |request: Request, next: Next| {
        let policy = policy.clone();
        async move {
            let mut response: Response = next.run(request).await;
            add_headers(response.headers_mut(), policy);
            response
        }
    });
    Ok(router.fallback_service(ServeDir::new(dist)).layer(headers))
}

fn add_headers(headers: &mut HeaderMap, policy: HeaderValue) {
    let is_html = headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    // Names do not change with content: the browser asks each time, and is mostly told that nothing has changed.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(if is_html { "no-store" } else { "no-cache" }));
    headers.insert(CONTENT_SECURITY_POLICY, policy);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Alone in its process: nothing else sees its memory, and the browser tells it how much of that it uses.
    for (name, value) in [
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-embedder-policy", "require-corp"),
        ("cross-origin-resource-policy", "same-origin"),
        ("referrer-policy", "no-referrer"),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
}

/// The policy that the page states in a `meta` element, so that it stands in one place.
fn content_security_policy(html: &str) -> Option<&str> {
    let (_, rest) = html.split_once("Content-Security-Policy\"")?;
    let (_, rest) = rest.split_once("content=\"")?;
    Some(rest.split_once('"')?.0)
}

/// Opens the address in the user's browser, where there is a way to.
fn open(address: &str) {
    let (name, arguments): (&str, &[&str]) = match std::env::consts::OS {
        "macos" => ("open", &[]),
        "windows" => ("cmd", &["/C", "start"]),
        _ => ("xdg-open", &[]),
    };
    let opened = Command::new(name).args(arguments).arg(address).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    if opened.is_err() {
        say("No program was found that opens it");
    }
}

#[cfg(test)]
mod tests {
    use super::content_security_policy;

    #[test]
    fn the_pages_policy_forbids_inline_scripts() {
        let html = std::fs::read_to_string(crate::process::root().join("index.html")).unwrap();
        let policy = content_security_policy(&html).unwrap();
        assert!(policy.contains("default-src 'self'") && !policy.contains("unsafe-inline"), "{policy}");
    }
}
