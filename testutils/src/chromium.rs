//! A headless Chromium, spoken to through two pipes by the DevTools protocol. `cargo xtask picture` uses it as well.
//!
//! Pipes and not a port: no other process can reach the browser, and it ends by itself when the pipes close. So it
//! cannot outlive the process that started it, even when that process is killed.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, geteuid, kill_process_group};
use serde_json::{Value, json};

/// Chromium reads from 3 and writes to 4. A shell can put our pipes there; Rust could only with unsafe code.
const PIPES: &str = r#"exec chromium "$@" 3<&0 4>&1 </dev/null >/dev/null"#;
/// No sound, no windows, and nothing that the browser asks of the network for itself.
const OPTIONS: [&str; 11] = [
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
];
/// Longer than any answer takes on a busy machine: only a browser that hangs does not answer by then.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with one empty page.
pub struct Chromium {
    child: Child,
    to: Option<ChildStdin>,
    from: Receiver<Value>,
    calls: u64,
    session: Option<String>,
    events: Vec<Value>,
    _home: tempfile::TempDir,
}

impl Chromium {
    /// Starts the browser, and attaches to a page of it.
    ///
    /// # Errors
    /// When there is no Chromium, or none that answers.
    pub fn start() -> Result<Chromium> {
        let home = tempfile::tempdir()?;
        let mut child = command(home.path()).spawn().context("cannot start chromium")?;
        let to = child.stdin.take();
        let from = child.stdout.take().context("no pipe from chromium")?;
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            // Messages end with a zero byte. The thread ends with the browser, or when the receiver is gone.
            for message in BufReader::new(from).split(0).map_while(Result::ok) {
                let Ok(message) = serde_json::from_slice(&message) else { break };
                if sender.send(message).is_err() {
                    break;
                }
            }
        });
        let mut browser =
            Chromium { child, to, from: receiver, calls: 0, session: None, events: Vec::new(), _home: home };
        browser.attach()?;
        Ok(browser)
    }

    fn attach(&mut self) -> Result<()> {
        let page = self.call("Target.createTarget", json!({ "url": "about:blank" }))?;
        let attach = json!({ "targetId": page["targetId"], "flatten": true });
        let attached = self.call("Target.attachToTarget", attach)?;
        self.session = Some(attached["sessionId"].as_str().context("no session")?.to_owned());
        for domain in ["Page", "Network", "Log", "Runtime"] {
            self.call(&format!("{domain}.enable"), json!({}))?;
        }
        Ok(())
    }

    /// Calls a method of the protocol; its result comes back.
    ///
    /// # Errors
    /// What the browser said, or that it says nothing.
    pub fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        self.calls += 1;
        let mut message = json!({ "id": self.calls, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut message = serde_json::to_vec(&message)?;
        message.push(0);
        self.to.as_mut().context("chromium is gone")?.write_all(&message)?;
        loop {
            let answer = self.receive().with_context(|| format!("no answer to {method}"))?;
            if answer["id"] != json!(self.calls) {
                self.events.push(answer);
            } else if let Some(error) = answer.get("error") {
                bail!("{method}: {error}");
            } else {
                return Ok(answer["result"].clone());
            }
        }
    }

    fn receive(&mut self) -> Result<Value> {
        self.from.recv_timeout(PATIENCE).map_err(|error| match error {
            RecvTimeoutError::Timeout => anyhow!("chromium has said nothing for {PATIENCE:?}"),
            RecvTimeoutError::Disconnected => anyhow!("chromium ended: {:?}", self.child.try_wait()),
        })
    }

    /// Opens a file, and waits until it is loaded with all that belongs to it.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(&mut self, file: &Path) -> Result<()> {
        let url = format!("file://{}", file.to_str().context("no text")?);
        let opened = self.call("Page.navigate", json!({ "url": url }))?;
        if let Some(error) = opened.get("errorText") {
            bail!("{url}: {error}");
        }
        while !self.events.iter().any(|event| event["method"] == "Page.loadEventFired") {
            let event = self.receive()?;
            self.events.push(event);
        }
        Ok(())
    }

    /// The parameters of all events of this name since the browser was started.
    pub fn events(&self, method: &str) -> Vec<&Value> {
        self.events.iter().filter(|event| event["method"] == method).map(|event| &event["params"]).collect()
    }

    /// The value of an expression in the page.
    ///
    /// # Errors
    /// What it threw.
    pub fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let evaluated =
            self.call("Runtime.evaluate", json!({ "expression": expression, "returnByValue": true }))?;
        if let Some(thrown) = evaluated.get("exceptionDetails") {
            bail!("{expression}: {thrown}");
        }
        Ok(evaluated["result"]["value"].clone())
    }

    /// Lays the page out anew, for a window of this size in pixels.
    ///
    /// # Errors
    /// As [`Chromium::call`].
    pub fn resize(&mut self, width: u32, height: u32) -> Result<()> {
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", metrics).map(drop)
    }

    /// Makes the page believe that its reader prefers `light` or `dark`.
    ///
    /// # Errors
    /// As [`Chromium::call`].
    pub fn prefer(&mut self, scheme: &str) -> Result<()> {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features })).map(drop)
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        self.session = None;
        // It ends its own processes when it is asked to; what is left of them then is killed.
        let _ = self.call("Browser.close", json!({}));
        self.to = None;
        while self.from.recv_timeout(PATIENCE).is_ok() {}
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

fn command(home: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", PIPES, "sh"]).args(OPTIONS);
    command.arg(format!("--user-data-dir={}", home.join("profile").to_string_lossy()));
    if geteuid().is_root() {
        command.arg("--no-sandbox");
    }
    command.arg("about:blank").env("HOME", home).process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}
