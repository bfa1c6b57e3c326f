//! fastbuild as a running process: what it tells while it runs, signals to it, and commands that wait to be let go on.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, ChildStderr, ChildStdin, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::{Ended, Project, eventually, read_until};

/// The program under test.
pub const FASTBUILD: &str = env!("CARGO_BIN_EXE_fastbuild");

/// Aborts a process that is still there after a minute, so that a promise broken by waiting for ever fails with what was
/// seen until then (and with exit code 134, which no test expects).
pub struct Watchdog {
    _disarm: mpsc::Sender<()>,
}

impl Watchdog {
    /// Watches `child` until dropped.
    pub fn over(child: &Child) -> Watchdog {
        let pid = Pid::from_child(child);
        let (disarm, disarmed) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            if disarmed.recv_timeout(Duration::from_secs(60)) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = kill_process(pid, Signal::ABORT);
            }
        });
        Watchdog { _disarm: disarm }
    }
}

/// A run with `--progress json`, whose events are read one by one.
pub struct Watched {
    child: Option<Child>,
    _watchdog: Watchdog,
    stderr: BufReader<ChildStderr>,
    seen: Vec<serde_json::Value>,
}

impl Watched {
    /// Starts `fastbuild --progress json OPTIONS… -- sh -c SCRIPT`.
    pub fn start(project: &Project, options: &[&str], script: &str) -> Watched {
        let mut command = project.command();
        command.args(["--progress", "json"]).args(options).args(["--", "sh", "-c", script]);
        Watched::spawn(&mut command)
    }

    /// Starts a command that says `--progress json` itself.
    pub fn spawn(command: &mut Command) -> Watched {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Watched { _watchdog: Watchdog::over(&child), child: Some(child), stderr, seen: Vec::new() }
    }

    /// Waits for the first event that `wanted` takes; panics when there is none.
    #[track_caller]
    pub fn until(&mut self, what: &str, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let mut line = Vec::new();
        loop {
            line.clear();
            if self.stderr.read_until(b'\n', &mut line).unwrap() == 0 {
                panic!("fastbuild ended before {what}: {:#?}", self.seen);
            }
            // What is no JSON is the build's own.
            let Ok(event) = serde_json::from_slice::<serde_json::Value>(&line) else { continue };
            self.seen.push(event.clone());
            if wanted(&event) {
                return event;
            }
        }
    }

    /// Waits until `phase` has begun.
    #[track_caller]
    pub fn until_phase(&mut self, phase: &str) -> serde_json::Value {
        self.until(phase, |event| event["event"] == "phase-started" && event["phase"] == phase)
    }

    /// Waits until `phase` has moved some bytes and not all.
    #[track_caller]
    pub fn until_amid(&mut self, phase: &str) {
        self.until(phase, |event| {
            let moved = event["done"]["bytes"].as_u64().is_some_and(|bytes| bytes > 0);
            event["event"] == "phase-progress" && event["phase"] == phase && moved
        });
    }

    /// Waits until the build writes `needle` on its stdout.
    #[track_caller]
    pub fn until_output(&mut self, needle: &str) {
        read_until(self.child.as_mut().unwrap().stdout.as_mut().unwrap(), needle);
    }

    /// Reads no more of the build's stdout.
    pub fn close_stdout(&mut self) {
        self.child.as_mut().unwrap().stdout = None;
    }

    /// The running process.
    pub fn child(&self) -> &Child {
        self.child.as_ref().unwrap()
    }

    /// The build's standard input, to write to or to end.
    pub fn stdin(&mut self) -> ChildStdin {
        self.child.as_mut().unwrap().stdin.take().unwrap()
    }

    /// Sends a signal to fastbuild.
    pub fn signal(&self, signal: Signal) {
        send(self.child(), signal);
    }

    /// Sends a signal to fastbuild again and again, as two that come at once are one, until it has ended.
    pub fn insists(&mut self, signal: Signal) {
        eventually("fastbuild heeds the signals", || {
            let is_over = self.is_over();
            if !is_over {
                self.signal(signal);
            }
            is_over
        });
    }

    /// Whether fastbuild has ended.
    pub fn is_over(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_some()
    }

    /// Waits for the end; standard error holds what was not read before.
    pub fn end(mut self) -> Ended {
        let mut child = self.child.take().unwrap();
        let stdout = child.stdout.take();
        // The build may write more on the one than a pipe holds while we read the other.
        let reading = std::thread::spawn(move || {
            let mut read = Vec::new();
            stdout.map(|mut stdout| stdout.read_to_end(&mut read).unwrap());
            read
        });
        let mut stderr = Vec::new();
        self.stderr.read_to_end(&mut stderr).unwrap();
        let mut ended = Ended::of(child);
        (ended.stdout, ended.stderr) = (reading.join().unwrap(), stderr);
        ended
    }
}

impl Drop for Watched {
    /// A failed test must not leave its fastbuild behind.
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Sends a signal to a child that has not been waited for.
pub fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// A run whose command has said `up` and goes on when it is told: `SCRIPT` then runs.
pub struct Gated {
    /// The run.
    pub run: Watched,
    gate: ChildStdin,
}

impl Gated {
    /// Starts it, and waits until its command runs.
    #[track_caller]
    pub fn start(project: &Project, options: &[&str], script: &str) -> Gated {
        let mut gated = Gated::start_only(project, options, script);
        gated.run.until_output("up\n");
        gated
    }

    /// Starts it, and waits until `before` is done in it.
    #[track_caller]
    pub fn start_after(project: &Project, options: &[&str], before: &str, script: &str) -> Gated {
        let mut gated = Gated::spawn(project, options, &format!("{before}; echo up; read -r go; {script}"));
        gated.run.until_output("up\n");
        gated
    }

    /// Starts it and waits for nothing.
    pub fn start_only(project: &Project, options: &[&str], script: &str) -> Gated {
        Gated::spawn(project, options, &format!("echo up; read -r go; {script}"))
    }

    fn spawn(project: &Project, options: &[&str], script: &str) -> Gated {
        let mut command = project.command();
        command.stdin(Stdio::piped()).args(["--progress", "json", "--stdin"]).args(options);
        let mut run = Watched::spawn(command.args(["--", "sh", "-c", script]));
        let gate = run.stdin();
        Gated { run, gate }
    }

    /// Lets the command go on to its end.
    pub fn go_on(mut self) -> Ended {
        self.gate.write_all(b"go\n").unwrap();
        self.run.end()
    }
}

/// `PROGRAM ARGS…` where the project's fastbuild would run and in its environment, with its path in `$FASTBUILD`.
pub fn beside(project: &Project, program: &str, args: &[&str]) -> Command {
    let like = project.command();
    let mut command = Command::new(program);
    command.args(args).env_clear().env("FASTBUILD", FASTBUILD).current_dir(project.root());
    for (name, value) in like.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Bytes that look random and are the same in each run: a linear congruential generator's upper bits.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}
